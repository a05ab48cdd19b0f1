"""Image files <-> pixels with their geometry: PNG, JPEG, TIFF, DICOM and one slice of a NIfTI, told apart by content.

    picture = read_picture("scan.dcm")                      # pixels (C, H, W) in [-1, 1], as displayed
    mask = read_mask("lesion.png", like=picture)            # (H, W) bool
    new = paste(picture.pixels, generated, feather(mask, 4))
    write_like(picture, new, mask, "out.dcm", {"method": "tficomp", "seed": 0})

Outside the mask the written file holds the source's stored values bit for bit. Every file written says that it is
synthetic.
"""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import Bool, Float, Shaped

from graft_common import dicom, dicom_write, nifti, raster
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed, write_bytes
from graft_common.picture import Display, Kind, Picture, Source, describe, merge_stored
from graft_common.resample import feather, paste, resize, resize_mask, with_channels

__all__ = [
    "Display",
    "Kind",
    "Picture",
    "Source",
    "describe",
    "feather",
    "merge_stored",
    "output_suffixes",
    "paste",
    "picture_from_array",
    "read_mask",
    "read_picture",
    "read_provenance",
    "resize",
    "resize_mask",
    "with_channels",
    "write_like",
    "write_mask_like",
]

PathLike = str | os.PathLike[str]
SUFFIXES: dict[str, tuple[str, ...]] = {
    "png": (".png",),
    "jpeg": (".png",),  # JPEG would change every pixel, also outside the mask
    "tiff": (".tif", ".tiff"),
    "dicom": (".dcm",),
    "nifti": (".nii.gz", ".nii"),
}


def read_picture(
    path: PathLike,
    *,
    window: tuple[SupportsFloat, SupportsFloat] | None = None,
    slice_index: int | None = None,
    role: str = "image",
) -> Picture:
    """Read an image file as it is displayed. `role` names it in messages ("image", "reference").

    Args:
        window: (centre, width) for grey files of more than 8 bits, in modality units (HU for CT; stored values for
            PNG and TIFF). None takes the file's own window, else 0.5 to 99.5 % of the pixels; `source.window_from`
            says which.
        slice_index: slice of a volume or frame of a multi-frame file, from 0; needed where there are several.

    Raises:
        InputError: missing, damaged, unsupported or too large (over 100 megapixels); one line that names path and cure.
    """
    where = f"{role} {typed(path)}"
    used = None if window is None else (float(window[0]), float(window[1]))
    if used is not None and not (all(map(math.isfinite, used)) and used[1] > 0):
        raise InputError(
            f"--window {used[0]:g} {used[1]:g}: the width must be above 0 and both finite; give centre and width"
        )
    data = read_bytes(path, where)
    name = Path(path).name
    kind = _kind(data, where)
    if kind == "dicom":
        return dicom.read_dicom(data, where, used, slice_index)
    if kind == "nifti":
        return nifti.read_nifti(data, where, name, used, slice_index)
    if slice_index not in (None, 0):
        raise InputError(
            f"{where}: --slice {slice_index} is out of range, this {kind.upper()} has one picture; leave it out"
        )
    return raster.read_raster(data, where, name, kind, used)


def read_mask(
    path: PathLike, *, like: Picture | None = None, slice_index: int | None = None
) -> Bool[np.ndarray, "H W"]:
    """Read a mask: PNG, JPEG and TIFF where grey is above 127 of 255, DICOM and NIfTI where the label is above 0.

    Float labels count above half of their maximum. Alpha is flattened onto black first, colour becomes luma. With
    `like`, the size must be that picture's, and a volume's slice is that picture's unless `slice_index` says otherwise.
    Raises InputError on any unreadable file, on a mask that is empty or full, and on another size than `like`.
    """
    where = f"mask {typed(path)}"
    data = read_bytes(path, where)
    kind = _kind(data, where)
    if kind in ("dicom", "nifti"):
        mask = _labels(data, where, kind, slice_index, None if like is None else like.source.slice_index)
        wanted = "labels above 0"
    else:
        stored, _, _ = raster.decode(data, where, kind)
        if not np.isfinite(stored).all():
            raise InputError(f"{where}: holds NaN or infinity; replace them first")
        grey = raster.grey_levels(stored)
        mask = grey > 127
        wanted = f"grey above 127 of 255; its levels are {grey.min():.0f} to {grey.max():.0f}"
    if mask.all() or not mask.any():
        raise InputError(f"{where}: is {'full' if mask.all() else 'empty'}; mark a part of the picture with {wanted}")
    if like is not None and mask.shape != like.pixels.shape[1:]:
        h, w = like.pixels.shape[1:]
        raise InputError(
            f"{where}: is {mask.shape[1]}x{mask.shape[0]} but the image is {w}x{h}; give both the same size"
        )
    return mask


