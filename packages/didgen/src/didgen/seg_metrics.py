"""Dice and IoU per picture (MONAI), and the answers that need no network."""

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor


def overlap(said: Bool[Tensor, "n 1 S S2"], truth: Bool[Tensor, "n 1 S S2"]) -> dict[str, Float64[np.ndarray, "n"]]:
    """ "dice" and "iou" of each picture, in [0, 1]; both are 1 where neither has a lesion."""
    from monai.metrics import compute_dice, compute_iou

    a, b = said.float(), truth.float()
    dice, iou = compute_dice(a, b, ignore_empty=False), compute_iou(a, b, ignore_empty=False)
    return {"dice": dice.flatten().double().numpy(), "iou": iou.flatten().double().numpy()}


def trivial_masks(truth: Bool[Tensor, "n 1 S S2"]) -> dict[str, Bool[Tensor, "n 1 S S2"]]:
    """All lesion; nothing; and one centred disc whose area is the mean lesion area of `truth` (a helped guess: it knows
    the mean of the very pictures that it is scored on)."""
    h, w = truth.shape[-2:]
    y, x = np.mgrid[:h, :w]
    apart = ((y - (h - 1) / 2) / h) ** 2 + ((x - (w - 1) / 2) / w) ** 2
    area = float(truth.double().mean())
    disc = torch.from_numpy(apart <= area / np.pi)
    return {
        "all lesion": torch.ones_like(truth),
        "centred disc": disc.expand_as(truth).clone(),
        "nothing": torch.zeros_like(truth),
    }
