"""`prepare`: splits by lesion, same bytes for the same seed, nothing copied unasked, one line for what cannot be used."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from didgen.config_data import LayoutName, PhantomConfig, PrepareConfig
from didgen.layouts import READERS
from didgen.manifest import Row, read_manifest
from didgen.phantom import run_phantom
from didgen.prepare import keep_train, run_prepare, split_rows
from graft_common.console import Verb, run_command
from graft_common.errors import InputError

VERBS = {
    "prepare": Verb(PrepareConfig, "didgen.prepare:run_prepare"),
    "phantom": Verb(PhantomConfig, "didgen.phantom:run_phantom"),
}
Command = Callable[..., int]


@pytest.fixture
def prepare() -> Command:
    return lambda *words: run_command("graft-didgen", VERBS, ["prepare", *map(str, words)])


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees ä")
    for layout in READERS:
        n = 24 if layout in ("ham10000", "ph2") else 3
        run_phantom(PhantomConfig(folder=folder / layout, layout=layout, n=n, size=48, json=True), [])
    return folder


@pytest.mark.parametrize("layout", list(READERS))
def test_each_layout_becomes_a_manifest(trees: Path, tmp_path: Path, layout: LayoutName) -> None:
    before = sorted(trees.rglob("*"))
    record = run_prepare(PrepareConfig(root=trees / layout, out=tmp_path / "out", seed=5, json=True), [])
    rows = read_manifest(tmp_path / "out")
    splits = Counter(row.split for row in rows)
    assert set(splits) == {"train", "val", "test"} and record["measures"]["splits"] == dict(sorted(splits.items()))
    assert record["measures"]["layout"] == layout and record["measures"]["skipped"] == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.jsonl", "run.json"]
    assert sorted(trees.rglob("*")) == before
    assert all(row.image.resolve().is_relative_to(trees / layout) for row in rows)
    own = layout not in ("ham10000", "ph2")
    if own:
        assert splits == {"train": 3, "val": 3, "test": 3}
    lesions = {(row.lesion_id or row.id, row.split) for row in rows}
    assert len(lesions) == len({lesion for lesion, _ in lesions})
    assert str(trees) not in json.dumps(record)


def test_same_seed_same_bytes_other_seed_another_split(trees: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_prepare(PrepareConfig(root=trees / "ham10000", out=tmp_path / name, seed=seed, json=True), [])
        made.append((tmp_path / name / "manifest.jsonl").read_bytes())
    assert made[0] == made[1] != made[2]


def rows(count: int = 300) -> list[Row]:
    """Lesions of one to three pictures, of three classes."""
    rng = np.random.default_rng(0)
    out: list[Row] = []
    for lesion in range(count):
        dx = ("NV", "MEL", "DF")[int(rng.choice(3, p=(0.7, 0.2, 0.1)))]
        for _ in range(int(rng.integers(1, 4))):
            out.append(Row(f"p{len(out)}", Path("x"), dx=dx, lesion_id=f"L{lesion}"))
    return out


def test_lesions_stay_whole_and_classes_keep_their_shares() -> None:
    done = split_rows(rows(), 0.1, 0.2, seed=3)
    place = {}
    for row in done:
        assert place.setdefault(row.lesion_id, row.split) == row.split
    for dx in ("NV", "MEL", "DF"):
        lesions = {row.lesion_id for row in done if row.dx == dx}
        count = Counter(place[key] for key in lesions)
        assert count["test"] == int(0.2 * len(lesions) + 0.5) and count["val"] == int(0.1 * len(lesions) + 0.5)
    assert [row.id for row in done] == [row.id for row in rows()]
    # A lesion's side does not depend on the order of the rows.
    assert {r.id: r.split for r in split_rows(rows()[::-1], 0.1, 0.2, 3)} == {r.id: r.split for r in done}


def test_an_own_split_is_kept_unless_asked(trees: Path) -> None:
    given = [Row("a", Path("x"), split="test"), Row("b", Path("x"), split="train")]
    assert split_rows(given, 0, 0, 0) == given
    assert {row.split for row in split_rows(given, 0, 0, 0, resplit=True)} == {"train"}


def test_fewer_training_pictures_are_nested() -> None:
    done = split_rows(rows(), 0.1, 0.2, seed=3)
    few, more = ({r.id for r in keep_train(done, n, 7) if r.split == "train"} for n in (20, 50))
    assert few < more and len(few) == 20 and len(more) == 50
    assert [r for r in keep_train(done, 20, 7) if r.split != "train"] == [r for r in done if r.split != "train"]
    with pytest.raises(InputError, match="--keep-train 9999"):
        keep_train(done, 9999, 7)


def test_copies_stand_alone(trees: Path, tmp_path: Path) -> None:
    run_prepare(PrepareConfig(root=trees / "ph2", out=tmp_path / "a", copy=True, json=True), [])
    os.rename(tmp_path / "a", tmp_path / "b")
    moved = read_manifest(tmp_path / "b")
    assert "roots" not in (tmp_path / "b" / "manifest.jsonl").read_text()
    for row in moved:
        assert row.image == tmp_path / "b" / "image" / f"{row.id}.bmp" and row.mask is not None
        (source,) = trees.rglob(f"{row.id}.bmp")
        assert row.image.read_bytes() == source.read_bytes()


def small(folder: Path, **masks: tuple[int, int]) -> Path:
    """A HAM10000 tree of pictures of 40 x 30 px; masks by the last digit of the id."""
    text = "lesion_id,image_id,dx\n"
    for i in range(4):
        key = f"ISIC_000000{i}"
        path = folder / "HAM10000_images_part_1" / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 50 * i, np.uint8)).save(path)
        text += f"HAM_{i},{key},nv\n"
        if f"m{i}" in masks:
            mask = folder / "HAM10000_segmentations_lesion_tschandl" / f"{key}_segmentation.png"
            mask.parent.mkdir(exist_ok=True)
            Image.fromarray(np.eye(*masks[f"m{i}"], dtype=np.uint8) * np.uint8(255)).save(mask)
    (folder / "HAM10000_metadata.csv").write_text(text)
    return folder


def spoil(root: Path, how: str) -> str:
    """Do one thing to a sound tree; the name that the message must hold."""
    first = root / "HAM10000_images_part_1" / "ISIC_0000000.jpg"
    table = root / "HAM10000_metadata.csv"
    if how == "truncated picture":
        first.write_bytes(first.read_bytes()[:8])
    elif how == "empty picture":
        first.write_bytes(b"")
    elif how == "web page":
        first.write_text("<html>")
    elif how == "missing picture":
        first.unlink()
        return "ISIC_0000000: has no picture"
    elif how == "unknown id":
        table.write_text(table.read_text() + "HAM_9,ISIC_0000009,nv\n")
        return "ISIC_0000009: has no picture"
    elif how == "duplicate":
        table.write_text(table.read_text() + "HAM_9,ISIC_0000001,nv\n")
        return "ISIC_0000001: stands twice"
    elif how == "unknown class":
        table.write_text(table.read_text().replace("ISIC_0000002,nv", "ISIC_0000002,nan"))
        return "nan: is no dx"
    elif how == "mask size":
        small(root, m1=(20, 40))
        return "ISIC_0000001_segmentation.png: is 40x20 but its image is 40x30"
    return str(first)


@pytest.mark.parametrize(
    "how",
    [
        "truncated picture",
        "empty picture",
        "web page",
        "missing picture",
        "unknown id",
        "duplicate",
        "unknown class",
        "mask size",
    ],
)
def test_what_cannot_be_used_stops_or_is_skipped(
    tmp_path: Path, prepare: Command, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    needle = spoil(small(tmp_path / "a b ü"), how)
    assert prepare(tmp_path / "a b ü", "--out", tmp_path / "out") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and needle in said[0] and "--skip" in said[0], said
    assert not (tmp_path / "out").exists()
    assert prepare(tmp_path / "a b ü", "--out", tmp_path / "out", "--skip", "--json", "--val", 0, "--test", 0) == 0
    left = {"unknown id": 4, "duplicate": 4, "unknown class": 4}.get(how, 3)
    assert len(read_manifest(tmp_path / "out")) == left
    dropped = json.loads(capsys.readouterr().out)["measures"]["skipped"]
    assert dropped == (0 if left == 4 or how == "missing picture" else 1)


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("{none}",), "{none}: is no folder"),
        (("{empty}",), "{empty}: holds none of isic2018-task1"),
        (("{tree}", "--layout", "ph2"), "{tree}: holds no ph2"),
        (("{tree}", "--val", "1.0"), "--val 1.0: must be from 0 to below 1"),
        (("{tree}", "--test", "nan"), "--test nan: must be"),
        (("{tree}", "--val", "0.5", "--test", "0.5"), "leave nothing to train on"),
        (("{tree}", "--keep-train", "0"), "--keep-train 0: must be at least 1"),
        (("{tree}", "--keep-train", "99"), "--keep-train 99: there are"),
        (("{tree}", "--seed", "-2"), "--seed -2: must be 0 or more"),
        (("{tree}", "--out", "{tree}/HAM10000_metadata.csv"), "HAM10000_metadata.csv is a file"),
        (("{tree}", "--out", "{done}"), "{done}: holds manifest.jsonl already"),
    ],
)
def test_refusals_write_nothing(
    tmp_path: Path, prepare: Command, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], needle: str
) -> None:
    names = {name: str(tmp_path / f"{name} ü") for name in ("none", "empty", "tree", "done")}
    small(Path(names["tree"]))
    Path(names["empty"]).mkdir()
    Path(names["done"]).mkdir()
    (Path(names["done"]) / "manifest.jsonl").write_text("kept")
    given = [w.format(**names) for w in words]
    given += [] if "--out" in given else ["--out", str(tmp_path / "out")]
    assert prepare(*given) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and needle.format(**names) in said[0], said
    assert not (tmp_path / "out").exists() and (Path(names["done"]) / "manifest.jsonl").read_text() == "kept"


def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    root = small(tmp_path / "tree")
    (root / "HAM10000_images_part_1").chmod(0o000)
    try:
        with pytest.raises(InputError, match="cannot be listed"):
            run_prepare(PrepareConfig(root=root, out=tmp_path / "out"), [])
    finally:
        (root / "HAM10000_images_part_1").chmod(0o700)
