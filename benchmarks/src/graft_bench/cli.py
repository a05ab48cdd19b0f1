"""`graft-bench`: what runs over all installed methods at once."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from graft_common.console import Verb, run_command


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run the demo of every installed method, each in its own process, and write one page that shows them all."""

    out: Path = Path("out/demo")
    """Folder for index.html, one folder and one log per method."""
    only: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Run this method alone; may be repeated."""
    timeout: float = 300.0
    """Seconds after which a method's demo is stopped."""
    json: bool = False
    """Print the record of all methods as one JSON line on stdout instead of the page's path."""


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Name the installed methods."""

    json: bool = False
    """Print them as one JSON line on stdout."""


VERBS = {"demo": Verb(DemoConfig, "graft_bench.demo:run"), "list": Verb(ListConfig, "graft_bench.demo:show")}


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 1 a method's demo failed, 2 wrong flags, 130 interrupted."""
    return run_command("graft-bench", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
