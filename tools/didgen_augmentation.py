"""The downstream studies of `didgen_claims.py`: a judge trained on few real pictures, with and without synthetic ones.

"Real" are phantoms from seeds of their own, above all that the other claims use. Synthetic pairs are drawn by the verb `pairs`
on layouts that come from the few real training masks alone, turned, scaled, moved and bent: their owner has no others. Pairs
that carry a flag are left out, as `augment` does.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

TRAIN, VALID, TEST = 10_500_000, 10_600_000, 10_700_000  # first seeds
RARE_TRAIN, RARE_VALID, RARE_TEST, DRAWN = 10_800_000, 10_850_000, 10_900_000, 10_950_000
SIZE = 64
COLORS = ("brown", "black", "blue", "red")
RARE = "red"
WORDS = {"brown": "dark-brown", "black": "black", "blue": "blue-gray", "red": "red"}


@dataclass(frozen=True)
class StudySettings:
    """What the two studies share and how long they train."""

    real: int = 32
    """Real training pictures of the segmenter; it gets twice as many synthetic ones."""
    rare: int = 6
    """Real training pictures of the rare class (red lesions); synthetic ones bring it to `others`."""
    others: int = 40
    """Real training pictures of each of the other three classes."""
    tests: int = 96
    """Real test pictures, of the classifier in equal parts."""
    segmenter_steps: int = 400
    """Optimiser steps of the segmenter, 16 pictures each, in every arm."""
    classifier_steps: int = 100
    """Optimiser steps of the classifier, 16 pictures each, in every arm."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training of every arm for each."""

    def key(self) -> str:
        """Names a result: other settings, another key."""
        numbers = (self.real, self.rare, self.others, self.tests, self.segmenter_steps, self.classifier_steps)
        return "-".join(map(str, numbers)) + "-seeds-" + "-".join(map(str, self.seeds))


