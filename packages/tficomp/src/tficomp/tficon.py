"""TF-ICON (S. Lu, Y. Liu, A. W.-K. Kong, ICCV 2023) as a baseline, from the spec's reading of it (2.8 and section 7).

Against this package's method: it starts from noise, with fresh noise in the ring between object and user mask (eq. 7),
and mixes self-attention logits of two exceptional-prompt runs, background and centred object, that go in lockstep with
the composition as rows of the same network call.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graft_common.guidance import guide
from graft_common.hooks import Call, Site, edit
from graft_common.inversion import dpm_step, dpm_walk
from graft_common.rng import noise
from tficomp.config import MethodConfig, half_up
from tficomp.denoise import Denoiser, States
from tficomp.records import Latents, Placed

Shift = tuple[int, int]  # cells (down, right) from the centred object to where the background wants it


@dataclass(frozen=True)
class Span:
    """When TF-ICON does what, as k = steps still to go; at T = 20: injection 20..14, rectification 18..6.

    Attributes:
        inject: lowest k whose network call has injected logits (7 of 20 calls).
        high, low: states from k = high down to low are rectified.
    """

    inject: int
    high: int
    low: int


def span(steps: int) -> Span:
    """The spec's numbers at T = 20, in proportion for another T."""
    return Span(steps - max(1, half_up(0.35 * steps)) + 1, half_up(0.9 * steps), half_up(0.3 * steps))


def inject_logits(
    S: Float[Tensor, "H N N"],
    S_bg: Float[Tensor, "H N N"],
    q_bg: Float[Tensor, "H N d"],
    k_ref: Float[Tensor, "H N d"],
    S_ref: Float[Tensor, "H N N"],
    box: Int[Tensor, " b"],
    O: Int[Tensor, " o"],  # noqa: E741 - the formula's letter
    R: Int[Tensor, " o"],
    scale: int | float,
) -> Float[Tensor, "H N N"]:
    """The composite self-attention logits of one sample, before the softmax; S itself is not changed.

    In order: S[i, j] <- S_bg[i, j] for i and j both outside the box; S[:, O] <- scale Q_bg K_ref[R]^T; S[O, :] <- its
    transpose; S[O, O] <- S_ref[R, R]; the rest stays.

    Args:
        S, S_bg, S_ref: logits of the composition, the background and the reference.
        q_bg, k_ref: queries of the background, keys of the reference.
        box: cells of the user region. O, R: the object's cells in the background frame and, in the same order, in the
            reference's.
    """
    outside = torch.ones(S.shape[-1], dtype=torch.bool, device=S.device)
    outside[box] = False
    mixed = torch.where(outside[:, None] & outside[None, :], S_bg.to(S.dtype), S)
    cross = scale * (q_bg.to(S.dtype) @ k_ref[:, R].to(S.dtype).transpose(-1, -2))  # (H, N, o)
    mixed[:, :, O] = cross
    mixed[:, O, :] = cross.transpose(-1, -2)
    mixed[:, O[:, None], O[None, :]] = S_ref[:, R[:, None], R[None, :]].to(S.dtype)
    return mixed


