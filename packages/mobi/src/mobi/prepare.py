"""The verb `prepare`: a nuScenes tree -> table of objects that can be edited, their references, and empty boxes (spec section 3).

objects.csv has one row for every object and camera that pass the filters; empty.csv one for every box of an object that fits
unchanged into another sample's free space. Angles and overlaps are the lidar's, sizes the picture's.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import typed, write_text
from graft_common.pixels import read_picture
from graft_common.provenance import stamp
from graft_common.rangeview import NUSCENES, Box3d, Camera, camera_mask, camera_rectangle, project_camera
from graft_common.raster import write_png
from mobi.box_text import from_box, to_box
from mobi.colour import to_rgb
from mobi.config import PrepareConfig
from mobi.nuscenes_tables import Row, Tables, check_files, read_tables
from mobi.place import crop_reference
from mobi.poses import to_sensor

FULL = (1600, 900)  # picture at which the size filters hold
WIDEST, TALLEST = 1400, 800
LIDAR = "LIDAR_TOP"
COLUMNS = (
    "annotation", "instance", "sample", "scene", "timestamp", "camera", "class", "box", "visibility", "overlap", "width", "height",
    "points", "city", "rain", "night", "nearest", "farthest", "reference",
)  # fmt: skip
EMPTY_COLUMNS = ("sample", "camera", "class", "box", "annotation", "rain", "night")
ADULTS = ("adult", "child", "construction_worker", "police_officer")
TRIES = 20  # draws for each empty box that is wanted


def class_of(category: str) -> str | None:
    """"car", "pedestrian", another vehicle's or movable object's own name, or None for categories that are left out."""
    parts = category.split(".")
    if parts[:2] == ["human", "pedestrian"]:
        return "pedestrian" if parts[2:3] and parts[2] in ADULTS else None
    if parts[0] in ("vehicle", "movable_object") and len(parts) > 1:
        return parts[1]
    return None


def angle_rectangle(box: Box3d) -> Float64[np.ndarray, "4"]:
    """(azimuth from, to, polar angle from, to) of the corners as the lidar sees them, radians; azimuth unwrapped about the
    box's own centre, which is in [-pi, pi]."""
    corners = box.corners().numpy()
    middle = np.arctan2(box.centre[1], box.centre[0])
    around = np.arctan2(corners[:, 1], corners[:, 0]) - middle
    around = middle + (around + np.pi) % (2 * np.pi) - np.pi
    polar = np.arccos((corners[:, 2] / np.linalg.norm(corners, axis=1)).clip(-1, 1))
    return np.array([around.min(), around.max(), polar.min(), polar.max()])


def overlap(one: Float64[np.ndarray, "4"], other: Float64[np.ndarray, "4"]) -> float:
    """Intersection of two angle rectangles as a share of the smaller; the turn that brings them nearest counts."""
    turns = np.round((one[:2].mean() - other[:2].mean()) / (2 * np.pi)) * 2 * np.pi
    wide = min(one[1], other[1] + turns) - max(one[0], other[0] + turns)
    tall = min(one[3], other[3]) - max(one[2], other[2])
    if wide <= 0 or tall <= 0:
        return 0.0
    areas = [(r[1] - r[0]) * (r[3] - r[2]) for r in (one, other)]
    return float(wide * tall / min(areas)) if min(areas) > 0 else 1.0


def ground_apart(one: Box3d, other: Box3d) -> bool:
    """Whether two boxes, seen from above, do not touch: some edge's normal separates them."""
    a, b = (box.corners().numpy()[[0, 3, 7, 4], :2] for box in (one, other))
    for yaw in (one.yaw, other.yaw):
        for angle in (yaw, yaw + np.pi / 2):
            normal = np.array([np.cos(angle), np.sin(angle)])
            if (a @ normal).max() < (b @ normal).min() or (b @ normal).max() < (a @ normal).min():
                return True
    return False


@dataclass(frozen=True, eq=False)
class Frame:
    """One sample: where its cameras and lidar were, and every box of it in the lidar frame."""

    sample: Row
    lidar: Row
    cameras: Mapping[str, tuple[Row, Camera]]
    boxes: tuple[tuple[Row, Box3d], ...]


