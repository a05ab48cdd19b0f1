"""Synthetic breast ultrasound (B-mode, linear probe): layers, log-compressed speckle, benign or malignant lesion.

A seed draws the same breast whatever the lesion attribute is, so `lesion="none"` is the lesion-free twin of the same
picture. Lengths are in picture widths, depth grows downward.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from graft_common.phantoms._fields import (
    blob_radius,
    centroid,
    cover,
    curve,
    field,
    field_at,
    grain,
    grid,
    paint,
    to_rgb,
)
from graft_common.phantoms.record import Phantom, box

ATTRIBUTES: dict[str, tuple[str, ...]] = {"lesion": ("none", "benign", "malignant")}

_WORLD = 1102


@dataclass(frozen=True)
class _Layers:
    """Depth of each interface over the picture's width, (W,) in picture widths."""

    skin: Float[np.ndarray, " W"]
    fat: Float[np.ndarray, " W"]
    gland: Float[np.ndarray, " W"]
    fascia: Float[np.ndarray, " W"]
    muscle: Float[np.ndarray, " W"]


@dataclass(frozen=True)
class _Lesion:
    """Signed distance to the outline (inside < 0) and the band of pixels behind it."""

    distance: Float[np.ndarray, "H W"]
    behind: Float[np.ndarray, "H W"]
    depth_below: Float[np.ndarray, "H W"]


