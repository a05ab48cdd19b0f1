"""The command `graft-tficomp`: verbs and where they live. Importing this loads no torch."""

import sys

from graft_common.console import Verb, run_command
from tficomp import config

VERBS = {
    "compose": Verb(config.ComposeConfig, "tficomp.pipeline:run_compose"),
    "demo": Verb(config.DemoConfig, "tficomp.demo:run_demo"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_command("graft-tficomp", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
