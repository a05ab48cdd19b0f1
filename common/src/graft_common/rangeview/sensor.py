"""A spinning lidar as data: where each row of its range view looks, how many columns, how far it sees. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from graft_common.errors import InputError

Number = int | float
Frame = Literal["right-forward-up", "forward-left-up"]
Side = Literal["right", "forward", "left", "back"]

NEAR, FAR = 1.4, 54.0
"""Metres; returns strictly between are kept (mobi spec 2.2)."""

# Clockwise turn, seen from above, from the x axis to each side.
_TURN = {
    "right-forward-up": {"right": 0.0, "forward": -0.5, "left": 1.0, "back": 0.5},
    "forward-left-up": {"forward": 0.0, "left": -0.5, "back": 1.0, "right": 0.5},
}


@dataclass(frozen=True)
class Sensor:
    """One row per beam, row 0 the highest.

    Attributes:
        name: for messages and files.
        elevation: radians per row, up positive, strictly descending.
        azimuth: radians per row, clockwise seen from above: where the beam points from its firing's direction.
        rings: the number that the sweep's files give each row's beam (nuScenes: 31 for row 0, 0 for row 31).
        columns: W, firings around the full circle.
        near, far: metres; returns with near < range < far are kept.
        frame: what the points' x, y, z mean. Yaw is -atan2(y, x) in every frame, so column 0 is at -x.
        source: where the angles come from.

    Raises:
        InputError: the numbers do not describe a sensor.
    """

    name: str
    elevation: tuple[Number, ...]
    azimuth: tuple[Number, ...]
    rings: tuple[int, ...]
    columns: int
    near: Number = NEAR
    far: Number = FAR
    frame: Frame = "right-forward-up"
    source: str = ""

    def __post_init__(self) -> None:
        def wrong(what: str, cure: str) -> InputError:
            return InputError(f"sensor {self.name}: {what}; {cure}")

        n = len(self.elevation)
        if n < 2 or len(self.azimuth) != n or len(self.rings) != n:
            raise wrong(
                f"{n} elevations, {len(self.azimuth)} azimuth offsets, {len(self.rings)} rings",
                "give one of each per row, for at least 2 rows",
            )
        if not all(math.isfinite(a) for a in (*self.elevation, *self.azimuth)):
            raise wrong("an angle is not finite", "repair the calibration")
        for above, below in zip(self.elevation, self.elevation[1:], strict=False):
            if not above > below:
                raise wrong(
                    f"elevation {below} follows {above}",
                    "give distinct elevations from the highest beam to the lowest",
                )
        if max(map(abs, self.elevation)) >= math.pi / 2 or max(map(abs, self.azimuth)) > math.pi:
            raise wrong("an elevation is beyond 90 or an azimuth offset beyond 180 degrees", "give radians")
        if len(set(self.rings)) != n or min(self.rings) < 0:
            raise wrong("ring numbers repeat or are negative", "number each row's beam once, from 0")
        if self.columns < 8:
            raise wrong(f"{self.columns} columns", "give the number of firings around the circle, at least 8")
        if not 0 < self.near < self.far < math.inf:
            raise wrong(f"limits {self.near} and {self.far} m", "give 0 < near < far")
        if self.frame not in _TURN:
            raise wrong(f"frame {self.frame}", f"choose one of {', '.join(_TURN)}")

    @property
    def rows(self) -> int:
        """H, the number of beams."""
        return len(self.elevation)

    @cached_property
    def even(self) -> bool:
        """Whether the beams are equally spaced, so that a row is a linear function of pitch."""
        top, n = self.elevation[0], self.rows
        step = (self.elevation[-1] - top) / (n - 1)
        return all(abs(top + k * step - e) < 1e-9 for k, e in enumerate(self.elevation))

    @cached_property
    def offset(self) -> bool:
        """Whether any beam points aside from its firing."""
        return any(self.azimuth)

    def column_of(self, side: Side) -> int:
        """The column that starts at this side of the vehicle: nuScenes has right 548, forward 274, back 822."""
        return int(self.columns * (_TURN[self.frame][side] + 1) / 2) % self.columns


def sensor_from_degrees(
    name: str,
    elevation: Sequence[Number],
    azimuth: Sequence[Number],
    rings: Sequence[int],
    columns: int,
    near: Number = NEAR,
    far: Number = FAR,
    frame: Frame = "forward-left-up",
    source: str = "",
) -> Sensor:
    """A sensor from beams in any order, in degrees (elevation up, azimuth clockwise): sorted from the highest down.

    Raises:
        InputError: as `Sensor`; two beams of one elevation cannot be told apart by angle and are refused.
    """
    if not len(elevation) == len(azimuth) == len(rings):
        raise InputError(
            f"sensor {name}: {len(elevation)} elevations, {len(azimuth)} azimuth offsets, {len(rings)} rings;"
            " give one of each per beam"
        )
    order = sorted(range(len(elevation)), key=lambda k: -elevation[k])
    return Sensor(
        name=name,
        elevation=tuple(math.radians(elevation[k]) for k in order),
        azimuth=tuple(math.radians(azimuth[k]) for k in order),
        rings=tuple(rings[k] for k in order),
        columns=columns,
        near=near,
        far=far,
        frame=frame,
        source=source,
    )


NUSCENES = Sensor(
    name="nuscenes",
    elevation=tuple(0.0232 * (8 - row) for row in range(32)),
    azimuth=(0.0,) * 32,
    rings=tuple(31 - row for row in range(32)),
    columns=1096,
    source="HDL-32E of nuScenes as the paper grids it: beam k at 0.0232 (k - 23) rad (mobi spec 2.2)",
)
"""32 x 1096; lidar frame x right, y forward, z up; ring 0 is the lowest beam."""
