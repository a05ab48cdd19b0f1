"""Metrics against torchmetrics, scikit-image, scipy, transformers and closed forms; judges here are untrained."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn

from graft_common import metrics, phantoms
from graft_common.checkpoint import save_weights
from graft_common.errors import InputError
from graft_common.metrics import grading, perceptual
from graft_common.metrics.judges import ImageText, Judges, WorldClassifier, fit_side, load_judges

HEADS = {"world": ["brain", "textures"], "brain.tumor": ["none", "left", "right"]}


def pictures(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures (count, 3, side, side) in [-1, 1]."""
    gen = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 9, 9, generator=gen) * 2 - 1
    return nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(-1, 1)


def tokenizer():
    """CLIP's tokenizer class with bytes for words: every text encodes."""
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=77)


def write_judges(folder):
    """Untrained judges in the shipped layout."""
    torch.manual_seed(3)
    words = tokenizer()
    for name, network, plan in (
        ("classifier", WorldClassifier(HEADS), {"heads": HEADS, "widths": [24, 48, 80, 112]}),
        ("pair", ImageText(len(words)), {"vocabulary": len(words)}),
    ):
        half = {k: v.half() for k, v in network.state_dict().items()}
        save_weights(folder / f"{name}.safetensors", half, {"network": plan})
    words.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    return load_judges(write_judges(tmp_path_factory.mktemp("judges")))


