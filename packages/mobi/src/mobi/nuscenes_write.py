"""A derived data set: edited files beside the copied tables, with boxes added, moved or deleted (spec section 2.10, issue).

Only rows of sample_annotation and instance change. Their text is spliced row by row, so that every other row, and every
other table, keeps its bytes.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graft_common.errors import InputError
from graft_common.files import atomic_path, typed, write_bytes
from mobi.nuscenes_tables import POINT, TABLES, Row, Tables, read_sweep, token
from mobi.poses import inside, pose_of

LIDAR = "LIDAR_TOP"
Others = Literal["copy", "link", "none"]


@dataclass(frozen=True, kw_only=True)
class Add:
    """A new box in a sample: global translation (m), size (width, length, height; m) and rotation [w, x, y, z].

    `instance` continues a track that has no box in this sample; None begins a new one of `category` (a name that the
    data set has). `visibility` is a token of the visibility table, or "".
    """

    sample: str
    translation: Sequence[int | float]
    size: Sequence[int | float]
    rotation: Sequence[int | float]
    visibility: str
    category: str | None = None
    instance: str | None = None
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Move:
    """Another place, size and heading for a box, all global; None keeps the visibility."""

    annotation: str
    translation: Sequence[int | float]
    size: Sequence[int | float]
    rotation: Sequence[int | float]
    visibility: str | None = None


@dataclass(frozen=True, kw_only=True)
class Delete:
    """A box that goes; its instance goes with its last box."""

    annotation: str


Edit = Add | Move | Delete


@dataclass(frozen=True)
class Derived:
    """What `write_derived` wrote.

    Attributes:
        files: edited files, relative to the folder.
        added: token of the new row for each `Add`, in order.
        recounted: tokens of rows whose num_lidar_pts was counted anew.
    """

    files: tuple[str, ...]
    added: tuple[str, ...]
    recounted: tuple[str, ...]


@dataclass
class _Draft:
    """Rows of the two tables as they change; `samples` are those whose boxes changed, `fresh` the rows to count in any case."""

    tables: Tables
    boxes: dict[str, Row]
    instances: dict[str, Row]
    fresh: set[str] = field(default_factory=set)
    added: list[str] = field(default_factory=list)


def write_derived(
    tables: Tables,
    out: Path,
    edits: Sequence[Edit],
    files: Mapping[str, bytes],
    seed: int = 0,
    others: Others = "copy",
    advance: Callable[[int], None] = lambda count: None,
) -> Derived:
    """Write a data set in the same layout.

    Args:
        tables: the source.
        out: new or empty folder outside the source.
        edits: applied in order.
        files: file name as in sample_data -> new bytes, e.g. edited pictures and sweeps.
        seed: new tokens depend on it, the sample and the edit's number.
        others: files that no edit touches: copied, linked (symbolic links to the source), or left out.
        advance: called with the number of files done.

    Raises:
        InputError: the folder holds something or lies in the source; an edit names an unknown token or category, or a track
            that already has a box in the sample; a file name is none of the data set's; a sweep has no whole rows.
    """
    out = Path(out)
    _check_out(tables, out)
    known = [row["filename"] for row in (*tables.rows["sample_data"].values(), *tables.rows["map"].values())]
    if strange := sorted(set(files) - set(known)):
        raise InputError(f"{strange[0]}: is no file of {typed(tables.root)}; use a filename of sample_data.json")
    draft = _Draft(tables, dict(tables.rows["sample_annotation"]), dict(tables.rows["instance"]))
    for number, edit in enumerate(edits):
        _apply(draft, edit, f"{seed}/{number}")
    recounted = _recount(draft, files)
    text = dict(tables.text)
    for table, rows in (("sample_annotation", draft.boxes), ("instance", draft.instances)):
        text[table] = splice(tables.text[table], tables.rows[table], rows)
    for name in dict.fromkeys(known):
        if name in files:
            write_bytes(out / name, files[name])
        elif others != "none":
            _bring(tables.root / name, out / name, others)
        advance(1)
    for table in TABLES:  # last: a half-written data set loads nowhere
        write_bytes(out / tables.version / f"{table}.json", text[table])
    return Derived(tuple(sorted(files)), tuple(draft.added), tuple(recounted))


def _check_out(tables: Tables, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{typed(out)}: is a file; choose a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{typed(out)}: is not empty; choose a new folder")
    if out.resolve().is_relative_to(tables.root.resolve()):
        raise InputError(f"{typed(out)}: lies in the source {typed(tables.root)}; choose a folder outside it")


def _apply(draft: _Draft, edit: Edit, key: str) -> None:
    if isinstance(edit, Add):
        draft.added.append(_add(draft, edit, key))
        return
    if edit.annotation not in draft.boxes:
        raise InputError(
            f"{edit.annotation}: is no box of sample_annotation.json (or was deleted before); check the token"
        )
    row = draft.boxes[edit.annotation]
    if isinstance(edit, Delete):
        _unlink(draft, row)
        return
    _check_visibility(draft, edit.visibility)
    moved = row | _placed(edit)
    draft.boxes[edit.annotation] = moved | ({} if edit.visibility is None else {"visibility_token": edit.visibility})
    draft.fresh.add(edit.annotation)


def _placed(edit: Add | Move) -> dict[str, list[float]]:
    place = {k: [float(v) for v in getattr(edit, k)] for k in ("translation", "size", "rotation")}
    if not all(np.isfinite(v).all() for v in place.values()) or [len(v) for v in place.values()] != [3, 3, 4]:
        raise InputError(f"box {place}: must have 3, 3 and 4 finite numbers; mend it")
    if min(place["size"]) <= 0 or abs(float(np.linalg.norm(place["rotation"])) - 1) > 1e-3:
        raise InputError(f"box {place}: must have a size above 0 and a unit quaternion; mend it")
    return place


def _check_visibility(draft: _Draft, visibility: str | None) -> None:
    if visibility and visibility not in draft.tables.rows["visibility"]:
        known = ", ".join(draft.tables.rows["visibility"])
        raise InputError(f"visibility {visibility}: is no token of visibility.json; use {known}")


def _add(draft: _Draft, edit: Add, key: str) -> str:
    draft.tables.get("sample", edit.sample)
    for attribute in edit.attributes:
        draft.tables.get("attribute", attribute)
    _check_visibility(draft, edit.visibility)
    own = token("derived", key, edit.sample)
    row: Row = {
        "token": own, "sample_token": edit.sample, "instance_token": edit.instance or token("derived", key, "instance"),
        "visibility_token": edit.visibility, "attribute_tokens": list(edit.attributes), **_placed(edit), "prev": "", "next": "",
        "num_lidar_pts": 0, "num_radar_pts": 0,
    }  # fmt: skip
    if edit.instance is None:
        names = {row["name"]: row["token"] for row in draft.tables.rows["category"].values()}
        if edit.category not in names:
            raise InputError(
                f"category {edit.category}: is none of category.json; use one of {', '.join(sorted(names))}"
            )
        draft.instances[row["instance_token"]] = {
            "token": row["instance_token"], "category_token": names[edit.category], "nbr_annotations": 1,
            "first_annotation_token": own, "last_annotation_token": own,
        }  # fmt: skip
    else:
        _link(draft, row)
    draft.boxes[own] = row
    draft.fresh.add(own)
    return own


def _link(draft: _Draft, row: Row) -> None:
    """Put a box into its track by the samples' stamps."""
    stamps, samples = draft.tables.rows["sample"], draft.tables.rows["sample"]
    if row["instance_token"] not in draft.instances:
        raise InputError(
            f"{row['instance_token']}: is no instance (or was deleted before); check the token, or give a category"
        )
    instance = draft.instances[row["instance_token"]]
    after, before = instance["first_annotation_token"], ""
    first = draft.boxes[after]
    if samples[first["sample_token"]]["scene_token"] != samples[row["sample_token"]]["scene_token"]:
        raise InputError(
            f"{row['instance_token']}: belongs to another scene than sample {row['sample_token']}; begin a new track"
        )
    now = stamps[row["sample_token"]]["timestamp"]
    while after and stamps[draft.boxes[after]["sample_token"]]["timestamp"] < now:
        before, after = after, draft.boxes[after]["next"]
    if after and draft.boxes[after]["sample_token"] == row["sample_token"]:
        raise InputError(
            f"{row['instance_token']}: already has box {after} in sample {row['sample_token']}; move that one"
        )
    row["prev"], row["next"] = before, after
    changes: Row = {"nbr_annotations": instance["nbr_annotations"] + 1}
    if before:
        draft.boxes[before] = draft.boxes[before] | {"next": row["token"]}
    else:
        changes["first_annotation_token"] = row["token"]
    if after:
        draft.boxes[after] = draft.boxes[after] | {"prev": row["token"]}
    else:
        changes["last_annotation_token"] = row["token"]
    draft.instances[row["instance_token"]] = instance | changes


