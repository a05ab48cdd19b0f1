"""The world `scene`: open ground under a pale sky, with one saturated ball or crate that stands on it. Numpy only.

Ground, sky and hills are muted; an object is the only saturated thing in the picture, so that `colour_mask` finds it. Landscape,
object and grain come from separate random streams: the picture without the object is exactly the picture around it. One lamp
direction rules shading, shadow and the brightness of the landscape.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

CLASSES = ("ball", "crate")
WORLD = 5100
PAINTS = np.array([(226, 38, 40), (248, 122, 14), (214, 26, 150), (120, 44, 214)]) / 255.0  # red, orange, magenta, violet
SKIES = np.array([(178, 197, 212), (205, 205, 206), (214, 203, 196)]) / 255.0
GROUNDS = np.array([(128, 140, 112), (152, 142, 122), (132, 134, 136), (168, 162, 150)]) / 255.0
SUPER = 3  # samples along a pixel's side: edges are antialiased, masks are "at least half of the pixel"
NOISE = 0.006  # camera noise, standard deviation of the range
CHROMA = 0.27  # largest minus smallest channel in [0, 1]: landscape stays below 0.2, paint above 0.35


class Drawn(NamedTuple):
    """A picture, the same picture without its object and that object's mask."""

    image: UInt8[np.ndarray, "S S 3"]
    empty: UInt8[np.ndarray, "S S 3"]
    mask: Bool[np.ndarray, "S S"]
    label: str


class Sun(NamedTuple):
    """Direction towards the lamp: x to the right, y up, z towards the viewer; unit length."""

    x: float
    y: float
    z: float


class Place(NamedTuple):
    """Where an object stands, in picture sides: foot point (x, y from the top) and width."""

    x: float
    foot: float
    width: float


def draw(size: int, seed: int, label: str | None = None) -> Drawn:
    """One scene of side `size` pixels; equal (size, seed, label) give equal bytes.

    Args:
        label: one of `CLASSES`; None draws it. The landscape of a seed is the same for every label.

    Raises:
        ValueError: unknown label.
    """
    if label is not None and label not in CLASSES:
        raise ValueError(f"label is {label!r}; choose from {', '.join(CLASSES)}")
    land, grain, sun, horizon = _setting(size, seed)
    object_rng = np.random.default_rng([WORLD, seed, 0])
    drawn = CLASSES[int(object_rng.integers(len(CLASSES)))]
    label = drawn if label is None else label
    place = _place(object_rng, horizon)
    paint = np.clip(PAINTS[int(object_rng.integers(len(PAINTS)))] * object_rng.uniform(0.92, 1.04), 0, 1)
    colour, share = (_ball if label == "ball" else _crate)(object_rng, size, place, paint, sun)
    dark = 1 - _shadow(size, place, sun)[..., None]
    picture = land * dark * (1 - share[..., None]) + colour
    return Drawn(_bytes(picture + grain), _bytes(land + grain), share >= 0.5, label)


def ground(size: int, seed: int) -> UInt8[np.ndarray, "S S 3"]:
    """The picture of a seed without its object: `draw(size, seed).empty`, in a fraction of its time."""
    land, grain, _, _ = _setting(size, seed)
    return _bytes(land + grain)


def _setting(
    size: int, seed: int
) -> tuple[Float[np.ndarray, "S S 3"], Float[np.ndarray, "S S 1"], Sun, float]:
    """Landscape, camera noise, lamp and horizon of a seed."""
    land_rng, grain_rng = np.random.default_rng([WORLD, seed]).spawn(2)
    angle, height = land_rng.uniform(-1.15, 1.15), land_rng.uniform(0.45, 0.75)
    sun = Sun(*(float(v) for v in np.array([np.sin(angle), height, np.cos(angle)]) / np.hypot(1.0, height)))
    horizon = float(land_rng.uniform(0.26, 0.46))
    grain = NOISE * grain_rng.standard_normal((size, size, 1))
    return landscape(land_rng, size, horizon, sun), grain, sun, horizon


