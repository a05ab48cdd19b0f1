"""The verb `evaluate`: results and their manifest -> metrics.json, beside every baseline and doing nothing."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from graft_common.bundle import Bundle
from graft_common.console import checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed, write_text
from graft_common.markdown import table
from graft_common.metrics import metrics_json, name, paired_difference
from graft_common.pixels import read_picture, with_channels
from graft_common.provenance import public_config
from tficomp.baselines import run_baseline
from tficomp.composite import composite
from tficomp.config import MethodConfig
from tficomp.config_study import EvaluateConfig, as_method
from tficomp.frame import to_frame
from tficomp.place import place
from tficomp.records import Inputs, Result
from tficomp.score import doing_nothing, score
from tficomp.study import Scores, begun, groups, joined, opened_for, read_group, summaries
from tficomp.weights import Grid, grid_of, working_size

NOTHING = "doing nothing"


def run_evaluate(config: EvaluateConfig, command: list[str]) -> dict[str, Any]:
    """The verb `evaluate`; writes metrics.json, table.md, samples.csv and run.json.

    metrics.json holds the first folder's metrics; "compared" those of every other folder, of each baseline and of doing
    nothing, "paired" the first folder minus each of them, sample by sample.
    """
    config.check()
    out = checked_out(config.out)
    for metric, judge in (("lpips", config.lpips), ("clip_text", config.clip)):
        name(metric, judge)  # refuses a network that is none, before the work
    rows, record = begun(config, command)
    names = method_names(config.results)
    for folder in config.results:
        for row in rows:
            if not (folder / row.key / "result.png").is_file():
                raise InputError(
                    f"--results {typed(folder)}: has no {row.key}/result.png; run batch or baseline on this manifest"
                )
        same_square(config, folder)
    bundle, network = opened_for(config.baselines, config, record)
    method = as_method(config)
    backbones = {"perceptual": config.lpips, "image_text": config.clip}
    parts: dict[str, list[Scores]] = {}
    with progress("evaluate", len(rows), quiet=config.json) as advance:
        for group in groups(rows, config.batch_size):
            samples = read_group(group, config.fit_mask)
            with record.stage("read"):
                answers = {
                    label: [read_result(s, folder / row.key / "result.png", method, bundle)
                            for s, row in zip(samples, group, strict=True)]
                    for label, folder in zip(names, config.results, strict=True)
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
    scores = {label: joined(part) for label, part in parts.items()}
    means = {label: summaries(column) for label, column in scores.items()}
    ours = names[0]
    paired = {
        label: {m: paired_difference(scores[ours][m], column) for m, column in other.items() if m in scores[ours]}
        for label, other in scores.items()
        if label != ours
    }
    with record.stage("write"):
        others = {label: summary for label, summary in means.items() if label != ours}
        extra = {"results": ours, "compared": others, "paired": paired, "data_range": 2.0}
        write_json(out / "metrics.json", metrics_json("tficomp", "compose", scores[ours], backbones, extra))
        write_text(out / "table.md", table(means, "method"))
        write_text(out / "samples.csv", as_csv([row.key for row in rows], scores))
    record.outputs = ["metrics.json", "table.md", "samples.csv"]
    record.measures = {"samples": len(rows), "methods": list(scores)}
    return record.write(out)


def same_square(config: EvaluateConfig, folder: Path) -> None:
    """InputError where results were placed with other settings than --weights, --size, --context, --fit and --margin say:
    they would be scored on squares and boxes that are not theirs. Results without a run.json are taken as they are."""
    path = folder / "run.json"
    if not path.is_file():
        return
    with parsing(f"--results {typed(folder)}", "a run record"):
        stored = dict(json.loads(read_bytes(path))["config"])
    mine = public_config(asdict(config))
    for key in ("weights", "size", "context", "fit", "margin"):
        if key in stored and stored[key] != mine[key]:
            raise InputError(
                f"--{key} {mine[key]}: --results {typed(folder)} was made with {stored[key]}; give the same to both"
            )


def method_names(folders: Sequence[Path]) -> list[str]:
    """Folder names, made different by a number where they repeat."""
    names: list[str] = []
    for folder in folders:
        own = folder.resolve().name
        names.append(own if own not in names else f"{own} ({sum(n.split(' (')[0] == own for n in names) + 1})")
    return names


def read_result(sample: Inputs, path: Path, config: MethodConfig, bundle: Bundle | Grid) -> Result:
    """A stored result as a record, as shown; placed as compose would place it, so that crops and masks are known.

    Its frame has the file's channels: a grey file says nothing about the tint that the network gave it.

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
    placed = place(sample, config, working_size(config, bundle), grid_of(bundle).factor)
    frame = to_frame(picture.pixels, placed.frame)
    made = composite(with_channels(frame, 3), sample, placed, config)
    pixels = with_channels(picture.pixels, len(base))
    return replace(made, pixels=pixels, changed=np.any(pixels != base, axis=0), frame_pixels=frame)


def as_csv(keys: Sequence[str], scores: Mapping[str, Scores]) -> str:
    """One line for each sample and method."""
    text = io.StringIO()
    metrics = list(dict.fromkeys(m for columns in scores.values() for m in columns))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "method", *metrics])
    for label, columns in scores.items():
        for i, key in enumerate(keys):
            writer.writerow([key, label, *(f"{columns[m][i]:.6g}" if m in columns else "" for m in metrics)])
    return text.getvalue()
