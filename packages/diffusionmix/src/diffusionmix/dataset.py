"""The verb `dataset`: two models -> pictures with masks and boxes in MVTec's layout, with COCO and YOLO files; resumable.

Pictures are drawn in fixed groups. What is empty or too near to a training picture is drawn again from another seed, in the same
group. An interrupted group is drawn again whole: every picture meets the batch, and so the last bits, that it would have met.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from diffusionmix.box import checked_box, inner_square, parse_box
from diffusionmix.compose import label_number, merge, sample_backgrounds
from diffusionmix.config_data import DatasetConfig
from diffusionmix.export import coco, yolo_line, yolo_list, yolo_yaml
from diffusionmix.finish import finish
from diffusionmix.foreground import read_foreground
from diffusionmix.merge_verb import placed
from diffusionmix.prepared import MANIFEST, load_arrays, read_prepared
from diffusionmix.read import read_mask, read_rgb
from diffusionmix.records import Merged, Mix
from diffusionmix.similarity import nearest, thumbs
from diffusionmix.weights import load_mix
from diffusionmix.write import mask_image, overlay
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import atomic_path, read_bytes, sha256, typed, write_bytes
from graft_common.panel import panel
from graft_common.provenance import public_config, stamp
from graft_common.raster import write_png
from graft_common.resume import begun, check_same, settings_digest

PLAN, ITEMS = "dataset.json", "items.jsonl"
COCO, YOLO, YOLO_LIST = "annotations.json", "yolo.yaml", "yolo.txt"
NAMELESS = "object"
AGAIN = 1_000_000_007  # added to a picture's seed for each further draw
APART = 500_000_003  # good pictures take seeds from here, so that none shares its background with a defect
SHOWN = 8


@dataclass(frozen=True)
class Job:
    """One picture: its file below the data set's folder, its first seed, its class (None: a good picture)."""

    name: str
    seed: int
    label: int | None
    good: bool = False

    def mask(self) -> str:
        """The mask's file, as MVTec names it."""
        category, _, defect, file = self.name.split("/")
        return f"{category}/ground_truth/{defect}/{Path(file).stem}_mask.png"


@dataclass(frozen=True, eq=False)
class Bank:
    """Training pictures to keep away from, and how near to each other real pictures come."""

    rows: Float64[np.ndarray, "m d"]
    ids: tuple[str, ...]
    limit: float
    digest: str
    real: tuple[float, float] | None


def run_dataset(config: DatasetConfig, command: list[str]) -> dict[str, Any]:
    """Draw, check and write; finished groups are kept when it is interrupted.

    Raises:
        InputError: weights or settings that cannot work, a folder that holds another data set, or a picture that stays empty or a
            near copy after --attempts draws.
    """
    config.check()
    out = checked_out(config.out)
    run = Run(command, config, "graft-diffusionmix")
    with run.stage("load"):
        mix = load_mix(config)
        run.weights = mix.weights()
        if config.box:
            checked_box(parse_box(config.box[0]), mix.background_size)
        bank = None if config.against is None else read_bank(config)
        foreground = None
        if config.foreground_mask is not None:
            foreground = read_foreground(run.read("foreground", config.foreground_mask), mix.background_size)
    jobs = jobs_of(config, mix)
    groups = plan(config, jobs, run, bank, out)
    done, tries = finished(out, jobs), Counter[str]()
    with progress("draw", len(jobs), quiet=config.json) as advance:
        for group in groups:
            if any(job.name not in done for job in group):
                with run.stage("draw"):
                    if group[0].good:
                        rows = draw_good(group, config, mix, run, out)
                    else:
                        rows = draw_group(group, config, mix, run, out, bank, foreground)
                done |= {row["image"]: row for row in rows}
                write_items(out, [done[job.name] for job in jobs if job.name in done])
            advance(len(group))
    with run.stage("export"):
        write_exports(out, jobs, done, classes_of(mix), mix.background_size)
    shown = [shown_row(out, job, done[job.name]) for job in jobs[:SHOWN] if not job.good]
    write_png(out / "panel.png", panel(shown, "data set (synthetic)"), stamp("diffusionmix", config.seed, run.weights, {}))
    for job in jobs:
        run.outputs += [job.name] if job.good else [job.name, job.mask()]
    run.outputs += [COCO, YOLO, YOLO_LIST, ITEMS, "panel.png"]
    rows = [done[job.name] for job in jobs if not job.good]
    for row in rows:
        tries.update(row["refused"])
    near = [row["similarity"] for row in rows if row["similarity"] is not None]
    run.measures = {
        "pictures": len(rows), "good": len(jobs) - len(rows), "classes": dict(Counter(row["label"] for row in rows)),
        "drawn_again": dict(tries), "flagged": sum(bool(row["flags"]) for row in rows),
        "similarity": {"max": max(near), "median": float(np.median(near))} if near else None,
        "real_similarity": None if bank is None or bank.real is None else {"max": bank.real[0], "median": bank.real[1]},
    }  # fmt: skip
    return run.write(out)


