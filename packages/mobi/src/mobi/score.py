"""One painting of one case -> its numbers against the truth, before anything is composited."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from graft_common.rangeview import camera_hole, metres, range_mask
from graft_common.rangeview.angles import direction
from mobi.answers import Painting, holes
from mobi.cases import Case, Truth
from mobi.composite import box_span, restored
from mobi.metrics import Number, consistency, drawn, hole_index, left_over, median_error, uncovered

SLACK = 0.06  # metres


@dataclass(frozen=True, eq=False)
class Cast:
    """The rays of a case's range crop that were sent: which lie in the hole, and where each runs through the box.

    Attributes:
        hole: rays through the grown box.
        enter, leave: metres to the box's faces, inf for rays beside it.
        hit, distance: the truth (`Truth`).
        rays: unit vectors.
    """

    hole: Bool[np.ndarray, "rows w"]
    enter: Float64[np.ndarray, "rows w"]
    leave: Float64[np.ndarray, "rows w"]
    hit: Bool[np.ndarray, "rows w"]
    distance: Float64[np.ndarray, "rows w"]
    rays: Float64[np.ndarray, "rows w 3"]


def cast(case: Case, truth: Truth) -> Cast:
    """Along the true rays."""
    placed = case.placed
    rows, width = truth.sent.shape
    pitch, yaw = torch.from_numpy(truth.pitch), torch.from_numpy(truth.yaw)
    enter, leave = (x.numpy() for x in box_span(pitch, yaw, placed.box))
    hole = range_mask(placed.box, placed.range_crop, placed.scene.sensor, (rows, width)).numpy()
    return Cast(hole & truth.sent, enter, leave, truth.hit & truth.sent, truth.distance, direction(pitch, yaw).numpy())


def distances(case: Case, lidar: Float[Tensor, "2 D D"]) -> Float64[np.ndarray, "rows w"]:
    """Painted metres of each pixel of the range crop."""
    return metres(restored(case.placed, lidar)[0], case.placed.scene.sensor).numpy()


def inside(rays: Cast, distance: Float64[np.ndarray, "rows w"]) -> Bool[np.ndarray, "rows w"]:
    """Which rays return in the box: from a little before the face where they enter, since the object touches it, to a little
    before the one where they leave, since that is often the ground. The little is three times the lidar's noise."""
    last = np.maximum(rays.leave - SLACK, (rays.enter + rays.leave) / 2)
    return (distance >= rays.enter - SLACK) & (distance <= last)


def silhouette(case: Case, truth: Truth) -> Bool[np.ndarray, "D D"]:
    """The object's pixels in the camera crop."""
    return camera_hole(truth.silhouette, case.placed.camera_crop, case.placed.size).numpy()


def score_camera(case: Case, camera: Float[Tensor, "3 D D"], blank: Float[Tensor, "3 D D"]) -> dict[str, Number]:
    """camera_recall, camera_specificity, camera_index, camera_iou.

    Args:
        blank: the empty scene as the autoencoder gives it back.
    """
    assert case.truth is not None
    hole = holes(case.placed)[0].numpy()
    found = hole_index(drawn(camera, blank, hole), silhouette(case, case.truth), hole)
    return {f"camera_{name}": value for name, value in found.items()}


def score_lidar(case: Case, lidar: Float[Tensor, "2 D D"]) -> dict[str, Number]:
    """lidar_recall, lidar_specificity, lidar_index, lidar_iou; depth_error in metres, where prediction and truth hold."""
    assert case.truth is not None
    rays, distance = cast(case, case.truth), distances(case, lidar)
    lands = inside(rays, distance)
    found = {f"lidar_{name}": value for name, value in hole_index(lands, rays.hit, rays.hole).items()}
    found["depth_error"] = median_error(distance, rays.distance, lands & rays.hit & rays.hole)
    return found


def score_consistency(
    case: Case, shown: Bool[np.ndarray, "D D"], lidar: Float[Tensor, "2 D D"]
) -> dict[str, Number]:
    """joint_precision, joint_recall, joint_f1 of a drawn silhouette and a range crop.

    A ray is looked for in the picture at the middle of its way through the box.
    """
    assert case.truth is not None
    placed = case.placed
    rays, distance = cast(case, case.truth), distances(case, lidar)
    lands = inside(rays, distance) & rays.hole
    aimed = rays.hole & np.isfinite(rays.enter)
    middle = (rays.enter + rays.leave)[aimed][:, None] / 2 * rays.rays[aimed]
    returns = distance[lands][:, None] * rays.rays[lands]
    found = consistency(shown, returns, middle, lands[aimed], placed.scene.camera, placed.camera_crop)
    return {f"joint_{name}": value for name, value in found.items()}


def score_removal(case: Case, painting: Painting, trips: tuple[Painting, Painting]) -> dict[str, Number]:
    """camera_left: what is left of the object inside its silhouette; behind and behind_error: `metrics.uncovered`.

    Args:
        trips: the empty scene and the scene with the object, as the autoencoders give them back.
    """
    assert case.truth is not None
    truth = case.truth
    shown = silhouette(case, truth)
    removed, empty, before = (x[0].clamp(-1, 1) for x in (painting, *trips))
    left = left_over(removed, empty, before, shown)
    rays = cast(case, truth)
    sensor = case.placed.scene.sensor
    distance = distances(case, painting[1])
    distance = np.where(distance > sensor.near, distance, np.inf)
    return {"camera_left": left, **uncovered(distance, truth.distance, truth.beyond, rays.hit & rays.hole, sensor.far)}
