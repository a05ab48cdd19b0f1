"""The verb `merge`: two models, or a model and a photograph, paint one picture; with the object's mask."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from diffusionmix.box import Box, draw_box, inner_square, parse_box
from diffusionmix.compose import checked_scenes, decoded, label_number, merge_scenes, plan_of, sample_backgrounds
from diffusionmix.config import MergeConfig
from diffusionmix.finish import finish
from diffusionmix.foreground import otsu, read_foreground
from diffusionmix.ground import Ground, read_ground, write_ground
from diffusionmix.records import Merged, Mix, Placed, Snapshot
from diffusionmix.schedule import Plan
from diffusionmix.weights import load_mix, names_model
from diffusionmix.write import mask_image, overlay
from graft_common.console import Run, checked_out, progress
from graft_common.panel import Picture as Shown
from graft_common.panel import panel
from graft_common.provenance import stamp
from graft_common.raster import write_png

MOMENTS = 10


def run_merge(config: MergeConfig, command: list[str]) -> dict[str, Any]:
    """Draw `n` pictures and write each with its mask.

    Raises:
        InputError: weights, a photograph, boxes or settings that cannot work, before any network runs.
    """
    config.check()
    boxes = [parse_box(text) for text in config.box]
    out = checked_out(config.out)
    run = Run(command, config, "graft-diffusionmix")
    ground = None
    if config.background is not None and not names_model(config.background):
        ground = read_ground(config.background)
        run.read("background", config.background)
    with run.stage("load"):
        mix = load_mix(config, ("object",) if ground else ("object", "background"))
        run.weights = mix.weights()
    size = ground.rgb.shape[:2] if ground else mix.background_size
    mask = None
    if config.foreground_mask is not None:
        mask = read_foreground(config.foreground_mask, (int(size[0]), int(size[1])))
        run.read("foreground", config.foreground_mask)
    elif config.foreground == "otsu" and ground:
        mask = otsu(ground.rgb)
    steps = plan_of(config)
    snapshots: list[Snapshot] = []
    flagged: dict[str, list[str]] = {}
    rows: list[dict[str, Any]] = []
    total = steps.reverse_steps * -(-config.n // config.batch_size)
    with progress("merge", total, quiet=config.json) as advance:
        for first in range(0, config.n, config.batch_size):
            seeds = [config.seed + i for i in range(first, min(first + config.batch_size, config.n))]
            scenes = placed(config, mix, boxes, seeds, (int(size[0]), int(size[1])), mask)
            photo = ground.rgb if ground else None
            checked_scenes(mix, scenes, seeds, config, photo)
            if first == 0:
                cleared(out, run.inputs.values())
            watch = kept_moments(steps, snapshots) if config.save_trajectory and first == 0 else None
            with run.stage("merge"):
                results = merge_scenes(mix, scenes, seeds, config, photo, watch=watch, advance=advance)
            with run.stage("write"):
                for i, result in enumerate(results, first):
                    row = write_merged(out, i, result, ground, config, mix, run)
                    rows.append(row)
                    if result.flags:
                        flagged[row["image"]] = list(result.flags)
    if snapshots:
        about = stamp("diffusionmix", config.seed, run.weights, run.digests)
        write_png(out / "trajectory.png", panel(trajectory(snapshots, mix), "clean predictions (synthetic)"), about)
        run.outputs.append("trajectory.png")
    run.measures = {
        "pictures": rows, "network_calls": steps.reverse_steps, "t_merge": steps.t_merge, "tau_steps": steps.tau, "r": steps.r,
        "flags": flagged, "background_model_ran": ground is None, "notes": list(ground.notes) if ground else [],
    }  # fmt: skip
    for note in ground.notes if ground else ():
        print(f"graft-diffusionmix merge: --background: {note}", file=sys.stderr)
    for name, flags in list(flagged.items())[:3]:
        print(f"graft-diffusionmix merge: {name}: {', '.join(flags)}", file=sys.stderr)
    return run.write(out)


def cleared(out: Path, kept: Iterable[Path]) -> None:
    """Take away what an earlier `merge` wrote here, by its record: of its pictures, those that this run does not write again would
    pass for pictures of this one. What this run reads (`kept`) stays."""
    read = {file.resolve() for file in kept}
    path = out / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = [str(name) for name in record["outputs"]] if "t_merge" in record["measures"] else []
    except (OSError, ValueError, KeyError, TypeError):
        return
    if names:
        path.unlink()
    for name in names:
        if Path(name).name == name and (out / name).resolve() not in read:
            (out / name).unlink(missing_ok=True)


def placed(
    config: MergeConfig,
    mix: Mix,
    boxes: Sequence[Box],
    seeds: Sequence[int],
    size: tuple[int, int],
    foreground: Bool[np.ndarray, "H W"] | None = None,
) -> list[list[Placed]]:
    """The objects of each picture: at the boxes given, or at one drawn from its seed.

    With `--foreground otsu` and no photograph, the background of each seed is drawn once by itself: merging changes it only where
    the object goes.
    """
    labels = [label_number(mix, name) for name in config.label]
    if boxes:
        each: list[int | None] = [None] * len(boxes)
        if labels:
            each = [*(labels * len(boxes) if len(labels) == 1 else labels)]
        many = len(config.object) > 1
        scene = [Placed(b, label, k if many else 0) for k, (b, label) in enumerate(zip(boxes, each, strict=True))]
        return [scene] * len(seeds)
    grounds: list[Any] = [foreground] * len(seeds)
    if config.foreground == "otsu" and foreground is None:
        grounds = [otsu(image) for image in sample_backgrounds(mix, seeds, config)]
    label = labels[0] if labels else None
    return [[Placed(draw_box(mix.boxes, size, seed, g), label)] for seed, g in zip(seeds, grounds, strict=True)]


def write_merged(
    out: Path, i: int, result: Merged, ground: Ground | None, config: MergeConfig, mix: Mix, run: Run
) -> dict[str, Any]:
    """Write one picture with its mask, object and overlay; returns what the record says of it."""
    tail = f"_{i}" if i else ""
    label = result.label
    names = [mix.classes[p.label] if p.label is not None and mix.classes else None for p in result.parts]
    about = {"boxes": [list(p.box) for p in result.parts], "classes": names, "flags": list(result.flags)}
    note = stamp("diffusionmix", result.seed, run.weights, run.digests) | about
    image = result.image
    for part in result.parts:
        base = image if ground is None else np.where(result.mask[..., None], image, ground.rgb)
        box = inner_square(part.box) if config.keep_aspect else part.box
        image = finish(image, base, part.object, part.mask, box, config.finish)
    if ground is None:
        name = f"image{tail}.png"
        write_png(out / name, image, note)
    else:
        name = write_ground(out, f"image{tail}", image, result.mask, ground, note)
    files = {f"mask{tail}.png": mask_image(result.mask), f"object{tail}.png": result.object}
    files[f"overlay{tail}.png"] = overlay(image, result.mask, result.box)
    for file, array in files.items():
        write_png(out / file, array, note)
    run.outputs += [name, *files]
    areas = [int(part.mask.sum()) for part in result.parts]
    return {"image": name, "seed": result.seed, **about, "label": label, "mask_area": int(result.mask.sum()), "areas": areas}


def kept_moments(steps: Plan, kept: list[Snapshot]) -> Callable[[Snapshot], None]:
    """Appends ten evenly chosen snapshots of reverse steps to `kept`."""
    reverse = [i for i in range(1, len(steps.times)) if steps.times[i] < steps.times[i - 1]]
    chosen = {reverse[round(i)] for i in np.linspace(0, len(reverse) - 1, min(MOMENTS, len(reverse)))}

    def watch(snapshot: Snapshot) -> None:
        if snapshot.position in chosen:
            kept.append(snapshot)

    return watch


def trajectory(snapshots: Sequence[Snapshot], mix: Mix) -> list[list[tuple[str, Shown]]]:
    """Three rows: the background's clean prediction, the object's, and the mask on the canvas."""
    rows: list[list[tuple[str, Shown]]] = [[], [], []]
    for snapshot in snapshots:
        rows[0].append((f"state {snapshot.state}", decoded(mix, snapshot.guess_background[:1])[0]))
        rows[1].append(("object", decoded(mix, snapshot.guess_objects[0][:1, :-1])[0]))
        shape = snapshot.guess_background.shape[2:]
        cover = np.zeros(shape, bool) if snapshot.covers is None else snapshot.covers[0][0, 0].cpu().numpy() >= 0.5
        rows[2].append(("mask", mask_image(cover)))
    return rows
