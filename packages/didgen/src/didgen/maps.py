"""Which attention is read, and how much of the network has to run for it (spec 2.0, 2.3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graft_common.errors import InputError

CROSS_CELLS, SELF_CELLS = 16, 32  # cells of the shorter side at 512 px
Grid = tuple[int, int]


@dataclass(frozen=True)
class Grids:
    """The grids that maps are read on.

    Attributes:
        cross, self_: (h, w) of cross-attention and of self-attention sites.
        level: the finest level among both; the up block of that level is the last that guidance needs.
    """

    cross: Grid
    self_: Grid
    level: int


def attention_levels(unet: Any, latent: Grid) -> dict[int, Grid]:
    """level -> grid of the levels whose blocks attend to the text, for a latent of (h, w). A level halves, rounding up."""
    config = unet.config
    levels = {i for i, kind in enumerate(config.down_block_types) if "CrossAttn" in kind}
    if "CrossAttn" in (config.mid_block_type or ""):
        levels.add(len(config.down_block_types) - 1)
    return {i: (-(-latent[0] // 2**i), -(-latent[1] // 2**i)) for i in sorted(levels)}


def map_grids(unet: Any, latent: Grid) -> Grids:
    """Cross maps where the shorter side is nearest 16 cells, self maps nearest 32; the finer wins a tie.

    16 and 32 for Stable Diffusion at 512 px, 16 and 16 for a 16 x 16 latent.

    Raises:
        InputError: the network attends nowhere.
    """
    levels = attention_levels(unet, latent)
    if not levels:
        raise InputError("the UNet of these weights has no cross-attention; choose a text-to-image model")

    def nearest(cells: int) -> int:
        return min(levels, key=lambda i: (abs(min(levels[i]) - cells), -min(levels[i])))

    cross, own = nearest(CROSS_CELLS), nearest(SELF_CELLS)
    return Grids(levels[cross], levels[own], min(cross, own))


class _EnoughError(Exception):
    """Raised inside a forward when all that was asked for has run."""


@contextmanager
def until_level(unet: Any, level: int) -> Iterator[None]:
    """End a forward inside the `with` once the up block of `level` is done: finer blocks and their gradient are skipped.

    The forward returns nothing then; it must be the last statement of the block.
    """
    done = len(unet.up_blocks) - 1 - level
    if done + 1 >= len(unet.up_blocks):
        yield
        return

    def stop(*_: object) -> None:
        raise _EnoughError

    handle = unet.up_blocks[done + 1].register_forward_pre_hook(stop)
    try:
        yield
    except _EnoughError:
        pass
    finally:
        handle.remove()
