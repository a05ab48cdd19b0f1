"""Read a DICOM image as it is shown, with pydicom's own lookup-table functions, and keep the way back to stored values.

Patient identity ends here: a `Picture` carries an allow-list of numbers and closed terms (`dicom_header`), no name, date,
identifier or free text. Identity burned into the pixels cannot be seen by this code.
"""

import hashlib
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from graft_common.dicom_header import allowed
from graft_common.errors import InputError
from graft_common.files import one_line, parsing
from graft_common.picture import (
    Picture,
    Source,
    check_index,
    check_size,
    invertible,
    linear,
    unit_to_pixels,
    window_edges,
)

EXTRA = "pip install 'graft-common[dicom]' (python-gdcm)"
# JPEG baseline, JPEG extended, JPEG-LS near-lossless, JPEG 2000
LOSSY = tuple("1.2.840.10008.1.2.4." + n for n in ("50", "51", "81", "91"))
GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Carried:
    """What the DICOM writer needs of the source: its class, and the allow-listed elements as a pydicom Dataset."""

    sop_class: str
    frames: int
    header: Any


def read_dicom(data: bytes, where: str, window: tuple[float, float] | None, slice_index: int | None) -> Picture:
    """Picture from the bytes of a DICOM file: modality LUT, VOI LUT or window, photometric interpretation, in this order.

    The first of several windows or VOI LUTs is used. `window` (centre, width in modality units) replaces them, with the
    file's VOI LUT Function; without any, 0.5 to 99.5 % of the pixels that are not padding. Colour becomes RGB. Raises
    InputError on damaged files, on objects without pixels, on a transfer syntax that no installed plugin decodes, and on
    a display that cannot be inverted.
    """
    with parsing(where, "DICOM"):
        ds, stored, index, frames = _open(data, where, slice_index)
        header = allowed(ds, index)
        _settle(header, ds, stored)
        bits = 8 * stored.dtype.itemsize if stored.ndim == 3 or ds.BitsAllocated == 1 else int(ds.BitsStored)
        if not 1 <= bits <= 8 * stored.dtype.itemsize:
            raise ValueError(f"Bits Stored is {bits}")
        photometric = str(ds.PhotometricInterpretation) if stored.ndim == 2 else "RGB"
        source = {
            "kind": "dicom",
            "name": "",
            "sha256": hashlib.sha256(data).hexdigest(),
            "bits": bits,
            "photometric": photometric,
            "slice_index": index if frames > 1 else None,
            "spacing": _spacing(header),
        }
        if stored.ndim == 3:
            if window is not None:
                raise InputError(f"{where}: --window does not apply to a colour picture; leave it out")
            high = float(np.iinfo(stored.dtype).max)
            unit, view = stored / high, {"display": linear(0.0, high), "limits": (0.0, high)}
        else:
            low, high = _range(bits, stored.dtype.kind == "i")
            stored = np.clip(stored, low, high)
            unit, view = _show(stored, bits, header, photometric, window, where)
        carried = Carried(str(ds.get("SOPClassUID", "")), frames, header)
        return Picture(unit_to_pixels(unit), stored, Source(**source, **view, carried=carried))


def read_labels(data: bytes, where: str, slice_index: int | None) -> Shaped[np.ndarray, "H W *C"]:
    """Stored values of one frame of a DICOM mask; no window is needed or used."""
    with parsing(where, "DICOM"):
        return _open(data, where, slice_index)[1]


def read_comment(data: bytes, where: str) -> str | None:
    """Image Comments of a DICOM file; None without them."""
    import pydicom

    with parsing(where, "DICOM"):
        _check_deflated(data, where)
        return pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True).get("ImageComments")


def _open(data: bytes, where: str, slice_index: int | None) -> tuple[Any, Shaped[np.ndarray, "H W *C"], int, int]:
    """The data set, the stored values of the chosen frame, its index, and the number of frames."""
    import pydicom

    _check_deflated(data, where)
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    frames = _check_claims(ds, where)
    index = check_index(slice_index, frames, where, "frame")
    return ds, _decode(ds, index, where), index, frames


