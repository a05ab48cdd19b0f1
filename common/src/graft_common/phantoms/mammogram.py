"""Synthetic mammograms: craniocaudal and mediolateral-oblique views with a mass, a calcification cluster or no finding.

The scene is built in a frame where the chest wall is the left image edge (u = 0) and mirrored at the end. `side` is the image
edge that the chest wall touches as seen in the picture, not the patient's side. Anatomy, gland, finding and grain come from
separate random streams: two pictures of one seed that differ in one fixed attribute show the same breast.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from graft_common.phantoms._drawing import cloud, cover, ellipse, grey, grid, join, lobed, ramp, splat
from graft_common.phantoms.record import Phantom

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "finding": ("none", "mass", "calcifications"),
    "density": ("fatty", "dense"),
    "side": ("left", "right"),
}

_WORLD = 5
_FINDING = {"none": "no finding", "mass": "a mass", "calcifications": "calcifications"}

Plane = Float[np.ndarray, "H W"]


@dataclass(frozen=True)
class _Breast:
    """Outline of one breast; lengths in image sides."""

    oblique: bool
    width: float  # chest wall to nipple
    nipple: float  # height of the nipple
    up: float  # from the nipple to the upper end (craniocaudal)
    down: float  # from the nipple to the lower end
    power: float  # of the dome
    top: float  # width at the upper image edge (oblique)
    waist: float  # how fast the oblique outline narrows towards the axilla
    muscle: tuple[float, float]  # pectoral triangle: extent along the top and along the chest wall
    bow: float  # bulge of the muscle's free edge


def describe(attributes: dict[str, str | float | int]) -> tuple[str, ...]:
    """Every caption that states finding, density and side."""
    finding, density, side = _FINDING[str(attributes["finding"])], attributes["density"], attributes["side"]
    return (
        f"a mammogram of a {density} {side} breast with {finding}",
        f"mammogram of a {density} breast on the {side} with {finding}",
        f"a {density} {side} breast on a mammogram showing {finding}",
        f"{side} mammogram with {density} tissue and {finding}",
    )


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one mammogram.

    Masks: breast, pectoral (empty in craniocaudal views), dense (fibroglandular tissue), mass, calcifications.
    Numbers in `attributes`: `dense_fraction` (dense area / breast area) and, with a finding, `centre_x`, `centre_y` and
    `diameter` in pixels (of the disc as large as the mass, or of the circle around the cluster), and `count` of dots.
    """
    streams = np.random.default_rng([_WORLD, seed]).spawn(5)
    pick, body, tissue, lesion, film = streams
    drawn = {name: values[pick.integers(len(values))] for name, values in ATTRIBUTES.items()}
    attributes: dict[str, str | float | int] = {**drawn, **fixed}
    caption = describe(attributes)[pick.integers(4)]

    breast = _outline(body)
    u, v = grid(size)
    depth = _depth(breast, u, v)
    muscle = np.minimum(_muscle(breast, u, v), depth) if breast.oblique else np.full_like(u, -1.0)
    level, gland = _tissue(tissue, size, breast, depth, muscle, dense=attributes["density"] == "dense")
    mass, dots = np.zeros_like(u), np.zeros_like(u)
    number: dict[str, float | int] = {}
    if attributes["finding"] == "mass":
        level, mass, number = _mass(lesion, size, breast, level)
    elif attributes["finding"] == "calcifications":
        level, dots, number = _calcifications(lesion, size, breast, level)

    skin = cover(depth, size)
    base, gain, noise = film.uniform(0.0, 0.03), film.uniform(0.95, 1.03), film.uniform(0.008, 0.016)
    grain = ndimage.gaussian_filter(film.standard_normal((size, size)), 0.35 + 0.15 * size / 64)
    level = base + skin * level * gain + grain * (noise / grain.std()) * (0.25 + 0.75 * skin)
    masks = {
        "breast": skin >= 0.5,
        "pectoral": cover(muscle, size) >= 0.5,
        "dense": (gland >= 0.5) & (skin >= 0.5),
        "mass": mass >= 0.5,
        "calcifications": dots >= 0.5,
    }
    attributes["dense_fraction"] = float(masks["dense"].sum() / masks["breast"].sum())
    image = grey(level)
    if attributes["side"] == "right":
        image = np.ascontiguousarray(image[:, ::-1])
        masks = {name: np.ascontiguousarray(mask[:, ::-1]) for name, mask in masks.items()}
        if number:
            number["centre_x"] = size - number["centre_x"]
    return Phantom(image, masks, {**attributes, **number}, caption, seed)


