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


def overlay(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], box: Sequence[int]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the mask's rim in yellow and the box in blue."""
    out = image.copy()
    x, y, w, h = box
    out[[y, y + h - 1], x : x + w] = (80, 160, 255)
    out[y : y + h, [x, x + w - 1]] = (80, 160, 255)
    out[ndimage.binary_dilation(mask) & ~mask] = (255, 220, 60)
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
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            sheet.paste(image.resize(size, Image.Resampling.BICUBIC), (x, y + LINE))
    return np.asarray(sheet)
