"""Time cases: warm-up, synchronise, median, peak memory; one JSON line per case. Needs torch only."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
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
    """Above what was allocated before the case (CUDA). On the CPU None but where `peak_above` was asked for it: a process has
    one peak for all its cases."""


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
    return measure_together({case: run}, shape, device, dtype, repeats, warm_up)[0]


def measure_together(
    cases: Mapping[str, Callable[[], Any]],
    shape: str,
    device: str,
    dtype: torch.dtype,
    repeats: int = 5,
    warm_up: int = 2,
) -> list[Timing]:
    """As `measure`, for cases that are compared: each is called once before any is called again, so that whatever else the
    machine does in the meantime, or its clock, touches all alike."""
    if repeats < 5:
        raise ValueError(f"repeats={repeats}; a median of fewer than 5 says little, pass 5 or more")
    on_cuda = torch.device(device).type == "cuda"
    for run in cases.values():
        for _ in range(warm_up):
            run()
    times: dict[str, list[float]] = {case: [] for case in cases}
    peaks = dict.fromkeys(cases, 0)
    for _ in range(repeats):
        for case, run in cases.items():
            before = 0
            if on_cuda:
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            start = time.perf_counter()
            run()
            if on_cuda:
                torch.cuda.synchronize(device)
                peaks[case] = max(peaks[case], torch.cuda.max_memory_allocated(device) - before)
            times[case].append((time.perf_counter() - start) * 1e3)
    return [
        Timing(
            case=case,
            shape=shape,
            device=torch.cuda.get_device_name(device) if on_cuda else "cpu",
            dtype=str(dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            repeats=repeats,
            median_ms=round(statistics.median(taken), 4),
            least_ms=round(min(taken), 4),
            most_ms=round(max(taken), 4),
            peak_memory_bytes=peaks[case] if on_cuda else None,
        )
        for case, taken in times.items()
    ]


def peak_above(run: Callable[[], Any], warm_up: int = 1) -> int | None:
    """Bytes that the process holds at the peak of `run()`, above what it held before; None where the system is not Linux.

    Memory that was freed but not given back counts as held before: run it in a process of its own, with `MALLOC_EACH` in its
    environment.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for _ in range(warm_up):
        run()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _held(status, "VmRSS")
    run()
    return _held(status, "VmHWM") - before


MALLOC_EACH = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # glibc gives every tensor back at once


def _held(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def report(timings: list[Timing], against: str) -> list[dict[str, Any]]:
    """Print one JSON line per case on stdout, with its time over that of the case `against` of the same run: "ratio" of the
    medians, "least_ratio" of the least times, which other work on the machine disturbs less; likewise its memory, where both
    are known."""
    base = next(t for t in timings if t.case == against)
    lines = []
    for t in timings:
        line = asdict(t) | {
            "against": against, "ratio": round(t.median_ms / base.median_ms, 4),
            "least_ratio": round(t.least_ms / base.least_ms, 4) if base.least_ms else None,
        }  # fmt: skip
        if t.peak_memory_bytes is not None and base.peak_memory_bytes:
            line["memory_ratio"] = round(t.peak_memory_bytes / base.peak_memory_bytes, 4)
        lines.append(line)
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def note(text: str) -> None:
    """A word to the reader, beside the results on stdout."""
    print(text, file=sys.stderr, flush=True)
