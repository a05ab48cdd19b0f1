"""Time grids of a walk between clean and noise: which noise levels are visited and what time the network is told.

Notation (all of `graft_common.inversion`): index k is the number of solver steps still to go, so k = 0 is clean and
k = T is noise; alpha_k = sqrt(alphas_cumprod), sigma_k = sqrt(1 - alphas_cumprod), lambda_k = ln(alpha_k / sigma_k).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

Spacing = Literal["time", "integer", "lambda"]
Number = int | float  # the tests' type checker takes `float` at its word

# diffusers replaces a terminal alphas_cumprod of exactly 0 by 2**-24; both mean "no signal left".
NO_SIGNAL = 2.0**-24


@dataclass(frozen=True, eq=False)
class DpmGrid:
    """The T + 1 nodes of a walk; row k belongs to "k steps still to go" (0 = clean, T = noise).

    Attributes:
        time: (T+1,) time told to the network, in training steps (fractional unless the grid is an integer one).
        alpha: (T+1,) signal level in (0, 1].
        sigma: (T+1,) noise level in [0, 1); alpha^2 + sigma^2 = 1. Only a DDIM grid may hold a 0, at k = 0.
        lam: (T+1,) ln(alpha / sigma), strictly decreasing in k (+inf where sigma is 0).
    """

    time: Float64[Tensor, "nodes"]
    alpha: Float64[Tensor, "nodes"]
    sigma: Float64[Tensor, "nodes"]
    lam: Float64[Tensor, "nodes"]

    @property
    def steps(self) -> int:
        """T, the number of solver steps of a whole walk."""
        return self.time.shape[0] - 1


def dpm_grid(alphas_cumprod: Float[Tensor, "N"], steps: int, spacing: Spacing = "time") -> DpmGrid:
    """Nodes for DPM-Solver++ between the first and the last training step of a schedule.

    Args:
        alphas_cumprod: (N,) cumulative product of 1 - beta, strictly decreasing inside (0, 1); any N >= 2.
        steps: T >= 1.
        spacing: "time": equidistant fractional times (N-1) k/T with log alpha interpolated linearly (TF-ICON's grid, Lu
            et al. 2023, for N = 1000: t = 0.001 + 0.999 k/T); "integer": those times rounded, diffusers' "linspace";
            "lambda": equidistant in lambda between the same two ends (smallest round-trip error, see benchmarks).

    Raises:
        ValueError: steps out of range, an unknown spacing, or a schedule that is not strictly decreasing, touches 1, or
            ends without signal (zero terminal SNR: alpha = 0 makes lambda infinite, so there is no grid up to it).
    """
    table = _checked(alphas_cumprod)
    last = table.shape[0] - 1
    if steps < 1:
        raise ValueError(f"steps={steps}: a walk needs at least 1 step; pass steps >= 1")
    if spacing == "integer" and steps > last:
        raise ValueError(f"steps={steps}: an integer grid of {last + 1} training steps has at most {last}; use 'time'")
    log_alpha = 0.5 * table.log()
    fraction = torch.arange(steps + 1, dtype=torch.float64) / steps
    if spacing == "time":
        return _grid(last * fraction, _interpolate(last * fraction, log_alpha))
    if spacing == "integer":
        time = (last * fraction).round()
        return _grid(time, log_alpha[time.long()])
    if spacing == "lambda":
        ends = _lambda(log_alpha[[0, last]])
        lam = ends[0] + (ends[1] - ends[0]) * fraction
        at = -0.5 * torch.nn.functional.softplus(-2 * lam)  # ln alpha, from alpha^2 = 1 / (1 + exp(-2 lambda))
        at[[0, -1]] = log_alpha[[0, last]]  # the two ends are training steps: no rounding there
        return _grid(_time_of(at, log_alpha), at)
    raise ValueError(f"spacing={spacing!r} is unknown; choose 'time', 'integer' or 'lambda'")


def grid_from_scheduler(scheduler: Any, steps: int) -> DpmGrid:
    """The nodes that a diffusers `DPMSolverMultistep(Inverse)Scheduler` visits in `steps` steps.

    Only the settings under which its forward and inverse walks share one grid are taken; `dpm_walk` with the result
    gives the scheduler's numbers (below 15 steps only if it has lower_order_final=False). It is not changed.

    Raises:
        ValueError: any other setting, named with its value and the cure. The default `final_sigmas_type="zero"` is
            among them: it replaces the last node by sigma = 0, which the inverse walk cannot start from.
    """
    config = scheduler.config
    if "algorithm_type" not in config:
        raise ValueError(
            f"{type(scheduler).__name__} is no DPM-Solver; "
            "use dpm_grid(scheduler.alphas_cumprod, steps) or ddim_grid(scheduler, steps)"
        )
    wanted = {
        "final_sigmas_type": "sigma_min",  # absent from the inverse scheduler, which always ends at sigma_min
        "timestep_spacing": "linspace",
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lambda_min_clipped": -float("inf"),
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "thresholding": False,
    }
    for name, want in wanted.items():
        got = config.get(name, want)
        if got is not None and got != want:
            why = "; with it the forward and inverse grids do not match" if name == "final_sigmas_type" else ""
            raise ValueError(f"scheduler has {name}={got!r}{why}: build it with {name}={want!r}")
    return dpm_grid(scheduler.alphas_cumprod, steps, "integer")


def model_time(grid: DpmGrid, k: int, device: torch.device | str = "cpu") -> Float[Tensor, ""] | Int[Tensor, ""]:
    """Time at index k as a U-Net takes it: int64 on a grid of whole times, otherwise float32.

    Never the network's own half precision, which cannot tell 749.25 from 749.5.
    """
    whole = bool((grid.time == grid.time.round()).all())
    return grid.time[k].to(device=device, dtype=torch.int64 if whole else torch.float32)


def grid_of_nodes(time: Float64[Tensor, "nodes"], alphas_cumprod: Float64[Tensor, "nodes"]) -> DpmGrid:
    """The grid of given nodes, clean first. alphas_cumprod[0] may be 1 (no noise at all); a DDIM walk can start there.

    Raises:
        ValueError: levels that do not fall strictly, or end without signal.
    """
    _refuse_no_signal(alphas_cumprod)
    if not (alphas_cumprod[0] <= 1 and bool((alphas_cumprod.diff() < 0).all())):
        raise ValueError(
            f"noise levels of the nodes at times {time.tolist()} do not rise strictly; with steps_offset=0 build the "
            "scheduler with set_alpha_to_one=True"
        )
    return _grid(time, 0.5 * alphas_cumprod.log())


def _checked(alphas_cumprod: Tensor) -> Tensor:
    table = alphas_cumprod.detach().to(device="cpu", dtype=torch.float64)
    if table.ndim != 1 or table.shape[0] < 2:
        raise ValueError(f"alphas_cumprod has shape {tuple(table.shape)}; it must be one row of at least 2 values")
    _refuse_no_signal(table)
    if not (table[0] < 1 and bool((table.diff() < 0).all())):
        raise ValueError("alphas_cumprod must fall strictly from below 1; pass scheduler.alphas_cumprod unchanged")
    return table


def _refuse_no_signal(table: Tensor) -> None:
    if not table[-1] > NO_SIGNAL:
        raise ValueError(
            f"alphas_cumprod ends at {table[-1].item():.3g}: no signal is left there (zero terminal SNR), so the state "
            "holds nothing to walk back from; use a schedule with rescale_betas_zero_snr=False or drop its last values"
        )


def _lambda(log_alpha: Tensor) -> Tensor:
    return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))


def _grid(time: Tensor, log_alpha: Tensor) -> DpmGrid:
    sigma = torch.sqrt(-torch.expm1(2 * log_alpha))
    return DpmGrid(time=time, alpha=log_alpha.exp(), sigma=sigma, lam=_lambda(log_alpha))


def _interpolate(time: Tensor, values: Tensor) -> Tensor:
    low = time.floor().long().clamp(max=values.shape[0] - 2)
    return torch.lerp(values[low], values[low + 1], time - low)


def _time_of(log_alpha: Tensor, table: Tensor) -> Tensor:
    """Inverse of `_interpolate` for a strictly falling table."""
    low = torch.searchsorted(-table, -log_alpha).sub(1).clamp(0, table.shape[0] - 2)
    return low + (log_alpha - table[low]) / (table[low + 1] - table[low])
