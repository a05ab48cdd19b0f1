"""xformers' memory-efficient attention, imported on first use; the only file that knows its (B, N, heads, D) order."""

from types import ModuleType

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from .reference import open_dead_rows
from .request import Request

ALIGN = 8  # widths and mask rows in multiples of 8


def refuses(request: Request) -> str | None:
    """Why xformers cannot do this call; None when it can."""
    try:
        _ops()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # absent, or built for another torch
        return f"xformers does not import ({type(error).__name__}: {' '.join(str(error).split())})"
    if request.operation in ("mean_map", "elementwise"):
        return "xformers gives no probabilities, so only what is linear in them"
    if request.device != "cuda":
        return f"xformers needs CUDA tensors, got {request.device}"
    if request.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"xformers is for float16, bfloat16 and float32, got {request.dtype}"
    return None


def memeff(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N e"]:
    """`P @ v`. Widths d and e may differ and need no alignment: zeros fill them up."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    width = v.shape[-1]
    padded = -(-max(q.shape[-1], width) // ALIGN) * ALIGN
    q, k, v = (F.pad(x, (0, padded - x.shape[-1])).transpose(1, 2) for x in (q, k, v))
    bias = alive = None
    if mask is not None:
        mask, alive = open_dead_rows(mask)
        bias = _bias(mask.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1]), q.dtype)
    out = _ops().memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale).transpose(1, 2)[..., :width]
    return out if alive is None else out.masked_fill(~alive, 0.0)


def memeff_columns(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Tensor, "B H N e"], Float[Tensor, "B H N C"]]:
    """`P @ v` and `P @ columns` from one call: the columns are appended to the values."""
    rows = columns.to(v.dtype).expand(*v.shape[:3], columns.shape[-1])
    out = memeff(q, k, torch.cat([v, rows], dim=-1), mask, scale)
    return out[..., : v.shape[-1]], out[..., v.shape[-1] :]


def memeff_columns_only(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N C"]:
    """`P @ columns` alone: the columns take the place of the values."""
    return memeff(q, k, columns.to(q.dtype).expand(*k.shape[:3], columns.shape[-1]), mask, scale)


def _bias(mask: Bool[Tensor, "B H N M"], dtype: torch.dtype) -> Float[Tensor, "B H N M"]:
    """0 where open, -inf where closed, as a slice of rows of aligned length (xformers' kernels want that)."""
    length = -(-mask.shape[-1] // ALIGN) * ALIGN
    bias = torch.zeros(*mask.shape[:3], length, dtype=dtype, device=mask.device)[..., : mask.shape[-1]]
    return bias.masked_fill_(~mask, float("-inf"))


def _ops() -> ModuleType:
    import xformers.ops

    return xformers.ops
