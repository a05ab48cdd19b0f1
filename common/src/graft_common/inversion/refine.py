"""Better inversions, paid for with more network calls: fixed point (DDIM), defect correction (DPM), null-text."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.inversion.ddim import Noise, ddim_move
from graft_common.inversion.dpm import Clean, DpmMemory, dpm_step, dpm_walk
from graft_common.inversion.schedule import DpmGrid, Number

Conditioned = Callable[[Tensor, int, Tensor], Tensor]  # (state, k, text embedding) -> clean prediction


def ddim_invert_refined(
    eps: Noise, x: Float[Tensor, "*shape"], grid: DpmGrid, iterations: int = 5, damping: Number = 1.0
) -> Float[Tensor, "rows *shape"]:
    """DDIM inversion whose every step solves for the state that sampling brings back (fixed point, Pan et al. 2023).

    From s to the noisier t, sampling needs x_s = move(x_t, eps(x_t, t)); so x_t is iterated as
    x_t <- move(x_s, eps(x_t, t)), starting from x_s. One iteration is `ddim_walk(..., invert=True, at="target")`; many
    are an exact inverse where the map contracts.

    Args:
        iterations: network calls per step, >= 1.
        damping: part of each update that is taken, in (0, 1]; 0.7 also converges where the full update overshoots.

    Returns:
        (T+1, *shape) states, row k = k steps to go, as `ddim_walk(..., invert=True)`.
    """
    if iterations < 1 or not 0 < damping <= 1:
        raise ValueError(f"iterations={iterations}, damping={damping}: need iterations >= 1 and damping in (0, 1]")
    x = x if x.dtype == torch.float64 else x.float()
    states = [x]
    for s in range(grid.steps):
        for i in range(iterations):
            e = eps(x, s + 1).to(x.dtype)
            moved = ddim_move(states[s], e, s, s + 1, grid)
            x = (
                moved if i == 0 else torch.lerp(x, moved, damping)
            )  # x_s itself is only a guess: nothing to average with
        states.append(x)
    return torch.stack(states)


@dataclass(frozen=True, eq=False)
class Refined:
    """A refined inversion.

    Attributes:
        states: (T+1, B, ...) inversion walk of the best round, row k = k steps to go. Row 0 is the *adjusted* start
            (the input plus the accumulated correction), not the input.
        error: (rounds + 1, B) round-trip RMS of the best so far; row 0 is the plain inversion, no row rises.
    """

    states: Float[Tensor, "rows B *shape"]
    error: Float[Tensor, "tries B"]


def dpm_invert_refined(
    clean: Clean, x: Float[Tensor, "B *shape"], grid: DpmGrid, order: int = 2, rounds: int = 3
) -> Refined:
    """DPM-Solver++ inversion whose noise samples back to x: defect correction around the plain walk.

    A multistep step cannot be undone by itself: sampling used a prediction from a noisier node that inversion has not
    reached. So the whole round trip is corrected instead: y <- y + (x - sample(invert(y))), y = x at first. Every round
    costs 2T network calls. Each sample keeps its best round; after a round that does not gain a third on it the sample
    goes back there and tries half the correction, so the error never rises.

    Args:
        x: (B, ...) clean states; the error is judged per sample.
        rounds: corrections, >= 0 (0 only measures the plain inversion).
    """
    if rounds < 0:
        raise ValueError(f"rounds={rounds} must be 0 or more")
    x = x if x.dtype == torch.float64 else x.float()
    wide = (-1, *[1] * (x.ndim - 1))

    def trip(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = dpm_walk(clean, y, grid, order, invert=True)
        defect = x - dpm_walk(clean, states[-1], grid, order)[-1]
        return states, defect, defect.flatten(1).square().mean(1).sqrt() if x.ndim > 1 else defect.abs()

    states, defect, best = trip(x)
    step, errors = torch.ones_like(best), [best]
    for _ in range(rounds):
        new_states, new_defect, error = trip(states[0] + step.reshape(wide) * defect)
        better = error < best
        step = torch.where(error < best * 2 / 3, step, step / 2)
        take = better.reshape(wide)
        states, defect = torch.where(take, new_states, states), torch.where(take, new_defect, defect)
        best = torch.where(better, error, best)
        errors.append(best)
    return Refined(states, torch.stack(errors))


@dataclass(frozen=True, eq=False)
class NullText:
    """Per-step unconditional embeddings; row j of each belongs to sampling step j, from k = T - j to k - 1.

    Attributes:
        embeddings: (T, B, L, D) to use in place of the empty prompt's embedding.
        states: (T+1, B, ...) the guided walk that they give, row 0 the noise.
        losses: (T, B) mean squared distance to the pivot after each step.
    """

    embeddings: Float[Tensor, "T B L D"]
    states: Float[Tensor, "rows B *shape"]
    losses: Float[Tensor, "T B"]


def null_text(
    clean: Conditioned,
    pivots: Float[Tensor, "rows B *shape"],
    grid: DpmGrid,
    null: Float[Tensor, "b L D"],
    cond: Float[Tensor, "b L D"],
    scale: Number = 7.5,
    order: int = 1,
    iterations: int = 10,
    step_size: Number = 1e-2,
    tolerance: Number = 1e-5,
    growth: Number = 2e-5,
) -> NullText:
    """Null-text optimisation (Mokady et al. 2023): tune the empty prompt so that guidance follows an inversion.

    At each step the unconditional embedding starts from the previous step's and descends (Adam, its rate falling to
    half over the walk as in the paper) on the distance between the guided step and the pivot one step cleaner. Samples
    do not mix: the loss is a sum over them and each owns its embedding. The best embedding seen is kept.

    Args:
        clean: (state, k, embedding) -> clean prediction; differentiable in the embedding. Freeze the network's
            parameters around the call (`graft_common.guidance.frozen`) to save memory.
        pivots: (T+1, B, ...) an inversion walk, row k = k steps to go (no guidance).
        null, cond: (1 or B, L, D) embeddings of the empty and the real prompt.
        order: 1 is DDIM, as in the paper; 2 is DPM-Solver++(2M).
        iterations: Adam updates per step; 0 is plain guided sampling.
        tolerance, growth: step i (0 at the noise) stops when every sample's mean squared distance is at or below
            tolerance + growth * i, the paper's rule: errors of earlier steps cannot all be made good.

    Raises:
        ValueError: pivots do not match the grid, or iterations < 0.
    """
    steps, batch = grid.steps, pivots.shape[1]
    if pivots.shape[0] != steps + 1 or iterations < 0:
        raise ValueError(
            f"got {pivots.shape[0]} pivots, iterations={iterations}: need {steps + 1} pivots, iterations >= 0"
        )
    pivots = pivots if pivots.dtype == torch.float64 else pivots.float()
    kind = null.dtype
    cond, u = (
        cond.expand(batch, -1, -1),
        null.detach().expand(batch, -1, -1).to(torch.promote_types(kind, torch.float32)),
    )
    x, memory = pivots[steps], None
    embeddings, states, losses = [], [x], []
    for k in range(steps, 0, -1):
        with torch.no_grad():
            m_cond = clean(x, k, cond)

        def attempt(u, x=x, k=k, m_cond=m_cond, past=memory):
            free = clean(x, k, u.to(kind)).to(x.dtype)
            m = free + scale * (m_cond.to(x.dtype) - free)  # guidance: clean predictions mix as noise does
            return m, dpm_step(x, m, past.clean if past else None, k, k - 1, past.index if past else None, grid)

        rate = step_size * (1 - 0.5 * (steps - k) / steps)
        u, m, x, loss = _tune(attempt, u, pivots[k - 1], iterations, rate, tolerance + growth * (steps - k))
        memory = DpmMemory(m, k) if order == 2 else None
        embeddings.append(u.to(kind))
        states.append(x)
        losses.append(loss)
    return NullText(torch.stack(embeddings), torch.stack(states), torch.stack(losses))


def _tune(
    attempt: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    target: Tensor,
    iterations: int,
    rate: Number,
    tolerance: Number,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Adam on the embedding of one step; per sample the best (embedding, clean prediction, next state, loss) seen."""
    with torch.inference_mode(False), torch.enable_grad():
        u = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([u], lr=rate)
        best: list[Tensor] = []
        for i in range(iterations + 1):
            m, x = attempt(u)
            loss = (x - target).square().flatten(1).mean(1)
            now = [v.detach().clone() for v in (u, m, x, loss)]
            if best:
                win = now[3] < best[3]
                now = [torch.where(win.reshape(-1, *[1] * (n.ndim - 1)), n, b) for n, b in zip(now, best, strict=True)]
            best = now
            if i == iterations or bool((best[3] <= tolerance).all()):
                break
            (u.grad,) = torch.autograd.grad(loss.sum(), u)
            adam.step()
    return best[0], best[1], best[2], best[3]
