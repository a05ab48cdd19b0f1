"""PNG, JPEG and TIFF: Pillow decodes, OpenCV where Pillow would drop a 16-bit colour file to 8 bits.

EXIF orientation is applied, alpha is flattened onto black, the colour profile (ICC) is kept. All other metadata stays
behind: EXIF may hold names, serial numbers and places.
"""

import hashlib
import io
import json
import os
import struct
import zlib
from typing import Any

import numpy as np
from jaxtyping import Float64, Integer, Shaped, UInt8, UInt16

from graft_common.errors import InputError
from graft_common.files import parsing, quiet_stderr, write_bytes
from graft_common.picture import MAX_PIXELS, Kind, Picture, Source, check_size, linear, unit_to_pixels, window_edges

PROVENANCE_KEY = "graft"
MAGIC: dict[bytes, Kind] = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
}
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<svg")
MAX_EXPANSION = 4096  # no common PNG, JPEG or TIFF coding of a real picture shrinks it more than this
ORIENT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def kind_of(data: bytes) -> Kind | None:
    """PNG, JPEG or TIFF by the first bytes; None for everything else."""
    return next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), None)


def is_markup(data: bytes) -> bool:
    """Whether it is a web page or XML, which a download that failed often leaves under a picture's name."""
    return data[:512].lstrip().lower().startswith(MARKUP)


def read_raster(data: bytes, where: str, name: str, kind: Kind, window: tuple[float, float] | None) -> Picture:
    """Picture from the bytes of a PNG, JPEG or TIFF.

    8 bits and 16-bit colour: the whole integer range is shown. 16-bit (or 32-bit, or float) grey: `window` (centre,
    width) in stored values, else 0.5 to 99.5 % of the pixels. Raises InputError on anything damaged, over 100
    megapixels or not finite.
    """
    stored, icc, notes = decode(data, where, kind)
    wide = stored.dtype != np.uint8
    if not np.isfinite(stored).all():
        raise InputError(f"{where}: holds NaN or infinity; replace them first")
    if window is not None and (not wide or stored.ndim == 3):
        raise InputError(f"{where}: --window does not apply to an 8-bit or colour picture; leave it out")
    limits = (
        None if stored.dtype.kind == "f" else (float(np.iinfo(stored.dtype).min), float(np.iinfo(stored.dtype).max))
    )
    if wide and stored.ndim == 2:
        low, high, used, origin = window_edges(stored, window)
    else:
        low, high, used, origin = 0.0, float(np.iinfo(stored.dtype).max), None, "range"
    unit = np.clip((stored.astype(np.float64) - low) / (high - low), 0, 1)
    source = Source(
        kind=kind,
        name=name,
        sha256=hashlib.sha256(data).hexdigest(),
        bits=8 * stored.dtype.itemsize,
        photometric="RGB" if stored.ndim == 3 else "MONOCHROME2",
        display=linear(low, high),
        limits=limits,
        window=used,
        window_from=origin,
        notes=notes,
        carried=icc,
    )
    return Picture(unit_to_pixels(unit), stored, source)


def decode(data: bytes, where: str, kind: Kind) -> tuple[Shaped[np.ndarray, "H W *C"], bytes | None, tuple[str, ...]]:
    """Stored values, upright and without alpha, (H, W) or (H, W, 3); the ICC profile; notes."""
    from PIL import ImageOps

    notes = []
    with parsing(where, kind.upper()), quiet_stderr():
        image = _open(data, where, (kind.upper(),))
        if image.size[0] * image.size[1] * len(image.getbands()) > MAX_EXPANSION * len(data) + (1 << 20):
            raise InputError(
                f"{where}: claims {image.size[0]}x{image.size[1]} in {len(data)} bytes; give a complete file"
            )
        bits = _bits(data, image, kind)
        orientation = image.getexif().get(274, 1)
        inverted = kind == "tiff" and image.mode.startswith("I;16") and image.tag_v2.get(262) == 0
        signed = kind == "tiff" and image.tag_v2.get(339, (1,))[0] == 2
        # a profile for ink or Lab values would be wrong on the RGB they are turned into
        icc = image.info.get("icc_profile") if image.mode not in ("CMYK", "LAB", "YCbCr") else None
        many = getattr(image, "is_animated", False)
        image.load()
        if many:
            notes.append("only the first of several pages or frames is used")
        if bits == 16 and len(image.getbands()) > 1:
            array = _decode_wide_colour(data)
            if kind == "png":  # OpenCV turns a TIFF by itself, whatever its flags say
                array = ORIENT.get(orientation, ORIENT[1])(array)
        else:
            array = _to_array(ImageOps.exif_transpose(image), bits, signed)
        if inverted:  # white is zero: Pillow turns it over at 8 bits but not at 16
            array = np.iinfo(array.dtype).max - array
        if array.ndim == 3 and array.shape[2] in (2, 4):
            if (array[..., -1] != np.iinfo(array.dtype).max).any():
                notes.append("transparent parts are flattened onto black")
            array = flatten(array)
    return np.ascontiguousarray(array), icc, tuple(notes)


