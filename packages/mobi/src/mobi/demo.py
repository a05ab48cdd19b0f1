"""`graft-mobi demo`: objects inserted, replaced, removed and turned in drawn scenes, beside their truth; what the gallery shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from graft_common.console import Run, checked_out, progress, write_json
from graft_common.metrics import metrics_json
from graft_common.panel import panel
from graft_common.provenance import stamp
from graft_common.rangeview import NUSCENES, points_in_box
from graft_common.raster import write_png
from mobi import pipeline
from mobi.cases import Case, draw_case, pick_objects
from mobi.config import CompositeConfig
from mobi.config_batch import DemoConfig
from mobi.metrics import left_over
from mobi.panels import birds_eye
from mobi.place import place
from mobi.records import Edit, Placed
from mobi.write import write_edit

FIRST = 10_000_323  # held-out scenes from here upward, --seed further
PICTURE = (400, 225)  # width, height
EACH = 2  # cars, and as many pedestrians
STEPS = 25
TURNS = range(0, 360, 60)
AT_ONCE = 7
Shown = list[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]


@dataclass(frozen=True, eq=False)
class Task:
    """One edit: the name of its folder, the verb, where, the reference, and the case whose truth it is held against."""

    name: str
    verb: str
    placed: Placed
    reference: UInt8[np.ndarray, "_ _ 3"] | None
    case: Case


def run_demo(config: DemoConfig, command: list[str]) -> dict[str, Any]:
    """Write the edits' folders, panel.png, metrics.json and run.json.

    Raises:
        InputError: unknown weights, or a folder that cannot be written.
    """
    config.check()
    out = checked_out(config.out)
    record = Run(command, config, "graft-mobi")
    shared = {name: getattr(config, name) for name in ("weights", "device", "dtype", "compile", "seed")}
    settings = CompositeConfig(steps=STEPS, **shared)
    painter = pipeline.loaded_painter(settings, NUSCENES, record, quiet=True)
    with record.stage("draw"):
        cases = [draw_case(pick, PICTURE, painter.size) for pick in pick_objects(EACH, FIRST + config.seed, PICTURE)]
    tasks = plan(cases)
    edits: list[Edit] = []
    with progress("edits", len(tasks), quiet=config.json) as advance:
        for first in range(0, len(tasks), AT_ONCE):
            part = tasks[first : first + AT_ONCE]
            edits += pipeline.edit_scene(
                [t.verb for t in part], [t.placed for t in part], [t.reference for t in part], [t.case.seed for t in part],
                painter, settings, record,
            )  # fmt: skip
            advance(len(part))
    note = stamp("mobi", config.seed, record.weights, {})
    with record.stage("write"):
        for task, edit in zip(tasks, edits, strict=True):
            record.outputs += [f"{task.name}/{name}" for name in write_edit(edit, out / task.name, note)]
            if task.reference is not None:
                write_png(out / task.name / "reference.png", task.reference, note)
                record.outputs.append(f"{task.name}/reference.png")
        write_png(out / "panel.png", panel(rows(tasks, edits), "graft-mobi demo (synthetic)"), note)
        write_json(out / "metrics.json", metrics_json("mobi", "demo", scores(tasks, edits), {}))
    record.outputs = ["panel.png", "metrics.json", *record.outputs]
    record.measures = {"edits": len(edits), "flagged": [t.name for t, e in zip(tasks, edits, strict=True) if e.flags]}
    return record.write(out)


def plan(cases: Sequence[Case]) -> list[Task]:
    """Each object inserted into its empty scene as another frame shows it, and removed from its own; the first of a class replaced
    by the second; the car turned that shows best."""
    tasks = []
    count: dict[str, int] = {}
    for case in cases:
        assert case.truth is not None and case.tracked is not None  # drawn
        number = count[case.label] = count.get(case.label, 0) + 1
        name = f"{case.label}_{number}"
        tasks += [
            Task(f"insert_{name}", "insert", case.truth.empty, case.tracked, case),
            Task(f"remove_{name}", "remove", case.placed, None, case),
        ]
    for label in count:
        one, other = [case for case in cases if case.label == label][:2]
        tasks.append(Task(f"replace_{label}", "replace", one.placed, other.reference, one))
    car = max((case for case in cases if case.label == "car"), key=shows)
    for degrees in TURNS:
        assert car.truth is not None
        empty = car.truth.empty
        turned = place(empty.scene, empty.box.turned(np.radians(degrees)), empty.size)
        tasks.append(Task(f"turn_{degrees:03d}", "insert", turned, car.tracked, car))
    return tasks


def shows(case: Case) -> tuple[bool, float]:
    """Ranks cases for a turntable: first whether the box comes too near at no heading, then its hole's share that is object."""
    assert case.truth is not None
    box = case.placed.box
    nearest = np.hypot(*box.centre[:2]) - np.hypot(*box.size[:2]) / 2
    return bool(nearest > NUSCENES.near), float((case.truth.silhouette & case.placed.hole).sum() / case.placed.hole.sum())


