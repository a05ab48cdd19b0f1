"""insert, replace, remove, rotate and view as commands: what must work, what ends as exit 2, what the files hold."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mobi
from graft_common.errors import InputError
from graft_common.files import sha256
from graft_common.pixels import read_provenance
from graft_common.rangeview import points_in_box
from mobi import pipeline
from mobi.box_text import to_box
from mobi.cli import main
from mobi.nuscenes_tables import read_tables
from mobi.place import CLIP_MEAN, CLIP_STD
from mobi.poses import to_sensor
from mobi.records import Crops, Painted


@dataclass
class Fake:
    """Paints the hole white, in the middle of the box's depths."""

    size: int = 64
    seen: tuple[Crops, ...] = ()

    @property
    def weights(self) -> dict[str, str]:
        return {"name": "fake", "sha256": "0" * 64}

    def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted:
        self.seen += (crops,)
        camera = crops.camera * crops.camera_keep + 1 - crops.camera_keep
        return Painted(camera, torch.stack([crops.lidar[:, 0] * crops.lidar_keep[:, 0], crops.lidar[:, 1]], 1))


@dataclass(frozen=True)
class Files:
    folder: Path
    box: str

    def args(self, verb: str, out: Path, **other: Any) -> list[str]:
        """The verb's command line with some flags changed; None leaves one out."""
        flags = {
            "image": self.folder / "image.jpg", "sweep": self.folder / "sweep.bin", "calib": self.folder / "calib.json",
            "box": self.box, "reference": self.folder / "reference.png", "out": out, **other,
        }  # fmt: skip
        if verb in ("remove", "view"):
            flags.pop("reference")
        words = [(f"--{flag.replace('_', '-')}", str(value)) for flag, value in flags.items() if value is not None]
        return [verb, *(word for pair in words for word in pair)]


