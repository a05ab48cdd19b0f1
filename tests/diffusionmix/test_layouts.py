"""Readers and phantom writers of MVTec AD, VisA, KITTI and TikTok (property 23), and trees that do not pair."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from diffusionmix.config_data import CheckConfig, PhantomConfig, PhantomLayout
from diffusionmix.layouts import detect, read_folder, read_tree
from diffusionmix.phantom import WRITERS, run_phantom
from diffusionmix.read import picture_size, read_mask, read_rgb
from diffusionmix.tree import Item, Tree
from graft_common.console import Verb, run_command
from graft_common.errors import InputError
from graft_common.pixels import read_provenance

N = 4
VERBS = {
    "phantom": Verb(PhantomConfig, "diffusionmix.phantom:run_phantom"),
    "check": Verb(CheckConfig, "diffusionmix.check:run_check"),
}
READ = {"visa-mvtec": "visa", "kitti-raw": "kitti", "tiktok-flat": "tiktok"}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All phantoms; unicode and spaces in the path."""
    folder = tmp_path_factory.mktemp("data sets ä")
    for layout in WRITERS:
        n = 20 if layout.startswith("tiktok") else N
        run_phantom(PhantomConfig(folder=folder / layout, layout=layout, n=n, size=48, json=True), [])  # type: ignore[arg-type]
    return folder


def kinds(tree: Tree) -> Counter[tuple[str | None, str | None, bool]]:
    return Counter((item.split, item.label, item.mask is not None) for item in tree.items)


def test_mvtec_counts_and_pairs(trees: Path) -> None:
    tree = read_tree(trees / "mvtec")
    assert tree.layout == "mvtec" and not tree.findings
    assert kinds(tree) == {
        ("train", None, False): N, ("test", None, False): N // 2, (None, "blob", True): N, (None, "crack", True): N,
        (None, "hole", True): N, (None, "combined", True): 1,
    }  # fmt: skip
    for item in tree.items:
        assert item.empty == (item.mask is None) and item.category == "wood"
        if item.mask is not None:
            assert item.mask.name == f"{item.image.stem}_mask.png" and item.mask.parent.name == item.image.parent.name
            assert set(np.unique(np.asarray(Image.open(item.mask)))) == {0, 255}


def test_one_category_alone_is_read_too(trees: Path) -> None:
    whole, part = read_tree(trees / "mvtec"), read_tree(trees / "mvtec" / "wood")
    assert [i.id for i in whole.items] == [i.id for i in part.items]
    assert [i.id for i in read_tree(trees / "visa" / "wood").items] == [i.id for i in read_tree(trees / "visa").items]


def test_the_grey_picture_becomes_three_channels(trees: Path) -> None:
    path = trees / "mvtec/wood/train/good/000.png"
    assert np.asarray(Image.open(path)).ndim == 2
    image = read_rgb(path)
    assert image.shape == (48, 48, 3)
    np.testing.assert_array_equal(image[..., 0], np.asarray(Image.open(path)))
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_the_combined_mask_has_two_components(trees: Path) -> None:
    mask = read_mask(trees / "mvtec/wood/ground_truth/combined/000_mask.png")
    assert ndimage.label(mask)[1] == 2


def test_visa_ids_labels_and_official_split(trees: Path) -> None:
    tree = read_tree(trees / "visa")
    assert tree.layout == "visa" and not tree.findings
    assert kinds(tree) == {
        ("train", None, False): N, ("test", None, False): N // 2, (None, "blob", True): N, (None, "crack", True): N,
        (None, "hole", True): N, (None, "blob+hole", True): 1,
    }  # fmt: skip
    for item in tree.items:
        assert item.image.suffix == ".JPG"
        if item.mask is not None:
            stored = np.asarray(Image.open(item.mask))
            assert stored.max() <= 3
            np.testing.assert_array_equal(read_mask(item.mask, item.values), stored > 0)
    both = next(i for i in tree.items if i.label == "blob+hole")
    assert both.mask is not None and set(np.unique(np.asarray(Image.open(both.mask)))) == {0, 1, 2}


