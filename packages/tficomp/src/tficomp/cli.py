"""The command `graft-tficomp`: verbs and where they live. Importing this loads no torch."""

import sys

from graft_common.console import Verb, run_command
from tficomp import config, config_study

VERBS = {
    "compose": Verb(config.ComposeConfig, "tficomp.pipeline:run_compose"),
    "batch": Verb(config.BatchConfig, "tficomp.batch:run_batch"),
    "demo": Verb(config.DemoConfig, "tficomp.demo:run_demo"),
    "check": Verb(config.CheckConfig, "tficomp.check:run_check"),
    "phantom": Verb(config.PhantomConfig, "tficomp.phantom:run_phantom"),
    "prepare": Verb(config.PrepareConfig, "tficomp.prepare:run_prepare"),
    "invert": Verb(config_study.InvertConfig, "tficomp.invert:run_invert"),
    "baseline": Verb(config_study.BaselineConfig, "tficomp.study:run_baseline_verb"),
    "ablate": Verb(config_study.AblateConfig, "tficomp.ablate:run_ablate"),
    "evaluate": Verb(config_study.EvaluateConfig, "tficomp.evaluate:run_evaluate"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_command("graft-tficomp", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
