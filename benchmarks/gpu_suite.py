"""What can only be measured on a card: each part in under 8 minutes, its JSON under benchmarks/results/.

    python benchmarks/gpu_suite.py [--only attention] [--out benchmarks/results]

A part is a function from a stop time to its results; add it to PARTS. Without a CUDA device: exit 2 and one line.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench_attention import SITES, Inputs, backward_cases, forward_cases, make_inputs
from graft_common import attention
from timer import Timing, measure, note, report

LIMIT_SECONDS = 8 * 60
Results = list[dict[str, Any]]


def attention_part(stop: float) -> Results:
    """Correctness of each kernel first, then bfloat16 times: absolute, and against plain SDPA in the same run."""
    lines: Results = []
    for name, size in SITES.items():
        for part in (kernel_errors, attention_times):
            if time.monotonic() > stop:
                lines.append({"part": part.__name__, "shape": name, "not_run": "the part's time was used up"})
                continue
            lines += part(name, size)
    return lines


def kernel_errors(name: str, size: tuple[int, int, int, int]) -> Results:
    """Largest error of every backend that runs, against the upcast reference; beside it that of plain low precision."""
    lines: Results = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = make_inputs((1, *size[1:]), "cuda", dtype)
        output, p = attention.reference(x.q, x.k, x.v, upcast=True)
        wide = x.columns.float()
        wants = {
            "attend_columns": (output, p @ wide),
            "columns_only": (p @ wide,),
            "mean_map": (p.mean(1),),
            "elementwise": (p.mean(1).pow(4) @ wide[:, 0],),
        }
        for backend in ("reference", "sdpa", "xformers", "triton"):
            for operation, want in wants.items():
                line = {
                    "part": "error",
                    "operation": operation,
                    "backend": backend,
                    "shape": name,
                    "dtype": str(dtype)[6:],
                }
                try:
                    got = operations(x, backend)[operation]()
                except ValueError as refusal:
                    lines.append(line | {"not_run": str(refusal)})
                    continue
                got = got if isinstance(got, tuple) else (got,)
                error = max(float((g.float() - w).abs().max() / w.abs().max()) for g, w in zip(got, want, strict=True))
                lines.append(line | {"largest_error_over_largest_value": error})
        del output, p, wants
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def operations(x: Inputs, backend: attention.Backend) -> dict[str, Callable[[], Any]]:
    """Every operation of the core by name, for one backend."""
    return {
        "attend_columns": lambda: attention.attend_columns(x.q, x.k, x.v, x.columns, backend=backend),
        "columns_only": lambda: attention.columns_only(x.q, x.k, x.columns, backend=backend),
        "mean_map": lambda: attention.mean_map(x.q, x.k, backend=backend),
        "elementwise": lambda: attention.propagate(x.q, x.k, x.columns[:, 0], 4, elementwise=True, backend=backend),
    }


def attention_times(name: str, size: tuple[int, int, int, int]) -> Results:
    """bfloat16 times of every backend and of the plain alternatives."""
    dtype = torch.bfloat16
    x = make_inputs(size, "cuda", dtype)
    refused: Results = []

    def timed(cases: dict[str, Callable[[], Any]], suffix: str = "") -> list[Timing]:
        found = []
        for case, run in cases.items():
            try:
                found.append(measure(case + suffix, run, name, "cuda", dtype, repeats=20, warm_up=5))
            except ValueError as refusal:
                refused.append({"case": case + suffix, "shape": name, "not_run": str(refusal)})
                note(f"{case}{suffix}: not run: {refusal}")
        return found

    with torch.no_grad():
        timings = timed(forward_cases(x))
        for backend in ("reference", "sdpa", "xformers", "triton"):
            timings += timed(operations(x, backend), f" [{backend}]")
    forward = report(timings, "plain sdpa")
    backward = report(timed(backward_cases(make_inputs(size, "cuda", dtype, grad=True))), "plain sdpa + backward")
    return forward + backward + refused


def merging_part(stop: float) -> Results:
    """Pictures per second of diffusionmix, whose package must be there."""
    from gpu_merging import merging_part as part

    return part(stop)


def mobi_part(stop: float) -> Results:
    """Camera+lidar samples per minute of mobi, whose package must be there, and microseconds per sweep of the range view."""
    from gpu_mobi import mobi_part as part

    return part(stop)


PARTS: dict[str, Callable[[float], Results]] = {"attention": attention_part, "merging": merging_part, "mobi": mobi_part}


def main() -> int:
    """Run the named parts; 2 when there is no card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part alone (may be given again)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_suite: this machine has no CUDA device; run it where torch.cuda.is_available()", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.only or PARTS:
        start = time.monotonic()
        lines = PARTS[part](start + LIMIT_SECONDS)
        record = {
            "part": part,
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "seconds": round(time.monotonic() - start, 1),
            "results": lines,
        }
        path = args.out / f"gpu_{part}.json"
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(record, indent=1) + "\n")
        beside.replace(path)
        note(f"{part}: {record['seconds']} s, wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
