"""diffusers' solvers: their grids, merging of clean predictions, forgetting after climbs; our DDPM step against theirs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusionmix import compose, denoise
from diffusionmix.box import Box
from diffusionmix.compose import merge, sample_backgrounds
from diffusionmix.config import MergeConfig
from diffusionmix.records import Mix
from diffusionmix.respace import respace
from diffusionmix.solvers import Solver, tables_of
from diffusionmix.steps import deviation, mean
from diffusionmix.weights import load_mix

BOX = Box(4, 6, 16, 16)
FAST = ("ddim", "dpm++", "unipc")


@pytest.mark.parametrize("sampler", FAST)
@pytest.mark.parametrize("T", [2, 20, 50])
def test_grids_agree_with_diffusers(build, sampler: str, T: int) -> None:
    net = build.mix().object
    tables = tables_of(net, sampler, T)
    solver = Solver(sampler, net, tables)
    assert solver.scheduler.timesteps.tolist() == solver.times and len(solver.times) == T
    assert tables.index[-1] == 999
    if sampler == "ddim":
        np.testing.assert_allclose(solver.scheduler.alphas_cumprod.numpy()[::-1], tables.abar[:0:-1], rtol=0, atol=0)
    else:
        sigmas = np.sqrt((1 - tables.abar[::-1]) / tables.abar[::-1])
        np.testing.assert_allclose(solver.scheduler.sigmas.numpy(), sigmas, rtol=2e-4, atol=1e-6)


class NoHost(TorchDispatchMode):
    """Refuses what makes the host wait for a device: a tensor's value, or a shape that depends on values."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.waits, f"the loop asks for {name}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", ("ddpm", *FAST))
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' solvers with numpy 2
def test_the_loop_never_waits_for_the_device(learned_bundle: Path, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    watched: list[int] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        with NoHost():
            done = denoise.run(*args, **kwargs)
        watched.append(done.calls)
        return done

    monkeypatch.setattr(compose, "run", run)
    settings = MergeConfig(sampler=sampler, steps=6, r=1, start=0.5)
    merge(load_mix(MergeConfig(weights=str(learned_bundle))), [BOX, Box(2, 2, 24, 20)], [3, 4], settings)
    assert watched == [7]
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoHost():
        float(torch.ones(2).sum())


@pytest.mark.parametrize("sampler", FAST)
def test_solvers_find_the_picture_of_an_exact_denoiser(build, sampler: str) -> None:
    """For N(m, v) the flow is linear: x_T = n goes to m + sqrt(v) n, up to the solver's error."""
    mean_ = torch.linspace(-0.6, 0.6, 3, dtype=torch.float64).view(3, 1, 1).expand(3, 8, 8)
    v = 0.04
    net = build.net("background", mean_, v)
    tables = tables_of(net, sampler, 100)
    solver = Solver(sampler, net, tables)
    start = torch.randn(1, 3, 8, 8)
    x = start
    for t in range(100, 0, -1):
        a = tables.abar[t]
        eps = net.module(x, torch.tensor(tables.index[t])).sample
        x = solver.step((x - (1 - a) ** 0.5 * eps) / a**0.5, x, t)
    truth = mean_ + v**0.5 * start
    assert float((x - truth).abs().max()) < (0.06 if sampler == "ddim" else 0.04)


@pytest.mark.parametrize("sampler", FAST)
def test_constant_models_merge_exactly(build, sampler: str) -> None:
    result = merge(build.mix(), [BOX], [3], MergeConfig(sampler=sampler, steps=20, r=2))[0]
    truth = np.full((32, 32), 64)
    truth[6:22, 4:20][build.disc(16, 5).numpy() > 0] = 191
    assert (result.image == truth[..., None]).all() and result.calls == 22


@pytest.mark.parametrize("sampler", FAST)
def test_outside_the_mask_a_late_paste_is_the_plain_sample(build, sampler: str) -> None:
    mix = build.mix(variance=0.05)
    config = MergeConfig(sampler=sampler, steps=12, start=1, r=0)
    hard, plain = merge(mix, [BOX], [3], config)[0], sample_backgrounds(mix, [3], config)[0]
    np.testing.assert_array_equal(hard.image[~hard.mask], plain[~hard.mask])
    assert (hard.image[hard.mask] != plain[hard.mask]).any()
    never = merge(mix, [BOX], [3], MergeConfig(sampler=sampler, steps=12, start="none"))[0]
    np.testing.assert_array_equal(never.image, plain)


@pytest.mark.parametrize("sampler", FAST)
def test_history_is_forgotten_after_a_climb(build, sampler: str) -> None:
    net = build.mix().object
    tables = tables_of(net, sampler, 20)
    used, fresh = Solver(sampler, net, tables), Solver(sampler, net, tables)
    x, z = torch.randn(2, 1, 4, 16, 16).unbind(0)
    state = x
    for t in range(20, 10, -1):
        state = used.step(z * t / 20, state, t)
    used.restart(7)
    fresh.restart(7)
    for t in (7, 6, 5):
        x, y = fresh.step(z / t, x, t), used.step(z / t, x, t)
        assert torch.equal(x, y)


def test_variance_half_is_cut_off(build) -> None:
    """A network of 6 outputs must not reach DPM-Solver++, which would cut it by itself, nor DDIM, which would raise."""
    exact = build.mix(variance=0.05)

    class Doubled(build.exact):
        def __call__(self, x, time, class_labels=None):
            from types import SimpleNamespace

            noise = super().__call__(x, time).sample
            return SimpleNamespace(sample=torch.cat([noise, torch.full_like(noise, 7.0)], 1))

    from dataclasses import replace

    nets = [
        replace(net, module=Doubled(net.module.mean, net.module.variance), variance="learned_range")
        for net in (exact.object, exact.background)
    ]
    doubled = Mix((nets[0],), nets[1])
    for sampler in FAST:
        config = MergeConfig(sampler=sampler, steps=8)
        np.testing.assert_array_equal(merge(doubled, [BOX], [1], config)[0].image, merge(exact, [BOX], [1], config)[0].image)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_our_ddpm_step_is_diffusers(build, variance: str) -> None:
    from diffusers import DDPMScheduler

    tables = respace(build.abar, 1000)
    judge = DDPMScheduler(variance_type=variance, clip_sample=True)
    x, noise = torch.randn(2, 1, 3, 8, 8).unbind(0)
    raw = torch.rand(1, 3, 8, 8) * 2 - 1
    for t in (1, 2, 40, 700, 1000):
        a = tables.abar[t]
        x0 = ((x - (1 - a) ** 0.5 * noise) / a**0.5).clamp(-1, 1)
        output = torch.cat([noise, raw], 1) if variance == "learned_range" else noise
        generator = torch.Generator().manual_seed(t)
        theirs = judge.step(output, t - 1, x, generator=generator).prev_sample
        n = torch.randn(x.shape, generator=torch.Generator().manual_seed(t)) if t > 1 else torch.zeros_like(x)
        spread = deviation(raw if variance == "learned_range" else None, t, tables, variance)
        ours = mean(x0, x, t, tables) + spread * n
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)
