"""How well an object sits in its picture: seam score, harmony, contrast, loss of object detail (spec section 5).

A plain seam score rewards erasing the object, because a picture without an edge has no seam. So it is compared with that of
true pictures (`harmony`), and always read beside `contrast`. Levels are bytes, shares are of the full range.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from jaxtyping import Bool, Float64, UInt8

EDGE = 1.5  # half the width of the band on the mask's edge
AWAY = (6.0, 9.0)  # the bands that it is compared with
TINY = 1e-3  # levels per pixel; decides nothing but 0 / 0
NEIGHBOURS = 9  # true pictures of nearly the same object size that stand for "such an object"
Picture = UInt8[np.ndarray, "_ _ 3"]  # pictures of one set may differ in size
Mask = Bool[np.ndarray, "_ _"]


def gradient(image: UInt8[np.ndarray, "H W 3"]) -> Float64[np.ndarray, "H W"]:
    """Length of the colour gradient in levels per pixel: central differences (one-sided on the picture's rim), root of the
    sum of squares over both directions and the three channels."""
    planes = np.moveaxis(image.astype(np.float64), -1, 0)
    rows, cols = np.gradient(planes, axis=(1, 2))
    return np.sqrt((rows**2 + cols**2).sum(axis=0))


def signed_distance(mask: Bool[np.ndarray, "H W"]) -> Float64[np.ndarray, "H W"]:
    """Euclidean distance in pixels from each pixel's centre to the mask's edge, which runs half a pixel from the centres on
    either side; positive inside. The picture's rim is no edge.

    Raises:
        ValueError: the mask is empty or full, so that there is no edge.
    """
    from scipy.ndimage import distance_transform_edt

    if not mask.any() or mask.all():
        raise ValueError(f"mask covers {mask.mean():.0%} of the picture; an edge needs pixels on both sides")
    return np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))


def seam_score(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> float:
    """Mean gradient within 1.5 px of the mask's edge, over that 6 to 9 px away from it, inside and outside together.

    1 is no seam; a true object scores above 1. An object too thin for the inner band is compared with the outer one alone.

    Raises:
        ValueError: no edge, or no pixel lies 6 to 9 px from it.
    """
    distance = np.abs(signed_distance(mask))
    away = (distance >= AWAY[0]) & (distance <= AWAY[1])
    if not away.any():
        raise ValueError("no pixel lies 6 to 9 px from the mask's edge; the picture is too small for this mask")
    slope = gradient(image)
    return float((slope[distance <= EDGE].mean() + TINY) / (slope[away].mean() + TINY))


def harmony(seam: SupportsFloat, truth: SupportsFloat) -> float:
    """|log(seam / truth)|: 0 where the edge is as sharp as that of a true object, whether it is too sharp or too weak."""
    return abs(math.log(float(seam) / float(truth)))


def contrast(
    image: UInt8[np.ndarray, "H W 3"], background: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]
) -> float:
    """Mean absolute difference inside the mask to the picture of the same seed without the object, as a share of the range.

    Raises:
        ValueError: the mask is empty.
    """
    return masked_l1(image, background, mask)


def masked_l1(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> float:
    """Mean absolute difference of two pictures inside a mask, in [0, 1].

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("mask is empty; there is nothing to compare inside it")
    return float(np.abs(a[mask].astype(np.float64) - b[mask]).mean() / 255)


def difference_mask(
    image: UInt8[np.ndarray, "H W 3"], background: UInt8[np.ndarray, "H W 3"]
) -> Bool[np.ndarray, "H W"]:
    """Where the picture differs from that of the same seed without the object: Otsu's threshold on the largest difference of
    the three channels. All False for equal pictures."""
    from skimage.filters import threshold_otsu

    apart = np.abs(image.astype(np.int16) - background).max(axis=2)
    return apart > threshold_otsu(apart) if apart.max() > apart.min() else np.zeros(apart.shape, bool)


@dataclass(frozen=True)
class Truths:
    """Measured true pictures, by class.

    Attributes:
        areas: class (None where there are no classes) -> mask pixels, ascending.
        seams: class -> seam scores in that order.
        contrasts: class -> contrasts in that order; absent where pictures without the object are not known.
    """

    areas: Mapping[str | None, Float64[np.ndarray, "_"]]
    seams: Mapping[str | None, Float64[np.ndarray, "_"]]
    contrasts: Mapping[str | None, Float64[np.ndarray, "_"]]

    def match(self, label: str | None, area: SupportsFloat) -> tuple[float, float | None]:
        """Seam score (geometric mean) and contrast (mean) of the 9 true objects of this class whose areas have the nearest
        logarithms; None where contrasts are not known.

        Raises:
            ValueError: no true picture of this class, or an area of 0.
        """
        if label not in self.areas:
            raise ValueError(f"there is no true picture of class {label!r}; known are {sorted(map(str, self.areas))}")
        if not float(area) > 0:
            raise ValueError("area is 0; an empty mask matches no true object")
        order = np.argsort(np.abs(np.log(self.areas[label]) - math.log(float(area))), kind="stable")[:NEIGHBOURS]
        seam = float(np.exp(np.log(self.seams[label][order]).mean()))
        return seam, float(self.contrasts[label][order].mean()) if label in self.contrasts else None


def measure_truths(
    images: Sequence[Picture],
    masks: Sequence[Mask],
    labels: Sequence[str | None],
    empties: Sequence[Picture] | None = None,
) -> Truths:
    """Measure true pictures once, for `Truths.match`. Pictures whose object has no edge or no surroundings are left out.

    Args:
        images, masks, labels: one each; pictures of one size, or areas do not compare.
        empties: the same pictures without the object.

    Raises:
        ValueError: lengths differ, or no picture is left.
    """
    found: dict[str | None, list[tuple[float, float, float]]] = {}
    without: Sequence[Picture | None] = [None] * len(images) if empties is None else empties
    for image, mask, label, empty in zip(images, masks, labels, without, strict=True):
        try:
            seam = seam_score(image, mask)
        except ValueError:
            continue
        found.setdefault(label, []).append((float(mask.sum()), seam, 0.0 if empty is None else contrast(image, empty, mask)))
    if not found:
        raise ValueError("no true picture has an object with an edge and surroundings")
    columns = {label: np.array(sorted(rows), np.float64).T for label, rows in found.items()}
    areas, seams, contrasts = ({label: c[i] for label, c in columns.items()} for i in range(3))
    return Truths(areas, seams, contrasts if empties is not None else {})