def read_frame(tables: Tables, sample: Row) -> Frame | None:
    """A sample with a sweep and at least one camera, else None."""
    data = tables.data(sample["token"])
    lidar = data.get(LIDAR)
    if lidar is None:
        return None
    cameras = {
        channel: (row, Camera(tables.intrinsics(row), tables.lidar_to_camera(lidar, row), int(row["width"]), int(row["height"])))
        for channel, row in data.items()
        if channel.startswith("CAM")
    }
    sensor, ego = tables.sensor_pose(lidar), tables.ego_pose(lidar)
    boxes = []
    for row in tables.annotations(sample["token"]):
        box = to_sensor(row, sensor, ego)
        boxes.append((row, to_box((*box.center, *box.size, box.yaw))))
    return Frame(sample, lidar, cameras, tuple(boxes)) if cameras else None


def in_view(box: Box3d, camera: Camera, config: PrepareConfig) -> tuple[float, float, float, float] | None:
    """The box's rectangle in the picture, where it passes the filters on size and lies wholly before the camera."""
    if (project_camera(box.corners().numpy(), camera)[:, 2] <= 0).any():
        return None
    try:
        left, top, right, bottom = camera_rectangle(box, camera)
    except InputError:
        return None
    wide, tall = (right - left) * FULL[0] / camera.width, (bottom - top) * FULL[1] / camera.height
    fits = config.min_size <= wide <= WIDEST and config.min_size <= tall <= TALLEST
    return (left, top, right, bottom) if fits else None


def visibility(box: Box3d, cameras: Mapping[str, Camera]) -> dict[str, float]:
    """Each camera's share of the object's mask pixels over all cameras; says nothing about what hides it."""
    pixels = {}
    for channel, camera in cameras.items():
        try:
            pixels[channel] = int(camera_mask(box, camera, scale=1).sum())
        except InputError:
            pixels[channel] = 0
    total = sum(pixels.values())
    return {channel: n / total if total else 0.0 for channel, n in pixels.items()}


def distances(box: Box3d) -> tuple[float, float]:
    """(least, greatest) distance of the corners seen from above, metres."""
    flat = np.linalg.norm(box.corners().numpy()[:, :2], axis=1)
    return float(flat.min()), float(flat.max())


def frame_rows(tables: Tables, frame: Frame, config: PrepareConfig) -> list[dict[str, Any]]:
    """The sample's rows of objects.csv, `reference` still without a folder."""
    angles = [angle_rectangle(box) for _, box in frame.boxes]
    rain, night = tables.flags(frame.sample["token"])
    found = []
    for k, (row, box) in enumerate(frame.boxes):
        kind, (near, far) = class_of(tables.category(row)), distances(box)
        if kind is None or row["num_lidar_pts"] < config.min_points or not (NUSCENES.near < near and far < NUSCENES.far):
            continue
        most = max((overlap(angles[k], other) for j, other in enumerate(angles) if j != k), default=0.0)
        if most > config.max_overlap:
            continue
        shares = None
        for channel, (_, camera) in frame.cameras.items():
            rectangle = in_view(box, camera, config)
            if rectangle is None:
                continue
            shares = shares or visibility(box, {c: cam for c, (_, cam) in frame.cameras.items()})
            if shares[channel] < config.min_visibility:
                continue
            found.append(
                {
                    "annotation": row["token"], "instance": row["instance_token"], "sample": frame.sample["token"],
                    "scene": frame.sample["scene_token"], "timestamp": frame.sample["timestamp"], "camera": channel, "class": kind,
                    "box": ",".join(f"{v:.9g}" for v in from_box(box)), "visibility": round(shares[channel], 4),
                    "overlap": round(most, 4), "width": round(rectangle[2] - rectangle[0], 2),
                    "height": round(rectangle[3] - rectangle[1], 2), "points": row["num_lidar_pts"],
                    "city": tables.city(frame.sample["token"]), "rain": int(rain), "night": int(night), "nearest": round(near, 3),
                    "farthest": round(far, 3), "reference": f"{row['token']}_{channel}.png", "rectangle": rectangle,
                }
            )  # fmt: skip
    return found


