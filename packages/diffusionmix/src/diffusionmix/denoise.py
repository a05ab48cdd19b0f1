"""Two (or more) chains from noise to clean, merging as they go: the loop of spec 2.6."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diffusionmix.chains import Chain, Known
from diffusionmix.config import MergeConfig
from diffusionmix.merging import blend, composite, exchange, mask_of
from diffusionmix.noise import MERGE, Noise
from diffusionmix.records import Snapshot
from diffusionmix.schedule import Plan
from diffusionmix.steps import noised
from diffusionmix.transfer import Transfer

Layers = list[Float[Tensor, "B C h w"]]


@dataclass(frozen=True, eq=False)
class Team:
    """The chains of a batch of pictures.

    Attributes:
        objects: object chains; each denoises one or more layers of every picture.
        layers: for each object chain, which layers (0 is the farthest).
        background: None to draw objects alone.
        transfers: the boxes of each layer; empty to draw a background alone.
        members: (layers, B) numbers that tell the objects of a picture apart.
        noise: of the batch.
    """

    objects: tuple[Chain | Known, ...]
    layers: tuple[tuple[int, ...], ...]
    background: Chain | Known | None
    transfers: tuple[Transfer, ...]
    members: tuple[tuple[int, ...], ...]
    noise: Noise

    def split(self, states: Sequence[Tensor]) -> Layers:
        """States of the object chains -> of the layers."""
        out: dict[int, Tensor] = {}
        for x, layers in zip(states, self.layers, strict=True):
            out |= dict(zip(layers, x.chunk(len(layers)), strict=True))
        return [out[k] for k in sorted(out)]

    def join(self, states: Sequence[Tensor]) -> list[Tensor]:
        """The way back."""
        return [torch.cat([states[k] for k in layers]) for layers in self.layers]


@dataclass(frozen=True, eq=False)
class Denoised:
    """Clean states.

    Attributes:
        objects: (B, C+1, S, S) of each layer.
        masks: (B, 1, S, S) of each layer, 0 or 1: where the last clean prediction's mask channel is above 0.
        background: (B, C, H, W), the picture; None where there is no background.
        covers: (B, 1, H, W) of each layer on the canvas as last merged; None where nothing was merged.
        calls: of each network that ran.
    """

    objects: tuple[Float[Tensor, "B C1 S S"], ...]
    masks: tuple[Float[Tensor, "B 1 S S"], ...]
    background: Float[Tensor, "B C H W"] | None
    covers: tuple[Float[Tensor, "B 1 H W"], ...] | None
    calls: int


@torch.no_grad()
def run(
    team: Team,
    plan: Plan,
    settings: MergeConfig,
    watch: Callable[[Snapshot], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Denoised:
    """Noise to clean.

    Args:
        settings: `mode`, `direction`, `mask_source` and `soft` are read here; which sampler steps is the chains' matter.
        watch: told what every reverse step saw.
        advance: called with 1 after every reverse step.
    """
    chains = [*team.objects] + ([team.background] if team.background is not None else [])
    count, last = len(team.objects), len(plan.times) - 1
    states = [chain.start() for chain in chains]
    guesses, covers = states, None
    for position, (t, u) in enumerate(pairwise(plan.times), 1):
        if u > t:
            states = [chain.climb(x, t, position) for chain, x in zip(chains, states, strict=True)]
            continue
        found = [chain.predict(x, t) for chain, x in zip(chains, states, strict=True)]
        guesses = [x0 for x0, _ in found]
        merging = plan.t_merge is not None and u <= plan.t_merge and team.background is not None and count > 0
        early = merging and settings.sampler != "ddpm"
        steered, covers_now = guesses, None
        if early:
            steered, covers_now = merge_clean(team, guesses, settings, position == last)
        own = [
            chain.step(z, raw, x, t, position) for chain, z, (_, raw), x in zip(chains, steered, found, states, strict=True)
        ]
        new = own
        if merging and not early:
            new, covers_now = merge_states(team, guesses, states, own, t, position, settings, position == last)
        if watch is not None and team.background is not None:
            watch(
                Snapshot(
                    position, u, tuple(team.split(new[:count])), new[-1], tuple(team.split(guesses[:count])), guesses[-1],
                    tuple(team.split(own[:count])), own[-1], None if covers_now is None else tuple(covers_now),
                )
            )  # fmt: skip
        states, covers = new, covers_now
        if advance is not None:
            advance(1)
    shown = team.split(guesses[:count])
    return Denoised(
        objects=tuple(team.split(states[:count])),
        masks=tuple(mask_of(x[:, -1:]) for x in shown),
        background=states[-1] if team.background is not None else None,
        covers=None if covers is None else tuple(covers),
        calls=max(chain.calls for chain in chains),
    )


def merge_clean(
    team: Team, guesses: Sequence[Tensor], settings: MergeConfig, final: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Clean predictions of all chains with the others' content in place, and the masks on the canvas (spec 6)."""
    layers = team.split(guesses[:-1])
    masks = [mask_of(x[:, -1:], settings.soft) for x in layers]
    covers = [tr.cover(m, settings.soft) for tr, m in zip(team.transfers, masks, strict=True)]
    views, placed = exchange([x[:, :-1] for x in layers], covers, guesses[-1], team.transfers)
    if settings.direction != "to-background":
        layers = [
            torch.cat([blend(m, x[:, :-1], view), x[:, -1:]], 1) for x, m, view in zip(layers, masks, views, strict=True)
        ]
    takes = final or settings.direction != "to-object"
    background = composite(guesses[-1], placed, covers) if takes else guesses[-1]
    return [*team.join(layers), background], covers


