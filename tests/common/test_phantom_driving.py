"""The world `driving`, judged by half-space vertices, implicit surfaces, ray marching, projection and plain statistics."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.spatial import HalfspaceIntersection

from graft_common.phantoms import _driving_lidar as lidar
from graft_common.phantoms import driving
from graft_common.phantoms._driving_cars import draw_car
from graft_common.phantoms._driving_places import HORIZON, KINDS, lay_out
from graft_common.phantoms._driving_solids import Ball, Hull
from graft_common.phantoms.driving import CAMERAS, Drive, draw_scene, intrinsics

SMALL = (160, 90)


@cache
def place(seed: int, kind: str):
    _, place_rng, _, _ = np.random.default_rng([driving.WORLD, seed]).spawn(4)
    return lay_out(place_rng, kind)


@cache
def scene(seed: int, kind: str = "lot", time: float = 0.0, without: tuple[int, ...] = ()) -> Drive:
    return draw_scene(seed, SMALL, (time,), night=False, rain=False, kind=kind, without=without)[0]


def holds(solids, at: np.ndarray) -> np.ndarray:
    """Whether points (..., 3) of the object's frame lie in any of its solids, from their definitions."""
    found = np.zeros(at.shape[:-1], bool)
    for solid in solids:
        if isinstance(solid, Hull):
            found |= (at @ solid.planes[:, :3].T <= solid.planes[:, 3]).all(axis=-1)
        else:
            found |= np.linalg.norm((at - solid.middle) @ solid.inverse.T, axis=-1) <= 1
    return found


def to_object(thing, time: float, at: np.ndarray) -> np.ndarray:
    """Points of the world in an object's frame."""
    c, s = np.cos(thing.yaw), np.sin(thing.yaw)
    return (at - np.array([*thing.at(time), 0])) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def lidar_pose(ego, time: float) -> np.ndarray:
    """Lidar -> world."""
    x, y, turn = ego.pose(time)
    pose = np.eye(4)
    pose[:2, :2], pose[:2, 3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], (x, y)
    return pose @ driving.LIDAR_TO_EGO


