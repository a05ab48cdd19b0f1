"""Judges of an object model: decided masks, colour, areas, nearness; true objects pass, spoiled ones are caught."""

from functools import lru_cache

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from diffusionmix.object_metrics import (
    area_distance,
    colour_object,
    decided,
    expected_area_distance,
    mask_iou,
    near_share,
    nearest_distance,
    thumbnails,
)
from diffusionmix.object_scores import score_objects
from diffusionmix.world import draw_scene, object_crop

HELD = 10_000_000
CLASSES = [
    ("texture", "blob", 0.95),
    ("texture", "hole", 0.9),
    ("texture", "crack", 0.85),
    ("scene", "ball", 0.95),
    ("scene", "crate", 0.95),
]


@lru_cache
def crops(world: str, label: str, first: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [object_crop(draw_scene(world, 96, first + i, label), 64) for i in range(n)]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


@pytest.mark.parametrize("world, label, least", CLASSES)
def test_colour_finds_true_objects_without_their_mask(world: str, label: str, least: float) -> None:
    images, masks = crops(world, label, HELD, 8)
    found = [colour_object(image) for image in images]
    assert np.mean([mask_iou(f, m) for f, m in zip(found, masks, strict=True)]) > least
    near = [near_share(f, m) for f, m in zip(found, masks, strict=True)]
    assert np.mean(near) > 0.97
    moved = [mask_iou(f, np.roll(m, 5, axis=1)) for f, m in zip(found, masks, strict=True)]
    assert np.mean(moved) < least - 0.1


def test_decided_needs_most_pixels_far_from_zero() -> None:
    channel = np.full((3, 20, 20), 0.9, np.float32)
    channel[0, :, :10] = -0.95
    channel[1].flat[:20] = 0.0  # 5 % of the pixels
    channel[2].flat[:21] = 0.0
    assert decided(channel).tolist() == [True, True, False]


def test_overlaps_by_hand() -> None:
    a, b, none = np.zeros((3, 8, 8), bool)
    a[3, 1:7] = True
    b[4, 1:7] = True
    assert mask_iou(a, b) == 0 and near_share(a, b) == 1
    b[:] = np.roll(a, 2, axis=0)
    assert near_share(a, b) == 0
    b[:] = a
    b[0, 0] = True  # one stray pixel of seven
    assert near_share(a, b) == pytest.approx(6 / 7) and mask_iou(a, b) == pytest.approx(6 / 7)
    assert mask_iou(none, none) == near_share(none, none) == 1 and near_share(a, none) == mask_iou(a, none) == 0


def test_area_distances() -> None:
    assert area_distance(np.array([0.1, 0.2]), np.array([0.3, 0.4])) == pytest.approx(0.2)
    rng = np.random.default_rng(1)
    pool, held = rng.random(500), rng.random(80)
    few, many = (expected_area_distance(pool, held, n) for n in (10, 400))
    assert few > many > 0
    assert expected_area_distance(pool, held, 500) == pytest.approx(wasserstein_distance(pool, held))


def test_copies_are_caught_also_turned_and_mirrored() -> None:
    train, _ = crops("texture", "blob", 0, 8)
    held, _ = crops("texture", "blob", HELD, 8)
    far = np.median(nearest_distance(held, train))
    assert (nearest_distance(train, train) < 1e-7).all()
    turned = np.ascontiguousarray(np.rot90(train[:, :, ::-1], 1, axes=(1, 2)))
    assert (nearest_distance(turned, train) < 1e-7).all() and (nearest_distance(turned, train, turns=False) > 1e-3).all()
    noisy = np.clip(train + np.random.default_rng(0).normal(0, 4, train.shape), 0, 255).astype(np.uint8)
    assert np.median(nearest_distance(noisy, train)) < 0.3 * far


def test_distance_is_the_root_mean_square_difference() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    judge = [min(np.sqrt(((x.astype(float) - y) ** 2).mean()) / 255 for y in b) for x in a]
    np.testing.assert_allclose(nearest_distance(a, b, turns=False), judge, rtol=1e-6)
    assert thumbnails(np.full((1, 64, 64, 3), 255, np.uint8)).sum() == pytest.approx(np.sqrt(3072))


def test_the_table_of_true_spoiled_and_copied_objects() -> None:
    train, held, other = (crops("texture", "hole", first, n) for first, n in ((0, 24), (HELD, 16), (HELD + 900, 16)))
    true = score_objects(*other, held, train, agreement=np.ones(16, bool))
    assert true["mask_iou"]["mean"] > 0.9 and true["area_ratio"]["mean"] < 2 and 0.8 < true["nearest_ratio"]["mean"] < 1.25
    assert true["agreement"]["mean"] == 1 and "decided" not in true
    copied = score_objects(train[0][:16], train[1][:16], held, train)
    assert copied["nearest_ratio"]["mean"] < 0.05
    small = np.zeros_like(other[1])
    small[:, 30:33, 30:33] = True
    spoiled = score_objects(other[0], small, held, train, channel=np.zeros((16, 64, 64), np.float32))
    assert spoiled["area_ratio"]["mean"] > 2 and spoiled["mask_iou"]["mean"] < 0.2 and spoiled["decided"]["mean"] == 0
    assert score_objects(other[0], small & False, held)["empty"]["mean"] == 1