def _outline(rng: np.random.Generator) -> _Breast:
    oblique = bool(rng.random() < 0.6)
    width, power = rng.uniform(0.52, 0.8), rng.uniform(1.95, 2.5)
    nipple = rng.uniform(0.5, 0.62) if oblique else rng.uniform(0.45, 0.55)
    muscle_top = rng.uniform(0.24, 0.4)
    return _Breast(
        oblique=oblique,
        width=width,
        nipple=nipple,
        up=rng.uniform(0.36, 0.44),
        down=rng.uniform(0.3, 0.36) if oblique else rng.uniform(0.36, 0.44),
        power=power,
        top=min(muscle_top + rng.uniform(0.06, 0.16), width - 0.08),
        waist=rng.uniform(0.8, 1.4),
        muscle=(muscle_top, rng.uniform(0.45, 0.75)),
        bow=rng.uniform(0.0, 0.03),
    )


def _depth(breast: _Breast, u: Float[np.ndarray, "*s"], v: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """Distance below the skin (negative in the air)."""
    rise = v - breast.nipple
    depth = ellipse(u, rise, breast.width, breast.down, breast.power)
    if breast.oblique:
        t = np.clip(-rise / breast.nipple, 0.0, 1.0)
        bell = (0.5 + 0.5 * np.cos(np.pi * t)) ** breast.waist
        edge = breast.top + (breast.width - breast.top) * bell
        slope = (breast.width - breast.top) * 0.5 * np.pi / breast.nipple * np.sin(np.pi * t) * breast.waist
        above = (edge - u) / np.sqrt(1.0 + slope**2)
    else:
        above = ellipse(u, rise, breast.width, breast.up, breast.power)
    depth = np.where(rise < 0, above, depth)
    tip = ellipse(u - breast.width, rise, 0.026, 0.03)
    return join(depth, tip, 0.02)


def _muscle(breast: _Breast, u: Float[np.ndarray, "*s"], v: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """Distance inside the pectoral triangle in the upper chest-wall corner."""
    across, along = breast.muscle
    line = (1.0 - u / across - v / along) / np.hypot(1 / across, 1 / along)
    return line + breast.bow * np.sin(np.pi * np.clip(v / along, 0.0, 1.0))


def _strands(rng: np.random.Generator, size: int, breast: _Breast) -> Plane:
    """Ducts and ligaments: ridges of a noise that is stretched along the rays through the nipple; 0 to 1."""
    u, v = grid(size)
    du, dv = breast.width + 0.03 - u, v - breast.nipple
    radius, angle = np.hypot(du, dv), np.arctan2(dv, du)
    texture = cloud(rng, 128, 0.5, 3.0, 16)
    wobble = 0.035 * cloud(rng, size, 1.6, 1.0, 6)
    at = np.stack([(angle / np.pi * 0.8 + wobble) * 128, 0.26 * radius * 128])
    field = ndimage.map_coordinates(texture, at, order=1, mode="grid-wrap")
    # Near the nipple the rays crowd below a pixel, so they fade there.
    return ramp(field, 0.1, 1.9) * ramp(radius, 0.04, 0.16)


def _tissue(
    rng: np.random.Generator, size: int, breast: _Breast, depth: Plane, muscle: Plane, dense: bool
) -> tuple[Plane, Plane]:
    """Grey level of the healthy breast (0 to about 0.68) and its share of fibroglandular tissue."""
    u, v = grid(size)
    patches, lumps, fine = (
        cloud(rng, size, 1.5, 1.0, 10),
        cloud(rng, size, 1.3, 3.0, 16),
        cloud(rng, size, 1.3, 8.0, 40),
    )
    strands = _strands(rng, size, breast)
    lean, fat, extra = rng.uniform(-0.05, 0.05), rng.uniform(0.27, 0.34), rng.uniform(0.0, 1.0)
    muscle_level, skin_level = rng.uniform(0.5, 0.6), rng.uniform(0.06, 0.13)
    if dense:
        reach, tall, centre, bias = 0.5 + 0.1 * extra, 0.8 + 0.15 * extra, 0.5, 0.1
    else:
        reach, tall, centre, bias = 0.2 + 0.06 * extra, 0.28 + 0.1 * extra, 0.72, -0.07
    span = breast.down if not breast.oblique else 0.5 * (breast.down + breast.nipple * 0.75)
    across = (u - centre * breast.width) / (reach * breast.width)
    along = (v - breast.nipple - lean + (0.05 if breast.oblique else 0.0)) / (tall * span)
    score = 1.0 + bias - np.hypot(across, along) + 0.22 * patches + 0.12 * lumps
    gland = ramp(score, -0.12, 0.3) * ramp(depth, 0.03, 0.075) * ramp(-muscle, 0.0, 0.04)

    level = fat * (0.4 + 0.6 * ramp(depth, -0.02, 0.16)) + (0.02 * patches + 0.015 * lumps + 0.008 * fine)
    level += (0.12 if dense else 0.16) * strands * ramp(depth, 0.02, 0.07)
    level += gland * (0.21 + 0.03 * lumps + 0.015 * fine + 0.08 * strands)
    level += skin_level * ramp(0.5 - np.abs(depth - 0.014) / 0.022, 0.0, 0.5)
    level += 0.1 * ramp(ellipse(u - breast.width, v - breast.nipple, 0.05, 0.05), 0.0, 0.03)
    top, wall = breast.muscle
    fibres = 0.02 * np.sin(2 * np.pi * (16 * (u * wall + v * top) + 0.5 * patches))
    flesh = muscle_level - 0.07 + 0.12 * ramp(muscle, 0.0, 0.22) + fibres + 0.012 * lumps + 0.008 * fine
    inside = cover(muscle, size, 1.0 + 0.025 * size)
    level = level * (1.0 - inside) + flesh * inside
    # A soft ceiling keeps room above the brightest healthy tissue for findings.
    return np.where(level > 0.58, 0.58 + 0.1 * np.tanh((level - 0.58) / 0.1), level), gland


def _place(rng: np.random.Generator, breast: _Breast, radius: float) -> tuple[float, float]:
    """A centre whose disc of `radius` lies under the skin, off the muscle and off the chest wall."""
    u, v = rng.uniform(0.0, 1.0, (2, 400))
    room = np.minimum(_depth(breast, u, v) - 0.03, np.minimum(u - 0.03, np.minimum(v, 1.0 - v)))
    if breast.oblique:
        room = np.minimum(room, -_muscle(breast, u, v) - 0.02)
    free = np.flatnonzero(room >= radius)
    best = free[0] if free.size else np.argmax(room)
    return float(u[best]), float(v[best])


def _mass(
    rng: np.random.Generator, size: int, breast: _Breast, level: Plane
) -> tuple[Plane, Plane, dict[str, float | int]]:
    radius = rng.uniform(0.072, 0.105)
    cu, cv = _place(rng, breast, radius)
    u, v = grid(size)
    lobes = tuple((k, rng.uniform(0.02, 0.16 / k), rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 6))
    inside = lobed(u - cu, v - cv, radius, lobes)
    rays = int(rng.integers(10, 18))
    angle = (np.arange(rays) + rng.uniform(-0.4, 0.4, rays)) * 2 * np.pi / rays
    length = radius * rng.uniform(0.35, 1.0, rays)[:, None]
    along = np.linspace(0.0, 1.0, max(8, size // 6))[None, :]
    reach = radius * 0.9 + length * along
    bend = angle[:, None] + rng.uniform(-0.25, 0.25, rays)[:, None] * along
    points = np.array([cu, cv]) + reach[..., None] * _ray(bend)
    thin = np.broadcast_to(1.0 - along, reach.shape).ravel()
    spicules = splat(size, points.reshape(-1, 2), 0.003 + 0.009 * thin, 0.15 + 0.5 * thin)
    peak, mottle = rng.uniform(0.9, 0.97), cloud(rng, size, 1.2, 3.0, 24)
    whole = cover(inside, size, 1.0 + 0.025 * size)
    level = level + 0.8 * spicules * np.maximum(0.8 - level, 0.0)
    level = level * (1.0 - whole) + whole * (peak - 0.07 * ramp(-inside, -radius, 0.0) + 0.02 * mottle)
    area = float((whole >= 0.5).sum())
    number = {"centre_x": cu * size, "centre_y": cv * size, "diameter": float(np.sqrt(4.0 * area / np.pi))}
    return level, whole, number


def _ray(angle: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 2"]:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _calcifications(
    rng: np.random.Generator, size: int, breast: _Breast, level: Plane
) -> tuple[Plane, Plane, dict[str, float | int]]:
    count, apart = int(rng.integers(6, 15)), 0.061
    spread = 0.62 * apart * np.sqrt(count)
    cu, cv = _place(rng, breast, spread + 0.02)
    # The disc widens slowly with the tries, so every grain finds a free spot.
    out = spread * np.linspace(1.0, 1.6, 600) * np.sqrt(rng.uniform(0, 1, 600))
    tries = out[:, None] * _ray(rng.uniform(0, 2 * np.pi, 600))
    chosen: list[np.ndarray] = []
    for spot in tries:
        if len(chosen) < count and all(np.hypot(*(spot - other)) >= apart for other in chosen):
            chosen.append(spot)
    offset = np.array(chosen)
    radii = rng.uniform(0.015, 0.022, len(chosen))
    # Two discs per grain, so that grains are not all round.
    lean = 0.45 * radii[:, None] * _ray(rng.uniform(0, 2 * np.pi, len(chosen)))
    grains = np.array([cu, cv]) + np.concatenate([offset, offset + lean])
    dots = splat(size, grains, np.concatenate([radii, 0.8 * radii]), np.ones(2 * len(chosen)))
    level = level * (1.0 - dots) + dots
    centre = np.array([cu, cv]) + offset.mean(axis=0)
    around = 2.0 * (np.hypot(*(offset - offset.mean(axis=0)).T) + radii).max()
    number = {
        "centre_x": float(centre[0] * size),
        "centre_y": float(centre[1] * size),
        "diameter": float(around * size),
        "count": len(chosen),
    }
    return level, dots, number
