"""Record attention maps while a UNet runs, in memory that does not grow with the steps.

Two ways, the same numbers. `observe` (default): q and k are computed a second time and attend over the columns alone; the
model's own call is untouched, so its output is bit-equal to that without recording, and only the chosen batch rows cost.
(Dropout inside a projection, as LoRA may have in training, would be drawn twice: set it to 0 or use `ride`.)
`ride`: the columns travel in the values of the site's own call. Cheaper where a site is large and the rows are many,
above all with gradients, but the output may differ in the last bits. Sites where it cannot ride (a mask, self-attention maps,
an edited site) are observed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import Backend, columns_only, mean_map
from ..errors import InputError
from .attach import When, attach, checked_rows
from .maps import Resize, SiteMaps, average_affinity, average_maps, show_grids
from .processor import Call, Hook, Seen
from .protocol import Heads
from .sites import Grid, Kind, Site, Where, as_where, named_sites
from .watch import Watch

Sites = Where | str | tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CrossColumns:
    """Cross-attention maps of chosen text tokens: P @ one-hot(token).

    Attributes:
        tokens: positions in the encoded text, from 0.
        sites: which cross sites.
    """

    tokens: tuple[int, ...]
    sites: Sites = "*"
    kind: Kind = "cross"

    def __post_init__(self):
        if not self.tokens or min(self.tokens) < 0:
            raise InputError(f"CrossColumns(tokens={self.tokens}): pass at least one token position, counted from 0")

    def columns(self, call: Call, keys: int) -> Float[Tensor, "1 1 M C"]:
        if max(self.tokens) >= keys:
            raise InputError(f"CrossColumns(tokens={self.tokens}): the text has {keys} tokens, 0 to {keys - 1}")
        return F.one_hot(torch.tensor(self.tokens), keys).T.float()[None, None]


@dataclass(frozen=True, eq=False)
class SelfColumns:
    """Self-attention mass that each query sends into masks: P @ mask.

    Attributes:
        masks: (C, H, W) for every recorded row, or (R, C, H, W) row by row; any size, brought to the site's grid by area
            means. Or a function from the grid (h, w) to masks of that size.
        sites: which self sites.
    """

    masks: Tensor | Callable[[Grid], Tensor]
    sites: Sites = "*"
    kind: Kind = "self"

    def columns(self, call: Call, keys: int) -> Float[Tensor, "r 1 M C"]:
        masks = self.masks if isinstance(self.masks, Tensor) else self.masks(call.grid)
        masks = masks[None] if masks.ndim == 3 else masks
        if masks.ndim != 4 or masks.shape[0] not in (1, len(call.rows)):
            raise InputError(
                f"SelfColumns(masks=...) is {tuple(masks.shape)}; pass (C, H, W) or ({len(call.rows)}, C, H, W)"
            )
        masks = masks if masks.is_floating_point() else masks.float()
        if tuple(masks.shape[2:]) != call.grid:
            if not isinstance(self.masks, Tensor):
                raise InputError(
                    f"SelfColumns(masks=...) gave {tuple(masks.shape[2:])} for the grid {call.grid}; give that size"
                )
            masks = F.interpolate(masks, size=call.grid, mode="area")
        return masks.flatten(2).transpose(1, 2)[:, None]


@dataclass(frozen=True, eq=False)
class SelfMaps:
    """Head mean of the self-attention probabilities themselves, N x N per site: mind the grid.

    Attributes:
        sites: which self sites.
    """

    sites: Sites = "*"
    kind: Kind = "self"


Want = CrossColumns | SelfColumns | SelfMaps


class Record:
    """What was recorded so far. Readable during the `with` and after it.

    `want` below is the index of a want in the call of `record`, or the want itself.
    """

    def __init__(
        self, wants: tuple[Want, ...], over: Literal["mean", "last"], grad: bool, when: When | None, backend: Backend
    ):
        self._wants, self._over, self._grad, self._when, self._backend = wants, over, grad, when, backend
        self._where = tuple(as_where(want.sites) for want in wants)
        self._watch: Watch | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything recorded; what is recorded from now on starts anew."""
        self._sums: list[dict[str, SiteMaps]] = [{} for _ in self._wants]

    def maps(self, want: "int | Want" = 0) -> tuple[SiteMaps, ...]:
        """Maps of each site, in the order in which the sites ran.

        Raises:
            InputError: nothing was recorded; the message says what was missing.
        """
        index = want if isinstance(want, int) else next(i for i, w in enumerate(self._wants) if w is want)
        if not self._sums[index]:
            raise InputError(self._why_empty(index))
        return tuple(
            m if self._over == "last" else SiteMaps(m.site, m.grid, m.values / m.calls, m.calls)
            for m in self._sums[index].values()
        )

    def mean(
        self, want: "int | Want" = 0, size: tuple[int, int] | None = None, mode: Resize = "bilinear"
    ) -> Float[Tensor, "R C H W"]:
        """Column maps averaged over sites, brought to `size` (the finest recorded grid by default).

        Raises:
            InputError: nothing was recorded, or `want` is a SelfMaps.
        """
        return average_maps(self.maps(want), size, mode)

    def affinity(self, want: "int | Want" = 0) -> Float[Tensor, "R N N"]:
        """Self-attention maps averaged over sites of one grid.

        Raises:
            InputError: nothing was recorded, `want` is not a SelfMaps, or the grids differ.
        """
        return average_affinity(self.maps(want))

    def _why_empty(self, index: int) -> str:
        if self._watch is None or self._watch.step < 0:
            return "record: nothing was recorded; was the UNet called inside the `with record(...)`?"
        if not self._watch.seen:
            return "record: nothing was recorded; the UNet ran, but none of the named sites did"
        seen, where = show_grids(self._watch.seen), self._where[index]
        return f"record: nothing was recorded for {where}; the sites ran on the grids {seen} (or `when` left every step out)"

    def _chosen(self, index: int, site: Site, call: Call) -> bool:
        """Whether this call is recorded. For `near` the best grid so far: nearer ones that follow replace it."""
        where = self._where[index]
        if (self._when is not None and not self._when(call.step)) or not where.admits(call.grid, call.latent):
            return False
        if where.near is None or not self._sums[index]:
            return True
        best = next(iter(self._sums[index].values())).grid
        here, held = _distance(call.grid, where.near), _distance(best, where.near)
        if here < held:
            self._sums[index].clear()
        return here <= held

    def _add(self, index: int, site: Site, call: Call, new: Tensor) -> None:
        if self._grad and not new.requires_grad:
            raise InputError(
                "record(grad=True): the maps have no graph; set requires_grad on the latent and leave torch.no_grad()"
            )
        old = self._sums[index].get(site.name)
        if old is None or self._over == "last":
            self._sums[index][site.name] = SiteMaps(site, call.grid, new, 1 if old is None else old.calls + 1)
            return
        if old.values.shape != new.shape:
            was, now = tuple(old.values.shape), tuple(new.shape)
            raise InputError(
                f"record: {site.name} gave maps {was} before and {now} now; record each size and batch on its own"
            )
        self._sums[index][site.name] = SiteMaps(site, call.grid, old.values + new, old.calls + 1)


