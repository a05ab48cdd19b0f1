"""`graft-didgen demo`: text, layouts, a box and an edit on the shipped weights, offline; what the gallery shows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from didgen.annotate import iou
from didgen.attributes import render
from didgen.box import drawn_box
from didgen.config import DemoConfig, DrawConfig, EditConfig, LayoutConfig
from didgen.denoise import Denoiser, denoiser, strengths
from didgen.edit import edit, inverted
from didgen.measure import measure
from didgen.pipeline import draw_pairs, draw_pictures
from didgen.prompts import draw, prompt_of, prompt_of_box
from didgen.segment import segment_lesion
from didgen.weights import Model, load_model
from didgen.write import mask_image, outlined
from graft_common import phantoms
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.metrics import metrics_json
from graft_common.panel import panel
from graft_common.provenance import stamp
from graft_common.raster import write_png

FIRST = 10_000_301  # held-out seeds from here upward, --seed further
STEPS = 25
BOX = (0.1, 0.1, 0.55, 0.6)
Shown = list[tuple[str, np.ndarray]]


def run_demo(config: DemoConfig, command: list[str]) -> dict[str, Any]:
    """Four pictures from text, six pairs from layouts, a box, an edit; writes panel.png, metrics.json, run.json and the files."""
    config.check()
    out = checked_out(config.out)
    run = Run(command, config, "graft-didgen")
    first = FIRST + config.seed
    with run.stage("load"):
        model = load_model(config)
        run.weights = model.weights()
        network = denoiser(model.bundle, DrawConfig(steps=STEPS, compile=config.compile))
    files: dict[str, np.ndarray] = {}
    rows: list[Shown] = []
    with progress("demo", 4, quiet=config.json) as advance:
        with run.stage("text"):
            rows.append(_text(first, model, network, files))
        advance(1)
        with run.stage("pairs"):
            shown, scores = _pairs(first, model, network, files)
            rows += shown
        advance(1)
        with run.stage("box"):
            rows.append(_box(first, model, network, files))
        advance(1)
        with run.stage("edit"):
            rows.append(_edit(first, model, network, files))
        advance(1)
    note = stamp("didgen", config.seed, run.weights, {})
    with run.stage("write"):
        for name, array in files.items():
            write_png(out / f"{name}.png", array, note)
        write_png(out / "panel.png", panel(rows, "graft-didgen demo (synthetic)"), note)
        write_json(out / "metrics.json", metrics_json("didgen", "demo", scores, {}))
    run.outputs = [f"{name}.png" for name in files] + ["panel.png", "metrics.json"]
    run.measures = {"network_calls": network.calls}
    return run.write(out)


def _text(first: int, model: Model, network: Denoiser, files: dict[str, np.ndarray]) -> Shown:
    wishes = [draw(first + i, model.seen) for i in range(4)]
    images = draw_pictures(
        [render(w) for w in wishes], [first + i for i in range(4)], DrawConfig(steps=STEPS), model, network
    )
    files.update({f"text_{i + 1}": image for i, image in enumerate(images)})
    return [(f"{w.colors[0]} on {w.skin}", image) for w, image in zip(wishes, images, strict=True)]


def _pairs(
    first: int, model: Model, network: Denoiser, files: dict[str, np.ndarray]
) -> tuple[list[Shown], dict[str, np.ndarray]]:
    size = model.bundle.size
    layouts = [phantoms.draw("dermoscopy", size, first + i).masks["lesion"] for i in range(6)]
    seeds = [first + i for i in range(6)]
    prompts = [prompt_of(mask, seed, model.seen) for mask, seed in zip(layouts, seeds, strict=True)]
    made = {
        eta: draw_pairs(layouts, prompts, seeds, LayoutConfig(steps=STEPS, eta=eta), model, network) for eta in (None, 0.0)
    }
    rows: list[Shown] = []
    scores: dict[str, list[float]] = {"iou_layout": [], "iou_layout_unguided": [], "iou_annotation": []}
    for i, (layout, pair, plain) in enumerate(zip(layouts, made[None], made[0.0], strict=True)):
        drawn = segment_lesion(pair.image)
        scores["iou_layout"].append(iou(drawn, layout))
        scores["iou_layout_unguided"].append(iou(segment_lesion(plain.image), layout))
        scores["iou_annotation"].append(iou(pair.annotation.mask, drawn))
        files |= {f"pair_{i + 1}": pair.image, f"pair_{i + 1}_mask": mask_image(pair.annotation.mask)}
        if i < 3:
            rows.append([
                ("layout", mask_image(layout)), ("unguided", plain.image), ("guided", pair.image),
                ("mask from attention", outlined(pair.image, pair.annotation.mask)),
            ])  # fmt: skip
    return rows, {name: np.array(values) for name, values in scores.items()}


def _box(first: int, model: Model, network: Denoiser, files: dict[str, np.ndarray]) -> Shown:
    seeds = [first + i for i in range(4)]
    sizes = strengths(STEPS, 0.5, model.guidance["box"], decay=True)
    prompts = [prompt_of_box(BOX, seed, model.seen) for seed in seeds]
    images = draw_pictures(prompts, seeds, DrawConfig(steps=STEPS), model, network, box=BOX, sizes=sizes)
    files.update({f"box_{i + 1}": image for i, image in enumerate(images)})
    return [("box", drawn_box(image, BOX)) for image in images]


def _edit(first: int, model: Model, network: Denoiser, files: dict[str, np.ndarray]) -> Shown:
    size = model.bundle.size
    real = phantoms.draw("dermoscopy", size, first + 9, color="brown", skin="fair", artifact="none")
    words = measure(real.image, real.masks["lesion"]).attributes
    source, target = render(words), render(replace(words, colors=("blue-gray",)))
    settings = EditConfig(image=Path(), source=source, target=target, steps=STEPS, iterations=3)  # the picture is drawn
    pixels = real.image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    edited = edit(network, inverted(network, model.bundle, pixels, settings), settings, pixels, real.masks["lesion"])
    files |= {"edit_source": real.image, "edit_result": edited.image}
    return [
        ("phantom", real.image), ("reconstruction", edited.reconstruction), ("edited: blue-gray", edited.image),
        ("where it may change", mask_image(edited.region)),
    ]  # fmt: skip
