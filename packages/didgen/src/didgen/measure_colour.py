"""Colours of lesion and skin under whatever lies on them, and how sharply one turns into the other."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from didgen.artifacts import Artifacts
from didgen.colours import classify, ita
from didgen.thresholds import DEFAULT, Thresholds


@dataclass(frozen=True)
class Tones:
    """Colour statistics of one picture.

    Attributes:
        skin_lab: median CIELAB of the skin away from the lesion.
        ita: typology angle of it, degrees.
        lesion_lab: mean CIELAB of the lesion's inside.
        shares: colour name -> share of the lesion's inside, largest first.
        border: width of the border over the radius of the disc of the lesion's area.
    """

    skin_lab: tuple[float, float, float]
    ita: float
    lesion_lab: tuple[float, float, float]
    shares: dict[str, float]
    border: float


def measure_tones(
    lab: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    artifacts: Artifacts,
    thresholds: Thresholds = DEFAULT,
) -> Tones:
    """Measure a lesion and the skin around it; `mask` holds at least one pixel and leaves one out."""
    blocked = artifacts.any()
    skin = plain_skin(mask, blocked, thresholds)
    skin_lab = np.median(lab[skin], axis=0)
    core = lesion_core(mask, blocked, thresholds)
    kinds = np.bincount(classify(lab[core], thresholds), minlength=len(thresholds.colors)) / core.sum()
    order = np.argsort(-kinds, kind="stable")
    shares = {thresholds.colors[i][0]: float(kinds[i]) for i in order if kinds[i] > 0}
    lesion_lab = lab[core].mean(axis=0)
    width = border_width(lab, mask, blocked, lesion_lab - skin_lab, skin_lab)
    return Tones(_three(skin_lab), ita(skin_lab), _three(lesion_lab), shares, width)


def colors_of(shares: dict[str, float], thresholds: Thresholds = DEFAULT) -> tuple[str, ...]:
    """Up to three colours that cover enough of the lesion, the largest first; the largest in any case."""
    named = [name for name, share in shares.items() if share >= thresholds.color_share]
    return tuple(named[:3]) or (next(iter(shares)),)


def plain_skin(
    mask: Bool[np.ndarray, "H W"], blocked: Bool[np.ndarray, "H W"], thresholds: Thresholds = DEFAULT
) -> Bool[np.ndarray, "H W"]:
    """Skin to measure: clear of the lesion and of artifacts, within the inscribed ellipse.

    Where that leaves less than half a per cent of the picture, first the ellipse is given up, then the distance, then the
    artifacts.
    """
    height, width = mask.shape
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    far = ndimage.distance_transform_edt(~mask) > thresholds.margin * min(height, width)
    round_view = np.hypot(x - 0.5, y - 0.5) < 0.5
    for skin in (far & round_view & ~blocked, far & ~blocked, ~mask & ~blocked):
        if skin.sum() >= max(4, 0.005 * mask.size):
            return skin
    return ~mask


def lesion_core(
    mask: Bool[np.ndarray, "H W"], blocked: Bool[np.ndarray, "H W"], thresholds: Thresholds = DEFAULT
) -> Bool[np.ndarray, "H W"]:
    """The inside of the lesion, without its soft rim and what lies over it; the rim, then all, where nothing is left."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    deep = depth > thresholds.rim * depth.max()
    for core in (deep & ~blocked, mask & ~blocked, deep):
        if core.sum() >= max(4, 0.05 * mask.sum()):
            return core
    return mask


def border_width(
    lab: Float[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    blocked: Bool[np.ndarray, "H W"],
    contrast: Float[np.ndarray, "3"],
    skin_lab: Float[np.ndarray, "3"],
) -> float:
    """Width of the ramp from skin to lesion over the radius of the disc of equal area.

    The colour is read along the way from skin (0) to lesion (1), averaged over half-pixel rings around the mask's edge; a straight
    ramp takes twice the distance from a quarter to three quarters. The pixel grid's own ramp is taken off.
    """
    radius = float(np.sqrt(mask.sum() / np.pi))
    along = (lab - skin_lab) @ contrast / max(float(contrast @ contrast), 1e-9)
    padded = np.pad(mask, 1, mode="edge")
    inside = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~mask)
    away = np.where(mask, inside - 0.5, 0.5 - outside)
    reach = max(2.0, 0.5 * radius)
    near = (np.abs(away) <= reach) & ~blocked
    if not near.any():
        return 0.0
    rings = np.round(away[near] * 2).astype(int)
    rings -= (first := rings.min())
    count = np.bincount(rings)
    profile = np.bincount(rings, along[near])[count > 0] / count[count > 0]
    at = (np.flatnonzero(count) + first) / 2
    rising = np.maximum.accumulate(profile)
    low, high = (float(np.interp(level, rising, at)) for level in (0.25, 0.75))
    ramp = 2 * (high - low)
    return float(np.sqrt(max(ramp**2 - 1.0, 0.0)) / radius)


def _three(lab: Float[np.ndarray, "3"]) -> tuple[float, float, float]:
    return float(lab[0]), float(lab[1]), float(lab[2])
