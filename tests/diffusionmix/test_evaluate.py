"""The verb `evaluate` on folders of every kind, with true, copied and spoiled objects; its bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusionmix.config_study import EvaluateConfig
from diffusionmix.evaluate import run_evaluate
from diffusionmix.picture_set import read_set
from diffusionmix.prepared import Row, write_prepared
from diffusionmix.world import draw_scene, object_crop
from graft_common.errors import InputError

HELD = 10_000_000
CLASSES = ("ball", "crate")


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def square(seed: int, label: str) -> tuple[np.ndarray, np.ndarray]:
    image, mask = object_crop(draw_scene("scene", 64, seed, label), 32)
    return image, mask.astype(np.uint8) * 255


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real/ prepared with train and test; made/ other true objects by class, with a decided channel."""
    root = tmp_path_factory.mktemp("evaluate")
    rows = []
    for split, first, count in (("train", 0, 10), ("test", HELD, 6)):
        for i in range(2 * count):
            label, name = CLASSES[i % 2], f"{split}{i:03d}"
            image, mask = square(first + i, label)
            files = (save(root / "real" / kind / f"{name}.png", a) for kind, a in (("image", image), ("mask", mask)))
            rows.append(Row(name, *files, label, split, name, (0, 0, 40, 40), (64, 64), True))
    write_prepared(root / "real", "object", 32, CLASSES, rows)
    for i in range(12):
        label = CLASSES[i % 2]
        image, mask = square(HELD + 500 + i, label)
        for kind, array in (("image", image), ("mask", mask), ("channel", mask)):
            save(root / "made" / kind / label / f"{i:03d}.png", array)
    return root


