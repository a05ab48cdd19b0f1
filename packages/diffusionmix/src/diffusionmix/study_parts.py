"""What a study measures: its settings, and one number an item and metric for a batch of merged pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffusionmix.baselines import NAMES, OURS, Batch, draw
from diffusionmix.config import MergeConfig
from diffusionmix.config_study import StudyConfig
from diffusionmix.object_metrics import mask_iou
from diffusionmix.records import Merged, Mix
from diffusionmix.seam import Truths, contrast, difference_mask, harmony, masked_l1, seam_score
from diffusionmix.truth import TruePictures
from graft_common.console import Run

METRICS = ("harmony", "seam", "log_seam", "contrast", "l1", "iou", "area")
TRUE = "true pictures"
Columns = dict[str, list[float | None]]


@dataclass(frozen=True)
class Cell:
    """One row of the table: a named setting.

    Attributes:
        name: unique in its part.
        settings: as `merge` takes them.
        baseline: which of `baselines.NAMES` draws it.
        covers: (tau, r) pairs of the grid that come to the same schedule and share this row.
    """

    name: str
    settings: MergeConfig
    baseline: str = OURS
    covers: tuple[tuple[int, int], ...] = ()


def cells(part: str, config: StudyConfig) -> list[Cell]:
    """The rows of a part. Grid settings that come to the same schedule are one row; those with many climbs come first, because
    those with fewer are their beginnings and cost nothing after them."""
    shared: dict[str, Any] = {"device": config.device, "dtype": config.dtype}
    base = MergeConfig(sampler=config.sampler, steps=config.steps, **shared)
    if part == "samplers":
        return [Cell(name, MergeConfig(sampler=name, **shared)) for name in config.samplers]
    if part == "baselines":
        return [Cell(name, base, name) for name in NAMES]
    from diffusionmix.schedule import plan

    found: dict[tuple[Any, ...], Cell] = {}
    for start in sorted(config.start):
        for tau in config.tau:
            for r in sorted(config.r, reverse=True):
                steps = plan(base.states, tau, None, r, start)
                key = (start, steps.tau, steps.r)
                if key in found:
                    found[key] = replace(found[key], covers=(*found[key].covers, (tau, r)))
                    continue
                settings = replace(base, tau=tau, r=r, start=start)
                found[key] = Cell(f"start {start:g} climb {steps.tau} r {steps.r}", settings, covers=((tau, r),))
    return list(found.values())


@dataclass(frozen=True, eq=False)
class Setup:
    """One pair of models with its true pictures.

    Attributes:
        mix: the networks (remembering).
        against: measured true pictures.
        lent: pictures that lend their boxes and classes, one for each seed.
        first: seed of the first.
    """

    mix: Mix
    against: Truths
    lent: TruePictures
    first: int

    def batch(self, rows: range, settings: MergeConfig) -> Batch:
        """Same-seed backgrounds and unmerged objects of some items, by the sampler of `settings`."""
        from diffusionmix.compose import sample_backgrounds, sample_objects
        from diffusionmix.crop import cut

        seeds = [self.first + i for i in rows]
        labels = [self.mix.classes.index(str(self.lent.labels[i])) for i in rows] if self.mix.classes else None
        size = self.mix.object_size
        cuts = [cut(self.lent.images[i], self.lent.masks[i], self.lent.boxes[i], size) for i in rows]
        backgrounds = sample_backgrounds(self.mix, seeds, settings)
        objects = sample_objects(self.mix, seeds, labels, settings)
        boxes = [self.lent.boxes[i] for i in rows]
        return Batch(self.mix, boxes, seeds, labels, settings, backgrounds, objects, cuts)


def measure_batch(cell: Cell, setup: Setup, rows: range, references: Batch) -> tuple[Columns, list[Merged]]:
    """Draw a batch of a cell and measure it.

    Args:
        references: of the cell's sampler.
    """
    merged = draw(cell.baseline, replace(references, settings=cell.settings))
    columns: Columns = {name: [] for name in (*METRICS, "calls")}
    for k, (i, item) in enumerate(zip(rows, merged, strict=True)):
        values = measure(
            item.image, item.mask, references.backgrounds[k], setup.lent.labels[i], setup.against,
            (item.object, references.objects[k][0], item.object_mask),
        )  # fmt: skip
        for name in METRICS:
            columns[name].append(values.get(name))
        columns["calls"].append(float(item.calls))
    return columns, merged


def measure_true(setup: Setup, rows: range) -> Columns:
    """The same numbers of true pictures, which no model has drawn: what harmony and contrast can be at best."""
    columns: Columns = {name: [] for name in (*METRICS, "calls")}
    for i in rows:
        bare = None if setup.lent.empties is None else setup.lent.empties[i]
        values = measure(setup.lent.images[i], setup.lent.masks[i], bare, setup.lent.labels[i], setup.against, None)
        for name in METRICS:
            columns[name].append(values.get(name))
        columns["calls"].append(0.0)
    return columns


def measure(
    image: np.ndarray,
    mask: np.ndarray,
    background: np.ndarray | None,
    label: str | None,
    against: Truths,
    unmerged: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
) -> Mapping[str, float]:
    """Numbers of one picture; what an empty mask, or unknown references, leave undefined is left out.

    Args:
        background: the picture of the same seed without the object.
        unmerged: (final object, the object chain's own sample, final object mask).
    """
    out: dict[str, float] = {"area": float(mask.mean())}
    if background is not None:
        out["iou"] = mask_iou(mask, difference_mask(image, background)) if mask.any() else 0.0  # an object was asked for
    try:
        seam = seam_score(image, mask)
    except ValueError:  # an empty mask, or one that leaves no surroundings
        return out
    truth, strength = against.match(label, float(mask.sum()))
    out |= {"seam": seam, "log_seam": float(np.log(seam / truth)), "harmony": harmony(seam, truth)}
    if background is not None and strength:
        out["contrast"] = contrast(image, background, mask) / strength
    if unmerged is not None and unmerged[2].any():
        out["l1"] = masked_l1(*unmerged)
    return out


def joined(parts: Sequence[Columns]) -> Columns:
    """Batches one after the other."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def setup_of(index: int, config: StudyConfig, n: int, run: Run) -> Setup:
    """Load one of --weights and its truth."""
    from diffusionmix.config import ModelConfig
    from diffusionmix.remember import remembering
    from diffusionmix.truth import true_pictures
    from diffusionmix.weights import load_mix

    weights = config.weights[index]
    models = ModelConfig(weights=weights, device=config.device, dtype=config.dtype, compile=config.compile)
    mix = remembering(load_mix(models))
    against, lent = true_pictures(config.truth[index], mix.classes, mix.background_size, n, config.truths, config.seed)
    run.weights |= {f"name_{index}": mix.name, f"sha256_{index}": mix.sha256}
    return Setup(mix, against.measured(), lent, config.seed)
