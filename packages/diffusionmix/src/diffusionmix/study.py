"""The verb `study`: tau x r x start, baselines and samplers on several pairs of models, in one table, with paired seeds."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusionmix.baselines import OURS
from diffusionmix.config_study import StudyConfig
from diffusionmix.study_parts import (
    METRICS,
    TRUE,
    Cell,
    Columns,
    Setup,
    cells,
    joined,
    measure_batch,
    measure_true,
    setup_of,
)
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import typed, write_bytes
from graft_common.provenance import public_name, versions

HEAD = ("weights", "part", "setting", "sampler", "T", "tau", "r", "start", "calls", "n", "empty")


def run_study(config: StudyConfig, command: list[str]) -> dict[str, Any]:
    """Writes study.csv and study.json (rows with means and 95 % intervals, findings), table.md, parts/ and run.json.

    A batch of seeds is drawn under all settings of a part before the next batch, so that what the settings share is computed
    once; a finished batch is a file in parts/, and --resume keeps those of equal weights, settings and seeds.
    """
    config.check()
    out = checked_out(config.out)
    record = Run(command, _public(config), "graft-diffusionmix")
    rows: list[dict[str, Any]] = []
    findings: dict[str, Any] = {}
    for index in range(len(config.weights)):
        most = max(config.n_samplers if part == "samplers" else config.n for part in config.parts)
        with record.stage("load"):
            setup = setup_of(index, config, most, record)
        for part in config.parts:
            with record.stage(part):
                found, features = _part(part, setup, config, out)
            rows += table_rows(setup.mix.name, part, found, config, features)
            findings.setdefault(setup.mix.name, {})[part] = findings_of(part, found, config, features)
    summary = {"schema": 1, "synthetic": True, "seed": config.seed, "rows": rows, "findings": findings}
    write_json(out / "study.json", summary)
    write_bytes(out / "study.csv", as_csv(rows).encode())
    write_bytes(out / "table.md", as_markdown(rows).encode())
    record.outputs = ["study.csv", "study.json", "table.md"]
    record.measures = {"rows": len(rows), "findings": findings}
    return record.write(out)


def _public(config: StudyConfig) -> StudyConfig:
    """The configuration as a record may hold it: weights and truths that are folders by their last part alone."""
    return replace(
        config,
        weights=tuple(public_name(Path(w)) if Path(w).is_dir() else w for w in config.weights),
        truth=tuple(public_name(Path(t)) if Path(t).is_dir() else t for t in config.truth),
    )


Found = dict[str, tuple[Cell | None, Columns]]
Features = dict[str, np.ndarray]


def _part(part: str, setup: Setup, config: StudyConfig, out: Path) -> tuple[Found, Features]:
    """Every cell's columns over all seeds, and picture features where the part compares samplers or baselines."""
    from diffusionmix.remember import forget

    count = config.n_samplers if part == "samplers" else config.n
    wanted = cells(part, config)
    batches = [range(a, min(a + config.batch_size, count)) for a in range(0, count, config.batch_size)]
    done: list[dict[str, Any]] = []
    with progress(f"{setup.mix.name} {part}", len(batches) * len(wanted), quiet=config.json) as advance:
        for rows in batches:
            path = out / "parts" / f"{part}-{_key(part, wanted, setup, config, rows)}.json"
            if config.resume and path.is_file():
                done.append(_stored(path))
                advance(len(wanted))
                continue
            done.append(_batch(part, wanted, setup, rows, advance))
            write_json(path, done[-1])
            forget(setup.mix)
    found: Found = {TRUE: (None, joined([b["columns"][TRUE] for b in done]))}
    found |= {cell.name: (cell, joined([b["columns"][cell.name] for b in done])) for cell in wanted}
    features = {name: np.concatenate([np.array(b["features"][name]) for b in done]) for name in done[0]["features"]}
    return found, features


