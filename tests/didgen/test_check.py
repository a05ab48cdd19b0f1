"""`check`: every fault that is planted is found, nothing is found where nothing is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from didgen.config_data import CheckConfig, PhantomConfig
from didgen.manifest import Row, write_manifest
from graft_common.console import Verb, run_command

VERBS = {
    "check": Verb(CheckConfig, "didgen.check:run_check"),
    "phantom": Verb(PhantomConfig, "didgen.phantom:run_phantom"),
}
Found = Callable[[Path], tuple[int, dict[str, Any], str]]
Y, X = np.mgrid[:70, :90]


@pytest.fixture
def found(capsys: pytest.CaptureFixture[str]) -> Found:
    def run(path: Path) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = run_command("graft-didgen", VERBS, ["check", str(path), "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return run


def picture(path: Path, seed: int, shape: tuple[int, int] = (70, 90)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)).save(path)
    return path


def mask(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def disc(radius: float) -> np.ndarray:
    return ((radius**2 > (Y - 35) ** 2 + (X - 45) ** 2) * 255).astype(np.uint8)


def sound(folder: Path) -> dict[str, Row]:
    folder.mkdir(parents=True)
    return {
        key: Row(
            key, picture(folder / f"{key}.png", i), mask(folder / f"{key}_mask.png", disc(20)), split, "NV", f"L{i}"
        )
        for i, (key, split) in enumerate((("a", "train"), ("b", "train"), ("c", "test")))
    }  # type: ignore[arg-type]


def test_a_sound_manifest_has_no_finding(tmp_path: Path, found: Found) -> None:
    rows = sound(tmp_path / "d ü")
    write_manifest(tmp_path / "d ü" / "manifest.jsonl", rows.values())
    for path in (tmp_path / "d ü", tmp_path / "d ü" / "manifest.jsonl"):
        code, record, said = found(path)
        assert (code, said, record["findings"], record["kind"], record["items"]) == (0, "", [], "manifest", 3)


def plant(folder: Path, how: str) -> None:
    """Do one thing to the sound folder."""
    image, outline = folder / "b.png", folder / "b_mask.png"
    if how == "gone":
        image.unlink()
    elif how == "cut":
        image.write_bytes(image.read_bytes()[:100])
    elif how == "page":
        image.write_text("<html>404")
    elif how == "void":
        image.write_bytes(b"")
    elif how == "small":
        picture(image, 1, (40, 50))
        mask(outline, disc(20)[15:55, 20:70])
    elif how == "long":
        picture(image, 1, (70, 230))
        mask(outline, np.pad(disc(20), ((0, 0), (0, 140))))
    elif how == "grey":
        Image.fromarray(np.repeat(np.random.default_rng(1).integers(0, 256, (70, 90, 1), np.uint8), 3, 2)).save(image)
    elif how == "flat":
        Image.fromarray(np.full((70, 90, 3), 7, np.uint8)).save(image)
    elif how == "copy":
        (folder / "c.png").write_bytes(image.read_bytes())
    elif how == "twin":
        (folder / "a.png").write_bytes(image.read_bytes())
    elif how == "no mask":
        outline.unlink()
    elif how == "mask cut":
        outline.write_bytes(outline.read_bytes()[:50])
    elif how == "mask size":
        mask(outline, disc(20)[:60])
    else:
        made = {"mask empty": disc(0), "mask full": disc(999), "speck": disc(2.5), "flood": 255 - disc(12)}
        made["classes"] = disc(20) // 2 + disc(9) // 2
        mask(outline, made[how])


@pytest.mark.parametrize(
    ("how", "level", "name", "what"),
    [
        ("gone", "stop", "b.png", "no such file"),
        ("cut", "stop", "b.png", "cannot be read"),
        ("page", "stop", "b.png", "web page"),
        ("void", "stop", "b.png", "0 bytes"),
        ("small", "note", "b.png", "is 50x40; give 64 px or more"),
        ("long", "note", "b.png", "is 230x70 and would be squashed"),
        ("grey", "note", "b.png", "is grey"),
        ("flat", "note", "b.png", "has one value only"),
        ("copy", "note", "c.png", "b.png and stands in test and train"),
        ("twin", "note", "b.png", "a.png; keep one"),
        ("no mask", "stop", "b_mask.png", "no such file"),
        ("mask cut", "stop", "b_mask.png", "cannot be read"),
        ("mask size", "stop", "b_mask.png", "is 90x60 but its image is 90x70"),
        ("mask empty", "stop", "b_mask.png", "is empty"),
        ("mask full", "stop", "b_mask.png", "is full"),
        ("classes", "stop", "b_mask.png", "holds 3 classes"),
        ("speck", "note", "b_mask.png", "covers 0.3% of the picture"),
        ("flood", "note", "b_mask.png", "covers 93.1% of the picture"),
    ],
)
def test_each_fault_is_the_only_finding(
    tmp_path: Path, found: Found, how: str, level: str, name: str, what: str
) -> None:
    folder = tmp_path / "d ü"
    write_manifest(folder / "manifest.jsonl", sound(folder).values())
    plant(folder, how)
    code, record, said = found(folder)
    (finding,) = record["findings"]
    assert (finding["level"], Path(finding["path"]).name) == (level, name) and what in finding["what"], finding
    assert code == (2 if level == "stop" else 0) and record["stops"] == (level == "stop")
    lines = said.splitlines()
    assert (
        lines == [] if level == "note" else len(lines) == 1 and str(folder) in lines[0] and finding["what"] in lines[0]
    )


def test_splits_that_leak_or_lack_a_class(tmp_path: Path, found: Found) -> None:
    rows = sound(tmp_path / "d")
    shared = [rows["a"], rows["b"], Row("c", rows["c"].image, None, "test", "MEL", rows["a"].lesion_id)]
    write_manifest(tmp_path / "d" / "manifest.jsonl", shared)
    code, record, _ = found(tmp_path / "d")
    said = {f["what"] for f in record["findings"]}
    assert code == 0 and said == {
        "L0 (test and train): lesion in several splits, a leak; split by lesion with prepare --resplit",
        "MEL: class without a training picture; add some",
    }


def test_faults_of_a_tree(tmp_path: Path, found: Found) -> None:
    box = tmp_path / "HAM10000_images_part_1"
    for i in range(3):
        picture(box / f"ISIC_000000{i}.jpg", i)
    head, rows = "lesion_id,image_id,dx\n", "".join(f"L{i},ISIC_000000{i},nv\n" for i in range(3))
    table = tmp_path / "HAM10000_metadata.csv"
    table.write_text(head + rows)
    assert found(tmp_path)[:2] == (
        0,
        {"schema": 1, "kind": "ham10000", "items": 3, "stops": 0, "notes": 0, "findings": []},
    )
    table.write_text(head + rows + "L9,ISIC_0000009,nv\nL1,ISIC_0000001,nv\n")
    code, record, said = found(tmp_path)
    assert code == 2 and record["stops"] == 2 and "2 findings would stop a run" in said
    assert [f["what"] for f in record["findings"]] == [
        "ISIC_0000001: stands twice; keep one row each", "ISIC_0000009: has no picture; add it, or remove the row",
    ]  # fmt: skip


def test_the_table_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = sound(tmp_path / "d")
    write_manifest(tmp_path / "d" / "manifest.jsonl", rows.values())
    assert run_command("graft-didgen", VERBS, ["check", str(tmp_path / "d")]) == 0
    assert "3 pictures; nothing wrong found" in capsys.readouterr().err.replace("\n", " ")
    plant(tmp_path / "d", "mask full")
    assert run_command("graft-didgen", VERBS, ["check", str(tmp_path / "d")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "is full" in said.err and "stop" in said.err


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        (None, "no such file"),
        (b"", "0 bytes"),
        (b'{"id": "a", "image": "a.png"', "line 1: is no JSON"),
        (b'{"id": "a", "image": "../a.png"}', "leads out of"),
        (b'{"id": "a"}', "image is missing"),
    ],
)
def test_what_is_no_data_set_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, needle: str
) -> None:
    path = tmp_path / "m ü.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert run_command("graft-didgen", VERBS, ["check", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.strip().count("\n") == 0 and str(path) in said and needle in said
    assert run_command("graft-didgen", VERBS, ["check", str(tmp_path)]) == 2
    assert "holds none of" in capsys.readouterr().err
