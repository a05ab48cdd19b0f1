"""The timer of the benchmarks: cases in turn, ratios within a run, and the peak of one call."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def timer(monkeypatch):
    """benchmarks/timer.py, a script beside the other scripts."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("timer", None)
    import timer

    yield timer
    sys.modules.pop("timer", None)


def test_cases_take_turns_after_their_warm_up(timer, capsys):
    calls = []
    cases = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = timer.measure_together(cases, "x", "cpu", torch.float32, repeats=5, warm_up=2)
    assert calls == [*"aabbcc", *("abc" * 5)] and [t.case for t in timings] == [*"abc"]
    assert timer.measure("a", cases["a"], "x", "cpu", torch.float32).peak_memory_bytes is None
    lines = timer.report(timings, "b")
    assert lines[1]["ratio"] == 1 and lines[0]["ratio"] == pytest.approx(timings[0].median_ms / timings[1].median_ms, abs=1e-4)
    assert [json.loads(line)["case"] for line in capsys.readouterr().out.splitlines()] == [*"abc"]
    with pytest.raises(ValueError, match="repeats=4"):
        timer.measure_together(cases, "x", "cpu", torch.float32, repeats=4)


def test_the_peak_is_that_of_the_call(timer):
    """In a process of its own, as the benchmarks do: what lies there before does not count, what is freed within does."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of one call is known on Linux only")
    code = """
import torch
from timer import peak_above
torch.set_num_threads(1)
held = [torch.ones(8 << 20) for _ in range(4)]

def run():
    a = torch.ones(4 << 20)
    del a
    b = [torch.ones(1 << 18) for _ in range(32)]

print(peak_above(run), peak_above(lambda: None))
"""
    env = {"PYTHONPATH": str(BENCHMARKS), "PATH": "/usr/bin:/bin", **timer.MALLOC_EACH}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, nothing = map(int, done.stdout.split())
    assert peak == pytest.approx(32 << 20, rel=0.05) and nothing < 1 << 20
