"""Properties 3 to 9, 18 to 20 of the method's specification: losses on maps, against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d
from torch.nn import functional as F

from didgen.encode import encode_layouts
from didgen.losses import blur, box_cells, box_loss, cross_loss, kernel, region_loss, self_loss, token_map
from didgen.maps import Grids
from graft_common.attention import attend_columns

DISC = ((torch.arange(16)[:, None] - 7.5) ** 2 + (torch.arange(16)[None] - 7.5) ** 2 <= 25).double()[None]


def attention(n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, 2, n, d, generator=gen, dtype=torch.float64) for _ in range(2))
    return (q @ k.transpose(2, 3) * d**-0.5).softmax(-1).mean(1)[0]


def test_cross_loss_has_the_closed_form_values():
    assert cross_loss(DISC, DISC).item() == pytest.approx(0, abs=1e-6)
    assert cross_loss(1 - DISC, DISC).item() == pytest.approx(2, abs=1e-6)
    assert cross_loss(torch.full_like(DISC, 0.3), DISC).item() == pytest.approx(1, abs=1e-6)
    assert cross_loss(DISC / 2, DISC).item() == pytest.approx(0.5, abs=1e-6)


def test_cross_loss_only_counts_cells_by_their_mask():
    a = torch.rand(1, 16, 16, dtype=torch.float64)
    swapped = a.clone()
    swapped[0, 7, 7], swapped[0, 8, 8] = a[0, 8, 8], a[0, 7, 7]
    assert cross_loss(a, DISC).item() == pytest.approx(cross_loss(swapped, DISC).item(), abs=1e-12)


def test_self_loss_is_the_quadratic_form_and_within_its_range():
    p, m = attention(256), DISC.flatten()
    u = 1 - m
    s = (p @ u).view(1, 16, 16)
    assert self_loss(s, DISC).item() == pytest.approx(float(m @ p @ u / u.sum()), rel=1e-12)
    assert 0 < self_loss(s, DISC).item() < float(m.sum() / u.sum())
    assert self_loss(s, DISC, "mean_row").item() == pytest.approx(float(m @ p @ u / m.sum()), rel=1e-12)
    blocks = torch.where(m[:, None] == m[None], p, 0)
    blocks = blocks / blocks.sum(1, keepdim=True)
    assert self_loss((blocks @ u).view(1, 16, 16), DISC).item() == pytest.approx(0, abs=1e-7)


def test_self_loss_by_a_value_column_equals_the_explicit_softmax_with_its_gradient():
    gen = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 256, 8, generator=gen, dtype=torch.float64).requires_grad_() for _ in range(3))
    u = (1 - DISC).flatten()
    _, column = attend_columns(q, k, v, u[None, None, :, None])
    ours = self_loss(column.mean(1)[..., 0].view(1, 16, 16), DISC).sum()
    explicit = (q @ k.transpose(2, 3) * 8**-0.5).softmax(-1).mean(1) @ u
    theirs = self_loss(explicit.view(1, 16, 16), DISC).sum()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(torch.autograd.grad(ours, (q, k)), torch.autograd.grad(theirs, (q, k)), strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-9


def test_token_map_is_a_softmax_over_the_kept_tokens_only():
    maps = torch.rand(2, 6, 8, 8, dtype=torch.float64) / 20
    kept = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    lesion = torch.tensor([1, 2])
    each = torch.stack([token_map(maps[:1], kept[:1], torch.tensor([i])) for i in range(4)])
    assert torch.allclose(each.sum(0), torch.ones(1, 8, 8, dtype=torch.float64), atol=1e-6)
    more = torch.cat([maps, torch.rand(2, 3, 8, 8, dtype=torch.float64)], 1)  # padding after the end changes nothing
    wider = torch.cat([kept, torch.zeros(2, 3, dtype=torch.bool)], 1)
    assert torch.equal(token_map(maps, kept, lesion), token_map(more, wider, lesion))


def test_the_kernel_is_the_reference_one_and_keeps_a_constant():
    one = kernel()
    assert one.sum().item() == pytest.approx(1, abs=1e-7)
    assert one.tolist() == pytest.approx([0.2119, 0.5761, 0.2119], abs=1e-4)
    assert torch.allclose(blur(torch.full((1, 5, 7), 0.4)), torch.full((1, 5, 7), 0.4), atol=1e-6)
    a = torch.rand(1, 9, 9, dtype=torch.float64)
    judge = convolve1d(convolve1d(a[0].numpy(), one.numpy(), axis=0, mode="mirror"), one.numpy(), axis=1, mode="mirror")
    assert torch.allclose(blur(a)[0], torch.from_numpy(judge), atol=1e-12)


def test_region_loss_is_zero_on_its_targets_and_the_same_at_every_resolution():
    soft = F.avg_pool2d(DISC, 2)
    both = torch.stack([soft, 1 - soft], 1)
    assert region_loss(both, soft).item() == 0
    maps = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    fine, wide = (F.interpolate(x, scale_factor=2, mode="nearest") for x in (maps, soft[None]))
    assert region_loss(fine, wide[0]).item() == pytest.approx(region_loss(maps, soft).item(), abs=1e-6)
    by_hand = 0.5 * ((maps[0, 0] - soft[0]) ** 2).mean() + 0.5 * ((maps[0, 1] - 1 + soft[0]) ** 2).mean()
    assert region_loss(maps, soft).item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_region_loss_normalised_by_the_maximum_or_over_both_tokens():
    maps = torch.stack([DISC, 1 - DISC], 1)
    assert region_loss(maps * 0.01, DISC, "max").item() == pytest.approx(0, abs=1e-12)
    assert region_loss(maps, DISC, "ptokens").item() == pytest.approx(0, abs=1e-12)
    assert region_loss(maps * 0.01, DISC).item() > 0.2


def test_layouts_on_the_grids_keep_their_area_and_lesion_plus_skin_is_one():
    mask = np.random.default_rng(1).random((512, 512)) > 0.6
    mask[:256] = False
    on = encode_layouts([mask], Grids((16, 16), (32, 32), 1), ["a"])
    assert torch.equal(on.cross + (1 - on.cross), torch.ones_like(on.cross))
    assert on.cross.mean().item() == pytest.approx(mask.mean(), abs=1e-6)
    blocks = mask.reshape(16, 32, 16, 32).mean((1, 3))
    assert np.allclose(on.cross[0].numpy(), blocks, atol=1e-6)
    assert np.array_equal(on.inside[0].bool().numpy(), mask.reshape(32, 16, 32, 16).mean((1, 3)) > 0.5)


@pytest.mark.parametrize("cells", [(3, 4, 4, 5), (0, 0, 16, 16), (2, 3, 9, 12)])
def test_box_loss_is_finite_with_its_gradient(cells):
    a = torch.rand(2, 16, 16, dtype=torch.float64).requires_grad_()
    loss = box_loss(a, cells)
    (grad,) = torch.autograd.grad(loss.sum(), a)
    assert loss.isfinite().all() and grad.isfinite().all() and float(grad.abs().sum()) > 0


def test_box_loss_is_zero_on_a_filled_box_and_counts_each_term():
    a = torch.zeros(1, 16, 16, dtype=torch.float64)
    a[:, 4:10, 3:12] = 1
    assert box_loss(a, (3, 4, 12, 10)).item() == pytest.approx(0, abs=1e-12)
    # nothing drawn: inner 1; edges: 2 + 2 cells inside the box of each projection are missing, of 16
    assert box_loss(0 * a, (3, 4, 12, 10)).item() == pytest.approx(1 + 2 * 4 / 16, abs=1e-12)
    whole = torch.rand(1, 16, 16, dtype=torch.float64)
    inner = 1 - whole.flatten().topk(51).values.mean()
    edges = sum((1 - whole.amax(axis)[0, [0, 1, -2, -1]]).sum() / 16 for axis in (1, 2))
    assert box_loss(whole, (0, 0, 16, 16)).item() == pytest.approx(float(inner + edges), rel=1e-9)  # no outer term


def test_a_box_keeps_at_least_one_cell():
    assert box_cells((0.5, 0.5, 0.51, 0.52), (16, 16)) == (8, 8, 9, 9)
    assert box_cells((0.99, 0.0, 1.0, 1.0), (16, 16)) == (15, 0, 16, 16)
    assert math.isfinite(box_loss(torch.rand(1, 16, 16), (15, 0, 16, 16)).item())
