"""Trees and lamp posts of the world `driving`: they occlude and throw shadows but have no box."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from graft_common.phantoms._driving_solids import Ball, Solid, Surface, ball, block, disc


@dataclass(frozen=True)
class Tree:
    """Trunk and clumps of leaves; clumps are rows of x, y, z, radius in metres."""

    trunk: float
    clumps: Float[np.ndarray, "k 4"]
    green: tuple[float, float, float]

    def solids(self, time: float) -> Sequence[Solid]:
        """The tree's parts: the same at every time."""
        crown = [ball("leaves", (x, y, z), (r, r, 0.8 * r)) for x, y, z, r in self.clumps.tolist()]
        return [disc("trunk", (0, 0, self.trunk / 2), 0.16, self.trunk / 2, 2, 8), *crown]

    def casts(self, time: float) -> Sequence[Float[np.ndarray, "_ 3"]]:
        """Points of the convex parts that throw the shadow."""
        parts = self.solids(time)
        crown = [s.middle + (s.outline - s.middle) / 1.25 for s in parts if isinstance(s, Ball)]
        return [parts[0].outline, np.concatenate(crown[:3]), np.concatenate(crown[2:])]

    def surface(
        self, solid: Solid, at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], night: bool
    ) -> Surface:
        """Bark, or leaves that are lighter and darker in patches."""
        n = len(at)
        if solid.name == "trunk":
            albedo, echo = np.full((n, 3), (0.10, 0.075, 0.055), np.float32), np.full(n, 22, np.float32)
        else:
            x, y, z = at.T
            warp = 0.7 * np.sin(5 * z + 2 * x)
            wave = np.sin(9 * x + warp * 3) * np.sin(8 * y + 4 * warp) + np.sin(23 * x + 3 * y) * np.sin(
                21 * z - 17 * y
            )
            wave = wave + 0.8 * np.sin(47 * y - 11 * x) * np.sin(43 * z + 37 * x)
            shade = (1 + 0.3 * wave)[:, None]
            albedo, echo = (np.array(self.green, np.float32) * shade).astype(np.float32), (28 + 6 * wave).astype(np.float32)
        return Surface(albedo, np.zeros(n, np.float32), np.zeros((n, 3), np.float32), echo)


@dataclass(frozen=True)
class Post:
    """Street lamp: a post with an arm along y that ends in a lamp."""

    height: float
    reach: float

    def solids(self, time: float) -> Sequence[Solid]:
        """The post's parts: the same at every time."""
        h, low, high = self.height, min(0.0, self.reach), max(0.0, self.reach)
        arm = block("post", (-0.04, low, h - 0.1), (0.04, high, h))
        lamp = block("lamp", (-0.16, self.reach - 0.3, h - 0.16), (0.16, self.reach + 0.3, h - 0.02))
        return [disc("post", (0, 0, h / 2), 0.085, h / 2, 2, 8), arm, lamp]

    def casts(self, time: float) -> Sequence[Float[np.ndarray, "_ 3"]]:
        """Points of the convex parts that throw the shadow."""
        return [solid.outline for solid in self.solids(time)]

    def surface(
        self, solid: Solid, at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], night: bool
    ) -> Surface:
        """Grey metal; the lamp shines at night."""
        n = len(at)
        emit = np.full((n, 3), (3.0, 2.3, 1.4) if night and solid.name == "lamp" else 0.0, np.float32)
        return Surface(
            np.full((n, 3), 0.13, np.float32), np.full(n, 0.25, np.float32), emit, np.full(n, 32, np.float32)
        )


def draw_tree(rng: np.random.Generator) -> Tree:
    """A street tree, 4 to 8 m high."""
    trunk, wide = rng.uniform(1.9, 2.8), rng.uniform(1.1, 1.9)
    count = int(rng.integers(5, 9))
    clumps = np.c_[
        rng.normal(0, 0.45 * wide, (count, 2)),
        trunk + wide * rng.uniform(0.35, 1.5, count),
        wide * rng.uniform(0.5, 0.8, count),
    ]
    clumps[0, :2] = 0, 0
    clumps[:, 2] = np.maximum(clumps[:, 2], trunk - 0.2 + 0.8 * clumps[:, 3])
    tone = rng.uniform(0.7, 1.3)
    return Tree(float(trunk + 0.6), clumps, (0.055 * tone + rng.uniform(0, 0.04), 0.095 * tone, 0.03 * tone))
