"""What the judges of mobi are worth on held-out scenes, and their model card."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from graft_common.metrics import bootstrap, proportion
from mobi.detector import AHEAD, ASIDE, LABELS, Detector, look
from mobi.detector_metrics import Marked, evaluate_boxes, match, pairs
from mobi.yaw import YawJudge
from tiny.mobi_judge_lessons import shown
from tiny.mobi_judge_scenes import Shot, listed, yaw_crops

IN_SIGHT = 0.75  # of a car's outline: where more is hidden, the crop does not say which car is meant
FLOORS = {
    "yaw": {"median error, degrees": 8.0, "flipped": 0.02},
    "car": {"recall": 0.9, "ate, m": 0.3, "aoe, degrees": 10.0},
}
"""What the judges must reach on true renders: at most these errors, at least this recall."""


def grade_yaw(judge: YawJudge, shots: Sequence[Shot], least: float = 0.0) -> dict[str, Any]:
    """Errors of the yaw regressor on the cars that `prepare` would list, beside the best constant answer.

    Args:
        least: share of a car's outline that must be in sight.
    """

    def chosen(shot: Shot) -> set[int]:
        return {k for k in listed(shot) if shot.seen[k] >= least * shot.whole[k]}

    images, angles = yaw_crops(shots, chosen, small=False)
    error = between(judge(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1), angles)
    blind = min((between(np.full_like(angles, a), angles) for a in np.radians(np.arange(0, 360, 5))), key=np.median)
    draws = np.random.default_rng(0).integers(len(error), size=(2000, len(error)))
    low, high = np.quantile(np.median(error[draws], 1), (0.025, 0.975))
    return {
        "n": len(error),
        "median error, degrees": float(np.degrees(np.median(error))),
        "median error, 95 %": [float(np.degrees(low)), float(np.degrees(high))],
        "within 30 degrees": proportion(int((error <= np.radians(30)).sum()), len(error)),
        "flipped": proportion(int((error > np.pi / 2).sum()), len(error)),
        "best constant: median, flipped": [float(np.degrees(np.median(blind))), float((blind > np.pi / 2).mean())],
    }


def between(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Least angle, radians."""
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


def grade_detector(judge: Detector, shots: Sequence[Shot]) -> dict[str, Any]:
    """By class: recall and errors on the boxes that `prepare` would list, and AP over all that the detector should find."""
    found, truth, reach, chosen = [], [], [], []
    for shot in shots:
        (boxes,) = judge.of_seen([look(shot.image, shot.sweep, shot.camera)])
        found.append(judge.in_view(boxes, shot.camera))
        marked = [Marked(box, LABELS[k]) for box, k in zip(shot.boxes, shot.label, strict=True)]
        truth.append(marked)
        chosen.append(listed(shot))
        reach.append([m for m, seen in zip(marked, shown(shot), strict=True) if seen and _in_reach(m)])
    whole = evaluate_boxes(reach, found)
    table: dict[str, Any] = {}
    for label in LABELS:
        errors = pairs(match(truth, found, label), chosen)
        wanted = sum(truth[s][k].label == label for s, picked in enumerate(chosen) for k in picked)
        turns = np.degrees(errors[:, 2])
        table[label] = {
            "n": wanted,
            "recall": proportion(len(errors), wanted),
            "ate, m": bootstrap(errors[:, 0]),
            "ase": bootstrap(errors[:, 1]),
            "aoe, degrees": bootstrap(turns),
            "median turn error, degrees": float(np.median(turns)),
            "flipped": proportion(int((turns > 90).sum()), len(turns)),
            "ap, all in reach": whole[label]["ap"],
            "recall, all in reach": whole[label]["recall"],
            "n, all in reach": int(whole[label]["n"]),
        }
    return table


def _in_reach(item: Marked) -> bool:
    """A metre inside the bird's-eye view of a camera that looks along +y, as the front one nearly does."""
    x, y, _ = item.box.centre
    return 0 < y < AHEAD - 1 and abs(x) < ASIDE - 1


def missed(table: dict[str, Any]) -> list[str]:
    """The floors that a grade does not hold."""
    found = []
    for part, floors in FLOORS.items():
        for name, floor in floors.items():
            value = table[part][name]
            value = value["mean"] if isinstance(value, dict) else value
            if (value < floor) if name == "recall" else (value > floor):
                found.append(f"{part}: {name} is {value:.3g}, floor {floor:g}")
    return found


