"""The verbs that judge, on a small set of discs, and the augmentation study; what they refuse."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from didgen.config_study import (
    ClsSettings,
    EvalClsConfig,
    EvalGenConfig,
    EvalSegConfig,
    SegSettings,
    TrainClsConfig,
    TrainSegConfig,
)
from didgen.dataset import ManifestDataset
from didgen.eval_cls import run_eval_cls
from didgen.eval_gen import asked_scores, run_eval_gen
from didgen.eval_seg import run_eval_seg
from didgen.generated import read_generated
from didgen.manifest import Row, write_manifest
from didgen.samples import Samples, read_classes, read_masks
from didgen.study import ARMS, CLASSICAL, REAL, SYNTHETIC, augmentation_study, study_table, write_study
from didgen.train_cls import run_train_cls
from didgen.train_seg import run_train_seg
from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.errors import InputError

SIDE = 32
NET = {"size": SIDE, "widths": (4, 8), "batch_size": 4, "epochs": 2, "learning_rate": 1e-2, "json": True}


def disc(seed: int, size: int = SIDE) -> tuple[np.ndarray, np.ndarray, str]:
    """A dark disc on noise, its mask, and MEL (red) or NV."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    cy, cx = rng.integers(size // 3, 2 * size // 3, 2)
    mask = (y - cy) ** 2 + (x - cx) ** 2 < (size / 5) ** 2
    image = rng.integers(150, 250, (size, size, 3)).astype(np.uint8)
    image[mask] = (180 if seed % 3 == 0 else 60, 60, 60)
    return image, mask, "MEL" if seed % 3 == 0 else "NV"


def written(folder: Path, splits: dict[str, int], size: int = SIDE) -> Path:
    rows, seed = [], 0
    (folder / "image").mkdir(parents=True)
    (folder / "mask").mkdir()
    for split, count in splits.items():
        for _ in range(count):
            image, mask, dx = disc(seed, size)
            Image.fromarray(image).save(folder / "image" / f"p{seed}.png")
            Image.fromarray(mask).save(folder / "mask" / f"p{seed}.png")
            paths = folder / "image" / f"p{seed}.png", folder / "mask" / f"p{seed}.png"
            rows.append(Row(f"p{seed}", *paths, split, dx))
            seed += 1
    write_manifest(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data ü"), {"train": 8, "val": 4, "test": 6})


@pytest.fixture(scope="module")
def segmenter(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("seg")
    record = run_train_seg(TrainSegConfig(manifest=manifest, out=out, **NET), ["graft-didgen", "train-seg"])
    return out, record


def small_net(name, size, classes):
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, classes))


@pytest.fixture
def tiny_classifiers(monkeypatch):
    """torchvision's take seconds a step."""
    from didgen import classifier

    monkeypatch.setattr(classifier, "_built", small_net)


def test_samples_hold_the_files_own_bytes(manifest):
    masks = read_masks(ManifestDataset(manifest, SIDE, "val", need_mask=True))
    classes = read_classes(ManifestDataset(manifest, SIDE, "val", classes=("MEL", "NV"), need_class=True))
    for i, seed in enumerate(range(8, 12)):
        image, mask, dx = disc(seed)
        assert np.array_equal(masks.images[i].permute(1, 2, 0).numpy(), image)
        assert np.array_equal(masks.masks[i, 0].numpy(), mask)
        assert classes.classes[int(classes.labels[i])] == dx
    assert masks.ids == classes.ids == ("p8", "p9", "p10", "p11")


