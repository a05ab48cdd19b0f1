"""What the scoring verbs share: intervals for numbers that are no mean over pictures, CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from scipy.stats import t as student

from graft_common.files import write_text
from graft_common.markdown import table

Summary = dict[str, Any]  # {"mean", "ci95", "n"}
Rows = Int64[np.ndarray, "_"]  # each set of rows has a length of its own


def jackknife(statistic: Callable[[Rows], float], n: int, groups: int = 20, seed: int = 0) -> Summary:
    """A statistic of n items with the interval of the grouped jackknife (Efron 1982): each of `groups` random groups is
    left out once. Unlike the bootstrap it repeats no item, which Frechet distances and pair statistics would take for
    less spread.

    Args:
        statistic: rows in [0, n) that are kept -> number.
        n: items; two at least.

    Returns:
        `{"mean": value on all, "ci95": [lo, hi], "n": n}`, the interval from Student's t with groups - 1 degrees.
    """
    groups = min(groups, n)
    if groups < 2:
        raise ValueError(f"n is {n}; a jackknife needs two items or more")
    order = np.random.default_rng([seed, 83]).permutation(n)
    parts = np.array_split(order, groups)
    left = np.array([statistic(np.sort(np.setdiff1d(order, part))) for part in parts])
    value = float(statistic(np.arange(n)))
    spread = float(np.sqrt((groups - 1) / groups * ((left - left.mean()) ** 2).sum()))
    half = float(student.ppf(0.975, groups - 1)) * spread
    return {"mean": value, "ci95": [value - half, value + half], "n": n}


def grid_bootstrap(
    statistic: Callable[[Rows, Rows], dict[str, float]], seeds: int, items: int, resamples: int = 2000, seed: int = 0
) -> dict[str, Summary]:
    """Statistics of trainings x test pictures, with percentile intervals that resample both: the spread between trainings
    and that between pictures are in them.

    Args:
        statistic: (rows of the trainings, rows of the pictures) -> name -> number; rows may repeat. A NaN (a class that a
            resample leaves out) does not count.
    """
    rng = np.random.default_rng([seed, 84])
    drawn = [statistic(rng.integers(seeds, size=seeds), rng.integers(items, size=items)) for _ in range(resamples)]
    out: dict[str, Summary] = {}
    for name, value in statistic(np.arange(seeds), np.arange(items)).items():
        low, high = np.nanquantile([one[name] for one in drawn], [0.025, 0.975])
        out[name] = {"mean": float(value), "ci95": [float(low), float(high)], "n": items}
    return out


def write_table(out: Path, rows: Mapping[str, Mapping[str, Summary]], first: str, quiet: bool) -> None:
    """table.md in `out`, shown on stdout as well unless `quiet`."""
    text = table(rows, first)
    write_text(out / "table.md", text)
    if not quiet:
        print(text, end="")


def as_csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """CSV text; floats with six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for line in lines:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in line])
    return text.getvalue()


def distinct(paths: Sequence[Path]) -> list[str]:
    """A name for each checkpoint: its folder's, or the file's where that is no model.safetensors; numbered where equal."""
    names: list[str] = []
    for path in paths:
        name = path.resolve().parent.name if path.name == "model.safetensors" else path.stem
        taken = sum(known == name or known.startswith(f"{name} (") for known in names)
        names.append(name if not taken else f"{name} ({taken + 1})")
    return names