def _key(part: str, wanted: Sequence[Cell], setup: Setup, config: StudyConfig, rows: range) -> str:
    """A digest of all that a batch's numbers depend on."""
    said = {
        "weights": setup.mix.sha256, "first": setup.first, "rows": [rows.start, rows.stop], "truths": config.truths,
        "truth": _digest_of_truth(setup, rows), "cells": [[c.name, c.baseline, _settings(c)] for c in wanted],
        "versions": versions("graft-diffusionmix"),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _settings(cell: Cell) -> dict[str, Any]:
    kept = ("sampler", "steps", "tau", "r", "start", "dtype", "mode", "direction", "soft", "schedule")
    return {name: value for name, value in asdict(cell.settings).items() if name in kept}


def _digest_of_truth(setup: Setup, rows: range) -> str:
    total, own = hashlib.sha256(), slice(rows.start, rows.stop)
    for part in (setup.lent.images[own], setup.lent.masks[own], *setup.against.seams.values(), *setup.against.areas.values()):
        total.update(np.ascontiguousarray(part).tobytes())
    return total.hexdigest()


def _stored(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not content["columns"]:
            raise ValueError
        return dict(content)
    except (ValueError, KeyError, TypeError, OSError):
        raise InputError(f"{typed(path)}: is damaged; remove it, or run without --resume") from None


def _batch(part: str, wanted: Sequence[Cell], setup: Setup, rows: range, advance: Any) -> dict[str, Any]:
    columns: dict[str, Columns] = {TRUE: measure_true(setup, rows)}
    features: dict[str, list[list[float]]] = {}
    if part != "grid":
        features[TRUE] = _features(setup.lent.images[rows.start : rows.stop])
    references: dict[tuple[Any, ...], Any] = {}
    for cell in wanted:
        chains = (cell.settings.sampler, cell.settings.states)
        if chains not in references:
            references[chains] = setup.batch(rows, cell.settings)
        columns[cell.name], merged = measure_batch(cell, setup, rows, references[chains])
        if part != "grid":
            features[cell.name] = _features(np.stack([m.image for m in merged]))
        advance(1)
    return {"columns": columns, "features": features}


def _features(images: np.ndarray) -> list[list[float]]:
    import torch

    from diffusionmix.set_metrics import extractor

    return [[round(float(v), 6) for v in row] for row in extractor("tiny", torch.device("cpu")).features(images)]


def table_rows(
    weights: str, part: str, found: Found, config: StudyConfig, features: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """One row a setting: what it is, how many pictures have an empty mask, and each metric's {"mean", "ci95", "n"}."""
    from diffusionmix.compose import plan_of
    from diffusionmix.set_metrics import distances
    from graft_common.metrics import bootstrap

    rows: list[dict[str, Any]] = []
    for name, (cell, columns) in found.items():
        count = len(columns["calls"])
        s = None if cell is None else cell.settings
        climbs = s is not None and plan_of(s).r > 0  # a row without climbs stands for every tau and r that come to none
        row: dict[str, Any] = {
            "weights": weights, "part": part, "setting": name, "sampler": "" if s is None else s.sampler,
            "T": None if s is None else s.states, "tau": None if s is None else s.tau * climbs,
            "r": None if s is None else s.r * climbs,
            "start": None if s is None else s.start, "calls": max(v or 0.0 for v in columns["calls"]), "n": count,
            "empty": sum(v is None for v in columns["seam"]),
        }  # fmt: skip
        if cell is not None and cell.baseline != OURS:
            row |= {"tau": None, "r": None, "start": None}
        if cell is not None and len(cell.covers) > 1:
            row["same"] = [list(pair) for pair in cell.covers]
        for metric in METRICS:
            values = [v for v in columns[metric] if v is not None]
            if values:
                row[metric] = bootstrap(values, config.seed % 2**31)
        if name in features and name != TRUE:
            row |= distances(features[name], features[TRUE], "tiny")
        rows.append(row)
    return rows


def findings_of(part: str, found: Found, config: StudyConfig, features: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the part's numbers say; see `findings`."""
    from diffusionmix.findings import beats, not_worse, resampling_cost

    columns = {name: c for name, (_, c) in found.items()}
    if part == "samplers":
        first = config.samplers[0]
        out = {}
        for name in config.samplers[1:]:
            trio = (features[first], features[name], features[TRUE])
            out[f"{name} not worse than {first}"] = not_worse(columns[first], columns[name], trio)
        return out
    if part == "baselines":
        return {f"ours nearer to the truth than: {n}": beats(columns[OURS], c) for n, c in columns.items() if n not in (OURS, TRUE)}
    out = {}
    for start in sorted(config.start):
        grid = {
            pair: columns[cell.name]
            for cell, _ in found.values()
            if cell is not None and cell.settings.start == start
            for pair in cell.covers
        }
        out[f"start {start:g}"] = resampling_cost(grid, config.tau, config.r)
    return out


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table with mean, low and high of each metric in columns of their own."""
    metrics = list(dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, dict)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEAD, *(f"{m}{end}" for m in metrics for end in ("", "_low", "_high"))])
    for row in rows:
        line: list[Any] = ["" if row[name] is None else row[name] for name in HEAD]
        for m in metrics:
            s = row.get(m)
            line += ["", "", ""] if s is None else [f"{v:.6g}" for v in (s["mean"], *s["ci95"])]
        writer.writerow(line)
    return text.getvalue()


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table with the metrics that are read together."""
    shown = ("harmony", "contrast", "l1", "iou", "fid_tiny")
    lines = ["| weights | setting | calls | empty | " + " | ".join(shown) + " |", "|---" * (4 + len(shown)) + "|"]
    for row in rows:
        values = [
            "" if m not in row else f"{row[m]['mean']:.3f} [{row[m]['ci95'][0]:.3f}, {row[m]['ci95'][1]:.3f}]" for m in shown
        ]
        head = [row["weights"], row["setting"], f"{row['calls']:g}", f"{row['empty']} of {row['n']}"]
        lines.append("| " + " | ".join([*head, *values]) + " |")
    return "\n".join(lines) + "\n"
