"""What lies on the skin and is no skin: hair, ink, ruler ticks, dark corners, bubbles. Needs no lesion mask.

Lengths scale with the shorter side, so one picture gives the same words at every size that still shows them.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import SupportsInt

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from didgen.colours import to_lab
from didgen.thresholds import DEFAULT, Thresholds

EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, eq=False)
class Artifacts:
    """Masks of one picture, and what the ruler detector saw.

    Attributes:
        hair: long dark threads.
        ink: saturated blue and violet pixels.
        corners: what lies beyond a round field of view; empty unless all four corners are dark.
        ruler: a band along each side with regular dark ticks.
        bubbles: bright closed rings with what they enclose; empty unless asked for.
        ruler_regular: largest share of a side's dark marks that one pitch explains, of the sides with enough contrast.
        corner_l: mean L* of the brightest corner square.
    """

    hair: Bool[np.ndarray, "H W"]
    ink: Bool[np.ndarray, "H W"]
    corners: Bool[np.ndarray, "H W"]
    ruler: Bool[np.ndarray, "H W"]
    bubbles: Bool[np.ndarray, "H W"]
    ruler_regular: float
    corner_l: float

    def any_hair(self) -> Bool[np.ndarray, "H W"]:
        """Hair and its anti-aliased edges."""
        return ndimage.binary_dilation(self.hair, EIGHT)

    def any_other(self) -> Bool[np.ndarray, "H W"]:
        """All but hair, with their anti-aliased edges."""
        return ndimage.binary_dilation(self.ink | self.corners | self.bubbles, EIGHT) | self.ruler

    def any(self) -> Bool[np.ndarray, "H W"]:
        """All that is no skin and no lesion."""
        return self.any_hair() | self.any_other()


def hair_beyond(found: Artifacts, lesion: Bool[np.ndarray, "H W"]) -> Artifacts:
    """The same without threads that hardly leave the lesion: those are its own network or rim, which look like hair."""
    parts, count = ndimage.label(found.hair, EIGHT)
    if not count:
        return found
    near = ndimage.binary_dilation(lesion, EIGHT, iterations=max(1, round(0.02 * min(lesion.shape))))
    beyond = ndimage.mean(~near, parts, np.arange(count + 1)) > 0.25
    beyond[0] = False
    return replace(found, hair=beyond[parts])


def find_artifacts(image: UInt8[np.ndarray, "H W 3"], thresholds: Thresholds = DEFAULT) -> Artifacts:
    """Measure everything that is no skin and no lesion."""
    import cv2

    side = min(image.shape[:2])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    corners, corner_l = dark_corners(to_lab(image)[..., 0], thresholds)
    ink = ink_pixels(image, thresholds)
    ruler, regular = ruler_bands(grey, thresholds)
    dark = blackhat(grey, thresholds) > thresholds.hair_contrast
    # the closing also fills the thin ends of dark corners and the ragged edge of ink
    dark &= ~ndimage.binary_dilation(corners | ink, EIGHT, iterations=max(1, side // 64))
    parts, _ = ndimage.label(dark, EIGHT)
    long = [
        np.hypot(where[0].stop - where[0].start, where[1].stop - where[1].start) >= thresholds.hair_length * side
        for where in ndimage.find_objects(parts)
    ]
    hair = np.array([False, *long])[parts]
    bubbles = bright_rings(grey, thresholds) if thresholds.bubbles else np.zeros_like(hair)
    return Artifacts(hair, ink, corners, ruler, bubbles, regular, corner_l)


def odd(length: float, least: SupportsInt = 3) -> int:
    """Nearest odd number of pixels, so that a kernel has a middle."""
    return max(int(least), 2 * round((length - 1) / 2) + 1)


def blackhat(grey: UInt8[np.ndarray, "H W"], thresholds: Thresholds = DEFAULT) -> UInt8[np.ndarray, "H W"]:
    """How much darker a pixel is than the closing of its surroundings by a cross."""
    import cv2

    return cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, _cross(min(grey.shape), thresholds))


def unhaired(image: UInt8[np.ndarray, "H W 3"], thresholds: Thresholds = DEFAULT) -> UInt8[np.ndarray, "H W 3"]:
    """Every channel closed by the cross: dark threads take the colour beside them, the darker one at an edge."""
    import cv2

    return cv2.morphologyEx(image, cv2.MORPH_CLOSE, _cross(min(image.shape[:2]), thresholds))


def _cross(side: int, thresholds: Thresholds) -> UInt8[np.ndarray, "k k"]:
    import cv2

    k = odd(thresholds.hair_kernel * side)
    return cv2.getStructuringElement(cv2.MORPH_CROSS, (k, k))


def ink_pixels(image: UInt8[np.ndarray, "H W 3"], thresholds: Thresholds = DEFAULT) -> Bool[np.ndarray, "H W"]:
    """Pixels with the hue, saturation and value of a marker pen."""
    from skimage.color import rgb2hsv

    hue, saturation, value = np.moveaxis(rgb2hsv(image), -1, 0)
    low, high = thresholds.ink_hue
    in_hue = (hue * 360 >= low) & (hue * 360 <= high)
    return in_hue & (saturation > thresholds.ink_saturation) & (value > thresholds.ink_value)


def dark_corners(
    lightness: Float[np.ndarray, "H W"], thresholds: Thresholds = DEFAULT
) -> tuple[Bool[np.ndarray, "H W"], float]:
    """Dark pixels connected to the corners, where all four corner squares are dark, and the L* of the brightest square."""
    height, width = lightness.shape
    k = max(1, round(thresholds.corner * min(height, width)))
    brightest = max(float(lightness[rows, cols].mean())
                    for rows in (slice(0, k), slice(height - k, None))
                    for cols in (slice(0, k), slice(width - k, None)))  # fmt: skip
    if brightest >= thresholds.corner_dark:
        return np.zeros(lightness.shape, bool), brightest
    parts, _ = ndimage.label(lightness < thresholds.corner_dark)
    ends = parts[[0, 0, -1, -1], [0, -1, 0, -1]]
    return np.isin(parts, ends[ends > 0]), brightest


def ruler_bands(
    grey: UInt8[np.ndarray, "H W"], thresholds: Thresholds = DEFAULT
) -> tuple[Bool[np.ndarray, "H W"], float]:
    """A band of a sixth of the shorter side along each side that has a ruler, and the best regularity."""
    side = min(grey.shape)
    bands, best = np.zeros(grey.shape, bool), 0.0
    deep = round(side / 6)
    sides = ((grey, bands[:deep]), (grey[::-1], bands[-deep:]), (grey.T, bands[:, :deep]), (grey.T[::-1], bands[:, -deep:]))
    for turned, band in sides:  # each side as the upper one
        regular = regularity(turned, side, thresholds)
        best = max(best, regular)
        band |= regular >= thresholds.ruler_regular
    return bands, best


def regularity(grey: UInt8[np.ndarray, "D L"], side: int, thresholds: Thresholds = DEFAULT) -> float:
    """Share of the dark marks along the upper side that repeat at one pitch; 0 where they are too faint.

    The marks are a one-dimensional black-hat of the mean grey in a band; two harmonics of each pitch are fitted to them.
    """
    first, last = (round(v * side) for v in thresholds.ruler_depth)
    line = grey[first : max(last, first + 1)].mean(axis=0)
    marks = ndimage.grey_closing(line, (odd(0.055 * side),)) - line
    if np.quantile(marks, 0.9) < thresholds.ruler_contrast:
        return 0.0
    marks = marks - marks.mean()
    parts = _harmonics(len(marks), side, thresholds.ruler_pitch)
    explained = (np.einsum("fwk,w->fk", parts, marks) ** 2).sum(axis=1)
    return float(explained.max() / (marks**2).sum())


@lru_cache(maxsize=16)
def _harmonics(length: int, side: int, pitch: tuple[float, float]) -> Float[np.ndarray, "F L 4"]:
    """Orthonormal sine and cosine of two harmonics for every pitch, fine enough that no mark drifts by a tenth of one."""
    low, high = max(pitch[0] * side, 4.0), pitch[1] * side  # the second harmonic needs two pixels
    rate = np.arange(1 / high, 1 / low, 0.1 / length)
    angle = 2 * np.pi * rate[:, None] * (np.arange(length) - (length - 1) / 2)
    waves = np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], axis=-1)
    return np.linalg.qr(waves - waves.mean(axis=1, keepdims=True))[0]


def bright_rings(grey: UInt8[np.ndarray, "H W"], thresholds: Thresholds = DEFAULT) -> Bool[np.ndarray, "H W"]:
    """Thin bright closed curves that enclose a round area, with that area: gel bubbles."""
    import cv2
    from skimage.measure import label, regionprops

    k = odd(thresholds.hair_kernel * min(grey.shape))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k))
    bright = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, kernel) > 2 * thresholds.hair_contrast
    found = np.zeros(grey.shape, bool)
    for region in regionprops(label(bright)):
        filled = region.image_filled
        hole = filled.sum() - region.image.sum()
        perimeter = regionprops(np.pad(filled, 1).astype(np.uint8))[0].perimeter_crofton
        if hole > 0.2 * filled.sum() and 4 * np.pi * filled.sum() / perimeter**2 >= thresholds.bubble_round:
            found[region.slice] |= filled
    return found
