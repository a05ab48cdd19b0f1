"""What DiffusionMix promises, measured on held-out phantoms: `uv run --all-packages python tools/diffusionmix_claims.py`.

Parts: objects (the object models alone, by `evaluate`), few (one trained on 24 pictures), grid, baselines, samplers (by `study`),
use (a segmenter trained on synthetic and on true defects), speed. Writes benchmarks/results/diffusionmix_claims.json and the
tables in packages/diffusionmix/README.md. Every part, and every batch of a study, is kept in the cache as it ends; a second run
goes on where the first one stopped, and a smaller n takes what is there.

Costs in network calls of each chain and picture: grid 475 (tau x r x start on DDIM-50 with shared beginnings, instead of 4,740),
baselines about 110, samplers 365, use 57. Where time is short, cut --samplers and --grid first: a batch is eight seeds.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[1]
FIRST = 10_000_000  # seeds from here on are held out
SIZE, OBJECT_SIZE = 128, 64
BEGIN, END = "<!-- claims: begin (tools/diffusionmix_claims.py writes this) -->", "<!-- claims: end -->"
FEW_COMMAND = "uv run --all-packages python tools/train_tiny.py tiny-texture --only few"
World = Literal["texture", "scene"]
PartName = Literal["objects", "few", "grid", "baselines", "samplers", "use", "speed"]
STUDIES = ("grid", "baselines", "samplers")


@dataclass(frozen=True)
class Settings:
    """Measure what DiffusionMix promises on phantoms."""

    parts: tuple[PartName, ...] = get_args(PartName)
    """Parts to run; the others are taken from the cache where they are there."""
    worlds: tuple[World, ...] = ("texture", "scene")
    """Worlds to run them on (few and use: texture alone)."""
    texture: str = "tiny-texture"
    """Weights of the world texture: shipped name or folder."""
    scene: str = "tiny-scene"
    """Weights of the world scene."""
    few: Path = ROOT / "runs" / "tiny-few"
    """Run folder of a texture object model trained on few pictures (model/ from train-object, data/ its prepared folder); left out
    where it is not."""
    objects: int = 128
    """Objects of each class."""
    object_sampler: Literal["ddpm", "ddim", "dpm++"] = "ddim"
    """Sampler of the object tables."""
    train_pictures: int = 6000
    """Pictures that each object model was trained on (seeds 0 and on), for the nearest of them."""
    grid: int = 64
    """Seeds of each setting of the grid."""
    baselines: int = 64
    """Seeds of each baseline."""
    samplers: int = 128
    """Seeds of each sampler."""
    scene_share: float = 0.5
    """Share of the grid's seeds that the world scene gets."""
    synthetic: int = 96
    """Synthetic defects that the segmenter is trained on."""
    real: int = 24
    """True defects of the scarce arms."""
    test: int = 120
    """True pictures that segmenters are tested on, half of them without a defect."""
    use_steps: int = 300
    """Optimiser steps of each segmenter."""
    batch_size: int = 8
    """Pictures in one pass."""
    threads: int = 2
    """CPU threads, and processes that draw phantoms."""
    fresh: bool = False
    """Forget the cache."""
    cache: Path = ROOT / "out" / "claims" / "diffusionmix"
    """Folder of finished parts."""
    out: Path = ROOT / "benchmarks" / "results" / "diffusionmix_claims.json"
    """The result."""
    readme: Path = ROOT / "packages" / "diffusionmix" / "README.md"
    """Its tables between the markers are written anew."""

    def weights(self, world: str) -> str:
        """Weights of a world."""
        return self.texture if world == "texture" else self.scene

    def count(self, name: str, world: str) -> Any:
        """A setting for a world."""
        value = getattr(self, name)
        return max(2, round(value * self.scene_share)) if world == "scene" and name == "grid" else value


def _object(folder: Path, world: str, wanted: tuple[int, str | None, str]) -> dict[str, Any]:
    """Draw one object's square as `prepare` cuts it."""
    from diffusionmix.world import draw_scene, object_crop
    from graft_common.files import write_bytes
    from graft_common.raster import encode

    seed, label, split = wanted
    scene = draw_scene(world, SIZE, seed, label)  # type: ignore[arg-type]
    image, mask = object_crop(scene, OBJECT_SIZE)
    name, note = f"{seed:08d}{'' if label is None else '_' + label}", {"synthetic": True, "seed": seed}
    write_bytes(folder / "image" / f"{name}.png", encode(image, "png", note))
    write_bytes(folder / "mask" / f"{name}.png", encode(mask.astype(np.uint8) * np.uint8(255), "png", note))
    return {"id": name, "label": scene.label, "split": split, "box": tuple(scene.box or ())}


