"""The verb `train`: what MObI adds to the base, or with it the base's whole UNet, on camera and lidar (mobi spec 2.8, 2.9, 3)."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from graft_common.checkpoint import load_weights, read_config
from graft_common.console import progress
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.noising import Prediction, noised, target
from graft_common.rng import generator
from mobi.box_encoder import BoxEncoder
from mobi.bundle import Base, Joint, Mobi, Parts, fill, save_mobi, start_mobi
from mobi.config_train import TrainConfig
from mobi.denoise import sampler
from mobi.draws import Draw, Pool, draw, make_pool
from mobi.joint import KEY, Pass, interleave, reference_constants
from mobi.kept_codes import Kept, frozen_digest, keep_codes, placed, unplaced
from mobi.objects import read_objects
from mobi.training import Say, open_training, run_fit, same_run, tell
from mobi.training_data import Cache

MODEL = "model"
PROBES = 8  # batches of the held-out loss
PROBE = 523  # keys their draws


def run_train(config: TrainConfig, command: list[str], say: Say | None = None) -> dict[str, Any]:
    """Train and write `out/model`, a folder that --weights of the other verbs takes; an interrupted run goes on with --resume.

    Args:
        say: is given a line now and then instead of a progress bar.

    Raises:
        InputError: see `training.open_training`; the range autoencoder does not fit; a class has no objects; a checkpoint is
            there that was begun with something else.
    """
    config.check()
    middle_norm = read_middle_norm(config.range_vae)
    objects = read_objects(config.prepared)
    make_pool(objects, np.arange(len(objects.rows)), config.class_names())  # said before the crops are cut
    start = open_training(config, command, say)
    run, cache, out = start.run, start.cache, Path(config.out)
    run.read("range_vae", config.range_vae)
    mobi = begin(config, start.base, middle_norm)
    mobi.unet.register_to_config(sample_size=cache.size // mobi.factor)
    pool = make_pool(cache.objects, start.learn, config.class_names())
    same_run(start.settings | {"frozen": frozen_digest(mobi)}, out)
    with run.stage("codes"), progress("codes", len(cache.state), quiet=config.json or say is not None) as advance:
        kept = keep_codes(cache, mobi, cache.folder, config.reference_views, advance)
    module = Trainee(mobi.unet, mobi.box_encoder, config.parts)
    alphas = sampler(mobi.schedule, "ddim").alphas_cumprod.float()
    code, prediction = (mobi.channels, cache.size // mobi.factor), mobi.schedule.get("prediction_type", "epsilon")
    step_loss = StepLoss(cache, kept, pool, config, alphas, code, prediction)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    counts = f"{len(start.learn)} boxes of {cache.size} pixels, {len(start.held)} held out"
    tell(say, f"{counts}; {trained / 1e6:.2f} M parameters learn")
    probe = held_out_loss(module, step_loss, cache, start.held, config)
    with run.stage("train"):
        fitted = run_fit(module, step_loss, config, start.device, (0.9, 0.999), 0.01, say)
    with run.stage("write"):
        save_mobi(out / MODEL, mobi, config.half)
    run.outputs = [p.relative_to(out).as_posix() for p in sorted((out / MODEL).rglob("*")) if p.is_file()]
    run.measures = {
        "boxes": len(start.learn), "held_out": len(start.held), "unusable": int((~cache.usable).sum()), "parameters": trained,
        "loss": round(fitted.loss, 6), "seconds": round(fitted.seconds, 1), "held_out_loss_before": probe,
        "held_out_loss": held_out_loss(module, step_loss, cache, start.held, config),
    }  # fmt: skip
    return run.write(out)


def read_middle_norm(range_vae: Path) -> bool:
    """What the range autoencoder's header says. Raises InputError where the file is missing, damaged or another."""
    if not range_vae.is_file():
        raise InputError(f"--range-vae {typed(range_vae)}: no such file; make it with `graft-mobi train-range-vae`")
    found = read_config(range_vae).get("middle_norm")
    if type(found) is not bool:
        raise InputError(f"--range-vae {typed(range_vae)}: was not written by train-range-vae; give its range_vae.safetensors")
    return found


def begin(config: TrainConfig, base: Base, middle_norm: bool) -> Mobi:
    """The model that training begins with: zero gates, the range autoencoder as trained.

    Raises:
        InputError: --range-vae does not fit the base.
    """
    joint = Joint(order=config.order, drops=config.drops, hidden=config.hidden, middle_norm=middle_norm, parts=config.parts)
    mobi = start_mobi(base, config.seed, joint)
    fill(mobi.range_vae.state_dict(), load_weights(config.range_vae), config.range_vae)
    return mobi


