"""The chest X-ray world against brightness, symmetry and region measurements made on the finished picture."""

from itertools import product

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label

from graft_common.phantoms import box, chest_xray, draw


def make(seed, size=64, **fixed):
    return draw("chest_xray", size, seed, **fixed)


def grey(phantom):
    return phantom.image[..., 0].astype(float)


@pytest.fixture(scope="module")
def sample():
    return [make(seed) for seed in range(120)]


def test_same_seed_same_bytes_and_other_seed_differs():
    first, again, other = make(5), make(5), make(6)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.attributes == again.attributes and first.caption == again.caption
    assert all(np.array_equal(first.masks[k], again.masks[k]) for k in first.masks)
    assert np.abs(grey(first) - grey(other)).mean() > 5
    assert np.ptp(first.image, axis=2).max() == 0


def test_classes_are_about_equally_frequent(sample):
    for name, values in chest_xray.ATTRIBUTES.items():
        drawn, even = [p.attributes[name] for p in sample], 1 / len(values)
        for value in values:
            assert abs(drawn.count(value) / len(drawn) - even) < 4 * np.sqrt(even * (1 - even) / len(drawn))


@pytest.mark.parametrize("size", [64, 128])
def test_cardiothoracic_ratio_is_that_of_the_masks_and_parts_the_classes(size):
    for seed in range(30 if size == 64 else 10):
        for heart in chest_xray.ATTRIBUTES["heart"]:
            p = make(seed, size, heart=heart)
            across = np.flatnonzero(p.masks["heart"].any(0))
            chest = np.flatnonzero((p.masks["lung_left"] | p.masks["lung_right"]).any(0))
            ratio = (across[-1] - across[0] + 1) / (chest[-1] - chest[0] + 1)
            assert p.attributes["cardiothoracic_ratio"] == pytest.approx(ratio)
            assert 0.38 <= ratio <= 0.48 if heart == "normal" else 0.58 <= ratio <= 0.70, (seed, ratio)


def test_effusion_lies_on_the_named_side_at_the_base_and_fills_the_stated_share(sample):
    for p in sample:
        side, fluid = p.attributes["effusion"], p.masks["effusion"]
        if side == "none":
            assert not fluid.any() and p.attributes["effusion_fraction"] == 0
            continue
        lung = p.masks[f"lung_{side}"]
        assert not (fluid & ~lung).any() and label(fluid).max() <= 2
        share = fluid.sum() / lung.sum()
        assert p.attributes["effusion_fraction"] == pytest.approx(share)
        assert 0.20 <= share <= 0.45
        rows, cols = np.nonzero(fluid)
        assert cols.max() < 34 if side == "left" else cols.min() > 29
        assert rows.mean() > np.nonzero(lung & ~fluid)[0].mean() + 8


def test_fluid_is_white_and_blunts_the_angle_that_is_otherwise_dark():
    for seed, side in product(range(12), ("left", "right")):
        clear, wet = make(seed, effusion="none"), make(seed, effusion=side)
        fluid = ndimage.binary_erosion(wet.masks["effusion"], iterations=1)
        assert (grey(wet)[fluid] - grey(clear)[fluid]).mean() > 50
        other = "right" if side == "left" else "left"
        mirror = grey(wet)[ndimage.binary_erosion(wet.masks[f"lung_{other}"], iterations=1)]
        assert grey(wet)[fluid].mean() > mirror.mean() + 50
        # the angle: lowest pixels of the lung field, where air was
        lung = wet.masks[f"lung_{side}"]
        angle = lung & (np.indices(lung.shape)[0] > np.nonzero(lung)[0].max() - 6)
        assert wet.masks["effusion"][angle].all()
        away = ~ndimage.binary_dilation(wet.masks["effusion"], iterations=3)
        change = np.abs(grey(wet) - grey(clear))[away]
        assert change.max() <= 12 and (change > 0).mean() < 0.01  # only the soft border of the heart


def test_meniscus_climbs_along_the_chest_wall():
    for seed, side in product(range(10), ("left", "right")):
        p = make(seed, 128, effusion=side, heart="normal")
        fluid = p.masks["effusion"]
        air = p.masks[f"lung_{side}"] & ~fluid
        cols = np.array([c for c in np.flatnonzero(fluid.any(0)) if air[fluid[:, c].argmax() - 1, c]])
        surface = np.array([fluid[:, c].argmax() for c in cols])
        outward = cols if side == "right" else -cols
        assert len(cols) > 8 and np.polyfit(outward, surface, 1)[0] < -0.1  # rows count downwards


