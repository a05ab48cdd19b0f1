"""The MObI authors' checkpoint -> our folder: used by convert_checkpoint.py, reads no pickle itself.

Theirs is one state dict in latent-diffusion's layout: `model.diffusion_model.` (UNet with their attentions in it),
`first_stage_model.` (camera autoencoder), `lidar_stage_model.` (the same with other ends), `cond_stage_model.` (image encoder and
box embedder), and at the root `proj_out`, `learnable_vector` and `bbox_uncond_vector`. diffusers' own converters rename the
stock parts. Every weight must find its place and every place its weight, of the right shape.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import random_pbe
from graft_common.checkpoint import save_weights
from graft_common.errors import InputError
from graft_common.files import atomic_path
from mobi.bundle import JOINT, RANGE, index
from random_bundle import SCHEDULER, UNET, VAE, write_json

UNET_KEY, CAMERA_KEY, LIDAR_KEY, COND_KEY = (
    "model.diffusion_model.", "first_stage_model.", "lidar_stage_model.", "cond_stage_model."
)  # fmt: skip
CLIP_KEY, MAPPER_KEY, BOX_KEY = "transformer.", "mapper.resblocks.", "bbox_embedder."
# Tables of the noise schedule, which ours holds as three numbers, and the counters of a moving average that was not kept.
TABLES = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar", "scale_factor",
)  # fmt: skip
BLOCK = {
    "cond_adapter_norm": "adapter.norm", "cond_adapter_attn": "adapter.attention", "cond_adapter_connector": "adapter.gate",
    **{
        f"cross_modal_{theirs}_{side}": f"to_{side}.{ours}"
        for side in ("camera", "lidar")
        for theirs, ours in (("norm", "norm"), ("attn", "attention"), ("connector", "gate"))
    },
}  # fmt: skip
MAPPER = {
    "attn.c_proj": "attn1.to_out.0", "ln_1": "norm1", "ln_2": "norm3", "mlp.c_fc": "ff.net.0.proj", "mlp.c_proj": "ff.net.2",
}  # fmt: skip
ENDS = {
    "encoder.conv_in_lidar": "head.0", "encoder.res_block_lidar1": "head.1", "encoder.res_block_lidar2": "head.2",
    "decoder.res_block_lidar1": "tail.0", "decoder.norm_out_lidar1": "tail.1", "decoder.res_block_lidar2": "tail.3",
    "decoder.norm_out_lidar2": "tail.4", "decoder.conv_out_lidar": "tail.6",
}  # fmt: skip
# The box embedder's layers have shapes that no two share, so their order in it says their place.
BOX = ("embed", "mlp.0", "mlp.2", "mlp.4")
Tensors = dict[str, Tensor]


def write_mobi(state: Mapping[str, Tensor], out: Path, source: str, size: str = "mobi") -> int:
    """Write the folder that `--weights` reads, in the stored precision; returns how many numbers it holds.

    Args:
        source: the file as typed, for messages.
        size: of the network, a name of `random_pbe`.

    Raises:
        InputError: a weight is missing, left over, or of another shape; the two autoencoders differ where they must not.
    """
    configs = random_pbe.configs(size, UNET, VAE, SCHEDULER)
    unet, vae, encoder = (configs[f"{part}/config.json"] for part in ("unet", "vae", "image_encoder"))
    found, own = convert(state, unet, vae, source), random_pbe.own_states(size, unet, vae)
    wanted = {
        "unet/diffusion_pytorch_model.safetensors": random_pbe.stock_state("unet", unet),
        "vae/diffusion_pytorch_model.safetensors": random_pbe.stock_state("vae", vae),
        "image_encoder/model.safetensors": {
            key: t for key, t in random_pbe.encoder_state(encoder).items() if not key.endswith("position_ids")
        },
        **{name: tensors for name, (tensors, _) in own.items()},
    }
    for name, tensors in wanted.items():
        _compare(found[name], tensors, name, source)
    for name, content in configs.items():
        write_json(out / name, content)
    for name, tensors in found.items():
        if name == JOINT:
            save_weights(out / name, tensors, own[name][1] | {"drops": "joint", "order": "sequential"})
        elif name == RANGE:
            save_weights(out / name, tensors, own[name][1] | {"middle_norm": True})
        else:
            with atomic_path(out / name) as beside:
                save_file({key: t.contiguous().clone() for key, t in tensors.items()}, beside, metadata={"format": "pt"})
    write_json(out / "model_index.json", index())
    return sum(t.numel() for tensors in found.values() for t in tensors.values())


def convert(
    state: Mapping[str, Tensor], unet: Mapping[str, Any], vae: Mapping[str, Any], source: str
) -> dict[str, Tensors]:
    """File of our folder -> its tensors.

    Raises:
        InputError: weights that belong nowhere, or two autoencoders that differ beyond their ends.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    theirs = {key: t for key, t in state.items() if key not in TABLES and not key.startswith("model_ema.")}
    roots = ("proj_out.", "learnable_vector", "bbox_uncond_vector", UNET_KEY, CAMERA_KEY, LIDAR_KEY, COND_KEY)
    if strange := sorted(key for key in theirs if not key.startswith(roots)):
        raise InputError(f"{source}: {strange[0]} and {len(strange) - 1} more belong to no part; give the authors' checkpoint")
    stock = convert_ldm_unet_checkpoint({key: t for key, t in theirs.items() if key.startswith(UNET_KEY)}, unet)
    ours = {key: t for key, t in stock.items() if any(f".{name}." in key for name in BLOCK)}
    joint = {f"unet.{_replaced(key, BLOCK)}": t for key, t in ours.items()}
    cond = _under(theirs, COND_KEY)
    joint |= _box_encoder(_under(cond, BOX_KEY), theirs)
    ends, shared = _split_lidar(_under(theirs, LIDAR_KEY))
    camera = _under(theirs, CAMERA_KEY)
    if odd := next((key for key, t in shared.items() if key not in camera or not torch.equal(t, camera[key])), None):
        raise InputError(
            f"{source}: {LIDAR_KEY}{odd} differs from the camera's autoencoder, which the range crops share here; "
            "give a checkpoint with trained ends only"
        )
    images = convert_ldm_vae_checkpoint({CAMERA_KEY + key: t for key, t in camera.items()}, vae)
    for prefix, renamed in ((UNET_KEY, stock), (CAMERA_KEY, images)):  # the converters drop what they do not know
        if len(renamed) != (count := len(_under(theirs, prefix))):
            raise InputError(f"{source}: {count - len(renamed)} weights under {prefix} are unknown; give the authors' checkpoint")
    return {
        "unet/diffusion_pytorch_model.safetensors": {key: t for key, t in stock.items() if key not in ours},
        "vae/diffusion_pytorch_model.safetensors": images,
        "image_encoder/model.safetensors": _image_encoder(cond, theirs),
        JOINT: joint,
        RANGE: ends,
    }


