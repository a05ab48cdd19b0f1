"""Summaries, `{"mean", "ci95": [lo, hi], "n"}`, as markdown."""

from collections.abc import Mapping
from typing import Any


def table(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], first: str) -> str:
    """A table of row -> metric -> summary, as mean [low, high]; empty where a row lacks the metric.

    Args:
        first: heading of the column that names the rows.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {first} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(cell(row[n]) if n in row else "" for n in names) + " |")
    return "\n".join(lines) + "\n"


def cell(summary: Mapping[str, Any]) -> str:
    """mean [low, high] with as many digits as the value's size asks for."""
    mean, (low, high) = summary["mean"], summary["ci95"]
    digits = 2 if abs(mean) >= 10 else 3 if abs(mean) >= 1 else 4
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
