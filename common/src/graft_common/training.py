"""One training loop: accelerate for devices and accumulation, EMA, safetensors checkpoints, bit-exact resume.

Nothing random is kept between steps: whatever a step draws comes from a generator keyed by (seed, step), so that a run
that is stopped and resumed equals one that was never stopped, bit for bit on the same device.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from torch import Tensor, nn

from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.files import write_bytes
from graft_common.rng import generator

Loss = Callable[[nn.Module, torch.Generator, int], Tensor]
LAST = "last.safetensors"
Named = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class FitConfig:
    """How to train.

    Attributes:
        steps: optimiser steps in all.
        learning_rate: peak rate of AdamW; linear warm-up, constant, then linear decay to zero over the last `decay` share.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to zero.
        weight_decay: AdamW's decoupled decay.
        betas: AdamW's decays of the mean and of the mean square of the gradient.
        ema: decay of the exponential moving average of the weights (ramped up early: min(ema, (1 + s) / (10 + s))).
        accumulate: micro-batches per optimiser step; `loss` is called once for each.
        clip: largest gradient norm.
        seed: keys every random draw of the run.
        save_minutes: minutes between checkpoints.
        mixed_precision: accelerate's "no", "bf16" or "fp16".
        cpu: stay on the CPU where there is a GPU.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    accumulate: int = 1
    clip: float = 1.0
    seed: int = 0
    save_minutes: float = 4.0
    mixed_precision: str = "no"
    cpu: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of optimiser step `step` (0-based)."""
        start = self.steps * (1 - self.decay)
        fall = 1.0 if step < start else (self.steps - step) / (self.steps - start)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup)) * fall


@dataclass(frozen=True)
class Fitted:
    """The end of a run: averaged weights by name, steps done, seconds in all sessions, mean of the last losses."""

    average: dict[str, Tensor]
    step: int
    seconds: float
    loss: float


def fit(
    module: nn.Module,
    loss: Loss,
    config: FitConfig,
    folder: Path,
    *,
    groups: Iterable[dict] | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, float, float], None] = lambda step, loss, rate: None,
) -> Fitted:
    """Train `module` in place to `config.steps`, resuming from `folder` when a checkpoint is there.

    Args:
        module: the network; everything with `requires_grad` is trained.
        loss: (module, CPU generator keyed by (seed, step, micro-batch), step) -> scalar. It draws its own batch.
        folder: holds `last.safetensors` (weights, averages, optimiser state) and `log.jsonl`.
        groups: AdamW parameter groups, with a `scale` entry each that multiplies the rate; all parameters by default.
        stop: asked after every step; True saves and returns early.
        on_step: called after every optimiser step with (step, loss, rate).

    Returns:
        The averaged weights; `module` keeps the raw ones.

    Raises:
        InputError: the checkpoint in `folder` is damaged.
        ValueError: it belongs to another network or optimiser.
    """
    accelerator = _accelerator(config)
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    sets = list(groups or [{"params": [p for _, p in named], "scale": 1.0}])
    optimizer = torch.optim.AdamW(sets, lr=config.learning_rate, weight_decay=config.weight_decay, betas=config.betas)
    module.to(accelerator.device)
    wrapped, optimizer = accelerator.prepare(module, optimizer)
    average = [p.detach().clone() for _, p in named]
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / LAST
    step, before = 0, 0.0
    if last.exists():
        step, before = _restore(last, named, average, optimizer)
    began = saved = time.monotonic()
    recent: list[float] = []
    wrapped.train()
    while step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step) * group["scale"]
        total = 0.0
        for micro in range(config.accumulate):
            with accelerator.accumulate(wrapped):
                with accelerator.autocast():
                    value = loss(wrapped, generator(config.seed, step, micro, accelerator.process_index), step)
                accelerator.backward(value)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_([p for _, p in named], config.clip)
                optimizer.step()
                optimizer.zero_grad()
                total += float(value.detach()) / config.accumulate
        step += 1
        keep = min(config.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for _, p in named], 1 - keep)
        recent = [*recent[-199:], total]
        on_step(step, total, config.rate(step - 1))
        if not total == total:  # NaN: keep the last good checkpoint
            raise FloatingPointError(f"loss is NaN at step {step}; the last good checkpoint is {last}")
        done = step == config.steps or stop()
        if accelerator.is_main_process and (done or time.monotonic() - saved > 60 * config.save_minutes):
            saved = time.monotonic()
            _save(last, named, average, optimizer, config, step, before + saved - began)
            line = {"step": step, "loss": sum(recent) / len(recent), "seconds": round(before + saved - began, 1)}
            with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
        if done:
            break
    mean = {name: value for (name, _), value in zip(named, average, strict=True)}
    return Fitted(mean, step, before + time.monotonic() - began, sum(recent) / max(1, len(recent)))


def trim_log(log: Path) -> None:
    """Drop from a log of JSON lines with a "step" what it says of steps after its folder's checkpoint: they are taken again."""
    if log.exists():
        done = read_config(log.with_name(LAST))["step"] if log.with_name(LAST).exists() else 0
        kept = [line for line in log.read_text(encoding="utf-8").splitlines(True) if json.loads(line)["step"] <= done]
        write_bytes(log, "".join(kept).encode())


def _accelerator(config: FitConfig) -> Accelerator:
    if is_initialized() and AcceleratorState().num_processes == 1:
        # accelerate keeps device and precision for the life of the process and refuses others; the next run may differ
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        mixed_precision=config.mixed_precision, gradient_accumulation_steps=config.accumulate, cpu=config.cpu
    )


def _save(
    last: Path,
    named: Named,
    average: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    step: int,
    seconds: float,
) -> None:
    tensors: dict[str, Tensor] = {}
    for (name, parameter), mean in zip(named, average, strict=True):
        tensors[f"raw.{name}"] = parameter.detach()
        tensors[f"ema.{name}"] = mean
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"opt.{key}.{name}"] = value
    save_weights(last, tensors, {"fit": asdict(config), "step": step, "seconds": seconds})


def _restore(
    last: Path, named: Named, average: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    tensors, header = load_weights(last), read_config(last)
    names = {f"raw.{name}" for name, _ in named}
    stored = {key for key in tensors if key.startswith("raw.")}
    if names != stored:
        raise ValueError(f"{last} holds another network ({len(stored)} tensors, {len(names)} wanted); use a new folder")
    for (name, parameter), mean in zip(named, average, strict=True):
        parameter.data.copy_(tensors[f"raw.{name}"])
        mean.copy_(tensors[f"ema.{name}"])
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors[f"opt.{key}.{name}"]
            optimizer.state[parameter][key] = (
                value if key == "step" else value.to(parameter.device)
            )  # AdamW counts on the CPU
    return header["step"], header["seconds"]