def centred(placed: Sequence[Placed], factor: int, unit: int) -> tuple[list[Placed], list[Shift]]:
    """The same samples with every object moved to the middle of its canvas, and the moves back, in latent cells.

    Moves are whole multiples of `unit` pixels, the coarsest attention grid's cell, so that the object covers the same
    cells in both frames on every grid.
    """
    moved, shifts = [], []
    for p in placed:
        objects = []
        for pixels, (left, top, right, bottom) in zip(p.objects, p.boxes, strict=True):
            size = p.frame.size
            y, x = _to_middle(top, bottom, size, unit), _to_middle(left, right, size, unit)
            objects.append(np.roll(pixels, (y, x), axis=(1, 2)))
            shifts.append((-y // factor, -x // factor))
        moved.append(replace(p, objects=np.stack(objects)))
    return moved, shifts


def _to_middle(low: int, high: int, size: int, unit: int) -> int:
    """The multiple of `unit` that brings [low, high) nearest to the middle and leaves it inside."""
    wanted = (size - low - high) / 2
    steps = range(-(low // unit), (size - high) // unit + 1)
    return unit * min(steps, key=lambda n: (abs(n * unit - wanted), abs(n)))


def cells(mask: Bool[Tensor, "h w"], grid: tuple[int, int], every: bool) -> Bool[Tensor, "gh gw"]:
    """A latent mask on a grid: cells covered by half or more (the best if none is); with `every`, all touched."""
    if tuple(mask.shape) == grid:
        return mask
    cover = F.adaptive_avg_pool2d(mask[None, None].float(), grid)[0, 0]
    if every:
        return cover > 0
    half = cover >= 0.5
    return half if half.any() else (cover == cover.max()) & (cover > 0)


@contextmanager
def injected(latents: Latents, shifts: Sequence[Shift], denoiser: Denoiser) -> Iterator[None]:
    """Inject into the conditional rows of calls whose batch is [uncond B, cond B, background B, references n]."""
    count, owner = len(latents.background), latents.owner.tolist()

    def mixed(logits: Tensor, site: Site, call: Call) -> Tensor:
        assert call.q is not None and call.k is not None  # given to every edit of logits
        q, k = call.q.to(logits.dtype), call.k.to(logits.dtype)
        (gh, gw), (h, w) = call.grid, latents.m_user.shape[-2:]
        out = []
        for i in range(count):
            bg = 2 * count + i
            S, S_bg = logits[i], call.scale * q[bg] @ k[bg].transpose(-1, -2)
            box = cells(latents.m_user[i, 0], call.grid, every=True).flatten().nonzero()[:, 0]
            for j in (j for j, o in enumerate(owner) if o == i):
                down, right = shifts[j]
                rows, cols = cells(latents.m_obj[j, 0], call.grid, every=False).nonzero(as_tuple=True)
                O = rows * gw + cols  # noqa: E741
                R = (rows - down * gh // h) % gh * gw + (cols - right * gw // w) % gw
                ref = 3 * count + j
                S_ref = call.scale * q[ref] @ k[ref].transpose(-1, -2)
                # The background goes under all objects once: it must not undo an earlier object.
                S = inject_logits(S, S_bg, q[bg], k[ref], S_ref, box, O, R, call.scale)
                S_bg = S
            out.append(S)
        return torch.stack(out)

    with edit(denoiser.bundle.unet, mixed, kind="self", on="logits", rows=tuple(range(count, 2 * count))):
        yield


def start(
    background: Tensor, references: Tensor, latents: Latents, shifts: Sequence[Shift], seeds: Sequence[int]
) -> Float[Tensor, "B c h w"]:
    """Eq. 7 at k = T: objects on their cells, the background outside the user mask, fresh noise in the ring between."""
    ring = torch.stack([noise(tuple(background.shape[1:]), seed, 7, device=background.device) for seed in seeds])
    x = torch.where(latents.m_user, ring.to(background.dtype), background)
    for ref, shift, mask, owner in zip(references, shifts, latents.m_obj, latents.owner.tolist(), strict=True):
        x[owner] = torch.where(mask, torch.roll(ref, shift, dims=(1, 2)), x[owner])
    return x


def run_tficon(
    latents: Latents, shifts: Sequence[Shift], denoiser: Denoiser, config: MethodConfig, seeds: Sequence[int]
) -> tuple[States, States]:
    """The whole method; `latents.objects` are the centred objects', `latents.m_obj` masks in the background frame.

    Calls at T = 20: 20 inverting (B + n pictures), 7 injected (3B + n), 7 with the background beside (3B), 6 of 2B.

    Returns:
        States k -> (B, c, h, w): of the composition for k = T .. 0, rectified where they are, and of the background run
        for k = T .. the last that is rectified.
    """
    grid, when = denoiser.grid, span(denoiser.grid.steps)
    count = len(latents.background)
    z = torch.cat([latents.background, latents.objects])
    borrowed = dpm_walk(denoiser.plain(latents.exceptional), z, grid, config.order, invert=True)[-1]
    x = start(borrowed[:count], borrowed[count:], latents, shifts, seeds)
    words = torch.cat([latents.null, latents.text])
    empty = latents.exceptional.expand(-1, words.shape[1], -1)
    old: Tensor | None = None
    old_borrowed: Tensor | None = None
    composed, backgrounds = {grid.steps: x}, {grid.steps: borrowed[:count]}
    for k in range(grid.steps, 0, -1):
        alive = len(z) if k >= when.inject else count if k > when.low else 0
        seen = torch.cat([x, x, borrowed[:alive]])
        contexts = torch.cat([words, empty.expand(alive, -1, -1)])
        if k >= when.inject:
            with injected(latents, shifts, denoiser):
                out = denoiser.output(seen, k, contexts)
        else:
            out = denoiser.output(seen, k, contexts)
        m = denoiser.clean(x, k, guide(out[:count], out[count : 2 * count], config.guidance)).to(x.dtype)
        if when.low <= k <= when.high:  # after the network has looked, as TF-ICON does
            x = composed[k] = torch.where(latents.m_user, x, borrowed[:count])
        second = config.order == 2 and old is not None
        x = dpm_step(x, m, old if second else None, k, k - 1, k + 1 if second else None, grid)
        old = m
        composed[k - 1] = x
        if alive:
            kept = borrowed[:alive]
            m = denoiser.clean(kept, k, out[2 * count :]).to(x.dtype)
            before = old_borrowed[:alive] if second and old_borrowed is not None else None
            borrowed = dpm_step(kept, m, before, k, k - 1, k + 1 if second else None, grid)
            old_borrowed = m
            backgrounds[k - 1] = borrowed[:count]
    return composed, backgrounds
