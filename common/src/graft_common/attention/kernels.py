"""Triton kernels. Rows of the online softmax follow FlashAttention-2 (Dao 2023, algorithm 1), in base 2.

Letters: b batch, h head, n query, m key, d width of q and k, e width of v, c column. Every tensor is contiguous except
`mask`, which comes with its four strides (0 where it is broadcast) as uint8. Blocks D, E, C are powers of two >= 16.
`no_type_check` keeps run-time type checkers from wrapping what Triton compiles.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def load_block(base, rows, cols, n_rows, n_cols):
    """Rows x cols of a contiguous matrix, zeros beyond its edges."""
    inside = (rows[:, None] < n_rows) & (cols[None, :] < n_cols)
    return tl.load(base + rows[:, None].to(tl.int64) * n_cols + cols[None, :], mask=inside, other=0.0)


@triton.jit
@no_type_check
def score_block(q, k, base, n, m, N, M, stride_n, stride_m, scale2, HAS_MASK: tl.constexpr):
    """scale * q k^T in base 2 for one block; -inf beyond the last key and where the mask forbids."""
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2
    open_ = m[None, :] < M
    if HAS_MASK:
        where = base + n[:, None].to(tl.int64) * stride_n + m[None, :].to(tl.int64) * stride_m
        open_ = open_ & (tl.load(where, mask=(n[:, None] < N) & open_, other=0) != 0)
    return tl.where(open_, s, float("-inf"))


@triton.jit
@no_type_check
def forward_kernel(
    q_ptr, k_ptr, v_ptr, columns_ptr, mask_ptr, out_ptr, maps_ptr, lse_ptr,
    stride_b, stride_h, stride_n, stride_m,
    heads, N, M, d, e, c, scale2,
    D: tl.constexpr, E: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    HAS_V: tl.constexpr, HAS_COLUMNS: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head: P @ v, P @ columns and the log2-sum-exp2 of the scores, in one pass."""
    bh = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_base = mask_ptr + (bh // heads) * stride_b + (bh % heads) * stride_h
    ds = tl.arange(0, D)
    es = tl.arange(0, E)
    cs = tl.arange(0, C)
    q = load_block(q_ptr + bh * N * d, n, ds, N, d)
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    out = tl.zeros([BLOCK_N, E], tl.float32)
    maps = tl.zeros([BLOCK_N, C], tl.float32)
    for start in range(0, M, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        k = load_block(k_ptr + bh * M * d, m, ds, M, d)
        s = score_block(q, k, mask_base, n, m, N, M, stride_n, stride_m, scale2, HAS_MASK)
        new_top = tl.maximum(top, tl.max(s, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # no key open yet: keep -inf - -inf away
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(p, 1)
        if HAS_V:
            v = load_block(v_ptr + bh * M * e, m, es, M, e)
            out = out * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        if HAS_COLUMNS:
            x = load_block(columns_ptr + bh * M * c, m, cs, M, c)
            maps = maps * shrink[:, None] + tl.dot(p.to(x.dtype), x, input_precision="ieee")
        top = new_top
    safe = tl.where(total == 0.0, 1.0, total)  # a row without any open key: zeros
    rows = n[:, None].to(tl.int64)
    if HAS_V:
        where = out_ptr + bh * N * e + rows * e + es[None, :]
        tl.store(where, (out / safe[:, None]).to(out_ptr.dtype.element_ty), mask=(n[:, None] < N) & (es[None, :] < e))
    if HAS_COLUMNS:
        where = maps_ptr + bh * N * c + rows * c + cs[None, :]
        tl.store(where, (maps / safe[:, None]).to(maps_ptr.dtype.element_ty), mask=(n[:, None] < N) & (cs[None, :] < c))
    # 0 for a closed row: its scores are -inf, so exp2(s - lse) is 0 and not NaN.
    lse = tl.where(total == 0.0, 0.0, top + tl.log2(safe))
    tl.store(lse_ptr + bh * N + n, lse, mask=n < N)


@triton.jit
@no_type_check
def mean_block(
    q_ptr, k_ptr, mask_ptr, lse_ptr, b, n, m, stride_b, stride_h, stride_n, stride_m,
    heads, N, M, d, scale2, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """One block of mean_h P, the heads' probabilities recomputed from the scores and their log-sum-exp."""
    ds = tl.arange(0, D)
    mean = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for h in range(heads):
        bh = b * heads + h
        q = load_block(q_ptr + bh * N * d, n, ds, N, d)
        k = load_block(k_ptr + bh * M * d, m, ds, M, d)
        mask_base = mask_ptr + b * stride_b + h * stride_h
        s = score_block(q, k, mask_base, n, m, N, M, stride_n, stride_m, scale2, HAS_MASK)
        lse = tl.load(lse_ptr + bh * N + n, mask=n < N, other=0.0)
        mean += tl.exp2(s - lse[:, None])
    return mean / heads


@triton.jit
@no_type_check
def mean_map_kernel(
    q_ptr, k_ptr, mask_ptr, lse_ptr, out_ptr, stride_b, stride_h, stride_n, stride_m,
    heads, N, M, d, scale2, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """One block of the head-mean map, written once."""
    b = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    mean = mean_block(
        q_ptr, k_ptr, mask_ptr, lse_ptr, b, n, m, stride_b, stride_h, stride_n, stride_m,
        heads, N, M, d, scale2, D, BLOCK_N, BLOCK_M, HAS_MASK,
    )  # fmt: skip
    where = out_ptr + b * N * M + n[:, None].to(tl.int64) * M + m[None, :]
    tl.store(where, mean.to(out_ptr.dtype.element_ty), mask=(n[:, None] < N) & (m[None, :] < M))


@triton.jit
@no_type_check
def elementwise_kernel(
    q_ptr, k_ptr, lse_ptr, x_ptr, out_ptr, heads, N, M, d, c, scale2, power,
    D: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """One block of queries of ((mean_h P) ** power) @ x; the powers stay in registers, in float32 (they are tiny)."""
    b = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    cs = tl.arange(0, C)
    out = tl.zeros([BLOCK_N, C], tl.float32)
    for start in range(0, M, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        mean = mean_block(
            q_ptr, k_ptr, q_ptr, lse_ptr, b, n, m, 0, 0, 0, 0,
            heads, N, M, d, scale2, D, BLOCK_N, BLOCK_M, False,
        )  # fmt: skip
        raised = tl.where(mean > 0.0, tl.exp2(power * tl.log2(tl.maximum(mean, 1e-38))), 0.0)
        x = load_block(x_ptr + b * M * c, m, cs, M, c)
        out += tl.dot(raised, x, input_precision="ieee")
    where = out_ptr + b * N * c + n[:, None].to(tl.int64) * c + cs[None, :]
    tl.store(where, out, mask=(n[:, None] < N) & (cs[None, :] < c))
