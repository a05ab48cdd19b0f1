"""What a denoiser is trained on (spec section 3): mean square error of the noise, or of the velocity, and for a learned variance
the variational bound.

Times are training indices 0..N-1: index i is state i + 1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graft_common.noising import Prediction, noise_of, target

BIN = 1 / 255  # half a grey level, in the range [-1, 1]
EDGE = 2  # pixels along each side that zero padding disturbs most


@dataclass(frozen=True, eq=False)
class Chain:
    """Tables of the training schedule, float64 on the CPU, computed from its signal power; entry i is of index i.

    Attributes:
        abar: (N,) cumulative signal power.
        beta: (N,) share of noise added by a step.
        log_low, log_high: (N,) logarithms of the posterior variance (that of index 0 borrowed from index 1) and of beta.
        of_clean, of_state: (N,) the posterior mean is of_clean x_0 + of_state x_t.
    """

    abar: Float[Tensor, "N"]
    beta: Float[Tensor, "N"]
    log_low: Float[Tensor, "N"]
    log_high: Float[Tensor, "N"]
    of_clean: Float[Tensor, "N"]
    of_state: Float[Tensor, "N"]


def chain(betas: Float[Tensor, "N"]) -> Chain:
    """The tables of a schedule of two steps or more."""
    beta = betas.double()
    abar = torch.cumprod(1 - beta, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    posterior = beta * (1 - before) / (1 - abar)
    low = torch.cat([posterior[1:2], posterior[1:]]).log()
    return Chain(abar, beta, low, beta.log(), before.sqrt() * beta / (1 - abar), (1 - beta).sqrt() * (1 - before) / (1 - abar))


def log_variance(raw: Float[Tensor, "B C h w"], t: Int[Tensor, "B"], tables: Chain) -> Float[Tensor, "B C h w"]:
    """Learned range: log Sigma = v log beta + (1 - v) log posterior with v = (raw + 1) / 2 (spec 2.2, property 17)."""
    v = (raw + 1) / 2
    return v * _at(tables.log_high, t, raw) + (1 - v) * _at(tables.log_low, t, raw)


def bound(
    eps_hat: Float[Tensor, "B C h w"],
    raw: Float[Tensor, "B C h w"],
    x0: Float[Tensor, "B C h w"],
    x: Float[Tensor, "B C h w"],
    t: Int[Tensor, "B"],
    tables: Chain,
) -> Float[Tensor, "B C h w"]:
    """The term of the variational bound that belongs to t, in bits for each number; gradients reach `raw` alone.

    For index 0 it is the negative log likelihood of the grey level under the last Gaussian, with open bins at black and white.
    """
    a = _at(tables.abar, t, x)
    guess = (x - (1 - a).sqrt() * eps_hat.detach()) / a.sqrt()
    of_clean, of_state = _at(tables.of_clean, t, x), _at(tables.of_state, t, x)
    mean, truth = of_clean * guess + of_state * x, of_clean * x0 + of_state * x
    log_sigma, log_true = log_variance(raw, t, tables), _at(tables.log_low, t, x)
    divergence = 0.5 * (log_sigma - log_true - 1 + (log_true - log_sigma).exp() + (truth - mean) ** 2 * (-log_sigma).exp())
    decoder = -level_log_likelihood(x0, mean, 0.5 * log_sigma)
    return torch.where((t == 0).view(-1, 1, 1, 1), decoder, divergence) / math.log(2)


def level_log_likelihood(
    x0: Float[Tensor, "*s"], mean: Float[Tensor, "*s"], log_sigma: Float[Tensor, "*s"]
) -> Float[Tensor, "*s"]:
    """Natural logarithm of the probability that N(mean, sigma^2) gives to the grey level of x0 in [-1, 1]."""
    scale = (-log_sigma).exp()
    upper, lower = _phi((x0 - mean + BIN) * scale), _phi((x0 - mean - BIN) * scale)
    upper = torch.where(x0 > 1 - BIN / 2, torch.ones_like(upper), upper)
    lower = torch.where(x0 < -1 + BIN / 2, torch.zeros_like(lower), lower)
    return (upper - lower).clamp(min=1e-12).log()


def _phi(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def snr_weights(tables: Chain, gamma: float | int, prediction: Prediction = "epsilon") -> Float[Tensor, "N"]:
    """Weights that clamp what a clean time counts, as errors of x_0: for the noise min(snr, gamma) / snr (Hang et al. 2023, section
    3.4), for the velocity min(snr + 1, gamma) / (snr + 1), so that the noisy end keeps its own weight of 1."""
    snr = tables.abar / (1 - tables.abar)
    own = snr if prediction == "epsilon" else snr + 1
    return own.clamp(max=float(gamma)) / own


def denoising_loss(
    output: Float[Tensor, "B D h w"],
    eps: Float[Tensor, "B C h w"],
    x0: Float[Tensor, "B C h w"],
    x: Float[Tensor, "B C h w"],
    t: Int[Tensor, "B"],
    tables: Chain,
    *,
    prediction: Prediction = "epsilon",
    mask_weight: float | int = 1.0,
    edge_weight: float | int = 1.0,
    weights: Float[Tensor, "N"] | None = None,
) -> Float[Tensor, ""]:
    """Mean square error of `target`, plus the mean of `bound` in bits where the network also gives a variance (D = 2C).

    The weight 1 on bits of one step is the usual 0.001 T over the sum of 1000 steps (spec section 3).

    Args:
        output: of the network, float32; what it predicts first, then the variance.
        mask_weight: weight of the last channel's error against that of each other one (objects: the mask).
        edge_weight: weight of the error in the outermost EDGE pixels against that of each other one.
        weights: of each index; None weighs all alike. The bound is never weighed.
    """
    channels = x0.shape[1]
    said, a = output[:, :channels], level(t, tables, x)
    wrong = (said - target(x0, eps, a, prediction)) ** 2
    if mask_weight != 1:
        share = torch.ones(channels, dtype=wrong.dtype, device=wrong.device)
        share[-1] = float(mask_weight)
        wrong = wrong * (share / share.mean()).view(1, -1, 1, 1)
    if edge_weight != 1:
        share = torch.full(wrong.shape[-2:], float(edge_weight), dtype=wrong.dtype, device=wrong.device)
        share[EDGE:-EDGE, EDGE:-EDGE] = 1
        wrong = wrong * (share / share.mean())
    each = wrong.mean(dim=(1, 2, 3))
    total = each.mean() if weights is None else (_at(weights, t, each) * each).mean()
    if output.shape[1] == channels:
        return total
    return total + bound(noise_of(said, x, a, prediction), output[:, channels:], x0, x, t, tables).mean()


def level(t: Int[Tensor, "B"], tables: Chain, like: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 1 1 1"]:
    """Signal power of each sample's index, where and in the precision that `like` is."""
    return _at(tables.abar, t, like)


def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Entries of a table for each sample, shaped to broadcast against `like`."""
    return table.to(like.device)[t.to(like.device)].to(like.dtype).view(-1, *(1,) * (like.ndim - 1))
