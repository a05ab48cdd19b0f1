"""The nuscenes-devkit, in its own environment, loads the phantom tree and a derived one and finds the edited box; its measures of
found boxes are ours."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graft_common.rangeview import Box3d
from mobi.cli import main
from mobi.detector import Detection
from mobi.detector_metrics import distance, evaluate_boxes, size_error, turn_error
from mobi.nuscenes_phantom import write_tree
from mobi.nuscenes_tables import Row, Tables, read_tables
from mobi.nuscenes_write import Add, Delete, Move, write_derived
from mobi.poses import to_sensor

ASK = """
import json, sys
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes
kit, splits, out = NuScenes("v1.0-mini", sys.argv[1], verbose=False), create_splits_scenes(), {}
out["splits"] = {s["name"]: [k for k in ("mini_train", "mini_val") if s["name"] in splits[k]] for s in kit.scene}
out["boxes"] = {}
for sample in kit.sample:
    path, boxes, _ = kit.get_sample_data(sample["data"]["LIDAR_TOP"])
    points = LidarPointCloud.from_file(path).points[:3]
    for box in boxes:
        row = kit.get("sample_annotation", box.token)
        turn = box.orientation.rotation_matrix[:2, 0]
        out["boxes"][box.token] = [*map(float, box.center), *map(float, box.wlh), *map(float, turn),
                                   int(points_in_box(box, points).sum()), row["num_lidar_pts"], box.name]
    for channel, token in sample["data"].items():
        if channel.startswith("CAM"):
            kit.get_sample_data(token)
print(json.dumps(out))
"""

GRADE = """
import json, math, sys
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance, scale_iou, yaw_diff
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.data_classes import DetectionBox
scenes = json.load(open(sys.argv[1]))

def boxes(kind):
    found = EvalBoxes()
    for token, scene in enumerate(scenes):
        rows = []
        for (x, y, z, w, l, h, yaw), name, score in scene[kind]:
            rows.append(DetectionBox(str(token), (x, y, z), (w, l, h), (math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)),
                                     detection_name=name, detection_score=score))
        found.add_boxes(str(token), rows)
    return found

truth, found = boxes("truth"), boxes("found")
out = {"single": [[center_distance(a, b), 1 - scale_iou(a, b), yaw_diff(a, b)]
                  for token in truth.sample_tokens for a, b in zip(truth[token], found[token])]}
for name in ("car", "pedestrian"):
    at = {radius: accumulate(truth, found, name, center_distance, radius) for radius in (0.5, 1.0, 2.0, 4.0)}
    out[name] = {"ap": sum(calc_ap(one, 0.1, 0.1) for one in at.values()) / 4}
    for ours, theirs in (("ate", "trans_err"), ("ase", "scale_err"), ("aoe", "orient_err")):
        out[name][ours] = calc_tp(at[2.0], 0.1, theirs)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has nuscenes-devkit 1.2, which needs NumPy below 2."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv to make an environment with")
    folder = tmp_path_factory.mktemp("devkit") / "env"
    make = [uv, "venv", "--quiet", "--python", sys.executable, str(folder)]
    fill = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(folder / "bin" / "python"),
        "nuscenes-devkit==1.2.0",
        "numpy<2",
    ]
    for command in (make, fill):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=folder.parent)
        if done.returncode:
            words = done.stderr.strip().splitlines() or ["no message"]
            pytest.skip(f"nuscenes-devkit cannot be installed here: {words[0]}")
    return folder / "bin" / "python"


def ask(python: Path, path: Path, script: str = ASK) -> dict:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(python), "-c", script, str(path)], capture_output=True, text=True, timeout=600, env=plain)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_devkit_loads_phantom_and_derived_trees(python: Path, tmp_path: Path) -> None:
    root, derived = tmp_path / "phantom", tmp_path / "derived"
    write_tree(root, 2, seed=1, size=(320, 180), samples=3)
    tables = read_tables(root)
    found = ask(python, root)
    assert sorted(map(tuple, found["splits"].values())) == [("mini_train",), ("mini_val",)]
    assert set(found["boxes"]) == set(tables.rows["sample_annotation"])
    for token, (x, y, z, w, length, h, cos, sin, counted, written, name) in found["boxes"].items():
        row = tables.get("sample_annotation", token)
        lidar = tables.data(row["sample_token"])["LIDAR_TOP"]
        box = to_sensor(row, tables.sensor_pose(lidar), tables.ego_pose(lidar))
        np.testing.assert_allclose([x, y, z], box.center, atol=1e-6)
        np.testing.assert_allclose([length, w, h], box.size, atol=1e-9)
        np.testing.assert_allclose([cos, sin], [np.cos(box.yaw), np.sin(box.yaw)], atol=1e-9)
        assert counted == written and name == tables.category(row)

    rows = tables.annotations(next(iter(tables.rows["sample"])))[:3]
    where = {k: rows[1][k] for k in ("size", "rotation")} | {"translation": [v + 1 for v in rows[1]["translation"]]}
    free = {k: rows[0][k] for k in ("translation", "size", "rotation")}
    edits = [
        Delete(annotation=rows[0]["token"]),
        Move(annotation=rows[1]["token"], **where),
        Add(sample=rows[0]["sample_token"], category="human.pedestrian.adult", visibility="3", **free),
    ]
    done = write_derived(tables, derived, edits, {})
    after = ask(python, derived)["boxes"]
    assert set(after) == set(found["boxes"]) - {rows[0]["token"]} | set(done.added)
    np.testing.assert_allclose(after[done.added[0]][:8], found["boxes"][rows[0]["token"]][:8], atol=1e-9)
    assert after[done.added[0]][10] == "human.pedestrian.adult"
    moved = np.array(after[rows[1]["token"]][:3]) - found["boxes"][rows[1]["token"]][:3]
    assert np.linalg.norm(moved) == pytest.approx(np.sqrt(3), abs=1e-6)
    untouched = set(found["boxes"]) - {rows[0]["token"], rows[1]["token"]}
    assert all(after[t] == found["boxes"][t] for t in untouched)
    assert all(row[8] == row[9] for row in after.values())


