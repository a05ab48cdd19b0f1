"""Numbers about picture sets, against closed forms and the libraries' own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.inception import InceptionA, InceptionE

from didgen.gen_metrics import (
    BETAS,
    diversity,
    extractor,
    feature_scores,
    kid,
    ms_ssim,
    ms_ssim_name,
    pair_score,
    random_pairs,
    scales,
    similarity,
    within,
)
from didgen.inception import Inception, _FidPooling, load_inception
from graft_common.checkpoint import save_weights
from graft_common.errors import InputError


def test_fid_is_the_frechet_distance_of_two_gaussians_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    a = rng.normal(0.0, 1.0, (700, 4)) * [1, 2, 1, 1]
    b = rng.normal(0.0, 1.0, (700, 4)) * [2, 2, 1, 3] + [1, 0, 0, 2]
    wanted = 1 + 4 + (2 - 1) ** 2 + (3 - 1) ** 2  # |mean|^2 + sum (sd - sd')^2 for diagonal covariances
    made = feature_scores(b, a, "x")["fid_x"]
    assert made["mean"] == pytest.approx(wanted, rel=0.15)
    assert made["ci95"][0] < wanted < made["ci95"][1] and made["ci95"][1] - made["ci95"][0] < 4.5


def test_kid_is_the_unbiased_cubic_mmd():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, (7, 5)), rng.normal(0.4, 1, (7, 5))

    def k(u, v):
        return (u @ v / 5 + 1) ** 3

    n = 7
    same = sum(k(x[i], x[j]) + k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    wanted = same - 2 * sum(k(x[i], y[j]) for i in range(n) for j in range(n)) / n**2
    assert kid(y, x) == pytest.approx(wanted, rel=1e-9)


def test_precision_and_recall_of_known_sets():
    real = np.array([[0.0], [1.0], [2.0], [3.0]])
    made = np.array([[0.5], [1.5], [50.0], [51.0]])
    # first neighbour: balls of radius 1 about the real ones hold 0.5 and 1.5; balls of 1 about the made ones hold 0..2
    assert within(made, real, 1).tolist() == [True, True, False, False]
    assert within(real, made, 1).tolist() == [True, True, True, False]
    scores = feature_scores(made, real, "x", k=1)
    assert (scores["precision_x"]["mean"], scores["recall_x"]["mean"]) == (0.5, 0.75)
    with pytest.raises(ValueError, match="as many"):
        feature_scores(made, real[:3], "x")


def test_ms_ssim_is_torchmetrics_with_the_scales_that_fit():
    from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure as Measure

    assert [scales(s) for s in (32, 64, 128, 176, 256)] == [2, 3, 4, 5, 5]
    assert [ms_ssim_name(s) for s in (64, 256)] == ["ms_ssim_3scale", "ms_ssim"]
    with pytest.raises(ValueError, match="11"):
        scales(8)
    torch.manual_seed(0)
    a = torch.randint(0, 256, (3, 3, 192, 192), dtype=torch.uint8)
    b = (a.float() * 0.7 + 40).to(torch.uint8)
    wanted = Measure(data_range=255.0)(a.float(), b.float())
    assert ms_ssim(a, b, batch=2).mean() == pytest.approx(float(wanted), abs=1e-6)
    small = ms_ssim(a[..., :64, :64], b[..., :64, :64])
    betas = tuple((np.array(BETAS[:3]) / sum(BETAS[:3])).tolist())
    wanted = Measure(data_range=255.0, betas=betas)(a[..., :64, :64].float(), b[..., :64, :64].float())
    assert small.mean() == pytest.approx(float(wanted), abs=1e-6)
    assert ms_ssim(a, a).min() == pytest.approx(1.0, abs=1e-5)


def test_random_pairs_are_seeded_and_never_one_picture_with_itself():
    inner = random_pairs(5, None, 2000, 0)
    assert (inner[:, 0] != inner[:, 1]).all() and np.array_equal(inner, random_pairs(5, None, 2000, 0))
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (inner[:, 0], inner[:, 1]), 1)
    assert counts[~np.eye(5, dtype=bool)].min() > 60  # 100 expected of each
    across = random_pairs(3, 7, 500, 1)
    assert across[:, 0].max() == 2 and across[:, 1].max() == 6
    with pytest.raises(ValueError, match="two pictures"):
        random_pairs(1, None, 3, 0)


def test_the_interval_over_pairs_knows_that_pairs_share_pictures():
    rng = np.random.default_rng(4)
    of_picture = rng.normal(0, 1, 40)
    pairs = random_pairs(40, None, 4000, 0)
    values = of_picture[pairs].mean(axis=1)
    made = pair_score(values, pairs, (40, None))
    assert made["mean"] == pytest.approx(values.mean()) and made["n"] == 4000
    width = made["ci95"][1] - made["ci95"][0]
    honest = 2 * 1.96 * of_picture.std() / np.sqrt(40)
    assert 0.6 * honest < width < 1.6 * honest  # a bootstrap over 4000 pairs would give a seventh of it
    # two sets with the same numbers: a picture of one is no picture of the other, so their spreads do not cancel
    across = random_pairs(40, 40, 4000, 1)
    gap = pair_score(of_picture[across[:, 0]] - of_picture[across[:, 1]], across, (40, 40))["ci95"]
    assert 0.6 * 2**0.5 < (gap[1] - gap[0]) / honest < 1.6 * 2**0.5


def test_similarity_and_diversity_of_trivial_sets():
    torch.manual_seed(0)
    real = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    one = real[:1].expand(6, -1, -1, -1)
    same = diversity(one, 50, 0)
    assert same["mean"] == 0 and same["ci95"] == [0, 0]
    assert diversity(real, 50, 0)["mean"] > 0.01
    assert similarity(one, one, 20, 0)["mean"] == pytest.approx(1, abs=1e-5)
    assert similarity(real, real.flip(0), 50, 0)["mean"] < 0.9


def test_tiny_features_are_the_judges_own():
    from graft_common.metrics import features

    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    net = extractor("tiny", torch.device("cpu"), 2)
    assert net.name == "tiny"
    np.testing.assert_allclose(net.features(images), features(images.float() / 127.5 - 1), rtol=1e-4, atol=1e-5)


def test_the_fid_networks_poolings():
    torch.manual_seed(0)
    first, last = InceptionA(8, 4).eval(), InceptionE(8).eval()
    x = torch.randn(2, 8, 5, 5)
    padded = first(x)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.Mixed_7c = last

    with torch.no_grad(), _FidPooling(Net()):
        made, other = first(x), last(x)
    pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(made[:, -4:], first.branch_pool(pooled))
    assert torch.equal(made[:, :-4], padded[:, :-4]) and not torch.allclose(made[:, -4:], padded[:, -4:])
    torch.testing.assert_close(other[:, -192:], last.branch_pool(F.max_pool2d(x, 3, 1, 1)))
    assert torch.equal(first(x), padded) and not last._forward_hooks  # it comes off


@pytest.mark.parametrize(("classes", "name"), [(1008, "inception"), (1000, "inception_torchvision")])
def test_inception_is_told_apart_by_its_classes(tmp_path, classes, name, monkeypatch):
    net = Inception(fid=False).net.state_dict()
    path = tmp_path / "w.safetensors"
    save_weights(path, net | {"fc.weight": torch.zeros(classes, 2048), "fc.bias": torch.zeros(classes)}, {})
    made, said = load_inception(path, torch.device("cpu"))
    assert (said, made.fid) == (name, classes == 1008)
    if classes == 1000:
        assert made(torch.rand(1, 3, 80, 80)).shape == (1, 2048)
        wide = made.net(F.interpolate((torch.full((1, 3, 4, 4), 0.5) - 0.449) / 0.226, (299, 299)))
        assert wide.shape == (1, 2048)


def test_files_that_are_no_inception_are_refused(tmp_path):
    save_weights(tmp_path / "a.safetensors", {"fc.weight": torch.zeros(1000, 2)}, {})
    save_weights(tmp_path / "b.safetensors", {"conv.weight": torch.zeros(1)}, {})
    for name in ("a.safetensors", "b.safetensors", "missing.pth"):
        with pytest.raises(InputError, match=f"--backbone .*{name}"):
            extractor(str(tmp_path / name), torch.device("cpu"))
