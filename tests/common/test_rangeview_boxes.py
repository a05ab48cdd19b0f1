"""Boxes, crops and range masks (mobi spec section 8, properties 7 to 10, 13, 24), against scipy and ray-cast triangles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.spatial import Delaunay
from scipy.spatial.transform import Rotation

from graft_common.errors import InputError
from graft_common.rangeview import (
    FACES,
    MASK_SCALE,
    NUSCENES,
    PANDAR64,
    Box3d,
    RangeCrop,
    box_in_crop,
    box_to_range,
    choose_crop,
    crop_width,
    depth_band,
    enlarge,
    nearest_distance,
    normalise_depth,
    points_in_box,
    project,
    put_crop,
    range_mask,
    reduce,
    stored_depth,
    take_crop,
)

CAR, PEDESTRIAN = (1.9, 4.6, 1.7), (0.7, 0.7, 1.8)


def box_at(distance, azimuth, size=CAR, yaw=0.4, z=-0.9):
    """A box whose centre lies at a distance, turned clockwise by `azimuth` from +x."""
    return Box3d((distance * math.cos(azimuth), -distance * math.sin(azimuth), z), size, yaw)


def ray_hits(rays, box):
    """Whether rays from the origin meet the box, and how far off: Moeller and Trumbore's test on 12 triangles."""
    corners, best = box.corners().numpy(), np.full(rays.shape[:-1], np.inf)
    for a, b, c, d in FACES:
        for i, j, k in ((a, b, c), (a, c, d)):
            e1, e2, start = corners[j] - corners[i], corners[k] - corners[i], -corners[i]
            p = np.cross(rays, e2)
            with np.errstate(divide="ignore", invalid="ignore"):
                f = 1 / (p @ e1)
                u = f * (p @ start)
                q = np.cross(start, e1)
                v, t = f * (rays @ q), f * (e2 @ q)
                hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
            best = np.where(hit & (t < best), t, best)
    return best


def rays_of(pitch, yaw):
    pitch, yaw = np.broadcast_arrays(pitch, yaw)
    return np.stack([np.cos(pitch) * np.cos(yaw), -np.cos(pitch) * np.sin(yaw), np.sin(pitch)], -1)


@pytest.mark.parametrize("yaw", [0, 0.7, math.pi / 2, -2.9])
def test_corners_by_scipy(yaw):
    box = Box3d((3, -5, 1), (2, 4, 1.5), yaw)
    # at identity: length along x (front is +x), width along y (left is +y)
    signs = [(2, -1, -0.75), (2, -1, 0.75), (-2, -1, 0.75), (-2, -1, -0.75)]
    signs += [(x, -y, z) for x, y, z in signs]
    want = Rotation.from_euler("z", yaw).apply(signs) + np.array([3, -5, 1])
    assert np.abs(box.corners().numpy() - want).max() < 1e-12
    heading = np.array([math.cos(yaw), math.sin(yaw), 0])
    front = box.corners().numpy()[[0, 1, 4, 5]].mean(0) - box.centre
    assert np.abs(front - 2 * heading).max() < 1e-12
    turned = box.turned(0.5).corners().numpy() - box.centre
    assert np.abs(turned - Rotation.from_euler("z", 0.5).apply(want - box.centre)).max() < 1e-12
    assert np.abs((box.scaled(1.1).corners().numpy() - box.centre) - 1.1 * (want - box.centre)).max() < 1e-12


def test_faces_are_planar_and_cover_the_box():
    corners = Box3d((3, -5, 1), (2, 4, 1.5), 0.3).corners().numpy()
    areas = []
    for face in FACES:
        a, b, c, d = corners[list(face)]
        assert np.abs(a + c - b - d).max() < 1e-12  # a parallelogram, walked around
        areas.append(np.linalg.norm(np.cross(b - a, d - a)))
    assert sorted(np.round(areas, 9)) == [3, 3, 6, 6, 8, 8]
    assert sorted(i for face in FACES for i in face) == sorted([*range(8)] * 3)


def test_points_in_box_by_scipy():
    random = np.random.default_rng(0)
    box = Box3d((3, -5, 1), (2, 4, 1.5), 0.7)
    points = random.normal(size=(4000, 5)) * [2.5, 2.5, 1, 1, 1] + [3, -5, 1, 0, 0]
    want = Delaunay(box.corners().numpy()).find_simplex(points[:, :3]) >= 0
    assert 300 < want.sum() < 3600
    points.setflags(write=False)
    assert np.array_equal(points_in_box(points, box).numpy(), want)
    assert np.array_equal(points_in_box(torch.tensor(points).float(), box).numpy(), want)
    assert points_in_box(box.corners() * 0.999999 + torch.tensor(box.centre) * 1e-6, box).all()
    assert not points_in_box(np.full((1, 4), np.nan), box).any()
    with pytest.raises(InputError, match="3 or more"):
        points_in_box(np.zeros((4, 2)), box)


