"""PNG, JPEG, TIFF, masks, resampling, atomic files. Judges: Pillow, tifffile, OpenCV, scikit-image, closed forms."""

import io
import json
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from scipy.ndimage import distance_transform_edt

from graft_common.errors import InputError
from graft_common.files import atomic_path, read_bytes, sha256
from graft_common.pixels import (
    describe,
    feather,
    output_suffixes,
    paste,
    picture_from_array,
    read_mask,
    read_picture,
    read_provenance,
    resize,
    resize_mask,
    with_channels,
    write_like,
    write_mask_like,
)

RNG = np.random.default_rng(7)
MASK = np.zeros((12, 9), bool)
MASK[3:8, 2:6] = True


def values(shape, dtype):
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def save(path, array, **options):
    """Write with a library that is not the one under test where there is a choice."""
    if path.suffix == ".tiff":
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack", **options)
    else:
        cv2.imwrite(str(path), array[..., [2, 1, 0, 3][: array.shape[2]]] if array.ndim == 3 else array)
    return path


def stored_by_judge(path):
    if path.suffix == ".tiff":
        return tifffile.imread(path)
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return array[..., ::-1] if array.ndim == 3 else array


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 3)])
def test_round_trip_keeps_stored_values(tmp_path, suffix, dtype, shape):
    array = values(shape, dtype)
    picture = read_picture(save(tmp_path / f"a{suffix}", array))
    assert picture.stored.dtype == dtype
    np.testing.assert_array_equal(picture.stored, array)
    out = write_like(picture, picture.pixels.copy(), MASK, tmp_path / f"o{suffix}", {"method": "t"})
    np.testing.assert_array_equal(stored_by_judge(out), array)
    # a change inside changes only the mask, and lands on the rounded inverse
    new = picture.pixels.copy()
    new[:, ~MASK] = 0.9
    new[:, MASK] = RNG.uniform(-1, 1, new[:, MASK].shape).astype(np.float32)
    got = stored_by_judge(write_like(picture, new, MASK, tmp_path / f"p{suffix}", {"method": "t"}))
    np.testing.assert_array_equal(got[~MASK], array[~MASK])
    low, high = (0, np.iinfo(dtype).max) if dtype == np.uint8 or len(shape) == 3 else np.percentile(array, [0.5, 99.5])
    expected = np.rint((np.moveaxis(new, 0, -1)[MASK].astype(np.float64) + 1) / 2 * (high - low) + low)
    np.testing.assert_array_equal(got[MASK].reshape(expected.shape), expected)


def test_display_of_8_and_16_bits(tmp_path):
    array = values((12, 9), np.uint8)
    pixels = read_picture(save(tmp_path / "a.png", array)).pixels
    assert pixels.shape == (1, 12, 9)
    np.testing.assert_allclose(pixels[0], array / 127.5 - 1, atol=1e-7)
    colour = values((12, 9, 3), np.uint16)
    pixels = read_picture(save(tmp_path / "c.png", colour)).pixels
    np.testing.assert_allclose(pixels, np.moveaxis(colour, -1, 0) / 32767.5 - 1, atol=1e-6)
    wide = values((12, 9), np.uint16)
    picture = read_picture(save(tmp_path / "b.tiff", wide))
    low, high = np.percentile(wide, [0.5, 99.5])
    np.testing.assert_allclose(picture.pixels[0], np.clip((wide - low) / (high - low), 0, 1) * 2 - 1, atol=1e-6)
    assert describe(picture)["window_from"] == "percentile"
    np.testing.assert_allclose(describe(picture)["window"], [(low + high) / 2, high - low])
    picture = read_picture(tmp_path / "b.tiff", window=(30000, 20000))
    np.testing.assert_allclose(picture.pixels[0], np.clip((wide - 20000.0) / 20000, 0, 1) * 2 - 1, atol=1e-6)
    json.dumps(describe(picture))


