"""What the box detector of mobi's judges learns: scenes as lessons, target maps, the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from graft_common.rangeview import Camera
from mobi.detector import (
    AHEAD,
    ASIDE,
    CELL,
    COLUMNS,
    LABELS,
    ROWS,
    STRIDE,
    Seen,
    box_numbers,
    in_picture,
    look,
    to_turned,
    turned,
)
from tiny.mobi_judge_scenes import Shot

LEAST_RETURNS, LEAST_SEEN = 10, 0.25  # a box that shows less is neither wanted nor counted against the detector
SPREAD = (1.0, 0.7)  # of the bump around a centre, in output cells, by class
WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.5, 1.5)  # of the box numbers' errors


@dataclass(frozen=True, eq=False)
class Lesson:
    """A scene with its K true boxes.

    Attributes:
        boxes: x, y, z, width, length, height, yaw in the turned frame.
        label: index into `LABELS`.
        wanted: whether the detector should find it; else it is ignored.
        view: output cells that the camera sees.
    """

    seen: Seen
    boxes: Float[Tensor, "K 7"]
    label: Int64[Tensor, " K"]
    wanted: Bool[Tensor, " K"]
    view: Bool[Tensor, "h w"]


def lesson(shot: Shot) -> Lesson:
    """A drawn scene as the detector learns from it."""
    seen = look(shot.image, shot.sweep, shot.camera)
    boxes = [to_turned(box, seen.turn) for box in shot.boxes]
    return Lesson(
        seen, torch.stack(boxes) if boxes else torch.zeros(0, 7), torch.from_numpy(shot.label), torch.from_numpy(shown(shot)),
        _view(seen.turn, shot.camera),
    )  # fmt: skip


def shown(shot: Shot) -> Bool[np.ndarray, " K"]:
    """Boxes whose centre is `in_picture`, with returns on them and enough of their outline in sight."""
    centres = np.array([box.centre for box in shot.boxes], np.float64).reshape(-1, 3)
    seen = in_picture(centres, shot.camera)
    return seen & (shot.returns >= LEAST_RETURNS) & (shot.seen >= LEAST_SEEN * shot.whole.clip(1))


def _view(turn: float, camera: Camera) -> Bool[Tensor, "h w"]:
    """Output cells whose middle, a metre over the road, is `in_picture`."""
    step = CELL * STRIDE
    ahead, aside = np.mgrid[: ROWS // STRIDE, : COLUMNS // STRIDE]
    flat = np.stack([(aside.ravel() + 0.5) * step - ASIDE, (ahead.ravel() + 0.5) * step], 1)
    points = np.concatenate([turned(flat, turn), np.full((len(flat), 1), -0.84)], 1)
    return torch.from_numpy(in_picture(points, camera).reshape(ahead.shape))


def in_grid(flat: Float[Tensor, "N c"]) -> Bool[Tensor, " N"]:
    """Which places (x, y, ...) of the turned frame lie in the bird's-eye view."""
    return (flat[:, 1] >= 0) & (flat[:, 1] < AHEAD) & (flat[:, 0].abs() < ASIDE)


def targets(one: Lesson) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(2, h, w) bumps around the centres, (2, h, w) where they count, then the wanted boxes' (K', 2) cells, (K',) classes and
    (K', 8) numbers."""
    height, width = ROWS // STRIDE, COLUMNS // STRIDE
    bump, counts = torch.zeros(len(LABELS), height, width), one.view.float().expand(len(LABELS), -1, -1).clone()
    inside = in_grid(one.boxes)
    boxes, label, wanted = one.boxes[inside], one.label[inside], one.wanted[inside]
    cell, numbers = box_numbers(boxes, label)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    for (row, column), kind, want, box in zip(cell.tolist(), label.tolist(), wanted.tolist(), boxes, strict=True):
        apart = ((rows - row) ** 2 + (columns - column) ** 2).float()
        if want:
            bump[kind] = torch.maximum(bump[kind], (-apart / (2 * SPREAD[kind] ** 2)).exp())
        else:  # a hidden thing may be found or not
            counts[kind][apart < (float(box[4]) / (2 * CELL * STRIDE)) ** 2] = 0
    counts[label[wanted], cell[wanted][:, 0], cell[wanted][:, 1]] = 1
    return bump, counts, cell[wanted], label[wanted], numbers[wanted]


def detector_loss(network: Any, lessons: Sequence[Lesson]) -> Float[Tensor, ""]:
    """Focal loss of the centres (Zhou et al. 2019, eq. 1) and absolute error of the box numbers at them, for each wanted box."""
    heat, numbers = network([one.seen for one in lessons])
    total, found = heat.new_zeros(()), 0
    for k, one in enumerate(lessons):
        bump, counts, cell, label, truth = targets(one)
        sure = heat[k].sigmoid()
        peak = bump == 1
        total = total - ((1 - sure) ** 2 * F.logsigmoid(heat[k]))[peak].sum()
        total = total - ((1 - bump) ** 4 * sure**2 * F.logsigmoid(-heat[k]) * counts)[~peak].sum()
        said = numbers[k][label, :, cell[:, 0], cell[:, 1]]
        total = total + ((said - truth).abs() * said.new_tensor(WEIGHTS)).sum()
        found += len(cell)
    return total / max(1, found)
