"""Paintings that no network made: the truth, trivial answers, and baselines; each a camera and a range crop (issue's table)."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.nn import functional as F

from graft_common.rangeview import (
    camera_hole,
    camera_mask,
    camera_pixels,
    enlarge,
    metres,
    normalise_depth,
    normalise_intensity,
    project,
    range_mask,
    stored_depth,
    take_crop,
)
from mobi.cases import Case
from mobi.composite import box_span
from mobi.place import range_pixels
from mobi.records import Placed

Painting = tuple[Float[Tensor, "3 D D"], Float[Tensor, "2 D D"]]
TRUTH, COLOUR, EMPTY, MIDDLE, SOLID, PASTED = (
    "truth", "one colour", "true empty scene", "mid-depth", "solid box", "copy-paste, moved returns",
)  # fmt: skip


def answers() -> dict[str, Callable[[Case], Painting]]:
    """Name -> what it paints for a case with truth, in the order of the table."""
    return {TRUTH: truth, COLOUR: one_colour, EMPTY: empty, MIDDLE: mid_depth, SOLID: solid_box, PASTED: pasted}


def views(placed: Placed) -> Painting:
    """The scene as it is."""
    return camera_pixels(placed.scene.rgb, placed.camera_crop, placed.size), range_pixels(placed)


def holes(placed: Placed) -> tuple[Bool[Tensor, "D D"], Bool[Tensor, "D D"]]:
    """Pixels to repaint, of the camera crop and of the range crop."""
    shape = (placed.size, placed.size)
    hole = camera_hole(placed.hole, placed.camera_crop, placed.size)
    return hole, range_mask(placed.box, placed.range_crop, placed.scene.sensor, shape)


def truth(case: Case) -> Painting:
    """The scene with the object in it."""
    return views(case.placed)


def empty(case: Case) -> Painting:
    """The same scene without the object."""
    assert case.truth is not None
    return views(case.truth.empty)


def one_colour(case: Case) -> Painting:
    """Both holes at 0, as the network's contexts hold them: mid grey, the middle of the depth band, intensity 44."""
    camera, lidar = empty(case)
    hole, other = holes(case.placed)
    return torch.where(hole, 0, camera), torch.where(other, 0, lidar)


def mid_depth(case: Case) -> Painting:
    """Every hole pixel of the lidar at the distance of the box's centre; the camera is empty."""
    camera, lidar = empty(case)
    placed = case.placed
    distance = torch.tensor(placed.box.centre, dtype=torch.float64).norm()
    depth = normalise_depth(stored_depth(distance, placed.scene.sensor), *placed.band).to(lidar)
    return camera, torch.stack([torch.where(holes(placed)[1], depth, lidar[0]), lidar[1]])


def solid_box(case: Case) -> Painting:
    """A block: every ray returns where it enters the box, and the picture shows the box in magenta, which no scene holds. Knows
    the box and nothing of the object."""
    camera, lidar = empty(case)
    placed = case.placed
    block = camera_hole(camera_mask(placed.box, placed.scene.camera, scale=1), placed.camera_crop, placed.size)
    camera[:, block] = torch.tensor([1.0, -1, 1])[:, None]
    sensor, crop = placed.scene.sensor, placed.range_crop
    pitch, yaw = (take_crop(x, crop, sensor) for x in (placed.view.pitch, placed.view.yaw))
    enter = box_span(pitch, yaw, placed.box)[0]
    depth = normalise_depth(stored_depth(enter + 0.02, sensor), *placed.band)  # a hair behind the face, so inside
    meets = enlarge(enter.isfinite(), placed.size)
    return camera, torch.stack([torch.where(meets, enlarge(depth, placed.size).to(lidar), lidar[0]), lidar[1]])


def pasted(case: Case) -> Painting:
    """Camera: the tracked reference stretched over the hole's bounding rectangle, shown where the hole grown by two pixels is (the
    paper's copy-paste: a mask dilated 5 x 5). Lidar: the object's returns of the other frame moved rigidly with the box, the
    nearest of each pixel, before the empty scene: an upper bound."""
    assert case.truth is not None and case.moved is not None
    camera, lidar = empty(case)
    placed = case.placed
    hole = holes(placed)[0].numpy()
    top, bottom, left, right = bounds(hole)
    patch = torch.from_numpy(case.tracked.transpose(2, 0, 1).astype(np.float32))[None] / 127.5 - 1
    canvas = camera.clone()
    canvas[:, top:bottom, left:right] = F.interpolate(
        patch, (bottom - top, right - left), mode="bilinear", antialias=True, align_corners=False
    )[0]
    camera = torch.where(torch.from_numpy(binary_dilation(hole, np.ones((5, 5), bool))), canvas, camera)
    sensor, crop = placed.scene.sensor, placed.range_crop
    own = project(case.moved, sensor)
    depth, intensity, index = (take_crop(x, crop, sensor) for x in (own.depth, own.intensity, own.index))
    behind = take_crop(case.truth.empty.view.depth, crop, sensor)
    before = (index >= 0) & ((metres(depth, sensor) < metres(behind, sensor)) | (behind <= -1))
    both = torch.stack([normalise_depth(depth, *placed.band), normalise_intensity(intensity)])
    return camera, torch.where(enlarge(before, placed.size), enlarge(both, placed.size).to(lidar), lidar)


def bounds(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of its bounding rectangle, bottom and right exclusive; the whole where it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, mask.shape[0], 0, mask.shape[1]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
