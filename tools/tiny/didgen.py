"""tiny-didgen: LoRA on tiny-sd, fine-tuned with the region-aware loss on dermoscopy phantoms.

Stages: draw (phantoms as files, captions measured) -> train -> tune (step sizes on training seeds) -> assemble. `plain` trains
the same without the loss, for the ablation; it is not shipped. Everything goes through the package's own functions.
"""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

STAGES = ("draw", "train", "tune", "assemble")
ETAS = (15.0, 20.0, 30.0, 40.0, 60.0)
BOX_STEPS = (2.5, 5.0, 10.0, 20.0)
BOXES = ((0.1, 0.1, 0.55, 0.6), (0.4, 0.45, 0.9, 0.9), (0.3, 0.2, 0.7, 0.65), (0.05, 0.3, 0.5, 0.8))
TUNED_ON = range(9_000_000, 9_000_024)  # training side of the held-out border, drawn by no training stage
NOTE = {"method": "didgen", "world": "phantom", "synthetic": True}


@dataclass(frozen=True)
class DidgenConfig:
    """Train tiny-didgen."""

    out: Path = Path("runs/tiny-didgen")
    """Folder of pictures, checkpoints and logs."""
    only: tuple[Literal["draw", "train", "plain", "tune", "assemble"], ...] = STAGES
    """Stages to run."""
    weights: str = "tiny-sd"
    """Base."""
    pictures: int = 4000
    """Training phantoms."""
    size: int = 64
    """Side of the pictures in pixels."""
    steps: int = 2000
    """Optimiser steps."""
    batch: int = 16
    """Pictures per step."""
    rank: int = 24
    """Rank of LoRA."""
    learning_rate: float = 1e-3
    """Peak rate."""
    alpha: float = 0.1
    """Weight of the region-aware loss."""
    noise_offset: float = 0.15
    """As tiny-sd was trained: noise whose mean varies hides the skin's tone, so that the words have to give it."""
    snr_gamma: float = 5.0
    """Min-SNR, as tiny-sd was trained."""
    threads: int = 2
    """CPU threads."""
    seed: int = 0
    """Seed of every stage."""


def run(config: DidgenConfig) -> None:
    """Run the named stages in order."""
    import torch

    torch.set_num_threads(config.threads)
    for name, stage in (("draw", draw), ("train", train), ("plain", plain), ("tune", tune), ("assemble", assemble)):
        if name in config.only:
            stage(config)


def _picture(folder: Path, size: int, seed: int) -> dict:
    from didgen.attributes import render, to_json
    from didgen.measure import measure
    from didgen.write import mask_image
    from graft_common import phantoms
    from graft_common.raster import write_png

    drawn = phantoms.draw("dermoscopy", size, seed)
    found = measure(drawn.image, drawn.masks["lesion"])
    name = f"{seed:08d}"
    write_png(folder / "image" / f"{name}.png", drawn.image, NOTE | {"seed": seed})
    write_png(folder / "mask" / f"{name}.png", mask_image(drawn.masks["lesion"]), NOTE | {"seed": seed})
    return {"id": name, "attributes": to_json(found.attributes), "prompt": render(found.attributes)}


def draw(config: DidgenConfig) -> None:
    """Phantoms and masks as PNG with captions measured at the size they are trained at."""
    from concurrent.futures import ProcessPoolExecutor

    from didgen.manifest import Row, write_manifest

    folder = config.out / "data"
    if (folder / "manifest.jsonl").exists():
        return
    with ProcessPoolExecutor(config.threads) as pool:
        candidates = list(pool.map(partial(_picture, folder, config.size), range(3 * config.pictures), chunksize=32))
    found = balanced(candidates, config.pictures)
    rows = [
        Row(f["id"], folder / "image" / f"{f['id']}.png", folder / "mask" / f"{f['id']}.png", "train",
            attributes=f["attributes"], prompt=f["prompt"], synthetic=True)
        for f in found
    ]  # fmt: skip
    write_manifest(folder / "manifest.jsonl", rows)


def balanced(found: list[dict], count: int) -> list[dict]:
    """At most `count` of the pictures, in their order: all of the rare sizes and places, as many of each common one.

    Phantoms lie in the middle three times in four, and a network that hears "center" that often need not listen.
    """
    kinds: dict[tuple[str, str], list[dict]] = {}
    for item in found:
        kinds.setdefault((item["attributes"]["size"], item["attributes"]["position"]), []).append(item)
    most = max(most for most in range(1, count + 1) if sum(min(most, len(k)) for k in kinds.values()) <= count)
    kept = {item["id"] for kind in kinds.values() for item in kind[:most]}
    return [item for item in found if item["id"] in kept]


