"""The box in the camera: projection with a near plane, hole mask, crop (mobi spec 2.5). NumPy and OpenCV."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from graft_common.errors import InputError
from graft_common.rangeview.boxes import FACES, MASK_SCALE, Box3d
from graft_common.rangeview.sensor import Number

NEAR_PLANE = 0.1
"""Metres in front of the camera; faces are cut there before they are drawn."""
HOLE_SHARE = 0.2
"""Share of the crop that the hole fills."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera beside the lidar; x right, y down, z forward.

    Attributes:
        intrinsics: 3 x 3, pixels, last row 0 0 1.
        lidar_to_camera: 4 x 4, metres, rotation and shift.
        width, height: of the image in pixels.

    Raises:
        InputError: a matrix is not of that form; the rotation is not orthonormal within 1e-3.
    """

    intrinsics: Float64[np.ndarray, "..."]
    lidar_to_camera: Float64[np.ndarray, "..."]
    width: int
    height: int

    def __post_init__(self) -> None:
        k, move = self.intrinsics, self.lidar_to_camera
        if k.shape != (3, 3) or not np.isfinite(k).all():
            raise InputError(f"camera intrinsics of shape {k.shape}: give a finite 3x3 matrix")
        if not (k[0, 0] > 0 and k[1, 1] > 0) or np.abs(k[2] - [0, 0, 1]).max() > 1e-9:
            raise InputError("camera intrinsics: give positive focal lengths and a last row of 0 0 1, in pixels")
        if move.shape != (4, 4) or not np.isfinite(move).all():
            raise InputError(f"lidar_to_camera of shape {move.shape}: give a finite 4x4 matrix")
        if np.abs(move[3] - [0, 0, 0, 1]).max() > 1e-9:
            raise InputError("lidar_to_camera: the last row must be 0 0 0 1; transpose the matrix?")
        turn = move[:3, :3]
        error = np.abs(turn @ turn.T - np.eye(3)).max()
        if error > 1e-3 or np.linalg.det(turn) < 0:
            raise InputError(
                f"lidar_to_camera: its rotation is not orthonormal (off by {error:.3g},"
                f" determinant {np.linalg.det(turn):.3g}); give a pure rotation, unscaled"
            )
        if self.width < 1 or self.height < 1:
            raise InputError(f"camera image of {self.width}x{self.height} pixels: give its size")


@dataclass(frozen=True)
class CameraCrop:
    """A window of the image, in pixels; shown at D x D, so a window that is not square is stretched."""

    left: int
    top: int
    width: int
    height: int


def project_camera(
    points: Float[np.ndarray, "*s 3"], camera: Camera, least_depth: Number = 1e-5
) -> Float64[np.ndarray, "*s 3"]:
    """Points in the lidar frame -> u, v in pixels and depth z in metres.

    The division uses max(z, least_depth): what is behind the camera lands far off, its z says so.
    """
    at = points.astype(np.float64) @ camera.lidar_to_camera[:3, :3].T + camera.lidar_to_camera[:3, 3]
    image = at @ camera.intrinsics.T
    return np.concatenate([image[..., :2] / np.maximum(image[..., 2:], least_depth), at[..., 2:]], -1)


def box_polygons(box: Box3d, camera: Camera, near: Number = NEAR_PLANE) -> list[Float64[np.ndarray, "k 2"]]:
    """The box's faces in the image (u, v in pixels), cut at the near plane and at the image's edges; empty ones left out."""
    corners = box.corners().numpy() @ camera.lidar_to_camera[:3, :3].T + camera.lidar_to_camera[:3, 3]
    found = []
    for face in FACES:
        polygon = _clip(corners[list(face)], np.array([0, 0, 1.0]), near) @ camera.intrinsics.T
        polygon = polygon[:, :2] / polygon[:, 2:]
        for normal, least in (((1, 0), 0), ((-1, 0), -camera.width), ((0, 1), 0), ((0, -1), -camera.height)):
            polygon = _clip(polygon, np.array(normal, np.float64), least)
        if len(polygon):
            found.append(polygon.clip(0, [camera.width, camera.height]))  # the cut is a rounding off the edge
    return found


def camera_rectangle(box: Box3d, camera: Camera, near: Number = NEAR_PLANE) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the box in the image, in pixels, cut at its edges.

    Raises:
        InputError: the box is behind the camera or outside the image.
    """
    points = np.concatenate([np.zeros((0, 2)), *box_polygons(box, camera, near)])
    if not len(points) or (np.ptp(points, 0) <= 0).any():
        behind = (project_camera(box.corners().numpy(), camera)[:, 2] < near).all()
        raise InputError(
            f"box at {box.centre}: lies {'behind the camera' if behind else 'outside the image'};"
            " move it into view or choose the camera that sees it"
        )
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return float(left), float(top), float(right), float(bottom)


