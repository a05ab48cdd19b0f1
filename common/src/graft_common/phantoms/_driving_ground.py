"""Ground, house fronts, sky and shadows of the world `driving`: functions of points, so that both sensors see the same."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage
from scipy.spatial import ConvexHull

from graft_common.phantoms._driving_light import Light
from graft_common.phantoms._driving_places import FRONT, KERB, LANE, House, Place
from graft_common.phantoms._driving_solids import CORNERS, Surface

TILE = 512


@cache
def _tile() -> Float[np.ndarray, "TILE TILE"]:
    """Periodic fractal noise, zero mean, unit spread: the same for every scene, which each reads from its own corner."""
    rng = np.random.default_rng(2025)
    total = np.zeros((TILE, TILE))
    for sigma, weight in ((0.6, 0.7), (2.0, 0.6), (6.0, 0.6), (20.0, 0.7)):
        layer = ndimage.gaussian_filter(rng.standard_normal((TILE, TILE)), sigma, mode="wrap")
        total += weight * layer / layer.std()
    return (total / total.std()).astype(np.float32)


def noise(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    cell: float,
    spread: Float[np.ndarray, " n"],
    corner: tuple[int, int],
) -> Float[np.ndarray, " n"]:
    """Texture at points in metres, texels of `cell` metres; it fades where a pixel's `spread` covers many texels."""
    i = (np.floor(x / cell).astype(np.int32) + corner[0]) & (TILE - 1)
    j = (np.floor(y / cell).astype(np.int32) + corner[1]) & (TILE - 1)
    return _tile()[i, j] * np.minimum(1, 3 * cell / np.maximum(spread, 1e-6))


def band(
    x: Float[np.ndarray, " n"],
    low: int | float | np.ndarray,
    high: int | float | np.ndarray,
    spread: int | float | np.ndarray,
) -> np.ndarray:
    """Share of a pixel `spread` wide that lies between `low` and `high`."""
    left, right = np.maximum(x - spread / 2, low), np.minimum(x + spread / 2, high)
    return np.clip((right - left) / spread, 0, 1)


def ground(
    place: Place, light: Light, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"],
    spread_x: Float[np.ndarray, " n"], spread_y: Float[np.ndarray, " n"], corner: tuple[int, int],
) -> Surface:  # fmt: skip
    """Asphalt with markings, paving and grass at points of the ground; spreads are the pixel's size there, metres."""
    spread = np.sqrt(spread_x * spread_y)
    fine, coarse = noise(x, y, 0.03, spread, corner), noise(x, y, 0.4, spread, corner)
    side = np.abs(y)
    if place.kind == "lot":
        asphalt = band(side, -1.0, 28.0, spread_y)
        paving = band(side, 28.0, 31.0, spread_y)
    else:
        asphalt = band(side, -1.0, KERB, spread_y)
        if place.walk is not None:
            asphalt = np.maximum(asphalt, band(x, place.walk + 6.2, place.walk + 13.4, spread_x))
        paving = np.minimum(band(side, KERB, FRONT, spread_y), 1 - asphalt)
    grass = np.maximum(1 - asphalt - paving, 0)

    tar = 0.105 * (1 + 0.22 * fine + 0.12 * coarse) * (0.55 if light.wet else 1.0)
    slab = band(np.mod(x, 0.9), 0.02, 0.9, np.maximum(spread_x, 0.02)) * band(
        np.mod(side, 0.9), 0.02, 0.9, np.maximum(spread_y, 0.02)
    )
    stone = 0.27 * (1 + 0.10 * fine + 0.12 * coarse) * (0.72 + 0.28 * slab) * (0.7 if light.wet else 1.0)
    blades = 1 + 0.3 * fine + 0.25 * coarse
    rgb = (
        asphalt[:, None] * tar[:, None] * np.array([1, 1.0, 1.03], np.float32)
        + paving[:, None] * stone[:, None] * np.array([1, 0.97, 0.92], np.float32)
    )
    rgb = rgb + (grass * blades)[:, None] * np.array([0.055, 0.082, 0.03], np.float32)
    echo = 9 * asphalt + 22 * paving + 16 * grass * (1 + 0.3 * fine)

    paint = _markings(place, x, y, spread_x, spread_y) * np.clip(0.92 - 0.12 * coarse - 0.1 * fine, 0, 1)
    rgb = rgb + paint[:, None] * (np.float32(0.50) - rgb)
    echo = echo + paint * (62 - echo)
    if place.kind != "lot":
        curb = band(side, KERB - 0.02, KERB + 0.16, spread_y) * (
            paving + band(side, KERB - 0.1, KERB + 0.3, 0.01) * (1 - asphalt)
        )
        rgb = rgb + np.clip(curb, 0, 1)[:, None] * (np.float32(0.30) - rgb) * 0.7
    return Surface(
        rgb.astype(np.float32), np.zeros(len(x), np.float32), np.zeros((len(x), 3), np.float32), echo.astype(np.float32)
    )