def merge_states(
    team: Team,
    guesses: Sequence[Tensor],
    before: Sequence[Tensor],
    own: Sequence[Tensor],
    t: int,
    position: int,
    settings: MergeConfig,
    final: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """New states of all chains with the others' content at the noise level of state t - 1, and the masks on the canvas (spec 2.3).

    Args:
        guesses: clean predictions of the step.
        before: states t.
        own: states t - 1 as each chain made them.
        t: the state that the step started from.
        position: index of the new state in the schedule, for the noise.
        final: the last step of all; with direction "to-object" the background receives the object only here.
    """
    u, assumed = t - 1, team.background
    assert assumed is not None
    clean_layers, own_layers = team.split(guesses[:-1]), team.split(own[:-1])
    source = clean_layers if settings.mask_source == "clean" else own_layers
    masks = [mask_of(x[:, -1:], settings.soft) for x in source]
    covers = [tr.cover(m, settings.soft) for tr, m in zip(team.transfers, masks, strict=True)]
    crossing = {"xstart": guesses, "direct": own, "literal": before}[settings.mode]
    layers = team.split(crossing[:-1])
    views, placed = exchange([x[:, :-1] for x in layers], covers, crossing[-1], team.transfers)
    if settings.mode != "direct":
        # eq. 9 as printed takes the level of t and a state for a clean picture (spec 2.4 #1, #2)
        level = u if settings.mode == "xstart" else t
        views = _renoised(views, level, team, position)
        if level:
            shape = tuple(placed[0].shape[1:])
            n = team.noise(MERGE, position, shape, [[0] * len(team.noise.seeds)])
            placed = [noised(p, level, assumed.tables, n) for p in placed]
    if settings.direction != "to-background":
        own_layers = [
            torch.cat([blend(m, x[:, :-1], view), x[:, -1:]], 1) for x, m, view in zip(own_layers, masks, views, strict=True)
        ]
    takes = final or settings.direction != "to-object"
    background = composite(own[-1], placed, covers) if takes else own[-1]
    return [*team.join(own_layers), background], covers


def _renoised(views: Sequence[Tensor], level: int, team: Team, position: int) -> Layers:
    """What each object is shown, at its own chain's noise level."""
    if not level:
        return list(views)
    tables = {k: chain.tables for chain, layers in zip(team.objects, team.layers, strict=True) for k in layers}
    out = []
    for k, view in enumerate(views):
        members = [[1 + member for member in team.members[k]]]
        out.append(noised(view, level, tables[k], team.noise(MERGE, position, tuple(view.shape[1:]), members)))
    return out
