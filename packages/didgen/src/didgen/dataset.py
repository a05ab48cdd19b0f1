"""A manifest's pictures as a torch Dataset of (image, mask, class): real, synthetic or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from didgen.images import read_lesion_mask, read_rgb
from didgen.manifest import CLASSES, Row, Split, read_manifest
from graft_common.errors import InputError
from graft_common.resample import resize, resize_mask

NO_CLASS = -100  # torch's cross entropy leaves it out


class Sample(NamedTuple):
    """One picture.

    Attributes:
        image: (3, H, W) float32 in [-1, 1].
        mask: (1, H, W) float32, 0 or 1; all 0 where the row has no mask.
        label: place of the class in `classes`; -100 where the row has none.
    """

    image: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"]
    label: int


class Turn(NamedTuple):
    """What was done to picture and mask together: mirrored left to right, then turned by 90 degrees `quarters` times."""

    mirrored: bool = False
    quarters: int = 0


class ManifestDataset(Dataset[Sample]):
    """`len(dataset)` pictures of one split, squashed to one size; item i is the same on every call in one epoch.

    Args:
        manifest: a manifest, a folder that holds one, or rows.
        size: (height, width) in pixels, or the side of a square.
        split: train, val or test; None takes all rows.
        classes: names of the classes, in the order of their indices.
        flips: mirror left to right in half of the cases, drawn from (seed, epoch, item); `turn` says which.
        quarter_turns: turn by a multiple of 90 degrees, drawn likewise; needs a square.
        need_mask, need_class: refuse rows without.
        cache: keep the resized pictures in memory (4 bytes a pixel).

    Raises:
        InputError: an unreadable manifest, no such rows, a row without a needed mask or class; on access, an unreadable
            picture, or a mask that does not fit.
        ValueError: a size that is not positive, or quarter turns of a rectangle.
    """

    def __init__(
        self,
        manifest: str | Path | Sequence[Row],
        size: int | tuple[int, int],
        split: Split | None = "train",
        *,
        classes: Sequence[str] = CLASSES,
        flips: bool = False,
        quarter_turns: bool = False,
        need_mask: bool = False,
        need_class: bool = False,
        cache: bool = False,
        seed: int = 0,
    ) -> None:
        rows = read_manifest(Path(manifest)) if isinstance(manifest, str | Path) else list(manifest)
        where = str(manifest) if isinstance(manifest, str | Path) else "rows"
        self.rows = [row for row in rows if split is None or row.split == split]
        self.size = (size, size) if isinstance(size, int) else size
        self.classes = tuple(classes)
        if not self.rows:
            raise InputError(f"{where}: has no row of split {split}; run graft-didgen prepare")
        for row in self.rows:
            if need_mask and row.mask is None:
                raise InputError(f"{where}: row {row.id} has no mask; leave it out or add its mask")
            if (need_class or row.dx is not None) and row.dx not in self.classes:
                raise InputError(f"{where}: row {row.id} has dx {row.dx}, not one of {', '.join(self.classes)}")
        if min(self.size) < 1 or (quarter_turns and self.size[0] != self.size[1]):
            raise ValueError(f"size is {self.size}; give positive sides, and a square for quarter turns")
        self.flips, self.quarter_turns, self.seed, self.epoch = flips, quarter_turns, seed, 0
        self._kept: list[Tensor | None] | None = [None] * len(self.rows) if cache else None

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw other flips and turns from now on (workers of a loader see it when they start)."""
        self.epoch = epoch

    def turn(self, index: int) -> Turn:
        """What is done to item `index` in this epoch: whoever words its position must turn the words too."""
        rng = np.random.default_rng([717, self.seed, self.epoch, index])
        mirrored, quarters = bool(rng.integers(2)), int(rng.integers(4))
        return Turn(self.flips and mirrored, quarters if self.quarter_turns else 0)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        planes, (mirrored, quarters) = self._planes(index), self.turn(index)
        planes = torch.rot90(planes.flip(2) if mirrored else planes, quarters, (1, 2))
        dx = self.rows[index].dx
        image = planes[:3].float() / 127.5 - 1
        return Sample(image, planes[3:].float(), NO_CLASS if dx is None else self.classes.index(dx))

    def _planes(self, index: int) -> Tensor:
        """(4, H, W) uint8: red, green, blue, and the mask as 0 or 1."""
        if self._kept is not None and (kept := self._kept[index]) is not None:
            return kept
        row = self.rows[index]
        picture = read_rgb(row.image)
        image = np.rint(resize(picture.transpose(2, 0, 1).astype(np.float32), self.size)).astype(np.uint8)
        mask = np.zeros((1, *self.size), np.uint8)
        if row.mask is not None:
            mask[0] = resize_mask(read_lesion_mask(row.mask, picture.shape[:2]), self.size)
        planes = torch.from_numpy(np.concatenate([image, mask]))
        if self._kept is not None:
            self._kept[index] = planes
        return planes