HEAD = """# judge-mobi

Two small networks that grade what mobi does to driving phantoms; they know those and nothing else, and no verb that edits uses
them. `yaw.safetensors` reads from a camera crop how a car stands to the camera (`mobi.yaw`); `detector.safetensors` finds cars and
pedestrians in a front picture and its sweep (`mobi.detector`). **They say nothing about real scenes.**

| | yaw regressor | box detector |
|---|---|---|
| parameters, stored in float16 | {yaw[parameters]:,} | {boxes[parameters]:,} |
| data | {yaw[cars]:,} cars of {yaw[scenes]} scenes | {boxes[boxes]:,} boxes of {boxes[scenes]} scenes |
| steps | {yaw[fit][steps]} of 32 crops | {boxes[fit][steps]} of 4 scenes |
| wall time on one thread of a shared CPU | {yaw_minutes:.0f} min | {boxes_minutes:.0f} min |
| seed | {yaw[fit][seed]} | {boxes[fit][seed]} |

Scenes are drawn by `graft_common.phantoms.driving`, training seeds from 7,000,000. Made by `tools/train_tiny.py judge-mobi`. Every
number below is printed by `uv run --all-packages python tools/train_tiny.py judge-mobi --only grade`: {scenes} held-out scenes
(seeds from 10,000,000), 400 x 225, on the boxes that `graft-mobi prepare` would list; 95 % intervals.
"""

TAIL = """
A car counts as in sight where at least three quarters of its outline are. Behind another car or a pedestrian a crop does not say
which car is meant: most flips among all are such.

Matching as nuScenes does it, at 2 m; errors are plain means over the pairs. "All in reach" counts every box with ten returns and a
quarter of its outline in sight within 27 m; the detector sees 28 m ahead and 16 m to each side.
"""


def card(table: dict[str, Any], yaw: dict[str, Any], boxes: dict[str, Any]) -> str:
    """MODEL_CARD.md from `grade`'s table and the headers of the two files."""

    def span(row: dict[str, Any], digits: int = 3) -> str:
        low, high = row["ci95"]
        return f"{row['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    turn, clear, car, person = table["yaw"], table["yaw, in sight"], table["car"], table["pedestrian"]
    median, flipped = turn["best constant: median, flipped"]

    def middle(row: dict[str, Any]) -> str:
        low, high = row["median error, 95 %"]
        return f"{row['median error, degrees']:.1f} [{low:.1f}, {high:.1f}]"

    lines = [
        HEAD.format(
            yaw=yaw,
            boxes=boxes,
            yaw_minutes=yaw["seconds"] / 60,
            boxes_minutes=boxes["seconds"] / 60,
            scenes=table["scenes"],
        ),
        f"| yaw from the crop alone | all {turn['n']} cars | floor | {clear['n']} in sight | best constant answer |",
        "|---|---|---|---|---|",
        f"| median error, degrees | {middle(turn)} | at most 8 | {middle(clear)} | {median:.1f} |",
        f"| flipped by more than 90 degrees | {span(turn['flipped'])} | at most 0.02 | {span(clear['flipped'])} | {flipped:.2f} |",
        f"| within 30 degrees | {span(turn['within 30 degrees'])} | | {span(clear['within 30 degrees'])} | |",
        "",
        f"| box detector | {car['n']} cars | floor | {person['n']} pedestrians |",
        "|---|---|---|---|",
    ]
    floors = {"recall": "at least 0.9", "ate, m": "at most 0.3", "aoe, degrees": "at most 10"}
    for name in ("recall", "ate, m", "ase", "aoe, degrees", "flipped"):
        digits = 1 if name == "aoe, degrees" else 3
        lines.append(f"| {name} | {span(car[name], digits)} | {floors.get(name, '')} | {span(person[name], digits)} |")
    forms = {"median turn error, degrees": ".1f", "ap, all in reach": ".3f", "recall, all in reach": ".3f"}
    for name, form in (forms | {"n, all in reach": "d"}).items():
        lines.append(f"| {name} | {car[name]:{form}} | | {person[name]:{form}} |")
    lacking = missed(table)
    says = "Floors missed, of all cars: " + "; ".join(lacking) + "." if lacking else "Every floor holds."
    return "\n".join([*lines, "", f"**{says}**"]) + "\n" + TAIL
