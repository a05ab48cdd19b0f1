"""`prepare`: pairs, prompts, files and their bytes; what is skipped is counted."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tficomp.inputs import read_inputs
from tficomp.layouts import lesion_mask, read_tree
from tficomp.manifest import read_manifest
from tficomp.prepare import pairs
from tficomp.tissue import tissue_mask

Y, X = np.mgrid[:64, :64]


def scan(seed: int, lesion: bool) -> tuple[np.ndarray, np.ndarray]:
    """A textured disc on black, with a bright spot or without."""
    rng = np.random.default_rng([31, seed])
    field = ndimage.gaussian_filter(rng.normal(size=(64, 64)), 3)
    grey = np.where((Y - 32) ** 2 + (X - 32) ** 2 < 28**2, 110 + 400 * field, 0).clip(0, 200)
    y, x = rng.integers(24, 40, 2)
    mask = ((Y - y) ** 2 + (X - x) ** 2 < 36) & lesion
    return np.where(mask, 240, grey).astype(np.uint8), mask


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    """Three benign, one malignant, four normal; one normal repeats a benign, one benign has a damaged mask."""
    root = tmp_path / "data" / "Dataset_BUSI_with_GT"
    for kind, seeds in (("benign", (1, 2, 3)), ("malignant", (4,)), ("normal", (5, 6, 7, 2))):
        (root / kind).mkdir(parents=True)
        for i, seed in enumerate(seeds, start=1):
            image, mask = scan(seed, kind != "normal" or seed == 2)
            Image.fromarray(image).save(root / kind / f"{kind} ({i}).png")
            Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(root / kind / f"{kind} ({i})_mask.png")
    (root / "benign" / "benign (3)_mask.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    return tmp_path / "data"


def files(out: Path) -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "run.json"
    }


@pytest.mark.parametrize(("b", "o"), [(4, 6), (3, 7), (5, 5), (1, 4)])
def test_every_pair_once_and_evenly(b: int, o: int) -> None:
    every = list(pairs(b, o, 3))
    assert len(every) == b * o == len(set(every))
    for n in (2, b, o, b * o // 2):
        for side, count in ((0, b), (1, o)):
            used = Counter(pair[side] for pair in every[:n])
            assert max(used.values()) <= math.ceil(n / count) + 1
    assert every == list(pairs(b, o, 3))
    assert b * o < 10 or every != list(pairs(b, o, 4))


def test_samples_are_whole_and_in_tissue(busi: Path, tmp_path: Path, command: Callable[..., int]) -> None:
    out = tmp_path / "samples"
    assert command("prepare", busi, "--out", out, "--n", 5, "--seed", 11, "--json") == 0
    table: list[dict[str, Any]] = json.loads((out / "manifest.json").read_text())
    assert [list(row) for row in table] == [
        ["id", "background", "object", "object_mask", "user_mask", "prompt", "seed"]
    ] * 5
    assert [row["seed"] for row in table] == [11, 12, 13, 14, 15]
    assert {row["prompt"] for row in table} == {"An ultrasound image of a cancerous breast"}
    rows = read_manifest(out / "manifest.json")
    tree = read_tree(busi)
    originals = {x.image.read_bytes(): x for x in tree.lesions}
    normals = {p.read_bytes() for p in tree.backgrounds}
    for row in rows:
        paths = row.sources.paths()
        assert paths["background"].read_bytes() in normals
        truth = lesion_mask(originals[paths["object"].read_bytes()], (64, 64))
        inputs = read_inputs(row.sources)
        np.testing.assert_array_equal(inputs.lesions[0].mask, truth)
        assert tissue_mask(inputs.background.pixels)[inputs.lesions[0].user_mask].all()
    record = json.loads((out / "run.json").read_text())
    assert record["measures"]["skipped"] == {"unreadable outline": 1, "copy of another": 1}
    assert (record["measures"]["backgrounds"], record["measures"]["lesions"]) == (3, 3)
    assert str(tmp_path) not in json.dumps(record)


def test_same_seed_same_bytes(busi: Path, tmp_path: Path, command: Callable[..., int]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert command("prepare", busi, "--out", tmp_path / name, "--n", 4, "--seed", seed, "--json") == 0
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")


def test_nothing_is_overwritten(
    busi: Path, tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    assert command("prepare", busi, "--out", out, "--n", 2, "--json") == 0
    before = files(out)
    capsys.readouterr()
    assert command("prepare", busi, "--out", out, "--n", 3, "--json") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(out) in said and "manifest.json already" in said
    assert files(out) == before


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("--n", "10"), "--n 10: {busi} gives 9 pairs of 3 backgrounds and 3 lesions"),
        (("--n", "0"), "--n 0: must be at least 1"),
        (("--seed", "-1"), "--seed -1: must be 0 or more"),
        (("--dataset", "br35h"), "{busi}: holds no no/, Br35H-Mask-RCNN/"),
        (("--dataset", "chexpert"), "chexpert"),
        (("--out", "{busi}/Dataset_BUSI_with_GT/benign/benign (1).png/x"), "benign (1).png is a file"),
    ],
)
def test_refusals_write_nothing(
    busi: Path,
    tmp_path: Path,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    words: tuple,
    needle: str,
) -> None:
    given = {"--out": str(tmp_path / "out"), "--n": "2"} | {words[0]: words[1].format(busi=busi)}
    assert command("prepare", busi, *(word for pair in given.items() for word in pair)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and needle.format(busi=busi) in said[0], said
    assert not (tmp_path / "out").exists()
