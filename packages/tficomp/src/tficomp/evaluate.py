"""The verb `evaluate`: results and their manifest -> metrics.json, beside every baseline and doing nothing."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graft_common.bundle import Bundle
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.metrics import metrics_json, paired_difference
from graft_common.pixels import read_picture, with_channels
from tficomp.baselines import run_baseline
from tficomp.composite import composite
from tficomp.config import MethodConfig
from tficomp.config_study import EvaluateConfig, as_method
from tficomp.frame import to_frame
from tficomp.manifest import read_manifest
from tficomp.place import place
from tficomp.records import Inputs, Result
from tficomp.score import doing_nothing, score
from tficomp.study import Scores, groups, joined, read_group, summaries, table, write_text
from tficomp.weights import denoiser, load_bundle, working_size

NOTHING = "doing nothing"


def run_evaluate(config: EvaluateConfig, command: list[str]) -> dict[str, Any]:
    """The verb `evaluate`; writes metrics.json, table.md, samples.csv and run.json.

    metrics.json holds the first folder's metrics; "compared" those of every other folder, of each baseline and of doing
    nothing, "paired" the first folder minus each of them, sample by sample.
    """
    config.check()
    out = checked_out(config.out)
    rows = read_manifest(config.manifest)
    names = method_names(config.results)
    for folder in config.results:
        for row in rows:
            if not (folder / row.key / "result.png").is_file():
                raise InputError(
                    f"--results {typed(folder)}: has no {row.key}/result.png; run batch or baseline on this manifest"
                )
    record = Run(command, config, "graft-tficomp")
    if config.manifest.is_file():
        record.read("manifest", config.manifest)
    with record.stage("load"):
        bundle = load_bundle(config)
        working_size(config, bundle)
        record.weights = bundle.weights()
    method = as_method(config)
    network = denoiser(method, bundle)
    backbones = {"perceptual": config.lpips, "image_text": config.clip}
    parts: dict[str, list[Scores]] = {}
    with progress("evaluate", len(rows), quiet=config.json) as advance:
        for group in groups(rows, config.batch_size):
            samples = read_group(group, config.fit_mask)
            with record.stage("read"):
                answers = {
                    name: [read_result(s, folder / row.key / "result.png", method, bundle)
                           for s, row in zip(samples, group, strict=True)]
                    for name, folder in zip(names, config.results, strict=True)
                }  # fmt: skip
                answers[NOTHING] = [doing_nothing(r) for r in answers[names[0]]]
            seeds = [config.seed + row.sources.seed for row in group]
            for other in config.baselines:
                with record.stage(f"baseline {other}"):
                    made = run_baseline(other, samples, method, bundle, seeds, counter=network)
                answers[other if other not in names else f"{other} (computed)"] = made
            with record.stage("score"):
                for method_name, results in answers.items():
                    parts.setdefault(method_name, []).append(score(samples, results, backbones))
            advance(len(group))
    scores = {name: joined(part) for name, part in parts.items()}
    means = {name: summaries(column) for name, column in scores.items()}
    ours = names[0]
    paired = {
        name: {metric: paired_difference(scores[ours][metric], column) for metric, column in other.items()}
        for name, other in scores.items()
        if name != ours
    }
    with record.stage("write"):
        others = {name: summary for name, summary in means.items() if name != ours}
        extra = {"results": ours, "compared": others, "paired": paired, "data_range": 2.0}
        write_json(out / "metrics.json", metrics_json("tficomp", "compose", scores[ours], backbones, extra))
        write_text(out / "table.md", table(means))
        write_text(out / "samples.csv", as_csv([row.key for row in rows], scores))
    record.outputs = ["metrics.json", "table.md", "samples.csv"]
    record.measures = {"samples": len(rows), "methods": list(scores)}
    return record.write(out)


def method_names(folders: Sequence[Path]) -> list[str]:
    """Folder names, made different by a number where they repeat."""
    names: list[str] = []
    for folder in folders:
        name = folder.resolve().name
        names.append(name if name not in names else f"{name} ({sum(n.split(' (')[0] == name for n in names) + 1})")
    return names


def read_result(sample: Inputs, path: Path, config: MethodConfig, bundle: Bundle) -> Result:
    """A stored result as a record, as shown; placed as compose would place it, so that crops and masks are known.

    Raises:
        InputError: unreadable, or of another size than its background.
    """
    source = sample.background.source
    # A 16-bit PNG is shown through a window of its own; the result must go through its background's.
    window = source.window if source.kind == "png" and source.bits > 8 else None
    picture = read_picture(path, window=window, role="result")
    base = sample.background.pixels
    if picture.pixels.shape[1:] != base.shape[1:]:
        (h, w), (bh, bw) = picture.pixels.shape[1:], base.shape[1:]
        raise InputError(
            f"result {typed(path)}: is {w}x{h} but its background is {bw}x{bh}; it belongs to another manifest"
        )
    placed = place(sample, config, working_size(config, bundle), bundle.factor)
    frame = to_frame(with_channels(picture.pixels, 3), placed.frame)
    made = composite(frame, sample, placed, config)
    pixels = with_channels(picture.pixels, len(base))
    return replace(made, pixels=pixels, changed=np.any(pixels != base, axis=0))


def as_csv(keys: Sequence[str], scores: Mapping[str, Scores]) -> str:
    """One line for each sample and method."""
    text = io.StringIO()
    metrics = list(next(iter(scores.values())))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "method", *metrics])
    for name, columns in scores.items():
        for i, key in enumerate(keys):
            writer.writerow([key, name, *(f"{columns[m][i]:.6g}" for m in metrics)])
    return text.getvalue()
