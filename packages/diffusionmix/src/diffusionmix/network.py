"""The two networks: diffusers' UNet2DModel in the paper's size for a role and a picture size, or tiny (spec section 3).

An object model carries a mask as its fourth channel; a learned variance doubles the channels that come out.
"""

from dataclasses import dataclass
from typing import Any, Literal

from diffusionmix.config_train import NetworkName
from graft_common.errors import InputError

Role = Literal["object", "background"]
Variance = Literal["fixed_small", "learned_range"]
TRAIN_STEPS = 1000
CHANNELS: dict[Role, int] = {"object": 4, "background": 3}


@dataclass(frozen=True)
class Plan:
    """What sets the networks of one size apart.

    Attributes:
        widths: channels of each level, finest first; each level halves the side.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention: sides in pixels at which there is self-attention.
        head: channels of an attention head.
        groups: groups of the normalisation; it divides every width.
        residual_resize: halving and doubling by residual blocks that know the time, instead of bare convolutions.
        scale_shift: the time scales and shifts the normalised features, instead of being added before.
    """

    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    head: int
    groups: int
    residual_resize: bool
    scale_shift: bool


def plan_of(role: Role, size: int, name: NetworkName = "paper") -> Plan:
    """The plan of a network by its name.

    Args:
        size: side of its pictures in pixels.
        name: "paper", "small" (a background half as wide; objects have one size) or "tiny" (0.75 million parameters).

    Raises:
        InputError: no plan has such a size.
    """
    if name == "tiny":
        plan = _tiny(size)
    elif role == "object":
        plan = _wide(128, {32: (1, 2, 3), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 3, 4)}, size)
    else:
        width = 256 if name == "paper" else 128
        plan = _wide(width, {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}, size)
    return plan


def _wide(width: int, factors: dict[int, tuple[float | int, ...]], size: int) -> Plan:
    if size not in factors:
        sizes = ", ".join(map(str, factors))
        raise InputError(f"--network: the paper's are for pictures of side {sizes}, these are {size}; prepare others or use tiny")
    return Plan(tuple(int(width * f) for f in factors[size]), 2, (32, 16, 8), 64, 32, True, True)


def _tiny(size: int) -> Plan:
    """Most of the width at the coarse levels: at the fine ones a channel costs much time and few parameters."""
    if size >= 96 and size % 16 == 0:
        return Plan((8, 16, 32, 48, 56), 1, (size // 16,), 16, 4, False, False)
    if size < 96 and size % 8 == 0:
        return Plan((16, 32, 48, 48), 1, (size // 8,), 16, 4, False, False)
    raise InputError(f"--network tiny: takes pictures whose side is a multiple of 8 (of 16 from 96 on), these are {size}")


def make_network(
    role: Role, size: int, plan: Plan, classes: int = 0, variance: Variance = "fixed_small", dropout: float | int = 0.0
) -> Any:
    """A new UNet2DModel with the weights of torch's global generator.

    Args:
        classes: number of class embeddings; 0 for an unconditional network.
        variance: "learned_range" gives twice the channels.
        dropout: share of features dropped in training.
    """
    from diffusers import UNet2DModel

    channels = CHANNELS[role]
    sides = [size >> level for level in range(len(plan.widths))]
    down_plain = "ResnetDownsampleBlock2D" if plan.residual_resize else "DownBlock2D"
    up_plain = "ResnetUpsampleBlock2D" if plan.residual_resize else "UpBlock2D"
    resize = "resnet" if plan.residual_resize else "conv"
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels * (2 if variance == "learned_range" else 1),
        block_out_channels=plan.widths,
        layers_per_block=plan.blocks,
        down_block_types=tuple("AttnDownBlock2D" if side in plan.attention else down_plain for side in sides),
        up_block_types=tuple("AttnUpBlock2D" if side in plan.attention else up_plain for side in reversed(sides)),
        # DownBlock2D and UpBlock2D ignore these two; the blocks above are chosen so that none of them is asked for "resnet"
        downsample_type=resize,
        upsample_type=resize,
        attention_head_dim=plan.head,
        norm_num_groups=plan.groups,
        attn_norm_num_groups=plan.groups,  # else the middle block's attention has no normalisation where the time scales and shifts
        resnet_time_scale_shift="scale_shift" if plan.scale_shift else "default",
        num_class_embeds=classes or None,
        dropout=float(dropout),
        num_train_timesteps=TRAIN_STEPS,
    )


def make_scheduler(variance: Variance = "fixed_small", prediction: str = "epsilon") -> Any:
    """DDPMScheduler of the 1000-step linear schedule, 1e-4 to 0.02 (spec 2.2)."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        variance_type=variance,
        prediction_type=prediction,
        clip_sample=True,
    )
