"""What every command shares: parsing, exit codes, the run record, progress.

Exit codes: 0 done; 2 the input or the flags are wrong (one line on stderr); 1 our fault (the traceback goes to `run.log`);
130 interrupted.
"""

import dataclasses
import errno
import io
import json
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from graft_common.errors import InputError
from graft_common.files import atomic_path, sha256
from graft_common.provenance import SCHEMA, public_command, public_config, public_name, versions

# A full or forbidden disk is the user's to mend, so it ends as exit 2, not as a traceback.
DISK = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
}


@dataclass(frozen=True)
class Verb:
    """One subcommand: its flat configuration class and `module:function`, imported only when the verb runs."""

    config: type
    run: str


def run_command(program: str, verbs: Mapping[str, Verb], argv: list[str] | None = None) -> int:
    """Parse `argv`, run the verb, return the exit code. The verb's function takes the configuration and the command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Waiting threads that spin make small networks ten times slower as soon as another process wants the core.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    out = None
    try:
        verb, config = _parse(program, verbs, argv)
        out = getattr(config, "out", None)
        module, name = verbs[verb].run.split(":")
        record = getattr(import_module(module), name)(config, [program, *argv])
        if getattr(config, "json", False) and record is not None:
            print(json.dumps(record, allow_nan=False))
        elif isinstance(record, dict) and record.get("outputs"):
            names = [str(name) for name in record["outputs"]]
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            where = out or getattr(config, "folder", ".")  # `phantom DIR` has no --out
            print(f"{program} {verb}: wrote {', '.join(names[:6])}{more} in {where}", file=sys.stderr)
        return 0
    except SystemExit as done:  # tyro's --help
        return int(done.code or 0)
    except InputError as why:
        return _refuse(program, str(why))
    except KeyboardInterrupt:
        print(
            f"{program}: interrupted; finished items are kept, --resume goes on where the command has it",
            file=sys.stderr,
        )
        return 130
    except ImportError as why:
        if "libGL" in str(why) or "libgthread" in str(why) or "libglib" in str(why):
            return _refuse(program, "OpenCV cannot load its system libraries; install libgl1 libglib2.0-0")
        return _crash(program, out)
    except OSError as why:
        if why.errno in DISK:
            return _refuse(
                program, f"{why.filename or out or 'output'}: {why.strerror}; free space or choose another --out"
            )
        return _crash(program, out)
    except Exception:
        return _crash(program, out)


def _refuse(program: str, message: str) -> int:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _crash(program: str, out: Path | None) -> int:
    folder = out if isinstance(out, Path) and out.is_dir() else Path(tempfile.mkdtemp(prefix="graft-"))
    log = folder / "run.log"
    log.write_text(traceback.format_exc(), encoding="utf-8")
    print(f"{program}: internal error, our fault; the traceback is in {log}", file=sys.stderr)
    return 1


def _parse(program: str, verbs: Mapping[str, Verb], argv: list[str]) -> tuple[str, Any]:
    choices = []
    for name, verb in verbs.items():
        choices.append(Annotated[verb.config, tyro.conf.subcommand(name, description=verb.config.__doc__)])
    union: Any = Union[tuple(choices)] if len(choices) > 1 else choices[0]  # noqa: UP007 - built at run time
    args = _without_config(argv)
    if args[:1] and args[0] in verbs:
        args += _repeated(args[0], verbs[args[0]], argv)
    said, shown = io.StringIO(), io.StringIO()
    try:
        # tyro draws a box around its errors; a script wants one line.
        with redirect_stderr(said), redirect_stdout(shown), _wide(not _wants_help(args)):
            config = tyro.cli(union, args=args, prog=program, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as done:
        if done.code in (0, None):
            sys.stdout.write(shown.getvalue())
            raise
        raise InputError(_one_line(said.getvalue() + shown.getvalue(), args)) from None
    return next(name for name, verb in verbs.items() if type(config) is verb.config), config


def _wants_help(args: list[str]) -> bool:
    return "-h" in args or "--help" in args


@contextmanager
def _wide(on: bool) -> Iterator[None]:
    before = os.environ.get("COLUMNS")
    if on:
        os.environ["COLUMNS"] = "4000"
    try:
        yield
    finally:
        if on:
            os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)


def _one_line(boxed: str, args: list[str]) -> str:
    lines = [re.sub(r"[│╭╮╰╯]", " ", line).strip() for line in boxed.splitlines()]
    kept: list[str] = []
    for line in lines[1:]:
        if line.startswith(("For full helptext", "Argument helptext")):
            break
        if line and not set(line) <= {"─", "-", " "}:
            kept.append(line)
    text = re.sub(r"\s+", " ", " ".join(kept)) or f"cannot understand {' '.join(args)}"
    return f"{text}; see --help"


def _without_config(argv: list[str]) -> list[str]:
    kept, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word == "--config":
            skip = True
        elif not word.startswith("--config="):
            kept.append(word)
    return kept


def _repeated(name: str, verb: Verb, argv: list[str]) -> list[str]:
    """The settings of `--config run.json` as flags, but for those that are typed; paths are not in it and are given again."""
    paths = [b for a, b in pairwise(argv) if a == "--config"]
    paths += [a.partition("=")[2] for a in argv if a.startswith("--config=")]
    if not paths:
        return []
    path = Path(paths[-1])
    try:
        stored = dict(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise InputError(
            f"{path}: is no run.json of {name} ({type(why).__name__}); give one that a run wrote"
        ) from None
    fields = {f.name: f for f in dataclasses.fields(verb.config)}
    unknown = sorted(set(stored) - set(fields))
    if unknown:
        raise InputError(f"{path}: unknown setting {unknown[0]!r} for {name}; known are {', '.join(fields)}")
    words: list[str] = []
    for key, value in stored.items():
        flag = "--" + key.replace("_", "-")
        given = any(a.split("=")[0] in (flag, "--no-" + flag[2:]) for a in argv)
        if given or value is None or "Path" in str(fields[key].type) or _outside(key, value):
            continue
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        else:
            words += [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]
    return words


def _outside(key: str, value: Any) -> bool:
    """Local weights are recorded by the folder's name alone, so they are given again like every path."""
    return key == "weights" and str(value).startswith("<folder>")


