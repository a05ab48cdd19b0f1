"""Configurations of the verbs that train; the sentence under a field is its help text. No torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from graft_common.errors import InputError

Number = int | float  # the tests' type checker takes `float` at its word
LEAST_SIZE = 64  # narrowest range crop


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What both trainings share."""

    prepared: tyro.conf.Positional[Path]
    """Folder that `graft-mobi prepare` wrote."""
    root: Path
    """The nuScenes tree that it was made from."""
    base: str
    """Paint-by-Example: folder in diffusers layout, or hub id."""
    version: str | None = None
    """Folder of tables; default the only one there is."""
    size: int | None = None
    """D, side of the crops in pixels, a power of two; default what the base was trained at."""
    views: int = 2
    """Placements of the camera crop to keep for each object: the centred one, then random ones."""
    cache: Path | None = None
    """Folder for crops that are cut once; default cache-D-VIEWS in PREPARED. An unfinished one is gone on with."""
    steps: int
    """Optimiser steps."""
    batch_size: int
    """Scenes a step."""
    learning_rate: Number
    """Peak rate."""
    warmup: int
    """Steps over which the rate rises."""
    decay: Number = 0.0
    """Share of the steps, at the end, over which the rate falls to zero."""
    ema: Number = 0.0
    """Decay of the averaged weights, which are those that are kept; 0 keeps the last ones."""
    out: Path = Path("runs/train")
    """Folder for the checkpoint, the log and the weights."""
    held_out: Number = 0.02
    """Share of the data set's scenes that is not trained on but measured, before and after; the split depends on the seed alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; auto is bf16 on a GPU and none on the CPU."""
    seed: int = 0
    """Seed of everything that is drawn."""
    resume: bool = False
    """Go on from the checkpoint in --out; on the CPU the result is that of a run that was never stopped, bit for bit."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        for flag, count, least in (
            ("--steps", self.steps, 1), ("--batch-size", self.batch_size, 1), ("--views", self.views, 1),
            ("--warmup", self.warmup, 0), ("--seed", self.seed, 0),
        ):  # fmt: skip
            if count < least:
                raise InputError(f"{flag} {count}: must be {least} or more")
        if self.size is not None and (self.size < LEAST_SIZE or self.size & (self.size - 1)):
            raise InputError(f"--size {self.size}: must be a power of two, {LEAST_SIZE} or more")
        if not (math.isfinite(self.learning_rate) and 0 < self.learning_rate <= 1):
            raise InputError(f"--learning-rate {self.learning_rate}: must be above 0 and at most 1")
        if not 0 <= self.decay <= 1:  # also false for NaN
            raise InputError(f"--decay {self.decay}: must be from 0 to 1")
        for flag, value in (("--ema", self.ema), ("--held-out", self.held_out)):
            if not 0 <= value < 1:
                raise InputError(f"{flag} {value}: must be from 0 to below 1")
        if self.precision == "fp16" and self.device == "cpu":
            raise InputError("--precision fp16: has no arithmetic on the CPU; use bf16 or no")


@dataclass(frozen=True, kw_only=True)
class TrainRangeVaeConfig(TrainSettings):
    """Train the range crops' first and last stage around the base's frozen autoencoder (mobi spec 3, stage 1)."""

    steps: int = 15_000
    """Optimiser steps."""
    batch_size: int = 16
    """Range crops a step."""
    learning_rate: Number = 4.5e-5
    """Peak rate of Adam."""
    warmup: int = 0
    """Steps over which the rate rises."""
    kl: Number = 1e-6
    """Weight of the posterior's divergence against the summed absolute error."""
    middle_norm: bool = True
    """Normalise between the last two residual blocks, as the released weights do."""
    out: Path = Path("runs/range-vae")
    """Folder for the checkpoint, the log and range_vae.safetensors."""

    def check(self) -> None:
        super().check()
        if not (math.isfinite(self.kl) and self.kl >= 0):
            raise InputError(f"--kl {self.kl}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainSettings):
    """Train box adapters, cross-modal attentions and box encoder on the base (mobi spec 3, stage 2)."""

    range_vae: Path
    """range_vae.safetensors that `train-range-vae` wrote with the same base."""
    parts: Literal["adapters", "all"] = "adapters"
    """What learns: what MObI adds, or with it the base's whole UNet (for small bases; autoencoders and image encoder never do)."""
    steps: int = 90_000
    """Optimiser steps."""
    batch_size: int = 2
    """Scenes a step."""
    learning_rate: Number = 8e-5
    """Peak rate of AdamW."""
    warmup: int = 200
    """Steps over which the rate rises."""
    classes: str = "car,pedestrian"
    """Classes to draw from, in turn, with commas; each needs objects in PREPARED."""
    empty: Number = 0.3
    """Share of the draws that are empty boxes: black reference, zero box, the scene as it is."""
    drops: Literal["separate", "joint"] = "separate"
    """separate: reference, box, and both are each left out of --drop of the scenes, so their guidance scales may differ. joint:
    only both, of twice that, as the authors did."""
    drop: Number = 0.1
    """Share of the scenes for each kind of drop."""
    times: Literal["shared", "independent"] = "shared"
    """Camera and lidar of a scene get the same time, or each its own (as in the authors' code)."""
    order: Literal["sequential", "parallel"] = "sequential"
    """Lidar attends to the camera as already updated, or both to what the other was."""
    hidden: int = 512
    """Width inside the box encoder."""
    reference_views: int = 8
    """Augmented versions of each reference whose tokens are kept."""
    half: bool = True
    """Write the weights in half precision."""
    out: Path = Path("runs/joint")
    """Folder for the checkpoint, the log and, when done, `model/`, which --weights of the other verbs takes."""

    def class_names(self) -> tuple[str, ...]:
        """The classes as a tuple."""
        return tuple(name.strip() for name in self.classes.split(","))

    def check(self) -> None:
        super().check()
        names = self.class_names()
        if not all(names) or len(set(names)) < len(names):
            raise InputError(f"--classes {self.classes}: must be names with commas between, each once, e.g. car,pedestrian")
        if not 0 <= self.empty <= 1:
            raise InputError(f"--empty {self.empty}: must be from 0 to 1")
        if not 0 <= self.drop <= 1 / 3:
            raise InputError(f"--drop {self.drop}: must be from 0 to 1/3, three kinds of drop share the scenes")
        for flag, count in (("--hidden", self.hidden), ("--reference-views", self.reference_views)):
            if count < 1:
                raise InputError(f"{flag} {count}: must be 1 or more")
