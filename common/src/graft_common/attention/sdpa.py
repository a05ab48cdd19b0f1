"""torch's fused attention, and columns riding in the values: `P @ columns` for the price of a slightly wider call."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .reference import open_dead_rows
from .request import Request

# Without the "math" entry torch must use a kernel that never forms P, or raise.
FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
ALIGN = 8  # CUDA's fused kernels want widths in multiples of 8


def refuses(request: Request) -> str | None:
    """Why torch's fused call cannot do this without forming P; None when it can."""
    if request.device == "cuda" and request.dtype == torch.float64:
        return "torch has no fused float64 attention on CUDA"
    if request.device not in ("cpu", "cuda"):
        return f"torch's fused kernels are used on cpu and cuda only, not on {request.device}"
    return None


def sdpa(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N e"]:
    """Attention output in one fused pass. Widths d and e may differ and need no alignment: zeros fill them up."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    width = v.shape[-1]
    padded = -(-max(q.shape[-1], width) // ALIGN) * ALIGN
    q, k, v = (_widen(x, padded) for x in (q, k, v))  # zeros in q and k leave the scores as they are
    alive = None
    if mask is not None:
        mask, alive = open_dead_rows(mask)
    with sdpa_kernel(FUSED):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[..., :width]
    return out if alive is None else out.masked_fill(~alive, 0.0)


def sdpa_columns(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Tensor, "B H N e"], Float[Tensor, "B H N C"]]:
    """Output and `P @ columns` from one call: the columns are appended to the values."""
    rows = columns.to(v.dtype).expand(*v.shape[:3], columns.shape[-1])
    out = sdpa(q, k, torch.cat([v, rows], dim=-1), mask, scale)
    return out[..., : v.shape[-1]], out[..., v.shape[-1] :]


def sdpa_columns_only(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N C"]:
    """`P @ columns` alone: the columns take the place of the values."""
    return sdpa(q, k, columns.to(q.dtype).expand(*k.shape[:3], columns.shape[-1]), mask, scale)


def _widen(x: Float[Tensor, "B H T w"], width: int) -> Float[Tensor, "B H T width"]:
    if x.shape[-1] < width:
        return F.pad(x, (0, width - x.shape[-1]))
    return x if x.stride(-1) == 1 else x.contiguous()