@contextmanager
def record(
    unet: nn.Module,
    *wants: Want,
    rows: Sequence[int] | None = None,
    over: Literal["mean", "last"] = "mean",
    grad: bool = False,
    mode: Literal["observe", "ride"] = "observe",
    when: When | None = None,
    backend: Backend = "auto",
) -> Iterator[Record]:
    """Record attention maps of the UNet's forwards inside the `with`; heads are averaged, in float32 at least.

    Inside an `edit`, or with one inside, the maps are those of the attention that was really used. Several records at once
    do not see each other.

    Args:
        unet: diffusers UNet; restored on every way out.
        wants: what to record: CrossColumns, SelfColumns, SelfMaps.
        rows: batch rows by index, e.g. `(1,)` for the conditional half of a guided pair; None for all.
        over: mean over the UNet's forwards, or the last one.
        grad: keep the graph, so that a loss on the maps reaches the latent; otherwise maps are detached.
        mode: see the head of this module.
        when: which forwards, by their index from 0 within the `with`; None for all.
        backend: attention backend for the columns.

    Raises:
        InputError: no want, no such site, a compiled UNet or a processor that is not understood; later, inside the UNet's
            call: rows or tokens that do not exist, gradient checkpointing with gradients on.
    """
    if not wants:
        raise InputError("record: pass what to record, e.g. CrossColumns((5,)) or SelfMaps()")
    for name, value, known in (("over", over, ("mean", "last")), ("mode", mode, ("observe", "ride"))):
        if value not in known:
            raise InputError(f"{name}={value!r}: must be {known[0]!r} or {known[1]!r}")
    rows = checked_rows(rows)
    rec = Record(wants, over, grad, when, backend)
    sites = tuple(named_sites(unet, where, want.kind) for want, where in zip(wants, rec._where, strict=True))

    def hooks_for(site: Site, watch: Watch) -> list[Hook]:
        return [_tap(rec, i, site, watch, rows, mode) for i in range(len(wants)) if site in sites[i]]

    with attach(unet, (site for each in sites for site in each), hooks_for, changes=mode == "ride") as watch:
        rec._watch = watch
        yield rec