def test_train_seg_then_eval_seg(manifest, segmenter, tmp_path):
    out, record = segmenter
    assert record["outputs"] == ["model.safetensors", "last.safetensors", "history.json"]
    assert record["measures"]["epochs"] == 2 and (out / "run.json").exists()
    header = read_config(out / "model.safetensors")
    assert (header["task"], header["network"], header["size"], header["widths"]) == ("segmentation", "unet", SIDE, [4, 8])
    assert header["provenance"]["synthetic"] is True
    config = EvalSegConfig(manifest=manifest, checkpoints=(out / "model.safetensors",), out=tmp_path, json=True)
    run_eval_seg(config, [])
    made = json.loads((tmp_path / "metrics.json").read_text())
    assert made["n"] == 6 and set(made["metrics"]) == {"dice", "iou"} and made["metrics"]["dice"]["n"] == 6
    truth = [disc(seed)[1] for seed in range(12, 18)]
    everything = np.mean([2 * m.mean() / (1 + m.mean()) for m in truth])
    assert made["compared"]["all lesion"]["dice"]["mean"] == pytest.approx(everything, abs=1e-6)
    assert made["compared"]["nothing"]["dice"]["mean"] == 0
    gap = made["metrics"]["dice"]["mean"] - everything
    assert made["paired"]["all lesion"]["dice"]["mean"] == pytest.approx(gap, abs=1e-6)
    lines = (tmp_path / "samples.csv").read_text().splitlines()
    assert lines[0] == "id,answer,dice,iou" and len(lines) == 1 + 6 * 4
    assert "| centred disc |" in (tmp_path / "table.md").read_text()


def test_train_seg_resumes_to_the_same_weights(manifest, segmenter, tmp_path):
    config = TrainSegConfig(manifest=manifest, out=tmp_path, **NET)
    run_train_seg(replace(config, epochs=1), [])
    with pytest.raises(InputError, match="--resume"):
        run_train_seg(config, [])
    run_train_seg(replace(config, resume=True), [])
    one, two = (load_weights(folder / "model.safetensors") for folder in (tmp_path, segmenter[0]))
    assert all(torch.equal(one[k], two[k]) for k in two)
    with pytest.raises(InputError, match="--network attention-unet"):
        run_train_seg(replace(config, resume=True, network="attention-unet"), [])


def test_train_cls_then_eval_cls(manifest, tmp_path, tiny_classifiers):
    config = TrainClsConfig(
        manifest=manifest, out=tmp_path / "c", size=SIDE, epochs=12, patience=12, batch_size=8, learning_rate=0.1, json=True
    )
    run_train_cls(config, [])
    header = read_config(tmp_path / "c" / "model.safetensors")
    assert (header["classes"], header["counts"]) == (["MEL", "NV"], [3, 5])
    checkpoint = tmp_path / "c" / "model.safetensors"
    run_eval_cls(EvalClsConfig(manifest=manifest, checkpoints=(checkpoint,), out=tmp_path / "e", json=True), [])
    made = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert made["support"] == {"MEL": 2, "NV": 4} and made["answer"] == "c"
    trivial = made["compared"]["majority class"]  # always NV: precision 4/6 weighted 4/6, F1 of NV 0.8
    assert trivial["precision"]["mean"] == pytest.approx(4 / 9) and trivial["recall"]["mean"] == pytest.approx(4 / 6)
    assert trivial["f1"]["mean"] == pytest.approx(0.8 * 4 / 6) and trivial["f1_MEL"]["mean"] == 0
    assert trivial["f1_macro"]["mean"] == pytest.approx(0.4)
    assert np.sum(made["confusion"]["c"]) == 6 and made["confusion"]["majority class"] == [[0, 2], [0, 4]]


@pytest.mark.parametrize("what", ["other task", "strange", "short", "missing", "text", "empty", "other shape"])
@pytest.mark.parametrize("verb", ["seg", "cls"])
def test_checkpoints_that_are_none_are_refused(manifest, segmenter, tmp_path, what, verb):
    path = tmp_path / "model.safetensors"
    good = segmenter[0] / "model.safetensors"
    if what == "other task":
        save_weights(path, load_weights(good), read_config(good) | {"task": "something"})
    elif what == "strange":
        save_weights(path, {"a": torch.zeros(1)}, {})
    elif what == "short":
        path.write_bytes(good.read_bytes()[:200])
    elif what == "text":
        path.write_text("weights")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "other shape":
        save_weights(path, load_weights(good), read_config(good) | {"widths": [8, 16]})
    kind, run = (EvalSegConfig, run_eval_seg) if verb == "seg" else (EvalClsConfig, run_eval_cls)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        run(kind(manifest=manifest, checkpoints=(path,), out=tmp_path / "o", json=True), [])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"manifest": Path("no/such.jsonl")}, "such.jsonl"),
        ({"out": Path("/dev/null/x")}, "--out /dev/null/x"),
        ({"size": 31}, "--size 31"),
        ({"network": "vnet"}, "--network vnet"),
        ({"epochs": 0}, "--epochs 0"),
    ],
)
def test_train_seg_names_what_is_wrong(manifest, tmp_path, changes, says):
    config = TrainSegConfig(**{"manifest": manifest, "out": tmp_path / "o", **NET} | changes)
    with pytest.raises(InputError, match=says):
        run_train_seg(config, [])


