"""The driving scenes that mobi's judges learn from and are graded on, and the crops of their cars."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8

from graft_common.errors import InputError
from graft_common.files import atomic_path
from graft_common.phantoms.driving import draw_scene
from graft_common.rangeview import (
    NUSCENES,
    Box3d,
    Camera,
    camera_mask,
    camera_pixels,
    camera_rectangle,
    choose_camera_crop,
    project_camera,
)
from mobi.config import PrepareConfig
from mobi.detector import LABELS
from mobi.prepare import angle_rectangle, distances, in_view, overlap
from mobi.yaw import observation_angle, shrink

SIZE = (400, 225)
REACH = 45.0  # metres: no judge looks farther
CROP = 128  # side of the crop as tiny-mobi sees it
CAR = LABELS.index("car")


@dataclass(frozen=True, eq=False)
class Shot:
    """One drawn scene: front picture, the returns before the car, and its K boxes with how they are seen.

    Attributes:
        label: (K,) index into `detector.LABELS`.
        returns: (K,) of the sweep that come from the box's object.
        seen, whole: (K,) pixels that show the object, and that would if nothing stood before it.
    """

    seed: int
    image: UInt8[np.ndarray, "H W 3"]
    sweep: Float32[np.ndarray, "N 5"]
    camera: Camera
    boxes: tuple[Box3d, ...]
    label: Int64[np.ndarray, " K"]
    returns: Int64[np.ndarray, " K"]
    seen: Int64[np.ndarray, " K"]
    whole: Int64[np.ndarray, " K"]


def draw_one(folder: Path, seed: int) -> None:
    """One scene as an .npz file, unless it is there."""
    path = folder / f"{seed:08d}.npz"
    if path.exists():
        return
    (drive,) = draw_scene(seed, SIZE)
    view, sweep = drive.views[0], drive.sweep
    counts = np.bincount(drive.sweep_ids[drive.sweep_ids > 0], minlength=len(drive.boxes) + 1)
    rows = []
    for box in drive.boxes:
        length, width, height = box.size
        whole = int(view.silhouette(box.instance, whole=True).sum())
        seen = int(view.silhouette(box.instance).sum())
        rows.append(
            [*box.center, width, length, height, box.yaw, LABELS.index(box.label), counts[box.instance], seen, whole]
        )
    near = (sweep[:, 1] > 0) & (np.linalg.norm(sweep[:, :3], axis=1) < REACH)
    with atomic_path(path) as beside, beside.open("wb") as file:
        np.savez(
            file, image=view.image, sweep=sweep[near], K=view.K, lidar_to_camera=view.lidar_to_camera,
            boxes=np.array(rows, np.float64).reshape(-1, 11),
        )  # fmt: skip


def draw_all(folder: Path, seeds: range, threads: int) -> None:
    """Those scenes of `seeds` that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(partial(draw_one, folder), seeds, chunksize=8), 1):
            if done % 100 == 0:
                print(f"{folder.name}: drawn {done} of {len(seeds)}", flush=True)


def read_all(folder: Path, count: int) -> Iterator[Shot]:
    """The first `count` scenes of a folder."""
    for path in islice(sorted(folder.glob("*.npz")), count):
        with np.load(path) as stored:
            image, rows = stored["image"], stored["boxes"]
            camera = Camera(stored["K"], stored["lidar_to_camera"], image.shape[1], image.shape[0])
            boxes = tuple(Box3d(tuple(row[:3].tolist()), tuple(row[3:6].tolist()), float(row[6])) for row in rows)
            yield Shot(int(path.stem), image, stored["sweep"], camera, boxes, *rows[:, 7:].T.astype(np.int64))


def listed(shot: Shot) -> set[int]:
    """Which boxes `graft-mobi prepare` would list at its default filters, were the front camera the only one."""
    config = PrepareConfig(root=Path())
    angles = [angle_rectangle(box) for box in shot.boxes]
    chosen = set()
    for k, box in enumerate(shot.boxes):
        near, far = distances(box)
        if shot.returns[k] < config.min_points or not (NUSCENES.near < near and far < NUSCENES.far):
            continue
        most = max((overlap(angles[k], other) for j, other in enumerate(angles) if j != k), default=0.0)
        if most <= config.max_overlap and in_view(box, shot.camera, config) is not None:
            chosen.add(k)
    return chosen


def fit_for_yaw(shot: Shot) -> set[int]:
    """Cars to learn from: smaller and more hidden ones than `listed`, as long as half of them is in sight."""
    chosen = set()
    for k, box in enumerate(shot.boxes):
        if shot.label[k] != CAR or shot.seen[k] < max(200, shot.whole[k] / 2):
            continue
        if (project_camera(box.corners().numpy(), shot.camera)[:, 2] <= 0).any():
            continue
        try:
            left, top, right, bottom = camera_rectangle(box, shot.camera)
        except InputError:
            continue
        if min(right - left, bottom - top) >= 16:
            chosen.add(k)
    return chosen


def yaw_crops(
    shots: Iterable[Shot], choose: Callable[[Shot], set[int]], small: bool = True
) -> tuple[UInt8[np.ndarray, "n h w 3"], Float64[np.ndarray, " n"]]:
    """Crops, the box in the middle as `mobi.place` has it, and observation angles of the cars among the boxes that `choose` picks.

    No other windows: scenes are full of cars, and only its place says which one is meant.

    Args:
        small: at the regressor's own size instead of `CROP`.
    """
    images, angles = [], []
    for shot in shots:
        for k in sorted(choose(shot)):
            if shot.label[k] != CAR:
                continue
            window = choose_camera_crop(camera_mask(shot.boxes[k], shot.camera))
            crop = camera_pixels(shot.image, window, CROP)[None]
            crop = ((shrink(crop) if small else crop) + 1) * 127.5
            images.append(crop[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
            angles.append(observation_angle(shot.boxes[k], shot.camera))
    return np.stack(images), np.array(angles)
