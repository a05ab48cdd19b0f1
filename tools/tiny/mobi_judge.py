"""judge-mobi: what grades mobi's edits on driving phantoms: a yaw regressor of cars, and a camera and lidar box detector.

draw -> yaw -> detector -> grade -> assemble. Each stage resumes where it stopped and is skipped when it is done; `--only grade`
prints the numbers of the model card. The judges are never used by a verb that edits.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Stage = Literal["draw", "yaw", "detector", "grade", "assemble"]
STAGES: tuple[Stage, ...] = ("draw", "yaw", "detector", "grade", "assemble")
FIRST, HELD_OUT = 7_000_000, 10_000_000
CROPS, SCENES = 32, 4  # a step of the yaw regressor and of the detector
WIDTHS = (16, 32, 64, 80)
WIDTH, PAINT, LEAST = 24, 12, 0.1
NAMES = ("yaw.safetensors", "detector.safetensors")


@dataclass(frozen=True)
class JudgeConfig:
    """Train mobi's judges on drawn driving scenes."""

    out: Path = Path("runs/judge-mobi")
    """Folder of drawn scenes, checkpoints and logs."""
    only: tuple[Stage, ...] = STAGES
    """Stages to run, in the order draw, yaw, detector, grade, assemble."""
    scenes: int = 2000
    """Training scenes, front camera, 400 x 225."""
    held_out: int = 450
    """Held-out scenes (seeds from 10,000,000) for `grade`."""
    yaw_steps: int = 6000
    """Optimiser steps of the yaw regressor, 32 crops each."""
    detector_steps: int = 2400
    """Optimiser steps of the detector, 4 scenes each."""
    anyway: bool = False
    """Ship judges that miss a floor; their card names it."""
    threads: int = 1
    """CPU threads of a training stage, and processes of the drawing."""
    seed: int = 0
    """Seed of every stage; scene i is drawn by 7,000,000 + 10,000 seed + i."""


def run(config: JudgeConfig) -> None:
    """Run the named stages in order."""
    import torch

    torch.set_num_threads(config.threads)
    for name in STAGES:
        if name in config.only:
            {"draw": draw, "yaw": yaw, "detector": detector, "grade": grade, "assemble": assemble}[name](config)


def draw(config: JudgeConfig) -> None:
    """The training scenes."""
    from tiny.mobi_judge_scenes import draw_all

    first = FIRST + 10_000 * config.seed
    draw_all(config.out / "train", range(first, first + config.scenes), config.threads)


