"""The command as a new user meets it: demo on the shipped weights, and pairs made of real images that the dependencies install."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import skimage.data
from PIL import Image
from pydicom.data import get_testdata_file

from graft_common import phantoms
from graft_common.files import sha256
from graft_common.pixels import read_provenance
from tficomp import demo
from tficomp.cli import main

RAW = ("result.png", "copy_paste.png", "lesion_mask.png")


def test_demo_writes_what_the_gallery_shows(tmp_path, capsys):
    out = tmp_path / "a folder" / "demo"
    assert main(["demo", "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "run.json").read_text())
    assert {"schema", "command", "config", "seed", "versions", "weights", "inputs", "stages", "peak_memory_bytes"} <= set(record)
    assert record["measures"]["network_calls"] == 43
    sums = {f"background_{key}" for key in ("brain_1", "brain_2", "breast", "real_mr")}
    assert record["inputs"].keys() == sums  # also of what was drawn in memory
    assert record["inputs"]["background_real_mr"] == sha256(get_testdata_file("MR_small.dcm"))
    for name in record["outputs"]:
        assert (out / name).is_file(), name
        if name.endswith(".png"):
            assert read_provenance(out / name)["synthetic"] is True, name
    text = (out / "run.json").read_text()
    assert "MR_small" not in text and str(tmp_path) not in text  # names of DICOM files and folders stay out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["schema"] == 1 and metrics["n"] == 4
    for value in metrics["metrics"].values():
        assert value["ci95"][0] <= value["mean"] <= value["ci95"][1]
    # The lesion must come nearer to the object than the untouched background is.
    mean = {name: value["mean"] for name, value in metrics["metrics"].items()}
    assert mean["lpips_fg_tiny"] < 0.9 * mean["lpips_fg_tiny_of_doing_nothing"]


def test_demo_heeds_its_seed(tmp_path, monkeypatch, capsys):
    plain, other = demo.demo_samples(), demo.demo_samples(3)
    for a, b in zip(plain, other, strict=True):
        assert not np.array_equal(a.lesions[0].pixels, b.lesions[0].pixels), a.key
        assert not np.array_equal(a.lesions[0].user_mask, b.lesions[0].user_mask), a.key
    asked = []
    monkeypatch.setattr(demo, "demo_samples", lambda seed: asked.append(seed) or exit(3))
    assert main(["demo", "--out", str(tmp_path), "--seed", "3"]) == 3 and asked == [3]
    assert main(["demo", "--out", str(tmp_path), "--seed", "-1"]) == 2 and "--seed -1" in capsys.readouterr().err


def lesion_files(folder: Path) -> tuple[str, str]:
    lesion = phantoms.draw("brain", 96, 10_000_301, tumor="left")
    Image.fromarray(lesion.image).save(folder / "object.png")
    Image.fromarray(lesion.masks["tumor"].astype(np.uint8) * 255).save(folder / "object_mask.png")
    return str(folder / "object.png"), str(folder / "object_mask.png")


def user_file(folder: Path, shape: tuple[int, int]) -> tuple[str, np.ndarray]:
    mask = np.zeros(shape, np.uint8)
    h, w = shape
    mask[h // 3 : h // 3 + h // 4, w // 2 : w // 2 + w // 4] = 255
    Image.fromarray(mask).save(folder / "user.png")
    return str(folder / "user.png"), mask > 0


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def compose(folder: Path, background: Path, shape: tuple[int, int], *more: str) -> tuple[Path, np.ndarray]:
    image, mask = lesion_files(folder)
    user, where = user_file(folder, shape)
    out = folder / "out"
    args = ["--background", str(background), "--object", image, "--object-mask", mask, "--user-mask", user]
    args += ["--prompt", "An MRI scan of a cancerous brain"]
    assert main(["compose", *args, "--out", str(out), "--steps", "6", *more]) == 0
    assert all((out / name).is_file() for name in RAW)
    assert pixels(out / "result.png").shape[:2] == shape
    label = pixels(out / "lesion_mask.png") > 0
    assert label.any() and not (label & ~where).any()
    return out, where


def test_real_ct_slice(tmp_path):
    path = Path(str(get_testdata_file("CT_small.dcm")))
    out, where = compose(tmp_path, path, (128, 128))
    before, after = pydicom.dcmread(path), pydicom.dcmread(out / "result.dcm")
    old, new = before.pixel_array, after.pixel_array
    assert (old[~where] == new[~where]).all() and (old[where] != new[where]).mean() > 0.5
    assert after[0x0008, 0x001C].value == "YES" and after.SOPInstanceUID != before.SOPInstanceUID
    assert "PatientName" not in after


def test_real_nifti_slice(tmp_path):
    path = Path(nib.__file__).parent / "tests" / "data" / "anatomical.nii"
    volume = nib.load(path)
    index = volume.shape[2] // 2
    shown_shape = (volume.shape[1], volume.shape[0])
    out, _ = compose(tmp_path, path, shown_shape, "--slice", str(index))
    after = nib.load(out / "result.nii.gz")
    assert np.array_equal(after.affine, volume.affine) and after.shape == volume.shape
    old, new = np.asarray(volume.dataobj), np.asarray(after.dataobj)
    others = [k for k in range(volume.shape[2]) if k != index]
    assert np.array_equal(old[..., others], new[..., others]) and (old[..., index] != new[..., index]).any()


def test_real_photograph_with_paste_back(tmp_path):
    photo = skimage.data.camera()[:300, :420]  # neither square nor a multiple of anything
    path = tmp_path / "caméra 1.png"
    Image.fromarray(photo).save(path)
    out, where = compose(tmp_path, path, photo.shape, "--paste-back")
    result = pixels(out / "result.png")
    assert (result[~where] == photo[~where]).all() and (result[where] != photo[where]).any()
