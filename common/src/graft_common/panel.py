"""Labelled pictures side by side, for people."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

CELL, LINE, PAD = 160, 20, 8
Picture = UInt8[np.ndarray, "_ _ *_"]  # pictures of one panel may differ in size and channels


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
