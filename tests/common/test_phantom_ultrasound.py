"""The ultrasound world's truth against the painted pixels."""

from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage, stats

from graft_common import phantoms
from graft_common.phantoms import ultrasound

SEEDS = range(120)


@lru_cache(maxsize=1)
def pictures() -> tuple[phantoms.Phantom, ...]:
    return tuple(ultrasound.draw(64, seed) for seed in SEEDS)


def grey(picture: phantoms.Phantom) -> np.ndarray:
    assert (picture.image == picture.image[..., :1]).all()
    return picture.image[..., 0] / 255.0


def of(kind: str) -> list[phantoms.Phantom]:
    return [p for p in pictures() if p.attributes["lesion"] == kind]


def sides(mask: np.ndarray) -> tuple[int, int]:
    rows, cols = np.nonzero(mask)
    return int(np.ptp(cols)) + 1, int(np.ptp(rows)) + 1


def test_equal_seeds_give_equal_bytes_and_others_differ():
    again = ultrasound.draw(64, 5)
    assert again.image.tobytes() == pictures()[5].image.tobytes()
    assert all((again.masks[name] == pictures()[5].masks[name]).all() for name in again.masks)
    assert again.caption == pictures()[5].caption and again.attributes == pictures()[5].attributes
    assert len({p.image.tobytes() for p in pictures()}) == len(SEEDS)


def test_each_class_comes_about_equally_often():
    counts = [len(of(kind)) for kind in ultrasound.ATTRIBUTES["lesion"]]
    assert stats.chisquare(counts).pvalue > 1e-3, counts


def test_lesion_is_dark_against_its_own_lesion_free_twin():
    for kind in ("benign", "malignant"):
        for p in of(kind):
            twin = ultrasound.draw(64, p.seed, lesion="none")
            change = grey(p) - grey(twin)
            assert change[p.masks["lesion"]].mean() < -0.2, p.seed
            ring = ndimage.binary_dilation(p.masks["lesion"], iterations=3) & ~ndimage.binary_dilation(
                p.masks["lesion"]
            )
            assert grey(p)[p.masks["lesion"]].mean() < grey(p)[ring].mean() - 0.1, p.seed


def test_benign_enhances_and_malignant_shadows_behind_it():
    for kind, sign in (("benign", 1), ("malignant", -1)):
        for p in of(kind):
            change = grey(p) - grey(ultrasound.draw(64, p.seed, lesion="none"))
            behind = p.masks["posterior"]
            assert sign * change[behind].mean() > 0.045, (p.seed, kind)
            assert sign * p.attributes["posterior_gain"] > 0.15
            elsewhere = ~ndimage.binary_dilation(behind | p.masks["lesion"], iterations=5)
            assert np.abs(change[elsewhere]).mean() < 0.01, p.seed
            assert np.nonzero(behind)[0].mean() > np.nonzero(p.masks["lesion"])[0].mean() + 5


def test_benign_is_wide_and_smooth_and_malignant_is_tall_and_rough():
    rough = {"benign": [], "malignant": []}
    for kind, values in rough.items():
        for p in of(kind):
            mask = ultrasound.draw(256, p.seed, lesion=kind).masks["lesion"]
            width, height = sides(mask)
            assert width > 1.25 * height if kind == "benign" else height > 0.93 * width, (p.seed, width / height)
            filled = ndimage.binary_opening(mask, np.ones((3, 3)), iterations=5)
            values.append(1 - filled.sum() / mask.sum())
            if len(values) == 12:
                break
    assert max(rough["benign"]) < 0.04 < min(rough["malignant"]), rough


def test_lesion_is_large_whole_and_measured():
    for kind in ("benign", "malignant"):
        for p in of(kind):
            mask = p.masks["lesion"]
            assert min(sides(mask)) >= 9 and ndimage.label(mask)[1] == 1, p.seed
            rows, cols = np.nonzero(mask)
            assert rows.min() > 4 and cols.min() > 1 and cols.max() < 62
            assert p.attributes["lesion_share"] == pytest.approx(mask.mean())
            assert p.attributes["lesion_x"] == pytest.approx((cols.mean() + 0.5) / 64)
            assert p.attributes["lesion_y"] == pytest.approx((rows.mean() + 0.5) / 64)
            assert p.attributes["lesion_aspect"] == pytest.approx(sides(mask)[0] / sides(mask)[1])


def test_masks_lie_where_the_anatomy_is():
    for p in pictures():
        m, value = p.masks, grey(p)
        assert set(m) == {"lesion", "posterior", "skin", "muscle"}
        assert m["skin"][0].all() and 0.03 < m["skin"].mean() < 0.11
        assert value[m["skin"]].mean() - value[m["muscle"]].mean() > 0.1, p.seed
        assert np.nonzero(m["muscle"])[0].min() > 36 and 0.08 < m["muscle"].mean() < 0.22
        assert not (m["lesion"] & (m["skin"] | m["muscle"] | m["posterior"])).any()
        assert m["lesion"].any() == m["posterior"].any() == (p.attributes["lesion"] != "none")


def test_fat_is_darker_than_gland():
    for p in of("none"):
        value = grey(p)
        skin = p.masks["skin"].sum(axis=0).max()
        assert value[28:42].mean() - value[skin + 1 : skin + 4].mean() > 0.05, p.seed


def test_speckle_is_coarser_across_the_beam_than_along_it():
    picture = ultrasound.draw(256, 3, lesion="none")
    patch = grey(picture)[90:150]
    patch = patch - ndimage.gaussian_filter(patch, 6)
    lateral = (patch[:, 2:] * patch[:, :-2]).mean() / patch.var()
    axial = (patch[2:] * patch[:-2]).mean() / patch.var()
    assert lateral > axial + 0.15 and lateral > 0.4


def test_fixed_holds_the_lesion_and_keeps_the_breast():
    for seed in range(6):
        found = {kind: phantoms.draw("ultrasound", 64, seed, lesion=kind) for kind in ultrasound.ATTRIBUTES["lesion"]}
        assert all(p.attributes["lesion"] == kind for kind, p in found.items())
        corner = np.s_[:12, :8]
        assert (found["none"].image[corner] == found["benign"].image[corner]).all()
        assert (found["none"].masks["muscle"] == found["malignant"].masks["muscle"]).all()


def test_areas_do_not_depend_on_the_size():
    for seed in range(8):
        for kind in ("benign", "malignant"):
            small, large = ultrasound.draw(64, seed, lesion=kind), ultrasound.draw(128, seed, lesion=kind)
            for name, tolerance in (("lesion", 0.06), ("posterior", 0.10), ("skin", 0.08), ("muscle", 0.03)):
                assert small.masks[name].mean() == pytest.approx(large.masks[name].mean(), rel=tolerance), (seed, name)


def test_every_caption_states_the_lesion():
    wanted = {
        "none": "an ultrasound image of a normal breast",
        "benign": "an ultrasound image of a breast with a benign lesion",
        "malignant": "an ultrasound image of a cancerous breast",
    }
    words = {"none": "normal", "benign": "benign", "malignant": "cancerous"}
    for kind, start in wanted.items():
        captions = ultrasound.describe({"lesion": kind})
        assert start in captions and 2 <= len(set(captions)) <= 4
        for caption in captions:
            assert caption == caption.lower() and 4 <= len(caption.split()) <= 16
            assert [k for k, word in words.items() if word in caption] == [kind]
    for p in pictures():
        assert p.caption in ultrasound.describe(p.attributes)
    assert len({p.caption for p in pictures()}) == 9


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="lesion='cyst'"):
        phantoms.draw("ultrasound", 64, 0, lesion="cyst")
