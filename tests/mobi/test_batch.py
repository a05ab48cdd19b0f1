"""The verb `batch`: a manifest on a phantom tree, painted by a stand-in."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from graft_common.console import Verb, run_command
from graft_common.errors import InputError
from mobi import config, config_batch, pipeline
from mobi.batch_files import Files, check_names, encode_like
from mobi.elsewhere import centre_at, frames_between, frames_that_show, other_cameras
from mobi.manifest import COLUMNS, read_manifest
from mobi.nuscenes_tables import TABLES, Row, Tables, read_sweep, read_tables
from mobi.poses import Upright, inside, pose_of, to_global, to_sensor
from mobi.prepare import COLUMNS as OBJECT_COLUMNS
from mobi.prepare import LIDAR, read_frame
from mobi.records import Crops, Painted

VERBS = {
    "batch": Verb(config_batch.BatchConfig, "mobi.batch:run_batch"), "view": Verb(config.ViewConfig, "mobi.view:run_view"),
}  # fmt: skip


@dataclass
class Stub:
    """Paints each hole in one colour of its seed, in the middle of the box's depths; stops before call number `stop`."""

    size: int = 64
    stop: int = -1
    calls: list[tuple[int, ...]] = field(default_factory=list)
    crops: list[Crops] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, str]:
        return {"name": "stub", "sha256": "0" * 64}

    def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted:
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        self.calls.append(tuple(seeds))
        self.crops.append(crops)
        colour = torch.tensor([(seed % 7) / 3.5 - 1 for seed in seeds])[:, None, None, None]
        camera = crops.camera * crops.camera_keep + colour * (1 - crops.camera_keep)
        return Painted(camera, torch.stack([crops.lidar[:, 0] * crops.lidar_keep[:, 0], crops.lidar[:, 1]], 1))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    painter = Stub()
    monkeypatch.setattr(pipeline, "load_painter", lambda config, quiet=True: painter)
    return painter


@pytest.fixture(scope="module")
def tables(tree: Path) -> Tables:
    return read_tables(tree)


@pytest.fixture(scope="module")
def seen(tables: Tables) -> list[tuple[Row, str]]:
    """Boxes wholly in the picture with at least 20 returns, as (annotation, box text), those with the most returns first."""
    found = []
    for sample in tables.rows["sample"]:
        data = tables.data(sample)
        lidar, camera = data[LIDAR], data["CAM_FRONT"]
        for row in tables.annotations(sample):
            box = to_sensor(row, tables.sensor_pose(lidar), tables.ego_pose(lidar))
            at = tables.lidar_to_camera(lidar, camera)[:3] @ [*box.center, 1]
            u = (tables.intrinsics(camera) @ at)[0] / at[2]
            if at[2] > 5 and 20 < u < 140 and row["num_lidar_pts"] >= 20:
                found.append((row, ",".join(map(str, (*box.center, *box.size, box.yaw)))))
    return sorted(found, key=lambda pair: -pair[0]["num_lidar_pts"])


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    (tmp_path / "in ä").mkdir()
    Image.fromarray(np.full((30, 20, 3), 90, np.uint8)).save(tmp_path / "in ä" / "ref.png")
    return tmp_path / "in ä" / "ref.png"