class Trainee(nn.Module):
    """Denoiser and box encoder as one call, for devices and mixed precision.

    Args:
        parts: what learns of the UNet: what MObI adds ("adapters"), or all of it (mobi spec 2.8); the box encoder does.
    """

    def __init__(self, unet: Any, box_encoder: BoxEncoder, parts: Parts = "adapters") -> None:
        super().__init__()
        self.unet = unet
        self.box_encoder = box_encoder
        self.parts = parts
        self.box_encoder.requires_grad_(True)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(parts == "all" or ".joint." in name)

    def forward(
        self, x: Float[Tensor, "BB c2 h w"], t: Int[Tensor, " BB"], reference: Float[Tensor, "BB 1 token"],
        box: Float[Tensor, "BB 8 3"], no_box: Bool[Tensor, " BB"],
    ) -> Float[Tensor, "BB c h w"]:  # fmt: skip
        """Predicted noise (or velocity), interleaved.

        Args:
            x: noisy latents, context latents, keep mask.
            reference: tokens, the frozen vector where the reference is left out.
            no_box: True where the learned vector stands for the box.
        """
        with torch.autocast(x.device.type, enabled=False):  # box numbers would lose their last digits
            told = self.box_encoder(box.float())
            token = torch.where(no_box[:, None], self.box_encoder.null, told)
        tokens = torch.cat((reference, token[:, None].to(reference.dtype)), dim=1)
        # with its one key a frozen reference attention needs no queries; one that learns needs its gradients
        how = Pass(reference_constants(self.unet, reference)) if self.parts == "adapters" else Pass()
        return self.unet(x, t, encoder_hidden_states=tokens, cross_attention_kwargs={KEY: how}, return_dict=False)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class StepLoss:
    """Mean squared error of the noise (or of the velocity, where the base predicts that) over both modalities, as
    `graft_common.training.Loss`.

    Attributes:
        alphas: (T,) cumulative products of the base's schedule.
        code: (channels, side) of a latent.
        prediction: the base's.
    """

    cache: Cache
    kept: Kept
    pool: Pool
    config: TrainConfig
    alphas: Float[Tensor, " T"]
    code: tuple[int, int]
    prediction: Prediction = "epsilon"

    def __call__(self, module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        """The loss of one drawn batch."""
        channels, side = self.code
        batch = draw(self.pool, self.cache.objects, self.config, gen, step, (channels, side, side), len(self.alphas))
        device = next(module.parameters()).device
        clean = self.clean(batch)
        inputs = [part.to(device) for part in self.inputs(batch, clean)]
        wanted = target(clean, batch.eps.flatten(0, 1), self.level(batch), self.prediction)
        return nn.functional.mse_loss(module(*inputs).float(), wanted.to(device))

    def clean(self, batch: Draw) -> Float[Tensor, "BB c h w"]:
        """What is to be painted, interleaved."""
        return interleave(placed(self.kept.camera, batch.rows, batch.views), unplaced(self.kept.lidar, batch.rows))

    def level(self, batch: Draw) -> Float[Tensor, "BB 1 1 1"]:
        """Signal power of each sample's time."""
        return self.alphas[batch.t.flatten()][:, None, None, None]

    def inputs(self, batch: Draw, clean: Float[Tensor, "BB c h w"]) -> tuple[Tensor, ...]:
        """`Trainee.forward`'s arguments, on the CPU."""
        cache, kept, rows, views = self.cache, self.kept, batch.rows, batch.views
        context = interleave(placed(kept.camera_context, rows, views), unplaced(kept.lidar_context, rows))
        keep = interleave(
            cache.keep(np.stack([cache.camera_keep[i, v] for i, v in zip(rows, views, strict=True)]), self.code[1]),
            cache.keep(np.stack([cache.lidar_keep[i] for i in rows]), self.code[1]),
        )
        noisy = noised(clean, batch.eps.flatten(0, 1), self.level(batch))
        told = [
            kept.black if k < 0 else torch.from_numpy(kept.tokens[k, v].copy())
            for k, v in zip(batch.references, batch.versions, strict=True)
        ]
        reference = torch.where(batch.no_reference[:, None], kept.none, torch.stack(told))[:, None]
        box = interleave(placed(cache.camera_box, rows, views), unplaced(cache.lidar_box, rows))
        no_box = batch.no_box.repeat_interleave(2)
        return torch.cat((noisy, context, keep), 1), batch.t.flatten(), interleave(reference, reference), box, no_box


@torch.no_grad()
def held_out_loss(
    module: nn.Module, loss: StepLoss, cache: Cache, held: Int64[np.ndarray, " k"], config: TrainConfig
) -> float | None:
    """Mean loss over the same draws from the held-out rows at every call; None where they hold no object of the classes."""
    told = {cache.objects.rows[k].kind for k in held if k < cache.objects.count}
    classes = [name for name in config.class_names() if name in told]
    if not classes:
        return None
    aside = dataclasses.replace(loss, pool=make_pool(cache.objects, held, classes))
    module.eval()
    return round(float(np.mean([float(aside(module, generator(PROBE, k), k)) for k in range(PROBES)])), 6)
