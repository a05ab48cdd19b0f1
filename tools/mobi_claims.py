"""What MObI promises, measured on held-out drawn scenes: `uv run --all-packages python tools/mobi_claims.py`.

Parts: evaluate (every table, by `graft-mobi evaluate`), speed (a whole insert, and edits with the weights loaded). Writes
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
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import tyro

from mobi.config_study import ARM_NAMES, HELD_OUT, ArmName, EvaluateConfig

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- claims: begin (tools/mobi_claims.py writes this) -->", "<!-- claims: end -->"
PartName = Literal["evaluate", "speed"]
LIMIT = 8  # seconds, of one insert on two cores


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
    """Seconds of the verb `insert` as a user runs it (files read, weights loaded, painted, files written) once everything is
    imported, and of edits with weights and scene loaded."""
    from mobi.cases import draw_case, pick_objects
    from mobi.config import CompositeConfig
    from mobi.pipeline import edit_scene, load_painter

    config = CompositeConfig(weights=s.weights, steps=s.steps)
    painter = load_painter(config)
    case = draw_case(next(iter(pick_objects(1, s.seed, (400, 225), ("car",)))), (400, 225), painter.size)
    verb = verb_seconds(s, case)
    loaded = {}
    for name, count in (("one edit", 1), (f"batch of {s.batch_size}", s.batch_size)):
        began = time.perf_counter()
        edit_scene("insert", [case.placed] * count, [case.reference] * count, list(range(count)), painter, config)
        loaded[name] = time.perf_counter() - began
    return {
        "insert_verb_after_imports_seconds": verb, "wanted_at_most_seconds": LIMIT, "with_all_loaded_seconds": loaded,
        "steps": s.steps, "threads": s.threads,
    }  # fmt: skip


def verb_seconds(s: Settings, case: Any) -> float:
    """One `insert` into the case's empty scene, on files in a temporary folder. An insert of one step comes before it and imports
    what it needs; the weights are read anew."""
    from graft_common.raster import write_png
    from mobi.box_text import from_box
    from mobi.bundle import _load
    from mobi.config import InsertConfig
    from mobi.pipeline import run_insert

    scene, spent = case.truth.empty.scene, 0.0
    calib = {"K": scene.camera.intrinsics.tolist(), "lidar_to_camera": scene.camera.lidar_to_camera.tolist()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "image.png", scene.rgb, {})
        write_png(folder / "reference.png", case.tracked, {})
        (folder / "sweep.bin").write_bytes(scene.points.astype("<f4").tobytes())
        (folder / "calib.json").write_text(json.dumps(calib), encoding="utf-8")
        for out, steps in (("first", 1), ("timed", s.steps)):
            config = InsertConfig(
                image=folder / "image.png", sweep=folder / "sweep.bin", calib=folder / "calib.json",
                reference=folder / "reference.png", box=",".join(str(v) for v in from_box(case.placed.box)),
                weights=s.weights, steps=steps, out=folder / out, json=True,
            )  # fmt: skip
            _load.cache_clear()
            began = time.perf_counter()
            run_insert(config, ["graft-mobi", "insert"])
            spent = time.perf_counter() - began
    return spent


RUN: dict[PartName, Callable[[Settings], dict[str, Any]]] = {"evaluate": evaluate, "speed": speed}
COUNTED: dict[PartName, tuple[str, ...]] = {
    "evaluate": ("n", "steps", "arms", "seed", "batch_size", "judges"), "speed": ("steps", "batch_size", "threads"),
}  # fmt: skip


def digest(weights: str) -> str:
    """Of a bundle's files."""
    from graft_common.bundle import find
    from graft_common.provenance import folder_digest
    from mobi.bundle import FILES

    return folder_digest(find(weights, FILES)[1], only=FILES)


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
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in m["with_all_loaded_seconds"].items())
        rows += [
            "", f"{m['steps']} steps, {m['threads']} CPU threads: the verb `insert` after imports, loading and writing included, "
            f"{m['insert_verb_after_imports_seconds']:.1f} s (wanted: at most {m['wanted_at_most_seconds']:g} s); with everything "
            f"loaded: {said}.",
        ]  # fmt: skip
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
