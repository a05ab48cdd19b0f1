"""Configurations of the verbs that study the method: baseline, invert, ablate, evaluate."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from graft_common.errors import InputError
from tficomp.config import METHODS, BaselineName, MethodConfig


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(MethodConfig):
    """Answer every sample of a manifest with another method, into the same files as compose."""

    manifest: Path
    """JSON or CSV from prepare, or a folder in TF-ICON's layout."""
    method: BaselineName
    """Which method."""
    strength: float = 0.3
    """sdedit: share of the T steps that is noised and sampled again; 0 is the VAE's round trip, 1 starts from noise."""
    out: Path = Path("out/baseline")
    """Folder with one sub-folder a sample, named by its id."""
    batch_size: int = 8
    """Samples in one pass through the network."""
    resume: bool = False
    """Go on where an interrupted run stopped, with its groups."""
    fit_mask: bool = False
    """Resize masks whose size differs when the aspects agree within 5 %; always on for TF-ICON folders."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        check_batch(self.batch_size)
        if not 0 <= self.strength <= 1:
            raise InputError(f"--strength {self.strength}: must be from 0 to 1")
        if self.method == "tficon" and self.compile:
            raise InputError("--compile: tficon edits the attention, which a compiled network cannot; leave it out")


@dataclass(frozen=True, kw_only=True)
class InvertConfig(MethodConfig):
    """Walk an image to noise and back, and say how far the way back misses it."""

    image: Path
    """PNG, JPEG, TIFF, DICOM or NIfTI; its longer side fills the working size, nothing is squashed."""
    prompt: str = ""
    """Condition of the walk; empty takes the exceptional prompt, as the method does."""
    out: Path = Path("out/invert")
    """Folder for trajectory.safetensors, reconstruction.png, panel.png, report.json and run.json."""
    compare: bool = True
    """Also report the round trip of every grid and order, beside the chosen one."""
    window: tuple[float, float] | None = None
    """Centre and width for DICOM, NIfTI and 16-bit files without a window of their own."""
    slice: int | None = None
    """Slice or frame of a file with several, from 0."""


@dataclass(frozen=True, kw_only=True)
class AblateConfig(MethodConfig):
    """Compose every sample at several T' and tau; a picture grid and a table. --t-start and --tau take lists here."""

    manifest: Path
    """JSON or CSV from prepare, or a folder in TF-ICON's layout."""
    t_start: tuple[int, ...] = (6, 12, 18)  # type: ignore[assignment]
    """T', steps still to go when composing starts; several."""
    tau: tuple[int, ...] = (1, 3, 5)  # type: ignore[assignment]
    """Background rectification bounds, read as --tau-mode says; several. Pairs with tau above T' are left out."""
    out: Path = Path("out/ablate")
    """Folder for panel.png, table.json, table.md and run.json."""
    batch_size: int = 8
    """Samples in one pass through the network."""
    shown: int = 1
    """Samples in the picture grid."""
    lpips: str = "tiny"
    """Network of LPIPS: tiny, or the file of AlexNet or VGG16 that tools/convert_checkpoint.py writes."""
    clip: str = "tiny"
    """Network of the CLIP scores: tiny, or a local folder or hub id of a CLIP model."""
    fit_mask: bool = False
    """Resize masks whose size differs when the aspects agree within 5 %; always on for TF-ICON folders."""

    def settings(self) -> list[MethodConfig]:
        """One checked configuration for each pair of T' and tau that goes together.

        Raises:
            InputError: a value cannot work, or no pair goes together.
        """
        check_batch(self.batch_size)
        if self.shown < 0:
            raise InputError(f"--shown {self.shown}: must be 0 or more")
        pairs = [
            (start, tau) for start in dict.fromkeys(self.t_start) for tau in dict.fromkeys(self.tau) if tau <= start
        ]
        if not pairs:
            raise InputError(
                f"--tau {' '.join(map(str, self.tau))}: all above every --t-start; give a tau from 0 to T'"
            )
        made = [as_method(self, t_start=start, tau=tau) for start, tau in pairs]
        for one in made:
            one.check()
        return made


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(MethodConfig):
    """Score results against their manifest, beside the baselines and doing nothing."""

    manifest: Path
    """The manifest that the results were made from."""
    results: tuple[Path, ...]
    """Folders of batch or baseline results (<id>/result.png); the first is the method, the others are compared."""
    baselines: tuple[BaselineName, ...] = METHODS  # type: ignore[assignment]
    """Baselines to compute beside them; none of the network's with `--baselines copy-paste poisson`."""
    out: Path = Path("out/evaluate")
    """Folder for metrics.json, table.md, samples.csv and run.json."""
    batch_size: int = 8
    """Samples in one pass through the network."""
    lpips: str = "tiny"
    """Network of LPIPS: tiny, or the file of AlexNet or VGG16 that tools/convert_checkpoint.py writes."""
    clip: str = "tiny"
    """Network of the CLIP scores: tiny, or a local folder or hub id of a CLIP model."""
    fit_mask: bool = False
    """Resize masks whose size differs when the aspects agree within 5 %; always on for TF-ICON folders."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        check_batch(self.batch_size)
        if not self.results:
            raise InputError("--results: none given; give at least one folder of results")


def as_method(config: MethodConfig, **changes: Any) -> MethodConfig:
    """The method's own settings out of a verb's configuration, with changes."""
    return MethodConfig(**{f.name: getattr(config, f.name) for f in fields(MethodConfig)} | changes)


def check_batch(size: int) -> None:
    """Raise InputError for a batch that holds nothing."""
    if size < 1:
        raise InputError(f"--batch-size {size}: must be at least 1")
