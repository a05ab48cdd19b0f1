"""The phantom trees: real layout and names, outlines that fit, everything says synthetic."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from graft_common.errors import InputError
from tficomp import phantom
from tficomp.config import PhantomConfig
from tficomp.layouts import draw_regions, lesion_mask, read_tree
from tficomp.phantom import circle, draw, ellipse, polygon, run_phantom


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both layouts, small."""
    folder = tmp_path_factory.mktemp("trees")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "LEAST", 60)
        patch.setattr(phantom, "MOST", 120)
        for layout, n in (("br35h", 4), ("busi", 2)):
            run_phantom(PhantomConfig(folder=folder / layout, layout=layout, n=n, json=True), [])
    return {layout: folder / layout for layout in ("br35h", "busi")}


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def blob(seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:90, :110].astype(float)
    angle = np.arctan2(y - 40, x - 60)
    return np.hypot(y - 40, x - 60) < 20 + 5 * np.sin(3 * angle + seed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_polygon_is_exact_within_a_pixel(seed: int) -> None:
    mask = blob(seed)
    again = draw_regions([{"shape_attributes": polygon(mask)}], mask.shape, "x")
    assert not (again & ~ndimage.binary_dilation(mask, np.ones((3, 3)))).any()
    assert not (ndimage.binary_erosion(mask, np.ones((3, 3))) & ~again).any()


def test_polygon_at_the_border() -> None:
    mask = np.zeros((50, 60), bool)
    mask[10:30, :20] = True
    again = draw_regions([{"shape_attributes": polygon(mask)}], mask.shape, "x")
    assert (again ^ mask).sum() <= 2 * 80  # at most the rim
    assert again[15, 0]


@pytest.mark.parametrize("theta", [0.0, 0.6, 2.0])
def test_ellipse_and_circle_return_what_was_drawn(theta: float) -> None:
    given = {"name": "ellipse", "cx": 52.0, "cy": 41.0, "rx": 25.0, "ry": 11.0, "theta": theta}
    found = ellipse(draw_regions([{"shape_attributes": given}], (90, 110), "x"))
    assert abs(found["cx"] - 52) < 0.1 and abs(found["cy"] - 41) < 0.1
    assert abs(found["rx"] - 25) < 0.4 and abs(found["ry"] - 11) < 0.4
    assert abs(math.sin(found["theta"] - theta)) < 0.02
    round_ = circle(
        draw_regions([{"shape_attributes": {"name": "circle", "cx": 30, "cy": 33, "r": 14}}], (90, 110), "x")
    )
    assert abs(round_["r"] - 14) < 0.2 and round_["cx"] == 30 and round_["cy"] == 33


def test_br35h_tree(trees: dict[str, Path]) -> None:
    root = trees["br35h"]
    tree = read_tree(root)
    assert tree.dataset == "br35h" and len(tree.lesions) == 3 and len(tree.backgrounds) == 4
    assert [p.name for p in tree.bare] == ["y3.jpg"] and tree.missing == ()
    assert {p.name for p in (root / "yes").iterdir()} == {"y0.jpg", "y1.jpg", "y2.JPG", "y3.jpg"}
    assert {p.name for p in (root / "no").iterdir()} == {"no0.jpg", "no 1.jpg", "no2.jpg", "no3.jpg"}
    names = [x.regions[0]["shape_attributes"]["name"] for x in sorted(tree.lesions, key=lambda x: x.image.name)]
    assert names == ["polygon", "ellipse", "circle"]
    modes = {opened(p).mode for p in (root / "yes").iterdir()}
    assert modes == {"L", "RGB"}
    for lesion in tree.lesions:
        width, height = opened(lesion.image).size
        mask = lesion_mask(lesion, (height, width))
        assert 0.002 < mask.mean() < 0.3
        if lesion.image.name == "y1.jpg":
            assert mask[:, [0, -1]].any()


def test_outlines_sit_on_the_lesions() -> None:
    drawn = draw("brain", 0, 0, side="left")
    for shape, least in ((polygon, 0.9), (ellipse, 0.75), (circle, 0.6)):
        again = draw_regions([{"shape_attributes": shape(drawn.mask)}], drawn.mask.shape, "x")
        overlap = (again & drawn.mask).sum() / (again | drawn.mask).sum()
        assert overlap > least, shape.__name__
    assert min(drawn.mask.shape) >= phantom.LEAST and max(drawn.mask.shape) <= phantom.MOST


def test_busi_tree(trees: dict[str, Path]) -> None:
    root = trees["busi"] / "Dataset_BUSI_with_GT"
    tree = read_tree(trees["busi"])
    assert tree.dataset == "busi" and len(tree.lesions) == 4 and len(tree.backgrounds) == 2 and tree.bare == ()
    by_name = {x.image.name: x for x in tree.lesions}
    assert opened(root / "benign" / "benign (1)_mask.png").mode == "LA"
    assert len(by_name["benign (2).png"].masks) == 2
    for name, lesion in by_name.items():
        width, height = opened(lesion.image).size
        mask = lesion_mask(lesion, (height, width))
        assert ndimage.label(mask, np.ones((3, 3)))[1] == (2 if name == "benign (2).png" else 1)
        assert mask[:, [0, -1]].any() == (name == "malignant (1).png")
        # The truth is exact: the picture is another inside the mask than next to it (fluid or tumour, dark).
        image = np.asarray(opened(lesion.image).convert("L"), float)
        ring = ndimage.binary_dilation(mask, iterations=4) & ~ndimage.binary_dilation(mask, iterations=1)
        assert image[mask].mean() < image[ring].mean()
    for path in (root / "normal").glob("*_mask.png"):
        assert not np.asarray(opened(path)).any()


def test_everything_says_synthetic(trees: dict[str, Path]) -> None:
    for layout, root in trees.items():
        assert "Synthetic" in (root / "SYNTHETIC.txt").read_text()
        for path in root.rglob("*"):
            if path.suffix.lower() not in (".png", ".jpg"):
                continue
            info = opened(path).info
            note: dict[str, Any] = json.loads(info["graft"] if layout == "busi" else info["comment"])
            assert note["synthetic"] is True and "not for diagnosis" in note["notice"]


def test_same_seed_same_bytes(tmp_path: Path, trees: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "LEAST", 60)
    monkeypatch.setattr(phantom, "MOST", 120)
    run_phantom(PhantomConfig(folder=tmp_path / "again", layout="busi", n=2, json=True), [])
    assert tree_bytes(tmp_path / "again") == tree_bytes(trees["busi"])
    run_phantom(PhantomConfig(folder=tmp_path / "other", layout="busi", n=1, seed=1, json=True), [])
    assert not set(tree_bytes(tmp_path / "other", ".png").values()) & set(tree_bytes(trees["busi"], ".png").values())


def tree_bytes(root: Path, suffix: str = "") -> dict[str, bytes]:
    files = (p for p in root.rglob(f"*{suffix}") if p.is_file() and p.name != "run.json")
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def test_it_overwrites_nothing(trees: dict[str, Path], tmp_path: Path, command: Callable[..., int]) -> None:
    with pytest.raises(InputError, match="is not empty"):
        run_phantom(PhantomConfig(folder=trees["busi"], layout="busi", n=1), [])
    (tmp_path / "file").write_bytes(b"x")
    for folder in (tmp_path / "file", tmp_path / "file" / "under"):
        with pytest.raises(InputError, match="is a file"):
            run_phantom(PhantomConfig(folder=folder, n=1), [])
    for bad in (PhantomConfig(folder=tmp_path / "x", n=0), PhantomConfig(folder=tmp_path / "x", seed=-1)):
        with pytest.raises(InputError, match=r"--n 0|--seed -1"):
            run_phantom(bad, [])
    assert not (tmp_path / "x").exists()
