"""Numbers about a painting against the truth of its scene: arrays in, numbers out (issue's measures; mobi spec section 6).

A number is None where nothing can be counted.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.ndimage import binary_dilation
from torch import Tensor

from graft_common.rangeview import Camera, CameraCrop, project_camera

Number = float | None
Mask = Bool[np.ndarray, "..."]
Values = Float[np.ndarray, "..."]
SHOWN = 16
"""Grey levels in any channel by which a pixel must differ to count as drawn; of 12, 16, 24, 32, ... on drawn scenes 12 and 16 find
the true silhouettes best."""
BEHIND = 0.1
"""Metres behind the object's surface from which a return counts as beyond it; the lidar's noise is 2 cm."""


def share(part: Mask, whole: Mask) -> Number:
    """Of `whole`, how much is in `part` too."""
    return float((part & whole).sum() / whole.sum()) if whole.any() else None


def hole_index(predicted: Mask, truth: Mask, where: Mask) -> dict[str, Number]:
    """How well a mask is found inside `where`: recall, specificity, their sum - 1 ("index": 0 for everything, nothing and
    chance, 1 for the truth), and IoU."""
    recall, specificity = share(predicted, where & truth), share(~predicted, where & ~truth)
    both = None if recall is None or specificity is None else recall + specificity - 1
    either = (predicted | truth) & where
    return {"recall": recall, "specificity": specificity, "index": both, "iou": share(predicted & truth, either)}


def drawn(
    painted: Float[Tensor, "3 D D"], blank: Float[Tensor, "3 D D"], hole: Bool[np.ndarray, "D D"]
) -> Bool[np.ndarray, "D D"]:
    """Where a painting differs from `blank` (the empty scene as the autoencoder gives it back) inside the hole: by more than 16
    grey levels in any channel. Both in [-1, 1], clamped here."""
    gap = (painted.clamp(-1, 1) - blank.clamp(-1, 1)).abs().amax(0) * 127.5
    return (gap.numpy() > SHOWN) & hole


def median_error(predicted: Values, truth: Values, where: Mask) -> Number:
    """Median absolute difference there."""
    return float(np.median(np.abs(predicted[where] - truth[where]))) if where.any() else None


def root_mean_square(predicted: Values, truth: Values, where: Mask) -> Number:
    """Root of the mean squared difference there."""
    return float(np.sqrt(np.mean((predicted[where] - truth[where]) ** 2))) if where.any() else None


def left_over(
    removed: Float[Tensor, "c h w"], empty: Float[Tensor, "c h w"], before: Float[Tensor, "c h w"], where: Bool[np.ndarray, "h w"]
) -> Number:
    """|removed - empty| / |before - empty|, both summed inside the silhouette: 0 for the true empty scene, 1 for doing nothing;
    None where they never differed. All in one unit, clamped where that has limits."""
    inside = torch.from_numpy(where)
    whole = (before - empty).abs()[:, inside].sum()
    return float((removed - empty).abs()[:, inside].sum() / whole) if whole > 0 else None


def uncovered(
    predicted: Values, surface: Values, beyond: Values, hit: Mask, far: float | int
) -> dict[str, Number]:
    """Rays that hit an object, after its removal: share that now return behind its surface, and their median error.

    Args:
        predicted: metres along each ray, outside the sensor's limits for no return.
        surface, beyond: true metres to the object and to what is behind it; rays with nothing behind within `far` do not count.
    """
    counted = hit & (beyond < far)
    through = counted & (predicted > surface + BEHIND) & (predicted < far)
    return {"behind": share(through, counted), "behind_error": median_error(predicted, beyond, through)}


def crop_pixels(
    points: Float[np.ndarray, "n 3"], camera: Camera, crop: CameraCrop, size: int
) -> tuple[Int64[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
    """(row, column) of the size x size crop that shows each point, and which points it shows at all."""
    seen = project_camera(points, camera)
    at = (seen[:, :2] + 0.5 - [crop.left, crop.top]) / [crop.width, crop.height] * size
    inside = (seen[:, 2] > 0) & (at >= 0).all(1) & (at < size).all(1)
    return np.where(inside[:, None], at[:, ::-1], 0).astype(np.int64), inside


def consistency(
    silhouette: Bool[np.ndarray, "D D"], returns: Float[np.ndarray, "n 3"], rays: Float[np.ndarray, "m 3"],
    landed: Bool[np.ndarray, " m"], camera: Camera, crop: CameraCrop,
) -> dict[str, Number]:  # fmt: skip
    """Whether camera and lidar show the same object.

    precision: of the returns in the box, the share whose pixel lies in the drawn silhouette, with one pixel of slack. recall: of
    the rays that cross the silhouette, the share that return in the box. f1: their harmonic mean. Points out of the crop do not
    count.

    Args:
        silhouette: the crop's drawn pixels.
        returns: points in the box, lidar frame.
        rays: the middle of each ray's way through the box, lidar frame.
        landed: which of these rays return in the box.
    """
    size = len(silhouette)
    at, seen = crop_pixels(returns, camera, crop, size)
    slack = binary_dilation(silhouette, np.ones((3, 3), bool))
    precision = share(slack[at[:, 0], at[:, 1]], seen)
    at, seen = crop_pixels(rays, camera, crop, size)
    recall = share(landed, seen & silhouette[at[:, 0], at[:, 1]])
    total = None if precision is None and recall is None else (precision or 0) + (recall or 0)
    f1 = None if total is None else 2 * (precision or 0) * (recall or 0) / total if total else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
