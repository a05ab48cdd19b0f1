"""Classification scores (spec section 5): precision, recall and F1 of each class, weighted by support as in Table 4.2."""

from collections.abc import Mapping, Sequence
from typing import SupportsFloat

from jaxtyping import Int
from torch import Tensor


def scores(
    predicted: Int[Tensor, "n"], target: Int[Tensor, "m"], classes: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Scores of class predictions.

    Args:
        predicted, target: places in `classes`.

    Returns:
        "weighted": precision, recall, f1, each the mean over classes weighted by their support, and accuracy (which equals
        the weighted recall). "macro": plain means over the classes that occur in `target` (Derm7pt has no AKIEC). One entry
        a class: precision, recall, f1, support; 0 where a ratio is 0/0.

    Raises:
        ValueError: no pictures, different lengths, or a place outside `classes`.
    """
    from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall

    if len(target) == 0 or predicted.shape != target.shape:
        raise ValueError(
            f"there are {len(predicted)} predictions for {len(target)} pictures; give one each, one or more"
        )
    for name, places in (("predicted", predicted), ("target", target)):
        if int(places.min()) < 0 or int(places.max()) >= len(classes):
            raise ValueError(f"{name} has a place outside 0..{len(classes) - 1}; give places in {', '.join(classes)}")
    count = max(2, len(classes))  # torchmetrics knows no single class; a second without support changes nothing
    measures = {"precision": multiclass_precision, "recall": multiclass_recall, "f1": multiclass_f1_score}
    each = {k: f(predicted, target, num_classes=count, average="none") for k, f in measures.items()}
    support = target.bincount(minlength=count)
    table: dict[str, dict[str, float | int]] = {
        name: {k: float(v[i]) for k, v in each.items()} | {"support": int(support[i])} for i, name in enumerate(classes)
    }
    weighted: dict[str, float | int] = {
        k: float(f(predicted, target, num_classes=count, average="weighted")) for k, f in measures.items()
    }
    weighted["accuracy"] = float((predicted == target).double().mean())
    present = [name for name in classes if table[name]["support"]]
    macro: dict[str, float | int] = {k: sum(table[name][k] for name in present) / len(present) for k in measures}
    return {"weighted": weighted, "macro": macro, **table}


def support_weighted(values: Mapping[str, SupportsFloat], support: Mapping[str, SupportsFloat]) -> float:
    """Mean of a score of each class, weighted by the number of its pictures.

    Raises:
        ValueError: other classes in one than in the other, or no pictures at all.
    """
    total = sum(float(n) for n in support.values())
    if values.keys() != support.keys() or not total > 0:
        raise ValueError(f"classes are {sorted(values)} and {sorted(support)}; give one value and one support for each")
    return sum(float(values[name]) * float(support[name]) for name in values) / total
