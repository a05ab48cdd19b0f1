"""Changes of a reference in training (mobi spec section 3): flip, turn, blur, brightness and contrast, each half the time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TURN = 30.0  # degrees, at most
BLURS = (3, 5, 7)  # pixels of the kernel at 224
LIGHT = 0.3  # brightness and contrast, at most


def augment(pictures: Float[Tensor, "B 3 h w"], generator: torch.Generator) -> Float[Tensor, "B 3 h w"]:
    """Augmented copies of pictures in [0, 1], each with its own draws; turned ones have black corners."""
    return torch.stack([_augment(picture[None], generator)[0] for picture in pictures])


def _augment(x: Float[Tensor, "1 3 h w"], generator: torch.Generator) -> Float[Tensor, "1 3 h w"]:
    flip, turn, blur, light = (torch.rand(4, generator=generator) < 0.5).tolist()
    # all drawn, used or not, so that what one picture draws does not depend on what it used
    angle, brightness, contrast = (2 * torch.rand(3, generator=generator) - 1).tolist()
    kernel = BLURS[int(torch.randint(len(BLURS), (), generator=generator))]
    if flip:
        x = x.flip(-1)
    if turn:
        x = turned(x, TURN * angle)
    if blur:
        x = blurred(x, kernel)
    if light:
        mean = x.mean()
        x = (x - mean) * (1 + LIGHT * contrast) + mean + LIGHT * brightness
    return x.clamp(0, 1)


def turned(x: Float[Tensor, "1 3 h w"], degrees: float) -> Float[Tensor, "1 3 h w"]:
    """Turned counter-clockwise about the middle, black beyond the edge."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    height, width = x.shape[-2:]
    where = x.new_tensor([[c, -s * height / width, 0.0], [s * width / height, c, 0.0]])
    grid = F.affine_grid(where[None], [1, 3, height, width], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def blurred(x: Float[Tensor, "1 3 h w"], kernel: int) -> Float[Tensor, "1 3 h w"]:
    """Gaussian of `kernel` pixels (odd), its deviation 0.3 ((kernel - 1) / 2 - 1) + 0.8, edges repeated."""
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    at = torch.arange(kernel, dtype=x.dtype) - (kernel - 1) / 2
    weight = torch.exp(-(at**2) / (2 * sigma**2))
    weight = (weight / weight.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    half = kernel // 2
    x = F.conv2d(F.pad(x, (half, half, 0, 0), mode="replicate"), weight, groups=3)
    return F.conv2d(F.pad(x, (0, 0, half, half), mode="replicate"), weight.transpose(-1, -2), groups=3)
