"""tiny-texture and tiny-scene: an object model (64 px) and a background model (128 px) for each world of diffusionmix.

draw -> object -> background -> assemble. Each model is its own run, which resumes where it stopped; object and background of both
worlds can run side by side, one thread each. `--only few` trains an object model on 24 of the drawn pictures, which shows what so
few are worth.
"""

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

Stage = Literal["draw", "object", "background", "assemble", "few"]
STAGES: tuple[Stage, ...] = ("draw", "object", "background", "assemble")
SIZE, OBJECT_SIZE = 128, 64
FEW_OF_EACH = 8  # pictures of each class


@dataclass(frozen=True)
class MixConfig:
    """What both worlds share."""

    world: ClassVar[str]
    out: Path
    """Folder of drawn pictures, checkpoints and logs."""
    only: tuple[Stage, ...] = STAGES
    """Stages to run, in this order."""
    pictures: int = 6000
    """Drawn phantoms: each gives the square of its object and, from the same seed, the picture without it."""
    object_steps: int = 4500
    """Optimiser steps of the object model."""
    background_steps: int = 3000
    """Optimiser steps of the background model."""
    object_more: int = 1500
    """Further steps of the object model from its own weights, at half the peak rate and with all times weighed alike: shapes and
    colours are learned first, the last bit of noise after."""
    background_more: int = 1800
    """Further steps of the background model."""
    background_edges: int = 600
    """Last steps of the background model, in which the error at the picture's edge counts 16 times."""
    boxes: int = 500
    """Training positions to ship, which boxes are drawn like."""
    few_steps: int = 1200
    """Optimiser steps of the model of 24 pictures."""
    object_batch: int = 16
    """Pictures a step of the object model."""
    background_batch: int = 8
    """Pictures a step of the background model."""
    learning_rate: float = 1e-3
    """Peak rate; it falls to zero over the second half."""
    compile: bool = False
    """Compile the networks (needs a C compiler on the CPU): a tenth faster there, after minutes at the start."""
    precision: Literal["no", "bf16"] = "bf16"
    """Mixed precision."""
    threads: int = 1
    """CPU threads of a training stage, and processes of the drawing."""
    seed: int = 0
    """Seed of every stage; picture i is drawn by seed + i."""


@dataclass(frozen=True)
class TextureConfig(MixConfig):
    """Train tiny-texture: wood with a blob, a hole or a crack."""

    world: ClassVar[str] = "texture"
    out: Path = Path("runs/tiny-texture")
    """Folder of drawn pictures, checkpoints and logs."""


@dataclass(frozen=True)
class SceneConfig(MixConfig):
    """Train tiny-scene: open ground with a ball or a crate."""

    world: ClassVar[str] = "scene"
    out: Path = Path("runs/tiny-scene")
    """Folder of drawn pictures, checkpoints and logs."""
    object_steps: int = 1800
    """Optimiser steps of the object model."""
    background_steps: int = 1200
    """Optimiser steps of the background model."""
    object_more: int = 1200
    """Further steps of the object model."""
    background_more: int = 1200
    """Further steps of the background model."""
    boxes: int = 250
    """Training positions to ship."""


def run(config: MixConfig) -> None:
    """Run the named stages in order."""
    import torch

    torch.set_num_threads(config.threads)
    for name in (*STAGES, "few"):
        if name not in config.only:
            continue
        if name in ("object", "background"):
            train(config, name)
        else:
            {"draw": draw, "assemble": assemble, "few": few}[name](config)


def _picture(world: str, folder: Path, seed: int) -> dict:
    import numpy as np

    from diffusionmix.world import draw_scene, object_crop
    from graft_common.files import write_bytes
    from graft_common.raster import encode

    scene = draw_scene(world, SIZE, seed)
    image, mask = object_crop(scene, OBJECT_SIZE)
    name, note = f"{seed:08d}", {"synthetic": True, "seed": seed}
    write_bytes(folder / "object" / "image" / f"{name}.png", encode(image, "png", note))
    write_bytes(folder / "object" / "mask" / f"{name}.png", encode(mask.astype(np.uint8) * np.uint8(255), "png", note))
    write_bytes(folder / "background" / "image" / f"{name}.png", encode(scene.empty, "png", note))
    return {"id": name, "label": scene.label, "box": tuple(scene.box)}


def draw(config: MixConfig) -> None:
    """Two prepared folders, as `graft-diffusionmix prepare` writes them."""
    from concurrent.futures import ProcessPoolExecutor

    from diffusionmix.prepared import HEAD, Row, write_prepared
    from diffusionmix.world import CLASSES

    folder = config.out / "data"
    if (folder / "background" / HEAD).exists():
        return
    seeds = range(config.seed, config.seed + config.pictures)
    found = []
    with ProcessPoolExecutor(config.threads) as pool:
        for item in pool.map(partial(_picture, config.world, folder), seeds, chunksize=32):
            found.append(item)
            if len(found) % 500 == 0:
                print(f"drawn {len(found)} of {config.pictures}", flush=True)
    squares, empty = folder / "object", folder / "background"
    size = (SIZE, SIZE)
    whole = (0, 0, *size)
    objects, backgrounds = [], []
    for f in found:
        key, png = f["id"], f"{f['id']}.png"
        objects.append(
            Row(key, squares / "image" / png, squares / "mask" / png, f["label"], "train", key, f["box"], size, True)
        )
        backgrounds.append(Row(key, empty / "image" / png, None, None, "train", key, whole, size, True))
    write_prepared(squares, "object", OBJECT_SIZE, CLASSES[config.world], objects)
    write_prepared(empty, "background", SIZE, (), backgrounds)


