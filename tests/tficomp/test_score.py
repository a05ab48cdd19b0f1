"""Metrics of results: what equal pictures give, what each metric is blind to, and definitions by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from graft_common import bundle as weights
from graft_common import metrics
from graft_common.errors import InputError
from graft_common.metrics import Judges
from graft_common.metrics.judges import ImageText, WorldClassifier
from tficomp.baselines import run_baseline
from tficomp.config import MethodConfig
from tficomp.inputs import Sources, read_inputs
from tficomp.score import doing_nothing, orientation, score

CONFIG = MethodConfig(steps=2, context=0.0)


def sample(seed: int, lesions: int = 1, size: int = 32):
    rng = np.random.default_rng([93, seed])
    y, x = np.mgrid[:size, :size]
    lesion = np.hypot(y - 15, x - 17) < 6
    users = []
    for i in range(lesions):
        user = np.zeros((size, size), bool)
        user[16 * i : 16 + 16 * i, 4 + 8 * i : 20 + 8 * i] = True  # on the latent grid: nothing is snapped outside
        users.append(user)
    images = tuple(
        np.where(lesion, 235 - 60 * i, rng.integers(0, 90, lesion.shape)).astype(np.uint8) for i in range(lesions)
    )
    back = rng.integers(60, 180, (size, size), np.uint8)
    return read_inputs(Sources(back, images, (lesion,) * lesions, tuple(users), "a tumor", key=f"s{seed}", seed=seed))


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Untrained judges: the properties below hold for any network."""
    from transformers import CLIPTokenizer

    torch.manual_seed(3)
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=77)
    classifier, pair = WorldClassifier({"world": ["brain", "textures"]}), ImageText(len(tokenizer))
    return Judges(classifier.eval(), pair.eval(), tokenizer, tmp_path_factory.mktemp("judges"))


@pytest.fixture(scope="module")
def pasted(random_bundle):
    bundle = weights.load(str(random_bundle))
    samples = [sample(0), sample(1, lesions=2)]
    return samples, run_baseline("copy-paste", samples, CONFIG, bundle, [0, 1])


def test_doing_nothing_is_a_perfect_background_and_scorable(pasted, judges):
    samples, results = pasted
    values = score(samples, [doing_nothing(r) for r in results], {}, judges)
    assert set(values) == {
        "lpips_bg_tiny", "lpips_fg_tiny", "clip_image_tiny", "clip_text_tiny",
        "psnr_bg", "ring_gradient", "object_ssim", "channel_spread",
    }  # fmt: skip
    assert all(column.shape == (2,) and np.isfinite(column).all() for column in values.values())
    np.testing.assert_allclose(values["lpips_bg_tiny"], 0, atol=1e-5)
    np.testing.assert_allclose(values["psnr_bg"], 120)
    np.testing.assert_allclose(values["channel_spread"], 0, atol=1e-7)
    assert (values["lpips_fg_tiny"] > 1e-3).all() and (values["object_ssim"] < 0.9).all()


def test_the_relocated_object_itself_scores_zero_distance_and_full_similarity(pasted, judges):
    samples, results = pasted
    first = results[0].placed
    filled = replace(results[0], pixels=first.objects[0][:1])
    values = score(samples[:1], [filled], {}, judges)
    np.testing.assert_allclose(values["lpips_fg_tiny"], 0, atol=1e-5)
    np.testing.assert_allclose(values["clip_image_tiny"], 100, atol=1e-4)
    np.testing.assert_allclose(values["object_ssim"], 1, atol=1e-9)
    assert values["psnr_bg"][0] < 20


def test_background_metrics_ignore_pixels_inside_the_user_mask_and_object_metrics_those_outside(pasted, judges):
    samples, results = pasted
    rng = np.random.default_rng(5)
    inside, outside = [], []
    for r in results:
        noise = rng.uniform(-1, 1, r.pixels.shape).astype(np.float32)
        inside.append(replace(r, pixels=np.where(r.placed.user_mask, noise, r.pixels)))
        outside.append(replace(r, pixels=np.where(r.placed.user_mask, r.pixels, noise)))
    base, within, without = (score(samples, some, {}, judges) for some in (results, inside, outside))
    for name in ("lpips_bg_tiny", "psnr_bg"):
        np.testing.assert_array_equal(within[name], base[name])
        assert (np.abs(without[name] - base[name]) > 1e-3).all()
    for name in ("lpips_fg_tiny", "clip_image_tiny", "object_ssim"):
        np.testing.assert_array_equal(without[name], base[name])
        assert (np.abs(within[name] - base[name]) > 1e-4).all()


def test_values_are_their_definitions_by_hand(pasted, judges):
    samples, results = pasted
    rng = np.random.default_rng(6)
    noisy = [
        replace(r, pixels=np.clip(r.pixels + rng.normal(0, 0.1, r.pixels.shape), -1, 1).astype(np.float32))
        for r in results
    ]
    values = score(samples, noisy, {}, judges)
    for i, r in enumerate(noisy):
        keep = ~r.placed.user_mask
        error = np.mean((r.pixels[0][keep].astype(np.float64) - samples[i].background.pixels[0][keep]) ** 2)
        assert values["psnr_bg"][i] == pytest.approx(10 * np.log10(4 / error), abs=1e-6)
        shown = torch.from_numpy(np.repeat(r.pixels, 3, axis=0))[None]
        text = metrics.text_similarity(shown, ["a tumor"], "tiny", judges)
        assert values["clip_text_tiny"][i] == pytest.approx(float(text[0]), abs=1e-4)
    # two lesions: the mean of each alone
    one = noisy[1].placed
    parts = []
    for j in (0, 1):
        alone = replace(
            one,
            objects=one.objects[j : j + 1],
            object_masks=one.object_masks[j : j + 1],
            boxes=one.boxes[j : j + 1],
            m_obj=one.m_obj[j : j + 1],
        )
        parts.append(score(samples[1:], [replace(noisy[1], placed=alone)], {}, judges)["lpips_fg_tiny"][0])
    assert values["lpips_fg_tiny"][1] == pytest.approx(np.mean(parts), rel=1e-5)
    assert abs(parts[0] - parts[1]) > 1e-4


def test_a_seam_raises_the_ring_gradient(pasted, judges):
    samples, results = pasted
    flat = [replace(r, pixels=np.zeros_like(r.pixels) + 0.5 * r.placed.user_mask.astype(np.float32)) for r in results]
    base = score(samples, [doing_nothing(r) for r in results], {}, judges)["ring_gradient"]
    assert (score(samples, flat, {}, judges)["ring_gradient"] > 10 * base).all()


def test_a_frame_without_background_is_refused_by_name(pasted, judges):
    samples, results = pasted
    full = replace(results[0].placed, user_mask=np.ones_like(results[0].placed.user_mask))
    with pytest.raises(InputError, match="sample s0: its user mask fills the frame"):
        score(samples[:1], [replace(results[0], placed=full)], {}, judges)


def test_orientation_goes_by_name_whatever_the_network():
    assert [orientation(n) for n in ("lpips_fg_alex", "clip_text_vit_base_patch32", "psnr_bg", "ring_gradient")] == [
        -1,
        1,
        1,
        -1,
    ]
    with pytest.raises(ValueError, match="seconds"):
        orientation("seconds")
