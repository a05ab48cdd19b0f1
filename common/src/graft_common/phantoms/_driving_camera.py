"""The camera of the world `driving`: ground, houses and sky once a pixel, objects with four rays a pixel in their rectangles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int16, UInt8
from scipy import ndimage

from graft_common.phantoms import _driving_ground as land
from graft_common.phantoms._driving_light import Light, developed, shade
from graft_common.phantoms._driving_places import Place, Thing
from graft_common.phantoms._driving_solids import Solid

NEAR, FARTHEST = 0.1, 260.0  # metres
EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]  # of a box's corners


class Rect(NamedTuple):
    """Pixel rectangle; right and bottom exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Footprint:
    """Where an object would be seen if nothing stood before it: a mask whose corner is at (top, left) of the picture."""

    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]


class Shot(NamedTuple):
    """One picture with its truth (see `driving.View`)."""

    image: UInt8[np.ndarray, "H W 3"]
    depth: Float32[np.ndarray, "H W"]
    ids: Int16[np.ndarray, "H W"]
    footprints: dict[int, Footprint]


@dataclass(frozen=True)
class Eye:
    """A pinhole camera in the world: camera x right, y down, z forward; pixel centres are whole numbers."""

    pose: Float64[np.ndarray, "4 4"]
    K: Float64[np.ndarray, "3 3"]
    width: int
    height: int
    forward: Float64[np.ndarray, "3"]

    @property
    def origin(self) -> Float64[np.ndarray, "3"]:
        """Where the camera is."""
        return self.pose[:3, 3]

    def rays(self, rect: Rect, fine: int) -> Float32[np.ndarray, "h w 3"]:
        """World directions of unit camera depth through `fine` x `fine` points of each pixel of a rectangle."""
        u = rect.left - 0.5 + (np.arange(fine * (rect.right - rect.left)) + 0.5) / fine
        v = rect.top - 0.5 + (np.arange(fine * (rect.bottom - rect.top)) + 0.5) / fine
        x, y = (u - self.K[0, 2]) / self.K[0, 0], (v - self.K[1, 2]) / self.K[1, 1]
        turn = self.pose[:3, :3]
        across = x[None, :, None] * turn[:, 0]
        return (across + (y[:, None, None] * turn[:, 1] + turn[:, 2])).astype(np.float32)

    def rect(self, points: Float[np.ndarray, "k 3"]) -> Rect | None:
        """Rectangle of the hull of points in the world, clipped to the picture; None where it is out of view."""
        seen = (points - self.origin) @ self.pose[:3, :3]
        before = seen[:, 2] > NEAR
        if not before.any():
            return None
        if (
            not before.all()
        ):  # cut all joins of a point before with one behind at the near plane: a superset of the edges
            a, b = np.nonzero(before[:, None] & ~before[None, :])
            share = (seen[a, 2] - NEAR) / (seen[a, 2] - seen[b, 2])
            seen = np.concatenate([seen[before], seen[a] + share[:, None] * (seen[b] - seen[a])])
        flat = seen @ self.K.T
        spots = flat[:, :2] / flat[:, 2:]
        low, high = np.floor(spots.min(axis=0) - 0.5), np.ceil(spots.max(axis=0) + 1.5)
        left, top = (int(v) for v in np.clip(low, 0, (self.width, self.height)))
        right, bottom = (int(v) for v in np.clip(high, 0, (self.width, self.height)))
        return Rect(left, top, right, bottom) if left < right and top < bottom else None


class Cast(NamedTuple):
    """One thing's rays: its rectangle, and for every fine ray the depth (inf = miss), the part and its face."""

    rect: Rect
    depth: Float32[np.ndarray, "h w"]
    part: Int16[np.ndarray, "h w"]
    face: Int16[np.ndarray, "h w"]
    solids: Sequence[Solid]


