"""The verbs `train-object` and `train-background`: a prepared folder -> a denoiser (spec section 3).

Whatever a step draws comes from its own generator, dropout included, so that a run that was stopped goes on bit for bit.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusionmix.augment import draw_move, move
from diffusionmix.config_train import FEW, Recipe, TrainBackgroundConfig, TrainObjectConfig, TrainSettings, resolved
from diffusionmix.loss import Chain, chain, denoising_loss, level, snr_weights
from diffusionmix.network import CHANNELS, TRAIN_STEPS, Role, Variance, make_network, make_scheduler, plan_of
from diffusionmix.prepared import HEAD, MANIFEST, Arrays, Prepared, load_arrays, read_prepared
from graft_common.checkpoint import read_config
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed
from graft_common.noising import noised
from graft_common.provenance import folder_digest
from graft_common.resume import check_same_run
from graft_common.training import LAST, FitConfig, Fitted, fit, trim_log

NOTE, STEPS, MODEL = "train.json", "steps.jsonl", "model"
EVERY = 50  # steps between log lines
PROBE = 3  # passes that are timed before the start
Say = Callable[[str], None]


def run_train_object(config: TrainObjectConfig, command: list[str]) -> dict[str, Any]:
    """Train an object model and write `out/model`.

    Raises:
        InputError: unusable folder or settings; a checkpoint is there without --resume, or of another run.
    """
    return run_training(config, "object", command)


def run_train_background(config: TrainBackgroundConfig, command: list[str]) -> dict[str, Any]:
    """Train a background model and write `out/model`.

    Raises:
        InputError: as `run_train_object`.
    """
    return run_training(config, "background", command)


def run_training(config: TrainSettings, role: Role, command: list[str], say: Say | None = None) -> dict[str, Any]:
    """Either verb; an interrupted run goes on with --resume.

    Args:
        say: is given a line now and then instead of a progress bar.
    """
    config.check()
    gpu = torch.cuda.is_available()
    if config.device == "cuda" and not gpu:
        raise InputError("--device cuda: no GPU is available; use --device cpu or auto")
    out = checked_out(config.out)
    if (out / LAST).exists() and not config.resume:
        raise InputError(f"--out {typed(out)}: holds a training run; pass --resume to go on or choose another folder")
    run = Run(command, config, "graft-diffusionmix")
    prepared = read_role(config.folder, role)
    run.read("prepared", config.folder / HEAD)
    run.read("manifest", config.folder / MANIFEST)
    recipe = resolved(config, role)
    with run.stage("load"):
        arrays = load_arrays(prepared)
        run.digests["pictures"] = arrays_digest(arrays)
        unet = begin(config, role, prepared, recipe)
        if config.start is not None:
            run.weights = {"name": config.start.name, "sha256": folder_digest(config.start)}
        settings = same_run(config, run, out)
    write_json(out / NOTE, settings)
    unet.to("cuda" if gpu and config.device != "cpu" else "cpu", memory_format=torch.channels_last)
    with run.stage("train"), progress("train", recipe.steps, quiet=config.json or say is not None) as advance:
        fitted, hours = train(unet, arrays, prepared, config, recipe, out, advance, say)
    with run.stage("write"):
        made = {"steps": fitted.step, "seed": config.seed, "pictures": len(arrays.images), "recipe": asdict(recipe)}
        write_half(out / MODEL, role, unet, config, prepared, arrays, made)
    run.outputs = [p.relative_to(out).as_posix() for p in sorted((out / MODEL).rglob("*")) if p.is_file()]
    run.measures = {
        "pictures": len(arrays.images), "parameters": sum(p.numel() for p in unet.parameters()), "loss": round(fitted.loss, 6),
        "seconds": round(fitted.seconds, 1), "expected_hours": float(f"{hours:.3g}"),
    }  # fmt: skip
    return run.write(out)


def read_role(folder: Path, role: Role) -> Prepared:
    """A prepared folder of the role.

    Raises:
        InputError: it is of the other role.
    """
    prepared = read_prepared(folder)
    if prepared.role != role:
        raise InputError(
            f"{typed(folder)}: was prepared for the {prepared.role} role; use train-{prepared.role}, or prepare --role {role}"
        )
    return prepared


def begin(config: TrainSettings, role: Role, prepared: Prepared, recipe: Recipe) -> Any:
    """The network that training begins with, in float32 on the CPU.

    Raises:
        InputError: --start holds none that fits, or --network none of this size.
    """
    torch.manual_seed(config.seed)
    variance: Variance = "learned_range" if config.variance == "learned" else "fixed_small"
    if config.start is None:
        plan = plan_of(role, prepared.size, config.network)
        return make_network(role, prepared.size, plan, len(prepared.classes), variance, recipe.dropout)
    from diffusers import UNet2DModel

    part = next((p for p in (config.start / f"{role}_unet", config.start / MODEL / f"{role}_unet") if p.is_dir()), None)
    if part is None:
        raise InputError(f"--start {typed(config.start)}: holds no {role}_unet; give a folder that train-{role} wrote")
    try:
        unet = UNet2DModel.from_pretrained(part, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True)
    except Exception as why:  # safetensors, json and diffusers each raise their own
        kind = type(why).__name__
        raise InputError(f"--start {typed(config.start)}: {part.name} cannot be loaded ({kind}); copy it again") from why
    schedule = part.with_name(f"{role}_scheduler") / "scheduler_config.json"
    said = json.loads(read_bytes(schedule)).get("prediction_type", "epsilon") if schedule.exists() else config.prediction
    if said != config.prediction:
        raise InputError(f"--start {typed(config.start)}: its network predicts {said}; pass --prediction {said} or leave it out")
    channels = CHANNELS[role]
    wanted = {
        "sample_size": prepared.size, "in_channels": channels, "num_class_embeds": len(prepared.classes) or None,
        "out_channels": channels * (2 if config.variance == "learned" else 1),
    }  # fmt: skip
    for name, value in wanted.items():
        if unet.config[name] != value:
            has = unet.config[name]
            raise InputError(f"--start {typed(config.start)}: its network has {name} {has}, this run needs {value}; leave it out")
    for layer in unet.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = recipe.dropout
    return unet.requires_grad_(True)


def same_run(config: TrainSettings, run: Run, out: Path) -> dict[str, str]:
    """What a resumed run must share with its beginning: settings, and pictures to the byte.

    Raises:
        InputError: a checkpoint is there and was begun with something else.
    """
    free = ("out", "resume", "json", "device", "compile", "folder", "start")
    wanted = {k: str(v) for k, v in vars(config).items() if k not in free}
    wanted |= {"pictures": run.digests["pictures"], "classes": run.digests["prepared"], "start": run.weights.get("sha256", "")}
    if (out / LAST).exists() and (out / NOTE).exists():
        check_same_run(wanted, out / NOTE, f"--out {typed(out)}")
    return wanted


def arrays_digest(arrays: Arrays) -> str:
    """One sha256 over the pixels, masks and classes that training sees."""
    total = hashlib.sha256()
    for array in (arrays.images, arrays.masks, arrays.labels):
        if array is not None:
            total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from: clean pictures, their classes (None without any), training indices and noise, on the CPU."""

    x0: Float[Tensor, "B C S S"]
    labels: Int[Tensor, "B"] | None
    t: Int[Tensor, "B"]
    eps: Float[Tensor, "B C S S"]


