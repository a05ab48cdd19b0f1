"""train-range-vae and train on narrow networks: what a step draws, learns and leaves alone, resume to the bit, what is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.errors import InputError
from graft_common.rng import generator
from graft_common.settings import ModelConfig
from mobi.cli import main
from mobi.config_train import TrainConfig, TrainRangeVaeConfig
from mobi.objects import Objects, Row

SIZE, CELLS, TOKEN = 64, 8, 24
SCHEDULE = {
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
    "skip_prk_steps": True,
}  # fmt: skip


def build_base() -> Any:
    """Paint-by-Example, narrow: factor 8, latents of 8 x 8."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionConfig

    from mobi.bundle import Base
    from mobi.image_encoder import PaintByExampleImageEncoder

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=CELLS, in_channels=9, out_channels=4, layers_per_block=1, block_out_channels=(16, 16), norm_num_groups=8,
        attention_head_dim=2, cross_attention_dim=TOKEN, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    encoder = PaintByExampleImageEncoder(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=224, patch_size=112,
            projection_dim=TOKEN,
        )
    )  # fmt: skip
    for module in (unet, vae, encoder):
        module.eval().requires_grad_(False)
    return Base("narrow", Path("narrow"), unet, vae, encoder, SCHEDULE)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a training's inputs lie."""

    root: Path
    prepared: Path
    base: Path

    def range_vae(self, out: Path, **changes: Any) -> TrainRangeVaeConfig:
        settings = TrainRangeVaeConfig(
            prepared=self.prepared, root=self.root, base=str(self.base), out=out, steps=4, batch_size=3, learning_rate=1e-3,
            ema=0.9, held_out=0.4, device="cpu", json=True,
        )  # fmt: skip
        return replace(settings, **changes)

    def joint(self, out: Path, range_vae: Path, **changes: Any) -> TrainConfig:
        settings = TrainConfig(
            prepared=self.prepared, root=self.root, base=str(self.base), out=out, range_vae=range_vae, steps=4, batch_size=4,
            learning_rate=1e-3, warmup=0, ema=0.9, hidden=16, held_out=0.4, reference_views=2, classes="car", device="cpu",
            json=True, half=False,
        )  # fmt: skip
        return replace(settings, **changes)


