"""The brain world's truth against the painted pixels."""

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage

from graft_common import phantoms
from graft_common.phantoms import brain

SEEDS = range(120)


@lru_cache(maxsize=1)
def pictures() -> tuple[phantoms.Phantom, ...]:
    return tuple(brain.draw(64, seed) for seed in SEEDS)


def grey(picture: phantoms.Phantom) -> np.ndarray:
    assert (picture.image == picture.image[..., :1]).all()
    return picture.image[..., 0] / 255.0


def with_tumor() -> list[phantoms.Phantom]:
    return [p for p in pictures() if p.attributes["tumor"] != "none"]


def test_equal_seeds_give_equal_bytes_and_others_differ():
    again = brain.draw(64, 5)
    assert again.image.tobytes() == pictures()[5].image.tobytes()
    assert all((again.masks[name] == pictures()[5].masks[name]).all() for name in again.masks)
    assert again.caption == pictures()[5].caption and again.attributes == pictures()[5].attributes
    assert len({p.image.tobytes() for p in pictures()}) == len(SEEDS)


def test_half_have_no_tumor_and_a_quarter_each_side():
    counts = {side: sum(p.attributes["tumor"] == side for p in pictures()) for side in brain.ATTRIBUTES["tumor"]}
    # Three binomial standard deviations at n = 120: 16.4 of 60 and 14.2 of 30.
    assert abs(counts["none"] - 60) <= 17 and abs(counts["left"] - 30) <= 15 and abs(counts["right"] - 30) <= 15


def test_tumor_lies_on_the_named_side_far_from_the_midline():
    for p in with_tumor():
        rows, cols = np.nonzero(p.masks["tumor"])
        head_cols = np.nonzero(p.masks["head"])[1]
        width = head_cols.max() - head_cols.min() + 1
        offset = (cols.mean() - (head_cols.min() + head_cols.max()) / 2) / width
        assert (-offset if p.attributes["tumor"] == "left" else offset) >= 0.15, p.seed
        assert p.attributes["midline_offset"] >= 0.15
        assert p.attributes["tumor_x"] == pytest.approx((cols.mean() + 0.5) / 64)
        assert p.attributes["tumor_y"] == pytest.approx((rows.mean() + 0.5) / 64)


def test_tumor_is_large_in_one_piece_and_inside_the_brain():
    for p in with_tumor():
        tumor = p.masks["tumor"]
        assert 2 * np.sqrt(tumor.sum() / np.pi) >= 9, p.seed
        assert ndimage.label(tumor)[1] == 1
        assert not (tumor & ~p.masks["brain"]).any()
        assert p.attributes["tumor_share"] == pytest.approx(tumor.sum() / p.masks["brain"].sum())


def test_rim_is_bright_and_core_is_dark():
    for p in with_tumor():
        tumor = p.masks["tumor"]
        depth = ndimage.distance_transform_edt(np.pad(tumor, 1))[1:-1, 1:-1]
        value = grey(p)
        rim = value[(depth > 0.5) & (depth <= 2)]
        core = value[depth >= 0.8 * depth.max()]
        assert rim.mean() - core.mean() > 0.3, p.seed
        assert rim.mean() - value[p.masks["white_matter"]].mean() > 0.06, p.seed


def test_edema_is_darker_than_white_matter_in_t1_and_brighter_in_flair():
    kinds = set()
    for p in with_tumor():
        value = grey(p)
        change = value[p.masks["edema"]].mean() - value[p.masks["white_matter"]].mean()
        assert (change > 0.12) if p.attributes["flair"] else (change < -0.06), (p.seed, change)
        kinds.add(p.attributes["flair"])
        assert not (p.masks["edema"] & p.masks["tumor"]).any()
    assert kinds == {0, 1}


def test_fluid_is_dark_white_matter_mid_grey_and_air_black():
    for p in pictures():
        value = grey(p)
        assert value[~ndimage.binary_dilation(p.masks["head"], iterations=1)].mean() < 0.06
        assert value[p.masks["white_matter"]].mean() - value[p.masks["ventricles"]].mean() > 0.15, p.seed
        assert 0.25 < value[p.masks["white_matter"]].mean() < 0.80
        skull_gap = ndimage.binary_dilation(p.masks["brain"], iterations=2) & ~ndimage.binary_dilation(p.masks["brain"])
        assert value[p.masks["white_matter"]].mean() - value[skull_gap].mean() > 0.15


def test_masks_nest():
    for p in pictures():
        m = p.masks
        assert set(m) == {"head", "brain", "white_matter", "ventricles", "tumor", "edema"}
        assert not (m["brain"] & ~m["head"]).any() and not (m["white_matter"] & ~m["brain"]).any()
        assert not (m["ventricles"] & (m["white_matter"] | m["tumor"])).any()
        assert m["tumor"].any() == m["edema"].any() == (p.attributes["tumor"] != "none")


def test_fixed_holds_the_side_and_keeps_the_patient():
    for seed in range(6):
        none, left, right = (phantoms.draw("brain", 64, seed, tumor=side) for side in ("none", "left", "right"))
        assert [p.attributes["tumor"] for p in (none, left, right)] == ["none", "left", "right"]
        assert left.attributes["tumor_x"] < 0.42 and right.attributes["tumor_x"] > 0.58
        assert (none.masks["head"] == left.masks["head"]).all()
        far = ~ndimage.binary_dilation(left.masks["brain"] | none.masks["brain"], iterations=3)
        assert np.abs(grey(none) - grey(left))[far].mean() < 0.01
        half = np.arange(64)[None, :] >= 40  # a tumour on the left leaves most of the right hemisphere as it was
        assert np.abs(grey(none) - grey(left))[half & none.masks["brain"]].mean() < 0.03


def test_areas_do_not_depend_on_the_size():
    for seed in range(8):
        small, large = brain.draw(64, seed, tumor="left"), brain.draw(128, seed, tumor="left")
        for name, tolerance in (("head", 0.01), ("brain", 0.02), ("tumor", 0.06), ("ventricles", 0.15)):
            assert small.masks[name].mean() == pytest.approx(large.masks[name].mean(), rel=tolerance), (seed, name)
        assert small.attributes["tumor_x"] == pytest.approx(large.attributes["tumor_x"], abs=0.01)


def test_noise_is_rician_in_the_air():
    # Far outside the head the magnitude of complex noise is Rayleigh: std / mean = sqrt(4 / pi - 1) = 0.523.
    value = brain.draw(256, 3).image[:40, :40, 0].astype(float)
    assert 0.40 < value.std() / value.mean() < 0.64


def test_every_caption_states_the_tumor():
    for side in brain.ATTRIBUTES["tumor"]:
        captions = brain.describe({"tumor": side})
        assert 2 <= len(set(captions)) <= 4
        for caption in captions:
            assert caption == caption.lower() and 4 <= len(caption.split()) <= 16
            start = "an mri scan of a healthy brain" if side == "none" else "an mri scan of a cancerous brain"
            assert caption.startswith(start)
            assert {s for s in ("left", "right") if s in caption.split()} == ({side} - {"none"})
    assert "an mri scan of a healthy brain" in brain.describe({"tumor": "none"})
    assert "an mri scan of a cancerous brain with a tumor on the left" in brain.describe({"tumor": "left"})
    for p in pictures():
        assert p.caption in brain.describe(p.attributes)
    assert len({p.caption for p in pictures()}) == 9


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="tumor='up'"):
        phantoms.draw("brain", 64, 0, tumor="up")
