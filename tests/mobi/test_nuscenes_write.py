"""Derived data sets: what changes, and above all what does not."""

import json
from pathlib import Path

import numpy as np
import pytest

from graft_common.errors import InputError
from mobi.nuscenes_tables import TABLES, Tables, read_sweep, read_tables
from mobi.nuscenes_write import Add, Delete, Move, splice, write_derived
from mobi.poses import inside, pose_of


@pytest.fixture
def tables(tree: Path) -> Tables:
    return read_tables(tree)


def elements(path: Path) -> dict[str, str]:
    """token -> the row's text, cut out with a plain scanner."""
    text, decoder, at, out = path.read_text(), json.JSONDecoder(), 1, {}
    while (at := text.find("{", at)) >= 0:
        row, end = decoder.raw_decode(text, at)
        out[row["token"]] = text[at:end]
        at = end
    return out


def middle(tables: Tables) -> dict:
    """A box in the middle of a track of three."""
    return next(tables.track(i)[1] for i, row in tables.rows["instance"].items() if row["nbr_annotations"] == 3)


def place(row: dict, by: float = 0.0) -> dict:
    there = row["translation"]
    return {"translation": [there[0] + by, there[1], there[2]], "size": row["size"], "rotation": row["rotation"]}


def test_without_edits_every_byte_stays(tables: Tables, tmp_path: Path) -> None:
    seen = []
    write_derived(tables, tmp_path / "out", [], {}, advance=seen.append)
    for path in tables.root.rglob("*"):
        name = path.relative_to(tables.root)
        if path.is_file() and name.name not in ("SYNTHETIC.txt", "phantom.json"):
            assert (tmp_path / "out" / name).read_bytes() == path.read_bytes()
    assert sum(seen) == len(tables.rows["sample_data"]) + 1


def test_delete_move_and_add_change_their_rows_alone(tables: Tables, tmp_path: Path) -> None:
    gone = middle(tables)
    track = tables.track(gone["instance_token"])
    others = [r for r in tables.annotations(gone["sample_token"]) if r["token"] != gone["token"]]
    moved = others[0]
    edits = [
        Delete(annotation=gone["token"]),
        Move(annotation=moved["token"], visibility="2", **place(moved, 0.5)),
        Add(sample=gone["sample_token"], category="vehicle.car", visibility="4", **place(gone)),
    ]
    done = write_derived(tables, tmp_path / "out", edits, {})
    new = read_tables(tmp_path / "out")  # reads: every chain and count holds
    boxes = new.rows["sample_annotation"]
    assert gone["token"] not in boxes and len(boxes) == len(tables.rows["sample_annotation"])
    assert [r["token"] for r in new.track(gone["instance_token"])] == [track[0]["token"], track[2]["token"]]
    assert boxes[moved["token"]]["translation"][0] == moved["translation"][0] + 0.5
    assert boxes[moved["token"]]["visibility_token"] == "2"
    added = boxes[done.added[0]]
    assert new.category(added) == "vehicle.car" and added["num_lidar_pts"] == gone["num_lidar_pts"]
    assert set(done.recounted) == {moved["token"], added["token"]}

    touched = {gone["token"], moved["token"], added["token"], track[0]["token"], track[2]["token"]}
    before, after = (elements(r / "v1.0-mini" / "sample_annotation.json") for r in (tables.root, tmp_path / "out"))
    assert {k: v for k, v in before.items() if k not in touched} == {k: v for k, v in after.items() if k not in touched}
    instances = [elements(r / "v1.0-mini" / "instance.json") for r in (tables.root, tmp_path / "out")]
    kept = set(instances[0]) - {gone["instance_token"]}
    assert all(instances[0][k] == instances[1][k] for k in kept) and len(instances[1]) == len(instances[0]) + 1
    for table in set(TABLES) - {"sample_annotation", "instance"}:
        assert (tmp_path / "out" / "v1.0-mini" / f"{table}.json").read_bytes() == tables.text[table]


def test_ends_of_tracks_and_last_boxes(tables: Tables, tmp_path: Path) -> None:
    track = tables.track(middle(tables)["instance_token"])
    own = track[0]["instance_token"]
    write_derived(tables, tmp_path / "a", [Delete(annotation=track[0]["token"])], {}, others="none")
    rows = _rows(tmp_path / "a", "instance")
    assert rows[own]["first_annotation_token"] == track[1]["token"] and rows[own]["nbr_annotations"] == 2
    assert _rows(tmp_path / "a", "sample_annotation")[track[1]["token"]]["prev"] == ""
    write_derived(tables, tmp_path / "b", [Delete(annotation=r["token"]) for r in track], {}, others="none")
    assert own not in _rows(tmp_path / "b", "instance")
    # and back in: a deleted box returns to its track's start, middle or end
    for k, name in enumerate("cde"):
        edits = [
            Delete(annotation=track[k]["token"]),
            Add(sample=track[k]["sample_token"], instance=own, visibility="", **place(track[k])),
        ]
        done = write_derived(tables, tmp_path / name, edits, {})
        tokens = [r["token"] for r in read_tables(tmp_path / name).track(own)]
        assert tokens == [done.added[0] if j == k else r["token"] for j, r in enumerate(track)]