@pytest.mark.parametrize("seed", range(6))
def test_nearest_distance_by_scipy(seed):
    random = np.random.default_rng(seed)
    box = Box3d(tuple(random.normal(size=3) * 6), tuple(random.uniform(0.5, 9, 3)), random.uniform(-4, 4))
    width, length, height = box.size
    half = np.array([length, width, height]) / 2
    axes = Rotation.from_euler("z", box.yaw).as_matrix()
    best = lsq_linear(axes, -np.array(box.centre), (-half, half), method="bvls", tol=1e-14)
    assert nearest_distance(box) == pytest.approx(np.sqrt(2 * best.cost), abs=1e-6)


@pytest.mark.parametrize("centre,size,yaw,words", [
    ((0, 0, math.nan), CAR, 0, "not finite"),
    ((0, 0, 0), CAR, math.inf, "not finite"),
    ((0, 0, 0), (1, 0, 1), 0, "above 0"),
    ((0, 0, 0), (1, -1, 1), 0, "above 0"),
])  # fmt: skip
def test_wrong_boxes_say_what_to_do(centre, size, yaw, words):
    with pytest.raises(InputError, match=words):
        Box3d(centre, size, yaw)


@pytest.mark.parametrize("distance", [5, 20, 45])
@pytest.mark.parametrize("size", [CAR, PEDESTRIAN])
def test_property_13_corner_depth_tokens(distance, size):
    box = box_at(distance, 1.1, size)
    lo, hi = depth_band(box, NUSCENES)
    token = normalise_depth(box_to_range(box.corners(), NUSCENES)[:, 2], lo, hi)
    assert abs(float(token.min()) + 0.625) < 1e-5 and abs(float(token.max()) - 0.625) < 1e-5


def test_exact_band_reaches_the_near_face():
    box = Box3d((0, 6, 0), (1.9, 4.6, 1.7), 0.0)  # broadside: its near face's middle is nearer than its corners
    low, high = depth_band(box, NUSCENES, exact=True, margin=0)
    assert low == pytest.approx(2 * (6 - 0.95) / 54 - 1, abs=1e-12)
    corner_low, corner_high = depth_band(box, NUSCENES, margin=0)
    assert high == corner_high and corner_low > low + 0.01
    depths = stored_depth(box.corners().norm(dim=1), NUSCENES)
    wide = depth_band(box, NUSCENES)
    span = float(depths.max() - depths.min())
    assert wide == pytest.approx((float(depths.min()) - 0.1 * span, float(depths.max()) + 0.1 * span))
    with pytest.raises(InputError, match="beyond 54 m"):
        depth_band(Box3d((100, 0, 0), CAR, 0), NUSCENES)
    assert depth_band(Box3d((0.1, 0, 0), CAR, 0), NUSCENES, exact=True)[0] == -1  # the sensor is inside


@pytest.mark.parametrize("sensor", [NUSCENES, PANDAR64], ids=lambda s: s.name)
def test_corner_coordinates_are_where_projection_puts_the_corners(sensor):
    for azimuth in np.linspace(-3, 3, 5):
        corners = box_at(15, azimuth).corners()
        x, y, depth = box_to_range(corners, sensor).T.numpy()
        for k, corner in enumerate(corners):
            view = project(torch.cat([corner, torch.zeros(1, dtype=torch.float64)])[None], sensor)
            row, column = (view.index >= 0).nonzero()[0].tolist()
            assert math.floor(y[k]) == row
            offset = sensor.azimuth[row] * sensor.columns / (2 * math.pi)
            assert (math.floor(x[k] - offset) - column) % sensor.columns == 0
            assert float(view.depth[row, column]) == pytest.approx(depth[k], abs=1e-12)


def test_a_box_on_the_seam_stays_whole():
    away, seam = box_to_range(box_at(12, 0.0, yaw=0.4).corners(), NUSCENES), []
    for turn in (math.pi, -math.pi, math.pi - 0.01, -math.pi + 0.01):
        seam.append(box_to_range(box_at(12, turn, yaw=0.4 - turn).corners(), NUSCENES))
        shift = (seam[-1][:, 0] - away[:, 0]).numpy()
        assert np.ptp(shift) < 1e-9 and abs(shift.mean() - turn * 1096 / (2 * math.pi)) < 1e-9
        assert torch.allclose(seam[-1][:, 1:], away[:, 1:], atol=1e-12)
    assert min(s[:, 0].min() for s in seam) < 0 and max(s[:, 0].max() for s in seam) > 1096


