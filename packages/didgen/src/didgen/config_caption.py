"""Configuration of the verb `caption`; the sentence under a field is its help text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from didgen.attributes import BUDGET
from graft_common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Say in DermPrompt's words what pictures show: measured from image and mask, or by a vision-language model."""

    images: tyro.conf.Positional[Path]
    """Folder of pictures, or manifest.jsonl from prepare, whose masks and classes are used."""
    masks: Path | None = None
    """Folder of lesion masks, named as the pictures or with _segmentation, _lesion or _mask after it; default found by colour."""
    classes: Path | None = None
    """CSV with image and MEL,NV,BCC,AKIEC,BKL,DF,VASC (ISIC), or image_id and dx (HAM10000); the class is said in the prompt."""
    captioner: str = "measure"
    """measure, or folder or hub id of a transformers image-text-to-text model (fetched only when named)."""
    bubbles: bool = False
    """Look for gel bubbles too."""
    weights: str = "tiny-sd"
    """Shipped name, folder or hub id whose tokenizer counts the prompt's tokens."""
    budget: int = BUDGET
    """Tokens that may follow the prompt's prefix; optional fields are left out first."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the vision-language model runs; auto takes a GPU when there is one."""
    skip: bool = False
    """Leave out pictures that cannot be captioned, and count them, instead of stopping."""
    out: Path = Path("out/caption")
    """Folder for captions.jsonl, manifest.jsonl (which train takes) and run.json."""
    resume: bool = False
    """Go on where an interrupted run stopped."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if not 1 <= self.budget <= BUDGET:
            raise InputError(f"--budget {self.budget}: must be from 1 to {BUDGET}, what the text encoder has room for")
        if not self.captioner:
            raise InputError("--captioner '': give measure, a folder or a hub id")
