"""What `evaluate` edits: objects of drawn scenes with their truth, or of a prepared nuScenes tree without."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8

from graft_common.errors import InputError
from graft_common.phantoms.driving import CAMERAS, LIDAR_TO_EGO, Box3D, Drive, draw_scene, intrinsics
from graft_common.rangeview import NUSCENES, Box3d, Camera, camera_rectangle, points_in_box, project, take_crop
from graft_common.rangeview.boxes import to_box as in_box_frame
from mobi.config import PrepareConfig
from mobi.inputs import read_scene
from mobi.place import crop_reference, place
from mobi.prepare import angle_rectangle, distances, in_view, overlap
from mobi.records import Placed, Scene

NOW, THEN = 1.0, 0.0
"""Seconds: the frame that is edited, and the frame that shows the object for a tracked reference."""
CHANNEL = "CAM_FRONT"
LABELS = ("car", "pedestrian")
TRIES = 40  # scenes looked at for each object that is wanted


@dataclass(frozen=True)
class Pick:
    """One object of a drawn scene: the scene's seed, the object's number and class."""

    seed: int
    instance: int
    label: str

    @property
    def name(self) -> str:
        """Unique among all scenes."""
        return f"{self.seed}-{self.instance}"


@dataclass(frozen=True, eq=False)
class Truth:
    """What only a drawn scene knows; the rays are those of the range crop's pixels.

    Attributes:
        empty: the same box in the same scene without the object.
        silhouette: (H, W) pixels that show the object.
        sent: whether a ray was sent through the pixel (the grid has a few more columns than the sensor fires) that counts: one
            that hits the object and gave no return (dark paint, glass, grazing, chance) does not.
        hit: whether it meets the object first.
        distance: true metres to what it meets, inf for nothing.
        beyond: the same without the object.
        pitch, yaw: of the ray, radians, yaw clockwise as in the view; the pixel's centre where none was sent.
        boxes: every object of the scene and its class; `own` is the number of the edited one.
    """

    empty: Placed
    silhouette: Bool[np.ndarray, "H W"]
    sent: Bool[np.ndarray, "rows w"]
    hit: Bool[np.ndarray, "rows w"]
    distance: Float64[np.ndarray, "rows w"]
    beyond: Float64[np.ndarray, "rows w"]
    pitch: Float64[np.ndarray, "rows w"]
    yaw: Float64[np.ndarray, "rows w"]
    boxes: tuple[tuple[Box3d, str], ...]
    own: int


@dataclass(frozen=True, eq=False)
class Case:
    """One object to be edited.

    Attributes:
        name: says where it comes from.
        label: its class.
        seed: of the noise, the same for everything that is compared.
        placed: its own box in its own scene, object included.
        reference: its pixels in this frame.
        tracked: its pixels in another frame; those of this one where there is no other.
        moved: (n, C) its returns of that other frame, moved with the box to where it is now; None without truth.
        flags: (rain, night).
        truth: None for a scene that was not drawn.
    """

    name: str
    label: str
    seed: int
    placed: Placed
    reference: UInt8[np.ndarray, "_ _ 3"]
    tracked: UInt8[np.ndarray, "_ _ 3"]
    moved: Float32[np.ndarray, "n C"] | None
    flags: tuple[bool, bool]
    truth: Truth | None


def pick_objects(n: int, seed: int, size: tuple[int, int], labels: Sequence[str] = LABELS) -> Iterator[Pick]:
    """`n` objects of each class that pass the filters of `graft-mobi prepare` now and are in view then, at most one of a class
    from a scene, in the order of scenes seed, seed + 1, ...

    Raises:
        InputError: `TRIES` scenes an object were not enough.
    """
    wanted = dict.fromkeys(labels, n)
    for at in range(seed, seed + TRIES * n + TRIES):
        if not any(wanted.values()):
            return
        now, then = draw_scene(at, size, (NOW, THEN), ())
        camera = _lens(size)
        fits = [k for k in _fitting(now, camera) if k in _shown(then, camera)]
        rng = np.random.default_rng([at, 31])
        for label in labels:
            own = [k for k in fits if now.box(k).label == label]
            if own and wanted[label]:
                wanted[label] -= 1
                yield Pick(at, int(rng.choice(own)), label)
    if any(wanted.values()):
        raise InputError(f"--n {n}: {TRIES} scenes for each left {wanted} still wanted; lower it, or draw larger --image-size")


def _lens(size: tuple[int, int]) -> Camera:
    """The front camera before it is known how far the car moves between the two stamps (centimetres)."""
    camera = CAMERAS[CHANNEL]
    return Camera(intrinsics(camera, size), np.linalg.inv(camera.to_ego) @ LIDAR_TO_EGO, *size)


def _fitting(drive: Drive, camera: Camera) -> list[int]:
    config, boxes = PrepareConfig(root=Path()), [upright(b) for b in drive.boxes]
    angles = [angle_rectangle(box) for box in boxes]
    points = np.bincount(drive.sweep_ids, minlength=1 + max((b.instance for b in drive.boxes), default=0))
    found = []
    for k, (row, box) in enumerate(zip(drive.boxes, boxes, strict=True)):
        near, far = distances(box)
        most = max((overlap(angles[k], other) for j, other in enumerate(angles) if j != k), default=0.0)
        good = NUSCENES.near < near and far < NUSCENES.far and most <= config.max_overlap
        if good and points[row.instance] >= config.min_points and in_view(box, camera, config) is not None:
            found.append(row.instance)
    return found


def _shown(drive: Drive, camera: Camera) -> list[int]:
    """Objects of which the camera shows enough for a reference: half of the size that `prepare` asks for."""
    config = PrepareConfig(root=Path(), min_size=50)
    return [b.instance for b in drive.boxes if in_view(upright(b), camera, config) is not None]


def upright(box: Box3D) -> Box3d:
    """A drawn box as the editing verbs take it."""
    length, width, height = box.size
    return Box3d(box.center, (width, length, height), box.yaw)


def draw_case(pick: Pick, picture: tuple[int, int], size: int) -> Case:
    """Draw the scene with and without the object, and the frame of its tracked reference.

    Args:
        picture: width and height of the camera image.
        size: D of the crops.
    """
    now, then = draw_scene(pick.seed, picture, (NOW, THEN), (CHANNEL,))
    (bare,) = draw_scene(pick.seed, picture, (NOW,), (CHANNEL,), without=(pick.instance,))
    box, before = upright(now.box(pick.instance)), upright(then.box(pick.instance))
    scene, empty, other = scene_of(now), scene_of(bare), scene_of(then)
    placed = place(scene, box, size)
    return Case(
        name=pick.name,
        label=pick.label,
        seed=pick.seed,
        placed=placed,
        reference=crop_reference(scene.rgb, placed.rectangle),
        tracked=crop_reference(other.rgb, camera_rectangle(before, other.camera)),
        moved=move_points(other.points, before, box),
        flags=(now.rain, now.night),
        truth=truth_of(now, bare, pick.instance, placed, place(empty, box, size)),
    )


def scene_of(drive: Drive) -> Scene:
    """The first view of a drawn sample as a destination."""
    return read_scene(drive.image, drive.sweep, {"K": drive.K, "lidar_to_camera": drive.lidar_to_camera})


def move_points(points: Float32[np.ndarray, "N C"], source: Box3d, target: Box3d) -> Float32[np.ndarray, "n C"]:
    """The points in one box, moved with it to another of the same size; what follows the coordinates stays."""
    own = points[points_in_box(points, source).numpy()].copy()
    local = in_box_frame(torch.from_numpy(own[:, :3].astype(np.float64)), source).numpy()
    c, s = np.cos(target.yaw), np.sin(target.yaw)
    own[:, :3] = local @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + np.array(target.centre)
    return own


def truth_of(now: Drive, bare: Drive, instance: int, placed: Placed, empty: Placed) -> Truth:
    """The rays' truth on the range crop, and the silhouette."""
    azimuth, pitch = now.ray_angles.reshape(-1, 2).T
    flat = 10 * np.cos(pitch)  # any distance within the limits: the pixel is a matter of direction alone
    ends = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), 10 * np.sin(pitch), np.zeros_like(flat)], 1)
    sensor = placed.scene.sensor
    grid = project(ends, sensor)
    index, row_pitch, row_yaw = (
        take_crop(x, placed.range_crop, sensor).numpy() for x in (grid.index, grid.pitch, grid.yaw)
    )
    sent = index >= 0
    echoed = np.zeros(len(ends), bool)
    echoed[now.ray] = True

    def values(rays: np.ndarray, fill: int | float) -> np.ndarray:
        return np.where(sent, rays.reshape(-1)[index.clip(0)], fill)

    hit = values(now.ray_ids, 0) == instance
    return Truth(
        empty=empty,
        silhouette=now.views[0].silhouette(instance),
        sent=sent & ~(hit & ~(values(echoed, 0) > 0)),
        hit=hit,
        distance=values(now.ray_depth.astype(np.float64), np.inf),
        beyond=values(bare.ray_depth.astype(np.float64), np.inf),
        pitch=row_pitch,
        yaw=row_yaw,
        boxes=tuple((upright(b), b.label) for b in now.boxes),
        own=[b.instance for b in now.boxes].index(instance),
    )


def other_references(cases: Sequence[Case]) -> list[Case]:
    """For each case another of its class to take a replacement's reference from, by turns of the same rain and night flags and of
    others where the batch has them (spec section 6: half in-domain, half cross-domain)."""
    found = []
    for k, case in enumerate(cases):
        after = [cases[(k + step) % len(cases)] for step in range(1, len(cases))]
        after = [c for c in after if c.label == case.label and c.name != case.name] or [case]
        same = k % 2 == 0
        found.append(next((c for c in after if (c.flags == case.flags) == same), after[0]))
    return found


