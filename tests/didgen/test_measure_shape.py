"""Outlines against closed forms: ellipses, stars and rectangles of known area, perimeter, hull and moments."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.special import ellipe
from skimage.measure import regionprops

from didgen.measure_shape import asymmetry_of, main_part, outline, position_of, shape_of, size_of


def grid(size):
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    return x, y


def ellipse(size, a, b, turn, cx=0.5, cy=0.5):
    x, y = grid(size)
    u, v = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def star(size, radius, depth, arms, turn):
    """Disc whose radius swings by `depth`; the mask and its exact circularity and solidity (from 20 000 points of the curve)."""
    x, y = grid(size)
    reach = radius * (1 + depth * np.cos(arms * np.arctan2(y - 0.5, x - 0.5) + turn))
    angle = np.linspace(0, 2 * np.pi, 20_001)
    r = radius * (1 + depth * np.cos(arms * angle + turn))
    points = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)
    area = np.pi * radius**2 * (1 + depth**2 / 2)  # integral of r^2 / 2
    length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
    mask = np.hypot(x - 0.5, y - 0.5) <= reach
    return mask, 4 * np.pi * area / length**2, area / ConvexHull(points).volume


def ellipse_circularity(a, b):
    return 4 * np.pi * np.pi * a * b / (4 * a * ellipe(1 - (b / a) ** 2)) ** 2


@pytest.mark.parametrize(("size", "near"), [(64, 0.05), (256, 0.02)])
def test_ellipses_have_their_closed_form(size, near):
    rng = np.random.default_rng(size)
    for _ in range(40):
        a = rng.uniform(0.18, 0.42)
        b = a * rng.uniform(0.4, 1.0)
        found = outline(ellipse(size, a, b, rng.uniform(0, np.pi), *rng.uniform(0.48, 0.52, 2)))
        assert found.circularity == pytest.approx(min(1.0, ellipse_circularity(a, b)), abs=0.08 if size == 64 else 0.04)
        assert 1 - found.eccentricity**2 == pytest.approx((b / a) ** 2, abs=near)  # the square: at e = 0 the root is steep
        assert found.solidity > 1 - 2.5 / (size * b)
        assert found.asymmetry < 2.2 / (size * b)  # a pixel's worth along the border


@pytest.mark.parametrize("size", [64, 128, 256])
def test_classes_of_known_outlines(size):
    """Property 17: shapes at least 95 % right, limits of the classes and all."""
    rng = np.random.default_rng(100 + size)
    wrong, total = [], 0
    for _ in range(150):
        a, e = rng.uniform(0.15, 0.42), rng.uniform(0.0, 0.97)
        b = a * np.sqrt(1 - e * e)
        c = ellipse_circularity(a, b)
        want = "irregular" if c < 0.55 else "round" if c >= 0.8 and e < 0.6 else "elongated" if e >= 0.85 else "oval"
        if b * size < 4:  # a sliver of under eight pixels has no outline to speak of
            continue
        got = shape_of(outline(ellipse(size, a, b, rng.uniform(0, np.pi), *rng.uniform(0.47, 0.53, 2))))
        wrong += [(round(e, 3), want, got)] if got != want else []
        total += 1
    for _ in range(60):
        arms = int(rng.integers(4, 8))  # at least four: no preferred axis, eccentricity 0
        mask, c, s = star(size, rng.uniform(0.22, 0.32), rng.uniform(0.0, 0.4), arms, rng.uniform(0, 6))
        want = "irregular" if s < 0.90 or c < 0.55 else "round" if c >= 0.8 else "oval"
        got = shape_of(outline(mask))
        wrong += [(round(c, 3), round(s, 3), want, got)] if got != want else []
        total += 1
    assert len(wrong) <= 0.05 * total, wrong
    assert total > 180


def test_moments_and_hull_agree_with_skimage():
    rng = np.random.default_rng(3)
    for size in (64, 200):
        for _ in range(10):
            mask, *_ = star(size, 0.3, rng.uniform(0, 0.4), int(rng.integers(2, 7)), rng.uniform(0, 6))
            ours, theirs = outline(mask), regionprops(mask.astype(np.uint8))[0]
            assert ours.eccentricity**2 == pytest.approx(theirs.eccentricity**2, abs=1e-3)
            assert ours.solidity == pytest.approx(theirs.solidity, abs=0.02)
            perimeter = regionprops(np.pad(mask, 1).astype(np.uint8))[0].perimeter_crofton
            assert ours.circularity == pytest.approx(min(1.0, 4 * np.pi * theirs.area / perimeter**2), rel=1e-12)


def test_asymmetry_of_a_right_triangle_and_of_its_mirror():
    """Right isosceles: symmetric about one axis; about the other its mirror image covers two thirds of it (solved by area)."""
    x, y = grid(400)
    triangle = (x > 0.2) & (y > 0.2) & (x + y < 1.0)
    found = outline(triangle)
    # Legs 1: the short axis of the moments lies across x = y. Reflected about the line through the centroid parallel to the
    # hypotenuse, height h = 1/sqrt(2): strips at t from the hypotenuse have length 2 (h - t), mirrored to 2h/3 - t.
    h = 1 / np.sqrt(2)
    t = np.linspace(0, 2 * h / 3, 200_001)
    common = np.trapezoid(np.minimum(2 * (h - t), 2 * (h - (2 * h / 3 - t))), t)
    assert found.asymmetry == pytest.approx((0 + 1 - common / 0.5) / 2, abs=0.01)
    assert outline(triangle[:, ::-1]).asymmetry == pytest.approx(found.asymmetry, abs=1e-9)
    assert asymmetry_of(found) == "high"
    assert asymmetry_of(outline(ellipse(200, 0.3, 0.2, 0.4))) == "low"


@pytest.mark.parametrize(
    ("share", "word"), [(0.0499, "small"), (0.05, "medium"), (0.2499, "medium"), (0.25, "large"), (0.9, "large")]
)
def test_size_limits(share, word):
    mask = np.zeros(10_000, bool)
    mask[: round(share * 10_000)] = True
    assert size_of(mask.reshape(100, 100)) == word


def test_position_is_the_third_of_the_centroid():
    names = [["top-left", "top", "top-right"], ["left", "center", "right"], ["bottom-left", "bottom", "bottom-right"]]
    for row in range(12):
        for col in range(24):
            mask = np.zeros((12, 24), bool)
            mask[row, col] = True
            assert position_of(mask) == names[row // 4][col // 8]
    edge = np.zeros((3, 12), bool)
    edge[1, 3:5] = True  # centroid exactly on the border of the thirds: the middle one, on either side
    assert position_of(edge) == position_of(edge[:, ::-1]) == "center"


def test_main_part_is_the_largest_and_ties_stay_together():
    mask = np.zeros((20, 20), bool)
    mask[2:5, 2:5] = mask[10:14, 10:14] = True
    assert main_part(mask).sum() == 16 and main_part(mask)[10, 10] and not main_part(mask)[2, 2]
    mask[2:6, 2:6] = True
    assert main_part(mask).sum() == 32
    diagonal = np.eye(6, dtype=bool)
    assert main_part(diagonal).sum() == 6  # touching corners are one lesion


def test_one_pixel_and_a_whole_side_can_be_measured():
    one = np.zeros((9, 9), bool)
    one[4, 4] = True
    assert outline(one).eccentricity == 0
    bar = np.zeros((40, 40), bool)
    bar[:, :5] = True
    assert shape_of(outline(bar)) in ("elongated", "irregular") and outline(bar).circularity < 0.5