@pytest.mark.parametrize("verb", ["seg", "cls"])
@pytest.mark.parametrize("what", ["no val", "no label", "truncated", "all lesion", "other size"])
def test_training_names_the_bad_row(tmp_path, what, verb, tiny_classifiers):
    path = written(tmp_path / "d", {"train": 4} if what == "no val" else {"train": 4, "val": 2})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if what == "no label":
        rows[1] |= {"mask": None, "dx": None}
        path.write_text("\n".join(map(json.dumps, rows)))
    if what == "truncated":
        image = path.parent / "image" / "p1.png"
        image.write_bytes(image.read_bytes()[:300])
    if what in ("all lesion", "other size"):
        side = SIDE if what == "all lesion" else 20
        Image.fromarray(np.full((side, side), 255, np.uint8)).save(path.parent / "mask" / "p1.png")
    if verb == "cls" and what in ("all lesion", "other size"):  # classifiers look at no mask
        plan = TrainClsConfig(manifest=path, out=tmp_path / "o", size=SIDE, epochs=1, json=True)
        assert run_train_cls(plan, [])["measures"]["epochs"] == 1
        return
    says = {"no val": "val", "no label": "p1", "truncated": r"p1\.png"}.get(what, r"p1\.png")
    with pytest.raises(InputError, match=says):
        if verb == "seg":
            run_train_seg(TrainSegConfig(manifest=path, out=tmp_path / "o", **NET), [])
        else:
            run_train_cls(TrainClsConfig(manifest=path, out=tmp_path / "o", size=SIDE, epochs=1, json=True), [])