def in_box(box, points: np.ndarray, slack: float = 0.0) -> np.ndarray:
    c, s = np.cos(box.yaw), np.sin(box.yaw)
    own = (points - box.center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return (np.abs(own) <= np.array(box.size) / 2 + slack).all(axis=-1)


def ray_points(drive: Drive) -> np.ndarray:
    """(1085, 32, 3) true points of all rays, lidar frame."""
    a, p = drive.ray_angles[..., 0], drive.ray_angles[..., 1]
    unit = np.stack([np.cos(a) * np.cos(p), np.sin(a) * np.cos(p), np.sin(p)], axis=-1)
    with np.errstate(invalid="ignore"):
        return unit * drive.ray_depth[..., None]


def test_equal_arguments_give_equal_bytes_and_samples_stand_alone() -> None:
    first = draw_scene(3, SMALL, (0.0, 1.0))
    again, alone, other = draw_scene(3, SMALL, (0.0, 1.0)), draw_scene(3, SMALL, (1.0,))[0], draw_scene(4, SMALL)[0]
    for a, b in [*zip(first, again, strict=True), (first[1], alone)]:
        assert a.image.tobytes() == b.image.tobytes() and a.sweep.tobytes() == b.sweep.tobytes() and a.boxes == b.boxes
    assert (first[0].image != first[1].image).mean() > 0.5 and (first[0].image != other.image).mean() > 0.5
    assert [b.instance for b in first[0].boxes] == [b.instance for b in first[1].boxes]
    assert [(b.label, b.size) for b in first[0].boxes] == [(b.label, b.size) for b in first[1].boxes]


@pytest.mark.parametrize("kind", ["crossing", "lot"])
def test_solids_fill_their_boxes_exactly(kind: str) -> None:
    for thing in place(1, kind).things:
        if not thing.instance:
            continue
        lows, highs = [], []
        for time in np.linspace(0, 1.6, 12):
            for solid in thing.shape.solids(float(time)):
                if isinstance(solid, Hull):
                    planes = np.c_[solid.planes[:, :3], -solid.planes[:, 3]]
                    corners = HalfspaceIntersection(planes, _inner(solid)).intersections
                else:  # densely sampled sphere, mapped
                    turn = np.random.default_rng(0).standard_normal((1500, 3))
                    ball = turn / np.linalg.norm(turn, axis=1, keepdims=True)
                    corners = ball @ np.linalg.inv(solid.inverse).T + solid.middle
                lows.append(corners.min(axis=0))
                highs.append(corners.max(axis=0))
            if thing.label == "car":
                break
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        half = np.array(thing.size[:2]) / 2
        tight = 1e-6 if thing.label == "car" else 0.02
        if thing.state == "moving" and thing.label == "pedestrian":
            tight = 0.04  # a dozen looks may miss the longest step
        np.testing.assert_allclose(low, [*-half, 0], atol=tight)
        np.testing.assert_allclose(high, [*half, thing.size[2]], atol=tight)
        assert (low >= np.array([*-half, 0]) - 1e-3).all() and (high <= np.array([*half, thing.size[2]]) + 1e-3).all()


def _inner(solid: Hull) -> np.ndarray:
    """A point inside: the centre of the largest ball found by relaxation."""
    at = solid.outline.mean(axis=0)
    for _ in range(60):
        gaps = solid.planes[:, :3] @ at - solid.planes[:, 3]
        at = at - 0.02 * solid.planes[int(gaps.argmax()), :3]
    assert (solid.planes[:, :3] @ at - solid.planes[:, 3]).max() < 0
    return at


@pytest.mark.parametrize(("seed", "kind"), [(1, "lot"), (3, "crossing")])
def test_lidar_rays_end_where_marching_first_finds_an_object(seed: int, kind: str) -> None:
    drive, laid, step = scene(seed, kind), place(seed, kind), 0.01
    pose, rng, seen = lidar_pose(laid.ego, 0.0), np.random.default_rng(0), 0
    for thing in laid.things:
        if not thing.instance:
            continue
        cols, rings = np.nonzero(ndimage.binary_dilation(drive.ray_ids == thing.instance))
        if len(cols) < 40:
            continue
        pick = rng.permutation(len(cols))[:150]
        a, p = drive.ray_angles[cols[pick], rings[pick]].T
        unit = np.stack([np.cos(a) * np.cos(p), np.sin(a) * np.cos(p), np.sin(p)], axis=1) @ pose[:3, :3].T
        reach = np.linalg.norm(np.array(thing.at(0.0)) - pose[:2, 3])
        if reach > 20:
            continue
        ts = np.arange(max(reach - 4, 0.5), reach + 4, step)
        inside = holds(thing.shape.solids(0.0), to_object(thing, 0.0, pose[:3, 3] + ts[:, None, None] * unit))
        found, first = inside.any(axis=0), ts[inside.argmax(axis=0)]
        depth, mine = drive.ray_depth[cols[pick], rings[pick]], drive.ray_ids[cols[pick], rings[pick]] == thing.instance
        # a ray that marching says hits ends there, unless something stands before it; no ray is claimed without cause
        assert (mine & ~found).mean() < 0.04
        hidden = found & ~mine
        assert (depth[hidden] < first[hidden] + 0.05).all()
        late = (first - depth)[found & mine]
        assert late.min() > -step and np.quantile(late, 0.95) < 1.5 * step
        seen += int((found & mine).sum())
    assert seen > 300


def test_silhouettes_match_marched_pixel_rays() -> None:
    drive, laid, view = scene(1), place(1, "lot"), scene(1).views[0]
    pose = lidar_pose(laid.ego, 0.0) @ np.linalg.inv(view.lidar_to_camera)
    seen = 0
    for box in drive.boxes:
        thing = next(t for t in laid.things if t.instance == box.instance)
        whole = view.silhouette(box.instance, whole=True)
        if whole.sum() < 40:
            continue
        grown = np.argwhere(ndimage.binary_dilation(whole, iterations=2))
        rows, cols = grown[np.random.default_rng(0).permutation(len(grown))[:300]].T
        rays = np.stack(
            [(cols - view.K[0, 2]) / view.K[0, 0], (rows - view.K[1, 2]) / view.K[1, 1], np.ones(len(rows))], axis=1
        )
        rays = rays @ pose[:3, :3].T
        middle = (view.lidar_to_camera @ np.array([*box.center, 1]))[2]
        ts = np.arange(max(middle - 4, 0.3), middle + 4, 0.015)
        found = holds(thing.shape.solids(0.0), to_object(thing, 0.0, pose[:3, 3] + ts[:, None, None] * rays)).any(
            axis=0
        )
        inner = ndimage.binary_erosion(whole)[rows, cols]
        outer = ~ndimage.binary_dilation(whole)[rows, cols]
        assert found[inner].mean() > 0.9 if inner.any() else True
        assert not found[outer].any()
        assert (found == whole[rows, cols]).mean() > 0.85  # one ray against four, at edges only
        seen += 1
    assert seen >= 4


def test_visible_parts_lie_in_whole_silhouettes_and_hidden_ones_behind_something_nearer() -> None:
    checked = 0
    for seed, kind in ((1, "lot"), (3, "crossing"), (2, "street")):
        view = scene(seed, kind).views[0]
        assert set(np.unique(view.ids)) - {0} <= set(view.footprints)
        for instance in view.footprints:
            seen, whole = view.silhouette(instance), view.silhouette(instance, whole=True)
            assert not (seen & ~whole).any()
            hidden = ndimage.binary_erosion(whole) & ~seen
            if hidden.any() and seen.sum() > 20:
                assert np.median(view.depth[hidden]) < np.median(view.depth[seen])
                checked += 1
    assert checked >= 2


def test_every_hit_lies_in_its_box_and_boxes_cover_what_was_hit() -> None:
    for seed, kind in ((1, "lot"), (3, "crossing"), (2, "street")):
        drive = scene(seed, kind, 0.5)
        points = ray_points(drive)
        for box in drive.boxes:
            mine = drive.ray_ids == box.instance
            assert in_box(box, points[mine], slack=2e-3).all()
            if mine.sum() > 30:
                assert (
                    in_box(replace(box, yaw=box.yaw + np.pi / 2), points[mine]).mean() < 0.999
                    or box.label == "pedestrian"
                )
        assert (drive.sweep_ids == drive.ray_ids.ravel()[drive.ray]).all()


def test_headings_move_objects_forward_in_the_global_frame() -> None:
    first, later = draw_scene(2, SMALL, (0.0, 1.0), (), kind="street")
    moving = 0
    for box in first.boxes:
        places = []
        for drive in (first, later):
            to_global = drive.ego_to_global @ drive.lidar_to_ego
            b = drive.box(box.instance)
            places.append((to_global @ np.array([*b.center, 1]))[:3])
            forward = to_global[:3, :3] @ np.array([np.cos(b.yaw), np.sin(b.yaw), 0])
        step = places[1] - places[0]
        if box.state == "moving":
            np.testing.assert_allclose(step / np.linalg.norm(step), forward, atol=1e-9)
            moving += 1
        else:
            np.testing.assert_allclose(step, 0, atol=1e-9)
        assert -np.pi < box.yaw <= np.pi
    assert moving >= 2


def test_empty_twin_differs_only_where_the_object_or_its_shadow_was() -> None:
    for kind, seed in (("lot", 1), ("crossing", 3)):
        full, laid = scene(seed, kind), place(seed, kind)
        view, pose = full.views[0], lidar_pose(laid.ego, 0.0) @ np.linalg.inv(full.lidar_to_camera)
        sizes = Counter({i: int(view.silhouette(i).sum()) for i in view.footprints})
        (instance, area), *_ = sizes.most_common(1)
        assert area > 60
        twin = scene(seed, kind, 0.0, (instance,))
        changed = (full.image != twin.image).any(axis=2)
        outside = changed & ~ndimage.binary_dilation(view.silhouette(instance), np.ones((3, 3)))
        # what changed outside is ground within reach of the shadow: at most 2.5 heights away (the sun stands above 32 degrees)
        thing = next(t for t in laid.things if t.instance == instance)
        rows, cols = np.nonzero(outside)
        rays = np.stack(
            [(cols - view.K[0, 2]) / view.K[0, 0], (rows - view.K[1, 2]) / view.K[1, 1], np.ones(len(rows))], axis=1
        )
        at = pose[:3, 3] + rays @ pose[:3, :3].T * view.depth[rows, cols][:, None]
        reach = np.hypot(*thing.size[:2]) / 2 + 1.7 * thing.size[2] + 0.6
        ground = np.abs(at[:, 2]) < 0.1
        edge = ~ground  # pixels of another object that share an edge with the ground that changed
        assert edge.mean() < 0.1 if len(edge) else True
        assert (np.hypot(*(at[ground, :2] - thing.at(0.0)).T) < reach).all()
        assert changed[view.silhouette(instance)].mean() > 0.9
        assert instance not in twin.views[0].footprints and instance not in {b.instance for b in twin.boxes}
        assert [b for b in full.boxes if b.instance != instance] == list(twin.boxes)

        untouched = full.ray_ids != instance
        assert (~untouched).sum() > 0
        np.testing.assert_array_equal(full.ray_depth[untouched], twin.ray_depth[untouched])
        assert (twin.ray_depth[~untouched] > full.ray_depth[~untouched]).all()
        keep_a, keep_b = untouched.ravel()[full.ray], untouched.ravel()[twin.ray]
        assert full.sweep[keep_a].tobytes() == twin.sweep[keep_b].tobytes()


def test_sweep_is_a_sweep_of_the_sensor() -> None:
    slips, losses = [], []
    for seed in range(4):
        for rain in (False, True):
            drive = draw_scene(seed, times=(0.0,), cameras=(), rain=rain)[0]
            sweep, true = drive.sweep, drive.ray_depth.ravel()
            assert sweep.dtype == np.float32 and 20_000 < len(sweep) <= 1085 * 32
            assert set(np.unique(sweep[:, 4])) <= set(range(32)) and (np.diff(drive.ray) > 0).all()
            assert (sweep[:, 4] == drive.ray % 32).all()
            assert (sweep[:, 3] == np.rint(sweep[:, 3])).all() and sweep[:, 3].min() >= 0 and sweep[:, 3].max() <= 255
            distance = np.linalg.norm(sweep[:, :3].astype(np.float64), axis=1)
            pitch = np.arcsin(sweep[:, 2] / distance)
            np.testing.assert_allclose(pitch, 0.0232 * (sweep[:, 4] - 23), atol=1e-5)
            azimuth = np.arctan2(sweep[:, 1], sweep[:, 0])
            np.testing.assert_allclose(np.cos(azimuth - drive.ray_angles[..., 0].ravel()[drive.ray]), 1, atol=1e-9)
            slips.append(distance - true[drive.ray])
            expected = np.isfinite(true) & (true > lidar.CLOSEST + 0.1) & (true < lidar.FARTHEST - 0.1)
            lost = 1 - np.isin(np.flatnonzero(expected), drive.ray).mean()
            assert 0.018 < lost < 0.052
            losses.append((rain, lost))
            assert np.isfinite(true[drive.ray]).all()
    slip = np.concatenate(slips)
    assert stats.kstest(slip[::40], "norm", args=(0, 0.02)).pvalue > 1e-3
    assert np.mean([v for r, v in losses if r]) > np.mean([v for r, v in losses if not r]) + 0.01


def test_the_sky_gives_nothing_back_and_walls_do() -> None:
    for seed, kind in ((1, "lot"), (2, "street")):
        drive, laid = scene(seed, kind), place(seed, kind)
        pose = lidar_pose(laid.ego, 0.0)
        up = (drive.ray_angles[..., 1] > 0.01) & (drive.ray_ids == 0)
        a, p = drive.ray_angles[up].T
        unit = np.stack([np.cos(a) * np.cos(p), np.sin(a) * np.cos(p), np.sin(p)], axis=1) @ pose[:3, :3].T
        depth = drive.ray_depth[up]

        def in_house(at: np.ndarray, slack: float, laid=laid) -> np.ndarray:
            inside = np.zeros(at.shape[:-1], bool)
            for house in laid.houses:
                low, high = np.array([*house.low, -1]) - slack, np.array([*house.high, house.height]) + slack
                inside |= ((at > low) & (at < high)).all(axis=-1)
            return inside

        lost = ~np.isfinite(depth)
        assert 0.05 < lost.mean() < 0.95
        march = pose[:3, 3] + np.arange(1, lidar.FARTHEST, 0.25)[:, None, None] * unit[lost]
        assert not in_house(march, -0.02).any()  # what gave no return passes no house within reach
        ends = pose[:3, 3] + depth[~lost, None] * unit[~lost]
        green = np.array([t.place for t in laid.things if not t.instance])
        at_green = (np.linalg.norm(ends[:, None, :2] - green, axis=2) < 4).any(axis=1)
        assert (in_house(ends, 0.02) | at_green).all()


def test_intensity_depends_on_material_and_incidence() -> None:
    drives = [scene(s, k) for s, k in ((1, "lot"), (3, "crossing"), (2, "street"), (5, "street"))]
    ground, cars, low, high = [], [], [], []
    for drive in drives:
        where = drive.sweep_ids == 0
        flat = where & (np.abs(drive.sweep[:, 2] + 1.84) < 0.08)
        far = np.linalg.norm(drive.sweep[:, :2], axis=1)
        high.append(drive.sweep[flat & (far < 5), 3])
        low.append(drive.sweep[flat & (far > 20) & (far < 40), 3])
        ground.append(drive.sweep[flat, 3])
        labels = {b.instance for b in drive.boxes if b.label == "car"}
        cars.append(drive.sweep[np.isin(drive.sweep_ids, list(labels)), 3])
    assert np.median(np.concatenate(cars)) > 1.5 * np.median(np.concatenate(ground))
    assert np.median(np.concatenate(high)) > 1.2 * np.median(np.concatenate(low))  # steep beams return more
    assert np.concatenate(cars).max() > 120  # plates and lamps


def test_lidar_and_camera_agree_through_both_ego_poses_only() -> None:
    good, bad = [], []
    for seed in (1, 2, 5):
        drive = draw_scene(seed, (400, 225), kind="street", night=False, rain=False)[0]
        view = drive.views[0]
        shared = np.linalg.inv(view.camera_to_ego) @ drive.lidar_to_ego  # as if the car had not moved
        for matrix, out in ((view.lidar_to_camera, good), (shared, bad)):
            points = ray_points(drive)[np.isin(drive.ray_ids, [b.instance for b in drive.boxes])]
            ids = drive.ray_ids[np.isin(drive.ray_ids, [b.instance for b in drive.boxes])]
            at = points @ matrix[:3, :3].T + matrix[:3, 3]
            u, v, _ = (at / at[:, 2:] @ view.K.T).T
            col, row = np.rint(u).astype(int), np.rint(v).astype(int)
            ok = (at[:, 2] > 1) & (col >= 2) & (col < 398) & (row >= 2) & (row < 223)
            depth = view.depth[row[ok], col[ok]]
            same = (view.ids[row[ok], col[ok]] == ids[ok]) & (np.abs(depth - at[ok, 2]) < 0.1 + 0.02 * depth)
            hidden = depth < at[ok, 2] - 0.5  # seen from the roof, not from the windscreen
            out.append(same[~hidden].mean())
    assert min(good) > 0.9
    assert np.mean(bad) < np.mean(good) - 0.03


def test_picture_scales_with_its_size_and_k_with_it() -> None:
    for camera in CAMERAS.values():
        K, half = intrinsics(camera, (1600, 900)), intrinsics(camera, (800, 450))
        point = np.array([0.31, -0.12, 1.0])
        full_at, half_at = (K @ point)[:2], (half @ point)[:2]
        np.testing.assert_allclose(half_at, (full_at - 0.5) / 2, atol=1e-9)  # centre of 2 x 2 pixels
    small = draw_scene(1, SMALL, kind="lot", night=False, rain=False)[0]
    large = draw_scene(1, (320, 180), kind="lot", night=False, rain=False)[0]
    pooled = large.image.reshape(90, 2, 160, 2, 3).mean(axis=(1, 3))
    assert np.abs(pooled - small.image).mean() < 6
    for instance, part in small.views[0].footprints.items():
        area = float(part.mask.sum())
        if area > 100:
            assert large.views[0].footprints[instance].mask.sum() / 4 == pytest.approx(area, rel=0.06)
    assert small.sweep.tobytes() == large.sweep.tobytes()


def test_cameras_look_where_they_should() -> None:
    forward = {c: CAMERAS[c].to_ego[:3, 2] for c in CAMERAS}
    assert forward["CAM_FRONT"][0] > 0.99 and forward["CAM_BACK"][0] < -0.99
    assert forward["CAM_FRONT_LEFT"][1] > 0.7 and forward["CAM_FRONT_RIGHT"][1] < -0.7
    for camera in CAMERAS.values():
        turn = camera.to_ego[:3, :3]
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1) and turn[2, 1] < -0.99  # y points down
    drive = draw_scene(1, SMALL, cameras=("CAM_BACK", "CAM_FRONT"), kind="lot")[0]
    assert [v.channel for v in drive.views] == ["CAM_BACK", "CAM_FRONT"]
    for view in drive.views:
        expected = np.linalg.inv(view.ego_to_global @ view.camera_to_ego) @ drive.ego_to_global @ drive.lidar_to_ego
        np.testing.assert_allclose(view.lidar_to_camera, expected, atol=1e-9)
        for box in drive.boxes:
            behind = (view.lidar_to_camera @ np.array([*box.center, 1]))[2] < -3
            assert not (behind and box.instance in view.footprints)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_collides(kind: str) -> None:
    for seed in range(2):
        laid = place(seed, kind)
        things = [t for t in laid.things if t.instance]
        for time in (0.0, 2.6, HORIZON):
            grids = {t.instance: _footprint(t.at(time), t.yaw, t.size) for t in things}
            x, y, turn = laid.ego.pose(time)
            ego = _footprint((x + 1.4 * np.cos(turn), y + 1.4 * np.sin(turn)), turn, (4.1, 1.75))
            for thing in things:
                c, s = np.cos(thing.yaw), np.sin(thing.yaw)
                for other, points in [*grids.items(), (0, ego)]:
                    if other == thing.instance:
                        continue
                    own = (points - thing.at(time)) @ np.array([[c, -s], [s, c]])
                    assert not (np.abs(own) < np.array(thing.size[:2]) / 2).all(axis=1).any()
                for house in laid.houses:
                    inside = (grids[thing.instance] > house.low) & (grids[thing.instance] < house.high)
                    assert not inside.all(axis=1).any()


