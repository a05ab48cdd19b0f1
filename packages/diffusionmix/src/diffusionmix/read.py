"""Picture and mask files -> 8-bit arrays: PNG, JPEG and TIFF of any depth, palette, grey or alpha."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from graft_common import raster
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from graft_common.picture import Kind, check_size
from graft_common.pixels import read_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MaskValues = Literal["auto", "ids"]


def read_rgb(path: Path, role: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """A picture as it is shown: upright, alpha on black, grey repeated, 16-bit grey over 0.5 to 99.5 % of its pixels.

    Raises:
        InputError: missing, damaged, no picture, or over 100 megapixels.
    """
    pixels = read_picture(path, role=role).pixels
    levels = np.rint((pixels + 1) * 127.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(np.moveaxis(levels, 0, -1), (*levels.shape[1:], 3)))


def read_mask(
    path: Path, values: MaskValues = "auto", shape: tuple[int, int] | None = None
) -> Bool[np.ndarray, "H W"]:
    """Where a mask file marks something. An empty mask is returned as it is.

    Args:
        values: "ids": any value above 0 (VisA numbers the kinds of defect from 1). "auto": above 127 of 255, or above 0 where
            the file's largest level is at most 127, as in 0/1 masks and in those with small ids.
        shape: (height, width) that it must have.

    Raises:
        InputError: missing, damaged, no picture, or of another size than `shape`.
    """
    where = f"mask {typed(path)}"
    data = read_bytes(path, where)
    stored, _, _ = raster.decode(data, where, _kind(data, where))
    if not np.isfinite(stored).all():
        raise InputError(f"{where}: holds NaN or infinity; write 0 and 255")
    levels = raster.grey_levels(stored)
    # ids are read from the stored values: scaled to 255, a 16-bit 1 would vanish
    raw = stored if stored.ndim == 2 else stored.max(axis=2)
    mask = raw > 0 if values == "ids" or levels.max() <= 127 else levels > 127
    if shape is not None and mask.shape != shape:
        raise InputError(
            f"{where}: is {mask.shape[1]}x{mask.shape[0]} but its image is {shape[1]}x{shape[0]}; give both one size"
        )
    return mask


def picture_size(path: Path, role: str = "image") -> tuple[int, int]:
    """(height, width), upright, from the header; the pixels are not decoded.

    Raises:
        InputError: missing, no picture, or a header that is damaged or claims over 100 megapixels.
    """
    where = f"{role} {typed(path)}"
    data = read_bytes(path, where)
    _kind(data, where)
    with parsing(where, "a picture"), Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if image.getexif().get(274, 1) >= 5:
            width, height = height, width
    check_size(width, height, where)
    return height, width


def _kind(data: bytes, where: str) -> Kind:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    raise InputError(f"{where}: is no PNG, JPEG or TIFF; convert it to one of these")
