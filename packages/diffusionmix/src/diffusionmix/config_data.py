"""Configurations of the verbs that make, read and check data sets; the sentence under a field is its help text."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from diffusionmix.config import MergeConfig
from graft_common.errors import InputError

LayoutName = Literal["auto", "mvtec", "visa", "kitti", "tiktok"]
PhantomLayout = Literal["mvtec", "visa", "visa-mvtec", "kitti", "kitti-raw", "tiktok", "tiktok-flat"]


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Write a small synthetic data set in the layout of MVTec AD, VisA, KITTI or TikTok."""

    folder: tyro.conf.Positional[Path]
    """Folder to write."""
    layout: PhantomLayout = "mvtec"
    """Whose layout: visa-mvtec is VisA's converted tree, kitti-raw the raw recordings, tiktok-flat the set without clips."""
    n: int = 24
    """Pictures of each class and of the good training pictures (frames for KITTI and TikTok); half as many good test pictures."""
    size: int = 128
    """Shorter side of the pictures in pixels, 48 or more."""
    seed: int = 0
    """Seed of the first picture."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if not 2 <= self.n <= 5000:
            raise InputError(f"--n {self.n}: must be from 2 to 5000")
        if not 48 <= self.size <= 1024:
            raise InputError(f"--size {self.size}: must be from 48 to 1024")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Cut a data set, or any folder of pictures and masks, into squares to train on."""

    root: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folder of MVTec AD, VisA, KITTI or TikTok; leave it out with --images."""
    images: Path | None = None
    """Folder of pictures, instead of a data set's root; sub-folders are classes."""
    masks: Path | None = None
    """Folder of masks with the pictures' names, for --images."""
    role: Literal["object", "background"] = "object"
    """What to cut: squares around objects, with their masks, or squares of pictures without an object."""
    layout: LayoutName = "auto"
    """Whose layout; auto looks at the folder names."""
    out: Path = Path("out/prepare")
    """Folder for image/, mask/, manifest.jsonl, prepared.json and run.json."""
    size: int | None = None
    """Side of the squares; default 256 for backgrounds; objects: 64 where their median side is below 80 px at 256, else 128."""
    margin: float | int = 0.25
    """Room around an object, as a share of its longer side."""
    parts: Literal["whole", "each"] = "whole"
    """One square around all components of a mask, or one around each."""
    context: Literal["real", "grey"] = "real"
    """What the picture shows outside the mask: itself, or mid-grey (an ablation)."""
    label: Literal["defect", "category", "none"] = "defect"
    """What the classes are."""
    category: tuple[str, ...] = ()
    """Keep these products of MVTec AD or VisA; default all."""
    defect: tuple[str, ...] = ()
    """Keep these kinds of defect; default all."""
    crops: int = 1
    """Random squares of a background that is not square, in training; others take the centre one."""
    every: int = 1
    """Keep every so many frames of a clip (TikTok)."""
    val: float | int = 0.0
    """Share of each class for validation, where the data set has no split of its own."""
    test: float | int = 0.25
    """Share of each class for the test, likewise. Defects are split by kind, frames by clip or drive."""
    resplit: bool = False
    """Split anew by --val and --test although the data set has a split."""
    skip: bool = False
    """Leave out what cannot be used, and count it, instead of stopping."""
    seed: int = 0
    """Seed of the split and of random squares."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if len(self.root) + (self.images is not None) != 1:
            raise InputError("prepare: give one data set folder, or --images (with --masks for objects)")
        if self.masks is not None and self.images is None:
            raise InputError(f"--masks {self.masks}: needs --images, the pictures' folder")
        if self.images is not None and self.masks is None and self.role == "object":
            raise InputError(f"--images {self.images}: objects need --masks; give it, or --role background")
        if self.images is not None and self.masks is not None and self.role == "background":
            raise InputError(f"--masks {self.masks}: backgrounds have none; leave it out or use --role object")
        if self.size is not None and not 16 <= self.size <= 1024:
            raise InputError(f"--size {self.size}: must be from 16 to 1024")
        if self.size is not None and self.size % 8:
            raise InputError(f"--size {self.size}: must be a multiple of 8, the networks halve it several times")
        if not (math.isfinite(self.margin) and 0 <= self.margin <= 4):
            raise InputError(f"--margin {self.margin}: must be from 0 to 4")
        for flag, count in (("--crops", self.crops), ("--every", self.every)):
            if count < 1:
                raise InputError(f"{flag} {count}: must be at least 1")
        for flag, value in (("--val", self.val), ("--test", self.test)):
            if not 0 <= value < 1:
                raise InputError(f"{flag} {value}: must be from 0 to below 1")
        if self.val + self.test >= 1:
            raise InputError(f"--val {self.val} --test {self.test}: leave nothing to train on; lower them")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Say what is wrong with my data, before an hour of work."""

    folder: tyro.conf.Positional[Path]
    """Data set folder, or a folder that prepare wrote."""
    masks: Path | None = None
    """Folder of masks, where the first folder is any folder of pictures."""
    layout: LayoutName = "auto"
    """Whose layout; auto looks at the folder names."""
    json: bool = False
    """Print the findings as one JSON line on stdout."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(MergeConfig):
    """Draw a data set: pictures with an object, masks and boxes, and good pictures, in MVTec's layout with COCO and YOLO files."""

    n: int = 100
    """Pictures with an object; the classes take turns."""
    train_good: int | None = None
    """Good pictures in train/good; default as many as --n."""
    test_good: int = 0
    """Good pictures in test/good."""
    category: str = "synthetic"
    """Name of the product folder."""
    against: Path | None = None
    """Folder that prepare wrote with the training pictures, for --max-similarity."""
    max_similarity: float | int | None = None
    """Draw again objects nearer than this to one of --against: 1 minus the root mean square difference at 16 x 16 (1: a copy)."""
    attempts: int = 20
    """Draws of one picture before giving up."""
    out: Path = Path("out/dataset")
    """Folder for the data set."""
    resume: bool = False
    """Go on with a data set that was interrupted; the same bytes come out."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        if len(self.box) > 1:
            raise InputError(f"--box {' '.join(self.box)}: dataset puts one object into a picture; give one box or none")
        if self.background is not None and self.background.is_file():
            raise InputError(f"--background {self.background}: dataset draws its backgrounds; give a folder, or use merge")
        if self.save_trajectory:
            raise InputError("--save-trajectory: shows one picture; use merge")
        if self.merge_seed is not None:
            raise InputError(f"--merge-seed {self.merge_seed}: dataset draws every picture from --seed alone; leave it out")
        if len(self.object) > 1:
            raise InputError(f"--object: {len(self.object)} folders; dataset puts one object into a picture, give one")
        if self.start == "none":
            raise InputError("--start none: never merges, so no picture would hold its object; give a number from 0 to 1")
        for flag, value in (("--train-good", self.train_good), ("--test-good", self.test_good)):
            if value is not None and value < 0:
                raise InputError(f"{flag} {value}: must be 0 or more")
        bad = self.category in ("", ".", "..") or any(c in self.category for c in "/\\\0")
        if bad or not self.category.isprintable():
            raise InputError(f"--category {self.category!r}: must be a plain folder name")
        if self.attempts < 1:
            raise InputError(f"--attempts {self.attempts}: must be at least 1")
        if (self.max_similarity is None) != (self.against is None):
            lone = "--max-similarity" if self.against is None else "--against"
            other = "--against, a folder that prepare wrote" if self.against is None else "--max-similarity"
            raise InputError(f"{lone}: needs {other}")
        if self.max_similarity is not None and not 0 < self.max_similarity <= 1:
            raise InputError(f"--max-similarity {self.max_similarity}: must be above 0 and at most 1")
