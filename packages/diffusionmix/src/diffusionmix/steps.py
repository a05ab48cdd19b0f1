"""One move of one chain: clean prediction, DDPM's reverse step, forward noising (spec 2.1, 2.2)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from diffusionmix.respace import Tables

State = Float[Tensor, "B C h w"]


def clean(output: State, x: State, t: int, tables: Tables, prediction: str, clip: bool) -> State:
    """x0 from the network's output at state t, cut to [-1, 1] where `clip`.

    Args:
        output: what was predicted: "epsilon", "sample" or "v_prediction"; without a variance half.
    """
    a, s = math.sqrt(tables.abar[t]), math.sqrt(1 - tables.abar[t])
    if prediction == "epsilon":
        x0 = (x - s * output) / a
    elif prediction == "v_prediction":
        x0 = a * x - s * output
    else:
        x0 = output
    return x0.clamp(-1, 1) if clip else x0


def mean(x0: State, x: State, t: int, tables: Tables) -> State:
    """Mean of x_{t-1} given x_t and x0; exactly x0 at t = 1."""
    before, here = tables.abar[t - 1], tables.abar[t]
    of_clean = math.sqrt(before) * tables.beta[t] / (1 - here)
    of_state = math.sqrt(1 - tables.beta[t]) * (1 - before) / (1 - here)
    if t == 1:  # both factors are 1 and 0 but for rounding
        return x0
    return float(of_clean) * x0 + float(of_state) * x


def log_range(t: int, tables: Tables) -> tuple[float, float]:
    """Logarithms of the smallest and the largest variance of a learned-range step; state 1 borrows the smallest of state 2."""
    low = tables.posterior[max(t, 2)] if tables.states > 1 else tables.beta[t]
    return math.log(low), math.log(tables.beta[t])


def deviation(raw: State | None, t: int, tables: Tables, variance: str) -> State | float:
    """Standard deviation of the noise of the step from t.

    Args:
        raw: the network's variance half for "learned_range", in which -1 is the smallest and 1 the largest variance.
        variance: "fixed_small" (posterior), "fixed_large" (beta) or "learned_range".
    """
    if variance == "learned_range":
        assert raw is not None
        low, high = log_range(t, tables)
        share = (raw.float() + 1) / 2
        return torch.exp(0.5 * (share * high + (1 - share) * low))
    return math.sqrt(tables.posterior[t] if variance == "fixed_small" else tables.beta[t])


def reverse(x0: State, x: State, t: int, tables: Tables, spread: State | float, noise: State | None) -> State:
    """x_{t-1} from x_t; without noise at t = 1."""
    new = mean(x0, x, t, tables)
    return new if t == 1 or noise is None else new + spread * noise


def noised(x0: State, t: int, tables: Tables, noise: State | None) -> State:
    """A sample of state t given the clean picture; the picture itself at t = 0."""
    if t == 0 or noise is None:
        return x0
    return math.sqrt(tables.abar[t]) * x0 + math.sqrt(1 - tables.abar[t]) * noise


def forward(x: State, t: int, tables: Tables, noise: State) -> State:
    """x_{t+1} from x_t: one state towards noise."""
    return math.sqrt(1 - tables.beta[t + 1]) * x + math.sqrt(tables.beta[t + 1]) * noise
