"""A slice of a NIfTI: shown by the affine, written back into its volume. Judge: nibabel."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from graft_common.errors import InputError
from graft_common.pixels import read_mask, read_picture, read_provenance, write_like, write_mask_like

RNG = np.random.default_rng(3)
AFFINE = np.array([[-0.8, 0.05, 0, 90], [0.05, 0.9, 0.1, -110], [0, -0.1, 1.5, -70], [0, 0, 0, 1.0]])
ANATOMICAL = Path(nib.__file__).parent / "tests/data/anatomical.nii"


def save(path, array, affine=AFFINE, kind=nib.Nifti1Image, **fields):
    endian = ">" if array.dtype.byteorder == ">" else "<"
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(array.dtype)
    image = kind(array, affine, header)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def on_screen(volume, affine, k):
    """Judge: reorient the whole volume to LPS with nibabel, then rows are y and columns are x (axial stacks)."""
    codes = nib.orientations.axcodes2ornt(("L", "P", "S"))
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), codes)
    return nib.apply_orientation(volume[:, :, k : k + 1], turn)[:, :, 0].T


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16, np.int32, np.float32, ">i2"])
def test_one_slice_is_replaced_and_the_rest_is_bit_equal(tmp_path, suffix, dtype):
    array = (RNG.normal(size=(10, 12, 5)) * 50 + 100).clip(0, 255).astype(dtype)
    path = save(tmp_path / f"a{suffix}", array)
    picture = read_picture(path, slice_index=3)
    plane = on_screen(array, AFFINE, 3)
    np.testing.assert_array_equal(picture.stored, plane)
    low, high = np.percentile(plane, [0.5, 99.5])
    np.testing.assert_allclose(picture.pixels[0], np.clip((plane - low) / (high - low), 0, 1) * 2 - 1, atol=1e-5)
    mask = np.zeros(plane.shape, bool)
    mask[4:7, 2:5] = True
    same = nib.load(write_like(picture, picture.pixels.copy(), mask, tmp_path / f"same{suffix}", {}))
    np.testing.assert_array_equal(same.dataobj.get_unscaled(), array)
    new = picture.pixels.copy()
    new[0, mask] = RNG.uniform(-1, 1, mask.sum())
    new[0, ~mask] = 0.3
    out = nib.load(write_like(picture, new, mask, tmp_path / f"o{suffix}", {"seed": 1}))
    got = np.asarray(out.dataobj.get_unscaled())
    assert out.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.delete(got, 3, 2), np.delete(array, 3, 2))
    shown = on_screen(got, AFFINE, 3)
    np.testing.assert_array_equal(shown[~mask], plane[~mask])
    expected = (new[0, mask].astype(np.float64) + 1) / 2 * (high - low) + low
    np.testing.assert_allclose(shown[mask], expected if plane.dtype.kind == "f" else np.rint(expected), rtol=1e-6)
    np.testing.assert_array_equal(out.affine, nib.load(path).affine)
    note = json.loads(out.header.extensions[0].text)
    assert note == {"seed": 1, "synthetic": True} == read_provenance(tmp_path / f"o{suffix}")
    if suffix == ".nii.gz":
        gzip.decompress((tmp_path / "o.nii.gz").read_bytes())  # the checksum holds


def test_scaling_text_and_codes(tmp_path):
    array = RNG.integers(0, 1000, (6, 7, 4)).astype(np.int16)
    path = save(
        tmp_path / "a.nii", array, scl_slope=2, scl_inter=-1024, descrip=b"DOE JANE", aux_file=b"doe", db_name=b"x"
    )
    image = nib.load(path)
    image.header.set_slope_inter(2.0, -1024.0)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([2, -1024], "<f4").tobytes()
    path.write_bytes(raw)
    stored = np.asarray(nib.load(path).dataobj.get_unscaled())
    scaled = nib.load(path).get_fdata()
    picture = read_picture(path, slice_index=1, window=(0, 800))
    plane = on_screen(scaled, AFFINE, 1)
    np.testing.assert_allclose(picture.pixels[0], np.clip((plane + 400) / 800, 0, 1) * 2 - 1, atol=1e-6)
    mask = np.zeros(plane.shape, bool)
    mask[2:4, 1:4] = True
    new = np.where(mask, np.float32(0.25), picture.pixels)
    out = nib.load(write_like(picture, new, mask, tmp_path / "o.nii", {}))
    np.testing.assert_allclose(on_screen(out.get_fdata(), AFFINE, 1)[mask], 100)  # HU, on the file's grid of 2
    assert (out.dataobj.slope, out.dataobj.inter) == (2, -1024)
    np.testing.assert_array_equal(np.delete(out.dataobj.get_unscaled(), 1, 2), np.delete(stored, 1, 2))
    before = nib.load(path).header
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(out.header[field], before[field])
    assert b"DOE" in path.read_bytes() and b"DOE" not in (tmp_path / "o.nii").read_bytes()
    assert b"SYNTHETIC" in out.header["descrip"].item()
    out = nib.load(write_mask_like(picture, mask, tmp_path / "m.nii.gz", {}))
    assert out.get_data_dtype() == np.uint8 and out.shape == array.shape
    np.testing.assert_array_equal(out.affine, nib.load(path).affine)
    np.testing.assert_array_equal(on_screen(out.get_fdata(), AFFINE, 1), mask)
    assert out.get_fdata().sum() == mask.sum()
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nii.gz", like=picture), mask)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PRS", "ARI", "SPL", "RSA", "IAR", "LSP"])
def test_every_orientation_shows_the_same_patient(tmp_path, codes):
    """A landmark's world position, read from the affine, must lie where the rule puts it on the screen."""
    affine = np.eye(4)
    world = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    for axis, letter in enumerate(codes):
        affine[:3, axis] = 0
        affine[world[letter][0], axis] = world[letter][1]
    volume = RNG.integers(1, 255, (8, 9, 10)).astype(np.int16)
    path = save(tmp_path / "a.nii", volume, affine)
    stored = read_picture(path, slice_index=2).stored
    letters = codes[:2]
    rows = next(c for pair in ("SI", "PA", "LR") for c in letters if c in pair)
    columns = letters.replace(rows, "")
    plane = volume[:, :, 2] if letters[0] == rows else volume[:, :, 2].T
    plane = plane if rows in "IP" else plane[::-1]
    plane = plane if columns in "LP" else plane[:, ::-1]
    np.testing.assert_array_equal(stored, plane)
    # nibabel's own reorientation to LPS agrees, for stacks along the patient
    if set(letters) <= set("LRPA"):
        np.testing.assert_array_equal(stored, on_screen(volume, affine, 2))


