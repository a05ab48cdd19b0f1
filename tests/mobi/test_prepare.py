"""prepare: filters, overlaps, empty boxes (spec section 3)."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft_common.pixels import read_provenance
from graft_common.rangeview import points_in_box
from mobi.box_text import parse_numbers, to_box
from mobi.cli import main
from mobi.config import PrepareConfig
from mobi.nuscenes_tables import Tables, read_sweep, read_tables
from mobi.prepare import Frame, angle_rectangle, class_of, distances, frame_rows, ground_apart, overlap, read_frame

CAR = (4.0, 2.0, 1.6)


@pytest.fixture(scope="module")
def prepared(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    assert main(["prepare", str(tree), "--out", str(out), "--min-points", "20", "--min-size", "60", "--empty", "5"]) == 0
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_objects_pass_the_filters(tree: Path, prepared: Path) -> None:
    tables, rows = read_tables(tree), rows_of(prepared / "objects.csv")
    assert rows and {row["class"] for row in rows} <= {"car", "pedestrian"}
    for row in rows:
        box, sample = to_box(parse_numbers(row["box"])), tables.data(row["sample"])
        inside = int(points_in_box(read_sweep(tables.path(sample["LIDAR_TOP"])), box).sum())
        assert abs(inside - int(row["points"])) <= 1 and inside >= 19
        x, y, z = box.corners().numpy().T
        flat = np.hypot(x, y)
        assert 1.4 < flat.min() == pytest.approx(float(row["nearest"]), abs=1e-3) and flat.max() < 54
        move = tables.lidar_to_camera(sample["LIDAR_TOP"], sample["CAM_FRONT"])
        seen = np.stack([x, y, z, np.ones(8)]).T @ move[:3].T @ tables.intrinsics(sample["CAM_FRONT"]).T
        assert (seen[:, 2] > 0).all()
        u, v = (seen[:, :2] / seen[:, 2:]).clip(0, [160, 90]).T
        # a box cut by the picture's edge may show less than its corners' rectangle
        assert np.ptp(u) >= float(row["width"]) - 0.01 and np.ptp(v) >= float(row["height"]) - 0.01
        assert float(row["width"]) >= 6 and float(row["height"]) >= 6 and float(row["overlap"]) <= 0.5
        assert float(row["visibility"]) == 1  # one camera
        path = prepared / row["reference"]
        with Image.open(path) as picture:
            wide, tall = picture.size
        assert 0 <= wide - float(row["width"]) < 2 and 0 <= tall - float(row["height"]) < 2
        assert (read_provenance(path) or {})["synthetic"]


def test_empty_boxes_touch_nothing(tree: Path, prepared: Path) -> None:
    tables, rows = read_tables(tree), rows_of(prepared / "empty.csv")
    objects = {row["annotation"]: row for row in rows_of(prepared / "objects.csv")}
    measures = json.loads((prepared / "run.json").read_text())["measures"]
    assert 0 < len(rows) == measures["empty"] <= 5
    for row in rows:
        assert row["box"] == objects[row["annotation"]]["box"] and row["sample"] != objects[row["annotation"]]["sample"]
        box, frame = to_box(parse_numbers(row["box"])), read_frame(tables, tables.rows["sample"][row["sample"]])
        assert frame is not None and frame.boxes
        for _, other in frame.boxes:
            assert ground_apart(box, other) and overlap(angle_rectangle(box), angle_rectangle(other)) <= 0.5


@pytest.fixture(scope="module")
def ahead(tree: Path) -> tuple[Tables, Frame]:
    """A sample of one camera, its boxes replaced by one car well in view, with returns enough."""
    tables = read_tables(tree)
    frame = read_frame(tables, next(iter(tables.rows["sample"].values())))
    assert frame is not None
    row = next(row for row, _ in frame.boxes if class_of(tables.category(row)) == "car")
    return tables, replace(frame, boxes=(({**row, "num_lidar_pts": 99}, to_box((0, 10, -1, *CAR, 0))),))


def test_an_object_that_another_camera_shows_more_of_is_left_out(ahead: tuple[Tables, Frame]) -> None:
    """A second camera at the same place shows as much: half of what all show. One that looks away shows nothing."""
    tables, frame = ahead
    data, camera = frame.cameras["CAM_FRONT"]
    away = replace(camera, lidar_to_camera=np.diag([-1.0, 1, -1, 1]) @ camera.lidar_to_camera)
    for other, share in ((camera, 0.5), (away, 1)):
        both = replace(frame, cameras={"CAM_FRONT": (data, camera), "CAM_BACK": (data, other)})
        names = ["CAM_FRONT", "CAM_BACK"] if share == 0.5 else ["CAM_FRONT"]
        for least in (0.4, 0.7):
            found = frame_rows(tables, both, PrepareConfig(root=Path("x"), min_visibility=least))
            assert [row["camera"] for row in found] == (names if least <= share else [])
            assert all(row["visibility"] == share for row in found)


def test_an_object_behind_another_is_left_out(ahead: tuple[Tables, Frame]) -> None:
    tables, frame = ahead
    row, near = frame.boxes[0]
    for place, hidden in ((to_box((0, 16, -1, *CAR, 0)), True), (to_box((6, 16, -1, *CAR, 0)), False)):
        both = replace(frame, boxes=((row, near), (row, place)))
        for most in (0.5, 1.0):
            found = frame_rows(tables, both, PrepareConfig(root=Path("x"), max_overlap=most))
            assert len(found) == (0 if hidden and most < 1 else 2)
            assert all((row["overlap"] > 0.5) == hidden for row in found)


def test_overlap_of_angles() -> None:
    """A box behind another of the same direction is hidden by it; side by side they are not."""
    near, far = (angle_rectangle(to_box((0, y, -1, *CAR, 0))) for y in (8, 16))
    assert overlap(near, far) == pytest.approx(overlap(far, near)) and overlap(near, far) > 0.5
    aside = angle_rectangle(to_box((8, 8, -1, *CAR, 0)))
    assert overlap(near, aside) == 0
    assert overlap(near, near) == pytest.approx(1)
    # over the seam: the same pair at the left of the vehicle
    a, b = (angle_rectangle(to_box((-8, y, -1, *CAR, np.pi / 2))) for y in (0.2, -0.2))
    c, d = (angle_rectangle(to_box((y, 8, -1, *CAR, 0))) for y in (0.2, -0.2))
    assert overlap(a, b) == pytest.approx(overlap(c, d), abs=1e-9) and overlap(a, b) > 0.9
    by_hand = np.degrees(np.arctan2(2, 7))  # the near side of a car 4 m long, 7 m ahead
    assert np.degrees(near[1] - near[0]) == pytest.approx(2 * by_hand)


def test_apart_from_above() -> None:
    from itertools import product

    import cv2

    boxes = [to_box((x, y, -1, *CAR, yaw)) for x, y, yaw in product((0, 2.5, 4.2), (8, 10.5), (0, 0.7, 1.6))]
    for one, other in product(boxes, boxes):
        sides = [((b.centre[0], b.centre[1]), (b.size[1], b.size[0]), float(np.degrees(b.yaw))) for b in (one, other)]
        touches = cv2.rotatedRectangleIntersection(*sides)[0] != cv2.INTERSECT_NONE
        assert ground_apart(one, other) == (not touches)
    assert distances(to_box((0, 10, 5, 4, 2, 1, 0))) == pytest.approx((np.hypot(2, 9), np.hypot(2, 11)))


def test_classes() -> None:
    assert class_of("vehicle.car") == "car" and class_of("vehicle.bus.rigid") == "bus"
    assert class_of("human.pedestrian.child") == "pedestrian" and class_of("human.pedestrian.stroller") is None
    assert class_of("movable_object.barrier") == "barrier" and class_of("animal") is None


def test_refused(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    table: list[tuple[list[str], str]] = [
        ([str(tmp_path / "none")], "none"),
        ([str(tree), "--version", "v9"], "v9"),
        ([str(tree), "--min-points", "0"], "--min-points 0"),
        ([str(tree), "--max-overlap", "2"], "--max-overlap 2"),
        ([str(tree), "--min-points", "100000"], "no object passes"),
        ([str(tree), "--out", str(tmp_path / "full")], "is not empty"),
    ]
    for args, says in table:
        assert main(["prepare", "--out", str(tmp_path / "o"), *args]) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "o").exists()
