"""Name or folders -> an object and a background network, checked, on a device.

A bundle is what `DiffusionMixPipeline.save_pretrained` writes: model_index.json, object_unet, object_scheduler, background_unet,
background_scheduler, mix.json, and `vae` for a latent mix. A half of it, as `train-object` and `train-background` write, is
read too.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusionmix.config import MergeConfig, ModelConfig
from diffusionmix.records import RGB, Mix, Net
from graft_common.device import pick_device, pick_dtype
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.provenance import folder_digest

MIX = "mix.json"
SIGMA_SPACE = ("Euler", "Heun", "KDPM2", "LMS", "EDM", "KarrasVe", "ScoreSdeVe")
FIT = "DDPM, DDIM, DPMSolverMultistep or UniPCMultistep"
FITTING = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
PREDICTIONS = ("epsilon", "sample", "v_prediction")


def shipped() -> dict[str, Path]:
    """name -> folder of the bundles in this package."""
    return {p.parent.name: p.parent for p in sorted((Path(__file__).parent / "weights").glob(f"*/{MIX}"))}


def load_mix(config: ModelConfig, roles: Sequence[str] = ("object", "background")) -> Mix:
    """The networks of `roles`, in the precision and on the device that the configuration asks for; kept for the next call.

    Args:
        config: `background` names a model only where `names_model` says so; `merge` also takes a photograph there.

    Raises:
        InputError: no such weights; a half is missing, damaged, of the other role or of a wrong channel count; halves of different
            numbers of training steps; a scheduler whose states are not those of a variance-preserving chain; no GPU.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    swap = config.background
    if isinstance(config, MergeConfig) and swap is not None and not names_model(swap):
        swap = None
    return _load(config.weights, tuple(config.object), swap, tuple(roles), device.type, dtype, config.compile)


@lru_cache(maxsize=2)
def _load(
    weights: str,
    objects: tuple[Path, ...],
    background: Path | None,
    roles: tuple[str, ...],
    device: str,
    dtype: Any,
    compiled: bool,
) -> Mix:
    places: list[tuple[str, Path, str]] = []
    if "object" in roles:
        places += [("object", _maybe(str(folder)), f"--object {typed(folder)}") for folder in objects] or [
            ("object", _find(weights), f"--weights {weights}")
        ]
    if "background" in roles:
        folder = _find(weights) if background is None else _maybe(str(background))
        where = f"--weights {weights}" if background is None else f"--background {typed(background)}"
        places.append(("background", folder, where))
    halves = [_half(folder, role, where, device, dtype, compiled) for role, folder, where in places]
    _agree(halves)
    own = [half for half in halves if half.net.role == "object"]
    other = [half for half in halves if half.net.role == "background"]
    folders = tuple(dict.fromkeys(half.folder for half in halves))
    name = "+".join(folder.resolve().name for folder in folders)
    digest = hashlib.sha256("".join(folder_digest(f) for f in folders).encode()).hexdigest()
    return Mix(
        objects=tuple(half.net for half in own),
        background=other[0].net if other else None,
        classes=own[0].classes if own else (),
        boxes=(own or other)[0].boxes,
        name=name,
        sha256=digest if len(folders) > 1 else folder_digest(folders[0]),
        codec=halves[0].codec,
        folders=folders,
    )


@dataclass(frozen=True, eq=False)
class _Half:
    net: Net
    where: str
    folder: Path
    classes: tuple[str, ...]
    boxes: np.ndarray
    codec: Any


def names_model(background: Path) -> bool:
    """Whether a --background is a shipped name or a folder, rather than a photograph."""
    return _maybe(str(background)).is_dir()


def _maybe(weights: str) -> Path:
    return shipped().get(weights, Path(weights))


def _find(weights: str) -> Path:
    folder = _maybe(weights)
    if not folder.is_dir():
        raise InputError(f"--weights {weights}: no such weights; give a folder or one of the shipped: {', '.join(shipped())}")
    return folder


def _half(folder: Path, role: str, where: str, device: str, dtype: Any, compiled: bool) -> _Half:
    part, other = folder / f"{role}_unet", "background" if role == "object" else "object"
    if not folder.is_dir():
        raise InputError(f"{where}: no such folder; give one that train-{role} wrote, or one of {', '.join(shipped())}")
    if not part.is_dir():
        swapped = (folder / f"{other}_unet").is_dir()
        found = f"holds {'an' if other == 'object' else 'a'} {other} model" if swapped else "holds no model"
        raise InputError(f"{where}: {found} but no {role} model; give --{role} a folder that train-{role} wrote")
    mix = read_mix(folder, where)
    unet = _unet(part, where, dtype)
    scheduler = _scheduler(folder / f"{role}_scheduler", where)
    codec = None
    if (folder / "vae").is_dir():
        from diffusionmix.latent import load_codec

        codec = load_codec(folder / "vae", where, device)
    known = len(mix["classes"]) if role == "object" else 0  # mix.json is shared; backgrounds have no classes
    net = network(unet.to(device), scheduler, role, where, RGB if codec is None else codec.channels, known, compiled)
    boxes = np.asarray(mix["boxes"], np.float64).reshape(-1, 4)
    return _Half(net, where, folder, tuple(mix["classes"]), boxes, codec)