def _unlink(draft: _Draft, row: Row) -> None:
    """Take a box out of its track."""
    own, before, after = row["token"], row["prev"], row["next"]
    instance = draft.instances[row["instance_token"]]
    if instance["nbr_annotations"] == 1:
        del draft.instances[row["instance_token"]]
    else:
        changes: Row = {"nbr_annotations": instance["nbr_annotations"] - 1}
        if before:
            draft.boxes[before] = draft.boxes[before] | {"next": after}
        else:
            changes["first_annotation_token"] = after
        if after:
            draft.boxes[after] = draft.boxes[after] | {"prev": before}
        else:
            changes["last_annotation_token"] = before
        draft.instances[row["instance_token"]] = instance | changes
    del draft.boxes[own]
    draft.fresh.discard(own)


def _recount(draft: _Draft, files: Mapping[str, bytes]) -> list[str]:
    """num_lidar_pts of new and moved boxes, and of boxes in which an edited sweep has another number of points than before.

    Other rows keep their count: nuScenes' own may differ from a plain count by a point.
    """
    by_sample: dict[str, list[str]] = {}
    for own, row in draft.boxes.items():
        by_sample.setdefault(row["sample_token"], []).append(own)
    done = []
    for sample, owns in by_sample.items():
        lidar = draft.tables.data(sample).get(LIDAR)
        edited = lidar is not None and lidar["filename"] in files
        todo = owns if edited else [own for own in owns if own in draft.fresh]
        if not todo:
            continue
        if lidar is None:
            raise InputError(
                f"sample {sample}: has no key frame of {LIDAR}; boxes cannot be counted, leave this sample out"
            )
        path = draft.tables.path(lidar)
        after = _points(files[lidar["filename"]], path) if edited else read_sweep(path)
        before = read_sweep(path) if any(own not in draft.fresh for own in todo) else after
        to_lidar = draft.tables.global_to_sensor(lidar)
        for own in todo:
            row = draft.boxes[own]
            count = _count(to_lidar, row, after)
            if own in draft.fresh or count != _count(to_lidar, row, before):
                draft.boxes[own] = row | {"num_lidar_pts": count}
                done.append(own)
    return done


