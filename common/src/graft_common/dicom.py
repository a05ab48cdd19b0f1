"""Read a DICOM image as it is shown, with pydicom's own lookup-table functions, and keep the way back to stored values.

Patient identity ends here: a `Picture` carries an allow-list of numbers and closed terms (`dicom_header`), no name,
date, identifier or free text. Identity burned into the pixels cannot be seen by this code.
"""

import hashlib
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from graft_common.dicom_display import settle, show, spacing, stored_range
from graft_common.dicom_header import allowed
from graft_common.errors import InputError
from graft_common.files import one_line, parsing
from graft_common.picture import (
    Picture,
    Source,
    check_index,
    check_size,
    linear,
    unit_to_pixels,
)

EXTRA = "pip install 'graft-common[dicom]' (python-gdcm)"
# JPEG baseline, JPEG extended, JPEG-LS near-lossless, JPEG 2000
LOSSY = tuple("1.2.840.10008.1.2.4." + n for n in ("50", "51", "81", "91"))
GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Carried:
    """What the DICOM writer needs: the source's class, the allow-listed elements as a pydicom Dataset, and new UIDs.

    The UIDs are drawn when the file is read, so that all that is written from one picture (result, mask, variants) lies in
    one study and one frame of reference; neither is the source's.
    """

    sop_class: str
    frames: int
    header: Any
    study: str
    frame_of_reference: str


def read_dicom(data: bytes, where: str, window: tuple[float, float] | None, slice_index: int | None) -> Picture:
    """Picture from the bytes of a DICOM file: modality LUT, VOI LUT or window, photometric interpretation, in this
    order.

    The first of several windows or VOI LUTs is used. `window` (centre, width in modality units) replaces them, with the
    file's VOI LUT Function; without any, 0.5 to 99.5 % of the pixels that are not padding. Colour becomes RGB. Raises
    InputError on damaged files, on objects without pixels, on a transfer syntax that no installed plugin decodes, and
    on a display that cannot be inverted.
    """
    from pydicom.uid import generate_uid

    with parsing(where, "DICOM"):
        ds, stored, index, frames = _open(data, where, slice_index)
        header = allowed(ds, index)
        settle(header, stored, _syntax(ds) in LOSSY)
        bits = 8 * stored.dtype.itemsize if stored.ndim == 3 or ds.BitsAllocated == 1 else int(ds.BitsStored)
        if not 1 <= bits <= 8 * stored.dtype.itemsize:
            raise ValueError(f"Bits Stored is {bits}")
        photometric = str(ds.PhotometricInterpretation) if stored.ndim == 2 else "RGB"
        source: dict[str, Any] = {
            "kind": "dicom",
            "name": "",
            "sha256": hashlib.sha256(data).hexdigest(),
            "bits": bits,
            "photometric": photometric,
            "slice_index": index if frames > 1 else None,
            "spacing": spacing(header),
        }
        if stored.ndim == 3:
            if window is not None:
                raise InputError(f"{where}: --window does not apply to a colour picture; leave it out")
            high = float(np.iinfo(stored.dtype).max)
            unit = stored / high
            view: dict[str, Any] = {"display": linear(0.0, high), "limits": (0.0, high)}
        else:
            low, high = stored_range(bits, stored.dtype.kind == "i")
            stored = np.clip(stored, low, high)
            unit, view = show(stored, bits, header, photometric, window, where)
        study, place = str(generate_uid(prefix=None)), str(generate_uid(prefix=None))
        carried = Carried(str(ds.get("SOPClassUID", "")), frames, header, study, place)
        return Picture(unit_to_pixels(unit), stored, Source(**source, **view, carried=carried))


def read_labels(data: bytes, where: str, slice_index: int | None, fallback: int | None) -> Shaped[np.ndarray, "H W *C"]:
    """Stored values of one frame of a DICOM mask; no window is needed or used."""
    with parsing(where, "DICOM"):
        return _open(data, where, slice_index, fallback)[1]


def read_comment(data: bytes, where: str) -> str | None:
    """Image Comments of a DICOM file; None without them."""
    import pydicom

    with parsing(where, "DICOM"):
        _check_deflated(data, where)
        return pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True).get("ImageComments")


def _open(
    data: bytes, where: str, slice_index: int | None, fallback: int | None = None
) -> tuple[Any, Shaped[np.ndarray, "H W *C"], int, int]:
    """The data set, the stored values of the chosen frame, its index, and the number of frames."""
    import pydicom

    _check_deflated(data, where)
    ds = pydicom.dcmread(io.BytesIO(data), force=True)
    frames = _check_claims(ds, where)
    index = check_index(slice_index, frames, where, "frame", fallback)
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
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or array.dtype.kind not in "iu":
        raise ValueError(f"pixels of shape {array.shape} and type {array.dtype}")
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
