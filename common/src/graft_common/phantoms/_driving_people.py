"""Pedestrians of the world `driving`: head, trunk, arms, legs and shoes as ellipsoids, walking or standing.

Face and shirt in front, hair and sometimes a rucksack behind: a heading can be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from graft_common.phantoms._driving_solids import Ball, Solid, Surface, ball, limb

CLOTHES = (
    (0.02, 0.02, 0.03), (0.04, 0.06, 0.16), (0.30, 0.03, 0.03), (0.55, 0.53, 0.50), (0.05, 0.14, 0.07), (0.45, 0.30, 0.05),
    (0.20, 0.20, 0.22), (0.30, 0.07, 0.18), (0.08, 0.22, 0.40), (0.62, 0.16, 0.02), (0.16, 0.09, 0.05),
)  # fmt: skip
SKINS = ((0.55, 0.36, 0.26), (0.42, 0.25, 0.16), (0.22, 0.12, 0.07), (0.10, 0.055, 0.035))
HAIRS = ((0.015, 0.012, 0.01), (0.06, 0.035, 0.02), (0.25, 0.17, 0.07), (0.30, 0.30, 0.30))
STEPS = (0.5 * np.pi, 1.5 * np.pi)  # phases of the longest steps


@dataclass(frozen=True)
class Person:
    """One pedestrian's measures (metres) and clothes. `pace` is in radians of the stride per second, 0 = stands."""

    height: float
    girth: float
    stride: float
    pace: float
    phase: float
    coat: tuple[float, float, float]
    trousers: tuple[float, float, float]
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    pack: tuple[float, float, float] | None
    long_coat: bool
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def solids(self, time: float) -> Sequence[Solid]:
        """The limbs at `time`, seconds."""
        return _posed(self, time)

    def _limbs(self, phase: float) -> list[Ball]:
        h, g = self.height, self.girth
        swing = float(np.sin(phase)) * self.stride
        hip, shoulder = 0.5 * h, 0.79 * h
        parts = [
            ball("head", (0.02, 0, h - 0.125), (0.1, 0.082, 0.125)),
            limb("neck", (0.0, 0, shoulder - 0.02), (0.015, 0, h - 0.16), 0.055),
            ball("coat", (0.0, 0, 0.665 * h), (0.125 * g, 0.2 * g, 0.185 * h)),
            ball("coat", (0.0, 0, 0.75 * h), (0.1 * g, 0.215 * g, 0.085 * h)),
            ball("coat" if self.long_coat else "trousers", (0, 0, 0.5 * h), (0.13 * g, 0.175 * g, 0.1 * h)),
        ]
        if self.long_coat:
            parts.append(ball("coat", (0, 0, 0.42 * h), (0.145 * g, 0.19 * g, 0.16 * h)))
        for side in (1, -1):
            leg, arm = side * swing, -side * swing
            knee = (0.45 * leg + 0.04, side * 0.095 * g, 0.27 * h)
            lift = 0.05 * max(0.0, -leg) / max(self.stride, 0.05)
            foot = (leg, side * 0.095 * g, 0.09 + lift)
            parts += [
                limb("trousers", (0, side * 0.09 * g, hip + 0.05), (knee[0], knee[1], knee[2] - 0.12), 0.088 * g),
                limb("trousers", (knee[0], knee[1], knee[2] + 0.13), (foot[0], foot[1], foot[2] - 0.06), 0.068 * g),
                ball("shoe", (foot[0] + 0.07, foot[1], 0.046 + lift), (0.135, 0.05, 0.046)),
            ]
            elbow = (0.3 * arm - 0.03, side * 0.25 * g, 0.62 * h)
            hand = (0.75 * arm + 0.06, side * 0.255 * g, 0.49 * h)
            parts += [
                limb("coat", (0, side * 0.2 * g, shoulder), (elbow[0], elbow[1], elbow[2] - 0.07), 0.062 * g),
                limb("coat", (elbow[0], elbow[1], elbow[2] + 0.07), hand, 0.05 * g),
                ball("hand", hand, (0.045, 0.032, 0.055)),
            ]
        if self.pack is not None:
            parts.append(ball("pack", (-0.17 * g, 0, 0.68 * h), (0.12, 0.165, 0.145 * h)))
        return parts

    def casts(self, time: float) -> Sequence[Float[np.ndarray, "_ 3"]]:
        """Points of the convex parts that throw the shadow."""
        groups: dict[str, list[np.ndarray]] = {}
        for part in _posed(self, time):
            side = "left" if part.middle[1] > self.shift[1] else "right"
            low = part.middle[2] < 0.47 * self.height and part.name in ("trousers", "shoe")
            group = part.name if part.name == "head" else side if low else "trunk"
            groups.setdefault(group, []).append(part.middle + (part.outline - part.middle) / 1.2)
        return [np.concatenate(points) for points in groups.values()]

    def surface(
        self, solid: Solid, at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], night: bool
    ) -> Surface:
        """Clothes, skin and hair at points of one part."""
        n = len(at)
        named = {"coat": self.coat, "trousers": self.trousers, "shoe": (0.03, 0.028, 0.026), "pack": self.pack}
        rgb = np.array(named.get(solid.name, self.skin), np.float64)
        albedo = np.broadcast_to(rgb.astype(np.float32), (n, 3)).copy()
        echo = np.full(n, 18 + 45 * float(np.mean(rgb)), np.float32)
        if solid.name == "head":
            x, z = at[:, 0] - self.shift[0], at[:, 2]
            hair = (z > self.height - 0.075) | ((x < 0.03) & (z > self.height - 0.19))
            albedo[hair], echo[hair] = self.hair, 15
        if solid.name == "coat":  # an open front: a strip of shirt
            strip = (normals[:, 0] > 0.8) & (np.abs(at[:, 1] - self.shift[1]) < 0.035) & (at[:, 2] > 0.55 * self.height)
            albedo[strip] = 0.5 * albedo[strip] + 0.28
        return Surface(albedo, np.full(n, 0.04, np.float32), np.zeros((n, 3), np.float32), echo)


