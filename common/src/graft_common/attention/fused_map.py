"""Triton: output and maps in one pass, head-mean maps, elementwise powers, without the full matrix. Forward only.

Runs on CUDA from triton 3.4 up; on the CPU only under Triton's interpreter (`TRITON_INTERPRET=1` before the import).
"""

from types import ModuleType

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from .request import Request

MAX_WIDTH = 256  # of q, k and v: wider blocks do not fit a card's shared memory
MAX_COLUMNS = 128  # per pass; more columns take further passes
HALVES_AND_SINGLE = (torch.float16, torch.bfloat16, torch.float32)


def refuses(request: Request) -> str | None:
    """Why the Triton kernels cannot do this call; None when they can."""
    try:
        interpreted = _interpreted()
    except ImportError as error:
        return f"triton does not import ({error})"
    if request.device != "cuda" and not (request.device == "cpu" and interpreted):
        return f"its kernels need CUDA tensors, got {request.device}"
    if request.device == "cpu" and request.dtype == torch.bfloat16:
        return "triton's interpreter multiplies bfloat16 numbers as if they were integers"
    if request.dtype not in HALVES_AND_SINGLE:
        return f"its kernels are for float16, bfloat16 and float32, got {request.dtype}"
    if request.width > MAX_WIDTH:
        return f"its kernels hold widths up to {MAX_WIDTH}, got {request.width}"
    if request.differentiates:
        return "its kernels have no backward pass and an input requires a gradient"
    return None


def fused_attend(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N e"]:
    """`P @ v`."""
    return _forward(q, k, v, None, mask, scale)[0]


def fused_columns(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> tuple[Float[Tensor, "B H N e"], Float[Tensor, "B H N C"]]:
    """`P @ v` and `P @ columns` from one pass over the keys (one more per further 128 columns)."""
    first, *rest = columns.split(MAX_COLUMNS, dim=-1)
    output, maps, _ = _forward(q, k, v, first, mask, scale)
    if rest:
        maps = torch.cat([maps, *(_forward(q, k, None, part, mask, scale)[1] for part in rest)], dim=-1)
    return output, maps


def fused_columns_only(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N C"]:
    """`P @ columns` alone; the values are neither read nor weighed."""
    parts = columns.split(MAX_COLUMNS, dim=-1)
    return torch.cat([_forward(q, k, None, part, mask, scale)[1] for part in parts], dim=-1)


def log_sum_exp(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N"]:
    """Base-2 log-sum-exp of every row of scores, in float32; 0 for a row without any True."""
    return _forward(q, k, None, None, mask, scale)[2]


def fused_mean_map(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B N M"]:
    """Head mean of P: scores twice, and nothing of size (B, H, N, M) in memory."""
    kernels, triton = _kernels(), _triton()
    q, k = q.contiguous(), k.contiguous()
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    lse = log_sum_exp(q, k, mask, scale)
    bytes_, strides = _mask_bytes(mask, q, keys)
    out = q.new_empty(batch, queries, keys)
    block_n, block_m = _blocks(q)
    grid = (triton.cdiv(queries, block_n), triton.cdiv(keys, block_m), batch)
    kernels.mean_map_kernel[grid](
        q, k, bytes_, lse, out, *strides, heads, queries, keys, width, _scale2(q, scale),
        D=_power_of_two(width), BLOCK_N=block_n, BLOCK_M=block_m, HAS_MASK=mask is not None,
    )  # fmt: skip
    return out


def fused_elementwise(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    x: Float[Tensor, "B M C"],
    power: float,
    scale: float | None = None,
) -> Float[Tensor, "B N C"]:
    """`((mean_h P) ** power) @ x` with an elementwise power, in float32."""
    kernels, triton = _kernels(), _triton()
    q, k = q.contiguous(), k.contiguous()
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    lse = log_sum_exp(q, k, None, scale)
    block_n, block_m = _blocks(q)
    parts = []
    for part in x.float().split(MAX_COLUMNS, dim=-1):
        out = part.new_empty(batch, queries, part.shape[-1])
        kernels.elementwise_kernel[(triton.cdiv(queries, block_n), batch)](
            q, k, lse, part.contiguous(), out, heads, queries, keys, width, part.shape[-1], _scale2(q, scale),
            power,
            D=_power_of_two(width), C=_power_of_two(part.shape[-1]), BLOCK_N=block_n, BLOCK_M=block_m,
        )  # fmt: skip
        parts.append(out)
    return torch.cat(parts, dim=-1)


def _forward(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"] | None,
    columns: Shaped[Tensor, "#B #H M C"] | None,
    mask: Bool[Tensor, "#B #H #N #M"] | None,
    scale: float | None,
) -> tuple[Float[Tensor, "B H N e2"], Float[Tensor, "B H N C2"], Float[Tensor, "B H N"]]:
    """Output, maps and log-sum-exp; what was not asked for has width 0."""
    kernels, triton = _kernels(), _triton()
    q, k = q.contiguous(), k.contiguous()
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    bytes_, strides = _mask_bytes(mask, q, keys)
    if v is not None:
        v = v.contiguous()
    if columns is not None:
        columns = columns.to(q.dtype).expand(batch, heads, *columns.shape[2:]).contiguous()
    e = 0 if v is None else v.shape[-1]
    c = 0 if columns is None else columns.shape[-1]
    out = q.new_empty(batch, heads, queries, e)
    maps = q.new_empty(batch, heads, queries, c)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    block_n, block_m = _blocks(q)
    unused = q  # a pointer must be passed, it is never followed
    kernels.forward_kernel[(triton.cdiv(queries, block_n), batch * heads)](
        q, k,
        unused if v is None else v, unused if columns is None else columns, bytes_,
        out, maps, lse,
        *strides, heads, queries, keys, width, e, c, _scale2(q, scale),
        D=_power_of_two(width), E=_power_of_two(e), C=_power_of_two(c), BLOCK_N=block_n, BLOCK_M=block_m,
        HAS_V=v is not None, HAS_COLUMNS=columns is not None, HAS_MASK=mask is not None,
    )  # fmt: skip
    return out, maps, lse


def _mask_bytes(
    mask: Bool[Tensor, "#B #H #N #M"] | None, q: Float[Tensor, "B H N d"], keys: int
) -> tuple[Tensor, tuple[int, ...]]:
    if mask is None:
        return q, (0, 0, 0, 0)
    bytes_ = mask.view(torch.uint8).expand(*q.shape[:3], keys)
    return bytes_, bytes_.stride()


def _blocks(q: Float[Tensor, "B H N d"]) -> tuple[int, int]:
    """Queries and keys per block: smaller where a row is long, so that the blocks fit a card's shared memory."""
    row_bytes = _power_of_two(q.shape[-1]) * q.element_size()
    if row_bytes <= 128:
        return 64, 64
    if row_bytes <= 256:
        return 64, 32
    return (32, 16) if row_bytes <= 512 else (16, 16)


def _power_of_two(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length()) if width else 16  # a block of tl.dot is at least 16 wide


def _scale2(q: Float[Tensor, "B H N d"], scale: float | None) -> float:
    """The softmax scale for powers of two instead of e."""
    return (q.shape[-1] ** -0.5 if scale is None else scale) * 1.4426950408889634


def _interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter; fixed when they are first imported."""
    return not isinstance(_kernels().forward_kernel, _triton().JITFunction)


def _kernels() -> ModuleType:
    from . import kernels

    return kernels


def _triton() -> ModuleType:
    import triton

    return triton
