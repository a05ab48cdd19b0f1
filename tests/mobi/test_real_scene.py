"""A photograph with measured depth: scikit-image's stereo_motorcycle as camera and virtual lidar. Geometry, not looks."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from skimage.data import stereo_motorcycle
from skimage.draw import polygon

from graft_common.rangeview import NUSCENES, grid_points, metres, points_in_box, project
from mobi import pipeline
from mobi.composite import OCCLUDER_GAP
from mobi.records import Crops, Painted

FOCAL, BASE, SHIFT = 994.978, 0.193001, 31.086
K = np.array([[FOCAL, 0, 311.193], [0, FOCAL, 254.877], [0, 0, 1]])
TO_CAMERA = np.array([[1.0, 0, 0, 0], [0, 0, -1, -0.3], [0, 1, 0, 0], [0, 0, 0, 1]])  # the sensor is 0.3 m above the camera
PERSON = (-1.1, 4.0, -0.28, 0.6, 0.5, 1.7, 0.3)  # 4.1 m away, partly behind what stands on the left, cut by the picture's edge


class Hole:
    """Paints the hole: white, in the middle of the box's depths, or nothing at all."""

    size = 64
    weights: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, empty: bool = False) -> None:
        self.empty = empty

    def __call__(self, crops: Crops, seeds: Any) -> Painted:
        camera = crops.camera * crops.camera_keep + 1 - crops.camera_keep
        depth = crops.lidar[:, 0] * crops.lidar_keep[:, 0] - (1 - crops.lidar_keep[:, 0] if self.empty else 0)
        return Painted(camera, torch.stack([depth, crops.lidar[:, 1]], 1))


def depths() -> np.ndarray:
    """Metres along the optical axis, inf where nothing was measured."""
    disparity = stereo_motorcycle()[2].astype(np.float64)
    valid = np.isfinite(disparity)
    assert 0.5 < valid.mean() < 1 and np.isinf(disparity[~valid]).all()
    return np.where(valid, FOCAL * BASE / (disparity + SHIFT), np.inf)


@pytest.fixture(scope="module")
def motorcycle() -> tuple[np.ndarray, np.ndarray]:
    """The left picture, and what the virtual sensor sees: every pixel's point, the nearest of each HDL-32E cell kept."""
    left, depth = stereo_motorcycle()[0], depths()
    valid = np.isfinite(depth)
    depth = depth[valid]
    v, u = np.nonzero(valid)
    x, down = (u - K[0, 2]) / FOCAL * depth, (v - K[1, 2]) / FOCAL * depth
    points = np.stack([x, depth, -down - 0.3, left[valid].mean(-1)], 1).astype(np.float32)
    index = project(points, NUSCENES).index
    points = points[np.sort(index[index >= 0].numpy())]
    return left, np.concatenate([points, np.zeros((len(points), 1), np.float32)], 1)


def test_sensor_sees_the_photograph(motorcycle: tuple[np.ndarray, np.ndarray]) -> None:
    left, points = motorcycle
    assert left.shape == (500, 741, 3) and len(points) > 1000
    at = points[:, :3] @ TO_CAMERA[:3, :3].T + TO_CAMERA[:3, 3]
    pixel = at @ K.T
    u, v = np.rint(pixel[:, 0] / pixel[:, 2]).astype(int), np.rint(pixel[:, 1] / pixel[:, 2]).astype(int)
    assert np.abs(left[v, u].mean(-1) - points[:, 3]).max() < 1e-3  # each return took its grey level from its own pixel
    assert 2 < points[:, 1].min() < points[:, 1].max() < 6


def test_insert_a_pedestrian(motorcycle: tuple[np.ndarray, np.ndarray]) -> None:
    left, points = motorcycle
    calib = {"K": K, "lidar_to_camera": TO_CAMERA}
    edit = pipeline.insert(left, points, calib, PERSON, left[50:200, 50:100], painter=Hole())
    n = len(edit.sweep.points) - edit.sweep.n_new
    new = edit.sweep.points[n:]
    assert edit.sweep.n_new > 150 and edit.measures["in_box_share"] > 0.5
    assert edit.measures["points_in_box_after"] == edit.sweep.predicted.sum() > 10 * edit.measures["points_in_box_before"]
    assert edit.measures["hole_clipped"] == {"image": True, "camera_crop": False, "range_crop": False}
    # the hole by hand: outline of the corners of the box grown by 1.1
    x, y, z, length, width, height, yaw = PERSON
    corner = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * [length, width, height] * 0.55
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    at = corner @ turn.T + [x, y, z]
    u, v = FOCAL * at[:, 0] / at[:, 1] + K[0, 2], FOCAL * (-at[:, 2] - 0.3) / at[:, 1] + K[1, 2]
    hull = ConvexHull(np.stack([u, v], 1)).vertices
    outline = np.zeros(left.shape[:2], bool)
    outline[polygon(v[hull], u[hull], outline.shape)] = True
    assert (outline ^ edit.placed.hole).sum() < 0.01 * outline.sum()
    # new returns in the box are seen inside the hole
    inside = new[points_in_box(new, edit.placed.box).numpy()][:, :3].astype(np.float64)
    seen = inside * [1, 1, -1] - [0, 0, 0.3]
    column, row = np.rint(FOCAL * seen[:, ::2].T / seen[:, 1] + K[:2, 2:]).astype(int)
    visible = (row >= 0) & (row < 500) & (column >= 0) & (column < 741)
    assert visible.any() and edit.placed.hole[row[visible], column[visible]].all()
    # what stood nearer than the person still stands, and nothing outside the hole moved
    assert edit.sweep.points[:n].tobytes() == points[edit.sweep.kept].tobytes()
    gone = points[~edit.sweep.kept]
    outside = ~points_in_box(gone, edit.placed.box).numpy()
    assert (np.linalg.norm(gone[outside, :3], axis=1) > y - 1).all()
    assert np.array_equal(edit.image.rgb[edit.image.share == 0], left[edit.image.share == 0])
    # in the picture what stays is what the measured depth has before the box, to a cell of the lidar
    near = depths() < y - 0.4 - OCCLUDER_GAP
    hole, stays = edit.placed.hole, edit.image.occluder
    assert 0.2 < near[hole].mean() < 0.8
    assert (near == stays)[hole].mean() > 0.9, (near[hole].mean(), stays[hole].mean(), (near & ~stays)[hole].mean())


def test_remove_a_small_thing(motorcycle: tuple[np.ndarray, np.ndarray]) -> None:
    """A 0.5 m cube about the nearest returns."""
    left, points = motorcycle
    nearest = points[np.argsort(points[:, 1])[:60]]
    x, y, z = (float(v) for v in np.median(nearest[:, :3], axis=0))
    calib = {"K": K, "lidar_to_camera": TO_CAMERA}
    edit = pipeline.remove(left, points, calib, (x, y + 0.1, z, 0.5, 0.5, 0.5, 0.0), painter=Hole(empty=True))
    assert edit.measures["points_in_box_before"] >= 30 and edit.measures["points_in_box_after"] == 0
    assert edit.sweep.n_new == 0 and edit.sweep.kept.sum() == len(points) - edit.measures["points_in_box_before"]
    view = project(edit.sweep.points, NUSCENES)
    assert not points_in_box(grid_points(view, NUSCENES)[metres(view.depth, NUSCENES) > 1], edit.placed.box).any()
