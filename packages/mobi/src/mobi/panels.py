"""Pictures for people: camera with box, range view, bird's-eye view, before and after."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8

from graft_common.panel import panel
from graft_common.rangeview import (
    FACES,
    Box3d,
    RangeView,
    Sensor,
    box_polygons,
    box_to_range,
    has_return,
    metres,
    points_in_box,
    project,
)
from mobi.records import Edit, Scene

WIDTH, PAD, LINE = 1096, 10, 20
SIDE = (WIDTH - PAD) // 2  # of each half
NARROWEST, WIDEST = 6.0, 27.0  # metres from the lidar to the edge of the bird's-eye view
BOX, FRESH = (255, 60, 60), (255, 0, 200)
# distance as colour, from near to far: dark red, orange, yellow, green, blue
KNOTS = np.array([0, 0.15, 0.35, 0.6, 1.0])
COLOURS = np.array([[150, 0, 20], [240, 110, 20], [245, 220, 60], [60, 190, 120], [40, 70, 200]], np.float64)


def coloured(share: Float[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s 3"]:
    """Distances as shares of the farthest -> colours."""
    return np.stack([np.interp(share, KNOTS, COLOURS[:, c]) for c in range(3)], -1).astype(np.uint8)


def camera_view(rgb: UInt8[np.ndarray, "H W 3"], scene: Scene, box: Box3d | None, width: int = SIDE) -> UInt8[np.ndarray, "h w 3"]:
    """The picture at a width, with the box's edges and a cross on its front face."""
    from PIL import Image, ImageDraw

    scale = width / rgb.shape[1]
    image = Image.fromarray(rgb).resize((width, max(1, round(rgb.shape[0] * scale))), Image.Resampling.BICUBIC)
    if box is not None:
        draw = ImageDraw.Draw(image)
        for polygon in box_polygons(box, scene.camera):
            draw.polygon([(float(u) * scale, float(v) * scale) for u, v in polygon], outline=BOX)
        front = box.corners()[list(FACES[2])].mean(0) @ torch.from_numpy(scene.camera.lidar_to_camera[:3, :3]).T
        seen = (front.numpy() + scene.camera.lidar_to_camera[:3, 3]) @ scene.camera.intrinsics.T
        if seen[2] > 0:
            u, v = seen[:2] / seen[2] * scale
            draw.line([(u - 4, v), (u + 4, v)], fill=BOX)
            draw.line([(u, v - 4), (u, v + 4)], fill=BOX)
    return np.asarray(image)