def real_objects(world: str, s: Settings) -> Path:
    """A prepared folder: the training squares (seeds 0 and on) and `objects` held-out ones of each class."""
    from concurrent.futures import ProcessPoolExecutor

    from diffusionmix.prepared import HEAD, Row, write_prepared
    from diffusionmix.world import CLASSES

    folder = s.cache / "data" / f"{world}-{s.train_pictures}-{s.objects}"
    if (folder / HEAD).exists():
        return folder
    wanted: list[tuple[int, str | None, str]] = [(i, None, "train") for i in range(s.train_pictures)]
    wanted += [(FIRST + i, label, "test") for label in CLASSES[world] for i in range(s.objects)]  # type: ignore[index]
    with ProcessPoolExecutor(s.threads) as pool:
        found = list(pool.map(partial(_object, folder, world), wanted, chunksize=32))
    rows = [
        Row(f["id"], folder / "image" / f"{f['id']}.png", folder / "mask" / f"{f['id']}.png", f["label"], f["split"], f["id"],
            f["box"], (SIZE, SIZE), True)
        for f in found
    ]  # fmt: skip
    write_prepared(folder, "object", OBJECT_SIZE, CLASSES[world], rows)  # type: ignore[index]
    return folder


def drawn_objects(weights: str, own: tuple[Path, ...], folder: Path, s: Settings) -> None:
    """`objects` samples of each class as image/<class>/, mask/<class>/ and channel/<class>/."""
    from diffusionmix.compose import sample_channels
    from diffusionmix.config import ModelConfig, SampleObjectConfig
    from diffusionmix.weights import load_mix
    from diffusionmix.write import mask_image
    from graft_common.raster import write_png

    mix = load_mix(ModelConfig(weights=weights, object=own), ("object",))
    settings = SampleObjectConfig(sampler=s.object_sampler)
    note = {"synthetic": True, "method": "diffusionmix"}
    size = 4 * s.batch_size
    for number, label in enumerate(mix.classes):
        for first in range(0, s.objects, size):
            seeds = [FIRST + number * 10_000 + i for i in range(first, min(first + size, s.objects))]
            drawn = sample_channels(mix, seeds, [number] * len(seeds), settings)
            for seed, (image, mask, channel) in zip(seeds, drawn, strict=True):
                for kind, array in (("image", image), ("mask", mask_image(mask)), ("channel", channel)):
                    write_png(folder / kind / label / f"{seed}.png", array, note)


def evaluated(real: Path, made: Path, out: Path, s: Settings) -> dict[str, Any]:
    """What `graft-diffusionmix evaluate` writes."""
    from diffusionmix.config_study import EvaluateConfig
    from diffusionmix.evaluate import run_evaluate

    run_evaluate(EvaluateConfig(real=real, generated=made, out=out), ["graft-diffusionmix", "evaluate"])
    return dict(json.loads((out / "metrics.json").read_text(encoding="utf-8")))


def objects(world: str, s: Settings) -> Any:
    """The table of one world's object model."""
    made = s.cache / "objects" / f"{world}-{digest(s.weights(world))[:12]}-{s.objects}-{s.object_sampler}"
    shutil.rmtree(made, ignore_errors=True)
    drawn_objects(s.weights(world), (), made, s)
    return evaluated(real_objects(world, s), made, made / "scores", s)


def few(world: str, s: Settings) -> Any:
    """The table of the model trained on few pictures, against those pictures; None where there is no such model."""
    if world != "texture" or not (s.few / "model").is_dir():
        return None
    from diffusionmix.prepared import Row, read_prepared, write_prepared

    own, held = read_prepared(s.few / "data"), read_prepared(real_objects(world, s))
    folder = s.cache / "data" / "few"
    shutil.rmtree(folder, ignore_errors=True)
    rows = []
    pairs = [(r, "train") for r in own.rows if r.split == "train"] + [(r, "test") for r in held.rows if r.split == "test"]
    for row, split in pairs:
        files = []
        for kind, source in (("image", row.image), ("mask", row.mask)):
            target = folder / kind / f"{split}_{row.id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            assert source is not None
            shutil.copyfile(source, target)
            files.append(target)
        rows.append(Row(f"{split}_{row.id}", *files, row.label, split, row.group, row.box, row.source_size, True))  # type: ignore[arg-type]
    write_prepared(folder, "object", OBJECT_SIZE, own.classes, rows)
    made = s.cache / "objects" / "few"
    shutil.rmtree(made, ignore_errors=True)
    drawn_objects(s.weights(world), (s.few / "model",), made, s)
    return evaluated(folder, made, made / "scores", s) | {"pictures": sum(r.split == "train" for r in rows)}


