"""Projecting a sweep: ours, a per-point Python loop, and NumPy's sort and scatter, all making the same record.

    python benchmarks/bench_rangeview.py [--quick] [--threads 1] [--device cpu] [--dtype float32] [--batch 1]

CPU times are worth their ratios, except the one in milliseconds per sweep that is promised for a single thread. The
three records are compared before anything is timed.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graft_common.rangeview import NUSCENES, RangeView, pixel_angles, project, project_batch, unproject
from timer import measure, note, report

SENSOR = NUSCENES
Record = dict[str, np.ndarray]


def make_sweep(firings: int, dtype: torch.dtype) -> Tensor:
    """(firings x 32, 5): every beam of every firing, smooth walls 3 to 50 m away with 2 cm of noise, a little overlap."""
    make = torch.Generator().manual_seed(0)
    turn = torch.linspace(-1, 1.002, firings, dtype=torch.float64)[:, None] * math.pi
    pitch = torch.tensor(SENSOR.elevation, dtype=torch.float64)[None]
    d = 20 + 17 * torch.sin(3 * turn) * torch.cos(7 * pitch) + 8 * torch.sin(11 * turn)
    d = d.clamp(min=3) + 0.02 * torch.randn(d.shape, generator=make, dtype=torch.float64)
    flat = d * pitch.cos()
    intensity = torch.randint(0, 256, d.shape, generator=make).double()
    ring = torch.tensor(SENSOR.rings, dtype=torch.float64).expand_as(d)
    points = torch.stack([flat * turn.cos(), -flat * turn.sin(), d * pitch.sin(), intensity, ring], -1)
    return points.flatten(0, 1).to(dtype)


def empty_record(dtype: np.dtype) -> Record:
    """What a pixel without a point holds."""
    pitch, yaw = (
        x.numpy() for x in pixel_angles(SENSOR, torch.zeros(1, dtype=torch.from_numpy(np.zeros(1, dtype)).dtype))
    )
    shape = pitch.shape
    return {
        "index": np.full(shape, -1),
        "depth": np.full(shape, -1, dtype),
        "intensity": np.zeros(shape, dtype),
        "pitch": pitch.copy(),
        "yaw": yaw.copy(),
    }


def numpy_project(points: np.ndarray) -> Record:
    """Sort by falling distance, then scatter, so that the closest is written last."""
    low, high, last = SENSOR.elevation[-1], SENSOR.elevation[0], SENSOR.rows - 1
    kind = points.dtype.type
    x, y, z, intensity = np.ascontiguousarray(points[:, :4].T)
    d = np.sqrt(x * x + y * y + z * z)
    index = np.flatnonzero((d > SENSOR.near) & (d < SENSOR.far) & np.isfinite(intensity))
    x, y, z, d, intensity = x[index], y[index], z[index], d[index], intensity[index]
    yaw, pitch = -np.arctan2(y, x), np.arcsin(np.clip(z / d, -1, 1))
    row = last - np.clip(np.rint(last * (pitch - kind(low)) / kind(high - low)), 0, last).astype(np.int64)
    column = np.floor(SENSOR.columns * (yaw / kind(np.pi) + 1) / 2).astype(np.int64).clip(0, SENSOR.columns - 1)
    order = np.argsort(d, kind="stable")[::-1]  # of equal distances the smaller index comes last
    pixel = (row * SENSOR.columns + column)[order]
    record = empty_record(points.dtype)
    columns = {
        "index": index,
        "depth": 2 * d / kind(SENSOR.far) - 1,
        "intensity": intensity,
        "pitch": pitch,
        "yaw": yaw,
    }
    for name, values in columns.items():
        record[name].reshape(-1)[pixel] = values[order]
    return record


def loop_project(points: np.ndarray) -> Record:
    """One point after another, as a first version would be written."""
    low, high, last = SENSOR.elevation[-1], SENSOR.elevation[0], SENSOR.rows - 1
    record = empty_record(points.dtype)
    best = {}
    for k, (x, y, z, intensity, *_) in enumerate(points.tolist()):
        d = math.sqrt(x * x + y * y + z * z)
        if not SENSOR.near < d < SENSOR.far:
            continue
        yaw, pitch = -math.atan2(y, x), math.asin(z / d)
        row = last - min(max(round(last * (pitch - low) / (high - low)), 0), last)
        column = min(math.floor(SENSOR.columns * (yaw / math.pi + 1) / 2), SENSOR.columns - 1)
        if d < best.get((row, column), math.inf):
            best[row, column] = d
            record["index"][row, column] = k
            record["depth"][row, column] = 2 * d / SENSOR.far - 1
            record["intensity"][row, column] = intensity
            record["pitch"][row, column] = pitch
            record["yaw"][row, column] = yaw
    return record


def numpy_unproject(record: Record) -> np.ndarray:
    """Points of the returns, row by row."""
    d = SENSOR.far / 2 * (record["depth"] + 1)
    at = (d > SENSOR.near) & (d < SENSOR.far)
    d, pitch, yaw = d[at], record["pitch"][at], record["yaw"][at]
    flat = d * np.cos(pitch)
    return np.stack([flat * np.cos(yaw), -flat * np.sin(yaw), d * np.sin(pitch), record["intensity"][at]], 1)


def loop_unproject(record: Record) -> np.ndarray:
    """One pixel after another."""
    points = []
    names = ("depth", "pitch", "yaw", "intensity")
    for depth, pitch, yaw, intensity in zip(*(record[n].reshape(-1).tolist() for n in names), strict=True):
        d = SENSOR.far / 2 * (depth + 1)
        if SENSOR.near < d < SENSOR.far:
            flat = d * math.cos(pitch)
            points.append((flat * math.cos(yaw), -flat * math.sin(yaw), d * math.sin(pitch), intensity))
    return np.array(points, record["depth"].dtype)


def compare(ours: RangeView, other: Record, name: str) -> None:
    """Stop unless the records agree; a point within rounding of a pixel's edge may fall on either side of it."""
    index = ours.index.cpu().numpy()
    same = index == other["index"]
    if same.mean() < 0.999:
        raise SystemExit(f"{name}: {(~same).sum()} pixels disagree; this is a bug, not a benchmark")
    for field in ("depth", "intensity", "pitch", "yaw"):
        off = np.abs(getattr(ours, field).cpu().numpy() - other[field])[same].max()
        if off > 1e-4:
            raise SystemExit(f"{name}: {field} is off by {off:g}; this is a bug, not a benchmark")
    note(f"{name}: {same.sum()} of {same.size} pixels agree with ours")


