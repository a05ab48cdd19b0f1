"""What `batch` writes: a folder for each row, edited files as they wait for the end, then the data set itself."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Shaped

from graft_common import raster
from graft_common.console import write_json
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed, write_bytes
from graft_common.pixels import read_picture
from graft_common.raster import write_png
from mobi.config_batch import BatchConfig
from mobi.elsewhere import frames_that_show, other_cameras
from mobi.jobs import Job, Shot, Step, Unit
from mobi.nuscenes_tables import Tables
from mobi.nuscenes_write import Add, Delete, Derived, Move, write_derived
from mobi.nuscenes_write import Edit as LabelEdit
from mobi.poses import Upright, to_global
from mobi.prepare import Frame, table
from mobi.records import Edit
from mobi.write import describe

EDITS, WAITING, PART = "edits", "edits/files", ".tree.part"
TABLE, PANEL, RECORD, SIGN = "edits.csv", "panel.png", "run.json", "SYNTHETIC.txt"
OWN = (EDITS, PART, TABLE, PANEL, RECORD, SIGN)
"""What lies beside the data set in --out."""
LABELS: dict[str, type[Add] | type[Move] | type[Delete]] = {"add": Add, "move": Move, "delete": Delete}
LEVELS = ((0.4, "v0-40"), (0.6, "v40-60"), (0.8, "v60-80"), (1.0, "v80-100"))
COLUMNS = (
    "row", "box", "sample", "camera", "asked", "task", "annotation", "n_kept", "n_removed", "n_new", "in_box_share", "flags",
    "warnings",
)  # fmt: skip


@dataclass(frozen=True)
class Files(Mapping[str, bytes]):
    """File name of the data set -> edited bytes, read when they are asked for."""

    folder: Path
    names: frozenset[str]

    def __getitem__(self, name: str) -> bytes:
        if name not in self.names:
            raise KeyError(name)
        return read_bytes(self.folder / name)

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the file
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def row_folder(out: Path, shot: Shot) -> Path:
    """Where a row's own files go."""
    return out / EDITS / f"{shot.row.number:04d}"


def finished(out: Path, unit: Unit) -> bool:
    """Whether everything of a sample is there: its rows' records are written last."""
    waiting = [*(shot.data["filename"] for shot in unit.shots), unit.frame.lidar["filename"]]
    return all((row_folder(out, shot) / "edit.json").is_file() for shot in unit.shots) and all(
        (out / WAITING / name).is_file() for name in waiting
    )


def write_unit(
    tables: Tables, unit: Unit, done: Mapping[int, Sequence[tuple[Step, Edit]]], out: Path, note: dict[str, Any]
) -> None:
    """Write a sample's edited files and its rows.

    A row has image.png (without loss), mask.png (all its holes) and edit.json. The data set's picture keeps its own coding:
    of a JPEG the quantisation tables, so that blocks far from the holes come out nearly as they were.

    Args:
        done: row number -> its steps with what came of them, in order.
        note: provenance.
    """
    for shot in unit.shots:
        edits = [edit for _, edit in done[shot.row.number]]
        own = {**note, "seed": edits[-1].seed, "synthetic": True}
        picture, path = edits[-1].image.stored, tables.path(shot.data)
        icc = read_picture(path).source.carried  # an earlier box's result, which a later one starts from, has lost it
        folder = row_folder(out, shot)
        write_bytes(out / WAITING / shot.data["filename"], encode_like(read_bytes(path), picture, own, typed(path)))
        write_bytes(folder / "image.png", raster.encode(picture, "png", own, icc if isinstance(icc, bytes) else None))
        hole = np.logical_or.reduce([edit.placed.hole for edit in edits])
        write_png(folder / "mask.png", hole.astype(np.uint8) * np.uint8(255), own)
    last = done[unit.shots[-1].row.number][-1][1]
    write_bytes(out / WAITING / unit.frame.lidar["filename"], last.sweep.points.astype("<f4").tobytes())
    for shot in unit.shots:
        content = describe_row(tables, unit.frame, shot, done[shot.row.number])
        write_json(row_folder(out, shot) / "edit.json", content | {"provenance": {**note, "synthetic": True}})


