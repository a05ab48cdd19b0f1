"""Numbers with the interval that belongs to them: bootstrap, paired bootstrap, Wilson's interval for a share, grouped jackknife."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from scipy.stats import norm
from scipy.stats import t as student

Rows = Int64[np.ndarray, "_"]  # each set of rows has a length of its own

_CELLS = 2_000_000  # indices drawn at once: 16 MB


def bootstrap(values: Any, seed: int = 0, n: int = 10_000, level: float = 0.95) -> dict[str, Any]:
    """Mean of independent values with its percentile bootstrap interval (Efron 1979).

    Args:
        values: (k,) numbers, one per independent item (array, list or CPU tensor). One value alone gives an interval of
            no width: it says nothing about spread, and the "n" beside it says so.
        seed: the same seed gives the same interval on every machine.
        n: resamples.
        level: coverage wanted, in (0, 1).

    Returns:
        `{"mean": m, "ci95": [lo, hi], "n": k}`; the key follows `level` (0.9 gives "ci90").

    Raises:
        ValueError: no values, a NaN or an infinity, or `level` outside (0, 1).
    """
    column = _column(values)
    _check(level)
    rng = np.random.default_rng(seed)
    k = len(column)
    rows = max(1, _CELLS // k)
    means = [column[rng.integers(k, size=(min(rows, n - i), k))].mean(axis=1) for i in range(0, n, rows)]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return _result(float(column.mean()), float(low), float(high), k, level)


def paired_difference(a: Any, b: Any, seed: int = 0, n: int = 10_000, level: float = 0.95) -> dict[str, Any]:
    """Mean of a - b over the same items, with the bootstrap interval of `bootstrap`; zero outside it is an effect.

    Raises:
        ValueError: as `bootstrap`, or `a` and `b` differ in length.
    """
    first, second = _column(a), _column(b)
    if len(first) != len(second):
        raise ValueError(f"a has {len(first)} values but b has {len(second)}; pair them item by item")
    return bootstrap(first - second, seed, n, level)


def proportion(hits: int, n: int, level: float = 0.95) -> dict[str, Any]:
    """A share hits / n with Wilson's score interval (1927), which stays inside [0, 1] and has width at 0 and at 1.

    Raises:
        ValueError: `n` under 1, `hits` outside 0 ... n, or `level` outside (0, 1).
    """
    hits, n = int(hits), int(n)
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"hits is {hits} and n is {n}; n must be 1 or more and hits from 0 to n")
    _check(level)
    z = float(norm.ppf((1 + level) / 2))
    share, spread = hits / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / spread
    half = z / spread * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n the bound is the share itself; rounding must not put it outside.
    return _result(
        share, float(min(share, max(0.0, centre - half))), float(max(share, min(1.0, centre + half))), n, level
    )


def jackknife(statistic: Callable[[Rows], float], n: int, groups: int = 20, seed: int = 0) -> tuple[float, float, int]:
    """A statistic of n items, its standard error by the grouped jackknife (Efron 1982) and the degrees of freedom.

    Each of `groups` random groups is left out once. Unlike the bootstrap it repeats no item, which Frechet distances and pair
    statistics would take for less spread.

    Args:
        statistic: rows in [0, n) that are kept -> number.

    Raises:
        ValueError: fewer than two items or groups.
    """
    groups = min(groups, n)
    if groups < 2:
        raise ValueError(f"n is {n}, in {groups} groups; a jackknife needs two items and two groups or more")
    parts = np.array_split(np.random.default_rng([seed, 83]).permutation(n), groups)
    left = np.array([statistic(np.sort(np.concatenate([p for p in parts if p is not part]))) for part in parts])
    spread = np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum())
    return float(statistic(np.arange(n))), float(spread), groups - 1


def jackknifed(
    statistic: Callable[[Rows], float], n: int, seed: int = 0, groups: int = 20, level: float = 0.95
) -> dict[str, Any]:
    """A statistic of n items with Student's interval around its `jackknife`, as `bootstrap` returns it.

    Raises:
        ValueError: as `jackknife`, or `level` outside (0, 1).
    """
    _check(level)
    value, error, degrees = jackknife(statistic, n, groups, seed)
    half = float(student.ppf((1 + level) / 2, degrees)) * error
    return _result(value, value - half, value + half, n, level)


def _column(values: Sequence[float] | Any) -> Float[np.ndarray, "k"]:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise ValueError(f"values have shape {column.shape}; give one row of at least one number")
    if not np.isfinite(column).all():
        bad = int((~np.isfinite(column)).sum())
        raise ValueError(f"{bad} of {len(column)} values are NaN or infinite; leave those items out or mend the metric")
    return column


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level} but must lie between 0 and 1, e.g. 0.95")


def _result(mean: float, low: float, high: float, n: int, level: float) -> dict[str, Any]:
    return {"mean": mean, f"ci{100 * level:g}": [low, high], "n": n}
