"""Intensity and depth <-> the network's [-1, 1] (mobi spec 2.4)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.errors import InputError
from graft_common.rangeview.sensor import Number

RATE = 4.0
TOP_INTENSITY = 255.0
ALPHA = 0.75
"""Half the share of [-1, 1] that the object's depth band gets."""


def normalise_intensity(intensity: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """1 - 2 exp(-4 i / 255), an exponential's distribution function: 0 -> -1, 255 -> 0.9634. Clamped to 0..255 first.

    The paper prints the negative, the survival function; the increasing form is the one its weights use.
    """
    return 1 - 2 * torch.exp(intensity.clamp(0, TOP_INTENSITY) * (-RATE / TOP_INTENSITY))


def restore_intensity(value: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The inverse, 0..255; values outside the map's range are clamped to its ends."""
    tail = ((1 - value) / 2).clamp(math.exp(-RATE), 1)
    return (tail.log() * (-TOP_INTENSITY / RATE)).clamp(0, TOP_INTENSITY)


def normalise_depth(
    depth: Float[Tensor, "*s"],
    lo: Number | Float[Tensor, "..."],
    hi: Number | Float[Tensor, "..."],
    alpha: Number = ALPHA,
) -> Float[Tensor, "*s"]:
    """Stored depth -> [-1, 1] with [lo, hi] spread over [-alpha, alpha]; piecewise linear, increasing, keeps -1 and 1.

    Args:
        depth: stored depth, clamped to [-1, 1].
        lo, hi: the object's band (`depth_band`); tensors broadcast against depth.

    Raises:
        InputError: not -1 <= lo < hi <= 1, or alpha not inside (0, 1).
    """
    return _piecewise(depth, *_knots(lo, hi, alpha, depth), alpha, inverse=False)


def restore_depth(
    value: Float[Tensor, "*s"],
    lo: Number | Float[Tensor, "..."],
    hi: Number | Float[Tensor, "..."],
    alpha: Number = ALPHA,
) -> Float[Tensor, "*s"]:
    """The inverse of `normalise_depth`; values are clamped to [-1, 1] first. Raises InputError as it does."""
    return _piecewise(value, *_knots(lo, hi, alpha, value), alpha, inverse=True)


def _knots(
    lo: Number | Float[Tensor, "..."], hi: Number | Float[Tensor, "..."], alpha: Number, like: Tensor
) -> tuple[Tensor, Tensor]:
    low = torch.as_tensor(lo, dtype=like.dtype, device=like.device)
    high = torch.as_tensor(hi, dtype=like.dtype, device=like.device)
    if not bool(((low >= -1) & (low < high) & (high <= 1)).all()):
        raise InputError(f"depth band {lo} to {hi}: must be -1 <= lo < hi <= 1; take it from depth_band")
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha}: must be above 0 and below 1; at 1 depths outside the band are lost")
    return low, high


def _piecewise(x: Tensor, lo: Tensor, hi: Tensor, alpha: Number, inverse: bool) -> Tensor:
    """Through (-1, -1), (lo, -alpha), (hi, alpha), (1, 1), or mirrored; a piece of no length is never taken."""
    x = x.clamp(-1, 1)
    below, above = lo + 1, 1 - hi
    if inverse:
        near = -1 + (x + 1) * below / (1 - alpha)
        band = lo + (x + alpha) * (hi - lo) / (2 * alpha)
        far = 1 - (1 - x) * above / (1 - alpha)
        return torch.where(x < -alpha, near, torch.where(x > alpha, far, band))
    tiny = torch.finfo(x.dtype).tiny
    near = -1 + (1 - alpha) * ((x + 1) / below.clamp(min=tiny))
    band = -alpha + 2 * alpha * ((x - lo) / (hi - lo))
    far = 1 - (1 - alpha) * ((1 - x) / above.clamp(min=tiny))
    return torch.where(x < lo, near, torch.where(x > hi, far, band))
