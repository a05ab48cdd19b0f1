"""A batch of cases through everything that is compared: paintings, judges, measures (issue's tables)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mobi.answers import EMPTY, MIDDLE, PASTED, TRUTH, Painting, answers, holes
from mobi.cases import Case, other_references
from mobi.config import CompositeConfig
from mobi.metrics import drawn
from mobi.pipeline import Painter, finish
from mobi.place import crops
from mobi.range_table import Trip, range_errors
from mobi.realism import Backbones, patch_features, patches, score_realism
from mobi.records import Edit, Painted, Placed, Scene
from mobi.score import score_camera, score_consistency, score_lidar, score_removal, silhouette

CODED, RIGHT, FLOOR = "truth, autoencoded", "true silhouette, true lidar", "camera and lidar of two samples"
SECOND = 1_000_000_000  # added to a case's seed for a second sample


@dataclass(frozen=True)
class Arm:
    """One way to paint.

    Attributes:
        reference: of this frame, of another frame, of another object, or none (removal).
        painter: key in `Tools.painters`.
        free: into the empty scene instead of over the object.
        second: other noise than the other arms have.
    """

    reference: Literal["own", "tracked", "other"] | None
    painter: str = "plain"
    free: bool = False
    second: bool = False


SAME, TRACKED, NO_BOX, APART, REPLACED, FREE, REMOVED = (
    "same reference", "tracked reference", "no box", "no joint attention", "replacement", "free insertion", "removal",
)  # fmt: skip
OTHERS = {REPLACED: Arm("other"), FREE: Arm("tracked", free=True)}
ARMS = {
    SAME: Arm("own", second=True),
    TRACKED: Arm("tracked"),
    NO_BOX: Arm("tracked", "no box"),
    APART: Arm("tracked", "apart"),
    **OTHERS,
    REMOVED: Arm(None),
    **{f"{name}, {NO_BOX}": replace(arm, painter="no box") for name, arm in OTHERS.items()},
    **{f"{name}, {APART}": replace(arm, painter="apart") for name, arm in OTHERS.items()},
}


@dataclass(frozen=True, eq=False)
class Tools:
    """What paints and what judges.

    Attributes:
        painters: "plain", "no box" (the box token replaced by the trained null vector) and "apart" (no cross-modal attention); an
            arm whose painter is missing is left out.
        image_trip, range_trip: crops through the autoencoders and back.
        networks: of the perceptual numbers.
        yaw: camera crops of cars -> observation angles, radians; None leaves yaw out.
        detector: scenes -> found boxes; None leaves detection out.
    """

    painters: Mapping[str, Painter]
    image_trip: Trip
    range_trip: Trip
    networks: Backbones = field(default_factory=Backbones)
    yaw: Callable[[Float[Tensor, "B 3 D D"]], Float64[np.ndarray, " B"]] | None = None
    detector: Callable[[Sequence[Any]], Sequence[Sequence[Any]]] | None = None


class Sheet:
    """One row a case as it fills: name of the painting -> measure -> number; and the features of patches."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.scores: list[dict[str, dict[str, Any]]] = [{} for _ in cases]
        self.features: list[dict[str, list[float]]] = [{} for _ in cases]

    def add(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Measures of one painting, a row a case."""
        for mine, row in zip(self.scores, rows, strict=True):
            mine.setdefault(name, {}).update(row)

    def add_features(self, name: str, found: Float[np.ndarray, "B d"]) -> None:
        """Of one set of patches; six digits are kept."""
        for mine, row in zip(self.features, found, strict=True):
            mine[name] = [float(f"{v:.6g}") for v in row]

    def rows(self) -> list[dict[str, Any]]:
        """JSON values."""
        return [
            {"case": c.name, "label": c.label, "rain": c.flags[0], "night": c.flags[1], "scores": s, "features": f}
            for c, s, f in zip(self.cases, self.scores, self.features, strict=True)
        ]


def try_batch(cases: Sequence[Case], arms: Sequence[str], tools: Tools, config: CompositeConfig) -> list[dict[str, Any]]:
    """Everything that is measured on these cases, one JSON row each.

    Args:
        cases: of one class, all with truth or all without.
        arms: names in `ARMS`.
    """
    sheet = Sheet(cases)
    placed = [case.placed for case in cases]
    with torch.no_grad():
        sheet.add("range autoencoder", [flat(row) for row in range_errors(placed, tools.image_trip, tools.range_trip)])
    before = patches([p.scene.rgb for p in placed], placed)
    sheet.add_features(TRUTH, patch_features(before, tools.networks.clip))
    trips = _answers(sheet, tools, config) if cases[0].truth is not None else None
    if trips is not None:
        _detect(sheet, TRUTH, [p.scene for p in placed], tools)
    done: dict[str, Painted] = {}
    for name in arms:
        arm = ARMS[name]
        if arm.painter not in tools.painters or (arm.free and cases[0].truth is None):
            continue
        done[name] = _paint(sheet, name, arm, tools, config, trips)
    if trips is not None and SAME in done and TRACKED in done:
        rows = [
            score_consistency(case, drawn(done[SAME].camera[k], trips[0].camera[k], _hole(case)), done[TRACKED].lidar[k])
            for k, case in enumerate(cases)
        ]
        sheet.add(FLOOR, rows)
    return sheet.rows()


def flat(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{"row": {"measure": v}} -> {"row: measure": v}."""
    return {f"{row}: {key}": value for row, measures in table.items() for key, value in measures.items()}


def _hole(case: Case) -> Any:
    return holes(case.placed)[0].numpy()


@dataclass(frozen=True, eq=False)
class _Trips:
    """The empty scenes and those with the object, through the autoencoders."""

    empty: Painted
    full: Painted

    def of(self, k: int) -> tuple[Painting, Painting]:
        return (self.empty.camera[k], self.empty.lidar[k]), (self.full.camera[k], self.full.lidar[k])

    def __getitem__(self, which: int) -> Painted:
        return (self.empty, self.full)[which]


@torch.no_grad()
def _answers(sheet: Sheet, tools: Tools, config: CompositeConfig) -> _Trips:
    """Scores of what no network painted. For shape the camera goes through the autoencoder first, as every painting did. How real
    they look and what the detector finds is asked of the empty scene (the floor), of copy-paste as it is, and of the truth
    through the autoencoders (what a painter can reach at best)."""
    cases = sheet.cases

    def stacked(paint: Callable[[Case], Painting]) -> Painted:
        pairs = [paint(case) for case in cases]
        return Painted(torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs]))

    def coded(p: Painted) -> Painted:
        return Painted(tools.image_trip(p.camera).cpu(), tools.range_trip(p.lidar).cpu())

    table = answers()
    raw = {name: stacked(paint) for name, paint in table.items()}
    trips = _Trips(coded(raw[EMPTY]), coded(raw[TRUTH]))
    _score(sheet, TRUTH, raw[TRUTH], raw[EMPTY].camera, tools)
    sheet.add(
        RIGHT,
        [score_consistency(c, silhouette(c, c.truth), raw[TRUTH].lidar[k]) for k, c in enumerate(cases) if c.truth],
    )
    _score(sheet, CODED, trips.full, trips.empty.camera, tools)
    for name, painted in raw.items():
        if name == TRUTH:
            continue
        if name == MIDDLE:  # of the lidar alone
            sheet.add(name, [score_lidar(c, painted.lidar[k]) for k, c in enumerate(cases)])
        else:
            camera = trips.empty.camera if name == EMPTY else tools.image_trip(painted.camera).cpu()
            _score(sheet, name, Painted(camera, painted.lidar), trips.empty.camera, tools)
    placed, seeds = [case.placed for case in cases], [case.seed for case in cases]
    for name, painted in ((EMPTY, raw[EMPTY]), (PASTED, raw[PASTED]), (CODED, trips.full)):
        edits = _finished("replace", placed, painted, seeds, config)
        _look(sheet, name, edits, painted, [case.tracked for case in cases], tools)
        _detect(sheet, name, _scenes(edits), tools)
    for name, which in ((EMPTY, 0), (TRUTH, 1)):  # what a perfect removal and doing nothing leave
        sheet.add(
            f"removal by {'the true empty scene' if which == 0 else 'doing nothing'}",
            [score_removal(c, (trips[which].camera[k], raw[name].lidar[k]), trips.of(k)) for k, c in enumerate(cases)],
        )
    return trips