def shown(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.fixture(scope="module")
def files(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One scene as a user's files: the box of the object that the lidar hit most, of those wholly in the picture."""
    folder = tmp_path_factory.mktemp("an edit ü")
    tables = read_tables(tree)
    sample = next(iter(tables.rows["sample"]))
    lidar, camera = tables.data(sample)["LIDAR_TOP"], tables.data(sample)["CAM_FRONT"]
    shutil.copy(tables.path(camera), folder / "image.jpg")
    shutil.copy(tables.path(lidar), folder / "sweep.bin")
    calib = {"K": tables.intrinsics(camera).tolist(), "lidar_to_camera": tables.lidar_to_camera(lidar, camera).tolist()}
    (folder / "calib.json").write_text(json.dumps(calib))
    Image.fromarray(np.full((30, 20, 3), 90, np.uint8)).save(folder / "reference.png")
    found = []
    for row in tables.annotations(sample):
        box = to_sensor(row, tables.sensor_pose(lidar), tables.ego_pose(lidar))
        seen = np.array(calib["lidar_to_camera"])[:3] @ [*box.center, 1]
        u = (np.array(calib["K"]) @ seen)[0] / seen[2]
        if seen[2] > 5 and 20 < u < 140:
            found.append((row["num_lidar_pts"], ",".join(map(str, (*box.center, *box.size, box.yaw)))))
    return Files(folder, max(found)[1])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    painter = Fake()
    monkeypatch.setattr(pipeline, "load_painter", lambda config, quiet=True: painter)
    return painter


def test_insert_writes_what_the_interface_promises(files: Files, fake: Fake, tmp_path: Path) -> None:
    out = tmp_path / "out put"
    assert main(files.args("insert", out, seed=7)) == 0
    names = {"image.png", "mask.png", "sweep.pcd.bin", "panel.png", "edit.json", "run.json"}
    assert {p.name for p in out.iterdir()} == names
    said, run = (json.loads((out / name).read_text()) for name in ("edit.json", "run.json"))
    source = np.fromfile(files.folder / "sweep.bin", np.float32).reshape(-1, 5)
    points = np.fromfile(out / "sweep.pcd.bin", np.float32).reshape(-1, 5)
    assert said["n_kept"] + said["n_removed"] == len(source) and said["n_kept"] + said["n_new"] == len(points)
    kept = {row.tobytes(): k for k, row in enumerate(source)}
    order = [kept[row.tobytes()] for row in points[: said["n_kept"]]]
    assert order == sorted(order)
    box = to_box(said["box"])
    assert np.allclose(said["box"], [float(v) for v in files.box.split(",")])
    assert said["points_in_box"] == int(points_in_box(source, box).sum()) and said["n_new"] > 0
    assert all(0 <= r < 32 and 0 <= c < 1096 for r, c in said["replaced_pixels"])
    before, after, mask = shown(files.folder / "image.jpg"), shown(out / "image.png"), shown(out / "mask.png")
    assert after.shape == before.shape and mask.shape == before.shape[:2] and set(np.unique(mask)) == {0, 255}
    left, top, right, bottom = said["camera_box"]
    rows, columns = np.nonzero(mask)
    assert columns.min() - 1 <= left < right <= columns.max() + 2 and rows.min() - 1 <= top < bottom <= rows.max() + 2
    assert (after != before).any(axis=-1).sum() > 0.3 * (mask > 0).sum()
    assert run["synthetic"] and run["inputs"]["sweep"] == sha256(files.folder / "sweep.bin") and run["seed"] == 7
    assert run["measures"]["n_nan"] == 0 and str(tmp_path) not in json.dumps(run) and str(files.folder) not in json.dumps(run)
    for name in ("image.png", "mask.png", "panel.png"):
        note = read_provenance(out / name)
        assert note is not None and note["seed"] == 7
    assert (fake.seen[0].lidar_box != 0).any()


def test_remove_and_replace(files: Files, fake: Fake, tmp_path: Path) -> None:
    assert main(files.args("remove", tmp_path / "a")) == 0
    assert main(files.args("replace", tmp_path / "b")) == 0
    assert not fake.seen[0].lidar_box.any() and fake.seen[1].lidar_box.any()
    said = [json.loads((tmp_path / name / "edit.json").read_text()) for name in "ab"]
    assert [s["task"] for s in said] == ["remove", "replace"]
    assert any("stand in the box" in flag for flag in said[0]["flags"])  # the fake paints an object where none should be


def test_rotate(files: Files, fake: Fake, tmp_path: Path) -> None:
    assert main([*files.args("rotate", tmp_path / "o"), "--step", "120", "--batch-size", "2"]) == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["panel.png", "run.json", "view_000", "view_120", "view_240"]
    turned = [json.loads((tmp_path / "o" / f"view_{a}" / "edit.json").read_text())["box"] for a in ("000", "120", "240")]
    assert [round(np.degrees(b[6] - turned[0][6])) for b in turned] == [0, 120, 240]
    assert all(b[:6] == turned[0][:6] for b in turned) and [len(c.camera) for c in fake.seen] == [2, 1]


def test_rotate_in_a_free_place_is_judged_as_an_insertion(files: Files, fake: Fake, tmp_path: Path) -> None:
    for name, box, task in (("free", "-0.5,9,-1,0.8,0.8,1.8,0", "insert"), ("held", files.box, "replace")):
        assert main([*files.args("rotate", tmp_path / name, box=box), "--step", "180"]) == 0
        for view in ("view_000", "view_180"):
            said = json.loads((tmp_path / name / view / "edit.json").read_text())
            assert said["task"] == task and ("agreement" in said["measures"]) == (task == "insert")
            assert not any("sees no object" in warning for warning in said["warnings"])


def test_view(files: Files, fake: Fake, tmp_path: Path) -> None:
    assert main(files.args("insert", tmp_path / "edit")) == 0
    assert main(files.args("view", tmp_path / "v")) == 0
    assert main(files.args("view", tmp_path / "w", box=None, edit=tmp_path / "edit")) == 0
    one, two = (shown(tmp_path / n / "panel.png") for n in "vw")
    assert one.shape[1] == two.shape[1] and two.shape[0] > one.shape[0]
    assert (one == (255, 60, 60)).all(-1).any() and (two == (255, 0, 200)).all(-1).any()  # the box; new points


def test_view_of_rows_by_ring(files: Files, tmp_path: Path) -> None:
    """A sweep whose rings count from the top: upside down by ring, as ever by angle."""
    points = np.fromfile(files.folder / "sweep.bin", np.float32).reshape(-1, 5)
    points[:, 4] = 31 - points[:, 4]
    points.tofile(tmp_path / "other.bin")
    other = {"sweep": tmp_path / "other.bin"}
    for name, more in (("a", {}), ("b", other), ("c", {**other, "rows": "ring"})):
        assert main(files.args("view", tmp_path / name, **more)) == 0
    a, b, c = (shown(tmp_path / name / "panel.png") for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_python_call(files: Files) -> None:
    calib = json.loads((files.folder / "calib.json").read_text())
    sweep = np.fromfile(files.folder / "sweep.bin", np.float32).reshape(-1, 5)
    image = shown(files.folder / "image.jpg")
    box = [float(v) for v in files.box.split(",")]
    edit = pipeline.insert(image, sweep, calib, box, np.zeros((8, 8, 3), np.uint8), seed=3, painter=Fake())
    assert edit.seed == 3 and edit.image.rgb.shape == image.shape and edit.sweep.n_new > 0
    again = pipeline.insert(image, sweep, calib, files.box, np.zeros((8, 8, 3), np.uint8), seed=3, painter=Fake())
    assert np.array_equal(edit.sweep.points, again.sweep.points)
    for wrong, more, says in (
        (box, {"sensor": "velodyne"}, "sensor 'velodyne': is none of nuscenes, "),
        (box, {"sensor": ["nuscenes"]}, "is none of"),
        ([*box[:6], "east"], {}, "must be seven numbers X,Y,Z"),
        ([*box[:6], None], {}, "must be seven numbers X,Y,Z"),
        (box[:6], {}, "has 6 numbers"),
    ):
        with pytest.raises(InputError, match=says) as why:
            mobi.insert(image, sweep, calib, wrong, np.zeros((8, 8, 3), np.uint8), painter=Fake(), **more)
        assert "\n" not in str(why.value)
    with pytest.raises(AttributeError, match="'inset'"):
        mobi.inset  # noqa: B018
    with pytest.raises(TypeError, match="unknown setting 'sede'"):
        pipeline.remove(image, sweep, calib, box, sede=1)


Change = Callable[[Files, Path], dict[str, Any]]


def sweep_of(change: Callable[[np.ndarray], np.ndarray], **more: Any) -> Change:
    def make(files: Files, folder: Path) -> dict[str, Any]:
        points = np.fromfile(files.folder / "sweep.bin", np.float32).reshape(-1, 5).copy()
        change(points).astype("<f4").tofile(folder / "other.bin")
        return {"sweep": folder / "other.bin", **more}

    return make


def put(column: int, rows: slice, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(points: np.ndarray) -> np.ndarray:
        points[rows, column] = value
        return points

    return change


def image_of(make: Callable[[np.ndarray], np.ndarray], role: str = "image", name: str = "other.png") -> Change:
    def change(files: Files, folder: Path) -> dict[str, Any]:
        Image.fromarray(make(shown(files.folder / "image.jpg"))).save(folder / name)
        return {role: folder / name}

    return change


def calib_of(change: Callable[[dict[str, Any]], Any]) -> Change:
    def make(files: Files, folder: Path) -> dict[str, Any]:
        content = json.loads((files.folder / "calib.json").read_text())
        content = change(content) or content
        (folder / "other.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return {"calib": folder / "other.json"}

    return make


def left_of_vehicle(files: Files, folder: Path) -> dict[str, Any]:
    """A camera that looks at the seam, and a box on it."""
    look = [[0, 1, 0, 0], [0, 0, -1, -0.3], [-1, 0, 0, 0], [0, 0, 0, 1]]
    K = json.loads((files.folder / "calib.json").read_text())["K"]
    (folder / "left.json").write_text(json.dumps({"K": K, "lidar_to_camera": look}))
    return {"calib": folder / "left.json", "box": "-8,0.1,-1,0.8,0.8,1.8,0"}


def alpha(rgb: np.ndarray) -> np.ndarray:
    clear = np.zeros((*rgb.shape[:2], 4), np.uint8)
    clear[..., 0] = 255
    return clear


WORKS: dict[str, tuple[Change, dict[str, int]]] = {
    "box on the seam": (left_of_vehicle, {}),
    "leading minus": (lambda f, p: {"box": "-0.5,9,-1,0.8,0.8,1.8,-1"}, {}),
    "partly outside": (lambda f, p: {"box": "5.5,8,-1,4,1.8,1.6,0"}, {}),
    "partly behind the camera": (lambda f, p: {"box": "2.6,2.2,-0.9,4.6,1.9,1.7,1.57"}, {}),
    "negative intensity": (sweep_of(put(3, slice(0, 40), -3)), {"n_intensity_clamped": 40}),
    "large intensity": (sweep_of(put(3, slice(0, 7), 1e6)), {"n_intensity_clamped": 7}),
    "NaN": (sweep_of(put(1, slice(3, 9), np.nan)), {"n_nan": 6}),
    "rows of 4": (sweep_of(lambda p: p[:, :4], sweep_columns=4), {}),
    "rows of 6": (sweep_of(lambda p: np.concatenate([p, p[:, :1]], 1), sweep_columns=6), {}),
    "rows by ring": (lambda f, p: {"rows": "ring"}, {}),
    "grey": (image_of(lambda a: a[..., 0]), {}),
    "16 bits": (image_of(lambda a: a[..., 1].astype(np.uint16) * 257), {}),
    "reference with alpha": (image_of(alpha, "reference"), {}),
}


@pytest.mark.parametrize("case", WORKS)
def test_input_that_must_work(case: str, files: Files, fake: Fake, tmp_path: Path) -> None:
    change, counts = WORKS[case]
    out = tmp_path / "out"
    assert main(files.args("insert", out, **change(files, tmp_path))) == 0
    run, said = (json.loads((out / name).read_text()) for name in ("run.json", "edit.json"))
    assert {name: run["measures"][name] for name in counts} == counts
    assert (shown(out / "mask.png") > 0).any() and said["n_new"] > 0
    if case == "partly outside":
        assert run["measures"]["hole_clipped"]["image"]
    behind = [flag for flag in said["flags"] if "reaches behind the camera" in flag]
    assert len(behind) == (case == "partly behind the camera") == run["measures"]["behind_camera"]
    told = fake.seen[0].camera_box
    assert told.abs().max() <= 4
    if behind:  # on the right of the picture, the hidden corners too
        assert told[0, :, 0].max() > 1 and (told[0, :, 0] > 0).all()
    if case == "16 bits":
        assert shown(out / "image.png").max() > 255
    if case == "reference with alpha":
        grey = fake.seen[0].reference[0].mean((1, 2)).numpy() * CLIP_STD + CLIP_MEAN
        assert np.allclose(grey, 128 / 255, atol=2e-3)
    if case == "box on the seam":
        columns = {c for _, c in said["replaced_pixels"]}
        assert min(columns) < 60 and max(columns) > 1040
    if case == "NaN":
        points = (tmp_path / "other.bin").read_bytes()[60:180]
        assert points in (out / "sweep.pcd.bin").read_bytes()


def cut(files: Files, folder: Path) -> dict[str, Any]:
    (folder / "cut.bin").write_bytes((files.folder / "sweep.bin").read_bytes()[:-3])
    return {"sweep": folder / "cut.bin"}


def text(name: str, role: str, content: bytes = b"no picture at all") -> Change:
    def make(files: Files, folder: Path) -> dict[str, Any]:
        (folder / name).write_bytes(content)
        return {role: folder / name}

    return make


REFUSED: dict[str, tuple[Change, str]] = {
    "cut sweep": (cut, "cut.bin"),
    "wrong columns": (lambda f, p: {"sweep_columns": 7}, "--sweep-columns 7"),
    "every row NaN": (sweep_of(put(0, slice(None), np.nan)), "no row is finite"),
    "empty sweep": (text("e.bin", "sweep", b""), "e.bin"),
    "missing sweep": (lambda f, p: {"sweep": p / "none.bin"}, "none.bin"),
    "behind": (lambda f, p: {"box": "0,-12,-1,4,1.8,1.6,0"}, "behind the camera"),
    "outside": (lambda f, p: {"box": "30,5,-1,1,1,1.6,0"}, "outside the image"),
    "too far": (lambda f, p: {"box": "0,55,-1,4,1.8,1.6,0"}, "--box 0,55"),
    "too near": (lambda f, p: {"box": "0,1,-1,4,1.8,1.6,0"}, "within 1.4 m"),
    "no size": (lambda f, p: {"box": "0,9,-1,0,1.8,1.6,0"}, "above 0 m"),
    "six numbers": (lambda f, p: {"box": "-1,9,-1,4,1.8,1.6"}, "seven finite numbers"),
    "stretched rotation": (calib_of(lambda c: c["lidar_to_camera"][0].__setitem__(0, 2.0)), "not orthonormal"),
    "mirrored rotation": (
        calib_of(lambda c: c | {"lidar_to_camera": [[-v for v in c["lidar_to_camera"][0]], *c["lidar_to_camera"][1:]]}),
        "not orthonormal",
    ),
    "no K": (calib_of(lambda c: {"lidar_to_camera": c["lidar_to_camera"]}), '"K"'),
    "K of text": (calib_of(lambda c: c | {"K": "wide"}), '"K"'),
    "ragged K": (calib_of(lambda c: c | {"K": [[1, 2, 3], [1], []]}), '"K"'),
    "no JSON": (calib_of(lambda c: "{"), "other.json"),
    "calib is a list": (calib_of(lambda c: [1]), "other.json"),
    "no picture": (text("x.png", "image"), "x.png"),
    "no reference": (text("r.png", "reference"), "r.png"),
    "missing reference": (lambda f, p: {"reference": p / "none.png"}, "none.png"),
    "steps": (lambda f, p: {"steps": 0}, "--steps 0"),
    "blur": (lambda f, p: {"blur": 0}, "--blur 0"),
    "seed": (lambda f, p: {"seed": -1}, "--seed -1"),
    "ring of rows without": (lambda f, p: {"rows": "ring", "sweep_columns": 4}, "--rows ring"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_input_that_is_refused(case: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, says = REFUSED[case]
    out = tmp_path / "out"
    assert main(files.args("insert", out, **change(files, tmp_path))) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize("step", ["0", "7", "360"])
def test_rotate_refuses(step: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files.args("rotate", tmp_path / "o"), "--step", step]) == 2
    assert f"--step {step}" in capsys.readouterr().err


def test_view_refuses(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files.args("view", tmp_path / "v", edit=tmp_path / "none")) == 2
    assert "none/edit.json" in capsys.readouterr().err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "edit.json").write_text('{"task": "insert"}')
    assert main(files.args("view", tmp_path / "v", edit=tmp_path / "bad")) == 2
    assert "has no box" in capsys.readouterr().err


def test_phantom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["phantom", str(tmp_path / "t"), "--n", "1", "--samples", "1", "--cameras", "front", "--image-size", "64x36"]
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measures"] == {"scenes": 1, "samples": 1}
    assert len(read_tables(tmp_path / "t").rows["sample"]) == 1
    assert main(args) == 2 and "is not empty" in capsys.readouterr().err
    for more, says in ((["--image-size", "64"], "--image-size 64"), (["--n", "0"], "--n 0"), (["--seed", "-1"], "--seed -1")):
        assert main(["phantom", str(tmp_path / "u"), *more]) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "u").exists()