def alex_features(fill):
    """AlexNet's convolutions with every number drawn by `fill`, without the 58 million of its classifier."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        features = alexnet(weights=None).features
    features.to_empty(device="cpu")
    for value in features.parameters():
        fill(value.data)
    return features


@pytest.fixture(autouse=True)
def blank_alexnet(monkeypatch):
    """Where torchmetrics asks torchvision for an AlexNet it gets one of zeros, at once."""
    blank = lambda net, pretrained: alex_features(lambda value: value.zero_())  # noqa: E731
    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", blank)


@pytest.fixture(scope="module")
def converter():
    path = Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"
    spec = importlib.util.spec_from_file_location("graft_tools_convert_checkpoint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alex(tmp_path_factory, converter):
    """An AlexNet that nobody trained, and the file that the converter makes of it; its name says nothing."""
    torch.manual_seed(5)
    features = alex_features(lambda value: value.normal_(std=0.05))
    folder = tmp_path_factory.mktemp("weights")
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, folder / "network.pth")
    assert converter.main(["lpips", str(folder / "network.pth"), str(folder / "network.safetensors")]) == 0
    return features, folder / "network.safetensors"


# LPIPS


def test_lpips_tiny_is_torchmetrics_formula_with_unit_weights(judges):
    from torchmetrics.functional.image.lpips import _LPIPS

    trunk = WorldClassifier(HEADS).double().eval().requires_grad_(False)
    trunk.load_state_dict(judges.classifier.state_dict())
    theirs = _LPIPS(net="alex", pnet_rand=True)
    theirs.scaling_layer, theirs.net, theirs.L = nn.Identity(), trunk.trunk, 4
    theirs.lins = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False).double() for c in (24, 48, 80, 112))
    for weights in theirs.lins.parameters():
        nn.init.ones_(weights).requires_grad_(False)
    for side in (64, 96):  # 96: both see the pictures at 64
        a, b = pictures(3, side, 1).double(), pictures(3, side, 2).double()
        wanted = theirs(fit_side(a), fit_side(b)).flatten()
        got = perceptual.feature_distance(trunk.trunk(fit_side(a)), trunk.trunk(fit_side(b)))
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)
        ours = metrics.lpips(a.float(), b.float(), judges=judges, batch=2)
        torch.testing.assert_close(ours.double(), wanted, rtol=1e-4, atol=1e-6)
        assert wanted.min() > 1e-4
    assert metrics.lpips(a.float(), a.float(), judges=judges).abs().max() == 0


def test_lpips_alex_from_a_file_is_torchmetrics_own(alex, monkeypatch):
    import torchmetrics.functional.image.lpips as theirs

    a, b, (features, path) = pictures(3, 64, 1), pictures(3, 64, 2), alex
    before = torch.random.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", None)  # torchmetrics would unpickle its linear weights; nothing does here
        got = metrics.lpips(a, b, str(path), batch=2)
    assert torch.equal(before, torch.random.get_rng_state())  # loading draws nothing that the caller would miss
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained: features)
    wanted = theirs.learned_perceptual_image_patch_similarity(a, b, net_type="alex", reduction="none")
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)
    assert wanted.min() > 1e-4
    with pytest.raises(ValueError, match="16x16"):
        metrics.lpips(a[..., :16, :16], b[..., :16, :16], str(path))


def test_lpips_refuses_what_it_does_not_have(tmp_path):
    page, half, other, pickle = (tmp_path / n for n in ("p.safetensors", "h.safetensors", "o.safetensors", "alex.pth"))
    page.write_text("<!doctype html>")
    save_weights(half, {"features.0.weight": torch.zeros(64, 3, 11, 11)}, {"model": "lpips", "network": "alex"})
    save_weights(other, {"x": torch.zeros(1)}, {"model": "state"})
    torch.save({"features.0.weight": torch.zeros(1)}, pickle)
    a = pictures(1)
    for backbone, says in (
        ("alex", "no such file"), ("squeeze", "no such file"), (str(tmp_path / "my vgg16.pth"), "no such file"),
        (str(page), "cannot be read as safetensors"), (str(half), "is not a whole alex network"),
        (str(other), "holds no LPIPS network"), (str(pickle), "a pickle is never read"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            metrics.lpips(a, a, backbone)
        text = str(caught.value)
        assert text.startswith(f"--lpips {backbone}") and says in text and "\n" not in text
        assert "tools/convert_checkpoint.py lpips" in text


def test_names_say_whose_network(alex, tmp_path):
    vgg = tmp_path / "x.safetensors"
    save_weights(vgg, {"x": torch.zeros(1)}, {"model": "lpips", "network": "vgg"})
    hub = "openai/clip-vit-base-patch32"
    assert [metrics.name("lpips", b) for b in ("tiny", str(alex[1]), str(vgg))] == [
        "lpips_tiny",
        "lpips_alex",
        "lpips_vgg",
    ]
    assert metrics.name("clip_text", "tiny") == "clip_text_tiny"
    assert metrics.name("clip_image", hub) == "clip_image_vit_base_patch32"
    with pytest.raises(InputError, match="rename"):
        metrics.name("clip_text", "folder/clip-tiny")


# CLIP


def test_clip_tiny_is_100_cosine_and_padding_says_nothing(judges):
    a, b = pictures(3, 64, 1), pictures(3, 80, 2)
    texts = ["a brain", "a somewhat longer text", "a brain"]
    u, v = (judges.pair.embed_image(x).double().numpy() for x in (a, b))
    got = metrics.image_similarity(a, b, judges=judges, batch=2)
    cosine = (u * v).sum(axis=1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    np.testing.assert_allclose(got, 100 * cosine, rtol=1e-5)
    assert metrics.image_similarity(a, a, judges=judges).sub(100).abs().max() < 1e-4
    for picture, text, score in zip(a, texts, metrics.text_similarity(a, texts, judges=judges), strict=True):
        ids = torch.tensor([judges.tokenizer(text).input_ids])  # alone: no padding at all
        t = judges.pair.embed_text(ids, judges.tokenizer.eos_token_id)[0].double().numpy()
        w = judges.pair.embed_image(picture[None])[0].double().numpy()
        wanted = 100 * float(t @ w) / np.linalg.norm(t) / np.linalg.norm(w)
        assert score.item() == pytest.approx(wanted, rel=1e-4, abs=1e-3)
    both = metrics.clip_scores(a, texts, b, judges=judges)
    assert list(both) == ["clip_text_tiny", "clip_image_tiny"]
    torch.testing.assert_close(both["clip_image_tiny"], got, rtol=1e-5, atol=1e-4)
    assert list(metrics.clip_scores(a, others=b, judges=judges)) == ["clip_image_tiny"]
    with pytest.raises(InputError, match=r"'xxx.*77 fit"):
        metrics.text_similarity(a, ["x" * 76] * 3, judges=judges)
    with pytest.raises(ValueError, match="2 texts but 3 pictures"):
        metrics.text_similarity(a, texts[:2], judges=judges)


def test_real_clip_is_transformers_logits(tmp_path, monkeypatch):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    words = tokenizer()
    end = words.eos_token_id
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": len(words), "eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": end}
    vision = small | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    folder = tmp_path / "my clip"
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    a, texts = pictures(3, 32, 1), ["one", "another text", "x"]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    tokens = words(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=((a + 1) / 2 - mean) / std, **tokens)
    wanted = 100 * (out.logits_per_image / model.logit_scale.exp()).diagonal().detach()
    torch.testing.assert_close(metrics.text_similarity(a, texts, str(folder)), wanted, rtol=1e-4, atol=1e-3)
    cosine = 100 * (out.image_embeds * out.image_embeds.roll(1, 0)).sum(1)
    torch.testing.assert_close(metrics.image_similarity(a, a.roll(1, 0), str(folder)), cosine, rtol=1e-4, atol=1e-3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for backbone in ("vit", str(tmp_path / "none"), str(tmp_path / "empty"), "nobody/no-such-clip"):
        with pytest.raises(InputError) as caught:
            metrics.text_similarity(a, texts, backbone)
        assert str(caught.value).startswith(f"--clip {backbone}") and "\n" not in str(caught.value)


# without networks


def test_psnr_over_a_region_is_scikit_images():
    a, b = pictures(3, 40, 1), pictures(3, 40, 2)
    b = a + 0.1 * (b - a)
    where = torch.zeros(3, 1, 40, 40, dtype=torch.bool)
    for i in range(3):
        where[i, 0, 3 + i : 20, 5 : 30 - i] = True
    whole, part = metrics.psnr(a, b), metrics.psnr(a, b, where)
    for i in range(3):
        x, y = a[i].permute(1, 2, 0).double().numpy(), b[i].permute(1, 2, 0).double().numpy()
        inside = where[i, 0].numpy()
        assert whole[i].item() == pytest.approx(peak_signal_noise_ratio(x, y, data_range=2), rel=1e-9)
        assert part[i].item() == pytest.approx(peak_signal_noise_ratio(x[inside], y[inside], data_range=2), rel=1e-9)
    torch.testing.assert_close(metrics.psnr(a, b, where[:, 0]), part)
    torch.testing.assert_close(metrics.psnr(a, b, where[0, 0])[0], part[0])
    assert metrics.psnr((a + 1) / 2, (b + 1) / 2, data_range=1.0)[0].item() == pytest.approx(whole[0].item(), rel=1e-5)
    assert metrics.psnr(a, a).tolist() == [120.0] * 3
    where[1] = False
    with pytest.raises(ValueError, match="picture 1"):
        metrics.psnr(a, b, where)


def test_ssim_is_scikit_images():
    a, b = pictures(2, 48, 1), 0.5 * pictures(2, 48, 1) + 0.5 * pictures(2, 48, 2)
    for i, got in enumerate(metrics.ssim(a, b)):
        x, y = ((p[i].permute(1, 2, 0).double().numpy() + 1) / 2 for p in (a, b))
        wanted = structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=2
        )
        assert got.item() == pytest.approx(wanted, abs=1e-5) and wanted < 0.95
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim(a[..., :10, :], b[..., :10, :])


def test_ring_gradient_counts_the_pairs_across_the_edge():
    rng = np.random.default_rng(0)
    image, mask = rng.uniform(-1, 1, (2, 3, 7, 9)), rng.random((2, 7, 9)) < 0.4
    mask[0] = False
    mask[0, 2:5, 3:7] = True
    wanted = []
    for picture, inside in zip(image, mask, strict=True):
        on, off = [], []
        for y in range(7):
            for x in range(9):
                for v, u in ((y + 1, x), (y, x + 1)):
                    if v < 7 and u < 9:
                        step = np.abs(picture[:, y, x] - picture[:, v, u]).mean()
                        (on if inside[y, x] != inside[v, u] else off).append(step)
        wanted.append(np.mean(on) / np.mean(off))
    got = metrics.ring_gradient(torch.from_numpy(image), torch.from_numpy(mask))
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert metrics.ring_gradient(torch.zeros(1, 3, 7, 9), torch.from_numpy(mask[:1])).item() == 1
    for value in (False, True):
        with pytest.raises(ValueError, match="empty or full"):
            metrics.ring_gradient(torch.zeros(1, 3, 7, 9), torch.full((7, 9), value))


def test_channel_spread_is_zero_for_grey():
    grey = pictures(2)[:, :1].expand(-1, 3, -1, -1)
    tint = grey * 0.5 + torch.tensor([0.1, 0.0, -0.2]).view(1, 3, 1, 1)
    assert metrics.channel_spread(grey).abs().max() == 0
    np.testing.assert_allclose(metrics.channel_spread(tint), [0.3, 0.3], rtol=1e-5)
    half = torch.zeros(64, 64, dtype=torch.bool)
    half[:32] = True
    np.testing.assert_allclose(metrics.channel_spread(torch.where(half, tint, grey), half), [0.3, 0.3], rtol=1e-5)


# intervals


def test_bootstrap_agrees_with_scipy_and_with_the_normal_law():
    rng = np.random.default_rng(1)
    skewed = rng.exponential(2.0, 60)
    ours = metrics.bootstrap(skewed)
    theirs = scipy.stats.bootstrap((skewed,), np.mean, n_resamples=10_000, method="percentile", rng=2)
    theirs = theirs.confidence_interval
    width = theirs.high - theirs.low
    assert ours["mean"] == pytest.approx(skewed.mean(), rel=1e-12) and ours["n"] == 60
    np.testing.assert_allclose(ours["ci95"], [theirs.low, theirs.high], atol=0.04 * width)
    plain = rng.standard_normal(2000)
    half = 1.6449 * plain.std() / np.sqrt(2000)
    got = metrics.bootstrap(torch.from_numpy(plain), level=0.9)["ci90"]
    np.testing.assert_allclose(got, plain.mean() + half * np.array([-1, 1]), atol=0.06 * half)
    assert metrics.bootstrap(skewed) == ours != metrics.bootstrap(skewed, seed=1)
    assert metrics.bootstrap([3.0]) == {"mean": 3.0, "ci95": [3.0, 3.0], "n": 1}
    for bad in ([1.0, float("nan")], [1.0, float("inf")], [], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="values"):
            metrics.bootstrap(bad)
    with pytest.raises(ValueError, match="level"):
        metrics.bootstrap([1.0], level=95.0)


def test_paired_difference_drops_what_items_share():
    rng = np.random.default_rng(4)
    item, noise = 10 * rng.standard_normal(80), 0.1 * rng.standard_normal(80)
    got = metrics.paired_difference(item + 0.5 + noise, item)
    assert got["mean"] == pytest.approx(0.5 + noise.mean()) and got["n"] == 80
    assert 0.4 < got["ci95"][0] < 0.5 + noise.mean() < got["ci95"][1] < 0.6
    with pytest.raises(ValueError, match="80 values but b has 3"):
        metrics.paired_difference(item, [1, 2, 3])


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (12, 12), (1, 40), (37, 64), (500, 1000)])
def test_proportion_is_scipys_wilson_interval(hits, n):
    wanted = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    got = metrics.proportion(hits, n)
    assert got["mean"] == hits / n and got["n"] == n
    np.testing.assert_allclose(got["ci95"], [wanted.low, wanted.high], atol=1e-12)


def test_proportion_refuses_impossible_counts():
    for hits, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="hits"):
            metrics.proportion(hits, n)


# Frechet


def test_frechet_agrees_with_scipys_root_and_closed_forms():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal((200, 6)) + 0.3
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    gap = a.mean(0) - b.mean(0)
    wanted = gap @ gap + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert metrics.frechet(a, b) == pytest.approx(wanted, rel=1e-8)
    white = rng.standard_normal((50, 4))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T  # covariance I to rounding
    s, t, move = np.array([1, 2, 3, 4.0]), np.array([2, 2, 0.5, 1.0]), np.array([0, 1.0, 0, -2])
    assert metrics.frechet(white * s, white * t + move) == pytest.approx(((s - t) ** 2).sum() + 5, rel=1e-9)
    few = np.zeros((3, 8))
    few[:, :2], other = [[1, 0], [0, 1], [-1, -1]], np.zeros((3, 8))
    other[:, 5] = [1, 0, -1]
    assert metrics.frechet(few, few) == pytest.approx(0, abs=1e-12)  # fewer vectors than dimensions
    assert metrics.frechet(few, other) == pytest.approx(2 + 1, rel=1e-9)  # traces only: no common direction
    with pytest.raises(ValueError, match="feature sets"):
        metrics.frechet(few, few[:1])


def test_features_are_the_classifiers_embedding(judges):
    x = pictures(5)
    got = metrics.features(x, judges, batch=2)
    np.testing.assert_allclose(got, judges.classifier.embed(x).numpy(), atol=1e-5)
    assert got.dtype == np.float64 and got.shape == (5, 128)


# the record


def test_metrics_json_is_the_designs_record():
    values = {"lpips_tiny": np.array([0.1, 0.3]), "psnr": torch.tensor([20.0, 30, 40]), "won": metrics.proportion(3, 4)}
    made = metrics.metrics_json("tficomp", "demo", values, {"perceptual": "tiny"}, {"seconds": 3})
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert list(made) == ["schema", "method", "task", "n", "metrics", "backbones", "seconds"]
    assert (made["schema"], made["method"], made["task"], made["n"]) == (1, "tficomp", "demo", 4)
    assert made["metrics"]["lpips_tiny"] == metrics.bootstrap([0.1, 0.3]) and made["metrics"]["won"] == values["won"]
    assert made["metrics"]["psnr"]["mean"] == 30 and set(made["metrics"]["psnr"]) == {"mean", "ci95", "n"}
    with pytest.raises(ValueError, match="metric x: 1 of 1 values"):
        metrics.metrics_json("m", "t", {"x": [float("nan")]}, {})
    with pytest.raises(ValueError, match="overwrite n"):
        metrics.metrics_json("m", "t", {}, {}, {"n": 3})


# judges and how they are graded


def test_judges_load_as_saved_and_say_what_is_missing(tmp_path):
    folder = write_judges(tmp_path / "j")
    before = torch.random.get_rng_state()
    loaded = load_judges(folder)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(3)
    wanted = WorldClassifier(HEADS)
    for key, value in wanted.state_dict().items():
        assert torch.equal(loaded.classifier.state_dict()[key], value.half().float())
    assert not any(p.requires_grad for p in loaded.pair.parameters()) and not loaded.pair.training
    (folder / "tokenizer").rename(folder / "lost")
    with pytest.raises(InputError, match="tokenizer: no such folder"):
        load_judges(folder)
    wrong = {k: v for k, v in wanted.state_dict().items() if k != "shared.bias"}
    save_weights(folder / "classifier.safetensors", wrong, {"network": {"heads": HEADS}})
    with pytest.raises(InputError, match="does not fit") as caught:
        load_judges(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"classifier\.safetensors"):
        load_judges(tmp_path / "nowhere")


class OracleClassifier(WorldClassifier):
    """Reads a candidate's number from the first pixel and names candidate `answer(number)` in every head."""

    def __init__(self, answer):
        heads = {"world": list(phantoms.WORLDS)}
        for world in phantoms.WORLDS:
            heads |= {f"{world}.{k}": list(v) for k, v in phantoms.world(world).ATTRIBUTES.items()}
        super().__init__(heads, widths=(4, 4, 4, 4))
        self.answer, self.listed = answer, grading.candidates()

    def forward(self, x):
        out = {head: torch.zeros(len(x), len(values)) for head, values in self.heads.items()}
        for row, number in enumerate(x[:, 0, 0, 0].int().tolist()):
            world, named, _ = self.listed[self.answer(number)]
            out["world"][row, self.heads["world"].index(world)] = 1
            for key, value in named.items():
                out[f"{world}.{key}"][row, self.heads[f"{world}.{key}"].index(value)] = 1
        return out


