"""Properties 14 and 18, resume, and both forms of what `train` writes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from didgen.attributes import flip, parse, render
from didgen.config import DrawConfig, ModelConfig, TrainConfig
from didgen.denoise import denoiser
from didgen.manifest import Row, read_manifest, write_manifest
from didgen.prompts import draw
from didgen.tokens import add_placeholders
from didgen.train import encode_corpus, mirrored, run_train, snr_weights, train, usable
from didgen.weights import load_model, read_guidance, shipped
from didgen.write import mask_image
from graft_common import bundle as bundles
from graft_common.errors import InputError
from graft_common.noising import noised, target
from graft_common.phantoms import draw as phantom
from graft_common.raster import write_png


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Four phantoms of 64 px with masks and prompts."""
    folder = tmp_path_factory.mktemp("train data")
    rows = []
    for seed in range(4):
        item, name = phantom("dermoscopy", 64, seed), f"p{seed}"
        write_png(folder / f"{name}.png", item.image, {})
        write_png(folder / f"{name}_mask.png", mask_image(item.masks["lesion"]), {})
        rows.append(Row(name, folder / f"{name}.png", folder / f"{name}_mask.png", "train", prompt=render(draw(seed, {}))))
    write_manifest(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def config(manifest, out, **changes) -> TrainConfig:
    plan = TrainConfig(manifest=manifest, out=out, steps=4, batch_size=2, learning_rate=1e-3, lora_rank=2, device="cpu")
    return replace(plan, **changes)


@pytest.fixture(scope="module")
def trained(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "region"
    run_train(config(manifest, out), ["graft-didgen", "train"])
    return out


def test_lora_weights_load_over_their_base_and_say_what_they_have_seen(trained):
    model = load_model(ModelConfig(weights=str(trained / "bundle")))
    base = bundles.load("tiny-sd")
    ours, theirs = model.bundle.unet.state_dict(), base.unet.state_dict()
    assert ours.keys() == theirs.keys()  # merged: no trace of the adapter
    lora = load_file(trained / "bundle" / "unet_lora.safetensors")
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    change = lora[f"{name}.lora_B.weight"].float() @ lora[f"{name}.lora_A.weight"].float()
    assert torch.allclose(ours[f"{name}.weight"], theirs[f"{name}.weight"] + change, atol=1e-6) and change.abs().max() > 0
    assert set(model.seen["hair"]) == {"none"} and model.guidance == {"eta": 20.0, "box": 20.0}
    assert model.weights()["base_sha256"] == base.weights()["sha256"]


def test_lora_on_a_hub_base_counts_what_is_read_of_the_snapshot(trained, tmp_path, monkeypatch):
    """Another machine's snapshot may hold more than this one's; what is loaded must be the same to the byte."""
    import shutil

    snapshot, mine = tmp_path / "snapshot", tmp_path / "mine"
    shutil.copytree(bundles.shipped()["tiny-sd"], snapshot)
    shutil.copytree(trained / "bundle", mine)
    mark = json.loads((mine / "didgen.json").read_text())
    (mine / "didgen.json").write_text(json.dumps(mark | {"base": "someone/base"}))
    monkeypatch.setattr(bundles, "_fetch", lambda hub_id, files: snapshot)
    (snapshot / "safety_checker").mkdir()
    (snapshot / "safety_checker" / "config.json").write_text("{}")
    file = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(file, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = load_model(ModelConfig(weights=str(mine), dtype="float32"))
    assert model.weights()["base_sha256"] == mark["base_sha256"] == bundles.digest(bundles.shipped()["tiny-sd"])
    scheduler = snapshot / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + "\n")
    shutil.copytree(mine, tmp_path / "again")  # a model is kept by its name
    with pytest.raises(InputError, match="was trained on another someone/base"):
        load_model(ModelConfig(weights=str(tmp_path / "again"), dtype="float32"))


@pytest.mark.parametrize("rank", [0, 2])
def test_only_the_unet_changes_while_it_trains(manifest, tmp_path, rank):
    base = bundles.load("tiny-sd")
    add_placeholders(base.tokenizer, base.text_encoder)
    plan = config(manifest, tmp_path, steps=5, lora_rank=rank)
    corpus = encode_corpus(usable(read_manifest(manifest), plan), base, plan, tmp_path / "cache.safetensors")
    parts = {"text": base.text_encoder, "vae": base.vae, "unet": base.unet}
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
    train(base, corpus, plan, tmp_path)
    same = {
        name: all(torch.equal(v, before[name][k]) for k, v in part.state_dict().items() if k in before[name])
        for name, part in parts.items()
    }
    assert same == {"text": True, "vae": True, "unet": rank > 0}  # with LoRA the UNet's own weights stay too
    assert all(not p.requires_grad for part in parts.values() for p in part.parameters())


@pytest.mark.parametrize(("device", "cpu"), [("cpu", True), ("auto", False)])
def test_adamw_decays_as_in_the_paper_and_cpu_means_cpu(manifest, tmp_path, monkeypatch, device, cpu):
    asked = []

    def fit(module, loss, plan, folder, **more):
        asked.append((plan.betas, plan.weight_decay, plan.cpu))
        raise InterruptedError

    monkeypatch.setattr("didgen.train.fit", fit)
    with pytest.raises(InterruptedError):
        run_train(config(manifest, tmp_path, device=device), ["x"])
    assert asked == [((0.9, 0.999), 0.01, cpu)]


def test_a_resumed_run_is_the_uninterrupted_one(manifest, trained, tmp_path, monkeypatch):
    from graft_common.training import fit as whole

    def stopped(*args, **kwargs):
        return whole(*args, **kwargs, stop=lambda: True)

    out = tmp_path / "again"
    monkeypatch.setattr("didgen.train.fit", stopped)
    run_train(config(manifest, out), ["x"])
    monkeypatch.setattr("didgen.train.fit", whole)
    with pytest.raises(InputError, match="pass --resume"):
        run_train(config(manifest, out), ["x"])
    with pytest.raises(InputError, match="another --alpha"):
        run_train(config(manifest, out, resume=True, alpha=0.5), ["x"])
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in out.rglob("*.json"))  # no paths in records
    run_train(config(manifest, out, resume=True), ["x"])
    a, b = (load_file(p / "bundle" / "unet_lora.safetensors") for p in (trained, out))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_other_pictures_or_weights_do_not_resume(manifest, tmp_path):
    """The manifest names files; what counts is what is in them."""
    import shutil

    shutil.copytree(manifest.parent, tmp_path / "data")
    plan = config(tmp_path / "data" / "manifest.jsonl", tmp_path / "out", steps=1)
    run_train(plan, ["x"])
    shutil.copy(tmp_path / "data" / "p1.png", tmp_path / "data" / "p0.png")
    with pytest.raises(InputError, match="another --manifest"):
        run_train(replace(plan, resume=True), ["x"])
    (tmp_path / "out" / "last.safetensors").unlink()
    latents = load_file(tmp_path / "out" / "latents.safetensors")["latents"]
    run_train(plan, ["x"])
    again = load_file(tmp_path / "out" / "latents.safetensors")["latents"]
    assert not torch.equal(again[0], latents[0]) and torch.equal(again[0], again[1])  # the cache was not used
    shutil.copytree(bundles.shipped()["tiny-sd"], tmp_path / "weights")
    index = tmp_path / "weights" / "model_index.json"
    index.write_text(index.read_text() + "\n")
    with pytest.raises(InputError, match="another --weights"):
        run_train(replace(plan, resume=True, weights=str(tmp_path / "weights")), ["x"])


def test_a_local_base_gives_a_whole_bundle_without_its_path(manifest, tmp_path):
    import shutil

    shutil.copytree(bundles.shipped()["tiny-sd"], tmp_path / "mine")
    run_train(config(manifest, tmp_path / "out", steps=1, weights=str(tmp_path / "mine")), ["x"])
    model = load_model(ModelConfig(weights=str(tmp_path / "out" / "bundle")))
    assert model.folder == model.bundle.folder and not hasattr(model.bundle.unet, "peft_config")
    assert not any("lora" in name for name in model.bundle.unet.state_dict())
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.json"))


def test_without_its_weight_the_loss_changes_nothing(manifest, tmp_path, monkeypatch):
    """alpha 0 is plain fine-tuning, bit for bit: the hooks may not even attach."""
    run_train(config(manifest, tmp_path / "a", alpha=0.0, steps=2), ["x"])
    monkeypatch.setattr("didgen.train.record", None)
    run_train(config(manifest, tmp_path / "b", alpha=0.0, steps=2), ["x"])
    a, b = (load_file(tmp_path / n / "bundle" / "unet_lora.safetensors") for n in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_what_it_learns_is_what_sampling_reads(untrained, kind):
    bundle = replace(untrained.bundle, schedule=untrained.bundle.schedule | {"prediction_type": kind})
    network = denoiser(bundle, DrawConfig(steps=10))
    z, eps = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    a = torch.full((2, 1, 1, 1), float(network.grid.alpha[7]) ** 2, dtype=torch.float64)
    x, wanted = noised(z, eps, a), target(z, eps, a, kind)
    assert torch.allclose(x, a.sqrt() * z + (1 - a).sqrt() * eps)
    assert torch.allclose(network.eps(x, 7, wanted), eps, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_the_published_recipe(kind):
    """Against diffusers' own signal-to-noise ratio and the clamp of Hang et al. 2023."""
    from diffusers import DDIMScheduler
    from diffusers.training_utils import compute_snr

    schedule = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    snr = compute_snr(schedule, torch.arange(1000)).double()
    wanted = torch.minimum(snr, torch.tensor(5.0)) / (snr if kind == "epsilon" else snr + 1)
    found = snr_weights(schedule.alphas_cumprod, kind, 5.0)
    assert torch.allclose(found.double(), wanted, rtol=1e-4) and float(found.max()) <= 1
    # a loss on noise is one on x0 times 1 / snr: together never more than gamma
    assert float((found * schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)).max()) <= 5.0 + 1e-4


def test_noise_offset_moves_whole_channels_and_nothing_else(manifest, tmp_path, monkeypatch):
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("didgen.train.noised", lambda z, eps, a: seen.append(eps) or noised(z, eps, a))
    for name, offset in (("plain", 0.0), ("moved", 2.0)):
        run_train(config(manifest, tmp_path / name, steps=8, noise_offset=offset), ["x"])
    plain, moved = torch.cat(seen[:8]), torch.cat(seen[8:])
    shift = (moved - plain).flatten(2)
    assert float(shift.std(dim=2).max()) < 1e-6  # one number per picture and channel
    assert 1.5 < float(shift[..., 0].std()) < 2.5  # 64 draws: 2 within 4.5 standard errors


def test_the_region_loss_moves_the_maps(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("didgen.train.EVERY", 5)
    run_train(config(manifest, tmp_path / "s", alpha=10.0, steps=10, learning_rate=2e-2, lora_rank=8), ["x"])
    lines = [json.loads(line) for line in (tmp_path / "s" / "steps.jsonl").read_text().splitlines()]
    assert lines[-1]["placeholders"] > 0.1  # two of 77 tokens have 0.03 when nothing draws the eye to them


def test_full_training_writes_a_bundle_that_loads_as_a_whole(manifest, tmp_path):
    run_train(config(manifest, tmp_path / "full", lora_rank=0, steps=1), ["x"])
    model = load_model(ModelConfig(weights=str(tmp_path / "full" / "bundle")))
    assert model.folder == model.bundle.folder and model.bundle.tokenizer.convert_tokens_to_ids("<lesion>") > 2000
    changed = model.bundle.unet.state_dict()["conv_in.weight"] - bundles.load("tiny-sd").unet.state_dict()["conv_in.weight"]
    assert float(changed.abs().max()) > 0


def test_flips_double_the_set_and_mirror_the_words(manifest, tmp_path):
    base = bundles.load("tiny-sd")
    add_placeholders(base.tokenizer, base.text_encoder)
    plan = config(manifest, tmp_path, flips=True)
    corpus = encode_corpus(usable(read_manifest(manifest), plan), base, plan, tmp_path / "cache.safetensors")
    assert len(corpus.latents) == 8 and torch.equal(corpus.masks[0].flip(-1), corpus.masks[1])
    assert mirrored("lesion at the top left, tan skin") == "lesion at the top right, tan skin"
    assert all(parse(mirrored(render(draw(i, {})))) == flip(draw(i, {})) for i in range(40))
    again = encode_corpus(usable(read_manifest(manifest), plan), base, plan, tmp_path / "cache.safetensors")
    assert torch.equal(again.latents, corpus.latents)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "--steps 0"), ({"batch_size": 0}, "--batch-size 0"), ({"alpha": -1.0}, "--alpha"),
        ({"noise_offset": -0.1}, "--noise-offset"), ({"snr_gamma": 0.0}, "--snr-gamma 0"), ({"drop": 1.0}, "--drop"),
        ({"learning_rate": float("nan")}, "--learning-rate"), ({"lora_rank": -1}, "--lora-rank"), ({"size": 66}, "--size 66"),
        ({"size": 0}, "--size 0"), ({"seed": -1}, "--seed -1"),
        ({"weights": "no-such"}, "no-such"), ({"device": "cuda"}, "--device cuda"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(manifest, tmp_path, changes, said):
    if changes == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=said):
        run_train(config(manifest, tmp_path / "o", **changes), ["x"])
    assert not (tmp_path / "o").exists()  # nothing is written before a refusal


def test_rows_without_prompt_or_mask_are_refused(manifest, tmp_path):
    rows = read_manifest(manifest)
    with pytest.raises(InputError, match="no prompt"):
        usable([replace(rows[0], prompt=None)], config(manifest, tmp_path))
    with pytest.raises(InputError, match="no mask"):
        usable([replace(rows[0], mask=None)], config(manifest, tmp_path))
    assert usable([replace(rows[0], mask=None)], config(manifest, tmp_path, alpha=0.0))
    with pytest.raises(InputError, match="no row of split train"):
        usable([replace(rows[0], split="test")], config(manifest, tmp_path))


def test_weights_that_do_not_fit_are_refused(trained, tmp_path, saved):
    import shutil

    plain = tmp_path / "plain"
    shutil.copytree(bundles.shipped()["tiny-sd"], plain)
    with pytest.raises(InputError, match="graft-didgen train"):
        load_model(ModelConfig(weights=str(plain)))
    broken = tmp_path / "broken"
    shutil.copytree(trained / "bundle", broken)
    mark = json.loads((broken / "didgen.json").read_text())
    (broken / "didgen.json").write_text(json.dumps(mark | {"rank": 3}))
    with pytest.raises(InputError, match="another network"):
        load_model(ModelConfig(weights=str(broken)))
    (broken / "didgen.json").write_text(json.dumps(mark | {"base_sha256": "0" * 64}))
    with pytest.raises(InputError, match="another tiny-sd"):
        load_model(ModelConfig(weights=str(broken)))
    for wrong in ({"rank": "x"}, {"rank": 0}, {"init": "middle"}):
        (broken / "didgen.json").write_text(json.dumps(mark | wrong))
        with pytest.raises(InputError, match="damaged"):
            load_model(ModelConfig(weights=str(broken)))
    (broken / "guidance.json").write_text('{"eta": -1}')
    with pytest.raises(InputError, match="guidance"):
        read_guidance(broken)
    (broken / "didgen.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        load_model(ModelConfig(weights=str(broken)))
    with pytest.raises(InputError, match=", ".join(shipped()) or "shipped"):
        load_model(ModelConfig(weights="nothing-of-this-name"))


def test_unreadable_pictures_are_named(manifest, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    write_manifest(tmp_path / "manifest.jsonl", [Row("bad", bad, bad, "train", prompt=render(draw(0, {})))])
    with pytest.raises(InputError, match=r"bad\.png"):
        run_train(config(tmp_path / "manifest.jsonl", tmp_path / "o"), ["x"])
    assert not (tmp_path / "o").exists()
