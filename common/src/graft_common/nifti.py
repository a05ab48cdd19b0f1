"""One slice of a NIfTI volume as a picture, and the volume written back with that slice replaced.

A slice is shown as DICOM shows it, by the affine: columns run to the patient's left (or to posterior, in a sagittal
plane), rows run to posterior (or to the feet). Only numbers of geometry and scaling travel to the output; free text
does not.
"""

import gzip
import hashlib
import io
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from graft_common.errors import InputError
from graft_common.files import parsing
from graft_common.picture import (
    Picture,
    Source,
    WindowFrom,
    check_index,
    check_size,
    linear,
    unit_to_pixels,
    window_edges,
)

MAX_VOLUME_BYTES = 4 << 30
DEFLATE_RATIO = 1032  # the most that deflate can shrink
HEADER_BYTES = 1 << 20  # header, extensions and slack read from the front of a compressed file
FIELDS = (
    *("dim_info", "dim", "datatype", "bitpix", "pixdim", "scl_slope", "scl_inter", "xyzt_units", "cal_max", "cal_min"),
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True, eq=False)
class Carried:
    """Allow-listed header, all stored values (X, Y, N), and how a plane [:, :, k] becomes a picture."""

    header: Any
    volume: Shaped[np.ndarray, "X Y N"]
    transpose: bool
    flip_rows: bool
    flip_columns: bool


