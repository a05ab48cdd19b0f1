"""Camera+lidar samples per minute of mobi on a card: the full-size network with random weights, autoencoders included; and
microseconds per sweep of the range view.

Eager and compiled run in turn on the same crops and seeds, so that whatever else touches the card touches both.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench_rangeview import SENSOR, make_sweep
from graft_common.rangeview import project_batch
from mobi.bundle import Mobi, load_mobi
from mobi.config_denoise import DenoiseConfig
from mobi.denoise import inpaint
from mobi.records import Crops
from timer import measure, note

TOOL = Path(__file__).resolve().parents[1] / "tools" / "random_bundle.py"
FLOOR, AIM = 50, 80  # samples per minute, compiled
TFLOP = 212  # of one sample by count: 512 px, 50 steps, one guidance scale (two branches)
TURNS = 3


@dataclass(frozen=True)
class Case:
    """What is measured: the random model (a name of tools/random_bundle.py), samples a pass, sampler steps, firings of a sweep (its
    points over 32), sweeps at once."""

    name: str = "mobi"
    batch: int = 8
    steps: int = 50
    device: str = "cuda"
    dtype: str = "bfloat16"
    firings: int = 1085
    sweeps: int = 64


def mobi_part(stop: float, case: Case | None = None, kinds: tuple[bool, ...] = (False, True)) -> list[dict[str, Any]]:
    """The range view's line, then one for the eager and one for the compiled network.

    Args:
        kinds: whether each is compiled.
    """
    case = case or Case()
    lines = [range_line(case)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "weights"
        note(f"mobi: drawing random weights ({case.name})")
        subprocess.run([sys.executable, str(TOOL), case.name, str(folder)], check=True, stdout=sys.stderr)
        return lines + network_lines(stop, case, kinds, folder)


def range_line(case: Case) -> dict[str, Any]:
    """`project_batch` of full sweeps that lie on the device already."""
    many = make_sweep(case.firings, torch.float32).to(case.device).expand(case.sweeps, -1, -1)
    shape = f"{case.sweeps} x {many.shape[1]} points"
    found = measure("project_batch", lambda: project_batch(many, SENSOR), shape, case.device, torch.float32, repeats=15)
    return {
        "part": "range view", "shape": shape, "microseconds_per_sweep": found.median_ms * 1e3 / case.sweeps,
        "least_microseconds_per_sweep": found.least_ms * 1e3 / case.sweeps, "peak_memory_bytes": found.peak_memory_bytes,
    }  # fmt: skip


def settings_of(case: Case, folder: Path, compiled: bool, steps: int) -> DenoiseConfig:
    """One guidance scale for reference and box."""
    where: dict[str, Any] = {"device": case.device, "dtype": case.dtype}
    return DenoiseConfig(weights=str(folder), compile=compiled, steps=steps, **where)


def random_crops(batch: int, side: int) -> Crops:
    """Noise, with a hole of a quarter of the area in the middle."""
    make = torch.Generator().manual_seed(0)

    def planes(channels: int) -> torch.Tensor:
        return 2 * torch.rand(batch, channels, side, side, generator=make) - 1

    keep = torch.ones(batch, 1, side, side)
    keep[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 0
    boxes = torch.rand(batch, 8, 3, generator=make)
    reference = torch.randn(batch, 3, 224, 224, generator=make)
    return Crops(planes(3), planes(2), keep, keep, reference, boxes, boxes)


def seconds(mobi: Mobi, crops: Crops, settings: DenoiseConfig) -> float:
    """Wall seconds of one batch, from crops on the host to paintings on the host, which waits for the card."""
    began = time.perf_counter()
    inpaint(mobi, crops, list(range(len(crops.camera))), settings)
    return time.perf_counter() - began


def network_lines(stop: float, case: Case, kinds: tuple[bool, ...], folder: Path) -> list[dict[str, Any]]:
    """Each kind is warmed up with two steps and timed at once, then all by turns until `stop`. One that fails is said to have
    failed: the time on a card is short, and the other kind's numbers stand."""
    mobi = load_mobi(settings_of(case, folder, False, case.steps))
    crops = random_crops(case.batch, mobi.size)
    times: dict[bool, list[float]] = {compiled: [] for compiled in kinds}
    peaks = dict.fromkeys(kinds, 0)
    failed: dict[bool, str] = {}

    def once(compiled: bool, steps: int) -> float:
        if case.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        spent = seconds(mobi, crops, settings_of(case, folder, compiled, steps))
        if case.device == "cuda":
            peaks[compiled] = max(peaks[compiled], torch.cuda.max_memory_allocated())
        return spent

    for turn in range(TURNS):
        for compiled in kinds:
            if compiled in failed or time.monotonic() > stop:
                continue
            try:
                if turn == 0:
                    note(f"mobi: {'compiling and ' if compiled else ''}warming up")
                    once(compiled, 2)
                times[compiled].append(once(compiled, case.steps))
            except Exception as why:  # the compiler raises many kinds, and a card may be too small
                failed[compiled] = f"{type(why).__name__}: {str(why).splitlines()[0] if str(why) else 'no message'}"
    return [line_of(case, mobi.size, compiled, times, peaks[compiled], failed.get(compiled)) for compiled in kinds]


def line_of(
    case: Case, size: int, compiled: bool, times: dict[bool, list[float]], peak: int, failure: str | None
) -> dict[str, Any]:
    """One kind's numbers; TFLOP/s of the full-size network at the counted size and steps alone."""
    line: dict[str, Any] = {
        "part": "inpainting", "compiled": compiled, "network": case.name, "size": size, "batch": case.batch, "steps": case.steps,
        "guidance_scales": 1, "dtype": case.dtype, "turns": len(times[compiled]),
    }  # fmt: skip
    if failure:
        line["failed"] = failure
    if not times[compiled]:
        return line if failure else line | {"not_run": "the part's time was used up"}
    rate = 60 * case.batch / median(times[compiled])
    line |= {"samples_per_minute": rate, "floor": FLOOR, "aim": AIM}
    if (case.name, size, case.steps) == ("mobi", 512, 50):
        line |= {"tflop_per_sample": TFLOP, "tflop_per_second": TFLOP * rate / 60}
    if compiled and times.get(False):
        line["over_eager"] = median(times[False]) / median(times[True])
    if case.device == "cuda":
        line["peak_memory_bytes"] = peak
    return line
