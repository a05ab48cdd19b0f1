"""A box in a scene -> windows, holes and the network's input (mobi spec 2.3 to 2.6)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from graft_common.errors import InputError
from graft_common.rangeview import (
    Box3d,
    RangeView,
    box_in_crop,
    box_to_range,
    camera_box_in_crop,
    camera_hole,
    camera_mask,
    camera_pixels,
    camera_rectangle,
    choose_camera_crop,
    choose_crop,
    depth_band,
    enlarge,
    nearest_distance,
    normalise_depth,
    normalise_intensity,
    project,
    project_camera,
    range_mask,
    take_crop,
)
from graft_common.rangeview.camera import NEAR_PLANE
from mobi.records import Crops, Placed, Scene

REFERENCE_SIZE = 224
FARTHEST_SHARE = 3  # crop widths or heights beyond the crop that a corner is told to lie: the token is a smooth code of the number
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own (Radford et al. 2021), as Paint-by-Example keeps them
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def check_box(scene: Scene, box: Box3d, where: str = "box") -> None:
    """Raise InputError, beginning with `where`, for a box that cannot be edited in this scene."""
    sensor = scene.sensor
    distance = float(np.linalg.norm(box.centre))
    if distance >= sensor.far:
        raise InputError(f"{where}: its centre is {distance:.1f} m away; move it within {sensor.far:g} m of the lidar")
    if nearest_distance(box) <= sensor.near:
        raise InputError(f"{where}: comes within {sensor.near:g} m of the lidar; move it away")
    try:
        depth_band(box, sensor)
        camera_rectangle(box, scene.camera)
        camera_mask(box, scene.camera)
    except InputError as why:
        raise InputError(f"{where}: {str(why).removeprefix(f'box at {box.centre}: ')}") from None


def place(scene: Scene, box: Box3d, size: int, where: str = "box") -> Placed:
    """Windows around a box, centred (as in the test mode of spec 2.5), for a network of side `size`.

    Raises:
        InputError: `check_box`'s, beginning with `where`; `size` does not fit the sensor's rows.
    """
    check_box(scene, box, where)
    view = project(scene.points, scene.sensor, scene.rows)
    return place_view(scene, view, box, size)


def place_view(scene: Scene, view: RangeView, box: Box3d, size: int) -> Placed:
    """`place` for a checked box and a sweep that is projected already (several boxes of one scene)."""
    hole = camera_mask(box, scene.camera)
    return Placed(
        scene=scene,
        box=box,
        view=view,
        size=size,
        camera_crop=choose_camera_crop(hole),
        range_crop=choose_crop(box.corners(), scene.sensor, size),
        hole=hole,
        rectangle=camera_rectangle(box, scene.camera),
        band=depth_band(box, scene.sensor),
    )


def crops(placed: Sequence[Placed], references: Sequence[UInt8[np.ndarray, "_ _ 3"] | None]) -> Crops:
    """The network's input for a batch; a reference of None is a removal: black picture, box numbers 0 (spec 2.6).

    Raises:
        InputError: sizes differ, or the counts do.
    """
    if len(placed) != len(references) or len({p.size for p in placed}) != 1:
        raise InputError(f"{len(placed)} boxes, {len(references)} references; give one each, all of one size")
    rows = [_crops(p, r) for p, r in zip(placed, references, strict=True)]
    return Crops(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def _crops(p: Placed, reference: UInt8[np.ndarray, "_ _ 3"] | None) -> tuple[Tensor, ...]:
    sensor = p.scene.sensor
    camera_box, lidar_box = torch.zeros(8, 3), torch.zeros(8, 3)
    if reference is not None:
        camera_box, lidar_box = box_numbers(p)
    return (
        camera_pixels(p.scene.rgb, p.camera_crop, p.size),
        range_pixels(p),
        (~camera_hole(p.hole, p.camera_crop, p.size)).float()[None],
        (~range_mask(p.box, p.range_crop, sensor, (p.size, p.size))).float()[None],
        reference_pixels(np.zeros((1, 1, 3), np.uint8) if reference is None else reference),
        camera_box,
        lidar_box,
    )


def range_pixels(p: Placed) -> Float[Tensor, "2 D D"]:
    """The range crop as the network sees it: object-aware depth and mapped intensity, each pixel repeated to a block."""
    depth = normalise_depth(take_crop(p.view.depth, p.range_crop, p.scene.sensor), *p.band)
    intensity = normalise_intensity(take_crop(p.view.intensity, p.range_crop, p.scene.sensor))
    return enlarge(torch.stack([depth, intensity]), p.size).float()


def box_numbers(p: Placed) -> tuple[Float[Tensor, "8 3"], Float[Tensor, "8 3"]]:
    """Corners of the unscaled box in the camera crop and in the range crop (spec 2.4 and 2.6).

    A corner behind the camera has no place in the picture: it is told as if on the near plane, which keeps its side, and no
    corner as farther out than `FARTHEST_SHARE` crops.
    """
    corners, sensor = p.box.corners(), p.scene.sensor
    lidar = box_in_crop(box_to_range(corners, sensor), p.range_crop, sensor)
    depth = normalise_depth(lidar[:, 2], *p.band)
    seen = project_camera(corners.numpy(), p.scene.camera, NEAR_PLANE)
    flat = camera_box_in_crop(seen, p.camera_crop).clip(-FARTHEST_SHARE, 1 + FARTHEST_SHARE)
    camera = torch.cat([torch.from_numpy(flat), depth[:, None]], 1)
    return camera.float(), torch.cat([lidar[:, :2], depth[:, None]], 1).float()


def reference_pixels(reference: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 224 224"]:
    """Resized whatever its aspect (bilinear, antialiased), then normalised as CLIP does."""
    batch = torch.from_numpy(reference.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    small = F.interpolate(
        batch, (REFERENCE_SIZE, REFERENCE_SIZE), mode="bilinear", antialias=True, align_corners=False
    )[0]
    return (small - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


def crop_reference(rgb: UInt8[np.ndarray, "H W 3"], rectangle: tuple[float, float, float, float]) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels that a rectangle (left, top, right, bottom) touches, at least one."""
    height, width = rgb.shape[:2]
    left, top = min(int(rectangle[0]), width - 1), min(int(rectangle[1]), height - 1)
    right, bottom = max(left + 1, int(np.ceil(rectangle[2]))), max(top + 1, int(np.ceil(rectangle[3])))
    return rgb[top:bottom, left:right].copy()


def behind_camera(p: Placed) -> bool:
    """Whether a corner of the box lies behind the camera's near plane."""
    return bool((project_camera(p.box.corners().numpy(), p.scene.camera)[:, 2] < NEAR_PLANE).any())


def hole_clipped(p: Placed) -> dict[str, bool]:
    """Whether the edge of the image, of the camera crop or of the range crop cuts the hole."""
    hole, crop = p.hole, p.camera_crop
    at_edge = bool(hole[0].any() or hole[-1].any() or hole[:, 0].any() or hole[:, -1].any())
    inside: Bool[np.ndarray, "H W"] = np.zeros_like(hole)
    inside[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = True
    x = box_in_crop(box_to_range(p.box.corners(), p.scene.sensor), p.range_crop, p.scene.sensor)[:, 0]
    return {
        "image": at_edge,
        "camera_crop": bool((hole & ~inside).any()),
        "range_crop": bool(x.min() < 0 or x.max() > 1),
    }
