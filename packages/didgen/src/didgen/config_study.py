"""Configurations of the verbs that judge: train-seg, train-cls, eval-gen, eval-seg, eval-cls. Defaults are the paper's."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from graft_common.errors import InputError

Augmentation = Literal["none", "classical"]
SplitName = Literal["train", "val", "test"]
Networks = ("unet", "attention-unet", "segresnet", "segformer")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """What every judging verb has."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU when there is one."""
    seed: int = 0
    """Seed of everything that is drawn."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class LearnConfig(JudgeConfig):
    """How a judge is trained; what the paper leaves open is open here."""

    epochs: int = 200
    """Passes over the training set at most; early stopping usually ends before (the paper gives no number)."""
    steps_per_epoch: int | None = None
    """Optimiser steps between two validations; default one pass over the training set."""
    augmentation: Augmentation = "none"
    """classical: flips, quarter turns, random crops, and jitter of brightness, contrast and saturation."""
    batch_size: int = 16
    """Pictures per optimiser step; all of them where the training set is smaller."""
    learning_rate: float = 1e-3
    """Constant learning rate."""
    patience: int = 20
    """Epochs without a better validation score before training stops."""
    size: int = 256
    """Side in pixels; every picture is resized to a square of it."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        for flag, value in (("epochs", self.epochs), ("batch-size", self.batch_size), ("patience", self.patience)):
            if value < 1:
                raise InputError(f"--{flag} {value}: must be at least 1")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise InputError(f"--steps-per-epoch {self.steps_per_epoch}: must be at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning-rate {self.learning_rate}: must be a finite number above 0")
        if not 16 <= self.size <= 4096:
            raise InputError(f"--size {self.size}: must be from 16 to 4096")


@dataclass(frozen=True, kw_only=True)
class SegSettings(LearnConfig):
    """A lesion segmenter and its training: cross entropy + Dice, Adam."""

    network: str = "unet"
    """unet, attention-unet or segresnet (MONAI), segformer (transformers), or module:Class of your own: called with
    --network-args, (B, 3, S, S) to logits (B, 1, S, S)."""
    network_args: str = "{}"
    """Keyword arguments of a module:Class, as a JSON object."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels of each level; the side must be a multiple of 2 to the number of levels less one. (16, 32, 64, 128) suits
    64 px."""
    monitor: Literal["accuracy", "dice"] = "accuracy"
    """Validation score that early stopping follows; the paper says accuracy (of pixels)."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        if self.network not in Networks and self.network.count(":") != 1:
            raise InputError(f"--network {self.network}: is unknown; give {', '.join(Networks)} or module:Class")
        try:
            given = json.loads(self.network_args)
        except ValueError as why:
            raise InputError(f"--network-args {self.network_args}: is no JSON ({why}); give an object") from None
        if not isinstance(given, dict):
            raise InputError(f"--network-args {self.network_args}: is no JSON object; give one such as {{}}")
        if given and self.network in Networks:
            raise InputError(f"--network-args {self.network_args}: only module:Class takes them; leave it out")
        if self.network not in Networks:
            return
        shown = " ".join(map(str, self.widths))
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise InputError(f"--widths {shown}: give two or more positive numbers")
        if self.network in ("segresnet", "segformer") and any(w % 8 for w in self.widths):
            raise InputError(f"--widths {shown}: {self.network} needs multiples of 8")
        if self.network == "segresnet" and any(b != 2 * a for a, b in zip(self.widths, self.widths[1:], strict=False)):
            raise InputError(f"--widths {shown}: segresnet doubles at each level, e.g. 16 32 64 128")
        step = 2 ** (len(self.widths) + (1 if self.network == "segformer" else -1))
        if self.size % step or self.size < 2 * step:
            raise InputError(
                f"--size {self.size}: {self.network} with {len(self.widths)} widths needs a multiple of {step}, {2 * step} "
                "or more; change --size or give fewer --widths"
            )


@dataclass(frozen=True, kw_only=True)
class TrainSegConfig(SegSettings):
    """Train a lesion segmenter on the pictures and masks of a manifest."""

    manifest: Path
    """JSON Lines from prepare or augment; rows of the two splits need a mask."""
    out: Path = Path("out/train-seg")
    """Folder for model.safetensors (best epoch), last.safetensors (to resume), history.json and run.json."""
    train_split: SplitName = "train"
    """Split to train on."""
    val_split: SplitName = "val"
    """Split that early stopping looks at."""
    resume: bool = False
    """Go on where an interrupted run in --out stopped; bit-exact on the CPU."""


@dataclass(frozen=True, kw_only=True)
class ClsSettings(LearnConfig):
    """A lesion classifier and its training: cross entropy, SGD with momentum."""

    network: Literal["vgg16", "resnet18", "densenet121", "vit-b-16"] = "resnet18"
    """torchvision's network; below 128 px its stem is adapted to the smaller picture."""
    weights: Path | None = None
    """torchvision's ImageNet weights of this network as safetensors (`tools/convert_checkpoint.py state`), the head is new;
    none starts from random numbers, where --learning-rate 0.01 or more is due. Nothing is fetched."""
    momentum: float = 0.9
    """Momentum of SGD."""
    batch_size: int = 128
    """Pictures per optimiser step; all of them where the training set is smaller."""
    patience: int = 10
    """Epochs without a better validation accuracy before training stops."""
    size: int = 224
    """Side in pixels; every picture is resized to a square of it."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        if not 0 <= self.momentum < 1:
            raise InputError(f"--momentum {self.momentum}: must be from 0 to below 1")
        if self.size < 32:
            raise InputError(f"--size {self.size}: classifiers need 32 px or more")
        if self.weights is not None and self.size < 128:
            raise InputError(
                f"--weights {self.weights}: published weights need their own stem, so --size 128 or more (it is "
                f"{self.size})"
            )
        if self.network == "vit-b-16" and self.size % 16:
            raise InputError(f"--size {self.size}: vit-b-16 needs a multiple of 16")


@dataclass(frozen=True, kw_only=True)
class TrainClsConfig(ClsSettings):
    """Train a lesion classifier on the pictures and diagnoses of a manifest."""

    manifest: Path
    """JSON Lines from prepare or augment; rows of the two splits need a dx."""
    out: Path = Path("out/train-cls")
    """Folder for model.safetensors (best epoch), last.safetensors (to resume), history.json and run.json."""
    train_split: SplitName = "train"
    """Split to train on; its diagnoses are the classes."""
    val_split: SplitName = "val"
    """Split that early stopping looks at."""
    resume: bool = False
    """Go on where an interrupted run in --out stopped; bit-exact on the CPU."""


@dataclass(frozen=True, kw_only=True)
class EvalSegConfig(JudgeConfig):
    """Score segmenters on a split: Dice and IoU per picture, beside trivial answers."""

    manifest: Path
    """JSON Lines; rows of the split need a mask."""
    checkpoints: tuple[Path, ...]
    """model.safetensors of train-seg, one or more; the first is the method in metrics.json."""
    split: SplitName = "test"
    """Split to score."""
    out: Path = Path("out/eval-seg")
    """Folder for metrics.json, table.md, samples.csv and run.json."""
    batch_size: int = 16
    """Pictures at once."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        _check_scoring(self.batch_size, self.checkpoints, "train-seg")


