"""Weights in diffusers' folder layout: found by name, loaded, saved so that diffusers' own pipeline loads them.

A bundle is looked up in this order: a name that an installed package ships (`tiny-sd`), an existing folder, a hub id (which
must contain `/` and is fetched only because it was named). Nothing asks whether a bundle is tiny.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.errors import InputError
from graft_common.files import atomic_path
from graft_common.provenance import folder_digest

INDEX = "model_index.json"
# What `load` reads, and so what is fetched and what the digest covers: a snapshot of a hub id may also hold other precisions
# (model.fp16.safetensors), a safety checker, or files of its own, more or fewer of them on another machine.
FILES = (
    INDEX, "scheduler/scheduler_config.json", "tokenizer/*", "unet/config.json", "vae/config.json",
    "text_encoder/config.json",
    *(
        f"{part}/{stem}{end}"
        for part, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model"))
        for end in (".safetensors", ".safetensors.index.json", "-[0-9]*-of-[0-9]*.safetensors")
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """A text-to-image model in parts, on one device, in evaluation mode, without gradients for its parameters.

    Attributes:
        name: shipped name, hub id, or base name of the folder.
        folder: where it was loaded from.
        unet, vae, text_encoder, tokenizer: diffusers and transformers objects.
        schedule: content of scheduler/scheduler_config.json.
        alphas_cumprod: (train steps,) float64, on the CPU.
    """

    name: str
    folder: Path
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    schedule: dict[str, Any]
    alphas_cumprod: Float[Tensor, "N"]

    @property
    def factor(self) -> int:
        """Pixels per latent cell along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Latent channels."""
        return int(self.vae.config.latent_channels)

    @property
    def size(self) -> int:
        """The side in pixels that the model was trained at."""
        return int(self.unet.config.sample_size) * self.factor

    @property
    def prediction_type(self) -> str:
        """What the UNet's output means: "epsilon" or "v_prediction"."""
        return self.schedule.get("prediction_type", "epsilon")

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    def weights(self) -> dict[str, str]:
        """Name and digest for the run record."""
        return {"name": self.name, "sha256": digest(self.folder)}


def digest(folder: Path, *more: str) -> str:
    """One sha256 over the files of a bundle that `load` reads, and over those that fit the patterns `more`."""
    return folder_digest(folder, only=(*FILES, *more))


def shipped() -> dict[str, Path]:
    """name -> folder of every bundle that the core and the installed methods ship (methods are not imported)."""
    roots = [Path(__file__).parent / "weights"]
    for point in entry_points(group="graft.methods"):
        spec = find_spec(point.module.split(".")[0])
        roots += [Path(place) / "weights" for place in (spec.submodule_search_locations if spec else None) or ()]
    found = {path.parent.name: path.parent for root in roots for path in sorted(root.glob(f"*/{INDEX}"))}
    return dict(sorted(found.items()))


def find(weights: str, files: Sequence[str] = FILES) -> tuple[str, Path]:
    """(name, folder) of a bundle.

    Args:
        files: patterns of what is fetched of a hub id: what the bundle's layout needs.

    Raises:
        InputError: neither a shipped name, nor a folder with a model_index.json, nor a hub id that can be fetched.
    """
    names = shipped()
    if weights in names:
        return weights, names[weights]
    folder = Path(weights)
    if folder.is_dir():
        if not (folder / INDEX).is_file():
            raise InputError(f"--weights {weights}: the folder has no {INDEX}; give a folder that diffusers can load")
        return folder.resolve().name, folder
    if "/" in weights and not folder.exists() and not weights.startswith((".", "/", "~")):
        return weights, _fetch(weights, files)
    raise InputError(
        f"--weights {weights}: no such bundle; give a folder, a hub id with a '/', or one of the shipped: {', '.join(names)}"
    )


