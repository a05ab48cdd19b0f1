"""Does synthetic data help? One judge trained on n real, n real + synthetic, and n real + classical augmentation.

    result = augmentation_study(train, valid, test, synthetic, SegSettings(size=64, ...), folder=out / "runs")
    write_study(result, out)                                  # study.json, study.md
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from didgen.classifier import predict_classes, train_classifier
from didgen.cls_scores import class_scores, confusion, overall_scores
from didgen.config_study import Augmentation, ClsSettings, SegSettings
from didgen.learn import Learned
from didgen.samples import Samples
from didgen.scoring import Summary, grid_bootstrap
from didgen.seg_metrics import overlap, trivial_masks
from didgen.segmenter import predict_masks, train_segmenter
from graft_common.console import write_json
from graft_common.device import pick_device
from graft_common.files import write_text
from graft_common.markdown import table

REAL, SYNTHETIC, CLASSICAL = "n real", "n real + synthetic", "n real + classical"
ARMS = (REAL, SYNTHETIC, CLASSICAL)
MAJORITY, RAREST = "majority class", "rarest class"
Rows = Int64[np.ndarray, "_"]  # each set of rows has a length of its own


def augmentation_study(
    real_train: Samples,
    real_valid: Samples,
    real_test: Samples,
    synthetic: Samples,
    settings: SegSettings | ClsSettings,
    *,
    folder: Path,
    seeds: Sequence[int] = (0, 1, 2),
    minority: Sequence[str] | None = None,
    resamples: int = 2000,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Train the judge of `settings` once per arm and seed, and score every one on the real test pictures.

    Every arm takes as many optimiser steps between two validations as n real alone would (unless `steps_per_epoch` says
    otherwise), with the same early stopping: an arm is not better because it trained longer. Finished and half-finished trainings
    in `folder` are gone on with.

    Args:
        real_train, real_valid, real_test, synthetic: with masks for `SegSettings`, with labels of the same classes for
            `ClsSettings`; `synthetic` joins the training pictures only.
        folder: one sub-folder a training (arm number and seed).
        minority: classes whose mean F1 is asked for; default all but the most frequent one of `real_train` (the paper's).
        resamples: of the bootstrap.
        advance: called with 1 after each of the len(seeds) * 3 trainings.

    Returns:
        JSON values: "task", "n", "metrics": arm -> metric -> {"mean", "ci95", "n"} with the intervals of
        `grid_bootstrap` over trainings and test pictures; "gain": arm -> metric -> the same for arm less n real on the
        same pictures; "seeds": arm -> metric -> one number a seed; "trivial": answer -> metric -> number; "trained".

    Raises:
        ValueError: sets that do not fit together, or no seeds.
        InputError: settings that cannot work.
    """
    if not seeds:
        raise ValueError("seeds is empty; give at least one")
    settings.check()
    batch = min(settings.batch_size, len(real_train))
    steps = settings.steps_per_epoch or math.ceil(len(real_train) / batch)
    plans: dict[str, tuple[Samples, Augmentation]] = {
        REAL: (real_train, "none"),
        SYNTHETIC: (real_train.joined(synthetic), "none"),
        CLASSICAL: (real_train, "classical"),
    }
    answers: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    trained: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        for number, (arm, (train, augmentation)) in enumerate(plans.items()):
            own = replace(settings, seed=seed, augmentation=augmentation, steps_per_epoch=steps)
            answer, learned = _one(train, real_valid, real_test, own, folder / f"arm{number}-seed{seed}")
            answers[arm].append(answer)
            trained[arm].append(
                {"seed": seed, "epochs": len(learned.history), "best": learned.best_epoch, "ended": learned.ended}
            )
            advance(1)
    grids = {arm: np.stack(rows) for arm, rows in answers.items()}
    if isinstance(settings, SegSettings):
        scored = _segmentation(grids, real_test, resamples)
    else:
        scored = _classification(grids, real_train, real_test, minority, resamples)
    sizes = {"train": len(real_train), "validation": len(real_valid), "test": len(real_test), "synthetic": len(synthetic)}
    return {
        "task": "segmentation" if isinstance(settings, SegSettings) else "classification",
        "network": settings.network, "size": settings.size, "steps_per_epoch": steps, "n": sizes, **scored, "trained": trained,
    }  # fmt: skip


def study_table(result: dict[str, Any]) -> str:
    """The result as markdown: each arm, its gain over n real, and the trivial answers."""
    rows: dict[str, dict[str, Summary]] = dict(result["metrics"])
    for arm, gains in result["gain"].items():
        rows[f"{arm}, less {REAL}"] = gains
    for name, scores in result["trivial"].items():
        rows[name] = {k: {"mean": v, "ci95": [v, v], "n": result["n"]["test"]} for k, v in scores.items()}
    return table(rows, "trained on")


def write_study(result: dict[str, Any], out: Path) -> list[str]:
    """study.json and study.md in `out`; returns their names."""
    write_json(out / "study.json", result)
    write_text(out / "study.md", study_table(result))
    return ["study.json", "study.md"]