def clip(size: int, seed: int, frames: int) -> list[Drawn]:
    """A short film, `frames` pictures long: one ball that hops sideways, within the middle 54 % of the width, over a landscape
    that stands still."""
    land_rng, object_rng, grain_rng = np.random.default_rng([WORLD, seed, 2]).spawn(3)
    sun, horizon = Sun(-0.5, 0.6, 0.62), float(land_rng.uniform(0.26, 0.4))
    land = landscape(land_rng, size, horizon, sun)
    paint, width = PAINTS[int(object_rng.integers(len(PAINTS)))], float(object_rng.uniform(0.24, 0.34))
    start, phase = object_rng.uniform(0.05, 0.2), object_rng.uniform(0, np.pi)
    made = []
    for k in range(frames):
        hop = abs(np.sin(phase + 0.7 * k))
        x = 0.5 + (0.27 - width / 2) * np.sin(2 * np.pi * (start + k / 29))
        place = Place(float(x), float(0.9 - 0.18 * hop), width)
        colour, share = _ball(object_rng, size, place, paint, sun)
        dark = 1 - _shadow(size, Place(place.x, 0.9, width * (1 - 0.3 * hop)), sun)[..., None]
        grain = NOISE * grain_rng.standard_normal((size, size, 1))
        picture = land * dark * (1 - share[..., None]) + colour
        made.append(Drawn(_bytes(picture + grain), _bytes(land + grain), share >= 0.5, "ball"))
    return made


def colour_mask(image: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
    """Where a picture of this world is saturated: the object, found without its mask."""
    levels = image.astype(np.float64) / 255
    return levels.max(axis=2) - levels.min(axis=2) > CHROMA


def landscape(rng: np.random.Generator, size: int, horizon: float, sun: Sun) -> Float[np.ndarray, "S S 3"]:
    """Sky over hills over ground, in [0, 1]; brighter on the lamp's side."""
    x, y = _grid(size, 1)
    sky = SKIES[int(rng.integers(len(SKIES)))] * rng.uniform(0.94, 1.06)
    ground = GROUNDS[int(rng.integers(len(GROUNDS)))] * rng.uniform(0.88, 1.08)
    hill = (0.55 * ground + 0.45 * sky) * rng.uniform(0.86, 0.96)
    up = np.clip(y / horizon, 0, 1)[..., None]
    picture = sky * (0.90 + 0.14 * up)
    picture = picture * (1 + 0.025 * _waves(rng, x, y, 2.0)[..., None])
    rise = horizon - 0.05 - 0.035 * _waves(rng, x, np.zeros_like(x), 2.2)
    picture = _over(picture, np.clip((y - rise) * size + 0.5, 0, 1), hill)
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)[..., None]
    near = ground * (1.06 - 0.20 * depth) * (1 + 0.045 * _waves(rng, x, 1.8 * y, 3.0)[..., None])
    picture = _over(picture, np.clip((y - horizon) * size / 2 + 0.5, 0, 1), near)
    return picture * (1 + 0.16 * sun.x * (x - 0.5))[..., None]


def _place(rng: np.random.Generator, horizon: float) -> Place:
    """Nearer objects stand lower in the picture and are larger."""
    foot = rng.uniform(horizon + 0.24, 0.94)
    width = rng.uniform(0.9, 1.1) * (0.16 + 0.38 * (foot - horizon))
    return Place(float(rng.uniform(0.06 + width / 2, 0.94 - width / 2)), float(foot), float(width))


def _ball(
    rng: np.random.Generator, size: int, place: Place, paint: Float[np.ndarray, "3"], sun: Sun
) -> tuple[Float[np.ndarray, "S S 3"], Float[np.ndarray, "S S"]]:
    """Colour already weighted by coverage, and coverage."""
    x, y = _grid(size, SUPER)
    radius = place.width / 2
    u, v = (x - place.x) / radius, (place.foot - radius - y) / radius
    reach = u * u + v * v
    w = np.sqrt(np.clip(1 - reach, 0, None))
    light = 0.60 + 0.48 * np.clip(u * sun.x + v * sun.y + w * sun.z, 0, None) - 0.10 * np.clip(-v, 0, None)
    return _pixels(light[..., None] * paint, reach <= 1)