def test_true_objects_pass(folders: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(real=folders / "real", generated=folders / "made", out=tmp_path, pairs=8, classifier_steps=12)
    record = run_evaluate(config, ["graft-diffusionmix", "evaluate", "--real", str(folders / "real")])
    said = json.loads((tmp_path / "metrics.json").read_text())
    assert said["schema"] == 1 and said["method"] == "diffusionmix" and said["backbones"]["features"] == "tiny"
    assert {"fid_tiny", "kid_tiny", "lpips_tiny", "fid_tiny_box"} <= set(said["metrics"])
    for label in CLASSES:
        table = said["classes"][label]["generated"]
        assert table["decided"]["mean"] == 1 and table["mask_iou"]["mean"] > 0.9 and table["mask_iou"]["n"] == 6
        assert 0.6 < table["nearest_ratio"]["mean"] < 1.6 and table["empty"]["mean"] == 0
        assert said["metrics"][f"mask_iou ({label})"] == table["mask_iou"]
        assert "decided" not in said["classes"][label]["real, held out"]
    assert said["classifier_accuracy"] == record["measures"]["classifier_accuracy"]
    assert str(folders) not in (tmp_path / "run.json").read_text() + (tmp_path / "metrics.json").read_text()
    assert len((tmp_path / "samples.csv").read_text().splitlines()) == 13 and "| ball |" in (tmp_path / "table.md").read_text()


def test_copies_of_training_pictures_are_told(folders: Path, tmp_path: Path) -> None:
    source = read_set(folders / "real", "--real", "train")
    for i in range(8):
        assert source.masks is not None
        label = str(source.labels[i])
        save(tmp_path / "copies" / "image" / label / f"{i}.png", source.images[i])
        save(tmp_path / "copies" / "mask" / label / f"{i}.png", source.masks[i].astype(np.uint8) * 255)
    config = EvaluateConfig(
        real=folders / "real", generated=tmp_path / "copies", out=tmp_path / "out", pairs=4, classifier=False
    )
    run_evaluate(config, [])
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert all(said["classes"][label]["generated"]["nearest_ratio"]["mean"] < 0.01 for label in CLASSES)
    assert said["classifier_accuracy"] is None and "agreement" not in said["classes"]["ball"]["generated"]


def test_flat_pictures_without_masks(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "a" / f"{i}.png", draw_scene("scene", 48, HELD + i, "none").image)
        save(tmp_path / "b" / f"{i}.png", draw_scene("scene", 48, HELD + 50 + i, "none").image)
    run_evaluate(EvaluateConfig(real=tmp_path / "a", generated=tmp_path / "b", out=tmp_path / "out", pairs=4), [])
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert said["n"] == 4 and said["classes"] == {} and set(said["metrics"]) == {"fid_tiny", "kid_tiny", "lpips_tiny"}


def test_what_the_verbs_write_is_read(tmp_path: Path) -> None:
    image, mask = square(HELD, "ball")
    for name in ("", "_1", "_2"):  # merge
        save(tmp_path / "merge" / f"image{name}.png", image)
        save(tmp_path / "merge" / f"mask{name}.png", mask)
        save(tmp_path / "merge" / f"overlay{name}.png", image)
    found = read_set(tmp_path / "merge", "--generated")
    assert len(found.ids) == 3 and found.masks is not None and found.labels == (None,) * 3
    for i in range(2):  # sample-object, whose classes stand in run.json
        save(tmp_path / "objects" / "image" / f"{i:05d}.png", image)
        save(tmp_path / "objects" / "mask" / f"{i:05d}.png", mask)
    (tmp_path / "objects" / "run.json").write_text('{"measures": {"classes": ["ball", "crate"]}}')
    assert read_set(tmp_path / "objects", "--generated").labels == CLASSES
    for part, name in (("train/good/000", None), ("test/good/000", None), ("test/dent/000", "dent")):  # dataset
        save(tmp_path / "tree" / "thing" / f"{part}.png", image)
        if name:
            save(tmp_path / "tree" / "thing" / "ground_truth" / name / "000_mask.png", mask)
    tree = read_set(tmp_path / "tree", "--generated")
    assert tree.labels == ("dent",) and tree.masks is not None and np.array_equal(tree.masks[0], mask > 0)


def test_whole_pictures_are_cut_to_squares_where_objects_are_compared(folders: Path, tmp_path: Path) -> None:
    for i in range(4):
        scene = draw_scene("scene", 64, HELD + 600 + i, CLASSES[i % 2])
        tail, mask = f"_{i}" if i else "", scene.mask.astype(np.uint8) * 255
        save(tmp_path / "merge" / f"image{tail}.png", scene.image)
        save(tmp_path / "merge" / f"mask{tail}.png", mask)
        save(tmp_path / "tree" / "thing" / "test" / CLASSES[i % 2] / f"{i}.png", scene.image)
        save(tmp_path / "tree" / "thing" / "ground_truth" / CLASSES[i % 2] / f"{i}_mask.png", mask)
    (tmp_path / "tree" / "thing" / "test" / "good").mkdir()
    for name in ("merge", "tree"):
        cropped = read_set(tmp_path / name, "--generated", size=32, squares=True)
        assert cropped.masks is not None
        for i, label in enumerate(CLASSES):  # as prepare would cut them
            at = cropped.ids.index(f"image_{i}" if i else "image") if name == "merge" else cropped.labels.index(label)
            image, expected = square(HELD + 600 + i, label)
            assert np.array_equal(cropped.images[at], image) and np.array_equal(cropped.masks[at] * 255, expected)
        config = EvaluateConfig(
            real=folders / "real", generated=tmp_path / name, out=tmp_path / f"{name}-out", pairs=4, classifier=False
        )
        run_evaluate(config, [])
        table = json.loads((tmp_path / f"{name}-out" / "metrics.json").read_text())["classes"]
        for rows in table.values():  # a whole picture shows a far smaller object than a square
            assert rows["generated"]["area"]["mean"] == pytest.approx(rows["real, held out"]["area"]["mean"], abs=0.12)
    save(tmp_path / "merge" / "mask.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(InputError, match=r"mask of image\.png is empty"):
        read_set(tmp_path / "merge", "--generated", squares=True)
    for path in (tmp_path / "merge").glob("mask*"):
        path.unlink()
    with pytest.raises(InputError, match="whole pictures without masks"):
        read_set(tmp_path / "merge", "--generated", squares=True)


def test_bad_input(folders: Path, tmp_path: Path) -> None:
    real, made = folders / "real", folders / "made"
    broken, odd, strange = tmp_path / "broken", tmp_path / "odd", tmp_path / "strange"
    save(broken / "image" / "0.png", np.zeros((8, 8, 3), np.uint8))
    (broken / "image" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    shutil.copytree(made, odd)
    (odd / "mask" / "ball" / "000.png").unlink()
    spare, alone, tree = tmp_path / "spare", tmp_path / "alone", tmp_path / "tree"
    shutil.copytree(made, spare)
    save(spare / "mask" / "ball" / "extra.png", square(HELD, "ball")[1])
    for i, name in enumerate(("", "_1")):  # of three masks that merge wrote, one has lost its picture
        save(alone / f"image{name}.png", square(HELD + i, "ball")[0])
        save(alone / f"mask{name}.png", square(HELD + i, "ball")[1])
    save(alone / "mask_2.png", square(HELD, "ball")[1])
    few = tmp_path / "few"
    for i in range(2):
        save(few / f"{i}.png", square(HELD + i, "ball")[0])
    save(tree / "thing" / "test" / "good" / "000.png", square(HELD, "ball")[0])
    save(tree / "thing" / "test" / "dent" / "000.png", square(HELD, "ball")[0])
    save(tree / "thing" / "ground_truth" / "dent" / "001_mask.png", square(HELD, "ball")[1])
    for kind in ("image", "mask"):
        for i in range(3):
            save(strange / kind / "pyramid" / f"{i}.png", square(HELD, "ball")[kind == "mask"])
    (tmp_path / "none").mkdir()
    cases = [
        ({"seed": -1}, "--seed -1"),
        ({"pairs": 0}, "--pairs 0"),
        ({"size": 8}, "--size 8"),
        ({"real": tmp_path / "absent"}, "absent"),
        ({"generated": tmp_path / "none"}, "no pictures"),
        ({"generated": broken}, "0.png"),
        ({"generated": strange}, "pyramid"),
        ({"generated": odd}, "ball/000: picture without a mask"),
        ({"generated": spare}, "ball/extra: mask without a picture"),
        ({"generated": alone}, "mask_2: mask without a picture"),
        ({"generated": tree}, "000: picture without a mask"),
        ({"generated": few}, "--generated .*few: 2 pictures; 3 or more"),
        ({"real": few}, "--real .*few: 2 pictures; 3 or more"),
        ({"split": "val"}, "val"),
        ({"backbone": "absent.safetensors"}, "--backbone absent.safetensors"),
        ({"lpips": "absent.safetensors"}, "--lpips absent.safetensors"),
        ({"device": "cuda"}, "no GPU"),
    ]
    import torch

    for change, said in cases if not torch.cuda.is_available() else cases[:-1]:
        settings = {"real": real, "generated": made, "out": tmp_path / "out", "pairs": 2, "classifier": False} | change
        with pytest.raises(InputError, match=said):
            run_evaluate(EvaluateConfig(**settings), [])