def _tap(rec: Record, index: int, site: Site, watch: Watch, rows: tuple[int, ...] | None, mode: str) -> Hook:
    want = rec._wants[index]

    def see(seen: Seen, site: Site, call: Call) -> None:
        if isinstance(want, SelfMaps):
            new = _map_of(seen, rec._backend)
        else:
            new = _columns_of(seen, want.columns(call, seen.heads.k.shape[2]), rec._backend)
            new = new.transpose(1, 2).unflatten(2, call.grid)
        rec._add(index, site, call, new)

    def ride(site: Site, call: Call, keys: int) -> Tensor:
        assert not isinstance(want, SelfMaps)  # these have no columns and do not ride
        return want.columns(call, keys)

    rides = ride if mode == "ride" and not isinstance(want, SelfMaps) else None
    return Hook("tap", see, site, watch, rows, lambda s, c: rec._chosen(index, s, c), grad=rec._grad, ride=rides)


def _columns_of(seen: Seen, columns: Float[Tensor, "r 1 M C"], backend: Backend) -> Float[Tensor, "R N C"]:
    """Head mean of P @ columns."""
    if seen.ridden is not None:
        return seen.ridden.to(torch.promote_types(seen.ridden.dtype, torch.float32)).mean(dim=1)
    q, k = _without_bias(seen.heads)
    columns = columns.to(q)
    with torch.autocast(q.device.type, enabled=False):
        if seen.probs is not None:
            return (seen.probs @ columns).mean(dim=1)
        return columns_only(q, k, columns, scale=seen.heads.scale, backend=backend).mean(dim=1)


def _map_of(seen: Seen, backend: Backend) -> Float[Tensor, "R N M"]:
    if seen.probs is not None:
        return seen.probs.mean(dim=1)
    q, k = _without_bias(seen.heads)
    with torch.autocast(q.device.type, enabled=False):
        return mean_map(q, k, scale=seen.heads.scale, backend=backend)


def _without_bias(heads: Heads) -> tuple[Tensor, Tensor]:
    """q and k in float32 at least, with a bias per key folded in: scale * [q, 1] . [k, bias / scale] = scale * q.k + bias."""
    work = torch.promote_types(heads.q.dtype, torch.float32)
    q, k = heads.q.to(work), heads.k.to(work)
    if heads.bias is None:
        return q, k
    if heads.bias.shape[2] != 1:
        raise InputError(
            "record: the attention mask differs from query to query; only masks over the keys can be recorded"
        )
    bias = heads.bias.to(work).transpose(2, 3).clamp(min=-1e5) / heads.scale
    return torch.cat([q, torch.ones_like(q[..., :1])], dim=-1), torch.cat([k, bias.expand_as(k[..., :1])], dim=-1)


def _distance(grid: Grid, near: int) -> tuple[int, int]:
    return abs(min(grid) - near), -min(grid)
