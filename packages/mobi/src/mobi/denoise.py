"""Crops -> painting: contexts and tokens once per sample, then the sampler's loop on camera and lidar at once (mobi spec 2.9)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.errors import InputError
from graft_common.rng import noise
from mobi.bundle import Mobi
from mobi.config_denoise import DenoiseConfig
from mobi.image_encoder import reference_tokens
from mobi.joint import KEY, Pass, interleave, reference_constants, separate
from mobi.range_vae import to_latents, to_pixels
from mobi.records import Crops, Painted

Number = int | float  # the tests' type checker takes `float` at its word
SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch as the network sees it; B scenes, camera and lidar interleaved where it says 2B.

    Attributes:
        context: (2B, c + 1, h, w) latents of the masked crops, then the keep mask, float32.
        reference: (2B, 1, token) each scene's picture, twice.
        no_reference: (1, 1, token) the frozen vector for none.
        box: (2B, 1, token) camera's and lidar's box.
        no_box: (1, 1, token) the learned vector for none.
    """

    context: Float[Tensor, "BB c1 h w"]
    reference: Float[Tensor, "BB 1 token"]
    no_reference: Float[Tensor, "1 1 token"]
    box: Float[Tensor, "BB 1 token"]
    no_box: Float[Tensor, "1 1 token"]

    def tokens(self, reference: bool, box: bool) -> Float[Tensor, "BB 2 token"]:
        """[reference, box], either replaced by what stands for none."""
        first = self.reference if reference else self.no_reference.expand_as(self.reference)
        second = self.box if box else self.no_box.expand_as(self.box)
        return torch.cat((first, second), dim=1)


@dataclass(frozen=True, eq=False)
class Branches:
    """The R network calls of a guided step, as one batch: the same for all steps.

    Attributes:
        weights: (R,) the prediction is their sum with these weights.
        context: (R 2B, c + 1, h, w).
        tokens: (R 2B, 2, token).
        how: the reference attention's constants, and whether the modalities see each other.
    """

    weights: tuple[Number, ...]
    context: Float[Tensor, "RBB c1 h w"]
    tokens: Float[Tensor, "RBB 2 token"]
    how: Pass


