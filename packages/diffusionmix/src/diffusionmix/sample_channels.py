"""Objects with their mask channel as it came out, which says how decided a mask is; `sample_objects` returns it cut at 0."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from diffusionmix.chains import Chain
from diffusionmix.compose import decoded
from diffusionmix.config import ChainConfig, MergeConfig
from diffusionmix.denoise import Team, run
from diffusionmix.noise import OBJECT, Noise
from diffusionmix.records import Mix
from diffusionmix.schedule import plan
from diffusionmix.solvers import Solver, tables_of


def sample_channels(
    mix: Mix, seeds: Sequence[int], labels: Sequence[int] | None, settings: ChainConfig
) -> tuple[UInt8[np.ndarray, "n S S 3"], Bool[np.ndarray, "n S S"], Float32[np.ndarray, "n s s"]]:
    """Pictures and masks as `sample_objects` draws them with these seeds, and the clean mask channel, about -1 to 1."""
    net, count = mix.object, len(seeds)
    noise = Noise(tuple(seeds), None, net.device)
    tables = tables_of(net, settings.sampler, settings.states)
    solver = None if settings.sampler == "ddpm" else Solver(settings.sampler, net, tables)
    numbers = torch.tensor(list(labels), device=net.device) if labels is not None and net.classes else None
    rows = ((0,) * count,)
    chain = Chain(net, tables, rows, OBJECT, noise, numbers, solver)
    team = Team((chain,), ((0,),), None, (), rows, noise)
    settled = MergeConfig(sampler=settings.sampler, steps=settings.steps)
    done = run(team, plan(settings.states, 0, None, 0, None), settled)
    images = np.stack(decoded(mix, done.objects[0][:, :-1]))
    cells = done.masks[0][:, 0].cpu().numpy() >= 0.5
    masks = np.kron(cells, np.ones((1, mix.factor, mix.factor), bool))
    return images, masks, done.objects[0][:, -1].float().cpu().numpy()
