"""DDIM against diffusers' schedulers; refinements judged by the round trip on closed-form toys."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from graft_common.guidance import guide
from graft_common.inversion import (
    ddim_grid,
    ddim_invert_refined,
    ddim_walk,
    dpm_grid,
    dpm_invert_refined,
    dpm_walk,
    null_text,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
WEIGHTS = torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64)
MEANS = torch.tensor([-1.0, 0.2, 1.2], dtype=torch.float64)
STD = 0.25


def draws(n):
    """n values of the mixture."""
    gen = torch.Generator().manual_seed(0)
    which = torch.multinomial(WEIGHTS, n, replacement=True, generator=gen)
    return MEANS[which] + STD * torch.randn(n, dtype=torch.float64, generator=gen)


def denoiser(grid, shift=0.0):
    """Exact E[x_0 | x_k] of the mixture moved by `shift`."""

    def clean(x, k):
        a, s, means = grid.alpha[k], grid.sigma[k], MEANS + shift
        var, away = a**2 * STD**2 + s**2, x[..., None] - a * means
        share = torch.softmax(WEIGHTS.log() - away**2 / (2 * var), -1)
        return (share * (means + a * STD**2 * away / var)).sum(-1)

    return clean


def noise(grid):
    clean = denoiser(grid)
    return lambda x, k: (x - grid.alpha[k] * clean(x, k)) / grid.sigma[k]


def rms(a, b):
    return (a - b).square().mean().sqrt().item()


@pytest.mark.parametrize(
    "config",
    [
        {"set_alpha_to_one": False, "steps_offset": 1},  # as Stable Diffusion ships it
        {"set_alpha_to_one": True, "steps_offset": 0},
        {"set_alpha_to_one": False, "timestep_spacing": "trailing"},
    ],
    ids=["sd", "alpha-one", "trailing"],
)
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_both_directions_equal_diffusers(config, steps, prediction):
    forward = DDIMScheduler(**SD, **config, prediction_type=prediction)
    inverse = DDIMInverseScheduler(**SD, **config, prediction_type=prediction)
    grid = ddim_grid(forward, steps)
    assert torch.equal(ddim_grid(inverse, steps).time, grid.time)
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(200, dtype=torch.float64, generator=gen)

    def net(x, t):  # any smooth network will do
        return torch.sin(x) + t / 1000

    for scheduler, invert, at in ((forward, False, "source"), (inverse, True, "target")):
        scheduler.set_timesteps(steps)
        theirs, y = [x], x
        for t in scheduler.timesteps:
            y = scheduler.step(net(y, int(t)), int(t), y).prev_sample
            theirs.append(y)

        def eps(x, k, invert=invert):
            out, at_level = net(x, int(grid.time[k])), k - 1 if invert else k
            # v is turned to noise at the level of the state, which for a "target" call is one below the time told
            return grid.alpha[at_level] * out + grid.sigma[at_level] * x if prediction == "v_prediction" else out

        ours = ddim_walk(eps, x, grid, invert, at=at)
        assert torch.allclose(ours, torch.stack(theirs), rtol=0, atol=1e-5)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("steps", [10, 50, 100, 500])
@pytest.mark.parametrize(("dtype", "own", "limit"), [(torch.float32, False, 5e-6), (torch.float64, True, 1e-12)])
def test_noise_that_no_state_changes_comes_back(steps, dtype, own, limit):
    """didgen spec, property 21: one noise in float32; in float64 also a noise of its own for every step."""
    grid = ddim_grid(DDIMScheduler(**SD, set_alpha_to_one=False, steps_offset=1), steps)
    x = 0.5 * torch.randn(2000, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def eps(x, k):
        return torch.randn(2000, dtype=dtype, generator=torch.Generator().manual_seed(1 + own * k))

    noised = ddim_walk(eps, x, grid, invert=True, at="target")[-1]
    assert relative(noised, x) > 0.5  # it did go somewhere
    assert relative(ddim_walk(eps, noised, grid)[-1], x) < limit


def small(grid):
    """Exact noise prediction for data N(0, 0.25 I)."""
    return lambda x, k: grid.sigma[k] * x / (0.25 * grid.alpha[k] ** 2 + grid.sigma[k] ** 2)


def test_the_round_trip_of_small_gaussian_data_halves_with_every_doubling():
    """didgen spec, property 21; the map is linear, so one state tells all."""
    errors = []
    for steps in (50, 100, 200):
        grid = ddim_grid(DDIMScheduler(**SD, set_alpha_to_one=False, steps_offset=1), steps)
        x = torch.ones(1, dtype=torch.float64)
        noised = ddim_walk(small(grid), x, grid, invert=True, at="target")[-1]
        errors.append(relative(ddim_walk(small(grid), noised, grid)[-1], x))
    assert errors[0] == pytest.approx(3.7e-2, rel=0.01)
    assert all(0.4 < after / before < 0.6 for before, after in pairwise(errors))


def test_an_inverse_scheduler_that_clips_breaks_the_round_trip():
    """didgen spec, property 21, with diffusers' own two schedulers: why `ddim_grid` refuses clip_sample=True.

    What comes back is off by a tenth and more, not by 2e-6 or 3.7e-2. (The spec says above 1, which no clipping of the
    clean prediction to [-1, 1] can reach: where all of it is cut away the error is 1.)
    """
    x = 0.5 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    fixed = torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    config = SD | {"set_alpha_to_one": False, "steps_offset": 1}
    forward = DDIMScheduler(**config)

    def gaussian(x, t):
        level = forward.alphas_cumprod[t]
        return (1 - level).sqrt() * x / (0.25 * level + 1 - level)

    def trip(clip, eps):
        y = x
        for scheduler in (DDIMInverseScheduler(**config | {"clip_sample": clip}), forward):
            scheduler.set_timesteps(50)
            for t in scheduler.timesteps:
                y = scheduler.step(eps(y, t), t, y).prev_sample
        return relative(y, x)

    kept, clipped = ([trip(clip, eps) for eps in (lambda x, t: fixed, gaussian)] for clip in (False, True))
    assert kept[0] < 5e-6 and kept[1] == pytest.approx(3.7e-2, rel=0.01)
    assert clipped[0] > 0.1 and clipped[1] > 3 * kept[1]


def test_order_one_dpm_is_ddim():
    grid, x = dpm_grid(ALPHAS, 20), draws(500)
    for invert in (False, True):
        assert torch.allclose(
            ddim_walk(noise(grid), x, grid, invert), dpm_walk(denoiser(grid), x, grid, 1, invert), atol=1e-12
        )


@pytest.mark.parametrize(
    ("config", "steps", "why"),
    [
        ({"timestep_spacing": "linspace"}, 20, "miss its own"),
        ({"timestep_spacing": "trailing"}, 30, "miss its own"),
        ({"clip_sample": True}, 20, "clip"),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 20, "zero terminal SNR"),
        ({"set_alpha_to_one": False, "steps_offset": 0}, 20, "set_alpha_to_one"),
        ({"steps_offset": 60}, 20, "last training step"),
        ({}, 1001, "takes 1 to 1000"),
    ],
)
def test_unwalkable_ddim_settings_are_refused(config, steps, why):
    with pytest.raises(ValueError, match=why):
        ddim_grid(DDIMScheduler(**(SD | config)), steps)


def test_target_is_for_inversion():
    with pytest.raises(ValueError, match="at='source'"):
        ddim_walk(lambda x, k: x, torch.zeros(2), dpm_grid(ALPHAS, 4), at="target")


def test_fixed_point_lowers_the_ddim_round_trip():
    grid, x = dpm_grid(ALPHAS, 20), draws(5000)
    eps, asked = noise(grid), []

    def back(states):
        return rms(ddim_walk(eps, states[-1], grid)[-1], x)

    plain = back(ddim_walk(eps, x, grid, invert=True))
    assert torch.equal(ddim_invert_refined(eps, x, grid, 1), ddim_walk(eps, x, grid, True, at="target"))
    errors = [back(ddim_invert_refined(eps, x, grid, n)) for n in (1, 3, 5, 10)]
    assert plain == pytest.approx(0.095, rel=0.1)
    assert errors[0] < plain / 2 and errors[1] < plain / 10 and errors[2] < plain / 30 and errors[3] < plain / 100
    assert back(ddim_invert_refined(eps, x, grid, 20, damping=0.7)) < 1e-5
    ddim_invert_refined(lambda x, k: asked.append(k) or x, x, grid, 3)
    assert asked == [k for k in range(1, 21) for _ in range(3)]


def test_fixed_point_can_start_without_noise():
    grid = ddim_grid(DDIMScheduler(**SD, set_alpha_to_one=True), 20)
    x = draws(5000)
    states = ddim_invert_refined(noise(grid), x, grid, 15, damping=0.7)
    assert rms(ddim_walk(noise(grid), states[-1], grid)[-1], x) < 1e-4


@pytest.mark.parametrize(("spacing", "start", "limit"), [("time", 0.104, 0.02), ("lambda", 1.4e-3, 1e-6)])
def test_defect_correction_lowers_the_dpm_round_trip(spacing, start, limit):
    grid, x = dpm_grid(ALPHAS, 20, spacing), draws(5000)
    clean = denoiser(grid)
    got = dpm_invert_refined(clean, x, grid, 2, rounds=4)
    assert got.error[0].square().mean().sqrt().item() == pytest.approx(start, rel=0.1)
    assert bool((got.error.diff(dim=0) <= 0).all())
    assert rms(dpm_walk(clean, got.states[-1], grid)[-1], x) == pytest.approx(
        got.error[-1].square().mean().sqrt().item(), rel=1e-9
    )
    assert got.error[-1].square().mean().sqrt().item() < limit
    assert torch.equal(got.states, dpm_walk(clean, got.states[0], grid, invert=True))


def test_a_worse_round_is_never_kept():
    grid, x = dpm_grid(ALPHAS, 10), draws(3000)  # few steps: some values get worse in round 2 before they get better
    clean = denoiser(grid)
    for rounds in (1, 2):
        got = dpm_invert_refined(clean, x, grid, rounds=rounds)
        real = (dpm_walk(clean, got.states[-1], grid)[-1] - x).abs()
        assert torch.allclose(real, got.error[-1], rtol=0, atol=1e-12)


def test_defect_correction_is_per_sample():
    grid, x = dpm_grid(ALPHAS, 20), draws(4 * 60).reshape(4, 3, 20)
    clean = denoiser(grid)
    both, alone = (dpm_invert_refined(clean, v, grid, rounds=3) for v in (x, x[2:3]))
    assert torch.allclose(both.states[:, 2:3], alone.states, atol=1e-12)
    assert torch.equal(dpm_invert_refined(clean, x, grid, rounds=0).states, dpm_walk(clean, x, grid, invert=True))


def conditioned(grid):
    """A denoiser steered by an embedding (B, L, D): the mixture, moved by the embedding's mean; smooth in it."""

    def clean(x, k, text):
        return denoiser(grid, shift=0.3 * torch.tanh(text.mean((1, 2)).to(x.dtype))[:, None, None])(x, k)

    return clean


