"""An oriented 3D box: corners, faces, what is inside, how near it comes (mobi spec 2.1)."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from graft_common.errors import InputError
from graft_common.rangeview.project import Points
from graft_common.rangeview.sensor import Number, Sensor
from graft_common.rangeview.unproject import stored_depth

MASK_SCALE = 1.1
"""Edit masks are drawn from the box grown by this factor about its centre."""

FACES = ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 5, 4), (2, 3, 7, 6), (0, 4, 7, 3), (1, 5, 6, 2))
"""Corner indices around each face: right, left, front, back, bottom, top."""

# Signs of (length, width, height): right-front-bottom, right-front-top, right-back-top, right-back-bottom, then left.
_CORNERS = (
    ((1, -1, -1), (1, -1, 1), (-1, -1, 1), (-1, -1, -1)),
    ((1, 1, -1), (1, 1, 1), (-1, 1, 1), (-1, 1, -1)),
)


@dataclass(frozen=True)
class Box3d:
    """An upright box in the lidar frame.

    Attributes:
        centre: x, y, z in metres.
        size: width, length, height in metres, all positive; length is along the heading.
        yaw: heading in radians, counter-clockwise from +x seen from above.

    Raises:
        InputError: a number is not finite or a size not positive.
    """

    centre: tuple[Number, Number, Number]
    size: tuple[Number, Number, Number]
    yaw: Number

    def __post_init__(self) -> None:
        if len(self.centre) != 3 or len(self.size) != 3:
            raise InputError(f"box {self.centre}, {self.size}: give a centre x, y, z and a size w, l, h")
        if not all(math.isfinite(v) for v in (*self.centre, *self.size, self.yaw)):
            raise InputError(
                f"box {self.centre}, {self.size}, {self.yaw}: holds a number that is not finite; repair it"
            )
        if min(self.size) <= 0:
            raise InputError(f"box size {self.size}: width, length and height must be above 0 m")

    def scaled(self, factor: Number) -> "Box3d":
        """The box grown or shrunk about its centre."""
        width, length, height = self.size
        return replace(self, size=(width * factor, length * factor, height * factor))

    def turned(self, angle: Number) -> "Box3d":
        """The box turned counter-clockwise about its vertical axis; its corners keep their numbers."""
        return replace(self, yaw=self.yaw + angle)

    def corners(self) -> Float64[Tensor, "8 3"]:
        """Corners in metres, on the CPU: right-front-bottom, right-front-top, right-back-top, right-back-bottom, then
        the same four on the left. The front face is corners 0, 1, 4, 5."""
        width, length, height = self.size
        signs = torch.tensor(_CORNERS, dtype=torch.float64).view(8, 3)
        at = signs * torch.tensor([length, width, height], dtype=torch.float64) / 2
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        turn = torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1]], dtype=torch.float64)
        return at @ turn + torch.tensor(self.centre, dtype=torch.float64)


def to_box(points: Float[Tensor, "*s 3"], box: Box3d) -> Float[Tensor, "*s 3"]:
    """Coordinates along the box's heading, its left and up, from its centre, in metres."""
    x, y, z = (points - points.new_tensor(box.centre)).unbind(-1)
    c, s = math.cos(box.yaw), math.sin(box.yaw)
    return torch.stack([c * x + s * y, c * y - s * x, z], -1)


def half_size(box: Box3d, like: Tensor) -> Float[Tensor, "3"]:
    """Half the length, width and height, in the order of `to_box`."""
    width, length, height = box.size
    return torch.tensor([length / 2, width / 2, height / 2], dtype=like.dtype, device=like.device)


def points_in_box(points: Points, box: Box3d) -> Bool[Tensor, "*s"]:
    """Which points lie in the box, its surface included; decided in float64. A NaN is never inside.

    Args:
        points: (..., >= 3): x, y, z in metres, whatever follows is ignored.

    Raises:
        InputError: fewer than three columns.
    """
    if isinstance(points, np.ndarray):
        points = torch.from_numpy(np.array(points, np.float64))
    if points.ndim < 1 or points.shape[-1] < 3:
        raise InputError(f"points have shape {tuple(points.shape)}; give (..., 3 or more): x, y, z")
    inside = to_box(points[..., :3].double(), box)
    return (inside.abs() <= half_size(box, inside)).all(-1)


def nearest_distance(box: Box3d) -> float:
    """Metres from the sensor to the nearest point of the box; 0 inside it."""
    at = to_box(torch.zeros(3, dtype=torch.float64), box)
    return float((at.abs() - half_size(box, at)).clamp(min=0).norm())


def depth_band(box: Box3d, sensor: Sensor, exact: bool = False, margin: Number = 0.1) -> tuple[float, float]:
    """(lo, hi), the stored depths that object-aware normalisation spreads out (mobi spec 2.4).

    Least and greatest corner depth, each moved outwards by `margin` of their span, within [-1, 1].

    Args:
        exact: lo from the nearest point of the box instead of the nearest corner, which is farther when the box shows
            the sensor a broad side; weights trained with corners want False.

    Raises:
        InputError: the box lies beyond the sensor's far limit.
    """
    distances = box.corners().norm(dim=1)
    nearest = distances.new_tensor(nearest_distance(box)) if exact else distances.min()
    low, high = (float(stored_depth(d, sensor)) for d in (nearest, distances.max()))
    if not low < high:
        raise InputError(f"box at {box.centre}: lies beyond {sensor.far:g} m; move it within the sensor's range")
    wider = margin * (high - low)
    return max(low - wider, -1.0), min(high + wider, 1.0)