@lru_cache(maxsize=512)  # camera, shadow and lidar ask for the same pose
def _posed(person: Person, time: float) -> tuple[Ball, ...]:
    by = np.array([person.shift[0], person.shift[1], 0.0])
    return tuple(part.moved(by) for part in person._limbs(person.phase + person.pace * time))


def draw_person(rng: np.random.Generator, walks: bool, speed: float) -> Person:
    """A pedestrian of any height and dress; `speed` in m/s sets the pace."""
    stride = float(rng.uniform(0.2, 0.3)) if walks else float(rng.uniform(0.0, 0.05))
    pick = rng.integers((len(CLOTHES), len(CLOTHES), len(SKINS), len(HAIRS), len(CLOTHES)))
    scatter = rng.uniform(0.8, 1.2, 2)
    loose = Person(
        height=float(rng.uniform(1.55, 1.92)),
        girth=float(rng.uniform(0.95, 1.2)),
        stride=stride,
        pace=float(np.pi * speed / (2 * stride)) if walks else 0.0,
        phase=float(rng.uniform(0, 2 * np.pi)),
        coat=_tint(CLOTHES[pick[0]], scatter[0]),
        trousers=_tint(CLOTHES[pick[1]], 0.6 * scatter[1]),
        skin=SKINS[pick[2]],
        hair=HAIRS[pick[3]],
        pack=_tint(CLOTHES[pick[4]], 1.1) if rng.random() < 0.35 else None,
        long_coat=bool(rng.random() < 0.25),
    )
    phases = STEPS if walks else (loose.phase,)
    spans = np.stack([part.extent() for phase in phases for part in loose._limbs(float(phase))])
    low, high = spans[:, 0].min(axis=0), spans[:, 1].max(axis=0)
    middle, size = (low + high) / 2, high - low
    return Person(
        **{k: v for k, v in vars(loose).items() if k not in ("size", "shift")},
        size=(float(size[0]), float(size[1]), float(high[2])),
        shift=(-float(middle[0]), -float(middle[1])),
    )


def _tint(rgb: tuple[float, float, float], by: float) -> tuple[float, float, float]:
    return rgb[0] * by, rgb[1] * by, rgb[2] * by