class OraclePair(ImageText):
    """Puts a picture on the text of candidate `answer(number)`; candidate k's text is the k-th unit vector."""

    def __init__(self, answer):
        super().__init__(8, widths=(4, 4, 4, 4), width=8, layers=1)
        self.answer, self.eye = answer, torch.eye(len(grading.candidates()))

    def embed_image(self, x):
        return self.eye[[self.answer(number) for number in x[:, 0, 0, 0].int().tolist()]]

    def embed_text(self, ids, end):
        return self.eye


def oracle(answer):
    """Oracles as judges, and one picture per candidate that carries its number."""
    listed = grading.candidates()
    images = torch.arange(len(listed)).float().view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    held = grading.Held(images, [w for w, _, _ in listed], [a for _, a, _ in listed])
    return Judges(OracleClassifier(answer), OraclePair(answer), tokenizer(), Path()), held, listed


def test_grading_gives_an_oracle_everything_and_a_constant_its_due():
    judges, held, listed = oracle(lambda i: i)
    assert len(listed) == 163 and len({text for _, _, text in listed}) == 163
    assert all(hits.all() for hits in grading.named_right(judges, held).values())
    assert all(hits.all() for hits in grading.retrieved(judges, held).values())
    judges, held, _ = oracle(lambda i: 0)  # always the first brain caption
    worlds = np.array(held.worlds) == "brain"
    right = grading.named_right(judges, held)
    assert right["world"].tolist() == worlds.tolist() and right["brain.tumor"].tolist() == [True, False, False]
    found = grading.retrieved(judges, held)
    assert found["world"].tolist() == worlds.tolist()
    assert found["attribute"].sum() == 1 and found["objects.color"].sum() == 0 and len(found["objects.color"]) == 60