def bench(firings: int, device: str, dtype: torch.dtype, batch: int) -> list[dict[str, Any]]:
    """Project and unproject; `least_ratio` is of the best of 15 over that of NumPy's sort and scatter, `ratio` of the medians."""
    sweep = make_sweep(firings, dtype)
    array, points = sweep.numpy(), sweep.to(device)
    shape = f"{len(sweep)} points"
    view = project(points, SENSOR)
    record = numpy_project(array)
    compare(view, record, "numpy sort + scatter")
    compare(view, loop_project(array), "python loop")

    def timed(cases: dict[str, Callable[[], Any]], against: str) -> list[dict[str, Any]]:
        return report([measure(n, run, shape, device, dtype, repeats=15) for n, run in cases.items()], against)

    lines = timed(
        {
            "project": lambda: project(points, SENSOR),
            "project numpy sort + scatter": lambda: numpy_project(array),
            "project python loop": lambda: loop_project(array),
        },
        "project numpy sort + scatter",
    )
    lines += timed(
        {
            "unproject": lambda: unproject(view, SENSOR),
            "unproject numpy": lambda: numpy_unproject(record),
            "unproject python loop": lambda: loop_unproject(record),
        },
        "unproject numpy",
    )
    if batch > 1:
        many = points.expand(batch, -1, -1)
        lines += timed(
            {"project one": lambda: project(points, SENSOR), f"project {batch}": lambda: project_batch(many, SENSOR)},
            "project one",
        )
    return lines


def main() -> int:
    """Parse, set the threads, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of a sweep, a few seconds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--batch", type=int, default=1, help="also time so many sweeps at once")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: this machine has no CUDA device; use --device cpu")
    torch.set_num_threads(args.threads)
    bench(108 if args.quick else 1085, args.device, getattr(torch, args.dtype), args.batch)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
