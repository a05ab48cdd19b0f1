"""What the numbers of a study say: where resampling costs, whether merging harmonises, whether a fast sampler is not worse."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusionmix.comparison import first_cost, raised, share_below, upper_loss, upper_set_loss

Values = Sequence[float | None]
MARGINS = {"iou": 0.02, "harmony": 0.1, "fid": 0.1}  # absolute, absolute, relative
DETAIL = 0.01  # of the range: a loss of object detail that counts
FEWEST = 8  # pairs below which nothing is said


def both(a: Values, b: Values) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """The items for which both are defined."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    columns = np.array(pairs, np.float64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def resampling_cost(grid: Mapping[tuple[int, int], Mapping[str, Values]], taus: Sequence[int], rs: Sequence[int]) -> dict[str, Any]:
    """For each tau: the number of climbs from which on the masked L1 to the unmerged object exceeds that without climbs by
    more than 0.01 (significantly, paired), None where it never does; and whether harmony is raised by the most climbs.

    Args:
        grid: (tau, r) -> metric -> one number an item, of one merge start; it must hold r = 0.
    """
    out: dict[str, Any] = {}
    levels = sorted(rs)
    if levels[0] != 0:
        return out
    for tau in taus:
        if tau == 0:
            continue
        columns = [grid[tau, r]["l1"] for r in levels]
        kept = [i for i in range(len(columns[0])) if all(c[i] is not None for c in columns)]
        if len(kept) < FEWEST:
            continue
        losses = [np.array([c[i] for i in kept], np.float64) for c in columns]
        before, after = both(grid[tau, 0]["harmony"], grid[tau, levels[-1]]["harmony"])
        up, p = raised(before, after)
        out[str(tau)] = {
            "detail_costs_from_r": first_cost(levels, losses, DETAIL),
            "l1": [float(c.mean()) for c in losses],
            "harmony_raised": up, "p": p, "most": levels[-1], "n": len(kept),
        }  # fmt: skip
    return out


def beats(ours: Mapping[str, Values], other: Mapping[str, Values]) -> dict[str, Any] | None:
    """On which share of the seeds our picture is nearer to the truth (harmony) than the other; None for too few pairs."""
    a, b = both(ours["harmony"], other["harmony"])
    return None if len(a) < FEWEST else share_below(a, b)


def not_worse(
    reference: Mapping[str, Values],
    other: Mapping[str, Values],
    features: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]] | None = None,
) -> dict[str, Any]:
    """Non-inferiority of a sampler on paired seeds: is the one-sided 95 % upper bound of the loss below the margin?

    Args:
        features: of the reference's pictures, the other's, and true ones, for the Frechet distance.

    Returns:
        metric -> {"mean", "upper95", "n", "margin", "holds"}; "holds" of all together under "all".
    """
    from graft_common.metrics import frechet

    out: dict[str, Any] = {}
    for name in ("iou", "harmony"):
        a, b = both(reference[name], other[name])
        if len(a) >= FEWEST:
            out[name] = upper_loss(a, b, lower_is_better=name == "harmony")
    if features is not None and len(features[0]) >= FEWEST:
        first, second, true = features
        n = len(first)
        out["fid"] = upper_set_loss(
            lambda rows: frechet(first[rows], true[rows]), lambda rows: frechet(second[rows], true[rows]), n
        )
    for name, entry in out.items():
        entry |= {"margin": MARGINS[name], "holds": entry["upper95"] < MARGINS[name]}
    out["all"] = len(out) == len(MARGINS) and all(entry["holds"] for entry in out.values())
    return out