def _score(sheet: Sheet, name: str, painted: Painted, blank: Float[Tensor, "B 3 D D"], tools: Tools) -> None:
    """Silhouette, lidar, consistency and yaw against the truth."""
    rows = []
    for k, case in enumerate(sheet.cases):
        camera, lidar = painted.camera[k], painted.lidar[k]
        shown = drawn(camera, blank[k], _hole(case))
        rows.append(score_camera(case, camera, blank[k]) | score_lidar(case, lidar) | score_consistency(case, shown, lidar))
    sheet.add(name, rows)
    sheet.add(name, _yaw(sheet, painted.camera, tools))


def _yaw(sheet: Sheet, camera: Float[Tensor, "B 3 D D"], tools: Tools) -> list[dict[str, Any]]:
    """yaw_gap: degrees between what the regressor sees and how the box stands; cars only."""
    if tools.yaw is None or sheet.cases[0].label != "car":
        return [{} for _ in sheet.cases]
    from mobi.yaw import observation_angle, wrap

    true = np.array([observation_angle(c.placed.box, c.placed.scene.camera) for c in sheet.cases])
    return [{"yaw_gap": float(g)} for g in np.degrees(np.abs(wrap(tools.yaw(camera.clamp(-1, 1)) - true)))]


def _paint(
    sheet: Sheet, name: str, arm: Arm, tools: Tools, config: CompositeConfig, trips: _Trips | None
) -> Painted:
    cases, painter = sheet.cases, tools.painters[arm.painter]
    placed = [case.truth.empty if arm.free and case.truth else case.placed for case in cases]
    others = other_references(cases)
    pictures: list[Any] = [
        {"own": c.reference, "tracked": c.tracked, "other": o.reference, None: None}[arm.reference]
        for c, o in zip(cases, others, strict=True)
    ]
    seeds = [case.seed + (SECOND if arm.second else 0) for case in cases]
    painted = painter(crops(placed, pictures), seeds)
    task = "remove" if arm.reference is None else "insert" if arm.free else "replace"
    edits = _finished(task, placed, painted, seeds, config)
    sheet.add(name, [{"flagged": float(bool(edit.flags))} for edit in edits])
    if arm.reference is None:
        sheet.add(name, [_standing(edit) for edit in edits])
        if trips is not None:
            pairs = [(painted.camera[k], painted.lidar[k]) for k in range(len(cases))]
            sheet.add(name, [score_removal(c, pairs[k], trips.of(k)) for k, c in enumerate(cases)])
    else:
        if trips is not None:
            _score(sheet, name, painted, trips.empty.camera, tools)
        _look(sheet, name, edits, painted, pictures, tools)
    if trips is not None:
        _detect(sheet, name, _scenes(edits), tools)
    return painted


