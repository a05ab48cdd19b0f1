"""A torch Dataset of (picture, lesion mask) pairs drawn on the fly: a training script needs no files of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from didgen.batch import layout_files
from didgen.config import LayoutConfig
from didgen.images import read_lesion_mask
from didgen.pipeline import checked, checked_layouts, draw_pairs
from didgen.prompts import prompt_of
from didgen.weights import load_model
from graft_common.errors import InputError


class PairDataset(Dataset[dict[str, Any]]):
    """`len(dataset)` synthetic pairs; item i is the same on every call.

    Item i takes layout i modulo their number and draws noise, colour and skin from seed + i.

    Args:
        layouts: mask files, (H, W) bool arrays, or a folder of mask files.
        length: number of items; default one a layout.
        settings: any field of `LayoutConfig`, e.g. steps=25.

    Items: image (3, H, W) float32 in [0, 1], mask (1, H, W) float32 in {0, 1}, seed, prompt, flags, synthetic=True.
    """

    def __init__(self, layouts: str | Path | Sequence[Any], length: int | None = None, **settings: Any) -> None:
        if isinstance(layouts, (str, Path)):
            layouts = layout_files(Path(layouts))
        self.layouts = list(layouts)
        self.length = len(self.layouts) if length is None else length
        if not self.layouts or self.length < 1:
            raise InputError(f"{len(self.layouts)} layouts, length {length}: give at least one of each")
        self.config = LayoutConfig(**checked(settings, LayoutConfig))
        self.config.check()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        layout, seed, model = self.layouts[index % len(self.layouts)], self.config.seed + index, load_model(self.config)
        mask = layout if isinstance(layout, np.ndarray) else read_lesion_mask(layout)
        checked_layouts([mask], [""], [seed])
        prompt = prompt_of(mask, seed, model.seen)
        pair = draw_pairs([mask], [prompt], [seed], self.config, model)[0]
        image = torch.from_numpy(pair.image.transpose(2, 0, 1).astype(np.float32) / 255)
        drawn = torch.from_numpy(pair.annotation.mask)[None].float()
        return {"image": image, "mask": drawn, "seed": seed, "prompt": prompt, "flags": pair.flags, "synthetic": True}
