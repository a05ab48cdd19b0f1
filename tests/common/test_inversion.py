"""Schedule and DPM-Solver++ walks: judged by closed-form toys and diffusers' schedulers (tficomp spec, checks 1-8)."""

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepInverseScheduler, DPMSolverMultistepScheduler

from graft_common.inversion import (
    clean_from_model,
    dpm_grid,
    dpm_run,
    dpm_step,
    dpm_walk,
    grid_from_scheduler,
    model_time,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
GAUSS = ((1.0,), (0.1,), 0.9)
MIXTURE = ((0.3, 0.4, 0.3), (-1.0, 0.2, 1.2), 0.25)


@cache
def sample(toy, n=20_000):
    """n float64 draws of a toy, the same every time."""
    weights, means, std = toy
    gen = torch.Generator().manual_seed(0)
    which = torch.multinomial(torch.tensor(weights), n, replacement=True, generator=gen)
    return torch.tensor(means, dtype=torch.float64)[which] + std * torch.randn(n, dtype=torch.float64, generator=gen)


def denoiser(toy, grid):
    """Exact E[x_0 | x_k] for data that is a mixture of equal-width Gaussians."""
    weights, means, std = (torch.tensor(v, dtype=torch.float64) for v in toy)

    def clean(x, k):
        a, s = grid.alpha[k], grid.sigma[k]
        var, away = a**2 * std**2 + s**2, x[..., None] - a * means
        share = torch.softmax(weights.log() - away**2 / (2 * var), -1)
        return (share * (means + a * std**2 * away / var)).sum(-1)

    return clean


def rms(a, b):
    return (a - b).square().mean().sqrt().item()


@cache
def round_trip(toy, steps, order, spacing, drift_at=0):
    """RMS between an inversion's state at index `drift_at` and the one that sampling back returns there."""
    grid = dpm_grid(ALPHAS, steps, spacing)
    clean, x = denoiser(toy, grid), sample(toy)
    up = dpm_walk(clean, x, grid, order, invert=True)
    down = dpm_walk(clean, up[-1], grid, order)
    return rms(down[steps - drift_at], up[drift_at])


# tficomp spec 2.5: k, network time, alpha, sigma, lambda at T = 20
TABLE = [
    (20, 999, 0.0683, 0.9977, -2.682),
    (18, 899.1, 0.1195, 0.9928, -2.117),
    (12, 599.4, 0.4017, 0.9158, -0.824),
    (6, 299.7, 0.7688, 0.6395, 0.184),
    (5, 249.75, 0.8211, 0.5708, 0.364),
    (4, 199.8, 0.8683, 0.4960, 0.560),
    (3, 149.85, 0.9100, 0.4147, 0.786),
    (2, 99.9, 0.9457, 0.3250, 1.068),
    (1, 49.95, 0.9755, 0.2199, 1.490),
    (0, 0, 0.9996, 0.0292, 3.535),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"k{r[0]}")
def test_schedule_table(row):
    grid = dpm_grid(ALPHAS.float(), 20)
    k, *want = row
    assert [float(v[k]) for v in (grid.time, grid.alpha, grid.sigma, grid.lam)] == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("count", [2, 50, 1000, 4000])
@pytest.mark.parametrize("spacing", ["time", "integer", "lambda"])
def test_every_grid_lies_on_its_schedule(count, spacing):
    table = torch.cumprod(1 - torch.linspace(1e-4, 20 / count if count > 50 else 0.3, count, dtype=torch.float64), 0)
    grid = dpm_grid(table, min(7, count - 1), spacing)
    low = grid.time.floor().long().clamp(max=count - 2)
    log_alpha = torch.lerp(0.5 * table.log()[low], 0.5 * table.log()[low + 1], grid.time - low)
    assert torch.allclose(grid.alpha, log_alpha.exp(), rtol=1e-9)
    assert torch.allclose(grid.alpha**2 + grid.sigma**2, torch.ones_like(grid.alpha), rtol=1e-12)
    assert torch.allclose(grid.lam, (grid.alpha / grid.sigma).log(), rtol=1e-9)
    assert grid.time[0] == 0 and grid.time[-1] == count - 1 and bool((grid.lam.diff() < 0).all())
    if spacing == "lambda":
        assert torch.allclose(grid.lam.diff(), grid.lam.diff()[:1], rtol=1e-9)


def test_model_time_is_exact():
    assert model_time(dpm_grid(ALPHAS, 20), 5).item() == 249.75
    whole = model_time(dpm_grid(ALPHAS, 20, "integer"), 11)
    assert whole.dtype == torch.int64 and whole.item() == 549


BAD_SCHEDULES = [
    (torch.cat([ALPHAS[:-1], torch.zeros(1)]), "zero terminal SNR"),
    (torch.cat([ALPHAS[:-1], torch.tensor([2.0**-24])]), "zero terminal SNR"),
    (ALPHAS.flip(0), "fall strictly"),
    (torch.cat([torch.ones(1), ALPHAS]), "fall strictly"),
    (torch.full((5,), float("nan")), "no signal"),
    (ALPHAS[:1], "at least 2"),
]


@pytest.mark.parametrize(("table", "why"), BAD_SCHEDULES)
def test_bad_schedules_are_refused(table, why):
    with pytest.raises(ValueError, match=why):
        dpm_grid(table, 20)


@pytest.mark.parametrize(("steps", "spacing", "why"), [(0, "time", "at least 1"), (1000, "integer", "at most 999")])
def test_bad_step_counts_are_refused(steps, spacing, why):
    with pytest.raises(ValueError, match=why):
        dpm_grid(ALPHAS, steps, spacing)


# tficomp spec 9: (toy, order, spacing) -> RMS at T = 10, 20, 40, 80
ROUND_TRIP = [
    (GAUSS, 1, "time", (0.220, 0.120, 0.064, 0.033)),
    (GAUSS, 2, "time", (0.075, 0.031, 0.0099, 0.0026)),
    (GAUSS, 2, "lambda", (3.6e-3, 3.4e-4, 6.0e-5, 1.4e-5)),
    (MIXTURE, 1, "time", (0.174, 0.095, 0.053, 0.029)),
    (MIXTURE, 2, "time", (0.189, 0.104, 0.035, 0.009)),
    (MIXTURE, 2, "lambda", (1.1e-2, 1.4e-3, 1.8e-4, 2.4e-5)),
]


@pytest.mark.parametrize(("toy", "order", "spacing", "want"), ROUND_TRIP)
def test_round_trip_table(toy, order, spacing, want):
    got = [round_trip(toy, t, order, spacing) for t in (10, 20, 40, 80)]
    assert got == pytest.approx(want, rel=0.10)


def test_drift_at_the_composition_start():
    got = [round_trip(GAUSS, t, 2, "time", drift_at=round(0.3 * t)) for t in (10, 20, 40, 80)]
    assert got == pytest.approx((3.8e-3, 6.0e-4, 9.7e-5, 1.7e-5), rel=0.10)
    assert got[1] <= 1e-3


def test_order_and_rates_on_the_gaussian():
    one, two = ([round_trip(GAUSS, t, order, "time") for t in (10, 20, 40, 80)] for order in (1, 2))
    assert two[1] <= 0.4 * one[1] and two[2] <= 0.4 * one[2]
    assert all(1.7 <= a / b <= 2.0 for a, b in pairwise(one))
    assert all(a / b >= 2.4 for a, b in pairwise(two))


@pytest.mark.parametrize("toy", [GAUSS, MIXTURE], ids=["gauss", "mixture"])
def test_uniform_lambda_round_trip(toy):
    assert round_trip(toy, 20, 2, "lambda") <= 2e-3


@pytest.mark.parametrize("spacing", ["time", "integer", "lambda"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 20, 77])
def test_constant_prediction_is_undone_exactly(steps, order, spacing):
    grid, x = dpm_grid(ALPHAS, steps, spacing), sample(GAUSS, 500)
    m = sample(MIXTURE, 500)
    up = dpm_walk(lambda x, k: m, x, grid, order, invert=True)
    down = dpm_walk(lambda x, k: m, up[-1], grid, order)
    assert (down - up.flip(0)).abs().max() < 1e-12
    # and against the closed form: with a constant m the noise (x - alpha m) / sigma never changes
    exact = grid.alpha[:, None] * m + grid.sigma[:, None] * (x - grid.alpha[0] * m) / grid.sigma[0]
    assert ((up - exact).abs() / (1 + exact.abs())).max() < 1e-12


def stepped(scheduler, predict, x, steps):
    """A plain diffusers loop; predict takes the scheduler's own time."""
    scheduler.set_timesteps(steps)
    states = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, int(t)), t, x).prev_sample
        states.append(x)
    return torch.stack(states)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers under numpy 2
