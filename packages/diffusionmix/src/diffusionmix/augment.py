"""Joint augmentation of a picture and its mask: whatever moves one moves the other (spec section 3, property 24)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8


@dataclass(frozen=True)
class Move:
    """What is done to one square, in this order.

    Attributes:
        mirrored: left and right swapped.
        quarters: quarter turns to the left.
        scale: enlargement about the centre; 1 changes nothing.
        shift: (x, y) in shares of the side, to the right and down.
    """

    mirrored: bool = False
    quarters: int = 0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


def draw_move(
    rng: np.random.Generator,
    *,
    flip: bool = True,
    turns: bool = False,
    scale: tuple[float | int, float | int] = (0.8, 1.2),
    shift: float | int = 0.1,
) -> Move:
    """A random move. Every part is drawn whether used or not: switching one off leaves the others as they were.

    Args:
        flip: mirror half of the squares.
        turns: quarter turns, where the picture has no up.
        scale: range of the enlargement, log-uniform.
        shift: largest shift along each axis, as a share of the side.
    """
    if not 0 < scale[0] <= scale[1] or not 0 <= shift < 1:
        raise ValueError(f"scale is {scale} and shift {shift}; give 0 < low <= high and 0 <= shift < 1")
    mirrored, quarters = bool(rng.integers(2)), int(rng.integers(4))
    factor = float(np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]))))
    dx, dy = rng.uniform(-float(shift), float(shift), 2)
    return Move(flip and mirrored, quarters if turns else 0, factor, (float(dx), float(dy)))


def move(
    image: UInt8[np.ndarray, "S S 3"], mask: Bool[np.ndarray, "S S"] | None, step: Move
) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"] | None]:
    """Both after `step`. Mirrors and turns are exact. Scale and shift interpolate linearly, the mask with threshold one half;
    what comes in from outside is the picture reflected at its edge, mask included.
    """
    return _moved(image, step), None if mask is None else _moved(mask.astype(np.uint8) * np.uint8(255), step) >= 128


def _moved(array: np.ndarray, step: Move) -> np.ndarray:
    array = array[:, ::-1] if step.mirrored else array
    array = np.ascontiguousarray(np.rot90(array, step.quarters))
    if step.scale == 1 and step.shift == (0.0, 0.0):
        return array
    import cv2

    side = array.shape[0]
    # pixel centres: the middle of the square is (side - 1) / 2 in OpenCV's coordinates
    middle = (side - 1) / 2
    offset = [middle * (1 - step.scale) + shift * side for shift in step.shift]
    matrix = np.array([[step.scale, 0, offset[0]], [0, step.scale, offset[1]]])
    return np.asarray(cv2.warpAffine(array, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))
