"""Where things stand in the world `driving`: streets, crossings and car parks, with cars and people that never collide.

World frame, metres: x along the road, y left, z up, the ground at z = 0; the ego car starts at x = 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from graft_common.phantoms._driving_cars import draw_car
from graft_common.phantoms._driving_people import draw_person
from graft_common.phantoms._driving_scenery import Post, draw_tree
from graft_common.phantoms._driving_solids import Solid, Surface

Kind = Literal["street", "crossing", "lot"]
KINDS: tuple[Kind, ...] = ("street", "crossing", "lot")
HORIZON = 4.0  # seconds for which nothing collides
LANE, KERB, FRONT = 3.4, 5.9, 9.4  # metres from the road's axis: lane width, kerb, house fronts
EGO_SIZE = (4.1, 1.75)
TRIES = 40


@runtime_checkable
class Shape(Protocol):
    """What the camera and the lidar need to know of a car, a pedestrian, a tree or a post."""

    def solids(self, time: float) -> Sequence[Solid]: ...

    def casts(self, time: float) -> Sequence[Float[np.ndarray, "_ 3"]]: ...

    def surface(
        self, solid: Solid, at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], night: bool
    ) -> Surface: ...


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes:
        instance: 1, 2, ... for objects with a box, 0 for scenery.
        label: "car", "pedestrian" or "scenery".
        state: "moving", "parked" or "standing"; "" for scenery.
        place: (x, y) at time 0; it moves by `velocity` metres a second and never turns.
        yaw: heading, counter-clockwise from the road's direction, radians.
        size: length, width, height of the tight box, metres.
    """

    instance: int
    label: str
    state: str
    shape: Shape
    place: tuple[float, float]
    velocity: tuple[float, float]
    yaw: float
    size: tuple[float, float, float]

    def at(self, time: float) -> tuple[float, float]:
        """(x, y) at a time, seconds."""
        return self.place[0] + time * self.velocity[0], self.place[1] + time * self.velocity[1]


@dataclass(frozen=True)
class House:
    """Upright block parallel to the road: corner to corner in x and y, height, and the look of its front."""

    low: tuple[float, float]
    high: tuple[float, float]
    height: float
    wall: tuple[float, float, float]
    trim: tuple[float, float, float]
    bay: float
    floor: float
    pane: tuple[float, float]
    number: int


@dataclass(frozen=True)
class Ego:
    """The ego car's motion: start (x, y), heading, speed m/s, turn rate rad/s."""

    place: tuple[float, float]
    heading: float
    speed: float
    rate: float

    def pose(self, time: float) -> tuple[float, float, float]:
        """(x, y, heading) at a time: an arc."""
        turned = self.heading + self.rate * time
        if abs(self.rate) < 1e-9:
            run = self.speed * time
            return self.place[0] + run * np.cos(turned), self.place[1] + run * np.sin(turned), turned
        radius = self.speed / self.rate
        x = self.place[0] + radius * (np.sin(turned) - np.sin(self.heading))
        y = self.place[1] - radius * (np.cos(turned) - np.cos(self.heading))
        return float(x), float(y), float(turned)


@dataclass(frozen=True)
class Place:
    """A laid-out scene: `walk` is where the zebra crossing begins (x), if there is one; `slots` turns the car park's lines."""

    kind: Kind
    ego: Ego
    houses: tuple[House, ...]
    things: tuple[Thing, ...]
    walk: float | None
    slots: float


def lay_out(rng: np.random.Generator, kind: Kind) -> Place:
    """Draw a place with its houses, scenery, cars and pedestrians. Every object has its own random stream."""
    ego_rng, house_rng, green_rng, plan_rng = rng.spawn(4)
    speed = {"street": (4.0, 11.0), "crossing": (0.8, 2.6), "lot": (1.0, 3.0)}[kind]
    lane = -LANE / 2 if kind != "lot" else 0.0
    ego = Ego(
        (0.0, lane + ego_rng.uniform(-0.25, 0.25)),
        float(ego_rng.normal(0, 0.012) if kind != "lot" else ego_rng.normal(0, 0.06)),
        float(ego_rng.uniform(*speed)),
        float(ego_rng.choice([-1.0, 1.0]) * ego_rng.uniform(0.004, 0.012 if kind != "lot" else 0.05)),
    )
    walk = float(plan_rng.uniform(6.5, 9.5)) if kind == "crossing" else None
    houses = _houses(house_rng, kind, walk)
    taken = _Taken(ego)
    crowd = _Crowd(plan_rng, taken)
    if kind == "lot":
        _fill_lot(crowd)
    else:
        if walk is not None:
            _fill_crossing(crowd, walk)
        _fill_street(crowd, walk)
    _green(green_rng, kind, walk, taken)
    return Place(kind, ego, houses, tuple(taken.things), walk, float(plan_rng.uniform(0, np.pi)))


