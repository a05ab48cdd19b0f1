"""Convex solids of the world `driving`, met by rays from one point: hulls (half-spaces) and ellipsoids.

All solids stand in their object's own frame: x forward, y left, z up, the origin on the ground under the box's centre.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

FAR = np.float32(np.inf)
CORNERS = np.array(list(product((-1.0, 1.0), repeat=3)))  # (8, 3) signs of a box's corners
SPHERE = np.array([p for p in product((-1.0, 0.0, 1.0), repeat=3) if any(p)])
SPHERE = SPHERE / np.linalg.norm(SPHERE, axis=1, keepdims=True)  # (26, 3) points around the unit sphere


class Surface(NamedTuple):
    """What n points of a surface do to light.

    Attributes:
        albedo: (n, 3) diffuse reflectance, linear RGB in [0, 1].
        gloss: (n,) strength of mirror-like reflection in [0, 1].
        emit: (n, 3) light given off, linear RGB.
        echo: (n,) lidar intensity at normal incidence, 0..255.
    """

    albedo: Float[np.ndarray, "n 3"]
    gloss: Float[np.ndarray, " n"]
    emit: Float[np.ndarray, "n 3"]
    echo: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Hull:
    """Intersection of half-spaces n . p <= d.

    Attributes:
        name: which paint of the object covers it.
        planes: (m, 4) outward unit normals and offsets.
        outline: (k, 3) points whose hull holds the solid.
    """

    name: str
    planes: Float[np.ndarray, "m 4"]
    outline: Float[np.ndarray, "k 3"]

    def meet(
        self, origin: Float[np.ndarray, "3"], rays: Float32[np.ndarray, "n 3"]
    ) -> tuple[Float32[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Where rays from `origin` (outside) enter: ray parameter (inf = miss) and the number of the plane."""
        normals = self.planes[:, :3].astype(np.float32)
        spare = (self.planes[:, 3] - self.planes[:, :3] @ origin).astype(np.float32)
        enter, leave = np.full(len(rays), -FAR), np.full(len(rays), FAR)
        face = np.zeros(len(rays), np.int16)
        with np.errstate(divide="ignore", invalid="ignore"):
            for number, (normal, room) in enumerate(zip(normals, spare, strict=True)):
                along = rays @ normal
                at = room / along
                if room < 0:  # the origin is outside this plane: only a ray towards it can enter
                    later = (along < 0) & (at > enter)
                    enter = np.where(later, at, enter)
                    face[later] = number
                    leave[along >= 0] = -FAR
                else:
                    np.minimum(leave, np.where(along > 0, at, FAR), out=leave)
        return np.where((enter < leave) & (enter > 0), enter, FAR), face

    def normals(self, points: Float[np.ndarray, "n 3"], face: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
        """Outward unit normals at points of the faces that `meet` named."""
        return self.planes[face, :3].astype(np.float32)


@dataclass(frozen=True)
class Ball:
    """Ellipsoid: |inverse (p - middle)| <= 1. `outline` holds points whose hull holds it."""

    name: str
    middle: Float[np.ndarray, "3"]
    inverse: Float[np.ndarray, "3 3"]
    outline: Float[np.ndarray, "k 3"]

    def meet(
        self, origin: Float[np.ndarray, "3"], rays: Float32[np.ndarray, "n 3"]
    ) -> tuple[Float32[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """As `Hull.meet`; the number is always 0."""
        start = (self.inverse @ (origin - self.middle)).astype(np.float32)
        turned = rays @ self.inverse.T.astype(np.float32)
        a = np.einsum("ij,ij->i", turned, turned)
        b = turned @ start
        # the perpendicular from the middle to the ray, not b^2 - a c: that loses all digits far away in float32
        away = start - (b / a)[:, None] * turned
        inside = 1 - np.einsum("ij,ij->i", away, away)
        hit = (inside > 0) & (b < 0)
        at = (-b - np.sqrt(np.maximum(inside, 0) * a)) / a
        return np.where(hit, at, FAR), np.zeros(len(rays), np.int16)

    def normals(self, points: Float[np.ndarray, "n 3"], face: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
        """Outward unit normals at points of the surface."""
        outward = (points - self.middle) @ (self.inverse.T @ self.inverse)
        return (outward / np.linalg.norm(outward, axis=1, keepdims=True)).astype(np.float32)

    def extent(self) -> Float[np.ndarray, "2 3"]:
        """Lowest and highest x, y, z."""
        reach = np.linalg.norm(np.linalg.inv(self.inverse), axis=1)  # the rows of the map from the unit sphere
        return np.stack([self.middle - reach, self.middle + reach])

    def moved(self, by: Float[np.ndarray, "3"]) -> "Ball":
        """The same solid elsewhere."""
        return Ball(self.name, self.middle + by, self.inverse, self.outline + by)


Solid = Hull | Ball


def block(name: str, low: Sequence[int | float], high: Sequence[int | float]) -> Hull:
    """Box from corner to corner."""
    lows, highs = np.asarray(low, float), np.asarray(high, float)
    planes = np.concatenate([np.c_[np.eye(3), highs], np.c_[-np.eye(3), -lows]])
    return Hull(name, planes, (lows + highs) / 2 + CORNERS * (highs - lows) / 2)


def cut(
    name: str, low: Sequence[int | float], high: Sequence[int | float], lines: Sequence[Sequence[int | float]]
) -> Hull:
    """Box with corners cut off by planes given as (nx, ny, nz, px, py, pz): normal (any length) and a point."""
    whole = block(name, low, high)
    rows = np.asarray(lines, float)
    normals = rows[:, :3] / np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
    offsets = np.einsum("ij,ij->i", normals, rows[:, 3:])
    return Hull(name, np.concatenate([whole.planes, np.c_[normals, offsets]]), whole.outline)


@cache
def _rim(sides: int) -> Float[np.ndarray, "sides 2"]:
    turn = 2 * np.pi * (np.arange(sides) + 0.5) / sides
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def disc(name: str, middle: Sequence[int | float], radius: float, half: float, axis: int, sides: int = 12) -> Hull:
    """Cylinder of `sides` faces about an axis (1 = y, 2 = z) through `middle`, from -half to +half along it."""
    rim, center = _rim(sides), np.asarray(middle, float)
    across = [k for k in range(3) if k != axis]
    normals = np.zeros((sides + 2, 3))
    normals[:sides, across] = rim
    normals[sides, axis], normals[sides + 1, axis] = 1, -1
    offsets = np.r_[np.full(sides, radius * np.cos(np.pi / sides)), half, half] + normals @ center
    reach = np.full(3, radius)
    reach[axis] = half
    return Hull(name, np.c_[normals, offsets], center + CORNERS * reach)


def ball(name: str, middle: Sequence[int | float], axes: Sequence[int | float]) -> Ball:
    """Ellipsoid with half-axes along x, y, z."""
    center, half = np.asarray(middle, float), np.asarray(axes, float)
    return Ball(name, center, np.diag(1 / half), center + 1.3 * SPHERE * half)


def limb(name: str, start: Sequence[int | float], end: Sequence[int | float], radius: float) -> Ball:
    """Slender ellipsoid from `start` to `end`."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(b - a))
    axis = (b - a) / length
    flat = float(np.hypot(axis[0], axis[2]))  # no limb points along y
    side = np.array([-axis[2] / flat, 0.0, axis[0] / flat])  # np.cross takes ten times as long as three products
    third = [axis[1] * side[2], axis[2] * side[0] - axis[0] * side[2], -axis[1] * side[0]]
    frame = np.stack([axis, side, third])  # rows: the limb's own axes
    half = np.array([length / 2, radius, radius])
    return Ball(name, (a + b) / 2, frame / half[:, None], (a + b) / 2 + (1.3 * SPHERE * half) @ frame)
