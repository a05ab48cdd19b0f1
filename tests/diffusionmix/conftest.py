"""Random bundles of the real classes, and exact denoisers that need no network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch


def small_unet(channels: int, out: int | None = None, size: int = 16, classes: int = 0, seed: int = 0) -> Any:
    """A `UNet2DModel` of two levels with random weights."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    return UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=out or channels, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes or None,
    ).eval()  # fmt: skip


def small_pipeline(classes: tuple[str, ...] = (), learned: bool = False, object_size: int = 16, size: int = 32) -> Any:
    """A `DiffusionMixPipeline` with random weights."""
    from diffusers import DDPMScheduler

    from diffusionmix.pipeline import DiffusionMixPipeline

    times = 2 if learned else 1
    variance = "learned_range" if learned else "fixed_small"
    pipe = DiffusionMixPipeline(
        small_unet(4, 4 * times, object_size, len(classes), 1), DDPMScheduler(variance_type=variance),
        small_unet(3, 3 * times, size, 0, 2), DDPMScheduler(variance_type=variance),
    )  # fmt: skip
    pipe.mix = {
        "schema": 1, "classes": list(classes), "boxes": [[0.25, 0.25, 0.5, 0.5], [0.1, 0.4, 0.5, 0.5]], "train": {},
    }  # fmt: skip
    return pipe


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: Any) -> Path:
    """Folder with random weights, classes ("blob", "hole"), objects of 16 and backgrounds of 32 pixels."""
    folder = tmp_path_factory.mktemp("bundle") / "random"
    small_pipeline(("blob", "hole")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def learned_bundle(tmp_path_factory: Any) -> Path:
    """The same, unconditional and with a learned variance (8 and 6 output channels)."""
    folder = tmp_path_factory.mktemp("bundle") / "learned"
    small_pipeline(learned=True).save_pretrained(folder)
    return folder


ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


class Exact:
    """Noise that a Gaussian N(mean, variance) per pixel explains exactly; variance 0 is the constant picture (spec 7)."""

    def __init__(self, mean: torch.Tensor, variance: float = 0.0) -> None:
        self.mean, self.variance, self.calls = mean, variance, 0

    def __call__(self, x: torch.Tensor, time: torch.Tensor, class_labels: Any = None) -> Any:
        self.calls += 1
        a = float(ABAR[int(time)])
        eps = (1 - a) ** 0.5 * (x.double() - a**0.5 * self.mean) / (a * self.variance + 1 - a)
        return SimpleNamespace(sample=eps.to(x.dtype))


def exact_net(role: str, mean: torch.Tensor, variance: float = 0.0, clip: bool = False) -> Any:
    """`Net` around `Exact`; `mean` is (C, h, w)."""
    from diffusionmix.records import Net

    channels, height, width = mean.shape
    return Net(role, Exact(mean.double(), variance), ABAR, channels, (height, width), clip=clip)


def disc(size: int, radius: float, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
    """(size, size) with `high` inside a centred disc."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return torch.from_numpy(np.where(y * y + x * x <= radius * radius, high, low))


def exact_mix(size: int = 16, canvas: int = 32, radius: float = 5, variance: float = 0.0, clip: bool = False) -> Any:
    """Objects of colour 0.5 with a disc as mask, backgrounds of -0.5."""
    from diffusionmix.records import Mix

    picture = torch.cat([torch.full((3, size, size), 0.5, dtype=torch.float64), disc(size, radius)[None]])
    ground = torch.full((3, canvas, canvas), -0.5, dtype=torch.float64)
    return Mix((exact_net("object", picture, variance, clip),), exact_net("background", ground, variance, clip))


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """The builders of this file, for tests that need their own."""
    return SimpleNamespace(
        unet=small_unet, pipeline=small_pipeline, net=exact_net, disc=disc, abar=ABAR, exact=Exact, mix=exact_mix
    )
