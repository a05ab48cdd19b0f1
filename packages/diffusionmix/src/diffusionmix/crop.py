"""Object preparation (spec section 3): a picture and its mask -> a square crop of each, and where it was taken."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from diffusionmix.box import Box
from graft_common.resample import resize_mask

LEAST = 16  # pixels that a connected component must have; smaller ones are specks of the annotation


def clean(mask: Bool[np.ndarray, "H W"], least: int = LEAST) -> Bool[np.ndarray, "H W"]:
    """The mask without connected components (8 neighbours) below `least` pixels; the whole mask where all are below."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= least
    kept[0] = False
    return kept[labels] if kept.any() else mask.copy()


def parts(mask: Bool[np.ndarray, "H W"], least: int = LEAST) -> list[Bool[np.ndarray, "H W"]]:
    """The connected components of `clean(mask)`, one mask each, from the top left."""
    labels, count = ndimage.label(clean(mask, least), np.ones((3, 3)))
    return [labels == k for k in range(1, count + 1)]


def object_box(mask: Bool[np.ndarray, "H W"], margin: float | int = 0.25) -> Box:
    """The square around a mask, its side `1 + margin` times the mask's longer side, shifted to lie in the picture.

    The margin gives way before the picture ends: the square is no larger than the picture's shorter side unless the object is;
    only then it reaches beyond the picture, and `cut` fills what is missing by reflection.

    Raises:
        ValueError: the mask is empty or the margin negative.
    """
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0 or not margin >= 0:
        raise ValueError(f"mask holds {rows.size} rows and margin is {margin}; give a mask that is not empty, margin >= 0")
    height, width = mask.shape
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1
    extent = max(bottom - top, right - left)
    side = max(extent, min(round(extent * (1 + float(margin))), height, width))
    x, y = _start(left, right, side, width), _start(top, bottom, side, height)
    return Box(x, y, side, side)


def cut(
    image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], box: Box, size: int
) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]:
    """The square `box` of both at side `size`: colour by antialiased bicubic, mask by area with threshold one half."""
    held, marked = window(image, box), window(mask, box)
    if box.w != size or box.h != size:
        held = np.asarray(Image.fromarray(held).resize((size, size), Image.Resampling.BICUBIC))
        marked = resize_mask(marked, (size, size))
    return np.ascontiguousarray(held), np.ascontiguousarray(marked)


def window(array: np.ndarray, box: Box) -> np.ndarray:
    """Pixels of `box` (rows, then columns); what lies beyond the picture is reflected at its edge."""
    height, width = array.shape[:2]
    above, below = max(0, -box.y), max(0, box.y + box.h - height)
    before, after = max(0, -box.x), max(0, box.x + box.w - width)
    if above or below or before or after:
        array = np.pad(array, ((above, below), (before, after), *(((0, 0),) * (array.ndim - 2))), mode="reflect")
    y, x = box.y + above, box.x + before
    return array[y : y + box.h, x : x + box.w]


def square(image: UInt8[np.ndarray, "H W 3"], size: int, box: Box | None = None) -> UInt8[np.ndarray, "S S 3"]:
    """A square of a background at side `size`: `box`, else the centre one of the shorter side."""
    box = central(image.shape[0], image.shape[1]) if box is None else box
    held = window(image, box)
    if box.w != size:
        held = np.asarray(Image.fromarray(held).resize((size, size), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(held)


def central(height: int, width: int) -> Box:
    """The largest square in the middle of a picture."""
    side = min(height, width)
    return Box((width - side) // 2, (height - side) // 2, side, side)


def _start(low: int, high: int, side: int, length: int) -> int:
    """First pixel of a stretch of `side` centred on [low, high) and shifted inside [0, length) where it fits."""
    start = (low + high - side) // 2
    return min(max(start, 0), length - side) if side <= length else (length - side) // 2
