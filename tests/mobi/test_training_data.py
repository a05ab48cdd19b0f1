"""Crops for training: tables read back, crops as editing cuts them, references, augmentation (mobi spec 3; properties 23, 26)."""

import csv
import io
import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from graft_common.errors import InputError
from graft_common.rangeview import NUSCENES, Camera, project
from mobi import training_data
from mobi.augment import augment, blurred, turned
from mobi.box_text import to_box
from mobi.cli import main
from mobi.inputs import read_reference
from mobi.nuscenes_tables import read_sweep, read_tables
from mobi.objects import Objects, Row, read_objects
from mobi.place import crops, place_view
from mobi.records import Scene
from mobi.training_data import Cache, black_reference, build_cache, draw_reference

SIZE, VIEWS = 64, 3


@pytest.fixture(scope="module")
def prepared(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("for training") / "prepared"
    assert main(["prepare", str(tree), "--out", str(out), "--min-points", "20", "--min-size", "60", "--empty", "5"]) == 0
    return out


@pytest.fixture(scope="module")
def cache(tree: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return build_cache(tree, prepared, SIZE, VIEWS, folder=tmp_path_factory.mktemp("crops"))


def scene_of(tree: Path, row: Row) -> Scene:
    """Read without `prepare`'s or the cache's code."""
    from graft_common.pixels import read_picture
    from mobi.colour import to_rgb

    tables = read_tables(tree)
    data = tables.data(row.sample)
    camera, lidar = data[row.camera], data["LIDAR_TOP"]
    picture = read_picture(tables.path(camera))
    pinhole = Camera(tables.intrinsics(camera), tables.lidar_to_camera(lidar, camera), camera["width"], camera["height"])
    return Scene(picture, to_rgb(picture.pixels), read_sweep(tables.path(lidar)), pinhole, NUSCENES)


def test_objects_are_what_prepare_wrote(prepared: Path) -> None:
    objects = read_objects(prepared)
    tables = [list(csv.DictReader((prepared / name).read_text().splitlines())) for name in ("objects.csv", "empty.csv")]
    assert objects.count == len(tables[0]) > 3 and len(objects.rows) == len(tables[0]) + len(tables[1]) > objects.count
    for row, wrote in zip(objects.rows, tables[0] + tables[1], strict=True):
        assert (row.sample, row.camera, row.kind) == (wrote["sample"], wrote["camera"], wrote["class"])
        assert ",".join(f"{v:.9g}" for v in row.box) == wrote["box"]
        assert row.reference == wrote.get("reference") and row.instance == wrote.get("instance", "")


def test_centred_crops_are_those_of_editing(tree: Path, cache: Cache) -> None:
    objects = cache.objects
    for k in (0, objects.count - 1, len(objects.rows) - 1):
        row = objects.rows[k]
        scene, told = scene_of(tree, row), k < objects.count
        reference = read_reference(objects.folder / row.reference) if row.reference else None
        want = crops([place_view(scene, project(scene.points, NUSCENES), to_box(row.box), SIZE)], [reference])
        camera, camera_keep = cache.camera_crops([k], [0])
        lidar, lidar_keep = cache.lidar_crops([k])
        assert (camera - want.camera).abs().max() <= 1.001 / 255 and torch.equal(camera_keep, want.camera_keep)
        assert torch.equal(lidar, want.lidar) and torch.equal(lidar_keep, want.lidar_keep)
        assert torch.equal(torch.tensor(cache.camera_box[k, :1]), want.camera_box) and bool(want.camera_box.any()) == told
        assert torch.equal(torch.tensor(cache.lidar_box[k])[None], want.lidar_box)
        shown = cache.references([k]) if told else black_reference()
        assert (shown - want.reference).abs().max() <= 0.51 / 255 / 0.26


def test_random_placements_keep_the_hole_and_move_the_box_with_it(cache: Cache) -> None:
    """The hole's share and the box's size in the crop do not depend on the placement; where they are does."""
    moved = 0
    for k in range(cache.objects.count):
        rows = [k] * VIEWS
        keep = cache.camera_crops(rows, list(range(VIEWS)))[1][:, 0] < 0.5
        boxes = cache.camera_box[k]
        middle = [np.argwhere(hole.numpy()).mean(0) / SIZE for hole in keep]
        assert np.allclose(keep.float().mean((1, 2)), keep[0].float().mean(), atol=0.02)
        assert np.allclose(np.ptp(boxes[..., :2], 1), np.ptp(boxes[0, :, :2], 0), atol=1e-4)
        for v in range(1, VIEWS):
            shift = boxes[v, 0, :2] - boxes[0, 0, :2]
            assert np.allclose(boxes[v, :, :2] - boxes[0, :, :2], shift, atol=1e-4)
            assert np.allclose(middle[v] - middle[0], shift[::-1], atol=2.5 / SIZE)
            moved += bool(np.abs(shift).max() > 0.02)
    assert moved > cache.objects.count / 2


def test_batch_of_empty_boxes_is_a_removal(cache: Cache) -> None:
    """Property 23: zero boxes, a reference that is black before CLIP's normalisation, a hole that is there."""
    rows = [*range(cache.objects.count, len(cache.objects.rows)), 0]
    batch = cache.batch(rows, torch.Generator().manual_seed(1))
    assert not batch.camera_box[:-1].any() and not batch.lidar_box[:-1].any()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (training_data.CLIP_MEAN, training_data.CLIP_STD))
    assert torch.equal(batch.reference[:-1], ((0 - mean) / std).expand(len(rows) - 1, 3, 224, 224))
    assert (batch.camera_keep == 0).flatten(1).any(1).all() and (batch.lidar_keep == 0).flatten(1).any(1).all()
    assert batch.camera_box[-1].any() and batch.lidar_box[-1].any()
    assert (batch.reference[-1] * std + mean).mean() > 0.02
    again = cache.batch(rows, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(vars(batch).values(), vars(again).values(), strict=True))


def tracks(times: list[int]) -> Objects:
    box = (5.0, 5.0, 0.0, 4.0, 2.0, 1.5, 0.0)
    rows = [Row("here", "s", "CAM_FRONT", "car", box, "one", t, "r.png") for t in times]
    return Objects(Path(), (*rows, Row("here", "s", "CAM_FRONT", "car", box, "two", 7, "r.png")), len(rows) + 1)


def test_references_follow_the_beta_density() -> None:
    """Property 26: 1e5 draws against 4 dt^3."""
    times = [0, 500_000, 1_000_000, 1_500_000, 3_500_000, 4_000_000, 1_000_000]
    objects, now, n = tracks(times), 2, 100_000
    gen = torch.Generator().manual_seed(0)
    drawn = np.bincount(objects.pick(now, torch.rand(n, generator=gen, dtype=torch.float64).numpy()), minlength=len(times) + 1)
    apart = np.abs(np.array(times) - times[now]) / 3_000_000
    expected = stats.beta.pdf(apart, 4, 1)
    assert drawn[now] == 0 and drawn[-1] == 0 and drawn[6] == 0  # the same time from another camera has no weight either
    seen = expected > 0
    share = expected[seen] / expected[seen].sum()
    assert stats.chisquare(drawn[:-1][seen], n * share).pvalue > 0.01
    assert draw_reference(objects, len(times), gen) == len(times)  # a single candidate
    assert {draw_reference(objects, now, gen) for _ in range(50)} <= set(np.flatnonzero(drawn).tolist())


def test_cache_goes_on_where_it_was_stopped(
    tree: Path, prepared: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_data, "FLUSH", 2)
    done: list[int] = []

    def stop(n: int) -> None:
        done.append(n)
        if sum(done) > 4:
            raise KeyboardInterrupt

    folder = tmp_path / "crops"
    with pytest.raises(KeyboardInterrupt):
        build_cache(tree, prepared, SIZE, VIEWS, advance=stop, folder=folder)
    marked = int((np.load(folder / "state.npy") == 1).sum())
    assert 2 <= marked < len(cache.state)
    seen: list[int] = []
    got = build_cache(tree, prepared, SIZE, VIEWS, advance=seen.append, folder=folder)
    assert seen[0] == marked and sum(seen) == len(cache.state)
    for name in ("camera", "camera_keep", "camera_box", "lidar", "lidar_keep", "lidar_box", "width", "band", "reference"):
        assert np.array_equal(getattr(got, name), getattr(cache, name)), name
    for change, word in (({"seed": 1}, "seed"), ({"size": 128}, "size"), ({"views": 1}, "views")):
        with pytest.raises(InputError, match=f"--cache .*another {word}; remove it"):
            build_cache(**{"root": tree, "prepared": prepared, "size": SIZE, "views": VIEWS, "folder": folder} | change)
    # a whole cache needs the tree no more
    assert build_cache(tmp_path / "gone", prepared, SIZE, VIEWS, folder=folder).usable.all()


def test_box_that_cannot_be_edited_is_left_out(tree: Path, prepared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "prepared"))
    edit(folder, 1, "box", "0,-20,0,4,2,1.5,0")
    got = build_cache(tree, folder, SIZE, 1)
    assert got.folder == folder / f"cache-{SIZE}-1" and list(np.flatnonzero(~got.usable)) == [0]


