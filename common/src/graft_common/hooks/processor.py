"""The processor that stands in at hooked sites: it delegates to the stock one unless somebody changes the attention.

Order at a site, whatever the nesting of the contexts: edits of q, k, v; edits of logits; mask; softmax; edits of
probabilities; then everyone who records sees what the site really used. Edits of one kind run in the order of attaching.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..attention import attend_columns
from ..errors import InputError
from .protocol import Heads, finish, project
from .sites import Grid, Site
from .watch import Watch

Target = Literal["qkv", "logits", "probs", "tap"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one site, as handed to a caller's function.

    Attributes:
        step: index of the UNet forward within the context, from 0.
        grid: true (h, w) of the site's queries, row-major.
        latent: (H, W) of the UNet's input in this forward.
        rows: batch rows that the function is given, by index.
        q, k: the heads of ALL batch rows after the edits of q, k, v, (B, H, N, d) and (B, H, M, d); None for edits of these.
        scale: factor on q k^T.
    """

    step: int
    grid: Grid
    latent: Grid
    rows: tuple[int, ...]
    q: Tensor | None = None
    k: Tensor | None = None
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Seen:
    """What a tap sees of the rows it asked for: q, k, v and mask; P where it was formed; `P @ columns` where they rode."""

    heads: Heads
    probs: Tensor | None = None
    ridden: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Hook:
    """One function at one site."""

    on: Target
    fn: Callable[..., Any]
    site: Site
    watch: Watch
    rows: tuple[int, ...] | None
    chosen: Callable[[Site, Call], bool]
    values: bool = False  # a tap that wants v
    grad: bool = False  # a tap that keeps the graph
    ride: Callable[[Site, Call, int], Tensor | None] | None = None  # columns to carry in the main call


class SiteProcessor:
    """Stands at one site while at least one hook is attached there."""

    def __init__(self, stock: Any):
        self.stock = stock
        self.hooks: list[Hook] = []

    # Parameter names are those of the stock processors: Attention.forward reads them to filter its keyword arguments.
    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B ..."],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Float[Tensor, "B ..."]:
        inputs = (hidden_states, encoder_hidden_states, attention_mask, temb)
        live = [(hook, call) for hook in self.hooks if (call := _call_for(hook, hidden_states)) is not None]
        edits = [(hook, call) for hook, call in live if hook.on != "tap"]
        taps = [(hook, call) for hook, call in live if hook.on == "tap"]
        if not edits and not any(hook.ride for hook, _ in taps):
            shared: dict[tuple[tuple[int, ...], bool, bool], Heads] = {}  # wants of one record share their q and k
            for hook, call in taps:
                grad = hook.grad and torch.is_grad_enabled()
                with torch.set_grad_enabled(grad):
                    key = (call.rows, hook.values, grad)
                    if key not in shared:
                        shared[key] = project(attn, self.stock, *inputs, rows=call.rows, values=hook.values)
                    hook.fn(Seen(shared[key]), hook.site, call)
            return self.stock(attn, *inputs, *args, **kwargs)
        heads = _edit_heads(project(attn, self.stock, *inputs), [pair for pair in edits if pair[0].on == "qkv"])
        out, seen = _attend(heads, [pair for pair in edits if pair[0].on != "qkv"], taps)
        for (hook, call), view in zip(taps, seen, strict=True):
            with torch.set_grad_enabled(hook.grad and torch.is_grad_enabled()):
                hook.fn(view if hook.grad else _detached(view), hook.site, call)
        return finish(attn, out, heads.q.dtype, hidden_states)


def _call_for(hook: Hook, hidden_states: Tensor) -> Call | None:
    batch = hidden_states.shape[0]
    rows = tuple(range(batch)) if hook.rows is None else hook.rows
    if max(rows) >= batch:
        raise InputError(f"rows={rows}: the UNet was called with a batch of {batch}; pass rows from 0 to {batch - 1}")
    watch = hook.watch
    call = Call(watch.step, watch.grid_of(hook.site, hidden_states), watch.latent, rows)
    return call if hook.chosen(hook.site, call) else None


def _edit_heads(heads: Heads, edits: list[tuple[Hook, Call]]) -> Heads:
    for hook, call in edits:
        call = replace(call, scale=heads.scale)
        assert heads.v is not None
        old = (heads.q, heads.k, heads.v)
        everything = call.rows == tuple(range(heads.q.shape[0]))
        given = old if everything else tuple(x[list(call.rows)] for x in old)
        new = hook.fn(*given, hook.site, call)
        if not isinstance(new, tuple) or len(new) != 3:
            raise InputError(f"edit at {hook.site.name}: fn must return a tuple (q, k, v), got {type(new).__name__}")
        new = tuple(_same_shape(hook, x, y, name) for name, x, y in zip(("q", "k", "v"), given, new, strict=True))
        q, k, v = new if everything else (_with_rows(x, call.rows, y) for x, y in zip(old, new, strict=True))
        heads = replace(heads, q=q, k=k, v=v)
    return heads