def test_an_unknown_class_and_mixed_classifiers_are_refused(manifest, tmp_path, tiny_classifiers):
    run_train_cls(TrainClsConfig(manifest=manifest, out=tmp_path / "c", size=SIDE, epochs=1, json=True), [])
    path = written(tmp_path / "d", {"test": 3})
    path.write_text(path.read_text().replace('"NV"', '"BKL"'))
    checkpoint = tmp_path / "c" / "model.safetensors"
    with pytest.raises(InputError, match="BKL"):
        run_eval_cls(EvalClsConfig(manifest=path, checkpoints=(checkpoint,), out=tmp_path / "o", json=True), [])
    other = tmp_path / "other.safetensors"
    save_weights(other, load_weights(checkpoint), read_config(checkpoint) | {"classes": ["BKL", "NV"]})
    with pytest.raises(InputError, match=r"other\.safetensors: knows BKL, NV"):
        run_eval_cls(EvalClsConfig(manifest=manifest, checkpoints=(checkpoint, other), out=tmp_path / "o", json=True), [])
    with pytest.raises(InputError, match="--checkpoints"):
        run_eval_seg(EvalSegConfig(manifest=manifest, checkpoints=(), out=tmp_path / "o"), [])


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """What `pairs` writes, for layouts that its masks miss by a shift."""
    folder, layouts = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("layouts")
    (folder / "image").mkdir()
    (folder / "mask").mkdir()
    lines = []
    for i in range(8):
        image, mask, _ = disc(100 + i, 64)
        Image.fromarray(image).save(folder / "image" / f"l{i}.png")
        Image.fromarray(np.roll(mask, 3, 1)).save(folder / "mask" / f"l{i}.png")
        Image.fromarray(mask).save(layouts / f"l{i}.png")
        lines.append({"id": f"l{i}", "image": f"image/l{i}.png", "mask": f"mask/l{i}.png", "layout": f"l{i}"})
    (folder / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder, layouts


@pytest.fixture(scope="module")
def real64(tmp_path_factory):
    return written(tmp_path_factory.mktemp("real"), {"train": 6, "test": 9}, 64)


def test_eval_gen(generated, real64, tmp_path):
    folder, layouts = generated
    config = EvalGenConfig(generated=folder, real=real64, layouts=layouts, out=tmp_path, pairs=40, json=True)
    run_eval_gen(config, ["graft-didgen", "eval-gen"])
    made = json.loads((tmp_path / "metrics.json").read_text())
    ours, rest = made["metrics"], made["compared"]
    assert made["pictures"] == 8 and made["size"] == 64
    names = {"fid_tiny", "kid_tiny", "precision_tiny", "recall_tiny", "ms_ssim_3scale", "lpips_tiny", "mask_area"}
    names |= {"mask_lpips_tiny", "mask_iou", "mask_iou_other", "nearest_tiny", "copies_tiny"}
    assert names | {"mask_drawn_iou", "drawn_layout_iou"} == set(ours)
    trivial = {"one disc", "another layout", "the layout as the mask"}
    assert set(rest) == {"real training pictures", "mean real picture", "real"} | trivial
    assert rest["mean real picture"]["lpips_tiny"]["mean"] == 0
    assert ours["fid_tiny"]["mean"] < rest["mean real picture"]["fid_tiny"]["mean"]
    masks = [disc(100 + i, 64)[1] for i in range(8)]
    iou = np.mean([(m & np.roll(m, 3, 1)).sum() / (m | np.roll(m, 3, 1)).sum() for m in masks])
    assert ours["mask_iou"]["mean"] == pytest.approx(iou, abs=1e-6) and ours["mask_iou_other"]["mean"] < iou
    assert ours["mask_area"]["mean"] == pytest.approx(np.mean(masks), abs=1e-9)
    lines = (tmp_path / "nearest.csv").read_text().splitlines()
    assert len(lines) == 1 + 8 + 9 and lines[1].startswith("generated,l0,p")


def test_a_training_picture_that_came_back_is_a_copy(real64, tmp_path):
    rows = [json.loads(line) for line in real64.read_text().splitlines()][:6]
    path = real64.parent / "copies.jsonl"
    path.write_text("\n".join(json.dumps(row | {"split": None}) for row in rows))
    config = EvalGenConfig(generated=path, real=real64, out=tmp_path, pairs=10, json=True)
    run_eval_gen(config, [])
    made = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert made["nearest_tiny"]["mean"] == pytest.approx(0, abs=1e-6) and made["copies_tiny"]["mean"] == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"generated": Path("no/such")}, "no/such"),
        ({"split": "val"}, "--split val"),
        ({"train_split": "val"}, "--train-split val"),
        ({"neighbours": 8}, "--neighbours 8"),
        ({"pairs": 0}, "--pairs 0"),
        ({"size": 20}, "--size 20"),
        ({"backbone": "nothing.pth"}, "--backbone nothing.pth"),
        ({"lpips": "squeeze"}, "--lpips squeeze"),
        ({"nearest_backbone": "nothing"}, "--nearest-backbone nothing"),
        ({"layouts": Path("elsewhere")}, "--layouts elsewhere"),
        ({"device": "cuda"}, "--device cuda"),
    ],
)
def test_eval_gen_names_what_is_wrong(generated, real64, tmp_path, changes, says):
    if "device" in changes and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = EvalGenConfig(**{"generated": generated[0], "real": real64, "out": tmp_path, "pairs": 4, "json": True} | changes)
    with pytest.raises(InputError, match=says):
        run_eval_gen(config, [])


def sets() -> dict[str, Samples]:
    def drawn(first: int, count: int) -> Samples:
        made = [disc(first + i) for i in range(count)]
        images = torch.from_numpy(np.stack([m[0] for m in made])).permute(0, 3, 1, 2).contiguous()
        masks = torch.from_numpy(np.stack([m[1] for m in made]))[:, None]
        labels = torch.tensor([["MEL", "NV"].index(m[2]) for m in made])
        return Samples(tuple(f"s{first + i}" for i in range(count)), images, masks, labels, ("MEL", "NV"))

    sizes = {"real_train": (0, 6), "real_valid": (20, 4), "real_test": (40, 9), "synthetic": (60, 8)}
    return {name: drawn(*size) for name, size in sizes.items()}