def _footprint(place, yaw: float, size) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 25) * size[0], np.linspace(-0.5, 0.5, 13) * size[1])
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([c * x.ravel() - s * y.ravel(), s * x.ravel() + c * y.ravel()], axis=1) + place


def test_fronts_and_backs_of_cars_can_be_told_apart() -> None:
    """Rays along the car's axis: red lamps and a yellow plate behind, white lamps and a white plate in front."""
    y, z = (v.ravel() for v in np.meshgrid(np.linspace(-1, 1, 81), np.linspace(0.05, 2, 81)))
    for seed in range(12):
        car = replace(draw_car(np.random.default_rng(seed), lit=True), paint=(0.3, 0.3, 0.3))
        shares = {}
        for side in (1, -1):
            body = car.solids(0.0)[0]
            origin = np.array([400.0 * side, 0, 0.8])  # far away: nearly parallel rays
            rays = np.stack([np.full(y.size, -400.0 * side), y, z - 0.8], axis=1).astype(np.float32)
            depth, face = body.meet(origin, rays)
            hit = np.isfinite(depth)
            at = origin + depth[hit, None] * rays[hit]
            paint = car.surface(body, at, body.normals(at, face[hit]), True)
            r, g, b = paint.albedo.T
            red, white, yellow = (r > 4 * g) & (r > 0.3), np.minimum(np.minimum(r, g), b) > 0.7, (r > 4 * b) & (g > 0.4)
            shares[side] = [float(v.mean()) for v in (red, white, yellow)]
            glow = paint.emit.sum(axis=0)
            assert glow[0] > 5 * glow[1] if side < 0 else glow[1] > 0.8 * glow[0] > 0
        assert shares[1][0] == 0 and shares[1][1] > 0.03 and shares[1][2] == 0
        assert shares[-1][0] > 0.02 and shares[-1][1] < 0.02 and shares[-1][2] > 0.008