def test_values_clipped_by_the_window_survive_inside_the_mask(tmp_path):
    wide = np.full((12, 9), 1000, np.uint16)
    wide[5, 3], wide[5, 4] = 60000, 3
    picture = read_picture(save(tmp_path / "a.png", wide), window=(1000, 100))
    new = picture.pixels.copy()
    new[0, 6, 3] = 1.0
    got = stored_by_judge(write_like(picture, new, MASK, tmp_path / "o.png", {}))
    assert (got[5, 3], got[5, 4], got[6, 3]) == (60000, 3, 1050)
    assert (got != wide).sum() == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_alpha_is_flattened_onto_black(tmp_path, dtype, suffix):
    array = values((12, 9, 4), dtype)
    options = {"extrasamples": ["unassalpha"]} if suffix == ".tiff" else {}
    picture = read_picture(save(tmp_path / f"a{suffix}", array, **options))
    full = np.iinfo(dtype).max
    expected = np.rint(array[..., :3].astype(np.float64) * array[..., 3:] / full)
    np.testing.assert_array_equal(picture.stored, expected)
    assert "flattened" in picture.source.notes[0]


def test_palette_transparency_bilevel_and_grey_alpha(tmp_path):
    grey = values((12, 9, 2), np.uint8)
    Image.fromarray(grey, mode=None).save(tmp_path / "la.png")
    expected = np.rint(grey[..., 0].astype(float) * grey[..., 1] / 255)
    np.testing.assert_array_equal(read_picture(tmp_path / "la.png").stored, expected)
    palette = Image.fromarray(values((12, 9, 3), np.uint8)).quantize(8)
    palette.save(tmp_path / "p.png", transparency=0)
    stored = read_picture(tmp_path / "p.png").stored
    index = np.asarray(palette)
    np.testing.assert_array_equal(stored[index != 0], np.asarray(palette.convert("RGB"))[index != 0])
    assert (stored[index == 0] == 0).all()
    Image.fromarray(MASK).save(tmp_path / "1.tiff")
    np.testing.assert_array_equal(read_picture(tmp_path / "1.tiff").stored, MASK * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    base = values((12, 9), np.uint8)
    turned = {  # the array a camera stores so that the viewer shows `base`
        1: base,
        2: base[:, ::-1],
        3: np.rot90(base, 2),
        4: base[::-1],
        5: base.T,
        6: np.rot90(base),
        7: np.rot90(base, 2).T,
        8: np.rot90(base, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").stored, base)
    wide = np.repeat(turned[..., None], 3, 2).astype(np.uint16) * 257  # 16-bit colour goes another way
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "w.tiff", wide, photometric="rgb", extratags=tag)
    np.testing.assert_array_equal(read_picture(tmp_path / "w.tiff").stored[..., 1], base * np.uint16(257))
    data = cv2.imencode(".png", wide)[1].tobytes()
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    (tmp_path / "w.png").write_bytes(data[:33] + chunk(b"eXIf", body) + data[33:])
    np.testing.assert_array_equal(read_picture(tmp_path / "w.png").stored[..., 1], base * np.uint16(257))
    tifffile.imwrite(tmp_path / "g.tiff", wide[..., 0], photometric="minisblack", extratags=tag)
    np.testing.assert_array_equal(read_picture(tmp_path / "g.tiff").stored, base * np.uint16(257))
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.jpg", exif=exif, quality=100)
    assert np.abs(read_picture(tmp_path / "a.jpg").stored.astype(int) - base).max() <= 3


def test_jpeg_is_written_as_png_with_its_decoded_values(tmp_path):
    Image.fromarray(values((12, 9, 3), np.uint8)).save(tmp_path / "a.jpg", comment=b"Jane Doe")
    picture = read_picture(tmp_path / "a.jpg")
    np.testing.assert_array_equal(picture.stored, np.asarray(Image.open(tmp_path / "a.jpg")))
    assert output_suffixes(picture) == (".png",)
    out = write_like(picture, picture.pixels, MASK, tmp_path / "o.png", {"seed": 3})
    np.testing.assert_array_equal(np.asarray(Image.open(out)), picture.stored)
    assert b"Jane" not in out.read_bytes()
    with pytest.raises(InputError, match=r"o\.jpg.*\.png"):
        write_like(picture, picture.pixels, MASK, tmp_path / "o.jpg", {})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(12, 9), (12, 9, 3)])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_provenance_and_colour_profile_are_inside(tmp_path, dtype, shape, suffix):
    picture = read_picture(save(tmp_path / f"a{suffix}", values(shape, dtype)))
    out = write_like(picture, picture.pixels, MASK, tmp_path / f"o{suffix}", {"method": "t", "seed": 5, "é": "ü"})
    note = {"method": "t", "seed": 5, "é": "ü", "synthetic": True}
    assert read_provenance(out) == note
    if suffix == ".png":
        with Image.open(out) as image:
            assert json.loads(image.text["graft"]) == note
    else:
        with tifffile.TiffFile(out) as file:
            assert json.loads(file.pages[0].description) == note
    assert read_provenance(tmp_path / f"a{suffix}") is None
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if len(shape) == 3 and dtype == np.uint8:
        Image.fromarray(picture.stored).save(tmp_path / f"i{suffix}", icc_profile=profile)
        again = read_picture(tmp_path / f"i{suffix}")
        out = write_like(again, again.pixels, MASK, tmp_path / f"j{suffix}", {})
        with Image.open(out) as image:
            assert image.info["icc_profile"] == profile


