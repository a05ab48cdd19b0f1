"""Training: what a batch is, resume to the bit, what is written, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusionmix import train as training
from diffusionmix.config_train import RECIPES, TrainBackgroundConfig, TrainObjectConfig, resolved
from diffusionmix.network import Plan
from diffusionmix.prepared import Row, load_arrays, read_prepared, write_prepared
from diffusionmix.train import draw_batch, run_train_background, run_train_object
from graft_common.errors import InputError
from graft_common.files import write_bytes
from graft_common.raster import encode
from graft_common.rng import generator

SIZE, COUNT = 16, 6
CLASSES = ("disc", "bar")


def picture(i):
    """A coloured rectangle on a ramp, and where it is: the colour channel 0 is 255 exactly on the mask."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[3:10, 2 : 8 + i] = True
    image = np.broadcast_to(np.arange(SIZE, dtype=np.uint8)[:, None, None] * 8, (SIZE, SIZE, 3)).copy()
    image[..., 1] += np.uint8(i)
    image[..., 0] = np.where(mask, 255, 0)
    return image, mask


def prepared(folder, role, classes=(), count=COUNT):
    rows = []
    for i in range(count):
        image, mask = picture(i)
        paths = [folder / kind / f"p{i}.png" for kind in ("image", "mask")]
        write_bytes(paths[0], encode(image, "png", {}))
        if role == "object":
            write_bytes(paths[1], encode(mask.astype(np.uint8) * np.uint8(255), "png", {}))
        label = classes[i % len(classes)] if classes else None
        own = paths[1] if role == "object" else None
        rows.append(Row(f"p{i}", paths[0], own, label, "train", f"p{i}", (4 * i, 8, 16, 16), (64, 64), True))
    write_prepared(folder, role, SIZE, classes, rows)
    return folder


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("prepared objects"), "object", CLASSES)


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("prepared grounds"), "background")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A network of two levels: what is tested does not depend on its size."""
    monkeypatch.setattr(training, "plan_of", lambda role, size, name: Plan((8, 8), 1, (8,), 4, 4, True, True))


def plan(folder, out, **changes) -> TrainObjectConfig:
    base = TrainObjectConfig(
        folder=folder, out=out, steps=4, batch_size=4, learning_rate=1e-3, warmup=0, ema=0.9, device="cpu", json=True
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def trained(objects, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "plan_of", lambda role, size, name: Plan((8, 8), 1, (8,), 4, 4, True, True))
        return out, run_train_object(plan(objects, out), ["graft-diffusionmix", "train-object"])


def test_a_batch_keeps_pictures_masks_and_classes_together(objects):
    """The mask is the fourth channel as -1 and +1, moved with the picture; times are one in each equal span."""
    arrays = load_arrays(read_prepared(objects))
    config = plan(objects, Path("out"), batch_size=50, turns=True, scale=0.0, shift=0.0)
    batch = draw_batch(arrays, 2, config, resolved(config, "object"), generator(0))
    assert batch.x0.shape == (50, 4, SIZE, SIZE) and set(batch.x0[:, 3].unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(batch.x0[:, 0], batch.x0[:, 3])  # red is 255 on the mask and 0 elsewhere
    areas = ((batch.x0[:, 3] + 1) / 2).sum(dim=(1, 2)).int().tolist()
    wanted = {int(picture(i)[1].sum()): i % 2 for i in range(COUNT)}
    assert len(wanted) == COUNT and [wanted[a] for a in areas] == batch.labels.tolist()
    assert (batch.t // 20).tolist() == list(range(50))
    assert batch.eps.mean().abs() < 0.03 and batch.eps.std().item() == pytest.approx(1, abs=0.03)
    assert not torch.equal(draw_batch(arrays, 2, config, resolved(config, "object"), generator(1)).x0, batch.x0)


def test_scale_and_shift_move_both(objects):
    arrays = load_arrays(read_prepared(objects))
    config = plan(objects, Path("out"), batch_size=60, scale=0.3, shift=0.1)
    batch = draw_batch(arrays, 2, config, resolved(config, "object"), generator(0))
    red, mask = batch.x0[:, 0] > 0, batch.x0[:, 3] > 0
    assert ((red & mask).sum() / (red | mask).sum()).item() >= 0.99  # property 24
    areas = mask.sum(dim=(1, 2)).float()
    assert areas.max() > 1.2 * max(picture(i)[1].sum() for i in range(COUNT))


def test_what_is_written_loads_in_diffusers(trained, objects):
    from diffusers import DDPMScheduler, UNet2DModel

    out, record = trained
    unet = UNet2DModel.from_pretrained(out / "model" / "object_unet")
    scheduler = DDPMScheduler.from_pretrained(out / "model" / "object_scheduler")
    assert (unet.config.in_channels, unet.config.out_channels, unet.config.num_class_embeds) == (4, 8, 2)
    assert scheduler.config.variance_type == "learned_range" and scheduler.config.num_train_timesteps == 1000
    mix = json.loads((out / "model" / "mix.json").read_text())
    assert mix["schema"] == 1 and tuple(mix["classes"]) == CLASSES and mix["object_size"] == SIZE
    assert mix["boxes"][2] == [0.125, 0.125, 0.25, 0.25] and len(mix["boxes"]) == COUNT
    stored = load_file(out / "last.safetensors")
    weights = unet.state_dict()
    assert all(torch.equal(weights[k.removeprefix("ema.")], v) for k, v in stored.items() if k.startswith("ema."))
    assert any(not torch.equal(weights[k.removeprefix("raw.")], v) for k, v in stored.items() if k.startswith("raw."))
    assert record["measures"]["pictures"] == COUNT and record["measures"]["expected_hours"] > 0
    assert "model/mix.json" in record["outputs"] and record["inputs"]["pictures"]


def test_resume_is_bit_exact(trained, objects, tmp_path, monkeypatch):
    """Stopped after two steps, then gone on with: dropout, augmentation, averages and moments included."""
    whole = load_file(trained[0] / "last.safetensors")
    real, count = training.fit, []

    def interrupted(*args, **kwargs):
        return real(*args, **kwargs, stop=lambda: count.append(1) or len(count) == 2)

    monkeypatch.setattr(training, "fit", interrupted)
    run_train_object(plan(objects, tmp_path / "part"), [])
    assert len(count) == 2
    monkeypatch.setattr(training, "fit", real)
    torch.manual_seed(77)  # what the process drew before must not matter
    run_train_object(plan(objects, tmp_path / "part", resume=True), [])
    again = load_file(tmp_path / "part" / "last.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)


def test_dropout_is_drawn_anew_each_step_and_from_the_seed(objects, tmp_path):
    states = []
    for name, dropout, seed in (("a", 0.5, 0), ("b", 0.0, 0), ("c", 0.5, 0)):
        out = tmp_path / name
        run_train_object(plan(objects, out, dropout=dropout, seed=seed, steps=2), [])
        states.append(load_file(out / "last.safetensors"))
    assert all(torch.equal(states[0][k], states[2][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[1][k]) for k in states[0] if k.startswith("raw."))


def test_a_background_learns(backgrounds, tmp_path, capsys):
    """The error of the noise falls well below that of guessing zero; the hours are stated before the start."""
    config = TrainBackgroundConfig(
        folder=backgrounds, out=tmp_path / "ground", steps=150, batch_size=16, learning_rate=5e-3, warmup=5, ema=0.9, device="cpu",
        variance="fixed", dropout=0.0, json=True, snr_gamma=5.0,
    )  # fmt: skip
    record = run_train_background(config, ["graft-diffusionmix", "train-background"])
    lines = [json.loads(line) for line in (tmp_path / "ground" / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150]
    said = capsys.readouterr().err
    assert "hours for 150 steps" in said and "may memorise them" in said and "--recipe few" in said
    assert lines[-1]["loss"] < 0.4 < record["measures"]["loss"] + 0.4
    mix = json.loads((tmp_path / "ground" / "model" / "mix.json").read_text())
    assert mix["background_size"] == [SIZE, SIZE] and mix["boxes"] == [] and mix["classes"] == []


def test_timing_leaves_the_weights_alone(objects):
    config = plan(objects, Path("out"))
    unet = training.begin(config, "object", read_prepared(objects), resolved(config, "object"))
    before = {k: v.clone() for k, v in unet.state_dict().items()}
    seconds = training.seconds_a_step(unet, lambda module, gen, step: (module.conv_in.weight**2).sum(), "no")
    assert 0 < seconds < 60 and all(torch.equal(before[k], v) for k, v in unet.state_dict().items())
    assert all(p.grad is None for p in unet.parameters())


def test_training_goes_on_from_a_model(trained, objects, tmp_path):
    out = tmp_path / "more"
    config = plan(objects, out, start=trained[0], dropout=0.25)
    unet = training.begin(config, "object", read_prepared(objects), resolved(config, "object"))
    first = load_file(trained[0] / "model" / "object_unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, first[k]) for k, v in unet.state_dict().items())
    assert {layer.p for layer in unet.modules() if isinstance(layer, torch.nn.Dropout)} == {0.25}
    record = run_train_object(config, [])
    assert record["weights"]["name"] == "whole" and len(record["weights"]["sha256"]) == 64


def test_a_velocity_model_says_so_and_meets_no_model_of_the_noise(trained, backgrounds, objects, tmp_path):
    config = TrainBackgroundConfig(
        folder=backgrounds, out=tmp_path / "v", steps=60, batch_size=8, learning_rate=5e-3, warmup=5, ema=0.5, device="cpu",
        variance="fixed", prediction="v_prediction", json=True,
    )  # fmt: skip
    record = run_train_background(config, [])
    said = json.loads((tmp_path / "v" / "model" / "background_scheduler" / "scheduler_config.json").read_text())
    assert said["prediction_type"] == "v_prediction" and record["measures"]["loss"] < 0.5
    with pytest.raises(InputError, match="predicts epsilon; pass --prediction epsilon"):
        run_train_object(plan(objects, tmp_path / "o", start=trained[0], prediction="v_prediction"), [])


def test_the_edge_weight_reaches_the_loss(backgrounds, tmp_path):
    losses = []
    for weight in (1.0, 50.0):
        config = TrainBackgroundConfig(
            folder=backgrounds, out=tmp_path / str(weight), steps=1, batch_size=2, warmup=1, device="cpu", variance="fixed",
            json=True, edge_weight=weight,
        )  # fmt: skip
        losses.append(run_train_background(config, [])["measures"]["loss"])
    assert losses[0] != losses[1]


def test_recipes_and_flags(objects):
    few, full = (resolved(TrainObjectConfig(folder=objects, recipe=name), "object") for name in ("few", "full"))
    assert few.steps < full.steps / 5 and few.dropout > full.dropout and few.scale > full.scale and few.shift > full.shift
    assert full.scale == 0.2 and full.learning_rate == 1e-4 and full.ema == 0.9999 and full.batch_size == 64  # spec section 3
    own = resolved(TrainObjectConfig(folder=objects, recipe="few", steps=7, scale=0.0), "object")
    assert (own.steps, own.scale, own.dropout) == (7, 0.0, few.dropout)
    assert set(RECIPES) == {(role, name) for role in ("object", "background") for name in ("full", "few")}


BAD = [
    ({"steps": 0}, "--steps 0"),
    ({"batch_size": 0}, "--batch-size 0"),
    ({"learning_rate": 0.0}, "--learning-rate 0.0"),
    ({"learning_rate": float("nan")}, "--learning-rate nan"),
    ({"learning_rate": 2.0}, "--learning-rate 2.0"),
    ({"ema": 1.0}, "--ema 1.0"),
    ({"dropout": -0.1}, "--dropout -0.1"),
    ({"scale": 1.0}, "--scale 1.0"),
    ({"shift": 1.5}, "--shift 1.5"),
    ({"decay": 1.5}, "--decay 1.5"),
    ({"warmup": -1}, "--warmup -1"),
    ({"seed": -1}, "--seed -1"),
    ({"snr_gamma": 0.0}, "--snr-gamma 0.0"),
    ({"mask_weight": 0.0}, "--mask-weight 0.0"),
    ({"edge_weight": -1.0}, "--edge-weight -1.0"),
    ({"mask_weight": float("inf")}, "--mask-weight inf"),
    ({"start": Path("no such model")}, "--start no such model: no such folder"),
    ({"precision": "fp16"}, "--precision fp16"),
    ({"folder": Path("nowhere")}, "nowhere: holds no prepared.json"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_flags_are_refused_before_anything_is_written(objects, tmp_path, changes, message):
    with pytest.raises(InputError) as why:
        run_train_object(replace(plan(objects, tmp_path / "out"), **changes), [])
    assert message in str(why.value) and not (tmp_path / "out").exists()


def test_roles_runs_and_models_that_do_not_fit_are_refused(trained, objects, backgrounds, tmp_path):
    with pytest.raises(InputError, match="was prepared for the background role; use train-background"):
        run_train_object(plan(backgrounds, tmp_path / "a"), [])
    with pytest.raises(InputError, match="pass --resume"):
        run_train_object(plan(objects, trained[0]), [])
    with pytest.raises(InputError, match=r"another --learning-rate \(0.001\)"):
        run_train_object(plan(objects, trained[0], resume=True, learning_rate=2e-3), [])
    fewer = prepared(tmp_path / "fewer", "object", CLASSES, COUNT - 1)
    with pytest.raises(InputError, match="another --pictures; repeat it"):
        run_train_object(plan(fewer, trained[0], resume=True), [])
    with pytest.raises(InputError, match="holds no background_unet"):
        run_train_background(
            TrainBackgroundConfig(folder=backgrounds, out=tmp_path / "b", start=trained[0], steps=1, batch_size=1, device="cpu"), []
        )
    with pytest.raises(InputError, match="has out_channels 8, this run needs 4"):
        run_train_object(plan(objects, tmp_path / "c", start=trained[0], variance="fixed"), [])
    broken = tmp_path / "broken" / "object_unet"
    broken.mkdir(parents=True)
    with pytest.raises(InputError, match=r"--start .*cannot be loaded"):
        run_train_object(plan(objects, tmp_path / "d", start=broken.parent), [])
    with pytest.raises(InputError, match="is a file"):
        (tmp_path / "file").write_text("x")
        run_train_object(plan(objects, tmp_path / "file" / "out"), [])
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda"):
            run_train_object(plan(objects, tmp_path / "e", device="cuda"), [])