def train(config: MixConfig, role: Literal["object", "background"]) -> None:
    """One model, from scratch or from where it stopped; lines on stdout."""
    from diffusionmix.config_train import TrainBackgroundConfig, TrainObjectConfig
    from diffusionmix.train import LAST, run_training

    mine = role == "object"
    rounds: list[tuple[str, int, float, float | None, float]] = [
        (role, config.object_steps if mine else config.background_steps, config.learning_rate, 5.0, 1.0),
        (f"{role}-more", config.object_more if mine else config.background_more, config.learning_rate / 2, None, 1.0),
        (f"{role}-edges", 0 if mine else config.background_edges, config.learning_rate / 2, None, 16.0),
    ]
    start: Path | None = None
    for number, (name, count, rate, gamma, edge) in enumerate(rounds):
        out, before = config.out / name, start
        if count:
            start = out / "model"
        if not count or (out / "run.json").exists():
            continue
        own = TrainObjectConfig if mine else TrainBackgroundConfig
        plan = own(
            folder=config.out / "data" / role, out=out, start=before, network="tiny", variance="fixed", prediction="v_prediction",
            flip=True, scale=0.0, shift=0.0, dropout=0.0, steps=count,
            batch_size=config.object_batch if mine else config.background_batch, learning_rate=rate,
            warmup=200, decay=0.5, ema=0.999, snr_gamma=gamma, edge_weight=edge, device="auto", precision=config.precision,
            compile=config.compile, seed=config.seed + number, resume=(out / LAST).exists(),
        )  # fmt: skip
        run_training(plan, role, ["train_tiny.py", f"tiny-{config.world}"], say=lambda line: print(line, flush=True))


def few(config: MixConfig) -> None:
    """An object model of the first pictures of each class, by the recipe for few pictures, beside the run: tiny-few/."""
    from diffusionmix.config_train import TrainObjectConfig
    from diffusionmix.prepared import HEAD, read_prepared, write_prepared
    from diffusionmix.train import LAST, run_train_object

    whole, out = read_prepared(config.out / "data" / "object"), config.out.with_name("tiny-few")
    folder = out / "data"
    if not (folder / HEAD).exists():
        rows = [row for name in whole.classes for row in [r for r in whole.rows if r.label == name][:FEW_OF_EACH]]
        kept = []
        for row in rows:
            files = {"image": folder / "image" / row.image.name, "mask": folder / "mask" / row.image.name}
            for kind, path in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(getattr(row, kind), path)
            kept.append(replace(row, **files))
        write_prepared(folder, "object", OBJECT_SIZE, whole.classes, kept)
    plan = TrainObjectConfig(
        folder=folder, out=out, network="tiny", variance="fixed", prediction="v_prediction", recipe="few", steps=config.few_steps,
        learning_rate=config.learning_rate, decay=0.5, snr_gamma=5.0, device="auto", precision=config.precision, seed=config.seed,
        json=True, resume=(out / LAST).exists(),
    )  # fmt: skip
    run_train_object(plan, ["train_tiny.py", f"tiny-{config.world}", "--only", "few"])


def assemble(config: MixConfig) -> None:
    """Both halves in half precision as one bundle, to where the package ships it."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    from diffusionmix.pipeline import DiffusionMixPipeline

    parts, mixes = {}, {}
    for role in ("object", "background"):
        half = [path for end in ("", "-more", "-edges") if (path := config.out / f"{role}{end}" / "model").is_dir()][-1]
        parts[f"{role}_unet"] = UNet2DModel.from_pretrained(half / f"{role}_unet", torch_dtype=torch.float16)
        parts[f"{role}_scheduler"] = DDPMScheduler.from_pretrained(half / f"{role}_scheduler")
        mixes[role] = json.loads((half / "mix.json").read_text(encoding="utf-8"))
    pipe = DiffusionMixPipeline(**parts)
    boxes = mixes["object"]["boxes"]
    pipe.mix = {
        "schema": 1, "classes": mixes["object"]["classes"], "boxes": boxes[:: max(1, len(boxes) // config.boxes)],
        "train": mixes["object"]["train"] | mixes["background"]["train"],
    }  # fmt: skip
    package = Path(__file__).resolve().parents[2] / "packages" / "diffusionmix" / "src" / "diffusionmix"
    target = package / "weights" / f"tiny-{config.world}"
    beside = config.out / "bundle"
    shutil.rmtree(beside, ignore_errors=True)
    pipe.save_pretrained(beside, safe_serialization=True)
    shutil.copytree(beside, target, dirs_exist_ok=True)
    print(f"{target.name}: {sum(p.stat().st_size for p in target.rglob('*') if p.is_file()):,} bytes", flush=True)
