"""Where attention sits in a UNet, and how a caller names the sites that matter."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from diffusers.models.attention_processor import Attention
from torch import nn

from ..errors import InputError

Kind = Literal["cross", "self"]
Grid = tuple[int, int]


@dataclass(frozen=True)
class Site:
    """One attention module. Its grid is no part of it: that depends on the latent and is observed at run time."""

    name: str  # dotted, as in `unet.get_submodule(name)`
    kind: Kind
    heads: int
    head_dim: int


@dataclass(frozen=True)
class Where:
    """Which sites: by name, and by at most one of three rules on the grid that a site is seen to work on.

    Attributes:
        names: one glob over the dotted names or several, e.g. `("down_blocks.*", "up_blocks.*")`; an exact name fits too.
        grid: exactly this (h, w).
        factor: the grid that is the latent's (H, W) divided by this and rounded up; 4 is 16x16 for a 64x64 latent.
        near: the grids whose shorter side is nearest to this many cells; the finer one wins a tie. The first forward also
            records what looks nearest until a nearer one comes, so prefer `grid` or `factor` in a loop of short records.
    """

    names: str | tuple[str, ...] = "*"
    grid: Grid | None = None
    factor: int | None = None
    near: int | None = None

    def __post_init__(self):
        rules = {"grid": self.grid, "factor": self.factor, "near": self.near}
        given = [f"{name}={value}" for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise InputError(f"Where({', '.join(given)}): these rules exclude each other; pass one of them")
        for name, value in (("factor", self.factor), ("near", self.near)):
            if value is not None and value < 1:
                raise InputError(f"Where({name}={value}): must be at least 1")

    def admits(self, grid: Grid, latent: Grid) -> bool:
        """Whether a site on `grid` is meant, `near` aside (only a whole forward tells which grids there are)."""
        if self.grid is not None:
            return grid == tuple(self.grid)
        if self.factor is not None:
            return grid == tuple(-(-side // self.factor) for side in latent)
        return True


def find_sites(unet: nn.Module, kind: Kind | None = None) -> tuple[Site, ...]:
    """Every attention module of diffusers' `Attention` class in `unet`, in the order of `named_modules`.

    Args:
        unet: a UNet2DConditionModel, a UNet2DModel, or any module that holds such attention.
        kind: only "cross" (keys from the text) or "self" sites; None for both.

    Raises:
        InputError: `kind` is another word.
    """
    if kind not in ("cross", "self", None):
        raise InputError(f"kind={kind!r}: must be 'cross', 'self' or None")
    found = (
        Site(name, "cross" if module.is_cross_attention else "self", module.heads, module.inner_dim // module.heads)
        for name, module in unet.named_modules()
        if isinstance(module, Attention)
    )
    return tuple(site for site in found if kind in (None, site.kind))


def as_where(sites: "Where | str | tuple[str, ...]") -> Where:
    """Names alone are enough for a `Where`."""
    return sites if isinstance(sites, Where) else Where(sites)


def named_sites(unet: nn.Module, where: Where, kind: Kind | None) -> tuple[Site, ...]:
    """The sites whose names `where` fits, whatever their grid.

    Raises:
        InputError: none fits; the message lists some names there are.
    """
    globs = (where.names,) if isinstance(where.names, str) else where.names
    every = find_sites(unet, kind)
    fitting = tuple(site for site in every if any(fnmatchcase(site.name, glob) for glob in globs))
    if not fitting:
        what = f"{kind}-attention" if kind else "attention"
        there = ", ".join(site.name for site in every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
        raise InputError(
            f"sites={where.names!r} fits no {what} site of this {type(unet).__name__}; it has {there or 'none'}"
        )
    return fitting