def test_wide_png_with_profile_is_valid(tmp_path):
    """Our own chunks beside OpenCV's: every length and checksum is walked, and Pillow reads the profile."""
    from graft_common.raster import encode

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode(values((12, 9, 3), np.uint16), "png", {"a": 1}, profile)
    at, tags = 8, []
    while at < len(data):
        size, tag = struct.unpack(">I4s", data[at : at + 8])
        assert zlib.crc32(data[at + 4 : at + 8 + size]) == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
        at, tags = at + 12 + size, [*tags, tag]
    assert at == len(data) and tags[0] == b"IHDR" and tags[-1] == b"IEND" and tags.index(b"iCCP") < tags.index(b"IDAT")
    image = Image.open(io.BytesIO(data))
    assert image.info["icc_profile"] == profile


def test_signed_float_and_white_is_zero_tiff(tmp_path):
    signed = values((12, 9), np.int16)
    picture = read_picture(save(tmp_path / "s.tiff", signed))
    assert picture.stored.dtype == np.int16
    out = write_like(picture, picture.pixels, MASK, tmp_path / "so.tiff", {})
    np.testing.assert_array_equal(tifffile.imread(out), signed)
    real = RNG.normal(size=(12, 9)).astype(np.float32)
    picture = read_picture(save(tmp_path / "f.tiff", real))
    new = picture.pixels.copy()
    new[:, MASK] = 0.5
    got = tifffile.imread(write_like(picture, new, MASK, tmp_path / "fo.tiff", {}))
    low, high = np.percentile(real, [0.5, 99.5])
    np.testing.assert_allclose(got[MASK], 0.75 * (high - low) + low, rtol=1e-6)
    np.testing.assert_array_equal(got[~MASK], real[~MASK])
    wide = values((12, 9), np.uint16)
    tifffile.imwrite(tmp_path / "w.tiff", wide, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(tmp_path / "w.tiff").stored, 65535 - wide)


def test_only_the_first_page_and_it_is_said(tmp_path):
    pages = values((3, 12, 9), np.uint8)
    tifffile.imwrite(tmp_path / "m.tiff", pages, photometric="minisblack")
    picture = read_picture(tmp_path / "m.tiff")
    np.testing.assert_array_equal(picture.stored, pages[0])
    assert "first" in picture.source.notes[0]
    frames = [Image.fromarray(p) for p in pages]
    frames[0].save(tmp_path / "m.png", save_all=True, append_images=frames[1:])
    assert "first" in read_picture(tmp_path / "m.png").source.notes[0]


def test_content_decides_not_the_ending(tmp_path):
    array = values((12, 9), np.uint8)
    save(tmp_path / "a.png", array).rename(tmp_path / "a.jpg")
    assert read_picture(tmp_path / "a.jpg").source.kind == "png"


def chunk(tag, body):
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def header(w, h):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))