class _Taken:
    """The things placed so far; a new one is kept only where its box stays clear of all others until `HORIZON`."""

    def __init__(self, ego: Ego) -> None:
        self.things: list[Thing] = []
        self.times = np.arange(0.0, HORIZON + 1e-6, 0.25)
        poses = np.array([ego.pose(t) for t in self.times])
        ahead = np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
        middle = poses[:, :2] + 1.4 * ahead  # the ego frame's origin is at the rear axle
        self.paths = [(middle, poses[:, 2], EGO_SIZE)]

    def put(self, shape: Shape, label: str, state: str, place: Sequence[int | float], yaw: float, speed: float,
            size: tuple[float, float, float], gap: float) -> bool:  # fmt: skip
        """Place it, moving along its heading, if there is room: `gap` metres from everything."""
        velocity = float(speed * np.cos(yaw)), float(speed * np.sin(yaw))
        path = np.asarray(place) + self.times[:, None] * np.asarray(velocity)
        heading = np.full(len(self.times), yaw)
        for other, turned, measures in self.paths:
            if _meet(path, heading, (size[0] + 2 * gap, size[1] + 2 * gap), other, turned, measures):
                return False
        number = 0 if label == "scenery" else 1 + sum(t.instance > 0 for t in self.things)
        self.things.append(
            Thing(number, label, state, shape, (float(place[0]), float(place[1])), velocity, float(yaw), size)
        )
        self.paths.append((path, heading, (size[0], size[1])))
        return True


def _meet(
    a: Float[np.ndarray, "n 2"], turn_a: Float[np.ndarray, " n"], size_a: tuple[float, float],
    b: Float[np.ndarray, "n 2"], turn_b: Float[np.ndarray, " n"], size_b: tuple[float, float],
) -> bool:  # fmt: skip
    """Whether two turned rectangles overlap at any of n times (separating axes)."""
    reach = (np.hypot(*size_a) + np.hypot(*size_b)) / 2
    gap = b - a
    near = np.hypot(gap[:, 0], gap[:, 1]) < reach
    if not near.any():
        return False
    gap, turn_a, turn_b = gap[near], turn_a[near], turn_b[near]
    cos, sin = np.abs(np.cos(turn_a - turn_b)), np.abs(np.sin(turn_a - turn_b))
    apart = np.zeros(len(gap), bool)
    for turn, own, other in ((turn_a, size_a, size_b), (turn_b, size_b, size_a)):
        along = np.abs(np.cos(turn) * gap[:, 0] + np.sin(turn) * gap[:, 1])
        across = np.abs(np.cos(turn) * gap[:, 1] - np.sin(turn) * gap[:, 0])
        apart |= along > (own[0] + other[0] * cos + other[1] * sin) / 2
        apart |= across > (own[1] + other[0] * sin + other[1] * cos) / 2
    return bool(not apart.all())


Draw = Callable[[np.random.Generator], float]
Spot = Callable[[np.random.Generator], tuple[float, float]]


