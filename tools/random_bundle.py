"""A full-size model with random weights, in the public checkpoint's layout: the real path without real weights.

    python tools/random_bundle.py sd21 DIR [--placeholders] [--dtype bfloat16]
    python tools/random_bundle.py mobi DIR      (or pbe, its base; or mobi-tiny, the same layout with narrow networks)

File names, keys and configurations are those of the public folders, also where the libraries have moved on since: the
text encoder's keys begin with `text_model.` and hold `position_ids`, the VAE's attention says query, key, value and
proj_attn, the tokenizer is vocab.json, merges.txt and special_tokens_map.json. Only the safety checker is left out. Every
tensor is drawn, rounded and written by itself, so that memory stays at one tensor.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

import random_pbe
from graft_common.checkpoint import FORMAT
from graft_common.errors import InputError
from graft_common.files import atomic_path, write_bytes
from graft_common.rng import generator
from tiny.text import required_words
from tiny.tokenizer import END, START, byte_alphabet, vocabulary

ENTRIES = 49_408
PLACEHOLDERS = ("<lesion>", "<skin>")
SCALE = 0.02
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

UNET = {
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False, "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "norm_num_groups": 32, "out_channels": 3, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
TEXT = {
    "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": 0, "dropout": 0.0, "eos_token_id": 2,
    "initializer_factor": 1.0, "initializer_range": 0.02, "layer_norm_eps": 1e-05, "max_position_embeddings": 77,
    "model_type": "clip_text_model", "pad_token_id": 1, "torch_dtype": "float32",
}  # fmt: skip
SCHEDULER = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
    "trained_betas": None,
}  # fmt: skip
FEATURES = {
    "crop_size": 224, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": 224,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What tells one public checkpoint from another: diffusers' version then, and the parts' configurations."""

    version: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    scheduler: dict[str, Any]
    pad: str


