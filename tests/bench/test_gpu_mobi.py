"""The GPU part of mobi, at a size that a CPU bears."""

import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_line_for_each_kind_and_for_the_range_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("timer", "bench_rangeview", "gpu_mobi"):
        sys.modules.pop(name, None)
    import gpu_mobi
    from gpu_mobi import Case, line_of, mobi_part

    monkeypatch.setattr("gpu_mobi.TURNS", 2)
    calls: list[tuple[bool, int]] = []
    seconds = gpu_mobi.seconds

    def watched(mobi, crops, settings):
        calls.append((settings.compile, settings.steps))
        if settings.compile:
            raise RuntimeError("no compiler here\nand much more")
        return seconds(mobi, crops, settings)

    monkeypatch.setattr("gpu_mobi.seconds", watched)
    case = Case("mobi-tiny", batch=2, steps=3, device="cpu", dtype="float32", firings=20, sweeps=2)
    sweeps, eager, compiled = mobi_part(time.monotonic() + 600, case)
    assert calls == [(False, 2), (False, 3), (True, 2), (False, 3)]  # warmed up, timed; what failed is not tried again
    assert sweeps["shape"] == "2 x 640 points" and sweeps["microseconds_per_sweep"] > 0
    assert eager["turns"] == 2 and eager["samples_per_minute"] > 0 and eager["size"] == 64 and "tflop_per_second" not in eager
    assert compiled["failed"] == "RuntimeError: no compiler here" and compiled["turns"] == 0

    full = line_of(Case(), 512, True, {False: [12.0], True: [6.0, 8.0, 9.0]}, 7, None)
    assert full["samples_per_minute"] == 60 and full["tflop_per_second"] == 212 and full["peak_memory_bytes"] == 7
    assert full["over_eager"] == 1.5 and (full["floor"], full["aim"]) == (50, 80)
    assert "not_run" in line_of(Case(), 512, True, {True: []}, 0, None)
