"""The five solids of the world `objects`, each met by parallel rays in closed form (the ring: by sphere tracing).

Solids stand on the ground y = 0 (y up) and are about two units wide. A function takes ray origins (n, 3) and one common
direction (3,), and gives the distance along the ray to the first meeting (inf where the ray misses; the line is met from far
outside, so origins may lie anywhere on it) and the outward unit normal there (n, 3; arbitrary where it misses).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Hits = tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]
Rays = Float[np.ndarray, "n 3"]
Vector = Float[np.ndarray, "3"]

HALF = 0.85  # half the edge of the cube
TALL = 2.15  # height of the cone, whose base has radius 1
TUBE = 0.36  # radius of the ring's tube, whose centre line has radius 1
DEEP = 0.32  # half the thickness of the star
POINTS = np.arange(10) * np.pi / 5 + np.pi / 2
STAR = np.where(np.arange(10) % 2 == 0, 1.2, 0.58)[:, None] * np.stack([np.cos(POINTS), np.sin(POINTS)], axis=1)
STAR = STAR - np.array([0.0, STAR[:, 1].min()])  # stands on its two lower tips


@dataclass(frozen=True)
class Solid:
    """One solid: where rays meet it, points whose hull holds it, its middle, and its white bands.

    Attributes:
        meet: (origins, direction) -> distances and normals.
        outline: (k, 3) points on the surface whose projections span the solid's outline.
        bands: (points (n, 3), phase in [0, 1)) -> signed band coordinate in (-1, 1), above 0 on a white band.
    """

    meet: Callable[[Rays, Vector], Hits]
    outline: Float[np.ndarray, "k 3"]
    bands: Callable[[Rays, float], Float[np.ndarray, " n"]]


def _ball(origins: Rays, direction: Vector) -> Hits:
    shift = origins - np.array([0.0, 1.0, 0.0])
    half = shift @ direction
    inside = half**2 - (shift**2).sum(axis=1) + 1
    far = np.where(inside >= 0, -half - np.sqrt(np.maximum(inside, 0)), np.inf)
    near = -half - np.sqrt(np.maximum(inside, 0))
    return far, shift + near[:, None] * direction


def _cube(origins: Rays, direction: Vector) -> Hits:
    shift = origins - np.array([0.0, HALF, 0.0])
    slope = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    enter = (-np.sign(slope) * HALF - shift) / slope
    leave = (np.sign(slope) * HALF - shift) / slope
    face = enter.argmax(axis=1)
    first = np.take_along_axis(enter, face[:, None], axis=1)[:, 0]
    normals = np.eye(3)[face] * -np.sign(slope)
    return np.where(first <= leave.min(axis=1), first, np.inf), normals


def _cone(origins: Rays, direction: Vector) -> Hits:
    """x^2 + z^2 = (1 - y / TALL)^2 above the ground; the base is met too, for rays that come from below."""
    metric = np.array([1.0, -1 / TALL**2, 1.0])
    shift = origins - np.array([0.0, TALL, 0.0])
    a, b, c = (metric * direction**2).sum(), (shift * direction) @ metric, shift**2 @ metric
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    best = np.full(len(origins), np.inf)
    for sign in (-1.0, 1.0):
        t = (-b + sign * root) / a
        y = shift[:, 1] + t * direction[1]
        best = np.where((b * b >= a * c) & (y <= 0) & (y >= -TALL) & (t < best), t, best)
    at = shift + np.where(np.isfinite(best), best, 0)[:, None] * direction
    normals = at * metric
    return best, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def _star(origins: Rays, direction: Vector) -> Hits:
    """A five-pointed prism: its two flat faces and its ten sides."""
    d = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    facing = -np.sign(d[2])
    t = (facing * DEEP - origins[:, 2]) / d[2]
    best = np.where(_in_star(origins[:, :2] + t[:, None] * d[:2]), t, np.inf)
    normals = np.tile(np.array([0.0, 0.0, facing]), (len(origins), 1))
    for start, end in zip(STAR, np.roll(STAR, -1, axis=0), strict=True):
        edge = end - start
        out = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
        if out @ d[:2] >= 0:
            continue  # turned away from the ray
        t = ((start - origins[:, :2]) @ out) / (out @ d[:2])
        at = origins + t[:, None] * d
        share = ((at[:, :2] - start) @ edge) / (edge @ edge)
        hit = (share >= 0) & (share <= 1) & (np.abs(at[:, 2]) <= DEEP) & (t < best)
        best = np.where(hit, t, best)
        normals[hit] = [out[0], out[1], 0.0]
    return best, normals


def _in_star(at: Float[np.ndarray, "n 2"]) -> np.ndarray:
    """Whether points lie in the star, by folding its five-fold symmetry onto one tip."""
    shift = at - np.array([0.0, STAR[0, 1] - 1.2])
    angle = np.arctan2(shift[:, 0], shift[:, 1])  # from the upward tip
    angle = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    reach = np.sqrt((shift**2).sum(axis=1))
    notch = 0.58 * np.array([np.sin(np.pi / 5), np.cos(np.pi / 5)])
    out = np.array([1.2 - notch[1], notch[0]])  # normal of the edge from the tip (0, 1.2) to the notch
    return reach * (np.sin(angle) * out[0] + np.cos(angle) * out[1]) <= 1.2 * out[1]


def _ring(origins: Rays, direction: Vector) -> Hits:
    """A torus lying on the ground, by sphere tracing its exact distance."""
    shift = origins - np.array([0.0, TUBE, 0.0])
    near = -(shift @ direction)
    room = (1 + TUBE) ** 2 - (shift**2).sum(axis=1) + near**2
    live = np.flatnonzero(room > 0)
    start = shift[live] + near[live, None] * direction
    limit = np.sqrt(room[live])
    # squared distance from the axis is a quadratic of t, height is linear
    flat = np.array([direction[0], 0.0, direction[2]])
    square, cross, slope = start[:, 0] ** 2 + start[:, 2] ** 2, 2 * start @ flat, float(flat @ flat)
    t = -limit
    for _ in range(24):
        radius = np.sqrt(np.maximum(square + t * (cross + t * slope), 0))
        gap = np.sqrt((radius - 1) ** 2 + (start[:, 1] + t * direction[1]) ** 2) - TUBE
        t = t + gap
    hit = (gap < 4e-3) & (t <= limit)
    best, normals = np.full(len(origins), np.inf), np.zeros_like(origins)
    best[live[hit]] = (near[live] + t)[hit]
    at = start[hit] + t[hit, None] * direction
    radius = np.sqrt(at[:, 0] ** 2 + at[:, 2] ** 2)
    away = at - at * np.array([1.0, 0.0, 1.0]) / radius[:, None]
    normals[live[hit]] = away / np.sqrt((away**2).sum(axis=1, keepdims=True))
    return best, normals


def _wave(turns: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.cos(2 * np.pi * turns)


def _circle(radius: float, height: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([radius * np.cos(angle), np.full(48, height), radius * np.sin(angle)], axis=1)


_LATITUDES = np.linspace(-np.pi / 2, np.pi / 2, 17)
_CORNERS = np.array([[x, y, z] for x in (-HALF, HALF) for y in (0, 2 * HALF) for z in (-HALF, HALF)])
_PRISM = np.concatenate([np.insert(STAR, 2, z, axis=1) for z in (-DEEP, DEEP)])
_TILT = np.array([0.35, 1.0, 0.25]) / np.linalg.norm([0.35, 1.0, 0.25])

SOLIDS = {
    "ball": Solid(
        _ball,
        np.concatenate([_circle(np.cos(a), 1 + np.sin(a)) for a in _LATITUDES]),
        lambda at, phase: _wave((at - [0, 1, 0]) @ _TILT * 1.35 + 0.5 * round(phase)),
    ),
    "cube": Solid(_cube, _CORNERS, lambda at, phase: _wave(at[:, 1] / (2 * HALF) * 2.0 + 0.5)),
    "cone": Solid(
        _cone, np.concatenate([_circle(1.0, 0.0), [[0.0, TALL, 0.0]]]), lambda at, phase: _wave(at[:, 1] * 1.25)
    ),
    "star": Solid(_star, _PRISM, lambda at, phase: _wave((at[:, 1] + (phase - 0.5) * at[:, 0]) * 1.1 + 0.25)),
    "ring": Solid(
        _ring,
        np.concatenate([_circle(1 + TUBE * np.cos(a), TUBE + TUBE * np.sin(a)) for a in np.arange(16) * np.pi / 8]),
        lambda at, phase: _wave(4 * np.arctan2(at[:, 2], at[:, 0]) / (2 * np.pi) + phase),
    ),
}
