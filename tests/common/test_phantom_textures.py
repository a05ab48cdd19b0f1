"""The world `textures`, judged by scipy, scikit-image and spectra of the finished pictures."""

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.stats import chisquare
from skimage.color import rgb2lab
from skimage.measure import regionprops
from skimage.morphology import skeletonize

from graft_common.phantoms import draw
from graft_common.phantoms._textures_surfaces import SURFACES, UNITS, smooth_noise
from graft_common.phantoms.textures import ATTRIBUTES, describe

TEXTURES = ATTRIBUTES["texture"]
FLAWS = ("hole", "crack", "blob")


def lab_of(image: np.ndarray) -> np.ndarray:
    return rgb2lab(image / 255.0)


def test_same_seed_same_bytes_and_other_seed_other_bytes() -> None:
    first, again, other = draw("textures", 64, 5), draw("textures", 64, 5), draw("textures", 64, 6)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.caption == again.caption and first.attributes == again.attributes
    assert (first.image != other.image).mean() > 0.9


def test_captions_state_every_attribute_and_differ_between_attributes() -> None:
    seen: set[str] = set()
    for texture in TEXTURES:
        for defect in ATTRIBUTES["defect"]:
            captions = describe({"texture": texture, "defect": defect})
            assert seen.isdisjoint(captions)
            seen |= set(captions)
            for caption in captions:
                words = caption.replace(",", "").split()
                assert 4 <= len(words) <= 16 and caption == caption.lower()
                assert texture in words and ("no defect" in caption if defect == "none" else f"a {defect}" in caption)
    picture = draw("textures", 32, 3, texture="wood", defect="blob")
    assert picture.caption in describe(picture.attributes)


def test_classes_are_drawn_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for texture in TEXTURES:  # which classes are drawn does not hang on how a surface looks
        monkeypatch.setitem(SURFACES, texture, lambda rng, size: (np.full((size, size, 3), 0.5), 8.0))
    pictures = [draw("textures", 32, seed).attributes for seed in range(400)]
    for name, values in ATTRIBUTES.items():
        counts = Counter(p[name] for p in pictures)
        assert chisquare([counts[v] for v in values]).pvalue > 1e-3


@pytest.mark.parametrize("defect", FLAWS)
@pytest.mark.parametrize("texture", TEXTURES)
def test_defect_free_twin_differs_only_at_the_defect(texture: str, defect: str) -> None:
    for seed in range(2):
        flawed = draw("textures", 64, seed, texture=texture, defect=defect)
        clean = draw("textures", 64, seed, texture=texture, defect="none")
        assert not clean.masks["defect"].any() and clean.attributes["defect_area"] == 0.0
        mask = flawed.masks["defect"]
        gap = np.linalg.norm(lab_of(flawed.image) - lab_of(clean.image), axis=2)
        away = ndimage.distance_transform_edt(~mask)
        assert gap[away > 8].max() == 0.0
        assert np.median(gap[mask]) > 25  # seen at a glance
        assert gap[mask].mean() > 5 * gap[(away > 2) & (away <= 8)].mean()


def test_mask_is_where_half_of_the_pixel_is_painted() -> None:
    """A hole in a plain wall: solve each edge pixel for its painted share and compare with the mask."""
    from graft_common.phantoms.textures import _blob, _crack, _hole

    wall = np.full((128, 128, 3), 0.7)
    for paint in (_hole, _crack, _blob):
        _, share = paint(np.random.default_rng(3), wall, np.array([70.0, 0.0, 0.0]))
        fine = np.full((512, 512, 3), 0.7)
        _, share_fine = paint(np.random.default_rng(3), fine, np.array([70.0, 0.0, 0.0]))
        pooled = (
            (share_fine > 0.5).reshape(128, 4, 128, 4).mean(axis=(1, 3))
        )  # area by counting, at four times the size
        sure = np.abs(pooled - 0.5) > 0.15
        assert ((share > 0.5) == (pooled > 0.5))[sure].all()
        assert abs((share > 0.5).mean() - (share_fine > 0.5).mean()) < 0.02 * (share_fine > 0.5).mean() + 2e-4


@pytest.mark.parametrize("texture", TEXTURES)
def test_hole_is_dark_round_and_large(texture: str) -> None:
    for seed in range(4):
        picture = draw("textures", 64, seed, texture=texture, defect="hole")
        (region,) = regionprops(picture.masks["defect"].astype(int))
        assert 10 <= region.equivalent_diameter_area <= 22
        assert region.solidity > 0.93 and region.axis_minor_length / region.axis_major_length > 0.8
        light = lab_of(picture.image)[..., 0]
        assert np.median(light[picture.masks["defect"]]) < 15
        assert np.median(light[picture.masks["defect"]]) < picture.attributes["mean_l"] - 20


