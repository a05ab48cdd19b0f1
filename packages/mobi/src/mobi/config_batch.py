"""Settings of `batch` and `demo`; the sentence under a field is its help text. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graft_common.errors import InputError
from graft_common.settings import ModelConfig
from mobi.config import CompositeConfig


@dataclass(frozen=True, kw_only=True)
class BatchConfig(CompositeConfig):
    """Edit a nuScenes data set by a list, into a derived data set whose labels fit the edits."""

    root: Path
    """Folder above v1.0-mini or v1.0-trainval; it is only read."""
    manifest: Path
    """CSV, a row for each picture to edit: sample, camera, task (insert, replace, remove, move), annotation, box, reference,
    category, attribute, seed. Several boxes a row: the cells' values separated by ";"."""
    version: str | None = None
    """Folder of tables; default the only one there is."""
    others: Literal["copy", "link", "none"] = "copy"
    """Files that no edit touches: copied, linked to the source (large data sets), or left out."""
    batch_size: int = 4
    """Samples whose boxes go through the network together."""
    resume: bool = False
    """Go on with a batch that was interrupted."""
    out: Path = Path("out/batch")
    """New or empty folder: the data set, edits.csv, edits/ (one folder a row), panel.png and run.json."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(ModelConfig):
    """Insert, replace, remove and turn objects in synthetic scenes; offline."""

    weights: str = "tiny-mobi"
    """Shipped name, or folder in Paint-by-Example's diffusers layout with joint.safetensors and range_vae.safetensors in it."""
    out: Path = Path("out/mobi")
    """Folder for panel.png, metrics.json, run.json and the edits."""
