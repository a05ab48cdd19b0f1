"""What each stage of tiny-mobi can do, as one picture to look at: a column for each crop, cars first, then pedestrians."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from graft_common.raster import write_png
from graft_common.rng import noise
from mobi.denoise import sampler
from mobi.training_data import Cache
from tiny.mobi_base import SCHEDULE, Paint

COLUMNS = 16


def columns(cache: Cache, count: int) -> list[int]:
    """As many objects of each class, spread over the table."""
    kinds = sorted({row.kind for row in cache.objects.rows[: cache.objects.count]})
    found: list[int] = []
    for kind in kinds:
        rows = [k for k in cache.usable.nonzero()[0].tolist() if k < cache.objects.count and cache.objects.rows[k].kind == kind]
        found += rows[:: max(1, len(rows) // (count // len(kinds)))][: count // len(kinds)]
    return found


def sheet(path: Path, rows: Sequence[Tensor]) -> None:
    """Rows of (n, 1 or 3, D, D) in [-1, 1], one below the other."""
    strips = [row.expand(-1, 3, -1, -1).permute(2, 0, 3, 1).flatten(1, 2) for row in rows]
    pixels = torch.cat(strips).add(1).mul(127.5).round().clamp(0, 255).byte().numpy()
    write_png(path, np.ascontiguousarray(pixels), {"synthetic": True})


def _range(flat: Tensor) -> Tensor:
    return torch.cat((flat, flat.mean(1, keepdim=True)), 1)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, cache: Cache, path: Path) -> None:
    """Camera crops and what comes back, then the depth of range crops and what comes back."""
    rows = columns(cache, COLUMNS)
    camera, _ = cache.camera_crops(rows, [0] * len(rows))
    lidar = _range(cache.lidar_crops(rows)[0])
    back = [vae.decode(vae.encode(x).latent_dist.mean).sample for x in (camera, lidar)]
    sheet(path, (camera, back[0], lidar[:, :1], back[1][:, :1]))


@torch.no_grad()
def quality(vae: AutoencoderKL, cache: Cache, count: int = 64) -> str:
    """PSNR of camera crops' round trip, of the whole and inside the hole, and the median depth error of range pictures."""
    rows = columns(cache, count)
    camera, keep = cache.camera_crops(rows, [0] * len(rows))
    square = (vae.decode(vae.encode(camera).latent_dist.mean).sample.clamp(-1, 1) - camera).square().mean(1, keepdim=True)
    hole = 1 - keep
    whole, inside = square.mean(), (square * hole).sum() / hole.sum()
    lidar, keep = cache.lidar_crops(rows)
    off = (vae.decode(vae.encode(_range(lidar)).latent_dist.mean).sample[:, :1] - lidar[:, :1]).abs()
    depth = off[keep == 0].median()
    psnr = [10 * float(torch.log10(4 / value)) for value in (whole, inside)]
    return f"camera {psnr[0]:.1f} dB, in the hole {psnr[1]:.1f} dB; depth off by {float(depth):.3f} of the range picture's -1..1"


@torch.no_grad()
def painted(
    model: Paint, vae: AutoencoderKL, cache: Cache, codes: dict[str, Tensor], path: Path, steps: int = 30, guidance: float = 2.0
) -> None:
    """Truth, context, reference, and what the base paints from noise."""
    rows = columns(cache, COLUMNS)
    camera, keep = cache.camera_crops(rows, [0] * len(rows))
    reference = cache.references(rows)
    token, none = model.encoder(reference, return_uncond_vector=True)
    context = torch.cat([codes["context"][rows, 0], codes["keep"][rows, 0]], 1)
    x = torch.stack([noise(tuple(context[0, :4].shape), row) for row in rows])
    scheduler = sampler(SCHEDULE, "ddim")
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        both = torch.cat((x, context), 1).repeat(2, 1, 1, 1)
        told, untold = model.unet(both, t, encoder_hidden_states=torch.cat((token, none.expand_as(token)))).sample.chunk(2)
        x = scheduler.step(untold + guidance * (told - untold), t, x).prev_sample
    made = vae.decode(x / vae.config.scaling_factor).sample
    sheet(path, (camera, camera * keep, _small(cache, rows), made))


def _small(cache: Cache, rows: Sequence[int]) -> Tensor:
    pictures = torch.from_numpy(np.stack([cache.reference[k] for k in rows])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(pictures, (cache.size, cache.size), mode="bilinear", antialias=True)


def joint(folder: Path, cache: Cache, path: Path, guidance: float = 2.0) -> None:
    """Truth, context, reference and painting of the camera; truth, context and painting of the lidar's depth."""
    from mobi.bundle import load_mobi
    from mobi.config_denoise import DenoiseConfig
    from mobi.denoise import inpaint
    from mobi.records import Crops

    rows = columns(cache, COLUMNS)
    n = len(rows)
    camera, camera_keep = cache.camera_crops(rows, [0] * n)
    lidar, lidar_keep = cache.lidar_crops(rows)
    boxes = [torch.from_numpy(np.stack([part[k] for k in rows])) for part in (cache.camera_box[:, 0], cache.lidar_box)]
    crops = Crops(camera, lidar, camera_keep, lidar_keep, cache.references(rows), *boxes)
    settings = DenoiseConfig(weights=str(folder), device="cpu", steps=30, guidance=guidance)
    made = inpaint(load_mobi(settings), crops, list(range(n)), settings)
    depths = [part[:, :1] for part in (lidar, lidar * lidar_keep, made.lidar)]
    sheet(path, (camera, camera * camera_keep, _small(cache, rows), made.camera, *depths))
