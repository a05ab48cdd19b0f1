"""Small tools shared by the brain and ultrasound worlds: pixel grids, smooth random fields, soft edges, grain.

Lengths are in picture widths, so a seed gives the same anatomy at every size.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage


@lru_cache(maxsize=16)
def grid(size: int) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Read-only pixel centres (x, y) in picture widths, each in (0, 1), y downward."""
    line = (np.arange(size) + 0.5) / size
    x, y = np.tile(line, (size, 1)), np.tile(line[:, None], (1, size))
    x.flags.writeable = y.flags.writeable = False
    return x, y


def spline_basis(at: Float[np.ndarray, " n"], cells: int) -> Float[np.ndarray, "n k"]:
    """Uniform cubic B-spline weights of `cells + 3` coefficients at positions `at`, clipped to [0, 1]."""
    t = np.clip(at, 0.0, 1.0) * cells
    distance = np.abs(t[:, None] - np.arange(-1, cells + 2))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    return np.where(distance < 1, near, np.maximum(2 - distance, 0.0) ** 3 / 6)


@lru_cache(maxsize=128)
def _pixel_basis(size: int, cells: int) -> Float[np.ndarray, "n k"]:
    return spline_basis((np.arange(size) + 0.5) / size, cells)


def curve(rng: np.random.Generator, size: int, cells: int) -> Float[np.ndarray, " W"]:
    """Smooth random line over the picture's width, about zero mean and unit spread, features of 1 / `cells`."""
    return _pixel_basis(size, cells) @ rng.standard_normal(cells + 3) * 1.445


def field(rng: np.random.Generator, size: int, rows: int, cols: int) -> Float[np.ndarray, "H W"]:
    """Smooth random picture (cubic B-spline of white noise), about zero mean and unit spread.

    `rows` and `cols` count the spline cells over the picture: blobs measure about 1 / rows by 1 / cols.
    """
    knots = rng.standard_normal((rows + 3, cols + 3))
    return _pixel_basis(size, rows) @ knots @ _pixel_basis(size, cols).T * 2.088


def field_at(
    knots: Float[np.ndarray, "R C"], row: Float[np.ndarray, "H W"], col: Float[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """Periodic cubic B-spline of `knots` at `row` and `col` (in knots): about unit spread for white knots."""
    return ndimage.map_coordinates(knots, [row, col], order=3, mode="grid-wrap", prefilter=False) * 2.088


def cover(distance: Float[np.ndarray, "H W"], size: int, blur: float = 0.0) -> Float[np.ndarray, "H W"]:
    """Share of each pixel inside a shape: 0.5 where the signed distance (picture widths, inside < 0) is zero.

    The edge is a ramp one pixel wide, or `blur` picture widths where that is wider.
    """
    return np.clip(0.5 - distance / max(1.0 / size, blur), 0.0, 1.0)


def paint(
    canvas: Float[np.ndarray, "H W"], share: Float[np.ndarray, "H W"], value: float | Float[np.ndarray, "H W"]
) -> Float[np.ndarray, "H W"]:
    """`canvas` with `value` laid over it where `share` says so."""
    return canvas + share * (value - canvas)


def grain(rng: np.random.Generator, size: int, sigma_y: float, sigma_x: float) -> Float[np.ndarray, "H W"]:
    """Unit-variance Gaussian noise, correlated over `sigma_y` and `sigma_x` picture widths (Gaussian kernel)."""
    noise = rng.standard_normal((size, size))
    sigmas = (sigma_y * size, sigma_x * size)
    noise = ndimage.gaussian_filter(noise, sigmas, mode="wrap", truncate=3.0)
    return noise / noise.std()


def blob_radius(
    rng: np.random.Generator, angle: Float[np.ndarray, "H W"], harmonics: range, amount: float
) -> Float[np.ndarray, "H W"]:
    """Relative radius of an irregular round outline, about 1 +- `amount`, from Fourier terms falling off as 1/k."""
    first = harmonics[0]
    total = np.ones_like(angle)
    for k in harmonics:
        strength, phase = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi)
        total += amount * strength * (first / k) * np.cos(k * angle + phase)
    return total


def to_rgb(grey: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Grey values in [0, 1] (clipped) as three equal bytes."""
    return np.repeat(np.round(np.clip(grey, 0.0, 1.0) * 255).astype(np.uint8)[..., None], 3, axis=2)


def centroid(mask: Bool[np.ndarray, "H W"]) -> tuple[float, float]:
    """(x, y) centre of a mask in picture widths; (-1, -1) for an empty mask."""
    rows, cols = np.nonzero(mask)
    if rows.size == 0:
        return -1.0, -1.0
    return float((cols.mean() + 0.5) / mask.shape[1]), float((rows.mean() + 0.5) / mask.shape[0])
