"""One flat frozen dataclass per verb that samples; the sentence under a field is its help text."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graft_common import settings
from graft_common.errors import InputError

Mode = Literal["xstart", "direct", "literal"]
Sampler = Literal["ddpm", "ddim", "dpm++", "unipc"]
STEPS: dict[str, int] = {"ddpm": 250, "ddim": 50, "dpm++": 20, "unipc": 20}


@dataclass(frozen=True, kw_only=True)
class ModelConfig(settings.ModelConfig):
    """Where the networks come from and where they run."""

    weights: str = "tiny-texture"
    """Shipped name (tiny-texture, tiny-scene) or folder with an object and a background model."""
    object: tuple[Path, ...] = ()
    """Folder or shipped name whose object model replaces the one of --weights; several: one for each --box."""
    background: Path | None = None
    """Folder or shipped name whose background model replaces the one of --weights."""
    seed: int = 0
    """Seed of the first picture; picture i uses seed + i, whatever the batch."""


@dataclass(frozen=True, kw_only=True)
class ChainConfig(ModelConfig):
    """How noise becomes a picture."""

    sampler: Sampler = "ddpm"
    """Solver: DDPM, or diffusers' DDIM, DPM-Solver++(2M) or UniPC, which merge clean predictions and add no noise."""
    steps: int | None = None
    """T, number of states; default 250 for ddpm, 50 for ddim, 20 for dpm++ and unipc."""
    n: int = 1
    """Pictures."""
    batch_size: int = 8
    """Pictures in one pass through the networks."""

    @property
    def states(self) -> int:
        """T, the states of the chains."""
        return STEPS[self.sampler] if self.steps is None else self.steps

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        for flag, value in (("--steps", self.states), ("--n", self.n), ("--batch-size", self.batch_size)):
            if value < 1:
                raise InputError(f"{flag} {value}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class MergeConfig(ChainConfig):
    """Draw pictures in which an object model and a background model paint together, with the object's mask."""

    box: tuple[str, ...] = ()
    """Where the object goes, X,Y,W,H in pixels of the picture; several boxes: several objects, later ones in front. Default: drawn
    from the training positions."""
    label: tuple[str, ...] = ()
    """Class of the object, one for all or one for each --box; default drawn from the seed."""
    background: Path | None = None
    """Photograph to put the object into (any size, grey or colour, 8 or 16 bits), or folder or shipped name whose background model
    is used."""
    foreground: Literal["none", "otsu"] = "none"
    """Where drawn boxes may lie: anywhere, or on the part of the background that differs from its border (Otsu's threshold)."""
    foreground_mask: Path | None = None
    """Mask file of the picture's size that says where drawn boxes may lie."""
    tau: int = 10
    """Length of a climb, meant for 250 states and scaled to --steps."""
    tau_steps: int | None = None
    """Length of a climb in states, instead of --tau."""
    r: int = 1
    """Climbs after the first descent; 0 resamples nothing."""
    start: float | int | Literal["none"] = 0.9
    """Denoised share at which merging begins: 0 from the first step, 1 at the last alone (a hard paste), none never."""
    schedule: Literal["paper", "repaint"] = "paper"
    """Climb from the clean state alone, or from every multiple of tau in the merge window."""
    mode: Mode = "xstart"
    """What crosses: noised clean predictions; the other chain's state (box of the object model's size); or eq. 9 verbatim."""
    direction: Literal["both", "to-background", "to-object"] = "both"
    """Which chain receives the other's content; to-object pastes at the last step alone."""
    mask_source: Literal["clean", "sample"] = "clean"
    """Threshold the clean prediction's mask channel, or the noisy state's."""
    soft: bool = False
    """Blend with the mask channel as it is instead of cutting it at 0."""
    keep_aspect: bool = False
    """Put the object into the largest centred square of the box instead of stretching it."""
    merge_seed: int | None = None
    """Seed of the merge noise alone; default the picture's own."""
    finish: Literal["none", "laplacian", "poisson"] = "none"
    """Blend the seam once more at the end; changes pixels outside the mask (laplacian) or all inside it (poisson)."""
    save_trajectory: bool = False
    """Write trajectory.png: both clean predictions and the mask at ten states of the first picture."""
    out: Path = Path("out/merge")
    """Folder for image.png, mask.png, object.png, overlay.png and run.json; with --n also image_1.png and so on."""

    @property
    def share(self) -> float | None:
        """--start as a number; None never merges."""
        return None if self.start == "none" else float(self.start)

    def check(self) -> None:
        super().check()
        share = self.share
        if share is not None and not (math.isfinite(share) and 0 <= share <= 1):
            raise InputError(f"--start {self.start}: must be a number from 0 to 1, or none")
        least = {"--tau": self.tau, "--r": self.r, "--tau-steps": self.tau_steps, "--merge-seed": self.merge_seed}
        for flag, value in least.items():
            if value is not None and value < 0:
                raise InputError(f"{flag} {value}: must be 0 or more")
        if self.label and len(self.label) not in (1, max(1, len(self.box))):
            raise InputError(f"--label {' '.join(self.label)}: give one for all, or one for each of the {len(self.box)} boxes")
        if len(self.object) > 1 and len(self.object) != len(self.box):
            raise InputError(f"--object: {len(self.object)} folders for {len(self.box)} boxes; give one, or one for each box")
        if (self.foreground != "none" or self.foreground_mask) and self.box:
            raise InputError("--foreground with --box: a foreground only guides drawn boxes; leave one of them out")
        if self.foreground != "none" and self.foreground_mask:
            raise InputError("--foreground otsu with --foreground-mask: both say where boxes may lie; leave one of them out")
        if self.sampler != "ddpm":
            if self.mode != "xstart":
                raise InputError(f"--mode {self.mode}: --sampler {self.sampler} merges clean predictions; use --mode xstart")
            if self.mask_source != "clean":
                raise InputError(f"--mask-source sample: --sampler {self.sampler} merges clean predictions; use clean")


@dataclass(frozen=True, kw_only=True)
class SampleObjectConfig(ChainConfig):
    """Draw objects with their masks from the object model alone."""

    n: int = 4
    """Pictures."""
    label: str | None = None
    """Class of the objects; default drawn from each seed."""
    out: Path = Path("out/objects")
    """Folder for image/, mask/, panel.png and run.json."""


@dataclass(frozen=True, kw_only=True)
class SampleBackgroundConfig(ChainConfig):
    """Draw pictures from the background model alone: with the defaults, the one that `merge --start none` paints."""

    out: Path = Path("out/backgrounds")
    """Folder for image/, panel.png and run.json."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Print the order in which states are visited, and what it costs; runs no network."""

    T: int = 250
    """Number of states."""
    tau: int = 10
    """Length of a climb, meant for 250 states and scaled to T."""
    tau_steps: int | None = None
    """Length of a climb in states, instead of --tau."""
    r: int = 1
    """Climbs after the first descent."""
    start: float | int | Literal["none"] = 0.9
    """Denoised share at which merging begins, or none."""
    schedule: Literal["paper", "repaint"] = "paper"
    """Climb from the clean state alone, or from every multiple of tau in the merge window."""
    json: bool = False
    """Print one JSON line instead of text."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if not 1 <= self.T <= 100_000:
            raise InputError(f"--T {self.T}: must be from 1 to 100000")
        for flag, value in (("--tau", self.tau), ("--r", self.r), ("--tau-steps", self.tau_steps)):
            if value is not None and value < 0:
                raise InputError(f"{flag} {value}: must be 0 or more")
        if self.r > 10_000:
            raise InputError(f"--r {self.r}: must be at most 10000")
        if self.start != "none" and not (math.isfinite(self.start) and 0 <= self.start <= 1):
            raise InputError(f"--start {self.start}: must be a number from 0 to 1, or none")
