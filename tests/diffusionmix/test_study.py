"""The verb `study` on random networks: its table, its sharing, resuming to the same bytes, its bad input; baselines and truths."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusionmix.baselines import COPY, ERASED, INSERTION, NAMES, OUTPAINTING, SETTINGS, Batch, draw, paste
from diffusionmix.box import Box
from diffusionmix.compose import merge, plan_of, sample_backgrounds, sample_objects
from diffusionmix.config import MergeConfig
from diffusionmix.config_study import StudyConfig
from diffusionmix.study import run_study
from diffusionmix.study_parts import cells, measure
from diffusionmix.truth import true_pictures
from diffusionmix.world import draw_scene
from graft_common.errors import InputError

HELD = 10_000_000


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of true pictures of 32 px with the classes of `random_bundle`."""
    root = tmp_path_factory.mktemp("truth")
    for label in ("blob", "hole"):
        for i in range(6):
            scene = draw_scene("texture", 32, HELD + i, label)
            for kind, array in (("image", scene.image), ("mask", scene.mask.astype(np.uint8) * 255), ("empty", scene.empty)):
                (root / kind / label).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / kind / label / f"{i}.png")
    return root


def config(models: Path, pictures: Path, out: Path, **changes: Any) -> StudyConfig:
    base: dict[str, Any] = {
        "weights": (str(models),), "truth": (str(pictures),), "n": 3, "n_samplers": 3, "batch_size": 2, "out": out,
        "tau": (0, 60), "r": (0, 1, 2), "start": (0.5,), "sampler": "ddpm", "steps": 4, "samplers": ("dpm++", "ddim"), "seed": 5,
    }  # fmt: skip
    return StudyConfig(**base | changes)


