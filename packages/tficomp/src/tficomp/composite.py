"""Decoded frame + Inputs -> Result: put the frame back into the background's own geometry."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from graft_common.pixels import feather, paste, with_channels
from tficomp.config import MethodConfig
from tficomp.frame import from_frame, mask_on_box
from tficomp.records import Inputs, Placed, Result

FEATHER = 8  # px at 512


def composite(frame_pixels: Float[np.ndarray, "3 S S"], inputs: Inputs, placed: Placed, config: MethodConfig) -> Result:
    """One sample's decoded frame, in [-1, 1], onto its background.

    With paste-back (always for DICOM, NIfTI and more than 8 bits) pixels outside the user mask as given keep the
    background's values, with a feathered edge inside it; else the whole frame is the network's. A grey background gets the
    mean of the three channels, whose spread is reported.
    """
    base = inputs.background.pixels
    users = np.logical_or.reduce([lesion.user_mask for lesion in inputs.lesions])
    back = config.paste_back or keeps_stored(inputs)
    new, spot = from_frame(with_channels(frame_pixels.astype(np.float32), len(base)), placed.frame)
    whole = base.copy()
    whole[(slice(None), *spot)] = new
    changed = np.zeros(base.shape[1:], bool)
    if back:
        changed |= users
        # The long side of the frame's pixels at 512 px is what the constant means.
        whole = paste(base, whole, feather(users, FEATHER * placed.frame.side / 512))
    else:
        changed[spot] = True
    lesions = lesions_on_background(placed, base.shape[1:])
    labels = lesions & users if back else lesions
    measures: dict[str, Any] = {
        "channel_spread": float(np.ptp(frame_pixels, axis=0).mean()),
        "frame": [placed.frame.left, placed.frame.top, placed.frame.side],
        "boxes": [list(b) for b in placed.boxes],
        "paste_back": back,
    }
    naive = copy_paste(inputs, placed)
    return Result(
        inputs.background, whole, changed, np.logical_or.reduce(labels), labels, naive, frame_pixels, placed, measures
    )  # fmt: skip


def keeps_stored(inputs: Inputs) -> bool:
    """Whether values outside the mask must be copied as stored: DICOM, NIfTI, and pictures of more than 8 bits."""
    source = inputs.background.source
    return source.kind in ("dicom", "nifti") or source.bits > 8


def lesions_on_background(placed: Placed, shape: tuple[int, int]) -> Bool[np.ndarray, "n H W"]:
    """Each relocated lesion's mask at the background's resolution, half coverage or more; later lesions over earlier.

    Where the frame is scaled they are drawn from the object's own pixels, not from the frame's, whose steps would show.
    """
    frame, masks = placed.frame, np.zeros((len(placed.boxes), *shape), bool)
    if frame.side == frame.size:
        drawn, spot = from_frame(placed.object_masks.astype(np.float32), frame)
        masks[(slice(None), *spot)] = drawn > 0
    else:
        scale = frame.side / frame.size
        for i, (own, (left, top, right, bottom)) in enumerate(zip(placed.lesion_masks, placed.boxes, strict=True)):
            where = (left * scale + frame.left, top * scale + frame.top,
                     right * scale + frame.left, bottom * scale + frame.top)  # fmt: skip
            masks[i] = mask_on_box(own, where, shape)
    for i in range(len(masks) - 1):
        masks[i] &= ~masks[i + 1 :].any(axis=0)
    return masks


def copy_paste(inputs: Inputs, placed: Placed) -> Float[np.ndarray, "C H W"]:
    """The naive answer: the relocated lesions' own pixels on the background."""
    base = inputs.background.pixels.copy()
    pasted = placed.background.copy()  # merged before it is resized, so that no canvas bleeds into the rim
    for pixels, mask in zip(placed.objects, placed.object_masks, strict=True):
        pasted[:, mask] = pixels[:, mask]
    new, spot = from_frame(with_channels(pasted, len(base)), placed.frame)
    lesion = np.logical_or.reduce(lesions_on_background(placed, base.shape[1:]))[spot]
    base[(slice(None), *spot)] = np.where(lesion, new, base[(slice(None), *spot)])
    return base
