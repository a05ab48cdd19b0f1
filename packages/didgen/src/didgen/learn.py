"""One loop for both judges: epochs, early stopping on a validation score, resume that is bit-exact on the CPU.

Not `graft_common.training.fit`: the paper's recipes need Adam and SGD, no average of the weights, buffers of batch
normalisation, and the best epoch instead of the last step.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from didgen.config_study import LearnConfig
from didgen.samples import Samples, prepared
from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.device import pick_device as pick_device
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.provenance import public_config
from graft_common.rng import generator

LAST = "last.safetensors"
SAVE_SECONDS = 120.0
Line = dict[str, int | float]  # of the history: epoch, loss, score, seconds
# What may differ between a run and its continuation: how long, where, and what is printed.
_FREE = ("epochs", "patience", "device", "json", "weights")


@dataclass(frozen=True)
class Task:
    """What makes one judge: its loss on prepared pictures, and the validation score, higher is better.

    Attributes:
        loss: (network output, targets of these rows) -> scalar.
        targets: samples -> tensor with one row a picture.
        score: (network, samples, device, batch) -> number.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    targets: Callable[[Samples], Tensor]
    score: Callable[[nn.Module, Samples, torch.device, int], float]


@dataclass(frozen=True)
class Learned:
    """The end of a training: one line an epoch, the best epoch (from 1) and its score, why it ended."""

    history: list[Line]
    best_epoch: int
    best_score: float
    ended: str


def header_of(task: str, settings: LearnConfig) -> dict[str, Any]:
    """What a judge's checkpoint says of itself: its task and its settings, as JSON values."""
    return {"task": task} | public_config(json.loads(json.dumps(asdict(settings), default=str)))


def key(*keys: int) -> int:
    """One seed for these keys together."""
    return generator(*keys).initial_seed()


def batch_rows(count: int, batch: int, seed: int, step: int) -> Int64[Tensor, "batch"]:
    """Rows of optimiser step `step`: permutations of all rows one after the other, cut into whole batches, so that
    every picture is seen equally often and no batch is smaller (batch normalisation fails on one picture)."""
    first = step * batch
    passes = range(first // count, (first + batch - 1) // count + 1)
    stream = torch.cat([torch.randperm(count, generator=generator(seed, 77, k)) for k in passes])
    start = first - passes[0] * count
    return stream[start : start + batch]


def augment(
    images: UInt8[Tensor, "n 3 S S2"], targets: Tensor, spatial: bool
) -> tuple[UInt8[Tensor, "n 3 S S2"], Tensor]:
    """Classical augmentation, drawn from torch's global generator: picture and mask are moved alike (`spatial`).

    Flips, quarter turns, a crop of 70 to 100 % of the area, jitter of brightness, contrast and saturation by 15 % (hue
    stays: colour is what a lesion is told by).
    """
    from torchvision import tv_tensors
    from torchvision.transforms import InterpolationMode, v2

    size = list(images.shape[-2:])
    move = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomChoice([v2.RandomRotation((a, a)) for a in (0, 90, 180, 270)]),
            v2.RandomResizedCrop(size, (0.7, 1.0), (0.9, 1.1), InterpolationMode.BILINEAR, antialias=True),
        ]
    )
    tint = v2.ColorJitter(0.15, 0.15, 0.15)
    moved, marks = [], []
    for image, target in zip(images, targets, strict=True):
        if spatial:
            picture, mask = move(tv_tensors.Image(image), tv_tensors.Mask(target.to(torch.uint8)))
            marks.append(mask.as_subclass(Tensor).to(target.dtype))
        else:
            picture = move(tv_tensors.Image(image))
            marks.append(target)
        moved.append(tint(picture).as_subclass(Tensor))
    return torch.stack(moved), torch.stack(marks)


@torch.no_grad()
def outputs(
    network: nn.Module, images: UInt8[Tensor, "n 3 S S2"], device: torch.device, batch: int
) -> Float[Tensor, "n ..."]:
    """What the network says in evaluation mode, on the CPU; its mode is restored."""
    training = network.training
    network.eval()
    try:
        return torch.cat([network(prepared(part, device)).float().cpu() for part in images.split(batch)])
    finally:
        network.train(training)


