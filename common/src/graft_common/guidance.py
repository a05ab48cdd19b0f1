"""Steering a denoiser: classifier-free guidance, and gradient descent of a latent on a loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

Number = int | float  # the tests' type checker takes `float` at its word


def guide(
    uncond: Float[Tensor, "*shape"],
    cond: Float[Tensor, "*shape"] | Sequence[Float[Tensor, "*shape"]],
    scale: Number | Sequence[Number],
) -> Float[Tensor, "*shape"]:
    """Classifier-free guidance (Ho & Salimans 2022): uncond + sum_i scale_i (cond_i - uncond), in at least float32.

    Several conditions add their own directions (Liu et al. 2022, composable diffusion). Noise, velocity and clean
    predictions may be guided alike: at one state they are affine in each other.

    Args:
        cond: one prediction, or several with one scale each.
        scale: 0 ignores the condition, 1 is the plain conditional prediction.

    Raises:
        ValueError: the numbers of conditions and scales differ.
    """
    conds = [cond] if isinstance(cond, Tensor) else list(cond)
    scales = [scale] if isinstance(scale, int | float) else list(scale)
    if len(conds) != len(scales):
        raise ValueError(f"got {len(conds)} conditions and {len(scales)} scales; give one scale per condition")
    base = uncond if uncond.dtype == torch.float64 else uncond.float()
    return base + sum(
        (s * (c.to(base.dtype) - base) for c, s in zip(conds, scales, strict=True)), torch.zeros_like(base)
    )


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended.

    Attributes:
        latent: (B, ...) the moved latent, detached.
        losses: (rounds, B) per-sample loss before each round's update; rounds <= iterations (fewer if every sample got
            to the threshold).
    """

    latent: Float[Tensor, "B *shape"]
    losses: Float[Tensor, "rounds B"]


def descend(
    latent: Float[Tensor, "B *shape"],
    loss_fn: Callable[[Tensor], Tensor],
    step_size: Number | Float[Tensor, "B"] = 1.0,
    iterations: int = 1,
    threshold: Number | None = None,
    modules: Sequence[nn.Module] = (),
) -> Descent:
    """Plain gradient descent of each sample's latent on its own loss: z <- z - step_size * dL/dz.

    The gradient is taken of the *sum* of the per-sample losses, so no sample's step depends on its batch (a mean would
    divide it by B). It works inside `torch.no_grad` and `torch.inference_mode`.

    Args:
        latent: (B, ...) start; not changed.
        loss_fn: latent -> (B,) losses, one per sample.
        step_size: one number, or one per sample.
        iterations: updates at most.
        threshold: a sample whose loss is at or below it is left bit-identical from then on.
        modules: networks inside loss_fn; their parameters are frozen meanwhile, so no graph is kept for them.

    Raises:
        ValueError: loss_fn does not return (B,) values that depend on the latent, or a loss or gradient is not finite.
    """
    losses: list[Tensor] = []
    with frozen(*modules), torch.inference_mode(False), torch.enable_grad():
        z = latent.detach().clone()
        step = step_size.reshape(-1, *[1] * (z.ndim - 1)).to(z) if isinstance(step_size, Tensor) else step_size
        for i in range(iterations):
            z.requires_grad_(True)
            loss = loss_fn(z)
            if loss.shape != z.shape[:1] or not loss.requires_grad:
                raise ValueError(
                    f"loss_fn returned shape {tuple(loss.shape)}, depends on the latent: {loss.requires_grad}; "
                    f"it must return one differentiable loss per sample, shape ({z.shape[0]},)"
                )
            losses.append(loss.detach())
            open_ = torch.ones_like(losses[-1], dtype=torch.bool) if threshold is None else ~(losses[-1] <= threshold)
            if not bool(open_.any()):
                z = z.detach()
                break
            (grad,) = torch.autograd.grad(loss.sum(), z)
            z = z.detach()
            if not (bool(losses[-1].isfinite().all()) and bool(grad.isfinite().all())):
                raise ValueError(f"loss or gradient is not finite at iteration {i}; lower step_size={step_size}")
            z = torch.where(open_.reshape(-1, *[1] * (z.ndim - 1)), z - step * grad, z)
    return Descent(z, torch.stack(losses) if losses else latent.new_zeros(0, latent.shape[0]))


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Within it, no parameter of the modules asks for gradients; each one's own setting returns on exit."""
    was = [(p, p.requires_grad) for m in modules for p in m.parameters()]
    try:
        for p, _ in was:
            p.requires_grad_(False)
        yield
    finally:
        for p, asked in was:
            p.requires_grad_(asked)
