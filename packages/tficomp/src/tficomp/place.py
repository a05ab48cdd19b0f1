"""Inputs -> Placed: the square that the network sees, and the lesion rescaled and relocated into it (spec 2.2)."""

import math

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from graft_common.phantoms import box_of
from graft_common.pixels import resize, with_channels
from tficomp.config import MethodConfig
from tficomp.frame import choose_frame, mask_to_frame, resized_mask, to_frame
from tficomp.records import Box, Frame, Inputs, Lesion, Placed


def place(inputs: Inputs, config: MethodConfig, size: int, factor: int) -> Placed:
    """Put one sample on a frame of `size` x `size` pixels; latent cells are `factor` pixels wide."""
    height, width = inputs.background.pixels.shape[1:]
    users = np.logical_or.reduce([lesion.user_mask for lesion in inputs.lesions])
    frame = choose_frame((height, width), box_of(users), size, config.context)
    background = to_frame(with_channels(inputs.background.pixels, 3), frame)
    moved = [relocate(lesion, frame, config, factor, background) for lesion in inputs.lesions]
    objects, masks, boxes, cropped = zip(*moved, strict=True)
    m_obj = np.stack([latent_mask(mask, factor, config.mask_mode) for mask in masks])
    grown = ndimage.binary_dilation(np.logical_or.reduce(m_obj), np.ones((3, 3), bool))
    user_mask = mask_to_frame(users, frame)
    cells = latent_mask(user_mask, factor, config.mask_mode, every=True)
    return Placed(
        frame, background, np.stack(objects), np.stack(masks), user_mask, boxes, cropped, m_obj, cells | grown
    )  # fmt: skip


def relocate(
    lesion: Lesion, frame: Frame, config: MethodConfig, factor: int, background: Float32[np.ndarray, "3 S S"]
) -> tuple[Float32[np.ndarray, "3 S S"], Bool[np.ndarray, "S S"], Box, Bool[np.ndarray, "h w"]]:
    """The object image on its canvas, its mask there, the rectangle that it covers (spec 2.2, steps 2 to 5), and the part
    of the mask that lies in it, unscaled.

    The rectangle's corner is a multiple of `factor`, so that shifting the user's mask by whole cells shifts the lesion's
    latent mask by as many.
    """
    pixels, mask = with_channels(lesion.pixels, 3), lesion.mask
    if config.fit == "fit":
        left, top, right, bottom = _grown(box_of(mask), config.margin, mask.shape)
        pixels, mask = pixels[:, top:bottom, left:right], mask[top:bottom, left:right]
    user = box_of(mask_to_frame(lesion.user_mask, frame))
    wide, high = user[2] - user[0], user[3] - user[1]
    h, w = mask.shape
    scale = min(wide / w, high / h) if config.fit == "fit" else max(wide, high) / max(h, w)
    size = (min(max(1, round(h * scale)), frame.size), min(max(1, round(w * scale)), frame.size))
    top = _snapped((user[1] + user[3] - size[0]) / 2, frame.size - size[0], factor)
    left = _snapped((user[0] + user[2] - size[1]) / 2, frame.size - size[1], factor)
    spot = (slice(top, top + size[0]), slice(left, left + size[1]))
    canvas = background.copy() if config.canvas == "background" else np.full_like(background, -1.0)
    canvas[(slice(None), *spot)] = resize(np.ascontiguousarray(pixels), size)
    placed = np.zeros((frame.size, frame.size), bool)
    placed[spot] = resized_mask(mask, size)
    return canvas, placed, (left, top, left + size[1], top + size[0]), mask


def latent_mask(mask: Bool[np.ndarray, "S S"], factor: int, mode: str, every: bool = False) -> Bool[np.ndarray, "h w"]:
    """A pixel mask on the latent grid (spec 2.3).

    `area`: cells covered by half or more, or the best-covered cell if none is; with `every`, all cells touched. `stride`:
    every factor-th pixel, as TF-ICON.
    """
    if mode == "stride":
        return mask[::factor, ::factor].copy()
    size = mask.shape[0] // factor
    cover = mask.reshape(size, factor, size, factor).mean(axis=(1, 3))
    if every:
        return cover > 0
    cells = cover >= 0.5
    return cells if cells.any() else (cover == cover.max()) & (cover > 0)


def _grown(where: Box, margin: float, shape: tuple[int, ...]) -> Box:
    left, top, right, bottom = where
    extra = round(margin * max(right - left, bottom - top))
    return max(left - extra, 0), max(top - extra, 0), min(right + extra, shape[1]), min(bottom + extra, shape[0])


def _snapped(corner: float, room: int, factor: int) -> int:
    """The multiple of `factor` nearest to `corner` (halves up) that leaves the object inside."""
    return min(max(math.floor(corner / factor + 0.5), 0), room // factor) * factor
