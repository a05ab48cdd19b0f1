"""Quaternions against scipy, the chain of frames against plain matrices, boxes there and back."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mobi import poses
from mobi.poses import Upright


def some_pose(rng: np.random.Generator) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = Rotation.random(rng=rng).as_matrix(), rng.uniform(-100, 100, 3)
    return out


def test_quaternions_agree_with_scipy_also_near_half_turns() -> None:
    rng = np.random.default_rng(0)
    turns = [*Rotation.random(50, rng=rng), *Rotation.from_euler("xyz", np.pi * np.eye(3) + 1e-9), Rotation.identity()]
    for turn in turns:
        x, y, z, w = turn.as_quat()
        np.testing.assert_allclose(poses.rotation([w, x, y, z]), turn.as_matrix(), atol=1e-12)
        back = poses.quaternion(turn.as_matrix())
        assert back[0] >= 0 and abs(abs(np.dot(back, [w, x, y, z])) - 1) < 1e-12
        np.testing.assert_allclose(poses.rotation(back), turn.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("wrong", [[1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0], [float("nan"), 0, 0, 1], [1, 0, 0, 0, 0]])
def test_what_is_no_unit_quaternion_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="unit quaternion"):
        poses.rotation(wrong)


def test_inverse_and_chain() -> None:
    rng = np.random.default_rng(1)
    a, b, c, d = (some_pose(rng) for _ in range(4))
    np.testing.assert_allclose(poses.inverse(a), np.linalg.inv(a), atol=1e-10)
    np.testing.assert_allclose(poses.between(a, b, c, d), np.linalg.inv(d @ c) @ b @ a, atol=1e-9)
    points = rng.normal(size=(7, 3))
    np.testing.assert_allclose(poses.apply(a, points), (np.c_[points, np.ones(7)] @ a.T)[:, :3], atol=1e-12)


def test_pixels_of_points_before_and_behind() -> None:
    K = np.array([[100.0, 0, 50], [0, 120, 40], [0, 0, 1]])
    at, depth = poses.pixels(np.eye(4), K, np.array([[1.0, 2, 4], [0, 0, -1], [0, 0, 0]]))
    np.testing.assert_allclose(at[0], [75, 100])
    assert np.isnan(at[1:]).all() and depth.tolist() == [4, -1, 0]


def test_boxes_go_to_the_global_frame_and_back() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        turns = [Rotation.from_euler("z", rng.uniform(-np.pi, np.pi)).as_matrix() for _ in range(2)]
        sensor, ego = np.eye(4), np.eye(4)
        sensor[:3, :3], sensor[:3, 3] = turns[0], rng.normal(size=3)
        ego[:3, :3], ego[:3, 3] = turns[1], rng.uniform(-1000, 1000, 3)
        box = Upright((3.0, -4.0, 0.5), (4.5, 1.9, 1.6), float(rng.uniform(-np.pi, np.pi)))
        row = poses.to_global(box, sensor, ego)
        assert row["size"] == [1.9, 4.5, 1.6]  # width, length, height
        back = poses.to_sensor(row, sensor, ego)
        np.testing.assert_allclose(back.center, box.center, atol=1e-9)
        np.testing.assert_allclose([back.size, [back.yaw]][0], box.size)
        assert abs(poses.wrapped(back.yaw - box.yaw)) < 1e-9
        # the middle of the front face lies ahead by half a length
        nose = np.array(box.center) + 2.25 * np.array([np.cos(box.yaw), np.sin(box.yaw), 0])
        there = poses.pose_of(row)
        np.testing.assert_allclose(poses.apply(ego @ sensor, nose[None])[0], (there @ [2.25, 0, 0, 1])[:3], atol=1e-9)


def test_inside_counts_faces_and_leaves_out_nan() -> None:
    there = poses.pose(
        [np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)], [10, 0, 0]
    )  # a quarter turn: its length runs along y
    points = np.array([[10.0, 1.9, 0], [10.9, 0, 0], [10, 0, 0.5], [10, 0, 0.5001], [np.nan, 0, 0]])
    assert poses.inside(there, (1.0, 4.0, 1.0), points).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("angle", "same"), [(0.0, 0.0), (np.pi, np.pi), (-np.pi, np.pi), (3 * np.pi, np.pi), (-0.1, -0.1)]
)
def test_wrapped_is_half_open(angle: float, same: float) -> None:
    assert poses.wrapped(angle) == pytest.approx(same, abs=1e-12)
    assert -np.pi < poses.wrapped(angle) <= np.pi