def _image_encoder(cond: Tensors, root: Mapping[str, Tensor]) -> Tensors:
    found = {f"model.{key}": t for key, t in _under(cond, CLIP_KEY).items() if not key.endswith("position_ids")}
    for key, t in _under(cond, MAPPER_KEY).items():
        number, name = key.split(".", 1)
        if name.startswith("attn.c_qkv."):  # of one head: the three lie one after the other
            parts = zip(("to_q", "to_k", "to_v"), t.chunk(3), strict=True)
            found |= {f"mapper.blocks.{number}.attn1.{to}.{key.rsplit('.', 1)[1]}": part for to, part in parts}
        else:
            layer, kind = name.rsplit(".", 1)
            found[f"mapper.blocks.{number}.{MAPPER.get(layer, layer)}.{kind}"] = t
    found |= {f"final_layer_norm.{key}": t for key, t in _under(cond, "final_ln.").items()}
    found |= {key: t for key, t in root.items() if key.startswith("proj_out.")}
    known = (CLIP_KEY, MAPPER_KEY, BOX_KEY, "final_ln.")
    found |= {f"unknown {COND_KEY}{key}": t for key, t in cond.items() if not key.startswith(known)}
    if "learnable_vector" in root:
        found["uncond_vector"] = root["learnable_vector"]
    return found


def _box_encoder(theirs: Tensors, root: Mapping[str, Tensor]) -> Tensors:
    layers = dict.fromkeys(key.rsplit(".", 1)[0] for key in theirs)
    names = dict(zip(layers, BOX, strict=False))
    found = {f"box_encoder.{_replaced(key, names)}": t for key, t in theirs.items()}
    if "bbox_uncond_vector" in root:
        found["box_encoder.null"] = root["bbox_uncond_vector"].flatten()
    return found


def _split_lidar(theirs: Tensors) -> tuple[Tensors, Tensors]:
    """(the ends under our names, the rest under theirs)."""
    ends = {key: t for key, t in theirs.items() if any(key.startswith(f"{name}.") for name in ENDS)}
    return {_replaced(key, ENDS): t for key, t in ends.items()}, {k: t for k, t in theirs.items() if k not in ends}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def _replaced(key: str, names: Mapping[str, str]) -> str:
    """The key with the first of `names` that it holds, as whole levels, replaced."""
    for theirs, ours in names.items():
        if f".{theirs}." in f".{key}":
            return f".{key}".replace(f".{theirs}.", f".{ours}.", 1)[1:]
    return key


def _compare(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, source: str) -> None:
    odd = sorted(set(found) ^ set(wanted)) or [key for key, t in wanted.items() if t.shape != found[key].shape]
    if odd:
        got, want = (tuple(side[odd[0]].shape) if odd[0] in side else "none" for side in (found, wanted))
        raise InputError(f"{source}: {name}: {odd[0]} is {got}, wanted is {want}; give the authors' checkpoint")
