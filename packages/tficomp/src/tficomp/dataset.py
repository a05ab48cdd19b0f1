"""A torch Dataset of (image, lesion mask) drawn on the fly: a training script needs no files of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tficomp.config import MethodConfig
from tficomp.inputs import Sources, read_inputs
from tficomp.manifest import read_manifest
from tficomp.pipeline import compose_batch, jittered
from tficomp.weights import load_bundle


class LesionDataset(Dataset[dict[str, Any]]):
    """`len(dataset)` synthetic samples; item i is the same on every call.

    Item i takes row i modulo the number of rows, with placement jittered and the VAE's posterior sampled by seed + i, so
    that `length` may exceed the number of rows.

    Args:
        samples: a manifest file, a TF-ICON folder, or `Sources`.
        length: number of items; default one a row.
        settings: any field of `MethodConfig`.

    Items: image (C, H, W) float32 in [0, 1] at the background's size, mask (1, H, W) float32 in {0, 1}, seed, key,
    synthetic=True.
    """

    def __init__(self, samples: str | Path | Sequence[Sources], length: int | None = None, **settings: Any) -> None:
        rows = (
            [row.sources for row in read_manifest(Path(samples))] if isinstance(samples, (str, Path)) else list(samples)
        )
        self.rows, self.length = rows, length or len(rows)
        self.config = MethodConfig(**settings)
        self.config.check()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        seed = self.config.seed + index
        inputs = jittered(read_inputs(self.rows[index % len(self.rows)]), seed)
        result = compose_batch([inputs], self.config, load_bundle(self.config), seeds=[seed])[0]
        mask: Tensor = torch.from_numpy(result.lesion_mask)[None].float()
        image = torch.from_numpy(result.pixels).add(1).div(2).clamp(0, 1)
        return {"image": image, "mask": mask, "seed": seed, "key": inputs.key, "synthetic": True}
