"""Masks and boxes as pictures."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage


def mask_image(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """0 and 255."""
    return mask.astype(np.uint8) * np.uint8(255)


def overlay(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], box: Sequence[int]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the mask's rim in yellow and the box in blue."""
    out = image.copy()
    x, y, w, h = box
    out[[y, y + h - 1], x : x + w] = (80, 160, 255)
    out[y : y + h, [x, x + w - 1]] = (80, 160, 255)
    out[ndimage.binary_dilation(mask) & ~mask] = (255, 220, 60)
    return out
