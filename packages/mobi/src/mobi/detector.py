"""A small camera and lidar box detector: the judge of whether an edited scene holds a car or a pedestrian where its box is.

A picture network gives every return the features of the pixel that it falls on; the returns are summed into cells of a bird's-eye
view in the camera's direction; a second network finds box centres in it and reads each box off at its centre. Trained on driving
phantoms (tools/train_tiny.py judge-mobi); nothing that edits uses it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from graft_common.checkpoint import load_weights, read_config
from graft_common.rangeview import Box3d, Camera, project_camera
from mobi.records import Scene
from mobi.yaw import Residual, judge_folder, wrap

Label = Literal["car", "pedestrian"]
LABELS: tuple[Label, ...] = ("car", "pedestrian")
AHEAD, ASIDE, CELL = 28.0, 16.0, 0.25
"""The bird's-eye view: 0 to 28 m before the lidar in the camera's direction, 16 m to each side, cells of 0.25 m."""
ROWS, COLUMNS = int(AHEAD / CELL), int(2 * ASIDE / CELL)
STRIDE = 2
"""Cells of the input a side of an output cell."""
LOWEST, SLICE, SLICES = -2.1, 0.25, 10
"""Bottom of the lowest height slice (m, lidar frame: the road lies near -1.84), height of one, and their number."""
PICTURE = 400
"""Width in pixels at which the picture network looks."""
TYPICAL = ((1.85, 4.5, 1.6), (0.6, 0.6, 1.7))
"""Width, length, height (m) that a class's sizes are relative to."""
BESIDE = 0.15
"""How far a box's centre may lie beyond the picture's edge, as a share of its width: of a large car half is still in it."""
NUMBERS = 8
"""A box in its output cell: shift ahead and aside (cells), z (m), log of size over the typical one (3), cos and sin of yaw."""
HEAT = len(LABELS)
EDGE = 3
"""Plain numbers a cell: mean shift of its returns from its centre (2), their mean intensity."""


@dataclass(frozen=True)
class Detection:
    """A found box (lidar frame), what it is, and how sure the detector is (0..1)."""

    box: Box3d
    label: Label
    score: float


@dataclass(frozen=True, eq=False)
class Seen:
    """A scene as the detector reads it.

    Attributes:
        picture: (3, h, w) uint8, `PICTURE` pixels wide.
        points: (N, 4) x (to the right), y (ahead), z, metres, in the turned frame, and intensity 0..255.
        pixels: (N, 2) where each return falls in the picture, as shares of its width and height; outside [0, 1] for one it misses.
        turn: the camera's direction in the lidar frame less +y, radians, counter-clockwise.
    """

    picture: UInt8[Tensor, "3 h w"]
    points: Float[Tensor, "N 4"]
    pixels: Float[Tensor, "N 2"]
    turn: float


def look(rgb: UInt8[np.ndarray, "H W 3"], points: Float32[np.ndarray, "N C"], camera: Camera) -> Seen:
    """Picture and sweep -> what lies in the bird's-eye view. Rows with a number that is not finite are left out."""
    move = camera.lidar_to_camera
    turn = (
        math.atan2(move[2, 1], move[2, 0]) - math.pi / 2
    )  # the optical axis in the lidar frame is row 2 of the rotation
    kept = points[np.isfinite(points[:, :4]).all(1), :4].astype(np.float64)
    flat = turned(kept[:, :2], -turn)
    inside = (flat[:, 1] >= 0) & (flat[:, 1] < AHEAD) & (np.abs(flat[:, 0]) < ASIDE)
    kept, flat = kept[inside], flat[inside]
    seen = project_camera(kept[:, :3], camera)
    at = (seen[:, :2] + 0.5) / [camera.width, camera.height]
    at[seen[:, 2] <= 0] = -9.0
    high = max(1, round(PICTURE * camera.height / camera.width))
    picture = torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32))[None]
    if picture.shape[-2:] != (high, PICTURE):
        picture = F.interpolate(picture, (high, PICTURE), mode="bilinear", antialias=True, align_corners=False)
    together = np.concatenate([flat, kept[:, 2:3], kept[:, 3:].clip(0, 255)], 1)
    return Seen(
        picture[0].round().clamp(0, 255).to(torch.uint8),
        torch.from_numpy(together).float(),
        torch.from_numpy(at.clip(-9, 9)).float(),
        turn,
    )


def turned(flat: Float64[np.ndarray, "N 2"], angle: float) -> Float64[np.ndarray, "N 2"]:
    """x, y turned counter-clockwise."""
    c, s = math.cos(angle), math.sin(angle)
    return np.stack([c * flat[:, 0] - s * flat[:, 1], s * flat[:, 0] + c * flat[:, 1]], 1)