def test_masks_match_the_painted_brightness(sample):
    for p in sample:
        g, m = grey(p), p.masks
        air = (m["lung_left"] | m["lung_right"]) & ~m["effusion"]
        core = ndimage.binary_erosion(air)
        assert g[ndimage.binary_erosion(m["heart"])].mean() > g[core].mean() + 70
        assert (
            g[ndimage.binary_erosion(m["body"], iterations=2) & ~ndimage.binary_dilation(air, iterations=2)].min() > 50
        )
        assert g[~ndimage.binary_dilation(m["body"], iterations=2)].max(initial=0) < 40
        assert not (m["lung_left"] & m["lung_right"]).any() and not (air & m["heart"]).any()
        for name in ("lung_left", "lung_right", "heart", "body"):
            sizes = np.sort(np.bincount(label(m[name]).ravel())[1:])
            assert sizes[:-1].sum() <= 2, name  # one piece, but for the very tip of a costophrenic angle
        inside = ndimage.binary_erosion(m["body"], border_value=1)
        assert not ((m["lung_left"] | m["lung_right"] | m["heart"]) & ~inside).any()
        # border at half coverage: a pixel step outwards from aerated lung to wall passes the midpoint
        out = ndimage.binary_dilation(air, iterations=1) & ~air & ~m["heart"]
        assert g[core].mean() + 15 < g[out].mean()


def test_heart_and_lungs_lie_where_anatomy_puts_them(sample):
    for p in sample:
        left, right = (np.nonzero(p.masks[f"lung_{s}"])[1].mean() for s in ("left", "right"))
        assert left < 26 and right > 38
        hl, ht, hr, hb = box(p.masks["heart"])
        assert p.attributes["heart_x"] == pytest.approx((hl + hr) / 128)
        assert p.attributes["heart_y"] == pytest.approx((ht + hb) / 128)
        assert (hl + hr) / 2 > (left + right) / 2  # the heart points to the viewer's right


def test_ribs_cross_the_lungs():
    """Down a lung the brightness swings with the ribs: 8 to 26 cycles per frame outweigh all faster ones."""
    for seed in range(10):
        p = make(seed, 128, effusion="none", heart="normal")
        g, lung = grey(p), p.masks["lung_left"]
        col = int(np.nonzero(lung)[1].mean()) - 6
        rows = np.flatnonzero(lung[:, col])[4:-6]
        line = g[rows, col] - np.polyval(np.polyfit(rows, g[rows, col], 5), rows)
        power = np.abs(np.fft.rfft(line * np.hanning(len(line)), 512)) ** 2
        cycles = np.fft.rfftfreq(512) * 128
        ribs = power[(cycles > 8) & (cycles < 26)].sum()
        assert ribs > 3 * power[cycles >= 26].sum() and line.std() > 4, seed


def test_fixed_attributes_hold_and_leave_the_rest():
    for seed in range(6):
        free = make(seed)
        small, big = make(seed, heart="normal"), make(seed, heart="enlarged")
        assert (small.attributes["heart"], big.attributes["heart"]) == ("normal", "enlarged")
        assert small.attributes["effusion"] == big.attributes["effusion"] == free.attributes["effusion"]
        assert np.array_equal(small.masks["body"], big.masks["body"])
        assert big.masks["heart"].sum() > 1.3 * small.masks["heart"].sum()


def test_a_seed_is_the_same_scene_at_every_size():
    for seed in range(12):
        small, large = make(seed), make(seed, 128)
        assert small.caption == large.caption
        for key in ("cardiothoracic_ratio", "effusion_fraction", "heart_x", "heart_y"):
            assert small.attributes[key] == pytest.approx(large.attributes[key], abs=0.04), key  # 2 pixels at 64
        for name in small.masks:
            assert small.masks[name].mean() == pytest.approx(large.masks[name].mean(), abs=0.01), name
        halved = grey(large).reshape(64, 2, 64, 2).mean((1, 3))
        assert np.sqrt(((halved - grey(small)) ** 2).mean()) < 8


def test_every_caption_states_every_attribute():
    for heart, effusion in product(*chest_xray.ATTRIBUTES.values()):
        captions = chest_xray.describe({"heart": heart, "effusion": effusion})
        assert 2 <= len(set(captions)) == len(captions) <= 4
        for text in captions:
            words = text.split()
            assert 4 <= len(words) <= 16 and text == text.lower() and not any(c.isdigit() for c in text)
            assert f"{heart} heart" in text
            assert f"{'no' if effusion == 'none' else effusion} effusion" in text
            assert sum(w in words for w in ("left", "right", "no")) == 1
            assert ("normal" in words) != ("enlarged" in words)
    assert all(make(s, 32).caption in chest_xray.describe(make(s, 32).attributes) for s in range(20))
