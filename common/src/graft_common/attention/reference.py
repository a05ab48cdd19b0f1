"""Plain attention: every step written out, the full probability matrix formed. The judge of every other file in this folder."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def reference(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    v: Float[Tensor, "B H M e"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
    upcast: bool = False,
) -> tuple[Float[Tensor, "B H N e"], Float[Tensor, "B H N M"]]:
    """Attention output and probabilities, `softmax(scale * q k^T) v` (Vaswani et al. 2017, eq. 1).

    Args:
        mask: True = attend. A query row without any True gets probabilities, output and gradients of zero.
        scale: factor on the scores; None means `d ** -0.5`.
        upcast: compute half precision in float32 (float64 stays); the results are then not rounded back.
    """
    if upcast and q.dtype != torch.float64:
        q, k, v = q.float(), k.float(), v.float()
    probabilities = softmax_scores(q, k, mask, scale)
    return probabilities @ v, probabilities


def reference_columns(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    columns: Shaped[Tensor, "#B #H M C"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "B H N C"]:
    """`P @ columns` with P formed: what every fused path for columns is judged by."""
    return softmax_scores(q, k, mask, scale) @ columns.to(q.dtype)


def softmax_scores(
    q: Float[Tensor, "B H N d"],
    k: Float[Tensor, "B H M d"],
    mask: Bool[Tensor, "#B #H #N #M"] | None = None,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "B H N M"]:
    """Probabilities P, in `dtype` (None: that of q); rows without any True in `mask` are zero."""
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is None:
        return scores.softmax(dim=-1, dtype=dtype)
    opened, alive = open_dead_rows(mask)
    return scores.masked_fill(~opened, float("-inf")).softmax(dim=-1, dtype=dtype).masked_fill(~alive, 0.0)


def open_dead_rows(
    mask: Bool[Tensor, "b h n m"],
) -> tuple[Bool[Tensor, "b h n m"], Bool[Tensor, "b h n 1"]]:
    """The mask with rows of only False opened to every key, and which rows were alive.

    A softmax over nothing is NaN, and kernels differ in what they make of it. So dead rows attend to everything and
    their results are set to zero afterwards, which also zeroes their gradients.
    """
    alive = mask.any(dim=-1, keepdim=True)
    return mask | ~alive, alive
