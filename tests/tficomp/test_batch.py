"""`batch`: interruption and resume give the bytes of an uninterrupted run; nothing is overwritten or mixed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tficomp import batch
from tficomp.manifest import write_manifest

Command = Callable[..., int]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, sample_files: Callable) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    rows = []
    for i in range(3):
        paths = sample_files(folder / f"s{i}", seed=i)
        rows.append(
            {role: f"s{i}/{p.name}" for role, p in paths.items()} | {"prompt": "a tumor", "id": f"s{i}", "seed": i}
        )
    write_manifest(folder / "manifest.json", rows)
    return folder / "manifest.json"


def words(manifest: Path, bundle: Path, out: Path, *more: Any) -> list[Any]:
    fixed = ("--weights", bundle, "--device", "cpu", "--steps", 2, "--batch-size", 2, "--json")
    return ["batch", manifest, "--out", out, *fixed, *more]


def pictures(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.png"))}


@pytest.fixture(scope="module")
def whole(manifest: Path, random_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    from tficomp.cli import main

    out = tmp_path_factory.mktemp("whole") / "out"
    assert main([str(word) for word in words(manifest, random_bundle, out, "--export", "coco")]) == 0
    return out


def stopped(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C once `after` groups are through the network."""
    done, real = [0], batch.compose_batch

    def interrupted(*args: Any, **named: Any) -> Any:
        if done[0] == after:
            raise KeyboardInterrupt
        done[0] += 1
        return real(*args, **named)

    monkeypatch.setattr(batch, "compose_batch", interrupted)


def test_every_row_gets_its_folder(whole: Path, manifest: Path) -> None:
    assert {p.name for p in whole.iterdir()} == {"s0", "s1", "s2", "batch.json", "run.json", "coco.json"}
    for i in range(3):
        record = json.loads((whole / f"s{i}" / "run.json").read_text())
        assert record["measures"]["row_seed"] == i and set(record["inputs"]) == {
            "background", "object", "object_mask", "user_mask"
        }  # fmt: skip
        with Image.open(whole / f"s{i}" / "result.png") as image:
            assert image.size == (48, 40) and json.loads(image.info["graft"])["synthetic"] is True
        assert sorted(record["outputs"]) == sorted(p.name for p in (whole / f"s{i}").glob("*.png"))
    assert json.loads((whole / "run.json").read_text())["measures"]["samples"] == 3
    assert len(json.loads((whole / "coco.json").read_text())["annotations"]) == 3


def test_interrupted_and_resumed_equals_uninterrupted(
    manifest: Path, random_bundle: Path, whole: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stopped(patch, after=1)
        assert command(*words(manifest, random_bundle, out)) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--resume" in said and "Traceback" not in said
    assert {p.name for p in out.iterdir()} == {"s0", "s1", "batch.json"}
    # one row of the first group is lost as well: its group is computed whole again, the finished row is kept
    (out / "s0" / "run.json").unlink()
    (out / "s0" / "result.png").write_bytes(b"half")
    kept = (out / "s1" / "result.png").stat().st_mtime_ns
    assert command(*words(manifest, random_bundle, out, "--resume", "--batch-size", 1)) == 0
    assert pictures(out) == pictures(whole)
    assert (out / "s1" / "result.png").stat().st_mtime_ns == kept
    assert json.loads((out / "batch.json").read_text())["batch_size"] == 2


def test_a_finished_batch_is_not_computed_again(
    manifest: Path, random_bundle: Path, whole: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(monkeypatch, after=0)
    before = pictures(whole)
    assert command(*words(manifest, random_bundle, whole, "--export", "coco", "--resume")) == 0
    assert pictures(whole) == before


@pytest.mark.parametrize(
    ("more", "needle"),
    [
        ((), "holds a batch already; pass --resume"),
        (("--resume", "--guidance", 3), "was begun with other rows or settings"),
        (("--resume", "--seed", 9), "was begun with other rows or settings"),
    ],
)
def test_others_are_refused(
    manifest: Path, random_bundle: Path, whole: Path, command: Command, capsys: pytest.CaptureFixture[str],
    more: tuple[Any, ...], needle: str,
) -> None:  # fmt: skip
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*")}
    assert command(*words(manifest, random_bundle, whole, *more, "--export", "coco")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"--out {whole}" in said and needle in said
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*")} == before


def test_other_rows_are_refused(
    manifest: Path, random_bundle: Path, whole: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(manifest.read_text())
    write_manifest(manifest.with_name("fewer.json"), rows[:2])
    other = words(manifest.with_name("fewer.json"), random_bundle, whole, "--export", "coco", "--resume")
    assert command(*other) == 2
    assert "other rows or settings" in capsys.readouterr().err


def test_a_lesion_is_where_the_mask_says(whole: Path, manifest: Path) -> None:
    """The label lies in the user's box; the composed picture differs from its background."""
    for i in range(3):
        with Image.open(whole / f"s{i}" / "lesion_mask.png") as image:
            label = np.asarray(image) > 127
        with Image.open(manifest.parent / f"s{i}" / "user_mask.png") as image:
            user = np.asarray(image) > 127
        assert label.any() and (label & user).sum() > 0.8 * label.sum()


def test_what_is_refused_leaves_no_batch_behind(
    manifest: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that do not exist must not make the corrected command look like a second batch."""
    for verb in (["batch", manifest], ["baseline", "--method", "vae", "--manifest", manifest]):
        for words in (["--weights", "tiny-sdd"], ["--size", 33]):
            assert command(*verb, "--out", tmp_path / "out", *words) == 2
            assert str(words[1]) in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_bad_batch_size(manifest: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("batch", manifest, "--batch-size", 0, "--out", tmp_path / "o") == 2
    assert "--batch-size 0" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_finished_batch_keeps_its_record_and_takes_new_exports(
    whole: Path, manifest: Path, random_bundle: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = json.loads((out / "run.json").read_text())
    monkeypatch.setattr(batch, "opened", None)  # nothing is left to compute, so nothing is loaded
    assert command(*words(manifest, random_bundle, out, "--export", "yolo", "--resume")) == 0
    after = json.loads((out / "run.json").read_text())
    assert after["stages"] == before["stages"] and after["measures"] == before["measures"]
    assert set(after["outputs"]) > set(before["outputs"]) and (out / "data.yaml").is_file()
    assert (out / "s1" / "result.txt").read_text().startswith("0 ")
