"""The range view's benchmark on a few firings: what its ratios are of."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_ratios_are_of_the_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("timer", "bench_rangeview"):
        sys.modules.pop(name, None)
    from bench_rangeview import bench

    lines = {line["case"]: line for line in bench(20, "cpu", torch.float32, 1)}
    assert len(lines) == 6
    for line in lines.values():
        base = lines[line["against"]]
        assert line["repeats"] == 15
        assert line["least_ratio"] == pytest.approx(line["least_ms"] / base["least_ms"], abs=1e-4)
        assert line["ratio"] == pytest.approx(line["median_ms"] / base["median_ms"], abs=1e-4)