def photograph(
    place: Place, things: Sequence[Thing], light: Light, time: float, eye: Eye, corner: tuple[int, int],
    grain: np.random.Generator,
) -> Shot:  # fmt: skip
    """Picture of the place at `time`. The grain's stream is read alike whatever stands there."""
    noise = grain.standard_normal((eye.height, eye.width, 3), dtype=np.float32)
    houses = land.outlines_on_ground(light.sun, [land.corners(h) for h in place.houses]) if light.sunlight.any() else []
    base, depth, walls = _background(place, things, light, time, eye, corner, houses)
    nearest = np.repeat(np.repeat(walls, 2, axis=0), 2, axis=1)
    owner = np.zeros(nearest.shape, np.int16)
    casts: dict[int, Cast] = {}
    for number, thing in enumerate(things, 1):
        cast = _cast(thing, time, eye)
        if cast is None:
            continue
        casts[number] = cast
        here = _fine(cast.rect)
        wins = cast.depth < nearest[here]
        nearest[here] = np.where(wins, cast.depth, nearest[here])
        owner[here][wins] = number

    ids, footprints = np.zeros((eye.height, eye.width), np.int16), {}
    color, share = np.zeros_like(base), np.zeros((eye.height, eye.width), np.float32)
    far_first = sorted(casts, key=lambda n: -float(casts[n].depth.min()))
    for number in far_first:
        thing, cast = things[number - 1], casts[number]
        rows, cols = slice(cast.rect.top, cast.rect.bottom), slice(cast.rect.left, cast.rect.right)
        hit = _pool(np.isfinite(cast.depth).astype(np.float32))
        if thing.instance:
            footprints[thing.instance] = Footprint(cast.rect.top, cast.rect.left, hit >= 0.5)
        mine = owner[_fine(cast.rect)] == number
        if not mine.any():
            continue
        seen = _pool(mine.astype(np.float32))
        color[rows, cols] += _pool(_paint(thing, time, cast, mine, light, eye, houses))
        share[rows, cols] += seen
        most = seen >= 0.5
        ids[rows, cols][most] = thing.instance
        distance = _pool(np.where(mine, cast.depth, 0)) / np.maximum(seen, 0.25)
        depth[rows, cols][most] = distance[most]
    picture = base * (1 - share[..., None]) + color
    if light.wet:
        picture = _streaks(picture, grain, light)
    return Shot(developed(picture, noise, light.night), depth, ids, footprints)


def _fine(rect: Rect) -> tuple[slice, slice]:
    return slice(2 * rect.top, 2 * rect.bottom), slice(2 * rect.left, 2 * rect.right)


def _pool(fine: Float32[np.ndarray, "h w *c"]) -> Float32[np.ndarray, "h2 w2 *c"]:
    rows = fine[0::2] + fine[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) / 4


def _cast(thing: Thing, time: float, eye: Eye) -> Cast | None:
    """All rays of a thing's rectangle against its parts, each part in its own rectangle."""
    x, y = thing.at(time)
    c, s = np.cos(thing.yaw), np.sin(thing.yaw)
    out = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])  # object -> world
    foot = np.array([x, y, 0.0])
    solids = thing.shape.solids(time)
    rects = [eye.rect(solid.outline @ out.T + foot) for solid in solids]
    seen = [r for r in rects if r is not None]
    if not seen:
        return None
    rect = Rect(
        min(r.left for r in seen), min(r.top for r in seen), max(r.right for r in seen), max(r.bottom for r in seen)
    )
    rays = eye.rays(rect, 2) @ out.astype(np.float32)
    origin = out.T @ (eye.origin - foot)
    depth = np.full(rays.shape[:2], np.inf, np.float32)
    part, face = np.zeros(depth.shape, np.int16), np.zeros(depth.shape, np.int16)
    for number, (solid, own) in enumerate(zip(solids, rects, strict=True)):
        if own is None:
            continue
        here = _fine(Rect(own.left - rect.left, own.top - rect.top, own.right - rect.left, own.bottom - rect.top))
        at, which = solid.meet(origin, rays[here].reshape(-1, 3))
        at, which = at.reshape(depth[here].shape), which.reshape(depth[here].shape)
        nearer = at < depth[here]
        depth[here][nearer], part[here][nearer], face[here][nearer] = at[nearer], number, which[nearer]
    return Cast(rect, depth, part, face, solids) if np.isfinite(depth).any() else None


def _paint(
    thing: Thing,
    time: float,
    cast: Cast,
    mine: Bool[np.ndarray, "h w"],
    light: Light,
    eye: Eye,
    houses: list[np.ndarray],
) -> Float32[np.ndarray, "h w 3"]:
    """Light from the rays that the thing wins, zero elsewhere."""
    rgb = np.zeros((*mine.shape, 3), np.float32)
    x, y = thing.at(time)
    c, s = np.cos(thing.yaw), np.sin(thing.yaw)
    out = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)
    foot = np.array([x, y, 0.0], np.float32)
    sunny = 1 - land.shaded(np.array([x], np.float32), np.array([y], np.float32), houses, 2.0)[0]
    rows, cols = np.nonzero(mine)
    rays = eye.rays(cast.rect, 2)[rows, cols]
    at = eye.origin.astype(np.float32) + cast.depth[rows, cols][:, None] * rays
    local = (at - foot) @ out
    part, face = cast.part[rows, cols], cast.face[rows, cols]
    for number in np.unique(part):
        solid, own = cast.solids[number], part == number
        normals = solid.normals(local[own], face[own])
        surface = thing.shape.surface(solid, local[own], normals, light.night)
        open_sky = 0.5 + 0.5 * np.clip(local[own, 2] / 0.9, 0, 1)
        turned = normals @ out.T
        rgb[rows[own], cols[own]] = shade(
            light, surface, turned, at[own], eye.origin, eye.forward, open_sky, float(sunny)
        )
    return rgb