MODELS = {
    "sd14": Model(
        "0.2.2",
        UNET | {"attention_head_dim": 8, "cross_attention_dim": 768},
        VAE | {"sample_size": 512},
        TEXT
        | {"hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
           "num_hidden_layers": 12, "projection_dim": 768},
        SCHEDULER,
        END,
    ),
    "sd21": Model(
        "0.8.0",
        UNET
        | {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "dual_cross_attention": False,
           "num_class_embeds": None, "only_cross_attention": False, "use_linear_projection": True},
        VAE | {"sample_size": 768},
        TEXT
        | {"hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
           "num_hidden_layers": 23, "projection_dim": 512},
        SCHEDULER | {"prediction_type": "epsilon"},
        "!",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Write a full-size random model in the public layout."""

    model: tyro.conf.Positional[Literal["sd14", "sd21", "pbe", "mobi", "mobi-tiny"]]
    """Which checkpoint: Stable Diffusion 1.4, or 2.1-base; Paint-by-Example; MObI on it, full size or narrow."""
    folder: tyro.conf.Positional[Path]
    """Folder to write; must be empty or new."""
    placeholders: bool = False
    """Add the tokens <lesion> and <skin>, with a row of the embedding each (sd14, sd21)."""
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Precision on disk."""
    seed: int = 0
    """Seed of the weights."""


def write(options: Options) -> None:
    """Write the whole folder; `model_index.json` comes last, so that an unfinished one is no bundle.

    Raises:
        InputError: the folder holds something, or placeholders are asked for where there is no text.
    """
    folder = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not empty; choose a new folder")
    if options.model in random_pbe.NAMES:
        write_pbe(options)
        return
    model = MODELS[options.model]
    extra = PLACEHOLDERS if options.placeholders else ()
    write_tokenizer(folder / "tokenizer", model, extra)
    text = model.text | {"vocab_size": ENTRIES + len(extra)}
    stamp = {"_diffusers_version": model.version}
    configs = {
        "unet/config.json": model.unet | stamp,
        "vae/config.json": model.vae | stamp,
        "text_encoder/config.json": text,
        "scheduler/scheduler_config.json": model.scheduler | stamp,
        "feature_extractor/preprocessor_config.json": FEATURES,
    }
    for name, content in configs.items():
        write_json(folder / name, content)
    parts = {
        "text_encoder/model.safetensors": text_shapes(text),
        "unet/diffusion_pytorch_model.safetensors": unet_shapes(model.unet),
        "vae/diffusion_pytorch_model.safetensors": vae_shapes(model.vae),
    }
    for number, (name, shapes) in enumerate(parts.items()):
        write_tensors(folder / name, shapes, DTYPES[options.dtype], filler(options.seed, number))
    write_json(folder / "model_index.json", index(model.version))


def write_pbe(options: Options) -> None:
    """Paint-by-Example, and MObI's two files beside it."""
    if options.placeholders:
        raise InputError(f"--placeholders: {options.model} has no tokenizer; leave it out")
    folder, dtype = options.folder, DTYPES[options.dtype]
    configs = random_pbe.configs(options.model, UNET, VAE, SCHEDULER)
    for name, content in configs.items():
        write_json(folder / name, content)
    unet, vae = configs["unet/config.json"], configs["vae/config.json"]
    encoder = random_pbe.encoder_state(configs["image_encoder/config.json"])
    parts: dict[str, tuple[Shapes, dict[str, Any] | None]] = {
        "unet/diffusion_pytorch_model.safetensors": (unet_shapes(unet), None),
        "vae/diffusion_pytorch_model.safetensors": (vae_shapes(vae), None),
        "image_encoder/model.safetensors": (shapes_of(encoder), None),
    }
    for name, (tensors, settings) in random_pbe.own_states(options.model, unet, vae).items():
        parts[name] = shapes_of(tensors), settings
    for number, (name, (shapes, settings)) in enumerate(parts.items()):
        write_tensors(folder / name, shapes, dtype, filler(options.seed, number), settings)
    write_json(folder / "model_index.json", random_pbe.model_index())


def index(version: str) -> dict[str, Any]:
    """model_index.json: the pipeline's parts and whose classes they are."""
    return {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": version,
        "feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": False,
        "safety_checker": [None, None], "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip


def write_tokenizer(folder: Path, model: Model, extra: tuple[str, ...]) -> None:
    """The three public files, and added_tokens.json where there are placeholders."""
    ids, merges = public_vocabulary()
    word = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    start, end = {"content": START, **word}, {"content": END, **word}
    write_json(
        folder / "special_tokens_map.json",
        {"bos_token": start, "eos_token": end, "pad_token": model.pad, "unk_token": end},
    )
    own = {"__type": "AddedToken"}
    settings = {
        "add_prefix_space": False, "bos_token": own | start, "do_lower_case": True, "eos_token": own | end,
        "errors": "replace", "model_max_length": 77, "pad_token": END, "tokenizer_class": "CLIPTokenizer",
        "unk_token": own | end,
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings)
    write_bytes(folder / "vocab.json", json.dumps(ids, ensure_ascii=False).encode())
    write_bytes(folder / "merges.txt", "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]).encode())
    if extra:
        write_json(folder / "added_tokens.json", {token: len(ids) + i for i, token in enumerate(extra)})


def public_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) in the public order and size, tiny-sd's merges first.

    The rest are pairs of bytes beyond ASCII: no plain English text is split otherwise than by tiny-sd.
    """
    letters = byte_alphabet()
    _, merges = vocabulary(required_words())
    room = ENTRIES - 2 * len(letters) - 2
    beyond = [c for c in letters if ord(c) > 126]
    known = {a + b for a, b in merges}
    more = ((a, b + ending) for ending in ("", "</w>") for a in beyond for b in beyond if a + b + ending not in known)
    merges = merges + [pair for pair, _ in zip(more, range(room - len(known)), strict=False)]
    tokens = [*letters, *(c + "</w>" for c in letters), *dict.fromkeys(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


Shapes = dict[str, tuple[tuple[int, ...], bool]]  # key -> (shape, is it floating point)


def unet_shapes(config: dict[str, Any]) -> Shapes:
    """Keys and shapes of the UNet: diffusers' own."""
    from diffusers import UNet2DConditionModel

    return _shapes(lambda: UNet2DConditionModel.from_config(config))


def vae_shapes(config: dict[str, Any]) -> Shapes:
    """Keys and shapes of the VAE, its attention under the names of the time."""
    from diffusers import AutoencoderKL

    return {_renamed(key): value for key, value in _shapes(lambda: AutoencoderKL.from_config(config)).items()}


def text_shapes(config: dict[str, Any]) -> Shapes:
    """Keys and shapes of the text encoder under `text_model.`, position_ids first (eight bytes each, so aligned)."""
    from transformers import CLIPTextConfig, CLIPTextModel

    own = _shapes(lambda: CLIPTextModel(CLIPTextConfig(**config)))
    inner = {key.removeprefix("text_model."): value for key, value in own.items()}
    ids = {"embeddings.position_ids": ((1, config["max_position_embeddings"]), False)}
    return {f"text_model.{key}": value for key, value in (ids | inner).items()}


def _shapes(build: Callable[[], nn.Module]) -> Shapes:
    with torch.device("meta"):
        return shapes_of(build().state_dict())


def shapes_of(tensors: dict[str, Tensor]) -> Shapes:
    """Keys and shapes of tensors, which may be on the meta device."""
    return {key: (tuple(t.shape), t.is_floating_point()) for key, t in tensors.items()}


def _renamed(key: str) -> str:
    for now, then in OLD_ATTENTION.items():
        key = key.replace(now, then)
    return key


def filler(seed: int, part: int) -> Callable[[str, tuple[int, ...]], Tensor]:
    """Values by key: gains 1, biases 0, weights N(0, 0.02^2), small enough that no step overflows."""
    gen = generator(seed, part)

    def fill(key: str, shape: tuple[int, ...]) -> Tensor:
        if key.endswith("position_ids"):
            return torch.arange(shape[-1]).expand(shape)
        if key.endswith(".bias"):
            return torch.zeros(shape)
        if len(shape) == 1:
            return torch.ones(shape)
        return torch.randn(shape, generator=gen).mul_(SCALE)

    return fill


def write_tensors(
    path: Path, shapes: Shapes, dtype: torch.dtype, fill: Callable[[str, tuple[int, ...]], Tensor],
    settings: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """A safetensors file, one tensor in memory at a time: length of the header, header as JSON, tensors.

    Args:
        settings: what stands in the header of a file of ours, as `graft_common.checkpoint` writes it.
    """
    metadata = {"format": "pt"}
    if settings is not None:
        metadata["graft"] = json.dumps({"format": FORMAT, "config": settings}, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for key, (shape, floating) in shapes.items():
        kind = dtype if floating else torch.int64
        end = at + torch.Size(shape).numel() * kind.itemsize
        header[key] = {"dtype": CODES[kind], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as beside, beside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for chunk in _bytes(shapes, dtype, fill):
            file.write(chunk)


def _bytes(shapes: Shapes, dtype: torch.dtype, fill: Callable[[str, tuple[int, ...]], Tensor]) -> Iterator[memoryview]:
    for key, (shape, floating) in shapes.items():
        tensor = fill(key, shape)
        tensor = tensor.to(dtype) if floating else tensor.long()
        yield tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def write_json(path: Path, content: dict[str, Any]) -> None:
    """As the libraries write it: indented, sorted."""
    write_bytes(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def main(argv: list[str] | None = None) -> int:
    """Write the folder and print what it takes; 2 when it cannot be."""
    options = tyro.cli(Options, args=argv)
    try:
        write(options)
    except InputError as why:
        print(f"random_bundle: {why}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"{options.folder}: {options.model} with random weights, {size / 1e9:.2f} GB, {options.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
