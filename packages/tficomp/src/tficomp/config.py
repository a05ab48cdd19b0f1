"""One flat frozen dataclass per verb; the sentence under a field is its help text."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from graft_common import settings
from graft_common.errors import InputError

Paths = tyro.conf.UseAppendAction[tuple[Path, ...]]
METHODS = ("copy-paste", "poisson", "vae", "sdedit", "bld", "tficon")
BaselineName = Literal["copy-paste", "poisson", "vae", "sdedit", "bld", "tficon"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(settings.ModelConfig):
    """Where the network comes from and where it runs."""

    seed: int = 0
    """Seed of everything that is drawn (placement, variants); compose without those draws nothing."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig(ModelConfig):
    """The method's own settings; pixel constants are at 512 px and scale with the working size."""

    steps: int = 20
    """T, solver steps from noise to clean."""
    t_start: int | None = None
    """T', steps still to go when composing starts; default 0.30 T, at least 1."""
    tau: int | None = None
    """Background rectification bound; default 0.15 T. Its meaning is set by --tau-mode."""
    tau_mode: Literal["level", "count"] = "level"
    """level: rectify while at least tau steps are to go (eq. 9); count: rectify the first tau updates."""
    guidance: float = 5.0
    """Classifier-free guidance scale of the composing steps."""
    memory: Literal["restart", "carry"] = "restart"
    """Solver memory where composing starts: an order-1 step, or the two runs' memories blended like their states."""
    rectify: Literal["before", "after"] = "before"
    """Rectify the state before the network sees it, or after (as TF-ICON)."""
    states: Literal["reconstruct", "inversion"] = "reconstruct"
    """Background and object states from sampling back, or straight from the inversion (fewer network calls)."""
    fit: Literal["fit", "tficon"] = "fit"
    """fit: the lesion's box is contained in the user's; tficon: the long side of the whole object image fills it."""
    canvas: Literal["black", "background"] = "black"
    """What surrounds the object before it is encoded."""
    mask_mode: Literal["area", "stride"] = "area"
    """Masks on the latent grid by area, or every 8th pixel as TF-ICON (may lose thin lesions)."""
    grid: Literal["time", "integer", "lambda"] = "time"
    """Solver nodes: uniform fractional time, diffusers' integers, or uniform log-SNR."""
    order: Literal[1, 2] = 2
    """Solver order."""
    margin: float = 0.08
    """Margin around the lesion's box that is taken along, as a share of its long side."""
    size: int | None = None
    """Working size in pixels, a multiple of the VAE's factor (8 for Stable Diffusion); default the bundle's own."""
    context: float = 3.0
    """Side of the square that the network sees, in long sides of the user's box; never fewer pixels than the working size,
    0 is the whole image."""
    paste_back: bool = False
    """Outside the user mask as given, keep the background's bytes; feathered inside. Always on for DICOM, NIfTI and 16-bit."""

    @property
    def start(self) -> int:
        """T' in use."""
        return max(1, half_up(0.30 * self.steps)) if self.t_start is None else self.t_start

    @property
    def lowest_rectified(self) -> int:
        """Smallest k whose state is rectified (spec 2.7 B); above T' - 1 means never."""
        tau = half_up(0.15 * self.steps) if self.tau is None else self.tau
        return min(tau, self.start) if self.tau_mode == "level" else max(self.start - tau, 0)

    def check(self) -> None:
        super().check()
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")
        if self.t_start is not None and not 0 <= self.t_start <= self.steps:
            raise InputError(f"--t-start {self.t_start}: must be from 0 to --steps {self.steps}")
        if self.tau is not None and not 0 <= self.tau <= self.start:
            raise InputError(f"--tau {self.tau}: must be from 0 to T' = {self.start}; lower it or raise --t-start")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise InputError(f"--guidance {self.guidance}: must be a finite number, 0 or more")
        if not 0 <= self.margin <= 1:
            raise InputError(f"--margin {self.margin}: must be from 0 to 1")
        if not (math.isfinite(self.context) and self.context >= 0):
            raise InputError(f"--context {self.context}: must be 0 (whole image) or a positive factor")
        if self.memory == "carry" and self.states == "inversion":
            raise InputError("--memory carry: needs --states reconstruct, the inversion keeps no solver memory")


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(MethodConfig):
    """Blend the lesion of one image into another."""

    background: Path
    """Tumour-free image: PNG, JPEG, TIFF, DICOM or NIfTI."""
    object: Paths
    """Image with a lesion; repeat for several lesions, later over earlier."""
    object_mask: Paths
    """Mask of that lesion (grey level above 127); once per --object."""
    user_mask: Paths = ()
    """Mask or box on the background that says where it goes; once per --object, or none for a place in tissue."""
    prompt: str
    """What the result shows, e.g. "An MRI scan of a cancerous brain"."""
    out: Path = Path("out/compose")
    """Folder for result.png, copy_paste.png, lesion_mask.png, panel.png and run.json."""
    variants: int = 0
    """Draw this many variants (posterior samples and jittered placement), one seed each from --seed upward."""
    window: tuple[float, float] | None = None
    """Centre and width for DICOM, NIfTI and 16-bit files without a window of their own."""
    slice: int | None = None
    """Slice or frame of a background with several, from 0."""
    fit_mask: bool = False
    """Resize a mask whose size differs from its image when the aspects agree within 5 %."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(MethodConfig):
    """Compose every sample of a manifest."""

    manifest: tyro.conf.Positional[Path]
    """JSON or CSV from prepare, or a folder in TF-ICON's layout."""
    out: Path = Path("out/batch")
    """Folder with one sub-folder a sample, named by its id."""
    batch_size: int = 8
    """Samples in one pass through the network."""
    resume: bool = False
    """Go on where an interrupted batch stopped, with its groups."""
    fit_mask: bool = False
    """Resize masks whose size differs when the aspects agree within 5 %; always on for TF-ICON folders."""
    export: Literal["none", "coco", "yolo"] = "none"
    """Also write the data set's labels as COCO JSON or YOLO text."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Pair backgrounds and lesions of Br35H or BUSI into a manifest."""

    root: tyro.conf.Positional[Path]
    """Root of a Br35H or BUSI tree (or of a phantom one)."""
    out: Path = Path("out/samples")
    """Folder for manifest.json and the samples' files."""
    dataset: Literal["auto", "br35h", "busi"] = "auto"
    """Layout of the tree; auto looks at its folders."""
    n: int = 64
    """Samples to pair."""
    seed: int = 0
    """Seed of pairing and placement; sample i keeps seed + i in the manifest."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Write a small synthetic data set in the layout of Br35H or BUSI."""

    folder: tyro.conf.Positional[Path]
    """Folder to write."""
    layout: Literal["br35h", "busi"] = "br35h"
    """Whose layout."""
    n: int = 12
    """Pictures a class."""
    seed: int = 0
    """Seed of the first picture."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Say what is wrong with my data, before an hour of work."""

    folder: tyro.conf.Positional[Path]
    """Manifest, TF-ICON folder, or Br35H or BUSI tree."""
    weights: str = "tiny-sd"
    """The weights to be used later: their VAE's factor and size decide which boxes are too small."""
    json: bool = False
    """Print the findings as one JSON line on stdout."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig(ModelConfig):
    """Compose four lesions, three into phantoms and one into a real MR slice, on the shipped weights; offline."""

    out: Path = Path("out/tficomp")
    """Folder for panel.png, metrics.json, run.json and the raw outputs."""


def half_up(value: float) -> int:
    """Nearest integer, halves up."""
    return math.floor(value + 0.5)
