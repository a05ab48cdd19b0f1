"""Paired comparisons against closed forms and simulated truth."""

import numpy as np
import pytest
from scipy import stats

from diffusionmix.comparison import first_cost, raised, share_below, upper_loss, upper_set_loss
from diffusionmix.findings import beats, not_worse, resampling_cost


def test_upper_loss_is_the_one_sided_bound_of_the_paired_mean() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(0.8, 0.1, 400)
    other = reference - 0.01 + rng.normal(0, 0.05, 400)  # IoU falls by 0.01
    found = upper_loss(reference, other, lower_is_better=False)
    gap = reference - other
    judge = gap.mean() + stats.t.ppf(0.95, 399) * gap.std(ddof=1) / 20
    assert found["mean"] == pytest.approx(gap.mean()) and found["upper95"] == pytest.approx(judge, abs=5e-4)
    better = upper_loss(reference, other, lower_is_better=True)
    assert better["mean"] == pytest.approx(-gap.mean())
    assert upper_loss(reference, reference, lower_is_better=True)["upper95"] == 0


def test_set_loss_is_paired() -> None:
    """Two statistics that move together have a tight ratio although each alone is noisy."""
    values = np.random.default_rng(2).lognormal(0, 1.5, 128)
    loss = upper_set_loss(lambda rows: float(values[rows].mean()), lambda rows: float(1.05 * values[rows].mean()), 128)
    assert loss["mean"] == pytest.approx(0.05) and loss["upper95"] == pytest.approx(0.05)


def test_share_and_raise() -> None:
    base = np.arange(32, dtype=float)
    assert share_below(base - 1, base)["mean"] == 1 and share_below(base, base)["mean"] == 0
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.1, 32)
    assert raised(base, base + 0.2 + noise)[0] and not raised(base, base - 0.2 + noise)[0]
    assert raised(base, base) == (False, 1.0)
    judge = stats.ttest_rel(base + noise, base, alternative="greater").pvalue
    assert raised(base, base + noise)[1] == pytest.approx(judge)
    with pytest.raises(ValueError, match="pair"):
        share_below(base, base[1:])


def test_one_sided_test_keeps_its_level() -> None:
    rng = np.random.default_rng(4)
    hits = sum(raised(np.zeros(32), rng.normal(0, 1, 32))[0] for _ in range(300))
    assert 0.015 < hits / 300 < 0.1


def test_first_cost_is_where_losses_stay_above_the_margin() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(0.05, 0.01, 64)
    rows = [base + gap + rng.normal(0, 0.002, 64) for gap in (0, 0.002, 0.02, 0.04)]
    assert first_cost([0, 1, 2, 5], rows, 0.01) == 2
    assert first_cost([0, 1, 2, 5], [base] * 4, 0.01) is None
    dip = [base, base + 0.05, base, base + 0.05]  # a cost that goes away again is no beginning
    assert first_cost([0, 1, 2, 5], dip, 0.01) == 5


def test_findings() -> None:
    rng = np.random.default_rng(6)
    base = rng.normal(0.3, 0.05, 64).tolist()
    detail = [0.0] * 64
    grid = {(10, r): {"harmony": [h - 0.01 * r for h in base], "l1": [0.004 * r for _ in detail]} for r in (0, 1, 2, 5, 10)}
    found = resampling_cost(grid, (0, 10), (0, 1, 2, 5, 10))["10"]
    assert found["detail_costs_from_r"] == 5 and not found["harmony_raised"] and found["n"] == 64
    worse = {"harmony": [h + 0.2 for h in base], "iou": [0.5] * 64}
    ours = {"harmony": base, "iou": [0.9] * 64}
    share = beats(ours, worse)
    assert share is not None and share["mean"] == 1
    assert beats({"harmony": [None] * 64}, worse) is None
    same = not_worse(ours, ours)
    assert same["iou"]["holds"] and same["harmony"]["holds"] and not same["all"]  # without features nothing is said of FID
    lost = not_worse(ours, worse)
    assert not lost["iou"]["holds"] and not lost["harmony"]["holds"]
    features = rng.normal(0, 1, (3, 64, 4))
    full = not_worse(ours, ours, (features[0], features[0], features[1]))
    assert full["all"] and full["fid"]["upper95"] == pytest.approx(0, abs=1e-9)
    far = not_worse(ours, ours, (features[0], features[2] + 3, features[1]))
    assert not far["fid"]["holds"] and not far["all"]
