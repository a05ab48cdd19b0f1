"""Losses on attention maps: pure tensor functions, one value per sample (spec 2.4, 2.5, 2.7)."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

SHARPEN = 100.0  # eq. 4.7
SIGMA = 2**-0.5  # the reference kernel's exp(-(x / (2 * 0.5))^2) is a Gaussian of this sigma


def token_map(
    maps: Float[Tensor, "B C h w"], kept: Bool[Tensor, "B C"], lesion: Int[Tensor, "B"]
) -> Float[Tensor, "B h w"]:
    """Eq. 4.7: sharpened softmax over the token axis, the lesion's column, blurred.

    Args:
        maps: cross maps of C tokens.
        kept: which of them take part (no start, end or padding).
        lesion: index of <lesion> among the C.
    """
    logits = (maps * SHARPEN).masked_fill(~kept[:, :, None, None], -math.inf)
    column = logits.softmax(dim=1)[torch.arange(len(maps), device=maps.device), lesion]
    return blur(column)


def kernel() -> Float[Tensor, "3"]:
    """1-D weights of the 3 x 3 Gaussian."""
    weights = torch.exp(-0.5 * (torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64) / SIGMA) ** 2)
    return weights / weights.sum()


def blur(maps: Float[Tensor, "B h w"]) -> Float[Tensor, "B h w"]:
    """3 x 3 Gaussian with reflected borders, so that a constant map stays constant."""
    one = kernel().to(maps)
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(F.conv2d(padded, one.view(1, 1, 3, 1)), one.view(1, 1, 1, 3))[:, 0]


def cross_loss(a: Float[Tensor, "B h w"], m: Float[Tensor, "B h w"]) -> Float[Tensor, "B"]:
    """L_CA (eq. 4.8) in [0, 2]: map missing inside the layout plus map present outside, each as a mean."""
    m = m.to(a)
    inside = (a * m).sum(dim=(1, 2)) / m.sum(dim=(1, 2))
    outside = (a * (1 - m)).sum(dim=(1, 2)) / (1 - m).sum(dim=(1, 2))
    return 1 - inside + outside


def self_loss(
    s: Float[Tensor, "B h w"], m: Float[Tensor, "B h w"], norm: Literal["sum", "mean_row"] = "sum"
) -> Float[Tensor, "B"]:
    """L_SA (eq. 4.9): self-attention mass that lesion cells send to the background.

    Args:
        s: A_S u, mass that each cell sends to the background u = 1 - m.
        m: lesion cells, 0 or 1.
        norm: over the sum of u, in [0, sum(m) / sum(u)]; or as the mean over lesion cells, in [0, 1].
    """
    m = m.to(s)
    over = (1 - m).sum(dim=(1, 2)) if norm == "sum" else m.sum(dim=(1, 2))
    return (m * s).sum(dim=(1, 2)) / over


def region_loss(
    maps: Float[Tensor, "B 2 h w"], m: Float[Tensor, "B h w"], normalise: Literal["none", "max", "ptokens"] = "none"
) -> Float[Tensor, "B"]:
    """L_attn (eq. 4.5): half the squared distance of the two placeholders' maps to lesion and skin, mean over cells.

    Args:
        maps: cross maps of <lesion> and <skin>.
        m: share of each cell that is lesion; skin is 1 - m.
        normalise: raw probabilities; each map over its maximum; or softmax (x 100) over the two.
    """
    if normalise == "max":
        maps = maps / maps.amax(dim=(2, 3), keepdim=True)
    elif normalise == "ptokens":
        maps = (maps * SHARPEN).softmax(dim=1)
    targets = torch.stack([m, 1 - m], dim=1).to(maps)
    return 0.5 * (maps - targets).square().mean(dim=(2, 3)).sum(dim=1)


def box_cells(box: tuple[float, float, float, float], grid: tuple[int, int]) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) in shares -> cells by rounding each edge; at least one cell."""
    h, w = grid
    x1, y1 = min(round(box[0] * w), w - 1), min(round(box[1] * h), h - 1)
    return x1, y1, max(x1 + 1, min(round(box[2] * w), w)), max(y1 + 1, min(round(box[3] * h), h))


def box_loss(a: Float[Tensor, "B h w"], cells: tuple[int, int, int, int], share: float = 0.2) -> Float[Tensor, "B"]:
    """BoxDiff's losses (spec 2.7) for one box: strongest cells inside, none outside, and edges that are reached.

    Args:
        cells: x1, y1, x2, y2 on the map's grid, ends excluded.
        share: of the cells that the two means over the strongest are taken from.
    """
    h, w = a.shape[1:]
    x1, y1, x2, y2 = cells
    m = torch.zeros(h, w, dtype=torch.bool, device=a.device)
    m[y1:y2, x1:x2] = True
    inner = (1 - _strongest(a[:, m], share)).clamp(min=0)
    outer = _strongest(a[:, ~m], share) if bool((~m).any()) else torch.zeros_like(inner)
    edges = _edges(a.amax(dim=1), x1, x2) + _edges(a.amax(dim=2), y1, y2)
    return inner + outer + edges


def _strongest(values: Float[Tensor, "B n"], share: float) -> Float[Tensor, "B"]:
    """Mean of the largest; never of none (a box of a few cells would give NaN)."""
    return values.topk(max(1, int(share * values.shape[1])), dim=1).values.mean(dim=1)


def _edges(profile: Float[Tensor, "B n"], start: int, stop: int) -> Float[Tensor, "B"]:
    """Distance of a projection to the box's own, within one cell of its two edges, over all cells of the side."""
    n = profile.shape[1]
    cells = torch.arange(n, device=profile.device)
    wanted = ((cells >= start) & (cells < stop)).to(profile)
    near = ((cells - start).abs() <= 1) | ((cells - (stop - 1)).abs() <= 1)
    return ((profile - wanted).abs() * near).sum(dim=1) / n
