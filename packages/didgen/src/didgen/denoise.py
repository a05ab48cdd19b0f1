"""Encoded -> Denoised: the DDIM loop, with layout or box guidance in its first steps (spec 2.5, 2.7)."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from didgen.config import DrawConfig, LayoutConfig
from didgen.losses import box_cells, box_loss, cross_loss, self_loss, token_map
from didgen.maps import Grids, attention_levels, map_grids, until_level
from didgen.records import Attention, Denoised, Encoded, Layouts
from graft_common.bundle import Bundle
from graft_common.errors import InputError
from graft_common.guidance import descend, guide
from graft_common.hooks import CrossColumns, Record, SelfColumns, SelfMaps, Where, record
from graft_common.inversion import DpmGrid, ddim_grid, ddim_move, model_time

FP16_SCALE = 2.0**12  # of the loss while its gradient is taken: half precision has no numbers below 6e-8

Pull = Callable[[Tensor, int], Tensor]  # (latents with gradient, k) -> loss of each sample


@dataclass
class Denoiser:
    """The network at index k of the DDIM grid (steps still to go); counts what it costs.

    Attributes:
        calls: forwards so far, guided ones included.
    """

    bundle: Bundle
    grid: DpmGrid
    network: Callable[..., Any] | None = field(default=None, repr=False)
    calls: int = 0

    def output(self, x: Tensor, k: int, context: Tensor, watched: bool = False) -> Tensor:
        """Raw network output. `watched`: hooks need the plain module."""
        self.calls += 1
        unet = self.network if self.network is not None and not watched else self.bundle.unet
        time = model_time(self.grid, k, x.device)
        kind = self.bundle.dtype
        return unet(x.to(kind), time, encoder_hidden_states=context.to(kind)).sample

    def eps(self, x: Tensor, k: int, output: Tensor) -> Tensor:
        """Predicted noise in the state's precision, whatever the network predicts."""
        if self.bundle.prediction_type == "epsilon":
            return output.to(x.dtype)
        # v = alpha e - sigma x0, so e = alpha v + sigma x (Salimans & Ho 2022)
        return float(self.grid.alpha[k]) * output.to(x.dtype) + float(self.grid.sigma[k]) * x

    def guided(self, x: Tensor, k: int, enc: Encoded, scale: float, watched: bool = False) -> Tensor:
        """Predicted noise with classifier-free guidance, both halves in one call."""
        both = torch.cat([enc.null.expand(len(x), -1, -1), enc.text])
        output = self.output(torch.cat([x, x]), k, both, watched)
        without, told = output.chunk(2)
        return self.eps(x, k, guide(without, told, scale))


def denoiser(bundle: Bundle, config: DrawConfig) -> Denoiser:
    """The counted network on the nodes of diffusers' DDIM scheduler.

    Raises:
        InputError: the bundle's schedule has no such grid, or its network predicts neither noise nor velocity.
    """
    checked_prediction(bundle)
    try:
        grid = ddim_grid(DDIMScheduler.from_config(bundle.schedule, clip_sample=False), config.steps)
    except ValueError as why:
        raise InputError(f"--steps {config.steps} on {bundle.name}: {why}") from why
    return Denoiser(bundle, grid, torch.compile(bundle.unet) if config.compile else None)


def checked_prediction(bundle: Bundle) -> None:
    """Raise InputError unless the network predicts noise or velocity."""
    if bundle.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(
            f"--weights {bundle.name}: its network predicts {bundle.prediction_type!r}; give one of epsilon or v_prediction"
        )


def run(
    enc: Encoded,
    network: Denoiser,
    scale: float,
    *,
    pull: Pull | None = None,
    strengths: Sequence[float] = (),
    annotate: bool = False,
) -> Denoised:
    """Noise to clean latents.

    Args:
        scale: classifier-free guidance.
        pull: loss to descend on before a step; one gradient step each.
        strengths: its step sizes, one for each of the first steps.
        annotate: read the maps off the last evaluation (its conditional half).

    Raises:
        InputError: guidance left the finite numbers.
    """
    x, grid, losses = enc.noise, network.grid, []
    attention = None
    raised = FP16_SCALE if network.bundle.dtype == torch.float16 else 1.0
    for k in range(grid.steps, 0, -1):
        i = grid.steps - k
        if pull is not None and i < len(strengths) and strengths[i] > 0:
            try:
                found = descend(x, partial(_raised, pull, raised, k), strengths[i] / raised)
            except ValueError as why:
                raise InputError(f"guidance at step {i + 1}: {why}; lower --eta (--strength for a box)") from why
            x = found.latent
            losses.append(found.losses[0] / raised)
        last = annotate and k == 1
        with torch.no_grad(), _reading(network, enc) if last else nullcontext() as seen:
            e = network.guided(x, k, enc, scale, watched=last)
        if seen is not None:
            attention = _attention(seen, network, enc)
        x = ddim_move(x, e, k, k - 1, grid)
    return Denoised(x, attention, torch.stack(losses) if losses else x.new_zeros(0, len(x)))


