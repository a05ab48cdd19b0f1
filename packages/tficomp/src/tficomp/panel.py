"""Labelled pictures side by side, for people."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from graft_common.pixels import resize, with_channels
from tficomp.records import Inputs, Result

CELL, LINE, PAD = 224, 22, 8


def to_uint8(pixels: Float[np.ndarray, "C H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """[-1, 1] -> 8-bit RGB."""
    return (
        ((with_channels(pixels.astype(np.float32), 3).transpose(1, 2, 0) + 1) * 127.5)
        .round()
        .clip(0, 255)
        .astype(np.uint8)
    )


def outlined(pixels: Float[np.ndarray, "C H W"], mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "3 H W"]:
    """The picture with the mask's rim drawn in yellow, one pixel wide."""
    from scipy import ndimage

    rim = mask & ~ndimage.binary_erosion(mask)
    out = with_channels(pixels.astype(np.float32), 3).copy()
    out[:, rim] = np.array([1.0, 0.8, -0.6], np.float32)[:, None]
    return out


def panel(rows: Sequence[Sequence[tuple[str, Float[np.ndarray, "_ _ _"]]]], title: str = "") -> Image.Image:
    """A grid of labelled pictures, each fitted into a square cell; inputs first, outputs last."""
    columns = max(len(row) for row in rows)
    head = LINE + PAD if title else 0
    sheet = Image.new("RGB", (PAD + columns * (CELL + PAD), head + PAD + len(rows) * (CELL + LINE + PAD)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    if title:
        draw.text((PAD, PAD), title, fill="black", font=font)
    for r, row in enumerate(rows):
        for c, (label, pixels) in enumerate(row):
            h, w = pixels.shape[1:]
            scale = CELL / max(h, w)
            size = (max(1, round(h * scale)), max(1, round(w * scale)))
            big = resize(pixels.astype(np.float32), size) if size != (h, w) else pixels
            x, y = PAD + c * (CELL + PAD), head + PAD + r * (CELL + LINE + PAD)
            draw.text((x, y), label, fill="black", font=font)
            sheet.paste(Image.fromarray(to_uint8(big)), (x, y + LINE))
    return sheet


def sample_row(inputs: Inputs, result: Result) -> list[tuple[str, Float[np.ndarray, "_ _ _"]]]:
    """Inputs | outputs of one sample."""
    users = np.logical_or.reduce([lesion.user_mask for lesion in inputs.lesions])
    several = len(inputs.lesions) > 1
    objects = [
        (f"object {i} + lesion mask" if several else "object + lesion mask", outlined(lesion.pixels, lesion.mask))
        for i, lesion in enumerate(inputs.lesions, start=1)
    ]
    mask = result.lesion_mask.astype(np.float32)[None] * 2 - 1
    return [
        ("background + user mask", outlined(inputs.background.pixels, users)),
        *objects,
        ("copy-paste", result.copy_paste),
        ("composed (synthetic)", result.pixels),
        ("lesion mask", mask),
    ]
