"""DDIM (Song et al. 2021) as one move that serves both directions, and the walk made of it."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.inversion.dpm import After, walk_indices
from graft_common.inversion.schedule import DpmGrid, grid_of_nodes

Noise = Callable[[Tensor, int], Tensor]  # (state, index k) -> predicted noise of the same shape


def ddim_grid(scheduler: Any, steps: int) -> DpmGrid:
    """The nodes that diffusers' `DDIMScheduler` and `DDIMInverseScheduler` visit in `steps` steps.

    The clean node (k = 0) is the scheduler's final level, alphas_cumprod[0] or (`set_alpha_to_one`) 1; its time is 0.
    The scheduler itself is not changed.

    Raises:
        ValueError: settings under which diffusers' own steps leave its grid (spacing "linspace", or "trailing" with a
            step count that does not divide the schedule), clipping, zero terminal SNR, or too many steps.
    """
    config, table = scheduler.config, scheduler.alphas_cumprod.double()
    total = table.shape[0]
    spacing = config.get("timestep_spacing", "leading")
    if not 1 <= steps <= total:
        raise ValueError(f"steps={steps}: this schedule of {total} training steps takes 1 to {total}")
    if config.get("clip_sample", False) or config.get("thresholding", False):
        raise ValueError(
            "scheduler clips its clean prediction, which cannot be walked back; "
            "build it with clip_sample=False, thresholding=False"
        )
    if spacing not in ("leading", "trailing") or (spacing == "trailing" and total % steps):
        raise ValueError(
            f"timestep_spacing={spacing!r} with {steps} steps of {total}: diffusers' DDIM steps miss its own nodes; "
            "build the scheduler with timestep_spacing='leading'"
        )
    stride = total // steps
    time = torch.arange(steps, dtype=torch.float64) * stride
    time = time + (config.get("steps_offset", 0) if spacing == "leading" else stride - 1)
    if time[-1] >= total:
        raise ValueError(
            f"steps_offset={config.get('steps_offset')} leads past the last training step {total - 1}; "
            "lower it or take fewer steps"
        )
    clean = table.new_ones(1) if config.get("set_alpha_to_one", True) else table[:1]
    return grid_of_nodes(torch.cat([time.new_zeros(1), time]), torch.cat([clean, table[time.long()]]))


def ddim_move(
    x: Float[Tensor, "*shape"], eps: Float[Tensor, "*shape"], s: int, t: int, grid: DpmGrid
) -> Float[Tensor, "*shape"]:
    """Move the state from index s to index t along predicted noise eps (Song et al. 2021, eq. 12 without variance)."""
    clean = (x - float(grid.sigma[s]) * eps) / float(grid.alpha[s])
    return float(grid.alpha[t]) * clean + float(grid.sigma[t]) * eps


def ddim_walk(
    eps: Noise,
    x: Float[Tensor, "*shape"],
    grid: DpmGrid,
    invert: bool = False,
    *,
    at: Literal["source", "target"] = "source",
    start: int | None = None,
    stop: int | None = None,
    after: After | None = None,
) -> Float[Tensor, "rows *shape"]:
    """Walk from noise to clean, or with `invert` from clean to noise; returns every state, row 0 the start.

    Args:
        eps: (state, k) -> predicted noise; called once per step; may return any float dtype.
        x: start state; kept in float64 if it is float64, otherwise float32.
        at: where an inversion step asks for its noise. "source" is the plain reverse of the ODE step; "target" tells
            the network the time of the node being walked to, as diffusers' `DDIMInverseScheduler` and null-text
            inversion do, and comes back closer (2.6 times on the mixture toy at T = 20).
        start, stop: indices k; default the whole grid.
        after: applied to every new state; what it returns is stored and walked on from.

    Raises:
        ValueError: start or stop out of range or against the direction, "target" for sampling.
    """
    if at == "target" and not invert:
        raise ValueError("at='target' is for inversion; sampling asks for noise where it stands, pass at='source'")
    x = x if x.dtype == torch.float64 else x.float()
    states = [x]
    for s, t in pairwise(walk_indices(grid, invert, start, stop)):
        e = eps(x, t if at == "target" else s).to(x.dtype)
        x = ddim_move(x, e, s, t, grid)
        x = x if after is None else after(x, t)
        states.append(x)
    return torch.stack(states)