def test_night_is_darker_and_rain_duller() -> None:
    for seed in (1, 2):
        day, night, rain = (
            draw_scene(seed, SMALL, night=n, rain=r, kind="street")[0]
            for n, r in ((False, False), (True, False), (False, True))
        )
        assert night.image.mean() < 0.5 * day.image.mean()
        assert rain.image[45:].std() < day.image[45:].std()
        np.testing.assert_array_equal(day.views[0].ids, night.views[0].ids)
        np.testing.assert_array_equal(day.ray_ids, rain.ray_ids)
        assert (night.night, night.rain, rain.rain) == (True, False, True)


def test_kinds_and_flags_are_drawn_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, one, laid = [], scene(1), place(1, "lot")
    monkeypatch.setattr(driving, "lay_out", lambda rng, kind: seen.append(kind) or laid)
    monkeypatch.setattr(driving, "_sample", lambda *given: seen.append((given[4].night, given[-1])) or one)
    for seed in range(300):
        draw_scene(seed)
    kinds, flags = Counter(seen[::2]), seen[1::2]
    assert stats.chisquare([kinds[k] for k in KINDS]).pvalue > 1e-3
    for count in (sum(night for night, _ in flags), sum(rain for _, rain in flags)):
        assert stats.binomtest(count, 300, 0.2).pvalue > 1e-3


