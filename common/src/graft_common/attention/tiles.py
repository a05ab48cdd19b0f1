"""What is not linear in P, in plain torch: tiles of P are formed, used and dropped, never the whole of it."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .reference import softmax_scores

CPU_TILE, GPU_TILE = 1 << 18, 1 << 24  # probabilities held at a time over all heads: 1 MB (cache) and 64 MB in float32


def tiled_mean_map(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B N M"]:
    """Head mean of P. Beyond the result it needs one tile over all heads, also for the gradient."""
    wide = torch.promote_types(q.dtype, torch.float32)

    def tile(q_rows: Tensor, keys: Tensor, mask_rows: Tensor | None) -> Tensor:
        return softmax_scores(q_rows, keys, mask_rows, scale, wide).mean(dim=1).to(q.dtype)

    return _over_query_tiles(tile, q, k, mask)


def tiled_elementwise(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    x: Float[Tensor, "B M C"],
    power: float,
    scale: float | None = None,
) -> Float[Tensor, "B N C"]:
    """`((mean_h P) ** power) @ x`, the power taken of each entry; one tile of memory, also for the gradient.

    Powers of probabilities are tiny, so they are taken and returned in float32 at least.
    """
    wide = torch.promote_types(q.dtype, torch.float32)

    def tile(q_rows: Tensor, keys: Tensor, _: Tensor | None, values: Tensor) -> Tensor:
        return softmax_scores(q_rows, keys, None, scale, wide).mean(dim=1).pow(power) @ values.to(wide)

    return _over_query_tiles(tile, q, k, None, x)


def _over_query_tiles(
    tile: Callable[..., Tensor],
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    mask: Bool[Tensor, "#B #H #N #M"] | None,
    *values: Tensor,
) -> Float[Tensor, "B N C"]:
    """`tile(q_rows, k, mask_rows, *values)` for one stretch of queries after the other, put together."""
    batch, heads, queries, _ = q.shape
    numbers = CPU_TILE if q.device.type == "cpu" else GPU_TILE
    step = max(1, numbers // (batch * heads * k.shape[2]))
    differentiates = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, *values))
    parts: list[Tensor] = []
    whole: Tensor | None = None
    for start in range(0, queries, step):
        rows = slice(start, start + step)
        mask_rows = mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]
        args = (q[:, :, rows], k, mask_rows, *values)
        if differentiates:  # keep the tile's inputs only and recompute it in the backward pass
            parts.append(checkpoint(tile, *args, use_reentrant=False, preserve_rng_state=False))
            continue
        part = tile(*args)
        if whole is None:  # written into at once: small parts kept between large temporaries fragment the heap
            whole = part.new_empty(batch, queries, part.shape[-1])
        whole[:, rows] = part
    return torch.cat(parts, dim=1) if whole is None else whole