def test_the_study_scores_every_arm_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    plan = SegSettings(size=SIDE, widths=(4, 8), batch_size=4, epochs=2, learning_rate=1e-2)
    done = []
    result = augmentation_study(**sets(), settings=plan, folder=tmp_path / "runs", seeds=(0, 1), resamples=300, advance=done.append)
    assert done == [1] * 6 and result["steps_per_epoch"] == 2 and result["n"]["synthetic"] == 8
    assert set(result["metrics"]) == set(ARMS) == {REAL, SYNTHETIC, CLASSICAL} and set(result["gain"]) == set(ARMS[1:])
    for arm in ARMS:
        one = result["metrics"][arm]["dice"]
        assert one["mean"] == pytest.approx(np.mean(result["seeds"][arm]["dice"])) and one["n"] == 9
        assert one["ci95"][0] <= one["mean"] <= one["ci95"][1]
        if arm != REAL:
            gap = one["mean"] - result["metrics"][REAL]["dice"]["mean"]
            assert result["gain"][arm]["dice"]["mean"] == pytest.approx(gap)
    assert result["seeds"][REAL]["dice"] != result["seeds"][SYNTHETIC]["dice"] != result["seeds"][CLASSICAL]["dice"]
    assert result["trivial"]["nothing"] == {"dice": 0, "iou": 0}
    assert write_study(result, tmp_path) == ["study.json", "study.md"]
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(result))
    assert f"| {SYNTHETIC}, less {REAL} |" in study_table(result)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: pytest.fail("trained again"))
    again = augmentation_study(**sets(), settings=plan, folder=tmp_path / "runs", seeds=(0, 1), resamples=300)
    assert json.dumps(again) == json.dumps(result)


def test_the_study_of_classes(tmp_path, tiny_classifiers):
    plan = ClsSettings(size=SIDE, batch_size=4, epochs=3, learning_rate=0.05)
    given = {name: replace(one, masks=None) for name, one in sets().items()}
    result = augmentation_study(**given, settings=plan, folder=tmp_path, seeds=(0,), resamples=100)
    assert result["minority"] == ["MEL"]
    assert result["trivial"]["majority class"]["f1_minority"] == 0
    rarest = result["trivial"]["rarest class"]  # always MEL: three of nine
    assert rarest["f1_minority"] == pytest.approx(0.5) and rarest["f1_macro"] == pytest.approx(0.25)
    names = {"f1_minority", "f1", "f1_macro", "accuracy", "f1_MEL", "f1_NV"}
    assert all(set(one) == names for one in result["metrics"].values())
    one = result["metrics"][REAL]
    assert one["f1_minority"]["mean"] == one["f1_MEL"]["mean"]
    with pytest.raises(ValueError, match="minority"):
        augmentation_study(**given, settings=plan, folder=tmp_path, seeds=(0,), minority=["BKL"])
    with pytest.raises(ValueError, match="seeds"):
        augmentation_study(**given, settings=plan, folder=tmp_path, seeds=())


