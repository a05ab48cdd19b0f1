"""guided-diffusion's UNet in diffusers' names: used by convert_checkpoint.py, reads no file itself.

Both are the same network where UNet2DModel is made of blocks that halve and double by residual blocks. Two things differ: the old
layout holds query, key and value of a head next to each other, head after head, in one 1 x 1 convolution, and it numbers its
blocks without levels.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusionmix.network import Plan, make_network, make_scheduler, plan_of
from graft_common.console import write_json
from graft_common.errors import InputError

RESIDUAL = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
OUTER = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2", "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
SIZE = 256


def places(plan: Plan, size: int) -> Iterator[tuple[str, str, bool]]:
    """(their name, our name, whether it is attention) of every residual block and attention, in the order of the network."""
    attends = [size >> level in plan.attention for level in range(len(plan.widths))]
    number, last = 1, len(plan.widths) - 1
    for level, attention in enumerate(attends):
        for j in range(plan.blocks):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{j}", False
            if attention:
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{j}", True
            number += 1
        if level != last:
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0", False
            number += 1
    yield "middle_block.0", "mid_block.resnets.0", False
    yield "middle_block.1", "mid_block.attentions.0", True
    yield "middle_block.2", "mid_block.resnets.1", False
    number = 0
    for level, attention in enumerate(reversed(attends)):
        for j in range(plan.blocks + 1):
            yield f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{j}", False
            if attention:
                yield f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{j}", True
            if j == plan.blocks and level != last:
                yield f"output_blocks.{number}.{2 if attention else 1}", f"up_blocks.{level}.upsamplers.0", False
            number += 1


def renamed(state: Mapping[str, Tensor], plan: Plan, size: int) -> dict[str, Tensor]:
    """The tensors under diffusers' names; queries, keys and values of one head of `plan.head` channels are taken apart.

    What has no place under any name is left out; the caller's strict loading finds what is missing.
    """
    found: dict[str, Tensor] = {}
    names = dict(OUTER)
    for theirs, ours, attention in places(plan, size):
        if attention:
            names |= {f"{theirs}.norm": f"{ours}.group_norm"}
            found |= _attention(state, theirs, ours, plan.head)
        else:
            names |= {f"{theirs}.{old}": f"{ours}.{new}" for old, new in RESIDUAL.items()}
    for old, new in names.items():
        for part in ("weight", "bias"):
            if f"{old}.{part}" in state:
                found[f"{new}.{part}"] = state[f"{old}.{part}"]
    return found


def _attention(state: Mapping[str, Tensor], theirs: str, ours: str, head: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        joint, final = state.get(f"{theirs}.qkv.{part}"), state.get(f"{theirs}.proj_out.{part}")
        if joint is None or final is None or joint.shape[0] % (3 * head):
            continue
        rows = joint.squeeze(-1) if part == "weight" else joint
        each = rows.reshape(-1, 3, head, *rows.shape[1:])  # (heads, query key value, channels of a head, ...)
        for k, name in enumerate("qkv"):
            found[f"{ours}.to_{name}.{part}"] = each[:, k].reshape(-1, *rows.shape[1:]).contiguous()
        found[f"{ours}.to_out.0.{part}"] = (final.squeeze(-1) if part == "weight" else final).contiguous()
    return found


def network(state: Mapping[str, Tensor], plan: Plan, size: int, where: str) -> Any:
    """A UNet2DModel with these weights, in their precision.

    Raises:
        InputError: a tensor is missing, of another shape, or left over.
    """
    import torch

    found = renamed(state, plan, size)
    with torch.device("meta"):
        unet = make_network("background", size, plan, variance="learned_range")
    wanted = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    cure = "give guided-diffusion's 256x256_diffusion_uncond.pt"
    for name, shape in wanted.items():
        if name not in found or tuple(found[name].shape) != shape:
            has = f"is {tuple(found[name].shape)}" if name in found else "is missing"
            raise InputError(f"{where}: {name} {has}, {shape} is wanted; {cure}")
    taken = sum(value.numel() for value in found.values())
    if taken != (given := sum(value.numel() for value in state.values())):
        raise InputError(f"{where}: holds {given:,} numbers, the network takes {taken:,}; {cure}")
    unet.load_state_dict(found, strict=True, assign=True)
    return unet.eval()


def write_background(state: Mapping[str, Tensor], out: Path, where: str, plan: Plan | None = None, size: int = SIZE) -> int:
    """Half a bundle, as `train-background` writes it; returns how many numbers it holds.

    Raises:
        InputError: the tensors are not those of this network.
    """
    unet = network(state, plan or plan_of("background", size), size, where)
    out.mkdir(parents=True, exist_ok=True)
    unet.save_pretrained(out / "background_unet", safe_serialization=True)
    make_scheduler("learned_range").save_pretrained(out / "background_scheduler")
    made = {"background": {"source": "guided-diffusion"}}
    write_json(out / "mix.json", {"schema": 1, "classes": [], "boxes": [], "background_size": [size, size], "train": made})
    return sum(p.numel() for p in unet.parameters())
