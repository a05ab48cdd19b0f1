"""Find the lesion by its colour alone: no attention map, no layout and no network is asked."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from didgen.artifacts import EIGHT, Artifacts, find_artifacts, unhaired
from didgen.colours import to_lab
from didgen.thresholds import DEFAULT, Thresholds


def segment_lesion(
    image: UInt8[np.ndarray, "H W 3"], artifacts: Artifacts | None = None, thresholds: Thresholds = DEFAULT
) -> Bool[np.ndarray, "H W"]:
    """Mask of the lesion by colour; all False where nothing differs from the skin.

    Skin is what is connected to the picture's border. Its shading is fitted by a plane and taken away; Otsu's threshold on the
    colour distance from it finds the lesion roughly; the border is where the colour is half way from skin to lesion. The
    largest region counts (several lesions: those at least half as large), holes are filled.

    Args:
        artifacts: of the same picture, if they are known already.
    """
    found = find_artifacts(image, thresholds) if artifacts is None else artifacts
    side = min(image.shape[:2])
    blocked = found.any()
    bare = np.where(found.any_hair()[..., None], unhaired(image, thresholds), image)
    lab = _without(to_lab(bare), found.any_other(), side)
    inside = ~(found.corners | found.ruler)
    skin = _frame(image.shape[0], image.shape[1]) & ~blocked
    rough = np.zeros(image.shape[:2], bool)
    for _ in range(3):  # skin estimated from the frame, then from all that is not lesion
        if skin.sum() < 12:
            return rough
        distance = np.linalg.norm(lab - _plane(lab, skin), axis=-1)
        rough = _regions((distance > _otsu(distance[inside])) & inside, thresholds)
        if not rough.any() or distance[rough].mean() < thresholds.faint:
            return np.zeros_like(rough)
        skin = ~ndimage.binary_dilation(rough, EIGHT, iterations=max(1, round(0.05 * side))) & ~blocked
        skin &= distance < np.median(distance[rough]) / 2
    shaded = _plane(lab, skin) if skin.sum() >= 12 else _plane(lab, _frame(*image.shape[:2]) & ~blocked)
    return _half_way(lab - shaded, rough, inside, thresholds)


def _half_way(
    off: Float[np.ndarray, "H W 3"],
    rough: Bool[np.ndarray, "H W"],
    inside: Bool[np.ndarray, "H W"],
    thresholds: Thresholds,
) -> Bool[np.ndarray, "H W"]:
    """Pixels beyond half of the way from skin (0) to the lesion's own colour near its border."""
    depth = ndimage.distance_transform_edt(rough)
    core = depth > 0.35 * depth.max()
    axis = np.median(off[core], axis=0)
    share = off @ axis / (axis @ axis)
    near = ndimage.binary_dilation(rough, EIGHT, iterations=max(2, round(0.35 * depth.max())))
    return _regions((share > 0.5) & near & inside, thresholds)


def _without(
    lab: Float[np.ndarray, "H W 3"], blocked: Bool[np.ndarray, "H W"], side: int
) -> Float[np.ndarray, "H W 3"]:
    """The picture with what is blocked filled from around it, then smoothed by half a per cent of the side."""
    if blocked.all():
        return lab
    where = ndimage.distance_transform_edt(blocked, return_distances=False, return_indices=True)
    filled = lab[tuple(where)]
    sigma = 0.006 * side
    return np.stack([ndimage.gaussian_filter(filled[..., c], sigma, mode="nearest") for c in range(3)], axis=-1)


def _frame(height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The outer eighth of the inscribed ellipse and everything beyond: a lesion seldom gets there."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.hypot(x, y) > 0.88


def _plane(lab: Float[np.ndarray, "H W 3"], skin: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "H W 3"]:
    """Colour of the skin at every pixel: a plane through it, darker towards the corners, least squares without outliers."""
    height, width = skin.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x + y * y], axis=-1)
    a, b = terms[skin], lab[skin]
    middle = np.median(b, axis=0)
    off = np.linalg.norm(b - middle, axis=1)
    good = off <= 2.5 * np.median(off) + 2.0
    fit = np.linalg.lstsq(a[good], b[good], rcond=None)[0]
    return terms @ fit


def _otsu(values: Float[np.ndarray, " n"]) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(values)) if values.size and values.max() > values.min() else float("inf")


def _regions(mask: Bool[np.ndarray, "H W"], thresholds: Thresholds) -> Bool[np.ndarray, "H W"]:
    """The largest region and those at least half as large, without holes and specks."""
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    keep = areas >= max(0.5 * areas.max(), thresholds.speck * mask.size)
    keep[0] = False
    return ndimage.binary_fill_holes(keep[parts])
