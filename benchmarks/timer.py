"""Time one case: warm-up, synchronise, median, peak memory; one JSON line per case. Needs torch only."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """One measured case; times in milliseconds, memory in bytes."""

    case: str
    shape: str
    device: str
    dtype: str
    threads: int
    torch: str
    repeats: int
    median_ms: float
    least_ms: float
    most_ms: float
    peak_memory_bytes: int | None
    """Above what was allocated before the case (CUDA); None on the CPU, where a process has one peak for all cases."""


def measure(
    case: str,
    run: Callable[[], Any],
    shape: str,
    device: str,
    dtype: torch.dtype,
    repeats: int = 5,
    warm_up: int = 2,
) -> Timing:
    """Median time of `run()`, after `warm_up` calls that compile and fill caches.

    Args:
        repeats: at least 5, so that the median is one.
    """
    if repeats < 5:
        raise ValueError(f"repeats={repeats}; a median of fewer than 5 says little, pass 5 or more")
    on_cuda = torch.device(device).type == "cuda"
    for _ in range(warm_up):
        run()
    before = 0
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if on_cuda:
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return Timing(
        case=case,
        shape=shape,
        device=torch.cuda.get_device_name(device) if on_cuda else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        repeats=repeats,
        median_ms=round(statistics.median(times), 4),
        least_ms=round(min(times), 4),
        most_ms=round(max(times), 4),
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) - before if on_cuda else None,
    )


def report(timings: list[Timing], against: str) -> list[dict[str, Any]]:
    """Print one JSON line per case on stdout, with its time over that of the case `against` of the same run."""
    base = next(t.median_ms for t in timings if t.case == against)
    lines = [asdict(t) | {"against": against, "ratio": round(t.median_ms / base, 4)} for t in timings]
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def note(text: str) -> None:
    """A word to the reader, beside the results on stdout."""
    print(text, file=sys.stderr, flush=True)