def write(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(tree: Path, manifest: Path, out: Path, *more: str) -> int:
    return run_command("graft-mobi", VERBS, ["batch", "--root", str(tree), "--manifest", str(manifest), "--out", str(out), *more])


def row(annotation: Row, task: str, /, **cells: Any) -> dict[str, Any]:
    return {"sample": annotation["sample_token"], "camera": "CAM_FRONT", "task": task, **cells}


FREE = "-0.5,9,-1,0.8,0.8,1.8,0.5"


@pytest.fixture
def manifest(seen: list[tuple[Row, str]], reference: Path) -> Path:
    """Three samples: one removal and an insertion in one row, a replacement, a move; the last two in one sample."""
    (gone, _), others = seen[0], [a for a, _ in seen if a["sample_token"] != seen[0][0]["sample_token"]]
    kept = others[0]
    moved = next(a for a in others if a["sample_token"] == kept["sample_token"] and a["token"] != kept["token"])
    third = next(a for a in others if a["sample_token"] != kept["sample_token"])
    rows = [
        row(gone, "insert;remove", annotation=f";{gone['token']}", box=f"{FREE};", reference="ref.png;", category="vehicle.car;",
            attribute="vehicle.parked;", seed="3"),
        row(kept, "replace", annotation=kept["token"], reference="ref.png"),
        row(moved, "move", annotation=moved["token"], box="2,15,-1,4,1.8,1.6,0.4"),
        row(third, "replace", annotation=third["token"], reference="ref.png", category="human.pedestrian.adult"),
    ]  # fmt: skip
    return write(reference.parent / "edits.csv", rows)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def listed(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(out.glob("edits/*/edit.json"))]


def test_a_derived_data_set(tree: Path, tables: Tables, manifest: Path, stub: Stub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = files(tree)
    assert run(tree, manifest, out) == 0
    assert files(tree) == before
    new = read_tables(out)  # every chain, link and count holds
    said, lines = records(out), listed(out / "edits.csv")
    asked = listed(manifest)
    gone, kept, moved, third = (line["annotation"].strip(";") for line in asked)
    boxes, old = new.rows["sample_annotation"], tables.rows["sample_annotation"]

    # labels: one removed, one added, one moved, one begun anew under another category
    assert gone not in boxes and third not in boxes and len(boxes) == len(old)
    added = {new.category(r): r for token, r in boxes.items() if token not in old}
    assert set(added) == {"vehicle.car", "human.pedestrian.adult"}
    lidar = new.data(asked[0]["sample"])[LIDAR]
    at = to_sensor(added["vehicle.car"], new.sensor_pose(lidar), new.ego_pose(lidar))
    assert np.allclose([*at.center, *at.size, at.yaw], [float(v) for v in FREE.split(",")], atol=1e-9)
    assert [new.rows["attribute"][t]["name"] for t in added["vehicle.car"]["attribute_tokens"]] == ["vehicle.parked"]
    assert {k: added["human.pedestrian.adult"][k] for k in ("translation", "size", "rotation")} == {
        k: old[third][k] for k in ("translation", "size", "rotation")
    }
    lidar = new.data(asked[2]["sample"])[LIDAR]
    at = to_sensor(boxes[moved], new.sensor_pose(lidar), new.ego_pose(lidar))
    assert np.allclose([*at.center, *at.size, at.yaw], [2, 15, -1, 4, 1.8, 1.6, 0.4], atol=1e-9)
    assert boxes[moved]["instance_token"] == old[moved]["instance_token"]
    for annotation in (*added.values(), boxes[moved], boxes[kept]):  # counted in the new sweep
        lidar = new.data(annotation["sample_token"])[LIDAR]
        hit = inside(new.global_to_sensor(lidar) @ pose_of(annotation), annotation["size"], read_sweep(new.path(lidar))[:, :3])
        assert annotation["num_lidar_pts"] == hit.sum()
    assert all(r["visibility_token"] in new.rows["visibility"] for r in (*added.values(), boxes[moved]))

    # files: what the manifest names is edited, all else is the source's
    edited = {r[kind] for r in said for kind in ("picture", "sweep")}
    assert len(edited) == 6 and [r["row"] for r in said] == [0, 1, 2, 3]
    for name, data in before.items():
        if name not in ("SYNTHETIC.txt", "phantom.json"):
            same = name not in edited and Path(name).name not in ("sample_annotation.json", "instance.json")
            assert ((out / name).read_bytes() == data) == same, name
    for table in set(TABLES) - {"sample_annotation", "instance"}:
        assert (out / "v1.0-mini" / f"{table}.json").read_bytes() == tables.text[table]
    top = {"SYNTHETIC.txt", "edits", "edits.csv", "maps", "panel.png", "run.json", "samples", "sweeps", "v1.0-mini"}
    assert {p.name for p in out.iterdir()} == top and not (out / "edits" / "files").exists()

    # the two rows of one sample share a sweep: what the first kept, the second kept too unless it says otherwise
    source, result = (read_sweep(r.path(r.data(asked[1]["sample"])[LIDAR])) for r in (tables, new))
    steps = [edit for r in said[1:3] for edit in r["edits"]]
    assert len(result) == len(source) + sum(s["n_new"] - s["n_removed"] for s in steps)
    assert [s["task"] for s in steps] == ["replace", "remove", "insert"] and [s["asked"] for s in steps[1:]] == ["move", "move"]

    assert [line["task"] for line in lines] == ["remove", "insert", "replace", "remove", "insert", "replace"]
    assert lines[1]["annotation"] == added["vehicle.car"]["token"] and lines[0]["annotation"] == gone
    assert any("stand in the box" in line["flags"] for line in lines)
    run_record = json.loads((out / "run.json").read_text())
    assert run_record["measures"]["labels"] == {"add": 2, "move": 1, "delete": 2} and run_record["measures"]["boxes"] == 5
    assert run_record["measures"]["flagged"] == sum(bool(line["flags"]) for line in lines) > 0


def test_pictures(tree: Path, tables: Tables, manifest: Path, stub: Stub, tmp_path: Path) -> None:
    """image.png keeps every pixel out of the holes' reach; the data set's JPEG keeps them nearly."""
    assert run(tree, manifest, tmp_path / "out") == 0
    for number, said in enumerate(records(tmp_path / "out")):
        folder = tmp_path / "out" / "edits" / f"{number:04d}"
        before, after, coded, mask = (
            opened(p).astype(int)
            for p in (tree / said["picture"], folder / "image.png", tmp_path / "out" / said["picture"], folder / "mask.png")
        )
        far = np.ones(mask.shape, bool)
        for top, left in np.argwhere(mask > 0):
            far[max(0, top - 3) : top + 4, max(0, left - 3) : left + 4] = False
        if number != 2:  # row 1 edited the same picture before
            assert (before[far] == after[far]).all()
        assert (after[mask > 0] != before[mask > 0]).any()
        assert np.abs(coded - after)[far].mean() < 3 and coded.shape == before.shape
        with Image.open(tmp_path / "out" / said["picture"]) as picture:
            assert picture.format == "JPEG"
            comment = json.loads(picture.info["comment"])
        assert comment["synthetic"] is True and comment["weights"]["name"] == "stub"


def test_what_goes_first_and_from_far_to_near(
    tree: Path, seen: list[tuple[Row, str]], reference: Path, stub: Stub, tmp_path: Path
) -> None:
    boxes = ("0,8,-1,1,1,1.6,0", "0,20,-1,4,1.8,1.6,0", "1,6,-1,1,1,1.6,0", "0,12,-1,1,1,1.6,0")
    cells = {"box": ";".join(boxes), "reference": "ref.png", "category": "vehicle.car;vehicle.car;;vehicle.car"}
    rows = [row(seen[0][0], "insert;insert;remove;insert", seed="11;12;13;14", **cells)]
    assert run(tree, write(reference.parent / "m.csv", rows), tmp_path / "out") == 0
    assert stub.calls == [(13,), (12,), (14,), (11,)]
    assert [edit["box"][1] for edit in records(tmp_path / "out")[0]["edits"]] == [6, 20, 12, 8]
    assert len(records(tmp_path / "out")[0]["labels"]) == 3


def test_resumed_to_the_same_bytes(
    tree: Path, manifest: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tree, manifest, tmp_path / "whole", "--batch-size", "1") == 0
    total, whole = len(stub.calls), files(tmp_path / "whole")
    assert total == 6  # steps: one sample of two, one of three, one of one
    for stop in (3, 5):
        out, painter = tmp_path / f"part{stop}", Stub(stop=stop)
        monkeypatch.setattr(pipeline, "load_painter", lambda config, quiet=True, painter=painter: painter)
        assert run(tree, manifest, out, "--batch-size", "1") == 130
        assert not (out / "v1.0-mini").exists()
        assert run(tree, manifest, out, "--batch-size", "1") == 2
        assert "pass --resume" in capsys.readouterr().err
        painter.stop = -1
        assert run(tree, manifest, out, "--resume", "--batch-size", "3") == 0  # the first run's batch size counts
        again = files(out)
        assert {k: v for k, v in again.items() if k != "run.json"} == {k: v for k, v in whole.items() if k != "run.json"}
    assert len(painter.calls) == total  # stopped in the last of three samples: the first two were not painted again
    assert run(tree, manifest, tmp_path / "whole", "--resume") == 0 and files(tmp_path / "whole") == whole
    assert run(tree, manifest, tmp_path / "whole", "--resume", "--seed", "1") == 2
    assert "was begun with other data, manifests, weights or settings" in capsys.readouterr().err


def test_a_data_set_half_moved_into_place_is_made_again(
    tree: Path, manifest: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(tree, manifest, tmp_path / "whole") == 0
    real = Path.rename

    def once(self: Path, target: Path) -> Path:
        if target.name == "sweeps":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", once)
    assert run(tree, manifest, tmp_path / "out") == 130
    monkeypatch.setattr(Path, "rename", real)
    assert (tmp_path / "out" / "samples").is_dir() and not (tmp_path / "out" / "v1.0-mini").exists()
    assert run(tree, manifest, tmp_path / "out", "--resume") == 0
    one, two = (files(tmp_path / name) for name in ("whole", "out"))
    assert {k: v for k, v in one.items() if k != "run.json"} == {k: v for k, v in two.items() if k != "run.json"}
    # stopped between the tables and the record: tables do not stand beside files that are being replaced
    (tmp_path / "out" / "run.json").unlink()
    monkeypatch.setattr(Path, "rename", once)
    assert run(tree, manifest, tmp_path / "out", "--resume") == 130 and not (tmp_path / "out" / "v1.0-mini").exists()


def test_a_batch_on_a_batch(
    tree: Path, seen: list[tuple[Row, str]], reference: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """New labels get new tokens, a colour profile stays through several boxes, and references are told apart on resuming."""
    own, sample = tmp_path / "own", seen[0][0]
    shutil.copytree(tree, own)
    name = read_tables(own).data(sample["sample_token"])["CAM_FRONT"]["filename"]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with Image.open(tree / name) as picture:
        picture.save(own / name, quality=90, icc_profile=profile)
    other = reference.with_name("other.png")
    Image.new("RGB", (20, 30), (9, 90, 200)).save(other)
    cells = {"category": "vehicle.car", "box": f"{FREE};1.5,13,-1,0.8,0.8,1.8,0", "reference": "ref.png;other.png"}
    first = write(reference.parent / "one.csv", [row(sample, "insert", **cells)])
    assert run(own, first, tmp_path / "one") == 0
    for path in (tmp_path / "one" / name, tmp_path / "one" / "edits" / "0000" / "image.png"):
        with Image.open(path) as picture:
            assert picture.info["icc_profile"] == profile
    cells |= {"box": "0.5,17,-1,0.8,0.8,1.8,0", "reference": "ref.png"}
    second = write(reference.parent / "two.csv", [row(sample, "insert", **cells)])
    assert run(tmp_path / "one", second, tmp_path / "two") == 0
    old, one, two = (set(read_tables(folder).rows["sample_annotation"]) for folder in (own, tmp_path / "one", tmp_path / "two"))
    assert old < one < two and (len(old) + 2, len(old) + 3) == (len(one), len(two))
    swapped = reference.read_bytes(), other.read_bytes()
    other.write_bytes(swapped[0])
    reference.write_bytes(swapped[1])
    capsys.readouterr()
    assert run(own, first, tmp_path / "one", "--resume") == 2
    assert "was begun with other data, manifests, weights or settings" in capsys.readouterr().err


def test_files_in_the_way_of_the_records(tables: Tables) -> None:
    for name in ("edits/files/x.jpg", "./run.json", "SYNTHETIC.txt", ".tree.part/x"):
        strange = replace(tables, rows={**tables.rows, "map": {"m": {"filename": name}}})
        with pytest.raises(InputError, match="lies where batch writes its own"):
            check_names(strange)
    check_names(tables)


def test_asking_whether_a_file_is_edited_reads_none(tmp_path: Path) -> None:
    files = Files(tmp_path, frozenset({"not there"}))
    assert "not there" in files and "other" not in files and len(files) == 1


def test_two_samples_of_one_stamp(tables: Tables) -> None:
    """Nothing can be said of the way between them: the box stays where it is."""
    annotation = next(r for r in tables.rows["sample_annotation"].values() if r["next"])
    stamped = {token: {**r, "timestamp": 5} for token, r in tables.rows["sample"].items()}
    strange = replace(tables, rows={**tables.rows, "sample": stamped})
    frame = read_frame(strange, stamped[annotation["sample_token"]])
    assert frame is not None and centre_at(strange, frame, annotation, annotation, 7).tolist() == annotation["translation"]


def test_samples_share_a_pass(tree: Path, manifest: Path, stub: Stub, tmp_path: Path) -> None:
    assert run(tree, manifest, tmp_path / "out", "--batch-size", "8") == 0
    assert [len(seeds) for seeds in stub.calls] == [3, 2, 1]
    assert run(tree, manifest, tmp_path / "one", "--batch-size", "1") == 0
    one, many = (files(tmp_path / name) for name in ("out", "one"))
    assert all(one[k] == many[k] for k in one if k.endswith((".bin", ".jpg", ".png", "annotation.json")))


def test_the_object_itself_is_the_default_reference(
    tree: Path, seen: list[tuple[Row, str]], reference: Path, stub: Stub, tmp_path: Path
) -> None:
    rows = [row(seen[0][0], "replace", annotation=seen[0][0]["token"])]
    assert run(tree, write(reference.parent / "m.csv", rows), tmp_path / "o") == 0
    name = records(tmp_path / "o")[0]["picture"]
    left, top, right, bottom = records(tmp_path / "o")[0]["edits"][0]["camera_box"]
    part = opened(tree / name)[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
    from mobi.place import reference_pixels

    assert torch.equal(stub.crops[0].reference[0], reference_pixels(part))


def test_objects_csv_is_a_manifest(tree: Path, seen: list[tuple[Row, str]], stub: Stub, tmp_path: Path) -> None:
    """As `prepare` writes it, with a task."""
    (annotation, box), own = seen[0], tmp_path / "references" / "a.png"
    own.parent.mkdir()
    Image.new("RGB", (9, 9)).save(own)
    cells = row(annotation, "replace", annotation=annotation["token"], box=box, reference="references/a.png", points=9)
    assert run(tree, write(tmp_path / "objects.csv", [cells], ("task", *OBJECT_COLUMNS)), tmp_path / "out") == 0
    labels = read_tables(tmp_path / "out").rows["sample_annotation"]
    assert set(labels) == set(read_tables(tree).rows["sample_annotation"])


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of three samples that all six cameras see."""
    from mobi.nuscenes_phantom import write_tree

    folder = tmp_path_factory.mktemp("wide") / "root"
    write_tree(folder, 1, seed=5, size=(160, 90), samples=3)
    return folder


def test_other_cameras_and_frames_are_named(
    wide: Path, reference: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = read_tables(wide)
    sample = list(tables.rows["sample"].values())[1]
    frame = read_frame(tables, sample)
    assert frame is not None
    found = []  # an object that the front camera and another see, with returns
    for annotation, box in frame.boxes:
        cameras = other_cameras(frame, box, ())
        shown = frames_that_show(tables, frame, annotation, annotation)
        if "CAM_FRONT" in cameras and len(cameras) > 1 and shown:
            found.append((annotation, [c for c in cameras if c != "CAM_FRONT"], shown))
    annotation, others, shown = found[0]
    base = {"sample": sample["token"], "task": "remove", "annotation": annotation["token"]}
    rows = [{**base, "camera": "CAM_FRONT"}]
    assert run(wide, write(tmp_path / "a.csv", rows), tmp_path / "a") == 0
    said = records(tmp_path / "a")[0]
    assert said["edits"][0]["other_cameras"] == others and said["edits"][0]["other_frames"] == shown
    assert any(f"{others[0]}" in w for w in said["warnings"]) and any("still show the old object" in w for w in said["warnings"])
    assert "1 also seen by cameras that keep the old picture, 1 still shown by frames between" in capsys.readouterr().err
    # a row for each camera that sees it: none is left, and the label goes once
    rows += [{**base, "camera": c} for c in others]
    assert run(wide, write(tmp_path / "b.csv", rows), tmp_path / "b") == 0
    said = records(tmp_path / "b")
    assert all(not r["edits"][0]["other_cameras"] for r in said) and [len(r["labels"]) for r in said] == [1] + [0] * len(others)
    # an insertion shows in no other frame, and its place is named for the other camera all the same
    box = ",".join(map(str, records(tmp_path / "a")[0]["edits"][0]["box"]))
    rows = [{"sample": sample["token"], "camera": "CAM_FRONT", "task": "insert", **NEW, "box": box}]
    assert run(wide, write(reference.parent / "c.csv", rows), tmp_path / "c") == 0
    edit = records(tmp_path / "c")[0]["edits"][0]
    assert edit["other_cameras"] == others and edit["other_frames"] == []


def test_frames_that_show_agree_with_the_returns(wide: Path) -> None:
    """Against phantoms drawn again at the stamps between: the sweep that shows an object holds returns of it."""
    from graft_common.phantoms.driving import draw_scene

    tables = read_tables(wide)
    plan = json.loads((wide / "phantom.json").read_text())["scenes"][0]
    sample = tables.rows["sample"][plan["samples"][1]]
    frame = read_frame(tables, sample)
    assert frame is not None
    between = frames_between(tables, frame.lidar)
    assert [data["is_key_frame"] for data in between] == [False, False]
    drawn = draw_scene(plan["seed"], (160, 90), (0.25, 0.75), (), plan["night"], plan["rain"], plan["kind"])
    checked = 0
    for annotation, _ in frame.boxes:
        track = tables.track(annotation["instance_token"])
        shown = frames_that_show(tables, frame, annotation, annotation)
        hits = [int((d.sweep_ids == plan["instances"][annotation["instance_token"]]).sum()) for d in drawn]
        for data, count in zip(between, hits, strict=True):
            if count == 0 or (count >= 20 and len(track) == 3):  # a few returns may lie on the faces of a box that moved unevenly
                assert (data["filename"] in shown) == (count > 0)
                checked += 1
    assert checked >= 6

    # where a moving object is at those stamps: nearer to the truth than where the key frame has it
    moving = 0
    for annotation, _ in frame.boxes:
        instance = plan["instances"][annotation["instance_token"]]
        if len(tables.track(annotation["instance_token"])) < 3:
            continue
        for data, drive in zip(between, drawn, strict=True):
            here = next(b for b in drive.boxes if b.instance == instance)
            true = to_global(Upright(here.center, here.size, here.yaw), drive.lidar_to_ego, drive.ego_to_global)["translation"]
            guess = centre_at(tables, frame, annotation, annotation, int(data["timestamp"]))
            gone = np.linalg.norm(np.subtract(true, annotation["translation"]))
            assert np.linalg.norm(guess - true) < 0.05 + 0.1 * gone
            moving += bool(gone > 0.2)
    assert moving >= 2


def test_links_and_left_out_files(tree: Path, seen: list[tuple[Row, str]], stub: Stub, tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", [row(seen[0][0], "remove", annotation=seen[0][0]["token"])])
    assert run(tree, manifest, tmp_path / "link", "--others", "link") == 0
    assert run(tree, manifest, tmp_path / "none", "--others", "none") == 0
    edited = {r[kind] for r in records(tmp_path / "link") for kind in ("picture", "sweep")}
    for name in read_tables(tree).rows["sample_data"].values():
        path = tmp_path / "link" / name["filename"]
        assert path.is_symlink() == (name["filename"] not in edited) and path.is_file()
        assert (tmp_path / "none" / name["filename"]).exists() == (name["filename"] in edited)


def test_encode_like_keeps_a_jpeg_where_nothing_changed() -> None:
    rng = np.random.default_rng(0)
    soft = np.asarray(Image.fromarray(rng.integers(60, 190, (8, 12, 3), np.uint8)).resize((192, 128), Image.Resampling.BICUBIC))
    for sampling in (0, 2):
        out = io.BytesIO()
        Image.fromarray(soft).save(out, "JPEG", quality=90, subsampling=sampling)
        before = np.asarray(Image.open(io.BytesIO(out.getvalue())))
        after = before.copy()
        after[32:64, 48:96] = 255
        new = np.asarray(Image.open(io.BytesIO(encode_like(out.getvalue(), after, {"a": 1})))).astype(int)
        plain = io.BytesIO()
        Image.fromarray(after).save(plain, "JPEG", quality=75)
        other = np.asarray(Image.open(plain)).astype(int)
        far = np.ones(before.shape[:2], bool)
        far[16:80, 32:112] = False
        error = np.abs(new - before)[far]
        assert error.mean() < 0.3 and error.mean() < np.abs(other - before)[far].mean() / 3
        assert np.array_equal(new.astype(np.uint8)[32:64, 48:96] > 200, np.ones((32, 48, 3), bool))


def test_encode_like_keeps_a_profile() -> None:
    for kind in ("PNG", "TIFF"):
        out = io.BytesIO()
        Image.new("RGB", (16, 9), (1, 2, 3)).save(out, kind, icc_profile=b"a profile")
        with Image.open(io.BytesIO(encode_like(out.getvalue(), np.full((9, 16, 3), 7, np.uint8), {"a": 1}))) as again:
            assert again.format == kind and again.info["icc_profile"] == b"a profile"
            assert np.asarray(again)[4, 4].tolist() == [7, 7, 7]


Change = Callable[[list[tuple[Row, str]], Tables], Sequence[dict[str, Any]]]
NEW = {"box": FREE, "reference": "ref.png", "category": "vehicle.car"}


def one(task: str, **cells: Any) -> Change:
    """A row for the first box; a cell "OWN" is that box's token."""

    def make(seen: list[tuple[Row, str]], tables: Tables) -> Sequence[dict[str, Any]]:
        own = seen[0][0]
        return [row(own, task, **{k: own["token"] if v == "OWN" else v for k, v in cells.items()})]

    return make


def other_sample(seen: list[tuple[Row, str]], tables: Tables) -> Sequence[dict[str, Any]]:
    other = next(a for a, _ in seen if a["sample_token"] != seen[0][0]["sample_token"])
    return [row(seen[0][0], "remove", annotation=other["token"])]


def twice(second: str, **cells: Any) -> Change:
    def make(seen: list[tuple[Row, str]], tables: Tables) -> Sequence[dict[str, Any]]:
        own = {"annotation": seen[0][0]["token"]}
        return [row(seen[0][0], "remove", **own), row(seen[0][0], second, **own, **cells)]

    return make


REFUSED: dict[str, tuple[Change, str]] = {
    "no task": (one("paint", annotation="OWN"), "task is 'paint'"),
    "empty task": (one("", annotation="OWN"), "task is ''"),
    "unknown sample": (lambda s, t: [{**row(s[0][0], "remove", annotation="x"), "sample": "gone"}], "sample gone"),
    "empty sample": (lambda s, t: [{**row(s[0][0], "remove", annotation="x"), "sample": " "}], "sample is empty"),
    "unknown camera": (lambda s, t: [{**row(s[0][0], "remove", annotation="x"), "camera": "CAM_UP"}], "camera CAM_UP"),
    "unknown annotation": (one("remove", annotation="gone"), "annotation gone"),
    "of another sample": (other_sample, "belongs to another sample"),
    "nothing to remove": (one("remove"), "needs annotation or box"),
    "nothing to insert": (one("insert", annotation=""), "insert needs box"),
    "insert without reference": (one("insert", box=FREE, category="vehicle.car"), "insert needs reference"),
    "insert without category": (one("insert", box=FREE, reference="ref.png"), "insert needs category"),
    "insert with annotation": (one("insert", annotation="OWN", **NEW), "annotation must be empty"),
    "move without box": (one("move", annotation="OWN"), "move needs box"),
    "move without annotation": (one("move", box=FREE), "move needs annotation"),
    "remove with category": (one("remove", annotation="OWN", category="vehicle.car"), "category must be empty"),
    "attribute alone": (one("replace", annotation="OWN", attribute="vehicle.parked"), "attribute belongs to a new label"),
    "six numbers": (one("insert", **NEW | {"box": "1,2,3,4,5,6"}), "box 1,2,3,4,5,6: must be seven"),
    "no size": (one("insert", **NEW | {"box": "0,9,-1,0,1,1,0"}), "above 0 m"),
    "behind": (one("insert", **NEW | {"box": "0,-12,-1,4,1.8,1.6,0"}), "behind the camera"),
    "too far": (one("insert", **NEW | {"box": "0,60,-1,4,1.8,1.6,0"}), "move it within 54 m"),
    "second box too near": (one("insert", **NEW | {"box": f"{FREE};0,1,-1,1,1,1,0"}), "within 1.4 m"),
    "unknown category": (one("insert", **NEW | {"category": "vehicle.boat"}), "category vehicle.boat"),
    "unknown attribute": (one("insert", **NEW, attribute="flying"), "attribute flying"),
    "seed": (one("insert", **NEW, seed="-1"), "seed is '-1'"),
    "seed of many digits": (one("insert", **NEW, seed="9" * 5000), "at most 18 digits"),
    "seed of words": (one("insert", **NEW, seed="x"), "seed is 'x'"),
    "missing reference": (one("insert", **NEW | {"reference": "none.png"}), "none.png: no such file"),
    "no picture": (one("insert", **NEW | {"reference": "edits.csv"}), "edits.csv"),
    "counts": (one("insert", **NEW | {"reference": "ref.png;ref.png", "seed": "1;2;3"}), "3; give one, or one a box"),
    "box elsewhere": (one("replace", annotation="OWN", box=FREE), "box is not where annotation"),
    "twice": (twice("remove"), "edits the same box in CAM_FRONT"),
    "a label would stay": (lambda s, t: [row(s[0][0], "remove", box=s[0][1])], "the box holds annotation"),
    "also beside its middle": (
        lambda s, t: [row(s[0][0], "replace", box=s[0][1].replace(s[0][1].split(",")[2], "-0.9"), reference="ref.png")],
        "the box holds annotation",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_are_refused(
    case: str, tree: Path, tables: Tables, seen: list[tuple[Row, str]], reference: Path, stub: Stub, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change, says = REFUSED[case]
    manifest = write(reference.parent / "edits.csv", change(seen, tables))
    assert run(tree, manifest, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and "edits.csv, line" in said
    assert not (tmp_path / "out").exists() and not stub.calls


def test_one_fate_for_an_annotation(wide: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = read_tables(wide)
    annotation = next(iter(tables.rows["sample_annotation"].values()))
    base = {"sample": annotation["sample_token"], "annotation": annotation["token"]}
    rows = [{**base, "camera": "CAM_FRONT", "task": "remove"}, {**base, "camera": "CAM_BACK", "task": "replace"}]
    assert run(wide, write(tmp_path / "m.csv", rows), tmp_path / "out") == 2
    assert "wants other things of annotation" in capsys.readouterr().err


HEADER = ",".join(COLUMNS)
MANIFESTS = {
    "empty": (b"", "is empty (0 bytes)"),
    "blank": (b"\n\n", "has no header"),
    "no rows": (HEADER.encode() + b"\n", "has no rows"),
    "no UTF-8": (HEADER.encode() + b"\n\xff\xfe\n", "no CSV in UTF-8"),
    "unknown column": (b"sample,camera,task,boxes\na,b,c,d\n", "unknown column 'boxes'"),
    "missing column": (b"sample,task\na,b\n", "has no column camera"),
    "column twice": (b"sample,camera,task,task\na,b,c,d\n", "stands twice"),
    "unquoted box": (b"sample,camera,task,box\na,b,insert,1,2,3,4,5,6,7\n", "10 cells under 4 columns; quote"),
    "open quote": (b'sample,camera,task,box\na,b,insert,"1,2\n', "no CSV in UTF-8"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_that_are_refused(case: str, tmp_path: Path) -> None:
    data, says = MANIFESTS[case]
    (tmp_path / "m.csv").write_bytes(data)
    with pytest.raises(InputError, match=r"m\.csv") as why:
        read_manifest(tmp_path / "m.csv")
    assert says in str(why.value)


def test_seeds_count_the_boxes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", [
        {"sample": "a", "camera": "c", "task": "remove", "box": f"{FREE};{FREE}"},
        {"sample": "b", "camera": "c", "task": "remove", "annotation": "x;y;z", "seed": ";9;"},
    ])  # fmt: skip
    rows = read_manifest(path, 40)
    assert [[w.seed for w in r.wishes] for r in rows] == [[40, 41], [42, 9, 44]]
    assert [w.number for r in rows for w in r.wishes] == [0, 1, 2, 3, 4] and rows[1].wishes[1].annotation == "y"


def test_settings_and_folders_are_checked(
    tree: Path, manifest: Path, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, says in ((["--batch-size", "0"], "--batch-size 0"), (["--seed", "-1"], "--seed -1"), (["--version", "v2"], "v2")):
        assert run(tree, manifest, tmp_path / "out", *more) == 2 and says in capsys.readouterr().err
    assert run(tree, manifest, tree / "inner") == 2 and "lies in --root" in capsys.readouterr().err
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").write_text("mine")
    for flag in ([], ["--resume"]):
        assert run(tree, manifest, tmp_path / "used", *flag) == 2 and "is not empty" in capsys.readouterr().err
    assert (tmp_path / "used" / "x").read_text() == "mine"
    assert run(tree, tmp_path / "none.csv", tmp_path / "out") == 2 and "none.csv: no such file" in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(tree, broken)
    tables = read_tables(tree)
    name = tables.data(listed(manifest)[0]["sample"])["CAM_FRONT"]["filename"]
    Image.new("RGB", (80, 45)).save(broken / name)
    assert run(broken, manifest, tmp_path / "out") == 2 and "is 80x45 but" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not stub.calls