@torch.no_grad()
def inpaint(
    mobi: Mobi, crops: Crops, seeds: Sequence[int], settings: DenoiseConfig,
    advance: Callable[[int], None] | None = None,
) -> Painted:  # fmt: skip
    """Paint the holes of a batch; item i depends on its own crops and seed only (to rounding), not on its neighbours.

    Args:
        seeds: one per item.
        settings: steps, scales, sampler, posterior, cross_modal, compile.
        advance: called with 1 after each of the sampler's network calls.

    Raises:
        InputError: scales differ though the weights know only the joint drop.
        ValueError: sizes or numbers of items that do not fit.
    """
    reference, box = check_scales(mobi, settings)
    batch, side = crops.camera.shape[0], crops.camera.shape[-1]
    if len(seeds) != batch or side % mobi.factor:
        raise ValueError(
            f"got {len(seeds)} seeds for {batch} crops of side {side}; give one each, of a side divisible by {mobi.factor}"
        )
    shape = (2, mobi.channels, side // mobi.factor, side // mobi.factor)
    draws = torch.stack([noise(shape, seed, 1) for seed in seeds]) if settings.posterior == "sample" else None
    branches = guided(mobi, encode(mobi, crops, draws), reference, box, settings.cross_modal)
    unet = torch.compile(mobi.unet) if settings.compile else mobi.unet
    scheduler = sampler(mobi.schedule, settings.sampler)
    scheduler.set_timesteps(settings.steps, device=mobi.device)
    x = torch.stack([noise(shape, seed) for seed in seeds]).flatten(0, 1).to(mobi.device)  # (2B, c, h, w)
    for t in scheduler.timesteps:
        x = scheduler.step(predict(unet, x, t, branches), t, x).prev_sample
        if advance is not None:
            advance(1)
    camera, lidar = to_pixels(mobi.vae, mobi.range_vae, *separate(x))
    return Painted(camera.cpu(), lidar.cpu())


def check_scales(mobi: Mobi, settings: DenoiseConfig) -> tuple[Number, Number]:
    """Guidance scales of reference and box. Raises InputError where they differ and training never dropped one token alone."""
    reference, box = settings.scales(mobi.joint.guidance)
    if mobi.joint.drops == "joint" and box != reference:
        raise InputError(
            f"--box-guidance {box}: these weights were trained dropping reference and box only together, so "
            "separate scales mean nothing to them; leave it out or train with separate drops"
        )
    return reference, box


@torch.no_grad()
def encode(mobi: Mobi, crops: Crops, draws: Float[Tensor, "B 2 c h w"] | None = None) -> Encoded:
    """Contexts and tokens of a batch.

    Args:
        draws: standard normal numbers for a sample of the autoencoders' posteriors; None takes their means.
    """
    camera, lidar = to_latents(
        mobi.vae, mobi.range_vae, crops.camera * crops.camera_keep, crops.lidar * crops.lidar_keep, draws
    )
    latents = interleave(camera, lidar)
    keep = interleave(crops.camera_keep, crops.lidar_keep).to(latents)
    keep = torch.nn.functional.interpolate(keep, size=latents.shape[-2:], mode="nearest")
    reference, none = reference_tokens(mobi.image_encoder, crops.reference)
    box = mobi.box_encoder(interleave(crops.camera_box, crops.lidar_box).to(mobi.device))
    dtype = mobi.dtype
    return Encoded(
        torch.cat((latents, keep), dim=1), interleave(reference, reference).to(dtype), none.to(dtype),
        box[:, None].to(dtype), mobi.box_encoder.null[None, None].to(dtype),
    )  # fmt: skip


def scales(reference: Number, box: Number) -> list[tuple[Number, bool, bool]]:
    """(weight, reference told, box told) of each prediction that a guided step needs; their weights sum to 1.

    e(0,0) + reference (e(ref,0) - e(0,0)) + box (e(ref,box) - e(ref,0)), collected by prediction. Equal scales leave two, scales
    of 1 one.
    """
    terms = ((1 - reference, False, False), (reference - box, True, False), (box, True, True))
    return [term for term in terms if term[0] != 0]


def guided(mobi: Mobi, encoded: Encoded, reference: Number, box: Number, cross_modal: bool = True) -> Branches:
    """What every step's network call gets beside the noisy latents."""
    terms = scales(reference, box)
    tokens = torch.cat([encoded.tokens(*told) for _, *told in terms])
    constants = reference_constants(mobi.unet, tokens[:, :1])
    context = encoded.context.repeat(len(terms), 1, 1, 1)
    return Branches(tuple(weight for weight, *_ in terms), context, tokens, Pass(constants, cross_modal))


def predict(
    unet: Any, x: Float[Tensor, "BB c h w"], t: Any, branches: Branches
) -> Float[Tensor, "BB c h w"]:
    """Guided noise of interleaved latents at time t, float32."""
    count = len(branches.weights)
    batch = torch.cat((x.repeat(count, 1, 1, 1), branches.context), dim=1)
    noise_of = unet(
        batch.to(branches.tokens.dtype), t, encoder_hidden_states=branches.tokens,
        cross_attention_kwargs={KEY: branches.how}, return_dict=False,
    )[0].float()  # fmt: skip
    parts = noise_of.chunk(count)
    return sum((w * part for w, part in zip(branches.weights[1:], parts[1:], strict=True)), branches.weights[0] * parts[0])


def sampler(schedule: dict[str, Any], name: str) -> Any:
    """diffusers' scheduler on the bundle's noise table: times 981, 961, ..., 1 at 50 steps; the last one ends at alpha_bar[0]."""
    from diffusers import DDIMScheduler, PNDMScheduler

    table = {key: schedule[key] for key in SCHEDULE_KEYS if key in schedule}
    grid = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
    if name == "pndm":
        return PNDMScheduler(**table, **grid, skip_prk_steps=True)
    return DDIMScheduler(**table, **grid, clip_sample=False)
