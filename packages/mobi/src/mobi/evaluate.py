"""The verb `evaluate`: weights against the truth of held-out drawn scenes, beside trivial answers and baselines."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed, write_text
from graft_common.metrics import metrics_json
from graft_common.provenance import public_name
from mobi.cases import LABELS, Case, Pick, draw_case, pick_objects
from mobi.config_study import EvaluateConfig
from mobi.nuscenes_tables import Tables, read_tables
from mobi.objects import OBJECTS, Objects, read_objects
from mobi.realism import Backbones
from mobi.summary import findings, markdown, table
from mobi.tree_cases import RowPick, pick_rows, read_case
from mobi.trial import Tools, try_batch

Draw = Callable[[], Case]
Recorded = tuple[Objects, Tables]
FREE_TO_CHANGE = ("out", "resume", "json", "device", "weights", "prepared", "root", "compile")


def run_evaluate(config: EvaluateConfig, command: list[str]) -> dict[str, Any]:
    """Writes metrics.json, table.md, parts/ (one JSON file a batch) and run.json; returns the run record.

    Raises:
        InputError: a value cannot work, there are no such weights, or --resume finds parts of another run.
    """
    config.check()
    checked_out(config.out)
    networks, record = Backbones(config.lpips, config.clip), Run(command, shown(config), "graft-mobi")
    with record.stage("load"):
        recorded = read_recorded(config)
        tools = load_tools(config, networks)
    return evaluate(config, tools, record, recorded)


def shown(config: EvaluateConfig) -> EvaluateConfig:
    """The settings as records hold them: of networks that are files the name without its folder."""

    def name(network: str) -> str:
        return public_name(Path(network)) if Path(network).exists() else network

    return replace(config, lpips=name(config.lpips), clip=name(config.clip))


def read_recorded(config: EvaluateConfig) -> Recorded | None:
    """The prepared objects and the tables of their tree; None for drawn scenes.

    Raises:
        InputError: as `read_objects` and `read_tables`.
    """
    if config.prepared is None or config.root is None:
        return None
    return read_objects(config.prepared), read_tables(config.root)


def evaluate(config: EvaluateConfig, tools: Tools, record: Run, recorded: Recorded | None = None) -> dict[str, Any]:
    """`run_evaluate` with what paints and judges given, and what `read_recorded` found."""
    record.weights = dict(tools.painters["plain"].weights)
    if config.prepared is not None:
        record.read("prepared", config.prepared / OBJECTS)
    parts = config.out / "parts"
    _check_parts(config, record)
    size = tools.painters["plain"].size
    with record.stage("choose"):
        batches = list(_batches(config, size, record, recorded))
    rows: list[dict[str, Any]] = []
    with progress("batches", len(batches), quiet=config.json) as advance:
        for number, draws in enumerate(batches):
            path = parts / f"{number:03d}.json"
            if not (config.resume and path.exists()):
                with record.stage("draw"):
                    cases = [draw() for draw in draws]
                with record.stage("try"):
                    write_json(path, try_batch(cases, config.arms, tools, config))
            rows += _read(path)
            advance(1)
    with record.stage("summary"):
        _write(config, rows, tools, record)
    return record.write(config.out)


def load_tools(config: EvaluateConfig, networks: Backbones) -> Tools:
    """The weights' painters and autoencoders, and the judges.

    "no box" is left out for weights that never saw the box dropped alone.
    """
    import torch

    from mobi.bundle import load_mobi
    from mobi.pipeline import load_painter

    painters = {"plain": load_painter(config)}
    mobi = load_mobi(config)
    if mobi.joint.drops == "separate":
        painters["no box"] = load_painter(replace(config, box_guidance=0))
    painters["apart"] = load_painter(replace(config, cross_modal=False))

    @torch.no_grad()
    def image_trip(x: Any) -> Any:
        return mobi.vae.decode(mobi.vae.encode(x.to(mobi.device)).latent_dist.mode()).sample.cpu()

    @torch.no_grad()
    def range_trip(x: Any) -> Any:
        return mobi.range_vae(x.to(mobi.device)).cpu()

    yaw = detector = None
    if config.judges and config.prepared is None:
        from mobi.detector import load_detector
        from mobi.yaw import load_yaw

        yaw, detector = load_yaw(), load_detector()
    return Tools(painters, image_trip, range_trip, networks, yaw, detector)


def _read(path: Path) -> Any:
    """One of the files in parts/. Raises InputError where it is damaged."""
    with parsing(typed(path), "JSON; delete it, or leave --resume out"):
        return json.loads(read_bytes(path))


def _check_parts(config: EvaluateConfig, record: Run) -> None:
    """Parts belong to one set of settings, weights and prepared objects."""
    said = {k: v for k, v in asdict(config).items() if k not in FREE_TO_CHANGE}
    said |= {"weights": record.weights.get("sha256"), "prepared": record.digests.get("prepared")}
    mark = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    path = config.out / "parts" / "settings.json"
    there = _read(path) if path.exists() else None
    if config.resume and there not in (None, {"sha256": mark}):
        raise InputError(f"--resume: {typed(config.out)} holds parts of other settings or weights; choose a new --out")
    if not config.resume:
        for old in path.parent.glob("*.json"):
            old.unlink()
    write_json(path, {"sha256": mark})


def _batches(config: EvaluateConfig, size: int, record: Run, recorded: Recorded | None) -> Iterator[list[Draw]]:
    """Cases not drawn yet, in batches of one class; a last one of a single case joins the batch before it."""
    chosen = _drawn(config, size) if recorded is None else _recorded(config, size, recorded)
    record.measures["objects"] = {label: len(draws) for label, draws in chosen.items()}
    for draws in chosen.values():
        starts = list(range(0, len(draws), config.batch_size))
        if len(draws) - starts[-1] == 1 and len(starts) > 1:
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(draws)], strict=True):
            yield draws[start:end]


def _drawn(config: EvaluateConfig, size: int) -> dict[str, list[Draw]]:
    """Picks are kept beside the parts: finding them draws hundreds of sweeps."""
    path = config.out / "parts" / "picks.json"
    if config.resume and path.exists():
        picks = [Pick(**row) for row in _read(path)]
    else:
        picks = []
        with progress("objects", config.n * len(LABELS), quiet=config.json) as advance:
            for pick in pick_objects(config.n, config.seed, config.picture):
                picks.append(pick)
                advance(1)
        write_json(path, [asdict(pick) for pick in picks])

    def draw(pick: Pick) -> Draw:
        return lambda: draw_case(pick, config.picture, size)

    return {label: [draw(p) for p in picks if p.label == label] for label in LABELS}


def _recorded(config: EvaluateConfig, size: int, recorded: Recorded) -> dict[str, list[Draw]]:
    objects, tables = recorded
    picks = pick_rows(objects, config.n, config.seed)

    def draw(pick: RowPick) -> Draw:
        return lambda: read_case(tables, objects, pick, size, config.seed)

    found = {label: [draw(p) for p in picks if p.label == label] for label in LABELS}
    return {label: draws for label, draws in found.items() if draws}


def _write(config: EvaluateConfig, rows: Sequence[dict[str, Any]], tools: Tools, record: Run) -> None:
    names = tools.networks.names
    tables, found = {}, {}
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        tables[label] = table(mine, names["fid"])
        if config.prepared is None:
            found[label] = findings(mine, label, tables[label])
    flat = {
        f"{key} ({name}, {label})": summary
        for label, cells in tables.items() for name, row in cells.items() for key, summary in row.items()
    }  # fmt: skip
    backbones = {"features": names["fid"].removeprefix("fid_"), "perceptual": names["lpips"], "clip": names["clip_i"]}
    extra = {"synthetic": config.prepared is None, "tables": tables, "findings": found}
    write_json(config.out / "metrics.json", metrics_json("mobi", "evaluate", flat, backbones, extra))
    write_text(config.out / "table.md", markdown(tables, found) + "\n")
    record.outputs = ["metrics.json", "table.md"]
    record.measures |= {"cases": len(rows), "kept": {k: sum(f["holds"] for f in v) for k, v in found.items()},
                        "asked": {k: len(v) for k, v in found.items()}}  # fmt: skip