def broken_files(folder):
    array = values((40, 40, 3), np.uint8)
    png = save(folder / "good.png", array).read_bytes()
    rest = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    nan = np.ones((12, 9), np.float32)
    nan[2, 3] = np.nan
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, nan)
    jpeg = io.BytesIO()
    Image.fromarray(array).save(jpeg, format="JPEG")
    complex_tiff = io.BytesIO()
    tifffile.imwrite(complex_tiff, np.ones((4, 4), np.complex64))
    yield "empty.png", b"", "is empty"
    yield "cut.png", png[:-200], "cannot be read as PNG"
    yield "cut.jpg", jpeg.getvalue()[: len(jpeg.getvalue()) // 2], "cannot be read as JPEG"
    yield "page.png", b"<!DOCTYPE html><html>404</html>", "web page"
    yield "big.png", header(30000, 30000) + rest, "megapixels"
    yield "huge.png", header(10**9, 10**9) + rest, "megapixels"
    yield "claims.png", header(9000, 9000) + rest, "claims"
    yield "zero.png", header(0, 5) + rest, "PNG"
    yield "noise.png", bytes(values(500, np.uint8)), "convert it"
    yield "nan.tiff", tiff.getvalue(), "NaN"
    yield "complex.tiff", complex_tiff.getvalue(), "cannot be read as TIFF"
    yield "text.txt", b"hello", "convert it"
    yield "gz.nii.gz", b"\x1f\x8b\x08\0rubbish", "gzip"
    yield "naïve ☂ name.png", b"x", "convert it"


def test_bad_files_say_what_and_where(tmp_path):
    for name, data, words in broken_files(tmp_path):
        path = tmp_path / name
        path.write_bytes(data)
        for read in (read_picture, read_mask):
            with pytest.raises(InputError) as caught:
                read(path)
            text = str(caught.value)
            assert str(path) in text and words in text and "\n" not in text, text


def test_bad_paths_and_flags(tmp_path):
    good = save(tmp_path / "g.png", values((12, 9), np.uint8))
    os.mkfifo(tmp_path / "pipe")
    for path, words in [
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "not a regular file"),
        ("a\0b", "cannot be read"),
    ]:
        with pytest.raises(InputError, match=words):
            read_picture(path)
    with pytest.raises(InputError, match=r"^image \./none\.png:"):  # as typed, not as pathlib tidies it
        read_picture("./none.png")
    with pytest.raises(InputError, match=r"reference .*--window"):
        read_picture(good, window=(40, 400), role="reference")
    for window in [(40, 0), (40, -1), (np.nan, 3), (0, np.inf)]:
        with pytest.raises(InputError, match="--window"):
            read_picture(good, window=window)
    with pytest.raises(InputError, match="--slice 3"):
        read_picture(good, slice_index=3)
    if os.geteuid():
        good.chmod(0)
        with pytest.raises(InputError, match="permission"):
            read_picture(good)


def test_permission_is_an_input_error(monkeypatch, tmp_path):
    good = save(tmp_path / "g.png", values((12, 9), np.uint8))

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(InputError, match="permission"):
        read_bytes(good)


def test_masks(tmp_path):
    level = np.where(MASK, 128, 127).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", level)), MASK)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "w.png", level * np.uint16(257))), MASK)
    rgba = np.zeros((12, 9, 4), np.uint8)
    rgba[MASK] = 255
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", rgba)), MASK)
    Image.fromarray(MASK).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png"), MASK)
    for fill, word in [(0, "empty"), (255, "full"), (100, "empty.*levels are 100 to 100")]:
        save(tmp_path / "f.png", np.full((12, 9), fill, np.uint8))
        with pytest.raises(InputError, match=word):
            read_mask(tmp_path / "f.png")
    picture = picture_from_array(values((12, 10), np.uint8))
    with pytest.raises(InputError, match="9x12 but the image is 10x12"):
        read_mask(tmp_path / "m.png", like=picture)
    fitting = picture_from_array(values((12, 9, 3), np.uint16))
    for suffix in (".png",):
        out = write_mask_like(fitting, MASK, tmp_path / f"mo{suffix}", {"method": "t"})
        np.testing.assert_array_equal(read_mask(out, like=fitting), MASK)
        assert read_provenance(out) == {"method": "t", "synthetic": True}


