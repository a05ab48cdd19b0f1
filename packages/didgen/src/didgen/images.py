"""Picture and mask files as arrays: PNG, JPEG, TIFF and BMP (PH2's), told apart by content."""

import io
import os
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from graft_common import raster
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from graft_common.picture import Kind, check_size

PathLike = str | os.PathLike[str]
SOLID = 0.001  # share of the picture from which a grey level between the two of a mask counts as a class of its own
SLACK = 32  # grey levels that JPEG may stray around a mask's two


def read_rgb(path: PathLike, role: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """A picture as 8-bit RGB, upright (EXIF), alpha on black; 16 bits keep their high byte.

    Raises:
        InputError: missing, damaged, over 100 megapixels, no picture, or not finite.
    """
    stored, _ = _decode(path, role)
    if stored.dtype == np.uint16:
        stored = (stored >> 8).astype(np.uint8)
    if stored.dtype != np.uint8:
        raise InputError(f"{role} {typed(path)}: holds {stored.dtype} values; give 8 or 16 bits a channel")
    return np.ascontiguousarray(stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=2))


def read_lesion_mask(path: PathLike, shape: tuple[int, int] | None = None) -> Bool[np.ndarray, "H W"]:
    """A lesion mask of any depth (1-bit, grey, palette, RGB): True on the lesion.

    Two grey levels, also 0 and 1: the brighter one is the lesion. More levels (soft borders, JPEG): above the middle
    between darkest and brightest.

    Args:
        shape: (height, width) that it must have.

    Raises:
        InputError: as `read_rgb`; another size; empty; full; or several classes in one mask.
    """
    where = f"mask {typed(path)}"
    stored, kind = _decode(path, "mask")
    if shape is not None and stored.shape[:2] != tuple(shape):
        h, w = stored.shape[:2]
        raise InputError(f"{where}: is {w}x{h} but its image is {shape[1]}x{shape[0]}; give both one size")
    grey = raster.grey_levels(stored).astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    if low == high:
        raise InputError(f"{where}: is {'empty' if low == 0 else 'full'}; mark the lesion, a part of the picture")
    if (more := _classes(grey, SLACK if kind == "jpeg" else 0)) > 2:
        raise InputError(f"{where}: holds {more} classes; give one mask of the lesion, with two grey levels")
    mask = grey > (low + high) / 2
    if kind == "jpeg" and high - low < SLACK:  # noise around one level
        raise InputError(f"{where}: is {'empty' if high < 128 else 'full'}; mark the lesion, a part of the picture")
    return mask


def picture_size(path: PathLike, role: str = "image") -> tuple[int, int]:
    """(height, width), upright, from the file's header; the pixels are not decoded.

    Raises:
        InputError: missing, no picture, or a header that is damaged or claims over 100 megapixels.
    """
    from PIL import Image

    where = f"{role} {typed(path)}"
    if not os.path.isfile(path) or not os.path.getsize(path):
        read_bytes(path, where)  # says why
    with parsing(where, "a picture"), open(path, "rb") as file:
        head = file.read(16)
        _kind(head, where)
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(274, 1) >= 5:
                width, height = height, width
    check_size(width, height, where)
    return height, width


def _decode(path: PathLike, role: str) -> tuple[Shaped[np.ndarray, "H W *C"], str]:
    where = f"{role} {typed(path)}"
    data = read_bytes(path, where)
    kind = _kind(data, where)
    if kind is None:
        return _bmp(data, where), "bmp"
    stored, _, _ = raster.decode(data, where, kind)
    if not np.isfinite(stored).all():
        raise InputError(f"{where}: holds NaN or infinity; replace them first")
    return stored, kind


def _kind(data: bytes, where: str) -> Kind | None:
    """Format by content; None is BMP."""
    if (kind := raster.kind_of(data)) or data.startswith(b"BM"):
        return kind
    if raster.is_markup(data):
        raise InputError(f"{where}: is a web page or XML, not a picture; download the file itself")
    raise InputError(f"{where}: is no PNG, JPEG, TIFF or BMP; convert it to one of these")


def _bmp(data: bytes, where: str) -> UInt8[np.ndarray, "H W *C"]:
    from PIL import Image

    with parsing(where, "BMP"):
        image: Any = Image.open(io.BytesIO(data), formats=("BMP",))
        width, height = image.size
        check_size(width, height, where)
        image.load()
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _classes(grey: Float[np.ndarray, "H W"], slack: int) -> int:
    """Number of levels that fill solid regions, the darkest and the brightest always among them.

    A soft border also has levels in between, but no 3 x 3 block of one level.
    """
    from scipy.ndimage import binary_erosion

    low, high = float(grey.min()), float(grey.max())
    levels, counts = np.unique(grey, return_counts=True)
    between = (levels > low + slack) & (levels < high - slack) & (counts >= max(9, SOLID * grey.size))
    return 2 + sum(bool(binary_erosion(grey == level, np.ones((3, 3), bool)).any()) for level in levels[between])
