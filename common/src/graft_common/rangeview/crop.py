"""The part of the range view around a box: coordinates, crop over the seam, resizing, mask (mobi spec 2.2, 2.3, 2.5)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from graft_common.errors import InputError
from graft_common.rangeview.angles import beam_pitch, beam_position, column_position
from graft_common.rangeview.boxes import MASK_SCALE, Box3d, half_size, to_box
from graft_common.rangeview.sensor import Number, Sensor
from graft_common.rangeview.unproject import stored_depth

LEAST_WIDTH = 64


@dataclass(frozen=True)
class RangeCrop:
    """Columns left, left + 1, ... of a range view, taken modulo W; `left` may lie outside [0, W). All rows are kept."""

    left: int
    width: int


def box_to_range(corners: Float[Tensor, "*B 8 3"], sensor: Sensor) -> Float[Tensor, "*B 8 3"]:
    """Corners in the lidar frame -> column x, row y, stored depth.

    x and y are real numbers: a pixel's cell is [c, c + 1) by [r, r + 1), so the middle of the top row is y = 0.5. Yaw is
    unwrapped around the box's centre, so that a box on the seam stays in one piece; x may leave [0, W) and y [0, H].
    x is the bare direction: a sensor whose rows have azimuth offsets shifts them about it (`range_mask` does).
    """
    centre = corners.mean(-2, keepdim=True)
    middle = -torch.atan2(centre[..., 1], centre[..., 0])
    c, s = middle.cos(), middle.sin()
    x, y = corners[..., 0], corners[..., 1]
    # turned by the centre's yaw (clockwise), the centre lies on +x
    yaw = middle - torch.atan2(s * x + c * y, c * x - s * y)
    distance = corners.norm(dim=-1)
    beam = beam_position((corners[..., 2] / distance).clamp(-1, 1).asin(), sensor)
    return torch.stack([column_position(yaw, sensor), sensor.rows - 0.5 - beam, stored_depth(distance, sensor)], -1)


def crop_width(box_width: Number, size: int) -> int:
    """Columns of the crop for a box `box_width` columns wide, shown at size x size: max(64, min(size, 2^ceil(log2(1.5 w)))).

    Raises:
        InputError: size is not a power of two of at least 64.
    """
    if size < LEAST_WIDTH or size & (size - 1):
        raise InputError(f"size {size}: must be a power of two, {LEAST_WIDTH} or more")
    width = LEAST_WIDTH
    while width < 1.5 * box_width and width < size:
        width *= 2
    return width


def choose_crop(corners: Float[Tensor, "8 3"], sensor: Sensor, size: int) -> RangeCrop:
    """Crop centred on a box: `corners` in the lidar frame, unscaled; `size` is the side it will be shown at.

    The centre is the mean corner x rounded down, also left of column 0, where rounding towards 0 would break the
    symmetry under rotation.

    Raises:
        InputError: `crop_width`'s; the crop is wider than the view.
    """
    x = box_to_range(corners, sensor)[:, 0]
    width = crop_width(float(x.max() - x.min()), size)
    if width > sensor.columns:
        raise InputError(f"a crop of {width} columns: sensor {sensor.name} has {sensor.columns}; lower the size {size}")
    return RangeCrop(math.floor(float(x.mean())) - width // 2, width)


def crop_columns(crop: RangeCrop, sensor: Sensor, device: torch.device | str = "cpu") -> Shaped[Tensor, "w"]:
    """The crop's columns of the view, in order."""
    return (crop.left + torch.arange(crop.width, device=device)) % sensor.columns


def take_crop(view: Shaped[Tensor, "*B H W"], crop: RangeCrop, sensor: Sensor) -> Shaped[Tensor, "*B H w"]:
    """The crop's columns of any per-pixel tensor."""
    return view.index_select(-1, crop_columns(crop, sensor, view.device))


def put_crop(
    view: Shaped[Tensor, "*B H W"], part: Shaped[Tensor, "*B H w"], crop: RangeCrop, sensor: Sensor
) -> Shaped[Tensor, "*B H W"]:
    """A copy of the view with the crop's columns replaced; undoes `take_crop`."""
    return view.index_copy(-1, crop_columns(crop, sensor, view.device), part)