def _attend(heads: Heads, edits: list[tuple[Hook, Call]], taps: list[tuple[Hook, Call]]) -> tuple[Tensor, list[Seen]]:
    """Output (B, H, N, d) and what each tap sees. P is formed for the rows that an edit changes, and for no others."""
    batch = heads.q.shape[0]
    formed = {row for _, call in edits for row in call.rows}
    for _, call in taps:  # a tap's rows are kept together: all formed or none
        formed |= set(call.rows) if formed & set(call.rows) else set()
    special = tuple(sorted(formed))
    probs = ridden = rider = None
    if special:
        probs, done = _formed(heads, special, edits)
    else:
        rider = next((pair for pair in taps if pair[0].ride and heads.bias is None), None)
        if rider is not None:
            (hook, call), ride = rider, rider[0].ride
            assert ride is not None
            columns = ride(hook.site, call, heads.k.shape[2])
            if columns is not None:
                special = call.rows
                part = _take(heads, special)
                assert part.v is not None
                done, ridden = attend_columns(part.q, part.k, part.v, columns.to(part.v), scale=part.scale)
    plain = tuple(row for row in range(batch) if row not in special)
    if not plain:
        order = torch.tensor(special).argsort().tolist()
        out = done if order == list(range(batch)) else done[order]
    else:
        rest = _take(heads, plain)
        assert rest.v is not None
        # Bit-equal to the stock call only with its very arguments: the scale stays unsaid where it is the default.
        scale = None if rest.scale == rest.q.shape[-1] ** -0.5 else rest.scale
        out = F.scaled_dot_product_attention(rest.q, rest.k, rest.v, attn_mask=rest.bias, scale=scale)
        if special:
            out = torch.cat([done, out])[torch.tensor(special + plain).argsort().tolist()]
    seen = []
    for hook, call in taps:
        used = None
        if probs is not None and call.rows[0] in special:
            used = probs[[special.index(row) for row in call.rows]]
        own = ridden if rider is not None and hook is rider[0] else None
        seen.append(Seen(_take(heads, call.rows), used, own))
    return out, seen


def _formed(heads: Heads, rows: tuple[int, ...], edits: list[tuple[Hook, Call]]) -> tuple[Tensor, Tensor]:
    """Probabilities (R, H, N, M), in float32 at least, and output of the rows, with the edits applied."""
    part = _take(heads, rows)
    assert part.v is not None
    work = torch.promote_types(part.q.dtype, torch.float32)
    with torch.autocast(part.q.device.type, enabled=False):
        scores = (part.q.to(work) * part.scale) @ part.k.to(work).transpose(-1, -2)
        for hook, call in edits:
            if hook.on == "logits":
                scores = _edited(hook, call, heads, rows, scores)
        # The mask comes after the edits: a padded token stays masked whatever an edit does.
        probs = (scores if part.bias is None else scores + part.bias).softmax(dim=-1)
        for hook, call in edits:
            if hook.on == "probs":
                probs = _edited(hook, call, heads, rows, probs)
        return probs, probs.to(part.v.dtype) @ part.v


def _edited(hook: Hook, call: Call, heads: Heads, rows: tuple[int, ...], x: Tensor) -> Tensor:
    call = replace(call, q=heads.q, k=heads.k, scale=heads.scale)
    if call.rows == rows:
        return _same_shape(hook, x, hook.fn(x, hook.site, call), hook.on)
    here = tuple(rows.index(row) for row in call.rows)
    given = x[list(here)]
    return _with_rows(x, here, _same_shape(hook, given, hook.fn(given, hook.site, call), hook.on))


def _same_shape(hook: Hook, old: Tensor, new: object, what: str) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape:
        got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
        raise InputError(
            f"edit at {hook.site.name}: fn returned {what} {got}; it must return a tensor {tuple(old.shape)}"
        )
    return new.to(old.dtype)


def _with_rows(x: Tensor, rows: tuple[int, ...], new: Tensor) -> Tensor:
    return x.index_copy(0, torch.tensor(rows, device=x.device), new)


def _take(heads: Heads, rows: tuple[int, ...]) -> Heads:
    if rows == tuple(range(heads.q.shape[0])):
        return heads
    v, bias = (None if x is None else x[list(rows)] for x in (heads.v, heads.bias))
    return Heads(heads.q[list(rows)], heads.k[list(rows)], v, bias, heads.scale)


def _detached(seen: Seen) -> Seen:
    heads = seen.heads
    v, probs, ridden = (None if x is None else x.detach() for x in (heads.v, seen.probs, seen.ridden))
    return Seen(Heads(heads.q.detach(), heads.k.detach(), v, heads.bias, heads.scale), probs, ridden)