def empty_rows(
    tables: Tables, frames: Sequence[Frame], objects: Sequence[dict[str, Any]], config: PrepareConfig
) -> list[dict[str, Any]]:
    """Boxes of objects, their numbers unchanged, in other samples where nothing is.

    A draw is kept where the box touches no object of that sample from above, overlaps none by more than `max_overlap`, and is
    seen by the same camera under the same filters. At most `TRIES` draws a box that is wanted.
    """
    rng = np.random.default_rng([621, config.seed])
    found: list[dict[str, Any]] = []
    taken: set[tuple[int, str]] = set()
    if not objects or len(frames) < 2:
        return []
    boxes = [to_box([float(v) for v in row["box"].split(",")]) for row in objects]
    angles = {id(frame): [angle_rectangle(box) for _, box in frame.boxes] for frame in frames}
    for _ in range(TRIES * config.empty):
        if len(found) == config.empty:
            break
        pick, where = int(rng.integers(len(objects))), frames[int(rng.integers(len(frames)))]
        row, box = objects[pick], boxes[pick]
        key = (pick, where.sample["token"])
        if where.sample["token"] == row["sample"] or key in taken or row["camera"] not in where.cameras:
            continue
        taken.add(key)
        free = all(ground_apart(box, other) for _, other in where.boxes)
        own = angle_rectangle(box)
        if not free or any(overlap(own, other) > config.max_overlap for other in angles[id(where)]):
            continue
        if in_view(box, where.cameras[row["camera"]][1], config) is None:
            continue
        rain, night = tables.flags(where.sample["token"])
        found.append(
            {"sample": where.sample["token"], "camera": row["camera"], "class": row["class"], "box": row["box"],
             "annotation": row["annotation"], "rain": int(rain), "night": int(night)}
        )  # fmt: skip
    return found


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV text of the named columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def run_prepare(config: PrepareConfig, command: list[str]) -> dict[str, Any]:
    """The verb `prepare`; returns the run record.

    Raises:
        InputError: the tables are wrong (`read_tables`), a file of a sample that is used is missing or disagrees with them, the
            output folder holds something, or no object passes the filters.
    """
    config.check()
    out = checked_out(config.out)
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {typed(config.out)}: is not empty; choose a new folder")
    record = Run(command, config, "graft-mobi")
    with record.stage("tables"):
        tables = read_tables(config.root, config.version)
    samples = list(tables.rows["sample"].values())
    frames: list[Frame] = []
    objects: list[dict[str, Any]] = []
    with record.stage("objects"), progress("samples", len(samples), quiet=config.json) as advance:
        for sample in samples:
            frame = read_frame(tables, sample)
            if frame is not None:
                frames.append(frame)
                objects += frame_rows(tables, frame, config)
            advance(1)
    if not objects:
        raise InputError(
            f"{typed(config.root)}: no object passes the filters; lower --min-points {config.min_points} or --min-size "
            f"{config.min_size}"
        )
    by_sample = {frame.sample["token"]: frame for frame in frames}
    used = {(row["sample"], row["camera"]) for row in objects}
    for sample_token, camera in sorted(used):  # all checks before the first file is written
        check_files(tables, by_sample[sample_token].cameras[camera][0])
        check_files(tables, by_sample[sample_token].lidar)
    note = stamp("mobi", config.seed, {}, {})
    with record.stage("references"):
        write_references(tables, by_sample, objects, out, note)
    with record.stage("empty boxes"):
        empty = empty_rows(tables, frames, objects, config)
    for row in objects:
        row["reference"] = f"references/{row['reference']}"
    write_text(out / "objects.csv", table(COLUMNS, objects))
    write_text(out / "empty.csv", table(EMPTY_COLUMNS, empty))
    record.outputs = ["references", "objects.csv", "empty.csv"]
    kinds = sorted({row["class"] for row in objects})
    record.measures = {
        "samples": len(frames), "objects": {kind: sum(row["class"] == kind for row in objects) for kind in kinds},
        "empty": len(empty), "empty_wanted": config.empty,
    }  # fmt: skip
    return record.write(out)


def write_references(
    tables: Tables, frames: Mapping[str, Frame], objects: Sequence[dict[str, Any]], out: Path, note: dict[str, Any]
) -> None:
    """Each object's rectangle cut from its picture; a picture is read once."""
    shown: tuple[str, Any] = ("", None)
    for row in objects:
        camera = frames[row["sample"]].cameras[row["camera"]][0]
        if shown[0] != camera["token"]:
            shown = (camera["token"], to_rgb(read_picture(tables.path(camera)).pixels))
        write_png(out / "references" / row["reference"], crop_reference(shown[1], row["rectangle"]), note)
