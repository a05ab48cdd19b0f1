"""The GPU part of diffusionmix, at a size that a CPU bears."""

import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_line_for_each_kind_and_none_after_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("timer", "gpu_merging"):
        sys.modules.pop(name, None)
    from gpu_merging import Case, make_mix, merging_part, seconds

    monkeypatch.setattr("gpu_merging.TURNS", 1)
    case = Case("tiny", 32, batch=2, states=3, device="cpu", dtype=torch.float32)
    line = merging_part(time.monotonic() + 600, case, (False,))[0]
    assert line["turns"] == 1 and line["pictures_per_second"] > 0 and line["calls"] == 3 and not line["compiled"]
    mix = make_mix(case, compiled=False)
    assert mix.background is not None and (mix.object.channels, mix.background.channels) == (4, 3)
    assert seconds(mix, case) > 0
    assert "not_run" in merging_part(0, case, (False,))[0]
