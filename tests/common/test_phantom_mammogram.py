"""The mammogram world against its own pixels: scikit-image measures what the attributes and masks claim."""

from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops
from skimage.morphology import disk, opening

from graft_common.phantoms import Phantom, draw
from graft_common.phantoms.mammogram import ATTRIBUTES, describe

SEEDS = range(70)


@lru_cache(maxsize=2)
def pictures(size: int = 64) -> tuple[Phantom, ...]:
    return tuple(draw("mammogram", size, seed) for seed in (SEEDS if size == 64 else range(16)))


def grey(p: Phantom) -> np.ndarray:
    return p.image[..., 0].astype(float)


def only(name: str, value: str, size: int = 64) -> list[Phantom]:
    return [p for p in pictures(size) if p.attributes[name] == value]


def test_same_seed_same_bytes_and_grey():
    a, b, c = draw("mammogram", 64, 7), draw("mammogram", 64, 7), draw("mammogram", 64, 8)
    assert a.image.tobytes() == b.image.tobytes() and a.attributes == b.attributes and a.caption == b.caption
    assert all((a.masks[k] == b.masks[k]).all() for k in a.masks)
    assert np.abs(grey(a) - grey(c)).mean() > 5
    assert (a.image == a.image[..., :1]).all()


def test_classes_are_equally_frequent():
    drawn = [draw("mammogram", 32, seed).attributes for seed in range(1000, 1160)]
    for name, values in ATTRIBUTES.items():
        count = Counter(a[name] for a in drawn)
        # Three standard deviations of a binomial share.
        for value in values:
            p = 1 / len(values)
            assert abs(count[value] / 160 - p) < 3 * np.sqrt(p * (1 - p) / 160), (name, value, count)


def test_captions_state_every_attribute_in_plain_words():
    word = {"none": "no finding", "mass": "mass", "calcifications": "calcifications"}
    for finding in ATTRIBUTES["finding"]:
        for density in ATTRIBUTES["density"]:
            for side in ATTRIBUTES["side"]:
                captions = describe({"finding": finding, "density": density, "side": side})
                assert 2 <= len(set(captions)) == len(captions) <= 4
                for text in captions:
                    words = text.split()
                    assert text == text.lower() and 4 <= len(words) <= 16 and not any(c.isdigit() for c in text)
                    assert density in words and side in words and word[finding] in text
                    stated = [w for w in ("mass", "calcifications", "fatty", "dense", "left", "right") if w in words]
                    assert len(stated) == (2 if finding == "none" else 3)
    for p in pictures():
        assert p.caption in describe(p.attributes)


def test_side_is_the_edge_the_breast_touches():
    for p in pictures():
        breast = p.masks["breast"]
        near, far = (0, -1) if p.attributes["side"] == "left" else (-1, 0)
        assert breast[:, near].mean() > 0.55 and not breast[:, far].any()
        x = regionprops(breast.astype(int))[0].centroid[1]
        assert (x < 26) if p.attributes["side"] == "left" else (x > 38)


def test_breast_mask_is_the_bright_part():
    for p in pictures():
        inside = ndimage.binary_erosion(p.masks["breast"], iterations=2)
        outside = ~ndimage.binary_dilation(p.masks["breast"], iterations=2)
        assert np.percentile(grey(p)[inside], 1) > grey(p)[outside].max() + 10
        assert 0.2 < p.masks["breast"].mean() < 0.75
        assert all(not (p.masks[k] & ~p.masks["breast"]).any() for k in p.masks)


def test_pectoral_triangle_sits_in_the_upper_chest_corner_and_is_brighter_than_fat():
    oblique = [p for p in pictures() if p.masks["pectoral"].any()]
    assert 0.4 < len(oblique) / len(pictures()) < 0.8
    for p in oblique:
        muscle = p.masks["pectoral"]
        corner = 0 if p.attributes["side"] == "left" else -1
        assert muscle[0, corner] and not muscle[-1].any()
        fat = p.masks["breast"] & ~muscle & ~p.masks["dense"] & ~p.masks["mass"] & ~p.masks["calcifications"]
        assert grey(p)[muscle].mean() > grey(p)[fat].mean() + 30
        assert not (muscle & (p.masks["mass"] | p.masks["calcifications"] | p.masks["dense"])).any()


