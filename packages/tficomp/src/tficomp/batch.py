"""The verb `batch`: a manifest of samples through the method, in fixed groups, resumable."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft_common.bundle import Bundle
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed
from graft_common.provenance import public_config, stamp
from graft_common.resume import begun, check_same, settings_digest
from tficomp.config import BatchConfig
from tficomp.config_study import BaselineConfig
from tficomp.denoise import Denoiser
from tficomp.export import export_coco, export_yolo
from tficomp.inputs import read_inputs
from tficomp.manifest import Row, read_manifest
from tficomp.pipeline import compose_batch
from tficomp.weights import opened
from tficomp.write import write_panel, write_result

PLAN = "batch.json"


def run_batch(config: BatchConfig, command: list[str]) -> dict[str, Any]:
    """Compose every row of the manifest into `out/<id>/`; finished rows are kept when it is interrupted.

    Rows go through the network in groups of --batch-size, always the same groups: a picture's last bits depend on its
    batch, so a resumed run recomputes an unfinished group whole and writes only what is missing.
    """
    config.check()
    if config.batch_size < 1:
        raise InputError(f"--batch-size {config.batch_size}: must be at least 1")
    out = checked_out(config.out)
    rows = read_manifest(config.manifest)
    groups, begun = plan(config, rows, out)
    record = Run(command, config, "graft-tficomp")
    if config.manifest.is_file():
        record.read("manifest", config.manifest)
    todo = [(group, [row for row in group if not (out / row.key / "run.json").exists()]) for group in groups]
    todo = [(group, missing) for group, missing in todo if missing]
    before = json.loads(read_bytes(out / "run.json")) if not todo and (out / "run.json").exists() else None
    network = None
    if todo:
        bundle, network = opened(config, record)
        write_json(out / PLAN, begun)
        with progress("compose", sum(len(group) for group, _ in todo), quiet=config.json) as advance:
            for group, missing in todo:
                _compose_group(group, missing, config, command, out, record, bundle, network)
                advance(len(group))
    record.outputs = [f"{row.key}/result.png" for row in rows]
    if config.export != "none":
        with record.stage("export"):
            keys = [row.key for row in rows]
            record.outputs += (export_coco if config.export == "coco" else export_yolo)(out, keys)
    if before is not None:  # everything was done: the record of the run that did it stays
        before["outputs"] = list(dict.fromkeys([*before["outputs"], *record.outputs]))
        write_json(out / "run.json", before)
        return before
    calls = (network.calls, network.items) if network else (0, 0)
    record.measures = {"network_calls": calls[0], "network_items": calls[1], "samples": len(rows)}
    return record.write(out)


def plan(
    config: BatchConfig | BaselineConfig, rows: Sequence[Row], out: Path
) -> tuple[list[list[Row]], dict[str, Any]]:
    """The groups, those of the first run when it is resumed, else consecutive ones of --batch-size; and what `PLAN` holds,
    to be written once nothing more can be refused.

    Raises:
        InputError: a batch is there already and --resume was not given, or it was made with other rows or settings.
    """
    path = out / PLAN
    settings = public_config(dataclasses.asdict(config))
    for free in ("resume", "json", "out", "batch_size", "export"):
        settings.pop(free, None)
    digest, where = settings_digest(settings), f"--out {typed(config.out)}"
    stored, size, keys = begun(path, config.resume, where, "a batch"), config.batch_size, [row.key for row in rows]
    if stored is not None:
        check_same(stored if stored.get("keys") == keys else {"settings": ""}, digest, where, "rows or settings")
        size = stored["batch_size"]
    written = {"batch_size": size, "keys": keys, "settings": digest}
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)], written


def _compose_group(
    group: Sequence[Row],
    missing: Sequence[Row],
    config: BatchConfig,
    command: list[str],
    out: Path,
    record: Run,
    bundle: Bundle,
    network: Denoiser,
) -> None:
    inputs = [
        read_inputs(dataclasses.replace(row.sources, fit_mask=row.sources.fit_mask or config.fit_mask)) for row in group
    ]
    results = compose_batch(inputs, config, bundle, record=record, counter=network)
    for row, sample, result in zip(group, inputs, results, strict=True):
        if row not in missing:
            continue
        own = Run(command, config, "graft-tficomp", weights=record.weights)
        for role, path in row.sources.paths().items():
            own.read(role, path)
        note = stamp("tficomp", row.sources.seed, record.weights, own.digests)
        names = write_result(result, out / row.key, note)
        write_panel([(sample, result)], out / row.key / "panel.png", f"{sample.prompt} (synthetic)", note)
        own.outputs = [*names, "panel.png"]
        own.measures = {
            **result.measures,
            "notes": list(sample.notes),
            "window": sample.background.source.window,
            "window_from": sample.background.source.window_from,
            "row_seed": row.sources.seed,
            "prompt": sample.prompt,
        }
        own.write(out / row.key)  # last: it marks the row as done
