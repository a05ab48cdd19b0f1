"""`DiffusionMixPipeline` in diffusers' manner, and the calls on arrays that it shares with the commands."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from jaxtyping import UInt8

from diffusionmix.box import Box, parse_box
from diffusionmix.compose import label_number, merge, merge_scenes, sample_backgrounds, sample_objects
from diffusionmix.config import MergeConfig, Mode
from diffusionmix.records import Merged, Mix, Snapshot
from diffusionmix.weights import MIX, network, read_mix
from graft_common.console import write_json
from graft_common.errors import InputError

__all__ = ["DiffusionMixOutput", "DiffusionMixPipeline", "merge", "merge_scenes", "sample_backgrounds", "sample_objects"]

SAMPLERS = {
    "DDPMScheduler": "ddpm", "DDIMScheduler": "ddim", "DPMSolverMultistepScheduler": "dpm++", "UniPCMultistepScheduler": "unipc",
}  # fmt: skip


@dataclass
class DiffusionMixOutput(BaseOutput):
    """What a call returns.

    Attributes:
        images: PIL pictures, or (B, H, W, 3) uint8 for output_type "np".
        masks: PIL masks of 0 and 255, or (B, H, W) bool.
        merged: the full records.
    """

    images: Any
    masks: Any
    merged: list[Merged]


class DiffusionMixPipeline(DiffusionPipeline):
    """An object model and a background model that paint one picture together.

    Args:
        object_unet: UNet2DModel with 4 input channels (RGB and mask) and 4 outputs, or 8 with a learned variance.
        object_scheduler: DDPMScheduler; DDIM, DPMSolverMultistep and UniPCMultistep choose another default solver.
        background_unet: UNet2DModel with 3 input channels and 3 or 6 outputs.
        background_scheduler: of the same number of training steps.

    `mix` holds what mix.json says: classes, training boxes, sizes. It is saved and loaded with the weights.
    """

    model_cpu_offload_seq = "object_unet->background_unet"
    object_unet: Any
    background_unet: Any
    object_scheduler: Any
    background_scheduler: Any

    def __init__(self, object_unet: Any, object_scheduler: Any, background_unet: Any, background_scheduler: Any) -> None:
        super().__init__()
        self.register_modules(
            object_unet=object_unet, object_scheduler=object_scheduler,
            background_unet=background_unet, background_scheduler=background_scheduler,
        )  # fmt: skip
        self.mix: dict[str, Any] = {"schema": 1, "classes": [], "boxes": [], "train": {}}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in diffusers (safetensors), with mix.json beside it."""
        super().save_pretrained(save_directory, *args, **kwargs)
        sizes = self.networks()
        content = self.mix | {"object_size": sizes.object_size, "background_size": list(sizes.background_size)}
        write_json(Path(save_directory) / MIX, content)
        for config in Path(save_directory).glob("*/config.json"):
            stored = json.loads(config.read_text(encoding="utf-8"))
            if stored.pop("_name_or_path", None) is not None:  # where it was loaded from is nobody's business
                write_json(config, stored)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in diffusers; mix.json comes along where the folder has one."""
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        if (folder / MIX).is_file():
            pipe.mix = read_mix(folder, str(folder))
        return pipe

    def networks(self) -> Mix:
        """The parts as checked networks.

        Raises:
            InputError: swapped or unfit models, or another number of training steps.
        """
        classes = tuple(self.mix["classes"])
        own = network(self.object_unet, self.object_scheduler, "object", "object_unet", classes=len(classes))
        other = network(self.background_unet, self.background_scheduler, "background", "background_unet", classes=0)
        if len(own.alphas_cumprod) != len(other.alphas_cumprod):
            raise InputError(
                f"background_scheduler: has {len(other.alphas_cumprod)} training steps, object_scheduler "
                f"{len(own.alphas_cumprod)}; give models of one number"
            )
        return Mix((own,), other, classes, np.asarray(self.mix["boxes"], np.float64).reshape(-1, 4))

    @torch.no_grad()
    def __call__(
        self,
        boxes: Sequence[Sequence[int] | str],
        num_inference_steps: int | None = None,
        tau: int = 10,
        r: int = 1,
        merge_start: float | None = 0.9,
        mode: Mode = "xstart",
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        callback: Callable[[int, int, dict[str, Any]], None] | None = None,
        output_type: str = "pil",
        *,
        seeds: Sequence[int] | None = None,
        labels: Sequence[int | str] | None = None,
        photo: UInt8[np.ndarray, "H W 3"] | None = None,
        **settings: Any,
    ) -> DiffusionMixOutput:
        """One picture per box.

        Args:
            boxes: (x, y, w, h) or "x,y,w,h", in pixels of the picture.
            num_inference_steps: T; default by solver.
            tau, r: length (meant for T = 250) and number of climbs.
            merge_start: denoised share at which merging begins; None never.
            mode: "xstart", "direct" or "literal".
            generator: seeds are drawn from it, one for each box (or one generator each); not with `seeds`.
            callback: called as callback(position, state, {"images": ..., "objects": ...}) after every reverse step.
            output_type: "pil" or "np".
            seeds: one each; default 0, 1, ...
            labels: class names or numbers.
            photo: background instead of the background model.
            settings: other fields of `MergeConfig`, e.g. sampler="ddim", soft=True.

        Raises:
            InputError: what `merge` refuses. TypeError: an unknown setting.
        """
        known = {f.name for f in fields(MergeConfig)}
        if unknown := sorted(set(settings) - known):
            raise TypeError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
        if output_type not in ("pil", "np"):
            raise ValueError(f"output_type is {output_type!r}; give 'pil' or 'np'")
        places = [parse_box(b) if isinstance(b, str) else Box(*(int(v) for v in b)) for b in boxes]
        mix = self.networks()
        own: dict[str, Any] = {"sampler": SAMPLERS.get(type(self.object_scheduler).__name__, "ddpm")} | settings
        config = MergeConfig(
            steps=num_inference_steps, tau=tau, r=r, start="none" if merge_start is None else merge_start, mode=mode, **own
        )
        numbers = None if labels is None else [label_number(mix, str(label)) for label in labels]
        drawn = list(seeds) if seeds is not None else _seeds(generator, len(places))
        told = None if callback is None else _told(callback)
        merged = merge(mix, places, drawn, config, numbers, photo, watch=told)
        images, masks = [m.image for m in merged], [m.mask for m in merged]
        if output_type == "np":
            return DiffusionMixOutput(images=np.stack(images), masks=np.stack(masks), merged=merged)
        from PIL import Image

        shown = [Image.fromarray(mask.astype(np.uint8) * np.uint8(255)) for mask in masks]
        return DiffusionMixOutput(images=[Image.fromarray(image) for image in images], masks=shown, merged=merged)


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    if generator is None:
        return list(range(count))
    several = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
    return [int(torch.randint(2**62, (1,), generator=g, device=g.device)) for g in several]


def _told(callback: Callable[[int, int, dict[str, Any]], None]) -> Callable[[Snapshot], None]:
    def watch(snapshot: Snapshot) -> None:
        callback(snapshot.position, snapshot.state, {"images": snapshot.background, "objects": snapshot.objects})

    return watch
