"""Config -> Denoiser: load the bundle where it shall run, settle size and grid."""

from functools import lru_cache

import torch

from graft_common.bundle import Bundle, load
from graft_common.errors import InputError
from graft_common.inversion import dpm_grid
from tficomp.config import MethodConfig, ModelConfig
from tficomp.denoise import Denoiser


def load_bundle(config: ModelConfig) -> Bundle:
    """The bundle on the device and in the precision that the configuration asks for; kept for the next call.

    Raises:
        InputError: unknown weights, or a GPU asked for where there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is available; use --device cpu or auto")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    auto = torch.float32 if device == "cpu" else torch.bfloat16
    return _load(config.weights, device, auto if config.dtype == "auto" else getattr(torch, config.dtype))


@lru_cache(maxsize=2)
def _load(weights: str, device: str, dtype: torch.dtype) -> Bundle:
    return load(weights, device, dtype)


def working_size(config: MethodConfig, bundle: Bundle) -> int:
    """--size or the bundle's own.

    Raises:
        InputError: not a multiple of the VAE's factor, or too few latent cells for the network's levels.
    """
    size = bundle.size if config.size is None else config.size
    least = bundle.factor * 2 ** len(bundle.unet.config.block_out_channels)
    if size < least or size % bundle.factor:
        raise InputError(f"--size {size}: must be a multiple of {bundle.factor} and at least {least} for {bundle.name}")
    return size


def denoiser(config: MethodConfig, bundle: Bundle) -> Denoiser:
    """The counted network on the solver's grid.

    Raises:
        InputError: the schedule has no such grid.
    """
    try:
        grid = dpm_grid(bundle.alphas_cumprod, config.steps, config.grid)
    except ValueError as why:
        raise InputError(f"--steps {config.steps} --grid {config.grid} on {bundle.name}: {why}") from why
    network = torch.compile(bundle.unet) if config.compile else None
    return Denoiser(bundle, grid, network=network)
