"""`check`: every fault that is planted is found, nothing is found where nothing is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tficomp import check
from tficomp.manifest import write_manifest

Command = Callable[..., int]


@pytest.fixture(autouse=True)
def grid(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Judge boxes by 64 px and factor 4, whatever is shipped."""
    if "latent_grid" not in request.node.name:
        monkeypatch.setattr(check, "latent_grid", lambda weights: check.Grid("small", 64, 4, 2))


@pytest.fixture
def found(command: Command, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], tuple[int, dict[str, Any], str]]:
    def run(path: Path) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = command("check", path, "--json")
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return run


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def disc(shape: tuple[int, int], y: int, x: int, r: int) -> np.ndarray:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return (((rows - y) ** 2 + (cols - x) ** 2 < r * r) * 255).astype(np.uint8)


def test_latent_grid_reads_the_bundle(random_bundle: Path) -> None:
    assert check.latent_grid(str(random_bundle)) == check.Grid("random", 32, 4, 2)


def test_a_sound_manifest_has_no_finding(tmp_path: Path, sample_files: Callable, found: Callable) -> None:
    paths = sample_files(tmp_path)
    write_manifest(tmp_path / "m.json", [{role: p.name for role, p in paths.items()} | {"prompt": "a scan"}])
    code, record, said = found(tmp_path / "m.json")
    assert code == 0 and said == ""
    assert record["findings"] == [] and record["kind"] == "manifest" and record["items"] == 1


def test_faults_of_a_manifest(tmp_path: Path, sample_files: Callable, found: Callable) -> None:
    good = {role: p.name for role, p in sample_files(tmp_path).items()} | {"prompt": "a scan"}
    save(tmp_path / "other.png", disc((80, 96), 40, 48, 9))
    save(tmp_path / "square.png", disc((40, 40), 20, 20, 9))
    save(tmp_path / "empty.png", np.zeros((40, 48), np.uint8))
    save(tmp_path / "full.png", np.full((40, 48), 255, np.uint8))
    save(tmp_path / "tiny.png", disc((40, 48), 20, 24, 3))
    save(tmp_path / "thin.png", np.pad(np.full((2, 30), 255, np.uint8), ((10, 28), (8, 10))))
    (tmp_path / "page.png").write_text("<html>404</html>")
    dark = np.zeros((40, 48), np.uint8)
    dark[:, :20] = 150
    save(tmp_path / "dark.png", dark)
    colour = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    save(tmp_path / "colour.png", colour)
    save(tmp_path / "noise.png", colour[..., 0])
    tifffile.imwrite(tmp_path / "wide.tif", np.random.default_rng(0).integers(0, 4000, (40, 48), np.uint16))
    rows = {
        "missing": {"background": "gone.png"}, "page": {"object": "page.png"}, "other": {"object_mask": "other.png"},
        "square": {"user_mask": "square.png"}, "empty": {"object_mask": "empty.png"}, "full": {"user_mask": "full.png"},
        "tiny": {"user_mask": "tiny.png"}, "thin": {"user_mask": "thin.png"}, "dark": {"background": "dark.png"},
        "colour": {"object": "colour.png"}, "wide": {"background": "wide.tif"}, "words": {"prompt": "a " * 80},
        "swapped": {"object": "object_mask.png", "object_mask": "object.png"}, "scan": {"user_mask": "noise.png"},
        "fits": {"object_mask": "other.png", "fit_mask": "yes"}, "two": {"object": ["object.png", "object.png"]},
    }  # fmt: skip
    findings = {}
    for key, change in rows.items():
        write_manifest(tmp_path / f"{key}.json", [{**good, **change, "id": key}])
        code, record, said = found(tmp_path / f"{key}.json")
        stops = [f for f in record["findings"] if f["level"] == "stop"]
        assert code == (2 if stops else 0) and record["stops"] == len(stops)
        if stops:
            assert said.count("\n") == 1 and str(tmp_path / f"{key}.json") in said and stops[0]["what"] in said
        findings[key] = [(f["level"], Path(f["path"]).name, f["what"]) for f in record["findings"]]
    expected = {
        "missing": ("stop", "gone.png", "no such file"), "page": ("stop", "page.png", "is a web page"),
        "other": ("stop", "other.png", "is 96x80 but its image is 48x40; pass --fit-mask"),
        "square": ("stop", "square.png", "another aspect"), "empty": ("stop", "empty.png", "is empty"),
        "full": ("stop", "full.png", "is full"), "tiny": ("note", "tiny.png", "latent cells"),
        "thin": ("note", "thin.png", "aspect"), "dark": ("note", "user_mask.png", "on tissue"),
        "colour": ("note", "colour.png", "is colour but its background is grey"),
        "wide": ("note", "wide.tif", "16 bits without a window"), "words": ("stop", "words", "80 words"),
        "swapped": ("stop", "object.png", "swap the two"), "scan": ("stop", "noise.png", "neither black nor white"),
        "fits": ("note", "other.png", "it will be resized"), "two": ("stop", "two", "1 object_mask for 2 object"),
    }  # fmt: skip
    for key, (level, name, what) in expected.items():
        assert any(f[0] == level and f[1] == name and what in f[2] for f in findings[key]), (key, findings[key])
    for key in ("swapped", "scan", "page", "empty", "full", "words", "two", "fits", "wide"):
        assert len(findings[key]) == 1, findings[key]


