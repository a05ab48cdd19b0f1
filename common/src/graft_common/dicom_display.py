"""What a viewer does to stored DICOM values, by pydicom's own functions, and the way back.

Every function takes `header`: the allow-listed elements of one image (`dicom_header.allowed`).
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from graft_common.errors import InputError
from graft_common.picture import invertible, window_edges


def settle(header: Any, stored: Shaped[np.ndarray, "H W *C"], lossy: bool) -> None:
    """Padding values in the sign of the pixels (files often hold 63536 for -2000), and the mark of lossy coding."""
    low = -(1 << 15) if stored.dtype.kind == "i" else 0
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            value = (int(header[keyword].value) - low) % (1 << 16) + low
            del header[keyword]
            header.add_new(keyword, "SS" if low else "US", value)
    if lossy:
        header.LossyImageCompression = "01"


def stored_range(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest value of so many bits."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def show(
    stored: Shaped[np.ndarray, "H W"],
    bits: int,
    header: Any,
    photometric: str,
    window: tuple[float, float] | None,
    where: str,
) -> tuple[Float64[np.ndarray, "H W"], dict[str, Any]]:
    """Grey levels in [0, 1], and the fields of `Source` that say how they came about; `header` gets the window."""
    low, high = stored_range(bits, stored.dtype.kind == "i")
    if bits <= 16:
        table: Shaped[np.ndarray, " K"] = np.arange(low, high + 1)
    else:  # 65537 samples of the range in use
        table = np.linspace(int(stored.min()), max(int(stored.max()), int(stored.min()) + 1), (1 << 16) + 1)
    origin = _choose_window(stored, header, window)
    levels = _view(table, bits, low, header, photometric)
    display = invertible(table.astype(np.float64), levels)
    if display is None:  # a table may be wild beyond the values in use
        used = slice(*np.searchsorted(table, [int(stored.min()), int(stored.max()) + 1]))
        display = invertible(table[used].astype(np.float64), levels[used]) if used.stop > used.start else None
    if display is None:
        raise InputError(
            f"{where}: its lookup table or window is not monotone, so pixels cannot be mapped back; give --window C W"
        )
    unit = levels[stored.astype(np.int64) - low] if bits <= 16 else _view(stored, bits, low, header, photometric)
    rescale = (float(header.RescaleSlope), float(header.RescaleIntercept)) if _rescaled(header) else None
    view = {"display": display, "limits": (float(low), float(high)), "rescale": rescale, "window_from": origin}
    if "VOILUTSequence" not in header:
        view["window"] = (_first(header.WindowCenter), _first(header.WindowWidth))
    return unit, view


def _rescaled(header: Any) -> bool:
    return "RescaleSlope" in header and "RescaleIntercept" in header and "ModalityLUTSequence" not in header


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _choose_window(stored: Shaped[np.ndarray, "H W"], header: Any, window: tuple[float, float] | None) -> str:
    """Leave exactly one usable VOI transform in `header`; return its origin."""
    if window is None and "VOILUTSequence" in header:
        for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
            header.pop(keyword, None)
        return "file"
    header.pop("VOILUTSequence", None)
    least = 1.0 if header.get("VOILUTFunction", "LINEAR") == "LINEAR" else 0.0
    if window is None and "WindowCenter" in header and "WindowWidth" in header:
        width = _first(header.WindowWidth)
        if width >= 1 or width > least:
            return "file"
    origin = "flag"
    if window is None:
        values = _modality(stored[~_padding(stored, header)], header)
        _, _, window, origin = window_edges(values, None)
        least = np.inf
    if window[1] < least:  # LINEAR counts steps between integers and has no width below 1
        header.VOILUTFunction = "LINEAR_EXACT"
    header.WindowCenter, header.WindowWidth = (_decimal(v) for v in window)
    return origin


def _decimal(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)  # at most 16 characters


def _padding(stored: Shaped[np.ndarray, "H W"], header: Any) -> Shaped[np.ndarray, "H W"]:
    """Where the picture is padding; nowhere when all of it would be."""
    if "PixelPaddingValue" not in header:
        return np.zeros(stored.shape, bool)
    ends = sorted((int(header.PixelPaddingValue), int(header.get("PixelPaddingRangeLimit", header.PixelPaddingValue))))
    padding = (stored >= ends[0]) & (stored <= ends[1])
    return padding if not padding.all() else np.zeros(stored.shape, bool)


def _modality(values: Shaped[np.ndarray, "..."], header: Any) -> Shaped[np.ndarray, "..."]:
    from pydicom.pixels import apply_modality_lut

    if "ModalityLUTSequence" in header:
        first, count = _entries(header.ModalityLUTSequence[0])
        values = np.clip(np.rint(values).astype(np.int64), first, first + count - 1)
    return apply_modality_lut(values, header)


def _view(
    values: Shaped[np.ndarray, "*S"], bits: int, low: int, header: Any, photometric: str
) -> Float64[np.ndarray, "*S"]:
    """Grey level in [0, 1] of stored values: pydicom's functions on a data set that holds only what they need."""
    from pydicom.pixels import apply_voi, apply_windowing

    header.BitsStored, header.PixelRepresentation = bits, int(low < 0)
    header.PhotometricInterpretation = photometric
    modality = _modality(values, header)
    if "VOILUTSequence" in header:
        lut = header.VOILUTSequence[0]
        first, count = _entries(lut)
        clipped = np.clip(np.rint(modality).astype(np.int64), first, first + count - 1)
        unit = apply_voi(clipped, header) / float((1 << lut.lut_bits) - 1)
    else:
        with np.errstate(over="ignore"):  # the sigmoid's exponential, far from its centre
            black, white = apply_windowing(np.array([-1e300, 1e300]), header)
            unit = (apply_windowing(np.asarray(modality), header) - black) / (white - black)
    unit = np.clip(unit, 0, 1)
    return 1 - unit if photometric == "MONOCHROME1" else unit


def _entries(lut: Any) -> tuple[int, int]:
    """First value mapped and number of entries of a LUT item."""
    count, first, _ = lut.LUTDescriptor
    return int(first), int(count) or 1 << 16


def spacing(header: Any) -> tuple[float, float] | None:
    """(row, column) spacing in mm, at the patient where known, else at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if keyword in header and len(header[keyword].value) == 2:
            row, column = header[keyword].value
            return float(row), float(column)
    return None
