"""The joint denoiser: Paint-by-Example's UNet on camera and lidar at once (mobi spec 2.8).

Every transformer block of a stock `UNet2DConditionModel` is wrapped. Between its own reference attention and its own feed-forward
come a box adapter and two cross-modal attentions, each behind a linear gate that starts at zero: a freshly wrapped UNet
computes what it did before. The batch is interleaved: camera 0, lidar 0, camera 1, lidar 1, ...
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

Order = Literal["sequential", "parallel"]
KEY = "joint"  # under which a `Pass` travels in diffusers' `cross_attention_kwargs`
ORDERS: tuple[Order, ...] = ("sequential", "parallel")


def interleave(
    camera: Float[Tensor, "B *shape"], lidar: Float[Tensor, "B *shape"]
) -> Float[Tensor, "BB *shape"]:
    """camera 0, lidar 0, camera 1, lidar 1, ..."""
    return torch.stack((camera, lidar), dim=1).flatten(0, 1)


def separate(both: Float[Tensor, "BB *shape"]) -> tuple[Float[Tensor, "B *shape"], Float[Tensor, "B *shape"]]:
    """(camera, lidar) of an interleaved batch."""
    camera, lidar = both.unflatten(0, (-1, 2)).unbind(1)
    return camera, lidar


@dataclass(frozen=True, eq=False)
class Pass:
    """What one call of the network gets beside its inputs.

    Attributes:
        constants: per block (2B, 1, dim), the output of its reference attention, from `reference_constants`; None computes it
            from the tokens as the stock block does.
        cross_modal: False leaves the cross-modal attentions out, as if their gates were zero.
    """

    constants: tuple[Tensor, ...] | None = None
    cross_modal: bool = True


class GatedAttention(nn.Module):
    """Gate(Attention(LayerNorm(x), context)), to be added to x; only the queries are normalised; the gate starts at zero.

    Args:
        dim: channels of x.
        heads: attention heads.
        context: channels of the context.
    """

    def __init__(self, dim: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(query_dim=dim, cross_attention_dim=context, heads=heads, dim_head=dim // heads)
        self.gate = nn.Linear(dim, dim)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Float[Tensor, "B n dim"], context: Float[Tensor, "B m context"]) -> Float[Tensor, "B n dim"]:
        """What is added to x."""
        return self.gate(self.attention(self.norm(x), encoder_hidden_states=context))


class JointParts(nn.Module):
    """What one block gains: the box adapter, shared by both modalities, and an attention per direction."""

    def __init__(self, dim: int, heads: int, token: int) -> None:
        super().__init__()
        self.adapter = GatedAttention(dim, heads, token)
        self.to_camera = GatedAttention(dim, heads, dim)
        self.to_lidar = GatedAttention(dim, heads, dim)


class JointBlock(nn.Module):
    """A transformer block of the base with `JointParts` in it; called by `Transformer2DModel` as the stock block is.

    Args:
        base: the stock block: layer norms, self-attention, one cross-attention, feed-forward.
        index: its place among the UNet's blocks, in the order of `Pass.constants`.
        token: width of the condition tokens.
        order: "sequential": lidar attends to the already updated camera features, as the released weights expect.
            "parallel": both attend to what the other was.
    """

    def __init__(self, base: BasicTransformerBlock, index: int, token: int, order: Order) -> None:
        super().__init__()
        self.base = base
        self.index = index
        self.order = order
        self.joint = JointParts(base.dim, base.attn1.heads, token)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """x (2B, n, dim) interleaved, tokens (2B, 2, token): reference, box."""
        assert encoder_hidden_states is not None and attention_mask is None and encoder_attention_mask is None
        x, tokens, base, joint = hidden_states, encoder_hidden_states, self.base, self.joint
        how = (cross_attention_kwargs or {}).get(KEY, Pass())
        x = base.attn1(base.norm1(x)) + x
        if how.constants is None:
            x = base.attn2(base.norm2(x), encoder_hidden_states=tokens[:, :1]) + x
        else:
            x = how.constants[self.index] + x
        x = joint.adapter(x, tokens) + x
        if how.cross_modal:
            camera, lidar = separate(x)
            seen = camera
            camera = joint.to_camera(camera, lidar) + camera
            lidar = joint.to_lidar(lidar, camera if self.order == "sequential" else seen) + lidar
            x = interleave(camera, lidar)
        return base.ff(base.norm3(x)) + x


def wrap(unet: Any, order: Order = "sequential") -> Any:
    """Wrap every transformer block of a stock `UNet2DConditionModel` in place, gates at zero; returns the UNet.

    Raises:
        ValueError: an unknown order, no block at all, or a block that is not Stable Diffusion 1's kind.
    """
    if order not in ORDERS:
        raise ValueError(f"order={order!r}: give one of {', '.join(ORDERS)}")
    holders = [(m, i) for m in unet.modules() if isinstance(m, nn.ModuleList) for i in range(len(m))]
    holders = [(m, i) for m, i in holders if isinstance(m[i], BasicTransformerBlock)]
    if not holders:
        raise ValueError("the UNet has no BasicTransformerBlock to wrap (is it wrapped already?); give a stock UNet")
    for index, (blocks, i) in enumerate(holders):
        block = blocks[i]
        if block.norm_type != "layer_norm" or block.attn2 is None or block.only_cross_attention or block.pos_embed:
            raise ValueError(
                f"block {index} of the UNet is not one of Stable Diffusion 1 (self-attention, cross-attention, feed-forward)"
            )
        blocks[i] = JointBlock(block, index, unet.config.cross_attention_dim, order)
    return unet


def joint_blocks(unet: nn.Module) -> list[JointBlock]:
    """The wrapped blocks, in the order of their index."""
    return sorted((m for m in unet.modules() if isinstance(m, JointBlock)), key=lambda block: block.index)


def joint_state(unet: nn.Module) -> dict[str, Tensor]:
    """What wrapping added, `<path of the block>.<adapter|to_camera|to_lidar>...` -> tensor, not copied."""
    return {key.replace(".joint.", "."): t for key, t in unet.state_dict().items() if ".joint." in key}


def base_state(unet: nn.Module) -> dict[str, Tensor]:
    """The base's own weights under a stock UNet's keys, not copied."""
    return {key.replace(".base.", "."): t for key, t in unet.state_dict().items() if ".joint." not in key}


@torch.no_grad()
def reference_constants(unet: nn.Module, reference: Float[Tensor, "B 1 token"]) -> tuple[Tensor, ...]:
    """Output of each block's reference attention, (B, 1, dim): with a single token it is the same at every pixel and step.

    The softmax over one key is 1, so what remains is the token's value through the output projection.
    """
    attentions = [block.base.attn2 for block in joint_blocks(unet)]
    return tuple(a.to_out[0](a.to_v(reference)) / a.rescale_output_factor for a in attentions)
