"""--sensor-file: a lidar by its own calibration, in the verbs that take a scene."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graft_common.console import Verb, run_command
from graft_common.errors import InputError
from graft_common.rangeview import NUSCENES
from mobi import config, pipeline
from mobi.inputs import pick_sensor
from mobi.nuscenes_tables import read_tables
from mobi.records import Crops, Painted

VERBS = {
    "insert": Verb(config.InsertConfig, "mobi.pipeline:run_insert"), "view": Verb(config.ViewConfig, "mobi.view:run_view"),
    "remove": Verb(config.RemoveConfig, "mobi.pipeline:run_remove"),
}  # fmt: skip
DEGREES = [math.degrees(angle) for angle in NUSCENES.elevation]


def hesai(folder: Path) -> Path:
    lines = [f"{ring + 1},{angle!r},0" for ring, angle in zip(NUSCENES.rings, DEGREES, strict=True)]
    path = folder / "angle correction.CSV"
    path.write_text("Laser id,Elevation,Azimuth\n" + "\n".join(lines))
    return path


def velodyne_yaml(folder: Path) -> Path:
    lasers = [f"- {{laser_id: {k}, vert_correction: {a!r}, rot_correction: 0.0}}" for k, a in enumerate(NUSCENES.elevation)]
    path = folder / "32.yaml"
    path.write_text("lasers:\n" + "\n".join(lasers))
    return path


def velodyne_xml(folder: Path) -> Path:
    item = "<item><px><id_>{}</id_><rotCorrection_>0</rotCorrection_><vertCorrection_>{!r}</vertCorrection_></px></item>"
    path = folder / "db.xml"
    path.write_text("<d><points_>" + "".join(item.format(k, a) for k, a in enumerate(DEGREES)) + "</points_></d>")
    return path


def ouster(folder: Path) -> Path:
    path = folder / "meta.json"
    path.write_text(json.dumps({"beam_altitude_angles": DEGREES, "beam_azimuth_angles": [0] * 32}))
    return path


@pytest.mark.parametrize("make", [hesai, velodyne_yaml, velodyne_xml, ouster])
def test_every_kind_is_read(make: object, tmp_path: Path) -> None:
    sensor = pick_sensor("nuscenes", make(tmp_path), 1096)  # type: ignore[operator]
    assert sensor.columns == 1096 and np.allclose(sensor.elevation, NUSCENES.elevation, atol=1e-12)
    rings = NUSCENES.rings if make is not ouster else tuple(range(32))
    assert sensor.rings == rings
    assert pick_sensor("os1-128").rows == 128


@dataclass
class Stub:
    size: int = 64

    @property
    def weights(self) -> dict[str, str]:
        return {"name": "stub", "sha256": "0" * 64}

    def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted:
        lidar = torch.stack([crops.lidar[:, 0] * crops.lidar_keep[:, 0], crops.lidar[:, 1]], 1)
        return Painted(crops.camera * crops.camera_keep, lidar)


@pytest.fixture
def scene(tree: Path, tmp_path: Path) -> list[str]:
    """Flags of a scene; the reference is a file of its own."""
    tables = read_tables(tree)
    data = tables.data(next(iter(tables.rows["sample"])))
    lidar, camera = data["LIDAR_TOP"], data["CAM_FRONT"]
    calib = {"K": tables.intrinsics(camera).tolist(), "lidar_to_camera": tables.lidar_to_camera(lidar, camera).tolist()}
    (tmp_path / "calib.json").write_text(json.dumps(calib))
    Image.new("RGB", (9, 9), "red").save(tmp_path / "ref.png")
    paths = {"image": tables.path(camera), "sweep": tables.path(lidar), "calib": tmp_path / "calib.json"}
    return [*(word for name, path in paths.items() for word in (f"--{name}", str(path))), "--box", "-0.5,9,-1,0.8,0.8,1.8,0.5"]


def test_the_same_lidar_by_file(scene: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_painter", lambda config, quiet=True: Stub())
    own = ["--sensor-file", str(hesai(tmp_path)), "--sensor-columns", "1096"]
    ref = ["--reference", str(tmp_path / "ref.png")]
    for name, more in (("a", []), ("b", own)):
        assert run_command("graft-mobi", VERBS, ["insert", *scene, *ref, *more, "--out", str(tmp_path / name)]) == 0
        assert run_command("graft-mobi", VERBS, ["view", *scene, *more, "--out", str(tmp_path / f"v{name}")]) == 0
    assert (tmp_path / "a" / "sweep.pcd.bin").read_bytes() == (tmp_path / "b" / "sweep.pcd.bin").read_bytes()
    for pair in (("a/image.png", "b/image.png"), ("va/panel.png", "vb/panel.png")):
        with Image.open(tmp_path / pair[0]) as one, Image.open(tmp_path / pair[1]) as two:
            assert np.array_equal(np.asarray(one), np.asarray(two))
    run = json.loads((tmp_path / "b" / "run.json").read_text())
    assert run["input_names"]["sensor"] == "angle correction.CSV" and len(run["inputs"]["sensor"]) == 64
    # half the columns: the same box is half as wide in the view
    own[-1] = "548"
    assert run_command("graft-mobi", VERBS, ["insert", *scene, *ref, *own, "--out", str(tmp_path / "c")]) == 0
    said = [json.loads((tmp_path / n / "edit.json").read_text())["replaced_pixels"] for n in "bc"]
    assert 0.35 < len(said[1]) / len(said[0]) < 0.65 and max(c for _, c in said[1]) < 548


REFUSED = {
    "another ending": (["--sensor-file", "x.txt", "--sensor-columns", "9"], "must end in .json"),
    "no columns": (["--sensor-file", "HESAI"], "give --sensor-columns"),
    "no mode": (["--sensor-file", "OUSTER"], "give --sensor-columns 1024"),
    "too few": (["--sensor-file", "HESAI", "--sensor-columns", "7"], "--sensor-columns 7"),
    "no file": (["--sensor-columns", "1024"], "belongs to --sensor-file"),
    "missing": (["--sensor-file", "none.csv", "--sensor-columns", "1024"], "none.csv: no such file"),
    "two sensors": (["--sensor-file", "HESAI", "--sensor-columns", "1024", "--sensor", "hdl-64e"], "--sensor hdl-64e"),
    "a wrong file": (["--sensor-file", "CALIB"], "has no list beam_altitude_angles"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("verb", ["remove", "view"])
def test_refused(case: str, verb: str, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags, says = REFUSED[case]
    paths = {"HESAI": str(hesai(tmp_path)), "OUSTER": str(ouster(tmp_path)), "CALIB": str(tmp_path / "calib.json")}
    words = [paths.get(word, word) for word in flags]
    assert run_command("graft-mobi", VERBS, [verb, *scene, *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_rows_that_do_not_divide_the_crop(scene: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "load_painter", lambda config, quiet=True: Stub())
    settings = config.CompositeConfig(weights="w")
    odd = replace(NUSCENES, name="odd", elevation=NUSCENES.elevation[:31], azimuth=(0.0,) * 31, rings=NUSCENES.rings[:31])
    with pytest.raises(InputError, match="31 rows of sensor odd do not divide"):
        pipeline.loaded_painter(settings, odd, pipeline.Run([], settings), True)
    with pytest.raises(InputError, match="128 rows of sensor os1-128"):
        pipeline.loaded_painter(settings, pick_sensor("os1-128"), pipeline.Run([], settings), True)
