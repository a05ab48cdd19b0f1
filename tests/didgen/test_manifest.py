"""The manifest: what is written is read back, bytes are equal, and every kind of bad line is refused with its place."""

import json
import os
from pathlib import Path

import pytest

from didgen.manifest import COLUMNS, Row, confined, drawn_order, load, read_manifest, write_manifest
from graft_common.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`a b/ä/` with two pictures and a mask."""
    home = tmp_path / "a b" / "ä"
    home.mkdir(parents=True)
    for name in ("x.jpg", "y.jpg", "x_mask.png"):
        (home / name).write_bytes(b"1")
    return home


def line(path: Path, *items: object) -> Path:
    path.write_text("".join((i if isinstance(i, str) else json.dumps(i)) + "\n" for i in items), encoding="utf-8")
    return path


def test_rows_come_back_and_bytes_are_equal(folder: Path) -> None:
    rows = [
        Row("x", folder / "x.jpg", folder / "x_mask.png", "train", "MEL", "HAM_1", {"size": "small"}, "An image of …"),
        Row("y ü", folder / "y.jpg", split=None, synthetic=True, layout="x_mask"),
    ]
    write_manifest(folder / "manifest.jsonl", rows)
    assert read_manifest(folder) == rows == read_manifest(folder / "manifest.jsonl")
    first = (folder / "manifest.jsonl").read_bytes()
    write_manifest(folder / "manifest.jsonl", rows)
    assert (folder / "manifest.jsonl").read_bytes() == first
    items = [json.loads(text) for text in first.decode().splitlines()]
    assert items[0]["image"] == "x.jpg" and items[0]["mask"] == "x_mask.png" and list(items[0]) == list(COLUMNS[:8])
    assert not list(folder.glob(".*"))


def test_pictures_elsewhere_need_a_named_root_and_move_with_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    row = Row("x", folder / "x.jpg")
    with pytest.raises(ValueError, match="name its root"):
        write_manifest(out / "manifest.jsonl", [row])
    write_manifest(out / "manifest.jsonl", [row], [tmp_path / "unused", folder.parent])
    header = json.loads((out / "manifest.jsonl").read_text().splitlines()[0])
    assert header == {"schema": 1, "roots": ["../a b"]}
    made = load(out)
    assert made.rows[0].image.resolve() == folder / "x.jpg" and made.roots == (folder.parent.resolve(),)
    os.rename(folder.parent, tmp_path / "moved")
    with pytest.raises(InputError, match=r"line 1: \.\./a b is no folder; move the data back"):
        read_manifest(out)


def test_a_relative_manifest_path_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write_manifest(Path("m.jsonl"), [Row("x", Path("x.jpg"))])
    assert read_manifest(Path("m.jsonl"))[0].image.is_file()
    monkeypatch.chdir(folder.parent)
    assert read_manifest(Path("ä/m.jsonl"))[0].image.is_file()
    (folder.parent / "x.jpg").write_bytes(b"2")
    write_manifest(Path("m.jsonl"), [Row("x", Path("x.jpg"))])  # the same words in another folder
    assert read_manifest(Path("m.jsonl"))[0].image.read_bytes() == b"2"


GOOD = {"id": "x", "image": "x.jpg"}


@pytest.mark.parametrize(
    ("lines", "needle"),
    [
        (["{"], "line 1: is no JSON"),
        ([GOOD, '{"id": "y", "image": "y.jp'], "line 2: is no JSON"),
        (["[1]"], "line 1: is a JSON list"),
        ([""], "holds no picture"),
        ([{"id": "x"}], "line 1: image is missing"),
        ([{"image": "x.jpg"}], "line 1: id is missing"),
        ([{**GOOD, "id": 3}], "line 1: id is missing or no text"),
        ([{**GOOD, "label": 1}], "line 1: unknown column 'label'; known are id"),
        ([GOOD, GOOD], "line 2: id 'x' stands twice"),
        ([{**GOOD, "id": "a/b"}], "id 'a/b' is no plain name"),
        ([{**GOOD, "id": ".."}], "is no plain name"),
        ([{**GOOD, "image": "../../x.jpg"}], "leads out of"),
        ([{**GOOD, "image": "/etc/passwd"}], "/etc/passwd leads out of"),
        ([{**GOOD, "image": "link.jpg"}], "leads out of"),
        ([{**GOOD, "mask": "linked/secret"}], "leads out of"),
        ([{**GOOD, "image": "no.jpg"}], "image no.jpg is no file"),
        ([{**GOOD, "mask": "no.png"}], "mask no.png is no file"),
        ([{**GOOD, "image": "x\0.jpg"}], "is no file"),
        ([{**GOOD, "split": "valid"}], "split is 'valid'; give one of train, val, test"),
        ([{**GOOD, "dx": "melanoma"}], "dx is 'melanoma'; give one of MEL"),
        ([{**GOOD, "prompt": 1}], "prompt is 1"),
        ([{**GOOD, "mask": ""}], "mask is ''"),
        ([{**GOOD, "attributes": [1]}], "attributes is no object"),
        ([{**GOOD, "synthetic": "yes"}], "synthetic is 'yes'"),
        (['{"id": "x", "image": "x.jpg", "attributes": {"a": NaN}}'], "NaN is no number of JSON"),
        ([{"roots": ["."]}, GOOD], "line 1: is no header"),
        ([{"schema": 1, "roots": ["gone"]}, GOOD], "gone is no folder"),
        (["[" * 100_000], "line 1: is no JSON"),
    ],
)
def test_bad_lines(folder: Path, tmp_path: Path, lines: list, needle: str) -> None:
    (tmp_path / "secret").write_bytes(b"1")
    (folder / "link.jpg").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    path = line(folder / "m.jsonl", *lines)
    with pytest.raises(InputError) as why:
        read_manifest(path)
    assert needle in str(why.value) and str(path) in str(why.value) and "\n" not in str(why.value)


def test_what_is_no_manifest(folder: Path) -> None:
    (folder / "cut.jsonl").write_bytes(b'{"id": "\xff\xfe')
    (folder / "empty.jsonl").write_bytes(b"")
    for name, needle in (("cut.jsonl", "no UTF-8"), ("empty.jsonl", "0 bytes"), ("none.jsonl", "no such file")):
        with pytest.raises(InputError, match=needle):
            read_manifest(folder / name)
    with pytest.raises(InputError, match=r"manifest\.jsonl: no such file"):
        read_manifest(folder)


def test_missing_files_can_be_let_through(folder: Path) -> None:
    path = line(folder / "m.jsonl", {**GOOD, "image": "no.jpg"})
    assert read_manifest(path, files=False)[0].image == folder / "no.jpg"


def test_writing_refuses_what_could_not_be_read(folder: Path) -> None:
    with pytest.raises(ValueError, match="stands twice"):
        write_manifest(folder / "m.jsonl", [Row("x", folder / "x.jpg")] * 2)
    assert not (folder / "m.jsonl").exists()
    (folder / "file").write_bytes(b"1")
    with pytest.raises(InputError, match="cannot be written"):
        write_manifest(folder / "file" / "m.jsonl", [Row("x", folder / "x.jpg")], [folder])


def test_a_drawn_order_keeps_pairs_and_follows_the_seed() -> None:
    keys = [f"k{i}" for i in range(50)]
    order = drawn_order(keys, 3)
    assert sorted(order) == sorted(keys) and order != drawn_order(keys, 4)
    fewer = [key for key in drawn_order(reversed(keys), 3) if int(key[1:]) % 2]
    assert fewer == drawn_order(keys[1::2], 3)
    places = [drawn_order(keys, seed).index("k0") for seed in range(200)]
    assert 15 < sum(places) / 200 < 34  # 24.5 expected, its standard error is 1.0


def test_confined_follows_links_inside(folder: Path) -> None:
    (folder / "again.jpg").symlink_to(folder / "x.jpg")
    assert confined(folder, "again.jpg", "w") == folder / "again.jpg"
    with pytest.raises(InputError, match="leads out"):
        confined(folder, "..", "w")
