"""What travels from stage to stage, in the order of the stages."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from graft_common.pixels import Picture

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, the last two exclusive


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion to place: its image, its mask there, and where it goes.

    Attributes:
        pixels: (C, H, W) in [-1, 1].
        mask: (H, W) of the object image.
        user_mask: (Hb, Wb) on the background, as given or placed.
    """

    pixels: Float32[np.ndarray, "C H W"]
    mask: Bool[np.ndarray, "H W"]
    user_mask: Bool[np.ndarray, "Hb Wb"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """One sample as read.

    Attributes:
        background: the tumour-free picture with its geometry.
        lesions: in painting order.
        prompt: text for the composing steps.
        key: name of the sample in messages and folders.
        notes: what was done to the input that its owner should know.
    """

    background: Picture
    lesions: tuple[Lesion, ...]
    prompt: str
    key: str = "sample"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """The square of the background that the network sees.

    Attributes:
        top, left, side: in background pixels; may reach outside, where the edge is repeated.
        height, width: of the background.
        size: working size in pixels.
    """

    top: int
    left: int
    side: int
    height: int
    width: int
    size: int


@dataclass(frozen=True, eq=False)
class Placed:
    """One sample on the working frame (S = working size, f = VAE factor, n lesions).

    Attributes:
        frame: how the frame lies on the background.
        background: (3, S, S) in [-1, 1].
        objects: (n, 3, S, S), each object on its canvas.
        object_masks: (n, S, S), the relocated lesion masks.
        user_mask: (S, S), all users' masks as given.
        boxes: (left, top, right, bottom) of each pasted object image on the frame, in pixels.
        lesion_masks: what lies in each box, at the object image's own resolution; labels are drawn from these.
        m_obj: (n, S/f, S/f) lesions on the latent grid.
        m_user: (S/f, S/f) user mask on the latent grid, grown to contain every lesion and one cell around it.
    """

    frame: Frame
    background: Float32[np.ndarray, "3 S S"]
    objects: Float32[np.ndarray, "n 3 S S"]
    object_masks: Bool[np.ndarray, "n S S"]
    user_mask: Bool[np.ndarray, "S S"]
    boxes: tuple[tuple[int, int, int, int], ...]
    lesion_masks: tuple[Bool[np.ndarray, "_ _"], ...]
    m_obj: Bool[np.ndarray, "n h w"]
    m_user: Bool[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class Latents:
    """A batch of B samples with n lesions in all.

    Attributes:
        background: (B, c, h, w) scaled latents, float32 (or float64 in tests).
        objects: (n, c, h, w).
        owner: (n,) the sample that each object belongs to, in painting order.
        m_obj: (n, 1, h, w) relocated lesion masks.
        m_user: (B, 1, h, w) grown user masks.
        text, null: (B, L, D) prompt and empty prompt.
        exceptional: (1, 1, D) one row of the exceptional prompt; all rows are equal, so one gives the same attention.
    """

    background: Float[Tensor, "B c h w"]
    objects: Float[Tensor, "n c h w"]
    owner: Int[Tensor, " n"]
    m_obj: Bool[Tensor, "n 1 h w"]
    m_user: Bool[Tensor, "B 1 h w"]
    text: Float[Tensor, "B L D"]
    null: Float[Tensor, "B L D"]
    exceptional: Float[Tensor, "1 1 D"]


@dataclass(frozen=True, eq=False)
class Result:
    """One finished sample, in the background's own geometry.

    Attributes:
        picture: the background's record (for writing in its format).
        pixels: (C, H, W) in [-1, 1].
        changed: (H, W), where `pixels` may differ from the background.
        lesion_mask: (H, W), the label of the new picture.
        lesion_masks: (n, H, W), the part of it that belongs to each lesion; they share no pixel.
        copy_paste: (C, H, W), the naive answer, for comparison.
        frame_pixels: (3, S, S), the decoded frame before it was put back; (1, S, S) of a result read from a grey file.
        placed: geometry of the sample.
        measures: channel spread and the like.
    """

    picture: Picture
    pixels: Float32[np.ndarray, "C H W"]
    changed: Bool[np.ndarray, "H W"]
    lesion_mask: Bool[np.ndarray, "H W"]
    lesion_masks: Bool[np.ndarray, "n H W"]
    copy_paste: Float32[np.ndarray, "C H W"]
    frame_pixels: Float[np.ndarray, "C2 S S"]
    placed: Placed
    measures: dict[str, Any] = field(default_factory=dict)
