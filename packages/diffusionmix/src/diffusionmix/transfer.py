"""Boxes -> matrices that carry pictures between an object's square and its box in the canvas (R_box and C_box of spec 2.1).

A bilinear resize is linear and separable, so a batch of different boxes is two matrix products, on the device and without a loop.
Rows outside the box are zero. Where a side of the box is S the matrix is a piece of the identity: nothing is resized.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffusionmix.box import Box


@dataclass(frozen=True, eq=False)
class Transfer:
    """Matrices of B boxes; `place` takes S x S to the canvas, `crop` the canvas to S x S.

    Attributes:
        rows_in, columns_in: (B, H, S) and (B, W, S) of R_box.
        rows_out, columns_out: (B, S, H) and (B, S, W) of C_box.
    """

    rows_in: Float[Tensor, "B H S"]
    columns_in: Float[Tensor, "B W S"]
    rows_out: Float[Tensor, "B S H"]
    columns_out: Float[Tensor, "B S W"]

    def place(self, picture: Float[Tensor, "B C S S"]) -> Float[Tensor, "B C H W"]:
        """R_box: resized into the box, zero around it."""
        return self.rows_in[:, None] @ picture @ self.columns_in.mT[:, None]

    def crop(self, canvas: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C S S"]:
        """C_box: the box's content, resized to the object's size."""
        return self.rows_out[:, None] @ canvas @ self.columns_out.mT[:, None]

    def cover(self, mask: Float[Tensor, "B 1 S S"], soft: bool = False) -> Float[Tensor, "B 1 H W"]:
        """The mask on the canvas: 0 or 1, cut at half, unless `soft`; never outside the box (spec 2.4 #9)."""
        placed = self.place(mask)
        return placed if soft else (placed >= 0.5).to(placed.dtype)


def transfer(boxes: Sequence[Box], size: int, canvas: tuple[int, int], device: torch.device | str = "cpu") -> Transfer:
    """Matrices for one box per picture.

    Args:
        boxes: inside the canvas.
        size: S, side of the object.
        canvas: (H, W).
    """
    height, width = canvas
    parts = [
        (
            _placed(resizer(size, b.h), b.y, height),
            _placed(resizer(size, b.w), b.x, width),
            _placed(resizer(b.h, size).T, b.y, height).T,
            _placed(resizer(b.w, size).T, b.x, width).T,
        )
        for b in boxes
    ]
    stacked = [torch.stack(group).to(device, torch.float32) for group in zip(*parts, strict=True)]
    return Transfer(*stacked)


def resizer(before: int, after: int) -> Float[Tensor, "after before"]:
    """Bilinear weights, widened (antialiased) on shrinking, as torch's `interpolate` has them; the identity for equal sizes."""
    unit = torch.eye(before, dtype=torch.float64)
    if before == after:
        return unit
    return F.interpolate(unit[None, None], (after, before), mode="bilinear", antialias=after < before, align_corners=False)[0, 0]


def _placed(matrix: Float[Tensor, "inside n"], first: int, total: int) -> Float[Tensor, "total n"]:
    """Rows of zeros before and after."""
    return F.pad(matrix, (0, 0, first, total - first - matrix.shape[0]))
