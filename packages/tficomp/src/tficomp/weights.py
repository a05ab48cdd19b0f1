"""Config -> Denoiser: load the bundle where it shall run, settle size and grid."""

import json
from dataclasses import dataclass
from functools import lru_cache

import torch

from graft_common.bundle import Bundle, find, load
from graft_common.console import Run
from graft_common.device import pick_device, pick_dtype
from graft_common.errors import InputError
from graft_common.files import one_line, read_bytes
from graft_common.inversion import dpm_grid
from tficomp.config import MethodConfig, ModelConfig
from tficomp.denoise import Denoiser


@dataclass(frozen=True)
class Grid:
    """What placing needs of a bundle: its name, its own size in pixels, the VAE's factor, and the UNet's levels."""

    name: str
    size: int
    factor: int
    levels: int


def latent_grid(weights: str) -> Grid:
    """The grid of a bundle from its configuration files; no weights are read.

    Raises:
        InputError: no such bundle, or a configuration is damaged.
    """
    name, folder = find(weights)
    try:
        unet, vae = (json.loads(read_bytes(folder / part / "config.json")) for part in ("unet", "vae"))
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        return Grid(name, int(unet["sample_size"]) * factor, factor, len(unet["block_out_channels"]))
    except (ValueError, KeyError, TypeError) as why:
        raise InputError(
            f"--weights {weights}: its config.json cannot be read ({one_line(why)}); check that the folder is complete"
        ) from why


def grid_of(bundle: Bundle | Grid) -> Grid:
    """The grid of a bundle that may be loaded."""
    if isinstance(bundle, Grid):
        return bundle
    return Grid(bundle.name, bundle.size, bundle.factor, len(bundle.unet.config.block_out_channels))


def opened(config: MethodConfig, record: Run) -> tuple[Bundle, Denoiser]:
    """The bundle and its counted network, with the seconds and the weights' digest in the record.

    Raises:
        InputError: as `load_bundle`, `working_size` and `denoiser`.
    """
    with record.stage("load"):
        bundle = load_bundle(config)
        working_size(config, bundle)
        record.weights = bundle.weights()
    return bundle, denoiser(config, bundle)


def load_bundle(config: ModelConfig) -> Bundle:
    """The bundle on the device and in the precision that the configuration asks for; kept for the next call.

    Raises:
        InputError: unknown weights, or a GPU asked for where there is none.
    """
    device = pick_device(config.device)
    return _load(config.weights, device.type, pick_dtype(config.dtype, device))


@lru_cache(maxsize=2)
def _load(weights: str, device: str, dtype: torch.dtype) -> Bundle:
    return load(weights, device, dtype)


def working_size(config: MethodConfig, bundle: Bundle | Grid) -> int:
    """--size or the bundle's own.

    Raises:
        InputError: not a multiple of the VAE's factor, or too few latent cells for the network's levels.
    """
    grid = grid_of(bundle)
    size = grid.size if config.size is None else config.size
    least = grid.factor * 2**grid.levels
    if size < least or size % grid.factor:
        raise InputError(f"--size {size}: must be a multiple of {grid.factor} and at least {least} for {grid.name}")
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
