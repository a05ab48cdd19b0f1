"""Configurations of the verbs that train; the sentence under a field is its help text."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import tyro

from graft_common.errors import InputError

NetworkName = Literal["paper", "small", "tiny"]
FEW = 50  # training pictures below which a model may copy them, and a run says so

# What a recipe sets where the flag is not given. Few pictures: fewer steps, lest the network copy them; stronger augmentation and
# dropout for the same reason.
RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("object", "full"): {
        "steps": 150_000, "batch_size": 64, "learning_rate": 1e-4, "ema": 0.9999, "dropout": 0.1, "warmup": 1000, "scale": 0.2,
        "shift": 0.1,
    },
    ("object", "few"): {
        "steps": 8_000, "batch_size": 16, "learning_rate": 1e-4, "ema": 0.999, "dropout": 0.2, "warmup": 200, "scale": 0.35,
        "shift": 0.15,
    },
    ("background", "full"): {
        "steps": 300_000, "batch_size": 32, "learning_rate": 1e-4, "ema": 0.9999, "dropout": 0.0, "warmup": 1000, "scale": 0.0,
        "shift": 0.0,
    },
    ("background", "few"): {
        "steps": 10_000, "batch_size": 8, "learning_rate": 1e-4, "ema": 0.999, "dropout": 0.1, "warmup": 200, "scale": 0.25,
        "shift": 0.15,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a diffusion model is trained; what is not given is set by --recipe."""

    folder: tyro.conf.Positional[Path]
    """Folder that `graft-diffusionmix prepare` wrote."""
    out: Path = Path("runs/train")
    """Folder for the checkpoint, the log and, when done, `model/`."""
    start: Path | None = None
    """Model to go on from: folder with a network of this role (its size, classes and variance must fit); default new weights."""
    network: NetworkName = "paper"
    """New network: the paper's, the same at half its width (backgrounds), or 0.75 million parameters for small worlds."""
    variance: Literal["fixed", "learned"] = "learned"
    """Learned: the network also gives the variance of its steps, in twice the channels. Fixed: the posterior's, for small ones."""
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: the noise as in the paper, or the velocity, which small networks learn better: at the noisy end
    the noise hides a picture's colours from them."""
    recipe: Literal["full", "few"] = "full"
    """Few: for 10 to 30 pictures. Fewer steps, stronger augmentation and dropout, since so few may be copied: not seen after 1,200
    steps of it at the tiny recipe's rate, more steps are not measured."""
    steps: int | None = None
    """Optimiser steps."""
    batch_size: int | None = None
    """Pictures per step."""
    learning_rate: float | None = None
    """Peak rate of AdamW."""
    ema: float | None = None
    """Decay of the averaged weights, which are those that are kept."""
    warmup: int | None = None
    """Steps over which the rate rises."""
    decay: float | int = 0.0
    """Share of the steps, at the end, over which the rate falls to zero."""
    dropout: float | None = None
    """Share of features dropped in training."""
    flip: bool = True
    """Mirror half of the pictures."""
    turns: bool = False
    """Turn pictures by quarters, where they have no up."""
    scale: float | None = None
    """Largest change of scale: 0.2 is 0.8 to 1.2. What comes in from outside is reflected."""
    shift: float | None = None
    """Largest shift, as a share of the side."""
    snr_gamma: float | None = None
    """Clamp of the min-SNR weights over time (5 learns faster in short runs); default all times weigh alike."""
    edge_weight: float | int = 1.0
    """Weight of the error in the two outermost pixels of each side: padding makes small networks leave noise there longest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains; auto takes a GPU when there is one."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; auto is bf16 on a GPU and none on the CPU."""
    compile: bool = False
    """Compile the network (needs a C compiler on the CPU); minutes at the start, 1.3 to 2 times as fast after."""
    seed: int = 0
    """Seed of everything that is drawn."""
    resume: bool = False
    """Go on from the checkpoint in --out; on the CPU the result is that of a run that was never stopped, bit for bit."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        for flag, count in (("--steps", self.steps), ("--batch-size", self.batch_size)):
            if count is not None and count < 1:
                raise InputError(f"{flag} {count}: must be at least 1")
        for flag, count in (("--warmup", self.warmup), ("--seed", self.seed)):
            if count is not None and count < 0:
                raise InputError(f"{flag} {count}: must be 0 or more")
        for flag, value in (("--learning-rate", self.learning_rate), ("--snr-gamma", self.snr_gamma)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{flag} {value}: must be above 0")
        if not (math.isfinite(self.edge_weight) and self.edge_weight > 0):
            raise InputError(f"--edge-weight {self.edge_weight}: must be above 0")
        if self.learning_rate is not None and self.learning_rate > 1:
            raise InputError(f"--learning-rate {self.learning_rate}: must be at most 1")
        for flag, part in (("--ema", self.ema), ("--dropout", self.dropout), ("--scale", self.scale), ("--shift", self.shift)):
            if part is not None and not 0 <= part < 1:
                raise InputError(f"{flag} {part}: must be from 0 to below 1")
        if not 0 <= self.decay <= 1:
            raise InputError(f"--decay {self.decay}: must be from 0 to 1")
        if self.start is not None and not self.start.is_dir():
            raise InputError(f"--start {self.start}: no such folder; give a model that train-object or train-background wrote")
        if self.precision == "fp16" and self.device == "cpu":
            raise InputError("--precision fp16: has no arithmetic on the CPU; use bf16 or no")


@dataclass(frozen=True, kw_only=True)
class TrainObjectConfig(TrainSettings):
    """Train a model of objects that draws each with its mask, and by class where there are classes."""

    mask_weight: float | int = 1.0
    """Weight of the mask channel's error against that of each colour's."""
    out: Path = Path("runs/object")
    """Folder for the checkpoint, the log and, when done, `model/`, which --object of the other verbs takes."""

    def check(self) -> None:
        super().check()
        if not (math.isfinite(self.mask_weight) and self.mask_weight > 0):
            raise InputError(f"--mask-weight {self.mask_weight}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class TrainBackgroundConfig(TrainSettings):
    """Train a model of backgrounds: pictures without an object."""

    out: Path = Path("runs/background")
    """Folder for the checkpoint, the log and, when done, `model/`, which --background of the other verbs takes."""


@dataclass(frozen=True)
class Recipe:
    """The numbers of a run: what the flags say, else what the recipe sets."""

    steps: int
    batch_size: int
    learning_rate: float
    ema: float
    dropout: float
    warmup: int
    scale: float
    shift: float


def resolved(config: TrainSettings, role: Literal["object", "background"]) -> Recipe:
    """Flags over the recipe of the role."""
    given = {f.name: value for f in fields(Recipe) if (value := getattr(config, f.name)) is not None}
    return Recipe(**RECIPES[role, config.recipe] | given)
