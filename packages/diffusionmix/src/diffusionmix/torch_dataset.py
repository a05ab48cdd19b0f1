"""A torch Dataset over what the verb `dataset` wrote, for training scripts."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from diffusionmix.dataset import COCO, ITEMS
from diffusionmix.read import read_mask, read_rgb
from graft_common.errors import InputError
from graft_common.files import typed

GOOD = -1


class SyntheticDataset(Dataset[dict[str, Any]]):
    """The pictures of a finished data set, those with an object first; they are read when they are asked for.

    Args:
        folder: --out of `graft-diffusionmix dataset`.
        good: also the pictures without an object, whose masks are empty.

    Items: image (3, H, W) float32 in [0, 1], mask (1, H, W) float32 in {0, 1}, label (number in `classes`, -1 for a good picture),
    key (file below the folder), synthetic=True.

    Raises:
        InputError: no data set, or one that was interrupted.
    """

    def __init__(self, folder: str | Path, good: bool = True) -> None:
        self.folder = Path(folder)
        try:
            lines = (self.folder / ITEMS).read_text(encoding="utf-8").splitlines()
            kinds = json.loads((self.folder / COCO).read_text(encoding="utf-8"))["categories"]  # written when all are drawn
            rows = [json.loads(line) for line in lines]
            self.classes = tuple(str(kind["name"]) for kind in sorted(kinds, key=lambda kind: kind["id"]))
            self.rows = [
                (str(row["image"]), row["mask"], GOOD if row["mask"] is None else self.classes.index(row["label"]))
                for row in rows if good or row["mask"] is not None
            ]  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as why:
            said = f"holds no finished data set ({type(why).__name__}); run `dataset` into it, or again with --resume"
            raise InputError(f"{typed(self.folder)}: {said}") from None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self.rows):
            raise IndexError(index)
        name, mask, label = self.rows[index]
        image = torch.from_numpy(read_rgb(self.folder / name)).permute(2, 0, 1).float() / 255
        drawn = torch.zeros(1, *image.shape[1:])
        if mask is not None:
            drawn[0] = torch.from_numpy(read_mask(self.folder / mask, shape=(image.shape[1], image.shape[2])))
        return {"image": image, "mask": drawn, "label": label, "key": name, "synthetic": True}
