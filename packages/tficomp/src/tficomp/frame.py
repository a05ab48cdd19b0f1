"""The square of the background that the network sees: how it is chosen, cut out, and put back."""

import math

import numpy as np
from jaxtyping import Bool, Float, Float32
from PIL import Image

from graft_common.pixels import resize, resize_mask
from tficomp.records import Box, Frame


def choose_frame(shape: tuple[int, int], where: Box, size: int, context: float) -> Frame:
    """A square around the box: `context` times its long side, at least `size` pixels, at most the image's long side.

    A square larger than the short side reaches outside, where the image's edge is repeated: nothing is squashed.
    """
    height, width = shape
    left, top, right, bottom = where
    longest = max(height, width)
    wanted = longest if context == 0 else math.ceil(context * max(right - left, bottom - top))
    side = min(max(wanted, size, max(right - left, bottom - top)), longest)

    def corner(low: int, high: int, extent: int) -> int:
        if side >= extent:
            return -((side - extent) // 2)
        return min(max((low + high - side) // 2, 0), extent - side)

    return Frame(corner(top, bottom, height), corner(left, right, width), side, height, width, size)


def _cut(array: np.ndarray, frame: Frame, mode: str) -> np.ndarray:
    rows = np.arange(frame.top, frame.top + frame.side)
    cols = np.arange(frame.left, frame.left + frame.side)
    cut = array[..., rows.clip(0, frame.height - 1)[:, None], cols.clip(0, frame.width - 1)]
    if mode == "empty":
        inside = ((rows >= 0) & (rows < frame.height))[:, None] & ((cols >= 0) & (cols < frame.width))
        cut = cut & inside
    return cut


def to_frame(pixels: Float[np.ndarray, "C H W"], frame: Frame) -> Float32[np.ndarray, "C S S"]:
    """Cut the square out and resize it to the working size (Lanczos)."""
    cut = _cut(pixels, frame, "edge")
    return np.ascontiguousarray(cut if frame.side == frame.size else resize(cut, (frame.size, frame.size)), np.float32)


def mask_to_frame(mask: Bool[np.ndarray, "H W"], frame: Frame) -> Bool[np.ndarray, "S S"]:
    """The same for a mask; one that vanishes keeps the pixel where its middle falls."""
    return resized_mask(_cut(mask, frame, "empty"), (frame.size, frame.size))


def from_frame(
    pixels: Float[np.ndarray, "C S S"], frame: Frame
) -> tuple[Float32[np.ndarray, "C h w"], tuple[slice, slice]]:
    """Frame pixels at the background's resolution, and the rows and columns of the background that they cover."""
    whole = pixels if frame.side == frame.size else resize(pixels, (frame.side, frame.side))
    top, left = max(frame.top, 0), max(frame.left, 0)
    bottom, right = min(frame.top + frame.side, frame.height), min(frame.left + frame.side, frame.width)
    inside = whole[:, top - frame.top : bottom - frame.top, left - frame.left : right - frame.left]
    return np.ascontiguousarray(inside, np.float32), (slice(top, bottom), slice(left, right))


def mask_on_box(
    mask: Bool[np.ndarray, "H W"], where: tuple[float, float, float, float], shape: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """A mask stretched onto a box of a picture of `shape`: (left, top, right, bottom) in pixels, fractions allowed.

    A pixel belongs where half of it is covered; a mask coarser than the picture is interpolated first, so that its edge
    does not show the mask's own pixels. One that is thinner than a pixel keeps the pixels that it covers most.
    """
    left, top, right, bottom = where
    x0, y0, x1, y1 = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    across, down = mask.shape[1] / (right - left), mask.shape[0] / (bottom - top)  # mask pixels a picture pixel
    pad_x, pad_y = math.ceil(across) + 1, math.ceil(down) + 1
    wide = Image.fromarray(np.pad(mask, ((pad_y, pad_y), (pad_x, pad_x))).astype(np.float32))
    source = (pad_x + (x0 - left) * across, pad_y + (y0 - top) * down,
              pad_x + (x1 - left) * across, pad_y + (y1 - top) * down)  # fmt: skip
    how = Image.Resampling.BOX if min(across, down) >= 1 else Image.Resampling.BILINEAR
    cover = np.zeros(shape, np.float32)
    rows, cols = slice(max(y0, 0), min(y1, shape[0])), slice(max(x0, 0), min(x1, shape[1]))
    drawn = np.asarray(wide.resize((x1 - x0, y1 - y0), how, box=source))
    cover[rows, cols] = drawn[rows.start - y0 : rows.stop - y0, cols.start - x0 : cols.stop - x0]
    return (cover >= min(0.5, float(cover.max()))) & (cover > 0)


def resized_mask(mask: Bool[np.ndarray, "H W"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Mask to `size` by half coverage; one that vanishes keeps the pixel where its middle falls."""
    if mask.shape == size:
        return mask.copy()
    small = resize_mask(mask, size)
    if mask.any() and not small.any():  # thinner than a pixel
        rows, cols = np.nonzero(mask)
        small[int(rows.mean() * size[0] / mask.shape[0]), int(cols.mean() * size[1] / mask.shape[1])] = True
    return small
