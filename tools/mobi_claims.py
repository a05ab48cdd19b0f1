"""What MObI promises, measured on held-out drawn scenes: `uv run --all-packages python tools/mobi_claims.py`.

Parts: evaluate (every table, by `graft-mobi evaluate`), speed (one pass of the network, one insert after loading). Writes
benchmarks/results/mobi_claims.json and the tables in packages/mobi/README.md. Every part, and every batch of evaluate, is kept in
the cache as it ends; a second run goes on where the first one stopped.

Cost of evaluate in network calls: 7 arms x 50 steps x two branches for each object; about two thirds of its time. Where time is
short, cut --n or --arms.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from mobi.config_study import ARM_NAMES, HELD_OUT, ArmName, EvaluateConfig

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- claims: begin (tools/mobi_claims.py writes this) -->", "<!-- claims: end -->"
PartName = Literal["evaluate", "speed"]


@dataclass(frozen=True)
class Settings:
    """Measure what MObI promises on drawn scenes."""

    parts: tuple[PartName, ...] = get_args(PartName)
    """Parts to run; the others are taken from the cache where they are there."""
    weights: str = "tiny-mobi"
    """Shipped name or folder."""
    n: int = 64
    """Objects of each class."""
    steps: int = 50
    """Sampler steps."""
    arms: tuple[ArmName, ...] = ARM_NAMES
    """What is painted."""
    seed: int = HELD_OUT
    """First drawn scene."""
    batch_size: int = 16
    """Objects in one pass."""
    judges: bool = True
    """Ask the yaw regressor and the detector."""
    threads: int = 2
    """CPU threads."""
    fresh: bool = False
    """Forget the cache."""
    cache: Path = ROOT / "out" / "claims" / "mobi"
    """Folder of finished parts."""
    out: Path = ROOT / "benchmarks" / "results" / "mobi_claims.json"
    """The result."""
    readme: Path = ROOT / "packages" / "mobi" / "README.md"
    """Its tables between the markers are written anew."""


def evaluate(s: Settings) -> dict[str, Any]:
    """What `graft-mobi evaluate` writes."""
    from mobi.evaluate import run_evaluate

    out = kept("evaluate", s).with_suffix("")
    config = EvaluateConfig(
        weights=s.weights, n=s.n, steps=s.steps, arms=s.arms, seed=s.seed, batch_size=s.batch_size, judges=s.judges,
        resume=not s.fresh, out=out,
    )  # fmt: skip
    record = run_evaluate(config, ["graft-mobi", "evaluate"])
    found = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in ("tables", "findings", "backbones")} | {"stages": record["stages"]}


def speed(s: Settings) -> dict[str, Any]:
    """Seconds of one batch of paintings and of one whole insert, after loading and a first call."""
    from mobi.cases import draw_case, pick_objects
    from mobi.config import CompositeConfig
    from mobi.pipeline import edit_scene, load_painter

    config = CompositeConfig(weights=s.weights, steps=s.steps)
    painter = load_painter(config)
    case = draw_case(next(iter(pick_objects(1, s.seed, (400, 225), ("car",)))), (400, 225), painter.size)
    warm = load_painter(CompositeConfig(weights=s.weights, steps=1))
    edit_scene("insert", [case.placed], [case.reference], [0], warm, config)
    found = {}
    for name, count in (("insert", 1), (f"batch of {s.batch_size}", s.batch_size)):
        began = time.perf_counter()
        edit_scene("insert", [case.placed] * count, [case.reference] * count, list(range(count)), painter, config)
        found[name] = time.perf_counter() - began
    return {"seconds": found, "steps": s.steps, "threads": s.threads}


RUN: dict[PartName, Callable[[Settings], dict[str, Any]]] = {"evaluate": evaluate, "speed": speed}
COUNTED: dict[PartName, tuple[str, ...]] = {
    "evaluate": ("n", "steps", "arms", "seed", "batch_size", "judges"), "speed": ("steps", "batch_size", "threads"),
}  # fmt: skip


def digest(weights: str) -> str:
    """Of a bundle's files."""
    from graft_common.provenance import folder_digest
    from mobi.bundle import FILES, find

    return folder_digest(find(weights)[1], only=FILES)


def kept(part: PartName, s: Settings) -> Path:
    """File of a finished part."""
    said = [part, digest(s.weights), *(str(getattr(s, name)) for name in COUNTED[part])]
    return s.cache / f"{part}-{hashlib.sha256(' '.join(said).encode()).hexdigest()[:12]}.json"


def main(s: Settings) -> None:
    """Run what is asked for and not cached, then write the JSON and the tables."""
    import torch

    from graft_common.console import write_json
    from graft_common.files import write_text

    torch.set_num_threads(s.threads)
    found: dict[str, Any] = {}
    for part in get_args(PartName):
        path = kept(part, s)
        if part in s.parts and (s.fresh or not path.exists()):
            began = time.perf_counter()
            result = RUN[part](s)
            minutes = (time.perf_counter() - began) / 60
            write_json(path, {"minutes": minutes, "result": result})
            print(f"{part}: {minutes:.1f} min", flush=True)
        if path.exists():
            found[part] = json.loads(path.read_text(encoding="utf-8"))["result"]
    counts = {"objects_of_each_class": s.n, "steps": s.steps, "first_seed": s.seed}
    write_json(s.out, {"schema": 1, "synthetic": True, "weights": digest(s.weights), **counts, "parts": found})
    text = tables(found)
    lines = s.readme.read_text(encoding="utf-8") if s.readme.exists() else ""
    if BEGIN in lines and END in lines:
        before, after = lines.split(BEGIN)[0], lines.split(END)[1]
        write_text(s.readme, f"{before}{BEGIN}\n{text}\n{END}{after}")
    else:
        print(f"{s.readme.name} has no markers; nothing was written there", flush=True)
    print(text)


def tables(found: Mapping[str, Any]) -> str:
    """The README's text of the parts that are there: what is kept and what is not, then every table."""
    from mobi.summary import markdown

    rows: list[str] = []
    if "evaluate" in found:
        rows += promises(found["evaluate"]["findings"])
        rows += ["", markdown(found["evaluate"]["tables"], {})]
        rows.append("Networks: " + ", ".join(f"{role} {name}" for role, name in found["evaluate"]["backbones"].items()) + ".")
    if "speed" in found:
        m = found["speed"]
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in m["seconds"].items())
        rows += ["", f"After loading, {m['steps']} steps, {m['threads']} CPU threads: {said}."]
    return "\n".join(rows).strip()


def promises(findings: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """How many hold, and each that does not."""
    from mobi.summary import cell

    rows: list[str] = []
    for label, asked in findings.items():
        broken = [f for f in asked if not f["holds"]]
        rows += ["", f"{label}: {len(asked) - len(broken)} of {len(asked)} promises hold."]
        if broken:
            rows += ["", f"| not reproduced ({label}) | value | n | wanted |", "|---|---|---|---|"]
            rows += [f"| {f['what']} | {cell(f['value'])} | {f['value']['n']} | {f['wanted']} |" for f in broken]
    return rows


if __name__ == "__main__":
    main(tyro.cli(Settings))
