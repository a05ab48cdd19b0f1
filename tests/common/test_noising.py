"""Targets of denoisers against diffusers' own, and back."""

import pytest
import torch
from diffusers import DDPMScheduler

from graft_common.noising import noise_of, noised, target


def test_states_and_velocities_are_those_of_diffusers() -> None:
    gen = torch.Generator().manual_seed(3)
    x0, eps = (torch.randn(4, 3, 5, 5, generator=gen, dtype=torch.float64) for _ in range(2))
    schedule, t = DDPMScheduler(1000, beta_schedule="scaled_linear"), torch.tensor([0, 250, 700, 999])
    abar = schedule.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    x = noised(x0, eps, abar)
    assert torch.allclose(x, schedule.add_noise(x0, eps, t), atol=1e-6)
    assert target(x0, eps, abar, "epsilon") is eps
    velocity = target(x0, eps, abar, "v_prediction")
    assert torch.allclose(velocity, schedule.get_velocity(x0, eps, t), atol=1e-6)
    assert torch.allclose(abar.sqrt() * x - (1 - abar).sqrt() * velocity, x0, atol=1e-12)
    for kind, said in (("epsilon", eps), ("v_prediction", velocity)):
        assert torch.allclose(noise_of(said, x, abar, kind), eps, atol=1e-12)
    with pytest.raises(ValueError, match="must be epsilon or v_prediction"):
        target(x0, eps, abar, "sample")
