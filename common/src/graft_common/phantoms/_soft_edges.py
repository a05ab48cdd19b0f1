"""Grids, soft edges and smooth noise shared by the dermoscopy and chest X-ray worlds.

Everything is in frame units: x and y run from 0 (left, top) to 1 (right, bottom), so a seed draws the same scene
at every size.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy.interpolate import BSpline


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """Pixel centres (x, y) in frame units, read-only."""
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = (np.ascontiguousarray(v) for v in np.meshgrid(line, line))
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


@lru_cache(maxsize=128)
def _basis(size: int, cells: int) -> Float32[np.ndarray, "H K"]:
    """Values of the cells + 3 uniform cubic B-splines at the pixel centres, scaled to keep unit variance."""
    knots = np.arange(-3, cells + 4) / cells
    line = (np.arange(size) + 0.5) / size
    matrix = BSpline.design_matrix(line, knots, 3).toarray()
    matrix /= np.sqrt((matrix**2).sum(axis=1, keepdims=True))
    out: Float32[np.ndarray, "H K"] = matrix.astype(np.float32)
    out.setflags(write=False)
    return out


def field(rng: np.random.Generator, size: int, cells: int) -> Float32[np.ndarray, "H W"]:
    """Smooth Gaussian noise of mean 0 and variance 1 whose features are about 1 / cells of the frame wide.

    The draws do not depend on `size`: one stream gives the same field at every size.
    """
    knots = rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
    basis = _basis(size, cells)
    return basis @ knots @ basis.T


def cover(
    inside: Float[np.ndarray, "H W"], width: float | Float[np.ndarray, "H W"], size: int
) -> Float32[np.ndarray, "H W"]:
    """Coverage in [0, 1] of the region `inside` > 0, one half on its border.

    Args:
        inside: signed distance to the border in frame units, positive inside.
        width: width of the ramp in frame units; never less than 1.5 pixels, which antialiases the border.
        size: pixels of the frame's side.
    """
    t = np.clip(0.5 + inside / np.maximum(width, 1.5 / size), 0.0, 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32)


def pick(rng: np.random.Generator, choices: dict[str, tuple[str, ...]], fixed: dict[str, str]) -> dict[str, str]:
    """Draw each attribute uniformly, then override with `fixed`: what is fixed does not change the other draws."""
    drawn = {name: values[int(rng.integers(len(values)))] for name, values in choices.items()}
    return drawn | fixed


def centroid(mask: Bool[np.ndarray, "H W"]) -> tuple[float, float]:
    """Mean (x, y) of a non-empty mask in frame units."""
    x, y = grid(mask.shape[0])
    return float(x[mask].mean()), float(y[mask].mean())


def to_bytes(picture: Float[np.ndarray, "H W *c"]) -> UInt8[np.ndarray, "H W *c"]:
    """[0, 1] to 8 bit, rounded and clipped."""
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