@pytest.fixture(scope="module")
def place(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    from mobi.bundle import save_mobi, start_mobi

    folder = tmp_path_factory.mktemp("train")
    options = ["--min-points", "20", "--min-size", "60", "--empty", "5", "--out", str(folder / "prepared")]
    assert main(["prepare", str(tree), *options]) == 0
    save_mobi(folder / "base", start_mobi(build_base(), 0), half=False)
    return Place(tree, folder / "prepared", folder / "base")


@pytest.fixture(scope="module")
def ranged(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mobi.train_range_vae import run_train_range_vae

    out = tmp_path_factory.mktemp("ranged") / "out"
    run_train_range_vae(place.range_vae(out), ["graft-mobi", "train-range-vae"])
    return out


@pytest.fixture(scope="module")
def trained(place: Place, ranged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mobi.train import run_train

    out = tmp_path_factory.mktemp("trained") / "out"
    run_train(place.joint(out, ranged / "range_vae.safetensors"), ["graft-mobi", "train"])
    return out


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Callable[[], None]:
    """Make the training loop save and return early, as a run that was killed behind a checkpoint."""
    from mobi import training

    real, count = training.fit, []
    with_stop = lambda *a, **k: real(*a, **k, stop=lambda: count.append(1) or len(count) == steps)  # noqa: E731
    monkeypatch.setattr(training, "fit", with_stop)
    return lambda: monkeypatch.setattr(training, "fit", real)


def test_range_vae_is_written_and_measured(place: Place, ranged: Path) -> None:
    header = read_config(ranged / "range_vae.safetensors")
    run = json.loads((ranged / "run.json").read_text())
    assert header == {"middle_norm": True} and run["outputs"] == ["range_vae.safetensors"]
    said = run["measures"]
    assert said["crops"] + said["held_out"] + said["unusable"] == len(list((place.prepared / "references").iterdir())) + 5
    assert said["parameters"] == sum(t.numel() for t in load_weights(ranged / "range_vae.safetensors").values())
    for when in ("before", "after"):
        assert said[when]["depth_median_m"] > 0 and said[when]["intensity_rmse"] > 0
    assert set(run["inputs"]) == {"objects", "empty"} and run["weights"]["name"] == "base"
    assert str(place.root.parent) not in json.dumps(run)


def test_range_vae_resumes_to_the_bit(
    place: Place, ranged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobi.train_range_vae import run_train_range_vae

    restore = stop_after(monkeypatch, 2)
    config = place.range_vae(tmp_path / "part")
    run_train_range_vae(config, [])
    assert read_config(tmp_path / "part/last.safetensors")["step"] == 2
    half_way = load_weights(tmp_path / "part/range_vae.safetensors")
    restore()
    with pytest.raises(InputError, match="holds a training run; pass --resume"):
        run_train_range_vae(config, [])
    with pytest.raises(InputError, match=r"begun with another --kl \(1e-06\); repeat it"):
        run_train_range_vae(replace(config, resume=True, kl=1e-5), [])
    run_train_range_vae(replace(config, resume=True), [])
    done, whole = (load_weights(folder / "range_vae.safetensors") for folder in (tmp_path / "part", ranged))
    assert all(torch.equal(done[key], whole[key]) for key in whole) and set(done) == set(whole)
    assert any(not torch.equal(half_way[key], whole[key]) for key in whole)


def test_range_vae_learns(place: Place, tmp_path: Path) -> None:
    from mobi.train_range_vae import run_train_range_vae

    lines: list[str] = []
    record = run_train_range_vae(place.range_vae(tmp_path / "o", steps=50, learning_rate=5e-3, ema=0), [], say=lines.append)
    assert json.loads(lines[-1])["step"] == 50 and "held out" in lines[0]
    before, after = record["measures"]["before"], record["measures"]["after"]
    assert after["intensity_rmse"] < 0.7 * before["intensity_rmse"], (before, after)
    assert json.loads(lines[-1])["loss"] < 0.7, lines


def test_joint_training_changes_what_it_should(place: Place, ranged: Path, trained: Path) -> None:
    """adapters: the base stays as it is, to the bit; what MObI adds has moved. The folder loads."""
    from mobi.bundle import load_mobi

    was, now = (load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (place.base, trained / "model"))
    assert all(torch.equal(was[key], now[key]) for key in was)
    for part, file in (("vae", "diffusion_pytorch_model"), ("image_encoder", "model")):
        was, now = (load_file(folder / part / f"{file}.safetensors") for folder in (place.base, trained / "model"))
        assert all(torch.equal(was[key], now[key]) for key in was)
    tensors = load_weights(trained / "model/joint.safetensors")
    gates = [t for key, t in tensors.items() if ".gate." in key]
    assert gates and all(t.any() for t in gates)
    mine, stored = (load_weights(folder / "range_vae.safetensors") for folder in (ranged, trained / "model"))
    assert all(torch.equal(mine[key], stored[key]) for key in mine)
    header = read_config(trained / "model/joint.safetensors")
    assert header == {"order": "sequential", "drops": "separate", "hidden": 16, "parts": "adapters", "guidance": 5.0}
    mobi = load_mobi(ModelConfig(weights=str(trained / "model"), device="cpu"))
    assert mobi.size == SIZE and mobi.joint.parts == "adapters"
    said = json.loads((trained / "run.json").read_text())["measures"]
    assert said["parameters"] == sum(t.numel() for t in tensors.values())
    assert said["held_out_loss"] > 0 and said["held_out_loss"] != said["held_out_loss_before"]


def test_joint_training_resumes_to_the_bit(
    place: Place, ranged: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobi.train import run_train

    restore = stop_after(monkeypatch, 3)
    config = place.joint(tmp_path / "part", ranged / "range_vae.safetensors")
    run_train(config, [])
    restore()
    with pytest.raises(InputError, match="begun with another --frozen"):
        other = load_weights(ranged / "range_vae.safetensors")
        save_weights(tmp_path / "other.safetensors", {k: t + 1 for k, t in other.items()}, {"middle_norm": True})
        run_train(replace(config, resume=True, range_vae=tmp_path / "other.safetensors"), [])
    run_train(replace(config, resume=True), [])
    done, whole = (load_weights(folder / "model/joint.safetensors") for folder in (tmp_path / "part", trained))
    assert all(torch.equal(done[key], whole[key]) for key in whole) and set(done) == set(whole)


def test_all_parts_train_the_base_too(place: Place, ranged: Path, tmp_path: Path) -> None:
    from mobi.bundle import load_mobi
    from mobi.train import run_train

    out = tmp_path / "all"
    run_train(place.joint(out, ranged / "range_vae.safetensors", parts="all", drops="joint", ema=0), [])
    was, now = (load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (place.base, out / "model"))
    # queries and keys of an attention over one token have no effect, so they never get a gradient
    idle = [key for key in was if torch.equal(was[key], now[key])]
    assert set(was) == set(now) and all("attn2.to_q" in key or "attn2.to_k" in key or "norm2" in key for key in idle), idle
    mobi = load_mobi(ModelConfig(weights=str(out / "model"), device="cpu"))
    assert (mobi.joint.parts, mobi.joint.drops) == ("all", "joint")


@pytest.fixture
def step(place: Place, ranged: Path) -> tuple[Any, Any, Any]:
    """(trainee with zero gates, step loss, model) before any training."""
    from mobi.draws import make_pool
    from mobi.kept_codes import keep_codes
    from mobi.train import StepLoss, Trainee, begin
    from mobi.training_data import build_cache

    config = place.joint(place.base, ranged / "range_vae.safetensors")
    cache = build_cache(place.root, place.prepared, SIZE, config.views)
    mobi = begin(config, build_base(), True)
    kept = keep_codes(cache, mobi, cache.folder, config.reference_views)
    pool = make_pool(cache.objects, np.flatnonzero(cache.usable), config.class_names())
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    return Trainee(mobi.unet, mobi.box_encoder), StepLoss(cache, kept, pool, config, alphas, (4, CELLS)), mobi


def test_first_gradients(step: tuple[Any, Any, Any]) -> None:
    """Property 16."""
    module, loss, _ = step
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-2)

    def gradients() -> dict[str, torch.Tensor | None]:
        optimizer.zero_grad()
        loss(module, generator(5, 0), 0).backward()
        return {name: p.grad for name, p in module.named_parameters()}

    def gated(name: str) -> bool:
        return ".joint." in name or name.startswith("box_encoder.")

    first = gradients()
    assert sum(".gate." in name for name in first) >= 6 * 4
    for name, grad in first.items():
        if ".gate." in name:
            assert grad is not None and grad.any(), name
        elif gated(name):
            assert grad is not None and not grad.any(), name
        else:
            assert grad is None, name
    optimizer.step()
    for name, grad in gradients().items():
        if gated(name) and not name.endswith(("to_k.bias", "to_q.bias")):
            assert grad is not None and grad.any(), name


def test_codes_are_what_the_frozen_parts_make(step: tuple[Any, Any, Any]) -> None:
    """Kept latents and tokens against `denoise.encode` on the crops themselves, to half precision."""
    from mobi.denoise import encode
    from mobi.image_encoder import reference_tokens
    from mobi.records import Crops

    _, loss, mobi = step
    cache, kept = loss.cache, loss.kept
    rows, views = [0, len(cache.state) - 1], [1, 0]
    camera, camera_keep = cache.camera_crops(rows, views)
    lidar, lidar_keep = cache.lidar_crops(rows)
    picture = cache.references([0], generator(411, 0, 1))
    boxes = torch.zeros(2, 8, 3)
    got = encode(mobi, Crops(camera, lidar, camera_keep, lidar_keep, picture.repeat(2, 1, 1, 1), boxes, boxes))
    context = [torch.tensor(np.stack([kept.camera_context[r, v] for r, v in zip(rows, views, strict=True)]))]
    context.append(torch.tensor(np.stack([kept.lidar_context[r] for r in rows])))
    for j in range(2):
        assert torch.allclose(got.context[j::2, :4], context[j].float(), atol=2e-3, rtol=2e-3)
    assert torch.allclose(got.reference[0, 0], torch.from_numpy(kept.tokens[0, 1].copy()), atol=1e-5)
    black = (torch.zeros(1, 3, 224, 224) - torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )[:, None, None]
    assert torch.allclose(reference_tokens(mobi.image_encoder, black)[0].flatten(), kept.black, atol=1e-5)
    whole = mobi.vae.encode(camera).latent_dist.mean * mobi.vae.config.scaling_factor
    assert torch.allclose(whole[1], torch.from_numpy(kept.camera[rows[1], 0].copy()).float(), atol=2e-3, rtol=2e-3)


def test_inputs_of_a_step(step: tuple[Any, Any, Any]) -> None:
    """Noise as diffusers adds it, camera and lidar interleaved, drops and empty boxes (property 23) where they belong."""
    from diffusers import DDIMScheduler

    from mobi.draws import draw

    _, loss, _ = step
    cache, kept = loss.cache, loss.kept
    config = replace(loss.config, batch_size=24, empty=0.5, drop=0.2, times="independent")
    batch = draw(loss.pool, cache.objects, config, generator(3), 0, (4, CELLS, CELLS), 1000)
    x, t, reference, box, no_box = loss.inputs(batch, loss.clean(batch))
    clean = torch.zeros_like(x[:, :4])
    for k, (row, view) in enumerate(zip(batch.rows, batch.views, strict=True)):
        clean[2 * k] = torch.from_numpy(kept.camera[row, view].copy()).float()
        clean[2 * k + 1] = torch.from_numpy(kept.lidar[row].copy()).float()
        hole = [cache.camera_crops([row], [view])[1], cache.lidar_crops([row])[1]]
        for j in range(2):
            small = torch.nn.functional.interpolate(hole[j], (CELLS, CELLS), mode="nearest")[0]
            assert torch.equal(x[2 * k + j, 8:], small)
            empty = row >= cache.objects.count
            want = kept.black if empty else torch.from_numpy(kept.tokens[batch.references[k], batch.versions[k]].copy())
            assert torch.equal(reference[2 * k + j, 0], kept.none if batch.no_reference[k] else want)
            corners = torch.from_numpy((cache.camera_box[row, view] if j == 0 else cache.lidar_box[row]).copy())
            assert torch.equal(box[2 * k + j], corners) and bool(corners.any()) != empty
            assert bool(no_box[2 * k + j]) == bool(batch.no_box[k])
    table = {key: value for key, value in SCHEDULE.items() if key != "skip_prk_steps"}
    noisy = DDIMScheduler(**table).add_noise(clean, batch.eps.flatten(0, 1), t)
    assert torch.allclose(x[:, :4], noisy, atol=1e-5)
    assert len({*batch.rows}) > 3 and batch.no_box.any() and not batch.no_box.all() and not torch.equal(t[::2], t[1::2])


def test_dropped_box_is_the_null_vector(step: tuple[Any, Any, Any]) -> None:
    """A box that is not told has no influence; one that is does, once the gates are open."""
    module, _, mobi = step
    for name, p in module.named_parameters():
        if ".gate.weight" in name:
            p.data = 0.3 * torch.randn(p.shape, generator=generator(8))
    gen = generator(2)
    x, t = torch.randn(4, 9, CELLS, CELLS, generator=gen), torch.full((4,), 500)
    reference, box = torch.randn(4, 1, TOKEN, generator=gen), torch.rand(4, 8, 3, generator=gen)
    told, untold = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(module(x, t, reference, box, untold), module(x, t, reference, box + 1, untold))
        assert (module(x, t, reference, box, told) - module(x, t, reference, box + 1, told)).abs().max() > 1e-3
        whole = type(module)(mobi.unet, mobi.box_encoder, "all")
        assert torch.allclose(whole(x, t, reference, box, told), module(x, t, reference, box, told), atol=1e-5)


def world(counts: dict[str, tuple[int, int]]) -> Objects:
    """Objects and empty boxes of each class."""

    def rows(kind: str, count: int, own: bool) -> list[Row]:
        names = (f"{kind}{k}" if own else "" for k in range(count))
        box, picture = (0.0, 9.0, 0.0, 1.0, 1.0, 1.0, 0.0), "r.png" if own else None
        return [Row("here", "s", "C", kind, box, name, k, picture) for k, name in enumerate(names)]

    objects = [row for kind, (n, _) in counts.items() for row in rows(kind, n, True)]
    empty = [row for kind, (_, n) in counts.items() for row in rows(kind, n, False)]
    return Objects(Path(), (*objects, *empty), len(objects))


def settings(**changes: Any) -> TrainConfig:
    base = TrainConfig(prepared=Path(), root=Path(), base="b", range_vae=Path(__file__), batch_size=7, classes="car,pedestrian")
    return replace(base, **changes)


def test_classes_take_turns_and_empty_boxes_their_share() -> None:
    from mobi.draws import draw, make_pool

    objects, config = world({"car": (40, 9), "pedestrian": (8, 0), "bus": (5, 5)}), settings(empty=0.3)
    pool = make_pool(objects, np.arange(len(objects.rows)), config.class_names())
    rows = [row for step in range(400) for row in draw(pool, objects, config, generator(0, step), step, (1, 1, 1), 10).rows]
    kinds = [objects.rows[row].kind for row in rows]
    assert kinds == ["car", "pedestrian"] * 1400  # a batch of seven goes on where the last one ended
    cars = np.array(rows[::2])
    assert stats.binomtest(int((cars >= objects.count).sum()), len(cars), 0.3).pvalue > 0.01
    own = np.bincount(cars[cars < objects.count], minlength=40)
    assert stats.chisquare(own).pvalue > 0.01 and set(rows[1::2]) == set(range(40, 48))
    with pytest.raises(InputError, match="--classes car,tram: no tram can be trained on; the table has bus, car, pedestrian"):
        make_pool(objects, np.arange(len(objects.rows)), ("car", "tram"))


def test_drops() -> None:
    from mobi.draws import draw_drops

    n = 40_000
    reference, box = draw_drops(settings(batch_size=n, drop=0.1), generator(1))
    for count in ((reference & box), (reference & ~box), (~reference & box)):
        assert stats.binomtest(int(count.sum()), n, 0.1).pvalue > 0.01
    reference, box = draw_drops(settings(batch_size=n, drop=0.1, drops="joint"), generator(2))
    assert torch.equal(reference, box) and stats.binomtest(int(box.sum()), n, 0.2).pvalue > 0.01
    assert not draw_drops(settings(batch_size=n, drop=0.0), generator(3))[0].any()


def test_times_are_uniform_and_shared_by_default() -> None:
    from mobi.draws import draw, draw_times, make_pool

    t = torch.stack([draw_times(8, 1000, generator(step)) for step in range(2000)])
    assert t.min() >= 0 and t.max() <= 999 and (t.sort(1).values // 125 == torch.arange(8)).all()
    for k in (0, 3):  # each place by itself
        assert stats.kstest(t[:, k].numpy() + 0.5, stats.uniform(0, 1000).cdf).pvalue > 0.01
    objects = world({"car": (4, 0)})
    pool = make_pool(objects, np.arange(4), ("car",))
    shared, own = (
        draw(pool, objects, settings(classes="car", times=times), generator(1), 0, (4, 2, 2), 1000)
        for times in ("shared", "independent")
    )
    assert torch.equal(shared.t[:, 0], shared.t[:, 1]) and not torch.equal(own.t[:, 0], own.t[:, 1])
    assert shared.eps.shape == (7, 2, 4, 2, 2) and not torch.equal(shared.eps[:, 0], shared.eps[:, 1])


def test_held_out_scenes_are_whole(step: tuple[Any, Any, Any], place: Place) -> None:
    from mobi.training import split

    cache = step[1].cache
    learn, held = split(cache, place.range_vae(place.base))
    scenes = [{cache.scenes[k] for k in rows} for rows in (learn, held)]
    assert len(scenes[1]) == 1 and not scenes[0] & scenes[1] and len(learn) + len(held) == len(cache.scenes)
    learn, held = split(cache, place.range_vae(place.base, held_out=0.99))
    assert len(learn) and len({cache.scenes[k] for k in learn}) == 1  # something is left to learn from


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 0}, "--steps 0: must be 1 or more"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"views": 0}, "--views 0"),
        ({"warmup": -1}, "--warmup -1: must be 0 or more"),
        ({"seed": -1}, "--seed -1"),
        ({"size": 96}, "--size 96: must be a power of two"),
        ({"size": 32}, "--size 32: .*64 or more"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"learning_rate": 2}, "--learning-rate 2"),
        ({"decay": 1.5}, "--decay 1.5"),
        ({"ema": 1.0}, "--ema 1.0"),
        ({"held_out": float("nan")}, "--held-out nan"),
        ({"precision": "fp16", "device": "cpu"}, "--precision fp16"),
        ({"classes": "car,,bus"}, "--classes car,,bus: must be names"),
        ({"classes": "car,car"}, "--classes car,car"),
        ({"empty": 1.1}, "--empty 1.1"),
        ({"drop": 0.4}, "--drop 0.4: must be from 0 to 1/3"),
        ({"hidden": 0}, "--hidden 0"),
        ({"reference_views": 0}, "--reference-views 0"),
    ],
)
def test_bad_flags(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}"):
        settings(**changes).check()