def range_picture(
    view: RangeView, sensor: Sensor, box: Box3d | None = None, mark: Bool[np.ndarray, "rows columns"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The whole range view, 3 pixels a row: distance as colour, black where there is no return; the box's columns between
    white lines, `mark`ed pixels under a magenta bar at the lower edge."""
    there = has_return(view, sensor).numpy()
    colours = coloured((metres(view.depth, sensor) / sensor.far).numpy())
    colours[~there] = 0
    tall = np.repeat(colours, 3, axis=0)
    if box is not None:
        x = box_to_range(box.corners(), sensor)[:, 0]
        for edge in (float(x.min()), float(x.max())):
            tall[:, int(np.floor(edge)) % sensor.columns] = 255
    bar = np.zeros((4, sensor.columns, 3), np.uint8)
    if mark is not None:
        bar[:, mark.any(0)] = FRESH
    return np.concatenate([tall, bar])


def reach(box: Box3d | None) -> float:
    """Metres that the view from above shows to each side: 1.7 times the box's distance, from 6 to 27."""
    return WIDEST if box is None else float(np.clip(1.7 * np.hypot(*box.centre[:2]), NARROWEST, WIDEST))


def birds_eye(
    points: Float32[np.ndarray, "N C"], box: Box3d | None, n_new: int = 0, side: int = SIDE
) -> UInt8[np.ndarray, "s s 3"]:
    """From above, forward up, `reach` around the lidar; colour by height, the last `n_new` points magenta."""
    from PIL import Image, ImageDraw

    far = reach(box)

    def at(xy: np.ndarray) -> np.ndarray:
        return np.stack([side / 2 + xy[..., 0] * side / (2 * far), side / 2 - xy[..., 1] * side / (2 * far)], -1)

    sheet = np.full((side, side, 3), 12, np.uint8)
    xyz = points[:, :3].astype(np.float64)
    keep = np.isfinite(xyz).all(1) & (np.abs(xyz[:, :2]) < far).all(1)
    fresh = np.arange(len(points)) >= len(points) - n_new
    colours = coloured(((xyz[keep, 2] + 3) / 5).clip(0, 1))
    colours[fresh[keep]] = FRESH
    column, row = at(xyz[keep, :2]).astype(int).clip(0, side - 1).T
    sheet[row, column] = colours
    image = Image.fromarray(sheet)
    if box is not None:
        corners = at(box.corners().numpy()[:, :2])
        draw = ImageDraw.Draw(image)
        draw.polygon([tuple(corners[k]) for k in FACES[4]], outline=BOX)
        front = corners[list(FACES[2])].mean(0)
        middle = at(np.array(box.centre[:2]))
        draw.line([tuple(middle), tuple(front)], fill=BOX)
    return np.asarray(image)


def sheet(rows: Sequence[Sequence[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]], title: str) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of labelled pictures at their own size."""
    from PIL import Image, ImageDraw, ImageFont

    heights = [max(a.shape[0] for _, a in row) + LINE + PAD for row in rows]
    width = max(sum(a.shape[1] + PAD for _, a in row) for row in rows) + PAD
    out = Image.new("RGB", (width, sum(heights) + LINE + 2 * PAD), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(12)
    draw.text((PAD, PAD // 2), title, fill="black", font=font)
    y = LINE + PAD
    for row, height in zip(rows, heights, strict=True):
        x = PAD
        for label, array in row:
            draw.text((x, y), label, fill="black", font=font)
            out.paste(Image.fromarray(array), (x, y + LINE))
            x += array.shape[1] + PAD
        y += height
    return np.asarray(out)


def scene_panel(scene: Scene, box: Box3d | None, title: str = "synthetic edit of a scene") -> UInt8[np.ndarray, "H W 3"]:
    """Camera, bird's-eye view and range view of a scene."""
    view = project(scene.points, scene.sensor, scene.rows)
    held = "" if box is None else f", {int(points_in_box(scene.points, box).sum())} returns in the box"
    above = f"from above, {reach(box):.0f} m around{held}"
    return sheet(
        [
            [("camera", camera_view(scene.rgb, scene, box)), (above, birds_eye(scene.points, box))],
            [("range view: near red, far blue, none black", range_picture(view, scene.sensor, box))],
        ],
        title,
    )


def pair_panel(
    scene: Scene, box: Box3d, rgb: UInt8[np.ndarray, "H W 3"], points: Float32[np.ndarray, "M C"], n_new: int,
    replaced: Bool[np.ndarray, "rows columns"] | None, title: str,
) -> UInt8[np.ndarray, "h w 3"]:  # fmt: skip
    """Before beside after: camera, range view, bird's-eye view."""
    before, after = (project(p, scene.sensor, scene.rows) for p in (scene.points, points))
    held = [int(points_in_box(p, box).sum()) for p in (scene.points, points)]
    return sheet(
        [
            [("before", camera_view(scene.rgb, scene, box)), ("after", camera_view(rgb, scene, None))],
            [("range view before: near red, far blue, none black", range_picture(before, scene.sensor, box))],
            [("range view after; replaced columns magenta below", range_picture(after, scene.sensor, box, replaced))],
            [
                (f"from above, {reach(box):.0f} m around, before: {held[0]} returns in the box", birds_eye(scene.points, box)),
                (f"after: {held[1]} returns in the box, {n_new} new (magenta)", birds_eye(points, box, n_new)),
            ],
        ],
        title,
    )


def edit_panel(edit: Edit) -> UInt8[np.ndarray, "H W 3"]:
    """Before and after of an edit."""
    p = edit.placed
    return pair_panel(
        p.scene, p.box, edit.image.rgb, edit.sweep.points, edit.sweep.n_new, edit.sweep.replaced, f"{edit.task} (synthetic)"
    )


def views_panel(edits: Sequence[Edit], labels: Sequence[str]) -> UInt8[np.ndarray, "H W 3"]:
    """One row a view: the camera crop, and the box from above."""
    rows = []
    for edit, label in zip(edits, labels, strict=True):
        c = edit.placed.camera_crop
        part = edit.image.rgb[c.top : c.top + c.height, c.left : c.left + c.width]
        above = birds_eye(edit.sweep.points, edit.placed.box, edit.sweep.n_new)
        rows.append([(label, part), ("from above", above)])
    return panel(rows, "one object, every heading (synthetic)")
