"""The verb `caption`: pictures, with or without masks -> attributes and prompts."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from didgen.attributes import count_tokens, render, to_json
from didgen.caption_sources import sources
from didgen.config_caption import CaptionConfig
from didgen.images import read_lesion_mask, read_rgb
from didgen.manifest import NAME, Row, write_manifest
from didgen.measure import Measured, measure
from didgen.thresholds import Thresholds
from didgen.vlm import Described, describe, load_generate
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import atomic_path, sha256, typed

CAPTIONS, PARTIAL = "captions.jsonl", "captions.partial.jsonl"
Say = Callable[[UInt8[np.ndarray, "H W 3"], Measured], Described]


def run_caption(config: CaptionConfig, command: list[str]) -> dict[str, Any]:
    """Caption every picture; writes captions.jsonl, manifest.jsonl and run.json.

    Raises:
        InputError: unusable folders, files, classes or settings; a picture without a lesion that differs from its skin.
    """
    config.check()
    out = checked_out(config.out)
    run = Run(command, config, "graft-didgen")
    rows, roots = sources(config)
    for role, path in (("manifest", config.images), ("classes", config.classes)):
        if path is not None and path.is_file():
            run.read(role, path)
    settings = note(config, rows)
    done = begin(config, out, settings)
    with run.stage("load"):
        tokenizer, run.weights = load_tokenizer(config.weights)
        say = None if config.captioner == "measure" else partial(_described, load_generate(config.captioner, config.device))
    thresholds = Thresholds(bubbles=config.bubbles)
    with progress("caption", len(rows), quiet=config.json) as advance:
        for row in rows:
            if row.id not in done:
                with run.stage("caption"):
                    done[row.id] = caption_row(row, config, thresholds, tokenizer, say)
                keep(out / PARTIAL, settings, done[row.id])
            advance(1)
    said = [(row, done[row.id]) for row in rows if "skipped" not in done[row.id]]
    if not said:
        raise InputError(f"{typed(config.images)}: no picture could be captioned ({next(iter(done.values()))['skipped']})")
    with atomic_path(out / CAPTIONS) as beside:
        beside.write_text("".join(json.dumps(done[row.id]) + "\n" for row in rows), encoding="utf-8")
    full = [replace(row, attributes=item["attributes"], prompt=item["prompt"]) for row, item in said]
    write_manifest(out / NAME, full, roots)
    (out / PARTIAL).unlink(missing_ok=True)
    run.outputs = [CAPTIONS, NAME]
    run.measures = tally([item for _, item in said]) | {"skipped": len(rows) - len(said)}
    return run.write(out)


def caption_row(row: Row, config: CaptionConfig, thresholds: Thresholds, tokenizer: Any, say: Say | None) -> dict[str, Any]:
    """One line of captions.jsonl; with --skip, `skipped` and why for a picture that cannot be captioned."""
    try:
        image = read_rgb(row.image)
        mask = None if row.mask is None else read_lesion_mask(row.mask, image.shape[:2])
        try:
            found = measure(image, mask, {"diagnosis": row.dx}, thresholds)
        except InputError as why:
            raise InputError(f"image {typed(row.image)}: {why}") from why
    except InputError as why:
        if not config.skip:
            raise
        return {"id": row.id, "skipped": str(why).replace(str(row.image), row.image.name)}
    described = None if say is None else say(image, found)
    words = found.attributes if described is None else described.attributes
    prompt = render(words, tokenizer, config.budget)
    item = {
        "id": row.id,
        "image": row.image.name,
        "attributes": to_json(words),
        "prompt": prompt,
        "tokens": count_tokens(prompt, tokenizer),
        "mask_source": found.mask_source,
        "captioner": Path(config.captioner).name if Path(config.captioner).is_dir() else config.captioner,
    }
    if described is not None:
        item |= {"sources": described.sources, "replies": described.replies}
    return item | {"measured": found.numbers()}


def _described(generate: Any, image: UInt8[np.ndarray, "H W 3"], found: Measured) -> Described:
    return describe(image, found.attributes, generate)


def note(config: CaptionConfig, rows: list[Row]) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on with."""
    shared = ("captioner", "bubbles", "weights", "budget", "skip")
    return {name: getattr(config, name) for name in shared} | {
        "masks": config.masks is not None,
        "classes": None if config.classes is None else sha256(config.classes),
        "rows": [row.id for row in rows],
    }


def begin(config: CaptionConfig, out: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Captions of an interrupted run, with --resume; none otherwise.

    Raises:
        InputError: the folder holds captions, or a run of other settings.
    """
    path = out / PARTIAL
    if (out / CAPTIONS).exists():
        raise InputError(f"--out {typed(config.out)}: holds captions already; choose another folder")
    if not path.exists():
        return {}
    if not config.resume:
        raise InputError(f"--out {typed(config.out)}: holds an interrupted run; pass --resume to go on or choose another folder")
    lines = path.read_text(encoding="utf-8").split("\n")
    whole = [json.loads(line) for line in lines[:-1]]  # a line that was cut off has no end
    if whole and whole[0] != settings:
        changed = next(name for name in settings if whole[0].get(name) != settings[name])
        raise InputError(f"--out {typed(config.out)}: was begun with other {changed}; repeat it or choose another folder")
    with atomic_path(path) as beside:
        beside.write_text("".join(json.dumps(item) + "\n" for item in whole or [settings]), encoding="utf-8")
    return {item["id"]: item for item in whole[1:]}


def keep(path: Path, settings: dict[str, Any], item: dict[str, Any]) -> None:
    """Add a finished caption to the partial file, which begins with the settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first = "" if path.exists() else json.dumps(settings) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(first + json.dumps(item, allow_nan=False) + "\n")


def load_tokenizer(weights: str) -> tuple[Any, dict[str, str]]:
    """The tokenizer of a bundle with the placeholders added, and the bundle's name and digest for the record.

    Raises:
        InputError: no such bundle, or it has no CLIP tokenizer.
    """
    from transformers import CLIPTokenizer

    from graft_common.bundle import find
    from graft_common.provenance import folder_digest

    name, folder = find(weights)
    try:
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as why:  # transformers raises many kinds
        reason = (str(why).strip().splitlines() or [type(why).__name__])[0]
        raise InputError(f"--weights {weights}: has no CLIP tokenizer ({reason}); give a Stable Diffusion folder") from why
    tokenizer.add_tokens(["<lesion>", "<skin>"])  # known ones are passed over
    return tokenizer, {"name": name, "sha256": folder_digest(folder / "tokenizer")}


def tally(items: list[dict[str, Any]]) -> dict[str, Any]:
    """How often each value was said, the longest prompt, and what a model left to the measurement."""
    counts: dict[str, Counter[str]] = {}
    for item in items:
        for name, value in item["attributes"].items():
            counts.setdefault(name, Counter()).update(value if isinstance(value, list) else [str(value or "not said")])
    measured = Counter(name for item in items for name, who in item.get("sources", {}).items() if who == "measured")
    return {
        "pictures": len(items),
        "longest_prompt": max(item["tokens"] for item in items),
        "mask_source": dict(Counter(item["mask_source"] for item in items)),
        "said": {name: dict(sorted(count.items())) for name, count in counts.items()},
        "model_fields_measured": dict(sorted(measured.items())),
    }
