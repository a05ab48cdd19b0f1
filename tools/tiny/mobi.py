"""tiny-mobi: camera and lidar inpainting at 128 pixels, less than four million parameters in all.

draw (phantom drives, their objects, their crops) -> vae -> base -> range -> joint -> assemble. Each stage is its own run, which
resumes where it stopped; each leaves a sheet of pictures, `<stage>.png`, to look at. Range and joint are the public verbs
`graft-mobi train-range-vae` and `graft-mobi train --parts all`, on the base that the two stages before made.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mobi.training_data import Cache

Stage = Literal["draw", "vae", "base", "range", "joint", "assemble"]
STAGES: tuple[Stage, ...] = ("draw", "vae", "base", "range", "joint", "assemble")
SIZE, VIEWS = 128, 2
HIDDEN = 96  # width inside the box encoder
GUIDANCE = 2.0  # on scenes of seeds from 5,000,000: more brings the colours of the reference, and lidar shapes get worse
MODEL, INDEX, LAST = "model", "model_index.json", "last.safetensors"
NAME = "tiny-mobi"
SHIPPED = Path(__file__).resolve().parents[2] / "packages" / "mobi" / "src" / "mobi" / "weights" / NAME


@dataclass(frozen=True)
class MobiConfig:
    """Train tiny-mobi on phantom drives."""

    out: Path = Path("runs/tiny-mobi")
    """Folder of drives, crops, checkpoints and logs."""
    only: tuple[Stage, ...] = STAGES
    """Stages to run, in this order."""
    scenes: int = 700
    """Phantom scenes of four key frames, 400 x 225, front camera; scene i is drawn by seed + i."""
    empty: int = 1500
    """Empty boxes."""
    vae_steps: int = 3800
    """Optimiser steps of the VAE."""
    vae_batch: int = 12
    """Pictures a step of the VAE; a quarter are range crops."""
    base_steps: int = 2600
    """Optimiser steps of the base's UNet and image encoder."""
    base_batch: int = 16
    """Camera crops a step of the base."""
    range_steps: int = 500
    """Optimiser steps of the range autoencoder."""
    joint_steps: int = 3200
    """Optimiser steps of the joint network."""
    batch: int = 16
    """Scenes a step of the range and joint stages."""
    precision: Literal["no", "bf16"] = "bf16"
    """Mixed precision."""
    threads: int = 1
    """CPU threads."""
    seed: int = 0
    """Seed of every stage; seeds from 10,000,000 on are for tests."""


def run(config: MobiConfig) -> None:
    """Run the named stages in order."""
    import torch

    torch.set_num_threads(config.threads)
    stages: dict[Stage, Callable[[MobiConfig], None]] = {
        "draw": draw, "vae": vae, "base": base, "range": range_vae, "joint": joint, "assemble": assemble,
    }  # fmt: skip
    for name in STAGES:
        if name in config.only:
            stages[name](config)


def say(line: str) -> None:
    """For a log file."""
    print(line, flush=True)


def every(name: str, steps: int = 50) -> Callable[[int, float, float], None]:
    """A line every so many steps."""

    def tick(step: int, loss: float, rate: float) -> None:
        if step % steps == 0 or step < 5:
            say(f"{name} step {step} loss {loss:.4f} rate {rate:.2e}")

    return tick


def draw(config: MobiConfig) -> None:
    """`tree`, the drives as nuScenes has them; `prepared`, the objects in it, and there the crops of all boxes.

    Objects may be smaller in the picture and hit by fewer rays than those that are edited as a rule: near ones alone would be
    few, and of few kinds.
    """
    from mobi.config import PhantomConfig, PrepareConfig
    from mobi.phantom import run_phantom
    from mobi.prepare import run_prepare

    tree, prepared = config.out / "tree", config.out / "prepared"
    if not tree.exists():  # a drive is drawn in a moment, so a tree that was begun is begun again
        part = _fresh(config.out / "tree.part")
        run_phantom(
            PhantomConfig(
                folder=part, n=config.scenes, seed=config.seed, image_size="400x225", samples=4, cameras="front", sweeps=False,
                json=True,
            ), ["train_tiny.py", NAME],
        )  # fmt: skip
        part.rename(tree)
    if not prepared.exists():
        part = _fresh(config.out / "prepared.part")
        run_prepare(
            PrepareConfig(root=tree, out=part, empty=config.empty, min_points=20, min_size=60, seed=config.seed, json=True),
            ["train_tiny.py", NAME],
        )  # fmt: skip
        part.rename(prepared)
    found = cache(config)
    kinds = [row.kind for row in found.objects.rows[: found.objects.count]]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    say(f"{counts} and {len(found.state) - len(kinds)} empty boxes, {int(found.usable.sum())} of all usable")


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def cache(config: MobiConfig) -> "Cache":
    """The crops, cut where they are not yet: those that the training verbs read."""
    from mobi.training_data import build_cache

    done = 0

    def advance(count: int) -> None:
        nonlocal done
        if done // 1000 != (done + count) // 1000:
            say(f"cut {done + count}")
        done += count

    return build_cache(config.out / "tree", config.out / "prepared", SIZE, VIEWS, advance=advance)