def seen(tables: Tables, sample: str) -> Row:
    """The box well inside the front picture that has the most returns."""
    lidar, camera = (tables.data(sample)[name] for name in ("LIDAR_TOP", "CAM_FRONT"))
    found = []
    for row in tables.annotations(sample):
        box = to_sensor(row, tables.sensor_pose(lidar), tables.ego_pose(lidar))
        at = tables.intrinsics(camera) @ tables.lidar_to_camera(lidar, camera)[:3] @ [*box.center, 1]
        if at[2] > 5 and 40 < at[0] / at[2] < 280:
            found.append(row)
    return max(found, key=lambda row: row["num_lidar_pts"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_devkit_loads_what_batch_wrote(python: Path, tmp_path: Path) -> None:
    """Shipped weights, two steps: the edited boxes are where the manifest put them, and every count is of the new sweeps."""
    root, out = tmp_path / "phantom", tmp_path / "derived"
    write_tree(root, 2, seed=1, size=(320, 180), samples=2, cameras=("CAM_FRONT",))
    before = ask(python, root)["boxes"]
    tables = read_tables(root)
    first, second = list(tables.rows["sample"])[:2]
    gone, moved = (seen(tables, sample) for sample in (first, second))
    lines = ["sample,camera,task,annotation,box,category,seed"]
    lines += [f"{first},CAM_FRONT,remove,{gone['token']},,,1"]
    lines += [f'{second},CAM_FRONT,move,{moved["token"]},"1,15,-1,4.2,1.8,1.6,0.4",,2']
    manifest = tmp_path / "edits.csv"
    manifest.write_text("\n".join(lines) + "\n")
    assert main(["batch", "--root", str(root), "--manifest", str(manifest), "--out", str(out), "--steps", "2"]) == 0
    after = ask(python, out)["boxes"]
    assert set(after) == set(before) - {gone["token"]}
    x, y, z, w, length, h, cos, sin, counted, written, _ = after[moved["token"]]
    np.testing.assert_allclose([x, y, z, length, w, h, cos, sin], [1, 15, -1, 4.2, 1.8, 1.6, np.cos(0.4), np.sin(0.4)], atol=1e-6)
    assert counted == written
    untouched = {t for t in before if t not in (gone["token"], moved["token"])}
    assert all(after[t][:8] == before[t][:8] and after[t][8] == after[t][9] for t in untouched)


def some_boxes(rng: np.random.Generator) -> tuple[list[Detection], list[Detection]]:
    """True boxes of a scene, and found ones: near them or far off, some missing, some doubled, scores with ties."""
    truth, found = [], []
    for _ in range(8):
        label = str(rng.choice(["car", "pedestrian"]))
        size = rng.uniform((1.5, 3.5, 1.2), (2.2, 5.5, 2.0)) if label == "car" else rng.uniform(0.5, 1.9, 3)
        centre, yaw = rng.uniform((-25, -25, -2), (25, 25, 0)), rng.uniform(-np.pi, np.pi)
        truth.append(Detection(Box3d(tuple(centre.tolist()), tuple(size.tolist()), float(yaw)), label, -1.0))
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            far = rng.choice([0.2, 0.8, 3])
            shifted, grown = centre + rng.normal(0, far, 3) * [1, 1, 0.2], size * rng.uniform(0.8, 1.25, 3)
            turn = float(yaw + rng.choice([0, np.pi]) + rng.normal(0, 0.3))  # may leave -pi .. pi
            box = Box3d(tuple(shifted.tolist()), tuple(grown.tolist()), turn)
            found.append(Detection(box, label, round(float(rng.uniform(0, 1)), 1)))
    return truth, found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_devkit_measures_found_boxes_as_we_do(python: Path, tmp_path: Path) -> None:
    """ATE, ASE and AOE of single pairs, and averaged over a set with AP, to 1e-6."""
    rng = np.random.default_rng(7)
    scenes = [some_boxes(rng) for _ in range(25)]

    def plain(boxes: list[Detection]) -> list:
        return [[[*d.box.centre, *d.box.size, d.box.yaw], d.label, d.score] for d in boxes]

    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"truth": plain(truth), "found": plain(found)} for truth, found in scenes]))
    said = ask(python, path, GRADE)
    pairs = [(a.box, b.box) for truth, found in scenes for a, b in zip(truth, found, strict=False)]
    ours = [[distance(a, b), size_error(a, b), turn_error(a, b)] for a, b in pairs]
    np.testing.assert_allclose(ours, said["single"], atol=1e-6)
    table = evaluate_boxes([truth for truth, _ in scenes], [found for _, found in scenes])
    for label in ("car", "pedestrian"):
        for key, value in said[label].items():
            assert table[label][key] == pytest.approx(value, abs=1e-6), (label, key)
        assert 0.1 < said[label]["ap"] < 0.9 and said[label]["ate"] > 0.1 and said[label]["aoe"] > 0.3
