"""Labels of a batch: COCO run lengths against a decoder written here, YOLO boxes against the pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tficomp.export import export_coco, export_yolo, run_lengths


def decoded(counts: list[int], size: list[int]) -> np.ndarray:
    """COCO's rule: runs alternate, zeros first, down the columns."""
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(size, order="F").astype(bool)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_decode_to_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < rng.choice([0.1, 0.5, 0.9])
    if not mask.any():
        mask.flat[0] = True
    counts = run_lengths(mask)
    assert sum(counts) == mask.size and min(counts[1:], default=1) > 0
    np.testing.assert_array_equal(decoded(counts, list(mask.shape)), mask)


def test_run_lengths_by_hand() -> None:
    assert run_lengths(np.array([[0, 1], [1, 1], [0, 0]], bool)) == [1, 1, 1, 2, 1]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]
    assert run_lengths(np.zeros((2, 3), bool)) == [6]


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Three sample folders with a lesion mask of another size each."""
    masks = {}
    for i, shape in enumerate([(20, 30), (33, 17), (16, 16)]):
        mask = np.zeros(shape, bool)
        mask[3 + i : 9, 2 : 7 + i] = True
        mask[12, 2] = True
        masks[f"s{i}"] = mask
        (tmp_path / f"s{i}").mkdir()
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(tmp_path / f"s{i}" / "lesion_mask.png")
    return tmp_path, masks


def test_coco_holds_every_mask(results: tuple[Path, dict[str, np.ndarray]]) -> None:
    out, masks = results
    assert export_coco(out, list(masks)) == ["coco.json"]
    content = json.loads((out / "coco.json").read_text())
    assert "Synthetic" in content["info"]["description"]
    assert len({a["id"] for a in content["annotations"]}) == 3
    for image, label, (key, mask) in zip(content["images"], content["annotations"], masks.items(), strict=True):
        assert image["file_name"] == f"{key}/result.png" and label["image_id"] == image["id"]
        assert (image["height"], image["width"]) == mask.shape
        np.testing.assert_array_equal(decoded(label["segmentation"]["counts"], label["segmentation"]["size"]), mask)
        x, y, w, h = label["bbox"]
        rows, cols = np.nonzero(mask)
        assert (x, y, x + w - 1, y + h - 1) == (cols.min(), rows.min(), cols.max(), rows.max())
        assert label["area"] == mask.sum()


def test_yolo_boxes_cover_the_masks(results: tuple[Path, dict[str, np.ndarray]]) -> None:
    out, masks = results
    names = export_yolo(out, list(masks))
    assert names == ["s0/result.txt", "s1/result.txt", "s2/result.txt", "images.txt", "data.yaml"]
    assert (out / "images.txt").read_text().split() == [f"./{key}/result.png" for key in masks]
    for key, mask in masks.items():
        kind, *numbers = (out / key / "result.txt").read_text().split()
        assert kind == "0"
        x, y, w, h = (float(n) for n in numbers)
        height, width = mask.shape
        rows, cols = np.nonzero(mask)
        edges = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        np.testing.assert_allclose(edges, [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1], atol=1e-4)


def test_several_lesions_have_a_label_each(tmp_path: Path) -> None:
    """Two touching lesions: two boxes, not one around both, in the order of their numbers."""
    masks = np.zeros((2, 24, 40), bool)
    masks[0, 4:10, 3:12] = True
    masks[1, 8:20, 12:30] = True
    (tmp_path / "s").mkdir()
    for name, mask in (("", masks.any(axis=0)), ("_2", masks[0]), ("_11", masks[1])):
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(tmp_path / "s" / f"lesion_mask{name}.png")
    export_coco(tmp_path, ["s"])
    labels = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert [label["bbox"] for label in labels] == [[3, 4, 9, 6], [12, 8, 18, 12]]
    assert [(label["id"], label["image_id"], label["area"]) for label in labels] == [(1, 1, 54), (2, 1, 216)]
    for label, mask in zip(labels, masks, strict=True):
        np.testing.assert_array_equal(decoded(label["segmentation"]["counts"], label["segmentation"]["size"]), mask)
    export_yolo(tmp_path, ["s"])
    lines = [[float(v) for v in line.split()] for line in (tmp_path / "s" / "result.txt").read_text().splitlines()]
    wanted = [[0, 7.5 / 40, 7 / 24, 9 / 40, 6 / 24], [0, 21 / 40, 14 / 24, 18 / 40, 12 / 24]]
    np.testing.assert_allclose(lines, wanted, atol=1e-6)
