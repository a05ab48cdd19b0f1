"""What a caller asks of a backend, and the checks that all backends share."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError

Operation = Literal["attend", "attend_columns", "columns_only", "mean_map", "elementwise"]


@dataclass(frozen=True)
class Request:
    """One call, as far as a backend needs to know it to accept or refuse."""

    operation: Operation
    device: str
    dtype: torch.dtype
    width: int
    masked: bool
    differentiates: bool


def checked_request(
    operation: Operation,
    q: Tensor,
    k: Tensor,
    values: dict[str, Tensor],
    mask: Tensor | None = None,
) -> Request:
    """Check the shapes of one call and describe it.

    Args:
        q, k: (B, H, N, d) and (B, H, M, d).
        values: what is weighted by P, by name: each (B or 1, H or 1, M, any width).
        mask: bool, each of its four sizes 1 or that of (B, H, N, M).

    Raises:
        InputError: sizes, dtypes or devices do not fit together.
    """
    if q.ndim != 4 or k.ndim != 4 or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise InputError(f"q is {_sizes(q)} and k is {_sizes(k)}; pass (B, H, N, d) and (B, H, M, d)")
    if k.shape[2] == 0:
        raise InputError(f"k is {_sizes(k)}: it holds no tokens to attend to; pass at least one")
    batch, heads, queries, _ = q.shape
    keys = k.shape[2]
    for name, x in values.items():
        fits = x.ndim == 4 and x.shape[0] in (1, batch) and x.shape[1] in (1, heads) and x.shape[2] == keys
        if not fits:
            raise InputError(f"{name} is {_sizes(x)}; pass ({batch}, {heads}, {keys}, any), one row per key")
    tensors = {"k": k, **values} | ({} if mask is None else {"mask": mask})
    for name, x in tensors.items():
        if x.device != q.device:
            raise InputError(f"{name} is on {x.device} but q is on {q.device}; move both to one device")
    for name in ("k", "v"):
        if name in tensors and tensors[name].dtype != q.dtype:
            raise InputError(f"{name} is {tensors[name].dtype} but q is {q.dtype}; cast both alike")
    if mask is not None:
        wanted = (batch, heads, queries, keys)
        fits = mask.ndim == 4 and all(s in (1, w) for s, w in zip(mask.shape, wanted, strict=True))
        if mask.dtype != torch.bool or not fits:
            raise InputError(
                f"mask is {mask.dtype} {_sizes(mask)}; pass a bool mask, True = attend, each size 1 or that of {wanted}"
            )
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, *values.values()))
    return Request(operation, q.device.type, q.dtype, q.shape[3], mask is not None, grad)


def _sizes(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "a scalar"
