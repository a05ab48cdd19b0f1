"""Paint-by-Example's folder, and MObI's on top of it, for `random_bundle.py`: configurations, keys and shapes.

As published: the image encoder's keys begin with `model.vision_model.` and hold `position_ids`, the VAE's attention says query,
key, value and proj_attn. `mobi-tiny` has the same layout with narrow networks.
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from mobi.box_encoder import BoxEncoder
from mobi.bundle import JOINT, RANGE, Joint, features, index
from mobi.image_encoder import RENAMED
from mobi.joint import joint_state, wrap
from mobi.range_vae import RangeVae

VERSION = "0.10.0.dev0"
IMAGE_ENCODER = {
    "architectures": ["PaintByExampleImageEncoder"], "attention_dropout": 0.0, "dropout": 0.0, "hidden_act": "quick_gelu",
    "hidden_size": 1024, "image_size": 224, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 4096,
    "layer_norm_eps": 1e-05, "model_type": "clip_vision_model", "num_attention_heads": 16, "num_channels": 3,
    "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "torch_dtype": "float32",
}  # fmt: skip
NAMES = ("pbe", "mobi", "mobi-tiny")
PUBLIC_ENCODER = "model.vision_model."  # where the installed class says `model.`


def configs(name: str, unet: dict[str, Any], vae: dict[str, Any], scheduler: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """File -> content, model_index.json left out.

    Args:
        unet, vae, scheduler: what Stable Diffusion 1 has; its UNet differs in the channels that go in.
    """
    stamp = {"_diffusers_version": VERSION}
    unet = unet | {"attention_head_dim": 8, "cross_attention_dim": 768, "in_channels": 9}
    vae, encoder = vae | {"sample_size": 512}, IMAGE_ENCODER
    if name == "mobi-tiny":
        unet = unet | {"block_out_channels": [32] * 4, "attention_head_dim": 2, "cross_attention_dim": 32, "sample_size": 8}
        vae = vae | {"block_out_channels": [32] * 4, "sample_size": 64}
        encoder = encoder | {
            "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4, "patch_size": 56,
            "projection_dim": 32,
        }  # fmt: skip
    return {
        "unet/config.json": unet | stamp, "vae/config.json": vae | stamp, "image_encoder/config.json": encoder,
        "scheduler/scheduler_config.json": scheduler | stamp, "feature_extractor/preprocessor_config.json": features(),
    }  # fmt: skip


def settings(name: str) -> Joint:
    """What stands in the headers of MObI's own two files."""
    return Joint(hidden=32) if name == "mobi-tiny" else Joint()


def encoder_state(config: dict[str, Any]) -> dict[str, Tensor]:
    """Published key -> tensor of the image encoder (on the meta device), position_ids first (eight bytes each, so aligned)."""
    from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
    from transformers import CLIPVisionConfig

    (new,) = RENAMED.values()
    with torch.device("meta"):
        own = PaintByExampleImageEncoder(CLIPVisionConfig(**config)).state_dict()
        count = (config["image_size"] // config["patch_size"]) ** 2 + 1
        ids = {f"{PUBLIC_ENCODER}embeddings.position_ids": torch.empty(1, count, dtype=torch.int64)}
    return ids | {PUBLIC_ENCODER + k.removeprefix(new) if k.startswith(new) else k: t for k, t in own.items()}


def stock_state(part: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """Key -> tensor (on the meta device) of the stock "unet" or "vae", as the installed diffusers names them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part].from_config(config).state_dict()


def own_states(name: str, unet: dict[str, Any], vae: dict[str, Any]) -> dict[str, tuple[dict[str, Tensor], dict[str, Any]]]:
    """MObI's files -> (key -> tensor on the meta device, settings in the header); none for Paint-by-Example itself."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    if name == "pbe":
        return {}
    joint = settings(name)
    with torch.device("meta"):
        wrapped = wrap(UNet2DConditionModel.from_config(unet), joint.order)
        box = BoxEncoder(unet["cross_attention_dim"], joint.hidden).state_dict()
        head_and_tail = RangeVae(AutoencoderKL.from_config(vae), joint.middle_norm).state_dict()
    tensors = {f"unet.{k}": t for k, t in joint_state(wrapped).items()} | {f"box_encoder.{k}": t for k, t in box.items()}
    header = {key: value for key, value in asdict(joint).items() if key != "middle_norm"}
    return {JOINT: (tensors, header), RANGE: (head_and_tail, {"middle_norm": joint.middle_norm})}


def model_index() -> dict[str, Any]:
    """model_index.json as published, without the safety checker."""
    return index()
