"""Cars of the world `driving`: body, cabin, wheels and mirrors; lamps, grille and plates tell the front from the back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from graft_common.phantoms._driving_solids import Solid, Surface, block, cut, disc

# (length, height) range in metres, belt line as a share of the height, and where windscreen and rear window stand as
# shares of the length: foot and top of the windscreen, top and foot of the rear window
SHAPES: dict[str, tuple[tuple[float, float], tuple[float, float], float, tuple[float, float, float, float]]] = {
    "sedan": ((4.4, 4.9), (1.40, 1.50), 0.66, (0.24, 0.07, -0.22, -0.37)),
    "hatch": ((3.8, 4.3), (1.45, 1.55), 0.63, (0.27, 0.09, -0.36, -0.47)),
    "suv": ((4.4, 4.9), (1.65, 1.85), 0.62, (0.25, 0.11, -0.43, -0.485)),
    "van": ((4.7, 5.2), (1.85, 2.05), 0.55, (0.40, 0.22, -0.47, -0.49)),
}
PAINTS = (
    (0.75, 0.76, 0.77), (0.42, 0.44, 0.46), (0.14, 0.15, 0.17), (0.02, 0.02, 0.025), (0.36, 0.02, 0.025),
    (0.03, 0.09, 0.30), (0.05, 0.16, 0.10), (0.45, 0.36, 0.20), (0.60, 0.22, 0.02), (0.62, 0.64, 0.66),
)  # fmt: skip
GLASS, RUBBER, PLASTIC = (0.015, 0.02, 0.025), (0.012, 0.012, 0.013), (0.03, 0.03, 0.032)

Lay = Callable[[np.ndarray, Sequence[int | float], int | float, int | float], None]


@dataclass(frozen=True)
class Car:
    """One car's measures (metres, its own frame) and paint; `lit` lamps shine at night."""

    length: float
    width: float
    height: float
    belt: float
    nose: float
    marks: tuple[float, float, float, float]
    radius: float
    axle: float
    paint: tuple[float, float, float]
    trim: float
    lit: bool

    @property
    def size(self) -> tuple[float, float, float]:
        """Length, width, height of the tight box."""
        return self.length, self.width, self.height

    @property
    def half(self) -> float:
        """Half width of the body without the mirrors."""
        return self.width / 2 - 0.09

    def solids(self, time: float) -> Sequence[Solid]:
        """The car's parts: the same at every time."""
        a, top, belt, low = self.length / 2, self.height, self.belt, 0.2
        y = self.half
        screen, roof_front, roof_back, rear = (m * self.length for m in self.marks)
        body = cut(
            "body", (-a, -y, low), (a, y, belt),
            [
                (belt - self.nose, 0, a - 0.1 - screen, a - 0.1, 0, self.nose),  # bonnet
                (-(0.06 if rear > -0.45 * self.length else 0.02), 0, 0.5, -a + 0.04, 0, belt - 0.05),  # boot lid
                (0.12, 0, -0.1, a, 0, 0.36), (-0.12, 0, -0.1, -a, 0, 0.36),  # under the bumpers
                (0.2, 0.32, 0, a, y - 0.22, 0), (0.2, -0.32, 0, a, 0.22 - y, 0),  # corners of the bumpers
                (-0.14, 0.3, 0, -a, y - 0.16, 0), (-0.14, -0.3, 0, -a, 0.16 - y, 0),
                (0, 0.5, 0.12, 0, y, belt - 0.22), (0, -0.5, 0.12, 0, -y, belt - 0.22),  # shoulders
            ],
        )  # fmt: skip
        rise = top - belt
        cabin = cut(
            "cabin", (rear, -y, belt - 0.02), (screen, y, top),
            [
                (rise, 0, screen - roof_front, screen, 0, belt), (-rise, 0, roof_back - rear, rear, 0, belt),
                (0, rise, 0.22, 0, y - 0.05, belt), (0, -rise, 0.22, 0, 0.05 - y, belt),
                (0.18, 0, 1, roof_front - 0.25, 0, top), (-0.14, 0, 1, roof_back + 0.3, 0, top),  # the roof is no plank
            ],
        )  # fmt: skip
        at = screen - 0.3
        mirrors = [
            block(
                "mirror", (at, min(s * y, s * (y + 0.09)), belt), (at + 0.12, max(s * y, s * (y + 0.09)), belt + 0.13)
            )
            for s in (1, -1)
        ]
        wheels = [
            disc("wheel", (self._axle(front), s * (y - 0.1), self.radius), self.radius, 0.11, 1)
            for front in (True, False)
            for s in (1, -1)
        ]
        return [body, cabin, *wheels, *mirrors]

    def _axle(self, front: bool) -> float:
        return self.axle - 0.02 if front else -self.axle

    def casts(self, time: float) -> Sequence[Float[np.ndarray, "_ 3"]]:
        """Points of the convex parts that throw the shadow."""
        a, y = self.length / 2, self.half
        screen, front, back, rear = (m * self.length for m in self.marks)
        sides = np.array([-1.0, 1.0])
        body = [
            (x, s * y, z) for s in sides for x, z in ((-a, 0.3), (a, 0.3), (-a, self.belt - 0.1), (a - 0.1, self.nose))
        ]
        wheels = [(x, s * y, 0) for s in sides for x in (self.axle + 0.2, -self.axle - 0.2)]
        cabin = [(x, s * y, self.belt) for s in sides for x in (screen, rear)]
        cabin += [(x, s * (y - 0.24), self.height) for s in sides for x in (front, back)]
        return [np.array(body + wheels), np.array(cabin)]

    def surface(
        self, solid: Solid, at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], night: bool
    ) -> Surface:
        """Paint, glass, lamps and rubber at points of one part."""
        n = len(at)
        albedo = np.broadcast_to(np.array(self.paint, np.float32), (n, 3)).copy()
        gloss, emit = np.full(n, 0.5, np.float32), np.zeros((n, 3), np.float32)
        echo = np.full(n, 20 + 40 * float(np.mean(self.paint)), np.float32)
        x, _, z = at.T
        lay = _Coats(albedo, gloss, echo).lay

        match solid.name:
            case "wheel":
                spoke = np.hypot(x - np.where(x > 0, self._axle(True), self._axle(False)), z - self.radius)
                lay(np.full(n, True), RUBBER, 0.02, 6)
                lay((np.abs(normals[:, 1]) > 0.9) & (spoke < 0.62 * self.radius), (0.38, 0.39, 0.4), 0.3, 35)
                lay((np.abs(normals[:, 1]) > 0.9) & (spoke < 0.13 * self.radius), (0.05, 0.05, 0.05), 0.1, 12)
            case "cabin":
                self._glaze(lay, at, normals)
            case "body":
                self._dress(lay, emit, at, normals, night)
        return Surface(albedo, gloss, emit, echo)

    def _glaze(self, lay: Lay, at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"]) -> None:
        """Windscreen, rear and side windows between the pillars."""
        x, y, z = at.T
        screen, roof_front, roof_back, rear = (m * self.length for m in self.marks)
        up = (z - self.belt) / (self.height - self.belt)
        edge = self.half - 0.05 - 0.22 * up
        pane = (up > 0.08) & (up < 0.86)
        side = np.abs(normals[:, 1]) > 0.75
        front, back = screen + (roof_front - screen) * up, rear + (roof_back - rear) * up
        doors = (x < front - 0.1) & (x > back + 0.13) & (np.abs(x - self._pillar()) > 0.05)
        if self.length > 4.35:
            doors &= np.abs(x - self._pillar() + 0.24 * self.length) > 0.04
        lay(side & pane & doors, GLASS, 0.9, 5)
        across = ~side & (np.abs(normals[:, 2]) < 0.93) & (np.abs(y) < edge - 0.07)
        lay(across & (x > 0) & (up > 0.03) & (up < 0.9), GLASS, 0.9, 5)
        lay(across & (x < 0) & (up > 0.2) & (up < 0.84), GLASS, 0.8, 5)
        lay(
            (up > 0.9) & (x < roof_back + 0.12) & (np.abs(y) < 0.16) & (x < 0) & (normals[:, 0] < -0.3),
            (0.25, 0.01, 0.01),
            0.3,
            60,
        )

    def _pillar(self) -> float:
        return 0.5 * (self.marks[1] + self.marks[2]) * self.length + 0.05 * self.length

    def _dress(
        self, lay: Lay, emit: Float[np.ndarray, "n 3"], at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"],
        night: bool,
    ) -> None:  # fmt: skip
        """Doors and arches at the sides; grille, white lamps and plate in front; red lamps and yellow plate behind."""
        x, y, z = at.T
        a, wide = self.length / 2, self.half
        side = np.abs(normals[:, 1]) > 0.8
        lay(z < 0.34, PLASTIC, 0.1, 12)
        arch = np.minimum(
            np.hypot(x - self._axle(True), z - self.radius), np.hypot(x - self._axle(False), z - self.radius)
        )
        lay(
            (np.abs(y) > wide - 0.25) & (arch < 1.16 * self.radius) & (np.abs(x) < a - 0.2),
            (0.006, 0.006, 0.006),
            0.0,
            4,
        )
        gap = np.minimum(np.abs(x - self._pillar()), np.abs(x - self._pillar() - 0.235 * self.length))
        if self.length > 4.35:
            gap = np.minimum(gap, np.abs(x - self._pillar() + 0.2 * self.length))
        dark = tuple(0.25 * p for p in self.paint)
        lay(side & (gap < 0.018) & (z > 0.36) & (arch > 1.3 * self.radius), dark, 0.1, 15)
        handle = (z > self.belt - 0.21) & (z < self.belt - 0.165)
        back = np.abs(x - self._pillar() - 0.04 * self.length) < 0.09
        lay(side & handle & (back | (np.abs(x - self._pillar() + 0.15 * self.length) < 0.09)), (0.2, 0.2, 0.2), 0.6, 40)

        ahead, behind = (x > a - 0.42) & (normals[:, 0] > 0.25), (x < -a + 0.3) & (normals[:, 0] < -0.2)
        lamp_z = self.nose - 0.13
        mouth = ahead & (np.abs(y) < 0.5 * wide)
        lay(mouth & (z > lamp_z - 0.1) & (z < lamp_z + 0.07), (0.02, 0.02, 0.022), 0.25, 15)
        lay(
            mouth & (np.abs(np.mod(z - lamp_z, 0.06) - 0.03) < 0.008) & (np.abs(z - lamp_z + 0.015) < 0.085),
            (self.trim,) * 3,
            0.6,
            45,
        )
        lay(ahead & (np.abs(y) < 0.72 * wide) & (z < lamp_z - 0.16) & (z > 0.3), PLASTIC, 0.1, 12)
        lay(ahead & (np.abs(y) < 0.26) & (z > lamp_z - 0.23) & (z < lamp_z - 0.12), (0.78, 0.78, 0.76), 0.2, 210)
        head = ahead & (np.abs(y) > 0.56 * wide) & (np.abs(z - lamp_z) < 0.085)
        lay(head, (0.8, 0.82, 0.84), 0.9, 150)
        tail_z = self.belt - 0.2
        tail = behind & (np.abs(y) > (0.6 if self.height < 1.6 else 0.76) * wide)
        tail &= np.abs(z - tail_z) < (0.085 if self.height < 1.6 else 0.17)
        lay(behind & (z < 0.5), PLASTIC, 0.1, 12)
        lay(behind & (np.abs(y) < 0.8 * wide) & (np.abs(z - tail_z + 0.25) < 0.012), dark, 0.1, 15)
        lay(behind & (np.abs(y) < 0.26) & (np.abs(z - tail_z + 0.06) < 0.058), (0.85, 0.62, 0.12), 0.2, 200)
        lay(tail, (0.42, 0.006, 0.01), 0.5, 170)
        lay(tail & (np.abs(np.abs(y) - 0.7 * wide) < 0.05) & (z < tail_z - 0.02), (0.75, 0.72, 0.7), 0.5, 170)
        if night and self.lit:
            emit[head], emit[tail] = (3.2, 3.0, 2.5), (0.9, 0.02, 0.015)


@dataclass(frozen=True)
class _Coats:
    """Albedo, gloss and echo of points, painted over layer by layer."""

    albedo: Float[np.ndarray, "n 3"]
    gloss: Float[np.ndarray, " n"]
    echo: Float[np.ndarray, " n"]

    def lay(
        self, where: Bool[np.ndarray, " n"], rgb: Sequence[int | float], gloss: int | float, echo: int | float
    ) -> None:
        self.albedo[where], self.gloss[where], self.echo[where] = rgb, gloss, echo


def draw_car(rng: np.random.Generator, lit: bool) -> Car:
    """A car of any shape and paint."""
    names = list(SHAPES)
    (short, long), (low, high), share, marks = SHAPES[names[int(rng.choice(len(names), p=(0.34, 0.26, 0.28, 0.12)))]]
    length, height, width = rng.uniform(short, long), rng.uniform(low, high), rng.uniform(1.86, 2.06)
    belt = share * height
    paint = np.clip(np.array(PAINTS[int(rng.integers(len(PAINTS)))]) * rng.uniform(0.85, 1.15), 0, 0.85)
    radius = 0.2 * min(height, 1.75) + 0.02
    return Car(
        float(length), float(width), float(height), float(belt), float(belt - rng.uniform(0.1, 0.16) - 0.06),
        marks, float(radius), float(0.295 * length), (float(paint[0]), float(paint[1]), float(paint[2])),
        float(rng.uniform(0.05, 0.5)), lit,
    )  # fmt: skip
