"""What is written for every kind of background: stored values kept outside the mask, "synthetic" inside, no patient.

Judges: Pillow, pydicom and nibabel read the outputs. The frame is noise; one run goes through the whole command.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.testing import data_path
from PIL import Image, PngImagePlugin
from pydicom.data import get_testdata_file

from graft_common.pixels import read_mask, read_picture, read_provenance
from graft_common.provenance import stamp
from tficomp.composite import composite
from tficomp.config import MethodConfig
from tficomp.place import place
from tficomp.records import Inputs, Lesion
from tficomp.write import write_panel, write_result

RNG = np.random.default_rng(3)
PATIENT = "Jane Q. Doe-Smith"


def png(path, array, **options):
    note = PngImagePlugin.PngInfo()
    note.add_text("Patient", PATIENT)
    Image.fromarray(array).save(path, pnginfo=note, **options)


def grey(path):
    png(path, RNG.integers(0, 256, (60, 80), np.uint8))


def colour(path):
    png(path, RNG.integers(0, 256, (60, 80, 3), np.uint8))


def wide(path):
    png(path, RNG.integers(0, 65536, (60, 80), np.uint16))


def jpeg(path):
    exif = Image.Exif()
    exif[0x013B] = PATIENT  # artist
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), np.uint8)).save(path, quality=60, exif=exif)


def tiff(path):
    Image.fromarray(RNG.integers(0, 256, (60, 80), np.uint8)).save(path, description=PATIENT)


def dicom(name):
    return lambda path: path.write_bytes(Path(get_testdata_file(name)).read_bytes())


def nifti(path):
    path.write_bytes((Path(data_path) / "anatomical.nii").read_bytes())


KINDS = {
    "grey.png": (grey, None), "colour.png": (colour, None), "wide.png": (wide, None), "a.jpg": (jpeg, None),
    "a.tif": (tiff, None), "CT_small.dcm": (dicom("CT_small.dcm"), ".dcm"), "MR_small.dcm": (dicom("MR_small.dcm"), ".dcm"),
    "anatomical.nii": (nifti, ".nii.gz"),
}  # fmt: skip
ALWAYS = {"wide.png", "CT_small.dcm", "MR_small.dcm", "anatomical.nii"}  # pasted back without being asked


def written(tmp_path, name, paste_back):
    """(source path, its picture, user mask, result folder, names)."""
    path = tmp_path / name
    KINDS[name][0](path)
    picture = read_picture(path, slice_index=12 if name.endswith(".nii") else None)
    height, width = picture.pixels.shape[1:]
    user = np.zeros((height, width), bool)
    user[height // 4 : height // 2, width // 3 : 2 * width // 3] = True
    mask = np.zeros((20, 20), bool)
    mask[4:16, 4:16] = True
    one = Inputs(picture, (Lesion(RNG.uniform(-1, 1, (1, 20, 20)).astype(np.float32), mask, user),), "x")
    config = MethodConfig(paste_back=paste_back)
    placed = place(one, config, 32, 4)
    result = composite(RNG.uniform(-1, 1, (3, 32, 32)).astype(np.float32), one, placed, config)
    note = stamp("tficomp", 5, {"name": "toy", "sha256": "00"}, {"background": picture.source.sha256})
    folder = tmp_path / "out"
    names = write_result(result, folder, note)
    write_panel([(one, result)], folder / "panel.png", "x (synthetic)", note)
    return path, picture, user, folder, names


def stored_of(path, name):
    """The stored values of a file, by a library that is not ours."""
    if name.endswith(".dcm"):
        return pydicom.dcmread(path).pixel_array
    if name.endswith((".nii", ".nii.gz")):
        return np.asarray(nibabel.load(path).dataobj.get_unscaled())
    return opened(path)[0]


def opened(path):
    """(array, text chunks) by Pillow."""
    with Image.open(path) as image:
        return np.asarray(image), dict(image.info)


@pytest.mark.parametrize("name", KINDS)
def test_stored_values_outside_the_mask_are_untouched(tmp_path, name):
    path, _, user, folder, names = written(tmp_path, name, paste_back=name not in ALWAYS)
    ending = {"a.tif": ".tif"}.get(name) or KINDS[name][1] or ".png"
    assert f"result{ending}" in names
    before, after = stored_of(path, name), stored_of(folder / f"result{ending}", f"x{ending}")
    assert before.dtype == after.dtype and before.shape == after.shape
    if ending == ".nii.gz":
        picture = read_picture(path, slice_index=12)
        changed = np.argwhere(before != after)
        assert set(changed[:, 2]) == {12} and len(changed) > 0.5 * user.sum()
        again = read_picture(folder / "result.nii.gz", slice_index=12)
        assert np.array_equal(picture.stored[~user], again.stored[~user])
        assert np.array_equal(nibabel.load(path).affine, nibabel.load(folder / "result.nii.gz").affine)
    else:
        assert np.array_equal(before[~user], after[~user])
        assert (before[user] != after[user]).mean() > 0.5


@pytest.mark.parametrize("name", KINDS)
def test_the_promised_files_are_there(tmp_path, name):
    _, picture, user, folder, names = written(tmp_path, name, paste_back=True)
    own = {"a.tif": ".tif"}.get(name) or KINDS[name][1]
    want = {"result.png", "copy_paste.png", "lesion_mask.png"} | (
        {f"result{own}", f"lesion_mask{own}"} if own else set()
    )
    assert set(names) == want and {p.name for p in folder.iterdir()} == want | {"panel.png"}
    height, width = picture.pixels.shape[1:]
    for shown in ("result.png", "copy_paste.png", "lesion_mask.png"):
        assert opened(folder / shown)[0].shape[:2] == (height, width)
    mask = read_mask(folder / "lesion_mask.png")
    assert mask.any() and not (mask & ~user).any()
    if own:
        assert np.array_equal(
            read_mask(folder / f"lesion_mask{own}", slice_index=12 if own == ".nii.gz" else None), mask
        )


@pytest.mark.parametrize("name", KINDS)
def test_every_file_says_synthetic(tmp_path, name):
    *_, folder, _ = written(tmp_path, name, paste_back=True)
    for path in folder.iterdir():
        note = read_provenance(path)
        assert note is not None and note["synthetic"] is True and note["method"] == "tficomp" and note["seed"] == 5, (
            path
        )
        if path.suffix == ".png":
            assert json.loads(opened(path)[1]["graft"])["synthetic"] is True
        if path.suffix == ".dcm":
            ds = pydicom.dcmread(path)
            assert ds.SyntheticData == "YES" and ds.ImageType[0] == "DERIVED"
        if path.name.endswith(".nii.gz"):
            (extension,) = nibabel.load(path).header.extensions
            assert b'"synthetic": true' in extension.get_content() or '"synthetic": true' in str(
                extension.get_content()
            )


def identity(path, name):
    """Strings of a source that must not travel: names, numbers, dates, institutions, UIDs."""
    if not name.endswith(".dcm"):
        return {PATIENT}
    kinds = {"PN", "LO", "UI", "SH", "DA", "TM", "ST", "LT"}
    shown = {"SOPClassUID", "TransferSyntaxUID", "MediaStorageSOPClassUID", "RescaleType", "SpecificCharacterSet"}
    ds = pydicom.dcmread(path)
    found = {str(e.value) for e in ds.iterall() if e.VR in kinds and e.keyword not in shown and e.VM == 1}
    return {text for text in found if len(text) >= 4 and not text.startswith("1.2.840.10008")}


@pytest.mark.parametrize("name", [n for n in KINDS if not n.endswith(".nii")])
def test_no_identity_travels(tmp_path, name):
    path, *_, folder, _ = written(tmp_path, name, paste_back=True)
    secrets = identity(path, name)
    assert secrets
    for out in folder.iterdir():
        data = out.read_bytes()
        assert not [s for s in secrets if s.encode() in data], out


def test_the_command_hides_the_patient_in_the_path(random_bundle, command, tmp_path):
    """A DICOM whose folder and name are the patient's, through the whole command, into every byte that it writes."""
    home = tmp_path / "DOE_JOHN_1955"
    home.mkdir()
    scan = home / "DOE_JOHN_1955.dcm"
    dicom("MR_small.dcm")(scan)
    height, width = read_picture(scan).pixels.shape[1:]
    user, mask = np.zeros((height, width), np.uint8), np.zeros((20, 20), np.uint8)
    user[16:40, 16:40], mask[4:16, 4:16] = 255, 255
    for file, array in (("user", user), ("mask", mask), ("thing", mask // 2 + 40)):
        Image.fromarray(array).save(home / f"{file}.png")
    out = tmp_path / "out"
    words = ["--background", scan, "--object", home / "thing.png", "--object-mask", home / "mask.png", "--user-mask",
             home / "user.png", "--prompt", "a tumor", "--weights", random_bundle, "--steps", "2", "--out", out]  # fmt: skip
    assert command("compose", *words) == 0
    files = {p.name for p in out.iterdir()}
    assert {
        "result.png",
        "result.dcm",
        "copy_paste.png",
        "lesion_mask.png",
        "lesion_mask.dcm",
        "panel.png",
        "run.json",
    } == files
    result, mask_file, source = (pydicom.dcmread(p) for p in (out / "result.dcm", out / "lesion_mask.dcm", scan))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):  # one new study, so that a viewer lays one on the other
        assert result[keyword].value == mask_file[keyword].value != source[keyword].value
    assert result.SeriesInstanceUID != mask_file.SeriesInstanceUID
    assert result.ImagePositionPatient == mask_file.ImagePositionPatient == source.ImagePositionPatient
    secrets = identity(scan, scan.name) | {"DOE_JOHN", str(tmp_path)}
    for path in out.iterdir():
        assert not [s for s in secrets if s.encode() in path.read_bytes()], path
    record = json.loads((out / "run.json").read_text())
    assert record["command"].startswith("graft-tficomp compose --background <dicom> --object thing.png")
    assert set(record["outputs"]) == files - {"run.json"}