def test_visa_as_mvtec_is_accepted_under_both_names(trees: Path) -> None:
    for layout in ("visa", "mvtec"):
        tree = read_tree(trees / "visa-mvtec", layout)  # type: ignore[arg-type]
        assert kinds(tree) == {("train", None, False): N, ("test", None, False): N // 2, (None, "bad", True): N}


def test_kitti_frames_and_the_odd_one(trees: Path) -> None:
    tree = read_tree(trees / "kitti")
    sizes = [picture_size(i.image) for i in tree.items]
    assert len(tree.items) == N and len(set(sizes)) == 2 and all(w > 3 * h for h, w in sizes)
    raw = read_tree(trees / "kitti-raw")
    assert len(raw.items) == N and len({i.group for i in raw.items}) == 2 and all(i.empty for i in raw.items)
    assert {len(i.image.stem) for i in raw.items} == {10} and {len(i.image.stem) for i in tree.items} == {6}


def test_tiktok_clips_and_the_flat_set(trees: Path) -> None:
    clips, flat = read_tree(trees / "tiktok"), read_tree(trees / "tiktok-flat")
    assert Counter(i.group for i in clips.items) == {"00001": 6, "00002": 8, "00003": 6}
    assert sorted(Counter(i.group for i in flat.items).values()) == [6, 6, 8] and not flat.findings
    assert all(i.mask is not None and i.mask.stem == i.image.stem and not i.empty for i in clips.items)
    assert all("densepose" not in i.image.parts for i in clips.items)
    third = read_tree(trees / "tiktok", every=3)
    assert Counter(i.group for i in third.items) == {"00001": 2, "00002": 3, "00003": 2}
    assert [i.image.stem for i in third.items if i.group == "00002"] == ["0001", "0004", "0007"]


@pytest.mark.parametrize("layout", list(WRITERS))
def test_auto_finds_the_layout_and_all_says_synthetic(trees: Path, layout: PhantomLayout) -> None:
    want = READ.get(layout, layout)
    assert detect(trees / layout) == ("mvtec" if layout == "visa-mvtec" else want)
    assert "synthetic" in (trees / layout / "SYNTHETIC.txt").read_text().lower()
    for item in read_tree(trees / layout).items:
        if item.image.suffix == ".png":
            assert (read_provenance(item.image) or {})["synthetic"] is True
        else:
            assert b"synthetic" in item.image.read_bytes()[:1000]


def test_digits_suffixes_and_totals_do_not_matter(trees: Path, tmp_path: Path) -> None:
    root = tmp_path / "my set"
    shutil.copytree(trees / "mvtec", root)
    good, test, truth = root / "wood/train/good", root / "wood/test/blob", root / "wood/ground_truth/blob"
    (good / "000.png").rename(good / "7.png")
    Image.open(good / "001.png").convert("RGB").save(good / "a long name 00000001.TIFF")
    (test / "000.png").rename(test / "12345678.png")
    (truth / "000_mask.png").rename(truth / "12345678_mask.png")
    (root / "license.txt").write_text("x")
    (good / "Thumbs.db").write_bytes(b"x")
    tree = read_tree(root)
    assert not tree.findings and len(tree.items) == len(read_tree(trees / "mvtec").items) + 1


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for layout in ("visa", "tiktok"):
        trees = []
        for name, seed in (("a", 3), ("b", 3), ("c", 4)):
            folder = tmp_path / layout / name
            run_phantom(PhantomConfig(folder=folder, layout=layout, n=2, size=48, seed=seed, json=True), [])  # type: ignore[arg-type]
            files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "run.json")
            trees.append([(p.relative_to(folder), p.read_bytes()) for p in files])
        assert trees[0] == trees[1] != trees[2]


