"""Bring the maps of many sites to one (H, W) and average them. Pure tensor functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from .sites import Grid, Site

Resize = Literal["bilinear", "bicubic", "nearest", "area"]


@dataclass(frozen=True, eq=False)
class SiteMaps:
    """What was recorded at one site: head mean, averaged over `calls` calls or the last of them.

    Attributes:
        values: (R, C, h, w) for columns; (R, h*w, h*w) for self-attention maps, one row per query, rows sum to 1.
    """

    site: Site
    grid: Grid
    values: Tensor
    calls: int


def resize_maps(
    maps: Float[Tensor, "R C h w"], size: tuple[int, int], mode: Resize = "bilinear"
) -> Float[Tensor, "R C H W"]:
    """Maps on another grid. Corners are not aligned; bilinear turns to area means along with shrinking.

    `bicubic` overshoots: maps in [0, 1] may leave it.
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    if mode == "area" or (mode == "bilinear" and size[0] <= maps.shape[2] and size[1] <= maps.shape[3]):
        return F.interpolate(maps, size=size, mode="area")
    smooth = mode in ("bilinear", "bicubic")
    return F.interpolate(maps, size=size, mode=mode, align_corners=False if smooth else None)


def average_maps(
    maps: Sequence[SiteMaps], size: tuple[int, int] | None = None, mode: Resize = "bilinear"
) -> Float[Tensor, "R C H W"]:
    """Mean over sites of column maps, each first brought to `size` (the finest grid among them by default).

    Raises:
        InputError: there are no maps, or they are self-attention maps (N x N): see `average_affinity`.
    """
    if not maps:
        raise InputError("maps: there are none to average")
    if maps[0].values.ndim != 4:
        raise InputError("maps: these are (R, N, N) self-attention maps; use average_affinity")
    size = size or max((m.grid for m in maps), key=lambda grid: grid[0] * grid[1])
    total = sum(resize_maps(m.values, size, mode) for m in maps)
    assert isinstance(total, Tensor)  # not the 0 of no maps
    return total / len(maps)


def average_affinity(maps: Sequence[SiteMaps]) -> Float[Tensor, "R N N"]:
    """Mean over sites of self-attention maps; rows keep summing to 1.

    Raises:
        InputError: there are no maps, they are column maps, or their grids differ.
    """
    if not maps:
        raise InputError("maps: there are none to average")
    if maps[0].values.ndim != 3:
        raise InputError("maps: these are (R, C, h, w) column maps; use average_maps")
    grids = {m.grid for m in maps}
    if len(grids) > 1:
        raise InputError(f"maps: sites work on different grids, {show_grids(grids)}; choose one with Where(grid=...)")
    total = sum(m.values for m in maps)
    assert isinstance(total, Tensor)  # not the 0 of no maps
    return total / len(maps)


def show_grids(grids: set[Grid]) -> str:
    """Grids as text, the finest first."""
    return ", ".join(f"{h}x{w}" for h, w in sorted(grids, reverse=True))
