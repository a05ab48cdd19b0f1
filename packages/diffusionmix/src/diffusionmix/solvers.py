"""diffusers' deterministic solvers on our states: given the clean prediction of state t, they step to t - 1.

They are told `prediction_type="sample"`, so that x0 (merged, clipped, without a variance half) is ours. As the libraries stand,
DDIM and UniPC raise on outputs with a variance half and DPM-Solver++ cuts them to three channels.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffusionmix.records import Net
from diffusionmix.respace import Tables, respace


def tables_of(net: Net, sampler: str, T: int) -> Tables:
    """The states of a sampler: DDPM and DDIM reach training index 0, the multistep solvers go from their last node to clean."""
    return respace(net.alphas_cumprod, T, from_zero=sampler in ("ddpm", "ddim"))


class Solver:
    """A diffusers scheduler over states T..0.

    Multistep solvers remember earlier predictions; `restart` forgets them, as is due after every climb.
    """

    def __init__(self, sampler: str, net: Net, tables: Tables) -> None:
        self.T = tables.states
        self.scheduler, self.times = _scheduler(sampler, net, tables)
        self.restart(self.T)

    def restart(self, t: int) -> None:
        """Forget all history; the next step starts from state t."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers turns tensors into arrays in numpy's old way
            self.scheduler.set_timesteps(self.T)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(self.T - t)

    def step(self, x0: Float[Tensor, "B C h w"], x: Float[Tensor, "B C h w"], t: int) -> Float[Tensor, "B C h w"]:
        """x_{t-1}."""
        return self.scheduler.step(x0, self.times[self.T - t], x, return_dict=False)[0]


def _scheduler(sampler: str, net: Net, tables: Tables) -> tuple[Any, list[int]]:
    import diffusers

    shared: dict[str, Any] = {"prediction_type": "sample", "timestep_spacing": "linspace"}
    if sampler == "ddim":
        # on the kept states alone: over all training steps, diffusers' "previous" step N // T misses the next node of "linspace"
        shared |= {"num_train_timesteps": tables.states, "trained_betas": tables.beta[1:].tolist()}
        scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, **shared)
        scheduler.alphas_cumprod = torch.from_numpy(tables.abar[1:].copy())
        return scheduler, list(range(tables.states - 1, -1, -1))
    alphas = net.alphas_cumprod
    betas = [float(1 - alphas[0]), *(1 - alphas[1:] / alphas[:-1]).tolist()]
    shared |= {"num_train_timesteps": len(betas), "trained_betas": betas, "solver_order": 2, "final_sigmas_type": "zero"}
    if sampler == "dpm++":
        scheduler = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_type="midpoint", **shared)
    else:
        scheduler = diffusers.UniPCMultistepScheduler(solver_type="bh2", predict_x0=True, **shared)
    return scheduler, tables.index[:0:-1].tolist()
