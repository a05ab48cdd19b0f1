"""`Picture`: an image as it is shown, the values as they are stored, and the map between the two."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Shaped

from graft_common.errors import InputError

MAX_PIXELS = 100_000_000
SATURATED = 2.0**-17  # half a 16-bit grey level: closer to black or white than this counts as black or white

Kind = Literal["png", "jpeg", "tiff", "dicom", "nifti"]
WindowFrom = Literal["file", "flag", "percentile", "range"]


@dataclass(frozen=True, eq=False)
class Display:
    """Inverse of what a viewer does to stored values, as knots of a piecewise linear map.

    Attributes:
        shown: (K,) grey level in [0, 1], strictly increasing (0 is black on the screen).
        stored: (K,) the stored value that is shown so; decreasing for MONOCHROME1.
    """

    shown: Float64[np.ndarray, " K"]
    stored: Float64[np.ndarray, " K"]


@dataclass(frozen=True, eq=False)
class Source:
    """Where a picture came from and what must travel with its pixels. Never a patient's identity.

    Attributes:
        kind: file format of the source.
        name: base name of the file; empty for DICOM, whose file names often hold a patient's name.
        sha256: hex digest of the file.
        bits: bits per sample in use.
        photometric: DICOM term of the stored values (MONOCHROME1, MONOCHROME2, RGB).
        display: map from shown grey back to stored values.
        limits: smallest and largest legal stored value; None for floating point.
        window: (centre, width) in modality units (after rescale); None where the full range or a VOI LUT is shown.
        window_from: "file", "flag", "percentile" (0.5 to 99.5 % of the pixels) or "range" (the whole integer range).
        rescale: (slope, intercept) from stored to modality values.
        spacing: (row, column) spacing in mm.
        affine: (4, 4) voxel to world in mm, NIfTI only.
        slice_index: slice or frame taken, counted from 0.
        notes: what was left out or assumed on reading, one phrase each.
        carried: what the writer of this format needs (a frozen record of that module).
    """

    kind: Kind
    name: str
    sha256: str
    bits: int
    photometric: str
    display: Display
    limits: tuple[float, float] | None = None
    window: tuple[float, float] | None = None
    window_from: WindowFrom = "range"
    rescale: tuple[float, float] | None = None
    spacing: tuple[float, float] | None = None
    affine: Float64[np.ndarray, "4 4"] | None = None
    slice_index: int | None = None
    notes: tuple[str, ...] = ()
    carried: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Picture:
    """What Graft works on.

    Attributes:
        pixels: (C, H, W) as displayed, in [-1, 1]; C is 1 (grey) or 3 (RGB).
        stored: (H, W) or (H, W, 3), the same picture in the file's own values and type, upright.
        source: geometry, window and format of the file.
    """

    pixels: Float32[np.ndarray, "C H W"]
    stored: Shaped[np.ndarray, "H W *C"]
    source: Source


def describe(picture: Picture) -> dict[str, Any]:
    """What a run record should hold about an input: plain JSON types, no identity, no pixel."""
    s = picture.source
    return {
        "kind": s.kind,
        "name": s.name,
        "sha256": s.sha256,
        "size": list(picture.pixels.shape[1:]),
        "channels": picture.pixels.shape[0],
        "bits": s.bits,
        "photometric": s.photometric,
        "window": None if s.window is None else list(s.window),
        "window_from": s.window_from,
        "rescale": None if s.rescale is None else list(s.rescale),
        "spacing_mm": None if s.spacing is None else list(s.spacing),
        "affine": None if s.affine is None else s.affine.tolist(),
        "slice": s.slice_index,
        "notes": list(s.notes),
    }


def linear(low: float, high: float) -> Display:
    """Display that shows stored `low` as black and `high` as white."""
    return Display(np.array([0.0, 1.0]), np.array([low, high], dtype=np.float64))


def unit_to_pixels(unit: Float[np.ndarray, "H W *C"]) -> Float32[np.ndarray, "C2 H W"]:
    """Grey levels in [0, 1], (H, W) or (H, W, 3), to pixels (C, H, W) in [-1, 1]."""
    planes = unit[None] if unit.ndim == 2 else np.moveaxis(unit, -1, 0)
    return np.ascontiguousarray(planes * 2 - 1, dtype=np.float32)


def window_edges(
    values: Shaped[np.ndarray, "..."], window: tuple[float, float] | None
) -> tuple[float, float, tuple[float, float], WindowFrom]:
    """Values shown as black and as white, the window (centre, width) and its origin.

    `window` is used as given (edges at centre -/+ width / 2); None takes the 0.5 and 99.5 % percentiles of `values`,
    the extremes where those coincide, and one unit where the picture is constant.
    """
    if window is not None:
        return window[0] - window[1] / 2, window[0] + window[1] / 2, window, "flag"
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.5]))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    if not high > low:
        high = low + 1.0
    return low, high, ((low + high) / 2, high - low), "percentile"


def invertible(values: Float64[np.ndarray, " K"], shown: Float64[np.ndarray, " K"]) -> Display | None:
    """Display from samples of a viewer's map (`values` increasing); None where the map is not monotone or is constant.

    Stored values that are shown alike share their middle; those clipped to black or white take the edge nearest the
    window, so that a generated white is the darkest stored value that is white, not the largest the format can hold.
    """
    shown = np.where(shown < SATURATED, 0.0, np.where(shown > 1 - SATURATED, 1.0, shown))
    if shown[0] > shown[-1]:
        values, shown = values[::-1], shown[::-1]
    steps = np.diff(shown)
    if np.any(steps < 0) or not np.any(steps > 0):
        return None
    first = np.concatenate([[0], np.flatnonzero(steps > 0) + 1])
    last = np.concatenate([first[1:] - 1, [shown.size - 1]])
    stored = (values[first] + values[last]) / 2
    stored[0], stored[-1] = values[last[0]], values[first[-1]]
    return Display(shown[first], stored)


def merge_stored(
    picture: Picture, pixels: Float[np.ndarray, "C H W"], mask: Bool[np.ndarray, "H W"]
) -> Shaped[np.ndarray, "H W *C2"]:
    """Stored values of `picture` with the inside of `mask` replaced by `pixels`.

    Outside the mask every stored value is copied. Inside, new pixels go back through the inverse display in float64,
    are rounded once and clipped to the stored type. A sample that was not changed keeps its stored value, also where
    the window had clipped it. Raises ValueError on wrong shapes and on NaN or infinity inside the mask.
    """
    if pixels.shape != picture.pixels.shape or mask.shape != pixels.shape[1:]:
        raise ValueError(f"pixels {pixels.shape} and mask {mask.shape} must fit the picture {picture.pixels.shape}")
    changed = mask & (pixels != picture.pixels)
    if not np.isfinite(pixels[changed]).all():
        raise ValueError("new pixels are not finite inside the mask")
    source, out = picture.source, picture.stored.copy()
    where = changed[0] if out.ndim == 2 else np.moveaxis(changed, 0, -1)
    new = pixels[0] if out.ndim == 2 else np.moveaxis(pixels, 0, -1)
    unit = (new[where].astype(np.float64) + 1) / 2
    values = np.interp(unit, source.display.shown, source.display.stored)
    if source.limits is not None:
        values = np.clip(np.rint(values), *source.limits)
    out[where] = values.astype(out.dtype)
    return out


def check_size(width: int, height: int, where: str) -> None:
    """Refuse a header that claims no pixels or more than 100 megapixels, before anything is decoded."""
    if width < 1 or height < 1:
        raise InputError(f"{where}: has size {width}x{height}; give an image with pixels")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{where}: is {width}x{height}, the limit is {MAX_PIXELS // 10**6} megapixels; crop or shrink it"
        )


def check_index(index: int | None, count: int, where: str, unit: str, fallback: int | None = None) -> int:
    """The slice to take: `index`, 0 where there is one only, else `fallback`; InputError names the legal range."""
    if index is None and count > 1:
        index = fallback
    if index is None and count > 1:
        raise InputError(f"{where}: has {count} {unit}s; choose one with --slice 0..{count - 1}")
    if index is not None and not 0 <= index < count:
        raise InputError(f"{where}: --slice {index} is out of range, it has {count} {unit}s; choose 0..{count - 1}")
    return index or 0