def segmenter_study(plan: StudySettings, weights: str, steps: int, batch: int, folder: Path) -> dict[str, Any]:
    """Dice of MONAI's U-Net trained on n real, n real + synthetic pairs, n real + classical augmentation.

    Args:
        weights, steps, batch: of `pairs`.
        folder: gets layouts/, pairs/ and, until all are trained, runs/.
    """
    from didgen.config_study import SegSettings
    from didgen.study import augmentation_study

    train, valid, test = real(TRAIN, plan.real), real(VALID, 16), real(TEST, plan.tests)
    masks = train.masks[:, 0].numpy()
    layouts = {f"{name}_{k}": deformed(masks[i], TRAIN + i, k) for i, name in enumerate(train.ids) for k in range(2)}
    made, told = pairs(layouts, None, weights, steps, batch, folder)
    epochs = max(1, plan.segmenter_steps // 20)
    settings = SegSettings(
        size=SIZE, widths=(16, 32, 64, 128), epochs=epochs, patience=epochs, steps_per_epoch=min(20, plan.segmenter_steps)
    )
    result = augmentation_study(train, valid, test, made, settings, folder=folder / "runs", seeds=plan.seeds)
    shutil.rmtree(folder / "runs")
    return result | told


def classifier_study(plan: StudySettings, weights: str, steps: int, batch: int, folder: Path) -> dict[str, Any]:
    """F1 of the rare class by ResNet18 on four lesion colours, where synthetic pictures bring the rare one to as many."""
    import torch

    from didgen.config import ModelConfig
    from didgen.config_study import ClsSettings
    from didgen.prompts import prompt_of
    from didgen.study import augmentation_study
    from didgen.weights import load_model

    counts = [plan.rare if color == RARE else plan.others for color in COLORS]
    train = real(RARE_TRAIN, sum(counts), [c for c, n in zip(COLORS, counts, strict=True) for _ in range(n)])
    valid, test = real(RARE_VALID, 24, COLORS * 6), real(RARE_TEST, plan.tests, COLORS * (plan.tests // len(COLORS)))
    own = train.take([i for i, label in enumerate(train.labels.tolist()) if COLORS[label] == RARE])
    masks, wanted = own.masks[:, 0].numpy(), plan.others - plan.rare
    chosen = [(i % len(own), i // len(own)) for i in range(wanted)]
    layouts = {f"{own.ids[i]}_{k}": deformed(masks[i], RARE_TRAIN + i, k) for i, k in chosen}
    seen = load_model(ModelConfig(weights=weights)).seen | {"colors": (WORDS[RARE],)}
    prompts = {name: prompt_of(mask, DRAWN + i, seen) for i, (name, mask) in enumerate(layouts.items())}
    made, told = pairs(layouts, prompts, weights, steps, batch, folder)
    made = replace(made, labels=torch.full((len(made),), COLORS.index(RARE)), classes=COLORS)
    epochs = max(1, plan.classifier_steps // 10)
    settings = ClsSettings(
        size=SIZE, batch_size=16, learning_rate=0.01, epochs=epochs, patience=epochs,
        steps_per_epoch=min(10, plan.classifier_steps),
    )  # fmt: skip
    sets = [replace(one, masks=None) for one in (train, valid, test, made)]
    result = augmentation_study(*sets, settings, folder=folder / "runs", seeds=plan.seeds, minority=[RARE])
    shutil.rmtree(folder / "runs")
    return result | told


def real(first: int, count: int, colors: Sequence[str] | None = None) -> Any:
    """`Samples` of phantoms from seed `first` on, with masks, and lesion colours as classes."""
    import torch

    from didgen.samples import Samples
    from graft_common import phantoms

    fixed = [{"color": color} for color in colors] if colors else [{}] * count
    items = [phantoms.draw("dermoscopy", SIZE, first + i, **one) for i, one in enumerate(fixed)]
    images = torch.from_numpy(np.stack([x.image for x in items])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([x.masks["lesion"] for x in items]))[:, None]
    ids = tuple(f"p{first + i}" for i in range(len(items)))
    if colors is None:
        return Samples(ids, images, masks)
    return Samples(ids, images, masks, torch.tensor([COLORS.index(c) for c in colors]), COLORS)


def deformed(mask: Bool[np.ndarray, "H W"], seed: int, number: int) -> Bool[np.ndarray, "H W"]:
    """Another lesion of the same kind: mirrored, turned by any angle, 0.8 to 1.25 times as wide, moved by up to 0.15 of the
    side and bent; wholly inside the picture. The mask itself, mirrored, where twenty tries do not fit."""
    rng, side = np.random.default_rng([88, seed, number]), min(mask.shape)
    rows, cols = np.nonzero(mask)
    middle = np.array([rows.mean(), cols.mean()])
    grid = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij")).astype(np.float64)
    for _ in range(20):
        angle, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
        turn = turn @ np.diag([1.0, rng.choice([-1.0, 1.0])])
        target = middle + rng.uniform(-0.15, 0.15, 2) * side
        bend = ndimage.gaussian_filter(rng.standard_normal((2, *mask.shape)), (0, side / 8, side / 8), mode="wrap")
        where = np.einsum("ij,jyx->iyx", turn, grid - target[:, None, None]) + middle[:, None, None]
        new = ndimage.map_coordinates(mask.astype(np.float64), where + bend * (0.02 * side / bend.std()), order=1) > 0.5
        rim = np.concatenate([new[0], new[-1], new[:, 0], new[:, -1]])
        if not rim.any() and 0.5 < new.sum() / mask.sum() / scale**2 < 1.5:
            return new
    return mask[:, ::-1].copy()


def pairs(
    layouts: dict[str, np.ndarray], prompts: dict[str, str] | None, weights: str, steps: int, batch: int, folder: Path
) -> tuple[Any, dict[str, Any]]:
    """`Samples` of what the verb `pairs` draws on these layouts, less flagged ones, and what there is to say of them."""
    from didgen.batch import PLAN, run_pairs
    from didgen.config import PairsConfig
    from didgen.dataset import ManifestDataset
    from didgen.generated import read_generated
    from didgen.samples import read_masks
    from didgen.write import mask_image
    from graft_common.raster import write_png

    for name, mask in layouts.items():
        write_png(folder / "layouts" / f"{name}.png", mask_image(mask), {})
    said = None
    if prompts is not None:
        said = folder / "prompts.jsonl"
        said.write_text("".join(json.dumps({"layout": k, "prompt": v}) + "\n" for k, v in prompts.items()), "utf-8")
    out = folder / "pairs"
    config = PairsConfig(
        layouts=folder / "layouts", prompts=said, out=out, weights=weights, steps=steps, batch_size=batch, seed=DRAWN,
        resume=(out / PLAN).exists(),
    )  # fmt: skip
    run_pairs(config, ["didgen_augmentation.py"])
    found = read_generated(out)
    kept = [row for row in found.rows if row.id not in found.flagged]
    told = {"drawn": len(found.rows), "flagged": len(found.flagged)}
    return read_masks(ManifestDataset(kept, SIZE, None, need_mask=True)), told


def study_rows(found: dict[str, dict[str, Any]]) -> list[str]:
    """Both tables of the README."""
    shown = {"augmentation, segmenter": ("U-Net", {"dice": "Dice", "iou": "IoU"}),
             "augmentation, classifier": ("ResNet18", {f"f1_{RARE}": f"F1 of {RARE}", "f1_macro": "macro F1"})}  # fmt: skip
    lines: list[str] = []
    for part, (judge, metrics) in shown.items():
        result = found[part]
        n, seeds = result["n"], [str(one["seed"]) for one in next(iter(result["trained"].values()))]
        head = (
            f"{judge}, {SIZE} px, seeds {', '.join(seeds)}, {n['test']} test pictures, {n['train']} real and "
            f"{n['synthetic']} synthetic training pictures ({result['flagged']} of {result['drawn']} flagged and left out)"
        )
        lines += ["", f"| {head} | {' | '.join(f'{m} | over n real, paired' for m in metrics.values())} |"]
        lines.append("|---" * (1 + 2 * len(metrics)) + "|")
        for arm, scores in result["metrics"].items():
            gains = result["gain"].get(arm, {})
            cells = [f"{interval(scores[m])} | {interval(gains[m], sign=True) if m in gains else ''}" for m in metrics]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        for answer, scores in result["trivial"].items():
            lines.append(f"| {answer} (trivial) | {' | '.join(f'{scores[m]:.3f} | ' for m in metrics)} |")
    return lines


def interval(summary: dict[str, Any], sign: bool = False) -> str:
    """mean [low, high]."""
    form = "{:+.3f}" if sign else "{:.3f}"
    mean, low, high = (form.format(v) for v in (summary["mean"], *summary["ci95"]))
    return f"{mean} [{low}, {high}]"
