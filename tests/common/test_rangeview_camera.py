"""Camera projection, hole and crop (mobi spec section 8, property 24), against OpenCV and sampled surfaces."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from scipy.spatial import ConvexHull, Delaunay
from scipy.spatial.transform import Rotation

from graft_common.errors import InputError
from graft_common.rangeview import (
    FACES,
    MASK_SCALE,
    Box3d,
    Camera,
    CameraCrop,
    box_polygons,
    camera_box_in_crop,
    camera_hole,
    camera_mask,
    camera_pixels,
    camera_rectangle,
    choose_camera_crop,
    project_camera,
)

K = np.array([[633.0, 0, 408], [0, 633, 245], [0, 0, 1]])
CAR, PEDESTRIAN = (1.9, 4.6, 1.7), (0.7, 0.7, 1.8)


def camera(width=800, height=450):
    """Looks along the lidar's y, a little down and aside, 0.4 m in front of it and 0.3 m below."""
    axes = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # right, down, forward
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", [0.03, -0.05, 0.01]).as_matrix() @ axes
    move[:3, 3] = move[:3, :3] @ [0.1, -0.4, 0.3]
    return Camera(K, move, width, height)


def car(x=-1, y=12, yaw=0.6, size=CAR, z=-0.9):
    return Box3d((x, y, z), size, yaw)


def surface(box, camera, near, n=60):
    """Dense points of the box's surface in front of the near plane: u, v."""
    corners = box.corners().numpy()
    s, t = np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n))
    points = [
        a + s[..., None] * (b - a) + t[..., None] * (d - a) for a, b, _, d in (corners[list(face)] for face in FACES)
    ]
    at = project_camera(np.concatenate(points).reshape(-1, 3), camera)
    return at[at[:, 2] >= near, :2]


def test_projection_by_opencv():
    import cv2

    eye, points = camera(), np.random.default_rng(0).uniform([-9, 2, -4], [9, 30, 4], (200, 3))
    turn = cv2.Rodrigues(eye.lidar_to_camera[:3, :3])[0]
    want = cv2.projectPoints(points, turn, eye.lidar_to_camera[:3, 3], K, None)[0][:, 0]
    got = project_camera(points, eye)
    assert np.abs(got[:, :2] - want).max() < 1e-7
    depth = (np.c_[points, np.ones(200)] @ eye.lidar_to_camera.T)[:, 2]
    assert np.abs(got[:, 2] - depth).max() < 1e-12
    behind = project_camera(np.array([[0.0, -5, 0]]), eye)
    assert behind[0, 2] < 0 and np.isfinite(behind).all()


@pytest.mark.parametrize(
    "box",
    [
        car(),
        car(3, 8, 2.0),
        car(size=PEDESTRIAN),
        car(6.5, 9, 0.1),  # cut by the image's right edge
        car(0.5, 1.5, 1.5),  # its back lies behind the camera
        car(0.3, 0.9, 0.2, (1, 2, 1), -0.3),
        car(-2, 60, 0.3),
    ],
)
def test_mask_is_the_outline_of_the_surface(box):
    eye = camera()
    points = surface(box.scaled(MASK_SCALE), eye, 0.1)
    v, u = np.mgrid[:450, :800]
    hull = Delaunay(points[ConvexHull(points).vertices])
    want = hull.find_simplex(np.stack([u, v], -1).reshape(-1, 2) + 0.5).reshape(450, 800) >= 0
    mask = camera_mask(box, eye)
    assert mask.shape == (450, 800) and want.any()
    # whole-number corners and the drawn border move the outline by no more than about a pixel
    assert not (mask & ~binary_dilation(want, iterations=2)).any()
    assert not (want & ~binary_dilation(mask, iterations=2)).any()
    left, top, right, bottom = camera_rectangle(box.scaled(MASK_SCALE), eye)
    inside = np.clip(points, 0, [800, 450])
    assert abs(left - inside[:, 0].min()) < 1 and abs(right - inside[:, 0].max()) < 1
    assert 0 <= top < bottom <= 450 and (bottom == 450 or abs(bottom - points[:, 1].max()) < 1)


def test_rectangle_mode_fills_the_bounding_rectangle():
    eye, box = camera(), car()
    mask, rectangle = camera_mask(box, eye), camera_mask(box, eye, shape="rectangle")
    rows, columns = np.flatnonzero(rectangle.any(1)), np.flatnonzero(rectangle.any(0))
    assert rectangle.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    left, top, right, bottom = camera_rectangle(box.scaled(MASK_SCALE), eye)
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (
        int(left),
        int(top),
        math.ceil(right),
        math.ceil(bottom),
    )
    assert mask.sum() < rectangle.sum()


@pytest.mark.parametrize(
    "box,words",
    [
        (car(0, -12), "behind the camera"),
        (car(40, 10), "outside the image"),
        (car(-1, 12, z=30), "outside the image"),
    ],
)
def test_unseen_boxes_say_what_to_do(box, words):
    for call in (camera_mask, camera_rectangle):
        with pytest.raises(InputError, match=words):
            call(box, camera())
    assert box_polygons(box, camera()) == []


