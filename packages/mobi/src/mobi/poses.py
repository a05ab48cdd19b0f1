"""Quaternions and the chain of frames: sensor -> ego -> global, through the ego pose of each sensor's own stamp (spec section 5).

Quaternions are [w, x, y, z] and turn the child's frame into the parent's; poses are 4 x 4, child -> parent, float64.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

Pose = Float64[np.ndarray, "4 4"]


class Upright(NamedTuple):
    """A box that stands on its base: centre (x, y, z) and size (length, width, height) in metres, heading `yaw`
    counter-clockwise from +x in radians, in (-pi, pi]."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float


def rotation(quaternion: Sequence[int | float]) -> Float64[np.ndarray, "3 3"]:
    """Rotation matrix of [w, x, y, z]. Raises ValueError unless it has four finite numbers of length 1 within 1e-3."""
    q = np.asarray(quaternion, np.float64)
    if q.shape != (4,) or not np.isfinite(q).all() or abs(float(np.linalg.norm(q)) - 1) > 1e-3:
        raise ValueError(f"rotation is {list(quaternion)} but must be a unit quaternion [w, x, y, z]")
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(turn: Float[np.ndarray, "3 3"]) -> tuple[float, float, float, float]:
    """[w, x, y, z] with w >= 0 of a rotation matrix.

    The largest of the four comes from the diagonal, the others by division by it: exact near half turns too.
    """
    m = np.asarray(turn, np.float64)
    squares = np.array(
        [1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2], 1 - m[0, 0] + m[1, 1] - m[2, 2],
         1 - m[0, 0] - m[1, 1] + m[2, 2]]
    )  # fmt: skip
    products = np.array(  # 4 q q^T
        [
            [squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], squares[1], m[1, 0] + m[0, 1], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[1, 0] + m[0, 1], squares[2], m[2, 1] + m[1, 2]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2], squares[3]],
        ]
    )
    q = products[int(squares.argmax())]
    q = q / np.linalg.norm(q)
    w, x, y, z = (float(v) for v in (q if q[0] >= 0 else -q))
    return w, x, y, z


def pose(turn: Sequence[int | float], translation: Sequence[int | float]) -> Pose:
    """Child -> parent from a quaternion and the child's origin in the parent's frame."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation(turn), translation
    return out


def pose_of(row: Mapping[str, Any]) -> Pose:
    """Pose of a row with `rotation` and `translation`: a calibrated sensor -> ego, or ego -> global."""
    return pose(row["rotation"], row["translation"])


def inverse(there: Pose) -> Pose:
    """Parent -> child, exact for rotations."""
    out = np.eye(4)
    out[:3, :3] = there[:3, :3].T
    out[:3, 3] = -there[:3, :3].T @ there[:3, 3]
    return out


def apply(there: Pose, points: Float[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Points in the parent's frame."""
    return points.astype(np.float64) @ there[:3, :3].T + there[:3, 3]


def between(from_sensor: Pose, from_ego: Pose, to_sensor: Pose, to_ego: Pose) -> Pose:
    """One sensor's frame at its stamp -> another's at its own.

    Args:
        from_sensor, to_sensor: sensor -> ego.
        from_ego, to_ego: ego -> global at that sensor's stamp. They differ: the car moves between stamps.
    """
    return inverse(to_sensor) @ inverse(to_ego) @ from_ego @ from_sensor


def pixels(
    to_camera: Pose, K: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "n 3"]
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, " n"]]:
    """Pixel (u, v) and depth along the optical axis of points; (nan, nan) where the depth is not above zero."""
    seen = apply(to_camera, points)
    flat = seen @ np.asarray(K, np.float64).T
    depth = seen[:, 2]
    out = np.full((len(points), 2), np.nan)
    ahead = depth > 0
    out[ahead] = flat[ahead, :2] / depth[ahead, None]
    return out, depth


def heading(turn: Float[np.ndarray, "3 3"]) -> float:
    """Direction of the child's x axis seen from above, counter-clockwise from the parent's +x, in (-pi, pi]."""
    return wrapped(float(np.arctan2(turn[1, 0], turn[0, 0])))


def wrapped(angle: float) -> float:
    """The same direction in (-pi, pi]."""
    turned = float(np.pi - np.remainder(np.pi - angle, 2 * np.pi))
    return turned if turned > -np.pi else float(np.pi)


def to_sensor(row: Mapping[str, Any], sensor: Pose, ego: Pose) -> Upright:
    """A row of sample_annotation (global, size = width, length, height) as a box of a sensor's frame."""
    there = between(np.eye(4), pose_of(row), sensor, ego)
    width, length, height = (float(v) for v in row["size"])
    x, y, z = (float(v) for v in there[:3, 3])
    return Upright((x, y, z), (length, width, height), heading(there[:3, :3]))


def to_global(box: Upright, sensor: Pose, ego: Pose) -> dict[str, list[float]]:
    """Translation, size (width, length, height) and rotation of a sensor frame's box, as sample_annotation holds them."""
    c, s = np.cos(box.yaw), np.sin(box.yaw)
    own = np.eye(4)
    own[:3, :3], own[:3, 3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]], box.center
    there = ego @ sensor @ own
    length, width, height = box.size
    return {
        "translation": [float(v) for v in there[:3, 3]],
        "size": [float(width), float(length), float(height)],
        "rotation": list(quaternion(there[:3, :3])),
    }


def inside(there: Pose, size: Sequence[int | float], points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
    """Which points lie in a box: `there` is box -> points' frame, `size` = width, length, height; faces count. NaN is outside."""
    width, length, height = size
    own = apply(inverse(there), points)
    with np.errstate(invalid="ignore"):
        return (np.abs(own) <= np.array([length, width, height]) / 2).all(axis=1)