def encode_like(
    source: bytes, stored: Shaped[np.ndarray, "H W *C"], note: dict[str, Any], where: str = "picture"
) -> bytes:
    """The picture in the source's format, with its colour profile; a JPEG with its quantisation tables and chroma sampling, and
    the note as comment."""
    from PIL import Image, JpegImagePlugin

    kind = raster.kind_of(source)
    coding: dict[str, Any] = {}
    with parsing(where, "a picture"), Image.open(io.BytesIO(source)) as opened:
        icc = opened.info.get("icc_profile")
        if kind == "jpeg":
            coding["qtables"] = opened.quantization  # type: ignore[attr-defined]
            sampling = JpegImagePlugin.get_sampling(opened)
            if sampling >= 0 and stored.ndim == 3:
                coding["subsampling"] = sampling
    if kind != "jpeg":
        return raster.encode(stored, kind or "png", note, icc)
    out, comment = io.BytesIO(), json.dumps(note, sort_keys=True).encode()
    Image.fromarray(stored).save(out, "JPEG", comment=comment, icc_profile=icc, **coding)
    return out.getvalue()


def describe_row(tables: Tables, frame: Frame, shot: Shot, done: Sequence[tuple[Step, Edit]]) -> dict[str, Any]:
    """The content of a row's edit.json but for its provenance: JSON values."""
    edits = [describe_step(tables, frame, shot, step, edit) for step, edit in done]
    last = {step.job.wish.number: (step.job, edit) for step, edit in done}  # of a move the insertion comes last
    labels = [label for number in sorted(last) for label in label_edits(tables, frame, *last[number])]
    return {
        "synthetic": True, "row": shot.row.number, "sample": shot.row.sample, "camera": shot.row.camera,
        "picture": shot.data["filename"], "sweep": frame.lidar["filename"], "labels": labels,
        "flags": [flag for edit in edits for flag in edit["flags"]],
        "warnings": [warning for edit in edits for warning in edit["warnings"]],
        "edits": edits,
    }  # fmt: skip


def describe_step(tables: Tables, frame: Frame, shot: Shot, step: Step, edit: Edit) -> dict[str, Any]:
    """One box: as a scene's edit.json, and what else shows it."""
    cameras = other_cameras(frame, step.box, (shot.row.camera, *step.job.edited))
    shows: list[str] = []
    if step.task != "insert":
        shows = frames_that_show(tables, frame, global_box(tables, frame, step.box), step.job.annotation)
    warnings = list(edit.warnings)
    if cameras:
        warnings.append(f"{', '.join(cameras)} also see{'s' if len(cameras) == 1 else ''} the box and keep the old picture")
    if shows:
        warnings.append(f"{len(shows)} frames between key frames still show the old object")
    wish = step.job.wish
    return describe(edit) | {
        "box_number": wish.number, "asked": wish.task, "annotation": wish.annotation, "other_cameras": cameras,
        "other_frames": shows, "warnings": warnings,
    }  # fmt: skip


def global_box(tables: Tables, frame: Frame, box: Any) -> dict[str, list[float]]:
    """Translation, size and rotation of a lidar frame's box, as sample_annotation holds them."""
    width, length, height = (float(v) for v in box.size)
    x, y, z = (float(v) for v in box.centre)
    upright = Upright((x, y, z), (length, width, height), float(box.yaw))
    return to_global(upright, tables.sensor_pose(frame.lidar), tables.ego_pose(frame.lidar))


def label_edits(tables: Tables, frame: Frame, job: Job, edit: Edit) -> list[dict[str, Any]]:
    """What becomes of the labels: JSON forms of `Add`, `Move` and `Delete`, with their `kind` and the box's number."""
    wish, row = job.wish, job.annotation
    if not job.labels:
        return []
    found: list[dict[str, Any]] = []
    renamed = row is not None and wish.category is not None and wish.category != tables.category(row)
    if row is not None and (wish.task == "remove" or renamed):
        found.append({"kind": "delete"} | asdict(Delete(annotation=row["token"])))
    place = global_box(tables, frame, job.box) if row is None or wish.task == "move" else _place_of(row)
    seen = visibility(tables, edit)
    if row is not None and wish.task == "move":
        found.append({"kind": "move"} | asdict(Move(annotation=row["token"], visibility=seen, **place)))
    if wish.category is not None and (row is None or renamed):
        names = {r["name"]: token for token, r in tables.rows["attribute"].items()}
        attributes = () if wish.attribute is None else (names[wish.attribute],)
        add = Add(
            sample=frame.sample["token"], category=wish.category, attributes=attributes, visibility=seen,
            translation=place["translation"], size=place["size"], rotation=place["rotation"],
        )  # fmt: skip
        found.append({"kind": "add"} | asdict(add))
    return [label | {"box_number": wish.number} for label in found]


