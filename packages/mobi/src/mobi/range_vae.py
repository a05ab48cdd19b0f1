"""The camera's autoencoder with a new first and last stage for the two channels of a range crop (mobi spec 2.7)."""

from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float
from torch import Tensor, nn

CHANNELS = 2  # depth and intensity


def _row_conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Horizontal only: the rows of a block are copies of one beam."""
    return nn.Conv2d(channels_in, channels_out, kernel_size=(1, 5), padding=(0, 2))


class RowBlock(nn.Module):
    """Residual block of two 1 x 5 convolutions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = _row_conv(channels, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv2 = _row_conv(channels, channels)

    def forward(self, x: Float[Tensor, "B c H W"]) -> Float[Tensor, "B c H W"]:
        """Same shape."""
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        return self.conv2(nn.functional.silu(self.norm2(h))) + x


class RangeVae(nn.Module):
    """Encodes and decodes range crops through a frozen image autoencoder, of which it has the stages between.

    Only the new stages are its parameters and its state; the autoencoder is used in place and shared with the camera. 661,634
    parameters at full size.

    Args:
        vae: diffusers' `AutoencoderKL`.
        middle_norm: the normalisation and activation between the last two residual blocks, which the released weights have.
    """

    def __init__(self, vae: Any, middle_norm: bool = True) -> None:
        super().__init__()
        self._shared = (vae,)  # in a tuple, so that it is no submodule
        width, groups = vae.config.block_out_channels[0], vae.config.norm_num_groups
        self.head = nn.Sequential(_row_conv(CHANNELS, width), RowBlock(width, groups), RowBlock(width, groups))
        middle = [nn.GroupNorm(groups, width, eps=1e-6), nn.SiLU()] if middle_norm else []
        self.tail = nn.Sequential(
            RowBlock(width, groups), *middle, RowBlock(width, groups),
            nn.GroupNorm(groups, width, eps=1e-6), nn.SiLU(), _row_conv(width, CHANNELS),
        )  # fmt: skip

    @property
    def vae(self) -> Any:
        """The shared image autoencoder."""
        return self._shared[0]

    def encode(self, x: Float[Tensor, "B 2 D D"]) -> DiagonalGaussianDistribution:
        """Posterior over unscaled latents.

        Args:
            x: normalised depth and intensity in [-1, 1].
        """
        encoder = self.vae.encoder
        h = self.head(x)
        for block in encoder.down_blocks:
            h = block(h)
        h = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(h))))
        return DiagonalGaussianDistribution(self.vae.quant_conv(h) if self.vae.quant_conv is not None else h)

    def decode(self, z: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 2 D D"]:
        """Unscaled latents -> normalised depth and intensity, not clamped."""
        decoder = self.vae.decoder
        h = self.vae.post_quant_conv(z) if self.vae.post_quant_conv is not None else z
        h = decoder.mid_block(decoder.conv_in(h))
        for block in decoder.up_blocks:
            h = block(h)
        return self.tail(h)

    def forward(self, x: Float[Tensor, "B 2 D D"]) -> Float[Tensor, "B 2 D D"]:
        """Round trip through the posterior's mean."""
        return self.decode(self.encode(x).mean)


def codes(posterior: Any, scale: float, draws: Tensor | None = None) -> Float[Tensor, "B c h w"]:
    """Scaled latents of a posterior: its mean, or with standard normal `draws` a sample of it."""
    z = posterior.mean if draws is None else posterior.mean + posterior.std * draws
    return z * scale


@torch.no_grad()
def to_latents(
    vae: Any, range_vae: RangeVae, camera: Float[Tensor, "B 3 D D"], lidar: Float[Tensor, "B 2 D D"],
    draws: Float[Tensor, "B 2 c h w"] | None = None,
) -> tuple[Float[Tensor, "B c h w"], Float[Tensor, "B c h w"]]:  # fmt: skip
    """Scaled latents of camera and range crops, float32.

    Args:
        draws: standard normal numbers for a sample of the posteriors, camera then lidar; None takes their means.
    """
    where, scale = next(vae.parameters()).device, float(vae.config.scaling_factor)
    mine, other = (None, None) if draws is None else draws.to(where).unbind(1)
    z_camera = codes(vae.encode(camera.to(where, torch.float32)).latent_dist, scale, mine)
    return z_camera, codes(range_vae.encode(lidar.to(where, torch.float32)), scale, other)


@torch.no_grad()
def to_pixels(
    vae: Any, range_vae: RangeVae, camera: Float[Tensor, "B c h w"], lidar: Float[Tensor, "B c h w"]
) -> tuple[Float[Tensor, "B 3 D D"], Float[Tensor, "B 2 D D"]]:
    """Camera and range crops of scaled latents, float32, not clamped."""
    scale = float(vae.config.scaling_factor)
    return vae.decode(camera / scale).sample, range_vae.decode(lidar / scale)
