"""The outline of a lesion mask as numbers and words. Every measure is equal for a mask and its mirror image."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from didgen.thresholds import DEFAULT, Thresholds


@dataclass(frozen=True)
class Outline:
    """Shape of one region.

    Attributes:
        circularity: 4 pi area / perimeter^2 with Crofton's perimeter; 1 for a disc.
        eccentricity: of the ellipse of equal second moments; 0 for a disc.
        solidity: area over that of the convex hull.
        asymmetry: share that misses its mirror image, mean over both principal axes (the A of the ABCD rule).
    """

    circularity: float
    eccentricity: float
    solidity: float
    asymmetry: float


def size_of(mask: Bool[np.ndarray, "H W"], thresholds: Thresholds = DEFAULT) -> str:
    """Word for the share of the picture that a mask covers."""
    share = float(mask.mean())
    return "small" if share < thresholds.small else "medium" if share < thresholds.large else "large"


def position_of(mask: Bool[np.ndarray, "H W"]) -> str:
    """Third of the picture that the centroid lies in, by row and column; on a border it is the middle one.

    In whole numbers, so that a mirrored mask gives exactly the mirrored word.
    """
    rows, cols = np.nonzero(mask)

    def third(index: np.ndarray, length: int) -> int:
        moment, whole = 3 * int((2 * index.astype(np.int64) + 1).sum()), 2 * length * len(index)
        return 0 if moment < whole else 2 if moment > 2 * whole else 1

    vertical = ("top", "", "bottom")[third(rows, mask.shape[0])]
    sideways = ("left", "", "right")[third(cols, mask.shape[1])]
    return "-".join(word for word in (vertical, sideways) if word) or "center"


def main_part(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The largest of several lesions (8-connected); all of the largest where they are equally large."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if count < 2:
        return mask
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    return (areas == areas.max())[parts]


def outline(mask: Bool[np.ndarray, "H W"]) -> Outline:
    """Measure a mask that is not empty."""
    from scipy.spatial import ConvexHull
    from skimage.measure import perimeter_crofton

    padded = np.pad(mask, 1)  # the perimeter also counts where the region meets the frame
    area = float(mask.sum())
    circularity = min(1.0, 4 * np.pi * area / perimeter_crofton(padded, directions=4) ** 2)
    points = np.argwhere(mask).astype(np.float64)
    off = points - points.mean(axis=0)
    spread = off.T @ off / len(off) + np.eye(2) / 12  # a pixel is a square, not a point
    (small, large), axes = np.linalg.eigh(spread)
    edge = np.argwhere(mask & ~ndimage.binary_erosion(padded)[1:-1, 1:-1]).astype(np.float64)
    sides = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    hull = ConvexHull((edge[:, None] + sides).reshape(-1, 2)).volume
    missed = []
    for axis in axes.T:
        mirrored = points - 2.0 * np.outer(off @ axis, axis)
        met = ndimage.map_coordinates(padded.astype(np.float64), (mirrored + 1).T, order=1)
        missed.append(1.0 - float(met.mean()))
    return Outline(circularity, float(np.sqrt(1 - small / large)), min(1.0, area / hull), float(np.mean(missed)))


def shape_of(shape: Outline, thresholds: Thresholds = DEFAULT) -> str:
    """Word for an outline (spec 2.1)."""
    t = thresholds
    if shape.solidity < t.irregular_solidity or shape.circularity < t.irregular_circularity:
        return "irregular"
    if shape.circularity >= t.round_circularity and shape.eccentricity < t.round_eccentricity:
        return "round"
    return "elongated" if shape.eccentricity >= t.elongated else "oval"


def asymmetry_of(shape: Outline, thresholds: Thresholds = DEFAULT) -> str:
    """Word for the share that misses its mirror image."""
    return "high" if shape.asymmetry >= thresholds.asymmetric else "low"
