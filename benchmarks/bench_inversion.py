"""Round-trip error and time of Graft's inversion walks beside the diffusers scheduler loops, in the same run.

Error lines: RMS between clean data and its inversion sampled back, float64, exact denoisers of a Gaussian and of a
three-mode mixture (tficomp spec, section 9), with the network calls of the whole round trip. Time lines: one round trip
of a latent through a network that costs nothing, so what is timed is the solver and its loop.
"""

import argparse
import json
import warnings
from collections.abc import Callable

import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepInverseScheduler,
    DPMSolverMultistepScheduler,
)
from torch import Tensor

from graft_common.inversion import (
    clean_from_model,
    ddim_grid,
    ddim_invert_refined,
    ddim_walk,
    dpm_grid,
    dpm_invert_refined,
    dpm_walk,
)
from timer import measure, report

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TOYS = {"gaussian": ((1.0,), (0.1,), 0.9), "mixture": ((0.3, 0.4, 0.3), (-1.0, 0.2, 1.2), 0.25)}
Network = Callable[[Tensor, float], Tensor]  # (state, fractional training time) -> predicted noise


def draws(toy: tuple, n: int) -> Tensor:
    weights, means, std = toy
    gen = torch.Generator().manual_seed(0)
    which = torch.multinomial(torch.tensor(weights), n, replacement=True, generator=gen)
    return torch.tensor(means, dtype=torch.float64)[which] + std * torch.randn(n, dtype=torch.float64, generator=gen)


def toy_network(toy: tuple, alphas: Tensor) -> Network:
    """Exact noise prediction, levels between training steps as in `dpm_grid` (log alpha linear in time)."""
    weights, means, std = (torch.tensor(v, dtype=torch.float64) for v in toy)
    log_alpha = 0.5 * alphas.double().log()

    def network(x: Tensor, time: float) -> Tensor:
        low = min(int(time), len(log_alpha) - 2)
        a = torch.lerp(log_alpha[low], log_alpha[low + 1], torch.tensor(time - low, dtype=torch.float64)).exp()
        var, away = a**2 * std**2 + 1 - a**2, x[..., None] - a * means
        share = torch.softmax(weights.log() - away**2 / (2 * var), -1)
        return (x - a * (share * (means + a * std**2 * away / var)).sum(-1)) / (1 - a**2).sqrt()

    return network


def diffusers_trip(x: Tensor, network: Network, steps: int, inverse, forward) -> Tensor:
    """Inversion and sampling as pipelines write them: the scheduler's own times and steps."""
    for scheduler in (inverse, forward):
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, int(t)), t, x).prev_sample
    return x


def dpm_pair(last: str) -> tuple:
    return DPMSolverMultistepInverseScheduler(**SD), DPMSolverMultistepScheduler(**SD, final_sigmas_type=last)


def ddim_pair() -> tuple:
    shipped = SD | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    return DDIMInverseScheduler(**shipped), DDIMScheduler(**shipped)


def trips(x: Tensor, network: Network, steps: int) -> dict[str, Callable[[], Tensor]]:
    """Every way of going to noise and back; each returns the reconstruction."""
    alphas, ddim = DDIMScheduler(**SD).alphas_cumprod, ddim_grid(ddim_pair()[1], steps)

    def eps(grid):
        return lambda x, k: network(x, float(grid.time[k]))

    def clean(grid):
        return lambda x, k: clean_from_model(network(x, float(grid.time[k])), x, grid.alpha[k], grid.sigma[k])

    def dpm(spacing, order=2, rounds=None):
        def run():
            grid = dpm_grid(alphas, steps, spacing)
            if rounds is None:
                noise = dpm_walk(clean(grid), x, grid, order, invert=True)[-1]
            else:
                noise = dpm_invert_refined(clean(grid), x, grid, order, rounds).states[-1]
            return dpm_walk(clean(grid), noise, grid, order)[-1]

        return run

    def ddim_at(at):
        return lambda: ddim_walk(eps(ddim), ddim_walk(eps(ddim), x, ddim, True, at=at)[-1], ddim)[-1]

    def ddim_fixed(n):
        return lambda: ddim_walk(eps(ddim), ddim_invert_refined(eps(ddim), x, ddim, n, 0.7)[-1], ddim)[-1]

    return {
        "diffusers dpm, sigma_min": lambda: diffusers_trip(x, network, steps, *dpm_pair("sigma_min")),
        "diffusers dpm, default zero": lambda: diffusers_trip(x, network, steps, *dpm_pair("zero")),
        "diffusers ddim": lambda: diffusers_trip(x, network, steps, *ddim_pair()),
        "dpm order 1, time": dpm("time", 1),
        "dpm, integer": dpm("integer"),
        "dpm, time": dpm("time"),
        "dpm, lambda": dpm("lambda"),
        "dpm, time, 3 corrections": dpm("time", rounds=3),
        "dpm, lambda, 3 corrections": dpm("lambda", rounds=3),
        "ddim, source": ddim_at("source"),
        "ddim, target": ddim_at("target"),
        "ddim, 5 fixed-point iterations": ddim_fixed(5),
        "ddim, 20 fixed-point iterations": ddim_fixed(20),
    }


def errors(steps: int, values: int) -> None:
    """Print one JSON line per toy and case; `ratio` is against diffusers' matched DPM pair."""
    alphas = DDIMScheduler(**SD).alphas_cumprod
    for name, toy in TOYS.items():
        x, exact, calls = draws(toy, values), toy_network(toy, alphas), [0]

        def network(x: Tensor, time: float, exact: Network = exact, calls: list[int] = calls) -> Tensor:
            calls[0] += 1
            return exact(x, time)

        base = 0.0
        for case, run in trips(x, network, steps).items():
            calls[0] = 0
            rms = (run() - x).square().mean().sqrt().item()
            base = base or rms
            line = {"bench": "inversion_error", "case": case, "toy": name, "steps": steps, "values": values}
            print(
                json.dumps(line | {"rms": float(f"{rms:.3g}"), "ratio": float(f"{rms / base:.3g}"), "calls": calls[0]}),
                flush=True,
            )


def main(argv: list[str] | None = None) -> None:
    """Error lines for each step count, then time lines against diffusers' matched DPM pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40])
    parser.add_argument("--values", type=int, default=20_000, help="draws per toy")
    parser.add_argument("--device", default="cpu", help="for the time lines; errors are float64 on the CPU")
    parser.add_argument("--repeats", type=int, default=5, help="timed round trips per case, at least 5")
    args = parser.parse_args(argv)
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # diffusers under numpy 2
    for steps in args.steps:
        errors(steps, args.values)
    shape = (1, 4, 64, 64)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(args.device)
    free = trips(x, lambda x, time: x, 20)
    chosen = ("diffusers dpm, sigma_min", "diffusers ddim", "dpm, time", "ddim, source")
    timings = [measure(f"inversion, {c}", free[c], str(shape), args.device, x.dtype, args.repeats) for c in chosen]
    report(timings, f"inversion, {chosen[0]}")


if __name__ == "__main__":
    main()
