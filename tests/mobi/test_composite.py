"""Compositing: properties 20 to 22 of section 8 and the decisions of section 2.10."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate, distance_transform_cdt
from scipy.spatial import cKDTree

from graft_common.errors import InputError
from graft_common.phantoms.driving import Drive, draw_scene
from graft_common.rangeview import (
    NUSCENES,
    Box3d,
    CameraCrop,
    camera_pixels,
    enlarge,
    normalise_intensity,
    points_in_box,
)
from graft_common.rangeview.angles import direction, pixel_angles
from mobi.box_text import to_box
from mobi.composite import OCCLUDER_GAP, box_span, composite_image, composite_sweep, occluded, point_pixels, restored
from mobi.config import CompositeConfig
from mobi.inputs import read_scene
from mobi.nuscenes_tables import read_tables
from mobi.pipeline import finish
from mobi.place import place, range_pixels
from mobi.poses import to_sensor
from mobi.records import Placed, Scene

D = 64


@pytest.fixture(scope="module")
def placed(tree: Path) -> Placed:
    """The object of the first sample that the lidar hit most among those wholly in the picture."""
    tables = read_tables(tree)
    sample = next(iter(tables.rows["sample"]))
    data = tables.data(sample)
    lidar, camera = data["LIDAR_TOP"], data["CAM_FRONT"]
    calib = {"K": tables.intrinsics(camera), "lidar_to_camera": tables.lidar_to_camera(lidar, camera)}
    scene = read_scene(tables.path(camera), tables.path(lidar), calib)
    found = []
    for row in tables.annotations(sample):
        box = to_sensor(row, tables.sensor_pose(lidar), tables.ego_pose(lidar))
        try:
            one = place(scene, to_box((*box.center, *box.size, box.yaw)), D)
        except ValueError:
            continue
        edge = one.hole.copy()
        edge[1:-1, 1:-1] = False
        found.append((0 if edge.any() else row["num_lidar_pts"], len(found), one))
    return max(found)[2]


def with_points(placed: Placed, points: np.ndarray) -> Placed:
    scene = replace(placed.scene, points=points)
    return place(scene, placed.box, D)


def pixels_by_hand(points: np.ndarray) -> np.ndarray:
    """Spec 2.2, one point after another, in Python floats."""
    out = []
    for x, y, z in points[:, :3].astype(np.float64):
        d = (x * x + y * y + z * z) ** 0.5
        p = 31 * (np.arcsin(z / d) + 0.5336) / (0.5336 + 0.1856)
        row = 31 - int(np.rint(min(max(p, 0), 31)))
        column = min(int(1096 * (-np.arctan2(y, x) / np.pi + 1) / 2), 1095)
        out.append(row * 1096 + column if d > 1.4 else -1)
    return np.array(out)


def test_fixture_has_an_object(placed: Placed) -> None:
    assert points_in_box(placed.scene.points, placed.box).sum() >= 30 and placed.hole.sum() >= 50


def test_picture_beyond_the_blend_keeps_its_bytes(placed: Placed) -> None:
    painted = torch.rand(3, D, D, generator=torch.Generator().manual_seed(1)) * 2 - 1
    edit = composite_image(placed, painted, blur=7)
    far = distance_transform_cdt(~placed.hole, "chessboard") > 7
    assert np.array_equal(edit.stored[far], placed.scene.picture.stored[far])
    assert (edit.stored != placed.scene.picture.stored).any()
    # the same blend by another filter: 15 x 15, sigma 7
    line = np.exp(-((np.arange(15) - 7) ** 2) / (2 * 49))
    share = correlate(placed.hole.astype(float), np.outer(line, line) / line.sum() ** 2, mode="nearest")
    free = ~edit.occluder
    assert np.abs(edit.share - share)[free].max() < 1e-6
    assert edit.share[placed.hole].max() > 0.9 and (edit.share[far] == 0).all()


def test_picture_painted_with_itself_changes_one_level_at_most(placed: Placed) -> None:
    crop = CameraCrop(40, 10, D, D)
    same = replace(placed, camera_crop=crop)
    edit = composite_image(same, camera_pixels(placed.scene.rgb, crop, D), blur=7)
    assert np.abs(edit.stored.astype(int) - placed.scene.picture.stored).max() <= 1


def test_crop_border_does_not_bleed(placed: Placed) -> None:
    """A hole that touches the crop's border: beyond it the canvas is the picture, not black."""
    rows, columns = np.nonzero(placed.hole)
    crop = CameraCrop(int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    flat, camera = np.full_like(placed.scene.rgb, 200), placed.scene.camera
    calib = {"K": camera.intrinsics, "lidar_to_camera": camera.lidar_to_camera}
    scene = read_scene(flat, placed.scene.points, calib)
    edit = composite_image(replace(placed, scene=scene, camera_crop=crop), torch.full((3, D, D), 200 / 127.5 - 1), blur=7)
    assert np.abs(edit.rgb.astype(int) - 200).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [True, False])
