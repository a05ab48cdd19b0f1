"""Property 17 and the training loss, against closed forms in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from diffusionmix.loss import (
    bound,
    chain,
    denoising_loss,
    level,
    level_log_likelihood,
    log_variance,
    snr_weights,
)
from graft_common.noising import noised, target

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


@pytest.fixture(scope="module")
def tables():
    return chain(BETAS)


def plain():
    """beta, abar and posterior variance by a loop in Python."""
    beta = BETAS.tolist()
    abar, posterior, before = [], [], 1.0
    for b in beta:
        abar.append(before * (1 - b))
        posterior.append(b * (1 - before) / (1 - abar[-1]))
        before = abar[-1]
    return beta, abar, posterior


def full(value, channels=4):
    return torch.full((1, channels, 2, 2), value, dtype=torch.float64)


@pytest.mark.parametrize("t", [1, 2, 40, 999])
def test_learned_range_ends_at_posterior_and_beta(tables, t):
    """Property 17: v = -1 is the posterior variance, +1 is beta, 0 the geometric mean."""
    beta, _, posterior = plain()
    at = torch.tensor([t])
    for raw, wanted in ((-1.0, posterior[t]), (1.0, beta[t]), (0.0, math.sqrt(posterior[t] * beta[t]))):
        assert log_variance(full(raw), at, tables).exp().flatten()[0].item() == pytest.approx(wanted, rel=1e-6)


def test_the_last_step_borrows_the_smallest_variance_of_the_step_before(tables):
    _, _, posterior = plain()
    found = log_variance(full(-1.0), torch.tensor([0]), tables).exp()
    assert posterior[0] == 0 and found.flatten()[0].item() == pytest.approx(posterior[1], rel=1e-12)


def test_noised_has_the_schedules_mean_and_deviation(tables):
    _, abar, _ = plain()
    gen = torch.Generator().manual_seed(0)
    eps = torch.randn((2, 1, 300, 300), generator=gen)
    x = noised(torch.full_like(eps, 0.5), eps, level(torch.tensor([10, 700]), tables, eps))
    for k, t in enumerate((10, 700)):
        assert x[k].mean().item() == pytest.approx(0.5 * math.sqrt(abar[t]), abs=4 * math.sqrt(1 - abar[t]) / 300)
        assert x[k].std().item() == pytest.approx(math.sqrt(1 - abar[t]), rel=0.01)


def test_divergence_is_that_of_two_gaussians(tables):
    """Against the closed form, with the posterior of numbers computed by a loop; in bits."""
    beta, abar, posterior = plain()
    t, x0, guess, raw = 400, 0.3, 0.1, 0.4
    x = torch.full((1, 4, 1, 1), 0.7, dtype=torch.float64)
    eps = (x - math.sqrt(abar[t]) * guess) / math.sqrt(1 - abar[t])  # the noise that leads to this guess
    found = bound(eps, torch.full_like(x, raw), torch.full_like(x, x0), x, torch.tensor([t]), tables)

    def mean(clean):
        of_clean = math.sqrt(abar[t - 1]) * beta[t] / (1 - abar[t])
        return of_clean * clean + math.sqrt(1 - beta[t]) * (1 - abar[t - 1]) / (1 - abar[t]) * 0.7

    v = (raw + 1) / 2
    variance = beta[t] ** v * posterior[t] ** (1 - v)
    wanted = math.log(math.sqrt(variance / posterior[t])) + (posterior[t] + (mean(x0) - mean(guess)) ** 2) / (2 * variance) - 0.5
    assert torch.allclose(found, torch.full_like(found, wanted / math.log(2)), rtol=1e-9)


def test_a_perfect_step_costs_nothing(tables):
    x0, eps = torch.randn(2, 4, 3, 3).clamp(-1, 1).double(), torch.randn(2, 4, 3, 3).double()
    t = torch.tensor([5, 800])
    found = bound(eps, torch.full_like(x0, -1.0), x0, noised(x0, eps, level(t, tables, eps)), t, tables)
    assert found.abs().max() < 1e-9


def test_grey_levels_share_all_probability():
    """The bins of the 256 levels are a partition, and each is what scipy says."""
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    mean, log_sigma = torch.full_like(levels, 0.2), torch.full_like(levels, math.log(0.3))
    found = level_log_likelihood(levels, mean, log_sigma).exp()
    assert found.sum().item() == pytest.approx(1, abs=1e-9)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    assert np.allclose(found.numpy(), np.diff(norm.cdf(edges, 0.2, 0.3)), atol=1e-12)


def test_the_bound_at_index_0_is_the_likelihood_of_the_picture(tables):
    x0 = torch.tensor([[[[-1.0, 1.0, 0.0, 0.25]]]], dtype=torch.float64)
    eps = torch.randn_like(x0)
    t = torch.tensor([0])
    x = noised(x0, eps, level(t, tables, eps))
    found = bound(eps, torch.full_like(x0, 1.0), x0, x, t, tables)
    sigma = math.sqrt(BETAS[0].item())
    half = 1 / 255
    low = np.array([-np.inf, 1 - half, -half, 0.25 - half])
    high = np.array([-1 + half, np.inf, half, 0.25 + half])
    wanted = -np.log2(norm.cdf(high, x0.flatten().numpy(), sigma) - norm.cdf(low, x0.flatten().numpy(), sigma))
    assert np.allclose(found.flatten().numpy(), wanted, atol=1e-9)


def batch():
    gen = torch.Generator().manual_seed(1)
    x0, eps = (torch.randn((3, 4, 5, 5), generator=gen, dtype=torch.float64) for _ in range(2))
    return x0.clamp(-1, 1), eps, torch.tensor([0, 300, 999])


def test_fixed_variance_is_the_plain_error_and_the_mask_can_weigh_more(tables):
    x0, eps, t = batch()
    x = noised(x0, eps, level(t, tables, eps))
    output = torch.zeros_like(x0)
    each = (eps**2).mean(dim=(0, 2, 3))
    assert denoising_loss(output, eps, x0, x, t, tables).item() == pytest.approx(each.mean().item(), rel=1e-12)
    weighed = denoising_loss(output, eps, x0, x, t, tables, mask_weight=3)
    assert weighed.item() == pytest.approx((each[:3].sum() + 3 * each[3]).item() / 6, rel=1e-12)


def test_the_edge_can_weigh_more(tables):
    x0, eps, t = batch()
    squared = (eps**2).mean(dim=(0, 1)).numpy()
    edge = np.ones((5, 5), bool)
    edge[2:3, 2:3] = False
    wanted = (3 * squared[edge].sum() + squared[~edge].sum()) / (3 * 24 + 1)
    found = denoising_loss(torch.zeros_like(x0), eps, x0, noised(x0, eps, level(t, tables, eps)), t, tables, edge_weight=3)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_min_snr_weighs_by_index(tables):
    x0, eps, t = batch()
    _, abar, _ = plain()
    weights = snr_weights(tables, 5)
    snr = [abar[i] / (1 - abar[i]) for i in t.tolist()]
    wanted = sum(min(s, 5) / s * (e**2).mean().item() for s, e in zip(snr, eps, strict=True)) / 3
    found = denoising_loss(torch.zeros_like(x0), eps, x0, noised(x0, eps, level(t, tables, eps)), t, tables, weights=weights)
    assert found.item() == pytest.approx(wanted, rel=1e-12) and snr[0] > 5 > snr[2]


def test_the_bound_of_a_velocity_is_that_of_its_noise(tables):
    x0, eps, t = batch()
    a = level(t, tables, x0)
    x, said = noised(x0, eps, a), target(x0, eps, a, "v_prediction")
    assert denoising_loss(said, eps, x0, x, t, tables, prediction="v_prediction").item() == 0
    raw = torch.zeros_like(x0)
    both = [
        denoising_loss(torch.cat([part, raw], 1), eps, x0, x, t, tables, prediction=kind).item()
        for part, kind in ((eps, "epsilon"), (said, "v_prediction"))
    ]
    assert both[0] == pytest.approx(both[1], rel=1e-9)
    weights = snr_weights(tables, 5, "v_prediction")
    assert weights[-1].item() == 1 and weights[0].item() == pytest.approx(5 * (1 - a[0].item()), rel=1e-9)


def test_the_bound_teaches_the_variance_alone(tables):
    """The mean is detached in it: the noise half's gradient is that of the plain error (spec section 3)."""
    x0, eps, t = batch()
    x = noised(x0, eps, level(t, tables, eps))
    output = torch.zeros(3, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    total = denoising_loss(output, eps, x0, x, t, tables)
    total.backward()
    plain_output = torch.zeros(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    simple = denoising_loss(plain_output, eps, x0, x, t, tables)
    simple.backward()
    assert torch.equal(output.grad[:, :4], plain_output.grad)
    assert output.grad[:, 4:].abs().min() > 0
    bits = bound(output[:, :4], output[:, 4:], x0, x, t, tables).mean()  # weight 1 on the mean over samples, channels and pixels
    assert total.item() == pytest.approx((simple + bits).item(), rel=1e-12)
