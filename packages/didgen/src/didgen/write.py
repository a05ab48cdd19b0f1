"""Masks as pictures, to write and to look at."""

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage

from graft_common.panel import CELL


def mask_image(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """0 and 255."""
    return mask.astype(np.uint8) * np.uint8(255)


def outlined(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture at the panel's size with the mask's rim in yellow: drawn after scaling, so that the rim stays thin."""
    scale = max(1, CELL // max(mask.shape))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    out = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    inside = np.kron(mask, np.ones((scale, scale), bool))
    out[inside & ~ndimage.binary_erosion(inside)] = (255, 220, 60)
    return out
