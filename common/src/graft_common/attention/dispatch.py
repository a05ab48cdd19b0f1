"""The public functions: check the call, pick a backend or refuse with a reason, run it.

Backends: `reference` forms P; `sdpa` is torch itself, its fused call where the result is linear in P and tiles of P
elsewhere; `xformers` and `triton` run only when named. `auto` is `sdpa`, and `reference` where `sdpa` refuses.
A named backend that cannot do what is asked raises `InputError`; none ever drops an argument.

Throughout: P = softmax(scale * q k^T) of shape (B, H, N, M); `mask` is bool, True = attend, and a query row without any
True gets zeros in every result and gradient; `scale` None means `d ** -0.5`; gradients are of first order.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ..errors import InputError
from .reference import reference, reference_columns, softmax_scores
from .request import Request, checked_request
from .sdpa import refuses as sdpa_refuses
from .sdpa import sdpa, sdpa_columns, sdpa_columns_only
from .tiles import tiled_elementwise, tiled_mean_map

Backend = Literal["auto", "reference", "sdpa", "xformers", "triton"]


def refuses(backend: Backend, request: Request) -> str | None:
    """Why `backend` cannot do this call, in one phrase; None when it can."""
    if backend in ("auto", "reference"):
        return None
    if backend == "sdpa":
        return sdpa_refuses(request)
    if backend == "xformers":
        from .memeff import refuses as memeff_refuses  # optional: imported only when asked for

        return memeff_refuses(request)
    if backend == "triton":
        from .fused_map import refuses as triton_refuses  # optional: imported only when asked for

        return triton_refuses(request)
    return f"there is no such backend, only {', '.join(get_args(Backend))}"


def attend(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "B H N e"]:
    """`P @ v`, the usual attention output.

    Raises:
        InputError: shapes do not fit, or the named backend cannot do it (the message says why and what to use).
    """
    chosen = _choose(backend, checked_request("attend", q, k, {"v": v}, mask))
    if chosen == "reference":
        return reference(q, k, v, mask, scale)[0]
    if chosen == "sdpa":
        return sdpa(q, k, v, mask, scale)
    if chosen == "xformers":
        from .memeff import memeff

        return memeff(q, k, v, mask, scale)
    from .fused_map import fused_attend

    return fused_attend(q, k, v, mask, scale)


def attend_columns(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "B H N e"], Float[Tensor, "B H N C"]]:
    """`P @ v` and `P @ columns` from one fused pass; P is never formed (except by `reference`). Differentiable.

    Args:
        columns: what to weigh by P, per key: one-hot rows pick single keys' maps, `1 - m` the mass that leaves a
            region m, any map one round of its propagation. Any real dtype; rounded to v's dtype.

    Raises:
        InputError: shapes do not fit, or the named backend cannot do it (the message says why and what to use).
    """
    request = checked_request("attend_columns", q, k, {"v": v, "columns": columns}, mask)
    chosen = _choose(backend, request)
    if chosen == "reference":
        output, probabilities = reference(q, k, v, mask, scale)
        return output, probabilities @ columns.to(probabilities.dtype)
    if chosen == "sdpa":
        return sdpa_columns(q, k, v, columns, mask, scale)
    if chosen == "xformers":
        from .memeff import memeff_columns

        return memeff_columns(q, k, v, columns, mask, scale)
    from .fused_map import fused_columns

    return fused_columns(q, k, v, columns, mask, scale)


def columns_only(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "B H N C"]:
    """`P @ columns` without an attention output: for an observer beside a model's own attention. Differentiable.

    Raises:
        InputError: shapes do not fit, or the named backend cannot do it (the message says why and what to use).
    """
    chosen = _choose(backend, checked_request("columns_only", q, k, {"columns": columns}, mask))
    if chosen == "reference":
        return reference_columns(q, k, columns, mask, scale)
    if chosen == "sdpa":
        return sdpa_columns_only(q, k, columns, mask, scale)
    if chosen == "xformers":
        from .memeff import memeff_columns_only

        return memeff_columns_only(q, k, columns, mask, scale)
    from .fused_map import fused_columns_only

    return fused_columns_only(q, k, columns, mask, scale)


def mean_map(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "B N M"]:
    """Head mean of P, tile by tile: memory of the result and one tile. Differentiable except with `triton`.

    Raises:
        InputError: shapes do not fit, or the named backend cannot do it (the message says why and what to use).
    """
    chosen = _choose(backend, checked_request("mean_map", q, k, {}, mask))
    if chosen == "reference":
        return softmax_scores(q, k, mask, scale).mean(dim=1)
    if chosen == "sdpa":
        return tiled_mean_map(q, k, mask, scale)
    from .fused_map import fused_mean_map

    return fused_mean_map(q, k, mask, scale)


def propagate(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    x: Float[Tensor, "B M C"],
    power: int | float = 1,  # the tests' type checker takes `float` at its word
    elementwise: bool = False,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, "B N C"]:
    """`(mean_h P) ** power @ x`: spread maps x along self-attention.

    The matrix power is `power` rounds of `columns_only` with x as the columns, so nothing is formed. The elementwise
    power raises each entry of the head mean, goes tile by tile, and is returned in float32 at least (it is tiny).

    Args:
        power: whole and >= 1 for the matrix power (above 1 it needs N == M); any number > 0 for the elementwise one.

    Raises:
        InputError: shapes or power do not fit, or the named backend cannot do it.
    """
    request = checked_request("elementwise" if elementwise else "columns_only", q, k, {"x": x.unsqueeze(1)})
    chosen = _choose(backend, request)
    if elementwise:
        if power <= 0:
            raise InputError(f"power={power} must be above 0")
        if chosen == "reference":
            wide = torch.promote_types(q.dtype, torch.float32)
            return softmax_scores(q, k, None, scale).mean(dim=1).to(wide).pow(power) @ x.to(wide)
        if chosen == "sdpa":
            return tiled_elementwise(q, k, x, float(power), scale)
        from .fused_map import fused_elementwise

        return fused_elementwise(q, k, x, float(power), scale)
    if power != int(power) or power < 1:
        raise InputError(f"power={power} must be a whole number of at least 1, or pass elementwise=True")
    if power > 1 and q.shape[2] != k.shape[2]:
        raise InputError(
            f"power={power} needs as many queries as keys, got {q.shape[2]} and {k.shape[2]}; pass power=1"
        )
    for _ in range(int(power)):
        x = columns_only(q, k, x.unsqueeze(1), None, scale, chosen).mean(dim=1)
    return x


def _choose(backend: Backend, request: Request) -> Backend:
    if backend == "auto":
        return "reference" if sdpa_refuses(request) else "sdpa"
    if why := refuses(backend, request):
        raise InputError(f"backend={backend!r}: {why}; use backend='auto' or 'reference'")
    return backend