def test_depth_and_channels_stay(placed: Placed, dtype: type, grey: bool) -> None:
    full = np.iinfo(dtype).max
    image = (placed.scene.rgb.astype(np.float64) / 255 * full).astype(dtype)
    image = image[..., 0] if grey else image
    camera = placed.scene.camera
    scene = read_scene(image, placed.scene.points, {"K": camera.intrinsics, "lidar_to_camera": camera.lidar_to_camera})
    edit = composite_image(replace(placed, scene=scene), torch.ones(3, D, D))
    assert edit.stored.dtype == dtype and edit.stored.shape == image.shape
    assert np.array_equal(edit.stored[edit.share == 0], image[edit.share == 0])
    assert edit.stored[edit.share > 0.99].min() > 0.9 * full


def test_pixels_of_points_agree_with_the_view_and_by_hand(placed: Placed) -> None:
    pixel = point_pixels(placed.scene.points, NUSCENES, "angle")
    index = placed.view.index.flatten().numpy()
    at = np.flatnonzero(index >= 0)
    assert np.array_equal(pixel[index[at]], at)
    some = np.random.default_rng(0).choice(len(pixel), 500, replace=False)
    assert np.array_equal(pixel[some], pixels_by_hand(placed.scene.points[some]))
    assert np.array_equal(point_pixels(placed.scene.points, NUSCENES, "ring") >= 0, pixel >= 0)