def test_settings_of_equal_schedules_are_one_row() -> None:
    rows = cells("grid", StudyConfig())
    assert len(rows) == 5 * (1 + 3 * 4)
    assert sum(len(c.covers) for c in rows) == 4 * 5 * 5
    late = [c for c in rows if (c.settings.start == 0.9 and c.settings.r == 0) or c.settings.tau == 0]
    assert all(len(c.covers) == 8 for c in late)  # tau 0 with five r, and r 0 with three tau
    first = [c.settings.r for c in rows if c.settings.start == 0.5 and c.settings.tau == 10]
    assert first == [10, 5, 2, 1]
    assert [c.settings.states for c in cells("samplers", StudyConfig())] == [250, 50, 20]
    assert len(cells("grid", StudyConfig(steps=250, sampler="ddpm"))) == 65


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM-Solver++ with numpy 2
def test_study_of_random_networks(random_bundle: Path, truth: Path, tmp_path: Path) -> None:
    run_study(config(random_bundle, truth, tmp_path / "a"), ["graft-diffusionmix", "study", "--truth", str(truth)])
    said = json.loads((tmp_path / "a" / "study.json").read_text())
    rows = {(row["part"], row["setting"]): row for row in said["rows"]}
    grid = {key[1]: row for key, row in rows.items() if key[0] == "grid"}
    assert {row["calls"] for row in grid.values()} == {0, 4, 5, 6}  # true pictures; T + r tau
    assert {name for part, name in rows if part == "baselines"} == {*NAMES, "true pictures"}
    assert rows["samplers", "dpm++"]["calls"] == 21 and rows["samplers", "ddim"]["calls"] == 52
    assert rows["samplers", "ddim"]["fid_tiny"]["n"] == 3 and "fid_tiny" not in grid["start 0.5 climb 0 r 0"]
    assert grid["true pictures"]["contrast"]["mean"] == pytest.approx(1, abs=0.5)
    for row in grid.values():  # what a row says of itself is what its name says: without climbs neither tau nor r
        if row["setting"] != "true pictures":
            none = " climb 0 " in row["setting"]
            assert (row["tau"] == 0) == (row["r"] == 0) == none and row["calls"] == 4 + row["r"], row["setting"]
    table = list(csv.DictReader((tmp_path / "a" / "study.csv").read_text().splitlines()))
    assert len(table) == len(said["rows"]) and table[0]["setting"] == "true pictures"
    for row, line in zip(said["rows"], table, strict=True):
        if "harmony" in row:
            assert float(line["harmony"]) == pytest.approx(row["harmony"]["mean"], rel=1e-4)
    written = (tmp_path / "a" / "run.json").read_text() + (tmp_path / "a" / "study.json").read_text()
    assert str(tmp_path) not in written and str(truth) not in written and str(random_bundle) not in written

    parts = tmp_path / "a" / "parts"
    files = sorted(parts.iterdir())
    kept = {f.name: f.read_bytes() for f in files}
    (tmp_path / "b" / "parts").mkdir(parents=True)
    for name in list(kept)[::2]:  # half of the batches were finished when it was interrupted
        (tmp_path / "b" / "parts" / name).write_bytes(kept[name])
    run_study(config(random_bundle, truth, tmp_path / "b", resume=True), [])
    assert (tmp_path / "b" / "study.csv").read_bytes() == (tmp_path / "a" / "study.csv").read_bytes()
    assert {f.name: f.read_bytes() for f in (tmp_path / "b" / "parts").iterdir()} == kept
    more = config(random_bundle, truth, tmp_path / "b", resume=True, n=4, parts=("grid",))  # its last batch is a longer one
    run_study(more, [])
    assert {row["n"] for row in json.loads((tmp_path / "b" / "study.json").read_text())["rows"]} == {4}
    damaged = tmp_path / "b" / "parts" / next(iter(kept))
    damaged.write_text("{")
    with pytest.raises(InputError, match="damaged; remove it"):
        run_study(config(random_bundle, truth, tmp_path / "b", resume=True), [])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"seed": -1}, "--seed -1"),
        ({"n": 2}, "--n 2: must be at least 3"),
        ({"n_samplers": 2}, "--n-samplers 2: must be at least 3"),
        ({"truths": 0}, "--truths 0"),
        ({"tau": ()}, "--tau"),
        ({"r": (1, 1)}, "--r 1 1"),
        ({"tau": (-5,)}, "--tau -5"),
        ({"start": (1.5,)}, "--start 1.5"),
        ({"start": (float("nan"),)}, "--start nan"),
        ({"weights": ("a", "b")}, "1 for 2 --weights"),
        ({"weights": ("absent",)}, "--weights absent"),
        ({"truth": ("absent",)}, "--truth absent"),
        ({"truth": ("scene",)}, "--truth scene"),
        ({"steps": 0}, "--steps 0"),
    ],
)
def test_bad_input(random_bundle: Path, truth: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run_study(config(random_bundle, truth, tmp_path / "out", **change), [])


def test_truths_that_cannot_serve(truth: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not know class"):
        true_pictures(str(truth), ("blob", "dent"), (32, 32), 4, 4, 0)
    with pytest.raises(InputError, match="draws squares"):
        true_pictures("texture", ("blob",), (32, 48), 4, 4, HELD)
    (tmp_path / "image").mkdir()
    for i in range(5):
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "image" / f"{i}.png")
    with pytest.raises(InputError, match="no masks"):
        true_pictures(str(tmp_path), (), (32, 32), 4, 4, 0)


def test_drawn_truths_share_no_picture_and_lend_boxes() -> None:
    against, lent = true_pictures("texture", ("blob", "crack"), (48, 48), 6, 5, HELD)
    assert lent.labels == ("blob", "crack") * 3 and len(against.labels) == 10
    assert all(box.w >= 8 for box in lent.boxes)
    assert not any(np.array_equal(a, b) for a in against.images for b in lent.images)
    seam, strength = against.measured().match("blob", 60)
    assert seam > 1 and strength is not None and strength > 0.05


def test_baselines_are_what_they_say(build: Any) -> None:
    mix = build.mix(size=16, canvas=64, radius=5, variance=0.02)
    boxes, seeds = [Box(4, 6, 32, 32), Box(20, 24, 24, 24)], [1, 2]
    settings = MergeConfig(steps=12, tau_steps=1, r=1, start=0.7)
    grounds, objects = sample_backgrounds(mix, seeds, settings), sample_objects(mix, seeds, None, settings)
    batch = Batch(mix, boxes, seeds, None, settings, grounds, objects, objects)
    found = {name: draw(name, batch) for name in NAMES}
    for name, many in found.items():
        assert [m.box for m in many] == boxes, name
    assert plan_of(replace(settings, **SETTINGS["hard paste"])).t_merge == 0
    for hard, ground, box in zip(found["hard paste"], grounds, boxes, strict=True):
        assert np.array_equal(hard.image[~hard.mask], ground[~hard.mask])
        assert not hard.mask[: box.y].any()
    for item, ground in zip(found[INSERTION], grounds, strict=True):
        assert np.array_equal(item.image[~item.mask], ground[~item.mask])
    for item, known in zip(found[OUTPAINTING], objects, strict=True):
        assert np.array_equal(item.object_mask, known[1])
    for item, ground, kept in zip(found[ERASED], grounds, found["ours"], strict=True):
        assert np.array_equal(item.image, ground) and np.array_equal(item.mask, kept.mask)
    for item, ground in zip(found[COPY], grounds, strict=True):
        assert item.calls == 0 and np.array_equal(item.image[~item.mask], ground[~item.mask])
    assert found["no resampling"][0].calls == 12 and found["ours"][0].calls == 13
    assert np.array_equal(found["ours"][0].image, merge(mix, boxes, seeds, settings)[0].image)
    with pytest.raises(ValueError, match="choose from"):
        draw("magic", batch)


def test_paste_resizes_into_the_box() -> None:
    ground = np.full((40, 40, 3), 10, np.uint8)
    item = paste(ground, (np.full((16, 16, 3), 200, np.uint8), np.ones((16, 16), bool)), Box(3, 5, 8, 20), 0)
    assert (item.image[5:25, 3:11] == 200).all() and item.mask.sum() == 160 and (item.image[~item.mask] == 10).all()
    empty = paste(ground, (np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), bool)), Box(3, 5, 8, 20), 0)
    assert empty.flags == ("empty mask",) and np.array_equal(empty.image, ground)