def test_car_parks_hold_cars_at_every_heading_and_instances_are_numbered() -> None:
    laid = [place(seed, "lot") for seed in range(8)] + [place(0, "street"), place(0, "crossing")]
    yaws = [t.yaw for p in laid[:8] for t in p.things if t.label == "car"]
    assert len(yaws) > 40 and stats.kstest(np.mod(yaws, 2 * np.pi) / (2 * np.pi), "uniform").pvalue > 1e-3
    for one in laid:
        labels = Counter(t.label for t in one.things)
        assert labels["car"] >= 3 and labels["pedestrian"] >= 1
        assert [t.instance for t in one.things if t.instance] == list(
            range(1, labels["car"] + labels["pedestrian"] + 1)
        )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"size": (20, 90)}, "at least 32"),
        ({"times": (-0.1,)}, "time is -0.1"),
        ({"times": (4.5,)}, "time is 4.5"),
        ({"cameras": ("CAM_TOP",)}, "CAM_TOP"),
        ({"kind": "beach"}, "beach"),
        ({"without": (99,)}, "99"),
        ({"without": (0,)}, "without names"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        draw_scene(**({"seed": 0, "size": SMALL} | wrong))


def test_ellipsoids_and_hulls_move_with_their_outline() -> None:
    for thing in place(3, "crossing").things[:3]:
        for solid in thing.shape.solids(0.3):
            points = solid.outline
            low, high = points.min(axis=0), points.max(axis=0)
            inner = np.random.default_rng(0).uniform(low - 0.3, high + 0.3, (4000, 3))
            inside = inner[holds([solid], inner)]
            assert ((inside >= low - 1e-9) & (inside <= high + 1e-9)).all()
            if isinstance(solid, Ball):
                moved = solid.moved(np.array([1.0, 2, 3]))
                np.testing.assert_allclose(moved.extent() - solid.extent(), np.tile([1.0, 2, 3], (2, 1)))