def _place_of(row: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: list(row[name]) for name in ("translation", "size", "rotation")}


def visibility(tables: Tables, edit: Edit) -> str:
    """Token of the share of the hole that nothing hides as far as the sweep shows; "" where the table has no such level."""
    hole = int(edit.placed.hole.sum())
    share = 1 - int(edit.image.occluder.sum()) / hole
    level = next(name for most, name in LEVELS if share <= most)
    return next((token for token, row in tables.rows["visibility"].items() if row["level"] == level), "")


def read_rows(out: Path, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """The rows' edit.json, in the manifest's order. Raises InputError where one is damaged."""
    rows = []
    for shot in sorted((shot for unit in units for shot in unit.shots), key=lambda shot: shot.row.number):
        path = row_folder(out, shot) / "edit.json"
        with parsing(typed(path), "an edit's record"):
            rows.append(dict(json.loads(read_bytes(path))))
    return rows


def assemble(
    tables: Tables, units: Sequence[Unit], rows: Sequence[dict[str, Any]], out: Path, config: BatchConfig,
    advance: Callable[[int], None],
) -> tuple[Derived, dict[int, str]]:  # fmt: skip
    """Write the data set beside everything else and move it into place, the tables last.

    New labels' tokens depend on the source's, so that a batch on what a batch made gives none twice.

    Returns:
        What `write_derived` says, and the token of each new label by the number of its box.
    """
    labels = [label for row in rows for label in row["labels"]]
    names = frozenset(row[kind] for row in rows for kind in ("picture", "sweep"))
    part = out / PART
    shutil.rmtree(part, ignore_errors=True)
    key = int(hashlib.sha256(tables.text["sample_annotation"]).hexdigest()[:12], 16) + config.seed
    derived = write_derived(
        tables, part, [_label(label) for label in labels], Files(out / WAITING, names), key, config.others, advance
    )
    shutil.rmtree(out / tables.version, ignore_errors=True)  # without tables, nothing half-moved loads
    for name in sorted(os.listdir(part), key=lambda name: (name == tables.version, name)):
        shutil.rmtree(out / name, ignore_errors=True)  # of an interrupted move
        (part / name).rename(out / name)
    part.rmdir()
    new = [label["box_number"] for label in labels if label["kind"] == "add"]
    return derived, dict(zip(new, derived.added, strict=True))


def _label(content: Mapping[str, Any]) -> LabelEdit:
    fields = {key: value for key, value in content.items() if key not in ("kind", "box_number")}
    if "attributes" in fields:
        fields["attributes"] = tuple(fields["attributes"])
    return LABELS[content["kind"]](**fields)


def edits_table(rows: Sequence[dict[str, Any]], added: Mapping[int, str]) -> str:
    """edits.csv: a line for each box that was painted, with its flags; a new label's token in `annotation`."""
    lines = [
        {**edit, "row": row["row"], "box": edit["box_number"], "sample": row["sample"], "camera": row["camera"],
         "annotation": added.get(edit["box_number"]) or edit["annotation"] or "",
         "in_box_share": edit["measures"]["in_box_share"], "flags": "; ".join(edit["flags"]),
         "warnings": "; ".join(edit["warnings"])}
        for row in rows for edit in row["edits"]
    ]  # fmt: skip
    return table(COLUMNS, lines)


def check_out(root: Path, out: Path) -> None:
    """Raise InputError where the new data set would lie in the old one."""
    if out.resolve().is_relative_to(Path(root).resolve()):
        raise InputError(f"--out {typed(out)}: lies in --root {typed(root)}; choose a folder outside it")


def check_names(tables: Tables) -> None:
    """Raise InputError where a file of the data set would take the place of what `batch` writes beside it."""
    for row in (*tables.rows["sample_data"].values(), *tables.rows["map"].values()):
        if set(PurePosixPath(row["filename"]).parts[:1]) & set(OWN):
            raise InputError(f"{row['filename']}: lies where batch writes its own; move the file and mend its filename")