def study(part: str, world: str, s: Settings) -> Any:
    """Rows and findings of `graft-diffusionmix study` for one part and one world."""
    from diffusionmix.config_study import StudyConfig
    from diffusionmix.study import run_study

    out = s.cache / "study" / f"{part}-{world}"
    n = s.count("grid" if part == "grid" else "baselines", world)
    config = StudyConfig(
        weights=(s.weights(world),), truth=(world,), parts=(part,), n=max(3, n), n_samplers=max(3, s.count("samplers", world)),
        batch_size=s.batch_size, resume=not s.fresh, out=out, seed=FIRST,
    )  # type: ignore[arg-type]  # fmt: skip
    run_study(config, ["graft-diffusionmix", "study"])
    return json.loads((out / "study.json").read_text(encoding="utf-8"))


def use(world: str, s: Settings) -> Any:
    """A segmenter trained on synthetic, true, and both kinds of defects, beside copy-paste; tested on true pictures."""
    if world != "texture":
        return None
    from diffusionmix.baselines import paste
    from diffusionmix.box import draw_box
    from diffusionmix.compose import merge
    from diffusionmix.config import MergeConfig, ModelConfig
    from diffusionmix.downstream import downstream
    from diffusionmix.weights import load_mix
    from diffusionmix.world import draw_scene, object_crop

    mix = load_mix(ModelConfig(weights=s.weights(world)))
    settings = MergeConfig(sampler="ddim")
    names, seeds = mix.classes, [FIRST + 200_000 + i for i in range(s.synthetic)]
    boxes = [draw_box(mix.boxes, (SIZE, SIZE), seed) for seed in seeds]
    made = []
    for first in range(0, s.synthetic, s.batch_size):
        part = slice(first, first + s.batch_size)
        made += merge(mix, boxes[part], seeds[part], settings, [i % len(names) for i in range(s.synthetic)][part])
    made = [m for m in made if m.mask.any()]
    good = np.stack([draw_scene(world, SIZE, FIRST + 300_000 + i, "none").image for i in range(s.synthetic)])
    clean = np.zeros((len(good), SIZE, SIZE), bool)
    true = [draw_scene(world, SIZE, FIRST + 400_000 + i, names[i % len(names)]) for i in range(s.synthetic)]
    cuts = [object_crop(scene, OBJECT_SIZE) for scene in true[: s.real]]
    pasted = [paste(good[i], cuts[i % len(cuts)], boxes[i], seeds[i]) for i in range(s.synthetic)]

    def arm(images: list[np.ndarray], masks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([np.stack(images), good]), np.concatenate([np.stack(masks), clean])

    ours = [m.image for m in made], [m.mask for m in made]
    scarce = [t.image for t in true[: s.real]], [t.mask for t in true[: s.real]]
    arms = {
        f"{s.real} true defects": arm(*scarce),
        f"{len(made)} synthetic defects": arm(*ours),
        "both": arm(ours[0] + scarce[0], ours[1] + scarce[1]),
        f"copy-paste of the {s.real} (trivial)": arm([p.image for p in pasted], [p.mask for p in pasted]),
        f"{s.synthetic} true defects": arm([t.image for t in true], [t.mask for t in true]),
    }
    half = s.test // 2
    held = [draw_scene(world, SIZE, FIRST + 500_000 + i, names[i % len(names)]) for i in range(half)]
    held += [draw_scene(world, SIZE, FIRST + 600_000 + i, "none") for i in range(s.test - half)]
    return downstream(arms, (np.stack([h.image for h in held]), np.stack([h.mask for h in held])), steps=s.use_steps)


def speed(world: str, s: Settings) -> Any:
    """Seconds of eight pictures with 50 states after loading (one warm-up step before), on this machine's threads."""
    import torch

    from diffusionmix.box import draw_box
    from diffusionmix.compose import merge, plan_of
    from diffusionmix.config import MergeConfig, ModelConfig
    from diffusionmix.weights import load_mix

    mix = load_mix(ModelConfig(weights=s.weights(world)))
    seeds = list(range(FIRST, FIRST + 8))
    boxes = [draw_box(mix.boxes, mix.background_size, seed) for seed in seeds]
    settings = MergeConfig(steps=50)
    merge(mix, boxes[:1], seeds[:1], MergeConfig(steps=1, r=0))
    began = time.perf_counter()
    merge(mix, boxes, seeds, settings)
    seconds = time.perf_counter() - began
    return {"pictures": 8, "calls": plan_of(settings).reverse_steps, "seconds": seconds, "threads": torch.get_num_threads()}


def digest(weights: str) -> str:
    """Of a bundle."""
    from diffusionmix.config import ModelConfig
    from diffusionmix.weights import load_mix

    return load_mix(ModelConfig(weights=weights)).sha256


RUN: dict[str, Callable[[str, Settings], Any]] = {
    "objects": objects, "few": few, "use": use, "speed": speed, **{name: partial(study, name) for name in STUDIES},
}  # fmt: skip
COUNTED = {
    "objects": ("objects", "object_sampler", "train_pictures"), "few": ("objects", "object_sampler"), "grid": ("grid",),
    "baselines": ("baselines",), "samplers": ("samplers",), "use": ("synthetic", "real", "test", "use_steps"),
    "speed": ("threads",),
}  # fmt: skip


def kept(part: str, world: str, s: Settings) -> Path:
    """File of a finished part."""
    said = [part, world, digest(s.weights(world)), *(str(s.count(name, world)) for name in COUNTED[part])]
    if part == "few":
        from graft_common.provenance import folder_digest

        said.append(folder_digest(s.few) if s.few.is_dir() else "")
    return s.cache / f"{part}-{world}-{hashlib.sha256(' '.join(said).encode()).hexdigest()[:12]}.json"


def main(s: Settings) -> None:
    """Run what is asked for and not cached, then write the JSON and the tables."""
    import torch

    from graft_common.console import write_json

    torch.set_num_threads(s.threads)
    found: dict[str, dict[str, Any]] = {part: {} for part in get_args(PartName)}
    for part in get_args(PartName):
        for world in s.worlds:
            path = kept(part, world, s)
            if part in s.parts and (s.fresh or not path.exists()):
                began = time.perf_counter()
                result = RUN[part](world, s)
                if result is not None:
                    write_json(path, {"minutes": (time.perf_counter() - began) / 60, "result": result})
                print(f"{part} {world}: {(time.perf_counter() - began) / 60:.1f} min", flush=True)
            if path.exists():
                found[part][world] = json.loads(path.read_text(encoding="utf-8"))["result"]
    names = ("objects", "grid", "baselines", "samplers", "synthetic", "real", "test")
    counts = {world: {name: s.count(name, world) for name in names} for world in s.worlds}
    used = {world: digest(s.weights(world)) for world in s.worlds}
    result = {"schema": 1, "synthetic": True, "first_seed": FIRST, "n": counts, "weights": used, "parts": found}
    write_json(s.out, result)
    text = tables(found)
    lines = s.readme.read_text(encoding="utf-8")
    before, after = lines.split(BEGIN)[0], lines.split(END)[1]
    s.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    print(text)


def cell(summary: dict[str, Any] | None, digits: int = 2) -> str:
    """mean [low, high]."""
    if summary is None:
        return ""
    low, high = summary["ci95"]
    return f"{summary['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def head(first: str, names: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [f"| {first} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]