def _check_claims(ds: Any, where: str) -> int:
    """Number of frames, after holding what the header claims against what is there, before anything is decoded."""
    if "PixelData" not in ds:
        name = ds.get("SOPClassUID", "")
        kind = getattr(name, "name", "") or "no class"
        raise InputError(f"{where}: is DICOM without integer pixels ({one_line(kind)}); give an image")
    rows, columns, samples = int(ds.Rows), int(ds.Columns), int(ds.get("SamplesPerPixel", 1))
    frames, depth = int(ds.get("NumberOfFrames") or 1), int(ds.BitsAllocated)
    check_size(columns, rows, where)
    if samples not in (1, 3) or depth not in (1, 8, 16, 32) or frames < 1:
        raise InputError(f"{where}: {samples} samples of {depth} bits in {frames} frames are not supported; convert it")
    syntax = _syntax(ds)
    here, need = len(ds.PixelData), rows * columns * samples * depth / 8
    if not syntax.is_compressed:
        need = need * frames * (2 / 3 if "422" in ds.PhotometricInterpretation else 1)
        if here < int(need):
            raise InputError(f"{where}: has {here} of {int(need)} bytes of pixels; give the complete file")
    elif need > 64 * here and "RLE" in syntax.name:  # two bytes of RLE make at most 128
        raise InputError(f"{where}: claims {int(need)} bytes in {here} compressed ones; give the complete file")
    return frames


def _check_deflated(data: bytes, where: str) -> None:
    """Refuse a deflated file that unpacks to over 1 GiB: pydicom would unpack all of it at once."""
    if b"1.2.840.10008.1.2.1.99" not in data[132:1024]:
        return
    start = 144 + int.from_bytes(data[140:144], "little")  # after the meta header, whose length is its first element
    stream, left, rest = zlib.decompressobj(wbits=-15), 1 << 30, data[start:]
    while rest and not stream.eof:
        left -= len(stream.decompress(rest, 1 << 20))
        rest = stream.unconsumed_tail
        if left < 0:
            raise InputError(f"{where}: unpacks to more than 1 GiB; give it uncompressed")


def _syntax(ds: Any) -> Any:
    """Transfer syntax; for a file without its meta header, the one it was parsed with."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not hasattr(ds, "file_meta"):
        ds.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in ds.file_meta:
        implicit, little = ds.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds.file_meta.TransferSyntaxUID


def _decode(ds: Any, index: int, where: str) -> Shaped[np.ndarray, "H W *C"]:
    """Stored values of one frame: (H, W), or (H, W, 3) as RGB for any colour space."""
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array

    syntax = _syntax(ds)
    if syntax.is_compressed:
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError as error:
            raise InputError(
                f"{where}: transfer syntax {one_line(syntax.name)} is not an image coding; convert the file"
            ) from error
        lacking = any(text.startswith("gdcm") for text in decoder.missing_dependencies)
        # Pillow's plugin stands for JPEG Extended but decodes 8 bits only
        if not decoder.is_available or (lacking and syntax == "1.2.840.10008.1.2.4.51" and ds.BitsAllocated > 8):
            raise InputError(
                f"{where}: transfer syntax {one_line(syntax.name)} needs a decoder that is not installed; {EXTRA}"
            )
    try:
        array = pixel_array(ds, index=index)
    except RuntimeError as error:
        if not syntax.is_compressed:
            raise
        hint = f"; another decoder may help: {EXTRA}" if lacking else "; give a complete file"
        raise InputError(f"{where}: transfer syntax {one_line(syntax.name)}: {one_line(error)}{hint}") from error
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        array = apply_color_lut(array, ds)
    elif array.ndim == 2 and ds.PhotometricInterpretation not in GREY:
        raise ValueError(f"Photometric Interpretation is {ds.PhotometricInterpretation}")
    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] != 3 or array.dtype.kind not in "iu":
        raise ValueError(f"pixels of shape {array.shape} and type {array.dtype}")
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))


def _settle(header: Any, ds: Any, stored: Shaped[np.ndarray, "H W *C"]) -> None:
    """Padding values in the sign of the pixels (files often hold 63536 for -2000), and the mark of lossy coding."""
    low = -(1 << 15) if stored.dtype.kind == "i" else 0
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in header:
            value = (int(header[keyword].value) - low) % (1 << 16) + low
            del header[keyword]
            header.add_new(keyword, "SS" if low else "US", value)
    if _syntax(ds) in LOSSY:
        header.LossyImageCompression = "01"


def _range(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _show(
    stored: Shaped[np.ndarray, "H W"],
    bits: int,
    header: Any,
    photometric: str,
    window: tuple[float, float] | None,
    where: str,
) -> tuple[Float64[np.ndarray, "H W"], dict[str, Any]]:
    """Grey levels in [0, 1], and the fields of `Source` that say how they came about. `header` gets the window in use."""
    low, high = _range(bits, stored.dtype.kind == "i")
    if bits <= 16:
        table = np.arange(low, high + 1)
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
            f"{where}: its lookup table or window shows different values alike out of order, so generated pixels cannot be"
            " mapped back; give --window C W"
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


def _spacing(header: Any) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if keyword in header and len(header[keyword].value) == 2:
            return tuple(float(v) for v in header[keyword].value)
    return None