@given(st.integers(0, 1095), st.floats(-3.1, 3.1), st.sampled_from([CAR, PEDESTRIAN, (2.5, 11.0, 3.2)]))
@settings(max_examples=15, deadline=None)
def test_property_7_turning_the_world_by_whole_columns(k, azimuth, size):
    random = np.random.default_rng(7)
    pitch = np.repeat(NUSCENES.elevation, 1096)
    column = np.tile(np.arange(1096), 32)
    d, intensity = random.uniform(2, 50, pitch.size), random.integers(0, 256, pitch.size).astype(float)
    step = 2 * math.pi / 1096

    def scene(turn):
        yaw = (column + 0.5 + turn) * step - math.pi
        points = np.column_stack([rays_of(pitch, yaw) * d[:, None], intensity])
        box = box_at(12, azimuth + turn * step, size, yaw=0.3 - turn * step)
        return project(points, NUSCENES), box.corners()

    (before, box), (after, moved) = scene(0), scene(k)
    assert torch.equal(after.index, before.index.roll(k, -1))
    here, there = choose_crop(box, NUSCENES, 256), choose_crop(moved, NUSCENES, 256)
    assert here.width == there.width
    if (there.left - here.left - k) % 1096:  # a mean corner within rounding of a whole column
        x = float(box_to_range(box, NUSCENES)[:, 0].mean())
        assert abs(x - round(x)) < 1e-6
        return
    for name, slack in (("index", 0), ("intensity", 0), ("depth", 1e-12)):
        a, b = (take_crop(getattr(v, name), c, NUSCENES) for v, c in ((before, here), (after, there)))
        assert (a - b).abs().max() <= slack
    a, b = (box_in_crop(box_to_range(x, NUSCENES), c, NUSCENES) for x, c in ((box, here), (moved, there)))
    assert (a - b).abs().max() < 1e-5
    assert float(a[:, 0].min()) > 0 and float(a[:, 0].max()) < 1


def test_property_7_across_the_seam():
    test_property_7_turning_the_world_by_whole_columns.hypothesis.inner_test(5, math.pi - 0.02, CAR)
    test_property_7_turning_the_world_by_whole_columns.hypothesis.inner_test(1095, -math.pi + 0.01, PEDESTRIAN)


@pytest.mark.parametrize("width", [64, 128, 256, 512])
def test_property_8_crop_and_back(width):
    view = torch.rand(1, 32, 1096, generator=torch.Generator().manual_seed(0))
    for left in range(0, 1096, 1 if width == 64 else 7):
        crop = RangeCrop(left, width)
        part = take_crop(view, crop, NUSCENES)
        assert torch.equal(part[..., 0], view[..., left]) and torch.equal(
            part[..., -1], view[..., (left + width - 1) % 1096]
        )
        assert torch.equal(put_crop(view, part, crop, NUSCENES), view)
        changed = put_crop(view, part + 1, crop, NUSCENES) - view
        assert abs(float(changed.sum()) - 32 * width) < 1
        assert torch.equal(take_crop(view, RangeCrop(left - 1096, width), NUSCENES), part)
    again = put_crop(view, reduce(enlarge(part, 512), 32, width), crop, NUSCENES)
    assert torch.equal(again, view)


@pytest.mark.parametrize("w,width", [(10, 64), (43, 128), (86, 256), (171, 512), (400, 512), (0, 64), (42.6, 64)])
def test_property_9_crop_width(w, width):
    assert crop_width(w, 512) == width
    assert crop_width(w, 128) == min(width, 128)
    assert width == max(64, min(512, 2 ** math.ceil(math.log2(1.5 * max(w, 1)))))


