"""Prompts, seeds and layouts -> Encoded and Layouts."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch.nn import functional as F

from didgen.maps import Grid, Grids
from didgen.records import Encoded, Layouts
from didgen.tokens import positions
from graft_common import rng
from graft_common.bundle import Bundle, text_states
from graft_common.errors import InputError


def encode(bundle: Bundle, prompts: Sequence[str], seeds: Sequence[int], latent: Grid) -> Encoded:
    """Start noise of each seed and states of each prompt.

    Raises:
        InputError: a prompt is too long or lacks a placeholder.
    """
    words = tuple(positions(bundle.tokenizer, prompt) for prompt in prompts)
    starts = torch.cat([rng.noise((1, bundle.channels, *latent), seed) for seed in seeds])
    return Encoded(starts.to(bundle.device), text_states(bundle, list(prompts)), text_states(bundle, [""]), words)


def encode_layouts(masks: Sequence[Bool[np.ndarray, "H W"]], grids: Grids, names: Sequence[str]) -> Layouts:
    """Area means of each mask on the cross grid, and cells above one half on the self grid.

    A lesion thinner than half a cell everywhere keeps its fullest cell.

    Raises:
        InputError: a mask is empty or full, or covers every cell of a grid.
    """
    cross, inside = [], []
    for mask, name in zip(masks, names, strict=True):
        if mask.all() or not mask.any():
            raise InputError(f"layout {name}: is {'all lesion' if mask.all() else 'empty'}; mark a part of the picture")
        soft = torch.from_numpy(mask.astype(np.float32))[None, None]
        on = {grid: F.interpolate(soft, size=grid, mode="area")[0, 0] for grid in {grids.cross, grids.self_}}
        own = on[grids.self_]
        binary = own > 0.5
        if not bool(binary.any()):
            binary = own == own.max()
        if bool(binary.all()) or bool((on[grids.cross] >= 1).all()):
            raise InputError(f"layout {name}: leaves no cell of skin at this size; use a smaller lesion")
        cross.append(on[grids.cross])
        inside.append(binary.float())
    return Layouts(torch.stack(cross), torch.stack(inside))
