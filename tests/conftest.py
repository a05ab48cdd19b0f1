"""What every test gets: a seed, no network, GPU tests that skip with a reason, and tiny real diffusers networks."""

import random
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed the global generators; tests that care draw from their own."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    return 0


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that reaches for the network fails; local sockets, which torch uses between processes, still work."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test reached for the network: {address}")
        connect(self, address)

    def refuse(host: Any, *rest: Any, **more: Any) -> None:
        raise RuntimeError(f"a test reached for the network: {host}")

    resolve = socket.getaddrinfo

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        return resolve(host, *rest, **more) if host in (None, "localhost", "127.0.0.1", "::1") else refuse(host)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield


@pytest.fixture
def tiny_unet() -> Callable[..., Any]:
    """Build a `UNet2DConditionModel` of two levels with attention at both; keywords change its configuration."""

    def build(**changes: Any) -> Any:
        import torch
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        plan: dict[str, Any] = {
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 16),
            "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 12,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        }  # fmt: skip
        return UNet2DConditionModel(**plan | changes).eval()

    return build


@pytest.fixture
def tiny_vae() -> Callable[..., Any]:
    """Build an `AutoencoderKL` of factor 4 with 4 latent channels; keywords change its configuration."""

    def build(**changes: Any) -> Any:
        import torch
        from diffusers import AutoencoderKL

        torch.manual_seed(0)
        plan: dict[str, Any] = {
            "block_out_channels": (8, 8, 8), "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1,
            "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3,
        }  # fmt: skip
        return AutoencoderKL(**plan | changes).eval()

    return build
