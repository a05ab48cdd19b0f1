"""Points -> range view: the closest point of each pixel wins, of equal ones the first (mobi spec 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from graft_common.errors import InputError
from graft_common.rangeview.angles import beam_position, column_position, pixel_angles, wrap
from graft_common.rangeview.sensor import Sensor

Rows = Literal["angle", "ring"]
Points = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class RangeView:
    """One sweep on its sensor's grid, or several (leading dimensions *B). Row 0 is the highest beam.

    Attributes:
        index: row of the winning point in its sweep; -1 where the pixel is empty.
        depth: 2 d / far - 1 with d the distance in metres, in [-1, 1]; exactly -1 where empty.
        intensity: as in the sweep; 0 where empty.
        pitch, yaw: radians, the winning point's own; the pixel centre's where empty. Yaw is -atan2(y, x), in [-pi, pi].
        n_clamped: kept points above or below every beam's half spacing, put on the edge rows.
        n_nan: points with a NaN or infinite x, y, z or intensity, ignored.
        n_out_of_range: points whose distance is not strictly between the sensor's limits, dropped.
    """

    index: Int64[Tensor, "*B H W"]
    depth: Float[Tensor, "*B H W"]
    intensity: Float[Tensor, "*B H W"]
    pitch: Float[Tensor, "*B H W"]
    yaw: Float[Tensor, "*B H W"]
    n_clamped: Int64[Tensor, "*B"]
    n_nan: Int64[Tensor, "*B"]
    n_out_of_range: Int64[Tensor, "*B"]


def project(points: Points, sensor: Sensor, rows: Rows = "angle") -> RangeView:
    """Range view of one sweep, on the points' device and in their dtype.

    Args:
        points: (N, >= 4) float32 or float64: x, y, z in metres, intensity; with rows="ring" the fifth column is the ring.
        rows: "angle" takes the beam nearest in elevation, "ring" the beam that the sweep names.

    Raises:
        InputError: wrong shape or type; a ring that the sensor does not have.
    """
    cloud = as_cloud(points, rows)
    return RangeView(**{name: x[0] for name, x in vars(_project(cloud, [len(cloud)], sensor, rows)).items()})


def project_batch(sweeps: Points | Sequence[Points], sensor: Sensor, rows: Rows = "angle") -> RangeView:
    """Range views of several sweeps at once, with a leading batch dimension; `index` counts within each sweep.

    Args:
        sweeps: (B, N, >= 4), or a list of sweeps of any lengths with one dtype, device and number of columns.

    Raises:
        InputError: as `project`; no sweep, or sweeps that differ in kind.
    """
    if isinstance(sweeps, Tensor | np.ndarray) and sweeps.ndim != 3:
        raise InputError(f"sweeps have shape {tuple(sweeps.shape)}; give (B, N, 4 or more), or call project for one")
    clouds = [as_cloud(sweep, rows) for sweep in sweeps]
    kinds = {(c.dtype, c.device, c.shape[1]) for c in clouds}
    if len(kinds) != 1:
        raise InputError(f"a batch of {len(clouds)} sweeps of {len(kinds)} kinds; give one dtype, device and width")
    return _project(torch.cat(clouds), [len(c) for c in clouds], sensor, rows)


def as_cloud(points: Points, rows: Rows = "angle") -> Float[Tensor, "N C"]:
    """The points as a tensor, checked. Raises InputError."""
    if isinstance(points, np.ndarray):
        if points.dtype.newbyteorder("=") not in (np.float32, np.float64):
            raise InputError(f"points are {points.dtype}; convert them to float32 or float64")
        # torch shares neither read-only memory nor foreign byte order nor negative strides
        points = torch.from_numpy(np.array(points, dtype=points.dtype.newbyteorder("="), order="C"))
    if points.dtype not in (torch.float32, torch.float64):
        raise InputError(f"points are {points.dtype}; convert them to float32 or float64")
    if rows not in ("angle", "ring"):
        raise InputError(f"rows={rows!r}; choose 'angle' or 'ring'")
    least, names = (4, "x, y, z, intensity") if rows == "angle" else (5, "x, y, z, intensity, ring")
    if points.ndim != 2 or points.shape[1] < least:
        raise InputError(f"points have shape {tuple(points.shape)}; rows={rows!r} needs (N, {least} or more): {names}")
    return points


def _project(cloud: Float[Tensor, "N C"], sizes: list[int], sensor: Sensor, rows: Rows) -> RangeView:
    """The sweeps lie one after another; one scatter serves them all, since each has its own block of pixels.

    Computed in float64 and rounded at the end. In float32 the last bit of an angle depends on the device and on a point's
    place in the array (vector loops and their remainders differ), and with it the pixel of a point on an edge.
    """
    total, area = len(cloud), sensor.rows * sensor.columns
    columns = cloud[:, :4].T.contiguous()
    finite = columns.isfinite().all(0)
    x, y, z, intensity = columns.double()
    d = (x * x + y * y + z * z).sqrt()
    keep = finite & (d > sensor.near) & (d < sensor.far)
    yaw = -torch.atan2(y, x)
    pitch = (z / d).clamp(-1, 1).asin()

    row, clamped = _row_by_angle(pitch, sensor) if rows == "angle" else _row_by_ring(cloud[:, 4].double(), keep, sensor)
    aside = yaw
    if sensor.offset:
        aside = wrap(yaw - d.new_tensor(sensor.azimuth)[row.nan_to_num().long()])
    column = column_position(aside, sensor).floor().clamp(0, sensor.columns - 1)
    pixel = (row * sensor.columns + column).nan_to_num().long()
    if len(sizes) > 1:
        pixel += _repeated([k * area for k in range(len(sizes))], sizes, pixel)
    count = len(sizes) * area
    pixel = torch.where(keep, pixel, count)  # one more slot takes whatever is dropped

    # closest first, then the smallest index among the closest: no order of execution can change either minimum
    nearest = torch.full((count + 1,), torch.inf, dtype=d.dtype, device=d.device).scatter_reduce_(0, pixel, d, "amin")
    order = torch.arange(total, device=d.device)
    order = torch.where(d == nearest[pixel], order, total)
    winner = torch.full((count + 1,), total, device=d.device).scatter_reduce_(0, pixel, order, "amin")[:count]

    # the last bit stays free, so that a return just within the far limit is not rounded onto it
    depth = (2 * d / sensor.far - 1).clamp(-1, 1 - torch.finfo(cloud.dtype).eps)
    none = cloud.new_tensor([[-1], [0], [0], [0]])  # what index `total` picks
    values = torch.cat([torch.stack([depth, intensity, pitch, yaw]).to(cloud.dtype), none], 1)
    picked = values.index_select(1, winner).view(4, len(sizes), sensor.rows, sensor.columns)
    winner = winner.view(len(sizes), sensor.rows, sensor.columns)
    empty = winner == total
    starts = torch.tensor([0, *sizes[:-1]], device=d.device).cumsum(0)
    rest_pitch, rest_yaw = pixel_angles(sensor, cloud)
    counts = torch.stack([keep & clamped, ~finite, finite & ~keep]).long()
    if len(sizes) > 1:
        owner = _repeated(list(range(len(sizes))), sizes, pixel)
        counts = torch.zeros(3, len(sizes), dtype=torch.long, device=d.device).index_add_(1, owner, counts)
    else:
        counts = counts.sum(1, keepdim=True)
    return RangeView(
        index=torch.where(empty, -1, winner - starts[:, None, None]),
        depth=picked[0],
        intensity=picked[1],
        pitch=torch.where(empty, rest_pitch, picked[2]),
        yaw=torch.where(empty, rest_yaw, picked[3]),
        n_clamped=counts[0],
        n_nan=counts[1],
        n_out_of_range=counts[2],
    )


def _row_by_angle(pitch: Float[Tensor, "N"], sensor: Sensor) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
    """Row as a float (NaN stays), ties to the even beam; whether it lies outside the field of view."""
    last = sensor.rows - 1
    beam = beam_position(pitch, sensor).round()
    inside = beam.clamp(0, last)
    return last - inside, inside != beam


def _row_by_ring(
    ring: Float[Tensor, "N"], keep: Bool[Tensor, "N"], sensor: Sensor
) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
    """Row that the ring stands for. Raises InputError for a ring of a kept point that the sensor does not have."""
    table = torch.full((max(sensor.rings) + 1,), -1, device=ring.device)
    table[torch.tensor(sensor.rings, device=ring.device)] = torch.arange(sensor.rows, device=ring.device)
    number = torch.where(keep & ring.isfinite(), ring, -1).clamp(-1, len(table)).long()
    known = (number >= 0) & (number < len(table))
    row = torch.where(known, table[number.clamp(0, len(table) - 1)], -1)
    bad = keep & ((row < 0) | (number != ring))
    if bad.any():
        at = int(bad.nonzero()[0, 0])
        raise InputError(
            f"point {at} has ring {float(ring[at]):g}, sensor {sensor.name} has {sensor.rows} rings from"
            f" {min(sensor.rings)} to {max(sensor.rings)}; choose the sweep's sensor or rows='angle'"
        )
    return row.clamp(min=0).to(ring.dtype), torch.zeros_like(keep)


def _repeated(values: list[int], sizes: list[int], like: Tensor) -> Int64[Tensor, "N"]:
    """values[k] repeated sizes[k] times."""
    return torch.repeat_interleave(
        torch.tensor(values, device=like.device), torch.tensor(sizes, device=like.device), output_size=sum(sizes)
    )
