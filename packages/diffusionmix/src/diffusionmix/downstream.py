"""Does synthetic data help? One segmenter trained on each set of pictures, all scored on the same true ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from diffusionmix.comparison import Summary

Pictures = tuple[UInt8[np.ndarray, "_ H W 3"], Bool[np.ndarray, "_ H W"]]


def downstream(
    arms: Mapping[str, Pictures],
    test: Pictures,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 300,
    batch: int = 16,
    device: Any = "cpu",
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, dict[str, Summary]]:
    """Train the segmenter once per arm and seed, each for as many steps, and score it.

    Args:
        arms: name -> pictures with masks; those without a defect have empty ones.
        test: true pictures with defects and without.
        advance: called with 1 after each training.

    Returns:
        arm -> "image_auroc", "pixel_aupro" -> {"mean", "ci95", "n", "seeds"}: Student's interval over the trainings.
    """
    from diffusionmix.segmenter import aupro, auroc, defect_scores, image_scores, train_segmenter

    truth = np.asarray(test[1].any(axis=(1, 2)))
    out: dict[str, dict[str, Summary]] = {}
    for name, (images, masks) in arms.items():
        found: dict[str, list[float]] = {"image_auroc": [], "pixel_aupro": []}
        for seed in seeds:
            network = train_segmenter(images, masks, steps=steps, batch=batch, seed=seed, device=device)
            scores = defect_scores(network, test[0], device)
            found["image_auroc"].append(auroc(image_scores(scores), truth))
            found["pixel_aupro"].append(aupro(scores, test[1]))
            advance(1)
        out[name] = {metric: over_seeds(values) for metric, values in found.items()}
    return out


def over_seeds(values: Sequence[float]) -> Summary:
    """Mean of a few trainings with Student's 95 % interval, cut to [0, 1]; of one training, no interval but itself."""
    from scipy.stats import t

    column = np.asarray(values, np.float64)
    half = 0.0
    if len(column) > 1:
        half = float(t.ppf(0.975, len(column) - 1) * column.std(ddof=1) / np.sqrt(len(column)))
    mean = float(column.mean())
    return {"mean": mean, "ci95": [max(0.0, mean - half), min(1.0, mean + half)], "n": len(column), "seeds": column.tolist()}
