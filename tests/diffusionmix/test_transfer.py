"""Spec 7, properties 11 and 12: R_box, C_box and masks, against torch's own resize."""

import pytest
import torch
from torch.nn import functional as F

from diffusionmix.box import Box
from diffusionmix.transfer import resizer, transfer


@pytest.mark.parametrize("box", [Box(3, 5, 16, 16), Box(0, 0, 40, 28), Box(9, 2, 8, 21), Box(20, 12, 20, 16)])
def test_placing_and_cropping_are_torchs_bilinear(box: Box) -> None:
    pictures, canvas = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 28, 40)
    t = transfer([box], 16, (28, 40))
    placed = t.place(pictures)
    inside = placed[..., box.y : box.y + box.h, box.x : box.x + box.w]
    torch.testing.assert_close(inside, resized(pictures, (box.h, box.w)), rtol=0, atol=1e-5)
    outside = placed.clone()
    outside[..., box.y : box.y + box.h, box.x : box.x + box.w] = 0
    assert not outside.any()
    cut = canvas[..., box.y : box.y + box.h, box.x : box.x + box.w]
    torch.testing.assert_close(t.crop(canvas), resized(cut, (16, 16)), rtol=0, atol=1e-5)


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Antialiased where a side shrinks; each side by itself, as shrinking one must not blur the other."""
    for axis, side in enumerate(size):
        now = list(x.shape[-2:])
        shrinks, now[axis] = side < now[axis], side
        x = F.interpolate(x, tuple(now), mode="bilinear", antialias=shrinks, align_corners=False)
    return x


def test_equal_size_is_the_identity_bitwise() -> None:
    picture = torch.randn(2, 3, 16, 16)
    t = transfer([Box(1, 2, 16, 16), Box(20, 9, 16, 16)], 16, (30, 40))
    assert torch.equal(t.crop(t.place(picture)), picture)
    assert torch.equal(t.place(picture)[0, :, 2:18, 1:17], picture[0])
    assert torch.equal(resizer(9, 9), torch.eye(9, dtype=torch.float64))


def test_constants_and_areas_survive_doubling(build) -> None:
    t = transfer([Box(0, 0, 128, 128)], 64, (128, 128))
    assert (t.place(torch.full((1, 1, 64, 64), 0.37)) - 0.37).abs().max() < 1e-6
    for radius in (12, 17.3, 25):
        mask = build.disc(64, radius, 0, 1).float()[None, None]
        assert float(t.cover(mask).sum() / mask.sum()) == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("box", [Box(5, 6, 16, 16), Box(2, 3, 37, 21), Box(8, 8, 9, 30)])
def test_cover_is_binary_and_stays_in_the_box(box: Box) -> None:
    t = transfer([box], 16, (48, 48))
    cover = t.cover((torch.rand(1, 1, 16, 16) > 0.5).float())
    assert set(cover.unique().tolist()) <= {0.0, 1.0} and cover.any()
    outside = cover.clone()
    outside[..., box.y : box.y + box.h, box.x : box.x + box.w] = 0
    assert not outside.any()
    full = t.cover(torch.ones(1, 1, 16, 16))
    assert int(full.sum()) == box.w * box.h


def test_soft_cover_keeps_shares() -> None:
    t = transfer([Box(0, 0, 20, 20)], 16, (20, 20))
    torch.testing.assert_close(t.cover(torch.full((1, 1, 16, 16), 0.25), soft=True), torch.full((1, 1, 20, 20), 0.25))


def test_boxes_of_a_batch_do_not_mix() -> None:
    boxes = [Box(3, 5, 16, 16), Box(0, 0, 30, 12), Box(9, 2, 8, 21)]
    pictures, canvas = torch.randn(3, 2, 16, 16), torch.randn(3, 2, 28, 40)
    together = transfer(boxes, 16, (28, 40))
    for i, box in enumerate(boxes):
        alone = transfer([box], 16, (28, 40))
        torch.testing.assert_close(alone.place(pictures[i : i + 1]), together.place(pictures)[i : i + 1], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.crop(canvas[i : i + 1]), together.crop(canvas)[i : i + 1], rtol=0, atol=1e-6)