def _finished(
    task: str, placed: Sequence[Placed], painted: Painted, seeds: Sequence[int], config: CompositeConfig
) -> list[Edit]:
    """Paintings put back into their scenes."""
    rows = zip(placed, painted.camera, painted.lidar, seeds, strict=True)
    return [finish(task, p, camera, lidar, seed, config) for p, camera, lidar, seed in rows]


def _scenes(edits: Sequence[Edit]) -> list[Scene]:
    """As a detector gets them."""
    return [replace(e.placed.scene, rgb=e.image.rgb, points=e.sweep.points) for e in edits]


def _look(sheet: Sheet, name: str, edits: Sequence[Edit], painted: Painted, pictures: Sequence[Any], tools: Tools) -> None:
    """How real the edits look beside the scenes with their objects; `pictures` are the references."""
    rows, found = score_realism(edits, painted, [c.placed for c in sheet.cases], pictures, tools.networks)
    sheet.add(name, rows)
    sheet.add_features(name, found)


def _standing(edit: Edit) -> dict[str, Any]:
    """Returns in the box more than 0.2 m over its bottom, as a share of those before the edit."""
    before, after = edit.measures["standing_before"], edit.measures["standing_after"]
    return {"standing_share": after / before if before else None}


def _detect(sheet: Sheet, name: str, scenes: Sequence[Any], tools: Tools) -> None:
    """found (1 or 0), and ate, ase, aoe where it was, of the edited object alone (nuScenes matching at 2 m)."""
    if tools.detector is None:
        return
    from mobi.detector_metrics import ERRORS, Marked, match, pairs

    rows: list[dict[str, Any]] = []
    for case, boxes in zip(sheet.cases, tools.detector(scenes), strict=True):
        assert case.truth is not None
        marked = [Marked(*item) for item in case.truth.boxes]
        own = pairs(match([marked], [boxes], case.label), [[case.truth.own]])
        rows.append({"found": float(len(own))} | (dict(zip(ERRORS, map(float, own[0]), strict=True)) if len(own) else {}))
    sheet.add(name, rows)
