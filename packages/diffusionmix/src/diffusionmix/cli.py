"""The command `graft-diffusionmix`: verbs and where they live. Importing this loads no torch."""

import sys

from diffusionmix import config, config_data, config_study, config_train
from graft_common.console import Verb, run_command

VERBS = {
    "merge": Verb(config.MergeConfig, "diffusionmix.merge_verb:run_merge"),
    "dataset": Verb(config_data.DatasetConfig, "diffusionmix.dataset:run_dataset"),
    "demo": Verb(config_study.DemoConfig, "diffusionmix.demo:run_demo"),
    "sample-object": Verb(config.SampleObjectConfig, "diffusionmix.sample_verbs:run_sample_object"),
    "sample-background": Verb(config.SampleBackgroundConfig, "diffusionmix.sample_verbs:run_sample_background"),
    "schedule": Verb(config.ScheduleConfig, "diffusionmix.schedule_verb:run_schedule"),
    "check": Verb(config_data.CheckConfig, "diffusionmix.check:run_check"),
    "phantom": Verb(config_data.PhantomConfig, "diffusionmix.phantom:run_phantom"),
    "prepare": Verb(config_data.PrepareConfig, "diffusionmix.prepare:run_prepare"),
    "train-object": Verb(config_train.TrainObjectConfig, "diffusionmix.train:run_train_object"),
    "train-background": Verb(config_train.TrainBackgroundConfig, "diffusionmix.train:run_train_background"),
    "evaluate": Verb(config_study.EvaluateConfig, "diffusionmix.evaluate:run_evaluate"),
    "study": Verb(config_study.StudyConfig, "diffusionmix.study:run_study"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    return run_command("graft-diffusionmix", VERBS, argv)


def entry() -> None:
    """Console script."""
    sys.exit(main())
