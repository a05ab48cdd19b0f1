"""Memorisation: how near each synthetic picture is to the training picture that is nearest to it, and which that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from didgen.images import read_rgb
from didgen.manifest import Row
from graft_common.errors import InputError
from graft_common.files import one_line, typed
from graft_common.resample import resize

SIDE = 16  # pixels a side that "pixels" compares
Embed = Callable[[list[Any]], Tensor]  # pictures (H, W, 3) uint8 -> (B, d)


@dataclass(frozen=True)
class Match:
    """The training picture nearest to a synthetic one; `distance` is 0 for equal features."""

    id: str
    nearest: str
    distance: float


def memorisation(
    synthetic: Sequence[Row],
    training: Sequence[Row],
    backbone: str = "tiny",
    *,
    mirrored: bool = False,
    batch: int = 32,
    device: str = "cpu",
) -> list[Match]:
    """For each synthetic picture, in order, its nearest training picture.

    Read the distances beside those of held-out real pictures to the same training pictures: smaller than these is memorised.

    Args:
        backbone: "tiny": the phantom classifier's features; it knows the phantom worlds only. "pixels": colours at 16 x 16.
            Else a folder or hub id of a transformers vision model (DINOv2: facebook/dinov2-small), fetched only when named.
        mirrored: also compare each synthetic picture mirrored left to right, for generators trained with flips.
        batch: pictures at once.

    Distances: "pixels" the root mean square difference of levels in [0, 1]; else Euclidean between vectors of unit length,
    in [0, 2].

    Raises:
        InputError: an unreadable picture, no pictures, or a backbone that cannot be loaded.
    """
    if not synthetic or not training:
        raise InputError(
            f"there are {len(synthetic)} synthetic and {len(training)} training pictures; give one or more of each"
        )
    embed = embedder(backbone, device)
    bank = features([row.image for row in training], embed, batch)
    distance, index = nearest(features([row.image for row in synthetic], embed, batch), bank)
    if mirrored:
        other, place = nearest(features([row.image for row in synthetic], embed, batch, mirrored=True), bank)
        distance, index = torch.minimum(distance, other), torch.where(other < distance, place, index)
    return [Match(row.id, training[int(i)].id, float(d)) for row, d, i in zip(synthetic, distance, index, strict=True)]


def nearest(
    queries: Float[Tensor, "n d"], bank: Float[Tensor, "m d"], batch: int = 1024
) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Euclidean distance to the nearest row of `bank`, and its place; the first of several equally near.

    The nearest is found by one matrix product a block, in float64; its distance is then taken directly, so that equal rows
    are 0 apart.
    """
    wide, places = bank.double(), []
    for block in queries.double().split(batch):
        places.append(torch.cdist(block, wide).argmin(dim=1))
    index = torch.cat(places)
    return (queries.double() - wide[index]).square().sum(dim=1).sqrt(), index


def features(paths: Sequence[Path], embed: Embed, batch: int = 32, mirrored: bool = False) -> Float[Tensor, "n d"]:
    """Feature vectors of picture files, read `batch` at a time."""
    parts = []
    for start in range(0, len(paths), batch):
        pictures = [read_rgb(path) for path in paths[start : start + batch]]
        parts.append(embed([np.ascontiguousarray(p[:, ::-1]) for p in pictures] if mirrored else pictures).cpu())
    return torch.cat(parts)


def embedder(backbone: str, device: str = "cpu") -> Embed:
    """The function from pictures to feature vectors that `backbone` names (see `memorisation`).

    Raises:
        InputError: it cannot be loaded.
    """
    if backbone == "pixels":
        return _pixels
    return _tiny(device) if backbone == "tiny" else _published(backbone, device)


def _planes(pictures: list[Any], side: int) -> Float[Tensor, "B 3 S S"]:
    """Pictures squashed to one square, levels in [0, 1]."""
    squares = [resize(p.transpose(2, 0, 1).astype(np.float32), (side, side)) for p in pictures]
    return torch.from_numpy(np.stack(squares)) / 255


def _pixels(pictures: list[Any]) -> Tensor:
    flat = _planes(pictures, SIDE).flatten(1)
    return flat / flat.shape[1] ** 0.5


def _tiny(device: str) -> Embed:
    from graft_common.metrics.judges import SIDE as SEEN
    from graft_common.metrics.judges import load_judges

    classifier = load_judges(device=device).classifier

    @torch.no_grad()
    def embed(pictures: list[Any]) -> Tensor:
        return F.normalize(classifier.embed((_planes(pictures, SEEN) * 2 - 1).to(device)), dim=1)

    return embed


@lru_cache(maxsize=1)
def _published(backbone: str, device: str) -> Embed:
    """A transformers vision model with its own processing: its pooled output, else its first token."""
    from transformers import AutoImageProcessor, AutoModel

    local = Path(backbone).is_dir()
    if not local and ("/" not in backbone or Path(backbone).is_absolute() or backbone.startswith(".")):
        raise InputError(
            f"--backbone {typed(backbone)}: no such folder; give tiny, pixels, a folder of a transformers vision model, or a "
            "hub id with a '/'"
        )
    try:
        processor = AutoImageProcessor.from_pretrained(backbone, local_files_only=local, use_fast=False)
        model = AutoModel.from_pretrained(backbone, local_files_only=local)
        model = getattr(model, "vision_model", model).eval().requires_grad_(False).to(device)  # of a CLIP, its eye
    except Exception as why:  # the hub client and the readers raise many kinds: offline, misspelt, damaged
        raise InputError(
            f"--backbone {typed(backbone)}: cannot be loaded ({one_line(why)}); check the folder or hub id"
        ) from why

    @torch.no_grad()
    def embed(pictures: list[Any]) -> Tensor:
        pixels = processor(images=pictures, return_tensors="pt").pixel_values.to(device)
        out = model(pixel_values=pixels)
        pooled = getattr(out, "pooler_output", None)
        return F.normalize(out.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1), dim=1)

    return embed
