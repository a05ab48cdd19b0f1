"""Records hold no folder and no DICOM's name; digests change with every byte."""

import hashlib
import json
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from graft_common.provenance import (
    folder_digest,
    input_digests,
    is_dicom,
    public_command,
    public_config,
    public_name,
    stamp,
    versions,
)


@pytest.fixture
def scans(tmp_path):
    """A folder with a patient's name and DICOM files, one of them without an ending."""
    folder = tmp_path / "DOE_JOHN"
    folder.mkdir()
    data = Path(get_testdata_file("CT_small.dcm")).read_bytes()
    for name in ("DOE_JOHN.dcm", "IM0001"):
        (folder / name).write_bytes(data)
    (folder / "scan.png").write_bytes(b"\x89PNG")
    return folder


def test_dicom_is_told_by_ending_or_content(scans, tmp_path):
    assert is_dicom(scans / "DOE_JOHN.dcm") and is_dicom(scans / "IM0001")
    assert is_dicom(Path("missing.DCM")) and is_dicom(Path("x.ima"))
    assert not is_dicom(scans / "scan.png") and not is_dicom(tmp_path / "missing.png") and not is_dicom(scans)
    assert public_name(scans / "IM0001") == "<dicom>" and public_name(scans / "scan.png") == "scan.png"


def test_the_command_line_loses_its_folders_and_dicom_names(scans, monkeypatch):
    words = ["graft-tficomp", "compose", "--background", str(scans / "DOE_JOHN.dcm"), f"--object={scans / 'scan.png'}",
             f"--object-mask={scans / 'IM0001'}", "--prompt", "An MRI scan", "--seed", "3", "--guidance=5.0"]  # fmt: skip
    said = public_command(words)
    assert said == (
        'graft-tficomp compose --background <dicom> --object=scan.png --object-mask=<dicom> --prompt "An MRI scan" '
        "--seed 3 --guidance=5.0"
    )
    monkeypatch.chdir(scans)
    assert (
        public_command(["x", "DOE_JOHN.dcm", "--object=IM0001", "../DOE_JOHN/scan.png"])
        == "x <dicom> --object=<dicom> scan.png"
    )


def test_a_dicom_name_is_hidden_also_where_no_file_is(monkeypatch, tmp_path):
    """A bare name that does not exist (any more): its ending is enough."""
    monkeypatch.chdir(tmp_path)
    assert "DOE" not in public_command(["x", "--background", "DOE_JOHN.dcm", "--object=DOE_JANE.DCM"])


def test_a_configuration_becomes_json_without_folders(scans):
    config = {
        "background": scans / "DOE_JOHN.dcm", "object": (scans / "scan.png", scans / "IM0001"), "seed": 3, "window": None,
        "nested": {"out": Path("/data/DOE/out"), 4: [1.5, "text"]},
    }  # fmt: skip
    got = public_config(config)
    assert got == {
        "background": "<dicom>", "object": ["scan.png", "<dicom>"], "seed": 3, "window": None,
        "nested": {"out": "out", "4": [1.5, "text"]},
    }  # fmt: skip
    assert "DOE" not in json.dumps(got)


def test_texts_that_name_a_folder_or_file_are_reduced_and_others_are_not(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"")
    said = {
        "lpips": str(tmp_path / "net.safetensors"), "clip": str(tmp_path), "weights": str(tmp_path), "prompt": "a/b " * 2000,
        "id": "owner/model",
    }  # fmt: skip
    got = public_config(said)
    name = tmp_path.name
    assert got == said | {"lpips": "net.safetensors", "clip": name, "weights": f"<folder>/{name}"}


def test_folder_digest_feels_every_byte_and_name(tmp_path):
    def digest(**files):
        folder = tmp_path / hashlib.sha256(repr(files).encode()).hexdigest()[:12]
        for name, data in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder_digest(folder)

    base = {"model_index.json": b"{}", "unet__a.safetensors": b"\0\1\2", "MODEL_CARD.md": b"read me"}
    want = digest(**base)
    assert digest(**base | {"MODEL_CARD.md": b"changed"}) == want  # words about weights are no weights
    others = [
        digest(**base | {"unet__a.safetensors": b"\0\1\3"}), digest(**base | {"unet__b.json": b""}),
        digest(**{"model_index.json": b"{}", "unet__b.safetensors": b"\0\1\2"}), digest(**base | {"model_index.json": b"{ }"}),
    ]  # fmt: skip
    assert len({want, *others}) == 5
    by_hand = hashlib.sha256()
    for name, data in (("model_index.json", b"{}"), ("unet/a.safetensors", b"\0\1\2")):
        by_hand.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    assert want == by_hand.hexdigest()


def test_input_digests_are_sha256(scans):
    want = hashlib.sha256((scans / "scan.png").read_bytes()).hexdigest()
    assert input_digests({"background": scans / "scan.png"}) == {"background": want}


def test_stamp_says_synthetic_and_is_json():
    note = stamp("tficomp", 7, {"name": "tiny-sd", "sha256": "ab"}, {"background": "cd"})
    assert note["synthetic"] is True and note["method"] == "tficomp" and note["seed"] == 7
    assert "not for diagnosis" in note["notice"] and note["version"] == versions("graft-tficomp")["graft-tficomp"]
    assert json.loads(json.dumps(note)) == note


def test_versions_leave_out_what_is_absent():
    found = versions("no-such-package-at-all")
    assert "no-such-package-at-all" not in found and found["numpy"].count(".") >= 1 and "python" in found


def test_a_prompt_is_no_path():
    words = ["graft-x", "compose", "--prompt", "An MRI w/o contrast", "--prompt=a/b", "--object", "/data/John Smith/x.png"]
    said = public_command(words)
    assert '"An MRI w/o contrast"' in said and "--prompt=a/b" in said and "Smith" not in said
