"""The command `graft-didgen`: verbs and where they live. Importing this loads no torch."""

import sys

from didgen import config, config_caption, config_data, config_study
from graft_common.console import Verb, run_command

VERBS = {
    "sample": Verb(config.SampleConfig, "didgen.sample:run_sample"),
    "pairs": Verb(config.PairsConfig, "didgen.batch:run_pairs"),
    "box": Verb(config.BoxConfig, "didgen.box:run_box"),
    "edit": Verb(config.EditConfig, "didgen.edit:run_edit"),
    "demo": Verb(config.DemoConfig, "didgen.demo:run_demo"),
    "check": Verb(config_data.CheckConfig, "didgen.check:run_check"),
    "phantom": Verb(config_data.PhantomConfig, "didgen.phantom:run_phantom"),
    "prepare": Verb(config_data.PrepareConfig, "didgen.prepare:run_prepare"),
    "caption": Verb(config_caption.CaptionConfig, "didgen.caption:run_caption"),
    "train": Verb(config.TrainConfig, "didgen.train:run_train"),
    "augment": Verb(config_data.AugmentConfig, "didgen.augment:run_augment"),
    "train-seg": Verb(config_study.TrainSegConfig, "didgen.train_seg:run_train_seg"),
    "eval-seg": Verb(config_study.EvalSegConfig, "didgen.eval_seg:run_eval_seg"),
    "train-cls": Verb(config_study.TrainClsConfig, "didgen.train_cls:run_train_cls"),
    "eval-cls": Verb(config_study.EvalClsConfig, "didgen.eval_cls:run_eval_cls"),
    "eval-gen": Verb(config_study.EvalGenConfig, "didgen.eval_gen:run_eval_gen"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_command("graft-didgen", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
