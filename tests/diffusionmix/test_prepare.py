"""`prepare`: squares, splits without leaks, the size rule; what it writes is what training reads."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusionmix.box import Box
from diffusionmix.config_data import CheckConfig, PhantomConfig, PrepareConfig
from diffusionmix.crop import cut, object_box
from diffusionmix.phantom import run_phantom
from diffusionmix.prepare import Square, rule_size, run_prepare, split_items
from diffusionmix.prepared import load_arrays, read_prepared, shares
from diffusionmix.read import read_mask, read_rgb
from diffusionmix.tree import Item
from graft_common.console import Verb, run_command
from graft_common.errors import InputError

VERBS = {
    "prepare": Verb(PrepareConfig, "diffusionmix.prepare:run_prepare"),
    "check": Verb(CheckConfig, "diffusionmix.check:run_check"),
}
Command = Callable[..., int]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data ü")
    for layout, n in (("mvtec", 4), ("visa", 2), ("kitti", 4), ("tiktok", 22)):
        run_phantom(PhantomConfig(folder=folder / layout, layout=layout, n=n, size=48, json=True), [])  # type: ignore[arg-type]
    return folder


@pytest.fixture
def prepare() -> Command:
    return lambda *words: run_command("graft-diffusionmix", VERBS, ["prepare", *map(str, words)])


def test_objects_of_mvtec(trees: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = run_prepare(PrepareConfig(root=(trees / "mvtec",), size=32, out=out, json=True), [])
    prepared = read_prepared(out)
    assert (prepared.role, prepared.size, prepared.classes) == ("object", 32, ("blob", "combined", "crack", "hole"))
    assert Counter((r.label, r.split) for r in prepared.rows) == {
        ("blob", "train"): 3, ("blob", "test"): 1, ("crack", "train"): 3, ("crack", "test"): 1, ("hole", "train"): 3,
        ("hole", "test"): 1, ("combined", "train"): 1,
    }  # fmt: skip
    assert record["measures"]["squares"] == 13 and str(trees) not in json.dumps(record)
    arrays = load_arrays(prepared, "train")
    assert arrays.masks is not None and arrays.images.shape == (10, 32, 32, 3) and arrays.masks.shape == (10, 32, 32)
    rows = [r for r in prepared.rows if r.split == "train"]
    assert [prepared.classes[i] for i in arrays.labels] == [r.label for r in rows]
    for i, row in enumerate(rows):
        defect, stem = row.id.split("__")[2:]
        image = read_rgb(trees / f"mvtec/wood/test/{defect}/{stem}.png")
        mask = read_mask(trees / f"mvtec/wood/ground_truth/{defect}/{stem}_mask.png")
        box = object_box(mask, 0.25)
        assert row.box == tuple(box) and row.source_size == (48, 48) and row.synthetic
        picture, marks = cut(image, mask, box, 32)
        np.testing.assert_array_equal(arrays.images[i], picture)
        np.testing.assert_array_equal(arrays.masks[i], marks)
        np.testing.assert_allclose(arrays.boxes[i], np.array(box) / 48, atol=1e-12)


def test_backgrounds_keep_the_split_and_are_256(trees: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_prepare(PrepareConfig(root=(trees / "mvtec",), role="background", out=out, json=True), [])
    prepared = read_prepared(out)
    assert prepared.size == 256 and not (out / "mask").exists() and prepared.classes == ()
    assert Counter((r.split, "__train__" in r.id) for r in prepared.rows) == {("train", True): 4, ("test", False): 2}
    arrays = load_arrays(prepared, None)
    assert arrays.masks is None and set(arrays.labels) == {-1} and (arrays.boxes == [0, 0, 1, 1]).all()


def test_kitti_frames_of_any_size_become_squares(trees: Path, tmp_path: Path) -> None:
    """The odd one too; random squares in training, the centre in the test."""
    made = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = PrepareConfig(root=(trees / "kitti",), role="background", crops=3, seed=seed, out=tmp_path / name, json=True)
        run_prepare(config, [])
        made[name] = (tmp_path / name / "manifest.jsonl").read_bytes()
    assert made["a"] == made["b"] != made["c"]
    prepared = read_prepared(tmp_path / "a")
    assert load_arrays(prepared, None).images.shape == (3 * 3 + 1, 256, 256, 3)
    assert len({r.source_size for r in prepared.rows}) == 2
    for row in prepared.rows:
        assert row.box is not None
        x, y, w, h = row.box
        width, height = row.source_size
        assert w == h == height and 0 <= x <= width - w and y == 0
        if row.split == "test":
            assert x == (width - w) // 2
    assert len({r.box for r in prepared.rows if r.split == "train"}) > 6
    assert len({r.group for r in prepared.rows if r.split == "train"}) == 3


def test_no_clip_stands_on_both_sides(trees: Path, tmp_path: Path) -> None:
    run_prepare(PrepareConfig(root=(trees / "tiktok",), size=32, test=0.4, val=0.2, out=tmp_path / "o", json=True), [])
    prepared = read_prepared(tmp_path / "o")
    pairs = {(r.group, r.split) for r in prepared.rows}
    assert len(pairs) == len({group for group, _ in pairs}) == 3
    assert {split for _, split in pairs} == {"train", "val", "test"}


def test_ids_of_visa_become_0_and_255(trees: Path, tmp_path: Path) -> None:
    run_prepare(PrepareConfig(root=(trees / "visa",), size=32, out=tmp_path / "o", json=True), [])
    for row in read_prepared(tmp_path / "o").rows:
        assert row.synthetic and row.mask is not None
        assert set(np.unique(np.asarray(Image.open(row.mask)))) == {0, 255}


def test_parts_context_labels_and_choice(trees: Path, tmp_path: Path) -> None:
    def rows(name: str, **ask: object) -> Path:
        config = PrepareConfig(root=(trees / "mvtec",), size=32, test=0, out=tmp_path / name, json=True)
        run_prepare(replace(config, **ask), [])
        return tmp_path / name

    each = read_prepared(rows("each", parts="each", defect=("combined",)))
    assert [r.id.rpartition("__")[2] for r in each.rows] == ["part0", "part1"] and len({r.group for r in each.rows}) == 1
    assert len({r.box for r in each.rows}) == 2
    grey, real = (
        load_arrays(read_prepared(rows(name, context=name, defect=("hole",)))) for name in ("grey", "real")
    )
    assert grey.masks is not None and (grey.images[~grey.masks] == 128).all()
    np.testing.assert_array_equal(grey.images[grey.masks], real.images[grey.masks])
    assert read_prepared(rows("by category", label="category")).classes == ("wood",)
    assert read_prepared(rows("no label", label="none")).classes == ()


def test_any_folder_of_pictures_and_masks(tmp_path: Path, prepare: Command) -> None:
    for name, at in (("dots/a b.png", 10), ("dots/ü.png", 20), ("bars/c.png", 30)):
        for kind in ("images", "masks"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((60, 90, 3), 90, np.uint8)).save(tmp_path / "images" / name)
        mask = np.zeros((60, 90), np.uint8)
        mask[at : at + 12, 40:52] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    out = tmp_path / "out"
    assert prepare("--images", tmp_path / "images", "--masks", tmp_path / "masks", "--size", 32, "--out", out, "--json") == 0
    prepared = read_prepared(out)
    assert prepared.classes == ("bars", "dots") and not any(r.synthetic for r in prepared.rows)
    arrays = load_arrays(prepared, None)
    assert arrays.masks is not None and arrays.masks.mean() == pytest.approx((12 / 15) ** 2, rel=0.1)
    assert prepare("--images", tmp_path / "images", "--role", "background", "--size", 64, "--out", tmp_path / "bg", "--json") == 0
    assert load_arrays(read_prepared(tmp_path / "bg"), None).images.shape == (3, 64, 64, 3)


def test_position_shares() -> None:
    """A square stays a square: sides count in the shorter side, the centre keeps its place, nothing leaves the picture."""
    assert shares((10, 20, 30, 30), (100, 100)) == pytest.approx((0.1, 0.2, 0.3, 0.3))
    x, y, w, h = shares((20, 100, 40, 40), (100, 200))
    assert w == h == pytest.approx(0.4) and x + w / 2 == pytest.approx(0.4) and y + h / 2 == pytest.approx(0.6)
    assert shares((-50, 0, 200, 200), (100, 200)) == pytest.approx((0, 0, 1, 1))
    rng = np.random.default_rng(0)
    for _ in range(300):
        width, height = (int(v) for v in rng.integers(20, 300, 2))
        side = int(rng.integers(8, 250))
        x, y, w, h = shares((int(rng.integers(-30, width)), int(rng.integers(-30, height)), side, side), (width, height))
        assert 0 <= x <= 1 - w + 1e-12 and 0 <= y <= 1 - h + 1e-12 and 0 < w == h <= 1


@pytest.mark.parametrize(
    ("side", "shorter", "want"), [(79, 256, 64), (80, 256, 128), (39, 128, 64), (40, 128, 128), (300, 1024, 64)]
)
def test_the_size_rule(side: int, shorter: int, want: int) -> None:
    """64 where the median defect side is below 80 px at 256 scale (spec section 3); test pictures have no say."""
    train = Square("a", Item("a", Path("a"), split="train"), Box(0, 0, side, side), (shorter, 2 * shorter))
    test = Square("b", Item("b", Path("b"), split="test"), Box(0, 0, shorter, shorter), (shorter, shorter))
    assert rule_size([train, test, test], 0) == want


def test_splits_are_by_class_and_stable() -> None:
    items = [Item(f"{label}{i}", Path("x"), label=label) for label in ("a", "b") for i in range(20)]
    items.append(Item("c", Path("x"), label="c"))
    once = split_items(items, 0.1, 0.25, 3)
    assert Counter((i.label, i.split) for i in once) == {
        ("a", "train"): 13, ("a", "test"): 5, ("a", "val"): 2, ("b", "train"): 13, ("b", "test"): 5, ("b", "val"): 2,
        ("c", "train"): 1,
    }  # fmt: skip
    assert once == split_items(items, 0.1, 0.25, 3) != split_items(items, 0.1, 0.25, 4)
    assert {i.id: i.split for i in once} == {i.id: i.split for i in split_items(items[::-1], 0.1, 0.25, 3)}
    given = [replace(i, split="test") for i in items]
    assert {i.split for i in split_items(given, 0, 0, 0)} == {"test"}  # type: ignore[arg-type]
    assert {i.split for i in split_items(given, 0, 0, 0, resplit=True)} == {"train"}  # type: ignore[arg-type]


def small_tree(root: Path) -> None:
    """Two pictures with masks in MVTec's layout, two good ones."""
    rng = np.random.default_rng(0)
    for name in ("train/good/0.png", "train/good/1.png", "test/dot/0.png", "test/dot/1.png"):
        (root / "thing" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(root / "thing" / name)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:24] = 255
    (root / "thing/ground_truth/dot").mkdir(parents=True)
    for i in range(2):
        Image.fromarray(mask).save(root / f"thing/ground_truth/dot/{i}_mask.png")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda r: (r / "ground_truth/dot/1_mask.png").unlink(), "picture without a mask"),
        (lambda r: (r / "test/dot/1.png").write_bytes(b"x"), "is no PNG"),
        (lambda r: (r / "test/dot/1.png").write_bytes((r / "test/dot/1.png").read_bytes()[:900]), "cannot be read"),
        (lambda r: Image.new("L", (40, 40)).save(r / "ground_truth/dot/1_mask.png"), "is empty"),
        (lambda r: Image.new("L", (41, 40), 255).save(r / "ground_truth/dot/1_mask.png"), "is 41x40 but its image is 40x40"),
    ],
)
def test_what_cannot_be_used_stops_or_is_left_out(
    tmp_path: Path, prepare: Command, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], object], word: str
) -> None:
    small_tree(tmp_path / "set")
    harm(tmp_path / "set/thing")
    half = word == "cannot be read"  # a file cut in half opens; its end is missed when it is cut
    assert prepare(tmp_path / "set", "--size", 32, "--out", tmp_path / "o", "--json") == 2
    said = capsys.readouterr().err
    assert word in said and said.count("\n") == 1 and not (tmp_path / "o/prepared.json").exists()
    assert half or "--skip" in said
    assert prepare(tmp_path / "set", "--size", 32, "--out", tmp_path / "p", "--skip", "--json") == 0
    assert [r.id for r in read_prepared(tmp_path / "p").rows] == ["thing__test__dot__0"]


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ([], "give one data set folder, or --images"),
        (["set", "--images", "set"], "give one data set folder, or --images"),
        (["--images", "set"], "objects need --masks"),
        (["set", "--masks", "set"], "--masks"),
        (["--images", "set", "--masks", "set", "--role", "background"], "backgrounds have none"),
        (["set", "--size", "20"], "--size 20"),
        (["set", "--size", "2048"], "--size 2048"),
        (["set", "--margin", "-1"], "--margin -1"),
        (["set", "--margin", "nan"], "--margin nan"),
        (["set", "--test", "1"], "--test 1"),
        (["set", "--test", "0.6", "--val", "0.4"], "nothing to train on"),
        (["set", "--crops", "0"], "--crops 0"),
        (["set", "--every", "0"], "--every 0"),
        (["set", "--seed", "-1"], "--seed -1"),
        (["set", "--category", "bottle"], "it has thing"),
        (["set", "--defect", "hole"], "it has dot"),
        (["set", "--layout", "kitti"], "where kitti has its pictures"),
        (["nowhere"], "is no folder"),
        (["set", "--out", "set/thing/test/dot/0.png/x"], "is a file"),
    ],
)
def test_refusals(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Command,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    small_tree(tmp_path / "set")
    assert prepare(*words) == 2
    said = capsys.readouterr().err
    assert word in said and said.count("\n") == 1


def test_a_prepared_folder_is_not_written_over(tmp_path: Path, prepare: Command, capsys: pytest.CaptureFixture[str]) -> None:
    small_tree(tmp_path / "set")
    for code in (0, 2):
        assert prepare(tmp_path / "set", "--size", 32, "--out", tmp_path / "o", "--json") == code
    assert "holds a prepared data set already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda o: (o / "prepared.json").unlink(), "holds no prepared.json"),
        (lambda o: (o / "prepared.json").write_text("{}"), "is damaged or of another version"),
        (lambda o: (o / "manifest.jsonl").write_text("{}\n"), "line 1: is damaged"),
        (lambda o: edit(o, image="../../x.png"), "leads out of"),
        (lambda o: edit(o, image="image/absent.png"), "is not there"),
        (lambda o: edit(o, label="scratch"), "scratch"),
        (lambda o: edit(o, mask=None), "has no mask"),
        (lambda o: edit(o, split="other"), "is damaged"),
        (lambda o: edit(o, id="thing__test__dot__1"), "an id stands twice"),
    ],
)
def test_damaged_prepared_folders(tmp_path: Path, harm: Callable[[Path], object], word: str) -> None:
    small_tree(tmp_path / "set")
    out = tmp_path / "o"
    run_prepare(PrepareConfig(root=(tmp_path / "set",), size=32, out=out, json=True), [])
    read_prepared(out)
    harm(out)
    with pytest.raises(InputError, match=word) as why:
        read_prepared(out)
    assert "\n" not in str(why.value)


