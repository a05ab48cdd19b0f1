"""The VAE of tiny-mobi: AutoencoderKL, factor 8, four latent channels, on camera crops and on range crops as pictures.

The range autoencoder later puts a first and a last stage of its own around this one's frozen middle. That middle reaches a range
crop's edges and steps of depth only if it has met some, so every fourth picture is one: depth, intensity, and their mean.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from graft_common.training import FitConfig, Fitted, fit
from mobi.training_data import Cache
from tiny.vae import reconstruction_loss

SIZE, CHANNELS = 128, 4
RANGE = 4  # every so many pictures of a batch are range crops
CONTEXT = 4  # and so many have their hole cut out, as the network's context has


def make() -> AutoencoderKL:
    """0.7 million parameters: 16 channels where the pixels are many, 56 where the latent is."""
    return AutoencoderKL(
        block_out_channels=(16, 24, 48, 56),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=True,
    )


class Autoencode(nn.Module):
    """Pictures, their keep masks and posterior noise in, training loss out; one forward, so that accelerate can wrap it."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, keep: Tensor, noise: Tensor) -> Tensor:
        """x (n, 3, D, D) in [-1, 1], keep (n, 1, D, D) with 0 in the hole, noise like the latent -> scalar.

        What lies in the hole, a fifth of a crop, counts twice: it is what will be painted.
        """
        posterior = self.vae.encode(x).latent_dist
        out = self.vae.decode(posterior.mean + posterior.std * noise).sample.float()
        hole = 1 - keep
        kl = posterior.kl().float().mean() / noise[0].numel()
        return reconstruction_loss(out, x) + 2 * reconstruction_loss(out * hole, x * hole) + 2e-4 * kl


def pictures(cache: Cache, rows: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(pictures in [-1, 1], keep masks) of these rows; a row's place decides whether it is a range crop, and whether it is cut."""
    parts, masks = [], []
    for k, row in enumerate(rows):
        if k % RANGE:
            x, keep = cache.camera_crops([row], [int(torch.randint(cache.views, (), generator=generator))])
            if torch.rand((), generator=generator) < 0.5:
                x, keep = x.flip(-1), keep.flip(-1)
        else:
            flat, keep = cache.lidar_crops([row])
            x = torch.cat((flat, flat.mean(1, keepdim=True)), 1)
        cut = (k // RANGE) % CONTEXT == 0
        parts.append(x * keep if cut else x)
        masks.append(torch.ones_like(keep) if cut else keep)
    return torch.cat(parts), torch.cat(masks)


def train(cache: Cache, folder: Path, config: FitConfig, batch: int, **options) -> tuple[AutoencoderKL, Fitted]:
    """Fit the VAE from new weights or from where it stopped; returns it with averaged weights and the scale that makes camera
    latents one standard deviation wide, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        vae = make()
    usable = torch.from_numpy(cache.usable.nonzero()[0].copy())
    side = SIZE // 8

    def loss(module: nn.Module, generator: torch.Generator, step: int) -> Tensor:
        del step
        rows = usable[torch.randint(len(usable), (batch,), generator=generator)].tolist()
        x, keep = pictures(cache, rows, generator)
        noise = torch.randn((batch, CHANNELS, side, side), generator=generator)
        device = next(module.parameters()).device
        return module(x.to(device), keep.to(device), noise.to(device))

    module = Autoencode(vae)
    fitted = fit(module, loss, config, folder, **options)
    module.load_state_dict({**module.state_dict(), **fitted.average})
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=scale(vae, cache, usable.tolist()))
    return vae, fitted


@torch.no_grad()
def scale(vae: AutoencoderKL, cache: Cache, rows: list[int], count: int = 256) -> float:
    """1 / standard deviation of the latents of some camera crops."""
    few = torch.tensor(rows[:: max(1, len(rows) // count)])
    device = next(vae.parameters()).device
    crops = (cache.camera_crops(part.tolist(), [0] * len(part))[0] for part in few.split(16))
    return float(1 / torch.cat([vae.encode(x.to(device)).latent_dist.mean for x in crops]).std())
