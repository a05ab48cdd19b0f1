"""nuScenes detection measures: matching by distance, AP, ATE, ASE, AOE (mobi spec section 6; Caesar et al. 2020, 3.1)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from graft_common.rangeview import Box3d

RADII = (0.5, 1.0, 2.0, 4.0)
"""Metres between centres within which a box counts as found; AP is the mean over all, errors are taken at 2 m."""
ERROR_RADIUS = 2.0
REACH = {"car": 50.0, "pedestrian": 40.0}
"""Metres from the sensor within which a class is judged."""
LEAST_RECALL, LEAST_PRECISION, STEPS = 0.1, 0.1, 101
ERRORS = ("ate", "ase", "aoe")


class Marked(NamedTuple):
    """A true box and its class."""

    box: Box3d
    label: str


@runtime_checkable
class Named(Protocol):
    """A box with a class: `Marked` or `detector.Detection`."""

    @property
    def box(self) -> Box3d: ...

    @property
    def label(self) -> str: ...


@runtime_checkable
class Scored(Named, Protocol):
    """A found box: `detector.Detection`."""

    @property
    def score(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Matches:
    """One class's P found boxes of all scenes, the likeliest first, against its true ones.

    Attributes:
        scores: as the detector gave them.
        hit: whether the box took a true one.
        scene: number of the scene that it lies in.
        truth: number of the true box in its scene's list (all classes counted), -1 where none was taken.
        errors: (P, 3) ATE (m), ASE (0..1), AOE (rad, 0..pi); NaN where none was taken.
        n_truth: true boxes in all scenes.
    """

    scores: Float64[np.ndarray, " P"]
    hit: Bool[np.ndarray, " P"]
    scene: Int64[np.ndarray, " P"]
    truth: Int64[np.ndarray, " P"]
    errors: Float64[np.ndarray, "P 3"]
    n_truth: int

    @property
    def recall(self) -> float:
        """Share of the true boxes that were found; NaN without any."""
        return float(self.hit.sum() / self.n_truth) if self.n_truth else float("nan")


def distance(a: Box3d, b: Box3d) -> float:
    """Metres between the centres seen from above."""
    return float(np.hypot(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]))


def size_error(a: Box3d, b: Box3d) -> float:
    """1 - IoU of the two sizes with centres and headings aligned, 0..1."""
    mine, other = np.array(a.size, np.float64), np.array(b.size, np.float64)
    common = np.minimum(mine, other).prod()
    return float(1 - common / (mine.prod() + other.prod() - common))


def turn_error(a: Box3d, b: Box3d) -> float:
    """Least angle between the headings, radians, 0..pi."""
    return float(abs((a.yaw - b.yaw + np.pi) % (2 * np.pi) - np.pi))


def match(
    truth: Sequence[Sequence[Named]], found: Sequence[Sequence[Scored]], label: str, radius: float = ERROR_RADIUS
) -> Matches:
    """Each found box, by falling score over all scenes, takes the nearest true box of its scene and class that is still free, if
    it lies nearer than `radius`.

    Args:
        truth, found: one list for each scene, in one frame whose origin is the sensor; boxes beyond `REACH` are left out.

    Raises:
        ValueError: the number of scenes differs.
    """
    if len(truth) != len(found):
        raise ValueError(
            f"{len(truth)} scenes of true boxes, {len(found)} of found ones; give one list each for every scene"
        )
    wanted = [[k for k, t in enumerate(scene) if t.label == label and _near(t)] for scene in truth]
    flat = [(f.score, s, f.box) for s, scene in enumerate(found) for f in scene if f.label == label and _near(f)]
    # equal scores: the later box first, as the devkit sorts
    order = sorted(range(len(flat)), key=lambda k: (flat[k][0], k), reverse=True)
    free = [set(scene) for scene in wanted]
    took, errors = np.full(len(flat), -1), np.full((len(flat), 3), np.nan)
    for rank, k in enumerate(order):
        _, s, box = flat[k]
        best = min(sorted(free[s]), key=lambda t: distance(truth[s][t].box, box), default=None)
        if best is not None and distance(real := truth[s][best].box, box) < radius:
            free[s].remove(best)
            took[rank] = best
            errors[rank] = distance(real, box), size_error(real, box), turn_error(real, box)
    return Matches(
        np.array([flat[k][0] for k in order], np.float64), took >= 0, np.array([flat[k][1] for k in order], np.int64), took, errors,
        sum(map(len, wanted)),
    )  # fmt: skip


def _near(item: Named) -> bool:
    return bool(np.hypot(*item.box.centre[:2]) < REACH[item.label])


def _curve(matches: Matches) -> tuple[Float64[np.ndarray, " 101"], Float64[np.ndarray, " 101"]]:
    """(precision, score) at recall 0, 0.01 ... 1; 0 beyond the highest recall that is reached."""
    grid = np.linspace(0, 1, STEPS)
    if not matches.hit.any():
        return np.zeros(STEPS), np.zeros(STEPS)
    right, wrong = matches.hit.cumsum(), (~matches.hit).cumsum()
    recall = right / matches.n_truth
    precision = np.interp(grid, recall, right / (right + wrong), right=0)
    return precision, np.interp(grid, recall, matches.scores, right=0)


def average_precision(matches: Matches) -> float:
    """Area under the precision above 0.1 and the recall above 0.1, as a share of what is there (0..1)."""
    precision, _ = _curve(matches)
    kept = precision[round(100 * LEAST_RECALL) + 1 :] - LEAST_PRECISION
    return float(kept.clip(0).mean() / (1 - LEAST_PRECISION))


def official_errors(matches: Matches) -> dict[str, float]:
    """ATE, ASE and AOE as nuScenes averages them: the running mean over the hits so far, at each recall from 0.11 to the highest
    that is reached, then the mean of those; 1 where recall stays below that."""
    _, score = _curve(matches)
    reached = int(np.flatnonzero(score)[-1]) if score.any() else 0
    first = round(100 * LEAST_RECALL) + 1
    if reached < first:
        return dict.fromkeys(ERRORS, 1.0)
    hits, at = matches.errors[matches.hit], matches.scores[matches.hit]
    running = hits.cumsum(0) / np.arange(1, len(hits) + 1)[:, None]
    found = {}
    for name, column in zip(ERRORS, running.T, strict=True):
        by_recall = np.interp(score[::-1], at[::-1], column[::-1])[::-1]
        found[name] = float(by_recall[first : reached + 1].mean())
    return found


def pairs(matches: Matches, chosen: Sequence[Collection[int]] | None = None) -> Float64[np.ndarray, "K 3"]:
    """ATE, ASE, AOE of every hit, in no order that matters; with `chosen` only of the true boxes numbered there, scene by scene.

    These are what the paper reports for edited objects: their plain means, with no score threshold (spec section 6).
    """
    kept = matches.hit.copy()
    if chosen is not None:
        # of no found boxes at all the list is empty, which NumPy would take for floats
        kept &= np.array([t in chosen[s] for s, t in zip(matches.scene, matches.truth, strict=True)], bool)
    return matches.errors[kept]


def evaluate_boxes(
    truth: Sequence[Sequence[Named]], found: Sequence[Sequence[Scored]], labels: Sequence[str] = ("car", "pedestrian")
) -> dict[str, dict[str, float]]:
    """By class: ap (mean over `RADII`), recall, ate, ase, aoe (all at 2 m) and n, the true boxes; "all": their mAP."""
    table: dict[str, dict[str, float]] = {}
    for label in labels:
        at = match(truth, found, label)
        ap = np.mean([average_precision(match(truth, found, label, radius)) for radius in RADII])
        table[label] = {"n": float(at.n_truth), "ap": float(ap), "recall": at.recall, **official_errors(at)}
    table["all"] = {"map": float(np.mean([table[label]["ap"] for label in labels]))}
    return table
