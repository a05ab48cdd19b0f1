"""The phantom trees: their own readers take them, files say synthetic, and what is written as true is true."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab
from skimage.measure import regionprops

from didgen.attributes import from_json, render
from didgen.check import check_rows, check_splits
from didgen.config_data import LayoutName, PhantomConfig, PrepareConfig
from didgen.images import read_lesion_mask, read_rgb
from didgen.layouts import READERS, read_tree
from didgen.phantom import HAM_COUNTS, allot, run_phantom
from didgen.phantom_draw import LOOKS, draw
from didgen.tables import read_xlsx
from didgen.tree import Tree
from graft_common.console import Verb, run_command
from graft_common.errors import InputError
from graft_common.pixels import read_provenance

VERBS = {
    "phantom": Verb(PhantomConfig, "didgen.phantom:run_phantom"),
    "prepare": Verb(PrepareConfig, "didgen.prepare:run_prepare"),
}
LAYOUTS: tuple[LayoutName, ...] = tuple(READERS)
N = 9


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """All five, 9 pictures a split, 72 px."""
    folder = tmp_path_factory.mktemp("phantom trees ü")
    for layout in LAYOUTS:
        run_phantom(PhantomConfig(folder=folder / layout, layout=layout, n=N, size=72, seed=40, json=True), [])
    return {layout: read_tree(folder / layout) for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_tree_is_known_read_and_sound(trees: dict[str, Tree], layout: str) -> None:
    tree = trees[layout]
    assert tree.layout == layout
    counts = Counter(row.split for row in tree.rows)
    assert counts == ({None: N} if layout in ("ham10000", "ph2") else {"train": N, "val": N, "test": N})
    assert {f.level for f in tree.findings} <= {"note"}
    assert all((row.mask is not None) == (layout in ("isic2018-task1", "ham10000", "ph2")) for row in tree.rows)
    for row in tree.rows:
        if row.mask is not None:
            read_lesion_mask(row.mask, read_rgb(row.image).shape[:2])
    odd = [f for f in (*check_rows(tree.rows), *check_splits(tree.rows, tree.root)) if "64 px" not in f.what]
    assert odd == []


def comment(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return json.loads(image.info["comment"])


def truths(tree: Tree) -> list[tuple[Any, dict[str, Any]]]:
    return [(row, json.loads(row.image.with_suffix(".json").read_text())) for row in tree.rows]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_says_synthetic(trees: dict[str, Tree], layout: str) -> None:
    root = trees[layout].root
    assert "Not for diagnosis" in (root / "SYNTHETIC.txt").read_text()
    for row, note in truths(trees[layout]):
        assert note["synthetic"] is True and note["method"] == "didgen" and "not for diagnosis" in note["notice"]
        if row.image.suffix == ".jpg":
            inside = comment(row.image)
            assert inside["synthetic"] is True and inside["seed"] == note["seed"]
        if row.mask is not None and row.mask.suffix == ".png":
            assert (read_provenance(row.mask) or {})["seed"] == note["seed"]
    others = [p for p in root.rglob("*.jpg") if not p.with_suffix(".json").exists()]
    assert all(comment(p)["synthetic"] for p in others)
    assert len(others) == (28 if layout == "derm7pt" else 0)  # the clinical pictures
    assert str(root.parent) not in (root / "run.json").read_text()


def test_the_truth_beside_a_picture_is_true(trees: dict[str, Tree]) -> None:
    """Against scikit-image's region properties and colour conversion, from the files."""
    seen: set[str] = set()
    for layout in ("isic2018-task1", "ham10000", "ph2"):
        for row, note in truths(trees[layout]):
            mask, image, truth = read_lesion_mask(row.mask), read_rgb(row.image), note["truth"]
            (region,) = regionprops(mask.astype(int))
            height, width = mask.shape
            assert truth["area_fraction"] == pytest.approx(region.area / mask.size, abs=1e-9)
            centre = ((region.centroid[1] + 0.5) / width, (region.centroid[0] + 0.5) / height)
            assert (truth["center_x"], truth["center_y"]) == pytest.approx(centre, abs=1e-9)
            words = from_json(row.attributes)
            assert words.size == (
                "small" if truth["area_fraction"] < 0.05 else "medium" if truth["area_fraction"] < 0.25 else "large"
            )
            grid = [
                ["top-left", "top", "top-right"],
                ["left", "center", "right"],
                ["bottom-left", "bottom", "bottom-right"],
            ]
            assert words.position == grid[int(3 * centre[1])][int(3 * centre[0])]
            lab = rgb2lab(image)[mask].mean(axis=0)
            if truth["artifact"] == "none":
                assert np.abs(lab - [truth["lesion_l"], truth["lesion_a"], truth["lesion_b"]]).max() < 4  # JPEG
            assert words.skin == {"fair": "very-light", "tan": "tan", "dark": "dark"}[truth["skin"]]
            assert (words.hair != "none") == (truth["artifact"] == "hair")
            assert words.markers == {"ruler": ("ruler",), "ink": ("ink",), "corners": ("dark-corners",)}.get(
                truth["artifact"], ()
            )
            assert words.diagnosis == row.dx and render(words)
            seen |= {truth["artifact"], truth["color"], truth["skin"]}
    assert {"hair", "ruler", "ink", "corners", "red", "black", "brown", "blue", "fair", "tan", "dark"} <= seen


