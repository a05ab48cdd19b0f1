"""The world `objects`, judged by implicit surfaces, convex hulls, region properties and CIELAB of the finished pictures."""

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.stats import chisquare
from skimage.color import rgb2lab
from skimage.measure import euler_number, points_in_poly, regionprops

from graft_common.phantoms import box, box_of, draw, objects
from graft_common.phantoms._objects_solids import DEEP, HALF, SOLIDS, STAR, TALL, TUBE
from graft_common.phantoms.objects import ATTRIBUTES, PAINTS, describe

SHAPES, COLORS, MATERIALS = ATTRIBUTES["shape"], ATTRIBUTES["color"], ATTRIBUTES["material"]


def holds(shape: str, at: np.ndarray) -> np.ndarray:
    """Whether points (n, 3) lie inside a solid, from its implicit equation."""
    x, y, z = at.T
    match shape:
        case "ball":
            return x**2 + (y - 1) ** 2 + z**2 <= 1
        case "cube":
            return np.abs(at - [0, HALF, 0]).max(axis=1) <= HALF
        case "cone":
            return (np.hypot(x, z) <= 1 - y / TALL) & (y >= 0)
        case "star":
            return points_in_poly(at[:, :2], STAR) & (np.abs(z) <= DEEP)
        case _:
            return (np.hypot(x, z) - 1) ** 2 + (y - TUBE) ** 2 <= TUBE**2


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_meet_the_solid_where_marching_first_finds_it(shape: str) -> None:
    rng, step = np.random.default_rng(0), 0.008
    for _ in range(4):
        direction = rng.standard_normal(3)
        direction[1] = -abs(direction[1]) - 0.2  # the camera and the shadow rays look down
        direction /= np.linalg.norm(direction)
        origins = rng.uniform(-1.6, 1.6, (150, 3)) + np.array([0, 1, 0])
        depth, normals = SOLIDS[shape].meet(origins, direction)
        ts = np.arange(-5, 5, step)
        marched = holds(shape, (origins[:, None] + ts[:, None] * direction).reshape(-1, 3)).reshape(len(origins), -1)
        found, hit = marched.any(axis=1), np.isfinite(depth)
        assert (found <= hit).all() and (hit & ~found).mean() < 0.04  # marching may step over a graze
        first = ts[marched.argmax(axis=1)]
        assert 0.15 < found.mean() < 1
        late = (first - depth)[found]  # marching comes late, by up to a step; by more where it steps over a sliver
        assert late.min() > -4 * step and np.quantile(np.abs(late), 0.95) < step
        assert (late > 6 * step).sum() <= 1
        np.testing.assert_allclose(np.linalg.norm(normals[found], axis=1), 1, atol=1e-9)
        assert (normals[found] @ direction <= 1e-6).all()
        touch = origins[found] + depth[found, None] * direction
        assert not holds(shape, touch + 0.02 * normals[found]).any()
        assert holds(shape, touch - 0.02 * normals[found]).mean() > 0.97  # a sharp edge may be thinner than the step


def test_same_seed_same_bytes_and_other_seed_other_bytes() -> None:
    first, again, other = draw("objects", 64, 5), draw("objects", 64, 5), draw("objects", 64, 6)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.caption == again.caption and first.attributes == again.attributes
    assert (first.image != other.image).mean() > 0.8


def test_captions_state_every_attribute() -> None:
    seen: set[str] = set()
    for shape in SHAPES:
        for color in COLORS:
            for material in MATERIALS:
                captions = describe({"shape": shape, "color": color, "material": material})
                assert seen.isdisjoint(captions)
                seen |= set(captions)
                for caption in captions:
                    assert f"{material} {color} {shape}" in caption and caption == caption.lower()
                    assert 4 <= len(caption.split()) <= 16
    picture = draw("objects", 32, 3, shape="ring")
    assert picture.caption in describe(picture.attributes)


def test_classes_are_drawn_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_shade", lambda *scene: np.full_like(scene[-1], 0.5))
    monkeypatch.setattr(objects, "_shadow", lambda scene, shape, size: (np.zeros((size, size)), np.zeros((size, size))))
    pictures = [draw("objects", 32, seed).attributes for seed in range(240)]
    for name, values in ATTRIBUTES.items():
        counts = Counter(p[name] for p in pictures)
        assert chisquare([counts[v] for v in values]).pvalue > 1e-3


@pytest.mark.parametrize("material", MATERIALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mean_colour_is_nearest_to_the_named_colour(shape: str, material: str) -> None:
    """Hue angle of the object's mean: within 25 degrees of the paint's, and far from every other paint's."""
    paints = {c: rgb2lab(np.array(rgb) / 255.0) for c, rgb in PAINTS.items()}
    hues = {c: np.arctan2(lab[2], lab[1]) for c, lab in paints.items()}
    for seed, color in enumerate(COLORS):
        picture = draw("objects", 64, seed, shape=shape, color=color, material=material)
        lab = rgb2lab(picture.image / 255.0)[picture.masks["object"]].mean(axis=0)
        truth = [picture.attributes[k] for k in ("mean_l", "mean_a", "mean_b")]
        np.testing.assert_allclose(lab, truth, atol=1e-6)
        assert np.hypot(lab[1], lab[2]) > 18
        turns = {c: abs((np.arctan2(lab[2], lab[1]) - h + np.pi) % (2 * np.pi) - np.pi) for c, h in hues.items()}
        assert turns[color] < np.radians(25) and min(v for c, v in turns.items() if c != color) > np.radians(25)


def test_paints_are_far_apart() -> None:
    labs = [rgb2lab(np.array(rgb) / 255.0) for rgb in PAINTS.values()]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(labs) for b in labs[:i]) > 65


