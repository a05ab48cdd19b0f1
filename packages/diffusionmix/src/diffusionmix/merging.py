"""What crosses between the chains (spec 2.3, 2.4, and section 6 for several objects). Pure functions on tensors."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffusionmix.transfer import Transfer

Square = Float[Tensor, "B C S S"]
Canvas = Float[Tensor, "B C H W"]
SquareMask = Float[Tensor, "B 1 S S"]
CanvasMask = Float[Tensor, "B 1 H W"]


def mask_of(channel: SquareMask, soft: bool = False) -> SquareMask:
    """Object mask from a mask channel whose data are -1 and 1: 1 above zero, or the value as a share when `soft`."""
    return ((channel + 1) / 2).clamp(0, 1) if soft else (channel > 0).to(channel.dtype)


def seen(covers: Sequence[CanvasMask]) -> list[CanvasMask]:
    """Where each object is seen, the last being nearest: m_k prod_{j > k} (1 - m_j)."""
    free = torch.ones_like(covers[0]) if covers else None
    out: list[CanvasMask] = []
    for cover in reversed(covers):
        assert free is not None
        out.append(cover * free)
        free = free * (1 - cover)
    return out[::-1]


def blend(mask: Float[Tensor, "B 1 h w"], inside: Float[Tensor, "B C h w"], outside: Float[Tensor, "B C h w"]) -> Canvas:
    """mask inside + (1 - mask) outside; bit-equal to one of the two where the mask is 1 or 0."""
    mixed = mask * inside + (1 - mask) * outside
    return torch.where(mask == 1, inside, torch.where(mask == 0, outside, mixed))


def composite(background: Canvas, contents: Sequence[Canvas], covers: Sequence[CanvasMask]) -> Canvas:
    """The objects over the background, the last nearest."""
    picture = background
    for content, cover in zip(contents, covers, strict=True):
        picture = blend(cover, content, picture)
    return picture


def exchange(
    colours: Sequence[Square], covers: Sequence[CanvasMask], background: Canvas, transfers: Sequence[Transfer]
) -> tuple[list[Square], list[Canvas]]:
    """What each chain is shown of the others; all from the values before merging (spec 2.4 #6).

    Args:
        colours: (B, C, S, S) of each object, from the farthest to the nearest.
        covers: its mask on the canvas.
        background: (B, C, H, W) of the same kind (clean predictions, or states).
        transfers: its box.

    Returns:
        C_box of the picture of all others, for each object; and R_box of each object, for the canvas.
    """
    placed = [t.place(colour) for t, colour in zip(transfers, colours, strict=True)]
    views = []
    for k, t in enumerate(transfers):
        others = composite(background, placed[:k] + placed[k + 1 :], [*covers[:k], *covers[k + 1 :]])
        views.append(t.crop(others))
    return views, placed
