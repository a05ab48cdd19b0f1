"""Installed methods and their demos, each in its own process under a time limit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "graft.methods"
TAIL = 4000  # characters of a failed demo's log that the page shows


@dataclass(frozen=True)
class Method:
    """One installed method.

    Attributes:
        name: the entry point's name.
        value: `module:function`; the function takes the arguments after the program's name and returns the exit code.
        program: its console script, or `python -m module` where it has none.
        summary: one line from the package's own metadata.
        version: of the package, empty where unknown.
    """

    name: str
    value: str
    program: str
    summary: str
    version: str


@dataclass(frozen=True)
class Ran:
    """How one demo went.

    Attributes:
        method: which.
        folder: where it wrote.
        command: as a user would type it.
        seconds: wall time of the process, imports included.
        error: one line, empty when it ended with exit code 0.
        log: the end of what it printed, kept when it failed.
    """

    method: Method
    folder: Path
    command: str
    seconds: float
    error: str
    log: str


def installed() -> list[Method]:
    """Methods of the entry-point group, by name; one that is declared twice is taken once."""
    found = {point.name: _described(point) for point in entry_points(group=GROUP)}
    return [found[name] for name in sorted(found)]


def _described(point: EntryPoint) -> Method:
    package = point.value.partition(":")[0].split(".")[0]
    program, summary, version = f"python -m {package}", "", ""
    if point.dist is not None:
        summary, version = str(point.dist.metadata.json.get("summary", "")), point.dist.version
        scripts = [e for e in point.dist.entry_points if e.group == "console_scripts"]
        program = next((s.name for s in scripts if s.value.split(".")[0].split(":")[0] == package), program)
    return Method(point.name, point.value, program, summary, version)


def run_demo(method: Method, folder: Path, timeout: float) -> Ran:
    """Run `<method> demo --out folder` through its entry point alone and wait at most `timeout` seconds.

    What it prints goes to `<folder>.log`. The process leads its own group, so that its workers end with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("panel.png", "metrics.json", "run.json"):  # of an earlier run: a failure must not show old results
        (folder / name).unlink(missing_ok=True)
    call = [sys.executable, "-m", "graft_bench.call", method.name, method.value, "demo", "--out", str(folder)]
    log = folder.with_name(f"{folder.name}.log")
    began = time.perf_counter()
    with log.open("wb") as said:
        process = subprocess.Popen(
            call, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout)
            error = "" if code == 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            error = f"stopped after {timeout:g} s, the time limit"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.perf_counter() - began
    command = f"{method.program} demo --out {folder.as_posix()}"
    said_last = log.read_text(encoding="utf-8", errors="replace")[-TAIL:].strip() if error else ""
    return Ran(method, folder, command, seconds, error, said_last)
