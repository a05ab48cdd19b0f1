"""Boxes in pixels: parse, check, fit, and draw from training positions."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from graft_common.errors import InputError

MIN_SIDE = 8
TRIES = 400
COVER = 0.75  # share of a drawn box that must lie on the foreground


class Box(NamedTuple):
    """Left, top, width, height in pixels: columns x to x + w - 1, rows y to y + h - 1."""

    x: int
    y: int
    w: int
    h: int

    @property
    def text(self) -> str:
        """As typed after --box."""
        return ",".join(map(str, self))


def parse_box(text: str) -> Box:
    """X,Y,W,H.

    Raises:
        InputError: not four whole numbers.
    """
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--box {text}: give four whole numbers of pixels as X,Y,W,H, e.g. 32,40,64,64") from None
    return Box(x, y, w, h)


def checked_box(box: Box, size: tuple[int, int]) -> Box:
    """The box if it lies in a picture of (height, width) `size` and its sides are at least 8.

    Raises:
        InputError: otherwise, with the reason.
    """
    height, width = size
    if min(box.w, box.h) < MIN_SIDE:
        raise InputError(f"--box {box.text}: its width and height must be at least {MIN_SIDE} pixels")
    if box.w > width or box.h > height:
        raise InputError(f"--box {box.text}: is larger than the picture, which is {width}x{height}; make it smaller")
    if box.x < 0 or box.y < 0 or box.x + box.w > width or box.y + box.h > height:
        raise InputError(
            f"--box {box.text}: leaves the picture, which is {width}x{height}; X+W must be at most {width}, Y+H at most {height}"
        )
    return box


def inner_square(box: Box) -> Box:
    """The largest centred square in the box: where a square object goes that must keep its aspect."""
    side = min(box.w, box.h)
    return Box(box.x + (box.w - side) // 2, box.y + (box.h - side) // 2, side, side)


def draw_box(
    shares: Float[np.ndarray, "n 4"],
    size: tuple[int, int],
    seed: int,
    foreground: Bool[np.ndarray, "H W"] | None = None,
) -> Box:
    """A box like those of training: one of them, moved by up to a tenth of its sides.

    Args:
        shares: x, y, width, height of training boxes as shares of their pictures.
        size: (height, width) of the picture to draw in.
        seed: equal seeds give equal boxes.
        foreground: where the object may be; three quarters of the box and its centre lie on it. A training position that
            does not is replaced by a random one of that size, and a box larger than the foreground by a smaller one.

    Raises:
        InputError: no training positions, or no place on the foreground.
    """
    height, width = size
    if min(size) < MIN_SIDE:
        raise InputError(f"picture of {width}x{height}: has no room for a box of {MIN_SIDE} pixels; give a larger one")
    if not len(shares):
        raise InputError("--box: the weights hold no training positions to draw one from; give X,Y,W,H")
    rng = np.random.default_rng([71, seed])
    area = None if foreground is None else _integral(foreground)
    for attempt in range(TRIES):
        x, y, w, h = shares[rng.integers(len(shares))]
        shrink = 1.0 if foreground is None else _fit(foreground, w * width, h * height) * 0.97 ** (attempt // 20)
        bw = int(np.clip(round(w * width * shrink), MIN_SIDE, width))
        bh = int(np.clip(round(h * height * shrink), MIN_SIDE, height))
        cx, cy = (x + w / 2) * width, (y + h / 2) * height
        cx, cy = cx + rng.uniform(-0.1, 0.1) * bw, cy + rng.uniform(-0.1, 0.1) * bh
        if foreground is not None and attempt % 4:
            rows, columns = np.nonzero(foreground)
            if not len(rows):
                break
            pick = rng.integers(len(rows))
            cx, cy = columns[pick], rows[pick]
        box = Box(
            int(np.clip(round(cx - bw / 2), 0, width - bw)), int(np.clip(round(cy - bh / 2), 0, height - bh)), bw, bh
        )
        if area is None or foreground is None:
            return box
        inside = area[box.y + bh, box.x + bw] - area[box.y, box.x + bw] - area[box.y + bh, box.x] + area[box.y, box.x]
        if inside >= COVER * bw * bh and foreground[box.y + bh // 2, box.x + bw // 2]:
            return box
    raise InputError("--foreground: leaves no place for a box; mark a larger part of the picture, or give --box")


def _integral(mask: Bool[np.ndarray, "H W"]) -> np.ndarray:
    """(H + 1, W + 1) sums over all rectangles from the top left corner."""
    return np.pad(mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))


def _fit(mask: Bool[np.ndarray, "H W"], w: float, h: float) -> float:
    """Factor, at most 1, by which a box of w x h becomes no larger than the mask's own extent."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 1.0
    return float(min(1.0, (columns[-1] - columns[0] + 1) / w, (rows[-1] - rows[0] + 1) / h))
