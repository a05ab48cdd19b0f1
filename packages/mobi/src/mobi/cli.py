"""The command `graft-mobi`: verbs and where they live. Importing this loads no torch."""

import sys

from graft_common.console import Verb, run_command
from mobi import config, config_batch, config_study, config_train

VERBS: dict[str, Verb] = {
    "insert": Verb(config.InsertConfig, "mobi.pipeline:run_insert"),
    "replace": Verb(config.ReplaceConfig, "mobi.pipeline:run_replace"),
    "remove": Verb(config.RemoveConfig, "mobi.pipeline:run_remove"),
    "rotate": Verb(config.RotateConfig, "mobi.pipeline:run_rotate"),
    "view": Verb(config.ViewConfig, "mobi.view:run_view"),
    "phantom": Verb(config.PhantomConfig, "mobi.phantom:run_phantom"),
    "prepare": Verb(config.PrepareConfig, "mobi.prepare:run_prepare"),
    "batch": Verb(config_batch.BatchConfig, "mobi.batch:run_batch"),
    "train-range-vae": Verb(config_train.TrainRangeVaeConfig, "mobi.train_range_vae:run_train_range_vae"),
    "train": Verb(config_train.TrainConfig, "mobi.train:run_train"),
    "evaluate": Verb(config_study.EvaluateConfig, "mobi.evaluate:run_evaluate"),
    "demo": Verb(config_batch.DemoConfig, "mobi.demo:run_demo"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_command("graft-mobi", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