def classes_of(mix: Mix) -> tuple[str, ...]:
    """Names of the model's classes; one nameless class where it has none."""
    if mix.classes:
        return mix.classes
    return tuple(f"class{i}" for i in range(mix.object.classes)) or (NAMELESS,)


def jobs_of(config: DatasetConfig, mix: Mix) -> list[Job]:
    """All pictures: objects first, the classes taking turns (or the one asked for), then good ones.

    Raises:
        InputError: no such class, or a class that is no folder name.
    """
    names = classes_of(mix)
    for name in names:
        if name in ("good", ".", "..") or "/" in name or "\\" in name:
            raise InputError(f"--weights {config.weights}: its class {name!r} is no folder name; rename it in mix.json")
    wanted = [label_number(mix, config.label[0])] if config.label else list(range(len(names)))
    jobs, digits = list[Job](), max(3, len(str(config.n - 1)))
    for i in range(config.n):
        label, number = wanted[i % len(wanted)], i // len(wanted)
        name = f"{config.category}/test/{names[label]}/{number:0{digits}d}.png"
        jobs.append(Job(name, config.seed + i, label if mix.object.classes else None))
    counts = (("train", config.n if config.train_good is None else config.train_good), ("test", config.test_good))
    seed = config.seed + APART
    for split, count in counts:
        digits = max(3, len(str(count - 1)))
        for i in range(count):
            jobs.append(Job(f"{config.category}/{split}/good/{i:0{digits}d}.png", seed, None, good=True))
            seed += 1
    return jobs


def read_bank(config: DatasetConfig) -> Bank:
    """The training squares of --against.

    Raises:
        InputError: it was not prepared, or holds backgrounds.
    """
    assert config.against is not None and config.max_similarity is not None
    prepared = read_prepared(config.against)
    if prepared.role != "object":
        raise InputError(f"--against {typed(config.against)}: holds backgrounds; give the prepared objects of the training")
    rows = thumbs(load_arrays(prepared, "train").images)
    real = None
    if any(row.split == "test" for row in prepared.rows):
        found = nearest(load_arrays(prepared, "test").images, rows)[0]
        real = (float(found.max()), float(np.median(found)))
    ids = tuple(row.id for row in prepared.rows if row.split == "train")
    return Bank(rows, ids, float(config.max_similarity), sha256(config.against / MANIFEST), real)


def plan(config: DatasetConfig, jobs: Sequence[Job], run: Run, bank: Bank | None, out: Path) -> list[list[Job]]:
    """Groups of at most --batch-size pictures, objects and good ones apart: those of the first run when it is resumed.

    Raises:
        InputError: a data set is there already and --resume was not given, or it was begun with other settings.
    """
    settings = public_config(asdict(config))
    for free in ("resume", "json", "out", "batch_size"):
        settings.pop(free)
    settings |= {"weights": run.weights, "against": None if bank is None else bank.digest, "inputs": run.digests}
    digest, where = settings_digest(settings), f"--out {typed(config.out)}"
    stored, size = begun(out / PLAN, config.resume, where, "a data set"), config.batch_size
    if stored is not None:
        check_same(stored, digest, where, "weights or settings")
        size = stored["batch_size"]
    elif out.is_dir() and (out / config.category).exists():
        raise InputError(f"{where}: holds {config.category} already; choose another")
    else:
        write_json(out / PLAN, {"schema": 1, "batch_size": size, "settings": digest})
    kinds = ([job for job in jobs if not job.good], [job for job in jobs if job.good])
    return [kind[i : i + size] for kind in kinds for i in range(0, len(kind), size)]


