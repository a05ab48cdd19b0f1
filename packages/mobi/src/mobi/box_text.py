"""`--box X,Y,Z,L,W,H,YAW`: text, seven numbers and `Box3d`. No torch until a box is made."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft_common.errors import InputError

if TYPE_CHECKING:
    from graft_common.rangeview import Box3d

FORM = "X,Y,Z,L,W,H,YAW (centre and length, width, height in metres, heading in radians, lidar frame)"


def parse_numbers(text: str) -> tuple[float, ...]:
    """Seven finite numbers, the three sizes above 0.

    Raises:
        InputError: anything else.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 7 or not all(map(math.isfinite, numbers)):
        raise InputError(f"--box {text}: must be seven finite numbers {FORM}")
    if min(numbers[3:6]) <= 0:
        raise InputError(f"--box {text}: length, width and height must be above 0 m")
    return numbers


def to_box(numbers: Sequence[int | float]) -> "Box3d":
    """x, y, z, length, width, height, yaw -> box. Raises InputError as `Box3d` does, and for another count."""
    from graft_common.rangeview import Box3d

    if len(numbers) != 7:
        raise InputError(f"box {tuple(numbers)}: has {len(numbers)} numbers; give {FORM}")
    x, y, z, length, width, height, yaw = (float(v) for v in numbers)
    return Box3d((x, y, z), (width, length, height), yaw)


def from_box(box: "Box3d") -> list[float]:
    """The inverse of `to_box`, as edit.json holds it."""
    width, length, height = box.size
    return [float(v) for v in (*box.centre, length, width, height, box.yaw)]
