"""The reader on a phantom tree, and a table of what it must refuse."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft_common.errors import InputError
from mobi.nuscenes_tables import TABLES, check_files, find_version, read_sweep, read_tables

Rows = list[dict[str, Any]]


def test_tables_are_read_and_joined(tree: Path) -> None:
    tables = read_tables(tree)
    assert tables.version == "v1.0-mini" and set(tables.rows) == set(TABLES)
    for scene in tables.rows["scene"]:
        samples = tables.samples(scene)
        assert len(samples) == 3 and [s["timestamp"] for s in samples] == sorted(s["timestamp"] for s in samples)
        for sample in samples:
            data = tables.data(sample["token"])
            assert set(data) == {"LIDAR_TOP", "CAM_FRONT"} and all(row["is_key_frame"] for row in data.values())
            for row in tables.annotations(sample["token"]):
                assert tables.category(row) in ("vehicle.car", "human.pedestrian.adult")
    first, second = (tables.samples(s)[0]["token"] for s in tables.rows["scene"])
    assert tables.flags(first) == (False, False) and tables.flags(second) == (True, False)
    assert tables.city(first) == "phantom"
    for instance, row in tables.rows["instance"].items():
        assert len(tables.track(instance)) == row["nbr_annotations"]


def test_frames_between_key_frames_are_found(tree: Path) -> None:
    tables = read_tables(tree)
    samples = tables.samples(next(iter(tables.rows["scene"])))
    one, two = (tables.data(s["token"])["LIDAR_TOP"] for s in samples[:2])
    between = tables.sweeps_between(one, two)
    assert len(between) == 1 and between[0]["filename"].startswith("sweeps/LIDAR_TOP/")
    assert one["timestamp"] < between[0]["timestamp"] < two["timestamp"]


def test_every_file_of_the_phantom_passes(tree: Path) -> None:
    tables = read_tables(tree)
    for row in tables.rows["sample_data"].values():
        assert check_files(tables, row) == tree / row["filename"]
    sweep = read_sweep(
        tables.path(next(r for r in tables.rows["sample_data"].values() if r["filename"].endswith(".bin")))
    )
    assert sweep.dtype == np.float32 and sweep.shape[1] == 5


def _first(rows: Rows, **same: Any) -> dict[str, Any]:
    return next(r for r in rows if all(r[k] == v for k, v in same.items()))


def _loop(rows: Rows) -> None:
    """The last row of a track names the first as its next."""
    first = last = next(r for r in rows if r["next"] and not r["prev"])
    while last["next"]:
        last = next(r for r in rows if r["token"] == last["next"])
    first["prev"], last["next"] = last["token"], first["token"]


def _long_tail(rows: Rows) -> None:
    row = next(r for r in rows if r["next"])
    row["next"] = ""


BAD: list[tuple[str, Callable[[Rows], Any], str]] = [
    ("sample", lambda rows: rows[0].update(scene_token="gone"), "scene_token gone is no token of scene.json"),
    ("sample", _loop, "without an end"),
    ("sample_annotation", _loop, "without an end"),
    ("sample_annotation", _long_tail, "whose"),
    ("sample_data", lambda rows: rows[0].update(next="gone"), "next gone is no token"),
    ("sample_data", lambda rows: rows[0].update(filename="../secret.bin"), "leaves the data set"),
    ("sample_data", lambda rows: rows[0].update(filename="/etc/passwd"), "leaves the data set"),
    ("sample_data", lambda rows: rows[0].update(filename="samples/../../x"), "leaves the data set"),
    ("sample_data", lambda rows: rows[0].update(filename="a\\..\\b"), "leaves the data set"),
    ("sample_data", lambda rows: rows[0].update(filename=""), "leaves the data set"),
    ("map", lambda rows: rows[0].update(filename="../map.png"), "leaves the data set"),
    ("map", lambda rows: rows[0].update(log_tokens=[]), "no row names log"),
    ("sample_data", lambda rows: rows[0].update(width="160"), "width is \"160\" but must be a whole number"),
    ("sample_data", lambda rows: rows[0].pop("ego_pose_token"), "has no ego_pose_token"),
    ("sample_data", lambda rows: _first(rows, is_key_frame=False).update(is_key_frame=True), "both the key frame"),
    ("ego_pose", lambda rows: rows[0].update(rotation=[1, 1, 0, 0]), "unit quaternion"),
    ("ego_pose", lambda rows: rows[0].update(translation=[0, 0]), "three finite numbers"),
    ("ego_pose", lambda rows: rows[0].update(translation=[0, 0, float("nan")]), "three finite numbers"),
    ("calibrated_sensor", lambda rows: rows[0].update(camera_intrinsic=[[1, 0, 0]]), "3 x 3"),
    ("sample_annotation", lambda rows: rows[0].update(size=[1, 0, 1]), "above 0"),
    ("sample_annotation", lambda rows: rows[0].update(visibility_token="9"), "no token of visibility.json"),
    ("sample_annotation", lambda rows: rows[0].update(instance_token="gone"), "no token of instance.json"),
    ("instance", lambda rows: rows[0].update(nbr_annotations=99), "nbr_annotations is 99"),
    ("instance", lambda rows: rows[0].update(first_annotation_token=rows[1]["first_annotation_token"]), "another instance"),
    ("scene", lambda rows: rows[0].update(nbr_samples=7), "nbr_samples is 7"),
    ("scene", lambda rows: rows[0].update(first_sample_token=rows[0]["last_sample_token"]), "chain's end"),
    ("category", lambda rows: rows.append(dict(rows[0])), "stands twice"),
    ("category", lambda rows: rows[0].pop("token"), "has no token"),
    ("log", list.clear, "has no rows"),
]  # fmt: skip


@pytest.fixture
def copy(tree: Path, tmp_path: Path) -> Path:
    """The tables alone, free to change, in a folder with a space and an accent."""
    shutil.copytree(tree / "v1.0-mini", tmp_path / "ré sumé" / "v1.0-mini")
    return tmp_path / "ré sumé"


@pytest.mark.parametrize(("table", "spoil", "says"), BAD, ids=[f"{i}-{row[0]}" for i, row in enumerate(BAD)])
def test_spoilt_tables_are_refused(copy: Path, table: str, spoil: Callable[[Rows], Any], says: str) -> None:
    path = copy / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    spoil(rows)
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=says) as caught:
        tables = read_tables(copy)
        for sample in tables.rows["sample"]:
            tables.data(sample)
    assert "\n" not in str(caught.value) and ".json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"[{", "as JSON"),
        (b"{}", "no array of rows"),
        (b"[1]", "no array of rows"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_broken_files_are_refused(copy: Path, content: bytes | None, says: str) -> None:
    path = copy / "v1.0-mini" / "sample.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_tables(copy)


def test_versions_and_tokens_are_checked(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such token"):
        read_tables(copy).get("sample", "x")
    with pytest.raises(InputError, match="holds none of"):
        find_version(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_version(tmp_path / "nowhere")
    with pytest.raises(InputError, match="must be a folder's name"):
        read_tables(copy, "../v1.0-mini")
    with pytest.raises(InputError, match="no such folder"):
        read_tables(copy, "v1.0-test")
    shutil.copytree(copy / "v1.0-mini", copy / "v1.0-trainval")
    with pytest.raises(InputError, match="--version"):
        read_tables(copy)
    assert read_tables(copy, "v1.0-trainval").version == "v1.0-trainval"


def test_files_that_disagree_with_the_tables_are_refused(tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tree, root)
    path = root / "v1.0-mini" / "sample_data.json"
    rows = json.loads(path.read_text())
    camera = _first(rows, fileformat="jpg")
    camera["width"] = 1600
    path.write_text(json.dumps(rows))
    tables = read_tables(root)
    with pytest.raises(InputError, match=r"is 160x90 but .* says 1600x90"):
        check_files(tables, tables.get("sample_data", camera["token"]))
    sweep = tables.get("sample_data", _first(rows, fileformat="pcd")["token"])
    whole = tables.path(sweep).read_bytes()
    tables.path(sweep).write_bytes(whole[:-3])
    with pytest.raises(InputError, match="no multiple of 20"):
        check_files(tables, sweep)
    tables.path(sweep).unlink()
    with pytest.raises(InputError, match="no such file"):
        check_files(tables, sweep)
    picture = tables.path(tables.get("sample_data", camera["token"]))
    picture.write_bytes(b"no picture")
    with pytest.raises(InputError, match="as a picture"):
        check_files(tables, tables.get("sample_data", camera["token"]))
    with pytest.raises(InputError, match="camera_intrinsic"):
        tables.intrinsics(sweep)