@pytest.mark.parametrize("shape", SHAPES)
def test_materials_differ_in_their_share_of_white(shape: str) -> None:
    shares: dict[str, list[float]] = {}
    for material in MATERIALS:
        for seed in range(4):
            picture = draw("objects", 64, seed, shape=shape, material=material, color=COLORS[seed])
            lab = rgb2lab(picture.image / 255.0)[ndimage.binary_erosion(picture.masks["object"])]
            white = (np.hypot(lab[:, 1], lab[:, 2]) < 25) & (lab[:, 0] > 55)
            shares.setdefault(material, []).append(float(white.mean()))
    assert max(shares["matte"]) == 0.0
    assert min(shares["shiny"]) > 0.008 and max(shares["shiny"]) < 0.15
    assert min(shares["striped"]) > 0.22 and max(shares["striped"]) < 0.65


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_match_the_projected_solid(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mask area against the convex hull of projected surface points; ring and star by their own shape facts."""
    arrange, scenes = objects._arrange, []
    monkeypatch.setattr(objects, "_arrange", lambda rng, shape: scenes.append(arrange(rng, shape)) or scenes[-1])
    for seed in range(3):
        mask = draw("objects", 128, seed, shape=shape).masks["object"]
        points = SOLIDS[shape].outline * scenes[-1].scale
        hull = ConvexHull(np.stack([points @ scenes[-1].right, points @ scenes[-1].up], axis=1)).volume
        (region,) = regionprops(mask.astype(int))
        assert ndimage.label(mask)[1] == 1
        assert euler_number(mask, connectivity=2) == (0 if shape == "ring" else 1)
        assert region.area_convex / mask.size == pytest.approx(hull, rel=0.03)
        if shape in ("star", "ring"):
            assert region.solidity < 0.92
        else:
            assert region.solidity > 0.95 and mask.mean() == pytest.approx(hull, rel=0.025)


def test_box_attributes_and_frame() -> None:
    for seed in range(20):
        picture = draw("objects", 64, seed)
        truth, edges = picture.attributes, box(picture.masks["object"])
        assert edges is not None
        left, top, right, bottom = edges
        assert left >= 2 and top >= 2 and right <= 62 and bottom <= 62
        assert truth["center_x"] == (left + right) / 128 and truth["center_y"] == (top + bottom) / 128
        assert truth["extent"] == max(right - left, bottom - top) / 64 and 0.55 <= truth["extent"] <= 0.78
        assert truth["object_area"] == picture.masks["object"].mean() > 0.1
        assert truth["shadow_area"] == picture.masks["shadow"].mean() > 0.005
        assert not (picture.masks["object"] & picture.masks["shadow"]).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_shadow_is_darker_than_the_same_ground_without_it(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [draw("objects", 64, seed, shape=shape) for seed in range(3)]
    monkeypatch.setattr(objects, "_shadow", lambda scene, shape, size: (np.zeros((size, size)), np.zeros((size, size))))
    for picture in pictures:
        bare = draw("objects", 64, picture.seed, shape=shape)
        kept = picture.image.mean(axis=2) / np.maximum(bare.image.mean(axis=2), 1)
        solid, shadow = picture.masks["object"], picture.masks["shadow"]
        away = ~ndimage.binary_dilation(solid | shadow, iterations=8)
        assert kept[shadow].mean() < 0.72 and kept[away].mean() > 0.97
        inner = ndimage.binary_erosion(solid, iterations=2)
        np.testing.assert_allclose(kept[inner], 1, atol=0.02)


def test_paint_alone_changes_between_colours() -> None:
    for seed, shape in enumerate(SHAPES):
        red, blue = (draw("objects", 64, seed, shape=shape, color=c, material="shiny") for c in ("red", "blue"))
        for name in red.masks:
            np.testing.assert_array_equal(red.masks[name], blue.masks[name])
        away = ~ndimage.binary_dilation(red.masks["object"], np.ones((3, 3)))
        np.testing.assert_array_equal(red.image[away], blue.image[away])


def test_one_seed_shows_one_scene_at_every_size() -> None:
    for seed, shape in enumerate(SHAPES):
        small, large = (draw("objects", size, seed, shape=shape) for size in (64, 128))
        for name in ("object_area", "shadow_area"):
            assert small.attributes[name] == pytest.approx(large.attributes[name], rel=0.04, abs=0.003)
        pooled = large.image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(pooled - small.image).mean() < 3


def test_box_of_is_box_but_refuses_an_empty_mask() -> None:
    mask = np.zeros((5, 7), bool)
    assert box(mask) is None
    with pytest.raises(ValueError, match="mask is empty"):
        box_of(mask)
    mask[2:4, 3] = True
    assert box_of(mask) == box(mask) == (3, 2, 4, 4)