def test_property_24_hole_share_and_corners():
    random, eye, met = np.random.default_rng(1), camera(), 0
    for k in range(40):
        size = (CAR, PEDESTRIAN)[k % 2]
        box = car(random.uniform(-4, 4), random.uniform(7, 30), random.uniform(-3, 3), size)
        mask = camera_mask(box, eye)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        u, v, _ = project_camera(box.corners().numpy(), eye).T
        if u.min() < 0 or u.max() > 800 or v.min() < 0 or v.max() > 450:
            continue
        assert columns[0] <= u.min() and u.max() <= columns[-1] + 1
        assert rows[0] <= v.min() and v.max() <= rows[-1] + 1
        side = math.floor(math.sqrt(mask.sum() / 0.2))
        for square, generator in ((False, None), (True, None), (False, random)):
            crop = choose_camera_crop(mask, square=square, random=generator)
            inside = mask[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
            assert inside.shape == (crop.height, crop.width) and inside.sum() == mask.sum()
            if (crop.width, crop.height) == (side, side):
                met += 1
                assert abs(inside.mean() - 0.2) <= 0.02
            share = camera_hole(mask, crop, 64).float().mean()
            assert abs(float(share) - inside.mean()) < 0.02
    assert met > 20


def hole(rows, columns, shape=(450, 800), thin=1):
    mask = np.zeros(shape, bool)
    mask[rows[0] : rows[1], columns[0] : columns[1] : thin] = True
    return mask


def test_crop_follows_the_rule():
    # 100 x 20 pixels: side 100; the window is placed in the middle of what keeps the hole inside
    assert choose_camera_crop(hole((200, 300), (390, 410))) == CameraCrop(350, 200, 100, 100)
    # 200 x 20: side 141; the hole's height, and the width less by 59
    assert choose_camera_crop(hole((100, 300), (390, 410))) == CameraCrop(359, 100, 82, 200)
    assert choose_camera_crop(hole((100, 300), (390, 410)), square=True) == CameraCrop(300, 100, 200, 200)
    # 20 x 200: likewise, the other way round
    assert choose_camera_crop(hole((200, 220), (300, 500))) == CameraCrop(300, 169, 200, 82)
    # a pole so thin that the width would vanish keeps its width
    assert choose_camera_crop(hole((0, 400), (390, 392))) == CameraCrop(390, 0, 2, 400)
    # larger than the image
    assert choose_camera_crop(hole((0, 450), (0, 700))) == CameraCrop(0, 0, 800, 450)
    # at the edge: the interval ends there
    assert choose_camera_crop(hole((0, 40), (0, 40))) == CameraCrop(0, 0, 89, 89)
    with pytest.raises(InputError, match="empty"):
        choose_camera_crop(np.zeros((4, 4), bool))


def test_random_crops_reach_both_ends_of_the_interval():
    mask, random = hole((200, 204), (400, 404)), np.random.default_rng(0)
    crops = [choose_camera_crop(mask, random=random) for _ in range(300)]
    assert {c.left for c in crops} == {c.top + 200 for c in crops} == set(range(404 - 8, 401))


def test_pixels_and_shares_of_the_crop():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    same = camera_pixels(image, CameraCrop(8, 4, 32, 32), 32)
    assert torch.equal(same, torch.from_numpy(image[4:36, 8:40].transpose(2, 0, 1).astype(np.float32)) / 127.5 - 1)
    small = camera_pixels(image, CameraCrop(0, 0, 80, 60), 20)
    assert small.shape == (3, 20, 20) and small.abs().max() <= 1
    mean = image.reshape(-1, 3).mean(0) / 127.5 - 1
    assert np.abs(small.mean((1, 2)).numpy() - mean).max() < 0.02 and float(small.std()) < 0.4  # antialiased
    uv = np.array([[8.0, 4, 9], [40, 20, 9]] * 4)
    assert np.allclose(camera_box_in_crop(uv, CameraCrop(8, 4, 32, 16))[:2], [[0, 0], [1, 1]])


@pytest.mark.parametrize(
    "change,words",
    [
        ({"intrinsics": np.eye(4)}, "3x3"),
        ({"intrinsics": np.full((3, 3), np.nan)}, "finite 3x3"),
        ({"intrinsics": np.diag([-1.0, 1, 1])}, "positive focal"),
        ({"intrinsics": K.T.copy()}, "last row"),
        ({"lidar_to_camera": np.eye(3)}, "4x4"),
        ({"lidar_to_camera": np.diag([1.01, 1, 1, 1])}, "orthonormal"),
        ({"lidar_to_camera": np.diag([-1.0, 1, 1, 1])}, "orthonormal"),
        ({"lidar_to_camera": np.eye(4) + np.eye(4, k=-3)}, "transpose"),
        ({"width": 0}, "0x450"),
    ],
)
def test_wrong_cameras_say_what_to_do(change, words):
    good = {"intrinsics": K, "lidar_to_camera": np.eye(4), "width": 800, "height": 450}
    Camera(**good)
    with pytest.raises(InputError, match=words):
        Camera(**(good | change))