def test_bad_inputs(place: Place, ranged: Path, tmp_path: Path) -> None:
    from mobi.train import run_train
    from mobi.train_range_vae import run_train_range_vae

    good, out = ranged / "range_vae.safetensors", tmp_path / "out"
    with pytest.raises(InputError, match=r"^--kl nan"):
        place.range_vae(out, kl=float("nan")).check()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"range_vae": place.base / "joint.safetensors"}, "--range-vae .*was not written by train-range-vae"),
        ({"range_vae": tmp_path / "none.safetensors"}, "--range-vae .*none.safetensors: no such file; make it with"),
        ({"range_vae": place.prepared / "objects.csv"}, "objects.csv: cannot be read as safetensors"),
        ({"prepared": tmp_path / "none"}, "none: no such folder; give one that `graft-mobi prepare` wrote"),
        ({"classes": "car,tram"}, "--classes car,tram: no tram can be trained on; the table has car"),
        ({"base": str(tmp_path)}, "--base .*model_index"),
        ({"out": good}, "--out .*is a file"),
    ]
    for changes, says in cases:
        with pytest.raises(InputError, match=says):
            run_train(replace(place.joint(out, good), **changes), [])
    save_weights(tmp_path / "small.safetensors", {"head.0.weight": torch.zeros(1)}, {"middle_norm": True})
    with pytest.raises(InputError, match=r"small\.safetensors: does not fit the network"):
        run_train(place.joint(out, tmp_path / "small.safetensors"), [])
    base = Path(shutil.copytree(place.base, tmp_path / "base"))
    schedule = base / "scheduler/scheduler_config.json"
    schedule.write_text(json.dumps(json.loads(schedule.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(InputError, match=r"--base .*predicts sample; give one that predicts epsilon or v_prediction"):
        run_train_range_vae(place.range_vae(out, base=str(base)), [])
    assert not out.exists()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_what_is_learned_is_what_the_base_predicts(step: tuple[Any, Any, Any], kind: str) -> None:
    """A network that says diffusers' own target has no loss, one that says the other kind's has."""
    from diffusers import DDIMScheduler

    from mobi.draws import draw

    _, loss, _ = step
    loss = replace(loss, prediction=kind)
    batch = draw(loss.pool, loss.cache.objects, loss.config, generator(3), 0, (4, CELLS, CELLS), 1000)
    clean, eps = loss.clean(batch), batch.eps.flatten(0, 1)
    table = {key: value for key, value in SCHEDULE.items() if key != "skip_prk_steps"}
    said = {"epsilon": eps, "v_prediction": DDIMScheduler(**table).get_velocity(clean, eps, batch.t.flatten())}

    class Oracle(torch.nn.Linear):
        def forward(self, *inputs: Any) -> Any:
            return said[self.kind]

    oracle = Oracle(1, 1)
    for oracle.kind in said:
        error = float(loss(oracle, generator(3), 0))
        assert error < 1e-8 if oracle.kind == kind else error > 0.01


def test_the_base_says_what_it_predicts(place: Place, ranged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mobi.train

    base = Path(shutil.copytree(place.base, tmp_path / "base"))
    schedule = base / "scheduler/scheduler_config.json"
    schedule.write_text(json.dumps(json.loads(schedule.read_text()) | {"prediction_type": "v_prediction"}))
    good, told = ranged / "range_vae.safetensors", []

    def stop(*args: Any) -> None:
        told.append(args[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(mobi.train, "StepLoss", stop)
    for folder in (place.base, base):
        with pytest.raises(KeyboardInterrupt):
            mobi.train.run_train(replace(place.joint(tmp_path / folder.name, good), base=str(folder)), [])
    assert told == ["epsilon", "v_prediction"]


def test_damaged_codes_are_named(step: tuple[Any, Any, Any], tmp_path: Path) -> None:
    from mobi.kept_codes import keep_codes

    _, loss, mobi = step
    keep_codes(loss.cache, mobi, tmp_path, 1)
    (folder,) = tmp_path.iterdir()
    (folder / "lidar.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=f"{folder.name}: cannot be read as arrays of codes"):
        keep_codes(loss.cache, mobi, tmp_path, 1)
    np.save(folder / "lidar.npy", np.zeros((2, 2)))
    with pytest.raises(InputError, match=f"{folder.name}: is of another shape; remove it"):
        keep_codes(loss.cache, mobi, tmp_path, 1)


def test_codes_go_on_where_they_were_stopped(
    step: tuple[Any, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mobi import kept_codes

    _, loss, mobi = step
    monkeypatch.setattr(kept_codes, "CHUNK", 2)
    monkeypatch.setattr(kept_codes, "FLUSH", 1)
    seen: list[int] = []

    def stop(n: int) -> None:
        seen.append(n)
        if sum(seen) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_codes.keep_codes(loss.cache, mobi, tmp_path, 2, stop)
    seen.clear()
    got = kept_codes.keep_codes(loss.cache, mobi, tmp_path, 2, seen.append)
    assert seen[0] == 2 and sum(seen) == len(loss.cache.state)
    for name in ("camera", "camera_context", "lidar", "lidar_context", "tokens"):
        assert np.allclose(getattr(got, name), getattr(loss.kept, name), atol=2e-3), name
