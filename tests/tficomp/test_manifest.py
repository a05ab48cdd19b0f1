"""Manifests: the same rows from JSON, CSV and TF-ICON's folders; what is wrong is named."""

import csv
import json
from pathlib import Path

import pytest

from graft_common.errors import InputError
from tficomp.manifest import read_manifest, write_manifest

ROW = {
    "background": "b.png",
    "object": "o.png",
    "object_mask": "m.png",
    "user_mask": "u.png",
    "prompt": "a scan",
    "seed": 5,
}


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    rows = [
        {**ROW, "id": "one"},
        {**ROW, "id": "two", "object": "o.png|p.png", "object_mask": "m.png|n.png", "user_mask": ""},
    ]
    write_manifest(tmp_path / "m.json", rows)
    with (tmp_path / "m.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    a, b = read_manifest(tmp_path / "m.json"), read_manifest(tmp_path / "m.csv")
    assert a == b
    assert [row.key for row in a] == ["one", "two"]
    assert a[1].sources.objects == (tmp_path / "o.png", tmp_path / "p.png")
    assert a[1].sources.user_masks == () and a[0].sources.seed == 5 and a[0].sources.prompt == "a scan"


def test_lists_and_default_keys(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", [{**ROW, "object": ["o.png"], "fit_mask": True}, ROW])
    rows = read_manifest(tmp_path / "m.json")
    assert [row.key for row in rows] == ["00000", "00001"]
    assert rows[0].sources.fit_mask and not rows[1].sources.fit_mask
    assert rows[0].sources.paths()["object"] == tmp_path / "o.png"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no list of samples"),
        ({"a": 1}, "no list of samples"),
        ([{k: v for k, v in ROW.items() if k != "object_mask"}], "object_mask is missing"),
        ([{**ROW, "id": "x"}, {**ROW, "id": "x"}], "id 'x' stands twice"),
        ([{**ROW, "id": "../x"}], "no plain name"),
        ([{**ROW, "id": ".x"}], "no plain name"),
        ([{**ROW, "background": "../secret.png"}], "../secret.png leads out of"),
        ([{**ROW, "object": "/secret.png"}], "/secret.png leads out of"),
        ([{**ROW, "seed": "many"}], "seed 'many' is no whole number"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: object, said: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError) as why:
        read_manifest(path)
    assert said in str(why.value) and str(path) in str(why.value) and "\n" not in str(why.value)


def test_a_link_may_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "outside.png")
    write_manifest(tmp_path / "in" / "m.json", [ROW])
    with pytest.raises(InputError, match="leads out of"):
        read_manifest(tmp_path / "in" / "m.json")


def test_broken_files_are_named(tmp_path: Path) -> None:
    for name, content in (("m.json", b"[{"), ("empty.json", b""), ("m.csv", b"\xff\xfe\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_manifest(tmp_path / name)
    with pytest.raises(InputError, match=r"nowhere\.json: no such file"):
        read_manifest(tmp_path / "nowhere.json")


def test_tficon_folders(tmp_path: Path) -> None:
    for i, prompt in enumerate(("a brain, sliced", "a breast")):
        folder = tmp_path / "set" / prompt
        folder.mkdir(parents=True)
        for name in (
            f"bg{i}.png",
            f"fg{i}.jpg",
            f"fg{i}_mask.PNG",
            "mask_bg_fg.jpg",
            f"cp_bg{i}.jpg",
            "dccf_image.jpg",
        ):
            (folder / name).touch()
    rows = read_manifest(tmp_path)
    assert [row.sources.prompt for row in rows] == ["a brain, sliced", "a breast"]
    assert [row.key for row in rows] == ["0000_a_brain__sliced", "0001_a_breast"]
    assert all(row.sources.fit_mask for row in rows)
    assert {k: v.name for k, v in rows[1].sources.paths().items()} == {
        "background": "bg1.png", "object": "fg1.jpg", "object_mask": "fg1_mask.PNG", "user_mask": "mask_bg_fg.jpg"
    }  # fmt: skip
    (tmp_path / "set" / "a breast" / "mask_bg_fg.jpg").unlink()
    with pytest.raises(InputError, match="one user_mask of TF-ICON's layout"):
        read_manifest(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no sample folder"):
        read_manifest(tmp_path / "empty")