def rows(tasks: Sequence[Task], edits: Sequence[Edit]) -> list[Shown]:
    """A row for each edit, the turntable's views in one."""
    shown: list[Shown] = []
    turns: Shown = []
    for task, edit in zip(tasks, edits, strict=True):
        if task.name.startswith("turn_"):
            turns.append((f"turned by {int(task.name[5:])} degrees", window(edit.placed, edit.image.rgb)))
            continue
        scene, box, case = task.placed.scene, task.placed.box, task.case
        reference: Shown = [] if task.reference is None else [("reference", task.reference)]
        truth: Shown = []
        if task.verb != "replace":
            assert case.truth is not None
            other = case.placed if task.verb == "insert" else case.truth.empty
            truth = [("drawn truth", window(task.placed, other.scene.rgb))]
        shown.append(
            [
                (f"{task.verb}: before", window(task.placed, scene.rgb)), *reference,
                ("after", window(task.placed, edit.image.rgb)), *truth, ("lidar before", birds_eye(scene.points, box)),
                ("lidar after (new magenta)", birds_eye(edit.sweep.points, box, edit.sweep.n_new)),
            ]
        )  # fmt: skip
    return [*shown, turns]


def window(placed: Placed, rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The camera crop of a picture."""
    crop = placed.camera_crop
    return rgb[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def scores(tasks: Sequence[Task], edits: Sequence[Edit]) -> dict[str, list[float]]:
    """Metric -> one number an edit, of the edited files against the drawn truth.

    insert_camera_error, remove_camera_error: |after - truth| / |before - truth| inside the object's silhouette; 1 = nothing done.
    insert_in_box_share: of the rays through the box, the share that returns in it. insert_agreement: as in edit.json (f1).
    insert_returns: returns in the box, as a share of the true ones. remove_returns_left: returns above the ground in the box, as a
    share of those before.
    """
    found: dict[str, list[float]] = {}
    for task, edit in zip(tasks, edits, strict=True):
        kind, case = task.name.split("_")[0], task.case
        assert case.truth is not None
        if kind == "insert":
            truth = case.placed.scene
            values = {
                "camera_error": leftover(edit.image.rgb, truth.rgb, task.placed.scene.rgb, case.truth.silhouette),
                "in_box_share": edit.measures["in_box_share"], "agreement": edit.measures["agreement"]["f1"],
                "returns": ratio(edit.measures["points_in_box_after"], held(case.placed)),
            }  # fmt: skip
        elif kind == "remove":
            truth = case.truth.empty.scene
            values = {
                "camera_error": leftover(edit.image.rgb, truth.rgb, task.placed.scene.rgb, case.truth.silhouette),
                "returns_left": ratio(edit.measures["standing_after"], edit.measures["standing_before"]),
            }
        else:
            continue
        for name, value in values.items():
            if value is not None:
                found.setdefault(f"{kind}_{name}", []).append(float(value))
    return found


def held(placed: Placed) -> int:
    """Returns of the scene in the box."""
    return int(points_in_box(placed.scene.points, placed.box).sum())


def leftover(
    after: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"], before: UInt8[np.ndarray, "H W 3"],
    where: Bool[np.ndarray, "H W"],
) -> float | None:  # fmt: skip
    """`metrics.left_over` of pictures."""
    done, true, old = (torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float64)) for rgb in (after, truth, before))
    return left_over(done, true, old, where)


def ratio(part: int, whole: int) -> float | None:
    """part / whole; None for nothing."""
    return part / whole if whole else None