def test_faults_of_a_br35h_tree(tmp_path: Path, found: Callable) -> None:
    rng = np.random.default_rng(5)

    def picture() -> np.ndarray:
        return np.kron(rng.integers(0, 255, (15, 15)), np.ones((4, 4))).astype(np.uint8)

    train = tmp_path / "Br35H-Mask-RCNN" / "TRAIN"
    for i in range(5):
        save(train / f"y{i}.png", picture())
    (train / "y5.png").write_bytes((train / "y4.png").read_bytes()[:60])
    save(tmp_path / "no" / "no0.png", picture())
    (tmp_path / "no" / "no1.png").write_bytes((train / "y0.png").read_bytes())
    circles = {0: (30, 30, 9), 1: (56, 30, 9), 2: (500, 30, 9), 5: (30, 30, 9)}
    sheet = {
        f"y{i}": {
            "filename": f"y{i}.png",
            "regions": [{"shape_attributes": {"name": "circle", "cx": x, "cy": y, "r": r}}],
        }
        for i, (x, y, r) in circles.items()
    }
    sheet["y3"] = {"filename": "y3.png", "regions": [{"shape_attributes": {"name": "star"}}]}
    sheet["gone"] = {"filename": "gone.png", "regions": sheet["y0"]["regions"]}
    (train / "annotations_train.json").write_text(json.dumps(sheet))
    code, record, said = found(tmp_path)
    assert code == 2 and record["kind"] == "br35h" and "3 findings would stop a run" in said
    got = {(f["level"], Path(f["path"]).name): f["what"] for f in record["findings"]}
    assert set(got) == {
        ("stop", "y2.png"), ("stop", "y3.png"), ("stop", "y5.png"), ("note", "y1.png"), ("note", "y4.png"),
        ("note", "gone.png"), ("note", "no1.png"),
    }  # fmt: skip
    assert "mask is empty" in got["stop", "y2.png"] and "unknown shape 'star'" in got["stop", "y3.png"]
    rows, cols = np.mgrid[:60, :120]
    inside = (cols - 56) ** 2 + (rows - 30) ** 2 < 81
    assert f"{1 - inside[:, :60].sum() / inside.sum():.0%} of its outline lies outside" in got["note", "y1.png"]
    assert "no outline" in got["note", "y4.png"] and "y0.png" in got["note", "no1.png"]


def test_the_table_shows_names_as_they_are(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("benign", "normal"):
        save(tmp_path / kind / f"{kind} [1].png", np.eye(40, dtype=np.uint8) * np.uint8(255))
    assert command("check", tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == "" and "[1].png" in said.err and "no picture with an outline" in said.err.replace("\n", " ")


def test_what_is_no_data_set_is_refused(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "nowhere.json"):
        assert command("check", path) == 2
        said = capsys.readouterr().err
        assert said.strip().count("\n") == 0 and str(path) in said