def learn(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    train: Samples,
    valid: Samples,
    config: LearnConfig,
    folder: Path,
    header: dict[str, Any],
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[Line], None] = lambda line: None,
) -> Learned:
    """Train `network` in place; at the end it holds the weights of the best epoch.

    Args:
        optimizer: over the network's parameters, fresh.
        folder: gets `last.safetensors` every two minutes and at the end.
        header: JSON values that say which network and settings these are; a checkpoint with others is refused.
        resume: go on from `last.safetensors` where there is one.
        stop: asked after every epoch; True saves and returns.
        on_epoch: gets {"epoch", "loss", "score", "seconds"}.

    Raises:
        InputError: there is a checkpoint but no `resume`, or it is damaged or of another network, data or setting; or the
            loss is not finite.
    """
    device = next(network.parameters()).device
    spatial = train.masks is not None
    targets = task.targets(train)
    batch = min(config.batch_size, len(train))
    steps = config.steps_per_epoch or math.ceil(len(train) / batch)
    said = header | {"data": train.digest(), "validation": valid.digest()}
    last = folder / LAST
    state = _State({}, 0, -math.inf, 0, [])
    if last.exists():
        if not resume:
            raise InputError(f"--out {typed(folder)}: holds {LAST} already; pass --resume or choose another folder")
        state = _restore(last, network, optimizer, said)
    saved = time.monotonic()
    network.train()
    while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
        began, total = time.monotonic(), 0.0
        for step in range(state.epoch * steps, (state.epoch + 1) * steps):
            rows = batch_rows(len(train), batch, config.seed, step)
            # dropout and augmentation draw from the global generators: keyed by the step, and given back afterwards
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(key(config.seed, 78, step))
                images, wanted = train.images[rows], targets[rows]
                if config.augmentation == "classical":
                    images, wanted = augment(images, wanted, spatial)
                loss = task.loss(network(prepared(images, device)), wanted.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += float(loss.detach()) / steps
        if not math.isfinite(total):
            raise InputError(
                f"--learning-rate {config.learning_rate}: the loss is not finite in epoch {state.epoch + 1}; lower it"
            )
        state.epoch += 1
        score = task.score(network, valid, device, config.batch_size)
        if score > state.best_score:
            state.best_score, state.best_epoch = score, state.epoch
            state.best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        line: Line = {"epoch": state.epoch, "loss": total, "score": score, "seconds": round(time.monotonic() - began, 3)}
        state.history.append(line)
        on_epoch(line)
        halted = stop()
        over = state.epoch == config.epochs or state.epoch - state.best_epoch >= config.patience
        if halted or over or time.monotonic() - saved > SAVE_SECONDS:
            _save(last, network, optimizer, state, said)
            saved = time.monotonic()
        if halted:
            break
    early = state.epoch - state.best_epoch >= config.patience
    ended = "early stopping" if early else "epochs" if state.epoch >= config.epochs else "stopped"
    network.load_state_dict(state.best)
    return Learned(state.history, state.best_epoch, state.best_score, ended)


@dataclass
class _State:
    best: dict[str, Tensor]
    best_epoch: int
    best_score: float
    epoch: int
    history: list[Line]


def _save(
    last: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: _State, header: dict[str, Any]
) -> None:
    tensors = {f"net.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in state.best.items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"opt.{i}.{name}": torch.as_tensor(value) for name, value in values.items()}
    progress = {"epoch": state.epoch, "best_epoch": state.best_epoch, "best_score": state.best_score}
    save_weights(last, tensors, {"run": header, "progress": progress, "history": state.history})


def _restore(last: Path, network: nn.Module, optimizer: torch.optim.Optimizer, header: dict[str, Any]) -> _State:
    content = read_config(last)
    if "run" not in content or "progress" not in content:
        raise InputError(f"--resume: {typed(last)} is no checkpoint of a judge; choose another --out")
    _same(last, content["run"], header)
    tensors = load_weights(last)
    parts: dict[str, dict[str, Tensor]] = {"net": {}, "best": {}, "opt": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    try:
        network.load_state_dict(parts["net"], strict=True)
    except RuntimeError as why:
        raise InputError(
            f"--resume: {typed(last)} does not fit this network ({str(why).splitlines()[0]}); choose another --out"
        ) from why
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["opt"].items():
        i, _, what = name.partition(".")
        moments.setdefault(int(i), {})[what] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    done = content["progress"]
    return _State(parts["best"], done["best_epoch"], done["best_score"], done["epoch"], content["history"])


def _same(last: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in _FREE and stored.get(name) != wanted.get(name):
            if name in ("data", "validation"):
                raise InputError(
                    f"--resume: {typed(last)} was trained on other pictures; give the same manifest or choose another --out"
                )
            flag = "--" + name.replace("_", "-")
            raise InputError(
                f"{flag} {wanted.get(name)}: {typed(last)} was trained with {flag} {stored.get(name)}; give that or choose "
                "another --out"
            )