def network(
    unet: Any,
    scheduler: Any,
    role: str,
    where: str = "model",
    colours: int = RGB,
    classes: int | None = None,
    compiled: bool = False,
) -> Net:
    """A diffusers UNet2DModel and its scheduler as a checked network.

    Args:
        unet: on its device, in its precision; set to evaluation without gradients here.
        scheduler: DDPMScheduler, or another of a variance-preserving chain.
        role: "object" or "background".
        where: what to name in messages.
        colours: channels of a picture (3, or those of the codec's latents); an object has one more.
        classes: number of classes that an object network should know; None takes its own.

    Raises:
        InputError: swapped role, wrong channel count, sigma-space scheduler, unknown prediction or variance, classes that differ.
    """
    want = colours + (role == "object")
    has, gives = int(unet.config.in_channels), int(unet.config.out_channels)
    if has == colours + (role == "background"):
        other = "background" if role == "object" else "object"
        raise InputError(
            f"{where}: its {role} model takes {has} channels, as {other} models do; are the two swapped? "
            f"Give --{role} one of {want}"
        )
    if has != want or gives not in (want, 2 * want):
        raise InputError(
            f"{where}: its {role} model takes {has} channels and gives {gives}; it must take {want} and give {want}, or {2 * want} "
            "with a learned variance"
        )
    checked_scheduler(scheduler, where)
    settings = scheduler.config
    prediction = settings.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise InputError(f"{where}: its {role} model predicts {prediction!r}; it must be one of {', '.join(PREDICTIONS)}")
    variance = settings.get("variance_type") or "fixed_small"
    if gives == 2 * want:
        variance = "learned_range"
    elif variance not in VARIANCES[:2]:
        raise InputError(
            f"{where}: its {role} scheduler says variance_type {variance!r} but the model gives {gives} channels; use fixed_small"
        )
    known = int(unet.config.get("num_class_embeds") or 0)
    if classes is not None and known != classes:
        named = f"{MIX} names {classes}" if role == "object" else "backgrounds have none"
        raise InputError(f"{where}: its {role} model knows {known} classes but {named}; copy both from one run")
    height, width = _pair(unet.config.sample_size, where)
    if role == "object" and height != width:
        raise InputError(f"{where}: its object model draws {width}x{height}; an object model must be square")
    unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a quarter faster on the CPU
    parameter = next(unet.parameters())
    return Net(
        role=role,
        module=torch.compile(unet) if compiled else unet,
        alphas_cumprod=np.cumprod(1 - scheduler.betas.double().numpy()),
        channels=want,
        size=(height, width),
        prediction=prediction,
        variance=variance,
        clip=bool(settings.get("clip_sample", True)) and colours == RGB,
        classes=known,
        device=parameter.device,
        dtype=parameter.dtype,
    )


def checked_scheduler(scheduler: Any, where: str) -> None:
    """Raise InputError for a scheduler whose states carry noise on top of an unscaled picture, or that would be run as another."""
    name = type(scheduler).__name__
    if name.startswith(SIGMA_SPACE):
        raise InputError(
            f"{where}: {name} works in sigma space, where a state is the picture plus noise of a large deviation; merging mixes "
            f"states of constant variance, so give {FIT}"
        )
    if name not in FITTING:
        raise InputError(f"{where}: {name} is none whose steps are made here, and another's would be taken in silence; give {FIT}")
    if scheduler.config.get("use_flow_sigmas"):
        raise InputError(f"{where}: {name} with use_flow_sigmas has no variance-preserving schedule; leave that setting out")


def read_mix(folder: Path, where: str) -> dict[str, Any]:
    """mix.json with `classes` and `boxes` present.

    Raises:
        InputError: missing or damaged.
    """
    path = folder / MIX
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        boxes = np.asarray(content.get("boxes", []), np.float64)
        if content["schema"] != 1 or (boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all())):
            raise ValueError
        return dict(content) | {"classes": [str(name) for name in content.get("classes", [])], "boxes": boxes.tolist()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise InputError(f"{where}: {MIX} is missing or damaged ({type(why).__name__}); copy the folder again") from None


def _agree(halves: list[_Half]) -> None:
    """All networks must share the number of training steps, the kind of picture and the classes."""
    first = halves[0]
    for half in halves[1:]:
        a, b = len(first.net.alphas_cumprod), len(half.net.alphas_cumprod)
        if a != b:
            raise InputError(
                f"{half.where}: its {half.net.role} model was trained with {b} steps, the {first.net.role} model of "
                f"{first.where} with {a}; train both with one number of steps"
            )
        if (first.codec is None) != (half.codec is None):
            raise InputError(f"{half.where}: one model works on latents and the other on pixels; give two of one kind")
        if half.net.role == "object" and half.classes != first.classes:
            raise InputError(f"{half.where}: its classes differ from those of {first.where}; give object models of equal classes")


def _pair(size: Any, where: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        raise InputError(f"{where}: the model's config names no sample_size; write it into config.json") from None
    return height, width


def _reason(why: BaseException) -> str:
    return (str(why).strip().splitlines() or [type(why).__name__])[0]


def _unet(part: Path, where: str, dtype: Any) -> Any:
    from diffusers import UNet2DModel
    from diffusers.utils import logging

    logging.disable_progress_bar()
    try:
        return UNet2DModel.from_pretrained(part, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
    except Exception as why:  # safetensors, json and diffusers each raise their own
        raise InputError(f"{where}: {part.name} cannot be loaded ({_reason(why)}); copy the folder again") from why


def _scheduler(part: Path, where: str) -> Any:
    import diffusers

    try:
        settings = json.loads((part / "scheduler_config.json").read_text(encoding="utf-8"))
        kind = getattr(diffusers, str(settings["_class_name"]))
        return kind.from_config({k: v for k, v in settings.items() if not k.startswith("_")})
    except Exception as why:
        raise InputError(f"{where}: {part.name} cannot be loaded ({_reason(why)}); copy the folder again") from why