def _background(
    place: Place,
    things: Sequence[Thing],
    light: Light,
    time: float,
    eye: Eye,
    corner: tuple[int, int],
    houses: list[np.ndarray],
) -> tuple[Float32[np.ndarray, "H W 3"], Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """Linear picture of ground, houses and sky with the objects' shadows; depth of it; depth of the houses alone."""
    high, wide = eye.height, eye.width
    rays = eye.rays(Rect(0, 0, wide, high), 1)
    walls, house_of, face_of = _meet_houses(place, eye, rays)
    down = rays[..., 2]
    with np.errstate(divide="ignore"):
        floor = np.where(down < -1e-5, -np.float32(eye.origin[2]) / down, np.float32(np.inf))
    floor = np.where(floor < FARTHEST, floor, np.float32(np.inf))
    depth = np.minimum(walls, floor)

    picture = land.sky(light, rays.reshape(-1, 3), corner).reshape(high, wide, 3)
    eye_at = eye.origin.astype(np.float32)
    on_floor = (floor <= walls) & np.isfinite(floor)
    picture[on_floor] = _floor(place, things, light, time, eye, rays[on_floor], floor[on_floor], corner, houses)
    for number in np.unique(house_of[walls < floor]):
        own = (house_of == number) & (walls < floor)
        house, at = place.houses[number], eye_at + walls[own][:, None] * rays[own]
        face = face_of[own]
        normals = land.FACES[face]
        slant = np.maximum(np.abs(np.einsum("ij,ij->i", rays[own], normals)), 0.05)
        spread = walls[own] / np.float32(eye.K[0, 0]) / np.sqrt(slant)
        along = np.where(face < 2, at[:, 1], at[:, 0])
        surface = land.front(house, light, along, at[:, 2], face, spread, corner)
        dim = 0.75 + 0.25 * np.clip(at[:, 2] / 2.5, 0, 1)
        picture[own] = shade(light, surface, normals, at, eye.origin, eye.forward, dim, 1.0)
    if light.wet:
        picture = _wet(picture, rays, on_floor, eye)
    soft = picture * 0.76  # a lens is never sharper than its pixels
    soft += 0.12 * (np.roll(picture, 1, axis=0) + np.roll(picture, -1, axis=0))
    picture = np.where(_border(high, wide)[..., None], picture, soft)
    soft = picture * 0.76 + 0.12 * (np.roll(picture, 1, axis=1) + np.roll(picture, -1, axis=1))
    return np.where(_border(high, wide)[..., None], picture, soft), depth, walls


def _border(high: int, wide: int) -> Bool[np.ndarray, "H W"]:
    edge = np.zeros((high, wide), bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return edge


def _meet_houses(
    place: Place, eye: Eye, rays: Float32[np.ndarray, "H W 3"]
) -> tuple[Float32[np.ndarray, "H W"], Int[np.ndarray, "H W"], Int[np.ndarray, "H W"]]:
    """Nearest house of each pixel: depth (inf = none), its number and face."""
    walls = np.full(rays.shape[:2], np.inf, np.float32)
    house_of, face_of = np.zeros(walls.shape, np.int16), np.zeros(walls.shape, np.int16)
    for number, house in enumerate(place.houses):
        rect = eye.rect(land.corners(house))
        if rect is None:
            continue
        here = slice(rect.top, rect.bottom), slice(rect.left, rect.right)
        at, face = land.meet_house(house, eye.origin, rays[here].reshape(-1, 3))
        at, face = at.reshape(walls[here].shape).astype(np.float32), face.reshape(walls[here].shape)
        nearer = at < walls[here]
        walls[here][nearer], house_of[here][nearer], face_of[here][nearer] = at[nearer], number, face[nearer]
    return walls, house_of, face_of


def _floor(
    place: Place, things: Sequence[Thing], light: Light, time: float, eye: Eye,
    rays: Float32[np.ndarray, "n 3"], depth: Float32[np.ndarray, " n"], corner: tuple[int, int], houses: list[np.ndarray],
) -> Float32[np.ndarray, "n 3"]:  # fmt: skip
    """Light from points of the ground: markings, shadows of houses and objects, dark under the objects."""
    at = eye.origin.astype(np.float32) + depth[:, None] * rays
    at[:, 2] = 0
    flat = np.hypot(rays[:, 0], rays[:, 1])
    pixel = depth / np.float32(eye.K[0, 0])
    length = pixel * np.hypot(flat, rays[:, 2]) / np.maximum(-rays[:, 2], 1e-3)  # a pixel's length on the ground
    cos, sin = np.abs(rays[:, 0]) / flat, np.abs(rays[:, 1]) / flat
    x, y = at[:, 0], at[:, 1]
    surface = land.ground(place, light, x, y, length * cos + pixel * sin, length * sin + pixel * cos, corner)
    open_sky, dark = np.ones(len(x), np.float32), np.zeros(len(x), np.float32)
    close = np.flatnonzero(depth < 90)
    for thing in things:
        reach = 0.5 if thing.label == "car" else 0.22
        open_sky[close] *= 1 - land.under(x[close], y[close], thing.at(time), thing.yaw, thing.size, reach)
    if light.sunlight.any():
        dark = land.shaded(x, y, houses, 0.25)
        for thing in things:
            c, s, foot = np.cos(thing.yaw), np.sin(thing.yaw), thing.at(time)
            turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
            groups = [points @ turn + np.array([*foot, 0.0]) for points in thing.shape.casts(time)]
            reach = max(float(np.abs(g[:, :2] - foot).max() + 2.5 * g[:, 2].max()) for g in groups)
            near = close[(np.abs(x[close] - foot[0]) < reach) & (np.abs(y[close] - foot[1]) < reach)]
            if near.size:
                shadow = land.shaded(x[near], y[near], land.outlines_on_ground(light.sun, groups), 0.08)
                dark[near] = np.maximum(dark[near], shadow)
    up = np.broadcast_to(np.array([0, 0, 1], np.float32), at.shape)
    return shade(light, surface, up, at, eye.origin, eye.forward, open_sky, 1 - dark)


def _wet(
    picture: Float32[np.ndarray, "H W 3"],
    rays: Float32[np.ndarray, "H W 3"],
    on_floor: Bool[np.ndarray, "H W"],
    eye: Eye,
) -> Float32[np.ndarray, "H W 3"]:
    """Ground that mirrors what stands on it: the picture about the horizon, smeared upright. Objects are left out."""
    horizon = eye.K[1, 2] - eye.K[1, 1] * eye.pose[2, 2] / eye.pose[2, 1]
    rows = np.clip(np.rint(2 * horizon - np.arange(eye.height)), 0, eye.height - 1).astype(int)
    smeared = ndimage.gaussian_filter1d(picture[rows], 0.02 * eye.height, axis=0, mode="nearest")
    slant = -rays[..., 2] / np.linalg.norm(rays, axis=2)
    weight = np.where(on_floor, 0.05 + 0.55 * np.clip(1 - 3.2 * slant, 0, 1) ** 2, 0)[..., None]
    return (picture * (1 - weight) + smeared * weight).astype(np.float32)


def _streaks(
    picture: Float32[np.ndarray, "H W 3"], rng: np.random.Generator, light: Light
) -> Float32[np.ndarray, "H W 3"]:
    """Falling rain: short slanted streaks, a little lighter than what is behind."""
    high, wide = picture.shape[:2]
    count = 260
    x, y, length = rng.uniform(0, wide, count), rng.uniform(0, high, count), rng.uniform(0.02, 0.07, count) * high
    lean = rng.normal(0.08, 0.02)
    steps = np.arange(max(2, int(0.07 * high)))
    rows = np.rint(y[:, None] + steps).astype(int)
    cols = np.rint(x[:, None] + lean * steps).astype(int)
    good = (steps < length[:, None]) & (rows < high) & (cols >= 0) & (cols < wide)
    veil = np.zeros((high, wide), np.float32)
    veil[rows[good], cols[good]] = 0.10
    veil = ndimage.uniform_filter(veil, max(1, round(wide / 800)))
    return picture + veil[..., None] * (light.horizon.astype(np.float32) * 1.2 + 0.02 - 0.5 * picture)