@pytest.mark.parametrize(
    ("steps", "prediction"), [(20, "epsilon"), (20, "v_prediction"), (20, "sample"), (10, "epsilon"), (50, "epsilon")]
)
@pytest.mark.parametrize("toy", [GAUSS, MIXTURE], ids=["gauss", "mixture"])
@pytest.mark.parametrize("invert", [False, True], ids=["sample", "invert"])
def test_equals_diffusers(invert, toy, steps, prediction):
    config = SD | {"solver_type": "midpoint", "lower_order_final": False, "prediction_type": prediction}
    judge = (
        DPMSolverMultistepInverseScheduler(**config)
        if invert
        else DPMSolverMultistepScheduler(**config, final_sigmas_type="sigma_min")
    )
    grid = grid_from_scheduler(judge, steps)
    clean = denoiser(toy, grid)

    def network(x, t):
        k = int((grid.time - t).abs().argmin())
        assert grid.time[k] == t
        m, a, s = clean(x, k), grid.alpha[k], grid.sigma[k]
        eps = (x - a * m) / s
        return {"epsilon": eps, "v_prediction": a * eps - s * m, "sample": m}[prediction]

    x = (
        sample(toy, 300)
        if invert
        else torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    theirs = stepped(judge, network, x, steps)

    def ours(x, k):
        return clean_from_model(network(x, int(grid.time[k])), x, grid.alpha[k], grid.sigma[k], prediction)

    assert (dpm_walk(ours, x, grid, 2, invert) - theirs).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_forward_and_inverse_grids_mirror_each_other():
    forward = DPMSolverMultistepScheduler(**SD, final_sigmas_type="sigma_min")
    inverse = DPMSolverMultistepInverseScheduler(**SD)
    forward.set_timesteps(20)
    inverse.set_timesteps(20)
    grid, mirror = grid_from_scheduler(forward, 20), grid_from_scheduler(inverse, 20)
    assert torch.equal(grid.time, mirror.time) and torch.equal(grid.lam, mirror.lam)
    assert torch.equal(grid.time[1:].flip(0), forward.timesteps.double())
    assert torch.equal(grid.time[:-1], inverse.timesteps.double())
    for scheduler, ours in ((forward, grid.lam.flip(0)), (inverse, grid.lam)):
        assert torch.allclose(ours.float(), -scheduler.sigmas.log(), atol=2e-5)  # its sigmas are sigma / alpha, float32


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("final_sigmas_type", "zero"),
        ("timestep_spacing", "leading"),
        ("solver_type", "heun"),
        ("use_karras_sigmas", True),
    ],
)
def test_unmatched_scheduler_settings_are_refused(setting, value):
    scheduler = DPMSolverMultistepScheduler(**(SD | {"final_sigmas_type": "sigma_min", setting: value}))
    with pytest.raises(ValueError, match=f"{setting}={value!r}"):
        grid_from_scheduler(scheduler, 20)
    with pytest.raises(ValueError, match="no DPM-Solver"):
        grid_from_scheduler(DDIMScheduler(**SD), 20)


