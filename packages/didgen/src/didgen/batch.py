"""The verb `pairs`: a folder of layouts -> pictures with their masks, in fixed groups, resumable."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from didgen.annotate import THIN
from didgen.config import PairsConfig
from didgen.denoise import denoiser
from didgen.images import read_lesion_mask, read_rgb
from didgen.pipeline import draw_pairs, fitted, on_grids, working_size
from didgen.prompts import prompt_of
from didgen.records import Pair
from didgen.tokens import positions
from didgen.weights import Model, load_model
from didgen.write import mask_image, outlined
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.errors import InputError
from graft_common.files import atomic_path, read_bytes, typed
from graft_common.panel import panel
from graft_common.provenance import public_config, stamp
from graft_common.raster import write_png
from graft_common.resume import begun, check_same, settings_digest

PLAN, META = "pairs.json", "meta.jsonl"
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
SHOWN = 8


@dataclass(frozen=True, eq=False)
class Job:
    """One pair to draw: the layout's file, its mask, the prompt and the seed."""

    name: str
    path: Path
    mask: Bool[np.ndarray, "H W"]
    prompt: str
    seed: int


def run_pairs(config: PairsConfig, command: list[str]) -> dict[str, Any]:
    """Draw every layout of the folder; finished groups are kept when it is interrupted.

    Raises:
        InputError: unreadable or unusable layouts, prompts or settings.
    """
    config.check()
    out = checked_out(config.out)
    run = Run(command, config, "graft-didgen")
    with run.stage("load"):
        model = load_model(config)
        run.weights = model.weights()
    with run.stage("read"):
        jobs = read_jobs(config, model)
        for job in jobs:
            run.read(f"layout {job.name}", job.path)
    network = denoiser(model.bundle, config)
    groups = plan(config, jobs, model, run.weights, out)
    done = finished(out)
    with progress("draw", len(jobs), quiet=config.json) as advance:
        for group in groups:
            if any(job.name not in done for job in group):
                with run.stage("draw"):
                    made = draw_pairs(
                        [j.mask for j in group], [j.prompt for j in group], [j.seed for j in group], config, model,
                        network, [typed(j.path) for j in group],
                    )  # fmt: skip
                for job, pair in zip(group, made, strict=True):
                    if job.name not in done:
                        done[job.name] = write_pair(job, pair, config, model, run, out)
                write_meta(out, [done[j.name] for j in jobs if j.name in done])
            advance(len(group))
    note = stamp("didgen", config.seed, run.weights, {})
    sheet = [pair_row(job, done[job.name], out) for job in jobs[:SHOWN]]
    write_png(out / "panel.png", panel(sheet, "layout pairs (synthetic)"), note)
    run.outputs = [f"{kind}/{job.name}.png" for job in jobs for kind in ("image", "mask")] + [META, "panel.png"]
    flagged = [name for name, row in done.items() if row["flag"]]
    narrow = [job.name for job in jobs if THIN in done[job.name]["flag"]]
    run.measures = {"pairs": len(jobs), "flagged": len(flagged), "thin_layouts": len(narrow), "network_calls": network.calls}
    if narrow:
        more = f" and {len(narrow) - 3} more" if len(narrow) > 3 else ""
        print(
            f"graft-didgen pairs: {', '.join(narrow[:3])}{more}: {THIN}, so guidance can hardly place it; "
            "thicken it or give a larger --size",
            file=sys.stderr,
        )
    return run.write(out)


def read_jobs(config: PairsConfig, model: Model) -> list[Job]:
    """Layouts in the order of their names, each with its prompt; everything is checked before anything is drawn.

    Raises:
        InputError: no layout, two of one name, an unusable mask, or prompts that do not fit.
    """
    folder = config.layouts
    files = layout_files(folder)
    twice = {p.stem for p in files if sum(q.stem == p.stem for q in files) > 1}
    if twice:
        raise InputError(f"--layouts {typed(folder)}: two files are named {sorted(twice)[0]}; pairs are named by the stem")
    given = read_prompts(config.prompts, {p.stem for p in files}) if config.prompts else {}
    jobs = []
    for i, path in enumerate(files):
        mask = read_lesion_mask(path)
        size = working_size(mask.shape, config, model.bundle)
        on_grids([fitted(mask, size)], size, model.bundle, [typed(path)])  # refuses what cannot guide
        prompt = given.get(path.stem) or prompt_of(mask, config.seed + i, model.seen)
        positions(model.bundle.tokenizer, prompt)
        jobs.append(Job(path.stem, path, mask, prompt, config.seed + i))
    return jobs