def test_wrong_sizes_say_what_to_do():
    for size in (32, 96, 500):
        with pytest.raises(InputError, match="power of two"):
            crop_width(10, size)
    with pytest.raises(InputError, match="lower the size"):
        choose_crop(box_at(1.5, 0, (9, 9, 1)).corners(), NUSCENES, 2048)
    with pytest.raises(InputError, match="does not divide"):
        enlarge(torch.zeros(32, 48), 64)
    with pytest.raises(InputError, match="does not divide"):
        reduce(torch.zeros(64, 64), 32, 48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size,width", [(512, 64), (512, 512), (256, 64), (256, 128), (128, 64)])
def test_property_10_pooling_undoes_enlarging(size, width, dtype):
    x = torch.randn(2, 32, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    big = enlarge(x, size)
    assert big.shape == (2, size, size)
    rows, columns = np.arange(size) * 32 // size, np.arange(size) * width // size
    assert torch.equal(big, x[:, rows][:, :, columns])
    assert torch.equal(reduce(big, 32, width), x) and torch.equal(reduce(big, 32, width, "max"), x)
    noisy = big.double() + torch.randn(big.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    want = noisy.numpy().reshape(2, 32, size // 32, width, size // width)
    assert np.abs(reduce(noisy, 32, width).numpy() - want.mean((2, 4))).max() < 1e-12
    assert np.array_equal(reduce(noisy, 32, width, "max").numpy(), want.max((2, 4)))


def test_crop_is_centred_on_the_box():
    for azimuth in (-3.14, -1, 0, 2, 3.14):
        corners = box_at(9, azimuth).corners()
        crop = choose_crop(corners, NUSCENES, 512)
        x = box_to_range(corners, NUSCENES)[:, 0]
        assert crop.width == crop_width(float(x.max() - x.min()), 512)
        assert crop.left == math.floor(float(x.mean())) - crop.width // 2
        inside = box_in_crop(box_to_range(corners, NUSCENES), crop, NUSCENES)
        assert abs(float(inside[:, 0].mean()) - 0.5) < 1 / crop.width
        for turns in (-2, 1):  # the same window, named one turn further on
            same = box_in_crop(
                box_to_range(corners, NUSCENES), RangeCrop(crop.left + turns * 1096, crop.width), NUSCENES
            )
            assert torch.allclose(same, inside, atol=1e-9)


@pytest.mark.parametrize("sensor", [NUSCENES, PANDAR64], ids=lambda s: s.name)
@pytest.mark.parametrize("size", [CAR, PEDESTRIAN])
def test_range_mask_is_what_rays_hit(sensor, size):
    for distance, azimuth in ((4, 0.2), (11, math.pi), (30, -2)):
        box = box_at(distance, azimuth, size)
        crop = choose_crop(box.corners(), sensor, 128)
        mask = range_mask(box, crop, sensor, (128, 128)).numpy()
        row, column = (np.arange(128) + 0.5) * sensor.rows / 128, crop.left + (np.arange(128) + 0.5) * crop.width / 128
        # rows are beams: between their middles pitch is linear, beyond the last it goes on
        middles, e = np.arange(sensor.rows) + 0.5, np.array(sensor.elevation)
        pitch = np.interp(row, middles, e)
        pitch = np.where(row < 0.5, e[0] + (0.5 - row) * (e[0] - e[1]), pitch)
        pitch = np.where(row > sensor.rows - 0.5, e[-1] - (row - sensor.rows + 0.5) * (e[-2] - e[-1]), pitch)
        yaw = 2 * math.pi * column[None] / sensor.columns - math.pi + np.array(sensor.azimuth)[row.astype(int)][:, None]
        want = np.isfinite(ray_hits(rays_of(pitch[:, None], yaw), box.scaled(MASK_SCALE)))
        assert want.any() and not want.all()
        assert (mask != want).mean() < 1e-3


def test_range_mask_from_inside_and_from_elsewhere():
    assert range_mask(Box3d((0.2, 0, 0), CAR, 0.1), RangeCrop(5, 64), NUSCENES, (64, 64)).all()
    behind = RangeCrop(548 + 548 - 32, 64)
    assert not range_mask(box_at(10, 0), behind, NUSCENES, (64, 64)).any()


def test_property_24_in_box_pixels_lie_in_the_hole():
    random = np.random.default_rng(5)
    turn = np.linspace(-math.pi, math.pi, 1085, endpoint=False) + 0.001
    covered = []
    for k in range(16):
        size = (CAR, PEDESTRIAN)[k % 2]
        box = box_at(random.uniform(4, 40), random.uniform(-math.pi, math.pi), size, random.uniform(-3, 3))
        rays = rays_of(np.array(NUSCENES.elevation)[:, None] + random.uniform(-0.0016, 0.0016), turn).reshape(-1, 3)
        d = ray_hits(rays, box)
        hit = np.isfinite(d)
        points = np.column_stack([rays[hit] * d[hit, None], np.zeros(hit.sum())])
        crop = choose_crop(box.corners(), NUSCENES, 512)
        seen = take_crop(project(points, NUSCENES).index, crop, NUSCENES) >= 0
        assert int(seen.sum()) == int((project(points, NUSCENES).index >= 0).sum())  # all of the box is in the crop
        share = reduce(range_mask(box, crop, NUSCENES, (512, 512)).float(), 32, crop.width)
        covered.append((share[seen] > 0.5).float())
    covered = torch.cat(covered)
    assert len(covered) > 1000 and float(covered.mean()) >= 0.95
