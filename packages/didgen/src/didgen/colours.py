"""Colour as words: skin by typology angle, lesion by the nearest prototype, and how far both lie from the next word."""

from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float, Int, UInt8

from didgen.thresholds import DEFAULT, Thresholds

Color = Sequence[SupportsFloat] | Float[np.ndarray, "3"]


def to_lab(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """sRGB bytes to CIELAB (D65, 2 degrees), float64."""
    from skimage.color import rgb2lab

    return rgb2lab(image)


def ita(lab: Color) -> float:
    """Individual typology angle in degrees, atan((L* - 50) / b*) over all four quadrants, so that it never divides by zero."""
    return float(np.degrees(np.arctan2(float(lab[0]) - 50.0, float(lab[2]))))


def skin_tone(angle: SupportsFloat, thresholds: Thresholds = DEFAULT) -> str:
    """Class of a typology angle; below the last border everything is the last class."""
    return next((name for name, above in thresholds.ita if float(angle) > above), thresholds.ita[-1][0])


def skin_margin(angle: SupportsFloat, thresholds: Thresholds = DEFAULT) -> float:
    """Degrees to the nearest class border."""
    return min(abs(float(angle) - border) for _, border in thresholds.ita[:-1])


def classify(lab: Float[np.ndarray, "*s 3"], thresholds: Thresholds = DEFAULT) -> Int[np.ndarray, "*s"]:
    """Index in `thresholds.colors` of the nearest prototype (Euclidean in CIELAB)."""
    prototypes = np.array([value for _, value in thresholds.colors])
    return np.asarray(np.argmin(((lab[..., None, :] - prototypes) ** 2).sum(axis=-1), axis=-1))


def named_tone(lab: Color, thresholds: Thresholds = DEFAULT) -> str:
    """Name of the lesion colour nearest to one CIELAB value."""
    return thresholds.colors[int(classify(_row(lab), thresholds))][0]


def tone_margin(lab: Color, thresholds: Thresholds = DEFAULT) -> float:
    """Distance (Delta E 1976) to the nearest border between lesion colours.

    The border between two prototypes p and q is the plane half way; from p's side it is (|x-q|^2 - |x-p|^2) / (2 |p-q|) away.
    """
    x, prototypes = _row(lab), np.array([value for _, value in thresholds.colors])
    squared = ((x - prototypes) ** 2).sum(axis=1)
    own = int(squared.argmin())
    others = np.arange(len(prototypes)) != own
    apart = np.linalg.norm(prototypes[others] - prototypes[own], axis=1)
    return float(((squared[others] - squared[own]) / (2 * apart)).min())


def _row(lab: Color) -> Float[np.ndarray, "3"]:
    return np.array([float(v) for v in lab])