@pytest.mark.parametrize("order", [1, 2])
def test_null_text_brings_guidance_back_to_the_inversion(order):
    grid = dpm_grid(ALPHAS, 10)
    clean = conditioned(grid)
    x = draws(2 * 40).reshape(2, 40)
    null, cond = torch.zeros(1, 3, 4), torch.full((1, 3, 4), 0.8)
    pivots = dpm_walk(lambda x, k: clean(x, k, cond), x, grid, order, invert=True)

    def run(n):
        return null_text(clean, pivots, grid, null, cond, 7.5, order, n, step_size=0.05, tolerance=1e-8, growth=0)

    plain, tuned = run(0), run(25)
    assert torch.equal(plain.embeddings, torch.zeros(10, 2, 3, 4, dtype=plain.embeddings.dtype))
    before, after = rms(plain.states[-1], x), rms(tuned.states[-1], x)
    assert before > 0.3 and after < before / 5
    assert bool((tuned.losses <= plain.losses + 1e-12).all())

    # replaying the embeddings with plain guidance gives the same walk
    replay = dpm_walk(
        lambda x, k: guide(clean(x, k, tuned.embeddings[10 - k]), clean(x, k, cond.expand(2, -1, -1)), 7.5),
        pivots[-1],
        grid,
        order,
    )
    assert torch.allclose(replay, tuned.states, atol=1e-9)
    alone = null_text(clean, pivots[:, 1:], grid, null, cond, 7.5, order, 25, 0.05, 1e-8, 0)
    assert torch.allclose(alone.states, tuned.states[:, 1:], atol=1e-6)


