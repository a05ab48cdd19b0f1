"""What speaks against an edit: camera and lidar disagree, the box stays empty, the hole is cut (issue: rejection flags)."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from scipy.ndimage import binary_dilation

from graft_common.rangeview import points_in_box, project_camera
from graft_common.rangeview.angles import direction
from mobi.composite import box_span
from mobi.place import behind_camera, hole_clipped
from mobi.records import EditedImage, EditedSweep, Placed

ABOVE_GROUND = 0.2  # metres over the box's bottom: what lies lower may be the road
LEAST_SHARE, LEAST_AGREEMENT, MOST_LEFT, MOST_HIDDEN = 0.1, 0.5, 0.05, 0.9
DRAWN = 24  # grey levels in any channel by which a pixel must change to count as drawn


def standing(placed: Placed, points: np.ndarray) -> int:
    """Points in the box that lie more than 0.2 m over its bottom."""
    height = points[:, 2] > placed.box.centre[2] - placed.box.size[2] / 2 + ABOVE_GROUND
    return int((points_in_box(points, placed.box).numpy() & height).sum())


def agreement(placed: Placed, sweep: EditedSweep, silhouette: Bool[np.ndarray, "H W"]) -> dict[str, float | None]:
    """Cross-modal consistency of an edit (spec section 7, item 7).

    precision: of the new returns in the box, the share whose pixel lies in the drawn silhouette, 1 px of slack; only those
    that fall into the picture count. recall: of the rays that cross the silhouette with nothing before the box, the share
    that return in the box; a ray crosses where the middle of its way through the box is seen. f1: their harmonic mean. None
    where nothing can be counted.
    """
    view = placed.view
    fresh = sweep.points[len(sweep.points) - sweep.n_new :]
    at = fresh[points_in_box(fresh, placed.box).numpy(), :3]
    slack = binary_dilation(silhouette, np.ones((3, 3), bool))
    landed = _look(placed, at.astype(np.float64), slack)
    aimed = torch.from_numpy(sweep.aimed)
    pitch, yaw = view.pitch[aimed].double(), view.yaw[aimed].double()
    enter, leave = box_span(pitch, yaw, placed.box)
    middle = (direction(pitch, yaw) * (enter + leave)[:, None] / 2).numpy()
    hit = sweep.hit[sweep.aimed]
    crossing = _look(placed, middle, silhouette)
    drawn = crossing == 1
    precision = _share(landed == 1, landed >= 0)
    recall = _share(hit & drawn, drawn)
    both = None if precision is None or recall is None else precision + recall
    f1 = None if both is None else 2 * (precision or 0) * (recall or 0) / both if both else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _look(placed: Placed, points: np.ndarray, mask: Bool[np.ndarray, "H W"]) -> np.ndarray:
    """1 where a point's pixel is in the mask, 0 where not, -1 out of the picture."""
    seen = project_camera(points, placed.scene.camera)
    column, row = np.rint(seen[:, :2].clip(-1e6, 1e6)).astype(int).T if len(seen) else np.zeros((2, 0), int)
    height, width = mask.shape
    inside = (seen[:, 2] > 0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    out = np.full(len(seen), -1)
    out[inside] = mask[row[inside], column[inside]]
    return out


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.sum() else None


def judge(
    task: str, placed: Placed, image: EditedImage, sweep: EditedSweep
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """(measures, flags, warnings) of an edit; flags name reasons to reject it, warnings what its owner should know.

    The silhouette is what the picture shows changed: that of the new object for an insertion into free space, which alone is
    judged for agreement. A replacement's change is no silhouette: it holds the old object's outline too, and where the new
    object looks like the old one, as the best reinsertion does, there is none.
    """
    before, after = standing(placed, placed.scene.points), standing(placed, sweep.points)
    aimed, hit = int(sweep.aimed.sum()), int(sweep.hit.sum())
    share = hit / aimed if aimed else None
    hidden = float(image.occluder.sum() / placed.hole.sum())
    clipped = hole_clipped(placed)
    drawn = (np.abs(image.rgb.astype(int) - placed.scene.rgb).max(-1) > DRAWN) & placed.hole
    measures: dict[str, Any] = {
        "points_in_box_before": int(points_in_box(placed.scene.points, placed.box).sum()),
        "points_in_box_after": int(points_in_box(sweep.points, placed.box).sum()),
        "standing_before": before,
        "standing_after": after,
        "in_box_share": share,
        "hole_clipped": clipped,
        "behind_camera": behind_camera(placed),
        "occluded_pixels": int(image.occluder.sum()),
        "occluded_share": hidden,
        "missed_pixels": int(sweep.missed.sum()),
    }
    flags = [f"hole clipped by the {name.replace('_', ' ')}" for name, cut in clipped.items() if cut]
    warnings = []
    if task == "insert":
        measures["agreement"] = agreement(placed, sweep, drawn)
        if (f1 := measures["agreement"]["f1"]) is not None and f1 < LEAST_AGREEMENT:
            flags.append(f"camera and lidar disagree: {f1:.2f}, at least {LEAST_AGREEMENT} wanted")
        if before:
            warnings.append(f"the box holds {before} returns above the ground; replace is meant for that")
    elif not before:
        warnings.append("the box holds no return above the ground; the lidar sees no object there")
    if task == "remove":
        if after > MOST_LEFT * before:
            flags.append(f"{after} returns stand in the box, {before} before")
    else:
        if share is None:
            flags.append("no ray of the sweep reaches the box; the lidar cannot show the object")
        elif share < LEAST_SHARE:
            flags.append(f"{hit} of {aimed} rays through the box return in it, {LEAST_SHARE:.0%} wanted")
        if hidden > MOST_HIDDEN:
            flags.append(f"{hidden:.0%} of the hole lies behind something nearer; the picture hardly shows the object")
        if measures["behind_camera"]:
            flags.append("the box reaches behind the camera; the network is told only roughly where")
    if sweep.missed.any():
        flags.append(f"{int(sweep.missed.sum())} pixels of the range view lie outside the crop and lost their return")
    return measures, tuple(flags), tuple(warnings)