def _markings(
    place: Place, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"],
    spread_x: Float[np.ndarray, " n"], spread_y: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:  # fmt: skip
    """Share of white paint."""
    if place.kind == "lot":
        c, s = np.cos(place.slots), np.sin(place.slots)
        u, v = c * x + s * y, c * y - s * x
        spread = np.maximum(spread_x, spread_y)
        row = np.mod(v, 16.0)
        lines = band(np.mod(u, 2.75), 0, 0.11, spread) * band(row, 0, 10, spread)
        return np.maximum(lines, band(row, 4.95, 5.05, spread)) * band(np.abs(y), -1, 26, spread)
    free = np.ones_like(x)
    if place.walk is not None:
        free = 1 - band(x, place.walk - 1.4, place.walk + 14.8, spread_x)
    middle = band(y, -0.06, 0.06, spread_y) * band(np.mod(x, 9.0), 0, 3.4, spread_x)
    edges = band(np.abs(y), LANE + 0.02, LANE + 0.12, spread_y)
    paint = np.maximum(middle, edges) * free
    if place.walk is None:
        return paint
    zebra = (
        band(np.mod(y, 1.0), 0.0, 0.5, spread_y)
        * band(x, place.walk, place.walk + 3.2, spread_x)
        * band(np.abs(y), -1, KERB - 0.4, spread_y)
    )
    stop = band(x, place.walk - 1.3, place.walk - 0.95, spread_x) * band(y, -LANE, 0, spread_y)
    return np.maximum(np.maximum(paint, zebra), stop)


def front(
    house: House, light: Light, along: Float[np.ndarray, " n"], z: Float[np.ndarray, " n"], face: Int[np.ndarray, " n"],
    spread: Float[np.ndarray, " n"], corner: tuple[int, int],
) -> Surface:  # fmt: skip
    """Wall, windows, base and cornice at points of a house: `along` the wall and up, metres."""
    n = len(along)
    grainy = noise(along, z, 0.05, spread, corner) * 0.08 + noise(along, z, 0.6, spread, corner) * 0.09
    rgb = np.array(house.wall, np.float32) * (1 + grainy)[:, None]
    bay, storey = np.floor(along / house.bay), np.floor(z / house.floor)
    a, b = along / house.bay - bay, z / house.floor - storey
    wide, tall = house.pane
    sa, sb = np.maximum(spread / house.bay, 1e-3), np.maximum(spread / house.floor, 1e-3)
    shop = storey == 0
    wide_here = np.where(shop, 0.82, wide)
    low, high = np.where(shop, 0.16, 0.54 - tall / 2), np.where(shop, 0.8, 0.54 + tall / 2)
    whole = (storey + 1) * house.floor < house.height - 0.3
    frame = (
        band(a, 0.5 - wide_here / 2 - 0.03, 0.5 + wide_here / 2 + 0.03, sa)
        * band(b, low - 0.03, high + 0.02, sb)
        * whole
    )
    pane = band(a, 0.5 - wide_here / 2, 0.5 + wide_here / 2, sa) * band(b, low, high, sb) * whole
    pane = pane * (1 - 0.8 * band(a, 0.485, 0.515, sa))
    edge = np.maximum(
        band(z, house.height - 0.4, house.height, spread), 0.8 * band(z, house.floor - 0.25, house.floor - 0.05, spread)
    )
    trim = np.maximum(frame, edge)[:, None]
    rgb = rgb + trim * (np.array(house.trim, np.float32) - rgb)
    rgb = rgb * (1 - 0.35 * band(z, -1, 0.5, spread))[:, None]
    lottery = np.mod(np.sin(bay * 12.9898 + storey * 78.233 + face * 37.7 + house.number * 4.1) * 43758.5453, 1.0)
    tint = np.array([0.03, 0.036, 0.042], np.float32) * (0.6 + 1.2 * lottery)[:, None]
    rgb = rgb + pane[:, None] * (tint - rgb)
    emit = np.zeros((n, 3), np.float32)
    if light.night:
        share = np.where(shop, 0.45, 0.25)
        emit = (pane * (lottery < share) * (0.3 + 2 * lottery))[:, None] * np.array([1.0, 0.72, 0.38], np.float32)
    echo = 30 + 30 * float(np.mean(house.wall)) + 40 * grainy - pane * 28
    return Surface(
        rgb.astype(np.float32), (0.9 * pane).astype(np.float32), emit.astype(np.float32), echo.astype(np.float32)
    )


def meet_house(
    house: House, origin: Float[np.ndarray, "3"], rays: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Where rays enter a house: ray parameter (inf = miss) and face (0, 1: across x; 2, 3: across y; 4: roof)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / rays
        lows = np.array([*house.low, -1.0]) - origin
        highs = np.array([*house.high, house.height]) - origin
        one, two = lows.astype(np.float32) * inverse, highs.astype(np.float32) * inverse
    near, far = np.minimum(one, two), np.maximum(one, two)
    enter, leave = near.max(axis=1), far.min(axis=1)
    axis = near.argmax(axis=1)
    positive = np.take_along_axis(rays, axis[:, None], axis=1)[:, 0] > 0
    face = np.where(axis == 2, 4, 2 * axis + positive)
    return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf)), face.astype(np.int16)