def layout_files(folder: Path) -> list[Path]:
    """Picture files of a folder by name.

    Raises:
        InputError: it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise InputError(f"--layouts {typed(folder)}: is no folder; give one with layout masks")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise InputError(f"--layouts {typed(folder)}: holds no PNG, JPEG, TIFF or BMP; put layout masks there")
    return files


def read_prompts(path: Path, names: set[str]) -> dict[str, str]:
    """layout -> prompt.

    Raises:
        InputError: a line is no such object, or names no layout.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(read_bytes(path, f"--prompts {typed(path)}").decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, prompt = str(row["layout"]), row["prompt"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f'--prompts {typed(path)}: line {number} is no {{"layout": .., "prompt": ..}}') from None
        if name not in names or not isinstance(prompt, str) or not prompt:
            raise InputError(f"--prompts {typed(path)}: line {number} names layout {name!r}, which is not in --layouts")
        if name in found:
            raise InputError(f"--prompts {typed(path)}: line {number} gives layout {name!r} a second prompt; keep one of them")
        found[name] = prompt
    return found


def plan(
    config: PairsConfig, jobs: Sequence[Job], model: Model, weights: dict[str, str], out: Path
) -> list[list[Job]]:
    """Groups of one picture size, at most --batch-size each: those of the first run when it is resumed.

    A picture's last bits depend on its batch, so an unfinished group is drawn again whole and only what is missing written.

    Raises:
        InputError: pairs are there already and --resume was not given, or they were made with other layouts or settings.
    """
    path = out / PLAN
    settings = public_config(asdict(config))
    for free in ("resume", "json", "out", "batch_size", "layouts", "prompts", "device"):
        settings.pop(free)
    settings["weights"] = weights
    settings["jobs"] = [[j.name, j.prompt, hashlib.sha256(np.packbits(j.mask).tobytes()).hexdigest()] for j in jobs]
    digest, where = settings_digest(settings), f"--out {typed(config.out)}"
    stored, size = begun(path, config.resume, where, "pairs"), config.batch_size
    if stored is not None:
        check_same(stored, digest, where, "layouts, weights or settings")
        size = stored["batch_size"]
    else:
        (out / META).unlink(missing_ok=True)  # rows without a plan belong to nothing known
        write_json(path, {"batch_size": size, "settings": digest})
    by_size: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        by_size.setdefault(working_size(job.mask.shape, config, model.bundle), []).append(job)
    return [group[i : i + size] for group in by_size.values() for i in range(0, len(group), size)]


def finished(out: Path) -> dict[str, dict[str, Any]]:
    """Rows of meta.jsonl whose two files are there, by layout.

    Raises:
        InputError: the file is damaged.
    """
    path = out / META
    try:
        rows = [json.loads(line) for line in read_bytes(path).decode().splitlines()] if path.exists() else []
        kept = [row for row in rows if all((out / row[kind]).exists() for kind in ("image", "mask"))]
        return {row["layout"]: row for row in kept}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{typed(path)}: is damaged; delete it to draw its pairs again") from None


def write_pair(job: Job, pair: Pair, config: PairsConfig, model: Model, run: Run, out: Path) -> dict[str, Any]:
    """Write picture and mask; returns the row of meta.jsonl, which marks them as done."""
    note = stamp("didgen", job.seed, run.weights, {"layout": run.digests[f"layout {job.name}"]}) | {"prompt": job.prompt}
    write_png(out / "image" / f"{job.name}.png", pair.image, note)
    write_png(out / "mask" / f"{job.name}.png", mask_image(pair.annotation.mask), note)
    eta = model.guidance["eta"] if config.eta is None else config.eta
    words = positions(model.bundle.tokenizer, job.prompt)
    return {
        "id": job.name, "image": f"image/{job.name}.png", "mask": f"mask/{job.name}.png", "layout": job.name,
        "prompt": job.prompt, "seed": job.seed, "synthetic": True, "iou_layout": round(pair.iou, 4),
        "area": round(float(pair.annotation.mask.mean()), 5), "threshold": pair.annotation.level,
        "contrast": round(pair.annotation.contrast, 4), "agreement": round(pair.annotation.agreement, 4),
        "losses": [round(x, 4) for x in pair.losses], "flag": list(pair.flags), "eta": eta, "steps": config.steps,
        "guidance": config.guidance, "scheduler": "DDIM", "tokens": {"lesion": words.lesion, "skin": words.skin},
        "weights": run.weights["sha256"],
    }  # fmt: skip


def write_meta(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """All rows in one step."""
    with atomic_path(out / META) as beside:
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pair_row(job: Job, row: dict[str, Any], out: Path) -> list[tuple[str, np.ndarray]]:
    """Layout | picture | mask | picture with the mask's rim, from the files: a resumed run shows the same."""
    image, mask = read_rgb(out / row["image"]), read_rgb(out / row["mask"])
    return [
        (job.name[:22], mask_image(job.mask)), ("picture", image), ("mask (flagged)" if row["flag"] else "mask", mask),
        (f"IoU with layout {row['iou_layout']:.2f}", outlined(image, mask[..., 0] > 0)),
    ]  # fmt: skip
