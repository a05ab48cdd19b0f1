"""The base of tiny-mobi: Paint-by-Example on camera crops, its UNet and its image encoder trained together from new weights.

The published base brings an encoder that has seen the world; this one learns what a reference says from the error of the
prediction that it helps to make. The box is told to the joint network only.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig

from graft_common.files import atomic_path, write_text
from graft_common.noising import noised, target
from graft_common.training import FitConfig, Fitted, fit
from mobi.bundle import features, index
from mobi.training_data import Cache, black_reference, draw_reference

TOKEN = 64
SCHEDULE = {
    "_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
    "prediction_type": "v_prediction",  # the noise would hide a picture's colours from a network this small
}  # fmt: skip
EMPTY, DROP = 0.25, 0.1  # shares of a batch: empty boxes with a black reference, and references not told
HOLE = 2.0  # further weight of the hole, where the noise cannot be read off the context
THUMB = 4  # side of the thumbnail that a token must tell, in cells


def make_unet() -> UNet2DConditionModel:
    """2.35 million parameters, 2.9 once wrapped; attention at 8 x 8, heads of 16 channels."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=9,
        out_channels=4,
        block_out_channels=(56, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TOKEN,
        attention_head_dim=6,
        norm_num_groups=8,
    )


def make_encoder() -> PaintByExampleImageEncoder:
    """0.3 million parameters, two thirds of them in the patches; so few layers that the published head has no block left."""
    return PaintByExampleImageEncoder(
        CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=3, patch_size=32, image_size=224,
            projection_dim=TOKEN, hidden_act="quick_gelu",
        )
    )  # fmt: skip


class Paint(nn.Module):
    """UNet, image encoder, and for training alone a thumbnail that the token must tell: without it, colours are learned late."""

    def __init__(self) -> None:
        super().__init__()
        self.unet, self.encoder, self.thumb = make_unet(), make_encoder(), nn.Linear(TOKEN, 3 * THUMB**2)

    def forward(self, x: Tensor, t: Tensor, reference: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, 9, h, w), t (n,), reference (n, 3, 224, 224), told (n,) -> (velocity, squared error of the thumbnails (n,))."""
        token, none = self.encoder(reference, return_uncond_vector=True)
        cells = F.adaptive_avg_pool2d(reference, THUMB).flatten(1)
        error = (self.thumb(token[:, 0]).float() - cells).square().mean(1)
        told = told.view(-1, 1, 1)
        return self.unet(x, t, encoder_hidden_states=torch.where(told, token, none.to(token.dtype))).sample.float(), error


@torch.no_grad()
def latents(vae: AutoencoderKL, cache: Cache, path: Path, batch: int = 16) -> dict[str, Tensor]:
    """Scaled posterior means of every camera crop and of its context, (n, V, 4, h, w), and the keep mask (n, V, 1, h, w), as
    `mobi.denoise.encode` makes them; computed once, zeros for rows that cannot be used."""
    if path.exists():
        return load_file(path)
    n, views, side = len(cache.state), cache.views, cache.size // 8
    where, by = next(vae.parameters()).device, float(vae.config.scaling_factor)
    out = {"target": torch.zeros(n, views, 4, side, side), "context": torch.zeros(n, views, 4, side, side)}
    out["keep"] = torch.zeros(n, views, 1, side, side)
    rows = cache.usable.nonzero()[0].tolist()
    for v in range(views):
        for i in range(0, len(rows), batch):
            some = rows[i : i + batch]
            camera, keep = cache.camera_crops(some, [v] * len(some))
            both = torch.cat((camera, camera * keep)).to(where)
            with torch.autocast(where.type, torch.bfloat16):
                z = vae.encode(both).latent_dist.mean.float().cpu() * by
            out["target"][some, v], out["context"][some, v] = z.chunk(2)
            out["keep"][some, v] = F.interpolate(keep, size=(side, side), mode="nearest")
    with atomic_path(path) as beside:
        save_file(out, beside)
    return out


def train(cache: Cache, z: dict[str, Tensor], folder: Path, config: FitConfig, batch: int, **options: Any) -> tuple[Paint, Fitted]:
    """Fit UNet and image encoder from new weights or from where they stopped; classes take turns, references are tracked."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        module = Paint()
    kinds = sorted({row.kind for row in cache.objects.rows[: cache.objects.count]})
    usable = cache.usable.nonzero()[0].tolist()
    pools = [[k for k in usable if k < cache.objects.count and cache.objects.rows[k].kind == kind] for kind in kinds]
    empty = [k for k in usable if k >= cache.objects.count]
    betas = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0).float()

    def draw(generator: torch.Generator) -> tuple[list[int], Tensor]:
        """(rows, references)."""
        dice, rows = torch.rand(batch, generator=generator).tolist(), []
        reference = black_reference().repeat(batch, 1, 1, 1)
        for k in range(batch):
            pool = empty if empty and dice[k] < EMPTY else pools[k % len(pools)]
            rows.append(pool[int(torch.randint(len(pool), (), generator=generator))])
        told = [k for k in range(batch) if rows[k] < cache.objects.count]
        if told:
            shown = [draw_reference(cache.objects, rows[k], generator) for k in told]
            reference[told] = cache.references(shown, generator)
        return rows, reference

    def loss(module: nn.Module, generator: torch.Generator, step: int) -> Tensor:
        del step
        rows, reference = draw(generator)
        views = torch.randint(cache.views, (batch,), generator=generator)
        clean, context, keep = (z[name][rows, views] for name in ("target", "context", "keep"))
        t = ((torch.arange(batch) + torch.rand(batch, generator=generator)) * 1000 / batch).long().clamp(max=999)
        t = t[torch.randperm(batch, generator=generator)]  # classes take turns: each must meet every time
        noise = torch.randn(clean.shape, generator=generator)
        a = kept[t].view(-1, 1, 1, 1)
        x = torch.cat((noised(clean, noise, a), context, keep), 1)
        told = torch.rand(batch, generator=generator) >= DROP
        device = next(module.parameters()).device
        out, thumb = module(x.to(device), t.to(device), reference.to(device), told.to(device))
        weight = 1 + HOLE * (1 - keep)
        weight = weight / weight.mean(dim=(1, 2, 3), keepdim=True)
        error = F.mse_loss(out, target(clean, noise, a, "v_prediction").to(device), reduction="none")
        return (weight.to(device) * error).mean() + 0.05 * thumb.mean()

    fitted = fit(module, loss, config, folder, **options)
    module.load_state_dict({**module.state_dict(), **fitted.average})
    return module.eval().requires_grad_(False), fitted


def save(folder: Path, vae: AutoencoderKL, model: Paint) -> None:
    """The folder as Paint-by-Example is published; model_index.json comes last."""
    vae.save_pretrained(folder / "vae")
    model.unet.save_pretrained(folder / "unet")
    model.encoder.save_pretrained(folder / "image_encoder")
    for name, content in (
        ("scheduler/scheduler_config.json", SCHEDULE), ("feature_extractor/preprocessor_config.json", features()),
        ("model_index.json", index()),
    ):  # fmt: skip
        write_text(folder / name, json.dumps(content, indent=2, sort_keys=True) + "\n")
