"""What the studying verbs share, and the verb `baseline`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graft_common.bundle import Bundle
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.metrics import bootstrap
from graft_common.provenance import stamp
from tficomp.baselines import WITHOUT_NETWORK, run_baseline
from tficomp.batch import PLAN, plan
from tficomp.config import MethodConfig
from tficomp.config_study import AblateConfig, BaselineConfig, EvaluateConfig
from tficomp.denoise import Denoiser
from tficomp.inputs import read_inputs
from tficomp.manifest import Row, read_manifest
from tficomp.records import Inputs
from tficomp.weights import Grid, latent_grid, opened, working_size
from tficomp.write import write_panel, write_result

Scores = dict[str, np.ndarray]  # metric -> (n,)


def groups(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Consecutive groups of `size`: always the same ones, since a picture's last bits depend on its batch."""
    for i in range(0, len(rows), size):
        yield list(rows[i : i + size])


def begun(config: BaselineConfig | AblateConfig | EvaluateConfig, command: list[str]) -> tuple[list[Row], Run]:
    """The rows of the verb's manifest, and its record."""
    rows, record = read_manifest(config.manifest), Run(command, config, "graft-tficomp")
    if config.manifest.is_file():
        record.read("manifest", config.manifest)
    return rows, record


def opened_for(methods: Iterable[str], config: MethodConfig, record: Run) -> tuple[Bundle | Grid, Denoiser | None]:
    """Bundle and network where a method needs them, else the bundle's grid alone: nothing is loaded to copy and paste."""
    if set(methods) - set(WITHOUT_NETWORK):
        return opened(config, record)
    with record.stage("load"):
        grid = latent_grid(config.weights)
        working_size(config, grid)
    return grid, None


def read_group(group: Iterable[Row], fit_mask: bool) -> list[Inputs]:
    """The inputs of some rows; --fit-mask adds to what the manifest says."""
    return [read_inputs(replace(row.sources, fit_mask=row.sources.fit_mask or fit_mask)) for row in group]


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of several batches as one; a metric that some batch lacks is left out."""
    known = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in known}


def summaries(scores: Scores) -> dict[str, dict[str, Any]]:
    """metric -> mean, 95 % bootstrap interval, n."""
    return {name: bootstrap(column) for name, column in scores.items()}


def run_baseline_verb(config: BaselineConfig, command: list[str]) -> dict[str, Any]:
    """The verb `baseline`: every row of the manifest by one other method, into `out/<id>/` as `batch` writes it."""
    config.check()
    out = checked_out(config.out)
    rows, record = begun(config, command)
    done = [row.key for row in rows if (out / row.key / "run.json").exists()]
    planned, content = plan(config, rows, out)
    bundle, network = opened_for((config.method,), config, record)
    write_json(out / PLAN, content)
    with progress(config.method, len(rows), quiet=config.json) as advance:
        for group in planned:
            if any(row.key not in done for row in group):
                samples = read_group(group, config.fit_mask)
                seeds = [config.seed + row.sources.seed for row in group]
                results = run_baseline(
                    config.method,
                    samples,
                    config,
                    bundle,
                    seeds,
                    strength=config.strength,
                    record=record,
                    counter=network,
                )
                for row, sample, result, seed in zip(group, samples, results, seeds, strict=True):
                    if row.key not in done:
                        _write(row, sample, result, seed, config, command, record, out)
            advance(len(group))
    record.outputs = [f"{row.key}/result.png" for row in rows]
    calls = (network.calls, network.items) if network else (0, 0)
    record.measures = {"network_calls": calls[0], "network_items": calls[1], "samples": len(rows)}
    return record.write(out)


def _write(
    row: Row, sample: Inputs, result: Any, seed: int, config: BaselineConfig, command: list[str], record: Run, out: Path
) -> None:
    own = Run(command, config, "graft-tficomp", weights=record.weights)
    for role, path in row.sources.paths().items():
        own.read(role, path)
    note = stamp("tficomp", seed, record.weights, own.digests) | {"baseline": config.method}
    own.outputs = [*write_result(result, out / row.key, note), "panel.png"]
    title = f"{config.method}: {sample.prompt} (synthetic)"
    write_panel([(sample, result)], out / row.key / "panel.png", title, note)
    own.measures = {**result.measures, "notes": list(sample.notes), "row_seed": seed, "prompt": sample.prompt}
    own.write(out / row.key)  # last: it marks the row as done