def _one(
    train: Samples, valid: Samples, test: Samples, settings: SegSettings | ClsSettings, folder: Path
) -> tuple[np.ndarray, Learned]:
    """One training's answers on the test pictures: (n, 2) Dice and IoU, or (n,) class numbers."""
    device = pick_device(settings.device)
    if isinstance(settings, SegSettings):
        segmenter, learned = train_segmenter(train, valid, settings, folder, resume=True)
        assert test.masks is not None
        scores = overlap(predict_masks(segmenter, test.images, device, settings.batch_size), test.masks)
        return np.stack([scores["dice"], scores["iou"]], axis=1), learned
    classifier, learned = train_classifier(train, valid, settings, folder, resume=True)
    return predict_classes(classifier, test.images, device, settings.batch_size).argmax(dim=1).numpy(), learned


def _segmentation(grids: dict[str, Float[np.ndarray, "s n 2"]], test: Samples, resamples: int) -> dict[str, Any]:
    """Mean Dice and IoU over trainings and pictures."""
    assert test.masks is not None

    def scores(grid: Float[np.ndarray, "s n 2"], pictures: Rows) -> dict[str, float]:
        dice, iou = grid.mean(axis=(0, 1)).tolist()
        return {"dice": dice, "iou": iou}

    guesses = {name: overlap(said, test.masks) for name, said in trivial_masks(test.masks).items()}
    trivial = {name: {m: float(v.mean()) for m, v in answer.items()} for name, answer in guesses.items()}
    return _compared(grids, scores, resamples) | {"trivial": trivial}


def _classification(
    grids: dict[str, Int64[np.ndarray, "s n"]],
    train: Samples,
    test: Samples,
    minority: Sequence[str] | None,
    resamples: int,
) -> dict[str, Any]:
    """F1 of each training's confusion table, mean over trainings."""
    assert train.labels is not None and test.labels is not None
    if test.classes != train.classes:
        raise ValueError(f"test classes are {test.classes} but training classes {train.classes}; read them alike")
    truth, classes = test.labels.numpy(), train.classes
    counts = np.bincount(train.labels.numpy(), minlength=len(classes))
    frequent, rarest = int(counts.argmax()), int(counts.argmin())
    rare = [i for i in range(len(classes)) if i != frequent]
    if minority is not None:
        if unknown := sorted(set(minority) - set(classes)):
            raise ValueError(f"minority has {unknown[0]!r} but the classes are {', '.join(classes)}")
        rare = [classes.index(name) for name in minority]
    shown = [i for i in range(len(classes)) if (truth == i).any()]

    def scores(grid: Int64[np.ndarray, "s n"], pictures: Rows) -> dict[str, float]:
        made = np.stack([confusion(truth[pictures], row, len(classes)) for row in grid])
        each, overall = class_scores(made)["f1"], overall_scores(made)
        means = {"f1_minority": _mean(each[:, rare]), "f1": _mean(overall["f1"]), "f1_macro": _mean(overall["f1_macro"])}
        return means | {"accuracy": _mean(overall["recall"])} | {f"f1_{classes[i]}": _mean(each[:, i]) for i in shown}

    def always(answer: int) -> dict[str, float]:
        return scores(np.full((1, len(truth)), answer), np.arange(len(truth)))

    trivial = {MAJORITY: always(frequent), RAREST: always(rarest)}
    return _compared(grids, scores, resamples) | {"trivial": trivial, "minority": [classes[i] for i in rare]}


def _mean(values: Float[np.ndarray, "..."]) -> float:
    """Mean of what is there: a class without pictures has no F1."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _compared(
    grids: dict[str, np.ndarray], scores: Callable[[np.ndarray, Rows], dict[str, float]], resamples: int
) -> dict[str, dict[str, Any]]:
    """Every metric of every arm, and its gain over n real, from one resampling of trainings and pictures for all."""
    seeds, items = grids[REAL].shape[:2]

    def both(trainings: Rows, pictures: Rows) -> dict[str, float]:
        out: dict[str, float] = {}
        for arm, grid in grids.items():
            for name, value in scores(grid[trainings][:, pictures], pictures).items():
                out[f"{arm}|{name}"] = value
                if arm != REAL:
                    out[f"{arm}|{name}|gain"] = value - out[f"{REAL}|{name}"]
        return out

    result: dict[str, dict[str, Any]] = {"metrics": {a: {} for a in grids}, "gain": {a: {} for a in grids if a != REAL}}
    for key, summary in grid_bootstrap(both, seeds, items, resamples).items():
        arm, name, *gain = key.split("|")
        result["gain" if gain else "metrics"][arm][name] = summary
    everything = np.arange(items)
    each = {arm: [scores(grid[[s]], everything) for s in range(seeds)] for arm, grid in grids.items()}
    result["seeds"] = {arm: {name: [one[name] for one in many] for name in many[0]} for arm, many in each.items()}
    return result
