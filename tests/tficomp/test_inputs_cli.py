"""The input table of the product: what must be refused is, with exit 2 and one line that holds what was typed."""

import json
import os
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from graft_common import phantoms
from tficomp import inputs, weights

Command = Callable[..., int]
ROLES = ("background", "object", "object_mask", "user_mask")


@pytest.fixture
def files(tmp_path: Path, sample_files: Callable) -> dict[str, Path]:
    return sample_files(tmp_path / "in")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that has to come before an hour of loading: loading weights fails the test."""

    def load(config: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(weights, "load_bundle", load)


def flags(files: dict[str, Path], out: Path, **more: Any) -> list[Any]:
    """Words of `compose`; a role in `more` replaces a file, None leaves the flag out."""
    given = {**files, "out": out, "prompt": "a tumor", **more}
    words: list[Any] = ["compose"]
    for name, value in given.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else (value,))]
    return words


def refused(capsys: pytest.CaptureFixture[str], code: int, *needles: Any) -> str:
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert code == 2 and len(lines) == 1 and said.out == "", (code, said)
    for needle in needles:
        assert str(needle) in lines[0], (needle, lines[0])
    return lines[0]


def nothing_in(out: Path) -> bool:
    return not out.exists() or not any(out.iterdir())


# What is wrong with a file, how to make one, and what the message has to say beside its path.


def png_header(path: Path, side: int) -> None:
    """A PNG that claims side x side pixels and holds none."""

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def truncated(path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (40, 48), np.uint8)
    Image.fromarray(grey).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:600])


def dicom_without_pixels(path: Path) -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName = "Doe^Jane"
    data.save_as(path, enforce_file_format=True)


def nan_tiff(path: Path) -> None:
    grey = np.zeros((40, 48), np.float32)
    grey[3, 4] = np.nan
    tifffile.imwrite(path, grey)


def nan_nifti(path: Path) -> None:
    volume = np.zeros((48, 40, 1), np.float32)
    volume[3, 4] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)


FAULTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing": ("gone.png", lambda p: None, "no such file"),
    "empty": ("empty.png", lambda p: p.write_bytes(b""), "is empty"),
    "truncated": ("cut.png", truncated, "complete"),
    "folder": ("folder.png", lambda p: p.mkdir(), "is a folder"),
    "web page": ("page.png", lambda p: p.write_text("<!DOCTYPE html><html>404</html>"), "web page"),
    "text": ("notes.png", lambda p: p.write_text("not a picture"), "is no PNG, JPEG, TIFF, DICOM or single-file NIfTI"),
    "huge": ("huge.png", lambda p: png_header(p, 30000), "100 megapixels"),
    "no size": ("flat.png", lambda p: png_header(p, 0), ""),
    "NaN in a TIFF": ("nan.tif", nan_tiff, "NaN"),
    "NaN in a NIfTI": ("nan.nii", nan_nifti, "NaN"),
    "DICOM without pixels": ("empty.dcm", dicom_without_pixels, "pixel"),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("unloaded")
def test_bad_files(
    fault: str, role: str, files: dict[str, Path], out: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, said = FAULTS[fault]
    path = files["object"].with_name(name)
    make(path)
    line = refused(capsys, command(*flags(files, out, **{role: path})), path)
    assert said.lower() in line.lower(), line
    assert "Doe" not in line and nothing_in(out)


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("role", ["object_mask", "user_mask"])
@pytest.mark.usefixtures("unloaded")
def test_bad_masks(
    role: str, files: dict[str, Path], out: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files["object"].parent
    for name, level, said in (("none.png", 0, "is empty"), ("all.png", 255, "is full"), ("dim.png", 127, "is empty")):
        path = save(folder / name, np.full((40, 48), level, np.uint8))
        refused(capsys, command(*flags(files, out, **{role: path})), path, said)
    for shape in ((41, 48), (48, 40), (80, 96)):
        path = save(
            folder / "other.png", np.pad(np.full((20, 20), 255, np.uint8), ((2, shape[0] - 22), (2, shape[1] - 22)))
        )
        refused(
            capsys, command(*flags(files, out, **{role: path})), path, f"{shape[1]}x{shape[0]}", "48x40", "--fit-mask"
        )
    for shape in ((40, 52), (80, 90), (40, 40)):  # 8, 6 and 17 % off
        path = save(
            folder / "other.png", np.pad(np.full((20, 20), 255, np.uint8), ((2, shape[0] - 22), (2, shape[1] - 22)))
        )
        refused(
            capsys, command(*flags(files, out, **{role: path}), "--fit-mask"), path, f"{shape[1]}x{shape[0]}", "5 %"
        )
    assert nothing_in(out)


@pytest.fixture
def drawn(files: dict[str, Path]) -> Callable[..., Path]:
    """Write a picture or a mask beside the others; `draw(name, array, **options)`."""

    def draw(name: str, array: np.ndarray, **options: Any) -> Path:
        Image.fromarray(array).save(files["object"].with_name(name), **options)
        return files["object"].with_name(name)

    return draw


@pytest.mark.usefixtures("unloaded")
def test_a_scan_given_as_the_mask_is_refused(
    files: dict[str, Path], out: Path, drawn: Callable, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = {"object": files["object_mask"], "object_mask": files["object"]}
    refused(capsys, command(*flags(files, out, **swapped)), f"--object-mask {files['object']}", "swap the two")
    swapped = {"background": files["user_mask"], "user_mask": files["background"]}
    refused(capsys, command(*flags(files, out, **swapped)), f"--user-mask {files['background']}", "swap the two")
    scan = phantoms.draw("brain", 64, 3, tumor="left")
    label = scan.masks["tumor"].astype(np.uint8) * 255
    image = drawn("scan.png", scan.image)
    for name, options in (("label.png", {}), ("label.jpg", {"quality": 75})):  # a JPEG mask has more than two levels
        given = {"object": drawn(name, label, **options), "object_mask": image}
        refused(capsys, command(*flags(files, out, **given)), f"--object-mask {image}", "swap the two")
    twice = {"object": image, "object_mask": image}
    refused(capsys, command(*flags(files, out, **twice)), f"--object-mask {image}", "same picture as --object")
    noise = drawn("noise.png", np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8))
    refused(capsys, command(*flags(files, out, object_mask=noise)), f"--object-mask {noise}", "neither black nor white")
    refused(capsys, command(*flags(files, out, user_mask=noise)), f"--user-mask {noise}", "neither black nor white")
    assert nothing_in(out)


def test_soft_masks_are_no_scans(files: dict[str, Path], drawn: Callable) -> None:
    """Anti-aliased, JPEG and feathered masks pass, also beside a two-level object; so does a silhouette as its own mask."""
    from scipy import ndimage

    with Image.open(files["object_mask"]) as image:
        mask = np.asarray(image)
    masks = {
        "aliased": drawn("aliased.png", ndimage.gaussian_filter(mask, 0.7)),
        "small": drawn("small.png", ndimage.gaussian_filter(np.pad(mask[18:23, 20:26], ((18, 17), (20, 22))), 1.0)),
        "jpeg": drawn("mask.jpg", mask, quality=30),
        "feathered": drawn("feathered.png", ndimage.gaussian_filter(mask, 2.5)),
    }
    assert min(np.unique(np.asarray(Image.open(path))).size for path in masks.values()) > 10
    shape = drawn("shape.png", (mask > 0).astype(np.uint8) * np.uint8(255))
    for thing in (files["object"], shape):
        for path in (*masks.values(), shape):
            inputs.read_inputs(inputs.Sources(files["background"], (thing,), (path,), (files["user_mask"],), "a tumor"))


BAD_VALUES: dict[str, tuple[tuple[str, ...], str]] = {
    "t-start above T": (("--steps", "10", "--t-start", "11"), "--t-start 11"),
    "t-start below 0": (("--t-start", "-1"), "--t-start -1"),
    "tau above T'": (("--t-start", "3", "--tau", "4"), "--tau 4"),
    "tau below 0": (("--tau", "-1"), "--tau -1"),
    "no steps": (("--steps", "0"), "--steps 0"),
    "guidance nan": (("--guidance", "nan"), "--guidance nan"),
    "guidance below 0": (("--guidance", "-2"), "--guidance -2"),
    "margin": (("--margin", "1.5"), "--margin 1.5"),
    "context": (("--context", "-3"), "--context -3"),
    "variants": (("--variants", "-1"), "--variants -1"),
    "empty prompt": (("--prompt", " "), "--prompt"),
    "no number": (("--steps", "many"), "many"),
    "bad choice": (("--fit", "stretch"), "stretch"),
    "unknown flag": (("--guidence", "5"), "--guidence"),
    "window": (("--window", "40", "-1"), "--window 40 -1"),
    "slice": (("--slice", "7"), "--slice 7"),
    "seed below 0": (("--seed", "-1"), "--seed -1"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
@pytest.mark.usefixtures("unloaded")
def test_bad_values(
    case: str, files: dict[str, Path], out: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = BAD_VALUES[case]
    refused(capsys, command(*flags(files, out), *words), said)
    assert nothing_in(out)


@pytest.mark.usefixtures("unloaded")
def test_counts_must_match(
    files: dict[str, Path], out: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, command(*flags(files, out), "--object", files["object"]), "--object-mask", "1 given for 2 --object")
    more = ("--object", files["object"], "--object-mask", files["object_mask"])
    refused(capsys, command(*flags(files, out), *more), "--user-mask", "1 given for 2 --object")
    refused(capsys, command(*flags(files, out, background=None)), "--background")
    refused(capsys, command(*flags(files, out, object=None, object_mask=None)), "--object")
    refused(capsys, command(*flags(files, out, prompt=None)), "--prompt")  # no default could be true of every scan
    assert nothing_in(out)


@pytest.mark.usefixtures("unloaded")
def test_out_must_be_a_folder(
    files: dict[str, Path], tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_bytes(b"kept")
    for out in (taken, taken / "under" / "it"):
        refused(capsys, command(*flags(files, out)), f"--out {out}", f"{taken} is a file")
    assert taken.read_bytes() == b"kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
@pytest.mark.usefixtures("unloaded")
def test_out_must_be_writable(
    files: dict[str, Path], tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(capsys, command(*flags(files, locked / "out")), f"--out {locked / 'out'}", "may not be written")


def test_unknown_weights(
    files: dict[str, Path], out: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, command(*flags(files, out, weights="tiny-sdd")), "--weights tiny-sdd", "shipped")
    refused(capsys, command(*flags(files, out, weights=tmp_path)), f"--weights {tmp_path}", "model_index.json")
    (tmp_path / "model_index.json").write_text("{}")
    refused(capsys, command(*flags(files, out, weights=tmp_path)), f"--weights {tmp_path}", "cannot be loaded")
    gone = tmp_path / "gone" / "weights"
    refused(capsys, command(*flags(files, out, weights=gone)), f"--weights {gone}")
    assert nothing_in(out)


def test_refusals_that_need_the_bundle(
    files: dict[str, Path],
    out: Path,
    random_bundle: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    long = "tumor " * 76
    here = {"weights": random_bundle, "device": "cpu", "steps": 2}
    refused(capsys, command(*flags(files, out, **here, prompt=long)), "--prompt", "tumor tumor", "78 tokens", "77 fit")
    assert not caplog.records  # the tokenizer's own warning would be a second line
    for size in (33, 8, 0):
        refused(capsys, command(*flags(files, out, **here, size=size)), f"--size {size}", "must be a multiple of")
    assert nothing_in(out)


@pytest.fixture(scope="module")
def done(
    random_bundle: Path, sample_files: Callable, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict, Path, dict]:
    """Files with spaces and letters of many scripts in their names, and a run on them."""
    from tficomp.cli import main

    folder = tmp_path_factory.mktemp("runs")
    files = sample_files(folder / "Ärzte 医者" / "a b")
    fixed = {"weights": random_bundle, "device": "cpu", "steps": 2, "guidance": 2.5, "prompt": "a tumor"}
    assert main([str(word) for word in flags(files, folder / "first run é", **fixed)]) == 0
    return files, folder / "first run é", fixed


def test_any_path_works_and_stays_out_of_the_record(done: tuple[dict, Path, dict]) -> None:
    files, out, _ = done
    assert {p.name for p in out.iterdir()} == {
        "result.png", "copy_paste.png", "lesion_mask.png", "panel.png", "run.json"
    }  # fmt: skip
    record = json.loads((out / "run.json").read_text())
    assert "Ärzte" not in json.dumps(record, ensure_ascii=False)
    assert record["input_names"]["background"] == files["background"].name
    with Image.open(out / "result.png") as image:
        assert image.size == (48, 40)


def test_a_run_is_repeated_from_its_record(
    done: tuple[dict, Path, dict], tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    files, first, fixed = done
    again = tmp_path / "again"
    weights = {"weights": fixed["weights"]}
    assert command(*flags(files, again, **weights), "--config", first / "run.json") == 0
    for name in ("result.png", "copy_paste.png", "lesion_mask.png"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    record = json.loads((first / "run.json").read_text())
    record["config"]["guidence"] = 3
    (tmp_path / "bad.json").write_text(json.dumps(record))
    capsys.readouterr()
    code = command(*flags(files, tmp_path / "no", **weights), "--config", tmp_path / "bad.json")
    refused(capsys, code, tmp_path / "bad.json", "'guidence'")
    for name, content in (("gone.json", None), ("list.json", "[]"), ("text.json", "{")):
        if content is not None:
            (tmp_path / name).write_text(content)
        refused(capsys, command(*flags(files, tmp_path / "no"), f"--config={tmp_path / name}"), tmp_path / name)
    assert nothing_in(tmp_path / "no")


def test_masks_are_fitted_within_five_percent(done: tuple[dict, Path, dict], tmp_path: Path, command: Command) -> None:
    files, first, fixed = done
    with Image.open(files["object_mask"]) as mask:
        double = save(tmp_path / "double.png", np.asarray(mask.resize((98, 80), Image.Resampling.NEAREST)))
    assert command(*flags({**files, "object_mask": double}, tmp_path / "out", **fixed), "--fit-mask") == 0
    notes = json.loads((tmp_path / "out" / "run.json").read_text())["measures"]["notes"]
    assert notes == ["object mask resized from 98x80 to 48x40"]
    labels = []
    for folder in (first, tmp_path / "out"):
        with Image.open(folder / "lesion_mask.png") as image:
            labels.append(np.asarray(image) > 127)
    assert (labels[0] & labels[1]).sum() / (labels[0] | labels[1]).sum() > 0.9


def test_pictures_of_every_kind(done: tuple[dict, Path, dict], tmp_path: Path, command: Command) -> None:
    """Palette and 16-bit backgrounds, alpha and colour objects: all compose; a 16-bit background stays one."""
    files, _, fixed = done
    rng = np.random.default_rng(3)
    with Image.open(files["object"]) as image:
        image.convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(rng.integers(0, 255, (40, 48), np.uint8)).convert("P").save(tmp_path / "palette.png")
    wide = rng.integers(0, 60000, (40, 48), np.uint16)
    tifffile.imwrite(tmp_path / "wide.tif", wide)
    with Image.open(files["user_mask"]) as image:
        user = np.asarray(image) > 127
    for background in ("palette.png", "wide.tif"):
        out = tmp_path / f"out_{background[:4]}"
        given = {**files, "background": tmp_path / background, "object": tmp_path / "alpha.png"}
        assert command(*flags(given, out, **fixed)) == 0
    stored = tifffile.imread(tmp_path / "out_wide" / "result.tif")
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored[~user], wide[~user])
    assert (stored[user] != wide[user]).any()


def test_variants_are_drawn_from_their_seeds(done: tuple[dict, Path, dict], tmp_path: Path, command: Command) -> None:
    """One seed each from --seed upward, told in each file and in the one record; the same again gives the same bytes."""
    files, plain, fixed = done
    for name in ("a", "b"):
        assert command(*flags(files, tmp_path / name, **fixed, variants=2, seed=5)) == 0
    folders = ("", "variant_02")
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    drawn = record["measures"]["variants"]
    assert [one["seed"] for one in drawn] == [5, 6] and drawn[0]["boxes"] == record["measures"]["boxes"]
    pictures = [plain / "result.png"]
    for folder, seed in zip(folders, (5, 6), strict=True):
        one = tmp_path / "a" / folder / "result.png"
        with Image.open(one) as image:
            assert json.loads(image.info["graft"])["seed"] == seed
        assert one.read_bytes() == (tmp_path / "b" / folder / "result.png").read_bytes()
        assert f"{folder}/result.png".lstrip("/") in record["outputs"]
        pictures.append(one)
    arrays = [np.asarray(Image.open(p)).tobytes() for p in pictures]
    assert len(set(arrays)) == 3


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk(
    done: tuple[dict, Path, dict], tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit holds for this process too; a subprocess would spend most of the test importing torch again."""
    files, first, fixed = done
    sizes = {p.name: p.stat().st_size for p in first.iterdir()}
    with full_disk(sizes["result.png"] - 1):
        code = command(*flags(files, tmp_path / "out", **fixed))
    refused(capsys, code, tmp_path / "out" / "result.png", "cannot be written")
    assert nothing_in(tmp_path / "out")
    # Room for all but the largest: what is there is whole, and nothing half-written has a name.
    with full_disk(sizes["panel.png"] - 1):
        code = command(*flags(files, tmp_path / "out", **fixed))
    refused(capsys, code, tmp_path / "out" / "panel.png", "cannot be written")
    left = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert "run.json" not in left and not any(name.startswith(".") for name in left)
    assert all(data == (first / name).read_bytes() for name, data in left.items())
