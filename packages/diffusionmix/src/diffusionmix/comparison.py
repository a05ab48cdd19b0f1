"""Paired comparisons: is the fast way not worse, is one way better, does a knob hurt; and intervals of set statistics."""

from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import Float

from graft_common.metrics import Rows

Summary = dict[str, Any]
Column = Float[np.ndarray, "_"]


def upper_loss(
    reference: Column, other: Column, *, lower_is_better: bool, seed: int = 0, level: float = 0.95
) -> Summary:
    """Mean paired loss of `other` against `reference` and its one-sided upper bound (percentile bootstrap over pairs).

    A positive loss says that `other` is worse. Where the bound lies below a margin, it is not worse by that margin.

    Returns:
        {"mean", "upper95", "n"}; the key follows `level`.

    Raises:
        ValueError: columns differ in length, are empty, or hold a NaN.
    """
    from graft_common.metrics import paired_difference

    sign = 1.0 if lower_is_better else -1.0
    both = paired_difference(sign * np.asarray(other), sign * np.asarray(reference), seed, level=2 * level - 1)
    low_high = next(value for key, value in both.items() if key.startswith("ci"))
    return {"mean": both["mean"], f"upper{100 * level:g}": low_high[1], "n": both["n"]}


def upper_set_loss(
    reference: Callable[[Rows], float], other: Callable[[Rows], float], n: int, seed: int = 0, level: float = 0.95
) -> Summary:
    """Relative loss other / reference - 1 of a set statistic that is better when lower, with its one-sided upper bound.

    Items are paired: a group that is left out is left out of both.
    """
    from scipy.stats import t

    from graft_common.metrics import jackknife

    def ratio(rows: Rows) -> float:
        return other(rows) / reference(rows) - 1

    value, error, degrees = jackknife(ratio, n, seed=seed)
    return {"mean": value, f"upper{100 * level:g}": value + float(t.ppf(level, degrees)) * error, "n": n}


def share_below(values: Column, reference: Column) -> Summary:
    """On which share of the pairs `values` is lower, with Wilson's interval; ties count as not lower."""
    from graft_common.metrics import proportion

    if len(values) != len(reference):
        raise ValueError(f"there are {len(values)} values and {len(reference)} references; pair them item by item")
    return proportion(int((np.asarray(values) < np.asarray(reference)).sum()), len(values))


def raised(before: Column, after: Column, level: SupportsFloat = 0.05) -> tuple[bool, float]:
    """Whether `after` is higher on average than its pair in `before` (one-sided paired t test), and the p value.

    Equal columns are not raised (p = 1).
    """
    p = _above_zero(np.asarray(after, np.float64) - np.asarray(before, np.float64))
    return p < float(level), p


def first_cost(levels: Sequence[int | float], losses: Sequence[Column], margin: SupportsFloat) -> int | float | None:
    """The first of ascending `levels` (after the first, which is the reference) from which on every paired loss is
    significantly above `margin`: where a knob begins to cost. None where it never does.

    Args:
        losses: one column a level, paired by item; higher is worse.
    """
    reference = np.asarray(losses[0], np.float64)
    costly = [_above_zero(np.asarray(column) - reference - float(margin)) < 0.05 for column in losses[1:]]
    for i, level in enumerate(levels[1:]):
        if all(costly[i:]):
            return level
    return None


def _above_zero(gap: Column) -> float:
    """p value of a one-sided t test that the mean is above zero; numbers without spread decide by their sign."""
    from scipy.stats import ttest_1samp

    if np.ptp(gap) <= 1e-9 * max(1.0, float(np.abs(gap).max())):
        return 0.0 if gap.mean() > 1e-12 else 1.0
    return float(ttest_1samp(gap, 0.0, alternative="greater").pvalue)