def test_picture_from_array_refuses_other_types():
    for array in (np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8)):
        with pytest.raises(InputError, match="give uint8 or uint16"):
            picture_from_array(array)


def test_write_refuses_wrong_shapes_and_nan(tmp_path):
    picture = picture_from_array(values((12, 9), np.uint8))
    new = picture.pixels.copy()
    new[0, 4, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        write_like(picture, new, MASK, tmp_path / "o.png", {})
    with pytest.raises((ValueError, TypeError), match=r"fit|mask"):  # TypeError: the tests' own shape checker
        write_like(picture, picture.pixels, MASK[:5], tmp_path / "o.png", {})
    assert not list(tmp_path.iterdir())


def test_resize_against_pillow_and_without_aliasing():
    array = RNG.uniform(-1, 1, (3, 40, 30)).astype(np.float32)
    got = resize(array, (20, 15))
    for plane, out in zip(array, got, strict=True):
        ref = np.asarray(Image.fromarray(plane).resize((15, 20), Image.Resampling.LANCZOS))
        np.testing.assert_allclose(out, np.clip(ref, array.min(), array.max()), atol=1e-6)
    stripes = np.tile(np.array([-1.0, 1.0], np.float32), (40, 20))  # beyond the new Nyquist limit: must vanish
    assert np.abs(resize(stripes, (20, 10))[:, 2:-2]).max() < 0.05
    np.testing.assert_array_equal(resize(array, (40, 30)), array)
    assert resize(array, (80, 60)).max() <= array.max()
    np.testing.assert_array_equal(resize_mask(np.kron(MASK, np.ones((3, 3))) > 0, (12, 9)), MASK)
    with pytest.raises(ValueError, match="size"):
        resize(array, (0, 4))


def test_feather_and_paste_closed_form():
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) < 15
    alpha = feather(disc, 4)
    t = np.clip(distance_transform_edt(disc) / 5, 0, 1)
    np.testing.assert_allclose(alpha, 3 * t**2 - 2 * t**3, atol=1e-6)
    assert (alpha[~disc] == 0).all() and (alpha[disc] > 0).all() and alpha[20, 20] == 1
    np.testing.assert_array_equal(feather(disc, 0), disc)
    assert (feather(np.ones((5, 5), bool), 3) == 1).all()
    with pytest.raises(ValueError, match="radius"):
        feather(disc, -1)
    base, new = RNG.uniform(-1, 1, (2, 3, 41, 41)).astype(np.float32)
    out = paste(base, new, alpha)
    np.testing.assert_array_equal(out[:, ~disc], base[:, ~disc])
    np.testing.assert_array_equal(out[:, alpha == 1], new[:, alpha == 1])
    np.testing.assert_allclose(out, base + alpha * (new.astype(np.float64) - base), atol=1e-6)
    assert out.dtype == np.float32


def test_with_channels():
    grey, colour = RNG.uniform(-1, 1, (1, 4, 5)), RNG.uniform(-1, 1, (3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(with_channels(grey, 3), np.concatenate([grey] * 3).astype(np.float32))
    np.testing.assert_allclose(with_channels(colour, 1)[0], colour.mean(0), atol=1e-6)
    with pytest.raises(ValueError, match="channels"):
        with_channels(np.zeros((2, 4, 4)), 3)


def test_atomic_path_leaves_old_or_new_never_half(tmp_path):
    path = tmp_path / "deep" / "a.bin"
    with atomic_path(path) as beside:
        beside.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_path(path) as beside:
        beside.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["a.bin"]
    assert sha256(path) == "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"
    blocked = tmp_path / "file"
    blocked.write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be written"), atomic_path(blocked / "b.png"):
        pass
    with (
        pytest.raises(FileNotFoundError),
        atomic_path(tmp_path / "c") as beside,
    ):  # another file's trouble stays its own
        open(tmp_path / "not-there")  # noqa: SIM115