def _raised(pull: Pull, by: float, k: int, z: Tensor) -> Tensor:
    return by * pull(z, k)


def _wants(network: Denoiser, enc: Encoded) -> tuple[tuple[int, ...], Grids]:
    tokens = tuple(sorted({word.lesion for word in enc.words}))
    h, w = enc.noise.shape[2:]
    return tokens, map_grids(network.bundle.unet, (h, w))


def _reading(network: Denoiser, enc: Encoded) -> Any:
    tokens, grids = _wants(network, enc)
    rows = range(len(enc.noise), 2 * len(enc.noise))
    return record(
        network.bundle.unet, CrossColumns(tokens, Where(grid=grids.cross)), SelfMaps(Where(grid=grids.self_)), rows=rows
    )


def _attention(read: Record, network: Denoiser, enc: Encoded) -> Attention:
    tokens, grids = _wants(network, enc)
    column = torch.tensor([tokens.index(word.lesion) for word in enc.words])
    cross = read.mean(0)
    return Attention(cross[torch.arange(len(cross)), column.to(cross.device)], read.affinity(1), grids.self_)


def layout_pull(network: Denoiser, enc: Encoded, layouts: Layouts, config: LayoutConfig) -> Pull:
    """L_CA + L_SA of each sample against its layout (eqs. 4.7 to 4.9), from one conditional forward."""
    unet, device = network.bundle.unet, enc.noise.device
    _, grids = _wants(network, enc)
    tokens, kept, lesion = _kept(enc, config.axis)
    cross, inside = layouts.cross.to(device), layouts.inside.to(device)
    wants: list[Any] = []
    if config.cross_loss:
        wants.append(CrossColumns(tokens, Where(grid=grids.cross)))
    if config.self_loss:
        wants.append(SelfColumns((1 - inside)[:, None], Where(grid=grids.self_)))

    def pull(z: Tensor, k: int) -> Tensor:
        with record(unet, *wants, grad=z.requires_grad, mode="ride") as seen, until_level(unet, grids.level):
            network.output(z, k, enc.text, watched=True)
        loss = z.new_zeros(len(z))
        if config.cross_loss:
            loss = loss + cross_loss(token_map(seen.mean(0), kept.to(device), lesion.to(device)), cross)
        if config.self_loss:
            loss = loss + self_loss(seen.mean(len(wants) - 1)[:, 0], inside, config.sa_norm)
        return loss

    return pull


def box_pull(network: Denoiser, enc: Encoded, box: tuple[float, float, float, float]) -> Pull:
    """BoxDiff's losses of each sample (spec 2.7); the map is the one of eq. 4.7."""
    unet, device = network.bundle.unet, enc.noise.device
    _, grids = _wants(network, enc)
    h, w = enc.noise.shape[2:]
    tokens, kept, lesion = _kept(enc, "tokens")
    cells = box_cells(box, grids.cross)
    level = next(i for i, grid in attention_levels(unet, (h, w)).items() if grid == grids.cross)

    def pull(z: Tensor, k: int) -> Tensor:
        want = CrossColumns(tokens, Where(grid=grids.cross))
        with record(unet, want, grad=z.requires_grad, mode="ride") as seen, until_level(unet, level):
            network.output(z, k, enc.text, watched=True)
        return box_loss(token_map(seen.mean(0), kept.to(device), lesion.to(device)), cells)

    return pull


def _kept(enc: Encoded, axis: str) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Recorded tokens, which of them count in each sample, and which is the lesion (spec 2.5, step 2)."""
    if axis == "ptokens":
        tokens = tuple(sorted({n for word in enc.words for n in (word.lesion, word.skin)}))
        kept = torch.tensor([[t in (word.lesion, word.skin) for t in tokens] for word in enc.words])
    else:
        tokens = tuple(range(1, max(word.end for word in enc.words)))
        kept = torch.tensor([[t < word.end for t in tokens] for word in enc.words])
    return tokens, kept, torch.tensor([tokens.index(word.lesion) for word in enc.words])


def strengths(steps: int, share: float, eta: float, decay: bool = False) -> list[float]:
    """Step sizes of the first floor(share * steps) steps: constant, or falling by sqrt(linspace(1, 0.5)) over all steps."""
    fall = torch.linspace(1, 0.5, steps, dtype=torch.float64).sqrt() if decay else torch.ones(steps, dtype=torch.float64)
    return [eta * float(f) for f in fall[: int(share * steps + 1e-9)]]  # 0.29 * 100 is 28.999..
