"""The phantom tree: what a data set must offer, and marks that land where the chain of frames says (property 25)."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from graft_common.errors import InputError
from graft_common.phantoms import driving
from graft_common.phantoms._driving_places import Thing
from graft_common.phantoms._driving_solids import Surface, ball
from graft_common.phantoms.driving import draw_scene
from mobi.nuscenes_phantom import scene_name, write_tree
from mobi.nuscenes_tables import read_sweep, read_tables
from mobi.poses import inside, pixels, pose_of, to_sensor


@dataclass(frozen=True)
class Mark:
    """A ball in the air."""

    height: float
    radius: float = 0.2

    def solids(self, time: float):
        return [ball("mark", (0, 0, self.height), (self.radius,) * 3)]

    def casts(self, time: float):
        return [self.solids(time)[0].outline]

    def surface(self, solid, at, normals, night):
        n = len(at)
        return Surface(np.full((n, 3), (0.8, 0, 0.8)), np.zeros(n), np.zeros((n, 3)), np.full(n, 50.0))


SPOTS = ((9.0, 1.3, 1.2), (8.0, -4.2, 1.6), (11.0, -1.2, 2.2), (12.0, -6.0, 1.0), (13.0, 3.0, 2.6))


def test_known_marks_hit_known_pixels_through_both_ego_poses_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out = driving.lay_out

    def marked(rng, kind):
        things = tuple(
            Thing(i, "car", "parked", Mark(z), (x, y), (0.0, 0.0), 0.0, (0.4, 0.4, 2 * z))
            for i, (x, y, z) in enumerate(SPOTS, 1)
        )
        return replace(lay_out(rng, kind), things=things)

    monkeypatch.setattr(driving, "lay_out", marked)
    size = (800, 450)
    write_tree(tmp_path / "t", 1, seed=3, size=size, samples=1, cameras=("CAM_FRONT",), sweeps=False)
    tables, record = read_tables(tmp_path / "t"), json.loads((tmp_path / "t" / "phantom.json").read_text())["scenes"][0]
    view = draw_scene(record["seed"], size, night=False, rain=False, kind="street")[0].views[0]
    sample = record["samples"][0]
    lidar, camera = tables.data(sample)["LIDAR_TOP"], tables.data(sample)["CAM_FRONT"]
    right = tables.lidar_to_camera(lidar, camera)
    shared = np.linalg.inv(tables.sensor_pose(camera)) @ tables.sensor_pose(lidar)
    errors: dict[str, list[float]] = {"both": [], "shared": []}
    for row in tables.annotations(sample):
        number = record["instances"][row["instance_token"]]
        rows, cols = np.nonzero(view.silhouette(number, whole=True))
        seen = np.array([cols.mean(), rows.mean()])
        center = np.array(to_sensor(row, tables.sensor_pose(lidar), tables.ego_pose(lidar)).center)[None]
        for name, matrix in (("both", right), ("shared", shared)):
            at, _ = pixels(matrix, tables.intrinsics(camera), center)
            errors[name].append(float(np.linalg.norm(at[0] - seen)))
    assert len(errors["both"]) == len(SPOTS)
    assert max(errors["both"]) < 0.5
    assert np.median(errors["shared"]) > 0.5


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes, sweeps alone."""
    folder = tmp_path_factory.mktemp("sweeps") / "root"
    write_tree(folder, 4, seed=0, size=(160, 90), samples=6, cameras=(), sweeps=False)
    return folder


