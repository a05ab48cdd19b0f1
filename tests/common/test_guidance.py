"""Guidance against its formula, descent against closed-form quadratics (tficomp spec, check 11)."""

import pytest
import torch
from torch import nn

from graft_common.guidance import descend, frozen, guide


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("scale", [1, 2.5, 5, 7.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_predictions_are_left_alone(scale, dtype):
    e = normal(2, 4, 8, 8, dtype=dtype)
    assert (guide(e, e.clone(), scale) - e).abs().max() < 1e-5


def test_guide_is_the_formula():
    u, a, b = (normal(2, 4, 3, 3, seed=s, dtype=torch.float64) for s in (1, 2, 3))
    assert torch.allclose(guide(u, a, 7.5), -6.5 * u + 7.5 * a, atol=1e-12)
    assert torch.allclose(guide(u, [a, b], [2.0, 0.5]), u + 2 * (a - u) + 0.5 * (b - u), atol=1e-12)
    assert torch.equal(guide(u, a, 0), u)


def test_guide_does_not_amplify_half_precision_rounding():
    u, c = normal(4096, seed=1, dtype=torch.bfloat16), normal(4096, seed=2, dtype=torch.bfloat16)
    exact = u.double() + 7.5 * (c.double() - u.double())
    got = guide(u, c, 7.5)
    assert got.dtype == torch.float32 and (got - exact).abs().max() < 1e-5


def test_guide_wants_one_scale_per_condition():
    with pytest.raises(ValueError, match="2 conditions and 1 scales"):
        guide(torch.zeros(1), [torch.zeros(1)] * 2, 3.0)


CURVATURE = torch.tensor([1.0, 4.0, 0.5])


def bowl(z):
    """Sample b's loss is c_b / 2 |z_b|^2, so a step of size s multiplies z_b by 1 - s c_b."""
    return 0.5 * CURVATURE[: len(z)] * z.square().flatten(1).sum(1)


def test_descent_is_gradient_descent_per_sample():
    z = normal(3, 2, 5)
    got = descend(z, bowl, step_size=0.1, iterations=4)
    assert torch.allclose(got.latent, (1 - 0.1 * CURVATURE)[:, None, None] ** 4 * z, atol=1e-6)
    assert torch.allclose(
        got.losses, torch.stack([bowl((1 - 0.1 * CURVATURE)[:, None, None] ** i * z) for i in range(4)])
    )
    assert not got.latent.requires_grad
    own = descend(z, bowl, step_size=1 / CURVATURE, iterations=1)
    assert own.latent.abs().max() < 1e-6


def test_a_sample_does_not_feel_its_batch():
    z = normal(3, 2, 5)
    both, alone = descend(z, bowl, 0.1, 3), descend(z[:1], bowl, 0.1, 3)
    assert torch.equal(both.latent[:1], alone.latent)


def test_threshold_stops_each_sample_by_itself():
    z = torch.ones(3, 1, 2) * torch.tensor([0.1, 1.0, 2.0])[:, None, None]
    got = descend(z, lambda z: z.square().flatten(1).sum(1), 0.25, iterations=50, threshold=0.03)
    assert torch.equal(got.latent[0], z[0])  # began below the threshold
    assert got.losses.shape[0] == 6 and bool((got.losses[-1] <= 0.03).all())  # 8, 2, .5, .125, .031, .008
    assert torch.allclose(got.losses[:, 2], 8 * 0.25 ** torch.arange(6.0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_descent_works_inside_gradient_free_code(mode):
    with mode():
        z = normal(3, 2, 5).clone()
        got = descend(z, bowl, 0.1, 1).latent
    assert torch.allclose(got, (1 - 0.1 * CURVATURE)[:, None, None] * normal(3, 2, 5), atol=1e-6)


def test_parameters_are_frozen_meanwhile_and_restored():
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 1))
    net[1].bias.requires_grad_(False)
    was, seen = [p.requires_grad for p in net.parameters()], []

    def loss(z):
        seen.append([p.requires_grad for p in net.parameters()])
        return net(z).square().flatten(1).sum(1)

    z = normal(3, 5)
    got = descend(z, loss, 0.1, 1, modules=[net])
    assert seen == [[False] * 4] and [p.requires_grad for p in net.parameters()] == was == [True, True, True, False]
    assert all(p.grad is None for p in net.parameters())
    w = (net[1].weight @ net[0].weight).detach()
    with torch.no_grad():
        want = z - 0.2 * net(z) * w
    assert torch.allclose(got.latent, want, atol=1e-6)
    with pytest.raises(RuntimeError), frozen(net):
        raise RuntimeError
    assert [p.requires_grad for p in net.parameters()] == was


def test_no_iterations_is_no_change():
    z = normal(2, 3)
    got = descend(z, bowl, 0.1, 0)
    assert torch.equal(got.latent, z) and got.losses.shape == (0, 2)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda z: z.square().sum(), r"shape \(\)"),
        (lambda z: z.detach().square().sum(1), "depends on the latent: False"),
        (lambda z: z.sum(1) / 0, "not finite at iteration 0"),
        (lambda z: (z + 1).abs().sqrt().sum(1), "not finite at iteration 0"),
    ],
)
def test_bad_losses_are_refused(loss, why):
    with pytest.raises(ValueError, match=why):
        descend(-torch.ones(2, 3), loss)