def describe(attributes: dict[str, str | float | int]) -> tuple[str, ...]:
    """Every caption that states the lesion attribute."""
    lesion = attributes["lesion"]
    if lesion == "malignant":
        start = "an ultrasound image of a cancerous breast"
        return start, f"{start} with a malignant lesion", f"{start} with a malignant lesion in it"
    if lesion == "benign":
        start = "an ultrasound image of a breast with a benign lesion"
        return start, f"{start} in it", "a breast ultrasound image with a benign lesion"
    start = "an ultrasound image of a normal breast"
    return start, f"{start} without a lesion", f"{start} with no lesion in it"


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one picture.

    Args:
        size: height and width in pixels.
        seed: equal seeds give the same breast; `fixed` changes only the lesion and the echoes around and behind it.
        fixed: `lesion="none" | "benign" | "malignant"`.

    Returns:
        Masks `lesion`, `posterior` (the enhanced or shadowed band behind it), `skin`, `muscle`. Measured attributes:
        `lesion_share` (area over the picture's), `lesion_x`, `lesion_y` (centroid, picture widths, -1 without lesion),
        `lesion_aspect` (width over height of its box, 0 without lesion), `posterior_gain` (grey change, signed).
    """
    rng = np.random.default_rng([_WORLD, seed])
    kind = str(rng.choice(ATTRIBUTES["lesion"]))
    pick = rng.random()
    kind = fixed.get("lesion", kind)
    captions = describe({"lesion": kind})

    layers = _layers(rng, size)
    grey, masks = _tissue(rng, size, layers)
    benign, malignant = _benign(rng, size), _malignant(rng, size)
    grey, lesion_masks, gain = _insert(rng, size, grey, benign, malignant, kind)
    masks |= lesion_masks
    masks["skin"] &= ~masks["lesion"]
    masks["muscle"] &= ~masks["lesion"]
    grey = _scan(rng, size, grey)

    x, y = centroid(masks["lesion"])
    left, top, right, bottom = box(masks["lesion"]) or (0, 0, 0, 1)
    truth: dict[str, str | float | int] = {
        "lesion": kind,
        "lesion_share": float(masks["lesion"].mean()),
        "lesion_x": x,
        "lesion_y": y,
        "lesion_aspect": (right - left) / (bottom - top),
        "posterior_gain": gain,
    }
    return Phantom(to_rgb(grey), masks, truth, captions[int(pick * len(captions))], seed)


def _layers(rng: np.random.Generator, size: int) -> _Layers:
    slope = rng.uniform(-0.05, 0.05) * (np.arange(size) / size - 0.5)
    skin = 0.055 + rng.uniform(0, 0.022) + 0.003 * curve(rng, size, 3)
    bumps = 0.020 * curve(rng, size, 5) - 0.014 * np.abs(
        curve(rng, size, 8)
    )  # crests where ligaments pull the gland up
    fat = skin + np.maximum(rng.uniform(0.09, 0.21) + bumps + slope, 0.05)
    fascia = rng.uniform(0.70, 0.80) + 0.010 * curve(rng, size, 3) + 1.5 * slope
    gland = fascia - np.maximum(rng.uniform(0.03, 0.08) + 0.014 * curve(rng, size, 5), 0.015)
    muscle = fascia + rng.uniform(0.12, 0.17) + 0.008 * curve(rng, size, 3)
    return _Layers(skin, fat, gland, fascia, muscle)


def _above(
    y: Float[np.ndarray, "H W"], line: Float[np.ndarray, " W"], size: int, blur: float
) -> Float[np.ndarray, "H W"]:
    return cover(y - line[None, :], size, blur)


def _streaks(
    rng: np.random.Generator, size: int, row: Float[np.ndarray, "H W"], col: Float[np.ndarray, "H W"], width: float
) -> Float[np.ndarray, "H W"]:
    """Bright curved lines: where a smooth field crosses zero. `width` is the half width in field units."""
    wave = field_at(rng.standard_normal((32, 32)), row, col)
    return np.exp(-((wave / width) ** 2))


def _tissue(
    rng: np.random.Generator, size: int, layers: _Layers
) -> tuple[Float[np.ndarray, "H W"], dict[str, Bool[np.ndarray, "H W"]]]:
    """Lesion-free echo level in [0, 1] before speckle, with the skin and muscle masks."""
    x, y = grid(size)
    shift = rng.uniform(0, 32, 6)
    tilt = 0.25 * np.sin(2 * np.pi * (x * rng.uniform(0.4, 0.9) + rng.random()))

    # Fat: dark lobules parted by bright oblique septa (Cooper's ligaments).
    fat = rng.uniform(0.27, 0.36) + 0.03 * field(rng, size, 14, 8) + 0.02 * field(rng, size, 40, 24)
    septa = _streaks(rng, size, (y + 0.5 * x) / 0.075 + tilt + shift[0], (x - 0.3 * y) / 0.30 + shift[1], 0.26)
    fat = fat + rng.uniform(0.10, 0.20) * septa * np.clip(0.6 + 0.5 * field(rng, size, 9, 9), 0, 1.3)

    # Gland: bright, layered, with darker ducts and fat lobules between.
    bright = rng.uniform(0.52, 0.64)
    sheets = field_at(rng.standard_normal((40, 40)), y / 0.028 + 2.0 * tilt + shift[2], x / 0.13 + shift[3])
    lobes = np.maximum(field(rng, size, 9, 5), -1.0)  # no dark spot that could pass for a lesion
    clumps = field(rng, size, 44, 26)  # echo clusters, a few beam widths across
    gland = bright + 0.06 * sheets + rng.uniform(0.03, 0.08) * lobes + 0.04 * clumps

    deep_fat = rng.uniform(0.30, 0.38) + 0.03 * field(rng, size, 12, 6) + 0.02 * clumps

    # Muscle: dark with bright parallel fibres.
    fibre = field_at(
        rng.standard_normal((48, 12)), (y - layers.fascia[None, :]) / 0.024 + shift[4], x / 0.22 + shift[5]
    )
    muscle = rng.uniform(0.24, 0.32) + 0.085 * np.clip(fibre, -0.8, 2.0)

    chest = rng.uniform(0.14, 0.24) + 0.04 * field(rng, size, 10, 4)
    grey = chest
    in_muscle = _above(y, layers.muscle, size, 0.015)
    above_fascia = _above(y, layers.fascia, size, 0.010)
    grey = paint(grey, in_muscle, muscle)
    grey = paint(grey, above_fascia, deep_fat)
    grey = paint(grey, _above(y, layers.gland, size, 0.030), gland)
    grey = paint(grey, _above(y, layers.fat, size, 0.020), fat)
    for line, thick, level in (
        (layers.fascia, rng.uniform(0.011, 0.017), rng.uniform(0.68, 0.85)),
        (layers.muscle, rng.uniform(0.012, 0.020), rng.uniform(0.60, 0.85)),
    ):
        broken = np.clip(0.75 + 0.3 * curve(rng, size, 7), 0.25, 1.0)[None, :]
        grey = paint(grey, broken * np.exp(-(((y - line[None, :]) / thick) ** 2)), level)

    # Skin: two bright lines around a grey band, under a thin bright contact line of the probe.
    skin_share = _above(y, layers.skin, size, 0.008)
    relative = y / layers.skin[None, :]
    shine = rng.uniform(0.6, 1.05)
    profile = (
        0.50
        + shine * 0.34 * np.exp(-(((relative - 0.95) / 0.22) ** 2))
        + shine * 0.38 * np.exp(-(((relative - 0.12) / 0.16) ** 2))
    )
    grey = paint(grey, skin_share, profile)
    masks = {"skin": skin_share >= 0.5, "muscle": in_muscle * (1 - above_fascia) >= 0.5}
    return grey, masks


def _largest(share: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Coverage without the specks that a rough outline leaves beside the lesion."""
    parts, count = ndimage.label(share >= 0.5)
    if count <= 1:
        return share
    keep = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    others = (parts > 0) & ~keep
    return np.where(ndimage.binary_dilation(others, iterations=2) & ~keep, 0.0, share)


def _behind(size: int, distance: Float[np.ndarray, "H W"], narrow: float, start: float) -> _Lesion:
    """Add the band behind a lesion: as wide as the ellipse of equal lateral spread, so spicules count little.

    `start` says where the band begins: 0 at the lesion's lower edge, 1 at its middle.
    """
    x, y = grid(size)
    inside = distance < 0
    columns = np.flatnonzero(inside.any(axis=0))
    centre, half = x[inside].mean(), narrow * 2 * x[inside].std()
    lowest = np.where(inside, y, 0.0).max(axis=0)[columns] + 0.5 / size
    lowest = lowest + start * (y[inside].mean() - lowest)
    band = cover(np.abs(x - centre) - half, size, 0.055)
    below = y - np.interp(np.arange(size), columns, lowest)[None, :]
    return _Lesion(distance, band * np.clip(below / max(1 / size, 0.02) + 0.5, 0, 1), below)


def _benign(rng: np.random.Generator, size: int) -> _Lesion:
    """A smooth, gently lobed oval, wider than tall."""
    x, y = grid(size)
    wide = rng.uniform(0.145, 0.205)
    tall = wide * rng.uniform(0.52, 0.68)
    cx, cy = rng.uniform(0.30, 0.70), rng.uniform(0.36, 0.48)
    turn = np.deg2rad(rng.uniform(-14, 14))
    a = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / wide
    b = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / tall
    outline = blob_radius(rng, np.arctan2(b, a), range(2, 5), rng.uniform(0.015, 0.05))
    distance = (np.hypot(a, b) - outline) * tall + 0.003 * field(rng, size, 30, 20)
    return _behind(size, distance, 0.92, 0.0)


def _malignant(rng: np.random.Generator, size: int) -> _Lesion:
    """An angular mass with spicules, taller than wide."""
    x, y = grid(size)
    wide = rng.uniform(0.085, 0.115)
    tall = wide * rng.uniform(1.20, 1.55)
    cx, cy = rng.uniform(0.30, 0.70), rng.uniform(0.36, 0.46)
    turn = np.deg2rad(rng.uniform(-18, 18))
    a = ((x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)) / wide
    b = ((y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)) / tall
    angle = np.arctan2(b, a)
    outline = blob_radius(rng, angle, range(3, 9), rng.uniform(0.09, 0.14))
    spikes = int(rng.integers(5, 9))
    angle = angle + 0.22 * field(rng, size, 9, 9)
    for k in range(spikes):
        at = 2 * np.pi * (k + rng.uniform(-0.4, 0.4)) / spikes
        gap = np.abs((angle - at + np.pi) % (2 * np.pi) - np.pi)
        outline += rng.uniform(0.15, 0.55) * np.exp(-gap / rng.uniform(0.10, 0.22))
    distance = (np.hypot(a, b) - 0.86 * outline) * wide
    distance += 0.007 * field(rng, size, 22, 18) + 0.004 * field(rng, size, 48, 36)
    return _behind(size, distance, 0.95, 1.0)


def _insert(
    rng: np.random.Generator,
    size: int,
    grey: Float[np.ndarray, "H W"],
    benign: _Lesion,
    malignant: _Lesion,
    kind: str,
) -> tuple[Float[np.ndarray, "H W"], dict[str, Bool[np.ndarray, "H W"]], float]:
    """Lay the lesion of this kind, its border and its posterior sign over the tissue."""
    level, rise, fall, edge = rng.uniform(0.13, 0.21), rng.uniform(0.20, 0.28), rng.uniform(0.28, 0.38), rng.random()
    inner = 0.028 * field(rng, size, 24, 14)
    streak = 0.85 + 0.15 * curve(rng, size, 14)[None, :]
    if kind == "none":
        empty = np.zeros((size, size), dtype=bool)
        return grey, {"lesion": empty, "posterior": empty}, 0.0
    lesion = benign if kind == "benign" else malignant
    share = _largest(cover(lesion.distance, size, 0.020 if kind == "benign" else 0.028))
    below = np.maximum(lesion.depth_below, 0)
    if kind == "benign":
        gain = float(rise)
        grey = grey + lesion.behind * gain * np.exp(-below / 0.35) * np.clip(streak, 0.6, 1.2)
        capsule = np.exp(-(((lesion.distance - 0.008) / 0.010) ** 2))
        grey = grey + (0.06 + 0.08 * edge) * capsule
        grey = paint(grey, share, level + inner)
    else:
        gain = -float(fall)
        grey = grey + lesion.behind * gain * np.exp(-below / 0.9) * np.clip(streak, 0.7, 1.1)
        halo = np.exp(-(((lesion.distance - 0.020) / 0.022) ** 2)) * np.clip(-lesion.depth_below / 0.04, 0, 1)
        grey = grey + (0.08 + 0.10 * edge) * halo
        grey = paint(grey, share, level - 0.045 + 1.2 * inner)
    masks = {"lesion": share >= 0.5, "posterior": lesion.behind * (1 - share) >= 0.5}
    return grey, masks, gain


def _scan(rng: np.random.Generator, size: int, grey: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Depth gain, side-lobe fading, and log-compressed speckle of a band-limited complex echo."""
    x, y = grid(size)
    gain = 1 + rng.uniform(-0.10, 0.10) * (y - 0.5) + 0.04 * curve(rng, size, 6)[None, :]
    dark = rng.uniform(0.0, 0.35) * np.clip((y - 0.72) / 0.28, 0, 1) ** 2
    edges = 1 - rng.uniform(0.0, 0.30) * np.clip((np.abs(x - 0.5) - 0.38) / 0.12, 0, 1) ** 2
    shown = grey * gain * (1 - dark) * edges
    axial, lateral = 0.0058, 0.0110  # pulse length and beam width (Gaussian sigma)
    envelope = np.hypot(grain(rng, size, axial, lateral), grain(rng, size, axial, lateral))
    speckle = np.log(envelope + 0.35) - 0.384  # zero mean for a Rayleigh envelope; 0.35 is the receiver's floor
    amount = rng.uniform(0.17, 0.22) * min(1.0, (size / 128) ** 0.25)
    shown = np.maximum(shown, 0.0)
    return np.clip(shown + amount * speckle * (0.12 + 0.95 * shown), 0, 1) ** rng.uniform(1.05, 1.5)