def test_classes_look_as_they_should(trees: dict[str, Tree]) -> None:
    colors = {
        "MEL": "black",
        "NV": "brown",
        "BCC": "blue",
        "AKIEC": "red",
        "BKL": "brown",
        "DF": "black",
        "VASC": "red",
    }
    assert colors == {name: look[0] for name, look in LOOKS.items()}
    for layout in ("isic2018-task3", "ham10000", "derm7pt"):
        rows = truths(trees[layout])
        assert {row.dx for row, _ in rows} == set(colors) - ({"AKIEC"} if layout == "derm7pt" else set())
        for row, note in rows:
            assert note["truth"]["color"] == colors[row.dx]
            assert LOOKS[row.dx][1](note["truth"])


def test_one_lesion_may_have_two_pictures(trees: dict[str, Tree]) -> None:
    lesions: dict[str | None, list[Any]] = {}
    for row, note in truths(trees["ham10000"]):
        lesions.setdefault(row.lesion_id, []).append((row, note))
    pairs = [two for two in lesions.values() if len(two) == 2]
    assert pairs and all(len(two) <= 2 for two in lesions.values())
    for (a, x), (b, y) in pairs:
        assert x["seed"] == y["seed"] and x["truth"]["artifact"] != y["truth"]["artifact"] and a.dx == b.dx
        assert (read_lesion_mask(a.mask) == read_lesion_mask(b.mask)).all() or a.mask != b.mask


def test_ph2_has_one_bit_and_rgb_masks_and_both_tables(trees: dict[str, Tree]) -> None:
    rows = trees["ph2"].rows
    modes = set()
    for row in rows:
        with Image.open(row.mask) as mask:
            modes.add(mask.mode)
    assert modes == {"1", "RGB"} and {row.image.suffix for row in rows} == {".bmp"}
    sheet = trees["ph2"].root / "PH2Dataset" / "PH2_dataset.xlsx"
    assert read_xlsx(sheet)[12]["A"] == "Image Name"  # header in row 13, as in the real one
    by_text = {row.id: row.dx for row in rows}
    (trees["ph2"].root / "PH2Dataset" / "PH2_dataset.txt").rename(trees["ph2"].root / "aside.txt")
    try:
        assert {row.id: row.dx for row in read_tree(trees["ph2"].root).rows} == by_text
    finally:
        (trees["ph2"].root / "aside.txt").rename(trees["ph2"].root / "PH2Dataset" / "PH2_dataset.txt")


