"""The painting back into picture and sweep; whatever no decision touches keeps its bytes (mobi spec 2.10)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from graft_common.pixels import merge_stored
from graft_common.rangeview import (
    MASK_SCALE,
    Box3d,
    RangeView,
    Sensor,
    crop_columns,
    grid_points,
    metres,
    nearest_distance,
    points_in_box,
    project_camera,
    put_crop,
    reduce,
    restore_depth,
    restore_intensity,
)
from graft_common.rangeview.angles import beam_pitch, beam_position, column_position, direction, pixel_angles, wrap
from graft_common.rangeview.boxes import half_size, to_box
from graft_common.rangeview.project import Rows
from mobi.colour import to_rgb
from mobi.records import EditedImage, EditedSweep, Placed

FULL_WIDTH, FULL_BLUR = 1600, 7
"""Width of the pictures that the paper's blend (15 x 15, sigma 7) is meant for."""
OCCLUDER_GAP = 0.5
"""Metres that a return must lie before the box to count as something in front of it: ground at the box's foot does not."""

Pool = Literal["before", "after"]


def blend_reach(width: int, blur: int | None = None) -> int:
    """Pixels over which the picture is blended: 7 at a width of 1600, in proportion else, at least 1."""
    return max(1, round(FULL_BLUR * width / FULL_WIDTH)) if blur is None else blur