def _fetch(hub_id: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except Exception as why:  # the hub client raises many kinds: offline, gated, misspelt
        reason = (str(why).strip().splitlines() or [type(why).__name__])[0]
        raise InputError(
            f"--weights {hub_id}: could not be fetched ({reason}); check the id or give a local folder"
        ) from why


def load(weights: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Bundle:
    """Load a Stable Diffusion style bundle (UNet2DConditionModel, AutoencoderKL, CLIPTextModel, CLIPTokenizer).

    The UNet and the text encoder get `dtype`; the VAE stays in float32, since its rounding would show in the picture.

    Raises:
        InputError: unknown bundle, or a part is missing or damaged.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging

    name, folder = find(weights)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob("*.safetensors")) and (old := next((folder / part).glob("*.bin"), None)):
            raise InputError(
                f"--weights {weights}: {part}/{old.name} is a pickle, which is never read; turn it into safetensors with "
                "`tools/convert_checkpoint.py state`"
            )
    local: dict[str, Any] = {"local_files_only": True, "low_cpu_mem_usage": True, "use_safetensors": True}
    try:
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype, **local)
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32, **local)
        text = CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", dtype=dtype, local_files_only=True, use_safetensors=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)
        schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        if not isinstance(schedule, dict) or "beta_schedule" not in schedule:  # diffusers would take its own default
            raise ValueError("scheduler_config.json names no beta_schedule")
        table = DDPMScheduler(**{k: schedule[k] for k in _SCHEDULE_KEYS if k in schedule}).alphas_cumprod.double()
    except Exception as why:  # safetensors, json and the two libraries each raise their own
        reason = (str(why).strip().splitlines() or [type(why).__name__])[0]
        raise InputError(f"--weights {weights}: cannot be loaded ({reason}); check that the folder is complete") from why
    for part in (unet, vae, text):
        part.to(device).eval().requires_grad_(False)
    return Bundle(name, folder, unet, vae, text, tokenizer, schedule, table)


_SCHEDULE_KEYS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
)  # fmt: skip


def save(
    folder: Path, *, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any, half: bool = True
) -> None:
    """Write a folder that `StableDiffusionPipeline.from_pretrained(folder)` loads without arguments.

    Weights are stored in half precision when `half`; the text encoder's config then says float32, since transformers
    otherwise loads it in the stored precision while diffusers does not.
    """
    from diffusers import StableDiffusionPipeline

    from graft_common.bundle_layout import plain_tokenizer, store_dtype

    pipeline = StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    plain_tokenizer(tokenizer, folder / "tokenizer")
    if half:
        store_dtype(folder, torch.float16)
    for config in folder.glob("*/config.json"):
        content = json.loads(config.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)  # where it was loaded from on this machine is nobody's business
        if config.parent.name == "text_encoder":
            content["dtype"] = "float32"
        with atomic_path(config) as beside:
            beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def encode(
    bundle: Bundle, pixels: Float[Tensor, "B 3 H W"], generator: torch.Generator | None = None
) -> Float[Tensor, "B c h w"]:
    """Scaled latents, float32: the posterior mean, or a sample of it when a (CPU) generator is given.

    Args:
        pixels: in [-1, 1]; H and W multiples of the bundle's factor.
    """
    posterior = bundle.vae.encode(pixels.to(bundle.device, torch.float32)).latent_dist
    z = posterior.mean
    if generator is not None:
        z = z + posterior.std * torch.randn(z.shape, generator=generator).to(z.device)
    return (z - (getattr(bundle.vae.config, "shift_factor", None) or 0.0)) * bundle.vae.config.scaling_factor


@torch.no_grad()
def decode(bundle: Bundle, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
    """Scaled latents -> pixels, clamped to [-1, 1], float32."""
    z = latents.to(bundle.device, torch.float32) / bundle.vae.config.scaling_factor
    return bundle.vae.decode(z + (getattr(bundle.vae.config, "shift_factor", None) or 0.0)).sample.clamp(-1, 1)


@torch.no_grad()
def text_states(bundle: Bundle, prompts: list[str]) -> Float[Tensor, "B L D"]:
    """Last hidden states, padded to the tokenizer's length as the pipeline pads them.

    Raises:
        InputError: a prompt is longer than the model's positions (nothing is cut off in silence).
    """
    length = bundle.tokenizer.model_max_length
    for prompt in prompts:
        count = len(bundle.tokenizer(prompt, verbose=False).input_ids)
        if count > length:
            raise InputError(f"--prompt {prompt!r}: has {count} tokens with begin and end, {length} fit; shorten it")
    ids = bundle.tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt").input_ids
    return bundle.text_encoder(ids.to(bundle.device)).last_hidden_state