def _train(config: DidgenConfig, out: Path, alpha: float) -> None:
    from didgen.config import TrainConfig
    from didgen.train import run_train

    if (out / "run.json").exists():
        return
    plan = TrainConfig(
        manifest=config.out / "data" / "manifest.jsonl", weights=config.weights, out=out, steps=config.steps,
        batch_size=config.batch, learning_rate=config.learning_rate, lora_rank=config.rank, alpha=alpha, warmup=50, decay=0.5,
        ema=0.99, size=config.size, seed=config.seed, resume=(out / "last.safetensors").exists(),
        noise_offset=config.noise_offset, snr_gamma=config.snr_gamma,
    )  # fmt: skip
    run_train(plan, ["train_tiny.py", "tiny-didgen"])


def train(config: DidgenConfig) -> None:
    """With the region-aware loss."""
    _train(config, config.out / "region", config.alpha)


def plain(config: DidgenConfig) -> None:
    """The same without it."""
    _train(config, config.out / "plain", 0.0)


def tune(config: DidgenConfig) -> None:
    """Step size whose drawn lesions fit layouts of training seeds best; written beside the weights."""
    from didgen.annotate import iou
    from didgen.config import LayoutConfig
    from didgen.pipeline import draw_pairs
    from didgen.prompts import prompt_of
    from didgen.segment import segment_lesion
    from didgen.weights import load_model
    from graft_common import phantoms
    from graft_common.console import write_json

    folder = config.out / "region" / "bundle"
    layouts = [phantoms.draw("dermoscopy", config.size, seed).masks["lesion"] for seed in TUNED_ON]
    table = {}
    for eta in ETAS:
        settings = LayoutConfig(weights=str(folder), eta=eta)
        model = load_model(settings)
        prompts = [prompt_of(mask, i, model.seen) for i, mask in enumerate(layouts)]
        pairs = draw_pairs(layouts, prompts, list(range(len(layouts))), settings, model)
        fits = [iou(segment_lesion(p.image), m) for p, m in zip(pairs, layouts, strict=True)]
        own = [iou(segment_lesion(p.image), p.annotation.mask) for p in pairs]
        table[eta] = {"layout": float(np.mean(fits)), "annotation": float(np.mean(own))}
        print(json.dumps({"eta": eta, **table[eta]}), flush=True)
    best = max(table, key=lambda eta: table[eta]["layout"])
    boxes = {strength: _box_fit(folder, strength) for strength in BOX_STEPS}
    print(json.dumps({"box": boxes}), flush=True)
    write_json(folder / "guidance.json", {"eta": best, "box": max(boxes, key=lambda strength: boxes[strength])})
    found = {"eta": {str(k): v for k, v in table.items()}, "box": {str(k): v for k, v in boxes.items()}}
    write_json(config.out / "tune.json", found)


def _box_fit(folder: Path, strength: float) -> float:
    """Mean IoU of a box with the box around what is drawn for it; 0 where no lesion is found."""
    from didgen.config import DrawConfig
    from didgen.denoise import strengths
    from didgen.pipeline import draw_pictures
    from didgen.prompts import prompt_of_box
    from didgen.segment import segment_lesion
    from didgen.weights import load_model
    from graft_common.phantoms import box as box_of

    config = DrawConfig(weights=str(folder))
    model, fits = load_model(config), []
    for i, wanted in enumerate(BOXES):
        seeds = [9_100_000 + 10 * i + k for k in range(4)]
        prompts = [prompt_of_box(wanted, seed, model.seen) for seed in seeds]
        sizes = strengths(config.steps, 0.5, strength, decay=True)
        for image in draw_pictures(prompts, seeds, config, model, box=wanted, sizes=sizes):
            found = box_of(segment_lesion(image))
            fits.append(_overlap(wanted, tuple(v / len(image) for v in found)) if found else 0.0)
    return float(np.mean(fits))


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    both = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return width * height / (both - width * height)


def assemble(config: DidgenConfig) -> None:
    """Copy the finished weights to where the package ships them."""
    target = Path(__file__).resolve().parents[2] / "packages" / "didgen" / "src" / "didgen" / "weights" / "tiny-didgen"
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((config.out / "region" / "bundle").iterdir()):
        shutil.copy2(path, target / path.name)
