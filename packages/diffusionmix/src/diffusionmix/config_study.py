"""Configurations of the verbs that judge: evaluate, study, demo; the sentence under a field is its help text."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusionmix.config import Sampler
from graft_common.errors import InputError

Part = Literal["grid", "baselines", "samplers"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score generated objects, backgrounds or whole pictures against real ones."""

    real: Path
    """Prepared folder of objects or backgrounds (with a train split for the nearest picture), or any folder of pictures."""
    generated: Path
    """Folder that sample-object, sample-background, merge or dataset wrote, or any folder of pictures (and masks). Against prepared
    objects, pictures of merge and dataset are cut to the square around their object."""
    split: Literal["train", "val", "test"] = "test"
    """Split of a prepared --real to compare with."""
    classifier: bool = True
    """Train an independent classifier on the training split and ask whether generated objects look like their classes."""
    classifier_steps: int = 200
    """Optimiser steps of that classifier."""
    pairs: int = 500
    """Random pairs for LPIPS within the generated pictures."""
    lpips: str = "tiny"
    """Network of LPIPS: tiny, or the file of a published one that `tools/convert_checkpoint.py lpips` wrote."""
    backbone: str = "tiny"
    """Features of FID and KID: tiny (knows the drawn worlds only), or a safetensors file of torchvision's Inception v3."""
    size: int | None = None
    """Side at which pictures are compared; default that of a prepared --real, else of the first generated picture."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU when there is one."""
    out: Path = Path("out/evaluate")
    """Folder for metrics.json, table.md, samples.csv and run.json."""
    seed: int = 0
    """Seed of everything that is drawn."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
        for flag, value in (("--pairs", self.pairs), ("--classifier-steps", self.classifier_steps)):
            if value < 1:
                raise InputError(f"{flag} {value}: must be at least 1")
        if self.size is not None and not 32 <= self.size <= 2048:
            raise InputError(f"--size {self.size}: must be from 32 to 2048")
        for flag, folder in (("--real", self.real), ("--generated", self.generated)):
            if not folder.is_dir():
                raise InputError(f"{flag} {folder}: no such folder; give one of pictures")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Sweep resampling, merge start and sampler on several pairs of models into one table; paired seeds, resumable."""

    weights: tuple[str, ...] = ("tiny-texture", "tiny-scene")
    """Shipped names or folders of the models."""
    truth: tuple[str, ...] = ("texture", "scene")
    """For each of --weights, true pictures: a drawn world (texture, scene) or a folder with image/, mask/ and, for contrast,
    empty/ (the same pictures without the object); sub-folders of these are classes."""
    parts: tuple[Part, ...] = ("grid", "baselines", "samplers")
    """grid: tau x r x start; baselines: hard paste, one direction and others; samplers: all of --samplers."""
    tau: tuple[int, ...] = (0, 5, 10, 20)
    """Climbs of the grid, meant for 250 states."""
    r: tuple[int, ...] = (0, 1, 2, 5, 10)
    """Numbers of climbs of the grid."""
    start: tuple[float | int, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    """Denoised shares of the grid at which merging begins."""
    sampler: Sampler = "ddim"
    """Sampler of the grid and the baselines."""
    steps: int | None = None
    """States of that sampler; default 250 for ddpm, 50 for ddim, 20 for dpm++ and unipc."""
    samplers: tuple[Sampler, ...] = ("ddpm", "ddim", "dpm++")
    """Samplers to compare at tau 10, r 1, start 0.9, each with its default number of states; the first is the reference."""
    n: int = 64
    """Seeds of each setting of the grid and the baselines."""
    n_samplers: int = 128
    """Seeds of each sampler."""
    truths: int = 96
    """Drawn true pictures of each class that harmony and contrast are measured against."""
    batch_size: int = 8
    """Pictures in one pass through the networks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU when there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the networks; auto is float32 on the CPU and bfloat16 on a GPU."""
    compile: bool = False
    """Compile the networks."""
    resume: bool = False
    """Keep the parts that an earlier run in --out finished."""
    out: Path = Path("out/study")
    """Folder for study.csv, study.json, table.md, parts/ and run.json."""
    seed: int = 10_000_000
    """First seed; setting by setting the same ones. Drawn worlds hold out those from 10000000 on."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
        counts = {"--n": self.n, "--n-samplers": self.n_samplers, "--truths": self.truths, "--batch-size": self.batch_size}
        for flag, value in counts.items():
            least = 3 if flag.startswith("--n") else 1  # an interval leaves one out, and a covariance needs two
            if value < least:
                raise InputError(f"{flag} {value}: must be at least {least}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")
        if not self.weights or len(self.weights) != len(self.truth):
            raise InputError(
                f"--truth {' '.join(self.truth)}: {len(self.truth)} for {len(self.weights)} --weights; give one for each"
            )
        lists = {"--parts": self.parts, "--tau": self.tau, "--r": self.r, "--start": self.start, "--samplers": self.samplers}
        for flag, values in lists.items():
            if not values or len(set(values)) < len(values):
                raise InputError(f"{flag} {' '.join(map(str, values))}: give one or more different values")
        for flag, numbers in (("--tau", self.tau), ("--r", self.r)):
            if min(numbers) < 0:
                raise InputError(f"{flag} {min(numbers)}: must be 0 or more")
        for share in self.start:
            if not (math.isfinite(share) and 0 <= share <= 1):
                raise InputError(f"--start {share}: must be a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Merge, resample and compare on the shipped weights, offline; writes panel.png, metrics.json, run.json and all pictures."""

    out: Path = Path("out/demo")
    """Folder to write."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU when there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the networks; auto is float32 on the CPU and bfloat16 on a GPU."""
    compile: bool = False
    """Compile the networks."""
    seed: int = 0
    """Moves all seeds on by this much."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
