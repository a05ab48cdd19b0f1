"""An independent segmenter of defects: a small U-Net, and what it is scored by (image AUROC, pixel AUPRO)."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from diffusionmix.classifier import planes
from diffusionmix.judge_training import answers, seeded, teach

WIDTHS = (12, 24, 48, 64)
RATE = 2e-3
TOP = 0.001  # share of a picture's pixels whose mean score is the score of the picture: 16 of 128 x 128
LIMIT = 0.3  # false positive rate up to which AUPRO counts, as MVTec AD's authors take it


class UNet(nn.Module):
    """Four levels of two convolutions; sides of pictures are multiples of 8."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        down = [3, *widths]
        self.down = nn.ModuleList(_block(a, b) for a, b in pairwise(down))
        self.up = nn.ModuleList(_block(deep + skip, skip) for deep, skip in pairwise(widths[::-1]))
        self.out = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """Pictures in [-1, 1] -> logits."""
        kept = []
        for i, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if i else x)
            kept.append(x)
        for block, skip in zip(self.up, kept[-2::-1], strict=True):
            grown = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = block(torch.cat([grown, skip], dim=1))
        return self.out(x)


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
    return nn.Sequential(*layers)


def dice_and_entropy(logits: Float[Tensor, "B 1 H W"], masks: Bool[Tensor, "B 1 H W"]) -> Float[Tensor, ""]:
    """Binary cross entropy plus Dice loss over the batch, so that pictures without a defect count in both."""
    truth = masks.to(logits.dtype)
    said = logits.sigmoid()
    dice = 1 - (2 * (said * truth).sum() + 1) / (said.sum() + truth.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, truth) + dice


def train_segmenter(
    images: UInt8[np.ndarray, "n H W 3"],
    masks: Bool[np.ndarray, "n H W"],
    *,
    steps: int = 300,
    batch: int = 16,
    seed: int = 0,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda n: None,
) -> nn.Module:
    """A U-Net trained on pictures with defects and without (empty masks).

    Raises:
        ValueError: sides that are no multiples of 8.
    """
    if images.shape[1] % 8 or images.shape[2] % 8:
        raise ValueError(f"pictures are {images.shape[2]}x{images.shape[1]}; sides must be multiples of 8")
    return teach(
        seeded(UNet, seed), planes(images), torch.from_numpy(masks[:, None]), dice_and_entropy, steps=steps, batch=batch,
        learning_rate=RATE, seed=seed, masks=True, device=torch.device(device), advance=advance,
    )  # fmt: skip


def defect_scores(
    network: nn.Module, images: UInt8[np.ndarray, "n H W 3"], device: torch.device | str = "cpu"
) -> Float32[np.ndarray, "n H W"]:
    """Probability of a defect at each pixel."""
    return answers(network, planes(images), torch.device(device)).sigmoid()[:, 0].numpy()


def image_scores(scores: Float[np.ndarray, "n H W"]) -> Float64[np.ndarray, "n"]:
    """One number a picture: the mean of its highest thousandth of pixels, at least one."""
    flat = scores.reshape(len(scores), -1).astype(np.float64)
    top = max(1, round(TOP * flat.shape[1]))
    return np.sort(flat, axis=1)[:, -top:].mean(axis=1)


def auroc(scores: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]) -> float:
    """Area under the ROC curve, ties counted half (torchmetrics).

    Raises:
        ValueError: one class only.
    """
    from torchmetrics.functional.classification import binary_auroc

    if truth.all() or not truth.any():
        raise ValueError("all pictures are of one kind; AUROC needs pictures with a defect and without")
    # torchmetrics turns what lies outside [0, 1] into probabilities, which can merge scores: ranks keep their order
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.float64)
    return float(binary_auroc(torch.from_numpy(ranks / max(1.0, float(ranks.max()))), torch.from_numpy(truth).long()))


def aupro(scores: Float[np.ndarray, "n H W"], masks: Bool[np.ndarray, "n H W"], limit: float = LIMIT) -> float:
    """Area under the per-region overlap curve up to a false positive rate of `limit`, divided by it (Bergmann et al. 2021):
    1 is perfect. Every connected defect counts alike, however large; defect-free pixels of all pictures count as negatives.

    Raises:
        ValueError: no defect, or nothing but defects.
    """
    from skimage.measure import label

    if masks.all() or not masks.any():
        raise ValueError("there is no defect, or nothing else; AUPRO needs both")
    weight = np.zeros(masks.shape, np.float64)
    regions = 0
    for i, mask in enumerate(masks):
        pieces = label(mask, connectivity=2)
        sizes = np.bincount(pieces.ravel())
        regions += len(sizes) - 1
        weight[i][mask] = 1.0 / sizes[pieces[mask]]
    order = np.argsort(-scores.reshape(-1), kind="stable")
    overlap = np.cumsum(weight.reshape(-1)[order]) / regions
    false = np.cumsum(~masks.reshape(-1)[order]) / (~masks).sum()
    sorted_scores = scores.reshape(-1)[order]
    ends = np.flatnonzero(np.r_[sorted_scores[1:] != sorted_scores[:-1], True])  # equal scores pass a threshold together
    x, y = np.r_[0.0, false[ends]], np.r_[0.0, overlap[ends]]
    stop = int(np.searchsorted(x, limit, side="right"))
    if stop < len(x):
        share = (limit - x[stop - 1]) / (x[stop] - x[stop - 1])
        x = np.r_[x[:stop], limit]
        y = np.r_[y[:stop], y[stop - 1] + share * (y[stop] - y[stop - 1])]
    return float(np.trapezoid(y, x) / limit)
