"""The yaw judge: the angle it is about in closed form, its decoding, and what the shipped weights say of true renders."""

import math

import numpy as np
import pytest
import torch

from graft_common.errors import InputError
from graft_common.rangeview import Box3d, Camera, camera_mask, camera_pixels, choose_camera_crop
from mobi.yaw import (
    BINS,
    YawJudge,
    YawNet,
    angle_of,
    heading,
    judge_folder,
    load_yaw,
    observation_angle,
    soft_bins,
    wrap,
)

FORWARD = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # camera x, y, z in the lidar frame, looking along its +y


def camera_at(eye, turn=0.0):
    """A camera at `eye`, its axis turned counter-clockwise from +y."""
    c, s = math.cos(turn), math.sin(turn)
    spin = FORWARD @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = spin, -spin @ np.array(eye, float)
    return Camera(np.array([[300.0, 0, 199.5], [0, 300, 112], [0, 0, 1]]), move, 400, 225)


def car(x, y, yaw):
    return Box3d((x, y, -1.0), (1.8, 4.5, 1.6), yaw)


@pytest.mark.parametrize(
    ("at", "yaw", "angle"),
    [
        ((0, 10), math.pi / 2, 0.0),  # ahead, driving away
        ((0, 10), -math.pi / 2, -math.pi),  # coming
        ((0, 10), math.pi, math.pi / 2),  # crossing to the left
        ((0, 10), 0.0, -math.pi / 2),
        ((10, 10), math.pi / 2, math.pi / 4),  # 45 degrees to the right of the axis, its heading to the left of the ray
        ((-10, 10), math.pi / 2, -math.pi / 4),
    ],
)
def test_angle_is_between_heading_and_ray(at, yaw, angle):
    assert observation_angle(car(*at, yaw), camera_at((0, 0, 0))) == pytest.approx(angle, abs=1e-9)


def test_only_heading_and_the_eyes_place_count():
    """The camera's own direction and height do not matter, its place does."""
    box = car(7.0, 9.0, 0.4)
    plain = observation_angle(box, camera_at((1, 2, 0)))
    assert plain == pytest.approx(0.4 - math.atan2(7, 6), abs=1e-9)
    assert observation_angle(box, camera_at((1, 2, 3.0), 0.7)) == pytest.approx(plain, abs=1e-9)
    assert abs(observation_angle(box, camera_at((2, 2, 0))) - plain) > 0.05


@pytest.mark.parametrize("angle", [-3.1, -1.0, 0.0, 2.5])
def test_heading_undoes_it(angle):
    camera, box = camera_at((0.5, -0.8, 0.3), 0.2), car(-4.0, 12.0, 1.1)
    turned = heading(angle, box, camera)
    assert observation_angle(car(-4.0, 12.0, turned), camera) == pytest.approx(angle, abs=1e-9)


def test_wrap_is_half_open():
    assert wrap(np.array([math.pi, -math.pi, 3 * math.pi, 0.5])).tolist() == pytest.approx(
        [-math.pi, -math.pi, -math.pi, 0.5]
    )


def test_scores_of_the_target_give_the_angle_back():
    angles = torch.linspace(-math.pi, math.pi, 73)[:-1]
    error = wrap(angle_of(soft_bins(angles).log()) - angles.double().numpy())
    assert np.abs(error).max() < math.radians(1.0)
    assert soft_bins(angles).sum(1).numpy() == pytest.approx(np.ones(72), abs=1e-5)


def test_two_likely_answers_are_not_averaged():
    """0 or 120 degrees: the answer is the likelier one, not something between them."""
    scores = torch.full((1, BINS), -9.0)
    scores[0, [0, 12]] = torch.tensor([1.0, 0.9])
    assert angle_of(scores)[0] == pytest.approx(0.0, abs=0.02)
    scores[0, 12] = 1.1
    assert angle_of(scores)[0] == pytest.approx(2 * math.pi / 3, abs=0.02)


def test_crops_of_any_size_and_number():
    torch.manual_seed(0)
    judge = YawJudge(YawNet())
    smooth = torch.nn.functional.interpolate(torch.rand(5, 3, 6, 6) * 2 - 1, (128, 128), mode="bilinear")
    angles = judge(smooth)
    assert angles.shape == (5,) and angles.dtype == np.float64 and np.abs(angles).max() <= math.pi
    assert judge(smooth, batch=2) == pytest.approx(angles, abs=1e-4)
    assert judge(torch.nn.functional.interpolate(smooth, (256, 256), mode="bilinear")).shape == (5,)
    assert judge(smooth[:0]).shape == (0,)


def test_a_mirrored_crop_shows_the_mirrored_angle():
    """Whatever the weights: a car that heads to the left of the ray heads to its right in the mirror."""
    torch.manual_seed(1)
    judge = YawJudge(YawNet())
    with torch.no_grad():
        judge.network.head[-1].bias.normal_(0, 3)  # one class far ahead, so that no two tie
    crops = torch.rand(6, 3, 96, 96) * 2 - 1
    angles = judge(crops)
    assert np.abs(wrap(judge(crops.flip(3)) + angles)).max() < 1e-4 and np.abs(np.sin(angles)).max() > 0.1


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(InputError, match=r"yaw\.safetensors"):
        load_yaw(tmp_path)


@pytest.mark.skipif(not judge_folder().is_dir(), reason="judge-mobi is not in this tree: tools/train_tiny.py judge-mobi")
def test_shipped_judge_reads_true_renders():
    """Car parks of held-out seeds: the heading of the cars that stand free, within 30 degrees."""
    from graft_common.phantoms.driving import draw_scene

    crops, angles = [], []
    for seed in (10_000_777, 10_000_778, 10_000_779):
        (drive,) = draw_scene(seed, (400, 225), night=False, rain=False, kind="lot")
        view = drive.views[0]
        camera = Camera(view.K, view.lidar_to_camera, 400, 225)
        for one in drive.boxes:
            length, width, height = one.size
            box = Box3d(one.center, (width, length, height), one.yaw)
            seen, whole = view.silhouette(one.instance).sum(), view.silhouette(one.instance, whole=True).sum()
            if one.label == "car" and seen > 400 and seen > 0.8 * whole:
                crops.append(camera_pixels(view.image, choose_camera_crop(camera_mask(box, camera)), 128))
                angles.append(observation_angle(box, camera))
    assert len(crops) >= 3
    error = np.degrees(np.abs(wrap(load_yaw()(torch.stack(crops)) - np.array(angles))))
    assert np.median(error) < 15 and (error < 30).mean() >= 0.75, error
    assert sum(path.stat().st_size for path in judge_folder().glob("*.safetensors")) <= 2_000_000
