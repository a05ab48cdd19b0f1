"""DPM-Solver++ (2M, Lu et al. 2022) as one move that serves both directions.

From node s to node t with h = lambda_t - lambda_s and m the clean prediction at s (Lu et al. 2022, algorithm 2):

    x_t = (sigma_t / sigma_s) x_s - alpha_t (exp(-h) - 1) D
    D   = m                                                      order 1, and the first step of every walk
    D   = m + (m - m_prev) / (2 r),  r = (lambda_s - lambda_prev) / h      order 2

Sampling walks with falling noise (h > 0), inversion with rising noise (h < 0); nothing else differs. Coefficients are
float64 numbers; the state is at least float32 whatever precision the network runs in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.inversion.schedule import DpmGrid, Number

Prediction = Literal["epsilon", "v_prediction", "sample"]
Clean = Callable[[Tensor, int], Tensor]  # (state, index k) -> clean prediction of the same shape
After = Callable[[Tensor, int], Tensor]  # (new state, its index k) -> state to go on with


@dataclass(frozen=True, eq=False)
class DpmMemory:
    """What a second-order step remembers: the last clean prediction and the index where it was made."""

    clean: Float[Tensor, "*shape"]
    index: int


@dataclass(frozen=True, eq=False)
class DpmRun:
    """A walk and what resumes it: states (steps+1, *shape), row 0 the start; memory is None before any step."""

    states: Float[Tensor, "rows *shape"]
    memory: DpmMemory | None


def clean_from_model(
    output: Float[Tensor, "*shape"],
    x: Float[Tensor, "*shape"],
    alpha: Number | Float[Tensor, ""],
    sigma: Number | Float[Tensor, ""],
    prediction_type: Prediction | str = "epsilon",
) -> Float[Tensor, "*shape"]:
    """Clean prediction m from what a network of the given kind returned at state x, in x's precision.

    epsilon: (x - sigma e) / alpha; v_prediction: alpha x - sigma v (Salimans & Ho 2022); sample: the output itself.

    Raises:
        ValueError: unknown prediction_type.
    """
    output = output.to(x.dtype)
    if prediction_type == "epsilon":
        return (x - float(sigma) * output) / float(alpha)
    if prediction_type == "v_prediction":
        return float(alpha) * x - float(sigma) * output
    if prediction_type == "sample":
        return output
    raise ValueError(f"prediction_type={prediction_type!r} is unknown; choose 'epsilon', 'v_prediction' or 'sample'")


def dpm_step(
    x: Float[Tensor, "*shape"],
    m: Float[Tensor, "*shape"],
    m_prev: Float[Tensor, "*shape"] | None,
    s: int,
    t: int,
    prev: int | None,
    grid: DpmGrid,
) -> Float[Tensor, "*shape"]:
    """One move of the state from index s to index t, in either direction.

    Args:
        x: state at s. m: clean prediction at s.
        m_prev: clean prediction at index `prev`, or None for an order-1 step.

    Raises:
        ValueError: a second-order step whose three indices are not three different nodes.
    """
    scale, gain, mix = _coefficients(s, t, prev if m_prev is not None else None, grid)
    blend = m if m_prev is None else m + mix * (m - m_prev)
    return scale * x - gain * blend


def dpm_walk(
    clean: Clean,
    x: Float[Tensor, "*shape"],
    grid: DpmGrid,
    order: int = 2,
    invert: bool = False,
    *,
    start: int | None = None,
    stop: int | None = None,
    after: After | None = None,
    memory: DpmMemory | None = None,
) -> Float[Tensor, "rows *shape"]:
    """Walk from noise to clean, or with `invert` from clean to noise; returns every state, row 0 the start.

    Row j is the state j steps into the walk, so a whole sampling walk has k = T - j and a whole inversion k = j.
    `clean` is called |stop - start| times, at every node but the last. Gradients flow if `clean` lets them: wrap the
    network in `torch.no_grad` inside it otherwise.

    Args:
        clean: (state, k) -> clean prediction m; may return any float dtype.
        x: start state, any shape; kept in float64 if it is float64, otherwise float32.
        order: 1 (equals DDIM) or 2.
        start, stop: indices k; default the whole grid (T to 0, with `invert` 0 to T).
        after: applied to every new state; what it returns is stored and walked on from.
        memory: makes the first step second order (a walk without it starts with one order-1 step).

    Raises:
        ValueError: order, start or stop out of range or against the direction; memory made at `start` itself.
    """
    return dpm_run(clean, x, grid, order, invert, start=start, stop=stop, after=after, memory=memory).states


def dpm_run(
    clean: Clean,
    x: Float[Tensor, "*shape"],
    grid: DpmGrid,
    order: int = 2,
    invert: bool = False,
    *,
    start: int | None = None,
    stop: int | None = None,
    after: After | None = None,
    memory: DpmMemory | None = None,
) -> DpmRun:
    """`dpm_walk` that also returns the memory, so that a later walk can resume exactly where this one ended."""
    if order not in (1, 2):
        raise ValueError(f"order={order} is not offered; choose 1 or 2")
    path = walk_indices(grid, invert, start, stop)
    x = x if x.dtype == torch.float64 else x.float()
    states = [x]
    for s, t in pairwise(path):
        m = clean(x, s).to(x.dtype)
        old = memory if order == 2 else None
        x = dpm_step(x, m, None if old is None else old.clean, s, t, None if old is None else old.index, grid)
        x = x if after is None else after(x, t)
        memory = DpmMemory(m, s)
        states.append(x)
    return DpmRun(torch.stack(states), memory)


def walk_indices(grid: DpmGrid, invert: bool, start: int | None = None, stop: int | None = None) -> list[int]:
    """Indices k that a walk visits, both ends included. Raises ValueError if they leave the grid or the direction."""
    first = (0 if invert else grid.steps) if start is None else start
    final = (grid.steps if invert else 0) if stop is None else stop
    stride = 1 if invert else -1
    if not (0 <= first <= grid.steps and 0 <= final <= grid.steps):
        raise ValueError(f"start={first}, stop={final}: this grid has indices 0 (clean) to {grid.steps} (noise)")
    if (final - first) * stride < 0:
        raise ValueError(
            f"start={first}, stop={final}: {'inversion goes up' if invert else 'sampling goes down'} in k; swap them"
        )
    return list(range(first, final + stride, stride))


def _coefficients(s: int, t: int, prev: int | None, grid: DpmGrid) -> tuple[float, float, float]:
    """(factor of x_s, factor of D, factor of m - m_prev)."""
    h = float(grid.lam[t] - grid.lam[s])
    scale, gain = float(grid.sigma[t] / grid.sigma[s]), float(grid.alpha[t]) * math.expm1(-h)
    if prev is None:
        return scale, gain, 0.0
    past = float(grid.lam[s] - grid.lam[prev])
    if h == 0 or past == 0:
        raise ValueError(
            f"indices s={s}, t={t}, prev={prev} must be three different nodes; memory must be older than the state"
        )
    return scale, gain, h / (2 * past)
