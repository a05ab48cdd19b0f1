"""merge, sample-object, sample-background and the pipeline, end to end on random weights; bad input per verb."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionmix import weights
from diffusionmix.config import MergeConfig, SampleBackgroundConfig, SampleObjectConfig
from diffusionmix.merge_verb import run_merge
from diffusionmix.sample_verbs import run_sample_background, run_sample_object
from diffusionmix.weights import load_mix, network
from graft_common.errors import InputError
from graft_common.pixels import read_provenance


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def config(folder: Path, out: Path, **changes: Any) -> MergeConfig:
    return MergeConfig(**{"weights": str(folder), "out": out, "box": ("4,6,16,20",), "steps": 12, "json": True} | changes)


def test_merge_writes_picture_mask_and_record(random_bundle: Path, tmp_path: Path) -> None:
    record = run_merge(config(random_bundle, tmp_path, n=3, batch_size=2, seed=7, save_trajectory=True), ["graft", "merge"])
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["measures"] == record["measures"] and stored["outputs"] == record["outputs"]
    assert all((tmp_path / name).is_file() for name in record["outputs"])
    assert record["measures"]["network_calls"] == 13 and record["synthetic"] is True
    for i, tail in enumerate(["", "_1", "_2"]):
        image, mask = read(tmp_path / f"image{tail}.png"), read(tmp_path / f"mask{tail}.png")
        assert image.shape == (32, 32, 3) and mask.shape == (32, 32) and set(np.unique(mask)) <= {0, 255}
        outside = mask.copy()
        outside[6:26, 4:20] = 0
        assert not outside.any()
        assert read(tmp_path / f"object{tail}.png").shape == (16, 16, 3)
        note, row = read_provenance(tmp_path / f"image{tail}.png"), record["measures"]["pictures"][i]
        assert note is not None and note["seed"] == row["seed"] == 7 + i and note["synthetic"] and note["boxes"] == [[4, 6, 16, 20]]
        assert row["mask_area"] == (mask > 0).sum() and row["classes"][0] in ("blob", "hole")
    again = tmp_path / "again"
    run_merge(config(random_bundle, again, seed=7), ["graft", "merge"])
    assert np.abs(read(again / "image.png").astype(int) - read(tmp_path / "image.png")).max() <= 1


def test_start_none_and_start_one_against_the_background_alone(learned_bundle: Path, tmp_path: Path) -> None:
    plain = SampleBackgroundConfig(weights=str(learned_bundle), seed=5, steps=12, out=tmp_path / "b", json=True)
    run_sample_background(plain, [])  # one picture by default: in a batch of several, last bits differ
    assert [path.name for path in (tmp_path / "b" / "image").iterdir()] == ["00000.png"]
    run_merge(config(learned_bundle, tmp_path / "none", start="none", seed=5), [])
    record = run_merge(config(learned_bundle, tmp_path / "one", start=1, r=0, seed=5), [])
    ground = read(tmp_path / "b" / "image" / "00000.png")
    np.testing.assert_array_equal(read(tmp_path / "none" / "image.png"), ground)
    assert not read(tmp_path / "none" / "mask.png").any()
    pasted, mask = read(tmp_path / "one" / "image.png"), read(tmp_path / "one" / "mask.png") > 0
    np.testing.assert_array_equal(pasted[~mask], ground[~mask])
    assert mask.any() and (pasted[mask] != ground[mask]).any() and record["measures"]["network_calls"] == 12


@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "unipc"])
def test_fast_samplers_take_learned_variance_models(learned_bundle: Path, tmp_path: Path, sampler: str) -> None:
    record = run_merge(config(learned_bundle, tmp_path, sampler=sampler, steps=8), [])
    assert record["measures"]["network_calls"] == 9 and read(tmp_path / "image.png").std() > 0


def photographs(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    grey, rgb = rng.integers(0, 256, (45, 60), dtype=np.uint8), rng.integers(0, 256, (45, 60, 3), dtype=np.uint8)
    clear = rng.choice(np.array([0, 128, 255], np.uint8), (45, 60))
    pictures = {
        "grey": Image.fromarray(grey), "rgb": Image.fromarray(rgb), "palette": Image.fromarray(rgb).quantize(16),
        "deep": Image.fromarray(grey.astype(np.uint16) * 257), "opaque": Image.fromarray(np.dstack([rgb, np.full_like(grey, 255)])),
        "alpha": Image.fromarray(np.dstack([rgb, clear])), "greyalpha": Image.fromarray(np.dstack([grey, clear])),
    }  # fmt: skip
    for name, picture in pictures.items():
        picture.save(folder / f"{name} photo.png")
    pictures["palette"].save(folder / "clearpalette photo.png", transparency=3)
    pictures["alpha"].save(folder / "tiffalpha photo.tif")
    pictures["rgb"].save(folder / "tiff photo.tif")
    pictures["rgb"].save(folder / "jpeg photo.jpg")
    return {path.stem.split()[0]: path for path in folder.glob("* photo.*")}


MODES = ["grey", "rgb", "palette", "deep", "opaque", "alpha", "greyalpha", "clearpalette", "tiff", "tiffalpha", "jpeg"]


@pytest.mark.parametrize("kind", MODES)
def test_photographs_of_every_mode_keep_their_pixels(random_bundle: Path, tmp_path: Path, kind: str) -> None:
    path = photographs(tmp_path)[kind]
    record = run_merge(config(random_bundle, tmp_path / "out", background=path, box=("30,20,24,20",), steps=6), [])
    mask = read(tmp_path / "out" / "mask.png") > 0
    source = Image.open(path)
    before = np.asarray(source.convert({"palette": "RGB", "clearpalette": "RGBA"}.get(kind, source.mode)))
    after = read(tmp_path / "out" / "image.png")
    if before.ndim == 3 and before.shape[2] in (2, 4):
        assert (after[mask][:, -1] == 255).all()
    assert after.shape == before.shape and after.dtype == before.dtype and mask.shape == before.shape[:2]
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert mask.any() and (after[mask] != before[mask]).any()
    said = record["measures"]["notes"]  # a palette cannot hold new colours, so it changes its mode and the run says so
    assert [note.partition(",")[0] for note in said] == ["its mode P cannot hold the object's colours"] * ("palette" in kind)


@pytest.mark.parametrize("how", ["laplacian", "poisson"])
def test_finish_on_a_photograph(random_bundle: Path, tmp_path: Path, how: str) -> None:
    path = photographs(tmp_path)["grey"]
    shared = {"background": path, "box": ("30,20,24,20",), "steps": 6}
    run_merge(config(random_bundle, tmp_path / "a", **shared), [])
    run_merge(config(random_bundle, tmp_path / "b", finish=how, **shared), [])
    a, b, mask = (read(tmp_path / n) for n in ("a/image.png", "b/image.png", "b/mask.png"))
    assert (a != b).any() and a.shape == b.shape
    assert (a != b)[mask == 0].any() == (how == "laplacian")


def test_several_objects_and_drawn_boxes(random_bundle: Path, tmp_path: Path) -> None:
    two = run_merge(config(random_bundle, tmp_path / "two", box=("0,0,16,16", "12,14,20,16"), label=("hole", "blob")), [])
    row = two["measures"]["pictures"][0]
    assert row["boxes"] == [[0, 0, 16, 16], [12, 14, 20, 16]] and row["classes"] == ["hole", "blob"]
    drawn = run_merge(config(random_bundle, tmp_path / "drawn", box=(), n=2, steps=4), [])
    assert drawn["measures"]["pictures"][0]["boxes"] != drawn["measures"]["pictures"][1]["boxes"]
    place = np.zeros((32, 32), np.uint8)
    place[10:30, 12:32] = 255
    Image.fromarray(place).save(tmp_path / "place.png")
    there = run_merge(config(random_bundle, tmp_path / "f", box=(), steps=4, foreground_mask=tmp_path / "place.png"), [])
    x, y, w, h = there["measures"]["pictures"][0]["boxes"][0]
    assert (place[y : y + h, x : x + w] > 0).mean() >= 0.75
    photo = np.full((60, 80, 3), 40, np.uint8)
    photo[20:50, 30:70] = 190
    Image.fromarray(photo).save(tmp_path / "part.png")
    on = run_merge(config(random_bundle, tmp_path / "o", box=(), steps=4, background=tmp_path / "part.png", foreground="otsu"), [])
    x, y, w, h = on["measures"]["pictures"][0]["boxes"][0]
    assert (photo[y : y + h, x : x + w] == 190).mean() >= 0.75
    with pytest.raises(InputError, match="--foreground: leaves no place"):  # random weights draw noise, which has no large part
        run_merge(config(random_bundle, tmp_path / "none", box=(), steps=4, foreground="otsu"), [])


def test_alpha_of_16_bits_is_flattened_and_said(
    random_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "deep.png"), rng.integers(0, 65536, (45, 60, 4), np.uint16))
    shared = {"background": tmp_path / "deep.png", "box": ("30,20,24,20",), "steps": 4}
    record = run_merge(config(random_bundle, tmp_path / "out", **shared), [])
    after = cv2.imread(str(tmp_path / "out" / "image.png"), cv2.IMREAD_UNCHANGED)
    assert after.dtype == np.uint16 and after.shape == (45, 60, 3)
    assert "alpha is flattened" in record["measures"]["notes"][0] and "alpha is flattened" in capsys.readouterr().err


def test_an_earlier_run_leaves_no_pictures(random_bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "image_9.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    run_merge(config(random_bundle, tmp_path / "out", n=3, steps=4, save_trajectory=True), [])
    with pytest.raises(InputError):  # what is refused touches nothing
        run_merge(config(random_bundle, tmp_path / "out", box=("40,0,16,16",)), [])
    assert (tmp_path / "out" / "image_2.png").is_file()
    photo = tmp_path / "out" / "image_2.png"
    record = run_merge(config(random_bundle, tmp_path / "out", steps=4, background=photo), [])
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {*record["outputs"], "run.json", mine.name, photo.name}  # what is not ours, or was read, stays


def test_an_empty_mask_is_flagged_in_the_record(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusionmix.merge_verb.load_mix", lambda *_: build.mix(size=16, canvas=32, radius=0))
    run_merge(config(tmp_path, tmp_path / "out", steps=8, n=2), [])
    stored = json.loads((tmp_path / "out" / "run.json").read_text())["measures"]
    assert stored["flags"] == {"image.png": ["empty mask"], "image_1.png": ["empty mask"]}
    assert all(row["flags"] == ["empty mask"] and row["mask_area"] == 0 for row in stored["pictures"])
    assert not read(tmp_path / "out" / "mask.png").any()


@pytest.mark.parametrize("name", ["brick", "coins"])
def test_defects_on_real_photographs_at_native_size(tmp_path: Path, name: str) -> None:
    from skimage import data

    photo = getattr(data, name)()
    Image.fromarray(photo).save(tmp_path / "photo.png")
    shared = {"background": tmp_path / "photo.png", "box": ("100,80,72,64",), "sampler": "ddim", "steps": 6, "label": ("blob",)}
    run_merge(config(Path("tiny-texture"), tmp_path / "out", **shared), [])
    image, mask = Image.open(tmp_path / "out" / "image.png"), read(tmp_path / "out" / "mask.png") > 0
    assert image.mode == "L" and image.size == photo.shape[::-1] and mask.shape == photo.shape
    assert 100 < mask[80:144, 100:172].sum() == mask.sum() < 72 * 64
    np.testing.assert_array_equal(np.asarray(image)[~mask], photo[~mask])
    assert (np.asarray(image)[mask] != photo[mask]).mean() > 0.5


def test_shipped_names_serve_one_role() -> None:
    mix = load_mix(MergeConfig(weights="tiny-texture", background=Path("tiny-scene")))
    assert mix.name == "tiny-texture+tiny-scene" and mix.classes == ("blob", "hole", "crack")
    assert load_mix(MergeConfig(object=(Path("tiny-scene"),)), ("object",)).classes == ("ball", "crate")


def test_merge_takes_a_shipped_background(tmp_path: Path) -> None:
    shared = {"background": Path("tiny-scene"), "box": ("30,40,48,48",), "sampler": "ddim", "steps": 2}
    record = run_merge(config(Path("tiny-texture"), tmp_path, **shared), [])
    assert record["measures"]["background_model_ran"] and read(tmp_path / "image.png").shape == (128, 128, 3)


def test_halves_can_be_swapped(random_bundle: Path, learned_bundle: Path, tmp_path: Path) -> None:
    mix = load_mix(MergeConfig(weights=str(random_bundle), background=learned_bundle))
    assert mix.object.variance == "fixed_small" and mix.background is not None and mix.background.variance == "learned_range"
    assert mix.name == "random+learned" and mix.classes == ("blob", "hole")
    alone = load_mix(MergeConfig(object=(learned_bundle,), weights="nowhere"), ("object",))
    assert alone.background is None and alone.object.channels == 4 and alone.object_size == 16
    half = tmp_path / "half"
    shutil.copytree(learned_bundle, half, ignore=shutil.ignore_patterns("background*", "model_index.json"))
    assert load_mix(MergeConfig(weights=str(half), background=random_bundle)).object.variance == "learned_range"
    with pytest.raises(InputError, match=r"--weights .*half: holds an object model but no background model; give --background"):
        load_mix(MergeConfig(weights=str(half)))


def test_sample_object(random_bundle: Path, tmp_path: Path) -> None:
    shared = SampleObjectConfig(weights=str(random_bundle), n=3, batch_size=2, steps=5, out=tmp_path / "a", json=True)
    record = run_sample_object(shared, [])
    assert len(record["measures"]["mask_areas"]) == 3 and set(record["measures"]["classes"]) <= {"blob", "hole"}
    for i in range(3):
        mask = read(tmp_path / "a" / "mask" / f"{i:05d}.png")
        assert mask.shape == (16, 16) and (mask > 0).sum() == record["measures"]["mask_areas"][i]
        assert np.array_equal(mask > 0, read(tmp_path / "a" / "channel" / f"{i:05d}.png") > 127)
    named = run_sample_object(replace(shared, label="hole", out=tmp_path / "b"), [])
    assert named["measures"]["classes"] == ["hole"] * 3
    with pytest.raises(InputError, match="holds a run already"):
        run_sample_object(shared, [])


@pytest.mark.parametrize(
    ("change", "says"),
    [({"box": ("20,20,16,16",)}, "--box 20,20,16,16: leaves"), ({"box": ("0,0,4,16",)}, "at least 8"),
     ({"box": ("0,0,99,16",)}, "larger"), ({"box": ("a",)}, "--box a"), ({"label": ("cat",)}, "--label cat: .*blob, hole"),
     ({"label": ("blob", "hole")}, "--label blob hole"),
     ({"tau_steps": 9}, "--tau-steps 9"), ({"steps": 0}, "--steps 0"), ({"n": 0}, "--n 0"), ({"batch_size": 0}, "--batch-size 0"),
     ({"seed": -1}, "--seed -1"), ({"start": 2.0}, "--start 2"), ({"weights": "nope"}, "--weights nope"),
     ({"background": Path("none.png")}, "--background none.png: no such file"), ({"object": (Path("none"),)}, "--object none"),
     ({"foreground": "otsu"}, "--foreground with --box"), ({"mode": "direct"}, "--mode direct"),
     ({"object": (Path("a"), Path("b"))}, "--object: 2 folders for 1 boxes"), ({"merge_seed": -1}, "--merge-seed -1")],
)  # fmt: skip
def test_merge_refuses(random_bundle: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run_merge(config(random_bundle, tmp_path / "out", **change), [])
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [(lambda p: p.write_bytes(b""), "empty"), (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n123"), "cannot be read"),
     (lambda p: p.write_text("<html>"), "web page"), (lambda p: Image.new("RGB", (7, 40)).save(p), "larger than the picture")],
)  # fmt: skip
def test_merge_refuses_photographs(random_bundle: Path, tmp_path: Path, make: Any, says: str) -> None:
    make(tmp_path / "photo ü.png")
    with pytest.raises(InputError, match=says):
        run_merge(config(random_bundle, tmp_path / "out", background=tmp_path / "photo ü.png"), [])


@pytest.mark.parametrize("run", [run_sample_object, run_sample_background])
@pytest.mark.parametrize(
    ("change", "says"),
    [({"n": 0}, "--n 0"), ({"steps": 1001}, "--steps 1001"), ({"weights": "nope"}, "nope"), ({"seed": -3}, "--seed")],
)
def test_samples_refuse(random_bundle: Path, tmp_path: Path, run: Any, change: dict[str, Any], says: str) -> None:
    kind = SampleObjectConfig if run is run_sample_object else SampleBackgroundConfig
    with pytest.raises(InputError, match=says):
        run(kind(**{"weights": str(random_bundle), "out": tmp_path / "out", "json": True} | change), [])


def test_refuses_unfit_weights(build, random_bundle: Path, learned_bundle: Path, tmp_path: Path) -> None:
    def spoilt(name: str, change: Any, source: Path = learned_bundle) -> str:
        folder = tmp_path / name
        shutil.copytree(source, folder)
        change(folder)
        return str(folder)

    def swapped(folder: Path) -> None:
        for kind in ("unet", "scheduler"):
            (folder / f"object_{kind}").rename(folder / "x")
            (folder / f"background_{kind}").rename(folder / f"object_{kind}")
            (folder / "x").rename(folder / f"background_{kind}")

    def edited(file: str, **changes: Any) -> Any:
        def change(folder: Path) -> None:
            content = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps(content | changes))

        return change

    scheduler = "background_scheduler/scheduler_config.json"
    table = [
        (swapped, r"its object model takes 3 channels, as background models do; are the two swapped\?"),
        (edited(scheduler, num_train_timesteps=500), "was trained with 500 steps, the object model of .* with 1000"),
        (edited(scheduler, _class_name="EulerDiscreteScheduler"), "EulerDiscreteScheduler works in sigma space"),
        (edited(scheduler, _class_name="PNDMScheduler"), "PNDMScheduler is none whose steps are made here"),
        (edited(scheduler, _class_name="LCMScheduler"), "LCMScheduler is none whose steps are made here"),
        (edited(scheduler, _class_name="Nonsense"), "background_scheduler cannot be loaded"),
        (edited(scheduler, prediction_type="flow"), "predicts 'flow'"),
        (edited("mix.json", schema=2), "mix.json is missing or damaged"),
        (edited("mix.json", boxes=[[1, 2]]), "mix.json is missing or damaged"),
        (edited("mix.json", classes=["a"]), "knows 0 classes but mix.json names 1"),
        (lambda f: (f / "mix.json").unlink(), "mix.json is missing or damaged"),
        (lambda f: (f / "object_unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x"), "object_unet cannot be loaded"),
        (lambda f: shutil.rmtree(f / "object_unet"), "holds a background model but no object model"),
    ]
    for i, (change, says) in enumerate(table):
        with pytest.raises(InputError, match=says):
            load_mix(MergeConfig(weights=spoilt(f"w{i}", change)))
    from diffusers import DDPMScheduler

    with pytest.raises(InputError, match="takes 5 channels and gives 5; it must take 4 and give 4, or 8"):
        network(build.unet(5), DDPMScheduler(), "object")
    with pytest.raises(InputError, match="variance_type 'learned_range' but the model gives 3 channels"):
        network(build.unet(3), DDPMScheduler(variance_type="learned_range"), "background")
    with pytest.raises(InputError, match="must be square"):
        network(build.unet(4, size=(16, 24)), DDPMScheduler(), "object")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda"):
            load_mix(MergeConfig(weights=str(random_bundle), device="cuda"))
    assert weights.read_mix(random_bundle, "x")["object_size"] == 16


def test_pipeline_saves_loads_and_draws(build, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    from diffusionmix.pipeline import DiffusionMixPipeline

    pipe = build.pipeline(("blob", "hole"))
    pipe.save_pretrained(tmp_path / "p")
    assert json.loads((tmp_path / "p" / "model_index.json").read_text())["_class_name"] == "DiffusionMixPipeline"
    again = DiffusionMixPipeline.from_pretrained(tmp_path / "p")
    assert again.mix["classes"] == ["blob", "hole"] and again.mix["background_size"] == [32, 32]
    for (name, a), (other, b) in zip(
        pipe.object_unet.state_dict().items(), again.object_unet.state_dict().items(), strict=True
    ):
        assert name == other and torch.equal(a, b)
    states: list[int] = []
    out = again(["4,6,16,16", (2, 2, 20, 24)], 6, seeds=[3, 4], labels=["hole", 0], callback=lambda p, s, d: states.append(s))
    assert states == [5, 4, 3, 2, 1, 0, 0] and len(out.images) == len(out.masks) == 2
    np.testing.assert_array_equal(np.asarray(out.images[0]), out.merged[0].image)
    assert out.masks[0].size == (32, 32)
    first = again(["4,6,16,16"], 3, generator=torch.Generator().manual_seed(1), output_type="np").images
    second = again(["4,6,16,16"], 3, generator=torch.Generator().manual_seed(1), output_type="np").images
    np.testing.assert_array_equal(first, second)
    again.object_scheduler = DDIMScheduler()
    assert again([(4, 6, 16, 16)], 5, merge_start=None, output_type="np").merged[0].flags == ("not merged",)
    with pytest.raises(TypeError, match="unknown setting 'taus'"):
        again([(4, 6, 16, 16)], 5, taus=3)
    with pytest.raises(InputError, match="leaves the picture"):
        again([(40, 6, 16, 16)], 5)
