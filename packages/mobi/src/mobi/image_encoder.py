"""Reference picture -> its condition token: Paint-by-Example's frozen image encoder (mobi spec 2.6)."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

SIDE = 224  # of the reference, whatever the weights
MEAN, STD = tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD)
FEATURE_FOLDERS = ("feature_extractor", "image_processor")
# The published files say `model.vision_model.`; transformers 5 has no such level any more.
RENAMED = {r"^model\.vision_model\.": "model."}


def load_image_encoder(folder: Path, dtype: torch.dtype) -> PaintByExampleImageEncoder:
    """From `folder/config.json` and its safetensors.

    Raises:
        ValueError: a weight is missing, left over or of another shape, or the encoder takes pictures of another size.
    """
    config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    if config.image_size != SIDE:
        raise ValueError(f"image_encoder takes pictures of {config.image_size} pixels; references are {SIDE}")
    encoder, found = PaintByExampleImageEncoder.from_pretrained(
        folder, config=config, dtype=dtype, key_mapping=RENAMED, local_files_only=True, use_safetensors=True,
        output_loading_info=True,
    )  # fmt: skip
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            raise ValueError(f"image_encoder has {what.replace('_', ' ')}: {min(map(str, found[what]))}, ...")
    return encoder


def check_features(folder: Path) -> None:
    """Compare the bundle's preprocessing, under either of its folder names, with what references get: CLIP's.

    Raises:
        ValueError: it is missing, or normalises otherwise.
    """
    names = [folder / name / "preprocessor_config.json" for name in FEATURE_FOLDERS]
    path = next((p for p in names if p.is_file()), None)
    if path is None:
        raise ValueError(f"{' or '.join(FEATURE_FOLDERS)} has no preprocessor_config.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, want in (("image_mean", MEAN), ("image_std", STD)):
        got = content.get(key)
        if not (isinstance(got, list) and len(got) == 3 and all(abs(a - b) < 1e-4 for a, b in zip(got, want, strict=True))):
            raise ValueError(f"{path.parent.name} says {key} {got}; only CLIP's {list(want)} is known")


@torch.no_grad()
def reference_tokens(
    encoder: Any, reference: Float[Tensor, "B 3 224 224"]
) -> tuple[Float[Tensor, "B 1 token"], Float[Tensor, "1 1 token"]]:
    """(token of each CLIP-normalised picture, the frozen vector that stands for none), in the encoder's precision."""
    weight = encoder.proj_out.weight
    return encoder(reference.to(weight.device, weight.dtype), return_uncond_vector=True)
