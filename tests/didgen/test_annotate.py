"""Properties 10 to 13: spreading along self-attention, Otsu, closing, and masks of synthetic attention."""

import numpy as np
import pytest
import torch

from didgen.annotate import THIN, annotate, closed, flags, iou, mask_of, spread, thin, to_levels
from didgen.records import Attention


def disc(size: int, radius: float, center: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def attention_of(radius: float, seed: int = 0) -> Attention:
    """Self-attention that is strong within and weak across a disc, and a blurred, noisy cross map of it."""
    gen = torch.Generator().manual_seed(seed)
    inside = torch.from_numpy(disc(32, radius)).flatten()
    logits = torch.where(inside[:, None] == inside[None], 3.0, 0.0) + 0.3 * torch.randn(1024, 1024, generator=gen)
    cross = torch.from_numpy(disc(16, radius)).float() * 0.1 + 0.03 + 0.02 * torch.rand(16, 16, generator=gen)
    return Attention(cross[None], logits.softmax(-1)[None], (32, 32))


def test_spreading_is_the_matrix_power():
    attention = attention_of(0.25)
    power = torch.linalg.matrix_power(attention.affinity[0].double(), 4)
    assert torch.allclose(power.sum(1), torch.ones(1024, dtype=torch.float64), atol=1e-5)
    ours = spread(attention, 4, (32, 32))[0]
    cross = attention.lesion
    unit = (cross - cross.min()) / (cross.max() - cross.min())
    fine = torch.nn.functional.interpolate(unit[:, None], (32, 32), mode="bicubic", align_corners=False).flatten()
    judge = (power @ fine.double()).view(32, 32)
    judge = (judge - judge.min()) / (judge.max() - judge.min())
    assert torch.allclose(ours.double(), judge, atol=1e-4)


def test_a_constant_map_stays_constant():
    attention = attention_of(0.25)
    flat = torch.full((1, 1024, 1), 0.3)
    for _ in range(4):
        flat = attention.affinity @ flat
    assert torch.allclose(flat, torch.full_like(flat, 0.3), atol=1e-6)
    assert not annotate(Attention(torch.full((1, 16, 16), 0.3), attention.affinity, (32, 32)), (64, 64))[0].mask.any()


def test_otsu_is_the_best_threshold_of_all_256():
    heat = np.clip(np.random.default_rng(2).normal(np.where(disc(64, 0.3), 0.7, 0.3), 0.1), 0, 1)
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    levels = to_levels(heat)
    best, score = -1, -1.0
    for t in range(256):
        low, high = levels[levels <= t], levels[levels > t]
        if len(low) and len(high):
            between = len(low) * len(high) * (high.mean() - low.mean()) ** 2
            if between > score * (1 + 1e-12):
                best, score = t, between
    assert mask_of(heat).level == best
    assert np.array_equal(mask_of(heat).mask, levels > best)


def test_the_mask_does_not_change_with_the_scale_of_the_attention():
    plain = attention_of(0.25)
    scaled = Attention(plain.lesion * 0.01 + 0.2, plain.affinity, plain.grid)
    a, b = (annotate(x, (512, 512))[0] for x in (plain, scaled))
    assert iou(a.mask, b.mask) > 0.999 and abs(a.level - b.level) <= 1


def test_closing_contains_its_input_is_idempotent_and_keeps_the_border():
    rng = np.random.default_rng(0)
    mask = disc(512, 0.2, (0.05, 0.5)) & (rng.random((512, 512)) > 0.2)
    once = closed(mask)
    assert not (mask & ~once).any()
    assert np.array_equal(closed(once), once)
    whole = disc(512, 0.2, (0.05, 0.5))
    assert np.array_equal(closed(whole)[:, 0], whole[:, 0])


@pytest.mark.parametrize("radius", [0.12, 0.2, 0.28, 0.35])
@pytest.mark.parametrize(("size", "floor"), [(512, 0.85), (32, 0.88)])
def test_a_disc_is_found_in_synthetic_attention(radius, size, floor):
    found = annotate(attention_of(radius), (size, size))[0]
    assert iou(found.mask, disc(size, radius)) >= floor
    assert found.contrast > 0.5 and found.agreement > 0.8
    assert flags(found, disc(size, radius)) == ()


def test_flags_name_what_is_wrong():
    layout = disc(64, 0.25)
    assert flags(mask_of(np.zeros((64, 64))), layout)[0] == "mask is (almost) empty"
    elsewhere = mask_of(disc(64, 0.15, (0.2, 0.2)).astype(float))
    assert flags(elsewhere, disc(64, 0.15, (0.8, 0.8))) == ("mask lies elsewhere than the layout",)
    dots = sum(disc(64, 0.05, (x, y)) for x in (0.2, 0.8) for y in (0.2, 0.8)) > 0
    assert "mask has more than 3 parts" in flags(mask_of(dots.astype(float)), None)
    lonely = np.random.default_rng(0).uniform(0, 0.1, (64, 64))
    lonely[3, 3] = 1  # the map is noise but for one cell
    assert "attention hardly tells lesion from skin" in flags(mask_of(lonely), None)
    assert "mask covers (almost) everything" in flags(mask_of(1 - disc(64, 0.1).astype(float)), None)


@pytest.mark.parametrize(("shape", "grid"), [((64, 64), (16, 16)), ((512, 768), (16, 24)), ((60, 128), (10, 16))])
def test_a_lesion_is_thin_below_the_width_of_a_cell(shape, grid):
    """Bars along both axes, one pixel below and at the cell's side; a disc; a thick lesion excuses no thin one."""
    (height, width), cell = shape, (shape[0] // grid[0], shape[1] // grid[1])
    thick = np.zeros(shape, bool)
    thick[: height // 2, : width // 3] = True
    for axis, side in enumerate(cell):
        for wide in (side - 1, side):
            bar = np.zeros(shape, bool)
            place = [slice(height // 4, None), slice(width // 2, None)]
            place[axis] = slice(shape[axis] - 3 - wide, shape[axis] - 3)
            bar[tuple(place)] = True
            assert thin(bar, grid) == (wide < side)
            assert thin(bar | thick, grid) == (wide < side)
    y, x = (np.mgrid[:height, :width] + 0.5) / [[[cell[0]]], [[cell[1]]]]
    assert not thin((y - 5) ** 2 + (x - 5) ** 2 <= 0.75**2, grid)
    assert thin((y - 5) ** 2 + (x - 5) ** 2 <= 0.3**2, grid)
    assert not thin(np.zeros(shape, bool), grid)


def test_a_thin_layout_is_a_reason_to_look():
    layout = disc(64, 0.25)
    layout[2:4, 5:60] = True
    assert flags(mask_of(disc(64, 0.25).astype(float)), layout, (16, 16)) == (THIN,)
    assert flags(mask_of(disc(64, 0.25).astype(float)), layout) == ()
