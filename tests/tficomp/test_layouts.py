"""Readers of Br35H and BUSI: outlines against closed forms, odd trees as they occur."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from graft_common.errors import InputError
from tficomp.layouts import Outlined, copies, draw_regions, fingerprint, lesion_mask, read_tree

Y, X = np.mgrid[:80, :100].astype(float)


def region(**shape: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": {}}


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def noise(seed: int) -> np.ndarray:
    blurred = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(80, 100)), 4)
    return np.interp(blurred, (blurred.min(), blurred.max()), (0, 255)).astype(np.uint8)


@pytest.mark.parametrize("theta", [0.0, 0.5, math.pi / 2, 2.4, -1.1])
def test_ellipse_turns_as_via_turns_it(theta: float) -> None:
    """VIA draws with the canvas: the axis rx points along (cos theta, sin theta), y down."""
    mask = draw_regions([region(name="ellipse", cx=50, cy=40, rx=30, ry=12, theta=theta)], (80, 100), "x")
    u = (X - 50) * math.cos(theta) + (Y - 40) * math.sin(theta)
    v = -(X - 50) * math.sin(theta) + (Y - 40) * math.cos(theta)
    value = (u / 30) ** 2 + (v / 12) ** 2
    sure = np.abs(value - 1) > 1e-9
    np.testing.assert_array_equal(mask[sure], (value < 1)[sure])


def test_circle_polygon_and_rect_against_closed_forms() -> None:
    circle = draw_regions([region(name="circle", cx=30.5, cy=20, r=9)], (80, 100), "x")
    np.testing.assert_array_equal(circle, (X - 30.5) ** 2 + (Y - 20) ** 2 < 81)
    triangle = draw_regions(
        [region(name="polygon", all_points_x=[10, 70, 10], all_points_y=[10, 10, 70])], (80, 100), "x"
    )
    inside = (X > 10) & (Y > 10) & (X + Y < 80)
    rim = (X >= 10) & (Y >= 10) & (X + Y <= 80)
    assert not (inside & ~triangle).any() and not (triangle & ~rim).any()
    rect = draw_regions([region(name="rect", x=5.5, y=6.5, width=20, height=10)], (80, 100), "x")
    np.testing.assert_array_equal(rect, (X > 5.5) & (X < 25.5) & (Y > 6.5) & (Y < 16.5))


def test_outlines_are_clipped_and_united() -> None:
    both = [region(name="circle", cx=0, cy=40, r=10), region(name="circle", cx=99, cy=40, r=10)]
    mask = draw_regions(both, (80, 100), "x")
    np.testing.assert_array_equal(mask, (X**2 + (Y - 40) ** 2 < 100) | ((X - 99) ** 2 + (Y - 40) ** 2 < 100))


@pytest.mark.parametrize(
    "shape",
    [
        {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]},
        {"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]},
        {"name": "circle", "cx": 1, "cy": 1},
        {"name": "circle", "cx": float("nan"), "cy": 1, "r": 3},
        {"name": "ellipse", "cx": 1e300, "cy": 1, "rx": 3, "ry": 3},
        {"name": "point", "cx": 1, "cy": 1},
        {"name": "polygon", "all_points_x": None, "all_points_y": [1]},
        {},
    ],
)
def test_unreadable_outlines_are_one_error(shape: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"y1\.jpg: region 1: cannot be read as a VIA outline"):
        draw_regions([{"shape_attributes": shape}], (80, 100), "y1.jpg")


def test_br35h_as_it_occurs(tmp_path: Path) -> None:
    root = tmp_path / "archive" / "Br35H"
    train = root / "Br35H-Mask-RCNN" / "TRAIN"
    for i in range(4):
        save(train / f"y{i}.{'JPG' if i == 1 else 'jpg'}", noise(i), format="JPEG")
        save(root / "yes" / f"y{i}.jpg", noise(i), format="JPEG")
    save(root / "yes" / "y9.jpg", noise(9), format="JPEG")
    save(root / "no" / "no 1.jpg", noise(20), format="JPEG")
    save(root / "no" / "No2.JPEG", noise(21), format="JPEG")
    (root / "no" / "._no3.jpg").write_bytes(b"left by a system")
    (root / "no" / "notes.txt").write_text("x")
    polygon = region(name="polygon", all_points_x=[10, 40, 40], all_points_y=[10, 10, 40])
    circle = region(name="circle", cx=50, cy=40, r=10)
    sheet = {
        "y0.jpg1": {"filename": "y0.jpg", "size": 1, "regions": [polygon], "file_attributes": {}},
        "y1.jpg1": {"filename": "y1.jpg", "size": 1, "regions": {"0": circle, "1": polygon}},
        "y2.jpg1": {"filename": "y2.jpg", "size": 1, "regions": []},
        "gone.jpg1": {"filename": "gone.jpg", "size": 1, "regions": [polygon]},
    }
    (train / "annotations_train.json").write_text(json.dumps(sheet))
    (root / "Br35H-Mask-RCNN" / "annotations_all.json").write_text(json.dumps({"_via_img_metadata": sheet}))
    for given in (root, tmp_path / "archive"):
        tree = read_tree(given)
        assert tree.dataset == "br35h"
        assert [p.name for p in tree.backgrounds] == ["No2.JPEG", "no 1.jpg"]
        assert {x.image.relative_to(root).as_posix(): len(x.regions) for x in tree.lesions} == {
            "Br35H-Mask-RCNN/TRAIN/y0.jpg": 1, "Br35H-Mask-RCNN/TRAIN/y1.JPG": 2
        }  # fmt: skip
        assert [p.name for p in tree.bare] == ["y2.jpg", "y3.jpg", "y9.jpg"]
        assert set(tree.missing) == {"gone.jpg"}
    with pytest.raises(InputError, match="holds no benign"):
        read_tree(root, "busi")


@pytest.mark.parametrize("name", ["../../../secret.jpg", "/secret.jpg"])
def test_names_in_annotations_may_not_lead_out(tmp_path: Path, name: str) -> None:
    save(tmp_path / "set" / "no" / "no1.jpg", noise(1))
    sheet = tmp_path / "set" / "Br35H-Mask-RCNN" / "TRAIN" / "a.json"
    sheet.parent.mkdir(parents=True)
    sheet.write_text(json.dumps({"a": {"filename": name, "regions": [region(name="circle", cx=1, cy=1, r=1)]}}))
    with pytest.raises(InputError, match=r"secret\.jpg: leads out of"):
        read_tree(tmp_path / "set")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"a": {}}', b'{"a": {"filename": "x", "regions": 3}}', b"[" * 5000]
)
def test_damaged_annotations_are_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no").mkdir()
    sheet = tmp_path / "Br35H-Mask-RCNN" / "VAL" / "annotations_val.json"
    sheet.parent.mkdir(parents=True)
    sheet.write_bytes(content)
    with pytest.raises(InputError) as why:
        read_tree(tmp_path)
    assert str(sheet) in str(why.value) and "\n" not in str(why.value)


def test_busi_as_it_occurs(tmp_path: Path) -> None:
    root = tmp_path / "Dataset_BUSI_with_GT"
    first, second = np.zeros((2, 80, 100), np.uint8)
    first[10:20, 10:20], second[40:50, 60:90] = 255, 255
    save(root / "benign" / "benign (1).png", noise(1))
    save(root / "benign" / "benign (1)_mask.png", first)
    save(root / "benign" / "benign (1)_mask_1.png", np.stack([np.full_like(second, 255), second], -1))
    save(root / "benign" / "benign (10).PNG", np.stack([noise(2)] * 3, -1), format="PNG")
    save(root / "benign" / "benign (10)_mask.png", first[:40])
    save(root / "malignant" / "malignant (1).png", noise(3))
    save(root / "normal" / "normal (1).png", noise(4))
    save(root / "normal" / "normal (1)_mask.png", first * 0)
    tree = read_tree(tmp_path)
    assert tree.dataset == "busi"
    assert [p.name for p in tree.backgrounds] == ["normal (1).png"]
    assert [p.name for p in tree.bare] == ["malignant (1).png"]
    one, ten = tree.lesions
    np.testing.assert_array_equal(lesion_mask(one, (80, 100)), (first | second) > 0)
    with pytest.raises(InputError, match=r"benign \(10\)_mask\.png: is 100x40 but its image is 100x80"):
        lesion_mask(ten, (80, 100))
    with pytest.raises(InputError, match=r"normal \(1\)_mask\.png: its lesion mask is empty"):
        lesion_mask(Outlined(tree.backgrounds[0], masks=(root / "normal" / "normal (1)_mask.png",)), (80, 100))


def test_no_tree_is_said(tmp_path: Path) -> None:
    for given in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError) as why:
            read_tree(given)
        assert str(given) in str(why.value)


def test_copies_are_found_and_others_are_not(tmp_path: Path) -> None:
    pictures = [noise(i) for i in range(12)]
    small = Image.fromarray(pictures[3]).resize((70, 56))
    small.save(tmp_path / "c.jpg", quality=60)
    pictures += [
        np.asarray(Image.open(tmp_path / "c.jpg")),
        np.clip(pictures[5].astype(int) + 9, 0, 255).astype(np.uint8),
    ]
    prints = [fingerprint((p[None] / np.float32(127.5) - 1).astype(np.float32)) for p in pictures]
    assert copies(prints) == {12: 3, 13: 5}
    assert copies([]) == {}


def test_fingerprint_is_the_formula() -> None:
    """On a picture of 17 x 16 cells nothing is resized, so that the bits are plain comparisons."""
    cells = np.random.default_rng(0).uniform(-1, 1, (1, 16, 17)).astype(np.float32)
    bits = np.unpackbits(fingerprint(cells).view(np.uint8)).reshape(16, 16)
    np.testing.assert_array_equal(bits, cells[0, :, 1:] - cells[0, :, :-1] > 2 * 4 / 255)