def yaw(config: JudgeConfig) -> None:
    """Train the yaw regressor."""
    import numpy as np
    import torch

    from graft_common.files import atomic_path
    from mobi.yaw import YawNet, soft_bins
    from tiny.mobi_judge_scenes import fit_for_yaw, read_all, yaw_crops
    from tiny.mobi_judge_vary import spoil

    if (config.out / "model" / NAMES[0]).exists():
        return
    cache = config.out / "yaw" / "crops.npz"
    if not cache.exists():
        images, angles = yaw_crops(read_all(config.out / "train", config.scenes), fit_for_yaw)
        with atomic_path(cache) as beside, beside.open("wb") as file:
            np.savez(file, images=images, angles=angles)
    with np.load(cache) as stored:
        images, truth = stored["images"], torch.from_numpy(stored["angles"]).float()
    print(f"yaw: {len(images)} cars", flush=True)
    torch.manual_seed(config.seed)
    network = YawNet(WIDTHS).to(memory_format=torch.channels_last)

    def loss(module: Any, gen: torch.Generator, step: int) -> torch.Tensor:
        pick = torch.randint(len(images), (CROPS,), generator=gen)
        crops = torch.from_numpy(images[pick.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
        flip = torch.rand(CROPS, generator=gen) < 0.5
        crops = torch.where(flip[:, None, None, None], crops.flip(3), crops)
        wanted = torch.where(flip, -truth[pick], truth[pick])
        return -(soft_bins(wanted) * module(spoil(crops, gen)).log_softmax(1)).sum(1).mean()

    _fit(config, "yaw", network, loss, config.yaw_steps, 71, 0.05, {"widths": WIDTHS, "cars": len(images)})


def detector(config: JudgeConfig) -> None:
    """Train the detector."""
    import torch

    from mobi.detector import DetectorNet
    from tiny.mobi_judge_lessons import detector_loss, lesson
    from tiny.mobi_judge_scenes import read_all
    from tiny.mobi_judge_vary import varied

    if (config.out / "model" / NAMES[1]).exists():
        return
    lessons = [lesson(shot) for shot in read_all(config.out / "train", config.scenes)]
    boxes = sum(int(one.wanted.sum()) for one in lessons)
    print(f"detector: {len(lessons)} scenes, {boxes} boxes", flush=True)
    torch.manual_seed(config.seed)
    network = DetectorNet(WIDTH, PAINT).to(memory_format=torch.channels_last)

    def loss(module: Any, gen: torch.Generator, step: int) -> torch.Tensor:
        pick = torch.randint(len(lessons), (SCENES,), generator=gen).tolist()
        return detector_loss(module, [varied(lessons[k], gen) for k in pick])

    _fit(
        config, "detector", network, loss, config.detector_steps, 72, 0.02,
        {"width": WIDTH, "paint": PAINT, "least": LEAST, "boxes": boxes},
    )  # fmt: skip


def _fit(
    config: JudgeConfig, name: Literal["yaw", "detector"], network: Any, loss: Callable, steps: int, seed: int, decay: float,
    header: dict[str, Any],
) -> None:  # fmt: skip
    """Train to the end and save averaged weights in half precision, how they were made in the header."""
    from graft_common.checkpoint import save_weights
    from graft_common.training import FitConfig, fit

    plan = FitConfig(
        steps=steps,
        learning_rate=2e-3,
        ema=0.995,
        decay=0.6,
        weight_decay=decay,
        seed=config.seed + seed,
        save_minutes=1.0,
        cpu=True,
    )

    def tick(step: int, value: float, rate: float) -> None:
        if step % 50 == 0 or step < 3:
            print(f"{name} step {step} loss {value:.4f}", flush=True)

    fitted = fit(network, loss, plan, config.out / name / "fit", on_step=tick)
    network.load_state_dict({**network.state_dict(), **fitted.average})
    path = config.out / "model" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {key: value.half() for key, value in network.state_dict().items()}
    count = sum(p.numel() for p in network.parameters())
    more = {"fit": asdict(plan), "seconds": round(fitted.seconds), "parameters": count, "scenes": config.scenes}
    save_weights(path, half, header | more)


def grade(config: JudgeConfig) -> dict[str, Any]:
    """Both judges on held-out scenes; prints the table, writes OUT/grade.json. Grades the shipped ones where none are trained."""
    from graft_common.console import write_json
    from mobi.detector import load_detector
    from mobi.yaw import judge_folder, load_yaw
    from tiny.mobi_judge_grade import IN_SIGHT, grade_detector, grade_yaw
    from tiny.mobi_judge_scenes import draw_all, read_all

    draw_all(config.out / "held_out", range(HELD_OUT, HELD_OUT + config.held_out), config.threads)
    model = config.out / "model"
    folder = model if all((model / name).exists() for name in NAMES) else judge_folder()
    shots = list(read_all(config.out / "held_out", config.held_out))
    judge = load_yaw(folder)
    table = {"scenes": len(shots), "yaw": grade_yaw(judge, shots), "yaw, in sight": grade_yaw(judge, shots, IN_SIGHT)}
    table |= grade_detector(load_detector(folder), shots)
    print(json.dumps(table, indent=1))
    write_json(config.out / "grade.json", table)
    return table


def assemble(config: JudgeConfig) -> None:
    """Copy weights that hold the floors into the package, with their card; say which floors are missed else."""
    from graft_common.checkpoint import read_config
    from graft_common.files import write_bytes, write_text
    from mobi.yaw import judge_folder
    from tiny.mobi_judge_grade import card, missed

    table = json.loads((config.out / "grade.json").read_text(encoding="utf-8"))
    if lacking := missed(table):
        print(f"{'missed' if config.anyway else 'not shipped'}: " + "; ".join(lacking))
        if not config.anyway:
            return
    model, folder = config.out / "model", judge_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        write_bytes(folder / name, (model / name).read_bytes())
    write_text(folder / "MODEL_CARD.md", card(table, *(read_config(model / name) for name in NAMES)))
    print(f"shipped to weights/{folder.name}: {sum((folder / name).stat().st_size for name in NAMES) / 1e6:.2f} MB")