@dataclass(frozen=True, kw_only=True)
class EvalClsConfig(JudgeConfig):
    """Score classifiers on a split: support-weighted precision, recall and F1, F1 per class, beside the majority class."""

    manifest: Path
    """JSON Lines; rows of the split need a dx that the classifier knows."""
    checkpoints: tuple[Path, ...]
    """model.safetensors of train-cls, one or more; the first is the method in metrics.json."""
    split: SplitName = "test"
    """Split to score."""
    out: Path = Path("out/eval-cls")
    """Folder for metrics.json, table.md, samples.csv and run.json."""
    batch_size: int = 128
    """Pictures at once."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        _check_scoring(self.batch_size, self.checkpoints, "train-cls")


@dataclass(frozen=True, kw_only=True)
class EvalGenConfig(JudgeConfig):
    """Score generated pictures, and their masks where they have some, against real ones."""

    generated: Path
    """Folder that pairs or sample wrote, or a manifest."""
    real: Path
    """Manifest of real pictures."""
    split: SplitName = "test"
    """Split of --real to compare with (the paper takes the test set)."""
    train_split: SplitName | None = "train"
    """Split of --real in which the nearest training picture is looked for; None leaves it out."""
    layouts: Path | None = None
    """Folder of the layout masks that pairs was given, matched by name: IoU of each mask with its own."""
    weights: str | None = None
    """Shipped name or folder of a fine-tuned model, to test its maps: AUROC of <lesion> and <skin> on real pictures with masks."""
    out: Path = Path("out/eval-gen")
    """Folder for metrics.json, table.md and run.json."""
    backbone: str = "tiny"
    """Features of FID, KID, precision and recall: tiny, or a safetensors file of Inception v3's weights."""
    lpips: str = "tiny"
    """Network of LPIPS: tiny, or the file of a published one that `tools/convert_checkpoint.py lpips` wrote."""
    nearest_backbone: str = "tiny"
    """Features in which the nearest training picture is looked for: tiny, pixels, or a folder or hub id of a transformers
    vision model (facebook/dinov2-small), fetched only when named."""
    pairs: int = 1000
    """Random pairs for MS-SSIM and LPIPS."""
    neighbours: int = 3
    """k of precision and recall."""
    size: int | None = None
    """Side in pixels at which pictures are compared; default the first generated picture's."""
    batch_size: int = 32
    """Pictures at once."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        for flag, value in (
            ("batch-size", self.batch_size),
            ("pairs", self.pairs),
            ("neighbours", self.neighbours),
        ):
            if value < 1:
                raise InputError(f"--{flag} {value}: must be at least 1")
        if self.size is not None and not 32 <= self.size <= 4096:
            raise InputError(f"--size {self.size}: must be from 32 to 4096")


_Settings = TypeVar("_Settings", SegSettings, ClsSettings)


def as_settings(config: Any, kind: type[_Settings]) -> _Settings:
    """The network and training settings out of a verb's configuration."""
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind)})


def _check_scoring(batch_size: int, checkpoints: tuple[Path, ...], verb: str) -> None:
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: must be at least 1")
    if not checkpoints:
        raise InputError(f"--checkpoints: none given; give at least one model.safetensors of {verb}")