OBJECT_COLUMNS = {
    "decided": "decided", "mask_iou": "mask IoU", "mask_near": "within 1 px", "agreement": "class agreement",
    "area_ratio": "area distance / train's", "nearest_ratio": "nearest / held-out's",
}  # fmt: skip


def tables(found: dict[str, dict[str, Any]]) -> str:
    """The README's tables of the parts that are there."""
    rows: list[str] = []
    rows += object_rows(found["objects"], "object model, by class")
    rows += object_rows(found["few"], "object model of 24 pictures")
    if found["few"]:
        rows += ["", f"The model of 24 pictures is trained by `{FEW_COMMAND}`."]
    rows += study_rows(found["baselines"], "baseline (DDIM-50)")
    rows += grid_rows(found["grid"])
    rows += study_rows(found["samplers"], "sampler")
    rows += bound_rows(found["samplers"])
    for world, arms in found["use"].items():
        rows += ["", *head(f"segmenter trained on ({world})", ["image AUROC", "pixel AUPRO"])]
        rows += [f"| {name} | {cell(m['image_auroc'], 3)} | {cell(m['pixel_aupro'], 3)} |" for name, m in arms.items()]
    for world, m in found["speed"].items():
        said = f"{m['pictures']} pictures with {m['calls']} calls in {m['seconds']:.1f} s on {m['threads']} CPU threads"
        rows += ["", f"{world}: {said}."]
    return "\n".join(rows).strip()