def enlarge(part: Shaped[Tensor, "*B H w"], size: int) -> Shaped[Tensor, "*B size size"]:
    """Every pixel repeated to a block, exactly. Raises InputError when H or w does not divide `size`."""
    rows, columns = part.shape[-2:]
    if size % rows or size % columns:
        raise InputError(f"{rows}x{columns} does not divide {size}x{size}; choose a size that both sides divide")
    return part.repeat_interleave(size // rows, -2).repeat_interleave(size // columns, -1)


def reduce(
    picture: Shaped[Tensor, "*B h w"], rows: int, columns: int, how: Literal["mean", "max"] = "mean"
) -> Shaped[Tensor, "*B rows columns"]:
    """Each block's mean (summed in float64: equal pixels come back bit-equal) or, for masks and object ids, maximum.

    Raises:
        InputError: the picture does not divide into the blocks.
    """
    height, width = picture.shape[-2:]
    if height % rows or width % columns:
        raise InputError(f"{height}x{width} does not divide into {rows}x{columns} blocks; choose sizes that do")
    blocks = picture.unflatten(-1, (columns, width // columns)).unflatten(-3, (rows, height // rows))
    if how == "max":
        return blocks.amax((-3, -1))
    return blocks.mean((-3, -1), dtype=torch.float64).to(picture.dtype)


def box_in_crop(coordinates: Float[Tensor, "8 3"], crop: RangeCrop, sensor: Sensor) -> Float[Tensor, "8 3"]:
    """`box_to_range`'s coordinates with x and y as shares of the crop (they may leave [0, 1]); depth unchanged.

    x is taken on the turn that brings the box nearest to the crop's middle.
    """
    x, y, depth = coordinates.unbind(-1)
    turns = ((crop.left + crop.width / 2 - x.mean()) / sensor.columns).round()
    return torch.stack([(x + turns * sensor.columns - crop.left) / crop.width, y / sensor.rows, depth], -1)


def range_mask(
    box: Box3d,
    crop: RangeCrop,
    sensor: Sensor,
    shape: tuple[int, int],
    scale: Number = MASK_SCALE,
    device: torch.device | str = "cpu",
) -> Bool[Tensor, "h w"]:
    """True where the sensor sees the grown box: the six faces filled in the crop, shown at `shape` (rows, columns).

    A pixel belongs to the hole when the ray through its centre meets the box. That is the faces' exact outline; polygons
    between projected corners would cut its curved edges. A sensor inside the box sees it everywhere.
    """
    height, width = shape
    options: dict = {"dtype": torch.float64, "device": device}
    row = (torch.arange(height, **options) + 0.5) * (sensor.rows / height)
    column = crop.left + (torch.arange(width, **options) + 0.5) * (crop.width / width)
    pitch = beam_pitch(sensor.rows - 0.5 - row, sensor)[:, None]
    yaw = (math.pi * (2 * column / sensor.columns - 1))[None]
    if sensor.offset:
        yaw = yaw + yaw.new_tensor(sensor.azimuth)[row.floor().long()][:, None]
    return _meets(pitch, yaw, box.scaled(scale))


def _meets(pitch: Float[Tensor, "h 1"], yaw: Float[Tensor, "_ w"], box: Box3d) -> Bool[Tensor, "h w"]:
    """Whether rays from the sensor meet the box: the spans in which they are between each pair of faces overlap."""
    start = to_box(yaw.new_zeros(3), box).tolist()
    half = half_size(box, yaw).tolist()
    # rays along the box's heading, its left and up; yaw is clockwise, the box's counter-clockwise
    rays = pitch.cos() * (yaw + box.yaw).cos(), -pitch.cos() * (yaw + box.yaw).sin(), pitch.sin()
    enter, leave = yaw.new_zeros(()), yaw.new_tensor(math.inf)
    for along, at, far in zip(rays, start, half, strict=True):
        step = 1 / torch.where(
            along.abs() < 1e-300, 1e-300, along
        )  # parallel to a face: far off on one side or the other
        one, two = (-far - at) * step, (far - at) * step
        enter, leave = enter.maximum(one.minimum(two)), leave.minimum(one.maximum(two))
    return leave >= enter
