"""The command `graft-mobi`: verbs and where they live. Importing this loads no torch."""

import sys

from graft_common.console import Verb, run_command
from mobi import config

VERBS: dict[str, Verb] = {
    "insert": Verb(config.InsertConfig, "mobi.pipeline:run_insert"),
    "replace": Verb(config.ReplaceConfig, "mobi.pipeline:run_replace"),
    "remove": Verb(config.RemoveConfig, "mobi.pipeline:run_remove"),
    "rotate": Verb(config.RotateConfig, "mobi.pipeline:run_rotate"),
    "view": Verb(config.ViewConfig, "mobi.view:run_view"),
    "phantom": Verb(config.PhantomConfig, "mobi.phantom:run_phantom"),
    "prepare": Verb(config.PrepareConfig, "mobi.prepare:run_prepare"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_command("graft-mobi", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