def object_rows(part: dict[str, Any], title: str) -> list[str]:
    """One row a class, and one of its true held-out objects."""
    rows: list[str] = []
    for world, result in part.items():
        rows += ["", *head(f"{title} ({world})", list(OBJECT_COLUMNS.values()))]
        for label, both in result["classes"].items():
            for who, name in (("generated", label), ("real, held out", f"{label}, true")):
                rows.append(f"| {name} | " + " | ".join(cell(both[who].get(c)) for c in OBJECT_COLUMNS) + " |")
        if result.get("classifier_accuracy") is not None:
            rows += ["", f"The classifier names {result['classifier_accuracy']:.3f} of the true held-out objects right."]
    return rows


STUDY_COLUMNS = {"harmony": "harmony", "log_seam": "log seam", "contrast": "contrast", "l1": "L1 to unmerged", "iou": "mask IoU"}


def study_rows(part: dict[str, Any], title: str) -> list[str]:
    """One row a setting; harmony is better low, contrast near 1."""
    rows: list[str] = []
    for world, result in part.items():
        rows += ["", *head(f"{title} ({world})", [*STUDY_COLUMNS.values(), "FID_tiny", "calls", "empty"])]
        for row in result["rows"]:
            values = [cell(row.get(c), 3) for c in STUDY_COLUMNS] + [cell(row.get("fid_tiny"))]
            rows.append(f"| {row['setting']} | " + " | ".join(values) + f" | {row['calls']:g} | {row['empty']} of {row['n']} |")
        shares = {k: v for k, v in result["findings"].get(next(iter(result["findings"])), {}).items()}
        nearer = shares.get("baselines", {})
        if nearer:
            rows += ["", *head("ours nearer to the truth than", ["share of seeds"])]
            rows += [f"| {name.partition(': ')[2]} | {cell(v)} |" for name, v in nearer.items() if v]
    return rows


def grid_rows(part: dict[str, Any]) -> list[str]:
    """Resampling at the latest start, the other starts without and with one climb, and where detail begins to be lost."""
    rows: list[str] = []
    for world, result in part.items():
        grid = [row for row in result["rows"] if row["start"] is not None]
        if not grid:
            continue
        late = max(row["start"] for row in grid)
        shown = [r for r in grid if r["start"] == late or r["tau"] == 0 or (r["tau"] == 10 and r["r"] in (0, 1))]
        rows += ["", *head(f"resampling ({world}, DDIM-50)", [*STUDY_COLUMNS.values(), "calls"])]
        for row in sorted(shown, key=lambda r: (r["start"], r["tau"] * (r["r"] > 0), r["r"])):
            values = [cell(row.get(c), 3) for c in STUDY_COLUMNS]
            rows.append(f"| {row['setting']} | " + " | ".join(values) + f" | {row['calls']:g} |")
        for findings in result["findings"].values():
            rows += ["", *head(f"L1 rises by more than 0.01 ({world})", ["from r", "harmony raised by most climbs (p)"])]
            for start, taus in findings["grid"].items():
                for tau, f in taus.items():
                    from_r = "never" if f["detail_costs_from_r"] is None else f"{f['detail_costs_from_r']:g}"
                    rows.append(f"| {start}, tau {tau} | {from_r} | {'yes' if f['harmony_raised'] else 'no'} ({f['p']:.3f}) |")
    return rows


def bound_rows(part: dict[str, Any]) -> list[str]:
    """Losses of the fast samplers with their one-sided bounds."""
    rows: list[str] = []
    for world, result in part.items():
        rows += ["", *head(f"loss ({world})", ["mask IoU", "harmony", "FID_tiny", "not worse"])]
        for findings in result["findings"].values():
            for name, f in findings["samplers"].items():
                values = [f"{f[m]['mean']:.3f} (bound {f[m]['upper95']:.3f})" if m in f else "" for m in ("iou", "harmony", "fid")]
                rows.append(f"| {name} | " + " | ".join(values) + f" | {'yes' if f['all'] else 'no'} |")
    return rows


if __name__ == "__main__":
    main(tyro.cli(Settings))
