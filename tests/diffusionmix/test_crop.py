"""Object preparation: the square around a mask, where it may lie, and what is cut."""

import numpy as np
import pytest
from skimage import measure

from diffusionmix.box import Box
from diffusionmix.crop import central, clean, cut, object_box, parts, square, window


def marked(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "margin", "want"),
    [
        (marked(100, 100, (40, 30, 20, 10)), 0.25, Box(37, 22, 25, 25)),
        (marked(100, 100, (40, 30, 20, 10)), 0, Box(40, 25, 20, 20)),
        (marked(100, 100, (0, 90, 20, 10)), 0.25, Box(0, 75, 25, 25)),
        (marked(100, 100, (95, 0, 5, 40)), 0.25, Box(50, 0, 50, 50)),
        (marked(100, 100, (2, 5, 90, 90)), 0.25, Box(0, 0, 100, 100)),
        (marked(60, 200, (50, 10, 55, 20)), 0.25, Box(47, 0, 60, 60)),
        (marked(60, 200, (50, 10, 100, 20)), 0.25, Box(50, -20, 100, 100)),
        (marked(200, 60, (10, 50, 20, 100)), 0.25, Box(-20, 50, 100, 100)),
    ],
)
def test_the_square_around_a_mask(mask: np.ndarray, margin: float, want: Box) -> None:
    """Enlarged, shifted inside; the margin gives way to the picture's edge, and only a larger object reaches beyond."""
    assert object_box(mask, margin) == want


def test_every_square_holds_its_whole_object_and_stays_inside_where_it_fits() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(v) for v in rng.integers(30, 120, 2))
        w, h = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
        mask = marked(height, width, (int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h))
        box = object_box(mask, 0.25)
        assert window(mask[..., None].astype(np.uint8), box)[..., 0].sum() >= w * h
        if max(w, h) <= min(height, width):
            assert box.x >= 0 and box.y >= 0 and box.x + box.w <= width and box.y + box.h <= height
        else:
            assert box.w == max(w, h)


def test_specks_are_dropped_unless_they_are_all_there_is() -> None:
    speckled = marked(50, 50, (5, 5, 10, 10), (40, 40, 3, 5), (30, 10, 4, 4))
    np.testing.assert_array_equal(clean(speckled), marked(50, 50, (5, 5, 10, 10), (30, 10, 4, 4)))
    specks = marked(50, 50, (5, 5, 3, 3), (40, 40, 3, 5))
    np.testing.assert_array_equal(clean(specks), specks)
    labels = measure.label(clean(speckled), connectivity=2)
    assert len(parts(speckled)) == labels.max() == 2
    assert sorted(p.sum() for p in parts(speckled)) == [16, 100]


def test_diagonal_neighbours_are_one_component() -> None:
    stairs = np.eye(20, dtype=bool)
    assert len(parts(stairs)) == 1 and clean(stairs).sum() == 20


def test_a_crop_of_the_same_size_is_the_pixels_themselves() -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (60, 80, 3), np.uint8), rng.random((60, 80)) > 0.5
    picture, marks = cut(image, mask, Box(10, 20, 32, 32), 32)
    np.testing.assert_array_equal(picture, image[20:52, 10:42])
    np.testing.assert_array_equal(marks, mask[20:52, 10:42])


def test_shrinking_does_not_alias_and_the_mask_is_by_area() -> None:
    y, x = np.mgrid[:128, :128]
    checker = np.repeat((((y + x) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    picture, _ = cut(checker, x > 64, Box(0, 0, 128, 128), 32)
    assert np.abs(picture.astype(int) - 127.5)[2:-2, 2:-2].max() < 4
    mask = marked(128, 128, (0, 0, 62, 128))  # 15.5 blocks of 4 pixels: the half block counts
    assert cut(checker, mask, Box(0, 0, 128, 128), 32)[1][0].sum() == 16
    assert cut(checker, marked(128, 128, (0, 0, 61, 128)), Box(0, 0, 128, 128), 32)[1][0].sum() == 15


def test_what_lies_beyond_the_picture_is_its_reflection() -> None:
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(window(image, Box(-2, -1, 9, 6)), np.pad(image, ((1, 1), (2, 2), (0, 0)), mode="reflect"))


def test_backgrounds_take_the_centre() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 100, 3), np.uint8)
    assert central(40, 100) == Box(30, 0, 40, 40) and central(101, 40) == Box(0, 30, 40, 40)
    np.testing.assert_array_equal(square(image, 40), image[:, 30:70])
    assert square(image, 64).shape == (64, 64, 3)


@pytest.mark.parametrize(("mask", "margin"), [(np.zeros((9, 9), bool), 0.25), (np.ones((9, 9), bool), -0.1)])
def test_nothing_to_cut(mask: np.ndarray, margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        object_box(mask, margin)