def test_task_1_has_many_sizes(trees: dict[str, Tree]) -> None:
    sizes = {read_rgb(row.image).shape[:2] for row in trees["isic2018-task1"].rows}
    assert len(sizes) >= 4 and all(min(size) >= 36 and max(size) <= 72 for size in sizes)


def test_seeds_follow_each_other_and_splits_share_none(trees: dict[str, Tree]) -> None:
    for layout in LAYOUTS:
        record = json.loads((trees[layout].root / "run.json").read_text())
        seeds = [(row.split, note["seed"]) for row, note in truths(trees[layout])]
        assert all(40 <= seed < record["measures"]["next_seed"] for _, seed in seeds)
        for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
            assert not {s for split, s in seeds if split == a} & {s for split, s in seeds if split == b}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    def files(root: Path) -> dict[str, bytes]:
        return {
            str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != "run.json"
        }

    for layout in LAYOUTS:
        for name in ("a", "b"):
            config = PhantomConfig(folder=tmp_path / layout / name, layout=layout, n=2, size=48, seed=1, json=True)
            run_phantom(config, [])
        assert files(tmp_path / layout / "a") == files(tmp_path / layout / "b")
    run_phantom(PhantomConfig(folder=tmp_path / "c", n=2, size=48, seed=500, json=True), [])
    other, first = files(tmp_path / "c"), files(tmp_path / "isic2018-task1" / "a")
    assert other.keys() == first.keys() and all(other[k] != first[k] for k in other if k.endswith(".jpg"))


def test_the_crop_holds_lesion_and_marks() -> None:
    whole = [draw(seed, (80, 80), artifact="ruler") for seed in range(30)]
    cropped = [draw(seed, (60, 80), artifact="ruler") for seed in range(30)]
    kept = [(a, b) for a, b in zip(whole, cropped, strict=True) if b is not None]
    assert 5 < len(kept) < 30
    for a, b in kept:
        assert a is not None and b.image.shape == (60, 80, 3) and b.mask.sum() == a.mask.sum()
        assert b.truth["artifact_fraction"] * 60 * 80 == pytest.approx(a.truth["artifact_fraction"] * 80 * 80)
        assert 0.95 < b.truth["diameter"] / a.truth["diameter"] < 1.05


@pytest.mark.parametrize("n", [1, 6, 7, 24, 100])
def test_classes_keep_their_proportions(n: int) -> None:
    given = Counter(allot(n, HAM_COUNTS))
    assert sum(given.values()) == n and len(given) == min(n, 7)
    if n >= 24:
        share = {k: v / sum(HAM_COUNTS.values()) for k, v in HAM_COUNTS.items()}
        assert all(abs(given[k] - n * share[k]) <= 7 for k in share) and max(given, key=lambda k: given[k]) == "NV"


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("{new}", "--n", "0"), "--n 0: must be at least 1"),
        (("{new}", "--size", "20"), "--size 20: must be at least 48"),
        (("{new}", "--seed", "-1"), "--seed -1: must be 0 or more"),
        (("{new}", "--layout", "ph2", "--n", "998"), "--n 998: names of PH2 have three digits"),
        (("{new}", "--layout", "fitzpatrick17k"), "fitzpatrick17k"),
        (("{full}",), "{full}: is not empty; choose a new folder"),
        (("{file}",), "{file} is a file; choose a folder"),
        (("{file}/below",), "{file} is a file; choose a folder"),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], needle: str) -> None:
    names = {"new": str(tmp_path / "n e ü"), "full": str(tmp_path / "full"), "file": str(tmp_path / "file")}
    (tmp_path / "full" / "x").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"1")
    assert run_command("graft-didgen", VERBS, ["phantom", *(w.format(**names) for w in words)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and needle.format(**names) in said[0], said
    assert not (tmp_path / "n e ü").exists()


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    import os

    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="may not be written"):
            run_phantom(PhantomConfig(folder=tmp_path / "x"), [])
    finally:
        tmp_path.chmod(0o700)
