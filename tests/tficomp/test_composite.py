"""Putting the frame back: what may change and what may not, with a frame of noise in the network's place."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from graft_common.pixels import picture_from_array, read_mask
from tficomp.composite import composite, copy_paste, keeps_stored, lesions_on_background
from tficomp.config import MethodConfig
from tficomp.place import place
from tficomp.records import Inputs, Lesion
from tficomp.write import write_result

RNG = np.random.default_rng(11)


def sample(height, width, where, channels=1, dtype=np.uint8, count=1):
    shape = (height, width) if channels == 1 else (height, width, 3)
    background = picture_from_array(RNG.integers(0, np.iinfo(dtype).max, shape, dtype))
    user = np.zeros((height, width), bool)
    user[where] = True
    mask = np.zeros((20, 20), bool)
    mask[4:16, 4:16] = True
    thing = RNG.uniform(-1, 1, (1, 20, 20)).astype(np.float32)
    return Inputs(background, (Lesion(thing, mask, user),) * count, "x")


def put(one, frame=None, size=64, **changes):
    config = MethodConfig(**changes)
    placed = place(one, config, size, 8)
    frame = RNG.uniform(-1, 1, (3, size, size)).astype(np.float32) if frame is None else frame
    return composite(frame, one, placed, config), placed, frame


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (90, 200), (200, 50)])
def test_paste_back_keeps_everything_outside_the_mask(size, channels):
    one = sample(*size, (slice(10, 40), slice(12, 44)), channels)
    result, _, _ = put(one, paste_back=True)
    users = one.lesions[0].user_mask
    assert np.array_equal(result.pixels[:, ~users], one.background.pixels[:, ~users])
    assert np.array_equal(result.changed, users)
    deep = distance_transform_edt(users) > 8 * result.placed.frame.side / 512 + 1
    assert deep.any() and (result.pixels[:, deep] != one.background.pixels[:, deep]).mean() > 0.95


def test_feather_is_eight_pixels_at_512():
    """A white frame on black: along a row into the mask the alpha is the cubic of the distance, 1 from 8 px inward."""
    one = sample(512, 512, (slice(100, 400), slice(100, 400)))
    black = picture_from_array(np.zeros((512, 512), np.uint8))
    result, _, _ = put(
        replace(one, background=black), np.ones((3, 512, 512), np.float32), 512, paste_back=True, context=0.0
    )
    row = (result.pixels[0, 250, 100:112] + 1) / 2
    t = np.clip(np.arange(1, 13) / 9, 0, 1)
    np.testing.assert_allclose(row, t * t * (3 - 2 * t), atol=1e-5)


def test_without_paste_back_the_frame_is_the_networks():
    one = sample(64, 64, (slice(10, 40), slice(12, 44)))
    result, _, frame = put(one, context=0.0)
    np.testing.assert_allclose(result.pixels[0], frame.mean(axis=0), atol=1e-6)  # grey: mean of the three channels
    assert result.changed.all()
    np.testing.assert_allclose(result.measures["channel_spread"], np.ptp(frame, axis=0).mean(), rtol=1e-6)


def test_only_the_frame_changes_on_a_large_background():
    one = sample(120, 300, (slice(40, 56), slice(200, 216)))
    result, placed, frame = put(one)
    f = placed.frame
    assert f.side == 64
    outside = np.ones((120, 300), bool)
    outside[f.top : f.top + 64, f.left : f.left + 64] = False
    assert np.array_equal(result.pixels[:, outside], one.background.pixels[:, outside])
    np.testing.assert_allclose(
        result.pixels[0, f.top : f.top + 64, f.left : f.left + 64], frame.mean(axis=0), atol=1e-6
    )  # fmt: skip
    assert np.array_equal(result.changed, ~outside)


@pytest.mark.parametrize("dtype, stored", [(np.uint8, False), (np.uint16, True)])
def test_sixteen_bits_are_always_pasted_back(dtype, stored):
    one = sample(64, 64, (slice(10, 40), slice(12, 44)), dtype=dtype)
    assert keeps_stored(one) is stored
    result, _, _ = put(one)
    assert np.array_equal(result.changed, one.lesions[0].user_mask) is stored
    assert result.measures["paste_back"] is stored


def test_lesion_mask_is_where_the_lesion_was_pasted():
    one = sample(128, 128, (slice(32, 96), slice(32, 96)))
    result, placed, _ = put(one, size=128, context=0.0, paste_back=True)
    assert np.array_equal(result.lesion_mask, placed.object_masks[0] & one.lesions[0].user_mask)
    assert np.array_equal(lesions_on_background(placed, (128, 128))[0], placed.object_masks[0])
    pasted = copy_paste(one, placed)
    on = placed.object_masks[0]
    np.testing.assert_allclose(pasted[0][on], placed.objects[0][0][on], atol=1e-6)
    assert np.array_equal(pasted[0][~on], one.background.pixels[0][~on])


def test_lesion_mask_follows_the_frames_scale():
    """A working size of half the frame: the mask comes back at twice the pixels, area within a row of pixels."""
    one = sample(128, 128, (slice(32, 96), slice(32, 96)))
    result, placed, _ = put(one, size=64, context=0.0)
    assert placed.frame.side == 128
    assert abs(int(result.lesion_mask.sum()) / (4 * int(placed.object_masks.sum())) - 1) < 0.1


@pytest.mark.parametrize("grain, least, step", [(20, 0.95, 8), (60, 0.98, 4), (400, 0.985, 2)])
def test_label_is_smooth_whatever_the_frames_scale(grain, least, step):
    """A disc of any resolution through a 64 px frame of 512 px: the label is the disc, not the frame's 8 px steps."""
    one = sample(512, 512, (slice(100, 420), slice(100, 420)))
    y, x = np.mgrid[:grain, :grain] + 0.5
    disc = (y - grain / 2) ** 2 + (x - grain / 2) ** 2 < (0.4 * grain) ** 2
    thing = RNG.uniform(-1, 1, (1, grain, grain)).astype(np.float32)
    drawn, placed, _ = put(replace(one, lesions=(replace(one.lesions[0], pixels=thing, mask=disc),)), context=0.0)
    assert placed.frame.side == 512
    left, top, right, bottom = (8 * v for v in placed.boxes[0])
    radius = 0.4 * grain * (right - left) / placed.lesion_masks[0].shape[1]
    y, x = np.mgrid[:512, :512] + 0.5
    wanted = (y - (top + bottom) / 2) ** 2 + (x - (left + right) / 2) ** 2 < radius**2
    label = drawn.lesion_mask
    assert (label & wanted).sum() / (label | wanted).sum() > least
    edges = np.array([np.flatnonzero(row)[0] for row in label if row.any()])
    steps = np.abs(np.diff(edges))[len(edges) // 5 : -len(edges) // 5]  # away from the disc's top and bottom
    assert steps.max() <= step


@pytest.mark.parametrize("thin", [1, 2])
def test_a_lesion_thinner_than_a_pixel_keeps_a_label(thin):
    one = sample(64, 64, (slice(20, 28), slice(20, 28)))
    mask = np.zeros((400, 400), bool)
    mask[200 : 200 + thin, 150:250] = True
    thing = RNG.uniform(-1, 1, (1, 400, 400)).astype(np.float32)
    drawn, placed, _ = put(replace(one, lesions=(replace(one.lesions[0], pixels=thing, mask=mask),)), size=32, context=0.0)
    assert placed.frame.side == 64 and drawn.lesion_mask.any() and drawn.lesion_mask.sum() <= 16


@pytest.mark.parametrize("size", [64, 128])
def test_each_lesion_has_its_own_label_later_over_earlier(tmp_path, size):
    one = sample(128, 128, (slice(20, 60), slice(20, 60)), count=3)
    moved = [one.lesions[0].user_mask, np.roll(one.lesions[0].user_mask, (12, 12), (0, 1)), one.lesions[0].user_mask]
    one = replace(one, lesions=tuple(replace(x, user_mask=m) for x, m in zip(one.lesions, moved, strict=True)))
    result, _, _ = put(one, size=size, context=0.0)
    first, second, third = result.lesion_masks
    assert not first.any()  # the third lies where the first did
    assert second.any() and third.any() and not (second & third).any()
    assert np.array_equal(second | third, result.lesion_mask)
    alone, _, _ = put(replace(one, lesions=one.lesions[2:]), size=size, context=0.0)
    assert np.array_equal(third, alone.lesion_mask)
    names = write_result(result, tmp_path, {})
    assert {n for n in names if "mask" in n} == {"lesion_mask.png", "lesion_mask_2.png", "lesion_mask_3.png"}
    assert np.array_equal(read_mask(tmp_path / "lesion_mask_2.png"), second)
    assert np.array_equal(read_mask(tmp_path / "lesion_mask.png"), result.lesion_mask)


def test_label_ends_where_the_pixels_do():
    """A user mask with a hole in its box: with paste-back no lesion is claimed where the background was kept."""
    one = sample(128, 128, (slice(32, 96), slice(32, 96)))
    user = one.lesions[0].user_mask.copy()
    user[48:80, 48:80] = False
    holed = replace(one, lesions=(replace(one.lesions[0], user_mask=user),))
    kept, placed, _ = put(holed, size=128, context=0.0, paste_back=True)
    free, _, _ = put(holed, size=128, context=0.0)
    assert (placed.object_masks[0] & ~user).any()
    assert np.array_equal(kept.lesion_mask, placed.object_masks[0] & user)
    assert np.array_equal(free.lesion_mask, placed.object_masks[0])
