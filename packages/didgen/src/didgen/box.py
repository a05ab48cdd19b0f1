"""The verb `box`: a box for the lesion -> pictures with YOLO and COCO labels (spec 2.7)."""

import math
from typing import Any

import numpy as np

from didgen.config import BoxConfig
from didgen.denoise import denoiser, strengths
from didgen.pipeline import draw_pictures
from didgen.prompts import prompt_of_box
from didgen.tokens import positions
from didgen.weights import load_model
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import typed, write_text
from graft_common.panel import panel
from graft_common.provenance import stamp
from graft_common.raster import write_png

Box = tuple[float, float, float, float]


def run_box(config: BoxConfig, command: list[str]) -> dict[str, Any]:
    """Draw `n` pictures whose lesion fills the box; the label is the box that was asked for.

    Raises:
        InputError: a box outside the picture or of no size, or settings that cannot work.
    """
    config.check()
    box = parse_box(config.box)
    out = checked_out(config.out)
    if (out / "coco.json").exists():
        raise InputError(f"--out {typed(config.out)}: holds pictures already; choose another folder")
    run = Run(command, config, "graft-didgen")
    with run.stage("load"):
        model = load_model(config)
        run.weights = model.weights()
    seeds = [config.seed + i for i in range(config.n)]
    prompts = [prompt_of_box(box, seed, model.seen) if config.prompt is None else config.prompt for seed in seeds]
    for prompt in prompts:
        positions(model.bundle.tokenizer, prompt)
    eta = model.guidance["box"] if config.strength is None else config.strength
    sizes = strengths(config.steps, config.share, eta, decay=True)
    network = denoiser(model.bundle, config)
    shown: list[tuple[str, np.ndarray]] = []
    names: list[str] = []
    shape: tuple[int, ...] = (0, 0)
    with progress("draw", config.n, quiet=config.json) as advance:
        for first in range(0, config.n, config.batch_size):
            part = slice(first, first + config.batch_size)
            with run.stage("draw"):
                images = draw_pictures(prompts[part], seeds[part], config, model, network, box, sizes)
            for seed, prompt, image in zip(seeds[part], prompts[part], images, strict=True):
                name, shape = f"box_{len(names):05d}", image.shape[:2]
                note = stamp("didgen", seed, run.weights, {}) | {"prompt": prompt, "box": list(box)}
                write_png(out / "image" / f"{name}.png", image, note)
                write_text(out / "label" / f"{name}.txt", yolo(box))
                names.append(name)
                shown.append((f"seed {seed}", drawn_box(image, box)))
            advance(len(images))
    write_json(out / "coco.json", coco(names, prompts, box, shape))
    sheet = [shown[i : i + 6] for i in range(0, min(len(shown), 24), 6)]
    write_png(out / "panel.png", panel(sheet, "box guidance (synthetic)"), stamp("didgen", config.seed, run.weights, {}))
    run.outputs = [f"image/{n}.png" for n in names] + [f"label/{n}.txt" for n in names] + ["coco.json", "panel.png"]
    run.measures = {"pictures": config.n, "network_calls": network.calls}
    return run.write(out)


def parse_box(text: str) -> Box:
    """x1,y1,x2,y2 in [0, 1].

    Raises:
        InputError: not four numbers, outside the picture, or of no size.
    """
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--box {text}: give four numbers as x1,y1,x2,y2, in shares of width and height") from None
    if not all(math.isfinite(v) and 0 <= v <= 1 for v in (x1, y1, x2, y2)):
        raise InputError(f"--box {text}: lies outside the picture; all four numbers must be from 0 to 1")
    if not (x1 < x2 and y1 < y2):
        raise InputError(f"--box {text}: has no size; x1 must be below x2 and y1 below y2")
    return x1, y1, x2, y2


def yolo(box: Box) -> str:
    """Class 0, centre and size in shares."""
    x1, y1, x2, y2 = box
    return f"0 {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n"


def coco(names: list[str], prompts: list[str], box: Box, shape: tuple[int, ...]) -> dict[str, Any]:
    """COCO JSON of one lesion a picture."""
    h, w = shape[:2]
    x, y, width, height = box[0] * w, box[1] * h, (box[2] - box[0]) * w, (box[3] - box[1]) * h
    place = [round(v, 3) for v in (x, y, width, height)]
    return {
        "info": {"description": "synthetic, not for diagnosis", "synthetic": True},
        "categories": [{"id": 1, "name": "lesion"}],
        "images": [
            {"id": i + 1, "file_name": f"image/{n}.png", "width": w, "height": h, "prompt": p}
            for i, (n, p) in enumerate(zip(names, prompts, strict=True))
        ],
        "annotations": [
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": place, "area": round(width * height, 3), "iscrowd": 0}
            for i in range(len(names))
        ],
    }


def drawn_box(image: np.ndarray, box: Box) -> np.ndarray:
    """The picture with the box in yellow."""
    out = image.copy()
    h, w = image.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in (box[0] * w, box[1] * h, min(box[2] * w, w - 1), min(box[3] * h, h - 1)))
    out[[y1, y2], x1 : x2 + 1] = (255, 220, 60)
    out[y1 : y2 + 1, [x1, x2]] = (255, 220, 60)
    return out
