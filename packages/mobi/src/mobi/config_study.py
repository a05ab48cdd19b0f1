"""Configuration of the verb that judges; the sentence under a field is its help text. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from graft_common.errors import InputError
from mobi.config import CompositeConfig

ArmName = Literal[
    "same reference", "tracked reference", "no box", "no joint attention", "replacement", "free insertion", "removal",
    "replacement, no box", "free insertion, no box", "replacement, no joint attention", "free insertion, no joint attention",
]  # fmt: skip
ARM_NAMES: tuple[ArmName, ...] = get_args(ArmName)[:7]
"""What is painted unless asked otherwise: the ablations of replacement and insertion would take four more passes."""
HELD_OUT = 10_000_000


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CompositeConfig):
    """Score weights on drawn scenes with exact truth, beside trivial answers and baselines; or on a prepared nuScenes tree."""

    prepared: Path | None = None
    """Folder that `prepare` wrote; with --root. Recorded scenes have no truth: realism and range autoencoder alone are scored."""
    root: Path | None = None
    """nuScenes tree of --prepared."""
    n: int = 64
    """Objects of each class."""
    image_size: str = "400x225"
    """Width x height of the drawn pictures."""
    arms: tuple[ArmName, ...] = ARM_NAMES
    """What is painted: two reinsertions, two ablations of the second, replacement, insertion into the empty scene, removal; on
    request the ablations of replacement and insertion too."""
    judges: bool = True
    """Ask the shipped yaw regressor and box detector about drawn scenes."""
    lpips: str = "tiny"
    """Network of LPIPS: tiny, or the file of a published one that `tools/convert_checkpoint.py lpips` wrote."""
    clip: str = "tiny"
    """Network of CLIP-I and FID: tiny, or a folder or hub id of transformers' CLIPModel."""
    batch_size: int = 16
    """Objects of one class in one pass; also the unit that --resume keeps."""
    resume: bool = False
    """Keep the batches that an earlier run in --out finished."""
    seed: int = HELD_OUT
    """First drawn scene, those from 10000000 on are in no training; also keys the noise."""
    out: Path = Path("out/evaluate")
    """Folder for metrics.json, table.md, parts/ and run.json."""

    @property
    def picture(self) -> tuple[int, int]:
        """(width, height). Raises InputError where the text is none."""
        width, _, height = self.image_size.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) >= 64 and int(height) >= 36):
            raise InputError(f"--image-size {self.image_size}: must be WIDTHxHEIGHT of at least 64x36, e.g. 400x225")
        return int(width), int(height)

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        _ = self.picture
        for flag, value in (("--n", self.n), ("--batch-size", self.batch_size)):
            if value < 2:
                raise InputError(f"{flag} {value}: must be at least 2, a replacement needs another object")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise InputError(f"--arms {' '.join(self.arms)}: give one or more different names")
        if (self.prepared is None) != (self.root is None):
            given, other = ("--prepared", "--root") if self.root is None else ("--root", "--prepared")
            raise InputError(f"{given} {self.prepared or self.root}: needs {other} beside it")