def _crate(
    rng: np.random.Generator, size: int, place: Place, paint: Float[np.ndarray, "3"], sun: Sun
) -> tuple[Float[np.ndarray, "S S 3"], Float[np.ndarray, "S S"]]:
    """A cube turned about the vertical and seen from a little above: a top and two sides, each with a darker frame."""
    x, y = _grid(size, SUPER)
    turn, tilt = rng.uniform(0.35, 1.2), rng.uniform(0.32, 0.5)
    side = place.width / (np.cos(turn) + np.sin(turn))
    right, left = np.array([np.cos(turn), -np.sin(turn)]), np.array([-np.sin(turn), -np.cos(turn)])  # ground plane: x, depth
    edge_r, edge_l = side * np.array([right[0], right[1] * tilt]), side * np.array([left[0], left[1] * tilt])
    rise = np.array([0.0, -side * np.sqrt(1 - tilt**2)])
    foot = np.array([place.x - (edge_r[0] + edge_l[0]) / 2, place.foot])
    colour, inside = np.zeros((*x.shape, 3)), np.zeros(x.shape, bool)
    # outward normals of the two sides, seen from above as (x, towards the viewer), and of the top
    normals = ((np.sin(turn), np.cos(turn)), (-np.cos(turn), np.sin(turn)))
    faces = (
        (foot, edge_r, rise, max(normals[0][0] * sun.x + normals[0][1] * sun.z, 0.0)),
        (foot, edge_l, rise, max(normals[1][0] * sun.x + normals[1][1] * sun.z, 0.0)),
        (foot + rise, edge_r, edge_l, sun.y + 0.25),
    )
    for corner, a, b, lit in faces:
        det = a[0] * b[1] - a[1] * b[0]
        s = ((x - corner[0]) * b[1] - (y - corner[1]) * b[0]) / det
        t = ((y - corner[1]) * a[0] - (x - corner[0]) * a[1]) / det
        face = (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
        rim = np.minimum(np.minimum(s, 1 - s), np.minimum(t, 1 - t))
        light = (0.58 + 0.46 * lit) * (1 - 0.18 * np.exp(-((rim / 0.07) ** 2)))
        colour = np.where(face[..., None], light[..., None] * paint, colour)
        inside |= face
    return _pixels(colour, inside)


def _shadow(size: int, place: Place, sun: Sun) -> Float[np.ndarray, "S S"]:
    """Share of the light that the object takes from the ground: a dark contact and a soft ellipse away from the lamp."""
    x, y = _grid(size, 1)
    half = place.width / 2
    cx = place.x - 0.55 * place.width * sun.x / (sun.y + 0.4)
    cast = np.exp(-2.2 * (((x - cx) / (1.25 * half)) ** 2 + ((y - place.foot + 0.05 * place.width) / (0.32 * half)) ** 2))
    touch = np.exp(-2.6 * (((x - place.x) / (0.95 * half)) ** 2 + ((y - place.foot + 0.04 * place.width) / (0.24 * half)) ** 2))
    return 1 - (1 - 0.40 * cast) * (1 - 0.42 * touch)


def _grid(size: int, fine: int) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, "N N"]]:
    """Sample points (x, y from the top) in picture sides, `fine` along each side of a pixel."""
    line = (np.arange(size * fine) + 0.5) / (size * fine)
    return np.broadcast_to(line[None, :], (size * fine,) * 2), np.broadcast_to(line[:, None], (size * fine,) * 2)


def _pixels(
    colour: Float[np.ndarray, "N N 3"], inside: Bool[np.ndarray, "N N"]
) -> tuple[Float[np.ndarray, "S S 3"], Float[np.ndarray, "S S"]]:
    """Samples to pixels by area: colour weighted by coverage (at most 1), and coverage."""
    size = inside.shape[0] // SUPER
    share = inside.reshape(size, SUPER, size, SUPER).mean(axis=(1, 3))
    held = np.where(inside[..., None], np.clip(colour, 0, 1), 0.0).reshape(size, SUPER, size, SUPER, 3)
    return held.mean(axis=(1, 3)), share


def _waves(
    rng: np.random.Generator, x: Float[np.ndarray, "N N"], y: Float[np.ndarray, "N N"], cycles: float
) -> Float[np.ndarray, "N N"]:
    """Smooth noise of about unit spread: six plane waves of at most `cycles` periods a picture side."""
    total = np.zeros(x.shape)
    for _ in range(6):
        fx, fy = rng.uniform(-cycles, cycles, 2)
        total += np.cos(2 * np.pi * (fx * x + fy * y + rng.random()))
    return total / np.sqrt(3)


def _over(
    below: Float[np.ndarray, "N N 3"], share: Float[np.ndarray, "N N"], above: Float[np.ndarray, "*N 3"]
) -> Float[np.ndarray, "N N 3"]:
    return below + share[..., None] * (above - below)


def _bytes(levels: Float[np.ndarray, "N N 3"]) -> UInt8[np.ndarray, "N N 3"]:
    return np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8)
