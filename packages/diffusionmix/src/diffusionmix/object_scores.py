"""The table of one class of generated objects (or of true ones, as the best that can be hoped for) against true ones."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from diffusionmix.classifier import Classifier, probabilities
from diffusionmix.comparison import Summary
from diffusionmix.object_metrics import (
    area_distance,
    colour_object,
    decided,
    expected_area_distance,
    mask_iou,
    near_share,
    nearest_distance,
)

Images = UInt8[np.ndarray, "_ S S2 3"]
Masks = Bool[np.ndarray, "_ S S2"]


def mask_columns(images: Images, masks: Masks) -> dict[str, Float[np.ndarray, "_"]]:
    """"mask_iou" and "mask_near": how each mask fits the object found by colour alone."""
    found = [colour_object(image) for image in images]
    return {
        "mask_iou": np.array([mask_iou(m, f) for m, f in zip(masks, found, strict=True)], np.float64),
        "mask_near": np.array([near_share(m, f) for m, f in zip(masks, found, strict=True)], np.float64),
    }


def score_objects(
    images: Images,
    masks: Masks,
    held: tuple[Images, Masks],
    train: tuple[Images, Masks] | None = None,
    channel: Float[np.ndarray, "_ s s2"] | None = None,
    agreement: Bool[np.ndarray, "_"] | None = None,
    seed: int = 0,
) -> dict[str, Summary]:
    """Summaries of one class.

    Args:
        images, masks: what is judged.
        held: true objects that were not trained on.
        train: those that were; without them nothing is said about copies and the areas' yardstick.
        channel: mask channels as they came out; without them nothing is said about decided masks.
        agreement: whether the classifier names the wanted class.

    Returns:
        "decided" and "agreement" (shares, Wilson), "mask_iou", "mask_near" (means), "empty" (share of empty masks), "area" (mean
        share of the crop), "area_distance" (Wasserstein, to held-out areas), "area_ratio" (that over what as many training areas
        would score), "nearest" (median distance to the nearest training picture), "nearest_ratio" (that over the median of
        held-out pictures). Medians and distances have bootstrap intervals over the judged objects.
    """
    from graft_common.metrics import bootstrap, proportion

    out: dict[str, Summary] = {}
    if channel is not None:
        out["decided"] = proportion(int(decided(channel).sum()), len(channel))
    if agreement is not None:
        out["agreement"] = proportion(int(agreement.sum()), len(agreement))
    out |= {name: bootstrap(column, seed) for name, column in mask_columns(images, masks).items()}
    areas, true_areas = masks.mean(axis=(1, 2)), held[1].mean(axis=(1, 2))
    out["empty"] = proportion(int((areas == 0).sum()), len(areas))
    out["area"] = bootstrap(areas, seed)
    gap = resampled(areas, lambda part: area_distance(part, true_areas), seed)
    out["area_distance"] = gap
    if train is not None:
        yardstick = expected_area_distance(train[1].mean(axis=(1, 2)), true_areas, len(areas), seed)
        out["area_ratio"] = scaled(gap, yardstick)
        near, held_near = nearest_distance(images, train[0]), float(np.median(nearest_distance(held[0], train[0])))
        out["nearest"] = resampled(near, lambda part: float(np.median(part)), seed)
        out["nearest_ratio"] = scaled(out["nearest"], held_near)
    return out


def class_agreement(classifier: Classifier, images: Images, label: str) -> Bool[np.ndarray, "_"]:
    """Whether the most probable class is the wanted one."""
    return probabilities(classifier, images).argmax(axis=1) == classifier.classes.index(label)


def resampled(values: Float[np.ndarray, "_"], statistic: Any, seed: int, n: int = 400) -> Summary:
    """A statistic of independent values with its percentile bootstrap interval."""
    rng = np.random.default_rng([seed, 93])
    drawn = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(n)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(statistic(values)), "ci95": [float(low), float(high)], "n": len(values)}


def scaled(summary: Summary, by: float) -> Summary:
    """The summary over a number, kept above 1e-9: where training and held-out pictures are equal no ratio is infinite."""
    by = max(by, 1e-9)
    return {"mean": summary["mean"] / by, "ci95": [v / by for v in summary["ci95"]], "n": summary["n"]}
