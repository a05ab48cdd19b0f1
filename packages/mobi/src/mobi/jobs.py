"""Rows of a manifest on a data set's tables -> what is painted where and in which order, checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from graft_common.errors import InputError
from graft_common.rangeview import Box3d, Camera, camera_rectangle, points_in_box
from mobi.box_text import from_box, to_box
from mobi.inputs import read_reference, read_scene
from mobi.manifest import Row, Wish
from mobi.nuscenes_tables import Row as TableRow
from mobi.nuscenes_tables import Tables, check_files
from mobi.place import check_box, crop_reference
from mobi.poses import wrapped
from mobi.prepare import Frame, read_frame
from mobi.records import Scene

SAME = 1e-3  # metres and radians by which a box may differ from its annotation's and still be meant
Key = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Job:
    """One box of a row.

    Attributes:
        wish: what the manifest says.
        box: where the object is, or comes to, in the lidar frame.
        old: where it was, for a move.
        annotation: its row of sample_annotation.
        labels: whether this job changes the labels; another row with the same box in another camera does it only once.
        edited: cameras in which rows of the manifest edit this very box.
    """

    wish: Wish
    box: Box3d
    old: Box3d | None
    annotation: TableRow | None
    labels: bool
    edited: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Step:
    """One box for the network."""

    job: Job
    task: Literal["insert", "replace", "remove"]
    box: Box3d


@dataclass(frozen=True, eq=False)
class Shot:
    """One row: a picture with its camera, and its boxes in the order in which they are painted."""

    row: Row
    data: TableRow
    camera: Camera
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Unit:
    """A sample and its rows, which share the sweep: each is painted on what the one before left."""

    frame: Frame
    shots: tuple[Shot, ...]


def plan(tables: Tables, rows: Sequence[Row]) -> list[Unit]:
    """Units in the order in which the manifest first names their samples.

    Raises:
        InputError: an unknown token, name or camera; an annotation of another sample; a box that contradicts its annotation;
            an annotation that is to become two different things, or stands twice for one camera; a box without annotation in
            which something annotated would go while its label stayed.
    """
    frames: dict[str, Frame] = {}
    asked: dict[Key, tuple[Wish, list[str]]] = {}
    for row in rows:
        if row.sample not in frames:
            frames[row.sample] = _frame(tables, row)
        if row.camera not in frames[row.sample].cameras:
            raise InputError(f"{row.where}: camera {row.camera} has no key frame in this sample; use one of "
                             f"{', '.join(frames[row.sample].cameras)}")  # fmt: skip
        for wish in row.wishes:
            first, cameras = asked.setdefault(_key(row, wish), (wish, []))
            if row.camera in cameras:
                raise InputError(f"{wish.where}: edits the same box in {row.camera} as {first.where}; leave one out")
            if _meaning(wish) != _meaning(first):
                raise InputError(f"{wish.where}: wants other things of annotation {wish.annotation} than {first.where}; choose one")
            cameras.append(row.camera)
    shots: dict[str, list[Shot]] = {}
    for row in rows:
        frame = frames[row.sample]
        jobs = [_job(tables, frame, row, wish, asked) for wish in row.wishes]
        data, camera = frame.cameras[row.camera]
        shots.setdefault(row.sample, []).append(Shot(row, data, camera, _ordered(jobs)))
    return [Unit(frames[sample], tuple(own)) for sample, own in shots.items()]


def _frame(tables: Tables, row: Row) -> Frame:
    if row.sample not in tables.rows["sample"]:
        raise InputError(f"{row.where}: sample {row.sample} is no token of sample.json; check the token")
    frame = read_frame(tables, tables.rows["sample"][row.sample])
    if frame is None:
        raise InputError(f"{row.where}: sample {row.sample} has no key frame of LIDAR_TOP or of a camera; leave it out")
    return frame


def _key(row: Row, wish: Wish) -> Key:
    return (wish.annotation,) if wish.annotation else (row.sample, wish.task, wish.box)


def _meaning(wish: Wish) -> Key:
    """What must be the same wherever an annotation is named again."""
    return wish.task, wish.box if wish.task == "move" else None, wish.category, wish.attribute


def _job(tables: Tables, frame: Frame, row: Row, wish: Wish, asked: dict[Key, tuple[Wish, list[str]]]) -> Job:
    for column, table in (("category", "category"), ("attribute", "attribute")):
        name, known = getattr(wish, column), sorted(r["name"] for r in tables.rows[table].values())
        if name is not None and name not in known:
            raise InputError(f"{wish.where}: {column} {name} is none of {table}.json; use one of {', '.join(known)}")
    given = None if wish.box is None else to_box(wish.box)
    first, cameras = asked[_key(row, wish)]
    annotation, at = None, given
    if wish.annotation is not None:
        if wish.annotation not in tables.rows["sample_annotation"]:
            raise InputError(f"{wish.where}: annotation {wish.annotation} is no token of sample_annotation.json; check the token")
        annotation = tables.rows["sample_annotation"][wish.annotation]
        if annotation["sample_token"] != row.sample:
            raise InputError(f"{wish.where}: annotation {wish.annotation} belongs to another sample; name that, or leave it out")
        at = next(box for own, box in frame.boxes if own is annotation)
        if wish.task != "move" and given is not None and not _same(given, at):
            raise InputError(f"{wish.where}: box is not where annotation {wish.annotation} is; leave one out, or move it")
    assert at is not None  # the manifest's own checks
    if annotation is None and wish.task != "insert":
        _check_unlabelled(frame, at, wish)
    labels = first is wish
    if wish.task == "move" and given is not None:
        return Job(wish, given, at, annotation, labels, tuple(cameras))
    return Job(wish, at, None, annotation, labels, tuple(cameras))


def _same(one: Box3d, other: Box3d) -> bool:
    apart = np.subtract(from_box(one), from_box(other))
    apart[6] = wrapped(apart[6])
    return bool(np.abs(apart).max() <= SAME)


def _check_unlabelled(frame: Frame, box: Box3d, wish: Wish) -> None:
    """Raise InputError where the centre of an annotation lies in a box that is emptied: its label would stay behind."""
    for row, other in frame.boxes:
        if points_in_box(np.array([other.centre]), box).any():
            raise InputError(f"{wish.where}: the box holds annotation {row['token']}; name it, so that its label goes along")


def _ordered(jobs: Sequence[Job]) -> tuple[Step, ...]:
    """What goes first, so that nothing new is hidden by it; then what comes; each from far to near."""
    gone = [Step(job, "remove", job.old or job.box) for job in jobs if job.wish.task in ("remove", "move")]
    new = [
        Step(job, "replace" if job.wish.task == "replace" else "insert", job.box) for job in jobs if job.wish.task != "remove"
    ]
    return tuple(step for steps in (gone, new) for step in sorted(steps, key=lambda s: -float(np.linalg.norm(s.box.centre))))


def check(tables: Tables, units: Sequence[Unit]) -> None:
    """Read every file that the units need and look at every box in its picture.

    Raises:
        InputError: a file is missing, damaged or disagrees with the tables; a box that cannot be edited; no usable reference.
    """
    seen: set[object] = set()
    for unit in units:
        check_files(tables, unit.frame.lidar)
        for shot in unit.shots:
            check_files(tables, shot.data)
            scene = first_scene(tables, unit, shot)
            for step in shot.steps:
                check_box(scene, step.box, f"{step.job.wish.where}: box {','.join(f'{v:g}' for v in from_box(step.box))}")
                path = step.job.wish.reference
                if step.task != "remove" and path is not None and path not in seen:
                    seen.add(path)
                    try:
                        read_reference(path)
                    except InputError as why:
                        raise InputError(f"{step.job.wish.where}: {why}") from None


def first_scene(tables: Tables, unit: Unit, shot: Shot) -> Scene:
    """The picture and the sweep as the data set has them."""
    return read_scene(tables.path(shot.data), tables.path(unit.frame.lidar), calib(shot))


def calib(shot: Shot) -> dict[str, np.ndarray]:
    """As `read_scene` takes it."""
    return {"K": shot.camera.intrinsics, "lidar_to_camera": shot.camera.lidar_to_camera}


def reference_of(step: Step, source: Scene) -> UInt8[np.ndarray, "_ _ 3"] | None:
    """The picture that the network is shown: the file's, or the object's own pixels in the source; None for a removal.

    Raises:
        InputError: the file cannot be read.
    """
    if step.task == "remove":
        return None
    if step.job.wish.reference is not None:
        return read_reference(step.job.wish.reference)
    return crop_reference(source.rgb, camera_rectangle(step.job.old or step.job.box, source.camera))