def broken(trees: Path, tmp_path: Path, what: Callable[[Path], object], layout: str = "mvtec") -> Tree:
    root = tmp_path / "broken"
    shutil.copytree(trees / layout, root)
    what(root / "wood" if (root / "wood").is_dir() else root)
    return read_tree(root)


@pytest.mark.parametrize(
    ("layout", "what", "word"),
    [
        ("mvtec", lambda r: (r / "ground_truth/hole/001_mask.png").unlink(), "001: picture without a mask"),
        ("mvtec", lambda r: (r / "test/hole/001.png").unlink(), "001: mask without a picture"),
        ("mvtec", lambda r: shutil.rmtree(r / "ground_truth/hole"), "picture without a mask"),
        ("mvtec", lambda r: shutil.rmtree(r / "test/hole"), "mask without a picture"),
        ("mvtec", lambda r: shutil.copy(r / "test/hole/001.png", r / "test/hole/001.PNG"), "two files of one name"),
        ("visa", lambda r: (r / "Data/Masks/Anomaly/001.png").unlink(), "001: picture without a mask"),
        ("tiktok", lambda r: (r / "TikTok_dataset/00002/masks/0003.png").unlink(), "0003: picture without a mask"),
    ],
)
def test_what_does_not_pair_stops(
    trees: Path, tmp_path: Path, layout: str, what: Callable[[Path], object], word: str
) -> None:
    stops = [f for f in broken(trees, tmp_path, what, layout).findings if f.level == "stop"]
    assert len(stops) == 1 and word in stops[0].what


def test_tables_that_say_little_are_notes(trees: Path, tmp_path: Path) -> None:
    tree = broken(trees, tmp_path, lambda r: (r / "image_anno.csv").unlink(), "visa")
    assert [f.level for f in tree.findings] == ["note"]
    assert {i.label for i in tree.items} == {None}
    def more(root: Path) -> None:
        with (root / "image_anno.csv").open("a") as file:
            file.write("wood/Data/Images/Anomaly/999.JPG,blob,\n")
    tree = broken(trees, tmp_path / "b", more, "visa")
    assert "999.JPG: is listed but not there" in tree.findings[0].what and tree.findings[0].level == "note"


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd"])
def test_a_table_may_not_lead_out(trees: Path, tmp_path: Path, name: str) -> None:
    def write(root: Path) -> None:
        (root / "image_anno.csv").write_text(f"image,label,mask\n{name},blob,\n")

    with pytest.raises(InputError, match="leads out of"):
        broken(trees, tmp_path, write, "visa")


def test_a_table_without_its_columns(trees: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'image'"):
        broken(trees, tmp_path, lambda r: (r / "image_anno.csv").write_text("picture,label\n"), "visa")


@pytest.mark.parametrize("place", ["train/good/000.png", "test/hole/000.png", "ground_truth/hole/000_mask.png"])
def test_a_link_may_not_lead_out(trees: Path, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "secret.png"
    Image.new("L", (48, 48)).save(outside)

    def link(root: Path) -> None:
        (root / place).unlink()
        (root / place).symlink_to(outside)

    with pytest.raises(InputError, match="leads out of"):
        broken(trees, tmp_path, link)


def test_any_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a/ü 1.png", "a/2.png", "b/2.png"):
        for kind in ("images", "masks"):
            path = tmp_path / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).save(path)
    tree = read_folder(tmp_path / "images", tmp_path / "masks")
    assert not tree.findings
    assert [(i.id, i.label, i.mask) for i in tree.items] == [
        ("a__2", "a", tmp_path / "masks/a/2.png"), ("a__ü 1", "a", tmp_path / "masks/a/ü 1.png"),
        ("b__2", "b", tmp_path / "masks/b/2.png"),
    ]  # fmt: skip
    assert all(i.empty and i.mask is None for i in read_folder(tmp_path / "images", None).items)
    for path in sorted((tmp_path / "masks").rglob("*.png")):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert len(read_folder(tmp_path / "images", tmp_path / "masks").items) == 3
    (tmp_path / "masks/b/2_mask.png").unlink()
    Image.new("L", (9, 9)).save(tmp_path / "masks/c_mask.png")
    stops = [f.what for f in read_folder(tmp_path / "images", tmp_path / "masks").findings]
    assert len(stops) == 2 and "b/2: picture without" in stops[0] and "c: mask without" in stops[1]


@pytest.mark.parametrize("values", [[0, 255], [0, 1], [0, 3], [0, 65535]])
def test_mask_values(tmp_path: Path, values: list[int]) -> None:
    stored = np.full((10, 12), values[0], np.uint16 if values[1] > 255 else np.uint8)
    stored[2:5, 3:9] = values[1]
    Image.fromarray(stored).save(tmp_path / "m.png")
    for way in ("auto", "ids"):
        np.testing.assert_array_equal(read_mask(tmp_path / "m.png", way), stored > 0)  # type: ignore[arg-type]


def test_soft_edges_of_a_bright_mask_count_above_the_middle(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 100, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, False, False, True, True]]
    assert read_mask(tmp_path / "m.png", "ids").tolist() == [[False, True, True, True, True]]


