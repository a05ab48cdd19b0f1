"""Seam blending after the fact, and foregrounds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusionmix.box import Box
from diffusionmix.finish import finish
from diffusionmix.foreground import otsu, read_foreground
from graft_common.errors import InputError

BOX = Box(20, 10, 40, 30)


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A step of 60 grey levels between an object on its own ground and the picture's ground, which has the same texture."""
    y, x = np.mgrid[:64, :96]
    texture = (8 * np.sin(x / 3) + 8 * np.cos(y / 4))[..., None] * np.ones(3)
    base = np.clip(90 + texture, 0, 255).astype(np.uint8)
    square = np.clip(150 + texture[10:40, 20:60], 0, 255).astype(np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[16:34, 28:52] = True
    image = base.copy()
    image[10:40, 20:60][mask[10:40, 20:60]] = square[mask[10:40, 20:60]]
    return image, base, square, mask


def seam(image: np.ndarray) -> float:
    """Mean step over the left rim of the mask."""
    return float(np.abs(image[16:34, 28].astype(int) - image[16:34, 27]).mean())


def test_poisson_joins_gradients_inside_the_mask_alone() -> None:
    image, base, square, mask = scene()
    out = finish(image, base, square, mask, BOX, "poisson")
    np.testing.assert_array_equal(out[~mask], base[~mask])
    assert seam(out) < 8 < seam(image)
    # the object's offset is a constant, so the solution is the base's own texture
    assert np.abs(out[mask].astype(int) - base[mask]).max() <= 3


def test_laplacian_spreads_the_seam_and_leaves_the_far_field() -> None:
    image, base, square, mask = scene()
    out = finish(image, base, square, mask, BOX, "laplacian")
    assert seam(out) < 0.5 * seam(image)
    assert (out != base)[~mask].any()
    np.testing.assert_array_equal(out[:, :2], base[:, :2])
    assert np.abs(out[24:26, 39:41].astype(int) - image[24:26, 39:41]).max() < 25


@pytest.mark.parametrize("how", ["none", "poisson", "laplacian"])
def test_equal_pictures_stay_equal(how: str) -> None:
    _, base, _, mask = scene()
    out = finish(base, base, base[10:40, 20:60], mask, BOX, how)
    assert np.abs(out.astype(int) - base).max() <= 1


def test_mask_on_the_rim_and_empty_mask() -> None:
    image, base, square, mask = scene()
    assert finish(image, base, square, np.zeros_like(mask), BOX, "poisson") is image
    edge = np.zeros_like(mask)
    edge[:20, :30] = True
    out = finish(image, base, square, edge, Box(0, 0, 40, 30), "poisson")
    assert out.shape == base.shape and (out[~edge] == base[~edge]).all()
    whole = finish(base, base, base, np.ones_like(mask), Box(0, 0, 96, 64), "poisson")
    assert np.abs(whole.astype(int) - base).max() <= 2


@pytest.mark.parametrize(("object_grey", "ground_grey"), [(200, 40), (40, 200)])
def test_otsu_finds_what_the_border_is_not(object_grey: int, ground_grey: int) -> None:
    image = np.full((60, 80, 3), ground_grey, np.uint8)
    image[15:45, 20:60] = object_grey
    mask = otsu(image)
    assert mask[15:45, 20:60].all() and mask.sum() == 30 * 40
    with pytest.raises(InputError, match="--foreground otsu"):
        otsu(np.full((9, 9, 3), 7, np.uint8))


def test_foreground_file(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 4:20] = 255
    path = tmp_path / "süß mask.png"
    Image.fromarray(mask).save(path)
    np.testing.assert_array_equal(read_foreground(path, (20, 30)), mask > 0)
    with pytest.raises(InputError, match=r"--foreground-mask .*is 30x20 but the picture is 31x20"):
        read_foreground(path, (20, 31))
    with pytest.raises(InputError, match="no such file"):
        read_foreground(tmp_path / "none.png", (20, 30))
