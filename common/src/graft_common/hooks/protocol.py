"""diffusers' attention protocol, written once: what comes before the attention itself, and what comes after it.

Norms, residual, rescaling, mask and projections follow `AttnProcessor2_0` of diffusers operation by operation, so that the
two are bit-equal (tested). LoRA needs nothing here: peft wraps `to_q` and its like, which are called as modules.
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Heads:
    """One site's input to attention: P = softmax(scale * q k^T + bias)."""

    q: Float[Tensor, "B H N d"]
    k: Float[Tensor, "B H M d"]
    v: Float[Tensor, "B H M d"] | None  # None where only q and k were asked for
    bias: Float[Tensor, "B H n M"] | None  # the mask as diffusers prepares it, added to the logits
    scale: float


def project(
    attn: Attention,
    stock: object,
    hidden_states: Float[Tensor, "B ..."],
    encoder_hidden_states: Float[Tensor, "B M c"] | None,
    attention_mask: Tensor | None,
    temb: Tensor | None,
    rows: tuple[int, ...] | None = None,
    values: bool = True,
) -> Heads:
    """Queries, keys and values as the processor `stock` of `attn` would form them.

    Args:
        rows: only these rows of the batch are computed; None for all.
        values: False leaves `v` out.
    """
    batch = hidden_states.shape[0]
    bias = attention_mask
    if bias is not None:
        keys = hidden_states.shape[2:].numel() if hidden_states.ndim == 4 else hidden_states.shape[1]
        keys = keys if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        bias = attn.prepare_attention_mask(bias, keys, batch)
        bias = bias.view(batch, attn.heads, -1, bias.shape[-1])
    if rows is not None and rows != tuple(range(batch)):
        picked = torch.tensor(rows, device=hidden_states.device)
        hidden_states = hidden_states.index_select(0, picked)
        encoder_hidden_states, bias, temb = (
            None if x is None else x.index_select(0, picked)
            for x in (encoder_hidden_states, bias, temb if attn.spatial_norm is not None else None)
        )
        batch = len(rows)

    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    if hidden_states.ndim == 4:
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
    if encoder_hidden_states is not None and attn.norm_cross:
        source = attn.norm_encoder_hidden_states(source)

    def split(x: Tensor) -> Tensor:
        return x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

    q, k = split(attn.to_q(hidden_states)), split(attn.to_k(source))
    v = split(attn.to_v(source)) if values else None
    if type(stock) is AttnProcessor2_0:  # the older processors leave q and k as they are, and read attn.scale
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        return Heads(q, k, v, bias, q.shape[-1] ** -0.5)
    return Heads(q, k, v, bias, attn.scale)


def finish(
    attn: Attention,
    out: Float[Tensor, "B H N d"],
    dtype: torch.dtype,
    residual: Float[Tensor, "B ..."],
) -> Float[Tensor, "B ..."]:
    """From the heads' output to the module's: output projection, dropout, back to the input's shape, residual, rescale."""
    hidden_states = out.transpose(1, 2).flatten(2).to(dtype)
    hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))
    if residual.ndim == 4:
        hidden_states = hidden_states.transpose(-1, -2).reshape(residual.shape)
    if attn.residual_connection:
        hidden_states = hidden_states + residual
    return hidden_states / attn.rescale_output_factor