def test_calls_and_the_last_node():
    grid, asked = dpm_grid(ALPHAS, 20), []

    def clean(x, k):
        asked.append(k)
        return 0.5 * x

    dpm_walk(clean, sample(GAUSS, 3), grid)
    dpm_walk(clean, sample(GAUSS, 3), grid, invert=True)
    dpm_walk(clean, sample(GAUSS, 3), grid, start=6)
    assert asked == [*range(20, 0, -1), *range(20), *range(6, 0, -1)]


def test_carried_memory_resumes_and_restart_does_not():
    grid, x = dpm_grid(ALPHAS, 20), sample(GAUSS, 200)
    clean = denoiser(GAUSS, grid)
    whole = dpm_walk(clean, x, grid)
    first = dpm_run(clean, x, grid, stop=6)
    assert first.memory is not None and first.memory.index == 7
    carried = dpm_walk(clean, first.states[-1], grid, start=6, memory=first.memory)
    assert torch.equal(torch.cat([first.states, carried[1:]]), whole)
    restarted = dpm_walk(clean, first.states[-1], grid, start=6)
    assert 1e-4 < rms(restarted[-1], whole[-1]) < 5e-2
    assert dpm_run(clean, x, grid, start=4, stop=4).memory is None
    with pytest.raises(ValueError, match="older than the state"):
        dpm_walk(clean, x, grid, start=7, memory=first.memory)


