"""What every phantom world returns: a picture and the exact truth about it."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, UInt8


@dataclass(frozen=True)
class Phantom:
    """One procedural picture with exact ground truth.

    Attributes:
        image: (H, W, 3) uint8, RGB; grey worlds repeat one channel.
        masks: name -> (H, W) bool, exact for this picture (an absent structure is an all-False mask).
        attributes: name -> value as used in the caption grammar (strings) or as measured truth (floats, in pixels or [0, 1]).
        caption: one lower-case English sentence that states the attributes.
    """

    image: UInt8[np.ndarray, "H W 3"]
    masks: dict[str, Bool[np.ndarray, "H W"]]
    attributes: dict[str, str | float | int]
    caption: str
    seed: int = field(default=0)


def box(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int] | None:
    """Tight box (left, top, right, bottom), right and bottom exclusive, in pixels; None for an empty mask."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def box_of(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """`box` of a mask that holds something. Raises ValueError for an empty one."""
    where = box(mask)
    if where is None:
        raise ValueError("mask is empty")
    return where