def test_window_from_the_file_time_axis_and_nifti2(tmp_path):
    array = RNG.integers(0, 200, (6, 7, 3, 4)).astype(np.uint8)
    path = save(tmp_path / "t.nii.gz", array, cal_min=20, cal_max=120, kind=nib.Nifti2Image)
    with pytest.raises(InputError, match=r"has 12 slices.*--slice 0\.\.11"):
        read_picture(path)
    picture = read_picture(path, slice_index=2 + 3 * 1)
    plane = on_screen(array[..., 1], AFFINE, 2)
    np.testing.assert_array_equal(picture.stored, plane)
    assert (picture.source.window, picture.source.window_from) == ((70, 100), "file")
    np.testing.assert_allclose(picture.pixels[0], np.clip((plane - 20.0) / 100, 0, 1) * 2 - 1, atol=1e-6)
    mask = np.zeros(plane.shape, bool)
    mask[1, 1] = True
    out = nib.load(write_like(picture, picture.pixels, mask, tmp_path / "o.nii.gz", {}))
    assert isinstance(out, nib.Nifti2Image) and out.shape == array.shape
    np.testing.assert_array_equal(out.get_fdata(), array)


def test_nibabels_own_sample(tmp_path):
    image = nib.load(ANATOMICAL)
    picture = read_picture(ANATOMICAL, slice_index=12)
    np.testing.assert_array_equal(picture.stored, on_screen(np.asarray(image.dataobj.get_unscaled()), image.affine, 12))
    np.testing.assert_array_equal(picture.source.affine, image.affine)
    mask = np.zeros(picture.stored.shape, bool)
    mask[9:12, 9:12] = True
    out = nib.load(write_like(picture, picture.pixels, mask, tmp_path / "o.nii", {}))
    np.testing.assert_array_equal(out.get_fdata(), image.get_fdata())
    np.testing.assert_array_equal(out.affine, image.affine)


