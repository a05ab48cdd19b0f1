"""Baselines against what each of them must equal: the object's own pixels, OpenCV, the noised background, the VAE."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from graft_common import bundle as weights
from graft_common.errors import InputError
from graft_common.inversion import dpm_grid
from graft_common.rng import noise
from tficomp.baselines import GROWN, blended, clone_frame, copy_paste_frame, noised, run_baseline
from tficomp.config import METHODS, MethodConfig
from tficomp.inputs import Sources, read_inputs
from tficomp.place import place

STEPS, SIZE = 4, 32
CONFIG = MethodConfig(steps=STEPS, context=0.0, guidance=2.0)


def sample(seed: int, size: int = SIZE, corner: tuple[int, int] = (8, 9)):
    """A smooth background, a bright lesion with a rim, and a box for it; grey, working size: nothing is resized."""
    rng = np.random.default_rng([91, seed])
    y, x = np.mgrid[:size, :size]
    distance = np.hypot(y - size / 2, x - size / 2)
    lesion = distance < size / 4.5
    image = np.where(lesion, 90 + 6 * distance, 60).astype(np.uint8)
    user = np.zeros((size, size), bool)
    user[corner[0] : corner[0] + size // 2, corner[1] : corner[1] + size // 2] = True
    back = (110 + 40 * np.sin(y / 6 + seed) + rng.integers(0, 20, (size, size))).astype(np.uint8)
    return read_inputs(Sources(back, (image,), (lesion,), (user,), "a tumor", seed=seed))


@pytest.fixture(scope="module")
def bundle(random_bundle):
    return weights.load(str(random_bundle))


@pytest.fixture(scope="module")
def samples():
    return [sample(0), sample(1, corner=(4, 12))]


@pytest.fixture(scope="module")
def placed(samples):
    return [place(s, CONFIG, SIZE, 4) for s in samples]


def test_copy_paste_is_the_object_inside_the_mask_and_the_background_outside(samples, placed, bundle):
    for s, p, result in zip(samples, placed, run_baseline("copy-paste", samples, CONFIG, bundle, [0, 1]), strict=True):
        mask = p.object_masks[0]
        assert 30 < mask.sum() < 400
        # grey pictures: any of the three equal channels
        np.testing.assert_array_equal(result.pixels[0][mask], p.objects[0][0][mask])
        np.testing.assert_array_equal(result.pixels[0][~mask], s.background.pixels[0][~mask])
        np.testing.assert_array_equal(result.lesion_mask, mask)
        np.testing.assert_array_equal(result.changed, mask)


def test_poisson_is_opencvs_clone_in_place(placed):
    import cv2

    for p in placed:
        made, changed = clone_frame(p)
        # The judge: OpenCV's own clone with the mask grown as said, on the frame itself: no lesion here is near the
        # border, so padding changes nothing.
        left, top, right, bottom = p.boxes[0]
        rows = np.clip(np.arange(SIZE), top, bottom - 1)[:, None]
        cols = np.clip(np.arange(SIZE), left, right - 1)
        source, target = ((np.moveaxis(a, 0, -1) + 1) * 127.5 for a in (p.objects[0][:, rows, cols], p.background))
        kernel = np.ones((2 * GROWN + 1, 2 * GROWN + 1), np.uint8)
        mask = cv2.dilate(p.object_masks[0].astype(np.uint8) * 255, kernel)
        x, y, w, h = cv2.boundingRect(mask)
        source, target = (np.ascontiguousarray(a.round().astype(np.uint8)) for a in (source, target))
        judge = cv2.seamlessClone(source, target, mask, (x + w // 2, y + h // 2), cv2.NORMAL_CLONE)
        np.testing.assert_allclose(made, judge.transpose(2, 0, 1) / 127.5 - 1, atol=1 / 127)
        assert changed.sum() == w * h and changed[y : y + h, x : x + w].all()
        np.testing.assert_array_equal(made[:, ~changed], p.background[:, ~changed])


def test_poisson_keeps_the_objects_gradients_and_meets_the_background(placed):
    """What gradient-domain cloning is for: steps inside the lesion are the object's."""
    made, _ = clone_frame(placed[0])
    inner = placed[0].object_masks[0] & np.roll(placed[0].object_masks[0], -1, axis=1)
    step, wanted = (np.diff(a[0], axis=1)[inner[:, :-1]] for a in (made, placed[0].objects[0]))
    assert np.corrcoef(step, wanted)[0, 1] > 0.9
    assert np.abs(step - wanted).mean() < 0.25 * np.abs(wanted).mean() + 2 / 127


@pytest.mark.parametrize("corner", [(0, 0), (16, 16), (0, 16), (16, 0)])
def test_poisson_works_at_the_border(corner, bundle):
    s = sample(2, corner=corner)
    result = run_baseline("poisson", [s], replace(CONFIG, margin=0.0), bundle, [0])[0]
    assert np.isfinite(result.pixels).all() and result.changed.any()
    np.testing.assert_array_equal(result.pixels[:, ~result.changed], s.background.pixels[:, ~result.changed])