def edit(out: Path, **change: object) -> None:
    lines = (out / "manifest.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | change)
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n")


def test_arrays_of_another_size_or_of_nothing(tmp_path: Path) -> None:
    small_tree(tmp_path / "set")
    run_prepare(PrepareConfig(root=(tmp_path / "set",), size=32, test=0, out=tmp_path / "o", json=True), [])
    prepared = read_prepared(tmp_path / "o")
    with pytest.raises(InputError, match="no row of split test"):
        load_arrays(prepared, "test")
    Image.new("RGB", (30, 32)).save(prepared.rows[1].image)
    with pytest.raises(InputError, match="is 30x32, not 32 squared"):
        load_arrays(prepared)


def test_an_object_that_vanishes_is_counted(tmp_path: Path, prepare: Command, capsys: pytest.CaptureFixture[str]) -> None:
    small_tree(tmp_path / "set")
    image, mask = np.full((400, 400, 3), 9, np.uint8), np.zeros((400, 400), np.uint8)
    mask[200, 20:380] = 255  # one pixel thin: no area is left at 32
    Image.fromarray(image).save(tmp_path / "set/thing/test/dot/1.png")
    Image.fromarray(mask).save(tmp_path / "set/thing/ground_truth/dot/1_mask.png")
    assert prepare(tmp_path / "set", "--size", 32, "--out", tmp_path / "o", "--json") == 0
    assert json.loads(capsys.readouterr().out)["measures"]["vanished"] == 1
    shutil.rmtree(tmp_path / "o")
    for name in ("test/dot/0.png", "ground_truth/dot/0_mask.png"):
        (tmp_path / "set/thing" / name).unlink()
    assert prepare(tmp_path / "set", "--size", 32, "--out", tmp_path / "o", "--json") == 2
    assert "give a larger one" in capsys.readouterr().err
