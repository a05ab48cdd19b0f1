"""Training: the loop equals a hand-written AdamW, and a stopped run equals one that was never stopped, bit for bit."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.errors import InputError
from graft_common.rng import generator, noise, rows
from graft_common.training import FitConfig, fit, trim_log


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(module: nn.Module, gen: torch.Generator, step: int) -> torch.Tensor:
    x = torch.randn(16, 4, generator=gen)
    return (module(x) - x.sum(dim=1, keepdim=True)).square().mean()


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    config = FitConfig(steps=12, learning_rate=1e-2, warmup=3, seed=5)
    whole, parts = network(), network()
    a = fit(whole, loss, config, tmp_path / "whole")
    calls = iter(range(100))
    fit(parts, loss, config, tmp_path / "parts", stop=lambda: next(calls) == 4)
    fresh = network()  # a new process would start from untrained weights
    b = fit(fresh, loss, config, tmp_path / "parts")
    assert a.step == b.step == 12
    for name, value in whole.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
    for name, value in a.average.items():
        assert torch.equal(value, b.average[name]), name


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.8, 0.999)])
def test_loop_equals_plain_adamw(tmp_path, betas):
    config = FitConfig(steps=6, learning_rate=1e-2, warmup=0, decay=0.5, betas=betas, ema=0.5, clip=1e9, seed=1)
    ours, plain = network(), network()
    fitted = fit(ours, loss, config, tmp_path)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=betas, weight_decay=1e-2)
    mean = {n: p.detach().clone() for n, p in plain.named_parameters()}
    rates = [1e-2, 1e-2, 1e-2, 1e-2, 2e-2 / 3, 1e-2 / 3]  # constant half, then linearly to zero after the last step
    for step in range(6):
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.zero_grad()
        loss(plain, generator(1, step, 0, 0), step).backward()
        optimizer.step()
        keep = min(0.5, (2 + step) / (11 + step))
        mean = {n: keep * mean[n] + (1 - keep) * p.detach() for n, p in plain.named_parameters()}
    for name, value in plain.named_parameters():
        np.testing.assert_allclose(ours.get_parameter(name).detach(), value.detach(), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(fitted.average[name], mean[name], rtol=1e-5, atol=1e-7)


def test_accumulation_equals_one_large_batch(tmp_path):
    def half(module: nn.Module, gen: torch.Generator, step: int) -> torch.Tensor:
        x = torch.randn(8, 4, generator=generator(step, halves[step % 1]))
        return (module(x) - x.sum(dim=1, keepdim=True)).square().mean()

    halves = [0]
    config = dict(learning_rate=1e-2, warmup=0, decay=0.0, clip=1e9, steps=3)
    once, twice = network(), network()
    fit(once, half, FitConfig(**config), tmp_path / "a")
    fit(twice, half, FitConfig(**config, accumulate=2), tmp_path / "b")
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-5, atol=1e-7)


def test_one_process_trains_in_one_precision_after_the_other(tmp_path):
    """accelerate itself keeps the first one's and refuses the second."""
    seen = []

    def watched(module: nn.Module, gen: torch.Generator, step: int) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return loss(module, gen, step)

    for precision in ("no", "bf16", "no"):
        config = FitConfig(steps=1, learning_rate=1e-2, mixed_precision=precision, cpu=True)
        fit(network(), watched, config, tmp_path / str(len(seen)))
    assert seen == [False, True, False]


@pytest.mark.parametrize("cpu", [True, False])
def test_the_cpu_is_asked_for(tmp_path, monkeypatch, cpu):
    import graft_common.training as training

    asked = []
    whole = training.Accelerator
    monkeypatch.setattr(training, "Accelerator", lambda **given: asked.append(given["cpu"]) or whole(**given))
    fit(network(), loss, FitConfig(steps=1, learning_rate=1e-2, cpu=cpu), tmp_path)
    assert asked == [cpu]


