"""Apply a caller's function to the attention of chosen sites."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from ..errors import InputError
from .attach import When, attach, checked_rows
from .processor import Call, Hook
from .sites import Kind, Site, Where, as_where, named_sites
from .watch import Watch


@contextmanager
def edit(
    unet: nn.Module,
    fn: Callable[..., Any],
    sites: Where | str | tuple[str, ...] = "*",
    kind: Kind | None = "self",
    on: Literal["logits", "probs", "qkv"] = "logits",
    rows: Sequence[int] | None = None,
    when: When | None = None,
) -> Iterator[None]:
    """Change the attention of chosen sites for the UNet's forwards inside the `with`.

    Only the chosen sites, and of these only the chosen rows, form their probabilities (not even these with `on="qkv"`).
    Edits nest: those of q, k, v come first, then logits, then probabilities; within one kind the first attached runs first.

    Args:
        unet: diffusers UNet; restored on every way out.
        fn: `fn(logits, site, call)` or `fn(probs, site, call)` with (R, H, N, M), float32 at least, returns the same shape;
            with `on="qkv"` `fn(q, k, v, site, call)` with (R, H, N, d) and (R, H, M, d), returns the three. R is the number
            of rows. Logits are `scale * q k^T` before the mask is added. `call` is a `Call`: step, grid, rows, and for
            logits and probs also q, k of every row, to mix passes that run in lockstep as rows of one batch.
            Work out of place where gradients are on.
        sites: names, or a `Where` with names, grid or factor (not near: it is known only after a whole forward).
        kind: "cross", "self" or None for both.
        on: what fn changes.
        rows: batch rows by index that fn is given; the others keep the fused path. None for all.
        when: which forwards, by their index from 0 within the `with`; None for all.

    Raises:
        InputError: no such site, a compiled UNet, a processor other than diffusers' AttnProcessor2_0 or AttnProcessor; later,
            inside the UNet's call: fn returned another shape, rows that do not exist.
    """
    if on not in ("logits", "probs", "qkv"):
        raise InputError(f"on={on!r}: must be 'logits', 'probs' or 'qkv'")
    where = checked_where(sites)
    chosen = named_sites(unet, where, kind)
    rows = checked_rows(rows)

    def hooks_for(site: Site, watch: Watch) -> list[Hook]:
        return [Hook(on, fn, site, watch, rows, chooser(where, when))]

    with attach(unet, chosen, hooks_for, changes=True):
        yield


def checked_where(sites: Where | str | tuple[str, ...]) -> Where:
    """A `Where` that can be decided site by site.

    Raises:
        InputError: it says `near`.
    """
    where = as_where(sites)
    if where.near is not None:
        raise InputError(f"Where(near={where.near}): known only after a whole forward; use grid= or factor= here")
    return where


def chooser(where: Where, when: When | None) -> Callable[[Site, Call], bool]:
    """Whether a hook takes part in a call."""
    return lambda site, call: (when is None or when(call.step)) and where.admits(call.grid, call.latent)
