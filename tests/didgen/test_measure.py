"""The captioner on phantoms (property 17), and its detectors on pictures that are drawn here."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import lab2rgb
from skimage.draw import disk, line

from didgen.artifacts import EIGHT, bright_rings, find_artifacts
from didgen.attributes import flip
from didgen.colours import named_tone, skin_margin, skin_tone, tone_margin
from didgen.measure import measure
from didgen.thresholds import DEFAULT
from graft_common import phantoms
from graft_common.errors import InputError

HELD_OUT = 10_000_000
COLOR = {"brown": "dark-brown", "black": "black", "red": "red", "blue": "blue-gray"}
SKIN = {"fair": "very-light", "tan": "tan", "dark": "dark"}
MARKERS = {"none": (), "hair": (), "ruler": ("ruler",), "ink": ("ink",), "corners": ("dark-corners",)}
SIZES = (64, 128, 256)


@pytest.fixture(scope="module")
def worlds():
    """size -> 40 held-out phantoms, eight of each artifact."""
    return {
        size: [phantoms.draw("dermoscopy", size, HELD_OUT + i, artifact=list(MARKERS)[i % 5]) for i in range(40)] for size in SIZES
    }


def third(share):
    return 0 if share < 1 / 3 else 2 if share > 2 / 3 else 1


def true_hair(phantom):
    """Class of the painted share of the skin."""
    if phantom.attributes["artifact"] != "hair":
        return "none"
    skin = ~phantom.masks["lesion"]
    share = phantom.masks["artifact"][skin].mean()
    return "none" if share < 0.01 else "sparse" if share < 0.05 else "dense"


@pytest.mark.parametrize("size", SIZES)
def test_words_on_held_out_phantoms(worlds, size):
    words = [["top-left", "top", "top-right"], ["left", "center", "right"], ["bottom-left", "bottom", "bottom-right"]]
    right, off = {name: 0 for name in ("size", "position", "hair", "colors", "skin", "markers")}, []
    for p in worlds[size]:
        t, found = p.attributes, measure(p.image, p.masks["lesion"])
        a = found.attributes
        share = t["area_fraction"]
        right["size"] += a.size == ("small" if share < 0.05 else "medium" if share < 0.25 else "large")
        right["position"] += a.position == words[third(t["center_y"])][third(t["center_x"])]
        right["hair"] += a.hair == true_hair(p)
        right["colors"] += a.colors == (COLOR[t["color"]],)
        right["skin"] += a.skin == SKIN[t["skin"]]
        right["markers"] += a.markers == MARKERS[t["artifact"]]
        assert abs(found.tones.ita - t["ita"]) < 2.5
        true_lab = (t["lesion_l"], t["lesion_a"], t["lesion_b"])
        off.append(np.linalg.norm(np.subtract(found.tones.lesion_lab, true_lab)))
        assert found.mask_source == "given" and found.area == pytest.approx(share)
        assert found.skin_margin == skin_margin(found.tones.ita) and a.skin == skin_tone(found.tones.ita)
        assert found.tone_margin == tone_margin(found.tones.lesion_lab) and a.colors[0] == named_tone(found.tones.lesion_lab)
    assert np.median(off) < 3 and max(off) < 9  # the true mean holds the soft rim, the measured one does not
    n = len(worlds[size])
    assert right["size"] == right["position"] == right["hair"] == n, right
    assert min(right["colors"], right["skin"], right["markers"]) >= 0.95 * n, right


@pytest.mark.parametrize("size", SIZES)
def test_a_mirrored_picture_gives_mirrored_words(worlds, size):
    for p in worlds[size]:
        one = measure(p.image, p.masks["lesion"])
        other = measure(np.ascontiguousarray(p.image[:, ::-1]), np.ascontiguousarray(p.masks["lesion"][:, ::-1]))
        assert other.attributes == flip(one.attributes)


def test_words_without_a_mask(worlds):
    same = {name: 0 for name in ("colors", "size", "position", "skin", "hair")}
    for p in worlds[128]:
        given, found = measure(p.image, p.masks["lesion"]), measure(p.image)
        assert found.mask_source == "otsu" and found.mask.shape == (128, 128)
        for name in same:
            same[name] += getattr(given.attributes, name) == getattr(found.attributes, name)
    assert min(same.values()) >= 0.9 * 40, same


def scene(size=128, skin=(68.0, 10.0, 16.0), lesion=(38.0, 19.0, 29.0), radius=0.2, ramp=0.0, shape=None):
    """A disc on even skin; its border is a straight ramp of `ramp` side lengths."""
    h, w = shape or (size, size)
    y, x = np.mgrid[:h, :w] + 0.5
    away = radius * size - np.hypot(x - w / 2, y - h / 2)
    share = np.clip(0.5 + away / max(ramp * size, 1.0), 0, 1)[..., None]
    lab = np.array(skin) + share * (np.array(lesion) - np.array(skin))
    return np.rint(lab2rgb(lab) * 255).astype(np.uint8), away > 0


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("ramp", [0.02, 0.05, 0.1])
def test_border_width_is_the_ramp(size, ramp):
    image, mask = scene(size, radius=0.25, ramp=ramp)
    found = measure(image, mask)
    assert found.tones.border == pytest.approx(ramp / 0.25, abs=0.06)
    assert found.attributes.border == ("blurred" if ramp / 0.25 > 0.16 else "sharp")


def test_several_colours_come_by_area():
    image, mask = scene(160, radius=0.35)
    y, x = np.mgrid[:160, :160] / 160
    for part, lab in ((x < 0.42, (13.0, 3.0, 3.0)), (x > 0.72, (43.0, -2.0, -19.0)), (y < 0.2, (42.0, 42.0, 22.0))):
        image[mask & part] = np.rint(lab2rgb(np.array(lab)) * 255).astype(np.uint8)
    loose = dataclasses.replace(DEFAULT, rim=0.0)
    found = measure(image, mask, thresholds=loose)
    kinds = {"dark-brown": 0.0, "black": 0.0, "blue-gray": 0.0, "red": 0.0}
    kinds["red"] = (mask & (y < 0.2)).sum() / mask.sum()
    kinds["blue-gray"] = (mask & (x > 0.72) & ~(y < 0.2)).sum() / mask.sum()
    kinds["black"] = (mask & (x < 0.42) & ~(y < 0.2)).sum() / mask.sum()
    kinds["dark-brown"] = 1 - sum(kinds.values())
    assert {n: found.tones.shares[n] for n in kinds} == pytest.approx(kinds, abs=0.02)
    order = sorted((n for n in kinds if kinds[n] >= 0.08), key=lambda n: -kinds[n])
    assert found.attributes.colors == tuple(order[:3]) and len(order) >= 3


@pytest.mark.parametrize("size", [64, 128, 256])
def test_short_marks_and_one_long_thread(size):
    """Ticks, specks and pen dots are no hair; one thread of a third of the side is."""
    image, mask = scene(size, radius=0.15)
    image = image.copy()
    step = size // 8
    for i in range(2, 8):
        image[2 : 2 + size // 7, i * step : i * step + max(1, size // 40)] = 20
    assert measure(image, mask).attributes.hair == "none"
    rr, cc = line(size // 10, size // 10, size // 10, int(size * 0.45))
    thick = np.zeros((size, size), bool)
    thick[rr, cc] = True
    thick = ndimage.binary_dilation(thick, EIGHT, iterations=size // 64)
    image[ndimage.shift(thick, (size * 0.7, 0), order=0)] = 25
    found = find_artifacts(image)
    assert measure(image, mask).attributes.hair == "sparse" and found.hair.sum() >= 0.5 * thick.sum()


def test_blue_lesion_is_no_ink_and_ink_no_lesion():
    blue, mask = scene(128, lesion=(43.0, -2.0, -19.0))
    assert not find_artifacts(blue).ink.any() and measure(blue, mask).attributes.markers == ()
    inked = blue.copy()
    inked[disk((20, 20), 8)] = (90, 60, 200)
    found = measure(inked, mask)
    assert found.attributes.markers == ("ink",)
    clear = ~ndimage.binary_dilation(mask, EIGHT, iterations=round(0.06 * 128))
    assert found.ink == pytest.approx(len(disk((20, 20), 8)[0]) / clear.sum(), rel=0.02)


def test_three_dark_corners_are_not_enough():
    image, mask = scene(100)
    y, x = np.mgrid[:100, :100] + 0.5
    dark = np.hypot(x - 50, y - 50) > 56
    image[dark] = 5
    assert measure(image, mask).attributes.markers == ("dark-corners",)
    assert find_artifacts(image).corners.sum() == dark.sum()
    lit = image.copy()
    lit[dark & (x < 50) & (y < 50)] = 200
    assert measure(lit, mask).attributes.markers == () and not find_artifacts(lit).corners.any()


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(("size", "pitch"), [(64, 6), (128, 11), (256, 23)])
def test_ruler_on_every_side_but_no_lonely_marks(size, pitch, turns):
    image, mask = scene(size, radius=0.15)
    ticks = image.copy()
    for at in range(pitch // 2, size, pitch):
        ticks[: size // 10, at : at + max(1, size // 45)] = 15
    found = measure(np.rot90(ticks, turns).copy(), mask)
    assert found.attributes.markers == ("ruler",) and found.ruler > 0.6
    rng = np.random.default_rng(turns)
    lonely = image.copy()
    for at in rng.choice(size - 4, size // pitch, replace=False):  # as many dark marks, at no pitch
        lonely[: size // 10, at : at + max(1, size // 45)] = 15
    found = measure(np.rot90(lonely, turns).copy(), mask)
    assert found.attributes.markers == () and 0 < found.ruler < 0.5


def test_bubbles_are_rings_and_only_on_request():
    image, mask = scene(256)
    image = image.copy()
    y, x = np.mgrid[:256, :256]
    ring = np.abs(np.hypot(x - 40, y - 50) - 12) < 1.5
    image[ring] = 255
    asked = dataclasses.replace(DEFAULT, bubbles=True)
    assert measure(image, mask).attributes.markers == ()
    assert measure(image, mask, thresholds=asked).attributes.markers == ("bubbles",)
    found = bright_rings(image[..., 1])
    inside = np.hypot(x - 40, y - 50) < 13.5
    assert (found & inside).sum() / (found | inside).sum() > 0.9
    image[ring & (x < 40)] = image[0, 0]  # half a ring is a streak of light
    image[disk((220, 50), 5)] = 255  # and a spot without a hole is a reflection
    assert measure(image, mask, thresholds=asked).attributes.markers == ()


def test_large_pictures_are_reduced_but_size_and_place_are_exact():
    image, mask = scene(1000, radius=0.1, shape=(1000, 1400))
    found = measure(image, mask, {"diagnosis": "NV"})
    assert found.area == mask.mean() and found.mask is mask
    assert found.attributes.size == "small" and found.attributes.position == "center" and found.attributes.shape == "round"
    assert found.attributes.diagnosis == "NV"
    speck = np.zeros_like(mask)
    speck[500, 700] = True  # vanishes at the working size unless it is kept
    assert measure(image, speck).attributes.size == "small"


def test_numbers_are_json():
    import json

    image, mask = scene(64)
    numbers = measure(image, mask).numbers()
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert {"area", "ita", "lesion_lab", "shares", "circularity", "skin_margin", "tone_margin"} <= set(numbers)


def test_bad_input():
    image, mask = scene(64)
    for bad, said in (
        (np.zeros_like(mask), "mask is empty"),
        (np.ones_like(mask), "mask is full"),
        (mask[:, :40], "mask is 40x64 but the image is 64x64"),
    ):
        with pytest.raises(InputError, match=said):
            measure(image, bad)
    with pytest.raises(InputError, match="no lesion differs enough"):
        measure(np.full((64, 64, 3), 180, np.uint8))
    with pytest.raises(InputError, match="diagnosis is 'mole'"):
        measure(image, mask, {"diagnosis": "mole"})
    tight = np.ones_like(mask)
    tight[0, 0] = False  # one pixel of skin is enough to say something
    assert measure(image, tight).attributes.size == "large"