def test_numbers_of_an_empty_mask_and_of_a_perfect_picture() -> None:
    against, lent = true_pictures("scene", ("ball",), (64, 64), 2, 9, HELD)
    truths = against.measured()
    image, mask = lent.images[0], lent.masks[0]
    assert lent.empties is not None
    found = measure(image, mask, lent.empties[0], "ball", truths, (image, image, mask))
    assert found["l1"] == 0 and found["iou"] > 0.7 and 0.6 < found["contrast"] < 1.6 and found["harmony"] < 0.8
    assert found["harmony"] == abs(found["log_seam"])
    erased = measure(lent.empties[0], mask, lent.empties[0], "ball", truths, None)
    assert erased["contrast"] == 0 and erased["harmony"] > found["harmony"] and "l1" not in erased
    nothing = measure(image, mask & False, lent.empties[0], "ball", truths, None)
    assert nothing == {"area": 0.0, "iou": 0.0}
    assert measure(image, mask & False, image, "ball", truths, None)["iou"] == 0  # an object was asked for, none is there


def test_merge_settings_of_a_cell_reach_merge(build: Any) -> None:
    many = cells("grid", StudyConfig(tau=(50,), r=(3,), start=(0.5,), sampler="ddpm", steps=10))
    mix = build.mix(size=16, canvas=32)
    assert merge(mix, [Box(4, 4, 16, 16)], [1], replace(many[0].settings, r=3))[0].calls == 10 + 3 * 2