def finished(out: Path, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Rows of items.jsonl whose files are there, by picture.

    Raises:
        InputError: the file is damaged.
    """
    path, known = out / ITEMS, {job.name for job in jobs}
    try:
        rows = [json.loads(line) for line in read_bytes(path).decode().splitlines()] if path.exists() else []
        files = [(row, [row["image"], row["mask"]]) for row in rows if row["image"] in known]
        return {row["image"]: row for row, names in files if all(n is None or (out / n).exists() for n in names)}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{typed(path)}: is damaged; delete it to draw its pictures again") from None


def draw_group(
    group: Sequence[Job],
    config: DatasetConfig,
    mix: Mix,
    run: Run,
    out: Path,
    bank: Bank | None,
    foreground: Bool[np.ndarray, "H W"] | None,
) -> list[dict[str, Any]]:
    """Draw the pictures of a group until each has a mask and is no near copy, then write them; returns their rows.

    Raises:
        InputError: one is refused --attempts times.
    """
    kept: dict[str, tuple[Merged, float | None, str | None]] = {}
    refused: dict[str, Counter[str]] = {job.name: Counter() for job in group}
    given = [parse_box(text) for text in config.box]
    for attempt in range(config.attempts):
        left = [job for job in group if job.name not in kept]
        if not left:
            break
        seeds = [job.seed + attempt * AGAIN for job in left]
        boxes = [scene[0].box for scene in placed(config, mix, given, seeds, mix.background_size, foreground)]
        labels = None if left[0].label is None else [int(job.label or 0) for job in left]
        results = merge(mix, boxes, seeds, config, labels)
        similar, place = _nearness(results, bank)
        for job, result, near, index in zip(left, results, similar, place, strict=True):
            if not result.mask.any():
                refused[job.name]["empty mask"] += 1
            elif bank is not None and near is not None and near > bank.limit:
                refused[job.name]["near copy"] += 1
            else:
                kept[job.name] = (result, near, None if bank is None or index is None else bank.ids[index])
    for job in group:
        if job.name not in kept:
            raise InputError(_hopeless(job, refused[job.name], config))
    rows = []
    for job in group:
        result, near, twin = kept[job.name]
        row = write_picture(job, result, config, mix, run, out)
        rows.append(row | {"similarity": near, "nearest": twin, "refused": dict(refused[job.name])})
    return rows


def _nearness(
    results: Sequence[Merged], bank: Bank | None
) -> tuple[list[float | None], list[int | None]]:
    if bank is None:
        return [None] * len(results), [None] * len(results)
    similar, place = nearest(np.stack([result.object for result in results]), bank.rows)
    return [round(float(v), 6) for v in similar], [int(v) for v in place]


def _hopeless(job: Job, refused: Counter[str], config: DatasetConfig) -> str:
    counts = " and ".join(f"{count} times {why}" for why, count in sorted(refused.items()))
    if refused["near copy"]:
        cure = "raise --max-similarity, or train on more pictures"
    else:
        cure = "the object model paints no object; train it longer, or merge later with --start 0.95"
    return f"--attempts {config.attempts}: {job.name} was drawn {config.attempts} times, {counts}; {cure}"


def write_picture(job: Job, result: Merged, config: DatasetConfig, mix: Mix, run: Run, out: Path) -> dict[str, Any]:
    """Write picture, mask and YOLO text; returns the row of items.jsonl, which marks them as done."""
    label = job.label or 0
    about = {"box": list(result.box), "class": classes_of(mix)[label]}
    note = stamp("diffusionmix", result.seed, run.weights, run.digests) | about
    box = inner_square(result.box) if config.keep_aspect else result.box
    image = finish(result.image, result.image, result.object, result.mask, box, config.finish)
    write_png(out / job.name, image, note)
    write_png(out / job.mask(), mask_image(result.mask), note)
    write_bytes(out / Path(job.name).with_suffix(".txt"), yolo_line(label, result.mask).encode())
    return {
        "image": job.name, "mask": job.mask(), "label": about["class"], "seed": result.seed, "box": about["box"],
        "area": int(result.mask.sum()), "flags": list(result.flags), "synthetic": True,
    }  # fmt: skip


def draw_good(group: Sequence[Job], config: DatasetConfig, mix: Mix, run: Run, out: Path) -> list[dict[str, Any]]:
    """Pictures of the background model alone."""
    pictures = sample_backgrounds(mix, [job.seed for job in group], config)
    for job, picture in zip(group, pictures, strict=True):
        write_png(out / job.name, picture, stamp("diffusionmix", job.seed, run.weights, {}))
    return [{"image": job.name, "mask": None, "label": "good", "seed": job.seed, "synthetic": True} for job in group]


def write_items(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """All rows in one step."""
    with atomic_path(out / ITEMS) as beside:
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_exports(
    out: Path, jobs: Sequence[Job], done: dict[str, dict[str, Any]], classes: Sequence[str], size: tuple[int, int]
) -> None:
    """annotations.json, yolo.yaml and yolo.txt, from the mask files: a resumed run writes the same."""
    pictures = [(job.name, size) for job in jobs]
    instances = [
        (i, job.label or 0, read_mask(out / done[job.name]["mask"], "auto", size))
        for i, job in enumerate(jobs) if not job.good
    ]  # fmt: skip
    write_json(out / COCO, coco(pictures, instances, classes))
    write_bytes(out / YOLO, yolo_yaml(classes).encode())
    write_bytes(out / YOLO_LIST, yolo_list([job.name for job in jobs if not job.good]).encode())


def shown_row(out: Path, job: Job, row: dict[str, Any]) -> list[tuple[str, UInt8[np.ndarray, "_ _ *_"]]]:
    """Picture | mask | overlay, from the files."""
    image, mask = read_rgb(out / job.name), read_mask(out / job.mask())
    return [(row["label"], image), ("mask", mask_image(mask)), ("mask's rim, box", overlay(image, mask, row["box"]))]
