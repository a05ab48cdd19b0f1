"""The lung CT world against its own pixels: HU read back from the picture and scikit-image judge the claims."""

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops
from skimage.morphology import disk, opening

from graft_common.phantoms import Phantom, draw
from graft_common.phantoms._drawing import cloud
from graft_common.phantoms.lung_ct import ATTRIBUTES, describe, hounsfield

SIDES = ("left", "right")


@lru_cache(maxsize=2)
def pictures(size: int = 64) -> tuple[Phantom, ...]:
    return tuple(draw("lung_ct", size, seed) for seed in range(60 if size == 64 else 10))


def sick() -> list[Phantom]:
    return [p for p in pictures() if p.attributes["nodule"] != "none"]


def test_same_seed_same_bytes_and_grey():
    a, b, c = draw("lung_ct", 64, 7), draw("lung_ct", 64, 7), draw("lung_ct", 64, 8)
    assert a.image.tobytes() == b.image.tobytes() and a.attributes == b.attributes and a.caption == b.caption
    assert all((a.masks[k] == b.masks[k]).all() for k in a.masks)
    assert np.abs(a.image.astype(float) - c.image).mean() > 5
    assert (a.image == a.image[..., :1]).all()


def test_half_of_the_pictures_show_no_nodule():
    count = Counter(draw("lung_ct", 32, seed).attributes["nodule"] for seed in range(1000, 1160))
    for value, share in (("none", 0.5), ("left", 0.25), ("right", 0.25)):
        # Three standard deviations of a binomial share.
        assert abs(count[value] / 160 - share) < 3 * np.sqrt(share * (1 - share) / 160), count


def test_captions_state_the_nodule_in_plain_words():
    for value in ATTRIBUTES["nodule"]:
        captions = describe({"nodule": value})
        assert 2 <= len(set(captions)) == len(captions) <= 4
        for text in captions:
            words = text.split()
            assert text == text.lower() and 4 <= len(words) <= 16 and not any(c.isdigit() for c in text)
            assert "nodule" in words and ("no" in words) == (value == "none")
            assert [s for s in SIDES if s in words] == [s for s in SIDES if s == value]
    for p in pictures():
        assert p.caption in describe(p.attributes)


def test_hounsfield_inverts_the_window():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    want = np.linspace(-1350.0, 150.0, 256).reshape(16, 16)
    np.testing.assert_allclose(hounsfield(ramp), want, atol=1e-9)
    np.testing.assert_allclose(hounsfield(np.stack([ramp] * 3, axis=-1)), want, atol=1e-9)


def test_tissues_have_their_hu():
    for p in pictures():
        hu, m = hounsfield(p.image), p.masks
        lungs = m["lung_left"] | m["lung_right"]
        clear = ndimage.binary_erosion(lungs, iterations=2)
        clear &= ~ndimage.binary_dilation(m["vessels"] | m["nodule"], iterations=2)
        assert -900 < np.median(hu[clear]) < -700
        heart = ndimage.binary_erosion(m["mediastinum"], iterations=3)
        assert 0 < np.median(hu[heart]) <= 150
        y, x = np.indices(hu.shape) + 0.5
        circle = np.hypot(x - 32, y - 32) < 28
        air = circle & ~ndimage.binary_dilation(m["body"], iterations=3) & (y < 30)
        if air.sum() > 20:
            assert np.median(hu[air]) == pytest.approx(-990, abs=12)
        assert hu[m["vessels"]].mean() > hu[clear].mean() + 200
        assert p.attributes["lung_hu"] == pytest.approx(hu[lungs].mean())
        shell = (
            m["body"] & ~ndimage.binary_dilation(lungs, iterations=2) & ndimage.binary_erosion(m["body"], iterations=2)
        )
        assert np.percentile(hu[shell & ~heart], 20) > -150


def test_masks_nest_and_lungs_lie_on_their_sides():
    for p in pictures():
        m = p.masks
        left, right = m["lung_left"], m["lung_right"]
        lungs = left | right
        assert not (left & right).any() and not (lungs & ~m["body"]).any() and not (m["mediastinum"] & ~m["body"]).any()
        assert not ((m["vessels"] | m["nodule"]) & ~lungs).any() and not (m["mediastinum"] & lungs).any()
        assert label(m["body"]).max() == 1
        assert regionprops(left.astype(int))[0].centroid[1] < 24 and regionprops(right.astype(int))[0].centroid[1] > 38
        for lung in (left, right):
            assert 0.06 < lung.mean() < 0.22
            assert np.sort(np.bincount(label(lung).ravel())[1:])[-1] > 0.97 * lung.sum()
        assert 0.005 < m["vessels"].mean() < 0.08


