"""Spec 7, properties 13, 16 and 17: tables, one step, the forward jump, in closed form."""

import math

import numpy as np
import pytest
import torch

from diffusionmix.respace import kept, respace
from diffusionmix.steps import clean, deviation, forward, log_range, mean, noised, reverse
from graft_common.errors import InputError

BETAS = np.linspace(1e-4, 0.02, 1000)
ABAR = np.cumprod(1 - BETAS)


def test_all_steps_give_the_original_tables() -> None:
    tables = respace(ABAR, 1000)
    np.testing.assert_array_equal(tables.abar[1:], ABAR)
    np.testing.assert_allclose(tables.beta[1:], BETAS, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(tables.index[1:], np.arange(1000))
    assert tables.abar[0] == 1 and tables.states == 1000


@pytest.mark.parametrize("T", [2, 7, 50, 250, 999])
def test_respaced_tables_keep_the_signal(T: int) -> None:
    tables = respace(ABAR, T)
    assert tables.index[1] == 0 and tables.index[-1] == 999
    assert (np.diff(tables.index[1:]) > 0).all()
    np.testing.assert_allclose(np.cumprod(1 - tables.beta[1:]), ABAR[tables.index[1:]], rtol=0, atol=1e-12)
    assert ((tables.beta[1:] > 0) & (tables.beta[1:] < 1)).all()
    assert tables.abar.dtype == np.float64


def test_one_state_is_the_noisiest() -> None:
    assert kept(1000, 1).tolist() == [999]
    assert kept(1000, 1, from_zero=False).tolist() == [999]


@pytest.mark.parametrize(("T", "from_zero", "most"), [(0, True, 1000), (1001, True, 1000), (1000, False, 999)])
def test_more_states_than_training_had(T: int, from_zero: bool, most: int) -> None:
    with pytest.raises(InputError, match=f"--steps {T}: must be from 1 to {most}"):
        kept(1000, T, from_zero)


@pytest.mark.parametrize("t", [1, 2, 30, 250])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_clean_prediction_inverts_the_noising(t: int, prediction: str) -> None:
    tables = respace(ABAR, 250)
    x0, n = torch.rand(2, 3, 4, 4).double() * 2 - 1, torch.randn(2, 3, 4, 4).double()
    a, s = math.sqrt(tables.abar[t]), math.sqrt(1 - tables.abar[t])
    x = a * x0 + s * n
    output = {"epsilon": n, "v_prediction": a * n - s * x0, "sample": x0}[prediction]
    torch.testing.assert_close(clean(output, x, t, tables, prediction, False), x0, rtol=0, atol=1e-10)
    assert clean(output * 9, x, t, tables, prediction, True).abs().max() <= 1


@pytest.mark.parametrize("t", [2, 11, 250])
def test_step_is_the_gaussian_posterior(t: int) -> None:
    """Mean and variance of x_{t-1} given x_t and x0, from the joint covariance of the two states."""
    tables = respace(ABAR, 250)
    x0, x = torch.tensor([0.3, -1.7], dtype=torch.float64).view(2, 1, 1, 1, 1)
    before, here = tables.abar[t - 1], tables.abar[t]
    covariance = math.sqrt(here / before) * (1 - before)  # of x_{t-1} and x_t given x0
    gain = covariance / (1 - here)
    expected = math.sqrt(before) * 0.3 + gain * (-1.7 - math.sqrt(here) * 0.3)
    torch.testing.assert_close(mean(x0, x, t, tables).item(), expected, rtol=0, atol=1e-12)
    assert deviation(None, t, tables, "fixed_small") == pytest.approx(math.sqrt(1 - before - gain * covariance), rel=1e-9)
    assert deviation(None, t, tables, "fixed_large") == pytest.approx(math.sqrt(1 - here / before), rel=1e-9)


def test_last_step_is_the_clean_prediction() -> None:
    tables = respace(ABAR, 50)
    x0, x, n = torch.randn(3, 1, 3, 5, 5).unbind(0)
    assert torch.equal(reverse(x0, x, 1, tables, 1.0, n), x0)
    assert torch.equal(noised(x0, 0, tables, None), x0)


@pytest.mark.parametrize("t", [1, 2, 40, 250])
def test_learned_range_spans_the_two_fixed_variances(t: int) -> None:
    tables = respace(ABAR, 250)
    low = tables.posterior[max(t, 2)]
    raw = torch.tensor([-1.0, 0.0, 1.0]).double().view(1, 3, 1, 1)
    found = deviation(raw, t, tables, "learned_range").flatten().double() ** 2  # type: ignore[union-attr]
    expected = torch.tensor([low, math.sqrt(low * tables.beta[t]), tables.beta[t]])
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=0)
    assert log_range(t, tables) == pytest.approx((math.log(low), math.log(tables.beta[t])), abs=1e-12)


@pytest.mark.parametrize(("t", "k"), [(0, 1), (0, 10), (3, 7), (20, 5)])
def test_forward_jump(t: int, k: int) -> None:
    tables = respace(ABAR, 250)
    generator = torch.Generator().manual_seed(5)
    x = torch.full((200_000,), 0.8).view(1, 1, 400, 500)
    for state in range(t, t + k):
        x = forward(x, state, tables, torch.randn(x.shape, generator=generator))
    ratio = tables.abar[t + k] / tables.abar[t]
    assert float(x.mean()) == pytest.approx(0.8 * math.sqrt(ratio), rel=0.01)
    assert float(x.var()) == pytest.approx(1 - ratio, rel=0.01)


def test_jump_then_posterior_returns_to_the_marginal() -> None:
    tables, t, x0 = respace(ABAR, 250), 12, 0.6
    generator = torch.Generator().manual_seed(6)
    draw = lambda: torch.randn(1, 1, 400, 500, generator=generator)  # noqa: E731
    start = torch.full((1, 1, 400, 500), x0)
    up = forward(noised(start, t, tables, draw()), t, tables, draw())
    spread = deviation(None, t + 1, tables, "fixed_small")
    down = reverse(start, up, t + 1, tables, spread, draw())
    assert float(down.mean()) == pytest.approx(math.sqrt(tables.abar[t]) * x0, rel=0.01)
    assert float(down.var()) == pytest.approx(1 - tables.abar[t], rel=0.01)