def is_nifti(head: bytes) -> bool:
    """Whether these first 348 bytes start a single-file NIfTI-1 or NIfTI-2."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def gunzip(data: bytes, limit: int) -> bytes:
    """At most `limit` bytes of what a gzip file holds. Raises zlib.error when it is damaged.

    The checksum is compared only when the end is reached, so ask for a byte more than is needed.
    """
    stream = zlib.decompressobj(wbits=31)
    return stream.decompress(data, limit)


def head_of_gzip(data: bytes, where: str) -> bytes:
    """First bytes inside a gzip file, enough to tell a NIfTI. Raises InputError when it is damaged."""
    with parsing(where, "gzip"):
        return gunzip(data, 352)


def read_comment(data: bytes, where: str) -> str | None:
    """Text of the first comment extension; None without one."""
    import nibabel as nib

    with parsing(where, "NIfTI"):
        head = gunzip(data, HEADER_BYTES) if data[:2] == b"\x1f\x8b" else data[:HEADER_BYTES]
        kind = nib.Nifti2Header if head[4:8] == b"n+2\0" else nib.Nifti1Header
        header = kind.from_fileobj(io.BytesIO(head), check=False)
        return next((e.text for e in header.extensions if e.get_code() == 6), None)


def read_nifti(
    data: bytes,
    where: str,
    name: str,
    window: tuple[float, float] | None,
    slice_index: int | None,
    fallback: int | None = None,
) -> Picture:
    """Picture from the bytes of a NIfTI-1 or -2 file, plain or gzip.

    `slice_index` counts along the third voxel axis, and on through time and further axes; `fallback` stands in for None
    in a volume of several slices. Shown: `window` (centre, width in
    scaled units), else the file's cal_min..cal_max, else 0.5 to 99.5 % of the slice. Raises InputError on damage, on
    NaN in the slice, on complex or RGB voxels and on a volume over 4 GiB.
    """
    with parsing(where, "NIfTI"):
        header, volume = _load(data, where)
        index = check_index(slice_index, volume.shape[2], where, "slice", fallback)
        check_size(volume.shape[0], volume.shape[1], where)
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        carried = Carried(header, volume, *_plane(affine))
        stored = _to_screen(volume[:, :, index], carried)
        if not np.isfinite(stored).all():
            raise InputError(f"{where}: slice {index} holds NaN or infinity; replace them first")
        slope, intercept = (
            float(v) if v is not None else d for v, d in zip(header.get_slope_inter(), (1, 0), strict=True)
        )
        scaled = stored.astype(np.float64) * slope + intercept
        low, high, used, origin = _window(header, scaled, window)
        unit = np.clip((scaled - low) / (high - low), 0, 1)
        zooms = [float(z) for z in header.get_zooms()[:2]]
        knots = [(low - intercept) / slope, (high - intercept) / slope]
        source = Source(
            kind="nifti",
            name=name,
            sha256=hashlib.sha256(data).hexdigest(),
            bits=8 * stored.dtype.itemsize,
            photometric="MONOCHROME2",
            display=linear(*knots),
            limits=_limits(stored.dtype),
            window=used,
            window_from=origin,
            rescale=(slope, intercept),
            spacing=(zooms[1], zooms[0]) if carried.transpose else (zooms[0], zooms[1]),
            affine=affine,
            slice_index=index,
            carried=carried,
        )
        return Picture(unit_to_pixels(unit), stored, source)


def _load(data: bytes, where: str) -> tuple[Any, Shaped[np.ndarray, "X Y N"]]:
    """Header with the allow-listed fields alone, and the stored values with all axes after the second flattened."""
    import nibabel as nib

    packed = data[:2] == b"\x1f\x8b"
    head = gunzip(data, HEADER_BYTES) if packed else data[:HEADER_BYTES]
    kind = nib.Nifti2Header if head[4:8] == b"n+2\0" else nib.Nifti1Header
    full = kind(head[: kind.sizeof_hdr], check=False)
    header = kind(endianness=full.endianness)
    for field in FIELDS:
        header[field] = full[field]
    header["magic"] = full["magic"]
    dtype, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{where}: has {dtype} voxels; convert them to integers or to 32-bit float")
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"{where}: has shape {shape}; give a volume with voxels")
    offset = int(np.clip(np.nan_to_num(float(full["vox_offset"])), 0, 2**62)) or kind.single_vox_offset
    size = dtype.itemsize
    for n in shape:
        size *= n  # Python integers: no overflow
    there = len(data) * DEFLATE_RATIO if packed else len(data)
    if size > MAX_VOLUME_BYTES:
        raise InputError(f"{where}: claims {size} bytes of voxels, the limit is {MAX_VOLUME_BYTES}; crop it")
    if offset + size > there:
        raise InputError(f"{where}: claims {offset + size} bytes but holds fewer; give the complete file")
    body = gunzip(data, offset + size + 1) if packed else data
    if len(body) < offset + size:
        raise InputError(f"{where}: claims {offset + size} bytes but holds {len(body)}; give the complete file")
    volume = np.frombuffer(body, dtype, size // dtype.itemsize, offset)
    if not np.isfinite(header.get_best_affine()).all():
        raise InputError(f"{where}: its affine is not finite; mend the header")
    x, y = shape[:2]
    return header, volume.reshape((x, y, -1), order="F")


def _window(
    header: Any, scaled: Shaped[np.ndarray, "H W"], window: tuple[float, float] | None
) -> tuple[float, float, tuple[float, float], WindowFrom]:
    low, high = float(header["cal_min"]), float(header["cal_max"])
    usable = np.isfinite([low, high]).all() and low < high and low < scaled.max() and high > scaled.min()
    if window is None and usable:
        return low, high, ((low + high) / 2, high - low), "file"
    return window_edges(scaled, window)


def _limits(dtype: np.dtype) -> tuple[float, float] | None:
    if dtype.kind == "f":
        return None
    info = np.iinfo(dtype)
    safe = float(1 << 53)  # float64 counts no further in ones
    return max(float(info.min), -safe), min(float(info.max), safe)


def _plane(affine: Shaped[np.ndarray, "4 4"]) -> tuple[bool, bool, bool]:
    """(transpose, flip rows, flip columns) that turn plane [:, :, k] into rows and columns as DICOM orders them."""
    from nibabel import aff2axcodes

    codes = aff2axcodes(affine)[:2]
    if None in codes:
        raise ValueError("the affine is singular")
    order = ["SI", "PA", "LR"]  # which world axis prefers to be the rows
    rank = [next(i for i, pair in enumerate(order) if code in pair) for code in codes]
    transpose = rank[0] > rank[1]  # the second voxel axis becomes the rows
    row, column = (codes[1], codes[0]) if transpose else (codes[0], codes[1])
    return transpose, row not in "IP", column not in "LP"


def _to_screen(plane: Shaped[np.ndarray, "X Y"], c: Carried) -> Shaped[np.ndarray, "H W"]:
    shown = plane.T if c.transpose else plane
    shown = shown[:: -1 if c.flip_rows else 1, :: -1 if c.flip_columns else 1]
    return np.ascontiguousarray(shown.astype(shown.dtype.newbyteorder("=")))


def _from_screen(shown: Shaped[np.ndarray, "H W"], c: Carried) -> Shaped[np.ndarray, "X Y"]:
    plane = shown[:: -1 if c.flip_rows else 1, :: -1 if c.flip_columns else 1]
    return plane.T if c.transpose else plane


def encode_nifti(
    picture: Picture, stored: Shaped[np.ndarray, "H W"], provenance: dict[str, Any], packed: bool
) -> bytes:
    """The whole volume with the picture's slice replaced by `stored`: same type, scaling and affine, other slices
    bit-equal.

    The provenance is JSON in a comment extension (code 6).
    """
    carried = picture.source.carried
    volume = carried.volume.copy(order="F")
    volume[:, :, picture.source.slice_index] = _from_screen(stored, carried)
    return _pack(carried.header.copy(), volume, provenance, packed)


def encode_nifti_mask(
    picture: Picture, mask: Bool[np.ndarray, "H W"], provenance: dict[str, Any], packed: bool
) -> bytes:
    """A uint8 volume of the picture's shape and affine: 1 in the mask on the picture's slice, 0 elsewhere."""
    carried = picture.source.carried
    volume = np.zeros(carried.volume.shape, np.uint8, order="F")
    volume[:, :, picture.source.slice_index] = _from_screen(mask.astype(np.uint8), carried)
    header = carried.header.copy()
    header.set_data_dtype(np.uint8)
    header["scl_slope"], header["scl_inter"], header["cal_min"], header["cal_max"] = 1, 0, 0, 1
    return _pack(header, volume, provenance, packed)


def _pack(header: Any, volume: Shaped[np.ndarray, "X Y N"], provenance: dict[str, Any], packed: bool) -> bytes:
    from nibabel.nifti1 import Nifti1Extension

    note = Nifti1Extension("comment", json.dumps(provenance, sort_keys=True).encode("ascii"))
    header.extensions = type(header.extensions)([note])
    header["descrip"] = b"SYNTHETIC (Graft)"
    out = io.BytesIO()
    header.write_to(out)
    out.write(b"\0" * (int(header["vox_offset"]) - out.tell()))
    out.write(volume.tobytes(order="F"))
    return gzip.compress(out.getvalue(), compresslevel=6, mtime=0) if packed else out.getvalue()
