"""The world `textures`: photographs of a brick, grass, wood or fabric surface with or without one defect.

Written for industrial inspection in the manner of MVTec AD: the surface and the defect come from separate random streams,
so `draw(size, seed, defect="none")` is the defect-free twin of `draw(size, seed, defect="hole")`, equal outside the defect
and its rim.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float
from skimage.color import rgb2lab

from graft_common.phantoms._textures_surfaces import (
    SURFACES,
    UNITS,
    axis,
    coverage,
    smooth_noise,
)
from graft_common.phantoms.record import Phantom

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "texture": ("brick", "grass", "wood", "fabric"),
    "defect": ("none", "hole", "crack", "blob"),
}
WORLD = 7001
STAINS = ((240, 60, 184), (40, 210, 236), (252, 222, 40), (255, 126, 20), (244, 246, 250))
NOISE = 0.010  # camera noise, standard deviation of the range


def describe(attributes: dict[str, str | float | int]) -> tuple[str, ...]:
    """Every caption of this world that states the texture and the defect."""
    texture, defect = attributes["texture"], attributes["defect"]
    flaw = "no defect" if defect == "none" else f"a {defect}"
    return (
        f"a {texture} texture with {flaw}",
        f"a photo of a {texture} surface with {flaw}",
        f"{texture} with {flaw}, texture photo",
    )


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one surface.

    Masks: `defect` (all False for "none"). Measured attributes, as shares of the picture's side or area: `wavelength` (course
    height, blade spacing, ring or thread width), `mean_l`, `mean_a`, `mean_b` (CIELAB mean of the surface before the defect),
    `defect_area`; with a defect also `defect_x`, `defect_y` (centroid of its mask).
    """
    rng = np.random.default_rng([WORLD, seed])
    attributes: dict[str, str | float | int] = {k: v[int(rng.integers(len(v)))] for k, v in ATTRIBUTES.items()}
    attributes |= fixed
    captions = describe(attributes)
    caption = captions[int(rng.integers(len(captions)))]
    surface_rng, defect_rng, grain_rng = rng.spawn(3)

    surface, wavelength = SURFACES[str(attributes["texture"])](surface_rng, size)
    surface = np.clip(surface * _lighting(surface_rng, size), 0.0, 1.0)
    lab = rgb2lab(surface[:: max(1, size // 64), :: max(1, size // 64)]).reshape(-1, 3).mean(axis=0)
    picture, share = DEFECTS[str(attributes["defect"])](defect_rng, surface, lab)
    mask = share > 0.5
    grain = NOISE * grain_rng.standard_normal((size, size, 1))
    image = np.round(255 * np.clip(picture + grain, 0.0, 1.0)).astype(np.uint8)

    attributes |= {
        "wavelength": wavelength / UNITS,
        "mean_l": float(lab[0]),
        "mean_a": float(lab[1]),
        "mean_b": float(lab[2]),
    }
    attributes["defect_area"] = float(mask.mean())
    if mask.any():
        rows, cols = np.nonzero(mask)
        attributes |= {"defect_x": float(cols.mean() + 0.5) / size, "defect_y": float(rows.mean() + 0.5) / size}
    return Phantom(image, {"defect": mask}, attributes, caption, seed)


def _lighting(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size 3"]:
    """Gain of a lamp off to one side, with slow unevenness and a slight colour cast; mean near 1."""
    line = axis(size) / UNITS - 0.5
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.32)
    fall = slope * (np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None])
    gain = rng.uniform(0.92, 1.08) * (1 + fall + 0.025 * smooth_noise(rng, size, 3, 3))
    return gain[..., None] * (1 + rng.normal(0.0, 0.02, 3))


Surface = Float[np.ndarray, "size size 3"]
Painted = tuple[Float[np.ndarray, "size size 3"], Float[np.ndarray, "size size"]]


def _round_distance(rng: np.random.Generator, size: int, radius: float, wobble: float) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance (positive inside) to a wobbly disc kept inside the picture, and its polar angle at each pixel."""
    reach = radius * (1 + 1.6 * wobble) + 2
    cx, cy = rng.uniform(reach, UNITS - reach, 2)
    dx, dy = axis(size)[None, :] - cx, axis(size)[:, None] - cy
    angle = np.arctan2(dy, dx)
    edge = np.ones_like(angle)
    for order in (2, 3, 5):
        edge += wobble / np.sqrt(order) * rng.uniform(0.3, 1.0) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return radius * edge - np.hypot(dx, dy), angle


def _no_defect(rng: np.random.Generator, surface: Surface, lab: Float[np.ndarray, "3"]) -> Painted:
    return surface, np.zeros(surface.shape[:2])


def _hole(rng: np.random.Generator, surface: Surface, lab: Float[np.ndarray, "3"]) -> Painted:
    """A bored hole: near-black, its far wall catching light, its rim shaded."""
    size = surface.shape[0]
    inside, angle = _round_distance(rng, size, rng.uniform(6.0, 10.0), 0.04)
    share = coverage(inside, size)
    wall = np.exp(-np.maximum(inside, 0) / 1.8) * np.clip(np.cos(angle - np.pi / 4), 0, 1)
    depth = 0.05 + (0.45 * wall)[..., None] * surface
    rim = 1 - 0.45 * np.exp(-((np.maximum(-inside, 0) / 1.8) ** 2))
    return rim[..., None] * surface * (1 - share[..., None]) + depth * share[..., None], share


def _crack(rng: np.random.Generator, surface: Surface, lab: Float[np.ndarray, "3"]) -> Painted:
    """A jagged dark line over most of the picture, often with one branch."""
    size = surface.shape[0]
    angle, length, half = rng.uniform(0, 2 * np.pi), rng.uniform(44.0, 60.0), rng.uniform(1.25, 1.65)
    ahead = np.array([np.cos(angle), np.sin(angle)])
    start = UNITS / 2 + rng.uniform(-5, 5, 2) - ahead * length / 2
    trunk = _jagged(rng, start, start + ahead * length, 16, 4.5)
    turn = angle + rng.choice([-1, 1]) * rng.uniform(0.6, 0.95)
    root = trunk[int(rng.integers(5, 11))]
    branch = _jagged(rng, root, root + rng.uniform(12, 18) * np.array([np.cos(turn), np.sin(turn)]), 4, 1.2)
    inside = _along(trunk, half, size)
    if rng.random() < 0.5:
        inside = np.maximum(inside, _along(branch, 0.85 * half, size))
    share = coverage(inside, size)
    lip = 1 - 0.22 * np.exp(-((np.maximum(-inside, 0) / 1.2) ** 2))
    gap = 0.05 + 0.06 * surface
    return lip[..., None] * surface * (1 - share[..., None]) + gap * share[..., None], share


def _jagged(
    rng: np.random.Generator, start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"], pieces: int, sway: float
) -> Float[np.ndarray, "points 2"]:
    """A polyline from start to end: a bridge of random sideways steps plus a zigzag."""
    at = np.linspace(0, 1, pieces + 1)
    walk = np.concatenate([[0], np.cumsum(rng.standard_normal(pieces))])
    bridge = (walk - at * walk[-1]) / np.sqrt(pieces) * sway
    bridge[1:-1] += rng.choice([-1, 1]) * (-1) ** np.arange(pieces - 1) * rng.uniform(-0.4, 1.5, pieces - 1)
    along = end - start
    normal = np.array([-along[1], along[0]]) / np.hypot(*along)
    return start + at[:, None] * along + bridge[:, None] * normal


def _along(line: Float[np.ndarray, "points 2"], half: float, size: int) -> Float[np.ndarray, "size size"]:
    """Signed distance (positive inside) to a polyline of half width `half`, half as wide at the ends (their last fifth)."""
    x, y = axis(size)[None, :], axis(size)[:, None]
    inside = np.full((size, size), -np.inf)
    for k, ((ax, ay), (bx, by)) in enumerate(pairwise(line)):
        ux, uy = bx - ax, by - ay
        at = np.clip(((x - ax) * ux + (y - ay) * uy) / (ux * ux + uy * uy), 0, 1)
        share = (k + at) / (len(line) - 1)
        width = half * np.clip(0.5 + 2.5 * np.minimum(share, 1 - share), 0, 1)
        inside = np.maximum(inside, width - np.hypot(x - ax - at * ux, y - ay - at * uy))
    return inside


def _blob(rng: np.random.Generator, surface: Surface, lab: Float[np.ndarray, "3"]) -> Painted:
    """A bright stain that lets a little of the surface's relief through; its colour is far from the surface's."""
    size = surface.shape[0]
    stains = np.array(STAINS) / 255.0
    far = np.linalg.norm(rgb2lab(stains[None])[0] - lab, axis=1)
    stain = stains[np.argsort(far)[int(rng.integers(2, len(stains)))]]
    inside, _ = _round_distance(rng, size, rng.uniform(7.5, 11.5), 0.16)
    share = coverage(inside, size)
    relief = surface.mean(axis=2)
    relief = 1 + 0.35 * (relief / relief.mean() - 1)
    rim = 1 - 0.15 * np.exp(-((inside / 1.5) ** 2))
    paint = 0.9 * stain * (relief * rim)[..., None] + 0.1 * surface
    return surface + share[..., None] * (paint - surface), share


DEFECTS = {"none": _no_defect, "hole": _hole, "crack": _crack, "blob": _blob}
