"""The verb `batch`: a nuScenes data set and a manifest -> a derived data set whose pictures, sweeps and labels fit each other.

A box is painted in the picture and in the sweep of one sample. What else shows the place stays as it was and is named in the
row's edit.json: the sample's other cameras (unless rows edit them too), and frames between key frames that still show a removed
or replaced object. A new object is in no frame between key frames at all.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, sha256, typed, write_text
from graft_common.panel import panel
from graft_common.pixels import read_picture
from graft_common.provenance import public_config, stamp
from graft_common.rangeview import NUSCENES
from graft_common.raster import write_png
from graft_common.resume import begun, check_same, settings_digest
from mobi import pipeline
from mobi.batch_files import (
    EDITS,
    PANEL,
    RECORD,
    SIGN,
    TABLE,
    WAITING,
    assemble,
    check_names,
    check_out,
    edits_table,
    finished,
    read_rows,
    row_folder,
    write_unit,
)
from mobi.colour import to_rgb
from mobi.config_batch import BatchConfig
from mobi.inputs import read_scene
from mobi.jobs import Shot, Step, Unit, calib, check, first_scene, plan, reference_of
from mobi.manifest import read_manifest
from mobi.nuscenes_tables import Tables, read_tables
from mobi.place import place
from mobi.records import Edit, Scene

PLAN = f"{EDITS}/plan.json"
SHOWN = 8
FREE = ("root", "manifest", "out", "version", "others", "resume", "json", "batch_size", "device")
NOTICE = """Partly synthetic: edited by Graft (graft-mobi batch). Only the layout and what no edit touches is the source's.

edits.csv lists every edited box; edits/ has a folder for each row of the manifest.
"""


@dataclass(eq=False)
class Draft:
    """A sample as its rows change it."""

    unit: Unit
    queue: list[tuple[Shot, Step]]
    sources: dict[str, Scene] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    points: np.ndarray | None = None
    done: dict[int, list[tuple[Step, Edit]]] = field(default_factory=dict)

    def scene(self, tables: Tables, shot: Shot) -> Scene:
        """The scene as the steps before left it."""
        camera = shot.row.camera
        if camera not in self.sources:
            self.sources[camera] = first_scene(tables, self.unit, shot)
        if self.points is None:
            return self.sources[camera]
        return read_scene(self.pictures.get(camera, tables.path(shot.data)), self.points, calib(shot))

    def take(self, shot: Shot, step: Step, edit: Edit) -> None:
        """What a step made is the next one's source."""
        self.pictures[shot.row.camera], self.points = edit.image.stored, edit.sweep.points
        self.done.setdefault(shot.row.number, []).append((step, edit))


def run_batch(config: BatchConfig, command: list[str]) -> dict[str, Any]:
    """Edit every row; finished samples are kept when it is interrupted, and going on gives the same bytes.

    Raises:
        InputError: anything wrong with the tables, the manifest, the files it needs or the settings: said before any work.
    """
    config.check()
    out = checked_out(config.out)
    check_out(config.root, out)
    record = Run(command, config, "graft-mobi")
    with record.stage("read"):
        tables = read_tables(config.root, config.version)
        check_names(tables)
        rows = read_manifest(config.manifest, config.seed)
        record.read("manifest", config.manifest)
        units = plan(tables, rows)
        check(tables, units)
    painter = pipeline.loaded_painter(config, NUSCENES, record, quiet=True)
    size = begin(config, tables, units, record, out)
    if (out / RECORD).is_file():  # everything was written
        shutil.rmtree(out / WAITING, ignore_errors=True)
        with parsing(typed(out / RECORD), "a run's record"):
            return dict(json.loads(read_bytes(out / RECORD)))
    note = stamp("mobi", config.seed, record.weights, record.digests)
    write_text(out / SIGN, NOTICE)
    groups = [units[k : k + size] for k in range(0, len(units), size)]
    with progress("samples", len(units), quiet=config.json) as advance:
        for group in groups:
            # the last bits of a painting depend on its batch, so an unfinished group is painted again whole
            if not all(finished(out, unit) for unit in group):
                for draft in paint(tables, group, painter, config, record):
                    with record.stage("write"):
                        write_unit(tables, draft.unit, draft.done, out, note)
            advance(len(group))
    done = read_rows(out, units)
    files = len(tables.rows["sample_data"]) + len(tables.rows["map"])
    with record.stage("data set"), progress("files", files, quiet=config.json) as advance:
        derived, added = assemble(tables, units, done, out, config, advance)
    write_text(out / TABLE, edits_table(done, added))
    write_png(out / PANEL, sheet(tables, units, done, out), note)
    record.outputs = [TABLE, PANEL, EDITS, SIGN, tables.version, *derived.files]
    record.measures = measures(done) | {"recounted": len(derived.recounted)}
    _say(record.measures)
    said = record.write(out)
    shutil.rmtree(out / WAITING)
    return said


