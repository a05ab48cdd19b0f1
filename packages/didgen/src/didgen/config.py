"""One flat frozen dataclass per verb that runs the network; the sentence under a field is its help text."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from graft_common import settings
from graft_common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ModelConfig(settings.ModelConfig):
    """Where the network comes from and where it runs."""

    weights: str = "tiny-didgen"
    """Shipped name, folder that `graft-didgen train` wrote, or hub id (fetched only when named)."""
    compile: bool = False
    """Compile the network for the plain steps; steps that record maps run it as it is."""
    seed: int = 0
    """Seed of the first picture; picture i uses seed + i, whatever the batch."""


@dataclass(frozen=True, kw_only=True)
class DrawConfig(ModelConfig):
    """How a picture is sampled."""

    steps: int = 50
    """T, DDIM steps."""
    guidance: float = 7.5
    """Classifier-free guidance scale."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; default the bundle's own size, with the aspect of the layout or picture where there is one."""
    batch_size: int = 8
    """Pictures in one pass through the network."""

    def check(self) -> None:
        super().check()
        if self.steps < 1:
            raise InputError(f"--steps {self.steps}: must be at least 1")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise InputError(f"--guidance {self.guidance}: must be a finite number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class LayoutConfig(DrawConfig):
    """How a layout steers (spec 2.5) and how the mask is read (spec 2.6); pixel constants are at 512 px and scale."""

    eta: float | None = None
    """Step size of the layout's gradient; 0 is plain sampling. Default: the bundle's own (guidance.json), else 20."""
    share: float = 0.5
    """Share of the steps, the first ones, that are guided."""
    cross_loss: bool = True
    """Use L_CA (eq. 4.8)."""
    self_loss: bool = True
    """Use L_SA (eq. 4.9)."""
    axis: Literal["tokens", "ptokens"] = "tokens"
    """Softmax of eq. 4.7 over all tokens of the prompt, or over the two placeholder tokens only."""
    sa_norm: Literal["sum", "mean_row"] = "sum"
    """L_SA over the sum of the background (eq. 4.9) or as mean over the lesion's cells (attention refocusing)."""
    decay: bool = False
    """Let the step size fall by sqrt(linspace(1, 0.5)), as BoxDiff does."""
    power: int = 4
    """tau, matrix power of the self-attention in the mask annotation (eq. 4.11)."""

    def check(self) -> None:
        super().check()
        if self.eta is not None and not (math.isfinite(self.eta) and self.eta >= 0):
            raise InputError(f"--eta {self.eta}: must be a finite number, 0 or more")
        if not 0 <= self.share <= 1:
            raise InputError(f"--share {self.share}: must be from 0 to 1")
        if self.power < 1:
            raise InputError(f"--power {self.power}: must be at least 1")
        if not (self.cross_loss or self.self_loss) and self.eta != 0:
            raise InputError("--no-cross-loss --no-self-loss: nothing is left to guide with; give --eta 0 for that")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(DrawConfig):
    """Draw pictures from a prompt, without a layout or a mask."""

    prompt: str | None = None
    """Full prompt; default an example of the schema, drawn from the seed."""
    attributes: Path | None = None
    """JSON file with one object of attributes or a list of them, instead of a prompt."""
    n: int = 4
    """Pictures a prompt."""
    vary: bool = False
    """Draw new attributes around those given for every picture after the first (prompt variation)."""
    out: Path = Path("out/sample")
    """Folder for the pictures, samples.jsonl, panel.png and run.json."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig(LayoutConfig):
    """Draw one picture with its lesion mask per layout mask."""

    layouts: Path
    """Folder of layout masks: the brighter of two levels is lesion, several lesions are fine. --size squeezes them into it."""
    prompts: Path | None = None
    """JSON Lines with `layout` (file stem) and `prompt`; default rendered from the layout, colour and skin from the seed."""
    out: Path = Path("out/pairs")
    """Folder for image/, mask/, meta.jsonl, panel.png and run.json."""
    resume: bool = False
    """Go on where an interrupted run stopped, with its groups."""


@dataclass(frozen=True, kw_only=True)
class BoxConfig(DrawConfig):
    """Draw pictures whose lesion fills a box (BoxDiff's losses on the fine-tuned network)."""

    box: str = "0.25,0.25,0.75,0.75"
    """Box of the lesion as x1,y1,x2,y2, in shares of width and height."""
    prompt: str | None = None
    """Full prompt; default rendered from the box's size and place, colour and skin from the seed."""
    n: int = 4
    """Pictures."""
    strength: float | None = None
    """Step size at the first step; it falls by sqrt(linspace(1, 0.5)). Default: the bundle's own, else 20."""
    share: float = 0.5
    """Share of the steps, the first ones, that are guided."""
    out: Path = Path("out/box")
    """Folder for the pictures, labels (YOLO text and COCO JSON), panel.png and run.json."""

    def check(self) -> None:
        super().check()
        if self.n < 1:
            raise InputError(f"--n {self.n}: must be at least 1")
        if not 0 <= self.share <= 1:
            raise InputError(f"--share {self.share}: must be from 0 to 1")
        if self.strength is not None and not (math.isfinite(self.strength) and self.strength >= 0):
            raise InputError(f"--strength {self.strength}: must be a finite number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class EditConfig(DrawConfig):
    """Change a real picture by its words: null-text inversion and prompt-to-prompt."""

    image: Path
    """Picture to edit: PNG, JPEG or TIFF."""
    source: str
    """Prompt that describes it."""
    target: str
    """Prompt that describes what is wanted; shared words keep their attention."""
    mask: Path | None = None
    """Mask of the lesion; only it changes. Default: the <lesion> map above 0.3 of its maximum."""
    cross_share: float = 0.8
    """Share of the steps, the first ones, in which shared words keep the source's cross-attention."""
    self_share: float = 0.5
    """Share of the steps in which self-attention up to 16 cells is the source's."""
    iterations: int = 10
    """Updates of the null text in each step; 0 leaves it empty."""
    blend: bool = True
    """Keep everything outside the lesion as the source has it."""
    inversion: Path | None = None
    """inversion.safetensors of an earlier edit of this picture with the same settings; skips the slow part."""
    out: Path = Path("out/edit")
    """Folder for edited.png, reconstruction.png, inversion.safetensors, panel.png and run.json."""

    def check(self) -> None:
        super().check()
        for flag, value in (("--cross-share", self.cross_share), ("--self-share", self.self_share)):
            if not 0 <= value <= 1:
                raise InputError(f"{flag} {value}: must be from 0 to 1")
        if self.iterations < 0:
            raise InputError(f"--iterations {self.iterations}: must be 0 or more")
        if self.mask is not None and not self.blend:
            raise InputError("--mask with --no-blend: a mask only says where to blend; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fine-tune a text-to-image model on image-mask pairs with captions, with the region-aware loss (spec 2.4)."""

    manifest: tyro.conf.Positional[Path]
    """JSON Lines from `prepare` or `caption`: rows with image, mask and prompt."""
    weights: str = "tiny-sd"
    """Model to start from: shipped name, folder in diffusers layout, or hub id (Stable Diffusion 2.1-base in the paper)."""
    out: Path = Path("runs/didgen")
    """Folder for the checkpoint, the log and, when done, `bundle/`, which --weights of the other verbs takes."""
    steps: int = 20_000
    """Optimiser steps."""
    batch_size: int = 4
    """Pictures per step."""
    learning_rate: float = 1e-5
    """Peak rate of AdamW."""
    lora_rank: int = 0
    """Rank of LoRA on attention, feed-forward and convolutions; 0 trains the whole UNet."""
    alpha: float = 0.1
    """Weight of the region-aware loss; 0 is plain fine-tuning, bit for bit."""
    normalise: Literal["none", "max", "ptokens"] = "none"
    """Maps as probabilities (eq. 4.5), divided by their maximum, or softmax over the two placeholders."""
    init: Literal["mean", "first", "last"] = "mean"
    """How a word of several pieces initialises its placeholder token."""
    drop: float = 0.1
    """Share of the captions that are emptied, so that guidance works."""
    noise_offset: float = 0.0
    """Standard deviation of extra noise that a whole latent channel shares, so that words, not noise, give the overall tone."""
    snr_gamma: float | None = None
    """Clamp of the min-SNR weights over time (5 is usual); default all times weigh alike, as in the paper."""
    flips: bool = False
    """Mirror picture and mask together; captions that name a side are mirrored too."""
    size: int | None = None
    """Side of the square training pictures; default the model's own."""
    warmup: int = 0
    """Steps over which the rate rises."""
    decay: float = 0.0
    """Share of the steps, at the end, over which the rate falls to zero."""
    ema: float = 0.0
    """Decay of the averaged weights; 0 keeps the last ones."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains; auto takes a GPU when there is one."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; auto is bf16 on a GPU and none on the CPU."""
    seed: int = 0
    """Seed of everything that is drawn."""
    resume: bool = False
    """Go on from the checkpoint in --out."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        least = {"--steps": self.steps, "--batch-size": self.batch_size}
        for flag, value in least.items():
            if value < 1:
                raise InputError(f"{flag} {value}: must be at least 1")
        none = {"--lora-rank": self.lora_rank, "--seed": self.seed, "--warmup": self.warmup}
        for flag, value in none.items():
            if value < 0:
                raise InputError(f"{flag} {value}: must be 0 or more")
        if self.size is not None and self.size < 1:
            raise InputError(f"--size {self.size}: must be a number of pixels")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning-rate {self.learning_rate}: must be above 0")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise InputError(f"--alpha {self.alpha}: must be 0 or more")
        if not (math.isfinite(self.noise_offset) and self.noise_offset >= 0):
            raise InputError(f"--noise-offset {self.noise_offset}: must be 0 or more")
        if self.snr_gamma is not None and not (math.isfinite(self.snr_gamma) and self.snr_gamma > 0):
            raise InputError(f"--snr-gamma {self.snr_gamma}: must be above 0")
        for flag, part in (("--drop", self.drop), ("--decay", self.decay), ("--ema", self.ema)):
            if not 0 <= part < 1:
                raise InputError(f"{flag} {part}: must be from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(ModelConfig):
    """Text, layouts, a box and an edit on the shipped weights; offline."""

    out: Path = Path("out/didgen")
    """Folder for panel.png, metrics.json, run.json and the raw outputs."""