FACES = np.array(
    [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1)], np.float32
)  # outward normals by face number


def corners(house: House) -> Float[np.ndarray, "8 3"]:
    """The eight corners of a house."""
    low, high = np.array([*house.low, 0.0]), np.array([*house.high, house.height])
    return (low + high) / 2 + CORNERS * (high - low) / 2


def sky(light: Light, rays: Float[np.ndarray, "n 3"], corner: tuple[int, int]) -> Float[np.ndarray, "n 3"]:
    """Colour of the sky along rays of any length: brighter at its foot, with thin clouds by day."""
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    rise = np.clip(unit[:, 2], 0, 1)
    rgb = light.horizon + (light.zenith - light.horizon) * (rise**0.6)[:, None]
    if not light.night:
        u, v = unit[:, 0] / (rise + 0.12), unit[:, 1] / (rise + 0.12)
        veil = sum(
            w * noise(u, v, c, np.full(len(u), 0.01), (corner[0] + 77 * k, corner[1] + 31 * k))
            for k, (c, w) in enumerate(((0.012, 0.5), (0.05, 0.6), (0.11, 0.6)))
        )
        cloud = np.clip(0.25 + 0.3 * np.asarray(veil), 0, 0.75) * np.clip(rise * 6, 0, 1) * (0.3 if light.wet else 1.0)
        rgb = rgb + cloud[:, None] * (np.float32(0.86) - rgb)
    return rgb.astype(np.float32)


def outlines_on_ground(
    sun: Float[np.ndarray, "3"], groups: Sequence[Float[np.ndarray, "_ 3"]]
) -> list[Float[np.ndarray, "_ 3"]]:
    """Shadows of convex bodies given by points: each as lines (nx, ny, d) of its polygon, n . p + d <= 0 inside."""
    shadows = []
    for points in groups:
        flat = points[:, :2] - points[:, 2:] * (sun[:2] / sun[2])
        shadows.append(ConvexHull(flat).equations)
    return shadows


def shaded(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], polygons: Sequence[Float[np.ndarray, "_ 3"]], soft: float
) -> Float[np.ndarray, " n"]:
    """Share of the light that convex polygons take at points of the ground; the edge is `soft` metres wide."""
    dark = np.zeros(len(x), np.float32)
    for lines in polygons:
        left = np.flatnonzero(dark < 1)
        # one line after the other, on what is still inside: most points leave at the first
        deepest = np.full(len(left), -np.inf, np.float32)
        for a, b, d in lines.astype(np.float32):
            deepest = np.maximum(deepest, a * x[left] + b * y[left] + d)
            inside = deepest < soft / 2
            left, deepest = left[inside], deepest[inside]
            if not left.size:
                break
        dark[left] = np.maximum(dark[left], np.clip(0.5 - deepest / np.float32(soft), 0, 1))
    return dark


def under(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], place: tuple[float, float], yaw: float,
    size: tuple[float, float, float], reach: float,
) -> Float[np.ndarray, " n"]:  # fmt: skip
    """Share of the sky's light that an object standing on the ground takes around its foot."""
    dark = np.zeros(len(x), np.float32)
    limit = np.hypot(size[0], size[1]) / 2 + reach
    near = np.flatnonzero((np.abs(x - place[0]) < limit) & (np.abs(y - place[1]) < limit))
    if not near.size:
        return dark
    c, s = np.cos(yaw), np.sin(yaw)
    dx, dy = x[near] - place[0], y[near] - place[1]
    out_x, out_y = np.abs(c * dx + s * dy) - size[0] / 2 + 0.15, np.abs(c * dy - s * dx) - size[1] / 2 + 0.15
    gap = np.hypot(np.maximum(out_x, 0), np.maximum(out_y, 0)) + np.minimum(np.maximum(out_x, out_y), 0)
    dark[near] = 0.85 * np.clip(0.62 - gap / reach, 0, 1)
    return dark
