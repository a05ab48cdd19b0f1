"""Placement in tissue: the box lies inside, has the size that the spec gives, and is drawn from the seed."""

import numpy as np
import pytest

from graft_common.errors import InputError
from graft_common.phantoms import box
from tficomp.tissue import place_in_tissue, tissue_mask

SIZE = 128  # a quarter of the 512 px that the constants are given at
Y, X = np.mgrid[:SIZE, :SIZE]


def disc(radius: float, level: float = 0.2, centre: tuple[int, int] = (64, 64)) -> np.ndarray:
    grey = np.full((1, SIZE, SIZE), -1.0, np.float32)
    grey[0, (Y - centre[0]) ** 2 + (X - centre[1]) ** 2 < radius**2] = level
    return grey


def rectangle(h: int, w: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[60 : 60 + h, 50 : 50 + w] = True
    return mask


def test_tissue_is_the_largest_part_with_its_holes_filled() -> None:
    grey = disc(40)
    grey[0, (Y - 64) ** 2 + (X - 64) ** 2 < 10**2] = -1.0  # a ventricle
    grey[0, 2:10, 2:10] = 1.0  # a label in the corner
    truth = (Y - 64) ** 2 + (X - 64) ** 2 < 40**2
    found = tissue_mask(grey)
    assert (found & truth).sum() / (found | truth).sum() > 0.93
    assert found[64, 64] and not found[:12, :12].any()


def test_a_picture_without_surround_is_all_tissue() -> None:
    assert tissue_mask(np.zeros((1, 20, 30), np.float32)).all()


@pytest.mark.parametrize("seed", range(8))
def test_box_has_the_lesions_share_and_lies_inside(seed: int) -> None:
    background, own = disc(50), disc(25)
    user = place_in_tissue(background, own, rectangle(12, 8), seed)
    left, top, right, bottom = box(user)
    assert user.sum() == (right - left) * (bottom - top)
    # long side = 12 / 50 of the lesion's own tissue, of 100: 24 px, between 12 and 48 (48 to 192 at 512)
    assert abs((bottom - top) - 24) <= 1 and abs((right - left) - 16) <= 1
    assert tissue_mask(background)[user].all()
    assert min(left, top) >= 4 and max(right, bottom) <= SIZE - 4


@pytest.mark.parametrize(("h", "wanted"), [(2, 12), (45, 48)])
def test_box_is_held_between_its_bounds(h: int, wanted: int) -> None:
    long = max(np.ptp(np.nonzero(place_in_tissue(disc(60), disc(25), rectangle(h, 2), 0)), axis=1)) + 1
    assert abs(long - wanted) <= 1


def test_the_seed_decides() -> None:
    boxes = [box(place_in_tissue(disc(55), disc(40), rectangle(10, 10), seed)) for seed in (0, 0, 1, 2, 3)]
    assert boxes[0] == boxes[1] and len(set(boxes)) >= 4


def test_a_second_lesion_avoids_the_first() -> None:
    for seed in range(6):
        first = place_in_tissue(disc(55), disc(40), rectangle(10, 10), seed)
        second = place_in_tissue(disc(55), disc(40), rectangle(10, 10), seed + 100, taken=[first])
        assert not (first & second).any()


def test_small_tissue_still_gets_its_box() -> None:
    user = place_in_tissue(disc(8), disc(8), rectangle(15, 15), 3)
    rows, cols = np.nonzero(user)
    assert abs(rows.mean() - 64) < 6 and abs(cols.mean() - 64) < 6


def test_no_room_is_an_error() -> None:
    rim = np.full((1, SIZE, SIZE), -1.0, np.float32)
    rim[0, :2] = 1.0  # all its tissue lies in the border that is kept free
    with pytest.raises(InputError, match="--user-mask: none given"):
        place_in_tissue(rim, disc(30), rectangle(5, 5), 0)
