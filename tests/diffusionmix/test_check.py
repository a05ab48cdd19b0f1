"""`check`: every fault that is planted is found, nothing is found where nothing is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusionmix.config_data import CheckConfig, PhantomConfig, PrepareConfig
from diffusionmix.phantom import run_phantom
from diffusionmix.prepare import run_prepare
from graft_common.console import Verb, run_command

VERBS = {
    "check": Verb(CheckConfig, "diffusionmix.check:run_check"),
    "phantom": Verb(PhantomConfig, "diffusionmix.phantom:run_phantom"),
}
Found = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Found:
    def run(*words: object) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = run_command("graft-diffusionmix", VERBS, ["check", *map(str, words), "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    run_phantom(PhantomConfig(folder=tmp_path / "a ü", layout="mvtec", n=2, size=64, json=True), [])
    return tmp_path / "a ü"


def test_a_sound_tree_has_no_finding(tree: Path, found: Found) -> None:
    code, record, said = found(tree)
    assert code == 0 and record["findings"] == [] and record["items"] == 2 + 1 + 3 * 2 + 1 and said == ""


@pytest.mark.parametrize(
    ("harm", "level", "word"),
    [
        (lambda r: (r / "ground_truth/hole/000_mask.png").unlink(), "stop", "000: picture without a mask"),
        (lambda r: (r / "test/hole/000.png").write_bytes(b"\x89PNG\r\n\x1a\nx"), "stop", "cannot be read as PNG"),
        (lambda r: Image.new("L", (64, 64)).save(r / "ground_truth/hole/000_mask.png"), "stop", "is empty"),
        (lambda r: Image.new("L", (64, 60), 255).save(r / "ground_truth/hole/000_mask.png"), "stop", "64x60 but its image"),
        (lambda r: Image.new("L", (64, 64), 255).save(r / "ground_truth/hole/000_mask.png"), "note", "covers 100.00%"),
        (lambda r: Image.new("RGB", (64, 64), "red").save(r / "train/good/001.png"), "note", "has one colour only"),
        (lambda r: shrink(r / "train/good/001.png"), "note", "is 32x32; give 64 px or more"),
        (lambda r: (r / "test/good/000.png").write_bytes((r / "train/good/001.png").read_bytes()), "note", "stands in"),
    ],
)
def test_planted_faults(tree: Path, found: Found, harm: Callable[[Path], object], level: str, word: str) -> None:
    harm(tree / "wood")
    code, record, said = found(tree)
    assert [f["level"] for f in record["findings"]] == [level] and word in record["findings"][0]["what"]
    assert code == (2 if level == "stop" else 0) and said.count("\n") == (level == "stop")


def shrink(path: Path) -> None:
    Image.open(path).resize((32, 32)).save(path)


def test_a_prepared_folder(tree: Path, tmp_path: Path, found: Found) -> None:
    out = tmp_path / "o"
    run_prepare(PrepareConfig(root=(tree,), size=32, out=out, json=True), [])
    code, record, _ = found(out)
    assert code == 0 and record["kind"] == "prepared object" and {f["level"] for f in record["findings"]} == {"note"}
    assert all("training squares" in f["what"] for f in record["findings"])
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    one = {row["split"]: row for row in lines}
    one["test"]["group"] = one["train"]["group"]
    (out / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    code, record, said = found(out)
    assert code == 2 and "stands in several splits" in said


def test_any_folder_and_a_table_for_people(tmp_path: Path, found: Found, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for kind in ("i", "m"):
        (tmp_path / kind).mkdir()
        Image.fromarray(rng.integers(0, 256, (70, 70), np.uint8)).save(tmp_path / kind / "1.png")
    assert found(tmp_path / "i", "--masks", tmp_path / "m")[0] == 0
    (tmp_path / "m/2.png").write_bytes(b"x")
    assert run_command("graft-diffusionmix", VERBS, ["check", str(tmp_path / "i"), "--masks", str(tmp_path / "m")]) == 2
    said = capsys.readouterr().err
    assert "2: mask without a picture" in said.replace("\n", "") and "stop" in said
    assert run_command("graft-diffusionmix", VERBS, ["check", str(tmp_path / "absent")]) == 2
    capsys.readouterr()
    assert run_command("graft-diffusionmix", VERBS, ["check", str(tmp_path / "i")]) == 2
    said = capsys.readouterr().err
    assert "give the masks' folder with --masks" in said and "--images" not in said  # check has no --images