def test_triples_hold_a_mild_and_a_strong_form_of_one_distortion(judges):
    held = grading.Held(pictures(7), ["brain"] * 7, [{}] * 7)
    reference, mild, strong, kinds = grading.triples(held, 60)
    assert kinds.count("blur") == kinds.count("noise") == kinds.count("shift") == 20
    near, far = ((reference - x).square().mean(dim=(1, 2, 3)) for x in (mild, strong))
    assert (near > 0).all() and (near < far).all()  # smooth pictures: every distortion grows with its strength
    moved = [grading.distort(reference[0].numpy(), "shift", 2.4, seed) for seed in range(8)]
    still = reference[0].numpy()
    wide = np.pad(still, ((0, 0), (2, 2), (2, 2)), mode="edge")
    sides = [wide[:, y : y + 64, x : x + 64] for y, x in ((0, 2), (4, 2), (2, 0), (2, 4))]
    assert all(any(np.array_equal(m, s) for s in sides) for m in moved)
    assert len({m.tobytes() for m in moved}) > 1
    assert grading.error_prefers_milder((reference, mild, strong, kinds)).all()
    assert not grading.error_prefers_milder((reference, strong, mild, kinds)).any()  # the other way round, all wrong
    wanted = metrics.lpips(reference, mild, judges=judges) < metrics.lpips(reference, strong, judges=judges)
    assert grading.prefers_milder(judges, (reference, mild, strong, kinds)).tolist() == wanted.tolist()
    _, _, _, mixed = grading.mixed_triples(held, 60)
    assert len(set(mixed)) == 6 and all(a != b for a, b in (kind.split(" < ") for kind in mixed))


def test_the_jackknife_of_a_mean_has_the_textbook_width_and_covers():
    rng, hits = np.random.default_rng(0), 0
    for i in range(200):
        x = rng.exponential(2.0, 60)
        made = metrics.jackknifed(lambda rows, x=x: float(x[rows].mean()), 60, seed=i)
        hits += made["ci95"][0] <= 2.0 <= made["ci95"][1]
    assert made["mean"] == pytest.approx(x.mean())
    # each picture its own group: exactly Student's interval of a mean
    whole = metrics.jackknifed(lambda rows: float(x[rows].mean()), 60, groups=60)
    error, degrees = metrics.jackknife(lambda rows: float(x[rows].mean()), 60, groups=60)[1:]
    assert error == pytest.approx(x.std(ddof=1) / np.sqrt(60)) and degrees == 59
    half = 2.000995 * x.std(ddof=1) / np.sqrt(60)  # t(0.975, 59)
    np.testing.assert_allclose(whole["ci95"], [x.mean() - half, x.mean() + half], rtol=1e-5)
    assert 0.90 <= hits / 200 <= 0.985
    for n, groups in ((1, 20), (8, 1)):
        with pytest.raises(ValueError, match="two items"):
            metrics.jackknife(lambda rows: 0.0, n, groups)
