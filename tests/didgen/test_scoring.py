"""Intervals and tables of the scoring verbs, and class scores against torchmetrics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from didgen.cls_metrics import scores
from didgen.cls_scores import class_scores, confusion, overall_scores, summaries
from didgen.scoring import as_csv, distinct, grid_bootstrap


def test_the_grid_bootstrap_carries_both_spreads():
    rng = np.random.default_rng(1)
    pictures = rng.normal(0, 1, 400)
    only_pictures = np.tile(pictures, (3, 1))
    with_seeds = only_pictures + np.array([-1.0, 0.0, 1.0])[:, None]

    def width(grid):
        made = grid_bootstrap(lambda s, p: {"m": float(grid[s][:, p].mean())}, 3, 400, resamples=800)["m"]
        assert made["mean"] == pytest.approx(grid.mean()) and made["n"] == 400
        return made["ci95"][1] - made["ci95"][0]

    assert width(only_pictures) == pytest.approx(2 * 1.96 * pictures.std() / 20, rel=0.15)
    assert width(with_seeds) > 5 * width(only_pictures)


def test_class_scores_are_torchmetrics_own():
    rng = np.random.default_rng(2)
    truth, said = rng.integers(0, 4, 90), rng.integers(0, 6, 90)  # classes 4, 5 have no pictures
    said[said == 2] = 1  # class 2 is never called
    names = tuple("abcdef")
    made, wanted = confusion(truth, said, 6), scores(torch.from_numpy(said), torch.from_numpy(truth), names)
    overall, each = overall_scores(made), class_scores(made)
    for key in ("precision", "recall", "f1"):
        assert overall[key] == pytest.approx(wanted["weighted"][key], abs=1e-6)
        for i, name in enumerate(names):
            value = each[key][i]
            assert np.isnan(value) if i > 3 else value == pytest.approx(wanted[name][key], abs=1e-6)
    assert overall["f1_macro"] == pytest.approx(wanted["macro"]["f1"], abs=1e-6)
    summary = summaries(truth, said, names, resamples=500)
    assert summary["f1"]["mean"] == pytest.approx(wanted["weighted"]["f1"])
    assert {"f1_a", "f1_b", "f1_c", "f1_d"} == {k for k in summary if k.startswith("f1_") and k != "f1_macro"}
    assert summary["f1_c"]["mean"] == 0 and summary["f1_a"]["n"] == int((truth == 0).sum())


def test_drawing_from_the_table_is_drawing_pictures():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, 80)
    said = np.where(rng.random(80) < 0.7, truth, rng.integers(0, 3, 80))
    made = summaries(truth, said, ("a", "b", "c"))
    plain = []
    for _ in range(3000):
        rows = rng.integers(80, size=80)
        plain.append(overall_scores(confusion(truth[rows], said[rows], 3))["f1"])
    np.testing.assert_allclose(made["f1"]["ci95"], np.quantile(plain, [0.025, 0.975]), atol=0.02)
    share = (truth == said).mean()
    assert made["recall"]["mean"] == pytest.approx(share, abs=1e-6)


def test_csv_and_names():
    assert as_csv(["id", "x"], [("a,b", 0.123456789)]) == 'id,x\n"a,b",0.123457\n'
    paths = [Path("runs/a/model.safetensors"), Path("other/a/model.safetensors"), Path("b.safetensors")]
    assert distinct(paths) == ["a", "a (2)", "b"]