def draw_batch(arrays: Arrays, classes: int, config: TrainSettings, recipe: Recipe, gen: torch.Generator) -> Batch:
    """Pictures with replacement, augmented; masks as -1 and +1; one time in each of B equal spans, for a steadier loss."""
    count = recipe.batch_size
    pick = torch.randint(len(arrays.images), (count,), generator=gen).numpy()
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=gen)))
    pictures = []
    for i in pick:
        step = draw_move(rng, flip=config.flip, turns=config.turns, scale=(1 - recipe.scale, 1 + recipe.scale), shift=recipe.shift)
        image, mask = move(arrays.images[i], None if arrays.masks is None else arrays.masks[i], step)
        colour = image.astype(np.float32) / 127.5 - 1
        pictures.append(colour if mask is None else np.concatenate([colour, mask[..., None] * np.float32(2) - 1], -1))
    x0 = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    t = ((torch.arange(count) + torch.rand(count, generator=gen)) * TRAIN_STEPS / count).long().clamp(max=TRAIN_STEPS - 1)
    eps = torch.randn(x0.shape, generator=gen)
    return Batch(x0, torch.from_numpy(arrays.labels[pick]) if classes else None, t, eps)


def train(
    unet: Any,
    arrays: Arrays,
    prepared: Prepared,
    config: TrainSettings,
    recipe: Recipe,
    out: Path,
    advance: Callable[[int], None] = lambda n: None,
    say: Say | None = None,
) -> tuple[Fitted, float]:
    """Train `unet` in place; it ends with the averaged weights. Returns the loop's end and the hours stated before it began."""
    tables = chain(make_scheduler().betas)
    weights = None if config.snr_gamma is None else snr_weights(tables, config.snr_gamma, config.prediction)
    step_loss = _step_loss(arrays, len(prepared.classes), config, recipe, tables, weights)
    trim_log(out / STEPS)
    if config.compile:
        unet.compile()
    gpu = next(unet.parameters()).device.type == "cuda"
    precision = ("bf16" if gpu else "no") if config.precision == "auto" else config.precision
    plan = FitConfig(
        steps=recipe.steps, learning_rate=recipe.learning_rate, warmup=recipe.warmup, decay=float(config.decay), weight_decay=0.01,
        ema=recipe.ema, clip=1.0, seed=config.seed, mixed_precision=precision,
        cpu=config.device == "cpu",
    )  # fmt: skip
    each = seconds_a_step(unet, step_loss, precision)
    left = recipe.steps - (read_config(out / LAST)["step"] if (out / LAST).exists() else 0)
    hours = each * left / 3600
    tell = say or (lambda line: print(f"graft-diffusionmix: {line}", file=sys.stderr))
    if len(arrays.images) < FEW:
        hint = "" if config.recipe == "few" else "; --recipe few is made for it"
        tell(f"{len(arrays.images)} training pictures: the model may memorise them{hint}")
    tell(f"expected: {hours:.2f} hours for {left} steps ({each:.3f} s a step, {len(arrays.images)} pictures)")

    def tick(step: int, value: float, rate: float) -> None:
        advance(1)
        if step % EVERY == 0:
            line = json.dumps({"step": step, "loss": round(value, 5), "rate": rate})
            with (out / STEPS).open("a", encoding="utf-8") as log:
                log.write(line + "\n")
            if say is not None:
                say(line)

    fitted = fit(unet, step_loss, plan, out, on_step=tick)
    unet.load_state_dict(unet.state_dict() | fitted.average)
    unet.eval().requires_grad_(False)
    return fitted, hours