def test_null_text_may_miss_more_with_every_step():
    """The rule of didgen's spec, 1e-5 + 2e-5 i: the pivots lie 10 % inside it at even steps and 10 % outside at odd ones.

    A denoiser that says 0 whatever the text: the state shrinks with sigma, and nothing can be gained.
    """
    grid, calls = dpm_grid(ALPHAS, 12), []

    def clean(x, k, text):
        calls.append(k)
        return 0 * x + 0 * text.mean().to(x.dtype)

    walk = (grid.sigma / grid.sigma[-1])[:, None, None] * draws(40).reshape(1, 1, 40)
    pivots = walk.clone()
    for k in range(12):
        i = 11 - k
        pivots[k] += ((1e-5 + 2e-5 * i) * (1.1 if i % 2 else 0.9)) ** 0.5
    text = torch.zeros(1, 3, 4)
    got = null_text(clean, pivots, grid, text, text, iterations=3)
    assert torch.allclose(got.states, walk.flip(0), atol=1e-12)
    assert [calls.count(12 - i) for i in range(12)] == [5 if i % 2 else 2 for i in range(12)]  # the prompt's call among them


def test_null_text_stops_at_the_tolerance():
    grid, calls = dpm_grid(ALPHAS, 10), []
    inner = conditioned(grid)

    def clean(x, k, text):
        calls.append(k)
        return inner(x, k, text)

    x, null = draws(40).reshape(1, 40), torch.zeros(1, 3, 4)
    pivots = dpm_walk(lambda x, k: inner(x, k, null), x, grid, 1, invert=True)
    null_text(clean, pivots, grid, null, null, 7.5, iterations=25, tolerance=1.0)
    assert len(calls) == 20  # one conditional and one unconditional call per step, nothing to optimise
    with pytest.raises(ValueError, match="need 11 pivots"):
        null_text(clean, pivots[1:], grid, null, null)