def _rows(root: Path, table: str) -> dict[str, dict]:
    return {r["token"]: r for r in json.loads((root / "v1.0-mini" / f"{table}.json").read_text())}


def test_points_are_counted_anew_where_a_sweep_changed(tables: Tables, tmp_path: Path) -> None:
    row = max(tables.rows["sample_annotation"].values(), key=lambda r: r["num_lidar_pts"])
    lidar = tables.data(row["sample_token"])["LIDAR_TOP"]
    points = read_sweep(tables.path(lidar))
    hit = inside(tables.global_to_sensor(lidar) @ pose_of(row), row["size"], points[:, :3])
    drop = np.flatnonzero(hit)[: row["num_lidar_pts"] // 2]
    data = np.delete(points, drop, axis=0).astype("<f4").tobytes()
    done = write_derived(tables, tmp_path / "out", [], {lidar["filename"]: data}, others="none")
    assert done.recounted == (row["token"],)
    assert _rows(tmp_path / "out", "sample_annotation")[row["token"]]["num_lidar_pts"] == row["num_lidar_pts"] - len(
        drop
    )
    assert (tmp_path / "out" / lidar["filename"]).read_bytes() == data
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["samples", "v1.0-mini"]


def test_linked_files_lead_to_the_source(tables: Tables, tmp_path: Path) -> None:
    write_derived(tables, tmp_path / "out", [], {}, others="link")
    for row in tables.rows["sample_data"].values():
        path = tmp_path / "out" / row["filename"]
        assert path.is_symlink() and path.resolve() == (tables.root / row["filename"]).resolve()


@pytest.mark.parametrize("indent", [None, 0, 1, 4])
def test_splice_keeps_every_byte_between(indent: int | None) -> None:
    rows = [{"token": t, "v": i, "s": 'a]},{"é'} for i, t in enumerate("abcde")]
    text = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    before = {r["token"]: r for r in rows}
    assert splice(text, before, dict(before)) == text
    after = {t: dict(r) for t, r in before.items() if t not in "ace"} | {"x": {"token": "x", "v": 9}}
    after["d"]["v"] = 0.1 + 0.2
    out = splice(text, before, after)
    assert json.loads(out) == list(after.values())
    kept = json.dumps([rows[1]], indent=indent, ensure_ascii=False).encode()
    assert kept.strip(b"[]\n ") in out
    assert json.loads(splice(text, before, {})) == []
    assert json.loads(splice(b"[]", {}, {"x": {"token": "x"}})) == [{"token": "x"}]


BAD = [
    (lambda t: Delete(annotation="gone"), "gone"),
    (
        lambda t: Move(
            annotation="gone", visibility=None, translation=[0, 0, 0], size=[1, 1, 1], rotation=[1, 0, 0, 0]
        ),
        "gone",
    ),
    (lambda t: Move(annotation=middle(t)["token"], visibility="7", **place(middle(t))), "visibility 7"),
    (lambda t: Move(annotation=middle(t)["token"], **(place(middle(t)) | {"size": [1, 1, 0]})), "size above 0"),
    (
        lambda t: Move(annotation=middle(t)["token"], **(place(middle(t)) | {"rotation": [1, 1, 0, 0]})),
        "unit quaternion",
    ),
    (lambda t: Move(annotation=middle(t)["token"], **(place(middle(t)) | {"translation": [0, 0, np.nan]})), "finite"),
    (lambda t: Add(sample="gone", category="vehicle.car", visibility="", **place(middle(t))), "no such token"),
    (
        lambda t: Add(sample=middle(t)["sample_token"], category="vehicle.boat", visibility="", **place(middle(t))),
        "vehicle.boat",
    ),
    (
        lambda t: Add(sample=middle(t)["sample_token"], instance="gone", visibility="", **place(middle(t))),
        "no instance",
    ),
    (
        lambda t: Add(
            sample=middle(t)["sample_token"], instance=middle(t)["instance_token"], visibility="", **place(middle(t))
        ),
        "already has box",
    ),
    (
        lambda t: Add(
            sample=list(t.rows["sample"])[-1],
            instance=next(iter(t.rows["instance"])),
            visibility="",
            **place(middle(t)),
        ),
        "another scene",
    ),
]


@pytest.mark.parametrize(("edit", "says"), BAD, ids=range(len(BAD)))
def test_edits_that_cannot_be_are_refused_with_nothing_written(tables: Tables, tmp_path: Path, edit, says: str) -> None:
    with pytest.raises(InputError, match=says):
        write_derived(tables, tmp_path / "out", [edit(tables)], {})
    assert not (tmp_path / "out").exists()


def test_folders_and_files_are_checked(tables: Tables, tmp_path: Path) -> None:
    lidar = next(r for r in tables.rows["sample_data"].values() if r["fileformat"] == "pcd" and r["is_key_frame"])
    for files, says in (({"samples/x.jpg": b""}, "samples/x.jpg"), ({lidar["filename"]: b"123"}, "no multiple of 20")):
        with pytest.raises(InputError, match=says):
            write_derived(tables, tmp_path / "out", [], files)
    with pytest.raises(InputError, match="lies in the source"):
        write_derived(tables, tables.root / "out", [], {})
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_derived(tables, tmp_path / "used", [], {})
    with pytest.raises(InputError, match="is a file"):
        write_derived(tables, tmp_path / "used" / "x", [], {})