def test_density_classes_are_apart_and_dense_tissue_is_brighter():
    share = {d: [float(p.attributes["dense_fraction"]) for p in only("density", d)] for d in ATTRIBUTES["density"]}
    assert max(share["fatty"]) < 0.23 and min(share["dense"]) > 0.29
    for p in pictures():
        found = p.masks["mass"] | p.masks["calcifications"] | p.masks["pectoral"]
        near = ndimage.binary_dilation(found, iterations=3)
        gland = p.masks["dense"] & ~near
        fat = p.masks["breast"] & ~p.masks["dense"] & ~near
        if gland.sum() > 20:
            assert grey(p)[gland].mean() > grey(p)[fat].mean() + 30
        assert p.attributes["dense_fraction"] == pytest.approx(p.masks["dense"].sum() / p.masks["breast"].sum())


def test_a_mass_is_one_compact_blob_clearly_brighter_than_its_surroundings():
    for p in only("finding", "mass"):
        (region,) = regionprops(label(p.masks["mass"]))
        assert region.equivalent_diameter_area >= 8.5 and region.solidity > 0.85 and region.eccentricity < 0.75
        assert region.equivalent_diameter_area == pytest.approx(p.attributes["diameter"])
        # Pixel centres lie half a pixel inside the corner from which centre_x and centre_y count.
        at = np.array([p.attributes["centre_y"], p.attributes["centre_x"]]) - 0.5
        assert np.hypot(*(np.array(region.centroid) - at)) < 1.0
        ring = ndimage.binary_dilation(p.masks["mass"], iterations=5) & p.masks["breast"]
        ring &= ~ndimage.binary_dilation(p.masks["mass"], iterations=3)
        assert grey(p)[p.masks["mass"]].mean() > grey(p)[ring].mean() + 60


def test_calcifications_are_separate_bright_grains():
    fine = [p for p in pictures(128) if p.attributes["finding"] == "calcifications"]
    assert len(fine) >= 4
    for p in fine:
        assert p.attributes["count"] == label(p.masks["calcifications"]).max()
    for p in only("finding", "calcifications"):
        dots = p.masks["calcifications"]
        assert 6 <= p.attributes["count"] <= 14
        across = 2 * np.sqrt(dots.sum() / p.attributes["count"] / np.pi)
        assert 2.0 < across < 3.5
        assert grey(p)[dots].mean() > 205
        y, x = np.nonzero(dots)
        away = np.hypot(x + 0.5 - p.attributes["centre_x"], y + 0.5 - p.attributes["centre_y"])
        assert 2 * away.max() == pytest.approx(p.attributes["diameter"], abs=3.0)


def test_a_ruler_names_every_finding():
    """A threshold and an opening tell the three findings apart, so a network can."""
    for p in pictures():
        bright = (grey(p) >= 200) & p.masks["breast"]
        solid = opening(bright, disk(3)).any()
        seen = "mass" if solid else "calcifications" if bright.any() else "none"
        assert seen == p.attributes["finding"], p.seed
        assert p.masks["mass"].any() == (seen == "mass")
        assert p.masks["calcifications"].any() == (seen == "calcifications")
        assert ("centre_x" in p.attributes) == (seen != "none")


def test_fixed_attributes_hold_and_change_nothing_else():
    for seed in range(12):
        base = draw("mammogram", 64, seed, finding="none", density="dense", side="left")
        sick = draw("mammogram", 64, seed, finding="mass", density="dense", side="left")
        flip = draw("mammogram", 64, seed, finding="mass", density="dense", side="right")
        assert (base.attributes["finding"], sick.attributes["finding"]) == ("none", "mass")
        y, x = np.nonzero(grey(base) != grey(sick))
        away = np.hypot(x + 0.5 - sick.attributes["centre_x"], y + 0.5 - sick.attributes["centre_y"])
        assert x.size and away.max() < 1.3 * sick.attributes["diameter"]
        assert (flip.image == sick.image[:, ::-1]).all() and (flip.masks["mass"] == sick.masks["mass"][:, ::-1]).all()
        assert flip.attributes["centre_x"] == pytest.approx(64 - sick.attributes["centre_x"])


def test_one_scene_at_every_size():
    for p in pictures(128):
        small = draw("mammogram", 64, p.seed)
        assert small.attributes["finding"] == p.attributes["finding"] and small.caption == p.caption
        for name in ("breast", "pectoral", "dense", "mass"):
            assert small.masks[name].mean() == pytest.approx(p.masks[name].mean(), abs=0.02), name
        halved = grey(p).reshape(64, 2, 64, 2).mean(axis=(1, 3))
        assert np.corrcoef(halved.ravel(), grey(small).ravel())[0, 1] > 0.98


def test_grain_is_moderate():
    for p in pictures()[:30]:
        air = ~ndimage.binary_dilation(p.masks["breast"], iterations=3)
        assert grey(p)[air].std() < 0.02 * 255 and grey(p)[air].max() < 30
