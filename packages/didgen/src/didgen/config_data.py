"""Configurations of the verbs that make, read and mix data sets; the sentence under a field is its help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from graft_common.errors import InputError

LayoutName = Literal["isic2018-task1", "isic2018-task3", "ham10000", "derm7pt", "ph2"]


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Write a small synthetic data set in the layout of ISIC 2018 task 1 or 3, HAM10000, Derm7pt or PH2."""

    folder: tyro.conf.Positional[Path]
    """Folder to write."""
    layout: LayoutName = "isic2018-task1"
    """Whose layout."""
    n: int = 24
    """Pictures a split; in all where the layout has no splits (HAM10000, PH2)."""
    size: int = 128
    """Longer side of the pictures in pixels, 48 or more."""
    seed: int = 0
    """Seed of the first picture; the pictures take the seeds from there upward, run.json says where they end."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if self.n < 1:
            raise InputError(f"--n {self.n}: must be at least 1")
        if self.size < 48:
            raise InputError(f"--size {self.size}: must be at least 48")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Turn a data set's folder, real or phantom, into a manifest with train, val and test."""

    root: tyro.conf.Positional[Path]
    """Folder of ISIC 2018 task 1 or 3, HAM10000, Derm7pt or PH2."""
    layout: Literal["auto", "isic2018-task1", "isic2018-task3", "ham10000", "derm7pt", "ph2"] = "auto"
    """Whose layout; auto looks at the folder names."""
    out: Path = Path("out/prepare")
    """Folder for manifest.jsonl and run.json (and the pictures with --copy)."""
    val: float = 0.1
    """Share of the lesions of each class for validation, where the data set has no split of its own."""
    test: float = 0.2
    """Share of the lesions of each class for the test, likewise."""
    resplit: bool = False
    """Split anew by --val and --test although the data set has a split."""
    keep_train: int | None = None
    """Keep so many training pictures, drawn by the seed; default all."""
    skip: bool = False
    """Leave out what cannot be used, and count it, instead of stopping."""
    copy: bool = False
    """Copy pictures and masks beside the manifest; default it refers to them where they are."""
    seed: int = 0
    """Seed of the split."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        for flag, value in (("--val", self.val), ("--test", self.test)):
            if not 0 <= value < 1:
                raise InputError(f"{flag} {value}: must be from 0 to below 1")
        if self.val + self.test >= 1:
            raise InputError(f"--val {self.val} --test {self.test}: leave nothing to train on; lower them")
        if self.keep_train is not None and self.keep_train < 1:
            raise InputError(f"--keep-train {self.keep_train}: must be at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Say what is wrong with my data, before an hour of work."""

    folder: tyro.conf.Positional[Path]
    """Data set folder, manifest.jsonl, or a folder that holds one."""
    layout: Literal["auto", "isic2018-task1", "isic2018-task3", "ham10000", "derm7pt", "ph2"] = "auto"
    """Whose layout; auto looks at the folder names."""
    json: bool = False
    """Print the findings as one JSON line on stdout."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Add synthetic pictures to the training part of a manifest; validation and test stay as they are."""

    manifest: tyro.conf.Positional[Path]
    """Real pictures: manifest.jsonl from prepare."""
    synthetic: tuple[Path, ...]
    """Synthetic pictures: manifests, or folders that pairs wrote; several."""
    counts: tuple[str, ...] = ()
    """How many: CLASS=N for each class, or any=N whatever the class; default all."""
    own_layouts: bool = False
    """Take only pictures whose layout is a training picture of the manifest (a reduced training set must use its own)."""
    keep_flagged: bool = False
    """Take also pairs that carry a flag."""
    out: Path = Path("out/augment")
    """Folder for manifest.jsonl and run.json."""
    seed: int = 0
    """Seed of the choice; more of a class with the same seed keeps those already chosen."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if not self.synthetic:
            raise InputError("--synthetic: none given; give a manifest or a folder that pairs wrote")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