def vae(config: MobiConfig) -> None:
    """`vae`, the camera's autoencoder."""
    from graft_common.training import FitConfig
    from tiny import mobi_sheets as sheets
    from tiny import mobi_vae as v

    folder = config.out / "vae"
    if (folder / "config.json").exists():
        return
    fit = FitConfig(
        steps=config.vae_steps, learning_rate=2e-3, ema=0.995, decay=0.6, weight_decay=1e-4, seed=config.seed + 11,
        mixed_precision=config.precision,
    )  # fmt: skip
    crops = cache(config)
    model, fitted = v.train(crops, folder, fit, config.vae_batch, on_step=every("vae"))
    sheets.round_trip(model, crops, config.out / "vae.png")
    say(f"vae at step {fitted.step}, loss {fitted.loss:.4f}, {fitted.seconds:.0f} s, {sheets.quality(model, crops)}")
    model.save_pretrained(folder)


def base(config: MobiConfig) -> None:
    """`base/model`, Paint-by-Example in small."""
    from diffusers import AutoencoderKL

    from graft_common.training import FitConfig
    from tiny import mobi_base as b
    from tiny import mobi_sheets as sheets

    folder = config.out / "base"
    if (folder / MODEL / INDEX).exists():
        return
    coder = AutoencoderKL.from_pretrained(config.out / "vae").eval().requires_grad_(False)
    crops = cache(config)
    codes = b.latents(coder, crops, folder / "latents.safetensors")
    fit = FitConfig(
        steps=config.base_steps, learning_rate=1e-3, ema=0.999, decay=0.5, warmup=200, seed=config.seed + 22,
        mixed_precision=config.precision,
    )  # fmt: skip
    model, fitted = b.train(crops, codes, folder, fit, config.base_batch, on_step=every("base"))
    say(f"base at step {fitted.step}, loss {fitted.loss:.4f}, {fitted.seconds:.0f} s")
    sheets.painted(model, coder, crops, codes, config.out / "base.png")
    b.save(folder / MODEL, coder, model)


def range_vae(config: MobiConfig) -> None:
    """`range/range_vae.safetensors`, by the verb `train-range-vae`."""
    from mobi.config_train import TrainRangeVaeConfig
    from mobi.train_range_vae import run_train_range_vae

    out = config.out / "range"
    if (out / "run.json").exists():
        return
    plan = TrainRangeVaeConfig(
        prepared=config.out / "prepared", root=config.out / "tree", base=str(config.out / "base" / MODEL), views=VIEWS,
        steps=config.range_steps, batch_size=config.batch, learning_rate=2e-3, warmup=100, decay=0.6, ema=0.995,
        precision=config.precision, seed=config.seed, resume=(out / LAST).exists(), out=out, json=True,
    )  # fmt: skip
    record = run_train_range_vae(plan, ["train_tiny.py", NAME], say)
    say(json.dumps(record["measures"]))


def joint(config: MobiConfig) -> None:
    """`joint/model`, by the verb `train --parts all`: adapters alone have no base worth keeping here."""
    from mobi.config_train import TrainConfig
    from mobi.train import run_train
    from tiny import mobi_sheets as sheets

    out = config.out / "joint"
    if not (out / "run.json").exists():
        plan = TrainConfig(
            prepared=config.out / "prepared", root=config.out / "tree", base=str(config.out / "base" / MODEL), views=VIEWS,
            range_vae=config.out / "range" / "range_vae.safetensors", parts="all", steps=config.joint_steps,
            batch_size=config.batch, learning_rate=8e-4, warmup=200, decay=0.5, ema=0.999, hidden=HIDDEN, reference_views=4,
            precision=config.precision, seed=config.seed, resume=(out / LAST).exists(), half=False, out=out, json=True,
        )  # fmt: skip
        record = run_train(plan, ["train_tiny.py", NAME], say)
        say(json.dumps(record["measures"]))
    if not (config.out / "joint.png").exists():
        sheets.joint(out / MODEL, cache(config), config.out / "joint.png")


def assemble(config: MobiConfig) -> None:
    """The whole in half precision, to where the package ships it."""
    from graft_common.settings import ModelConfig
    from mobi.bundle import load_mobi, save_mobi

    model = load_mobi(ModelConfig(weights=str(config.out / "joint" / MODEL), device="cpu"))
    beside = _fresh(config.out / "bundle")
    save_mobi(beside, dataclasses.replace(model, joint=dataclasses.replace(model.joint, guidance=GUIDANCE)), half=True)
    shutil.copytree(beside, SHIPPED, dirs_exist_ok=True)
    parts = (model.unet, model.vae, model.range_vae, model.image_encoder, model.box_encoder)
    count = sum(p.numel() for part in parts for p in part.parameters())
    size = sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file())
    say(f"{NAME}: {count:,} parameters, {size:,} bytes")
