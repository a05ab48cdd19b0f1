"""Attention columns, maps and propagation against numpy written out, and every backend against the plain reference."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import softmax

from graft_common import attention
from graft_common.attention import tiles
from graft_common.errors import InputError

# batch, heads, queries, keys, width, value width, columns
SIZES = [(2, 3, 37, 41, 12, 20, 5), (1, 2, 64, 77, 40, 40, 77), (1, 1, 1, 1, 3, 3, 1), (2, 2, 130, 130, 64, 64, 8)]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def tensors(size, dtype=torch.float64, grad=False, seed=0):
    b, h, n, m, d, e, c = size
    make = torch.Generator().manual_seed(seed)
    shapes = [(b, h, n, d), (b, h, m, d), (b, h, m, e), (b, 1, m, c)]
    return [torch.randn(s, generator=make, dtype=torch.float64).to(dtype).requires_grad_(grad) for s in shapes]


def masks(size, kind, seed=1):
    """None, one mask for all heads with every row open, or one per head whose row 0 is closed."""
    b, h, n, m, *_ = size
    if kind == "none":
        return None
    mask = torch.rand(b, 1 if kind == "shared" else h, n, m, generator=torch.Generator().manual_seed(seed)) > 0.6
    mask[..., 0] = True
    if kind == "closed row":
        mask[:, :, 0] = False
    return mask


def plain(q, k, mask=None, scale=None):
    """P in numpy and scipy, float64: the independent judge."""
    scores = np.einsum("bhnd,bhmd->bhnm", q.double().numpy(), k.double().numpy())
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is None:
        return softmax(scores, axis=-1)
    open_ = np.broadcast_to(mask.numpy(), scores.shape)
    p = softmax(np.where(open_ | ~open_.any(-1, keepdims=True), scores, -1e30), axis=-1)
    return p * open_.any(-1, keepdims=True)


def largest(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


@pytest.mark.parametrize("kind", ["none", "shared", "closed row"])
@pytest.mark.parametrize("size", SIZES)
def test_reference_is_softmax_written_out(size, kind):
    q, k, v, _ = tensors(size)
    mask = masks(size, kind)
    output, probabilities = attention.reference(q, k, v, mask, scale=0.3)
    want = plain(q, k, mask, scale=0.3)
    assert largest(probabilities, want) < 1e-14
    assert largest(output, want @ v.numpy()) < 1e-13


def test_reference_gradient_is_the_numerical_one():
    q, k, v, _ = tensors((1, 2, 4, 5, 3, 2, 1), grad=True)
    mask = masks((1, 2, 4, 5, 3, 2, 1), "closed row")
    assert torch.autograd.gradcheck(lambda *x: attention.reference(*x, mask), (q, k, v))


@pytest.mark.parametrize("kind", ["none", "shared", "closed row"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", SIZES)
def test_columns_and_their_gradients_equal_the_reference(size, dtype, kind):
    mask = masks(size, kind)
    outcomes = []
    for backend in ("sdpa", "reference"):
        inputs = tensors(size, dtype, grad=True)
        results = attention.attend_columns(*inputs, mask, backend=backend)
        loss = sum(result.sin().sum() for result in results)
        outcomes.append((*results, *torch.autograd.grad(loss, inputs)))
    for got, want in zip(*outcomes, strict=True):
        assert largest(got.detach(), want.detach()) < TOLERANCE[dtype]


@pytest.mark.parametrize("size", SIZES)
def test_columns_alone_and_plain_attention_equal_numpy(size):
    q, k, v, columns = tensors(size)
    for kind in ("none", "shared", "closed row"):
        mask = masks(size, kind)
        want = plain(q, k, mask)
        assert largest(attention.columns_only(q, k, columns, mask), want @ columns.numpy()) < 1e-12
        assert largest(attention.attend(q, k, v, mask), want @ v.numpy()) < 1e-12


def test_one_hot_columns_are_single_maps_per_head():
    size = (2, 3, 30, 11, 16, 16, 1)
    q, k, v, _ = tensors(size)
    one_hot = torch.eye(11, dtype=torch.bool)[:, [2, 7]].expand(2, 3, 11, 2)
    output, maps = attention.attend_columns(q, k, v, one_hot)
    assert largest(maps, plain(q, k)[..., [2, 7]]) < 1e-12
    assert torch.equal(output, attention.attend_columns(q, k, v, one_hot.double())[0])


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_closed_rows_give_zeros_and_finite_gradients(backend):
    size = (1, 2, 9, 7, 8, 8, 3)
    q, k, v, columns = inputs = tensors(size, torch.float32, grad=True)
    mask = masks(size, "closed row")
    for result in attention.attend_columns(q, k, v, columns, mask, backend=backend):
        assert torch.count_nonzero(result[:, :, 0]) == 0
        gradients = torch.autograd.grad(result.sum(), inputs, retain_graph=True, allow_unused=True)
        assert all(g is None or torch.isfinite(g).all() for g in gradients)
        assert torch.count_nonzero(gradients[0][:, :, 0]) == 0
    closed = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    assert torch.count_nonzero(attention.attend(q, k, v, closed, backend=backend)) == 0
    assert torch.count_nonzero(attention.mean_map(q, k, closed, backend=backend)) == 0


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_mean_map_is_the_mean_over_heads(backend, monkeypatch):
    monkeypatch.setattr(tiles, "CPU_TILE", 3 * 41 * 2 * 5)  # five queries at a time, the last tile shorter
    size = SIZES[0]
    q, k, *_ = tensors(size)
    for kind in ("none", "shared", "closed row"):
        mask = masks(size, kind)
        assert largest(attention.mean_map(q, k, mask, 0.4, backend), plain(q, k, mask, 0.4).mean(1)) < 1e-14


def test_tiles_have_the_gradient_of_the_whole(monkeypatch):
    monkeypatch.setattr(tiles, "CPU_TILE", 1)
    q, k, *_ = tensors((1, 2, 5, 5, 3, 3, 1), grad=True)
    x = torch.rand(1, 5, 2, dtype=torch.float64, requires_grad=True)
    for call in (
        lambda backend: attention.mean_map(q, k, backend=backend).square().sum() + 0 * x.sum(),
        lambda backend: attention.propagate(q, k, x, 3, elementwise=True, backend=backend).square().sum(),
    ):
        pairs = zip(*(torch.autograd.grad(call(backend), (q, k, x)) for backend in ("sdpa", "reference")), strict=True)
        assert all(largest(got, want) < 1e-14 and want.isfinite().all() for got, want in pairs)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("power", [1, 2, 4])
def test_matrix_power_propagates_like_numpy(power, backend):
    q, k, *_ = tensors((2, 3, 33, 33, 8, 8, 1))
    x = torch.rand(2, 33, 5, dtype=torch.float64)
    want = np.linalg.matrix_power(plain(q, k, None, 0.5).mean(1), power) @ x.numpy()
    assert largest(attention.propagate(q, k, x, power, scale=0.5, backend=backend), want) < 1e-12


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize("power", [1, 0.5, 4])
def test_elementwise_power_propagates_like_numpy(power, backend, monkeypatch):
    monkeypatch.setattr(tiles, "CPU_TILE", 2 * 3 * 44 * 10)
    q, k, *_ = tensors((2, 3, 33, 44, 8, 8, 1))
    x = torch.rand(2, 44, 5, dtype=torch.float64)
    want = plain(q, k).mean(1) ** power @ x.numpy()
    got = attention.propagate(q, k, x, power, elementwise=True, backend=backend)
    assert np.allclose(got, want, rtol=1e-11, atol=0)


def test_tiny_powers_survive_half_precision():
    q, k, *_ = tensors((1, 2, 512, 512, 8, 8, 1), torch.float16)
    x = torch.ones(1, 512, 1, dtype=torch.float16)
    got = attention.propagate(q, k, x, 4, elementwise=True)
    want = (plain(q, k).mean(1) ** 4).sum(-1, keepdims=True)  # about 1e-8, below half of float16's smallest number
    assert np.allclose(got, want, rtol=0.02, atol=0)


def test_bfloat16_error_is_at_most_twice_that_of_plain_code():
    size = (2, 4, 200, 130, 64, 64, 8)
    low = tensors(size, torch.bfloat16)
    q, k, v, columns = low
    twin, probabilities = attention.reference(q, k, v, upcast=True)
    wants = (twin, probabilities @ columns.float())
    plain_low = attention.attend_columns(*low, backend="reference")
    fused = attention.attend_columns(*low, backend="sdpa")
    for got, usual, want in zip(fused, plain_low, wants, strict=True):
        assert got.dtype == torch.bfloat16
        assert largest(got.float(), want) <= 2 * largest(usual.float(), want)
    mean_want = probabilities.mean(1)
    errors = [largest(attention.mean_map(q, k, backend=b).float(), mean_want) for b in ("sdpa", "reference")]
    assert errors[0] <= 2 * errors[1]


def test_strided_inputs_and_broadcast_masks():
    make = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 8, 3, 9, generator=make, dtype=torch.float64).permute(0, 2, 3, 1) for _ in range(3))
    for shape in [(1, 1, 9, 9), (2, 1, 1, 9), (1, 3, 9, 1), (1, 1, 1, 9)]:
        mask = torch.rand(shape, generator=make) > 0.4
        assert largest(attention.attend(q, k, v, mask), plain(q, k, mask) @ v.numpy()) < 1e-13


Q, K, V, X = tensors((1, 2, 9, 7, 8, 8, 3), torch.float32)
CALLS = {  # function, arguments, options, words of the refusal
    "a float mask": (attention.attend, (Q, K, V, torch.ones(1, 1, 9, 7)), {}, "bool mask"),
    "a mask of other size": (attention.mean_map, (Q, K, torch.ones(1, 1, 7, 7).bool()), {}, "1x1x7x7"),
    "columns per query": (attention.columns_only, (Q, K, X[:, :, :5]), {}, "columns is 1x1x5x3"),
    "widths apart": (attention.columns_only, (Q, K[..., :5], X), {}, "1x2x7x5"),
    "mixed dtypes": (attention.attend, (Q, K, V.double()), {}, "cast both alike"),
    "no keys": (attention.columns_only, (Q, K[:, :, :0], X[:, :, :0]), {}, "no tokens"),
    "power on unequal sides": (attention.propagate, (Q, K, X[:, 0], 2), {}, "as many queries as keys"),
    "a broken power": (attention.propagate, (Q, K, X[:, 0], 1.5), {}, "elementwise=True"),
    "power zero": (attention.propagate, (Q, K, X[:, 0], 0), {"elementwise": True}, "above 0"),
    "triton on the CPU": (attention.attend, (Q, K, V), {"backend": "triton"}, "CUDA tensors"),
    "xformers on the CPU": (attention.attend, (Q, K, V), {"backend": "xformers"}, "xformers"),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_does_not_fit_is_refused_with_a_reason(name):
    function, arguments, options, words = CALLS[name]
    own = inspect.unwrap(function)  # its own checks, without the type checker that the tests put around it
    with pytest.raises(InputError, match=words) as caught:
        own(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_named_backends_refuse_and_auto_does_not():
    refuses = inspect.unwrap(attention.refuses)

    def request(**other):
        base = {"device": "cuda", "dtype": torch.float32, "width": 64, "masked": False, "differentiates": False}
        return attention.Request(**({"operation": "attend"} | base | other))

    assert refuses("sdpa", request()) is None
    assert "float64" in refuses("sdpa", request(dtype=torch.float64))
    assert refuses("auto", request(dtype=torch.float64)) is None
    assert refuses("triton", request()) is None
    assert "backward" in refuses("triton", request(differentiates=True))
    assert "256" in refuses("triton", request(width=300))
    assert "float64" in refuses("triton", request(dtype=torch.float64))
    assert "no such backend" in refuses("flash", request())


def test_importing_attention_loads_no_kernel():
    code = (
        "import sys, graft_common.attention; "
        "print([m for m in sys.modules if m.startswith(('xformers', 'graft_common.attention.kernels'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
