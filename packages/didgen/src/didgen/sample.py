"""The verb `sample`: prompts -> pictures, without a layout or a mask."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from didgen.attributes import CHOICES, DermAttributes, from_json, render, to_json, vary
from didgen.config import SampleConfig
from didgen.denoise import denoiser
from didgen.pipeline import Image, draw_pictures
from didgen.prompts import draw
from didgen.tokens import positions
from didgen.weights import Model, load_model
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import atomic_path, read_bytes, typed
from graft_common.panel import panel
from graft_common.provenance import stamp
from graft_common.raster import write_png

SHOWN = 24


@dataclass(frozen=True)
class Wish:
    """One picture to draw; attributes are None for a prompt in the user's own words."""

    prompt: str
    seed: int
    attributes: DermAttributes | None


def run_sample(config: SampleConfig, command: list[str]) -> dict[str, Any]:
    """Draw `n` pictures of every prompt.

    Raises:
        InputError: prompts, attributes or settings that cannot work.
    """
    config.check()
    if config.n < 1:
        raise InputError(f"--n {config.n}: must be at least 1")
    if config.prompt is not None and config.attributes:
        raise InputError("--prompt and --attributes exclude each other; give one of them")
    if config.prompt is not None and config.vary:
        raise InputError("--vary: varies attributes, not a prompt in your own words; give --attributes or leave it out")
    out = checked_out(config.out)
    if (out / "samples.jsonl").exists():
        raise InputError(f"--out {typed(config.out)}: holds samples already; choose another folder")
    run = Run(command, config, "graft-didgen")
    with run.stage("load"):
        model = load_model(config)
        run.weights = model.weights()
    if config.attributes:
        run.read("attributes", config.attributes)
    jobs = wishes(config, model)
    network = denoiser(model.bundle, config)
    rows, shown = [], []
    with progress("draw", len(jobs), quiet=config.json) as advance:
        for first in range(0, len(jobs), config.batch_size):
            group = jobs[first : first + config.batch_size]
            with run.stage("draw"):
                images = draw_pictures([j.prompt for j in group], [j.seed for j in group], config, model, network)
            for i, (job, image) in enumerate(zip(group, images, strict=True), first):
                rows.append(write_sample(f"sample_{i:05d}", job, image, config, run, model, out))
                shown.append((f"seed {job.seed}", image))
            advance(len(group))
    with atomic_path(out / "samples.jsonl") as beside:
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    note = stamp("didgen", config.seed, run.weights, run.digests)
    sheet = [shown[i : i + 6] for i in range(0, min(len(shown), SHOWN), 6)]
    write_png(out / "panel.png", panel(sheet, "text to picture (synthetic)"), note)
    run.outputs = [row["image"] for row in rows] + ["samples.jsonl", "panel.png"]
    unseen = sorted({word for job in jobs for word in unfamiliar(job, model)})
    run.measures = {"pictures": len(rows), "network_calls": network.calls, "never_seen_in_training": unseen}
    return run.write(out)


def wishes(config: SampleConfig, model: Model) -> list[Wish]:
    """What to draw: every prompt `n` times, one seed each."""
    tokenizer = model.bundle.tokenizer
    if config.prompt is not None:
        positions(tokenizer, config.prompt)
        return [Wish(config.prompt, config.seed + i, None) for i in range(config.n)]
    given = read_attributes(config) if config.attributes else [draw(config.seed, model.seen)]
    found = []
    for k, attributes in enumerate(given):
        for i in range(config.n):
            seed = config.seed + k * config.n + i
            own = vary(attributes, np.random.default_rng([62, seed])) if config.vary and i else attributes
            found.append(Wish(render(own, tokenizer), seed, own))
    return found


def read_attributes(config: SampleConfig) -> list[DermAttributes]:
    """One object or a list of them.

    Raises:
        InputError: no JSON, or values outside the schema.
    """
    assert config.attributes is not None
    where = f"--attributes {typed(config.attributes)}"
    try:
        content = json.loads(read_bytes(config.attributes, where))
    except ValueError as why:
        raise InputError(f"{where}: is no JSON ({why}); write an object of attributes, as caption does") from None
    several = content if isinstance(content, list) else [content]
    if not several:
        raise InputError(f"{where}: is an empty list; give at least one object of attributes")
    return [from_json(item, f"{where} item {i + 1}" if len(several) > 1 else where) for i, item in enumerate(several)]


def write_sample(
    name: str, job: Wish, image: Image, config: SampleConfig, run: Run, model: Model, out: Path
) -> dict[str, Any]:
    """Write one picture; returns its row."""
    note = stamp("didgen", job.seed, run.weights, run.digests) | {"prompt": job.prompt}
    write_png(out / "image" / f"{name}.png", image, note)
    words = positions(model.bundle.tokenizer, job.prompt)
    return {
        "id": name, "image": f"image/{name}.png", "prompt": job.prompt, "seed": job.seed, "synthetic": True,
        "attributes": to_json(job.attributes) if job.attributes else None, "steps": config.steps, "guidance": config.guidance,
        "scheduler": "DDIM", "tokens": {"lesion": words.lesion, "skin": words.skin}, "weights": run.weights["sha256"],
    }  # fmt: skip


def unfamiliar(job: Wish, model: Model) -> Sequence[str]:
    """Requested values that no training caption named: the weights cannot know them."""
    if job.attributes is None or not model.seen:
        return []
    found = []
    for name in CHOICES:
        value = getattr(job.attributes, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        found += [f"{name}={v}" for v in values if v not in model.seen.get(name, ())]
    return found