def test_help_of_the_verbs_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, didgen.config_study; sys.exit(any(m in sys.modules for m in ('torch', 'monai', 'torchvision', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_asked_for_is_judged_without_the_mask_or_the_prompt(tmp_path):
    """Phantoms as perfect pictures; the second one's words and mask are wrong."""
    from didgen.asked import COMMONEST, DISC, ITSELF, OTHER
    from didgen.attributes import render
    from didgen.measure import measure
    from graft_common import phantoms

    items = [phantoms.draw("dermoscopy", 64, 10_400_000 + i, artifact="none", color="blue") for i in range(4)]
    truth = [item.masks["lesion"] for item in items]
    words = [measure(item.image, mask).attributes for item, mask in zip(items, truth, strict=True)]
    words[1] = replace(words[1], colors=("red",))
    masks = [truth[0], np.roll(truth[1], 20, 1), *truth[2:]]
    for folder in ("image", "mask", "layouts"):
        (tmp_path / "made" / folder).mkdir(parents=True)
    lines = []
    for i, item in enumerate(items):
        Image.fromarray(item.image).save(tmp_path / "made" / "image" / f"l{i}.png")
        Image.fromarray(masks[i]).save(tmp_path / "made" / "mask" / f"l{i}.png")
        Image.fromarray(truth[i]).save(tmp_path / "made" / "layouts" / f"l{i}.png")
        lines.append({"layout": f"l{i}", "prompt": render(words[i])})
    (tmp_path / "made" / "meta.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = asked_scores(read_generated(tmp_path / "made").rows, tmp_path / "made" / "layouts", "ours", 0)

    def shared(a, b):
        return (a & b).sum() / (a | b).sum()

    means = {name: {k: v["mean"] for k, v in row.items()} for name, row in rows.items()}
    assert means["ours"]["drawn_layout_iou"] > 0.93 and means[ITSELF]["mask_drawn_iou"] > 0.93
    missed = 1 - shared(truth[1], masks[1])  # one of four masks lies elsewhere
    assert means["ours"]["mask_drawn_iou"] == pytest.approx(means[ITSELF]["mask_drawn_iou"] - missed / 4, abs=0.02)
    y, x = np.mgrid[:64, :64] - 31.5
    assert means[DISC]["drawn_layout_iou"] == pytest.approx(np.mean([shared(x**2 + y**2 <= 12.8**2, m) for m in truth]))
    assert means[OTHER]["drawn_layout_iou"] == pytest.approx(np.mean([shared(truth[i - 1], truth[i]) for i in range(4)]))
    assert means["ours"]["word_colors"] == 0.75 and means[COMMONEST]["word_colors"] == 0.75
    assert means["ours"]["word_skin"] == means["ours"]["word_hair"] == 1
    tones = [w.skin for w in words]
    assert means[COMMONEST]["word_skin"] == max(map(tones.count, tones)) / 4
    assert "mask_drawn_iou" not in means[DISC] and "word_size" not in means[ITSELF]


def test_tables_are_shown_unless_json_is_asked_for(generated, real64, tmp_path, capsys):
    config = EvalGenConfig(generated=generated[0], real=real64, out=tmp_path, pairs=4, train_split=None)
    run_eval_gen(config, [])
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
    run_eval_gen(replace(config, out=tmp_path / "quiet", json=True), [])
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def augmentation():
    """tools/didgen_augmentation.py, which is part of no package."""
    import importlib.util

    path = Path(__file__).resolve().parents[2] / "tools" / "didgen_augmentation.py"
    spec = importlib.util.spec_from_file_location("didgen_augmentation_tool", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_layouts_of_the_study_are_other_lesions_inside_the_picture(augmentation):
    y, x = np.mgrid[:64, :64]
    mask = ((x - 24) / 14) ** 2 + ((y - 30) / 8) ** 2 < 1
    made = [augmentation.deformed(mask, 5, k) for k in range(12)]
    assert np.array_equal(made[3], augmentation.deformed(mask, 5, 3))
    assert len({one.tobytes() for one in made}) == 12
    for one in made:
        assert one.dtype == bool and one.shape == mask.shape
        assert not (one[[0, -1]].any() or one[:, [0, -1]].any())
        assert 0.5 * 0.64 < one.sum() / mask.sum() < 1.5 * 1.5625
        rows, cols = np.nonzero(one)
        assert abs(rows.mean() - 30) < 0.2 * 64 and abs(cols.mean() - 24) < 0.2 * 64
    wide = [np.ptp(np.nonzero(one)[1]) > np.ptp(np.nonzero(one)[0]) for one in made]
    assert any(wide) and not all(wide)  # turned
    full = np.ones((64, 64), bool)
    full[0, 0] = False
    assert np.array_equal(augmentation.deformed(full, 1, 0), full[:, ::-1])  # nothing smaller fits: mirrored


def test_the_tables_of_the_study_name_counts_seeds_gains_and_trivial_answers(augmentation):
    def summary(mean):
        return {"mean": mean, "ci95": [mean - 0.1, mean + 0.1], "n": 9}

    def result(*names):
        metrics = {arm: {name: summary(0.5 + 0.2 * i) for name in names} for i, arm in enumerate(ARMS)}
        gain = {arm: {name: summary(0.2 * i) for name in names} for i, arm in enumerate(ARMS) if i}
        return {
            "metrics": metrics, "gain": gain, "trivial": {"nothing": dict.fromkeys(names, 0.25)}, "drawn": 20, "flagged": 3,
            "n": {"train": 11, "synthetic": 17, "test": 9, "validation": 4}, "trained": {REAL: [{"seed": 4}, {"seed": 7}]},
        }  # fmt: skip

    found = {"augmentation, segmenter": result("dice", "iou"), "augmentation, classifier": result("f1_red", "f1_macro")}
    text = "\n".join(augmentation.study_rows(found))
    assert text.count("seeds 4, 7, 9 test pictures, 11 real and 17 synthetic training pictures (3 of 20 flagged") == 2
    assert f"| {SYNTHETIC} | 0.700 [0.600, 0.800] | +0.200 [+0.100, +0.300] |" in text
    assert f"| {REAL} | 0.500 [0.400, 0.600] |  |" in text
    assert "| nothing (trivial) | 0.250 |  | 0.250 |  |" in text
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 2 * 6 and {line.count("|") for line in lines} == {6}


def test_a_result_of_other_settings_has_another_name(augmentation):
    plan = augmentation.StudySettings()
    changes = [{f: getattr(plan, f) + 1} for f in plan.__dataclass_fields__ if f != "seeds"] + [{"seeds": (3,)}]
    keys = {plan.key(), *(replace(plan, **change).key() for change in changes)}
    assert len(keys) == 1 + len(changes)


def test_auroc_of_maps_is_that_of_ranks():
    from scipy.stats import mannwhitneyu

    from didgen.map_scores import map_auroc

    rng = np.random.default_rng(3)
    mask = np.zeros((24, 40), bool)
    mask[5:15, 8:20] = True
    made = torch.from_numpy(rng.random((2, 24, 40)).astype(np.float32))
    made[0, 5:15, 8:20] += 0.3
    found = map_auroc(made, mask)
    for name, values, truth in (("lesion", made[0].numpy(), mask), ("skin", made[1].numpy(), ~mask)):
        wanted = mannwhitneyu(values[truth], values[~truth]).statistic / (truth.sum() * (~truth).sum())
        assert found[name] == pytest.approx(wanted, abs=1e-6)
    assert map_auroc(torch.full((2, 6, 10), 0.2), mask) == {"lesion": 0.5, "skin": 0.5}


def test_eval_gen_tests_the_maps_of_weights_on_real_pictures(generated, tmp_path):
    from graft_common import phantoms

    (tmp_path / "real").mkdir()
    rows = []
    for i in range(4):
        item = phantoms.draw("dermoscopy", 64, 10_410_000 + i, artifact="none")
        paths = tmp_path / "real" / f"p{i}.png", tmp_path / "real" / f"m{i}.png"
        Image.fromarray(item.image).save(paths[0])
        Image.fromarray(item.masks["lesion"]).save(paths[1])
        rows.append(Row(f"p{i}", *paths, "test"))
    write_manifest(tmp_path / "real" / "manifest.jsonl", rows)
    config = EvalGenConfig(
        generated=generated[0], real=tmp_path / "real", weights="tiny-didgen", out=tmp_path / "o", pairs=4, train_split=None,
        json=True,
    )  # fmt: skip
    run_eval_gen(config, [])
    made = json.loads((tmp_path / "o" / "metrics.json").read_text())
    assert made["metrics"]["auroc_lesion"]["mean"] > 0.9 and made["metrics"]["auroc_skin"]["mean"] > 0.9
    assert made["compared"]["a constant map"]["auroc_lesion"]["mean"] == 0.5
    with pytest.raises(InputError, match="--weights elsewhere"):
        run_eval_gen(replace(config, weights="elsewhere", out=tmp_path / "p"), [])