def edit(folder: Path, line: int, column: str, value: str, file: str = "objects.csv") -> None:
    """Change one value of a table; line 0 is the header."""
    rows = list(csv.reader((folder / file).read_text().splitlines()))
    rows[line][rows[0].index(column)] = value
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    (folder / file).write_text(text.getvalue())


@pytest.mark.parametrize(
    ("file", "line", "column", "value", "says"),
    [
        ("objects.csv", 0, "box", "bocks", "objects.csv: has no column box"),
        ("empty.csv", 0, "camera", "", "empty.csv: has no column camera"),
        ("objects.csv", 2, "class", "", "objects.csv line 3: has no class"),
        ("empty.csv", 1, "sample", "", "empty.csv line 2: has no sample"),
        ("objects.csv", 1, "box", "1,2,3", "objects.csv line 2: box 1,2,3: must be seven finite numbers"),
        ("empty.csv", 1, "box", "1,2,3,4,nan,2,0", "empty.csv line 2: box .*seven finite numbers"),
        ("objects.csv", 1, "box", "1,2,3,0,2,2,0", "line 2: box .*above 0"),
        ("objects.csv", 1, "timestamp", "-4", "line 2: timestamp '-4' must be"),
        ("objects.csv", 1, "timestamp", "1.5", "line 2: timestamp '1.5' must be"),
        ("objects.csv", 1, "reference", "references/none.png", "line 2: reference .* is missing"),
        ("objects.csv", 1, "reference", "../run.json", "line 2: reference .* leaves the folder"),
        ("objects.csv", 1, "sample", "0" * 32, "line 2: sample 0+ is not in .*give the tree"),
        ("objects.csv", 1, "camera", "CAM_BACK", "line 2: sample .* has no CAM_BACK"),
    ],
)
def test_bad_tables(
    tree: Path, prepared: Path, tmp_path: Path, file: str, line: int, column: str, value: str, says: str
) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "prepared", ignore=shutil.ignore_patterns("cache-*")))
    edit(folder, line, column, value, file)
    with pytest.raises(InputError, match=says):
        build_cache(tree, folder, SIZE, 1)