def _open(data: bytes, where: str, formats: tuple[str, ...]) -> Any:
    """A Pillow image whose header is read and whose size is checked; nothing is decoded yet."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise InputError(f"{where}: has more than {MAX_PIXELS // 10**6} megapixels; crop or shrink it") from error
    check_size(*image.size, where)
    return image


def _bits(data: bytes, image: Any, kind: Kind) -> int:
    if kind == "png":
        return data[24]
    if kind == "tiff":
        return int(max(image.tag_v2.get(258, (1,))))
    return 8


def _to_array(image: Any, bits: int, signed: bool) -> Shaped[np.ndarray, "H W *C"]:
    if image.mode == "F":
        return np.asarray(image)
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.dtype == np.int32 and bits <= 16:  # Pillow widens what it has no 16-bit mode for
            return array.astype(np.int16 if signed else np.uint16)
        return array.astype(array.dtype.newbyteorder("="))
    if "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode in ("PA", "RGBa", "La") else "RGB")
    return np.asarray(image)


def _decode_wide_colour(data: bytes) -> UInt16[np.ndarray, "H W C"]:
    """(H, W, 3 or 4) uint16, RGB order. Pillow has decoded the same bytes before, so the file is sound."""
    import cv2

    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if array is None or array.ndim != 3 or array.dtype != np.uint16:
        raise ValueError("16-bit colour could not be decoded")
    return array[..., [2, 1, 0, 3][: array.shape[2]]]


def flatten(array: Integer[np.ndarray, "H W C"]) -> Integer[np.ndarray, "H W *C2"]:
    """Composite (H, W, 2) or (H, W, 4) with straight alpha onto black: (H, W) or (H, W, 3), same type."""
    full = np.iinfo(array.dtype).max
    colour = np.rint(array[..., :-1].astype(np.float64) * array[..., -1:] / full).astype(array.dtype)
    return colour[..., 0] if colour.shape[2] == 1 else colour


def encode(
    stored: Shaped[np.ndarray, "H W *C"], kind: Kind, provenance: dict[str, Any], icc: bytes | None = None
) -> bytes:
    """PNG bytes (also for a JPEG source, whose coding would change every pixel) or TIFF bytes, with the provenance
    inside.

    PNG keeps it as JSON in the text chunk `graft`, TIFF in ImageDescription.
    """
    text = json.dumps(provenance, sort_keys=True)
    if kind == "tiff":
        return _encode_tiff(stored, text, icc)
    if stored.dtype == np.uint16 and stored.ndim == 3:
        return _encode_wide_png(stored, text, icc)
    from PIL import Image, PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(PROVENANCE_KEY, text)
    out = io.BytesIO()
    Image.fromarray(stored).save(out, format="PNG", pnginfo=chunks, icc_profile=icc)
    return out.getvalue()


def write_png(path: str | os.PathLike[str], array: UInt8[np.ndarray, "_ _ *_"], note: dict[str, Any]) -> None:
    """8-bit PNG, grey or RGB, with the provenance and the word synthetic inside; InputError where it cannot be written."""
    write_bytes(path, encode(array, "png", {**note, "synthetic": True}))


def read_comment(data: bytes, where: str) -> str | None:
    """The provenance text of a PNG or TIFF; None without one."""
    with parsing(where, "image"), quiet_stderr():
        image = _open(data, where, ("PNG", "TIFF", "JPEG"))
        return image.tag_v2.get(270) if image.format == "TIFF" else image.info.get(PROVENANCE_KEY)


def _encode_tiff(stored: Shaped[np.ndarray, "H W *C"], text: str, icc: bytes | None) -> bytes:
    import tifffile

    out = io.BytesIO()
    photometric = "rgb" if stored.ndim == 3 else "minisblack"
    tifffile.imwrite(
        out,
        stored,
        photometric=photometric,
        compression="zlib",
        description=text,
        metadata=None,  # no shape record in a second description tag
        software="Graft",
        iccprofile=icc,
    )
    return out.getvalue()


def _encode_wide_png(stored: UInt16[np.ndarray, "H W 3"], text: str, icc: bytes | None) -> bytes:
    """16-bit colour by OpenCV, then our chunks after the header (33 bytes: signature 8, IHDR 25)."""
    import cv2

    coded = cv2.imencode(".png", stored[..., ::-1])[1].tobytes()
    extra = _chunk(b"tEXt", PROVENANCE_KEY.encode() + b"\0" + text.encode("latin-1"))
    if icc is not None:
        extra = _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)) + extra
    return coded[:33] + extra + coded[33:]


def _chunk(tag: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def grey_levels(stored: Shaped[np.ndarray, "H W *C"]) -> Float64[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"]:
    """Grey level 0..255 of a raster of any depth: luma of colour (ITU-R 601), the whole range of the integer type."""
    grey = stored.astype(np.float64)
    if grey.ndim == 3:
        grey = grey @ np.array([0.299, 0.587, 0.114])
    if stored.dtype.kind == "f":
        return grey * (255 / max(1.0, float(grey.max())))
    return grey * (255 / np.iinfo(stored.dtype).max)