def _labels(data: bytes, where: str, kind: Kind, index: int | None, fallback: int | None) -> Bool[np.ndarray, "H W"]:
    if kind == "dicom":
        values, rescale = dicom.read_labels(data, where, index, fallback), None
    else:
        picture = nifti.read_nifti(data, where, "", None, index, fallback)
        values, rescale = picture.stored, picture.source.rescale
    if values.ndim == 3:
        return raster.grey_levels(values) > 127
    scaled = values if rescale is None else values.astype(np.float64) * rescale[0] + rescale[1]
    return scaled > (0 if values.dtype.kind in "iu" else max(float(scaled.max()), 0) / 2)


def picture_from_array(array: Shaped[np.ndarray, "H W *C"], name: str = "array") -> Picture:
    """Picture from an array in memory, as if read from a PNG: (H, W) or (H, W, 3 or 4), uint8 or uint16."""
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or array.size == 0:
        raise InputError(f"{name}: is {array.dtype} of shape {array.shape}; give uint8 or uint16, (H, W) or (H, W, 3)")
    picture = raster.read_raster(raster.encode(array, "png", {}), name, name, "png", None)
    return replace(picture, source=replace(picture.source, name=name))


def output_suffixes(picture: Picture) -> tuple[str, ...]:
    """File name endings that fit what `write_like` writes for this picture, the usual one first."""
    return SUFFIXES[picture.source.kind]


def write_like(
    picture: Picture,
    pixels: Float[np.ndarray, "C H W"],
    mask: Bool[np.ndarray, "H W"],
    path: PathLike,
    provenance: dict[str, Any],
) -> Path:
    """Write `pixels` inside `mask` into a copy of the source's stored values, in the source's format (PNG for a JPEG).

    Outside the mask stored values are bit-identical; inside they go back through window and rescale in float64, rounded
    once (`merge_stored`). `provenance` must be JSON-able; `"synthetic": true` is added. Raises InputError when the path
    has a wrong ending or cannot be written, ValueError on wrong shapes or values that are not finite.
    """
    stored = merge_stored(picture, pixels, mask)
    note = {**provenance, "synthetic": True}
    suffix = _suffix(picture, path)
    if picture.source.kind == "dicom":
        return write_bytes(path, dicom_write.encode_dicom(picture, stored, note))
    if picture.source.kind == "nifti":
        return write_bytes(path, nifti.encode_nifti(picture, stored, note, suffix == ".nii.gz"))
    return write_bytes(path, raster.encode(stored, picture.source.kind, note, picture.source.carried))


def write_mask_like(
    picture: Picture, mask: Bool[np.ndarray, "H W"], path: PathLike, provenance: dict[str, Any]
) -> Path:
    """Write a lesion mask in the picture's format and geometry: PNG and TIFF 0/255, DICOM and NIfTI 0/1 (uint8)."""
    if mask.shape != picture.pixels.shape[1:]:
        raise ValueError(f"mask {mask.shape} must fit the picture {picture.pixels.shape}")
    note = {**provenance, "synthetic": True}
    suffix = _suffix(picture, path)
    if picture.source.kind == "dicom":
        return write_bytes(path, dicom_write.encode_dicom_mask(picture, mask, note))
    if picture.source.kind == "nifti":
        return write_bytes(path, nifti.encode_nifti_mask(picture, mask, note, suffix == ".nii.gz"))
    return write_bytes(path, raster.encode(mask.astype(np.uint8) * np.uint8(255), picture.source.kind, note))


def read_provenance(path: PathLike) -> dict[str, Any] | None:
    """The provenance inside a file that Graft wrote; None where there is none. InputError on an unreadable file."""
    where = f"file {typed(path)}"
    data = read_bytes(path, where)
    kind = _kind(data, where)
    text = {"dicom": dicom.read_comment, "nifti": nifti.read_comment}.get(kind, raster.read_comment)(data, where)
    try:
        note = json.loads(text or "")
    except ValueError:
        return None
    return note if isinstance(note, dict) and note.get("synthetic") is True else None


def _suffix(picture: Picture, path: PathLike) -> str:
    name = Path(path).name.lower()
    for suffix in SUFFIXES[picture.source.kind]:
        if name.endswith(suffix):
            return suffix
    wanted = " or ".join(SUFFIXES[picture.source.kind])
    raise InputError(f"{typed(path)}: a {picture.source.kind} source is written as {wanted}; change the ending")


def _kind(data: bytes, where: str) -> Kind:
    """File format by content. Raises InputError with a guess at what the file is instead."""
    if data[128:132] == b"DICM":  # first: the preamble may pose as a TIFF
        return "dicom"
    if kind := raster.kind_of(data):
        return kind
    # a data set without preamble starts with its meta header or with group 0008, in either byte order
    if data[:2] in (b"\x02\0", b"\x08\0", b"\0\x08"):
        return "dicom"
    head = data[:352]
    if data[:2] == b"\x1f\x8b":
        head = nifti.head_of_gzip(data, where)
        if not nifti.is_nifti(head):
            raise InputError(f"{where}: is a gzip file without a NIfTI inside; unpack it or give the image")
    if nifti.is_nifti(head):
        return "nifti"
    if raster.is_markup(data):
        raise InputError(f"{where}: is a web page or XML, not an image; download the file itself")
    raise InputError(f"{where}: is no PNG, JPEG, TIFF, DICOM or single-file NIfTI; convert it to one of these")
