"""Attention of the last evaluation -> lesion mask (spec 2.6, eq. 4.11). The picture's colours and the layout play no part."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional as F

from didgen.records import Annotation, Attention

KERNEL = 15  # px at 512
LEAST, MOST = 0.005, 0.90  # share of the picture
PARTS, CONTRAST, OVERLAP = 3, 0.25, 0.2
THIN = "layout has a lesion thinner than an attention cell"


def spread(attention: Attention, power: int, size: tuple[int, int]) -> Float[Tensor, "B H W"]:
    """(A_S)^power A_C on the picture's grid, each map from 0 to 1; a matrix power, as `power` products with a vector."""
    fine = F.interpolate(_unit(attention.lesion)[:, None], size=attention.grid, mode="bicubic", align_corners=False)
    x = fine.flatten(1).unsqueeze(2)
    for _ in range(power):
        x = attention.affinity.to(x) @ x
    maps = _unit(x.squeeze(2).unflatten(1, attention.grid))
    return _unit(F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0])


def _unit(maps: Float[Tensor, "B h w"]) -> Float[Tensor, "B h w"]:
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def annotate(attention: Attention, size: tuple[int, int], power: int = 4) -> list[Annotation]:
    """One mask per sample at (H, W): spread, upsample, 8-bit Otsu, closing."""
    return [mask_of(m) for m in spread(attention, power, size).float().cpu().numpy()]


def mask_of(heat: Float[np.ndarray, "H W"]) -> Annotation:
    """Mask of one map in [0, 1]. A constant map gives an empty mask."""
    levels = to_levels(heat)
    if levels.min() == levels.max():
        return Annotation(np.zeros(heat.shape, bool), int(levels.max()), 0.0, 0.0)
    level = int(threshold_otsu(levels))
    inside = levels > level
    mask = closed(inside)
    contrast = float(levels[inside].mean() - levels[~inside].mean()) / 255
    middle = (int(levels[~inside].max()) + int(levels[inside].min())) // 2  # of the gap, where the two classes leave one
    near = [closed(levels > min(max(middle + step, 0), 254)) for step in (-8, 8)]
    return Annotation(mask, level, contrast, min(iou(mask, other) for other in near))


def to_levels(heat: Float[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """[0, 1] -> 256 levels."""
    return (heat * 255).round().clip(0, 255).astype(np.uint8)


def closed(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Dilation, then erosion by a disc of 15 px at 512 px.

    What lies outside the picture is unknown: it grows nothing and eats nothing, so that lesions at the border stay whole.
    """
    radius = int(KERNEL * min(mask.shape) / 512) // 2
    if radius < 1:
        return mask
    axis = np.arange(-radius, radius + 1)
    disc = axis[:, None] ** 2 + axis[None] ** 2 <= radius**2
    return ndimage.binary_erosion(ndimage.binary_dilation(mask, disc), disc, border_value=1)


def flags(
    annotation: Annotation, layout: Bool[np.ndarray, "H W"] | None, grid: tuple[int, int] | None = None
) -> tuple[str, ...]:
    """Reasons to look at a pair before it is used; none is a reason to hide it.

    Args:
        layout: what was asked for, if anything was.
        grid: (h, w) cells of the cross-attention that was to follow it.
    """
    share = float(annotation.mask.mean())
    found = []
    if share < LEAST:
        found.append("mask is (almost) empty")
    if share > MOST:
        found.append("mask covers (almost) everything")
    if ndimage.label(annotation.mask)[1] > PARTS:
        found.append(f"mask has more than {PARTS} parts")
    if annotation.contrast < CONTRAST:
        found.append("attention hardly tells lesion from skin")
    if layout is not None and iou(annotation.mask, layout) < OVERLAP:
        found.append("mask lies elsewhere than the layout")
    if layout is not None and grid is not None and thin(layout, grid):
        found.append(THIN)
    return tuple(found)


def thin(layout: Bool[np.ndarray, "H W"], grid: tuple[int, int]) -> bool:
    """Whether one of its lesions has no room for a disc as wide as a cell: its map cannot tell such a lesion from skin."""
    height, width = (max(1, round(side / cells)) for side, cells in zip(layout.shape, grid, strict=True))
    y, x = np.mgrid[:height, :width]
    disc = ((2 * y + 1) / height - 1) ** 2 + ((2 * x + 1) / width - 1) ** 2 <= 1
    lesions, count = ndimage.label(layout, np.ones((3, 3)))
    return len(np.unique(lesions[ndimage.binary_erosion(layout, disc)])) < count


def iou(a: Bool[np.ndarray, "H W"], b: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0
