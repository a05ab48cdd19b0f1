"""How a car stands to the camera, read from its crop alone: the judge of whether a painted car follows its box.

Trained on driving phantoms (tools/train_tiny.py judge-mobi); nothing that edits uses it.
"""

import math
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn import functional as F

from graft_common.checkpoint import load_weights, read_config
from graft_common.rangeview import Box3d, Camera

SIDE, MARGIN = 96, 8
"""Crops of any size are resized to this many pixels a side; the network looks at what lies within the margin."""
BINS = 36
"""Classes around the circle, ten degrees each; class k is centred on k steps from straight away."""
NEIGHBOURS = 2
"""Classes on each side of the likeliest one whose mean is the answer."""


def wrap(angle: Float64[np.ndarray, "*s"] | float) -> Float64[np.ndarray, "*s"]:
    """Angles in [-pi, pi), radians."""
    return np.asarray((np.asarray(angle, np.float64) + np.pi) % (2 * np.pi) - np.pi)


def observation_angle(box: Box3d, camera: Camera) -> float:
    """Heading relative to the ray from the camera to the box's centre, both seen from above; radians in [-pi, pi).

    0: it drives straight away and shows its back; +-pi: it comes; positive: its heading lies to the left of the ray. This, and
    not the heading itself, is what a crop shows.
    """
    move = camera.lidar_to_camera
    eye = -move[:3, :3].T @ move[:3, 3]  # the camera in the lidar frame, whose z is up
    ray = math.atan2(box.centre[1] - eye[1], box.centre[0] - eye[0])
    return float(wrap(box.yaw - ray))


def heading(angle: float, box: Box3d, camera: Camera) -> float:
    """The heading in the lidar frame of a thing at the box's centre that shows `angle`: undoes `observation_angle`."""
    return float(wrap(angle + box.yaw - observation_angle(box, camera)))


class YawNet(nn.Module):
    """(B, 3, 96, 96) in [-1, 1] -> (B, 36) scores of the observation angle's class. 0.34 M parameters.

    The last features keep their places: where the windscreen and the wheels lie tells front from back.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 80)) -> None:
        super().__init__()
        ways: list[nn.Module] = []
        for before, width in zip((3, *widths), widths, strict=False):
            ways += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
            if width > widths[0]:
                ways.append(Residual(width))
        self.body = nn.Sequential(*ways, nn.SiLU(), nn.Conv2d(widths[-1], 24, 1))
        cells = (SIDE - 2 * MARGIN >> len(widths)) ** 2
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24 * cells, 96), nn.SiLU(), nn.Linear(96, BINS))

    def forward(self, x: Float[Tensor, "B 3 96 96"]) -> Float[Tensor, "B 36"]:
        return self.head(self.body(x[..., MARGIN:-MARGIN, MARGIN:-MARGIN]))


class Residual(nn.Module):
    """Two 3 x 3 convolutions on a branch that starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.norm = nn.GroupNorm(8, width)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        return x + self.two(F.silu(self.norm(self.one(x))))


def soft_bins(angle: Float[Tensor, "B"], sharpness: float = 30.0) -> Float[Tensor, "B 36"]:
    """Target shares of the classes: a von Mises bump around the angle (30: about ten degrees wide)."""
    centres = torch.arange(BINS, device=angle.device) * (2 * math.pi / BINS)
    return (sharpness * (torch.cos(angle[:, None] - centres) - 1)).softmax(1)


def angle_of(scores: Float[Tensor, "B 36"]) -> Float64[np.ndarray, " B"]:
    """The mean direction of the likeliest class and its neighbours, radians in [-pi, pi).

    A mean over all classes would land between two answers where a car's front and back are both likely.
    """
    shares = scores.double().softmax(1)
    offset = torch.arange(-NEIGHBOURS, NEIGHBOURS + 1, device=scores.device)
    near = (shares.argmax(1)[:, None] + offset) % BINS
    weight, turn = shares.gather(1, near), near * (2 * math.pi / BINS)
    mean = torch.atan2((weight * turn.sin()).sum(1), (weight * turn.cos()).sum(1))
    return wrap(mean.cpu().numpy())


class YawJudge:
    """The trained network, asked about each crop and its mirror image; call it with crops."""

    def __init__(self, network: YawNet) -> None:
        self.network = network.eval().requires_grad_(False)

    def scores(self, crops: Float[Tensor, "B 3 96 96"]) -> Float[Tensor, "B 36"]:
        """Mean log shares of the classes: in the mirror, class k is what class -k is."""
        mirrored = -torch.arange(BINS, device=crops.device) % BINS
        plain, other = (self.network(x.contiguous()).log_softmax(1) for x in (crops, crops.flip(3)))
        return (plain + other[:, mirrored]) / 2

    @torch.no_grad()
    def __call__(self, crops: Float[Tensor, "B 3 D D"], batch: int = 64) -> Float64[np.ndarray, " B"]:
        """Observation angles of cars, radians in [-pi, pi).

        Args:
            crops: in [-1, 1], any D: the window around the box that `mobi.place` chooses (the hole fills a fifth of it).
        """
        found = [angle_of(self.scores(shrink(part))) for part in crops.float().split(batch)]
        return np.concatenate(found) if found else np.zeros(0)


def shrink(crops: Float[Tensor, "B 3 D D"]) -> Float[Tensor, "B 3 96 96"]:
    """Crops at the network's own size (bilinear, antialiased)."""
    if crops.shape[-2:] == (SIDE, SIDE):
        return crops
    return F.interpolate(crops, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def judge_folder() -> Path:
    """Where the shipped judges lie."""
    return Path(str(files("mobi") / "weights" / "judge-mobi"))


@cache
def load_yaw(folder: Path | None = None) -> YawJudge:
    """The yaw judge of `folder`, the shipped one by default. Raises InputError where there is none."""
    path = (folder or judge_folder()) / "yaw.safetensors"
    network = YawNet(tuple(read_config(path)["widths"]))
    network.load_state_dict({name: value.float() for name, value in load_weights(path).items()})
    return YawJudge(network)
