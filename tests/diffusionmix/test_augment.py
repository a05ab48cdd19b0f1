"""Joint augmentation (property 24): what moves the picture moves the mask."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from diffusionmix.augment import Move, draw_move, move

SIDE = 64
Y, X = np.mgrid[:SIDE, :SIDE]


def shape() -> np.ndarray:
    """Without any symmetry."""
    return ((X - 25) ** 2 + (Y - 34) ** 2 < 150) | ((X > 20) & (X < 50) & (Y > 40) & (Y < 46))


def coloured(mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_mirrors_and_turns_are_exact(mirrored: bool, quarters: int) -> None:
    mask = shape()
    image, moved = move(coloured(mask), mask, Move(mirrored, quarters))
    want = np.rot90(np.fliplr(mask) if mirrored else mask, quarters)
    np.testing.assert_array_equal(moved, want)
    np.testing.assert_array_equal(image, coloured(want))


def test_a_picture_coloured_by_its_mask_stays_so() -> None:
    rng, moved = np.random.default_rng(0), 0
    for _ in range(60):
        mask = shape()
        step = draw_move(rng, turns=True)
        image, new = move(coloured(mask), mask, step)
        assert new is not None and overlap(image[..., 0] > 127, new) >= 0.99
        moved += overlap(mask, new) < 0.9
    assert moved > 50


@pytest.mark.parametrize(
    "step",
    [
        Move(scale=1.2),
        Move(scale=0.8),
        Move(shift=(0.125, 0.0)),
        Move(shift=(0.0, -0.0625)),
        Move(scale=1.1, shift=(0.1, 0.05)),
    ],
)
def test_against_scipy(step: Move) -> None:
    """Scale about the centre and shift right and down, by the inverse map, linear, reflected at the edge."""
    image = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, (SIDE, SIDE)), 2)
    image = np.rint(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
    got, _ = move(np.repeat(image[..., None], 3, 2), None, step)
    middle = (SIDE - 1) / 2
    back = [middle + (np.arange(SIDE) - middle - s * SIDE) / step.scale for s in step.shift]
    points = np.meshgrid(back[1], back[0], indexing="ij")
    want = ndimage.map_coordinates(image.astype(float), points, order=1, mode="mirror")
    assert np.abs(got[..., 0] - want).max() <= 5  # OpenCV rounds positions to 1/32 pixel
    assert np.abs(got[..., 0] - want).mean() < 0.8


def test_nothing_to_do_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    same, none = move(image, None, Move())
    np.testing.assert_array_equal(same, image)
    assert none is None


def test_moves_are_drawn_by_the_generator_and_keep_their_ranges() -> None:
    def drawn(seed: int, **ask: object) -> list[Move]:
        rng = np.random.default_rng(seed)
        return [draw_move(rng, **ask) for _ in range(200)]  # type: ignore[arg-type]

    steps = drawn(0, turns=True)
    assert steps == drawn(0, turns=True) and steps != drawn(1, turns=True)
    assert {s.mirrored for s in steps} == {False, True} and {s.quarters for s in steps} == {0, 1, 2, 3}
    assert all(0.8 <= s.scale <= 1.2 and max(map(abs, s.shift)) <= 0.1 for s in steps)
    assert np.mean([s.scale < 1 for s in steps]) == pytest.approx(np.log(1 / 0.8) / np.log(1.2 / 0.8), abs=0.1)
    assert drawn(0) == [replace(s, quarters=0) for s in steps]
    assert drawn(0, flip=False, turns=True) == [replace(s, mirrored=False) for s in steps]


@pytest.mark.parametrize("ask", [{"scale": (0, 1)}, {"scale": (1.2, 0.8)}, {"shift": 1}, {"shift": -0.1}])
def test_ranges_that_make_no_sense(ask: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give 0 < low"):
        draw_move(np.random.default_rng(0), **ask)  # type: ignore[arg-type]
