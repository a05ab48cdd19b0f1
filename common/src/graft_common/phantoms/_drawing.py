"""Drawing tools of the mammogram and lung CT worlds. All lengths are shares of the image side, so any size shows one scene."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Pixel centres (x to the right, y down) in (0, 1), read-only because they are shared between calls."""
    axis = (np.arange(size) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")
    x.flags.writeable = y.flags.writeable = False
    return x, y


def cloud(
    rng: np.random.Generator, size: int, slope: float, low: float = 1.0, high: int = 20
) -> Float[np.ndarray, "H W"]:
    """Gaussian random field with amplitude ~ 1 / frequency**slope between `low` and `high` cycles per image side.

    Mean 0 and expected variance 1. The coefficients are drawn before they are laid on the pixel grid, so one generator state
    gives the same field at every size (less the frequencies that a small grid cannot hold).
    """
    fy, fx = np.arange(-high, high + 1)[:, None], np.arange(high + 1)[None, :]
    draw = rng.standard_normal((2, 2 * high + 1, high + 1))
    radius = np.hypot(fy, fx)
    gain = np.where((radius >= low) & (radius <= high), np.maximum(radius, 1.0) ** -slope, 0.0)
    gain /= np.sqrt(2 * np.sum(gain[:, 0] ** 2) + 4 * np.sum(gain[:, 1:] ** 2))
    keep = min(high, (size - 1) // 2)
    spectrum = np.zeros((size, size // 2 + 1), complex)
    part = slice(high - keep, high + keep + 1)
    # Pixel centres lie half a pixel inside the corner that the transform starts from.
    shift = np.exp(1j * np.pi * (fy + fx) / size)
    spectrum[fy[part, 0] % size, : keep + 1] = (gain * (draw[0] + 1j * draw[1]) * shift)[part, : keep + 1]
    # Column 0 holds both signs of a frequency; irfft2 reads only its Hermitian part, which halves the variance there.
    spectrum[:, 0] *= np.sqrt(2)
    return np.fft.irfft2(spectrum, s=(size, size)) * size**2


def cover(inside: Float[np.ndarray, "*s"], size: int, blur: float = 1.0) -> Float[np.ndarray, "*s"]:
    """Share of a pixel that a shape covers, from its signed distance (positive inside); the edge is `blur` pixels wide."""
    return np.clip(0.5 + inside * (size / blur), 0.0, 1.0)


def ramp(value: Float[np.ndarray, "*s"], start: float, stop: float) -> Float[np.ndarray, "*s"]:
    """Smooth step from 0 at `start` to 1 at `stop`."""
    t = np.clip((value - start) / (stop - start), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def join(a: Float[np.ndarray, "*s"], b: Float[np.ndarray, "*s"], round_by: float) -> Float[np.ndarray, "*s"]:
    """Union of two signed distances (positive inside) with the inner corner filled over about `round_by`."""
    h = np.maximum(round_by - np.abs(a - b), 0.0) / round_by
    return np.maximum(a, b) + 0.25 * round_by * h * h


def ellipse(
    x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"], a: float, b: float, power: float = 2.0, turn: float = 0.0
) -> Float[np.ndarray, "*s"]:
    """First-order signed distance (positive inside) to |x/a|**power + |y/b|**power = 1, turned by `turn` radians."""
    if turn:
        c, s = np.cos(turn), np.sin(turn)
        x, y = c * x + s * y, c * y - s * x
    p, q = np.abs(x) / a + 1e-9, np.abs(y) / b + 1e-9
    if power == 2.0:
        norm = np.sqrt(p * p + q * q)
        steep = np.sqrt((p / a) ** 2 + (q / b) ** 2) / norm
    else:
        norm = (p**power + q**power) ** (1 / power)
        steep = np.hypot((p / norm) ** (power - 1) / a, (q / norm) ** (power - 1) / b)
    return (1.0 - norm) / steep


def lobed(
    x: Float[np.ndarray, "*s"],
    y: Float[np.ndarray, "*s"],
    radius: float,
    lobes: tuple[tuple[int, float, float], ...],
) -> Float[np.ndarray, "*s"]:
    """Signed distance (positive inside) to a disc whose radius swings by (count, amplitude, phase) harmonics."""
    angle = np.arctan2(y, x)
    edge = radius * (1.0 + sum(amp * np.cos(count * angle + phase) for count, amp, phase in lobes))
    return edge - np.hypot(x, y)


def splat(
    size: int, points: Float[np.ndarray, "n 2"], radii: Float[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "H W"]:
    """Largest `weight` x coverage over antialiased discs at `points` (x, y), on an empty canvas.

    Discs thinner than a pixel fade in proportion.
    """
    canvas = np.zeros(size * size)
    at, reach = points * size - 0.5, radii * size
    weight = weight * np.minimum(2.0 * reach, 1.0)
    wide = np.ceil(reach + 0.5).astype(int)
    for half in np.unique(wide):
        pick = wide == half
        step = np.arange(-half, half + 1)
        col = np.rint(at[pick, 0]).astype(int)[:, None, None] + step[None, None, :]
        row = np.rint(at[pick, 1]).astype(int)[:, None, None] + step[None, :, None]
        away = np.hypot(col - at[pick, 0, None, None], row - at[pick, 1, None, None])
        value = weight[pick, None, None] * np.clip(reach[pick, None, None] + 0.5 - away, 0.0, 1.0)
        good = (col >= 0) & (col < size) & (row >= 0) & (row < size) & (value > 0)
        np.maximum.at(canvas, (row * size + col)[good], value[good])
    return canvas.reshape(size, size)


def grey(level: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Levels in [0, 1] (clipped) to three equal 8-bit channels."""
    byte = np.rint(np.clip(level, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.repeat(byte[:, :, None], 3, axis=2)
