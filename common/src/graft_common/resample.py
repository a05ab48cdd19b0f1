"""Change a picture's size, soften a mask, paste one picture into another."""

from typing import SupportsFloat

import numpy as np
from jaxtyping import Bool, Float, Float32


def resize(array: Float[np.ndarray, "*C H W"], size: tuple[int, int]) -> Float32[np.ndarray, "*C h w"]:
    """(..., H, W) to (..., h, w) with Pillow's Lanczos filter, widened on shrinking so that nothing aliases.

    Works in float32 and clips the filter's overshoot to the range of the input.
    """
    from PIL import Image

    h, w = size
    if min(h, w) < 1:
        raise ValueError(f"size is {size}; both sides must be at least 1")
    planes = np.ascontiguousarray(array, dtype=np.float32).reshape(-1, *array.shape[-2:])
    out = [np.asarray(Image.fromarray(p).resize((w, h), Image.Resampling.LANCZOS)) for p in planes]
    return np.clip(np.stack(out), planes.min(), planes.max()).reshape(*array.shape[:-2], h, w)


def resize_mask(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Mask to (h, w): a pixel belongs where at least half of its area does."""
    from PIL import Image

    cover = Image.fromarray(mask.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX)
    return np.asarray(cover) >= 0.5


def feather(mask: Bool[np.ndarray, "H W"], radius: SupportsFloat) -> Float32[np.ndarray, "H W"]:
    """Soft alpha that lives inside the mask: 0 outside, rising smoothly over `radius` pixels, 1 deeper within.

    The rise is the cubic 3t^2 - 2t^3 of t = d / (radius + 1), d the Euclidean distance to the nearest pixel outside (1
    on the mask's rim). The border of the picture is no edge. Radius 0 returns the mask itself.
    """
    radius = float(radius)
    if not radius >= 0:
        raise ValueError(f"radius is {radius}; it must be 0 or more pixels")
    if mask.all():  # no outside to measure a distance to
        return np.ones(mask.shape, np.float32)
    from scipy.ndimage import distance_transform_edt

    t = np.clip(distance_transform_edt(mask) / (radius + 1), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def paste(
    base: Float[np.ndarray, "C H W"], new: Float[np.ndarray, "C H W"], alpha: Float[np.ndarray, "H W"]
) -> Float[np.ndarray, "C H W"]:
    """(1 - alpha) base + alpha new, in the type of `base`; bit-equal to `base` where alpha is 0, to `new` where 1."""
    mixed = (1 - alpha) * base + alpha * new
    return np.where(alpha == 0, base, np.where(alpha == 1, new, mixed)).astype(base.dtype)


def with_channels(pixels: Float[np.ndarray, "C H W"], channels: int) -> Float32[np.ndarray, "C2 H W"]:
    """Pixels with 1 or 3 channels: grey is repeated, colour is averaged."""
    if pixels.shape[0] == channels:
        return pixels.astype(np.float32, copy=False)
    if channels == 3 and pixels.shape[0] == 1:
        return np.repeat(pixels, 3, axis=0).astype(np.float32)
    if channels == 1:
        return pixels.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    raise ValueError(f"cannot turn {pixels.shape[0]} channels into {channels}; use 1 or 3")
