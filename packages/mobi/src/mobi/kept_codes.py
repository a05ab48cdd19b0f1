"""What the frozen parts make of the crops, computed once: latents of targets and contexts, reference tokens.

Autoencoders and image encoder never change while the joint network learns, and a row has a few placements only, so a step needs
the denoiser alone. Latents are the posteriors' means, in half precision on disk.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor, nn

from graft_common.errors import InputError
from graft_common.files import parsing, typed
from graft_common.rng import generator
from mobi.bundle import Mobi
from mobi.image_encoder import reference_tokens
from mobi.training_data import DONE, Cache, black_reference

STATE = "state.npy"
CHUNK = 16  # rows encoded at once
FLUSH = 16  # chunks between two times that finished ones are marked on disk
AUGMENTED = 411  # keys the draws of the augmentations


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows as in `Cache`; c latent channels of h x w, scaled; K augmented versions of each reference.

    Attributes:
        camera, camera_context: of the crop and of the crop with its hole at 0, for each placement.
        lidar, lidar_context: likewise.
        tokens: of the objects' references.
        black: token of a removal's reference, without augmentation.
        none: the frozen vector that stands for no reference.
    """

    camera: Float16[np.ndarray, "n V c h w"]
    camera_context: Float16[np.ndarray, "n V c h w"]
    lidar: Float16[np.ndarray, "n c h w"]
    lidar_context: Float16[np.ndarray, "n c h w"]
    tokens: Float[np.ndarray, "objects K token"]
    black: Float[Tensor, " token"]
    none: Float[Tensor, " token"]


def keep_codes(cache: Cache, mobi: Mobi, folder: Path, versions: int, advance: Callable[[int], None] = lambda n: None) -> Kept:
    """Encode what is not encoded yet under `folder` and return the whole.

    Args:
        folder: a sub-folder named after the frozen weights is made in it.
        versions: K; each depends on row and number only.
        advance: called with the number of rows done, those of an earlier run included.

    Raises:
        InputError: a file in the folder is damaged.
    """
    folder = folder / f"codes-{frozen_digest(mobi)[:12]}-{versions}"
    layout = _layout(cache, mobi, versions)
    if not (folder / STATE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for name, (dtype, shape) in layout.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape).flush()
        np.save(folder / STATE, (cache.state != DONE).astype(np.uint8))  # nothing to do where a row is not usable
    with parsing(typed(folder), "arrays of codes"):
        state = np.load(folder / STATE)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+" if not state.all() else "r") for name in layout}
    if any(arrays[name].shape != shape for name, (_, shape) in layout.items()) or len(state) != len(cache.state):
        raise InputError(f"{typed(folder)}: is of another shape; remove it and run again")
    advance(int(state.sum()))
    if not state.all():
        _fill(arrays, state, folder, cache, mobi, versions, advance)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in layout}
    black, none = reference_tokens(mobi.image_encoder, black_reference())
    return Kept(**arrays, black=black.flatten().float().cpu(), none=none.flatten().float().cpu())


def frozen_digest(mobi: Mobi) -> str:
    """One sha256 over the weights of the autoencoders and the image encoder."""
    total = hashlib.sha256()
    for module in (mobi.vae, mobi.range_vae, mobi.image_encoder):
        for key, tensor in sorted(nn.Module.state_dict(module).items()):
            total.update(key.encode())
            total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _layout(cache: Cache, mobi: Mobi, versions: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    n, side = len(cache.state), cache.size // mobi.factor
    code, token = (mobi.channels, side, side), mobi.unet.config.cross_attention_dim
    placed, half = (n, cache.views, *code), np.float16
    return {
        "camera": (half, placed), "camera_context": (half, placed), "lidar": (half, (n, *code)),
        "lidar_context": (half, (n, *code)), "tokens": (np.float32, (cache.objects.count, versions, token)),
    }  # fmt: skip


def _fill(
    arrays: Mapping[str, Any], state: UInt8[np.ndarray, " n"], folder: Path, cache: Cache, mobi: Mobi, versions: int,
    advance: Callable[[int], None],
) -> None:  # fmt: skip
    to_do = np.flatnonzero(state == 0)

    def mark() -> None:
        for array in arrays.values():
            array.flush()
        np.save(folder / STATE, state)

    for number, start in enumerate(range(0, len(to_do), CHUNK)):
        rows = to_do[start : start + CHUNK].tolist()
        lidar, keep = cache.lidar_crops(rows)
        for v in range(cache.views):
            camera, camera_keep = cache.camera_crops(rows, [v] * len(rows))
            for name, shade in (("camera", 1), ("camera_context", camera_keep)):
                arrays[name][rows, v] = _halves(_camera(mobi, camera * shade))
        for name, shade in (("lidar", 1), ("lidar_context", keep)):
            arrays[name][rows] = _halves(_lidar(mobi, lidar * shade))
        for k in rows:
            if k < cache.objects.count:
                arrays["tokens"][k] = _tokens(cache, mobi, k, versions)
        state[rows] = 1
        advance(len(rows))
        if number % FLUSH == FLUSH - 1:
            mark()
    mark()


@torch.no_grad()
def _camera(mobi: Mobi, pixels: Float[Tensor, "B 3 D D"]) -> Float[Tensor, "B c h w"]:
    return mobi.vae.encode(pixels.to(mobi.device)).latent_dist.mean * float(mobi.vae.config.scaling_factor)


@torch.no_grad()
def _lidar(mobi: Mobi, pixels: Float[Tensor, "B 2 D D"]) -> Float[Tensor, "B c h w"]:
    return mobi.range_vae.encode(pixels.to(mobi.device)).mean * float(mobi.vae.config.scaling_factor)


def _tokens(cache: Cache, mobi: Mobi, row: int, versions: int) -> Float[np.ndarray, "K token"]:
    pictures = [cache.references([row], generator(AUGMENTED, row, k)) for k in range(versions)]
    return reference_tokens(mobi.image_encoder, torch.cat(pictures))[0][:, 0].float().cpu().numpy()


def _halves(codes: Tensor) -> Float16[np.ndarray, "..."]:
    return codes.half().cpu().numpy()


def placed(array: np.ndarray, rows: Sequence[int], views: Sequence[int]) -> Float[Tensor, "..."]:
    """These rows of a kept array in these placements, float32."""
    return torch.from_numpy(np.stack([array[i, v] for i, v in zip(rows, views, strict=True)])).float()


def unplaced(array: np.ndarray, rows: Sequence[int]) -> Float[Tensor, "..."]:
    """These rows of a kept array, float32."""
    return torch.from_numpy(np.stack([array[i] for i in rows])).float()
