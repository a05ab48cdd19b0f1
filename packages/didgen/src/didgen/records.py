"""What flows from stage to stage."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from didgen.tokens import Positions


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch that is ready to be denoised.

    Attributes:
        noise: (B, c, h, w) float32 start of each picture, from its own seed.
        text: (B, L, D) states of the prompts.
        null: (1, L, D) states of the empty prompt.
        words: where the placeholders stand in each prompt.
    """

    noise: Float[Tensor, "B c h w"]
    text: Float[Tensor, "B L D"]
    null: Float[Tensor, "1 L D"]
    words: tuple[Positions, ...]


@dataclass(frozen=True, eq=False)
class Layouts:
    """Layout masks on the two grids that maps are read on.

    Attributes:
        cross: (B, hc, wc) share of each cell that is lesion (area mean), in [0, 1].
        inside: (B, hs, ws) float 0 or 1, lesion cells of the self-attention grid.
    """

    cross: Float[Tensor, "B hc wc"]
    inside: Float[Tensor, "B hs ws"]


@dataclass(frozen=True, eq=False)
class Attention:
    """What the annotation reads off the last evaluation.

    Attributes:
        lesion: (B, hc, wc) cross map of <lesion>, mean over heads and sites, raw probabilities.
        affinity: (B, N, N) self map of the finer grid, mean over heads and sites, rows sum to 1.
        grid: (hs, ws) of the affinity, N = hs * ws.
    """

    lesion: Float[Tensor, "B hc wc"]
    affinity: Float[Tensor, "B N N"]
    grid: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Denoised:
    """Latents after the last step.

    Attributes:
        latents: (B, c, h, w) clean, scaled.
        attention: of the last evaluation; None where no mask was asked for.
        losses: (guided steps, B) guidance loss before each update; no rows without guidance.
    """

    latents: Float[Tensor, "B c h w"]
    attention: Attention | None
    losses: Float[Tensor, "steps B"]


@dataclass(frozen=True, eq=False)
class Annotation:
    """A lesion mask read from attention.

    Attributes:
        mask: (H, W) True on the lesion.
        level: Otsu's threshold on the 8-bit map; the mask is what lies above it, closed.
        contrast: difference of the map's means inside and outside, in shares of its range.
        agreement: lowest IoU with the masks of neighbouring thresholds (8 levels down and up): how sure the border is.
    """

    mask: Bool[np.ndarray, "H W"]
    level: int
    contrast: float
    agreement: float


@dataclass(frozen=True, eq=False)
class Pair:
    """One synthetic picture with its mask.

    Attributes:
        image: (H, W, 3) uint8.
        annotation: the mask and how sure it is.
        flags: reasons to look at it; empty when there is none.
        iou: of the mask with the layout that was asked for.
        losses: guidance loss at the first and the last guided step; empty without guidance.
    """

    image: UInt8[np.ndarray, "H W 3"]
    annotation: Annotation
    flags: tuple[str, ...]
    iou: float
    losses: tuple[float, ...]
