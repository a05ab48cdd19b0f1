"""Boxes: parsing, spec 7 property 20, drawing from training positions and on a foreground."""

import numpy as np
import pytest

from diffusionmix.box import Box, checked_box, draw_box, inner_square, parse_box
from graft_common.errors import InputError


def test_parses() -> None:
    assert parse_box("1,2,30,40") == Box(1, 2, 30, 40) == (1, 2, 30, 40)
    assert parse_box(" 1, 2,30 ,40") == Box(1, 2, 30, 40)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,30,40", "nan,1,2,3", "1;2;3;4"])
def test_refuses_what_is_no_box(text: str) -> None:
    with pytest.raises(InputError, match="X,Y,W,H"):
        parse_box(text)


@pytest.mark.parametrize(
    ("box", "says"),
    [(Box(0, 0, 0, 10), "at least 8"), (Box(0, 0, 10, 7), "at least 8"), (Box(0, 0, -9, 10), "at least 8"),
     (Box(-1, 0, 10, 10), "leaves the picture"), (Box(0, -1, 10, 10), "leaves the picture"),
     (Box(23, 0, 10, 10), r"leaves the picture, which is 32x24"), (Box(0, 15, 10, 10), "leaves the picture"),
     (Box(0, 0, 33, 10), "larger than the picture, which is 32x24"), (Box(0, 0, 10, 25), "larger than the picture")],
)  # fmt: skip
def test_refuses_boxes_that_do_not_fit(box: Box, says: str) -> None:
    with pytest.raises(InputError, match=f"--box {box.text}: .*{says}"):
        checked_box(box, (24, 32))


def test_takes_boxes_up_to_the_rim() -> None:
    for box in (Box(0, 0, 32, 24), Box(24, 16, 8, 8), Box(0, 16, 32, 8)):
        assert checked_box(box, (24, 32)) == box


def test_inner_square_is_centred() -> None:
    assert inner_square(Box(10, 20, 30, 12)) == Box(19, 20, 12, 12)
    assert inner_square(Box(10, 20, 12, 31)) == Box(10, 29, 12, 12)
    assert inner_square(Box(1, 2, 9, 9)) == Box(1, 2, 9, 9)


SHARES = np.array([[0.1, 0.2, 0.25, 0.3], [0.6, 0.5, 0.3, 0.2]])


def test_drawn_boxes_follow_training() -> None:
    boxes = [draw_box(SHARES, (200, 400), seed) for seed in range(60)]
    assert [draw_box(SHARES, (200, 400), seed) for seed in range(60)] == boxes
    assert {(b.w, b.h) for b in boxes} == {(100, 60), (120, 40)}
    for box in boxes:
        checked_box(box, (200, 400))
        x, y, _, _ = SHARES[0 if box.w == 100 else 1]
        assert abs(box.x - x * 400) <= 0.1 * box.w + 1 and abs(box.y - y * 200) <= 0.1 * box.h + 1
    assert len(set(boxes)) > 30


def test_small_pictures_get_boxes_of_eight_pixels() -> None:
    box = draw_box(SHARES, (12, 12), 0)
    assert min(box.w, box.h) >= 8
    checked_box(box, (12, 12))


def test_foreground_restricts_places_and_sizes() -> None:
    mask = np.zeros((200, 400), bool)
    mask[60:110, 300:350] = True
    for seed in range(30):
        box = draw_box(SHARES, (200, 400), seed, mask)
        assert mask[box.y : box.y + box.h, box.x : box.x + box.w].mean() >= 0.75
        assert box.h <= 55 and box.w <= 55 and mask[box.y + box.h // 2, box.x + box.w // 2]


@pytest.mark.parametrize(
    ("shares", "size", "mask", "says"),
    [(np.zeros((0, 4)), (50, 50), None, "training positions"), (SHARES, (7, 50), None, "50x7"),
     (SHARES, (50, 50), np.zeros((50, 50), bool), "--foreground"), (SHARES, (50, 50), np.eye(50, dtype=bool), "--foreground")],
)  # fmt: skip
def test_refuses_to_draw(shares: np.ndarray, size: tuple[int, int], mask: np.ndarray | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        draw_box(shares, size, 0, mask)
