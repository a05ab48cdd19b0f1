"""The answers that the method is compared with, through the same placing, encoding and compositing (spec 7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from graft_common import bundle as weights
from graft_common.bundle import Bundle
from graft_common.console import Run
from graft_common.errors import InputError
from graft_common.inversion import DpmGrid, dpm_step, dpm_walk
from graft_common.pixels import paste, with_channels
from graft_common.rng import noise
from tficomp.composite import composite, keeps_stored
from tficomp.config import METHODS, MethodConfig, half_up
from tficomp.denoise import Denoiser, States
from tficomp.encode import encode
from tficomp.frame import from_frame
from tficomp.place import place
from tficomp.records import Inputs, Placed, Result
from tficomp.tficon import centred, run_tficon
from tficomp.weights import Grid, denoiser, working_size

WITHOUT_NETWORK = ("copy-paste", "poisson")
GROWN = 4  # pixels: the 3 that OpenCV's clone erodes off a mask, and one so that the lesion's outline is cloned too


def run_baseline(
    name: str,
    samples: Sequence[Inputs],
    config: MethodConfig,
    bundle: Bundle | Grid,
    seeds: Sequence[int],
    *,
    strength: int | float = 0.3,
    record: Run | None = None,
    counter: Denoiser | None = None,
) -> list[Result]:
    """Samples in one batch through a baseline; results as those of `compose_batch`.

    Args:
        name: one of `METHODS`. copy-paste and poisson use no network, and change no pixel outside the lesion (poisson:
            outside its box and 3 px of the frame around it).
        seeds: one for each sample, for the noise of sdedit, bld and tficon.
        bundle: loaded; for copy-paste and poisson its grid is enough.
        strength: of sdedit, the share of the T steps.

    Raises:
        InputError: an unknown name, or a setting that the baseline cannot take.
    """
    if name not in METHODS:
        raise InputError(f"--method {name}: no such baseline; choose from {', '.join(METHODS)}")
    record = record or Run([], config)
    if name == "tficon":
        if config.compile or (counter is not None and counter.network is not None):
            raise InputError("--compile: tficon edits the attention, which a compiled network cannot; leave it out")
        config = replace(config, canvas="black")  # the object alone on black is what TF-ICON inverts
    size = working_size(config, bundle)
    with record.stage("place"):
        placed = [place(s, config, size, bundle.factor) for s in samples]
    if name in WITHOUT_NETWORK:
        answer = pasted if name == "copy-paste" else cloned
        with record.stage(name):
            return [answer(s, p, config) for s, p in zip(samples, placed, strict=True)]
    if isinstance(bundle, Grid):
        raise TypeError(f"{name} needs the loaded bundle, not its grid")
    network = counter or denoiser(config, bundle)
    job = Job(samples, placed, config, bundle, network, tuple(seeds), strength, record)
    with record.stage("denoise"):
        z = RUNS[name](job)
    with record.stage("decode"):
        frames = weights.decode(bundle, z).cpu().numpy()
    with record.stage("composite"):
        return [composite(f, s, p, config) for f, s, p in zip(frames, samples, placed, strict=True)]


@dataclass(frozen=True, eq=False)
class Job:
    """What a baseline of the network works on."""

    samples: Sequence[Inputs]
    placed: Sequence[Placed]
    config: MethodConfig
    bundle: Bundle
    network: Denoiser
    seeds: tuple[int, ...]
    strength: int | float
    record: Run = field(repr=False)

    @property
    def prompts(self) -> list[str]:
        return [s.prompt for s in self.samples]


def copy_paste_frame(placed: Placed) -> Float[np.ndarray, "3 S S"]:
    """The relocated lesions on the background, on the working frame."""
    frame = placed.background.copy()
    for pixels, mask in zip(placed.objects, placed.object_masks, strict=True):
        frame = np.where(mask, pixels, frame)
    return frame


def clone_frame(placed: Placed) -> tuple[Float[np.ndarray, "3 S S"], Bool[np.ndarray, "S S"]]:
    """Gradient-domain clone of each lesion (Perez et al. 2003, OpenCV's NORMAL_CLONE), and where it may change pixels.

    OpenCV erodes the mask by 3 px, more than many lesions have on a small frame; it is grown by 4 before, so that the
    clone holds the lesion and the step at its outline: without it a bright rim takes the surroundings' grey. Around the
    pasted image its edge is repeated, so that the black canvas gives no gradient, and the frame is padded, so that a
    lesion at the border has a boundary to blend to. Works in 8 bits, as OpenCV does.
    """
    import cv2

    def bytes_of(pixels: np.ndarray) -> np.ndarray:
        padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        return np.ascontiguousarray(((padded.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8))

    pad, size = 2 * GROWN, placed.frame.size
    frame, changed = bytes_of(placed.background), np.zeros((size, size), bool)
    for pixels, mask, (left, top, right, bottom) in zip(placed.objects, placed.object_masks, placed.boxes, strict=True):
        around = ((0, 0), (top, size - bottom), (left, size - right))
        source = bytes_of(np.pad(pixels[:, top:bottom, left:right], around, mode="edge"))
        grown = ndimage.binary_dilation(np.pad(mask, pad), np.ones((3, 3), bool), iterations=GROWN)
        rows, cols = np.flatnonzero(grown.any(axis=1)), np.flatnonzero(grown.any(axis=0))
        (y0, y1), (x0, x1) = (rows[0], rows[-1] + 1), (cols[0], cols[-1] + 1)
        middle = (int(x0 + (x1 - x0) // 2), int(y0 + (y1 - y0) // 2))  # where the mask is: nothing moves
        frame = cv2.seamlessClone(source, frame, grown.astype(np.uint8) * 255, middle, cv2.NORMAL_CLONE)
        changed[max(y0 - pad, 0) : y1 - pad, max(x0 - pad, 0) : x1 - pad] = True
    inner = frame[pad : pad + size, pad : pad + size].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    return np.where(changed, inner, placed.background), changed


def pasted(inputs: Inputs, placed: Placed, config: MethodConfig) -> Result:
    """Copy-paste at the background's own resolution; outside the lesion its pixels are untouched."""
    result = composite(copy_paste_frame(placed), inputs, placed, config)
    return _only(result, result.copy_paste, result.lesion_mask)


def cloned(inputs: Inputs, placed: Placed, config: MethodConfig) -> Result:
    """Poisson blend; outside the lesion's box the background's pixels are untouched."""
    frame, changed = clone_frame(placed)
    result = composite(frame, inputs, placed, config)
    new, spot = from_frame(with_channels(frame, len(result.pixels)), placed.frame)
    cover, _ = from_frame(changed[None].astype(np.float32), placed.frame)
    whole, where = inputs.background.pixels.copy(), np.zeros(result.changed.shape, bool)
    whole[(slice(None), *spot)], where[spot] = new, cover[0] >= 0.5
    if keeps_stored(inputs) or config.paste_back:
        where &= np.logical_or.reduce([lesion.user_mask for lesion in inputs.lesions])
    return _only(result, whole, where)


def _only(result: Result, pixels: Float[np.ndarray, "C H W"], where: Bool[np.ndarray, "H W"]) -> Result:
    base = result.picture.pixels
    return replace(result, pixels=paste(base, pixels.astype(base.dtype), where.astype(np.float32)), changed=where)


def noised(
    z: Float[Tensor, "B c h w"], k: int, grid: DpmGrid, seeds: Sequence[int], *keys: int
) -> Float[Tensor, "B c h w"]:
    """q(z at k) = alpha_k z + sigma_k noise, one noise for each seed; at k = 0 z itself, which is that state (2.5)."""
    if k == 0:
        return z
    drawn = torch.stack([noise(tuple(z.shape[1:]), seed, *keys) for seed in seeds]).to(z)
    return float(grid.alpha[k]) * z + float(grid.sigma[k]) * drawn


def blended(
    z_bg: Float[Tensor, "B c h w"],
    m_user: Bool[Tensor, "B 1 h w"],
    m: Callable[[Tensor, int], Tensor],
    grid: DpmGrid,
    order: int,
    seeds: Sequence[int],
) -> States:
    """Blended latent diffusion (Avrahami et al. 2023): text alone inside the mask, the noised background outside it.

    Returns:
        k -> X_k for k = T .. 0; outside the mask X_k = q(z_bg at k) with fresh noise for each k, at k = 0 z_bg itself.
    """

    def kept(x: Tensor, k: int) -> Tensor:
        return torch.where(m_user, x, noised(z_bg, k, grid, seeds, 2, k))

    steps = grid.steps
    fresh = torch.stack([noise(tuple(z_bg.shape[1:]), seed, 1) for seed in seeds]).to(z_bg)
    x, old = kept(fresh, steps), None
    states = {steps: x}
    for k in range(steps, 0, -1):
        clean = m(x, k).to(x.dtype)
        second = order == 2 and old is not None
        x = kept(dpm_step(x, clean, old if second else None, k, k - 1, k + 1 if second else None, grid), k - 1)
        old, states[k - 1] = clean, x
    return states


def _encode_copy_paste(job: Job) -> Tensor:
    frames = torch.from_numpy(np.stack([copy_paste_frame(p) for p in job.placed]))
    return weights.encode(job.bundle, frames)


def _vae(job: Job) -> Tensor:
    return _encode_copy_paste(job)


def _sdedit(job: Job) -> Tensor:
    """SDEdit (Meng et al. 2022): the copy-paste noised to k = strength T, then sampled under the prompt, no mask."""
    z, grid = _encode_copy_paste(job), job.network.grid
    k = half_up(job.strength * grid.steps)
    m = _guided(job)
    return dpm_walk(m, noised(z, k, grid, job.seeds, 3), grid, job.config.order, start=k)[-1]


def _bld(job: Job) -> Tensor:
    latents = encode(job.placed, job.prompts, job.bundle)
    m = job.network.guided(latents.null, latents.text, job.config.guidance)
    return blended(latents.background, latents.m_user, m, job.network.grid, job.config.order, job.seeds)[0]


def _tficon(job: Job) -> Tensor:
    unit = job.bundle.factor * 2 ** (len(job.bundle.unet.config.block_out_channels) - 1)
    moved, shifts = centred(job.placed, job.bundle.factor, unit)
    latents = encode(moved, job.prompts, job.bundle)
    return run_tficon(latents, shifts, job.network, job.config, job.seeds)[0][0]


def _guided(job: Job) -> Callable[[Tensor, int], Tensor]:
    prompts = list(dict.fromkeys(job.prompts))
    states = weights.text_states(job.bundle, [*prompts, ""])
    text = states[[prompts.index(p) for p in job.prompts]]
    return job.network.guided(states[-1:].expand(len(text), -1, -1), text, job.config.guidance)


RUNS: dict[str, Callable[[Job], Any]] = {"vae": _vae, "sdedit": _sdedit, "bld": _bld, "tficon": _tficon}
