"""What recording costs: plain SDPA, eager softmax, and `attend_columns` beside each other in one run.

    python benchmarks/bench_attention.py [--quick] [--threads 1] [--device cpu] [--dtype float32]

CPU times are worth their ratios only. Threads are set and said: beside other work, several can be far slower than one.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graft_common import attention
from timer import measure, report

COLUMNS = 8
SITES = {"1024x8": (2, 8, 1024, 64), "4096x5": (2, 5, 4096, 64)}  # Stable Diffusion's two widest self-attentions
QUICK = {"256x4": (1, 4, 256, 64)}


@dataclass(frozen=True)
class Inputs:
    """q, k, v (B, H, N, d) and columns (B, 1, N, C)."""

    q: Tensor
    k: Tensor
    v: Tensor
    columns: Tensor


def make_inputs(size: tuple[int, int, int, int], device: str, dtype: torch.dtype, grad: bool = False) -> Inputs:
    """Unit normal numbers from a fixed seed."""
    batch, _, tokens, _ = size
    make = torch.Generator().manual_seed(0)
    shapes = [size, size, size, (batch, 1, tokens, COLUMNS)]
    q, k, v, columns = (torch.randn(s, generator=make).to(device, dtype) for s in shapes)
    return Inputs(*(x.requires_grad_(grad) for x in (q, k, v)), columns)


def eager(x: Inputs) -> tuple[Tensor, Tensor]:
    """The usual way to record: form P, weigh the values, keep the maps."""
    output, probabilities = attention.reference(x.q, x.k, x.v)
    return output, probabilities @ x.columns


def forward_cases(x: Inputs) -> dict[str, Callable[[], Any]]:
    """What is compared without gradients; `plain sdpa` records nothing."""
    return {
        "plain sdpa": lambda: F.scaled_dot_product_attention(x.q, x.k, x.v),
        "eager softmax + columns": lambda: eager(x),
        "attend_columns": lambda: attention.attend_columns(x.q, x.k, x.v, x.columns),
        "columns_only": lambda: attention.columns_only(x.q, x.k, x.columns),
        "eager mean map": lambda: attention.mean_map(x.q, x.k, backend="reference"),
        "mean_map": lambda: attention.mean_map(x.q, x.k),
    }


def backward_cases(x: Inputs) -> dict[str, Callable[[], Any]]:
    """The same with a gradient to q, k and v, as guidance needs it."""

    def step(run: Callable[[], tuple[Tensor, ...]]) -> None:
        torch.autograd.grad(sum(result.sum() for result in run()), (x.q, x.k, x.v))

    return {
        "plain sdpa + backward": lambda: step(lambda: (F.scaled_dot_product_attention(x.q, x.k, x.v),)),
        "eager softmax + columns + backward": lambda: step(lambda: eager(x)),
        "attend_columns + backward": lambda: step(lambda: attention.attend_columns(x.q, x.k, x.v, x.columns)),
    }


def bench(sizes: dict[str, tuple[int, int, int, int]], device: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Every case at every size; ratios are against plain SDPA of the same size and run."""
    lines: list[dict[str, Any]] = []
    for name, size in sizes.items():
        x = make_inputs(size, device, dtype)
        with torch.no_grad():
            timings = [measure(case, run, name, device, dtype) for case, run in forward_cases(x).items()]
        lines += report(timings, "plain sdpa")
        x = make_inputs(size, device, dtype, grad=True)
        timings = [measure(case, run, name, device, dtype, warm_up=1) for case, run in backward_cases(x).items()]
        lines += report(timings, "plain sdpa + backward")
    return lines


def main() -> int:
    """Parse, set the threads, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, a few seconds")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: this machine has no CUDA device; use --device cpu")
    torch.set_num_threads(args.threads)
    bench(QUICK if args.quick else SITES, args.device, getattr(torch, args.dtype))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
