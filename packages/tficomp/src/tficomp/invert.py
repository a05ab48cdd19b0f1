"""The verb `invert`: an image to noise and back, and how far the way back misses it."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graft_common import bundle as weights
from graft_common.bundle import Bundle
from graft_common.checkpoint import save_weights
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.inversion import DpmGrid, dpm_walk, exceptional_prompt
from graft_common.metrics import psnr
from graft_common.pixels import read_picture, with_channels
from graft_common.provenance import public_config, stamp
from graft_common.raster import write_png
from tficomp.config_study import InvertConfig, as_method
from tficomp.denoise import Denoiser
from tficomp.frame import choose_frame, from_frame, to_frame
from tficomp.panel import panel, to_uint8
from tficomp.weights import denoiser, opened, working_size

GridName = Literal["time", "integer", "lambda"]
Order = Literal[1, 2]
GRIDS: tuple[GridName, ...] = ("time", "integer", "lambda")
ORDERS: tuple[Order, ...] = (1, 2)


@dataclass(frozen=True, eq=False)
class Trip:
    """To noise and back: (T+1, 1, c, h, w) each, row k = k steps to go, and the grid walked on."""

    inverted: Float[Tensor, "K 1 c h w"]
    back: Float[Tensor, "K 1 c h w"]
    grid: DpmGrid


def round_trip(z: Float[Tensor, "1 c h w"], network: Denoiser, words: Tensor, order: int) -> Trip:
    """Invert z and sample back, under one condition without guidance."""
    m = network.plain(words)
    inverted = dpm_walk(m, z, network.grid, order, invert=True)
    return Trip(inverted, dpm_walk(m, inverted[-1], network.grid, order).flip(0), network.grid)


def report(trip: Trip, start: int, pixels: Tensor, round_vae: Tensor, bundle: Bundle) -> dict[str, float]:
    """How far off: latents at k = 0 and k = T' (RMS), pixels against the input and the VAE's round trip (dB)."""
    made = weights.decode(bundle, trip.back[0]).cpu()

    def rms(k: int) -> float:
        return float((trip.back[k] - trip.inverted[k]).square().mean().sqrt())

    return {
        "latent_rms": rms(0),
        "latent_rms_at_t_start": rms(start),
        "psnr_to_input": float(psnr(made, pixels)),
        "psnr_to_vae_round_trip": float(psnr(made, round_vae)),
    }


def run_invert(config: InvertConfig, command: list[str]) -> dict[str, Any]:
    """The verb `invert`; writes trajectory.safetensors, reconstruction.png, panel.png, report.json and run.json.

    trajectory.safetensors holds `inverted` and `back` (T+1, c, h, w), row k = k steps to go, with `time`, `alpha` and
    `sigma` (T+1,) of the nodes, and the configuration in its header.
    """
    config.check()
    out = checked_out(config.out)
    record = Run(command, config, "graft-tficomp")
    with record.stage("read"):
        picture = read_picture(config.image, window=config.window, slice_index=config.slice)
        record.read("image", config.image)
    method = as_method(config)
    bundle, first = opened(method, record)
    size, networks = working_size(method, bundle), {(method.grid, method.order): first}
    if config.compare:
        for grid in GRIDS:
            for order in ORDERS:
                networks.setdefault((grid, order), denoiser(replace(method, grid=grid, order=order), bundle))
    height, width = picture.pixels.shape[1:]
    frame = choose_frame((height, width), (0, 0, width, height), size, 0.0)
    pixels = torch.from_numpy(to_frame(with_channels(picture.pixels, 3), frame))[None]
    with record.stage("encode"):
        z = weights.encode(bundle, pixels)
        plain_vae = weights.decode(bundle, z).cpu()
        if config.prompt.strip():
            words = weights.text_states(bundle, [config.prompt])
        else:
            words = exceptional_prompt(bundle.text_encoder, bundle.tokenizer)[:, :1]
    trips, entries = [], []
    with record.stage("walk"), progress("invert", len(networks), quiet=config.json) as advance:
        for (grid, order), network in networks.items():
            trips.append(round_trip(z, network, words, order))
            entries.append({"grid": grid, "order": order} | report(trips[-1], method.start, pixels, plain_vae, bundle))
            advance(1)
    trip, made = trips[0], weights.decode(bundle, trips[0].back[0]).cpu()
    note = stamp("tficomp", config.seed, record.weights, record.digests)
    with record.stage("write"):
        tensors = {"inverted": trip.inverted[:, 0], "back": trip.back[:, 0]}
        nodes = {"time": trip.grid.time, "alpha": trip.grid.alpha, "sigma": trip.grid.sigma}
        save_weights(
            out / "trajectory.safetensors", tensors | nodes, public_config(asdict(config)) | {"provenance": note}
        )
        new, spot = from_frame(made[0].numpy(), frame)
        whole = with_channels(picture.pixels, 3).copy()
        whole[(slice(None), *spot)] = new
        write_png(out / "reconstruction.png", to_uint8(whole), note)
        drawn = panel([_cells(pixels, plain_vae, made, trip)], "inversion and back (synthetic)")
        write_png(out / "panel.png", np.asarray(drawn), note)
        vae = float(psnr(plain_vae, pixels))
        write_json(out / "report.json", {"schema": 1, "synthetic": True, "vae_psnr": vae, "round_trips": entries})
    record.outputs = ["trajectory.safetensors", "reconstruction.png", "panel.png", "report.json"]
    calls = networks[(method.grid, method.order)].calls
    record.measures = {
        "network_calls": calls,
        "vae_psnr": vae,
        "round_trips": entries,
        "size": size,
        "t_start": method.start,
    }
    return record.write(out)


def _cells(pixels: Tensor, plain_vae: Tensor, made: Tensor, trip: Trip) -> list[tuple[str, np.ndarray]]:
    noise = trip.inverted[-1, 0, :3].cpu().numpy()
    return [
        ("input", pixels[0].numpy()),
        ("VAE round trip", plain_vae[0].numpy()),
        ("noise (3 latent channels)", np.clip(noise / 3, -1, 1)),
        ("inverted and back", made[0].numpy()),
        ("4 x difference to VAE's", np.clip(4 * (made - plain_vae)[0].numpy(), -1, 1)),
    ]
