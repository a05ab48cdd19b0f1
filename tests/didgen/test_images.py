"""Pictures and masks in every coding that the data sets use, against Pillow; damaged ones in one line."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from didgen.images import picture_size, read_lesion_mask, read_rgb
from graft_common.errors import InputError

Y, X = np.mgrid[:60, :80]
DISC = (Y - 30) ** 2 + (X - 40) ** 2 < 300
RNG = np.random.default_rng(0)
COLOUR = np.kron(RNG.integers(0, 256, (6, 8, 3), np.uint8), np.ones((10, 10, 1), np.uint8))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_pictures_equal_pillows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ein Bild ü.{suffix}"
    Image.fromarray(COLOUR).save(path)
    np.testing.assert_array_equal(read_rgb(path), np.asarray(Image.open(path).convert("RGB")))
    assert picture_size(path) == (60, 80)


def test_grey_wide_and_turned_pictures(tmp_path: Path) -> None:
    Image.fromarray(COLOUR[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(COLOUR[..., :1], 3, 2))
    tifffile.imwrite(tmp_path / "wide.tif", COLOUR.astype(np.uint16) * 257, photometric="rgb")
    np.testing.assert_array_equal(read_rgb(tmp_path / "wide.tif"), COLOUR)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "turned.png"), np.rot90(COLOUR, -1))
    assert picture_size(tmp_path / "turned.png") == (80, 60)


def masks(folder: Path) -> dict[str, Path]:
    """The same disc in every coding."""
    grey = DISC.astype(np.uint8)
    made = {
        "8bit.png": Image.fromarray(grey * 255), "1bit.png": Image.fromarray(DISC), "01.png": Image.fromarray(grey),
        "1bit.bmp": Image.fromarray(DISC), "rgb.bmp": Image.fromarray(grey * 255).convert("RGB"),
        "grey.bmp": Image.fromarray(grey * 255), "rgb.png": Image.fromarray(grey * 255).convert("RGB"),
        "two.png": Image.fromarray(grey * 100 + 20),
    }  # fmt: skip
    made["palette.png"] = Image.fromarray(grey * 255).convert("P")
    for name, image in made.items():
        image.save(folder / name)
    Image.fromarray(grey * 255).save(folder / "lossy.jpg", quality=60)
    tifffile.imwrite(folder / "labels.tif", grey.astype(np.uint16))
    return {p.name: p for p in folder.iterdir()}


def test_every_coding_of_one_mask(tmp_path: Path) -> None:
    for name, path in masks(tmp_path).items():
        mask = read_lesion_mask(path, (60, 80))
        assert (mask ^ DISC).sum() <= (12 if name == "lossy.jpg" else 0), name


def test_a_soft_border_is_no_class(tmp_path: Path) -> None:
    soft = np.clip((18 - np.hypot(Y - 30, X - 40)) * 20 + 128, 0, 255).astype(np.uint8)
    Image.fromarray(soft).save(tmp_path / "soft.png")
    np.testing.assert_array_equal(read_lesion_mask(tmp_path / "soft.png"), soft > 127.5)


def bad(folder: Path) -> dict[str, tuple[Path, str]]:
    classes = DISC * 1 + (DISC & (X > 40)) * 1
    coloured = np.zeros((60, 80, 3), np.uint8)
    coloured[DISC] = (255, 0, 0)
    coloured[DISC & (X > 40)] = (0, 255, 0)
    arrays = {
        "empty": (np.zeros((60, 80), np.uint8), "is empty"), "full": (np.full((60, 80), 255, np.uint8), "is full"),
        "labels": (classes.astype(np.uint8), "holds 3 classes"), "levels": ((classes * 127).astype(np.uint8), "3 classes"),
        "colours": (coloured, "holds 3 classes"),
        "small": ((DISC[:30, :40] * 255).astype(np.uint8), "is 40x30 but its image is 80x60"),
    }  # fmt: skip
    found = {}
    for name, (array, needle) in arrays.items():
        Image.fromarray(array).save(folder / f"{name}.png")
        found[name] = (folder / f"{name}.png", needle)
    Image.fromarray(arrays["levels"][0]).save(folder / "lossy.jpg", quality=80)
    Image.fromarray(RNG.integers(0, 9, (60, 80), np.uint8)).save(folder / "noise.jpg")
    tifffile.imwrite(folder / "nan.tif", np.where(DISC, np.nan, 0).astype(np.float32))
    Image.fromarray(COLOUR).save(folder / "whole.bmp")
    (folder / "cut.bmp").write_bytes((folder / "whole.bmp").read_bytes()[:900])
    (folder / "cut.png").write_bytes((folder / "empty.png").read_bytes()[:40])
    (folder / "none.png").write_bytes(b"")
    (folder / "page.png").write_text("<!DOCTYPE html>404")
    (folder / "text.png").write_text("ISIC_0000000")
    huge = bytearray((folder / "whole.bmp").read_bytes())
    huge[18:26] = (12_000).to_bytes(4, "little") * 2
    (folder / "huge.bmp").write_bytes(huge)
    more = {
        "lossy.jpg": "holds 3 classes", "noise.jpg": "is empty", "nan.tif": "NaN", "cut.bmp": "cannot be read",
        "cut.png": "cannot be read", "none.png": "0 bytes", "page.png": "web page", "text.png": "is no PNG, JPEG",
        "huge.bmp": "megapixels", "gone.png": "no such file",
    }  # fmt: skip
    return found | {name: (folder / name, needle) for name, needle in more.items()}


def test_bad_masks(tmp_path: Path) -> None:
    for name, (path, needle) in bad(tmp_path).items():
        with pytest.raises(InputError) as why:
            read_lesion_mask(path, (60, 80))
        said = str(why.value)
        assert needle in said and said.startswith(f"mask {path}") and "\n" not in said, (name, said)


def test_bad_pictures(tmp_path: Path) -> None:
    files = bad(tmp_path)
    for name in ("cut.bmp", "cut.png", "none.png", "page.png", "text.png", "huge.bmp", "gone.png", "nan.tif"):
        path, needle = files[name]
        with pytest.raises(InputError, match=needle):
            read_rgb(path)
        if name not in ("cut.bmp", "nan.tif"):  # their headers are sound
            with pytest.raises(InputError) as why:
                picture_size(path)
            assert str(path) in str(why.value)
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((60, 80), np.float32))
    with pytest.raises(InputError, match="holds float32 values"):
        read_rgb(tmp_path / "float.tif")
