"""`graft-diffusionmix demo`: merged pictures of both shipped worlds beside hard pastes, and photographs, offline."""

from dataclasses import replace
from typing import Any

import numpy as np

from diffusionmix.box import Box
from diffusionmix.compose import merge, sample_backgrounds
from diffusionmix.config import MergeConfig, ModelConfig
from diffusionmix.config_study import DemoConfig
from diffusionmix.crop import cut
from diffusionmix.records import Merged, Mix
from diffusionmix.seam import measure_truths
from diffusionmix.study_parts import measure
from diffusionmix.weights import load_mix
from diffusionmix.world import CLASSES, World, draw_scene
from diffusionmix.write import mask_image, overlay
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.metrics import metrics_json
from graft_common.panel import Picture, panel
from graft_common.provenance import stamp
from graft_common.raster import write_png

FIRST = 10_000_201  # held-out seeds; what the demo draws moves on with --seed
WORLDS: tuple[tuple[str, World], ...] = (("tiny-texture", "texture"), ("tiny-scene", "scene"))
STEPS = 25  # DDIM states; the climb of tau 10 is one state of these
PICTURES = 4  # of each world
PHOTOGRAPHS = (("brick", "blob"), ("gravel", "hole"), ("grass", "crack"), ("coins", "blob"))  # of scikit-image, and what is put in
TRUTHS = 12  # true pictures of a class that harmony and contrast are measured against
Shown = list[tuple[str, Picture]]


def run_demo(config: DemoConfig, command: list[str]) -> dict[str, Any]:
    """Four merged pictures of each world beside the same seeds pasted, and defects on photographs; writes panel.png,
    metrics.json, run.json and the pictures.
    """
    config.check()
    out = checked_out(config.out)
    run = Run(command, config, "graft-diffusionmix")
    files: dict[str, np.ndarray] = {}
    rows: list[Shown] = []
    scores: dict[str, list[float]] = {}
    settings = MergeConfig(sampler="ddim", steps=STEPS, device=config.device, dtype=config.dtype)
    with progress("demo", len(WORLDS), quiet=config.json) as advance:
        for weights, world in WORLDS:
            with run.stage("load"):
                mix = load_mix(ModelConfig(weights=weights, device=config.device, dtype=config.dtype, compile=config.compile))
                run.weights |= {f"name_{world}": mix.name, f"sha256_{world}": mix.sha256}
            with run.stage(world):
                rows += _world(mix, world, settings, config.seed, files, scores)
            if world == "texture":
                with run.stage("photographs"):
                    rows += _photographs(mix, settings, config.seed, files)
            advance(1)
    note = stamp("diffusionmix", config.seed, run.weights, {})
    with run.stage("write"):
        for name, array in files.items():
            write_png(out / f"{name}.png", array, note)
        write_png(out / "panel.png", panel(rows, "graft-diffusionmix demo (synthetic)"), note)
        columns = {name: np.array(values) for name, values in scores.items() if values}
        write_json(out / "metrics.json", metrics_json("diffusionmix", "demo", columns, {}))
    run.outputs = [f"{name}.png" for name in files] + ["panel.png", "metrics.json"]
    return run.write(out)


def _world(
    mix: Mix, world: World, settings: MergeConfig, seed: int, files: dict[str, np.ndarray], scores: dict[str, list[float]]
) -> list[Shown]:
    """Four pictures: background alone, hard paste, merged with a climb, its mask, and a true picture of that class."""
    names = mix.classes or CLASSES[world]
    seeds = [FIRST + seed + i for i in range(PICTURES)]
    true = [draw_scene(world, mix.background_size[0], s, names[i % len(names)]) for i, s in enumerate(seeds)]
    boxes = [scene.box for scene in true if scene.box is not None]
    labels = [i % len(names) for i in range(PICTURES)] if mix.classes else None
    grounds = sample_backgrounds(mix, seeds, settings)
    pasted = merge(mix, boxes, seeds, replace(settings, start=1.0, r=0), labels)
    merged = merge(mix, boxes, seeds, settings, labels)
    drawn = [draw_scene(world, mix.background_size[0], FIRST + 100 + i, name) for name in names for i in range(TRUTHS)]
    against = measure_truths([d.image for d in drawn], [d.mask for d in drawn], [d.label for d in drawn], [d.empty for d in drawn])
    rows: list[Shown] = []
    for i, (scene, ground, paste, item) in enumerate(zip(true, grounds, pasted, merged, strict=True)):
        for name, picture in (("", item), ("_hard_paste", paste)):
            found = measure(picture.image, picture.mask, ground, scene.label, against, None)
            for metric in ("harmony", "contrast", "iou"):
                if metric in found:
                    scores.setdefault(f"{metric}{name}_{world}", []).append(found[metric])
        stem = f"{world}_{i + 1}"
        files |= {stem: item.image, f"{stem}_mask": mask_image(item.mask)}
        files |= {f"{stem}_background": ground, f"{stem}_hard_paste": paste.image}
        if i < 3:
            rows.append([
                ("background alone", ground), (f"object: {scene.label}", item.object), ("hard paste", paste.image),
                ("merged", item.image), ("its mask", mask_image(item.mask)), ("a true one", scene.image),
            ])  # fmt: skip
    return rows


def _photographs(mix: Mix, settings: MergeConfig, seed: int, files: dict[str, np.ndarray]) -> list[Shown]:
    """The same object model painting into real photographs, whose pixels outside the mask stay."""
    shown: Shown = []
    for k, (name, label) in enumerate(PHOTOGRAPHS):
        photo = photograph(name)
        number = mix.classes.index(label) if label in mix.classes else None
        item: Merged = merge(
            mix, [Box(50, 44, 96, 96)], [FIRST + seed + 50 + k], settings, None if number is None else [number], photo
        )[0]
        files |= {f"photo_{name}": item.image, f"photo_{name}_mask": mask_image(item.mask)}
        shown += [(f"{name}, {label}", item.image), ("its mask", overlay(item.image, item.mask, item.box))]
    return [shown[i : i + 6] for i in range(0, len(shown), 6)]


def photograph(name: str) -> np.ndarray:
    """(192, 192, 3) uint8: the corner of a grey photograph of scikit-image."""
    from skimage import data

    colour = np.repeat(getattr(data, name)()[..., None], 3, 2)
    side = min(384, *colour.shape[:2])
    return cut(colour, np.zeros(colour.shape[:2], bool), Box(0, 0, side, side), 192)[0]
