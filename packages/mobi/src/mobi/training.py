"""What both trainings share: base and crops, which scenes are held out, and what a resumed run must have in common with its start.

Whatever a step draws comes from its own generator, so that a run that was stopped goes on bit for bit.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.noising import Prediction
from graft_common.provenance import folder_digest
from graft_common.resume import check_same_run
from graft_common.training import FitConfig, Fitted, Loss, fit
from mobi.bundle import FILES, JOINT, RANGE, Base, load_base
from mobi.config_train import LEAST_SIZE, TrainSettings
from mobi.objects import EMPTY, OBJECTS, read_objects
from mobi.training_data import Cache, build_cache

LAST, NOTE = "last.safetensors", "train.json"
EVERY = 50  # steps between two lines
HELD_OUT = 317  # keys the split's draws
FREE = ("prepared", "root", "base", "version", "cache", "out", "resume", "json", "device", "range_vae", "half")
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Setup:
    """What a training starts from.

    Attributes:
        run: the record, begun.
        base: on `device`.
        cache: crops of side D.
        learn, held: usable rows of the cache, of scenes apart.
        settings: what a resumed run must share.
    """

    run: Run
    base: Base
    cache: Cache
    learn: Int64[np.ndarray, " m"]
    held: Int64[np.ndarray, " k"]
    device: torch.device
    settings: dict[str, str]


def open_training(config: TrainSettings, command: list[str], say: Say | None) -> Setup:
    """Check the settings, load the base, cut the crops.

    Raises:
        InputError: unusable settings, tables or base; a checkpoint is there without --resume.
    """
    config.check()
    gpu = torch.cuda.is_available()
    if config.device == "cuda" and not gpu:
        raise InputError("--device cuda: no GPU is available; use --device cpu or auto")
    out = checked_out(config.out)
    if (out / LAST).exists() and not config.resume:
        raise InputError(f"--out {typed(out)}: holds a training run; pass --resume to go on or choose another folder")
    read_objects(config.prepared)  # what is wrong with it is said before the base is loaded
    run = Run(command, config, "graft-mobi")
    for name, file in (("objects", OBJECTS), ("empty", EMPTY)):
        run.read(name, config.prepared / file)
    device = torch.device("cuda" if gpu and config.device != "cpu" else "cpu")
    with run.stage("load"), naming_base():
        base = load_base(config.base, device.type)
    if (kind := base.schedule.get("prediction_type", "epsilon")) not in get_args(Prediction):
        raise InputError(f"--base {config.base}: predicts {kind}; give one that predicts {' or '.join(get_args(Prediction))}")
    only = tuple(file for file in FILES if file not in (JOINT, RANGE))
    run.weights = {"name": base.name, "sha256": folder_digest(base.folder, only=only)}
    size = crop_size(config, base)
    with run.stage("crops"), progress("crops", None, quiet=config.json or say is not None) as advance:
        cache = build_cache(
            config.root, config.prepared, size, config.views, advance=advance, version=config.version, folder=config.cache
        )
    learn, held = split(cache, config)
    settings = {k: str(v) for k, v in vars(config).items() if k not in FREE}
    settings |= {"size": str(size), "base": run.weights["sha256"], **run.digests}
    return Setup(run, base, cache, learn, held, device, settings)


@contextmanager
def naming_base() -> Iterator[None]:
    """Messages about weights, under the flag that was typed."""
    try:
        yield
    except InputError as why:
        raise InputError(str(why).replace("--weights", "--base")) from None


def crop_size(config: TrainSettings, base: Base) -> int:
    """D. Raises InputError where the base's own size suits no range crop."""
    size = config.size or int(base.unet.config.sample_size) * 2 ** (len(base.vae.config.block_out_channels) - 1)
    if size < LEAST_SIZE or size & (size - 1):
        raise InputError(
            f"--base {config.base}: was trained at {size} pixels; give --size, a power of two of at least {LEAST_SIZE}"
        )
    return size


def split(cache: Cache, config: TrainSettings) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " k"]]:
    """Usable rows of the scenes that are trained on and of those that are held out, drawn by the seed."""
    names = sorted(set(cache.scenes))
    count = min(round(config.held_out * len(names)), len(names) - 1)
    order = np.random.default_rng([HELD_OUT, config.seed]).permutation(len(names))
    out = {names[k] for k in order[:count]}
    aside = np.array([scene in out for scene in cache.scenes])
    return np.flatnonzero(cache.usable & ~aside), np.flatnonzero(cache.usable & aside)


def same_run(settings: Mapping[str, str], out: Path) -> None:
    """Keep what the run was begun with. Raises InputError where a checkpoint is there that was begun with something else."""
    note = out / NOTE
    if (out / LAST).exists():
        check_same_run(settings, note, f"--out {typed(out)}")
    write_json(note, dict(settings))


def run_fit(
    module: nn.Module, loss: Loss, config: TrainSettings, device: torch.device, betas: tuple[float, float], weight_decay: float,
    say: Say | None,
) -> Fitted:  # fmt: skip
    """Train what of `module` wants a gradient; it ends with the averaged weights."""
    precision = ("bf16" if device.type == "cuda" else "no") if config.precision == "auto" else config.precision
    plan = FitConfig(
        steps=config.steps, learning_rate=float(config.learning_rate), warmup=config.warmup, decay=float(config.decay),
        weight_decay=weight_decay, betas=betas, ema=float(config.ema), clip=1.0, seed=config.seed, mixed_precision=precision,
        cpu=device.type == "cpu",
    )  # fmt: skip
    with progress("train", config.steps, quiet=config.json or say is not None) as advance:

        def tick(step: int, value: float, rate: float) -> None:
            advance(1)
            if say is not None and step % EVERY == 0:
                say(json.dumps({"step": step, "loss": round(value, 5), "rate": rate}))

        fitted = fit(module, loss, plan, config.out, on_step=tick)
    module.load_state_dict(module.state_dict() | fitted.average)
    module.eval().requires_grad_(False)
    return fitted


def tell(say: Say | None, line: str) -> None:
    """A line for whoever waits."""
    (say or (lambda text: print(f"graft-mobi: {text}", file=sys.stderr)))(line)
