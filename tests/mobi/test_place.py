"""The network's input: properties 23 and 24 of section 8, and the numbers of sections 2.3 to 2.6."""

import numpy as np
import pytest
import torch

from graft_common.errors import InputError
from graft_common.rangeview import NUSCENES, Box3d, grid_points, project, range_mask, reduce
from graft_common.rangeview.angles import direction
from mobi.box_text import from_box, parse_numbers, to_box
from mobi.composite import box_span
from mobi.inputs import read_scene
from mobi.place import CLIP_MEAN, CLIP_STD, behind_camera, box_numbers, crops, hole_clipped, place, reference_pixels
from mobi.records import Scene

AHEAD = np.array([[1.0, 0, 0, 0], [0, 0, -1, -0.3], [0, 1, 0, 0], [0, 0, 0, 1]])  # camera 0.3 m below the lidar, looking forward
K = np.array([[1266.0, 0, 812], [0, 1266, 488], [0, 0, 1]])
CAR, PERSON = (4.6, 1.9, 1.7), (0.7, 0.7, 1.8)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A 1600 x 900 ramp over a flat road of sparse returns."""
    rng = np.random.default_rng(0)
    picture = np.broadcast_to(np.linspace(0, 255, 1600).astype(np.uint8)[None, :, None], (900, 1600, 3))
    points = np.zeros((400, 5), np.float32)
    points[:, :2] = rng.uniform(-30, 30, (400, 2))
    points[:, 2], points[:, 3] = -1.8, 20
    return read_scene(np.ascontiguousarray(picture), points, {"K": K, "lidar_to_camera": AHEAD})


BOXES = [
    (1.0, 12.0, -1.0, *CAR, 0.4), (-3.0, 20.0, -0.9, *CAR, 1.57), (2.0, 9.0, -0.9, *PERSON, 0.0), (-4.0, 30.0, -0.9, *CAR, -2.5),
    (0.0, 15.0, -0.9, *PERSON, 2.0),
]  # fmt: skip


@pytest.mark.parametrize("numbers", BOXES)
def test_hole(scene: Scene, numbers: tuple[float, ...]) -> None:
    box = to_box(numbers)
    placed = place(scene, box, 128)
    crop = placed.camera_crop
    rows, columns = np.nonzero(placed.hole)
    limits = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    area = crop.width * crop.height
    if crop.width == crop.height:  # else a side of the hole decided
        assert placed.hole.sum() / area == pytest.approx(0.2, abs=0.02)
    else:
        assert limits[3] - limits[1] == crop.height or limits[2] - limits[0] == crop.width
    # corners by hand: x right, y forward, z up from 0.3 m above the camera
    x, y, z, length, width, height, yaw = numbers
    for a in (-0.5, 0.5):
        for b in (-0.5, 0.5):
            for c in (-0.5, 0.5):
                px = x + a * length * np.cos(yaw) - b * width * np.sin(yaw)
                py = y + a * length * np.sin(yaw) + b * width * np.cos(yaw)
                u, v = 1266 * px / py + 812, 1266 * (-(z + c * height) - 0.3) / py + 488
                assert limits[0] <= u <= limits[2] and limits[1] <= v <= limits[3]
    # returns in the box of beams up to 7 % of a row off the grid, as the sensor's are, anywhere in their column
    rng = np.random.default_rng(1)
    row, column = np.indices((32, 1096))
    pitch = torch.from_numpy(0.0232 * (8 - row + rng.uniform(-0.07, 0.07, row.shape)))
    yaw_ = torch.from_numpy(np.pi * (2 * (column + rng.uniform(0, 1, row.shape)) / 1096 - 1))
    enter = box_span(pitch, yaw_, box)[0]
    points = (enter[..., None] * direction(pitch, yaw_))[enter.isfinite()]
    view = project(torch.cat([points, torch.ones(len(points), 1)], 1), NUSCENES)
    hole = range_mask(box, placed.range_crop, NUSCENES, (128, 128)).float()
    filled = torch.zeros(32, 1096)
    columns_ = (placed.range_crop.left + np.arange(placed.range_crop.width)) % 1096
    filled[:, columns_] = reduce(hole, 32, placed.range_crop.width)
    seen = view.index >= 0
    assert seen.sum() >= 10 and (filled[seen] > 0.5).float().mean() >= 0.95
    assert torch.allclose(grid_points(view, NUSCENES)[seen].norm(dim=-1), points[view.index[seen]].norm(dim=-1), atol=1e-6)


def test_removal_tells_nothing_of_the_object(scene: Scene) -> None:
    batch = crops([place(scene, to_box(BOXES[0]), 64)], [None])
    assert not batch.camera_box.any() and not batch.lidar_box.any()
    black = -np.array(CLIP_MEAN) / np.array(CLIP_STD)
    assert np.allclose(batch.reference[0].permute(1, 2, 0).numpy(), black, atol=1e-6) and black.max() < -1.4
    for keep in (batch.camera_keep, batch.lidar_keep):
        assert set(keep.unique().tolist()) == {0.0, 1.0}


def test_batch(scene: Scene) -> None:
    red = np.zeros((5, 9, 3), np.uint8)
    red[..., 0] = 255
    boxes = [to_box(numbers) for numbers in BOXES[:2]]
    placed = [place(scene, box, 64) for box in boxes]
    batch = crops(placed, [red, None])
    assert batch.camera.shape == (2, 3, 64, 64) and batch.lidar.shape == (2, 2, 64, 64)
    assert batch.camera.abs().max() <= 1 and batch.lidar.abs().max() <= 1
    want = ((1, 0, 0) - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    assert np.allclose(batch.reference[0].mean((1, 2)).numpy(), want, atol=1e-5)
    assert torch.equal(batch.camera_box[0, :, 2], batch.lidar_box[0, :, 2])
    depth = batch.lidar_box[0, :, 2]
    assert depth.min() == pytest.approx(-0.625, abs=1e-5) and depth.max() == pytest.approx(0.625, abs=1e-5)
    # the camera box's middle is the projection of the centre, within the box's own foreshortening
    crop = placed[0].camera_crop
    u = (1266 * 1 / 12 + 812 - crop.left) / crop.width
    assert batch.camera_box[0, :, 0].mean() == pytest.approx(u, abs=0.05)
    with pytest.raises(InputError, match="one each"):
        crops(placed, [red])


def test_reference_is_stretched_to_a_square() -> None:
    ramp = np.broadcast_to(np.arange(0, 250, 5, dtype=np.uint8)[None, :, None], (3, 50, 3)).copy()
    grey = reference_pixels(ramp)[0] * CLIP_STD[0] + CLIP_MEAN[0]
    assert grey.shape == (224, 224) and torch.allclose(grey[0], grey[-1], atol=1e-5)
    assert float(grey[0, 112]) * 255 == pytest.approx(122.5, abs=1.5)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((0, -12, -1, *CAR, 0), "behind the camera"),
        ((30, 5, -1, *PERSON, 0), "outside the image"),
        ((0, 60, -1, *CAR, 0), "60.0 m away"),
        ((0, 1, 0, *CAR, 0), "within 1.4 m"),
        ((0, 0, 0, *CAR, 0), "within 1.4 m"),
    ],
)
def test_boxes_that_cannot_be_edited(scene: Scene, numbers: tuple[float, ...], says: str) -> None:
    with pytest.raises(InputError, match=says) as why:
        place(scene, to_box(numbers), 64, "--box 1,2")
    assert str(why.value).startswith("--box 1,2: ") and "\n" not in str(why.value)


def test_box_partly_outside(scene: Scene) -> None:
    placed = place(scene, to_box((6.5, 10, -1, *CAR, 0)), 64)
    assert placed.hole.any() and hole_clipped(placed)["image"] and placed.rectangle[2] == 1600
    whole = place(scene, to_box(BOXES[0]), 128)
    assert not any(hole_clipped(whole).values())


def test_box_partly_behind_the_camera(scene: Scene) -> None:
    """The hidden corners stay on their side of the picture, and their numbers of the size that training shows."""
    placed = place(scene, to_box((2.6, 2.2, -0.9, 4.6, 1.9, 1.7, 1.57)), 64)
    assert behind_camera(placed) and not behind_camera(place(scene, to_box(BOXES[0]), 64))
    told = box_numbers(placed)[0].numpy()
    x, y, z = placed.box.corners().numpy().T
    crop, front = placed.camera_crop, y > 1
    u, v = (1266 * x / y + 812 - crop.left) / crop.width, (1266 * (-z - 0.3) / y + 488 - crop.top) / crop.height
    assert front.sum() == 4 and np.allclose(told[front, 0], u[front]) and np.allclose(told[front, 1], v[front])
    assert (told[~front, 0] > 1).all() and np.abs(told).max() <= 4


def test_box_text() -> None:
    numbers = parse_numbers("-1.5,8,-1,4.5,1.9,1.7,-3")
    assert from_box(to_box(numbers)) == list(numbers)
    assert to_box(numbers) == Box3d((-1.5, 8, -1), (1.9, 4.5, 1.7), -3)
    few, words, sizes = ("", "1,2,3", "1,2,3,4,5,6,7,8"), ("1,2,3,4,5,6,x", "1,2,3,4,5,6,nan"), ("0,8,0,0,1,1,0", "0,8,0,1,-1,1,0")
    for text in (*few, *words, *sizes, "1 2 3 4 5 6 7"):
        with pytest.raises(InputError, match="--box"):
            parse_numbers(text)