def test_after_is_walked_on_from():
    grid, x = dpm_grid(ALPHAS, 20), sample(GAUSS, 50)
    clean, seen = denoiser(GAUSS, grid), []

    def paste(x, k):
        seen.append(k)
        return torch.where(torch.arange(50) < 25, torch.full_like(x, float(k)), x) if k >= 3 else x

    states = dpm_walk(clean, x, grid, start=6, after=paste)
    assert seen == [5, 4, 3, 2, 1, 0]
    assert all(torch.equal(states[j, :25], torch.full((25,), 6.0 - j, dtype=torch.float64)) for j in (1, 2, 3))
    m = [clean(states[j], 6 - j) for j in range(6)]
    assert torch.equal(states[4], dpm_step(states[3], m[3], m[2], 3, 2, 4, grid))


def test_a_step_is_the_formula():
    grid = dpm_grid(ALPHAS, 20)
    x, m, old = sample(GAUSS, 3)
    h = float(grid.lam[4] - grid.lam[5])
    r = float(grid.lam[5] - grid.lam[6]) / h
    want = grid.sigma[4] / grid.sigma[5] * x - grid.alpha[4] * (math.exp(-h) - 1) * (m + (m - old) / (2 * r))
    assert dpm_step(x, m, old, 5, 4, 6, grid).item() == pytest.approx(want.item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_state_outranks_the_network(dtype):
    grid, x = dpm_grid(ALPHAS, 20), sample(GAUSS, 2000)
    clean = denoiser(GAUSS, grid)
    low = dpm_walk(lambda x, k: clean(x, k).to(dtype), x.to(dtype), grid, invert=True)
    assert low.dtype == torch.float32
    # a half-precision network errs by its own rounding of m, never by a rounded state: exact m in half stays this close
    assert (
        rms(low[-1].double(), dpm_walk(clean, x.to(dtype).double(), grid, invert=True)[-1]) < 8 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize(
    ("keywords", "why"),
    [
        ({"order": 3}, "choose 1 or 2"),
        ({"start": 21}, "indices 0"),
        ({"start": 3, "stop": 6}, "sampling goes down"),
        ({"start": 6, "stop": 3, "invert": True}, "inversion goes up"),
    ],
)
def test_bad_walks_are_refused(keywords, why):
    with pytest.raises(ValueError, match=why):
        dpm_walk(lambda x, k: x, torch.zeros(2), dpm_grid(ALPHAS, 20), **keywords)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="'flow'"):
        clean_from_model(torch.zeros(2), torch.zeros(2), 1.0, 0.5, "flow")