def _step_loss(
    arrays: Arrays, classes: int, config: TrainSettings, recipe: Recipe, tables: Chain, weights: Tensor | None
) -> Callable[[nn.Module, torch.Generator, int], Tensor]:
    mask_weight = getattr(config, "mask_weight", 1.0)

    def loss(module: nn.Module, gen: torch.Generator, step: int) -> Tensor:
        device = next(module.parameters()).device
        _keep_layout(module)
        batch = draw_batch(arrays, classes, config, recipe, gen)
        if recipe.dropout:  # its draws come from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=gen)))
        x0, eps, t = batch.x0.to(device), batch.eps.to(device), batch.t.to(device)
        x = noised(x0, eps, level(t, tables, x0)).contiguous(memory_format=torch.channels_last)
        labels = None if batch.labels is None else batch.labels.to(device)
        output = module(x, t, class_labels=labels).sample.float()
        return denoising_loss(
            output, eps, x0, x, t, tables, prediction=config.prediction, mask_weight=mask_weight, edge_weight=config.edge_weight,
            weights=weights,
        )

    return loss


def _keep_layout(module: nn.Module) -> None:
    """Residual blocks that are "in training" copy their input out of the channels-last layout; their dropout has its own flag."""
    for block in module.modules():
        if type(block).__name__ == "ResnetBlock2D":
            block.training = False


def seconds_a_step(module: nn.Module, loss: Callable[..., Tensor], precision: str) -> float:
    """Wall seconds of a forward and a backward pass, after one that is not counted (it compiles); the weights stay as they are."""
    module.train()
    device = next(module.parameters()).device.type
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    spent = []
    for k in range(1 + PROBE):
        began = time.perf_counter()
        with torch.autocast(device, dtype, enabled=precision != "no"):
            value = loss(module, torch.Generator().manual_seed(k), 0)
        value.backward()
        float(value.detach())  # waits for a GPU
        spent.append(time.perf_counter() - began)
        module.zero_grad(set_to_none=True)
    return float(np.median(spent[1:]))


def write_half(
    folder: Path, role: Role, unet: Any, config: TrainSettings, prepared: Prepared, arrays: Arrays, made: dict[str, Any]
) -> None:
    """One half of a bundle: network, scheduler and mix.json, as the other verbs read it."""
    from diffusers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    unet.save_pretrained(folder / f"{role}_unet", safe_serialization=True)
    variance: Variance = "learned_range" if config.variance == "learned" else "fixed_small"
    make_scheduler(variance, config.prediction).save_pretrained(folder / f"{role}_scheduler")
    mix = {
        "schema": 1, "classes": list(prepared.classes), "boxes": np.round(arrays.boxes, 5).tolist() if role == "object" else [],
        "train": {role: made},
    }  # fmt: skip
    mix |= {"object_size": prepared.size} if role == "object" else {"background_size": [prepared.size, prepared.size]}
    write_json(folder / "mix.json", mix)