class _Crowd:
    """Wishes for cars and pedestrians, each with its own stream; one without room is dropped after some tries."""

    def __init__(self, rng: np.random.Generator, taken: _Taken) -> None:
        self.rng, self.taken, self.streams = rng, taken, iter(rng.spawn(64))

    def some(self, low: int, high: int) -> range:
        return range(int(self.rng.integers(low, high + 1)))

    def pace(self) -> float:
        return float(self.rng.uniform(0.8, 1.5)) if self.rng.random() < 0.75 else 0.0

    def side(self) -> float:
        return float(self.rng.choice([-1.0, 1.0]))

    def car(self, spot: Spot, yaw: Draw, speed: float = 0.0, gap: float = 0.35) -> None:
        own = next(self.streams)
        car = draw_car(own, lit=speed > 0 or own.random() < 0.15)
        self._try(own, car, "car", "moving" if speed else "parked", spot, yaw, speed, car.size, gap)

    def person(self, spot: Spot, yaw: Draw, speed: float) -> None:
        own = next(self.streams)
        person = draw_person(own, speed > 0, speed)
        self._try(own, person, "pedestrian", "moving" if speed else "standing", spot, yaw, speed, person.size, 0.2)

    def _try(self, own: np.random.Generator, shape: Shape, label: str, state: str, spot: Spot, yaw: Draw, speed: float,
             size: tuple[float, float, float], gap: float) -> None:  # fmt: skip
        for _ in range(TRIES):
            if self.taken.put(shape, label, state, spot(own), float(yaw(own)), speed, size, gap):
                return


def _anywhere(low: int | float, high: int | float) -> Spot:
    def spot(own: np.random.Generator) -> tuple[float, float]:
        ahead = own.random() < 0.6  # the front camera sees 35 degrees to each side
        turn = own.uniform(-0.55, 0.55) if ahead else own.uniform(-np.pi, np.pi)
        far = own.uniform(low, high)
        return 1.5 + far * float(np.cos(turn)), far * float(np.sin(turn))

    return spot


def _any_heading(own: np.random.Generator) -> float:
    return float(own.uniform(-np.pi, np.pi))


def _near(angle: float, spread: float) -> Draw:
    return lambda own: angle + float(own.normal(0, spread))


def _about(x: int | float, y: int | float, dx: int | float, dy: int | float = 0.0) -> Spot:
    return lambda own: (x + float(own.uniform(-dx, dx)), y + float(own.uniform(-dy, dy)))


def _fill_lot(crowd: _Crowd) -> None:
    """Cars at every heading, people between them; the near people first, while there is room."""
    for _ in crowd.some(2, 4):
        crowd.person(_anywhere(4.5, 10), _any_heading, crowd.pace())
    for _ in crowd.some(8, 13):
        crowd.car(_anywhere(6, 26), _any_heading)
    for _ in crowd.some(1, 3):
        crowd.person(_anywhere(8, 22), _any_heading, crowd.pace())


def _fill_crossing(crowd: _Crowd, walk: float) -> None:
    """People on the zebra crossing, cars in the side street."""
    for _ in crowd.some(2, 4):
        side, speed = crowd.side(), float(crowd.rng.uniform(0.7, 1.3))
        crowd.person(_about(walk + 1.6, -1.5 * side, 1.3, 3.0), _near(side * np.pi / 2, 0.12), speed)
    for lane, way in ((walk + 8.2, 1.0), (walk + 11.4, -1.0)):
        for _ in crowd.some(0, 2):
            crowd.car(_about(lane, 0.0, 0.0, 15.0), _near(way * np.pi / 2, 0.02), gap=0.8)


def _fill_street(crowd: _Crowd, walk: float | None) -> None:
    """A car ahead, oncoming ones, one far away, parked ones, people on the pavements and between the parked cars."""
    start = 5.0 if walk is None else walk + 20
    lead = float(crowd.rng.uniform(4, 9)) if walk is None else 0.0
    crowd.car(_about(start + 11.5, -LANE / 2, 4.5, 0.3), _near(0.0, 0.03), lead, 1.0)
    for k in crowd.some(1, 3):
        speed = float(crowd.rng.uniform(5, 10)) if walk is None else 0.0
        crowd.car(_about(start + 8 + 14 * k, LANE / 2, 4.0, 0.3), _near(np.pi, 0.03), speed, 1.0)
    crowd.car(_about(63.0, -LANE / 2, 3.0), _near(0.0, 0.02), lead, 1.0)
    for side in (-1, 1):
        for k in crowd.some(4, 7):
            x = (-14, 8, -4, 16, 26, 36, 46)[k]
            if walk is not None and abs(x - walk - 4) < 12:
                x -= 26
            with_lane = (side < 0) == (crowd.rng.random() < 0.85)
            crowd.car(_about(x, side * (KERB - 1.15), 2.5), _near(0.0 if with_lane else np.pi, 0.05))
        for _ in crowd.some(2, 4):
            turn = float(crowd.rng.choice([0.0, np.pi])) + float(crowd.rng.normal(0, 0.05))
            crowd.person(_about(17, side * (KERB + 1.55), 15, 1.05), _near(turn, 0.0), crowd.pace())
    if walk is None:
        for _ in crowd.some(1, 2):  # about to cross
            near = crowd.side()
            crowd.person(_about(15.5, near * 4.6, 6.5, 1.0), _near(-near * np.pi / 2, 0.1), 0.0)


