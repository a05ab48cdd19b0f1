"""Classification scores: the paper's own tables (spec property 23), and counts by hand."""

import numpy as np
import pytest
import torch

from didgen.cls_metrics import scores, support_weighted
from didgen.manifest import CLASSES

SUPPORT = dict(zip(CLASSES, (171, 909, 93, 43, 217, 44, 35), strict=True))
# Table 4.3 (class F1) and Table 4.2 (F1), original and augmented.
TABLES = {
    "VGG16": ((".534 .878 .689 .564 .686 .583 .592", 0.775), (".603 .901 .701 .558 .707 .610 .582", 0.801)),
    "ResNet18": ((".609 .886 .705 .588 .674 .641 .644", 0.792), (".622 .902 .718 .561 .720 .674 .667", 0.811)),
    "DenseNet121": ((".608 .898 .725 .552 .720 .717 .754", 0.811), (".657 .910 .749 .585 .723 .720 .712", 0.825)),
    "ViT": ((".647 .910 .721 .567 .767 .783 .733", 0.830), (".671 .919 .746 .576 .781 .868 .733", 0.845)),
}


@pytest.mark.parametrize("network", list(TABLES))
@pytest.mark.parametrize("side", [0, 1])
def test_property_23(network: str, side: int) -> None:
    words, said = TABLES[network][side]
    f1 = dict(zip(CLASSES, map(float, words.split()), strict=True))
    assert sum(SUPPORT.values()) == 1512
    assert abs(support_weighted(f1, SUPPORT) - said) <= 0.0015
    assert abs(np.mean(list(f1.values())) - said) > 0.05  # the plain mean does not reproduce it


def by_hand(predicted: np.ndarray, target: np.ndarray, count: int) -> dict[str, np.ndarray]:
    table = np.zeros((count, count))
    np.add.at(table, (target, predicted), 1)
    hits, said, there = table.diagonal(), table.sum(axis=0), table.sum(axis=1)
    precision, recall = (hits / np.maximum(n, 1) for n in (said, there))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {"precision": precision, "recall": recall, "f1": f1, "support": there}


@pytest.mark.parametrize("absent", [None, 3])
def test_against_counts_by_hand(absent: int | None) -> None:
    rng = np.random.default_rng(2)
    target = rng.choice([c for c in range(7) if c != absent], 400)
    predicted = np.where(rng.random(400) < 0.6, target, rng.integers(0, 7, 400))
    found = scores(torch.from_numpy(predicted), torch.from_numpy(target), CLASSES)
    hand = by_hand(predicted, target, 7)
    present = hand["support"] > 0
    for i, name in enumerate(CLASSES):
        assert all(found[name][k] == pytest.approx(hand[k][i], abs=1e-6) for k in hand)
    for k in ("precision", "recall", "f1"):
        weighted = (hand[k] * hand["support"]).sum() / 400
        assert found["weighted"][k] == pytest.approx(weighted, abs=1e-6)
        assert support_weighted(
            {n: found[n][k] for n in CLASSES}, {n: found[n]["support"] for n in CLASSES}
        ) == pytest.approx(weighted)
        assert found["macro"][k] == pytest.approx(
            hand[k][present].mean(), abs=1e-6
        )  # a class nobody has does not count
    assert (
        found["weighted"]["accuracy"]
        == pytest.approx((predicted == target).mean())
        == pytest.approx(found["weighted"]["recall"])
    )


def test_one_class_and_always_right() -> None:
    found = scores(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), ("MEL",))
    assert found["MEL"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3}
    assert found["weighted"]["f1"] == found["macro"]["f1"] == 1.0


@pytest.mark.parametrize(
    ("predicted", "target", "needle"),
    [
        ([], [], "0 pictures"),
        ([0, 1], [0], "2 predictions for 1"),
        ([7], [0], "predicted has a place"),
        ([0], [-1], "target has a place"),
    ],
)
def test_bad_input(predicted: list[int], target: list[int], needle: str) -> None:
    with pytest.raises(ValueError, match=needle):
        scores(torch.tensor(predicted, dtype=torch.int64), torch.tensor(target, dtype=torch.int64), CLASSES)


def test_weights_must_fit() -> None:
    for values, support in (({"MEL": 1.0}, {"NV": 1}), ({"MEL": 1.0}, {"MEL": 0})):
        with pytest.raises(ValueError, match="one value and one support"):
            support_weighted(values, support)
