"""The dermoscopy world against scikit-image's colour conversion, colour differences and region properties."""

from itertools import product

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import deltaE_cie76, rgb2lab
from skimage.measure import label, regionprops

from graft_common.phantoms import dermoscopy, draw

# Written here by hand, not read from the module: textbook sRGB of the colour words, as seen in dermoscopy.
PROTOTYPES = {"brown": (130, 80, 45), "black": (38, 33, 31), "red": (175, 65, 65), "blue": (75, 105, 135)}
BORDERS = np.array([55.0, 41.0, 28.0, 10.0, -30.0])
WORDS = {"none": "", "hair": "hair", "ruler": "ruler", "ink": "ink", "corners": "corners"}


@pytest.fixture(scope="module")
def sample():
    return [draw("dermoscopy", 64, seed) for seed in range(200)]


def test_same_seed_same_bytes_and_other_seed_differs():
    first, again, other = (draw("dermoscopy", 64, seed) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.attributes == again.attributes and first.caption == again.caption
    assert all(np.array_equal(first.masks[k], again.masks[k]) for k in first.masks)
    assert np.abs(first.image.astype(int) - other.image).mean() > 5


def test_classes_are_about_equally_frequent(sample):
    for name, values in dermoscopy.ATTRIBUTES.items():
        drawn, even = [p.attributes[name] for p in sample], 1 / len(values)
        for value in values:
            assert abs(drawn.count(value) / len(drawn) - even) < 4 * np.sqrt(even * (1 - even) / len(drawn))


def test_lesion_has_the_named_colour_and_stands_out_on_every_skin():
    worst_skin = worst_other = 99.0
    for color, skin, seed in product(*list(dermoscopy.ATTRIBUTES.values())[:2], range(8)):
        p = draw("dermoscopy", 64, seed, color=color, skin=skin, artifact="none")
        lab = rgb2lab(p.image)
        lesion, around = (
            lab[p.masks["lesion"]].mean(0),
            lab[~ndimage.binary_dilation(p.masks["lesion"], iterations=2)].mean(0),
        )
        gaps = {
            k: float(deltaE_cie76(lesion, rgb2lab(np.array(v, np.uint8)[None, None])[0, 0]))
            for k, v in PROTOTYPES.items()
        }
        assert min(gaps, key=lambda k: gaps[k]) == color, (color, skin, seed, gaps)
        worst_other = min(worst_other, sorted(gaps.values())[1])
        worst_skin = min(worst_skin, float(deltaE_cie76(lesion, around)))
    assert worst_skin >= 15 and worst_other >= 15, (worst_skin, worst_other)


def test_recorded_colours_equal_those_of_the_picture(sample):
    for p in sample:
        if p.attributes["artifact"] != "none":
            continue
        lab = rgb2lab(p.image)
        mean = lab[p.masks["lesion"]].mean(0)
        recorded = [p.attributes[f"lesion_{c}"] for c in "lab"]
        assert np.abs(mean - recorded).max() < 1.0
        y, x = (np.indices((64, 64)) + 0.5) / 64 - 0.5
        clear = ndimage.distance_transform_edt(~p.masks["lesion"]) > 0.06 * 64
        skin = lab[clear & (np.hypot(x, y) < 0.5)].mean(0)
        ita = np.degrees(np.arctan((skin[0] - 50) / skin[2]))
        assert abs(ita - p.attributes["ita"]) < 2.0


def test_skin_tones_are_typology_classes_away_from_the_borders(sample):
    inside = {"fair": (55, 90), "tan": (10, 28), "dark": (-90, -30)}
    for p in sample:
        lab, (low, high) = rgb2lab(p.image), inside[p.attributes["skin"]]
        away = ndimage.binary_dilation(p.masks["lesion"] | p.masks["artifact"], iterations=3)
        mean = lab[~away].mean(0)
        assert low + 3 < np.degrees(np.arctan((mean[0] - 50) / mean[2])) < high - 3
        assert low < p.attributes["ita"] < high and np.abs(BORDERS - p.attributes["ita"]).min() >= 8


def test_border_of_the_mask_is_where_the_paint_is_half(sample):
    """Across the border the colour is midway between the lesion's own and the skin's."""
    for p in sample[:80]:
        if p.attributes["artifact"] != "none":
            continue
        lab, mask = rgb2lab(p.image), p.masks["lesion"]
        deep = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
        axis = lab[deep > 4].mean(0) - lab[deep < -4].mean(0)
        along = (lab - lab[deep < -4].mean(0)) @ axis / (axis @ axis)
        assert 0.25 < along[np.abs(deep) <= 1].mean() < 0.75
        assert along[(deep > 0) & (deep < 2)].mean() > along[(deep < 0) & (deep > -2)].mean() + 0.15


def test_lesion_is_one_piece_of_the_stated_size_and_place(sample):
    for p in sample:
        mask = p.masks["lesion"]
        assert label(mask).max() == 1
        (r,) = regionprops(mask.astype(int))
        assert p.attributes["area_fraction"] == pytest.approx(r.area / 64**2)
        assert p.attributes["diameter"] == pytest.approx(r.equivalent_diameter_area / 64)
        assert p.attributes["center_x"] == pytest.approx((r.centroid[1] + 0.5) / 64, abs=1e-4)
        assert p.attributes["center_y"] == pytest.approx((r.centroid[0] + 0.5) / 64, abs=1e-4)
        assert 0.24 < p.attributes["diameter"] < 0.65
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    centers = np.array([[p.attributes["center_x"], p.attributes["center_y"]] for p in sample])
    assert (centers.std(0) > 0.06).all() and (np.abs(centers.mean(0) - 0.5) < 0.03).all()


def test_asymmetry_of_known_shapes():
    y, x = np.indices((129, 129)) - 64
    disc, ellipse = x**2 + y**2 < 40**2, (x / 50) ** 2 + (y / 25) ** 2 < 1
    assert dermoscopy._asymmetry(disc) < 0.02 and dermoscopy._asymmetry(ellipse) < 0.02
    triangle = (y > -40) & (y < 40) & (x > -40) & (2 * (x + 40) < y + 40)
    assert dermoscopy._asymmetry(triangle) > 0.15


@pytest.mark.parametrize("artifact", ["hair", "ruler", "ink", "corners"])
def test_artifact_mask_is_where_the_picture_changed(artifact):
    for seed in range(8):
        clean, p = (draw("dermoscopy", 64, seed, skin="tan", artifact=a) for a in ("none", artifact))
        changed = np.abs(rgb2lab(p.image) - rgb2lab(clean.image)).max(-1)
        mask = p.masks["artifact"]
        skin = ~clean.masks["lesion"]
        assert (changed[mask & skin] > 8).mean() > 0.97
        assert (changed[~ndimage.binary_dilation(mask, iterations=2)] < 1e-9).mean() > 0.99
        assert 0.008 < p.attributes["artifact_fraction"] == pytest.approx(mask.mean())
        assert not clean.masks["artifact"].any()


def test_each_artifact_looks_as_named():
    for seed, skin in product(range(5), dermoscopy.ATTRIBUTES["skin"]):
        hair = draw("dermoscopy", 64, seed, skin=skin, artifact="hair")
        lab = rgb2lab(hair.image)
        bare = ~ndimage.binary_dilation(hair.masks["lesion"] | hair.masks["artifact"], iterations=2)
        assert lab[hair.masks["artifact"], 0].mean() < lab[bare, 0].mean() - 12
        ruler = draw("dermoscopy", 64, seed, skin=skin, artifact="ruler").masks["artifact"]
        sides = [ruler[:11], ruler[-11:], ruler[:, :11], ruler[:, -11:]]
        assert max(s.sum() for s in sides) == ruler.sum()
        ink = draw("dermoscopy", 64, seed, skin=skin, artifact="ink")
        assert 2 <= label(ink.masks["artifact"]).max() <= 5 and not (ink.masks["artifact"] & ink.masks["lesion"]).any()
        assert rgb2lab(ink.image)[ink.masks["artifact"], 2].max() < -15
        corners = draw("dermoscopy", 64, seed, skin=skin, artifact="corners")
        spots = corners.image[np.ix_([0, 1, 2, -3, -2, -1], [0, 1, 2, -3, -2, -1])]
        assert rgb2lab(spots)[..., 0].max() < 20 and not (corners.masks["artifact"] & corners.masks["lesion"]).any()


def test_fixed_attributes_hold_and_leave_the_rest():
    for seed in range(6):
        free = draw("dermoscopy", 64, seed)
        red, black = (draw("dermoscopy", 64, seed, color=c, artifact="none") for c in ("red", "black"))
        assert (red.attributes["color"], black.attributes["color"]) == ("red", "black")
        assert red.attributes["skin"] == free.attributes["skin"]
        assert np.array_equal(red.masks["lesion"], black.masks["lesion"])
        far = ndimage.distance_transform_edt(~red.masks["lesion"]) > 8
        assert np.array_equal(red.image[far], black.image[far])


def test_a_seed_is_the_same_scene_at_every_size():
    for seed in range(12):
        small, large = (draw("dermoscopy", size, seed) for size in (64, 128))
        assert small.caption == large.caption
        for key in ("area_fraction", "center_x", "center_y", "artifact_fraction"):
            assert small.attributes[key] == pytest.approx(large.attributes[key], abs=0.02), key
        halved = large.image.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.sqrt(((halved - small.image) ** 2).mean()) < 10


def test_every_caption_states_every_attribute():
    for color, skin, artifact in product(*dermoscopy.ATTRIBUTES.values()):
        captions = dermoscopy.describe({"color": color, "skin": skin, "artifact": artifact})
        assert 2 <= len(set(captions)) == len(captions) <= 4
        for text in captions:
            words = text.replace(",", "").split()
            assert 4 <= len(words) <= 16 and text == text.lower() and not any(c.isdigit() for c in text)
            assert f"{color} lesion" in text and f"{skin} skin" in text
            named = {k for k, word in WORDS.items() if word and word in words}
            assert named == ({artifact} - {"none"})
    assert all(
        draw("dermoscopy", 32, s).caption in dermoscopy.describe(draw("dermoscopy", 32, s).attributes)
        for s in range(20)
    )
