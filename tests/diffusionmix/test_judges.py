"""The independent judges learn true phantoms, equal seeds give equal judges, and their scores agree with brute force."""

import numpy as np
import pytest
import torch
from skimage.measure import label as regions

from diffusionmix.classifier import build_classifier, probabilities, train_classifier
from diffusionmix.downstream import downstream, over_seeds
from diffusionmix.judge_training import batch_rows, turned
from diffusionmix.segmenter import aupro, auroc, image_scores, train_segmenter


def coloured(n: int, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discs, red or blue, on grey noise: pictures, classes, masks."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 166, (n, size, size, 3)).astype(np.uint8)
    labels, masks = np.arange(n, dtype=np.int64) % 2, np.zeros((n, size, size), bool)
    y, x = np.mgrid[:size, :size]
    for i, kind in enumerate(labels):
        cy, cx = rng.integers(8, size - 8, 2)
        masks[i] = (y - cy) ** 2 + (x - cx) ** 2 <= 25
        images[i][masks[i]] = ((220, 30, 30), (30, 30, 220))[kind]
    return images, labels, masks


def test_classifier_learns_and_repeats() -> None:
    images, labels, _ = coloured(32, 0)
    held, truth, _ = coloured(16, 1)
    trained = train_classifier(images, labels, held, truth, ("red", "blue"), steps=16, batch=16)
    said = probabilities(trained, held)
    assert trained.accuracy == 1 == (said.argmax(axis=1) == truth).mean()
    np.testing.assert_allclose(said.sum(axis=1), 1, rtol=1e-5)
    one, two = (train_classifier(images, labels, held, 1 - truth, ("red", "blue"), steps=2, batch=8) for _ in range(2))
    assert np.array_equal(probabilities(one, held), probabilities(two, held))
    with pytest.raises(ValueError, match="two or more"):
        train_classifier(images, labels, held, truth, ("red",))


def test_building_a_judge_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    build_classifier(2, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_segmenter_learns_and_more_data_scores_better() -> None:
    images, _, masks = coloured(24, 2)
    good = coloured(24, 3)[0]
    for i, mask in enumerate(coloured(24, 3)[2]):
        good[i][mask] = 128
    arm = np.concatenate([images, good]), np.concatenate([masks, np.zeros_like(masks)])
    test_images, _, test_masks = coloured(12, 4)
    test = np.concatenate([test_images, good[:12]]), np.concatenate([test_masks, np.zeros_like(test_masks)])
    blind = arm[0], np.zeros_like(arm[1])
    found = downstream({"seeing": arm, "blind": blind}, test, seeds=(0, 1), steps=25, batch=8)
    assert found["seeing"]["image_auroc"]["mean"] > 0.95 and found["seeing"]["pixel_aupro"]["mean"] > 0.9
    assert found["blind"]["pixel_aupro"]["mean"] < found["seeing"]["pixel_aupro"]["mean"] - 0.1
    assert found["seeing"]["image_auroc"]["n"] == 2
    with pytest.raises(ValueError, match="multiples of 8"):
        train_segmenter(np.zeros((2, 30, 32, 3), np.uint8), np.zeros((2, 30, 32), bool))


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 12, 60) / 5 - 1, rng.random(60) < 0.4
    pairs = scores[truth][:, None] - scores[~truth][None]
    assert auroc(scores, truth) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-6)
    with pytest.raises(ValueError, match="one kind"):
        auroc(scores, np.ones(60, bool))


def test_aupro_against_every_threshold_by_hand() -> None:
    rng = np.random.default_rng(1)
    masks = np.zeros((3, 16, 16), bool)
    masks[0, 2:5, 2:5] = masks[0, 9:14, 9:15] = masks[1, 5:6, 3:12] = True
    scores = np.round(rng.random((3, 16, 16)) + 0.4 * masks, 2)  # ties
    points = [(0.0, 0.0)]
    for threshold in sorted(np.unique(scores), reverse=True):
        said = scores >= threshold
        overlaps = []
        for mask, found in zip(masks, said, strict=True):
            pieces = regions(mask, connectivity=2)
            overlaps += [found[pieces == k].mean() for k in range(1, pieces.max() + 1)]
        points.append((said[~masks].mean(), float(np.mean(overlaps))))
    x, y = np.array(points).T
    fine = np.linspace(0, 0.3, 200_001)
    assert aupro(scores, masks) == pytest.approx(np.trapezoid(np.interp(fine, x, y), fine) / 0.3, abs=1e-4)
    assert aupro(masks.astype(float), masks) == pytest.approx(1)
    assert aupro(np.zeros_like(scores), masks) == pytest.approx(0.15)  # chance: y = x
    with pytest.raises(ValueError, match="needs both"):
        aupro(scores, np.zeros_like(masks))


def test_picture_score_is_the_mean_of_the_highest_thousandth() -> None:
    scores = np.zeros((2, 50, 80))
    scores[0].flat[:4] = (1, 0.8, 0.6, 0.4)
    np.testing.assert_allclose(image_scores(scores), [0.7, 0])


def test_batches_show_every_picture_equally_often_and_turn_masks_along() -> None:
    seen = torch.cat([batch_rows(7, 3, 1, step) for step in range(7)])
    assert torch.bincount(seen).tolist() == [3] * 7
    images, _, masks = coloured(8, 5)
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    moved, where = turned(planes, torch.from_numpy(masks[:, None]), True, 0, 3)
    assert any(not torch.equal(a, b) for a, b in zip(moved, planes, strict=True))
    for picture, mask, old, before in zip(moved, where, images, masks, strict=True):
        assert sorted(picture[:, mask[0]].T.tolist()) == sorted(old[before].tolist())


def test_interval_over_trainings() -> None:
    found = over_seeds([0.8, 0.9, 0.85])
    half = 4.30265 * 0.05 / 3**0.5
    assert found["mean"] == pytest.approx(0.85) and found["ci95"] == pytest.approx([0.85 - half, 0.85 + half])
    assert over_seeds([0.5])["ci95"] == [0.5, 0.5]