def begin(config: BatchConfig, tables: Tables, units: Sequence[Unit], record: Run, out: Path) -> int:
    """Note what is being done, or find that it is what an interrupted run was doing; returns its --batch-size.

    Raises:
        InputError: the folder holds something else, or a batch that --resume is not given for, or one with other settings.
    """
    path, name = out / PLAN, f"--out {typed(config.out)}"
    settings = public_config(asdict(config))
    kept: dict[str, Any] = {key: value for key, value in settings.items() if key not in FREE}
    paths = {s.job.wish.reference for u in units for shot in u.shots for s in shot.steps} - {None}
    kept |= {
        "weights": record.weights, "manifest": record.digests["manifest"], "version": tables.version,
        "tables": {table: hashlib.sha256(text).hexdigest() for table, text in tables.text.items()},
        "references": [sha256(path) for path in sorted(path for path in paths if path is not None)],
    }  # fmt: skip
    digest, stored = settings_digest(kept), begun(path, config.resume, name, "a batch")
    if stored is not None:
        check_same(stored, digest, name, "data, manifests, weights or settings")
        return int(stored["batch_size"])
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{name}: is not empty; choose a new folder")
    write_json(path, {"batch_size": config.batch_size, "settings": digest})
    return config.batch_size


def paint(
    tables: Tables, units: Sequence[Unit], painter: pipeline.Painter, config: BatchConfig, record: Run
) -> list[Draft]:
    """All steps of some samples: the first of each in one pass through the network, then the second of each, ..."""
    drafts = [Draft(unit, [(shot, step) for shot in unit.shots for step in shot.steps]) for unit in units]
    for turn in range(max(len(draft.queue) for draft in drafts)):
        live = [(draft, *draft.queue[turn]) for draft in drafts if turn < len(draft.queue)]
        with record.stage("read"):
            scenes = [draft.scene(tables, shot) for draft, shot, _ in live]
            references = [reference_of(step, draft.sources[shot.row.camera]) for draft, shot, step in live]
        placed = [
            place(scene, step.box, painter.size, step.job.wish.where) for scene, (_, _, step) in zip(scenes, live, strict=True)
        ]
        seeds = [step.job.wish.seed for _, _, step in live]
        tasks = [step.task for _, _, step in live]
        edits = pipeline.edit_scene(tasks, placed, references, seeds, painter, config, record)
        for (draft, shot, step), edit in zip(live, edits, strict=True):
            draft.take(shot, step, edit)
    return drafts


def measures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts for the run record."""
    edits = [edit for row in rows for edit in row["edits"]]
    kinds = [label["kind"] for row in rows for label in row["labels"]]
    return {
        "rows": len(rows), "boxes": len({edit["box_number"] for edit in edits}),
        "flagged": sum(bool(edit["flags"]) for edit in edits), "warned": sum(bool(edit["warnings"]) for edit in edits),
        "seen_elsewhere": sum(bool(edit["other_cameras"]) for edit in edits),
        "in_other_frames": sum(bool(edit["other_frames"]) for edit in edits),
        "labels": {kind: kinds.count(kind) for kind in ("add", "move", "delete")},
    }  # fmt: skip


def _say(found: dict[str, Any]) -> None:
    """One line for what the user should look into."""
    parts = [
        f"{found[key]} {text}"
        for key, text in (
            ("flagged", "flagged for rejection"), ("seen_elsewhere", "also seen by cameras that keep the old picture"),
            ("in_other_frames", "still shown by frames between key frames"),
        )
        if found[key]
    ]  # fmt: skip
    if parts:
        print(f"graft-mobi batch: of the painted boxes {', '.join(parts)}; see edits.csv and edits/*/edit.json", file=sys.stderr)


def sheet(tables: Tables, units: Sequence[Unit], rows: Sequence[dict[str, Any]], out: Path) -> np.ndarray:
    """The first rows before and after, around their last box; from the files, so a resumed run shows the same."""
    shots = {shot.row.number: shot for unit in units for shot in unit.shots}
    shown = []
    for row in rows[:SHOWN]:
        shot, last = shots[row["row"]], row["edits"][-1]
        left, top, width, height = last["camera_crop"]
        files = (tables.path(shot.data), row_folder(out, shot) / "image.png")
        before, after = (to_rgb(read_picture(file).pixels)[top : top + height, left : left + width] for file in files)
        flagged = " (flagged)" if row["flags"] else ""
        shown.append([(f"{last['asked']} {shot.row.camera}"[:24], before), (f"after{flagged}", after)])
    return panel(shown, "edits (synthetic)")
