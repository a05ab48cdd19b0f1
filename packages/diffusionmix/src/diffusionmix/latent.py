"""The latent variant: both models work on a VAE's latents, and the object's mask is one more latent channel (spec 6).

A bundle is latent when it holds a `vae` folder (AutoencoderKL, as in every Stable Diffusion layout). Recipe: encode pictures with
`encode_object` and `encode_background`, train UNet2DModels on them with `clip_sample=False`, and put the VAE beside them with
`save_codec`. Boxes are rounded inwards to whole cells.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from graft_common.errors import InputError


@dataclass(frozen=True, eq=False)
class Codec:
    """Pixels <-> latents.

    Attributes:
        vae: AutoencoderKL in float32, in evaluation mode.
        channels: of a latent.
        factor: pixels per cell along one side.
    """

    vae: Any = field(repr=False)

    @property
    def channels(self) -> int:
        return int(self.vae.config.latent_channels)

    @property
    def factor(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Scaled latents (the posterior's mean) of pictures in [-1, 1]."""
        z = self.vae.encode(pixels.to(self.vae.device, torch.float32)).latent_dist.mean
        return (z - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pictures in [-1, 1]."""
        z = latents.to(self.vae.device, torch.float32) / self.vae.config.scaling_factor
        return self.vae.decode(z + self._shift).sample.clamp(-1, 1)

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)


def encode_background(codec: Codec, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
    """What a latent background model is trained on."""
    return codec.encode(pixels)


def encode_object(
    codec: Codec, pixels: Float[Tensor, "B 3 S S"], masks: Float[Tensor, "B 1 S S"]
) -> Float[Tensor, "B c1 s s"]:
    """What a latent object model is trained on: latents, and the mask as -1 or 1 where a cell is covered by half or more.

    Args:
        masks: 0 or 1.
    """
    cells = F.avg_pool2d(masks.float(), codec.factor) >= 0.5
    z = codec.encode(pixels)
    return torch.cat([z, cells.to(z) * 2 - 1], 1)


def load_codec(folder: Path, where: str, device: torch.device | str) -> Codec:
    """The VAE of a bundle.

    Raises:
        InputError: damaged or incomplete.
    """
    from diffusers import AutoencoderKL

    try:
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except Exception as why:  # safetensors, json and diffusers each raise their own
        reason = (str(why).strip().splitlines() or [type(why).__name__])[0]
        raise InputError(f"{where}: vae cannot be loaded ({reason}); copy the folder again") from why
    return Codec(vae.to(device).eval().requires_grad_(False))


def save_codec(vae: Any, folder: Path) -> None:
    """Make the bundle in `folder` a latent one."""
    vae.save_pretrained(folder / "vae")
