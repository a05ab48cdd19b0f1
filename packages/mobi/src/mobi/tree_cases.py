"""Objects of a prepared nuScenes tree as cases without truth: for what can be measured on recorded scenes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.pixels import read_picture
from graft_common.rangeview import NUSCENES, project
from mobi.box_text import to_box
from mobi.cases import LABELS, Case
from mobi.colour import to_rgb
from mobi.inputs import read_reference, read_scene
from mobi.nuscenes_tables import Tables, check_files
from mobi.objects import Objects
from mobi.place import check_box, place_view
from mobi.prepare import LIDAR


@dataclass(frozen=True)
class RowPick:
    """One row of objects.csv."""

    row: int
    label: str
    name: str


def pick_rows(objects: Objects, n: int, seed: int) -> list[RowPick]:
    """Up to `n` objects of each class, drawn by the seed, at most one of a track.

    Raises:
        InputError: fewer than two of every class.
    """
    rng = np.random.default_rng([seed, 32])
    found: list[RowPick] = []
    for label in LABELS:
        tracks: dict[str, int] = {}
        own = [k for k in range(objects.count) if objects.rows[k].kind == label]
        for k in rng.permutation(own):
            tracks.setdefault(objects.rows[k].instance, int(k))
        chosen = list(tracks.values())[:n]
        if len(chosen) > 1:
            found += [RowPick(k, label, f"row-{k}") for k in chosen]
    if not found:
        raise InputError(f"--prepared {typed(objects.folder)}: has not two tracks of a class; prepare a larger tree")
    return found


def read_case(tables: Tables, objects: Objects, pick: RowPick, size: int, seed: int) -> Case:
    """Scene, box and references of a row; the tracked reference is the likeliest one of training (`Objects.candidates`).

    Raises:
        InputError: a file is missing or disagrees with the tables, or the box cannot be edited.
    """
    row = objects.rows[pick.row]
    data = tables.data(row.sample)
    if lost := {LIDAR, row.camera} - set(data):
        raise InputError(f"{row.where}: --root has no key frame of {sorted(lost)[0]} in this sample; give the tree of --prepared")
    lidar, camera = data[LIDAR], data[row.camera]
    for one in (lidar, camera):
        check_files(tables, one)
    calib = {"K": tables.intrinsics(camera), "lidar_to_camera": tables.lidar_to_camera(lidar, camera)}
    scene = read_scene(to_rgb(read_picture(tables.path(camera)).pixels), tables.path(lidar), calib)
    box = to_box(row.box)
    check_box(scene, box, row.where)
    rows, shares = objects.candidates(pick.row)
    other = objects.rows[int(rows[shares.argmax()])]
    pictures = [read_reference(objects.folder / Path(r.reference)) for r in (row, other) if r.reference]
    return Case(
        name=pick.name,
        label=row.kind,
        seed=seed + pick.row,
        placed=place_view(scene, project(scene.points, NUSCENES), box, size),
        reference=pictures[0],
        tracked=pictures[-1],
        moved=None,
        flags=tables.flags(row.sample),
        truth=None,
    )