def in_picture(centres: Float64[np.ndarray, "N 3"], camera: Camera) -> Bool[np.ndarray, " N"]:
    """Which points of the lidar frame fall into the picture, or beside it by at most `BESIDE` of its width or height."""
    u, v, depth = project_camera(centres, camera).T
    across, down = (u + 0.5) / camera.width, (v + 0.5) / camera.height
    return (depth > 0) & (np.abs(across - 0.5) <= 0.5 + BESIDE) & (np.abs(down - 0.5) <= 0.5 + BESIDE)


class DetectorNet(nn.Module):
    """Both networks. 0.15 M parameters.

    Args:
        width: channels of the bird's-eye view at 0.5 m; twice as many at 1 m.
        paint: features that the picture gives each return.
    """

    def __init__(self, width: int = 24, paint: int = 12) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1), nn.GroupNorm(4, 12), nn.SiLU(),
            nn.Conv2d(12, 24, 3, 2, 1), nn.GroupNorm(4, 24), nn.SiLU(),
            Residual(24), nn.SiLU(), nn.Conv2d(24, paint, 1),
        )  # fmt: skip
        self.stem = nn.Sequential(
            nn.Conv2d(SLICES + EDGE + paint, width, 3, STRIDE, 1), nn.GroupNorm(8, width), nn.SiLU(), Residual(width)
        )
        self.wide = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.GroupNorm(8, 2 * width), nn.SiLU(), Residual(2 * width),
            Residual(2 * width),
        )  # fmt: skip
        self.join = nn.Sequential(
            nn.Conv2d(3 * width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.SiLU(), Residual(width), nn.SiLU()
        )
        self.heat, self.numbers = nn.Conv2d(width, HEAT, 1), nn.Conv2d(width, HEAT * NUMBERS, 1)
        nn.init.constant_(self.get_parameter("heat.bias"), -4.0)  # nearly every cell is empty

    def forward(self, scenes: Sequence[Seen]) -> tuple[Float[Tensor, "B 2 h w"], Float[Tensor, "B 2 8 h w"]]:
        """Scores before the sigmoid, and box numbers, at every output cell, for each class."""
        device = self.heat.weight.device
        painted = self.picture(torch.stack([s.picture for s in scenes]).to(device).float() / 127.5 - 1)
        views = [self._from_above(s, f) for s, f in zip(scenes, painted, strict=True)]
        fine = self.stem(torch.stack(views))
        coarse = F.interpolate(self.wide(fine), fine.shape[-2:], mode="nearest")
        joined = self.join(torch.cat([fine, coarse], 1))
        return self.heat(joined), self.numbers(joined).unflatten(1, (HEAT, NUMBERS))

    def _from_above(self, scene: Seen, painted: Float[Tensor, "c h w"]) -> Float[Tensor, "k rows columns"]:
        """The cells' height slices (log of counts), then the means over each cell's returns."""
        points, pixels = scene.points.to(painted.device), scene.pixels.to(painted.device)
        grid = (2 * pixels - 1)[None, None]
        colour = F.grid_sample(painted[None], grid, padding_mode="zeros", align_corners=False)[0, :, 0].T
        cell = torch.stack([(points[:, 1] / CELL).floor(), ((points[:, 0] + ASIDE) / CELL).floor()], 1)
        row, column = cell[:, 0].clamp(0, ROWS - 1).long(), cell[:, 1].clamp(0, COLUMNS - 1).long()
        place = row * COLUMNS + column
        level = ((points[:, 2] - LOWEST) / SLICE).floor().clamp(0, SLICES - 1).long()
        counts = torch.zeros(SLICES * ROWS * COLUMNS, device=painted.device)
        counts.index_add_(0, level * ROWS * COLUMNS + place, torch.ones_like(points[:, 0]))
        counts = counts.view(SLICES, ROWS * COLUMNS)
        # the road would drown what stands on it: means are of the returns above the lowest two slices, where there are any
        weight = (level >= 2).float() + 1e-3
        shift = (points[:, [1, 0]] + points.new_tensor([0.0, ASIDE])) / CELL - cell - 0.5
        each = torch.cat([shift, points[:, 3:] / 64, colour], 1) * weight[:, None]
        sums = torch.zeros(ROWS * COLUMNS, each.shape[1], device=painted.device).index_add(0, place, each)
        mass = torch.zeros(ROWS * COLUMNS, device=painted.device).index_add(0, place, weight)
        means = sums / mass.clamp(min=1e-3)[:, None]
        return torch.cat([counts.log1p(), means.T]).view(-1, ROWS, COLUMNS)


def box_numbers(
    box: Float[Tensor, "B 7"], label: Int64[Tensor, " B"]
) -> tuple[Int64[Tensor, "B 2"], Float[Tensor, "B 8"]]:
    """Boxes in the turned frame (x, y, z, width, length, height, yaw) -> output cell (row, column) and numbers to predict."""
    at = torch.stack([box[:, 1], box[:, 0] + ASIDE], 1) / (CELL * STRIDE)
    cell = at.floor()
    sizes = (box[:, 3:6] / box.new_tensor(TYPICAL)[label]).log()
    return cell.long(), torch.cat([at - cell - 0.5, box[:, 2:3], sizes, box[:, 6:].cos(), box[:, 6:].sin()], 1)


def boxes_of(
    cell: Int64[Tensor, "B 2"], numbers: Float[Tensor, "B 8"], label: Int64[Tensor, " B"]
) -> Float[Tensor, "B 7"]:
    """Undoes `box_numbers`."""
    at = (cell + 0.5 + numbers[:, :2]) * (CELL * STRIDE)
    sizes = numbers[:, 3:6].clamp(-1.5, 1.5).exp() * numbers.new_tensor(TYPICAL)[label]
    yaw = torch.atan2(numbers[:, 7:], numbers[:, 6:7])
    return torch.cat([at[:, 1:] - ASIDE, at[:, :1], numbers[:, 2:3], sizes, yaw], 1)


def to_turned(box: Box3d, turn: float) -> Float[Tensor, "7"]:
    """A box of the lidar frame as x, y, z, width, length, height, yaw in the turned frame."""
    flat = turned(np.array([box.centre[:2]], np.float64), -turn)[0]
    return torch.tensor([*flat, box.centre[2], *box.size, box.yaw - turn], dtype=torch.float32)


def from_turned(numbers: Sequence[float], turn: float) -> Box3d:
    """Undoes `to_turned`."""
    x, y = turned(np.array([numbers[:2]], np.float64), turn)[0]
    width, length, height = numbers[3:6]
    return Box3d((float(x), float(y), numbers[2]), (width, length, height), float(wrap(numbers[6] + turn)))


class Detector:
    """The trained network; call it with scenes.

    Attributes:
        least: score from which a box counts as found.
        apart: metres within which a class's likelier box hides another.
    """

    def __init__(
        self, network: DetectorNet, least: float = 0.1, apart: tuple[float, float] = (1.5, 0.4), most: int = 60
    ) -> None:
        self.network, self.least, self.apart, self.most = network.eval().requires_grad_(False), least, apart, most

    def __call__(self, scenes: Sequence[Scene]) -> list[list[Detection]]:
        """Each scene's boxes, the likeliest first: those whose centre is `in_picture`, at most 28 m ahead and 16 m aside."""
        return [self._of(scene) for scene in scenes]

    def _of(self, scene: Scene) -> list[Detection]:
        (found,) = self.of_seen([look(scene.rgb, scene.points, scene.camera)])
        return self.in_view(found, scene.camera)

    def in_view(self, found: Sequence[Detection], camera: Camera) -> list[Detection]:
        """Those whose centre is `in_picture`."""
        centres = np.array([one.box.centre for one in found], np.float64).reshape(-1, 3)
        return [one for one, seen in zip(found, in_picture(centres, camera), strict=True) if seen]

    @torch.no_grad()
    def of_seen(self, scenes: Sequence[Seen]) -> list[list[Detection]]:
        """The same for scenes of one picture size that `look` has read, boxes beside the picture included."""
        heat, numbers = self.network(scenes)
        heat = heat.sigmoid()
        peaks = heat * (heat == F.max_pool2d(heat, 3, 1, 1)) * (heat >= self.least)
        return [self._boxes(p.cpu(), n.cpu(), s.turn) for p, n, s in zip(peaks, numbers, scenes, strict=True)]

    def _boxes(self, peaks: Float[Tensor, "2 h w"], numbers: Float[Tensor, "2 8 h w"], turn: float) -> list[Detection]:
        label, row, column = peaks.nonzero(as_tuple=True)
        scores = peaks[label, row, column]
        order = scores.argsort(descending=True)[: self.most]
        label, row, column = label[order], row[order], column[order]
        boxes = boxes_of(torch.stack([row, column], 1), numbers[label, :, row, column], label)
        found: list[Detection] = []
        for kind, score, values in zip(label.tolist(), scores[order].tolist(), boxes.tolist(), strict=True):
            box = from_turned(values, turn)
            if not any(
                other.label == LABELS[kind] and math.dist(box.centre[:2], other.box.centre[:2]) < self.apart[kind]
                for other in found
            ):
                found.append(Detection(box, LABELS[kind], score))
        return found


@cache
def load_detector(folder: Path | None = None) -> Detector:
    """The detector of `folder`, the shipped one by default. Raises InputError where there is none."""
    path = (folder or judge_folder()) / "detector.safetensors"
    config = read_config(path)
    network = DetectorNet(config["width"], config["paint"])
    network.load_state_dict({name: value.float() for name, value in load_weights(path).items()})
    return Detector(network, config["least"])
