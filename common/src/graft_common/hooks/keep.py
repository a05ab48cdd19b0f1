"""Keep the keys and values of one pass and use them in another.

Mutual self-attention (MasaCtrl, 2023) and style injection (StyleID, 2024).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from .attach import When, attach, checked_rows
from .edit import checked_where, chooser, edit
from .processor import Call, Hook, Seen
from .sites import Grid, Kind, Site, Where, named_sites
from .watch import Watch


@dataclass(frozen=True, eq=False)
class KeptSite:
    """Keys and values of one site in one forward, and queries if these were asked for."""

    k: Float[Tensor, "R H M d"]
    v: Float[Tensor, "R H M d"]
    q: Float[Tensor, "R H N d"] | None
    grid: Grid


# step (index of the UNet forward within the `with`) -> site name -> keys and values
Kept = dict[int, dict[str, KeptSite]]


@contextmanager
def keep_keys_values(
    unet: nn.Module,
    sites: Where | str | tuple[str, ...] = "*",
    kind: Kind = "self",
    rows: Sequence[int] | None = None,
    queries: bool = False,
    grad: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    when: When | None = None,
) -> Iterator[Kept]:
    """Keep K and V of chosen sites for every forward inside the `with`; the model's own call is untouched.

    What is kept grows with sites, rows and steps: narrow them (`when`), or move them away (`device`, `dtype`).

    Args:
        unet: diffusers UNet; restored on every way out.
        sites: names, or a `Where` with names, grid or factor.
        kind: "self" or "cross".
        rows: batch rows by index; None for all.
        queries: keep Q too.
        grad: keep the graph.
        device, dtype: where and how to keep them; None as they come.
        when: which forwards, by their index from 0 within the `with`; None for all.

    Raises:
        InputError: as `record`.
    """
    where = checked_where(sites)
    chosen = named_sites(unet, where, kind)
    rows = checked_rows(rows)
    kept: Kept = {}

    def keep(seen: Seen, site: Site, call: Call) -> None:
        heads = seen.heads
        assert heads.v is not None
        k, v = (x.to(device=device, dtype=dtype) for x in (heads.k, heads.v))
        q = heads.q.to(device=device, dtype=dtype) if queries else None
        kept.setdefault(call.step, {})[site.name] = KeptSite(k, v, q, call.grid)

    def hooks_for(site: Site, watch: Watch) -> list[Hook]:
        return [Hook("tap", keep, site, watch, rows, chooser(where, when), values=True, grad=grad)]

    with attach(unet, chosen, hooks_for, changes=False):
        yield kept


@contextmanager
def use_keys_values(
    unet: nn.Module,
    kept: Kept,
    sites: Where | str | tuple[str, ...] = "*",
    rows: Sequence[int] | None = None,
    queries: bool = False,
    step: Callable[[int], int] = lambda step: step,
    when: When | None = None,
) -> Iterator[None]:
    """Attend with kept keys and values instead of a site's own, at those of the kept sites that `sites` fits.

    Args:
        unet: diffusers UNet; restored on every way out.
        kept: from `keep_keys_values`, of a UNet with the same sites.
        sites: names, or a `Where` with names, grid or factor, to narrow the kept sites down.
        rows: batch rows by index that use them; None for all. One kept row serves every row; several go one to one.
        queries: use the kept Q too.
        step: from this pass' forward index to the kept one, e.g. `lambda i: last - i` after an inversion.
        when: which forwards, by their index from 0 within the `with`; None for all.

    Raises:
        InputError: nothing was kept or no kept site fits; as `edit`; later, inside the UNet's call: a step or site that was
            not kept, rows that do not go together, another grid.
    """
    names = {name for sites_of_step in kept.values() for name in sites_of_step}
    if not names:
        raise InputError("kept: nothing was kept; was the UNet called inside the `with keep_keys_values(...)`?")
    where = checked_where(sites)
    chosen = tuple(site.name for site in named_sites(unet, where, None) if site.name in names)
    if not chosen:
        raise InputError(f"sites={where.names!r} fits none of the {len(names)} kept sites, e.g. {min(names)}")

    def use(q: Tensor, k: Tensor, v: Tensor, site: Site, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        at = step(call.step)
        if at not in kept or site.name not in kept[at]:
            steps = f"{min(kept)} to {max(kept)}"
            raise InputError(f"kept: {site.name} was not kept in step {at}, only steps {steps}; pass step= or when=")
        own = kept[at][site.name]
        if queries:
            if own.q is None:
                raise InputError("queries=True: the queries were not kept; pass queries=True to keep_keys_values too")
            q = _fit(own.q, q, own, site)
        return q, _fit(own.k, k, own, site), _fit(own.v, v, own, site)

    narrowed = Where(chosen, grid=where.grid, factor=where.factor)
    with edit(unet, use, sites=narrowed, kind=None, on="qkv", rows=rows, when=when):
        yield


def _fit(x: Tensor, like: Tensor, own: KeptSite, site: Site) -> Tensor:
    if x.shape[1:] != like.shape[1:]:
        h, w = own.grid
        raise InputError(
            f"kept: {site.name} was kept on {h}x{w} with {x.shape[2]} tokens, now has {like.shape[2]}; use one size"
        )
    if x.shape[0] not in (1, like.shape[0]):
        raise InputError(
            f"kept: {x.shape[0]} rows were kept but {like.shape[0]} are to use them; keep one row or as many"
        )
    return x.to(like).expand_as(like)
