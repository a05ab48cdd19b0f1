"""Intervals for the scores of `cls_metrics`: the same numbers from confusion tables, many tables at once."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64

from didgen.cls_metrics import scores
from didgen.scoring import Summary


def confusion(truth: Int64[np.ndarray, "n"], said: Int64[np.ndarray, "n"], classes: int) -> Int64[np.ndarray, "C C"]:
    """Pictures of true class i (row) that were called class j (column)."""
    return np.bincount(truth * classes + said, minlength=classes**2).reshape(classes, classes)


def class_scores(tables: Int64[np.ndarray, "*k C C"]) -> dict[str, Float[np.ndarray, "*k C"]]:
    """ "precision", "recall", "f1" of each class, 0 where a class is never called; NaN where it has no pictures."""
    hits = np.einsum("...ii->...i", tables).astype(np.float64)
    support, called = tables.sum(axis=-1), tables.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, hits / called, 0.0)
        recall = hits / support
        f1 = 2 * hits / (support + called)
    return {
        name: np.where(support > 0, value, np.nan) for name, value in (("precision", precision), ("recall", recall), ("f1", f1))
    }  # fmt: skip


def overall_scores(tables: Int64[np.ndarray, "*k C C"]) -> dict[str, Float[np.ndarray, "*k"]]:
    """ "precision", "recall", "f1" weighted by support, and "f1_macro" over the classes that have pictures.

    The weighted recall is the accuracy.
    """
    each, support = class_scores(tables), tables.sum(axis=-1)
    weights = support / support.sum(axis=-1, keepdims=True)
    out = {name: np.nansum(value * weights, axis=-1) for name, value in each.items()}
    out["f1_macro"] = np.nansum(each["f1"], axis=-1) / (support > 0).sum(axis=-1)
    return {name: np.asarray(value) for name, value in out.items()}


def summaries(
    truth: Int64[np.ndarray, "n"],
    said: Int64[np.ndarray, "n"],
    classes: Sequence[str],
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Summary]:
    """Weighted "precision", "recall" (the accuracy), "f1", then "f1_macro" and "f1_<class>" over classes with pictures,
    each with a 95 % percentile interval.

    Drawing n pictures with replacement is one multinomial draw from the confusion table's cells. A class that a draw leaves
    out has no F1 in it and does not count there.
    """
    table, n = confusion(truth, said, len(classes)), len(truth)
    point = scores(torch.from_numpy(said), torch.from_numpy(truth), classes)
    rng = np.random.default_rng([seed, 85])
    drawn = rng.multinomial(n, table.ravel() / n, size=resamples).reshape(resamples, *table.shape)
    values = {name: float(point["weighted"][name]) for name in ("precision", "recall", "f1")}
    values["f1_macro"] = float(point["macro"]["f1"])
    spread, out = overall_scores(drawn), dict[str, Summary]()
    for name, value in values.items():
        low, high = np.quantile(spread[name], [0.025, 0.975])
        out[name] = {"mean": value, "ci95": [float(low), float(high)], "n": n}
    many = class_scores(drawn)["f1"]
    for i, name in enumerate(classes):
        if support := int(table[i].sum()):
            low, high = np.nanquantile(many[:, i], [0.025, 0.975])
            out[f"f1_{name}"] = {"mean": float(point[name]["f1"]), "ci95": [float(low), float(high)], "n": support}
    return out
