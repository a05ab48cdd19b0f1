"""A photograph as background: read in any mode, and written back with the changed pixels in place."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from graft_common import pixels, raster
from graft_common.files import read_bytes, write_bytes
from graft_common.picture import Picture

# modes of Pillow that hold no new colours, or no colours of a screen
CHANGED = ("1", "P", "PA", "CMYK", "LAB", "YCbCr")
OPAQUE = 255


@dataclass(frozen=True, eq=False)
class Ground:
    """A photograph as background.

    Attributes:
        picture: as read, with its stored values; alpha is flattened onto black.
        rgb: (H, W, 3) as the object model sees it.
        layered: stored values with alpha as the last channel, grey (2) or colour (4); None for a file without alpha.
        notes: what of the file cannot be kept.
    """

    picture: Picture
    rgb: UInt8[np.ndarray, "H W 3"]
    layered: UInt8[np.ndarray, "H W C"] | None = None
    notes: tuple[str, ...] = ()


def read_ground(path: Path) -> Ground:
    """A photograph of any mode; grey is repeated over the colours.

    Raises:
        InputError: it cannot be read.
    """
    picture = pixels.read_picture(path, role="--background")
    planes = pixels.with_channels(picture.pixels, 3)
    rgb = np.rint((planes + 1) * 127.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    layered, notes = _layers(path, picture) if picture.source.kind in ("png", "jpeg", "tiff") else (None, ())
    return Ground(picture, np.ascontiguousarray(rgb), layered, notes)


def _layers(path: Path, picture: Picture) -> tuple[UInt8[np.ndarray, "H W C"] | None, tuple[str, ...]]:
    """The unflattened values of an 8-bit file with alpha, upright, and what the output cannot keep of the file."""
    grey = picture.stored.ndim == 2
    with Image.open(io.BytesIO(read_bytes(path, f"--background {path.name}"))) as image:
        mode, clear = image.mode, image.has_transparency_data
        layered = None
        if clear and picture.stored.dtype == np.uint8:
            layered = np.asarray(ImageOps.exif_transpose(image).convert("LA" if grey else "RGBA"))
    notes = []
    if mode in CHANGED:
        written = ("LA" if grey else "RGBA") if layered is not None else "L" if grey else "RGB"
        notes.append(f"its mode {mode} cannot hold the object's colours, so it is written as {written}")
    if clear and layered is None:
        notes.append("its alpha is flattened onto black: alpha is kept with 8 bits a channel alone")
    return layered, tuple(notes)


def write_ground(
    out: Path, stem: str, image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], ground: Ground, note: dict[str, Any]
) -> str:
    """The photograph's stored values with the changed pixels in place, in its size, depth and channels; returns the file's name.

    Only the mask is written; with --finish, whatever the blend changed. What is written is opaque.
    """
    changed = mask | (image != ground.rgb).any(-1)
    drawn = pixels.with_channels(image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1, ground.picture.pixels.shape[0])
    if ground.picture.source.kind in ("png", "jpeg", "tiff") and ground.picture.stored.dtype in (np.uint8, np.uint16):
        stored = pixels.merge_stored(ground.picture, drawn, changed)
        if ground.layered is not None:
            flat, stored = stored, ground.layered.copy()
            stored[changed, :-1] = flat[changed].reshape(-1, stored.shape[2] - 1)
            stored[changed, -1] = OPAQUE
        data = raster.encode(stored, "png", {**note, "synthetic": True}, ground.picture.source.carried)
        write_bytes(out / f"{stem}.png", data)
        return f"{stem}.png"
    name = stem + pixels.output_suffixes(ground.picture)[0]
    pixels.write_like(ground.picture, drawn, changed, out / name, note)
    return name
