"""Run by test_attention_triton.py in a process of its own: Triton reads its interpreter switch when kernels are imported.

`errors DEVICE` prints the largest error of every kernel against float64, in units of its tolerance.
`shared ARCH` compiles every kernel for that CUDA architecture, no card needed, and prints bytes of shared memory.
"""

import json
import math
import sys

import torch

from graft_common import attention
from graft_common.attention import fused_map, kernels

# batch, heads, queries, keys, width, value width, columns: odd sizes, more than one block, more columns than a pass
SIZES = [(2, 3, 37, 41, 12, 20, 5), (1, 2, 70, 130, 40, 40, 17), (1, 1, 1, 1, 3, 3, 1), (1, 2, 20, 33, 80, 72, 140)]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def errors(device: str) -> dict[str, float]:
    found: dict[str, float] = {}
    dtypes = [torch.float32, torch.float16] + ([torch.bfloat16] if device == "cuda" else [])
    for dtype in dtypes:
        for size in SIZES if dtype == torch.float32 or device == "cuda" else SIZES[:1]:  # the interpreter is slow
            for masked in (False, True):
                for name, got, want in results(size, dtype, masked, device):
                    error = float((got.cpu().double() - want).abs().max()) / TOLERANCE[dtype]
                    key = f"{name} {str(dtype).removeprefix('torch.')}"
                    found[key] = max(found.get(key, 0.0), math.inf if math.isnan(error) else error)
    return found


def results(size, dtype, masked, device):
    """(name, Triton's result, float64 reference of the same rounded inputs) for each operation."""
    b, h, n, m, d, e, c = size
    make = torch.Generator().manual_seed(n + masked)
    shapes = [(b, h, n, d), (b, h, m, d), (b, h, m, e), (b, 1, m, c)]
    low = [torch.randn(s, generator=make).to(dtype) for s in shapes]
    q, k, v, columns = (x.double() for x in low)
    ql, kl, vl, cl = (x.to(device) for x in low)
    mask = None
    if masked:
        mask = torch.rand(b, 1, n, m, generator=make) > 0.5
        mask[:, :, n // 2] = False
    on_device = None if mask is None else mask.to(device)
    want = attention.attend_columns(q, k, v, columns, mask, 0.2, "reference")
    got = attention.attend_columns(ql, kl, vl, cl, on_device, 0.2, "triton")
    yield from zip(("output", "maps"), got, want, strict=True)
    yield "attend", attention.attend(ql, kl, vl, on_device, 0.2, "triton"), want[0]
    yield "columns_only", attention.columns_only(ql, kl, cl, on_device, 0.2, "triton"), want[1]
    scores = (q @ k.mT * 0.2).masked_fill(~mask if masked else torch.tensor(False), float("-inf"))
    lse = (scores.logsumexp(-1) / 0.6931471805599453).nan_to_num(neginf=0.0)
    yield "log_sum_exp", fused_map.log_sum_exp(ql, kl, on_device, 0.2), lse
    want_map = attention.mean_map(q, k, mask, 0.2, "reference")
    yield "mean_map", attention.mean_map(ql, kl, on_device, 0.2, "triton"), want_map
    if not masked:
        x = columns[:, 0]
        power = attention.propagate(q, k, x, 2.5, True, 0.2, "reference")
        size_of_it = float(power.abs().max())  # powers are tiny: their error is relative
        yield (
            "elementwise",
            attention.propagate(ql, kl, cl[:, 0], 2.5, True, 0.2, "triton") / size_of_it,
            power / size_of_it,
        )
        yield (
            "matrix",
            attention.propagate(ql, kl, cl[:, 0], 1, False, 0.2, "triton"),
            attention.propagate(q, k, x, 1, False, 0.2),
        )


def shared(arch: int) -> dict[str, int]:
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = {}
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        for width, columns in ((64, 16), (128, 128), (256, 128)):
            block_n, block_m = fused_map._blocks(torch.empty(1, 1, 1, width, dtype=dtype))
            block = {"D": width, "BLOCK_N": block_n, "BLOCK_M": block_m}
            flags = {"HAS_V": True, "HAS_COLUMNS": True, "HAS_MASK": True}
            for kernel, constants in (
                (kernels.forward_kernel, block | flags | {"E": width, "C": columns}),
                (kernels.mean_map_kernel, block | {"HAS_MASK": True}),
                (kernels.elementwise_kernel, block | {"C": columns}),
            ):
                floats = {"lse_ptr"} | ({"x_ptr", "out_ptr"} if kernel is kernels.elementwise_kernel else set())
                types = {}
                for argument in kernel.arg_names:
                    if argument in constants:
                        types[argument] = "constexpr"
                    elif argument.endswith("_ptr"):
                        types[argument] = (
                            "*u8" if argument == "mask_ptr" else f"*{'fp32' if argument in floats else name}"
                        )
                    else:
                        types[argument] = "fp32" if argument in ("scale2", "power") else "i32"
                aligned = [a for a in types if a.endswith("_ptr") or a in ("N", "M", "d", "e", "c")]
                place = kernel.arg_names.index
                source = ASTSource(
                    kernel,
                    types,
                    {(place(a),): value for a, value in constants.items()},
                    {(place(a),): [["tt.divisibility", 16]] for a in aligned},
                )
                built = compile_kernel(source, target=GPUTarget("cuda", arch, 32))
                found[f"{kernel.__name__} {name} width {width}"] = built.metadata.shared
    return found


if __name__ == "__main__":
    print(json.dumps(errors(sys.argv[2]) if sys.argv[1] == "errors" else shared(int(sys.argv[2]))))
