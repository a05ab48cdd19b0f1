"""Latents -> Composed: invert, sample back, compose (spec 2.5, 2.6). The loops read as the paper."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.bundle import Bundle
from graft_common.guidance import guide
from graft_common.inversion import DpmGrid, DpmMemory, clean_from_model, dpm_run, dpm_step, dpm_walk, model_time
from tficomp.config import MethodConfig
from tficomp.records import Latents

Clean = Callable[[Tensor, int, Tensor], Tensor]
States = dict[int, Tensor]


@dataclass
class Denoiser:
    """The network as "clean prediction at index k under a condition"; counts what it costs.

    Attributes:
        calls, items: network calls and pictures in them, so far.
    """

    bundle: Bundle
    grid: DpmGrid
    calls: int = 0
    items: int = 0
    network: Callable | None = field(default=None, repr=False)

    @torch.no_grad()
    def output(self, x: Float[Tensor, "B c h w"], k: int, context: Float[Tensor, "C L D"]) -> Float[Tensor, "B c h w"]:
        """The raw network output; one condition serves the whole batch when C is 1."""
        self.calls += 1
        self.items += len(x)
        words = context.expand(len(x), -1, -1).to(self.bundle.dtype)
        unet = self.network or self.bundle.unet
        return unet(x.to(self.bundle.dtype), model_time(self.grid, k, x.device), encoder_hidden_states=words).sample

    def clean(self, x: Float[Tensor, "B c h w"], k: int, output: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """Clean prediction m from an output at state x, in the state's precision."""
        return clean_from_model(output, x, self.grid.alpha[k], self.grid.sigma[k], self.bundle.prediction_type)

    def plain(self, context: Tensor) -> Callable[[Tensor, int], Tensor]:
        """m(x, k) under one condition, no guidance."""
        return lambda x, k: self.clean(x, k, self.output(x, k, context))

    def guided(self, null: Tensor, text: Tensor, scale: float) -> Callable[[Tensor, int], Tensor]:
        """m(x, k) with classifier-free guidance, both halves in one call; a scale of 1 needs the words alone."""
        if scale == 1:
            return self.plain(text)

        def m(x: Tensor, k: int) -> Tensor:
            both = self.output(torch.cat([x, x]), k, torch.cat([null, text]))
            without, told = both.chunk(2)
            return self.clean(x, k, guide(without, told, scale))

        return m


@dataclass(frozen=True, eq=False)
class Reference:
    """Background and object states along the way; k = steps still to go.

    Attributes:
        background: k -> (B, c, h, w), from T' down to the last rectified k.
        objects: (n, c, h, w) at k = T'.
        memory: clean predictions (background, objects) at k = T' + 1, for --memory carry; None otherwise.
    """

    background: States
    objects: Tensor
    memory: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class Composed:
    """The composite on its way: states[k] for k = T' .. 0, and the reference states that it was made from."""

    states: States
    reference: Reference


def invert(latents: Latents, m: Callable[[Tensor, int], Tensor], config: MethodConfig, grid: DpmGrid) -> Tensor:
    """Step 1: backgrounds and objects walked to noise in one batch -> (T+1, B+n, c, h, w), row k the state at k."""
    z = torch.cat([latents.background, latents.objects])
    return dpm_walk(m, z, grid, config.order, invert=True)


def reference(latents: Latents, m: Callable[[Tensor, int], Tensor], config: MethodConfig, grid: DpmGrid) -> Reference:
    """Steps 1 and 2: the states that composing borrows from.

    Both are sampled back together down to T'; the backgrounds alone go on, to the last k that is rectified.
    """
    start, count = config.start, len(latents.background)
    low = min(config.lowest_rectified, start)
    inverted = invert(latents, m, config, grid)
    if config.states == "inversion":
        states = {k: inverted[k, :count] for k in range(low, start + 1)}
        return Reference(states, inverted[start, count:], None)
    back = dpm_run(m, inverted[-1], grid, config.order, stop=start)
    states = {start: back.states[-1, :count]}
    memory = None
    if back.memory is not None:
        halves = back.memory.clean[:count], back.memory.clean[count:]
        memory = halves if config.memory == "carry" else None
        rest = dpm_run(
            m, states[start], grid, config.order, start=start, stop=low, memory=DpmMemory(halves[0], back.memory.index)
        )
        states |= {start - j: x for j, x in enumerate(rest.states)}
    elif low < start:
        states |= {
            start - j: x for j, x in enumerate(dpm_walk(m, states[start], grid, config.order, start=start, stop=low))
        }
    return Reference(states, back.states[-1, count:], memory)


def merge(background: Tensor, objects: Tensor, latents: Latents) -> Tensor:
    """Eq. 8 for any number of lesions, later over earlier: X = O m_obj + B (1 - m_obj)."""
    x = background.clone()
    for obj, mask, owner in zip(objects, latents.m_obj, latents.owner.tolist(), strict=True):
        x[owner] = torch.where(mask, obj, x[owner])
    return x


def compose(
    latents: Latents, m: Callable[[Tensor, int], Tensor], ref: Reference, config: MethodConfig, grid: DpmGrid
) -> Composed:
    """Steps 3 and 4: merge at T', then denoise under the prompt, borrowing the background outside the user mask (eq. 9)."""
    start = config.start
    x = merge(ref.background[start], ref.objects, latents)
    previous, at = None, None
    if ref.memory is not None:
        previous, at = merge(*ref.memory, latents), start + 1
    states = {start: x}

    def rectified(x: Tensor, k: int) -> Tensor:
        inside = k >= config.lowest_rectified and k in ref.background
        return torch.where(latents.m_user, x, ref.background[k]) if inside else x

    for k in range(start, 0, -1):
        clean = m(x, k).to(x.dtype)
        if config.rectify == "after":  # TF-ICON looks at the free state and mends it afterwards
            x = rectified(x, k)
        second = config.order == 2 and previous is not None
        x = dpm_step(x, clean, previous if second else None, k, k - 1, at if second else None, grid)
        if config.rectify == "before":
            x = rectified(x, k - 1)
        previous, at = clean, k
        states[k - 1] = x
    return Composed(states, ref)


def run(latents: Latents, denoiser: Denoiser, config: MethodConfig) -> Composed:
    """The whole method on one batch."""
    ref = reference(latents, denoiser.plain(latents.exceptional), config, denoiser.grid)
    return compose(latents, denoiser.guided(latents.null, latents.text, config.guidance), ref, config, denoiser.grid)