def composite_image(
    placed: Placed, painted: Float[Tensor, "3 D D"], blur: int | None = None, z_test: bool = True
) -> EditedImage:
    """The painted crop pasted into the picture.

    The hole is blurred with a Gaussian (its sigma is its reach); a pixel shows that share of the painting. Where the share is
    0, the source's stored values stay; elsewhere they are rounded once. Outside the crop the picture itself is the canvas.

    Args:
        painted: the decoded crop in [-1, 1], clamped here.
        blur: reach of the blend in pixels; None as `blend_reach`.
        z_test: keep the source where the sweep shows something before the box.
    """
    import cv2

    picture, crop = placed.scene.picture, placed.camera_crop
    canvas = picture.pixels.astype(np.float64)
    part = F.interpolate(
        painted.detach().cpu().double().clamp(-1, 1)[None], (crop.height, crop.width), mode="bilinear", antialias=True,
        align_corners=False,
    )[0].numpy()  # fmt: skip
    if len(canvas) == 1:
        part = np.einsum("c,chw->hw", [0.299, 0.587, 0.114], part)[None]
    canvas[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = part
    occluder = occluded(placed) if z_test else np.zeros_like(placed.hole)
    reach = blend_reach(placed.hole.shape[1], blur)
    hole = (placed.hole & ~occluder).astype(np.float64)
    share = cv2.GaussianBlur(hole, (2 * reach + 1,) * 2, reach, borderType=cv2.BORDER_REPLICATE)
    share = np.where(occluder, 0, share.clip(0, 1)).astype(np.float32)
    changed = share > 0
    pixels = picture.pixels.copy()
    mixed = picture.pixels * (1 - share.astype(np.float64)) + canvas * share
    pixels[:, changed] = mixed[:, changed].astype(np.float32)
    return EditedImage(merge_stored(picture, pixels, changed), _edited_rgb(placed, pixels, changed), share, occluder)


def _edited_rgb(
    placed: Placed, pixels: Float32[np.ndarray, "C H W"], changed: Bool[np.ndarray, "H W"]
) -> np.ndarray:
    rgb = placed.scene.rgb.copy()
    rgb[changed] = to_rgb(pixels)[changed]
    return rgb


def composite_sweep(
    placed: Placed, painted: Float[Tensor, "2 D D"], z_test: bool = True, pool: Pool = "before"
) -> EditedSweep:
    """The painted range crop put into the sweep.

    A pixel is replaced where a point of the sweep that it shows or hides lies in the box (A), or where the predicted point
    does (B). Points in the box go, and so does every point of a replaced pixel, also beyond the sensor's far limit; all
    others stay as they are. A replaced pixel's prediction becomes a new point, unless it is not between the sensor's limits.

    Args:
        painted: depth and intensity as `Crops.lidar`; clamped here.
        z_test: a pixel whose own return lies outside the box and nearer than the prediction in it keeps that return.
        pool: average each block before or after depth and intensity go back to their units.
    """
    scene, box, view = placed.scene, placed.box, placed.view
    sensor, crop = scene.sensor, placed.range_crop
    depth, intensity = restored(placed, painted, pool)
    inside_crop = torch.zeros(sensor.rows, sensor.columns, dtype=torch.bool)
    inside_crop[:, crop_columns(crop, sensor)] = True
    empty = torch.full_like(view.depth, -1)
    predicted = RangeView(
        view.index, put_crop(empty, depth.to(empty), crop, sensor),
        put_crop(torch.zeros_like(view.intensity), intensity.to(empty), crop, sensor),
        view.pitch, view.yaw, view.n_clamped, view.n_nan, view.n_out_of_range,
    )  # fmt: skip
    distance = metres(predicted.depth, sensor)
    returns = inside_crop & (distance > sensor.near) & (distance < sensor.far)
    hits = returns & points_in_box(grid_points(predicted, sensor), box)  # B

    in_box = points_in_box(scene.points, box).numpy()
    pixel = point_pixels(scene.points, sensor, scene.rows)
    shown = torch.zeros(sensor.rows * sensor.columns, dtype=torch.bool)
    ranged = np.linalg.norm(scene.points[:, :3].astype(np.float64), axis=1) < sensor.far
    shown[pixel[in_box & ranged & (pixel >= 0)]] = True
    shown = shown.view(sensor.rows, sensor.columns)  # A
    own = torch.zeros_like(shown)  # the winner lies in the box
    seen = view.index >= 0
    own[seen] = torch.from_numpy(in_box)[view.index[seen]]
    nearer = seen & ~own & (~hits | (view.depth < predicted.depth))  # of an A-pixel without B, the winner hides the box
    replaced = (shown | hits) & inside_crop
    if z_test:
        replaced &= ~nearer

    flat = replaced.flatten().numpy()
    gone = in_box | ((pixel >= 0) & flat[pixel.clip(0)])
    new = replaced & returns
    points = new_points(predicted, new, sensor, scene.points.shape[1])
    aimed, blocked = _aimed(placed, z_test)
    return EditedSweep(
        points=np.concatenate([scene.points[~gone], points]),
        kept=~gone,
        n_new=len(points),
        replaced=replaced.numpy(),
        predicted=(replaced & hits).numpy(),
        missed=(shown & ~inside_crop).numpy(),
        aimed=(aimed & ~blocked & inside_crop).numpy(),
        hit=(aimed & ~blocked & hits & replaced).numpy(),
    )


def restored(
    placed: Placed, painted: Float[Tensor, "2 D D"], pool: Pool = "before"
) -> tuple[Float64[Tensor, "rows w"], Float64[Tensor, "rows w"]]:
    """Stored depth and intensity (0..255) of a painted range crop, one value a pixel of the view."""
    painted = painted.detach().cpu().double().clamp(-1, 1)
    rows, columns = placed.scene.sensor.rows, placed.range_crop.width
    if pool == "before":
        painted = reduce(painted, rows, columns)
    depth, intensity = restore_depth(painted[0], *placed.band), restore_intensity(painted[1])
    if pool == "after":
        depth, intensity = reduce(depth, rows, columns), reduce(intensity, rows, columns)
    return depth, intensity


def point_pixels(points: Float32[np.ndarray, "N C"], sensor: Sensor, rows: Rows) -> Int64[np.ndarray, " N"]:
    """Flat pixel (row x W + column) of each point of the sweep, also of those that another hides or that lie beyond the far
    limit; -1 for points at or within the near limit and for those that are not finite. Same rules as `project`."""
    cloud = torch.from_numpy(points.astype(np.float64))
    x, y, z = cloud[:, :3].unbind(1)
    distance = (x * x + y * y + z * z).sqrt()
    keep = cloud[:, :4].isfinite().all(1) & (distance > sensor.near)
    if rows == "ring":
        table = {ring: row for row, ring in enumerate(sensor.rings)}
        row = torch.tensor([table.get(int(r), -1) if np.isfinite(r) else -1 for r in points[:, 4]], dtype=torch.float64)
        keep &= row >= 0
    else:
        beam = beam_position((z / distance).clamp(-1, 1).asin(), sensor).round()
        row = sensor.rows - 1 - beam.clamp(0, sensor.rows - 1)
    aside = -torch.atan2(y, x)
    if sensor.offset:
        aside = wrap(aside - cloud.new_tensor(sensor.azimuth)[row.nan_to_num().long()])
    column = column_position(aside, sensor).floor().clamp(0, sensor.columns - 1)
    return torch.where(keep, (row * sensor.columns + column).nan_to_num().long(), -1).numpy()


def new_points(
    view: RangeView, where: Bool[Tensor, "rows columns"], sensor: Sensor, columns: int
) -> Float32[np.ndarray, "n C"]:
    """Points of pixels, row by row: x, y, z, intensity within 0..255, the row's ring, and 0 in further columns."""
    out = np.zeros((int(where.sum()), columns), np.float32)
    at = metres(view.depth[where].double(), sensor)[:, None] * direction(view.pitch[where].double(), view.yaw[where].double())
    out[:, :3] = at.numpy()
    out[:, 3] = view.intensity[where].clamp(0, 255).numpy()
    if columns > 4:
        out[:, 4] = np.array(sensor.rings, np.float32)[where.nonzero()[:, 0].numpy()]
    return out


def box_span(
    pitch: Float[Tensor, "*s"], yaw: Float[Tensor, "*s"], box: Box3d
) -> tuple[Float64[Tensor, "*s"], Float64[Tensor, "*s"]]:
    """Metres from the sensor along each ray to where it enters the box and leaves it; (inf, inf) where it misses."""
    rays = direction(pitch.double(), yaw.double())
    start = to_box(torch.zeros(3, dtype=torch.float64), box)
    ahead = to_box(rays + torch.tensor(box.centre, dtype=torch.float64), box)  # a direction has no place: only turned
    ahead = torch.where(ahead.abs() < 1e-300, 1e-300, ahead)
    half = half_size(box, rays)
    one, two = (-half - start) / ahead, (half - start) / ahead
    enter, leave = one.minimum(two).amax(-1).clamp(min=0), one.maximum(two).amin(-1)
    meets = leave >= enter
    return torch.where(meets, enter, torch.inf), torch.where(meets, leave, torch.inf)


def _aimed(placed: Placed, z_test: bool) -> tuple[Bool[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]:
    """Pixels whose ray meets the box, and those where a return lies clearly before it."""
    view, sensor = placed.view, placed.scene.sensor
    enter = box_span(view.pitch, view.yaw, placed.box)[0]
    meets = enter.isfinite()
    before = (view.index >= 0) & meets & (metres(view.depth.double(), sensor) < enter - OCCLUDER_GAP)
    return meets, before if z_test else torch.zeros_like(before)


def occluded(placed: Placed) -> Bool[np.ndarray, "H W"]:
    """Pixels of the hole before which the sweep shows something: each such pixel's cell, at its return's distance.

    The camera looks past other edges than the lidar, so a return counts also where its own ray misses the box, if it is nearer
    than all of the box: seen from beside the lidar, nothing of the box comes before it.
    """
    import cv2

    scene, view, box, hole = placed.scene, placed.view, placed.box.scaled(MASK_SCALE), placed.hole
    sensor = scene.sensor
    distance = metres(view.depth.double(), sensor)
    enter = box_span(view.pitch, view.yaw, box)[0]
    limit = torch.where(enter.isfinite(), enter, nearest_distance(box)) - OCCLUDER_GAP
    before = (view.index >= 0) & (distance < limit)
    distance, row = distance[before], before.nonzero()[:, 0]
    yaw = pixel_angles(sensor, view.depth)[1][before].double()
    step = np.pi / sensor.columns
    beam = sensor.rows - 1.0 - row.double()
    corners = []
    for up, aside in ((-0.5, -step), (-0.5, step), (0.5, step), (0.5, -step)):
        corners.append(distance[:, None] * direction(beam_pitch(beam + up, sensor), yaw + aside))
    cells = project_camera(torch.stack(corners, 1).numpy(), scene.camera)
    # to the nearest pixel: cells that touch share their edge, so no seam stays open
    cells = np.rint(cells[(cells[..., 2] > 0).all(1), :, :2].clip(-1e4, 1e4)).astype(np.int32)
    canvas, (rows, columns) = np.zeros(hole.shape, np.uint8), hole.nonzero()
    near = (cells.max(1) >= (columns.min(), rows.min())) & (cells.min(1) <= (columns.max(), rows.max()))
    for cell in cells[near.all(1)]:
        cv2.fillConvexPoly(canvas, cell, 1)
    return (canvas > 0) & hole
