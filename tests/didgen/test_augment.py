"""`augment` (spec property 24): no held-out id gets in, the same seed gives the same bytes, counts are kept."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from didgen.augment import layout_split, read_counts, splits_by_name
from didgen.config_data import AugmentConfig, PhantomConfig
from didgen.manifest import Row, read_manifest, write_manifest
from graft_common.console import Verb, run_command
from graft_common.errors import InputError

VERBS = {
    "augment": Verb(AugmentConfig, "didgen.augment:run_augment"),
    "phantom": Verb(PhantomConfig, "didgen.phantom:run_phantom"),
}
Command = Callable[..., int]
PROMPT = "An image of <lesion> on <skin>, dermatofibroma, small round red lesion at the center, light skin, no hair"


@pytest.fixture
def augment() -> Command:
    return lambda *words: run_command("graft-didgen", VERBS, ["augment", *map(str, words), "--json"])


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Six training, two validation, two test pictures with masks; the data lies beside the manifest's folder."""
    data = tmp_path / "data ü"
    rows = []
    for i in range(10):
        split: Any = "train" if i < 6 else "val" if i < 8 else "test"
        key = f"ISIC_000000{i}"
        for name in (f"{key}.jpg", f"{key}_segmentation.png"):
            data.mkdir(exist_ok=True)
            (data / name).write_bytes(f"real {name}".encode())
        rows.append(Row(key, data / f"{key}.jpg", data / f"{key}_segmentation.png", split, "NV", f"L{i}"))
    write_manifest(tmp_path / "real" / "manifest.jsonl", rows, [data])
    return tmp_path / "real" / "manifest.jsonl"


