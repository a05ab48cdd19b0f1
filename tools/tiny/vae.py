"""The VAE of tiny-sd: AutoencoderKL, factor 4, four latent channels, trained on phantoms and photograph crops."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from graft_common.training import FitConfig, fit
from tiny.data import Drawn, jittered_crops

PHOTOS = 8  # of each batch of 32


def make() -> AutoencoderKL:
    """0.7 million parameters: 16 channels where the pixels are many, 64 where the latent is."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=True,
    )


def to_model(images: np.ndarray) -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W) float32 in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Autoencode(nn.Module):
    """Pictures and posterior noise in, training loss out; one forward, so that accelerate can wrap it."""

    def __init__(self, vae: AutoencoderKL, frozen_code: bool) -> None:
        super().__init__()
        self.vae = vae
        self.frozen_code = frozen_code

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x (n, 3, S, S) in [-1, 1], noise like the latent -> scalar."""
        if self.frozen_code:  # the latents of a finished encoder: the decoder sees what it will be given
            with torch.no_grad():
                z = self.vae.encode(x).latent_dist.mean
            return reconstruction_loss(self.vae.decode(z).sample.float(), x)
        posterior = self.vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * noise
        kl = posterior.kl().float().mean() / noise[0].numel()
        return reconstruction_loss(self.vae.decode(z).sample.float(), x) + 2e-4 * kl


def reconstruction_loss(out: Tensor, target: Tensor) -> Tensor:
    """L1 keeps edges, squared error is what PSNR counts; colour weighs extra, else green drifts to teal and dark skin to green.

    A drift of hue over a whole region is small in every pixel and plain to the eye, so it is also counted on 8 x 8 means.
    """
    error = out - target
    colour = error - error.mean(dim=1, keepdim=True)
    tone = F.avg_pool2d(error, 8)
    return error.abs().mean() + 4 * error.square().mean() + 4 * colour.square().mean() + 2 * tone.abs().mean()


def train(
    drawn: Drawn,
    folder: Path,
    config: FitConfig,
    start: AutoencoderKL | None = None,
    batch: int = 32,
    *,
    frozen_code: bool = False,
    compiled: bool = False,
    **fit_options,
):
    """Fit the VAE on phantoms and photograph crops, from new weights or from `start`.

    With `frozen_code` the latent code of `start` stays as it is and only the decoder goes on. Returns (VAE with averaged
    weights in eval mode, `Fitted`).
    """
    torch.manual_seed(config.seed)
    vae = (start or make()).to(memory_format=torch.channels_last)
    vae.train().requires_grad_(not frozen_code)
    vae.decoder.requires_grad_(True)
    size = drawn.images.shape[1]
    crops = jittered_crops(size, 20_000, seed=1)

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        del step
        pick = torch.randint(len(drawn.images), (batch - PHOTOS,), generator=gen).sort().values.numpy()
        photo = torch.randint(len(crops), (PHOTOS,), generator=gen).numpy()
        x = to_model(np.concatenate([drawn.images[pick], crops[photo]]))
        x = x.flip(-1) if torch.rand((), generator=gen) < 0.5 else x
        noise = torch.randn((batch, 4, size // 4, size // 4), generator=gen)
        device = next(module.parameters()).device
        return module(x.to(device, memory_format=torch.channels_last), noise.to(device))

    module = Autoencode(vae, frozen_code)
    if compiled:
        module.compile()
    fitted = fit(module, loss, config, folder, **fit_options)
    module.load_state_dict({**module.state_dict(), **fitted.average})
    return vae.eval().requires_grad_(False), fitted


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 64) -> Tensor:
    """Posterior means (n, 4, h, w) float32, not yet scaled."""
    device = next(vae.parameters()).device
    parts = [
        vae.encode(to_model(images[i : i + batch]).to(device, memory_format=torch.channels_last)).latent_dist.mean.cpu()
        for i in range(0, len(images), batch)
    ]
    return torch.cat(parts).contiguous()


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 64) -> np.ndarray:
    """(n, 4, h, w) unscaled -> (n, H, W, 3) uint8."""
    device = next(vae.parameters()).device
    parts = [vae.decode(latents[i : i + batch].to(device)).sample.cpu() for i in range(0, len(latents), batch)]
    return torch.cat(parts).add(1).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1).byte().numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Per-picture PSNR in dB of uint8 pictures (n, H, W, 3)."""
    error = ((a.astype(np.float32) - b.astype(np.float32)) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-6))


def patch_code(train_images: np.ndarray, images: np.ndarray, factor: int = 4, channels: int = 4) -> np.ndarray:
    """The plain alternative: `channels` principal components of factor x factor x 3 patches, fitted on training pictures."""

    def patches(x: np.ndarray) -> np.ndarray:
        n, h, w, c = x.shape
        x = x.reshape(n, h // factor, factor, w // factor, factor, c).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, factor * factor * c).astype(np.float32)

    base = patches(train_images)
    mean = base.mean(axis=0)
    _, _, axes = np.linalg.svd((base - mean)[:: max(1, len(base) // 100_000)], full_matrices=False)
    code = (patches(images) - mean) @ axes[:channels].T
    n, h, w, c = images.shape
    flat = (code @ axes[:channels] + mean).reshape(n, h // factor, w // factor, factor, factor, c)
    return flat.transpose(0, 1, 3, 2, 4, 5).reshape(n, h, w, c).round().clip(0, 255).astype(np.uint8)
