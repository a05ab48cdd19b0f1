"""What travels from stage to stage, in the order of the stages (mobi spec 2.0)."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from torch import Tensor

from graft_common.picture import Picture
from graft_common.rangeview import Box3d, Camera, CameraCrop, RangeCrop, RangeView, Sensor
from graft_common.rangeview.project import Rows


@dataclass(frozen=True, eq=False)
class Scene:
    """One destination as read: a camera picture, a lidar sweep, and how they stand to each other.

    Attributes:
        picture: the camera image in its own values and as displayed.
        rgb: the same as 8-bit colour, for the network and for people.
        points: (N, C) as stored: x, y, z in metres, intensity, then ring and whatever else the file has.
        camera: intrinsics and lidar -> camera.
        sensor: the lidar's rows and columns.
        rows: whether a point's row is the nearest in elevation ("angle") or the one its ring names ("ring").
        counts: n_points, n_nan (rows with a coordinate or intensity that is not finite), n_intensity_clamped.
        notes: what was done to the input that its owner should know.
    """

    picture: Picture
    rgb: UInt8[np.ndarray, "H W 3"]
    points: Float32[np.ndarray, "N C"]
    camera: Camera
    sensor: Sensor
    rows: Rows = "angle"
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Placed:
    """A box in both views of a scene.

    Attributes:
        scene: where it goes.
        box: in the lidar frame, unscaled.
        view: the sweep's range view.
        size: D, side of both crops as the network sees them.
        camera_crop, range_crop: the windows.
        hole: (H, W) of the image, from the box grown by 1.1 (spec 2.5).
        rectangle: (left, top, right, bottom) of the unscaled box in the image, pixels, cut at its edges.
        band: (lo, hi), the stored depths that object-aware normalisation spreads out.
    """

    scene: Scene
    box: Box3d
    view: RangeView
    size: int
    camera_crop: CameraCrop
    range_crop: RangeCrop
    hole: Bool[np.ndarray, "H W"]
    rectangle: tuple[float, float, float, float]
    band: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Crops:
    """What the network gets for a batch of B boxes, on the CPU in float32.

    The masked contexts are `camera * camera_keep` and `lidar * lidar_keep`: the hole is 0 after normalisation (spec 2.5).

    Attributes:
        camera: in [-1, 1].
        lidar: stored depth after the object-aware map, and intensity after its map, both in [-1, 1] (spec 2.4).
        camera_keep, lidar_keep: 1 = keep, 0 = repaint.
        reference: CLIP-normalised; black before that for a removal.
        camera_box, lidar_box: corners; x and y as shares of the crop (may leave [0, 1]), then the normalised depth, the same
            in both. All 0 for a removal.
    """

    camera: Float[Tensor, "B 3 D D"]
    lidar: Float[Tensor, "B 2 D D"]
    camera_keep: Float[Tensor, "B 1 D D"]
    lidar_keep: Float[Tensor, "B 1 D D"]
    reference: Float[Tensor, "B 3 224 224"]
    camera_box: Float[Tensor, "B 8 3"]
    lidar_box: Float[Tensor, "B 8 3"]


@dataclass(frozen=True, eq=False)
class Painted:
    """What the network made of `Crops`: camera in [-1, 1], lidar as `Crops.lidar`; neither is clamped."""

    camera: Float[Tensor, "B 3 D D"]
    lidar: Float[Tensor, "B 2 D D"]


@dataclass(frozen=True, eq=False)
class EditedImage:
    """The camera after compositing.

    Attributes:
        stored: in the source's own values; equal to the source's wherever `share` is 0.
        rgb: as 8-bit colour.
        share: (H, W) how much of the painting each pixel shows; 0 beyond the blend's reach from the hole.
        occluder: (H, W) pixels of the hole that the sweep says something nearer covers; they keep the source.
    """

    stored: Shaped[np.ndarray, "H W *C"]
    rgb: UInt8[np.ndarray, "H W 3"]
    share: Float32[np.ndarray, "H W"]
    occluder: Bool[np.ndarray, "H W"]


@dataclass(frozen=True, eq=False)
class EditedSweep:
    """The lidar after compositing.

    Attributes:
        points: kept points first, bit-identical and in their order, then the new ones.
        kept: (N,) which of the source's points stay.
        n_new: points at the end of `points`.
        replaced: (rows, columns) of the range view whose depth and intensity were replaced.
        predicted: (rows, columns), of those the ones whose new return lies in the box.
        missed: (rows, columns) of the view that lost an in-box point but lie outside the crop, where nothing is predicted.
        aimed: (rows, columns) of the crop whose ray meets the box with nothing nearer in the way.
        hit: (rows, columns), of those the ones whose new return lies in the box.
    """

    points: Float32[np.ndarray, "M C"]
    kept: Bool[np.ndarray, " N"]
    n_new: int
    replaced: Bool[np.ndarray, "rows columns"]
    predicted: Bool[np.ndarray, "rows columns"]
    missed: Bool[np.ndarray, "rows columns"]
    aimed: Bool[np.ndarray, "rows columns"]
    hit: Bool[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class Edit:
    """One finished edit.

    Attributes:
        task: "insert", "replace" or "remove".
        placed: the scene and the box in it.
        image, sweep: the two edited records.
        seed: of the noise.
        measures: numbers about the edit, JSON values.
        flags: why a user may want to reject it; empty when nothing speaks against it.
        warnings: what the user should know about the scene.
    """

    task: str
    placed: Placed
    image: EditedImage
    sweep: EditedSweep
    seed: int
    measures: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
