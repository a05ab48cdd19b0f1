"""Seam, harmony and contrast: closed forms on ramps and steps, and what they say of true, erased and pasted objects."""

import math

import numpy as np
import pytest
from scipy.ndimage import sobel

from diffusionmix.object_metrics import mask_iou
from diffusionmix.seam import (
    contrast,
    difference_mask,
    gradient,
    harmony,
    masked_l1,
    measure_truths,
    seam_score,
    signed_distance,
)
from diffusionmix.world import draw_scene

WORLDS = [("texture", "blob"), ("texture", "hole"), ("texture", "crack"), ("scene", "ball"), ("scene", "crate")]
HELD, SIZE = 10_000_000, 96


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2).astype(np.uint8)


def test_gradient_of_a_ramp_and_against_sobel() -> None:
    ramp = grey(np.tile(np.arange(40) * 4, (40, 1)))
    np.testing.assert_allclose(gradient(ramp), 4 * math.sqrt(3))
    y, x = np.mgrid[:64, :64] / 10
    smooth = grey(np.rint(120 + 60 * np.sin(x) * np.cos(y)))
    judge = np.sqrt(3 * sum(sobel(smooth[..., 0].astype(float), axis=a) ** 2 for a in (0, 1))) / 8
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(gradient(smooth)[inner] - judge[inner]).mean() < 0.06 * judge[inner].mean()


def test_distance_is_half_a_pixel_on_both_sides_of_a_straight_edge() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:, 8:] = True
    np.testing.assert_allclose(signed_distance(mask)[5], np.arange(20) - 7.5)
    for empty in (np.zeros((9, 9), bool), np.ones((9, 9), bool)):
        with pytest.raises(ValueError, match="both sides"):
            signed_distance(empty)


def test_seam_score_of_a_step_on_a_ramp() -> None:
    """A step of h on a ramp of slope s: central differences see s + h/2 in two of the band's four columns, s in the others."""
    s, h = 2, 40
    mask = np.zeros((60, 60), bool)
    mask[:, 30:] = True
    picture = grey(np.tile(np.arange(60) * s, (60, 1)) + h * mask)
    assert seam_score(picture, mask) == pytest.approx((s + h / 4) / s, rel=1e-3)
    assert seam_score(grey(np.tile(np.arange(60) * s, (60, 1))), mask) == pytest.approx(1)
    assert seam_score(np.full((60, 60, 3), 90, np.uint8), mask) == pytest.approx(1)


def test_a_thin_object_is_compared_with_the_outer_band() -> None:
    mask = np.zeros((60, 60), bool)
    mask[:, 28:31] = True
    columns = np.full(60, 100.0)
    columns[28:31] = 160
    columns[36:42] += 3 * np.arange(6)  # a ramp inside the outer band on one side
    picture = grey(np.tile(columns, (60, 1)))
    slope = gradient(picture)[30]
    distance = np.abs(signed_distance(mask)[30])
    outer = slope[(distance >= 6) & (distance <= 9)].mean()
    assert (distance[mask[30]] < 6).all()
    assert seam_score(picture, mask) == pytest.approx(slope[distance <= 1.5].mean() / outer, rel=1e-3)


def test_no_room_around_the_mask_is_refused() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    with pytest.raises(ValueError, match="too small"):
        seam_score(np.zeros((8, 8, 3), np.uint8), mask)


def test_harmony_is_symmetric_and_zero_at_the_truth() -> None:
    assert harmony(3.0, 3.0) == 0
    assert harmony(6.0, 3.0) == pytest.approx(math.log(2)) == pytest.approx(harmony(1.5, 3.0))


def test_masked_difference_against_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 12, 13, 3), dtype=np.uint8)
    mask = rng.random((12, 13)) < 0.4
    judge = np.ma.masked_array(np.abs(a.astype(int) - b), np.repeat(~mask[..., None], 3, 2)).mean() / 255
    assert masked_l1(a, b, mask) == pytest.approx(judge)
    assert contrast(a, a, mask) == 0
    with pytest.raises(ValueError, match="empty"):
        masked_l1(a, b, np.zeros_like(mask))