def test_label_masks(tmp_path):
    labels = np.zeros((6, 7, 3), np.uint8)
    labels[2:4, 3:5, 1] = [[1, 2], [3, 4]]
    path = save(tmp_path / "m.nii", labels)
    mask = read_mask(path, slice_index=1)
    np.testing.assert_array_equal(mask, on_screen(labels, AFFINE, 1) > 0)
    save(tmp_path / "p.nii", labels.astype(np.float32))
    assert read_mask(tmp_path / "p.nii", slice_index=1).sum() == 2  # above half of the maximum: 3 and 4
    with pytest.raises(InputError, match="empty"):
        read_mask(path, slice_index=0)


def test_bad_volumes(tmp_path):
    good = RNG.integers(0, 99, (6, 7, 3)).astype(np.int16)
    raw = save(tmp_path / "g.nii", good).read_bytes()
    packed = save(tmp_path / "g.nii.gz", good).read_bytes()

    def edit(at, value):
        out = bytearray(raw)
        out[at : at + len(value)] = value
        return bytes(out)

    nan = good.astype(np.float32)
    nan[1, 1, 1] = np.inf
    save(tmp_path / "nan.nii", nan)
    save(tmp_path / "c.nii", good.astype(np.complex64))
    rgb = np.zeros((6, 7, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(tmp_path / "rgb.nii", rgb)

    def dims(*n):
        return np.array([len(n), *n], "<i2").tobytes()

    for name, data, words in [
        ("nan.nii", (tmp_path / "nan.nii").read_bytes(), "NaN"),
        ("c.nii", (tmp_path / "c.nii").read_bytes(), "complex64"),
        ("rgb.nii", (tmp_path / "rgb.nii").read_bytes(), "voxels"),
        ("cut.nii", raw[:-20], "holds fewer"),
        # refused before anything is unpacked: 500 bytes of gzip cannot hold 180 MB
        ("lie.nii.gz", gzip.compress(edit(40, dims(30000, 1000, 3))), "holds fewer"),
        ("cut.nii.gz", packed[:-30], "complete file"),
        ("crc.nii.gz", packed[:-8] + b"\0\0\0\0" + packed[-4:], "NIfTI"),
        ("head.nii", raw[:348], "complete file"),
        ("huge.nii", edit(40, dims(32000, 32000, 3)), "limit"),
        ("bomb.nii", edit(40, dims(32000, 32000, 32000, 32000)), "limit"),
        ("zero.nii", edit(40, dims(6, 0, 3)), "NIfTI|shape|voxels"),
        ("affine.nii", edit(280, np.full(12, np.nan, "<f4").tobytes()), "affine|NIfTI"),
        ("flat.nii", edit(280, np.zeros(12, "<f4").tobytes()), "affine"),
        ("offset.nii", edit(108, np.array([1e30], "<f4").tobytes()), "complete file"),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            read_picture(path, slice_index=1)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for index in (3, -1):
        with pytest.raises(InputError, match=rf"--slice {index} is out of range.*0\.\.2"):
            read_picture(tmp_path / "g.nii", slice_index=index)
    with pytest.raises(InputError, match=r"\.nii"):
        picture = read_picture(tmp_path / "g.nii", slice_index=1)
        write_like(picture, picture.pixels, picture.pixels[0] > 0, tmp_path / "o.png", {})
