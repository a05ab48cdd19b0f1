"""Displayed pixels as bytes."""

import numpy as np
from jaxtyping import Float32, UInt8


def to_rgb(pixels: Float32[np.ndarray, "C H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Displayed pixels in [-1, 1] as 8-bit colour; grey becomes three equal channels."""
    levels = np.rint((pixels.astype(np.float64).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0))
