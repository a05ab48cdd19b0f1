"""`sample`, `pairs`, `box` and `edit` as a user meets them: files, records, resume and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from didgen.annotate import THIN
from didgen.cli import main
from didgen.pipeline import to_uint8
from didgen.prompts import prompt_of
from didgen.tokens import PREFIX
from didgen.write import mask_image
from graft_common.pixels import read_provenance, resize
from graft_common.raster import write_png


@pytest.fixture(autouse=True)
def weights(untrained, monkeypatch):
    """The verbs run on the untrained model: what they write is not looked at here, that they write is."""
    for verb in ("sample", "batch", "box", "edit", "demo"):
        monkeypatch.setattr(f"didgen.{verb}.load_model", lambda config: untrained)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("länder mit platz")
    y, x = (np.mgrid[:96, :96] + 0.5) / 96
    for i, center in enumerate((0.3, 0.5, 0.7)):
        write_png(folder / f"m{i}.png", mask_image((x - center) ** 2 + (y - 0.5) ** 2 < 0.04), {})
    return folder


def test_pairs_writes_a_pair_for_each_layout_and_resumes_to_the_same_bytes(layouts, tmp_path):
    out = tmp_path / "out"
    argv = ["pairs", "--layouts", str(layouts), "--out", str(out), "--steps", "2", "--seed", "5", "--batch-size", "2"]
    assert main(argv) == 0
    rows = [json.loads(line) for line in (out / "meta.jsonl").read_text().splitlines()]
    assert [r["layout"] for r in rows] == ["m0", "m1", "m2"] and [r["seed"] for r in rows] == [5, 6, 7]
    for row in rows:
        image, mask = pixels(out / row["image"]), pixels(out / row["mask"])
        assert image.shape == (64, 64, 3) and mask.shape == (64, 64) and set(np.unique(mask)) <= {0, 255}
        assert read_provenance(out / row["image"])["synthetic"] is True
        assert row["eta"] == 20.0 and isinstance(row["flag"], list)
    run = json.loads((out / "run.json").read_text())
    assert run["measures"]["network_calls"] == 2 * (2 + 1) and len(run["outputs"]) == 3 * 2 + 2
    before = {p: p.read_bytes() for p in out.rglob("*.*") if p.name != "run.json"}
    assert main(argv) == 2
    (out / "image" / "m1.png").unlink()
    assert main([*argv, "--resume"]) == 0
    assert {p: p.read_bytes() for p in out.rglob("*.*") if p.name != "run.json"} == before  # panel and meta.jsonl too
    assert main([*argv, "--resume", "--eta", "3"]) == 2


def test_thin_layouts_are_flagged_and_told_once_at_the_end(tmp_path, capsys):
    folder, out = tmp_path / "layouts", tmp_path / "out"
    for name in ("a", "b", "c", "d"):
        mask = np.zeros((64, 64), bool)
        mask[20:22, 10:50] = True
        write_png(folder / f"{name}.png", mask_image(mask), {})
    mask[20:40] = True
    write_png(folder / "thick.png", mask_image(mask), {})
    argv = ["pairs", "--layouts", str(folder), "--out", str(out), "--steps", "1", "--eta", "0", "--json"]
    for words in (argv, [*argv, "--resume"]):  # also where nothing is left to draw
        assert main(words) == 0
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if "thinner" in line]
        assert lines == [
            f"graft-didgen pairs: a, b, c and 1 more: {THIN}, so guidance can hardly place it; thicken it or give a larger --size"
        ]
        assert json.loads(said.out)["measures"]["thin_layouts"] == 4
    rows = [json.loads(line) for line in (out / "meta.jsonl").read_text().splitlines()]
    assert [THIN in row["flag"] for row in rows] == [True] * 4 + [False]


def test_the_demo_heeds_seed_and_compile(tmp_path, monkeypatch):
    import didgen.demo
    from graft_common import rng

    starts, compiled = set(), []
    noise = rng.noise
    monkeypatch.setattr("didgen.encode.rng.noise", lambda shape, seed: starts.add(seed) or noise(shape, seed))
    monkeypatch.setattr(torch, "compile", lambda module: lambda *a, **k: compiled.append(1) or module(*a, **k))
    monkeypatch.setattr(didgen.demo, "STEPS", 1)
    assert main(["demo", "--out", str(tmp_path), "--seed", "7", "--compile"]) == 0
    assert starts == {didgen.demo.FIRST + 7 + i for i in range(6)} and compiled
    assert json.loads((tmp_path / "run.json").read_text())["measures"]["network_calls"] > len(compiled)  # watched ones are not
    assert main(["demo", "--out", str(tmp_path), "--seed", "-1"]) == 2


def test_other_weights_or_damaged_notes_do_not_resume(layouts, untrained, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    argv = ["pairs", "--layouts", str(layouts), "--out", str(out), "--steps", "1", "--eta", "0"]
    assert main(argv) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "didgen.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("didgen.batch.load_model", lambda config: replace(untrained, folder=tmp_path / "other"))
        assert main([*argv, "--resume"]) == 2
    (out / "meta.jsonl").write_text("{")
    assert main([*argv, "--resume"]) == 2
    (out / "pairs.json").write_text("{}")
    assert main([*argv, "--resume"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word, line in zip(("weights", "meta.jsonl", "pairs.json"), said[-3:], strict=True))
    (out / "pairs.json").unlink()  # without a plan nothing is taken over
    assert main([*argv, "--resume"]) == 0 and len((out / "meta.jsonl").read_text().splitlines()) == 3


def test_given_prompts_are_used(layouts, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    wanted = prompt_of(np.eye(64, dtype=bool), 3)
    prompts.write_text(json.dumps({"layout": "m1", "prompt": wanted}) + "\n")
    out = tmp_path / "out"
    argv = ["pairs", "--layouts", str(layouts), "--prompts", str(prompts), "--out", str(out), "--steps", "1", "--eta", "0"]
    assert main(argv) == 0
    rows = [json.loads(line) for line in (out / "meta.jsonl").read_text().splitlines()]
    assert rows[1]["prompt"] == wanted != rows[0]["prompt"] and rows[0]["losses"] == []


def test_sample_writes_pictures_with_their_attributes(tmp_path):
    given = tmp_path / "a.json"
    words = {"shape": "round", "colors": ["red"], "size": "small", "position": "center", "skin": "dark", "hair": "none"}
    given.write_text(json.dumps([words, words | {"skin": "tan"}]))
    out = tmp_path / "out"
    assert main(["sample", "--attributes", str(given), "--out", str(out), "--n", "2", "--steps", "1", "--vary"]) == 0
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [r["seed"] for r in rows] == [0, 1, 2, 3] and rows[0]["attributes"]["skin"] == "dark"
    assert rows[1]["attributes"] != rows[0]["attributes"] and rows[2]["attributes"]["skin"] == "tan"
    assert main(["sample", "--out", str(out), "--steps", "1"]) == 2  # holds samples already


def test_box_writes_labels_that_read_back(tmp_path):
    out = tmp_path / "out"
    assert main(["box", "--box", "0.1,0.2,0.5,0.8", "--out", str(out), "--n", "2", "--steps", "2"]) == 0
    assert (out / "label" / "box_00001.txt").read_text().split() == ["0", "0.300000", "0.500000", "0.400000", "0.600000"]
    coco = json.loads((out / "coco.json").read_text())
    assert coco["annotations"][1]["bbox"] == pytest.approx([6.4, 12.8, 25.6, 38.4])
    assert {i["file_name"] for i in coco["images"]} == {"image/box_00000.png", "image/box_00001.png"}


def test_a_photograph_is_edited_at_its_own_aspect_and_only_inside_its_mask(tmp_path, capsys):
    """A face that scikit-image installs; no dermoscopic photograph is."""
    import skimage

    with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as photo:
        face = np.asarray(photo.convert("RGB"))[40:200, 160:280]
    write_png(tmp_path / "face.png", face, {})
    y, x = np.mgrid[:160, :120]
    write_png(tmp_path / "mask.png", mask_image((y - 80) ** 2 + (x - 60) ** 2 < 30**2), {})
    words = ["--source", "An image of <lesion> on <skin>, red", "--target", "An image of <lesion> on <skin>, black and large"]
    argv = ["edit", "--image", str(tmp_path / "face.png"), "--mask", str(tmp_path / "mask.png"), *words, "--steps", "3"]
    assert main([*argv, "--iterations", "1", "--out", str(tmp_path / "out"), "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    edited = pixels(tmp_path / "out" / "edited.png")
    assert edited.shape == (88, 64, 3) and 0.05 < run["measures"]["region"] < 0.5
    small = to_uint8(torch.from_numpy(resize(face.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1, (88, 64))))
    changed = (edited != small).any(-1)
    assert 0 < changed.mean() <= run["measures"]["region"] + 5e-5  # which is rounded
    assert str(tmp_path) not in json.dumps(run) and run["inputs"].keys() == {"image", "mask"}


def test_edit_inverts_edits_and_takes_a_stored_inversion(layouts, tmp_path):
    image = tmp_path / "photo.png"
    write_png(image, np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8), {})
    words = ["--source", "An image of <lesion> on <skin>, red", "--target", "An image of <lesion> on <skin>, black"]
    argv = ["edit", "--image", str(image), *words, "--steps", "3", "--iterations", "1"]
    assert main([*argv, "--out", str(tmp_path / "a")]) == 0
    stored = tmp_path / "a" / "inversion.safetensors"
    assert main([*argv, "--out", str(tmp_path / "b"), "--inversion", str(stored)]) == 0
    assert (tmp_path / "a" / "edited.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    a, b = (pixels(tmp_path / n / "edited.png").astype(int) for n in "ab")
    assert np.array_equal(a, b)
    assert main([*argv, "--out", str(tmp_path / "c"), "--inversion", str(stored), "--guidance", "3"]) == 2


BAD = [
    (["pairs", "--layouts", "nowhere"], "nowhere"),
    (["pairs", "--layouts", "{empty}"], "holds no"),
    (["pairs", "--layouts", "{full}"], "is full"),
    (["pairs", "--layouts", "{html}"], "page.png"),
    (["pairs", "--layouts", "{long}"], "three times"),
    (["pairs", "--layouts", "{layouts}", "--prompts", "{badprompts}"], "line 1"),
    (["pairs", "--layouts", "{layouts}", "--prompts", "{noplace}"], "lacks <lesion>"),
    (["pairs", "--layouts", "{layouts}", "--size", "60", "64"], "--size 60 64"),
    (["pairs", "--layouts", "{layouts}", "--steps", "2000"], "--steps 2000"),
    (["pairs", "--layouts", "{layouts}", "--prompts", "{twice}"], "second prompt"),
    (["pairs", "--layouts", "{rim}"], "rim.png: is all lesion"),
    (["pairs", "--layouts", "{layouts}", "--eta", "nan"], "--eta nan"),
    (["pairs", "--layouts", "{layouts}", "--share", "2"], "--share"),
    (["pairs", "--layouts", "{layouts}", "--steps", "0"], "--steps 0"),
    (["pairs", "--layouts", "{layouts}", "--seed", "-1"], "--seed -1"),
    (["pairs", "--layouts", "{layouts}", "--out", "{file}"], "is a file"),
    (["pairs", "--layouts", "{layouts}", "--no-cross-loss", "--no-self-loss"], "--eta 0"),
    (["box", "--box", "0.5,0.5,0.5,0.9"], "no size"),
    (["box", "--box", "0.5,0.5,1.5,0.9"], "outside"),
    (["box", "--box", "1,2"], "four numbers"),
    (["sample", "--prompt", "a lesion"], "lacks <lesion>"),
    (["sample", "--attributes", "{badjson}"], "bad.json"),
    (["sample", "--attributes", "{unknown}"], "purple"),
    (["sample", "--n", "0"], "--n 0"),
    (["sample", "--prompt", ""], "lacks <lesion>"),
    (["sample", "--prompt", PREFIX, "--vary"], "--vary"),
    (["sample", "--size", "60", "64"], "--size 60 64"),
    (["box", "--prompt", "a lesion"], "lacks <lesion>"),
    (["edit", "--image", "nowhere.png", "--source", "x", "--target", "y"], "nowhere.png"),
    (["edit", "--image", "{photo}", "--source", "x", "--target", "y"], "lacks <lesion>"),
    (["edit", "--image", "{photo}", "--source", "x", "--target", "y", "--cross-share", "2"], "--cross-share"),
    (["edit", "--image", "{photo}", "--source", "x", "--target", "y", "--mask", "{photo}", "--no-blend"], "--no-blend"),
    (["edit", "--image", "{photo}", "--source", PREFIX, "--target", PREFIX, "--inversion", "{photo}"], "photo.png"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[f"{a[0]} {s}" for a, s in BAD])
def test_bad_input_is_one_line_with_the_cure(argv, said, layouts, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "full", "html", "long", "rim")}
    for place in places.values():
        place.mkdir()
    write_png(places["full"] / "full.png", np.full((32, 32), 255, np.uint8), {})
    (places["html"] / "page.png").write_text("<!doctype html><p>not found")
    write_png(places["rim"] / "rim.png", mask_image(np.arange(96 * 96).reshape(96, 96) > 0), {})  # one pixel is skin
    write_png(places["long"] / "long.png", mask_image(np.pad(np.ones((8, 8), bool), ((4, 4), (4, 100)))), {})
    files = {
        "badprompts": ('{"prompt": "x"}', "p.jsonl"), "noplace": ('{"layout": "m0", "prompt": "a lesion"}', "q.jsonl"),
        "twice": ('{"layout": "m0", "prompt": "a"}\n' * 2, "twice.jsonl"), "badjson": ("{", "bad.json"), "file": ("", "file"),
        "unknown": (json.dumps({"shape": "round", "colors": ["purple"], "size": "small", "position": "center", "skin": "tan",
                                "hair": "none"}), "u.json"),
    }  # fmt: skip
    for key, (text, name) in files.items():
        (tmp_path / name).write_text(text)
        places[key] = tmp_path / name
    write_png(tmp_path / "photo.png", np.zeros((32, 32, 3), np.uint8), {})
    places |= {"layouts": layouts, "photo": tmp_path / "photo.png"}
    full = [word.format(**{k: str(v) for k, v in places.items()}) for word in argv]
    if "--out" not in full:
        full += ["--out", str(tmp_path / "out")]
    assert main(full) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1 and said in shown[0] and "Traceback" not in shown[0]
    assert not (tmp_path / "out").exists()  # nothing is written before a refusal
