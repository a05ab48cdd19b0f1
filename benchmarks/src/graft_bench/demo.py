"""The verbs: run all demos and write the page; list the methods."""

import sys
from pathlib import Path
from typing import Any

from graft_bench.cli import DemoConfig, ListConfig
from graft_bench.gallery import page
from graft_bench.methods import Method, installed, run_demo
from graft_bench.results import Result, collect
from graft_common.console import checked_out, write_json
from graft_common.errors import InputError
from graft_common.files import atomic_path


def run(config: DemoConfig, argv: list[str]) -> dict[str, Any]:
    """Run the chosen demos one after the other and write index.html and index.json.

    Raises SystemExit(1) after the page is written when a demo failed, so that a script notices.
    """
    if not config.timeout > 0:
        raise InputError(f"--timeout {config.timeout:g}: must be above 0 seconds")
    checked_out(config.out)
    results = []
    for method in chosen(config.only):
        print(f"{method.name}: running its demo", file=sys.stderr, flush=True)
        result = collect(run_demo(method, config.out / method.name, config.timeout))
        state = "done" if result.ok else "; ".join(result.errors)
        print(f"{method.name}: {state} in {result.ran.seconds:.1f} s", file=sys.stderr, flush=True)
        results.append(result)
    index = config.out / "index.html"
    with atomic_path(index) as beside:
        beside.write_text(page(results), encoding="utf-8")
    record = summary(results, index)
    write_json(config.out / "index.json", record)
    if not config.json:
        print(index)
    if not all(result.ok for result in results):
        if config.json:
            import json

            print(json.dumps(record))
        raise SystemExit(1)
    return record


def show(config: ListConfig, argv: list[str]) -> list[dict[str, str]]:
    """Print name, version and summary of each installed method."""
    found = installed()
    if not config.json:
        for method in found:
            print(f"{method.name}  {method.version}  {method.program}  {method.summary}")
    return [{"name": m.name, "version": m.version, "program": m.program} for m in found]


def chosen(names: tuple[str, ...]) -> list[Method]:
    """Installed methods, all or those named, in order of name.

    Raises:
        InputError: none is installed, or a name is unknown.
    """
    found = {method.name: method for method in installed()}
    if not found:
        raise InputError("no method is installed; install one, for example graft-tficomp, into this environment")
    for name in names:
        if name not in found:
            raise InputError(f"--only {name}: no such method; installed are {', '.join(found)}")
    return [method for name, method in found.items() if not names or name in names]


def summary(results: list[Result], index: Path) -> dict[str, Any]:
    """The machine-readable twin of the page."""
    return {
        "schema": 1,
        "synthetic": True,
        "page": index.as_posix(),
        "methods": [
            {
                "name": r.ran.method.name,
                "ok": r.ok,
                "errors": list(r.errors),
                "command": r.ran.command,
                "seconds": round(r.ran.seconds, 2),
                "panel": r.panel.name if r.panel else None,
                "raw": [shot.name for shot in r.raw],
                "files": list(r.files),
                "metrics": r.metrics.get("metrics", {}),
            }
            for r in results
        ],
    }