def camera_mask(
    box: Box3d,
    camera: Camera,
    scale: Number = MASK_SCALE,
    near: Number = NEAR_PLANE,
    shape: Literal["box", "rectangle"] = "box",
) -> Bool[np.ndarray, "H W"]:
    """The hole in the full image: the grown box's six faces filled, or their bounding rectangle.

    Raises:
        InputError: the hole is empty (box behind the camera, outside the image, or less than a pixel).
    """
    import cv2

    grown = box.scaled(scale)
    left, top, right, bottom = camera_rectangle(grown, camera, near)
    canvas = np.zeros((camera.height, camera.width), np.uint8)
    if shape == "rectangle":
        canvas[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 255
    else:
        for polygon in box_polygons(grown, camera, near):
            cv2.fillConvexPoly(canvas, np.trunc(polygon).astype(np.int32), 255, lineType=cv2.LINE_AA)
    mask = canvas >= 128
    if not mask.any():
        raise InputError(f"box at {box.centre}: covers no pixel of the image; move it closer or into view")
    return mask


def choose_camera_crop(
    mask: Bool[np.ndarray, "H W"],
    share: Number = HOLE_SHARE,
    square: bool = False,
    random: np.random.Generator | None = None,
) -> CameraCrop:
    """A window in which the hole's pixels are `share` of the whole, if hole and image allow it.

    Side floor(sqrt(pixels / share)). A hole taller than that gets its height, and the width shrinks by as much; then
    likewise a wider one (never so far that the hole is cut). Clamped to the image at last.

    Args:
        square: grow both sides to the hole's longer one instead.
        random: places the window anywhere that keeps the hole inside; without it, in the middle of that interval.

    Raises:
        InputError: the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise InputError("the camera mask is empty, nothing would be repainted; move the box into view")
    tall, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    side = int(np.sqrt(mask.sum() / share))
    height = width = side
    if square:
        height = width = max(side, tall, wide)
    elif tall > height:
        height, width = tall, width - (tall - height)
    if wide > width:
        height, width = max(height - (wide - width), tall), wide
    width, height = min(width, mask.shape[1]), min(height, mask.shape[0])

    def place(first: int, extent: int, length: int, limit: int) -> int:
        low, high = max(0, first + extent - length), min(first, limit - length)
        return int(random.integers(low, high + 1)) if random is not None else (low + high) // 2

    return CameraCrop(
        left=place(int(columns[0]), wide, width, mask.shape[1]),
        top=place(int(rows[0]), tall, height, mask.shape[0]),
        width=width,
        height=height,
    )


def camera_box_in_crop(uv: Float[np.ndarray, "8 c"], crop: CameraCrop) -> Float64[np.ndarray, "8 2"]:
    """u, v in pixels (further columns ignored) -> shares of the crop's width and height; they may leave [0, 1]."""
    return (uv[:, :2] - [crop.left, crop.top]) / [crop.width, crop.height]


def camera_pixels(image: UInt8[np.ndarray, "H W 3"], crop: CameraCrop, size: int) -> Float[Tensor, "3 size size"]:
    """The window of an 8-bit image as size x size in [-1, 1], bilinear with antialiasing."""
    return _window(image.transpose(2, 0, 1), crop, size) / 127.5 - 1


def camera_hole(mask: Bool[np.ndarray, "H W"], crop: CameraCrop, size: int) -> Bool[Tensor, "size size"]:
    """The window of a mask at size x size: resized like the image, then cut at one half."""
    return _window(mask[None], crop, size)[0] >= 0.5


def _window(planes: UInt8[np.ndarray, "c H W"] | Bool[np.ndarray, "c H W"], crop: CameraCrop, size: int) -> Tensor:
    part = planes[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    batch = torch.from_numpy(part.astype(np.float32))[None]
    return F.interpolate(batch, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


def _clip(
    polygon: Float64[np.ndarray, "k n"], normal: Float64[np.ndarray, "n"], least: Number
) -> Float64[np.ndarray, "m n"]:
    """The part of a convex polygon where normal . p >= least (Sutherland and Hodgman 1974, one plane)."""
    if not len(polygon):
        return polygon
    height = polygon @ normal - least
    kept = []
    for a, b, ha, hb in zip(polygon, np.roll(polygon, -1, 0), height, np.roll(height, -1), strict=True):
        if ha >= 0:
            kept.append(a)
        if (ha >= 0) != (hb >= 0):
            kept.append(a + (b - a) * (ha / (ha - hb)))
    return np.array(kept).reshape(-1, polygon.shape[1])