def test_bad_folders(tree: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; give one that `graft-mobi prepare` wrote"):
        read_objects(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"objects\.csv: no such file"):
        read_objects(empty)
    for name in ("objects.csv", "empty.csv"):
        (empty / name).write_text((prepared / name).read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"objects\.csv: has no rows"):
        read_objects(empty)
    (empty / "objects.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"objects\.csv: cannot be read as a CSV table"):
        read_objects(empty)
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"--cache .*holds something else"):
        build_cache(tree, prepared, SIZE, 1, folder=other)
    with pytest.raises(InputError, match="size 96"):
        build_cache(tree, prepared, 96, 1, folder=tmp_path / "odd")
    (tmp_path / "odd" / "cache.json").write_text("[")
    with pytest.raises(InputError, match=r"cache\.json: cannot be read as JSON"):
        build_cache(tree, prepared, 96, 1, folder=tmp_path / "odd")


def test_turning_and_blurring_against_scipy_and_opencv() -> None:
    picture = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(0).random((3, 40, 40)), (0, 3, 3))).float()[None]
    got = turned(picture, 20.0)[0].numpy()
    want = np.stack([ndimage.rotate(plane, 20, reshape=False, order=1, cval=0.0) for plane in picture[0].numpy()])
    assert np.abs(got - want)[:, 8:-8, 8:-8].max() < 1e-5 and got[:, 0, 0].max() == 0
    for kernel in (3, 5, 7):
        sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8  # OpenCV's own rule, but for its table of rounded small kernels
        side = (kernel, kernel)
        blur = cv2.GaussianBlur(picture[0].permute(1, 2, 0).numpy(), side, sigma, borderType=cv2.BORDER_REPLICATE)
        assert np.abs(blurred(picture, kernel)[0].permute(1, 2, 0).numpy() - blur).max() < 1e-5


def test_augmentation_happens_half_the_time_each() -> None:
    ramp = torch.linspace(0.2, 0.7, 64).expand(1, 3, 8, 64)
    gen, n = torch.Generator().manual_seed(4), 400
    out = augment(ramp.expand(n, -1, -1, -1), gen)
    assert out.min() >= 0 and out.max() <= 1
    as_it_was = sum(torch.equal(x, ramp[0]) for x in out)
    flipped = sum(torch.equal(x, ramp[0].flip(-1)) for x in out)
    falls = sum(bool(x[0, 4, 16] > x[0, 4, 48]) for x in out)
    assert stats.binomtest(as_it_was, n, 1 / 16).pvalue > 1e-3 and stats.binomtest(flipped, n, 1 / 16).pvalue > 1e-3
    assert stats.binomtest(falls, n, 0.5).pvalue > 1e-3
    assert torch.equal(augment(ramp, torch.Generator().manual_seed(9)), augment(ramp, torch.Generator().manual_seed(9)))


def test_header_says_what_was_cut(cache: Cache) -> None:
    header = json.loads((cache.folder / "cache.json").read_text())
    assert (header["size"], header["views"], len(header["scenes"])) == (SIZE, VIEWS, len(cache.objects.rows))
    assert math.isclose(cache.camera.nbytes, len(cache.state) * VIEWS * SIZE * SIZE * 3)
