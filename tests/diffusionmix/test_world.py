"""The two worlds: equal seeds give equal bytes, masks are exact, the twin differs by the object alone."""

import numpy as np
import pytest
from scipy import ndimage

from diffusionmix.crop import object_box
from diffusionmix.scene_world import clip, colour_mask, draw, ground
from diffusionmix.world import CLASSES, WORLDS, World, draw_scene, object_crop


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_is_a_picture(world: World) -> None:
    a, b, c = (draw_scene(world, 64, seed) for seed in (7, 7, 8))
    assert a.image.tobytes() == b.image.tobytes() and a.label == b.label and a.box == b.box
    assert a.image.tobytes() != c.image.tobytes()
    assert {draw_scene(world, 32, seed).label for seed in range(24)} == set(CLASSES[world])


@pytest.mark.parametrize("world", WORLDS)
def test_without_the_object_it_is_the_same_picture(world: World) -> None:
    for seed, label in enumerate(CLASSES[world]):
        scene, bare = draw_scene(world, 96, seed, label), draw_scene(world, 96, seed, "none")
        np.testing.assert_array_equal(bare.image, scene.empty)
        assert bare.label is None and bare.box is None and not bare.mask.any()
        changed = (scene.image != scene.empty).any(axis=2)
        assert scene.label == label and changed[scene.mask].mean() > 0.99
        far = ~ndimage.binary_dilation(scene.mask, iterations=40)
        assert not changed[far & (np.arange(96)[:, None] < 15)].any() or world == "texture"
        assert changed.mean() < 0.75
        assert np.abs(scene.image.astype(int) - scene.empty)[scene.mask].mean() > 25


def test_the_landscape_of_a_seed_is_the_same_for_every_class() -> None:
    ball, crate = draw(64, 3, "ball"), draw(64, 3, "crate")
    np.testing.assert_array_equal(ball.empty, crate.empty)
    np.testing.assert_array_equal(ball.empty, ground(64, 3))
    assert ball.mask.tobytes() != crate.mask.tobytes()


def test_a_colour_threshold_finds_the_object_of_a_scene() -> None:
    """The bar is the trained model's own (0.9): truth itself must pass it with room."""
    for seed in range(40):
        drawn = draw(96, seed)
        found = colour_mask(drawn.image)
        assert (found & drawn.mask).sum() / (found | drawn.mask).sum() > 0.94
        assert not colour_mask(drawn.empty).any()


def test_a_ball_has_the_area_of_its_disc() -> None:
    """Closed form: the mask of a ball of width w covers pi w^2 / 4, whatever the size it is drawn at."""
    for seed in range(6):
        big, small = draw(256, seed, "ball").mask, draw(64, seed, "ball").mask
        rows = np.flatnonzero(big.any(axis=1))
        width = rows[-1] - rows[0] + 1
        assert big.sum() == pytest.approx(np.pi * width**2 / 4, rel=0.03)
        assert small.mean() == pytest.approx(big.mean(), rel=0.05)


def test_objects_lie_whole_in_the_picture_and_in_their_box() -> None:
    for seed in range(20):
        scene = draw_scene("scene", 64, seed)
        assert not (scene.mask[[0, -1]].any() or scene.mask[:, [0, -1]].any())
        assert scene.box is not None
        x, y, w, h = scene.box
        assert w == h and 0 <= x <= 64 - w and 0 <= y <= 64 - h
        assert scene.mask[y : y + h, x : x + w].sum() == scene.mask.sum()


def test_the_crop_is_the_one_that_prepare_makes() -> None:
    scene = draw_scene("scene", 128, 5)
    image, mask = object_crop(scene, 64)
    assert scene.box == object_box(scene.mask, 0.25) and image.shape == (64, 64, 3)
    side = scene.box.w
    assert mask.mean() == pytest.approx(scene.mask.sum() / side**2, rel=0.04)
    found = colour_mask(image)
    assert (found & mask).sum() / (found | mask).sum() > 0.94


def test_a_clip_moves_one_ball_over_ground_that_stands_still() -> None:
    frames = clip(96, 1, 4)
    assert len({frame.mask.tobytes() for frame in frames}) == 4
    assert len({int(frame.mask.sum()) // 40 for frame in frames}) <= 2
    calm = ~np.any([ndimage.binary_dilation(frame.mask, iterations=12) for frame in frames], axis=0)
    calm[48:] = False
    spread = np.stack([frame.image for frame in frames]).astype(int)[:, calm]
    assert np.ptp(spread, axis=0).mean() < 8


@pytest.mark.parametrize(
    ("world", "size", "label", "word"),
    [("sea", 64, None, "sea"), ("scene", 31, None, "31"), ("scene", 64, "hole", "hole"), ("texture", 64, "ball", "ball")],
)
def test_what_is_no_world(world: World, size: int, label: str | None, word: str) -> None:
    if world not in WORLDS:
        with pytest.raises(Exception, match=word):
            draw_scene(world, size, 0, label)
    else:
        with pytest.raises(ValueError, match=word):
            draw_scene(world, size, 0, label)