def test_a_nodule_is_round_bright_and_in_the_named_lung():
    for p in sick():
        side = p.attributes["nodule"]
        (region,) = regionprops(label(p.masks["nodule"]))
        assert region.equivalent_diameter_area >= 8.0 and region.solidity > 0.88 and region.eccentricity < 0.65
        assert region.equivalent_diameter_area == pytest.approx(p.attributes["diameter"])
        at = np.array([p.attributes["centre_y"], p.attributes["centre_x"]]) - 0.5
        assert np.hypot(*(np.array(region.centroid) - at)) < 0.8
        assert not (p.masks["nodule"] & ~p.masks[f"lung_{side}"]).any()
        assert (region.centroid[1] < 26) if side == "left" else (region.centroid[1] > 37)
        gap = ndimage.distance_transform_edt(~p.masks["mediastinum"])[p.masks["nodule"]].min()
        assert gap >= 1.5
        hu = hounsfield(p.image)
        assert p.attributes["nodule_hu"] == pytest.approx(hu[p.masks["nodule"]].mean())
        core = ndimage.binary_erosion(p.masks["nodule"], iterations=2)
        assert -40 < hu[core].mean() < 110


def test_a_ruler_names_every_nodule():
    """A threshold and an opening tell the classes apart, so no vessel passes for a nodule."""
    for p in pictures():
        hu = hounsfield(p.image)
        area = {}
        for side in SIDES:
            lung = ndimage.binary_erosion(p.masks[f"lung_{side}"])
            area[side] = int(opening((hu > -350) & lung, disk(3)).sum())
        seen = "none" if max(area.values()) == 0 else max(area, key=area.__getitem__)
        assert seen == p.attributes["nodule"], (p.seed, area)
        assert p.masks["nodule"].any() == (seen != "none") == ("diameter" in p.attributes)


def test_fixed_attributes_hold_and_change_nothing_else():
    for seed in range(12):
        base, left, right = (draw("lung_ct", 64, seed, nodule=value) for value in ("none", "left", "right"))
        for p, value in ((base, "none"), (left, "left"), (right, "right")):
            assert p.attributes["nodule"] == value
            assert all((p.masks[k] == base.masks[k]).all() for k in p.masks if k != "nodule")
        for p in (left, right):
            y, x = np.nonzero(p.image[..., 0] != base.image[..., 0])
            away = np.hypot(x + 0.5 - p.attributes["centre_x"], y + 0.5 - p.attributes["centre_y"])
            assert x.size and away.max() < 0.5 * p.attributes["diameter"] + 5


def test_one_scene_at_every_size():
    for p in pictures(128):
        small = draw("lung_ct", 64, p.seed)
        assert small.attributes["nodule"] == p.attributes["nodule"] and small.caption == p.caption
        for name in ("body", "lung_left", "lung_right", "mediastinum", "nodule"):
            assert small.masks[name].mean() == pytest.approx(p.masks[name].mean(), abs=0.008), name
        halved = p.image[..., 0].astype(float).reshape(64, 2, 64, 2).mean(axis=(1, 3))
        assert np.corrcoef(halved.ravel(), small.image[..., 0].ravel())[0, 1] > 0.985


def test_noise_is_moderate():
    y, x = np.indices((64, 64)) + 0.5
    free = (np.hypot(x - 32, y - 32) < 28) & (y < 30)
    tested = 0
    for p in pictures():
        air = free & ~ndimage.binary_dilation(p.masks["body"], iterations=4)
        if air.sum() > 40:
            assert 0.003 * 255 < p.image[..., 0][air].std() < 0.025 * 255
            tested += 1
    assert tested > 10


def test_texture_has_unit_variance_and_one_shape_at_every_size():
    many = [cloud(np.random.default_rng(seed), 64, 1.0, 2.0, 14) for seed in range(100)]
    assert np.var(many) == pytest.approx(1.0, abs=0.05)
    fine = cloud(np.random.default_rng(0), 256, 1.0, 2.0, 14).reshape(64, 4, 64, 4).mean(axis=(1, 3))
    # Averaging 4 x 4 pixels dims the highest frequency by sinc(14/64)**2, under 8 %.
    assert np.abs(fine - many[0]).max() < 0.08 * np.abs(many[0]).max()
    power = np.mean(np.abs(np.fft.rfft2(np.array(many))) ** 2, axis=0)
    # Amplitude ~ 1 / f: four times the power at half the frequency, none outside the band.
    assert power[0, 4] / power[0, 8] == pytest.approx(4.0, rel=0.4) and power[4, 3] / power[8, 6] == pytest.approx(
        4.0, rel=0.4
    )
    assert power[0, 1] + power[20, 0] < 1e-9 * power[0, 4]
