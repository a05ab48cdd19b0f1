"""The verb `caption`: folders, manifests and real photographs in; captions, a manifest for training and a record out."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from didgen import caption
from didgen.attributes import count_tokens, parse, to_json
from didgen.caption import run_caption
from didgen.config_caption import CaptionConfig
from didgen.manifest import Row, read_manifest, write_manifest
from didgen.measure import measure
from didgen.vlm import ASKED
from graft_common import phantoms
from graft_common.errors import InputError


@pytest.fixture(scope="module")
def drawn():
    return [phantoms.draw("dermoscopy", 64, 10_000_100 + i) for i in range(4)]


@pytest.fixture
def data(tmp_path, drawn):
    """images/, masks/ and classes.csv, with a licence among the pictures and a space in the path."""
    root = tmp_path / "my dåta"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "images" / "LICENSE.txt").write_text("CC-0")
    lines = ["image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"]
    for i, phantom in enumerate(drawn):
        Image.fromarray(phantom.image).save(root / "images" / f"p{i}.png")
        Image.fromarray(phantom.masks["lesion"].astype(np.uint8) * 255).save(root / "masks" / f"p{i}_segmentation.png")
        lines.append(f"p{i}," + ",".join("1.0" if k == i else "0.0" for k in range(7)))
    (root / "classes.csv").write_text("\n".join(lines))
    return root


def run(data: Path, **changes):
    settings = {"images": data / "images", "masks": data / "masks", "out": data / "out", "json": True} | changes
    return run_caption(CaptionConfig(**settings), ["graft-didgen", "caption"])


def lines(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_masks_and_classes_go_into_the_words(data, drawn):
    record = run(data, classes=data / "classes.csv")
    rows = lines(data / "out" / "captions.jsonl")
    assert [r["id"] for r in rows] == ["p0", "p1", "p2", "p3"]
    tokenizer, _ = caption.load_tokenizer("tiny-sd")
    for row, phantom, dx in zip(rows, drawn, ("MEL", "NV", "BCC", "AKIEC"), strict=True):
        words = measure(phantom.image, phantom.masks["lesion"], {"diagnosis": dx}).attributes
        assert row["attributes"] == to_json(words) and parse(row["prompt"]) == words
        assert row["mask_source"] == "given" and row["captioner"] == "measure"
        assert row["tokens"] == count_tokens(row["prompt"], tokenizer) <= 75
        assert row["measured"]["area"] == pytest.approx(phantom.attributes["area_fraction"], abs=1e-5)
    made = read_manifest(data / "out" / "manifest.jsonl")  # what train takes
    assert [(r.id, r.dx, r.prompt) for r in made] == [(r["id"], r["attributes"]["diagnosis"], r["prompt"]) for r in rows]
    assert all(r.mask is not None and r.mask.samefile(data / "masks" / f"{r.id}_segmentation.png") for r in made)
    assert record["outputs"] == ["captions.jsonl", "manifest.jsonl"] and (data / "out" / "run.json").is_file()
    assert record["measures"]["pictures"] == 4 and record["measures"]["mask_source"] == {"given": 4}
    assert record["measures"]["longest_prompt"] == max(r["tokens"] for r in rows)
    assert str(data) not in json.dumps(record) and not (data / "out" / "captions.partial.jsonl").exists()


def test_without_masks_it_says_so(data):
    run(data, masks=None)
    rows = lines(data / "out" / "captions.jsonl")
    assert {r["mask_source"] for r in rows} == {"otsu"} and rows[0]["attributes"]["diagnosis"] is None
    assert all(r.mask is None for r in read_manifest(data / "out" / "manifest.jsonl"))


def test_ham10000s_table(data):
    (data / "ham.csv").write_text("lesion_id,image_id,dx\nL1,p2,akiec\nL2,p0,vasc\n")
    run(data, classes=data / "ham.csv")
    assert [r.dx for r in read_manifest(data / "out" / "manifest.jsonl")] == ["VASC", None, "AKIEC", None]


def test_a_manifest_keeps_its_columns(data, tmp_path):
    row = Row("a1", data / "images" / "p1.png", data / "masks" / "p1_segmentation.png", "val", "DF", "L7")
    write_manifest(tmp_path / "prepared" / "manifest.jsonl", [row], [data])
    run(data, images=tmp_path / "prepared" / "manifest.jsonl", masks=None, out=tmp_path / "captioned")
    (made,) = read_manifest(tmp_path / "captioned")
    assert (made.id, made.split, made.dx, made.lesion_id) == ("a1", "val", "DF", "L7")
    assert made.prompt is not None and parse(made.prompt).diagnosis == "DF" and made.image.samefile(row.image)


def test_the_tokenizer_and_budget_count(data):
    run(data, budget=19)
    rows = lines(data / "out" / "captions.jsonl")
    assert all(r["tokens"] <= 26 for r in rows)
    shortened = [r for r in rows if to_json(parse(r["prompt"])) != r["attributes"]]
    assert shortened and all(parse(r["prompt"]).border is None for r in shortened)


@pytest.mark.parametrize("name", ["retina", "microaneurysms", "immunohistochemistry", "face"])
def test_real_photographs(name, tmp_path):
    import skimage.data

    picture = skimage.data.astronaut()[:220, 140:330] if name == "face" else getattr(skimage.data, name)()
    Image.fromarray(picture).save(tmp_path / f"{name}.png")
    run_caption(CaptionConfig(images=tmp_path, out=tmp_path / "out", json=True), ["graft-didgen"])
    (row,) = lines(tmp_path / "out" / "captions.jsonl")
    assert row["mask_source"] == "otsu" and row["tokens"] <= 75 and to_json(parse(row["prompt"])) == row["attributes"]
    if name == "retina":  # a round view on black; the optic disc is the bright spot at the left
        assert row["attributes"]["markers"] == ["dark-corners"]
        assert (row["attributes"]["size"], row["attributes"]["position"]) == ("small", "left")


def test_an_interrupted_run_goes_on(data, monkeypatch):
    run(data, out=data / "whole")
    count = 0

    def measured(*args):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(caption, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        run(data)
    assert not (data / "out" / "captions.jsonl").exists()
    with (data / "out" / "captions.partial.jsonl").open("a") as file:
        file.write('{"id": "p2", "attrib')  # the power went
    with pytest.raises(InputError, match="pass --resume"):
        run(data)
    with pytest.raises(InputError, match="was begun with other budget"):
        run(data, resume=True, budget=30)
    run(data, resume=True)
    assert count == 5  # two before, the interrupted one, two after
    for name in ("captions.jsonl", "manifest.jsonl"):
        assert (data / "out" / name).read_bytes() == (data / "whole" / name).read_bytes()
    with pytest.raises(InputError, match="holds captions already"):
        run(data, resume=True)


def test_a_model_is_named_and_its_fallbacks_are_counted(data, monkeypatch):
    said = iter(['{"shape": "round", "hair": "none"}'] * 12)
    monkeypatch.setattr(caption, "load_generate", lambda name, device: lambda image, text: next(said))
    record = run(data, captioner="somebody/model")
    rows = lines(data / "out" / "captions.jsonl")
    assert {r["captioner"] for r in rows} == {"somebody/model"} and {r["replies"] for r in rows} == {3}
    for row in rows:
        assert row["attributes"]["shape"] == "round" and row["sources"]["shape"] == row["sources"]["hair"] == "model"
        assert {n for n, who in row["sources"].items() if who == "measured"} == set(ASKED) - {"shape", "hair"}
    assert record["measures"]["model_fields_measured"] == {name: 4 for name in ASKED if name not in ("shape", "hair")}


def write(path: Path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def truncated(data):
    path = data / "images" / "p1.png"
    path.write_bytes(path.read_bytes()[:200])


def mask(data, levels):
    write(data / "masks" / "p3_segmentation.png", levels)


def even(data):
    write(data / "images" / "p1.png", np.full((64, 64, 3), 200))


STRIPES = np.repeat(np.arange(4) * 80, 16)[None].repeat(64, 0)
BROKEN = {
    "no folder": (lambda d: {"images": d / "nowhere"}, "nowhere: is no folder"),
    "no pictures": (lambda d: {"images": d}, "holds no PNG"),
    "empty picture": (lambda d: (d / "images" / "p0.png").write_bytes(b""), "p0.png: is empty"),
    "truncated picture": (truncated, "p1.png"),
    "text as picture": (lambda d: (d / "images" / "p0.png").write_text("hello"), "is no PNG, JPEG, TIFF or BMP"),
    "two of one name": (lambda d: (d / "images" / "p0.jpg").write_bytes(b"x"), "p0.jpg and p0.png have one name"),
    "missing mask": (lambda d: (d / "masks" / "p2_segmentation.png").unlink(), "has 0 masks of p2.png"),
    "two masks": (lambda d: write(d / "masks" / "p2.png", np.eye(64) * 255), "has 2 masks of p2.png"),
    "mask of another size": (lambda d: mask(d, np.eye(32) * 255), "is 32x32 but its image is 64x64"),
    "empty mask": (lambda d: mask(d, np.zeros((64, 64))), "is empty"),
    "all lesion": (lambda d: mask(d, np.full((64, 64), 255)), "is full"),
    "classes in a mask": (
        lambda d: mask(d, STRIPES), "holds 4 classes",
    ),
    "nothing to see": (lambda d: even(d) or {"masks": None}, "p1.png: no lesion differs"),
    "unknown id": (lambda d: table(d, "image_id,dx\np0,nv\nq7,mel"), "row 3: q7 is no picture"),
    "twice": (lambda d: table(d, "image_id,dx\np0,nv\np0,nv"), "row 3: p0 stands twice"),
    "unknown class": (lambda d: table(d, "image_id,dx\np0,mole"), "row 2: dx is 'mole'"),
    "no columns": (lambda d: table(d, "file,class\np0,nv"), "has no columns image and MEL"),
    "two classes": (lambda d: table(d, "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\np0,1,1,0,0,0,0,0"), "marks 2 classes"),
    "no class": (lambda d: table(d, "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\np0,0,0,0,0,0,0,0"), "marks 0 classes"),
    "half a class": (lambda d: table(d, "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\np0,1,0.5,0,0,0,0,0"), "marks 1 classes; give one 1"),
    "words for numbers": (lambda d: table(d, "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\np0,yes,0,0,0,0,0,0"), "value that is no number"),
    "empty table": (lambda d: table(d, ""), "is empty"),
    "manifest and masks": (lambda d: manifest(d) or {"images": d}, "--masks and --classes"),
    "budget too small": (lambda d: {"budget": 3}, "budget is 3"),
    "budget too large": (lambda d: {"budget": 76}, "--budget 76"),
    "unknown captioner": (lambda d: {"captioner": "llama"}, "--captioner llama: is neither measure nor a folder"),
    "unknown weights": (lambda d: {"weights": "huge-sd"}, "--weights huge-sd"),
    "out is a file": (lambda d: {"out": d / "images" / "LICENSE.txt"}, "LICENSE.txt"),
}  # fmt: skip


def table(data, text):
    (data / "t.csv").write_text(text)
    return {"classes": data / "t.csv"}


def manifest(data):
    write_manifest(data / "manifest.jsonl", [Row("p0", data / "images" / "p0.png")])


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input(name, data):
    breaks, said = BROKEN[name]
    changes = breaks(data)
    with pytest.raises(InputError) as why:
        run(data, **(changes if isinstance(changes, dict) else {}))
    assert said in str(why.value) and "\n" not in str(why.value)
    assert not (data / "out" / "captions.jsonl").exists()
    if name == "unknown captioner":
        assert not (data / "out").exists()  # nothing is in the way of the next try


def test_skip_leaves_out_and_counts(data):
    truncated(data)
    record = run(data, skip=True)
    rows = lines(data / "out" / "captions.jsonl")
    assert record["measures"]["skipped"] == 1 and record["measures"]["pictures"] == 3
    assert "p1.png" in rows[1]["skipped"] and str(data) not in rows[1]["skipped"]
    assert [r.id for r in read_manifest(data / "out" / "manifest.jsonl")] == ["p0", "p2", "p3"]
    for path in (data / "images").glob("*.png"):
        path.write_text("no picture")
    with pytest.raises(InputError, match="no picture could be captioned"):
        run(data, skip=True, out=data / "other")


def test_config_is_flat_and_frozen():
    assert dataclasses.fields(CaptionConfig)
    with pytest.raises(dataclasses.FrozenInstanceError):
        CaptionConfig(images=Path("x")).budget = 3  # type: ignore[misc]