def _green(rng: np.random.Generator, kind: Kind, walk: float | None, taken: _Taken) -> None:
    """Trees and lamp posts beside the road, or around the car park."""
    for k in range(10):
        own = rng.spawn(1)[0]
        side = 1.0 if k % 2 else -1.0
        x = -20 + 9.0 * k + own.uniform(-2, 2)
        if walk is not None and walk - 1 < x < walk + 16:
            continue
        spot = (x, side * (KERB + 0.75)) if kind != "lot" else (x, side * own.uniform(22, 30))
        if own.random() < 0.6:
            tree = draw_tree(own)
            taken.put(tree, "scenery", "", spot, float(own.uniform(0, 6)), 0.0, (0.4, 0.4, tree.trunk), 0.2)
        else:
            post = Post(float(own.uniform(5.5, 7.5)), -side * float(own.uniform(1.0, 2.2)))
            taken.put(post, "scenery", "", spot, 0.0, 0.0, (0.2, 0.2, post.height), 0.2)


WALLS = (
    (0.30, 0.13, 0.085), (0.42, 0.36, 0.28), (0.33, 0.32, 0.31), (0.50, 0.46, 0.40), (0.22, 0.17, 0.14), (0.40, 0.28, 0.17),
    (0.24, 0.27, 0.30), (0.46, 0.40, 0.31),
)  # fmt: skip


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _houses(rng: np.random.Generator, kind: Kind, walk: float | None) -> tuple[House, ...]:
    """Two rows of houses along the road with gaps, or around the car park."""
    houses: list[House] = []

    def build(x0: int | float, x1: int | float, y0: int | float, y1: int | float) -> None:
        wall = np.array(WALLS[int(rng.integers(len(WALLS)))]) * rng.uniform(0.8, 1.15)
        trim = np.clip(wall * 1.5 + 0.05, 0, 0.8)
        corner = (float(min(x0, x1)), float(min(y0, y1))), (float(max(x0, x1)), float(max(y0, y1)))
        height, bay, floor = (float(rng.uniform(*span)) for span in ((4.0, 16.0), (1.8, 3.2), (2.8, 3.4)))
        pane = float(rng.uniform(0.4, 0.65)), float(rng.uniform(0.45, 0.62))
        houses.append(House(*corner, height, _rgb(wall), _rgb(trim), bay, floor, pane, len(houses) + 1))

    front = FRONT if kind != "lot" else float(rng.uniform(31, 38))
    for side in (-1.0, 1.0):
        x = -48.0
        while x < 95:
            wide = float(rng.uniform(8, 20))
            back = front + float(rng.choice([0.0, 0.0, 1.5, 4.0]))
            blocked = walk is not None and x + wide > walk + 4.5 and x < walk + 15.5
            if blocked or rng.random() < 0.16:
                x = walk + 16.0 if blocked and walk is not None else x + 7
                continue
            build(x, x + wide, side * back, side * (back + 10))
            x += wide + (0.0 if rng.random() < 0.7 else float(rng.uniform(1.5, 4)))
    if kind == "lot":
        build(40 + rng.uniform(0, 12), 75, -rng.uniform(5, 28), rng.uniform(5, 28))
        build(-40 - rng.uniform(0, 8), -70, -rng.uniform(5, 28), rng.uniform(5, 28))
    elif walk is not None:
        for side in (-1.0, 1.0):
            build(walk + 4.5, walk + 16, side * rng.uniform(38, 48), side * 70)
    else:
        build(125, 140, -rng.uniform(8, 26), rng.uniform(8, 26))
    return tuple(houses)