def checked_out(out: Path, flag: str = "--out ") -> Path:
    """`out` if files can be written there (it need not exist yet); `flag` is what the user typed before it.

    Raises:
        InputError: it is a file, lies under one, or may not be written.
    """
    for part in (out, *out.parents):
        if part.exists():
            if not part.is_dir():
                raise InputError(f"{flag}{out}: {part} is a file; choose a folder")
            if not os.access(part, os.W_OK | os.X_OK):
                raise InputError(f"{flag}{out}: {part} may not be written; choose another folder")
            return out
    return out


@dataclass
class Run:
    """What happened, as it happens; `write` turns it into run.json.

    Attributes:
        command: the command line as typed (it is rewritten without folders when recorded).
        config: the configuration dataclass.
        inputs: role -> file that was read.
        digests: role -> sha256 of what was read, also where it was no file.
        weights: {"name", "sha256"} of the weights in use.
        stages: seconds by stage.
        outputs: files written, relative to the run's folder.
        measures: numbers worth keeping that are no metrics.
    """

    command: list[str]
    config: Any
    package: str = ""
    inputs: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall seconds of the block to `stages[name]`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - began

    def read(self, role: str, path: Path) -> Path:
        """Note an input file and its digest (once)."""
        if self.inputs.get(role) != path:
            self.inputs[role] = path
            self.digests[role] = sha256(path)
        return path

    def record(self) -> dict[str, Any]:
        """The run.json content: JSON values only, no folder names, no patient names."""
        known = dataclasses.is_dataclass(self.config)
        config = dataclasses.asdict(self.config) if known else dict(self.config)
        return {
            "schema": SCHEMA,
            "synthetic": True,
            "command": public_command(self.command),
            "config": public_config(config),
            "seed": config.get("seed"),
            "versions": versions(self.package),
            "weights": self.weights,
            "inputs": self.digests | {r: self.digests.get(r) or sha256(p) for r, p in self.inputs.items()},
            "input_names": {role: public_name(path) for role, path in self.inputs.items()},
            "stages": {name: round(seconds, 4) for name, seconds in self.stages.items()},
            "peak_memory_bytes": peak_memory(),
            "outputs": list(self.outputs),
            "measures": self.measures,
        }

    def write(self, folder: Path) -> dict[str, Any]:
        """Write `folder/run.json` and return what it says."""
        record = self.record()
        write_json(folder / "run.json", record)
        return record


def write_json(path: Path, content: Any) -> None:
    """JSON in one step: the old file stays until the new one is complete."""
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def peak_memory() -> int:
    """Largest bytes this process has held: on the GPU where one is in use, else resident on the host."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@contextmanager
def progress(title: str, total: int | None, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar with an estimate on stderr, where that is a terminal; yields a function that advances it by n."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)

        def advance(n: int = 1) -> None:
            bar.advance(task, n)

        yield advance
