"""What the scoring verbs share: intervals for numbers that are no mean over pictures, CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graft_common.files import write_text
from graft_common.markdown import table
from graft_common.metrics import Rows

Summary = dict[str, Any]  # {"mean", "ci95", "n"}


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
