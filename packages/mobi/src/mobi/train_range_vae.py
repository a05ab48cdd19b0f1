"""The verb `train-range-vae`: the range crops' first and last stage around a frozen autoencoder (mobi spec 2.7, 3)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from graft_common.rangeview import NUSCENES, metres, reduce, restore_depth, restore_intensity
from graft_common.training import Loss
from mobi.bundle import RANGE, Joint, save_range, start_mobi
from mobi.config_train import TrainRangeVaeConfig
from mobi.range_vae import RangeVae
from mobi.training import Say, open_training, run_fit, same_run, tell
from mobi.training_data import Cache

MEASURED = 64  # held-out crops, at most


def run_train_range_vae(config: TrainRangeVaeConfig, command: list[str], say: Say | None = None) -> dict[str, Any]:
    """Train and write `out/range_vae.safetensors`; an interrupted run goes on with --resume.

    Args:
        say: is given a line now and then instead of a progress bar.

    Raises:
        InputError: see `training.open_training`; a checkpoint is there that was begun with something else.
    """
    start = open_training(config, command, say)
    run, cache, out = start.run, start.cache, Path(config.out)
    same_run(start.settings, out)
    mobi = start_mobi(start.base, config.seed, Joint(middle_norm=config.middle_norm))
    module = Trainee(mobi.range_vae)
    loss = step_loss(cache, start.learn, config, (mobi.channels, cache.size // mobi.factor))
    tell(say, f"{len(start.learn)} range crops of {cache.size} pixels, {len(start.held)} held out")
    before = errors(module.range_vae, cache, start.held[:MEASURED])
    with run.stage("train"):
        fitted = run_fit(module, loss, config, start.device, (0.5, 0.9), 0.0, say)
    save_range(out, mobi)
    run.outputs = [RANGE]
    run.measures = {
        "crops": len(start.learn), "held_out": len(start.held), "unusable": int((~cache.usable).sum()),
        "parameters": sum(p.numel() for p in module.range_vae.parameters()), "loss": round(fitted.loss, 6),
        "seconds": round(fitted.seconds, 1), "before": before,
        "after": errors(module.range_vae, cache, start.held[:MEASURED]),
    }  # fmt: skip
    return run.write(out)


class Trainee(nn.Module):
    """The range autoencoder as one call, for devices and mixed precision."""

    def __init__(self, range_vae: RangeVae) -> None:
        super().__init__()
        self.range_vae = range_vae.requires_grad_(True)

    def forward(self, x: Float[Tensor, "B 2 D D"], draws: Float[Tensor, "B c h w"]) -> tuple[Tensor, Tensor]:
        """(round trip through a sample of the posterior, its divergence from the standard normal, summed per crop)."""
        posterior = self.range_vae.encode(x)
        return self.range_vae.decode(posterior.mean + posterior.std * draws), posterior.kl()


def step_loss(cache: Cache, rows: Int64[np.ndarray, " m"], config: TrainRangeVaeConfig, code: tuple[int, int]) -> Loss:
    """Absolute error and `kl` times the divergence, each summed over a crop as in the paper, then over the crop's numbers.

    Args:
        rows: of the cache, drawn with replacement.
        code: (channels, side) of a latent.
    """
    channels, side = code

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        device = next(module.parameters()).device
        pick = rows[torch.randint(len(rows), (config.batch_size,), generator=gen).numpy()]
        x = cache.lidar_crops(pick.tolist())[0].to(device)
        draws = torch.randn(len(x), channels, side, side, generator=gen).to(device)
        made, divergence = module(x, draws)
        return (made.float() - x).abs().mean() + float(config.kl) * divergence.float().mean() / x[0].numel()

    return loss


@torch.no_grad()
def errors(range_vae: RangeVae, cache: Cache, rows: Int64[np.ndarray, " m"]) -> dict[str, float] | None:
    """Round-trip errors over the holes' pixels, after pooling to the sensor's, in metres and in 0..255; None without rows.

    depth: median absolute error where there is a return. intensity: root of the mean square.
    """
    if not len(rows):
        return None
    where = next(range_vae.parameters()).device
    depth, intensity = [], []
    for k in rows.tolist():
        x, keep = cache.lidar_crops([k])
        shape = (NUSCENES.rows, int(cache.width[k]))
        true, made = (reduce(part.cpu(), *shape)[0] for part in (x, range_vae(x.to(where)).clamp(-1, 1)))
        hole = reduce(1 - keep, *shape)[0, 0] > 0.5
        lo, hi = cache.band[k].tolist()
        far = [metres(restore_depth(part[0], lo, hi), NUSCENES) for part in (true, made)]
        back = hole & (far[0] > NUSCENES.near)
        depth.append((far[0] - far[1])[back].abs())
        intensity.append((restore_intensity(true[1]) - restore_intensity(made[1]))[hole])
    return {
        "depth_median_m": round(float(torch.cat(depth).median()), 4),
        "intensity_rmse": round(float(torch.cat(intensity).square().mean().sqrt()), 3),
    }
