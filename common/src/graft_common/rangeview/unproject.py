"""Range view -> points, by the stored angles (mobi spec 2.2)."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from graft_common.errors import InputError
from graft_common.rangeview.angles import direction
from graft_common.rangeview.project import RangeView
from graft_common.rangeview.sensor import Sensor


def metres(depth: Float[Tensor, "*s"], sensor: Sensor) -> Float[Tensor, "*s"]:
    """Distance of a stored depth: far / 2 (depth + 1); 0 where empty."""
    return (sensor.far / 2) * (depth + 1)


def stored_depth(distance: Float[Tensor, "*s"], sensor: Sensor) -> Float[Tensor, "*s"]:
    """Stored depth of a distance in metres: 2 d / far - 1, clipped to [-1, 1]."""
    return (2 * distance / sensor.far - 1).clamp(-1, 1)


def has_return(view: RangeView, sensor: Sensor) -> Bool[Tensor, "*B H W"]:
    """Pixels whose depth lies between the sensor's limits, the near one within the rounding of the stored depth."""
    return _within(metres(view.depth, sensor), sensor)


def grid_points(view: RangeView, sensor: Sensor) -> Float[Tensor, "*B H W 3"]:
    """Where each pixel's depth lies along its own pitch and yaw, in metres; empty pixels are at the origin."""
    return metres(view.depth, sensor)[..., None] * direction(view.pitch, view.yaw)


def unproject(view: RangeView, sensor: Sensor) -> Float[Tensor, "n 4"]:
    """Points (x, y, z, intensity) of one view's returns, row by row from the highest beam; none for empty pixels.

    The k-th point's pixel is the k-th of `has_return(view, sensor).nonzero()`, its ring `sensor.rings[row]`.

    Raises:
        InputError: the view holds several sweeps, whose points could not be told apart.
    """
    if view.depth.ndim != 2:
        raise InputError(f"a view of shape {tuple(view.depth.shape)} holds several sweeps; call unproject_batch")
    distance = metres(view.depth, sensor).flatten()
    at = _positions(_within(distance, sensor))
    # a mask would search for its pixels once per field, and stack would write the rows piecemeal
    distance, pitch, yaw = (x.flatten().index_select(0, at) for x in (distance, view.pitch, view.yaw))
    flat = distance * pitch.cos()
    points = distance.new_empty(len(at), 4)
    points[:, 0] = flat * yaw.cos()
    points[:, 1] = flat.neg_() * yaw.sin()
    points[:, 2] = distance * pitch.sin()
    points[:, 3] = view.intensity.flatten().index_select(0, at)
    return points


def unproject_batch(view: RangeView, sensor: Sensor) -> list[Float[Tensor, "_ 4"]]:
    """`unproject` of every sweep of what `project_batch` gives.

    Raises:
        InputError: the view has no batch dimension, or more than one.
    """
    if view.depth.ndim != 3:
        raise InputError(f"a view of shape {tuple(view.depth.shape)} is no batch (B, H, W); call unproject for one sweep")
    return [unproject(RangeView(**{name: x[k] for name, x in vars(view).items()}), sensor) for k in range(len(view.depth))]


def _within(distance: Float[Tensor, "*s"], sensor: Sensor) -> Bool[Tensor, "*s"]:
    slack = 4 * torch.finfo(distance.dtype).eps * sensor.far
    low, high = sensor.near - slack, sensor.far
    if distance.device.type == "cpu":  # NumPy compares four times as fast
        array = distance.detach().numpy()
        return torch.from_numpy((array > low) & (array < high))
    return (distance > low) & (distance < high)


def _positions(mask: Bool[Tensor, "n"]) -> Int64[Tensor, "m"]:
    """Where a mask holds, in order. On the CPU torch's own search takes four times as long as NumPy's."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero()[:, 0]
