"""Results -> files, each written beside and renamed, each saying that it is synthetic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from graft_common import raster
from graft_common.files import write_bytes

CELL, LINE, PAD = 160, 20, 8
Picture = UInt8[np.ndarray, "_ _ *_"]  # pictures of one panel may differ in size and channels


def write_png(path: Path, array: Picture, note: dict[str, Any]) -> None:
    """8-bit PNG with the provenance inside."""
    write_bytes(path, raster.encode(array, "png", {**note, "synthetic": True}))


def mask_image(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """0 and 255."""
    return mask.astype(np.uint8) * np.uint8(255)


def outlined(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture at the panel's size with the mask's rim in yellow: drawn after scaling, so that the rim stays thin."""
    scale = max(1, CELL // max(mask.shape))
    size = (image.shape[1] * scale, image.shape[0] * scale)
    out = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    inside = np.kron(mask, np.ones((scale, scale), bool))
    out[inside & ~ndimage.binary_erosion(inside)] = (255, 220, 60)
    return out


def panel(rows: Sequence[Sequence[tuple[str, Picture]]], title: str) -> UInt8[np.ndarray, "H W 3"]:
    """A grid of labelled pictures, each fitted into a square cell; inputs first, outputs last."""
    columns = max(len(row) for row in rows)
    head = LINE + PAD
    sheet = Image.new("RGB", (PAD + columns * (CELL + PAD), head + PAD + len(rows) * (CELL + LINE + PAD)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((PAD, PAD), title, fill="black", font=font)
    for r, row in enumerate(rows):
        for c, (label, array) in enumerate(row):
            x, y = PAD + c * (CELL + PAD), head + PAD + r * (CELL + LINE + PAD)
            draw.text((x, y), label, fill="black", font=font)
            image = Image.fromarray(array).convert("RGB")
            scale = CELL / max(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
            sheet.paste(image, (x, y + LINE))
    return np.asarray(sheet)