@pytest.mark.gpu
def test_a_run_on_the_cpu_stays_there_after_one_on_the_gpu(tmp_path):
    for cpu, kind in ((False, "cuda"), (True, "cpu"), (False, "cuda")):
        module = network()
        fit(module, lambda m, gen, step: m(torch.ones(1, 4, device=next(m.parameters()).device)).sum(),
            FitConfig(steps=1, learning_rate=1e-2, cpu=cpu), tmp_path / f"{len(list(tmp_path.iterdir()))}")  # fmt: skip
        assert next(module.parameters()).device.type == kind


def test_checkpoint_of_another_network_is_refused(tmp_path):
    fit(network(), loss, FitConfig(steps=1, learning_rate=1e-2), tmp_path)
    with pytest.raises(ValueError, match="another network"):
        fit(nn.Linear(4, 1), loss, FitConfig(steps=2, learning_rate=1e-2), tmp_path)


def test_nan_loss_keeps_the_last_good_checkpoint(tmp_path):
    def bad(module: nn.Module, gen: torch.Generator, step: int) -> torch.Tensor:
        return loss(module, gen, step) * (float("nan") if step == 2 else 1.0)

    config = FitConfig(steps=4, learning_rate=1e-2, save_minutes=0.0)
    with pytest.raises(FloatingPointError, match="step 3"):
        fit(network(), bad, config, tmp_path)
    assert read_config(tmp_path / "last.safetensors")["step"] == 2


def test_weights_round_trip_with_config_and_renames(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3, dtype=torch.int64)}  # a is not contiguous
    save_weights(path, tensors, {"network": {"width": 3}})
    assert read_config(path) == {"network": {"width": 3}}
    back = load_weights(path, {"a": "alpha"})
    assert torch.equal(back["alpha"], tensors["a"]) and torch.equal(back["b"], tensors["b"])
    for header, said in (("{", "header is damaged"), ('{"format": 9, "config": {}}', "is format 9"), ("[]", "damaged"),
                         ('{"format": 1}', "damaged"), ('{"format": 1, "config": 3}', "damaged")):  # fmt: skip
        save_file(tensors | {"a": tensors["a"].contiguous()}, tmp_path / "other.safetensors", metadata={"graft": header})
        with pytest.raises(InputError, match=said):
            read_config(tmp_path / "other.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    for read in (load_weights, read_config):
        with pytest.raises(InputError, match=r"w\.safetensors: cannot be read"):
            read(path)


def test_generators_separate_keys_and_do_not_touch_global_state():
    before = torch.random.get_rng_state()
    draws = {keys: noise((64,), *keys) for keys in [(0,), (1,), (0, 1), (1, 0), (2**40,), (0, 0)]}
    values = [d for d in draws.values()]
    for i, a in enumerate(values):
        for b in values[i + 1 :]:
            assert abs(float(np.corrcoef(a, b)[0, 1])) < 0.5
    assert torch.equal(noise((5,), 7, 8), noise((5,), 7, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    many = noise((200_000,), 9)
    assert abs(float(many.mean())) < 0.01 and abs(float(many.std()) - 1) < 0.01
    picks = rows(10, 10_000, 4)
    assert picks.min() == 0 and picks.max() == 9 and abs(np.bincount(picks).std() / 1000) < 0.1


def test_the_log_of_steps_that_are_taken_again_is_dropped(tmp_path):
    """A checkpoint of step 4: what was logged of step 6 goes, without a checkpoint everything does."""
    fit(network(), loss, FitConfig(steps=4, learning_rate=1e-3, cpu=True), tmp_path)
    lines = [json.dumps({"step": n}) + "\n" for n in (2, 4, 6)]
    for folder, kept in ((tmp_path, lines[:2]), (tmp_path / "none", [])):
        folder.mkdir(exist_ok=True)
        (folder / "steps.jsonl").write_text("".join(lines))
        trim_log(folder / "steps.jsonl")
        assert (folder / "steps.jsonl").read_text() == "".join(kept)
    trim_log(tmp_path / "no log")