def test_the_tree_offers_what_tests_of_editing_need(sweeps: Path) -> None:
    tables = read_tables(sweeps)
    flags = {tables.flags(s["first_sample_token"]) for s in tables.rows["scene"].values()}
    assert {(True, False), (False, True), (False, False)} <= flags  # rain, night, neither
    tracks = [tables.track(i) for i in tables.rows["instance"]]
    distances, seam = [], 0
    for track in tracks:
        own = []
        for row in track:
            lidar = tables.data(row["sample_token"])["LIDAR_TOP"]
            box = to_sensor(row, tables.sensor_pose(lidar), tables.ego_pose(lidar))
            own.append(float(np.hypot(*box.center[:2])))
            c, s = np.cos(box.yaw), np.sin(box.yaw)
            half = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.array(box.size[:2]) / 2
            corners = half @ np.array([[c, s], [-s, c]]) + box.center[:2]
            seam += bool((corners[:, 0] < 0).all() and corners[:, 1].min() < 0 < corners[:, 1].max())  # across the left
        distances.append(own)
    assert any(len(own) >= 6 and np.ptp(own) > 5 for own in distances)
    assert seam > 0
    assert max(max(own) for own in distances) > 54
    heights = {tuple(np.round(row["translation"], 6)) for row in tables.rows["ego_pose"].values()}
    assert len(heights) == len(tables.rows["ego_pose"]) and all(h[2] == 0 for h in heights)


def test_points_are_counted_in_every_box(sweeps: Path) -> None:
    tables = read_tables(sweeps)
    for sample in list(tables.rows["sample"])[::5]:
        lidar = tables.data(sample)["LIDAR_TOP"]
        points, to_lidar = read_sweep(tables.path(lidar))[:, :3], tables.global_to_sensor(lidar)
        for row in tables.annotations(sample):
            assert row["num_lidar_pts"] == inside(to_lidar @ pose_of(row), row["size"], points).sum() >= 1


def test_truth_can_be_drawn_again_and_equal_seeds_write_equal_bytes(tree: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    written = write_tree(again, 2, seed=5, size=(160, 90), samples=3, cameras=("CAM_FRONT",))
    files = sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file())
    assert sorted(written) == files
    assert all((tree / name).read_bytes() == (again / name).read_bytes() for name in files)
    tables, scene = read_tables(tree), json.loads((tree / "phantom.json").read_text())["scenes"][1]
    plan = {k: scene[k] for k in ("night", "rain", "kind")}
    drive = draw_scene(scene["seed"], tuple(scene["size"]), (scene["times"][2],), ("CAM_FRONT",), **plan)[0]
    data = tables.data(scene["samples"][2])
    assert tables.path(data["LIDAR_TOP"]).read_bytes() == drive.sweep.tobytes()
    np.testing.assert_allclose(
        tables.lidar_to_camera(data["LIDAR_TOP"], data["CAM_FRONT"]), drive.lidar_to_camera, atol=1e-9
    )
    np.testing.assert_allclose(tables.intrinsics(data["CAM_FRONT"]), drive.K)
    from PIL import Image

    with Image.open(tables.path(data["CAM_FRONT"])) as picture:
        assert np.abs(np.asarray(picture).astype(int) - drive.image).mean() < 6
        assert json.loads(picture.info["comment"])["synthetic"] is True
    for row in tables.annotations(scene["samples"][2]):
        box = drive.box(scene["instances"][row["instance_token"]])
        mine = to_sensor(row, drive.lidar_to_ego, drive.ego_to_global)
        np.testing.assert_allclose(mine.center, box.center, atol=1e-6)
        np.testing.assert_allclose(np.cos(mine.yaw - box.yaw), 1, atol=1e-9)
        np.testing.assert_allclose(mine.size, box.size, atol=1e-9)


def test_scene_names_are_the_devkits_and_unlike() -> None:
    names = [scene_name(k) for k in range(14)]
    assert len(set(names)) == 14
    assert set(names[:10]) == {
        "scene-0061", "scene-0553", "scene-0655", "scene-0757", "scene-0796", "scene-1077", "scene-1094", "scene-1100",
        "scene-0103", "scene-0916",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n": 0}, "--n 0"), ({"samples": 0}, "--samples 0"), ({"samples": 10}, "--samples 10"), ({"size": (10, 90)}, "10x90"),
        ({"cameras": ("CAM_ROOF",)}, "CAM_ROOF"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        write_tree(tmp_path / "t", **({"n": 1, "size": (160, 90)} | wrong))
    assert not (tmp_path / "t").exists()


def test_folders_in_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_tree(tmp_path, 1)
    with pytest.raises(InputError, match="is a file"):
        write_tree(tmp_path / "a.txt", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