def _points(data: bytes, path: Path) -> np.ndarray:
    if len(data) % (4 * POINT):
        raise InputError(
            f"{typed(path)}: its edited bytes are {len(data)}, no multiple of {4 * POINT}; write whole points"
        )
    return np.frombuffer(data, "<f4").reshape(-1, POINT)


def _count(to_lidar: np.ndarray, row: Row, points: np.ndarray) -> int:
    return int(inside(to_lidar @ pose_of(row), row["size"], points[:, :3]).sum())


def splice(data: bytes, before: Mapping[str, Row], after: Mapping[str, Row]) -> bytes:
    """The text of a table with rows replaced, dropped and appended; unchanged rows and what stands between keep their bytes."""
    if dict(before) == dict(after):
        return data
    text, decoder = data.decode("utf-8-sig" if data.startswith(b"\xef\xbb\xbf") else "utf-8"), json.JSONDecoder()
    at = _skip(text, text.index("[") + 1)
    head, spans = text[:at], []
    gaps: list[str] = []
    while text[at] != "]":
        row, end = decoder.raw_decode(text, at)
        spans.append((row["token"], text[at:end]))
        comma = _skip(text, end)
        at = _skip(text, comma + 1) if text[comma] == "," else comma
        gaps.append(text[end:at])
    tail = (gaps.pop() if gaps else "") + text[at:]
    style = {"indent": 0} if not spans or "\n" in spans[0][1] else {}
    pieces: list[str] = []
    glue = gaps[0] if gaps else ",\n"
    for number, (own, written) in enumerate(spans):
        if own not in after:
            continue
        if after[own] != before[own]:
            written = json.dumps(after[own], **style)  # type: ignore[arg-type]
        if pieces:
            pieces.append(gaps[number - 1])
        pieces.append(written)
    for own, row in after.items():
        if own not in before:
            pieces += [glue] if pieces else []
            pieces.append(json.dumps(row, **style))  # type: ignore[arg-type]
    return (head + "".join(pieces) + tail).encode()


def _skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _bring(source: Path, target: Path, others: Any) -> None:
    if not source.is_file():
        raise InputError(
            f"{typed(source)}: no such file, but sample_data.json or map.json names it; complete the data set"
        )
    if others == "link":
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source.resolve(), target)
        return
    with atomic_path(target) as beside:
        shutil.copyfile(source, beside)