@pytest.mark.parametrize("texture", TEXTURES)
def test_crack_is_dark_thin_and_long(texture: str) -> None:
    for seed in range(4):
        picture = draw("textures", 128, seed, texture=texture, defect="crack")
        mask = picture.masks["defect"]
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        width = 2 * ndimage.distance_transform_edt(mask)[skeletonize(mask)] * 64 / 128
        assert 2.0 <= np.median(width) <= 3.6
        rows, cols = np.nonzero(mask)
        assert np.hypot(np.ptp(rows), np.ptp(cols)) / 128 > 0.6
        light = lab_of(picture.image)[..., 0]
        assert np.median(light[mask]) < 15 < picture.attributes["mean_l"] - 10


@pytest.mark.parametrize("texture", TEXTURES)
def test_blob_is_bright_and_of_a_foreign_colour(texture: str) -> None:
    for seed in range(4):
        picture = draw("textures", 64, seed, texture=texture, defect="blob")
        mask, truth = picture.masks["defect"], picture.attributes
        inside = np.median(lab_of(picture.image)[mask], axis=0)
        assert inside[0] > 50
        assert np.linalg.norm(inside - [truth["mean_l"], truth["mean_a"], truth["mean_b"]]) > 35
        (region,) = regionprops(mask.astype(int))
        assert 11 <= region.equivalent_diameter_area <= 28


def test_measured_attributes_match_the_picture() -> None:
    for seed in range(12):
        picture = draw("textures", 64, seed, defect=FLAWS[seed % 3])
        mask, truth = picture.masks["defect"], picture.attributes
        row, col = ndimage.center_of_mass(mask)
        assert truth["defect_area"] == pytest.approx(mask.sum() / 64**2, abs=1e-12)
        assert truth["defect_x"] == pytest.approx((col + 0.5) / 64, abs=1e-9)
        assert truth["defect_y"] == pytest.approx((row + 0.5) / 64, abs=1e-9)
        away = ndimage.distance_transform_edt(~mask) > 8
        measured = lab_of(picture.image)[away].mean(axis=0)
        assert np.abs(measured - [truth["mean_l"], truth["mean_a"], truth["mean_b"]]).max() < 6


def test_one_seed_shows_one_scene_at_every_size() -> None:
    for seed, texture in enumerate(TEXTURES):
        small, large = (draw("textures", size, seed, texture=texture, defect="hole") for size in (64, 128))
        assert small.attributes["defect_area"] == pytest.approx(large.attributes["defect_area"], rel=0.05)
        pooled = large.image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.corrcoef(pooled.ravel(), small.image.ravel())[0, 1] > 0.97


def test_the_stated_wavelength_is_the_spectral_peak() -> None:
    """Brick courses repeat down the picture at `wavelength`; a plain weave's lattice repeats at its pitch, or sqrt 2 of it."""
    size, window = 256, np.hanning(256)
    for seed in range(4):
        for texture, multiples in (("brick", (1.0,)), ("fabric", (1.0, np.sqrt(2)))):
            rgb, wavelength = SURFACES[texture](np.random.default_rng(seed), size)
            grey = rgb.mean(axis=2)
            power = np.abs(np.fft.fft2((grey - grey.mean()) * np.outer(window, window))) ** 2
            fy, fx = np.meshgrid(np.fft.fftfreq(size, UNITS / size), np.fft.fftfreq(size, UNITS / size), indexing="ij")
            power[np.hypot(fx, fy) < 1.5 / UNITS] = 0
            if texture == "brick":
                power[np.abs(fx) > 0.5 * np.abs(fy)] = 0  # courses, not the joints between neighbours
            peak = np.unravel_index(power.argmax(), power.shape)
            period = 1 / np.hypot(fx[peak], fy[peak])
            assert min(abs(period / (m * wavelength) - 1) for m in multiples) < 0.12
            assert 5.0 <= wavelength <= 14.0


def test_little_of_the_variance_is_pixel_noise() -> None:
    """A tiny autoencoder must keep the world: after the best 8 numbers per 4 x 4 patch at least 26 dB remain."""
    pictures = np.stack([draw("textures", 64, seed).image for seed in range(48)]) / 255.0
    patches = pictures.reshape(48, 16, 4, 16, 4, 3).swapaxes(2, 3).reshape(-1, 48)
    mean = patches.mean(axis=0)
    basis = np.linalg.eigh(np.cov(patches.T))[1][:, -8:]
    error = (patches - mean) - (patches - mean) @ basis @ basis.T
    assert -10 * np.log10((error**2).mean()) > 26


def test_smooth_noise_is_a_cubic_spline_of_unit_variance_at_every_size() -> None:
    field = smooth_noise(np.random.default_rng(1), 96, 6, 9)
    values = np.random.default_rng(1).standard_normal((9, 12))
    at = (np.arange(96) + 0.5) / 96
    judge = BSpline(np.arange(-3, 10), BSpline(np.arange(-3, 13), values.T, 3)(at * 9).T, 3)(at * 6)
    np.testing.assert_allclose(field, judge * 315 / 151, atol=1e-10)
    many = [smooth_noise(np.random.default_rng(seed), 32, 5, 5) for seed in range(200)]
    assert np.std(many) == pytest.approx(1.0, abs=0.04)