def pairs(folder: Path, items: list[dict[str, Any]]) -> Path:
    """A folder as `pairs` writes it."""
    for part in ("image", "mask"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for item in items:
        for part in ("image", "mask"):
            (folder / part / f"{item.get('id', item.get('layout'))}.png").write_bytes(f"{part} {item}".encode())
    (folder / "meta.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


def trained(count: int = 6, **more: Any) -> list[dict[str, Any]]:
    return [{"layout": f"ISIC_000000{i}_segmentation", "flag": None, **more} for i in range(count)]


def test_property_24(real: Path, tmp_path: Path, augment: Command) -> None:
    folder = pairs(tmp_path / "pairs", trained(prompt=PROMPT))
    made = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert augment(real, "--synthetic", folder, "--counts", "DF=3", "--seed", seed, "--out", tmp_path / name) == 0
        made.append((tmp_path / name / "manifest.jsonl").read_bytes())
    assert made[0] == made[1] != made[2]
    rows = read_manifest(tmp_path / "a")
    before = read_manifest(real)
    assert [r.id for r in rows[:10]] == [r.id for r in before] and rows[:10] == [
        Row(**{**vars(r), "image": rows[i].image, "mask": rows[i].mask}) for i, r in enumerate(before)
    ]
    held = {r.id for r in before if r.split != "train"}
    added = rows[10:]
    assert (
        len(added) == 3 and {r.split for r in added} == {"train"} and all(r.synthetic and r.dx == "DF" for r in added)
    )
    names = {r.id for r in rows if r.split == "train"} | {str(r.layout) for r in added}
    assert not any(key in name for key in held for name in names)
    assert all(r.image.is_file() and r.mask is not None and r.mask.is_file() and r.prompt == PROMPT for r in added)


@pytest.mark.parametrize(
    "layout",
    [
        "ISIC_0000006",
        "ISIC_0000006_segmentation",
        "isic_0000008_segmentation",
        "ISIC_0000009_segmentation_2",
        "ISIC_0000007.png",
    ],
)
def test_pairs_of_held_out_layouts_are_refused(
    real: Path, tmp_path: Path, augment: Command, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    folder = pairs(tmp_path / "pairs", [*trained(), {"id": "harmless", "layout": layout}])
    assert augment(real, "--synthetic", folder, "--out", tmp_path / "out") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and f"drawn from layout {layout}, which is a" in said[0] and not (tmp_path / "out").exists()


def test_held_out_rows_and_copies_are_refused(
    real: Path, tmp_path: Path, augment: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pairs(tmp_path / "pairs", trained(2))
    (folder / "image" / "ISIC_0000001_segmentation.png").write_bytes(b"real ISIC_0000009.jpg")
    assert augment(real, "--synthetic", folder, "--out", tmp_path / "out") == 2
    assert "is a copy of the held-out" in capsys.readouterr().err
    picture = tmp_path / "m" / "x.png"
    picture.parent.mkdir()
    picture.write_bytes(b"1")
    for row, needle in (
        (Row("x", picture, split="test"), "x is for test"),
        (Row("ISIC_0000008", picture), "drawn from layout ISIC_0000008"),
    ):
        write_manifest(tmp_path / "m" / "manifest.jsonl", [row])
        assert augment(real, "--synthetic", tmp_path / "m", "--out", tmp_path / "out") == 2
        assert needle in capsys.readouterr().err


def test_names_are_matched_by_their_longest_beginning() -> None:
    rows = [Row("a_1", Path("a_1.jpg"), None, "train"), Row("a", Path("a.jpg"), Path("a_lesion.bmp"), "val")]
    rows.append(Row("b", Path("q/c.jpg"), None, "test"))
    rows.append(Row("other", Path("z/a.jpg"), None, "train"))  # a name that is held out stays so
    names = splits_by_name(rows)
    cases = {"a_1": "train", "a_1_2": "train", "A_12": "val", "a": "val", "a_lesion": "val", "c": "test", "b-9": "test"}
    cases |= {"d": None, "ab": None}  # type: ignore[dict-item]
    assert {key: layout_split(key, names) for key in cases} == cases


def test_several_sources_flags_and_own_layouts(
    real: Path, tmp_path: Path, augment: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [*trained(4), {"layout": "drawn_by_hand"}]
    items[0]["flag"], items[1]["flag"] = "area", ["contrast"]
    one = pairs(tmp_path / "one", items)
    two = pairs(tmp_path / "two ü", trained(3))

    def ids(*more: Any) -> tuple[list[str], dict[str, Any]]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert augment(real, "--synthetic", one, two, "--out", out, *more) == 0
        measures = json.loads(capsys.readouterr().out)["measures"]
        rows = [r for r in read_manifest(out) if r.synthetic]
        assert measures["added"] == len(rows)
        return [r.id for r in rows], measures

    both, measures = ids()
    assert len(both) == 6 and measures["left_out"] == {"flagged": 2, "other_layout": 0}
    assert len(ids("--keep-flagged")[0]) == 8
    own, measures = ids("--own-layouts")
    assert own == [i for i in both if "hand" not in i] and measures["left_out"]["other_layout"] == 1


def test_what_sample_wrote(real: Path, tmp_path: Path, augment: Command) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    lines = [{"image": f"{i:05d}.png", "prompt": PROMPT if i else "a red one", "seed": i} for i in range(3)]
    for line in lines:
        (folder / line["image"]).write_bytes(str(line).encode())
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert augment(real, "--synthetic", folder, "--counts", "DF=2", "any=1", "--out", tmp_path / "out") == 0
    rows = [r for r in read_manifest(tmp_path / "out") if r.synthetic]
    assert [(r.id, r.dx, r.mask, r.layout) for r in rows] == [
        ("syn0-00000", None, None, None), ("syn0-00001", "DF", None, None), ("syn0-00002", "DF", None, None)
    ]  # fmt: skip


def test_counts_by_class_are_nested(
    real: Path, tmp_path: Path, augment: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"id": f"p{i}", "layout": f"new{i}", "dx": ("MEL", "DF", None)[i % 3]} for i in range(60)]
    folder = pairs(tmp_path / "pairs", items)

    def chosen(*counts: str) -> list[Row]:
        out = tmp_path / "-".join(counts)
        assert augment(real, "--synthetic", folder, "--counts", *counts, "--out", out, "--seed", 9) == 0
        return [r for r in read_manifest(out) if r.synthetic]

    few, more = chosen("MEL=5", "any=4"), chosen("mel=11")
    assert Counter(r.dx for r in few)["MEL"] == 5 and len(few) == 9
    assert {r.id for r in few if r.dx == "MEL"} < {r.id for r in more}
    assert Counter(r.dx for r in more) == {"MEL": 11}
    capsys.readouterr()
    assert augment(real, "--synthetic", folder, "--counts", "DF=21", "--out", tmp_path / "x") == 2
    assert "--counts DF=21: 20 synthetic pictures are there" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["DF", "DF=", "DF=-1", "DF=1.5", "WART=3", "DF=nan", "=3"])
def test_bad_counts(word: str) -> None:
    with pytest.raises(InputError, match="--counts"):
        read_counts([word])


def test_a_class_may_stand_once() -> None:
    with pytest.raises(InputError, match="DF stands twice"):
        read_counts(["DF=1", "df=2"])


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        ("", "0 bytes"),
        ("\n", "holds no picture"),
        ('{"layout": "a"', "line 1: is no JSON object"),
        ("[1]", "line 1: is no JSON object"),
        ('{"seed": 1}', "line 1: layout, id or image is None, no plain name"),
        ('{"layout": "../a"}', "line 1: layout, id or image is '../a', no plain name"),
        ('{"layout": "a", "image": "../../x.png"}', "leads out of"),
        ('{"layout": "a", "image": 5}', "image is 5; give a path"),
        ('{"layout": "a", "prompt": 5}', "prompt is no text"),
        ('{"id": "a"}', "names no picture"),
        ('{"layout": "a", "id": "x/y"}', "no plain name"),
        ('{"layout": 3}', "no plain name"),
        ('{"layout": "gone"}', "is no file; run pairs with --resume"),
        ('{"layout": "a"}\n{"layout": "a"}', "line 2: 'a' stands twice"),
        ('{"layout": "a", "dx": "wart"}', "dx is 'wart'"),
    ],
)
def test_bad_folders_of_pairs(
    real: Path, tmp_path: Path, augment: Command, capsys: pytest.CaptureFixture[str], content: str, needle: str
) -> None:
    folder = pairs(tmp_path / "p ü", [{"layout": "a"}])
    (folder / "meta.jsonl").write_text(content)
    assert augment(real, "--synthetic", folder, "--out", tmp_path / "out") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and needle in said[0] and str(folder) in said[0], said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (("--synthetic", "{tmp}"), "holds none of meta.jsonl, samples.jsonl, manifest.jsonl"),
        (("--synthetic", "{tmp}/no"), "no: no such file"),
        (("--synthetic", "{pairs}", "--seed", "-1"), "--seed -1: must be 0 or more"),
        (("--synthetic", "{pairs}", "--out", "{real}"), "is a file; choose a folder"),
        (("--synthetic", "{pairs}", "--out", "{home}"), "holds manifest.jsonl already"),
        ((), "synthetic"),
    ],
)
def test_refusals(
    real: Path,
    tmp_path: Path,
    augment: Command,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    needle: str,
) -> None:
    folder = pairs(tmp_path / "pairs", trained(1))
    names = {"tmp": str(tmp_path), "pairs": str(folder), "real": str(real), "home": str(real.parent)}
    given = [w.format(**names) for w in words]
    before = real.read_bytes()
    assert augment(real, *given, *([] if "--out" in given else ["--out", tmp_path / "out"])) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and needle in said[0], said
    assert real.read_bytes() == before and not (tmp_path / "out").exists()


def test_a_manifest_without_training_rows(tmp_path: Path, augment: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jpg").write_bytes(b"1")
    write_manifest(tmp_path / "manifest.jsonl", [Row("x", tmp_path / "x.jpg", None, "test")])
    folder = pairs(tmp_path / "pairs", trained(1))
    assert augment(tmp_path, "--synthetic", folder, "--out", tmp_path / "out") == 2
    assert "has no row of split train; run prepare first" in capsys.readouterr().err
