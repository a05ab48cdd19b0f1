"""The lesion by its colour alone, against the phantoms' exact masks and against the plain answers."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from didgen.colours import to_lab
from didgen.segment import segment_lesion
from graft_common import phantoms

HELD_OUT = 10_000_000


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def otsu_on_lightness(image):
    """The spec's proposal: Otsu on L*, largest component."""
    lightness = to_lab(image)[..., 0]
    parts, _ = ndimage.label(lightness < threshold_otsu(lightness))
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    return parts == areas.argmax()


@pytest.mark.parametrize(("artifact", "least"), [("none", 0.95), ("ink", 0.95), ("ruler", 0.95), ("corners", 0.95), ("hair", 0.87)])
def test_lesions_of_phantoms_at_the_working_size(artifact, least):
    drawn = [phantoms.draw("dermoscopy", 64, HELD_OUT + i, artifact=artifact) for i in range(16)]
    found = [iou(segment_lesion(p.image), p.masks["lesion"]) for p in drawn]
    plain = [iou(otsu_on_lightness(p.image), p.masks["lesion"]) for p in drawn]
    assert np.mean(found) >= least and np.mean(plain) < np.mean(found) - 0.1


def test_mirrored_pictures_have_mirrored_masks():
    for i in range(8):
        image = phantoms.draw("dermoscopy", 64, HELD_OUT + i).image
        assert (segment_lesion(np.ascontiguousarray(image[:, ::-1])) == segment_lesion(image)[:, ::-1]).mean() > 0.99


def test_two_lesions_are_both_found_and_a_small_spot_is_not():
    y, x = np.mgrid[:96, :128] + 0.5
    one, two, speck = ((np.hypot(x - cx, y - cy) < r) for cx, cy, r in ((36, 48, 16), (92, 48, 14), (64, 14, 6)))
    image = np.full((96, 128, 3), (220, 180, 160), np.uint8)
    image[one | two | speck] = (110, 70, 45)
    found = segment_lesion(image)
    assert iou(found, one | two) > 0.93 and not (found & speck).any()


def test_holes_are_filled_and_shading_is_no_lesion():
    y, x = np.mgrid[:96, :96] + 0.5
    away = np.hypot(x - 50, y - 46)
    shade = (0.8 + 0.2 * x / 96)[..., None]
    image = np.full((96, 96, 3), (220, 180, 160)) * shade
    image[(away < 24) & (away > 9)] = (110, 70, 45)
    assert iou(segment_lesion(image.astype(np.uint8)), away < 24) > 0.93
    bare = (np.full((96, 96, 3), (220, 180, 160)) * shade).astype(np.uint8)
    assert segment_lesion(bare).mean() < 0.02


@pytest.mark.parametrize("value", [0, 128, 255])
def test_nothing_is_found_where_nothing_is(value):
    assert not segment_lesion(np.full((48, 64, 3), value, np.uint8)).any()