def test_sdedit_of_strength_zero_is_the_vae_round_trip_and_costs_no_call(samples, placed, bundle):
    frames = torch.from_numpy(np.stack([copy_paste_frame(p) for p in placed]))
    wanted = weights.decode(bundle, weights.encode(bundle, frames)).numpy()
    for name in ("vae", "sdedit"):
        results = run_baseline(name, samples, CONFIG, bundle, [0, 1], strength=0.0)
        for one, frame in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(one.frame_pixels, frame)
    more = run_baseline("sdedit", samples, CONFIG, bundle, [0, 1], strength=0.5)
    assert np.abs(more[0].frame_pixels - wanted[0]).max() > 1e-3


def test_sdedit_starts_from_the_noised_copy_paste_and_is_seeded(samples, bundle):
    a, b, c = (run_baseline("sdedit", samples[:1], CONFIG, bundle, [seed], strength=0.5)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert np.abs(a.frame_pixels - c.frame_pixels).max() > 1e-3


def test_noised_is_q_of_the_latent_and_the_latent_itself_at_zero(bundle):
    grid = dpm_grid(bundle.alphas_cumprod, STEPS)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(noised(z, 0, grid, [5, 6]), z)
    for k in (1, STEPS):
        time = 999 * k / STEPS  # the schedule by hand: log alpha interpolated between training steps
        log = 0.5 * np.log(bundle.alphas_cumprod.numpy())
        alpha = np.exp(np.interp(time, np.arange(1000), log))
        drawn = torch.stack([noise((4, 8, 8), seed, 9) for seed in (5, 6)]).double()
        wanted = alpha * z + np.sqrt(1 - alpha**2) * drawn
        torch.testing.assert_close(noised(z, k, grid, [5, 6], 9), wanted, rtol=0, atol=1e-6)


def test_bld_holds_the_noised_background_outside_the_mask_at_every_step(bundle):
    grid = dpm_grid(bundle.alphas_cumprod, 6)
    gen = torch.Generator().manual_seed(2)
    z = torch.randn(2, 4, 8, 8, generator=gen)
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[0, :, 2:5, 3:7], mask[1, :, 4:, :4] = True, True
    seen = []

    def m(x, k):
        seen.append(k)
        return 0.3 * x

    states = blended(z, mask, m, grid, 2, [7, 8])
    assert seen == [6, 5, 4, 3, 2, 1] and sorted(states) == list(range(7))
    outside = ~mask.expand_as(z)
    for k, x in states.items():
        alpha, sigma = float(grid.alpha[k]), float(grid.sigma[k])
        drawn = torch.stack([noise((4, 8, 8), seed, 2, k) for seed in (7, 8)])
        wanted = z if k == 0 else alpha * z + sigma * drawn
        assert torch.equal(x[outside], wanted[outside])
        assert (x[~outside] != wanted[~outside]).all()
    # Outside, the noise has the level that k says (pooled over 400 values) and is fresh at each k.
    left = [((states[k] - float(grid.alpha[k]) * z) / float(grid.sigma[k]))[outside] for k in (3, 4)]
    assert all(abs(float(n.std()) - 1) < 0.15 for n in left) and abs(float(torch.dot(*left)) / len(left[0])) < 0.2


def test_bld_never_looks_at_the_object(samples, bundle):
    lesion = samples[0].lesions[0]
    other = replace(samples[0], lesions=(replace(lesion, pixels=-lesion.pixels),))
    a, b = (run_baseline("bld", [s], CONFIG, bundle, [1])[0] for s in (samples[0], other))
    np.testing.assert_array_equal(a.pixels, b.pixels)


def test_every_baseline_returns_full_results_and_keeps_the_background_with_paste_back(samples, bundle):
    for name in METHODS:
        results = run_baseline(name, samples, replace(CONFIG, paste_back=True), bundle, [0, 1])
        for s, r in zip(samples, results, strict=True):
            users = s.lesions[0].user_mask
            np.testing.assert_array_equal(r.pixels[:, ~users], s.background.pixels[:, ~users])
            assert r.pixels.shape == s.background.pixels.shape and np.isfinite(r.pixels).all()
            assert r.lesion_mask.any() and not (r.lesion_mask & ~users).any()


def test_unknown_names_and_compiled_networks_are_refused_in_one_line(samples, bundle):
    with pytest.raises(InputError, match="--method magic"):
        run_baseline("magic", samples, CONFIG, bundle, [0, 1])
    with pytest.raises(InputError, match="--compile"):
        run_baseline("tficon", samples, replace(CONFIG, compile=True), bundle, [0, 1])