def noise(placed: Placed, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, D, D, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("z_test", [True, False])
def test_kept_points_first_and_untouched(placed: Placed, z_test: bool) -> None:
    source = placed.scene.points
    edit = composite_sweep(placed, noise(placed), z_test)
    n = len(edit.points) - edit.n_new
    pixel = pixels_by_hand(source)
    hit = np.isin(pixel, np.flatnonzero(edit.replaced)) | points_in_box(source, placed.box).numpy()
    assert edit.points[:n].tobytes() == source[~hit].tobytes()
    assert np.array_equal(edit.kept, ~hit)
    inside = points_in_box(edit.points, placed.box).numpy()
    assert not inside[:n].any() and inside[n:].any()
    assert np.isin(pixels_by_hand(edit.points[n:]), np.flatnonzero(edit.replaced)).all()


def test_original_prediction_gives_the_original_cloud(placed: Placed) -> None:
    edit = composite_sweep(placed, range_pixels(placed))
    source = placed.scene.points
    assert len(edit.points) == len(source) and edit.n_new >= 30
    gap, at = cKDTree(source[:, :3]).query(edit.points[:, :3])
    assert gap.max() <= 1e-4 and len(set(at)) == len(source)
    new = edit.points[-edit.n_new :]
    assert abs(new[:, 3].mean() - source[~edit.kept][:, 3].mean()) < 1
    assert np.array_equal(source[at][-edit.n_new :, 4], new[:, 4])


def test_empty_prediction_removes_the_object(placed: Placed) -> None:
    painted = range_pixels(placed)
    painted[0] = -1
    edit = composite_sweep(placed, painted)
    assert edit.n_new == 0 and not points_in_box(edit.points, placed.box).any()
    assert len(edit.points) == len(placed.scene.points) - points_in_box(placed.scene.points, placed.box).sum()


def test_background_takes_the_place_of_the_object(placed: Placed) -> None:
    """Predictions behind the box: each pixel that held a point of the object, and no other, returns from there."""
    painted = range_pixels(placed)
    painted[0] = 0.9
    edit = composite_sweep(placed, painted)
    inside = points_in_box(placed.scene.points, placed.box).numpy()
    held = np.unique(pixels_by_hand(placed.scene.points[inside]))
    assert np.array_equal(np.flatnonzero(edit.replaced), held) and edit.n_new == len(held)
    new, old = edit.points[-edit.n_new :], placed.scene.points[inside]
    assert np.linalg.norm(new[:, :3], axis=1).min() > np.linalg.norm(old[:, :3], axis=1).max()
    assert not edit.predicted.any() and not edit.hit.any()


def test_units_and_rings_of_new_points(placed: Placed) -> None:
    painted = torch.ones(2, D, D) * torch.tensor([0.0, 5.0])[:, None, None]  # beyond the map's range
    new = composite_sweep(placed, painted).points[-20:]
    assert new[:, 3].min() >= 0 and new[:, 3].max() <= 255
    assert set(new[:, 4]) <= set(range(32))
    near = composite_sweep(placed, -torch.ones(2, D, D) * torch.tensor([0.999, 0.0])[:, None, None])
    assert near.n_new == 0  # below 1.4 m: no return


@pytest.mark.parametrize("columns", [4, 6])
def test_other_row_lengths(placed: Placed, columns: int) -> None:
    source = placed.scene.points
    points = np.zeros((len(source), columns), np.float32)
    points[:, : min(columns, 5)] = source[:, :columns]
    points[:, 5:] = 7
    edit = composite_sweep(with_points(placed, points), range_pixels(placed))
    assert edit.points.shape[1] == columns and edit.n_new >= 30
    assert (edit.points[-edit.n_new :, 5:] == 0).all() and (edit.points[: -edit.n_new, 5:] == 7).all()


def test_points_that_the_view_does_not_hold_stay(placed: Placed) -> None:
    """NaN with a payload, the far and the near, and a point hidden behind another: bytes and order as they were."""
    rows = np.array([[np.nan, 1, 2, 3, 4], [0, 80, 1, 9, 20], [0.5, 0.5, 0, 300, 3], [1, np.inf, 0, 0, 0]], np.float32)
    rows[:1].view(np.uint32)[0, 0] = 0x7FC12345
    outside = placed.scene.points[~points_in_box(placed.scene.points, placed.box).numpy()][:1].copy()
    outside[:, :3] *= 1.01
    points = np.concatenate([rows, placed.scene.points, outside])
    edit = composite_sweep(with_points(placed, points), noise(placed))
    assert edit.kept[:4].all() and edit.points[:4].tobytes() == rows.tobytes()
    assert edit.kept[-1] and edit.points[len(edit.points) - edit.n_new - 1].tobytes() == outside.tobytes()


def test_far_points_behind_a_replaced_pixel_go(placed: Placed) -> None:
    """Beyond 54 m on a ray that now ends in the box."""
    inside = points_in_box(placed.scene.points, placed.box).numpy()
    far = placed.scene.points[inside][:3].copy()
    far[:, :3] *= 70 / np.linalg.norm(far[:, :3], axis=1, keepdims=True)
    edit = composite_sweep(with_points(placed, np.concatenate([placed.scene.points, far])), range_pixels(placed))
    assert not edit.kept[-3:].any()


def occluded_scene(placed: Placed) -> tuple[Placed, np.ndarray]:
    """Something half way to the box in the left half of its pixels, the box's own returns behind it still there."""
    pitch, yaw = placed.view.pitch.double(), placed.view.yaw.double()
    enter = box_span(pitch, yaw, placed.box)[0].numpy()
    column = np.arange(1096)
    middle = np.nonzero(np.isfinite(enter).any(0))[0].mean()
    where = np.isfinite(enter) & (column < middle)
    d, p, y = enter[where] / 2, pitch.numpy()[where], yaw.numpy()[where]
    wall = np.stack([d * np.cos(p) * np.cos(y), -d * np.cos(p) * np.sin(y), d * np.sin(p), 50 + 0 * d, 0 * d], 1)
    return with_points(placed, np.concatenate([wall.astype(np.float32), placed.scene.points])), where


def test_z_test_keeps_what_stands_in_front(placed: Placed) -> None:
    scene, where = occluded_scene(placed)
    middle = torch.zeros(2, D, D)  # every pixel in the middle of the box's depths
    on, off = composite_sweep(scene, middle, True), composite_sweep(scene, middle, False)
    walls = int(where.sum())
    assert walls > 20 and on.kept[:walls].all() and not on.replaced[where].any()
    assert on.replaced.any(), "the free half is still replaced"
    assert not off.kept[:walls].all() and off.replaced[where].any()
    for edit in (on, off):  # the old object goes either way
        n = len(edit.points) - edit.n_new
        assert not points_in_box(edit.points[:n], placed.box).any()
    # without the test a pixel counts also where its only point in the box is hidden
    behind = range_pixels(scene)
    behind[0] = 0.9
    held = np.unique(pixels_by_hand(scene.scene.points[points_in_box(scene.scene.points, scene.box).numpy()]))
    assert np.array_equal(np.flatnonzero(composite_sweep(scene, behind, False).replaced), held)
    kept = composite_image(scene, torch.ones(3, D, D), z_test=True)
    assert kept.occluder.sum() > 0.2 * placed.hole.sum() and (placed.hole & ~kept.occluder).any()
    assert np.array_equal(kept.rgb[kept.occluder], placed.scene.rgb[kept.occluder])
    open_ = composite_image(scene, torch.ones(3, D, D), z_test=False)
    assert not open_.occluder.any() and (open_.rgb[kept.occluder] != placed.scene.rgb[kept.occluder]).any()


def test_a_ray_that_keeps_its_return_is_no_hit(placed: Placed) -> None:
    """Something 0.3 m before the box: too near to it to be an occluder, but the returns stay, so none comes from the box."""
    pitch, yaw = placed.view.pitch.double(), placed.view.yaw.double()
    enter = box_span(pitch, yaw, placed.box)[0]
    meets = enter.isfinite()
    at = ((enter[meets] - 0.3)[:, None] * direction(pitch[meets], yaw[meets])).numpy()
    points = np.concatenate([at, np.zeros((len(at), 2))], 1).astype(np.float32)
    edit = finish("insert", with_points(placed, points), torch.ones(3, D, D), torch.zeros(2, D, D), 0, CompositeConfig())
    assert edit.sweep.kept.all() and edit.sweep.n_new == 0 and edit.sweep.aimed.sum() > 20
    assert edit.measures["in_box_share"] == 0 and any(flag.startswith("0 of ") for flag in edit.flags)


def test_behind_a_closed_wall_nothing_changes() -> None:
    """A wall at 6 m, a car's box at 15 m, the camera 0.3 m below the lidar and 0.8 m ahead of it; and both say so."""
    pitch, yaw = pixel_angles(NUSCENES, torch.zeros(1, dtype=torch.float64))
    rays = direction(pitch, yaw).numpy()
    rays = rays[rays[..., 1] > 0.2]
    points = np.concatenate([rays * 6 / rays[:, 1:2], np.full((len(rays), 2), 20.0)], 1).astype(np.float32)
    picture = np.random.default_rng(0).integers(0, 255, (450, 800, 3), np.uint8)
    to_camera = np.array([[1.0, 0, 0, 0], [0, 0, -1, -0.3], [0, 1, 0, -0.8], [0, 0, 0, 1]])
    calib = {"K": [[633, 0, 406], [0, 633, 244], [0, 0, 1]], "lidar_to_camera": to_camera}
    hidden = place(read_scene(picture, points, calib), to_box((1, 15, -1, 4.6, 1.9, 1.7, 0.4)), D)
    for z_test in (True, False):
        edit = finish("insert", hidden, torch.ones(3, D, D), torch.zeros(2, D, D), 0, CompositeConfig(z_test=z_test))
        assert (edit.sweep.n_new == 0) == edit.sweep.kept.all() == np.array_equal(edit.image.rgb, picture) == z_test
        for says in ("no ray of the sweep reaches the box", "100% of the hole lies behind something nearer"):
            assert any(says in flag for flag in edit.flags) == z_test


def depth_of_entry(box: Box3d, drive: Drive) -> np.ndarray:
    """Where the ray of each pixel enters the box, as depth along the optical axis; inf where it misses. By slabs."""
    view = drive.views[0]
    v, u = np.indices(view.depth.shape)
    back = np.linalg.inv(view.lidar_to_camera)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(view.K).T @ back[:3, :3].T
    c, s = np.cos(box.yaw), np.sin(box.yaw)
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    start, rays = turn @ (back[:3, 3] - box.centre), rays @ turn.T
    half = np.array([box.size[1], box.size[0], box.size[2]]) / 2
    one, two = (-half - start) / rays, (half - start) / rays
    enter, leave = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
    return np.where((enter <= leave) & (leave > 0), enter, np.inf)


def test_occluders_as_the_picture_shows_them() -> None:
    """Boxes 6 m behind drawn objects, against the drawn depth: the cells of a lidar are coarse, but little that stands before
    the box is painted over."""
    counts = np.zeros(4, int)
    for seed in (7000, 7001, 7002):
        drive = draw_scene(seed, size=(400, 225))[0]
        view = drive.views[0]
        scene = read_scene(view.image, drive.sweep, {"K": view.K, "lidar_to_camera": view.lidar_to_camera})
        for own in drive.boxes:
            away = float(np.hypot(*own.center[:2]))
            if not 5 < away < 30 or (view.ids == own.instance).sum() < 60:
                continue
            x, y = (v * (1 + 6 / away) for v in own.center[:2])
            try:
                behind = place(scene, to_box((x, y, own.center[2], *own.size, own.yaw)), D)
            except InputError:  # beyond the picture
                continue
            entry, kept = depth_of_entry(behind.box.scaled(1.1), drive), occluded(behind)
            hole = behind.hole & np.isfinite(entry)
            covered, free = hole & (view.depth < entry - OCCLUDER_GAP), hole & (view.depth > entry)
            counts += [(covered & ~kept).sum(), covered.sum(), (free & kept).sum(), free.sum()]
    assert counts[1] > 5000 and counts[3] > 500
    assert counts[0] < 0.1 * counts[1] and counts[2] < 0.25 * counts[3], counts


def test_pooling_first_is_the_better_order(placed: Placed) -> None:
    """Intensity 150 under noise of 0.1 (spec 2.10)."""
    true = normalise_intensity(torch.full((32, 64), 150.0))
    big = torch.stack([torch.zeros(512, 512), enlarge(true, 512)])
    noisy = big + 0.1 * torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
    error = {how: float((restored(placed, noisy, how)[1] - 150).abs().mean()) for how in ("before", "after")}
    assert error["before"] < 0.6 * error["after"]
    exact = restored(placed, big, "before"), restored(placed, big, "after")
    assert torch.allclose(exact[0][0], exact[1][0]) and float((exact[0][1] - 150).abs().max()) < 1e-2


def test_seam(placed: Placed) -> None:
    """The whole scene turned so that the box lies on the seam: the same edit, turned."""
    around = np.arctan2(placed.box.centre[1], placed.box.centre[0])
    k = round((np.pi - around) / (2 * np.pi) * 1096)
    angle = 2 * np.pi * k / 1096
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    points = placed.scene.points.copy()
    points[:, :3] = points[:, :3].astype(np.float64) @ turn.T
    box = replace(placed.box, centre=tuple(turn @ placed.box.centre), yaw=placed.box.yaw + angle)
    back = np.eye(4)
    back[:3, :3] = turn.T
    camera = replace(placed.scene.camera, lidar_to_camera=placed.scene.camera.lidar_to_camera @ back)
    scene: Scene = replace(placed.scene, points=points, camera=camera)
    turned = place(scene, box, D)
    columns = (turned.range_crop.left + np.arange(turned.range_crop.width)) % 1096
    assert {0, 1095} <= set(columns)
    a, b = (composite_sweep(p, range_pixels(p)) for p in (placed, turned))
    assert abs(a.n_new - b.n_new) <= 2 and b.n_new >= 30  # rounding moves points on a pixel's edge
    assert b.replaced[:, columns].sum() == b.replaced.sum() and not b.missed.any()