@pytest.fixture(scope="module")
def drawn() -> dict:
    """Per class: measured truths (seeds 500...), and 16 other pictures."""
    found = {}
    for world, label in WORLDS:
        first = [draw_scene(world, SIZE, HELD + 500 + i, label) for i in range(20)]
        truths = measure_truths(
            [s.image for s in first], [s.mask for s in first], [s.label for s in first], [s.empty for s in first]
        )
        found[label] = truths, [draw_scene(world, SIZE, HELD + i, label) for i in range(10)]
    return found


@pytest.mark.parametrize("label", [label for _, label in WORLDS])
def test_true_and_erased_objects(drawn: dict, label: str) -> None:
    """A true picture agrees with the truth on average; an erased object is told by harmony and by contrast."""
    truths, scenes = drawn[label]
    true, erased, kept = [], [], []
    for scene in scenes:
        seam, strength = truths.match(label, scene.mask.sum())
        true.append(math.log(seam_score(scene.image, scene.mask) / seam))
        erased.append(harmony(seam_score(scene.empty, scene.mask), seam))
        kept.append(contrast(scene.image, scene.empty, scene.mask) / strength)
        assert contrast(scene.empty, scene.empty, scene.mask) == 0
    assert abs(np.mean(true)) < 0.15 and np.mean(np.abs(true)) < 0.35
    assert np.mean(erased) > 1.0 and min(erased) > np.mean(np.abs(true))
    assert 0.8 < np.mean(kept) < 1.2


def test_a_seam_moves_harmony(drawn: dict) -> None:
    """A bright rim drawn along the mask's edge makes an object's harmony worse in nearly every picture."""
    truths, scenes = drawn["ball"]
    worse = 0
    for scene in scenes:
        seam, _ = truths.match("ball", scene.mask.sum())
        rimmed = scene.image.copy()
        rimmed[np.abs(signed_distance(scene.mask)) < 1] = 255
        worse += harmony(seam_score(rimmed, scene.mask), seam) > harmony(seam_score(scene.image, scene.mask), seam)
    assert worse >= 0.9 * len(scenes)


def test_matching_takes_the_class_and_the_nearest_sizes() -> None:
    def disc(radius: int, level: int) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[:96, :96] - 48
        mask = y * y + x * x <= radius * radius
        picture = np.tile((np.arange(96) * 2)[None, :, None], (96, 1, 3)).astype(np.uint8)
        picture[mask] = level
        return picture, mask

    rows = [(disc(r, 250 if r < 20 else 220), "a") for r in (*range(8, 18), *range(26, 36))] + [(disc(12, 255), "b")]
    images, masks, labels = [p for (p, _), _ in rows], [m for (_, m), _ in rows], [label for _, label in rows]
    empties = [disc(0, 0)[0] * 0 for _ in rows]
    truths = measure_truths(images, masks, labels, empties)
    small, strength = truths.match("a", np.pi * 10**2)
    by_hand = [seam_score(images[i], masks[i]) for i in range(9)]
    assert small == pytest.approx(np.exp(np.log(by_hand).mean())) and strength == pytest.approx(250 / 255)
    assert truths.match("a", np.pi * 30**2)[1] == pytest.approx(220 / 255)
    assert truths.match("b", 5.0)[0] == pytest.approx(seam_score(images[-1], masks[-1]))
    with pytest.raises(ValueError, match="no true picture"):
        truths.match("c", 10.0)
    with pytest.raises(ValueError, match="empty mask"):
        truths.match("a", 0)


def test_difference_mask_finds_the_object() -> None:
    for world, label in WORLDS:
        found = []
        for i in range(3):
            scene = draw_scene(world, 96, HELD + i, label)
            found.append(mask_iou(difference_mask(scene.image, scene.empty), scene.mask))
        assert np.mean(found) > 0.8, label
    scene = draw_scene("scene", 64, HELD)
    assert not difference_mask(scene.image, scene.image).any()