def test_a_small_id_of_16_bits_is_not_lost(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2, 0]], np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, True, True, False]]


def test_pictures_of_every_mode(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (12, 14, 3), np.uint8)
    alpha = np.dstack([rgb, np.full((12, 14), 255, np.uint8)])
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    wide = (rgb[..., 0].astype(np.uint16) << 8) | rgb[..., 1]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), rgb)
    assert np.abs(read_rgb(tmp_path / "palette.png").astype(int) - rgb).mean() < 20
    grey = read_rgb(tmp_path / "wide.png")
    assert grey.shape == (12, 14, 3) and np.corrcoef(grey[..., 1].ravel(), wide.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"hello", "is no PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "cannot be read"),
        (b"\xff\xd8\xff", "cannot be read"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "ä b.png"
    path.write_bytes(content)
    for read in (read_rgb, read_mask, picture_size):
        with pytest.raises(InputError) as why:
            read(path)
        assert str(path) in str(why.value) and "\n" not in str(why.value)
    with pytest.raises(InputError, match=word):
        read_mask(path)
    with pytest.raises(InputError, match="no such file"):
        read_rgb(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: None, "is no folder"),
        (lambda p: p.mkdir(), "looks like none of"),
        (lambda p: (p / "wood/train/good").mkdir(parents=True), "holds no PNG"),
        (lambda p: p.write_text("x"), "is no folder"),
    ],
)
def test_folders_without_a_data_set(tmp_path: Path, make: Callable[[Path], object], word: str) -> None:
    make(tmp_path / "x y")
    with pytest.raises(InputError, match=word) as why:
        read_tree(tmp_path / "x y")
    assert "x y" in str(why.value)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--n", "1"], "--n 1"),
        (["--size", "40"], "--size 40"),
        (["--seed", "-1"], "--seed -1"),
        (["--layout", "coco"], "coco"),
    ],
)
def test_phantom_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], word: str) -> None:
    assert run_command("graft-diffusionmix", VERBS, ["phantom", str(tmp_path / "p"), *words]) == 2
    said = capsys.readouterr().err
    assert word in said and said.count("\n") == 1 and not (tmp_path / "p").exists()


def test_phantom_does_not_write_into_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert run_command("graft-diffusionmix", VERBS, ["phantom", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err and json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["mine.txt"]'


def test_ids_are_file_names() -> None:
    from diffusionmix.tree import named

    assert named("a", "b c", "ü") == "a__b c__ü" and len(named("x" * 400).encode()) < 160
    assert named("x" * 400) != named("x" * 401)
    assert Item(named("a"), Path("a")).id == "a"
