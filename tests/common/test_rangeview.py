"""Projection and back (mobi spec section 8, properties 1 to 6), against loops in float64 and points of known pixels."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_common.errors import InputError
from graft_common.rangeview import (
    HDL_64E,
    NUSCENES,
    OS1_128,
    PANDAR64,
    Sensor,
    grid_points,
    has_return,
    metres,
    pixel_angles,
    project,
    project_batch,
    sensor_from_degrees,
    unproject,
    unproject_batch,
)

SENSORS = [NUSCENES, OS1_128, HDL_64E, PANDAR64]


def spherical(d, pitch, yaw):
    """x, y, z in float64; yaw clockwise."""
    d, pitch, yaw = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (d, pitch, yaw)))
    return np.stack([d * np.cos(pitch) * np.cos(yaw), -d * np.cos(pitch) * np.sin(yaw), d * np.sin(pitch)], -1)


def cell(sensor, row, column, across=0.0, up=0.0):
    """Pitch and yaw in a pixel's cell: `across` and `up` in (-0.5, 0.5) of its size, from its middle."""
    e = np.asarray(sensor.elevation)
    row, up = np.asarray(row), np.asarray(up, np.float64)
    other = np.clip(row - np.where(up >= 0, 1, -1), 0, sensor.rows - 1)
    pitch = e[row] + np.abs(up) * (e[other] - e[row])
    yaw = math.pi * (2 * (np.asarray(column) + 0.5 + across) / sensor.columns - 1) + np.asarray(sensor.azimuth)[row]
    return pitch, yaw


def sweep(sensor, n, seed, dtype=np.float64):
    """Points in known pixels: (n, 5) with ring, and their rows and columns."""
    random = np.random.default_rng(seed)
    row, column = random.integers(0, sensor.rows, n), random.integers(0, sensor.columns, n)
    pitch, yaw = cell(sensor, row, column, random.uniform(-0.45, 0.45, n), random.uniform(-0.45, 0.45, n))
    xyz = spherical(random.uniform(1.45, 53.9, n), pitch, yaw)
    rest = [random.integers(0, 256, n), np.asarray(sensor.rings)[row]]
    return np.column_stack([xyz, *rest]).astype(dtype), row, column


def judge(points, row, column, sensor):
    """index by a loop: the closest wins, then the first."""
    index = np.full((sensor.rows, sensor.columns), -1)
    best = {}
    for k, (x, y, z, *_) in enumerate(points):
        d = math.sqrt(x * x + y * y + z * z)
        if d < best.get((row[k], column[k]), math.inf):
            best[row[k], column[k]] = d
            index[row[k], column[k]] = k
    return index


@pytest.mark.parametrize("sensor", SENSORS, ids=lambda s: s.name)
@pytest.mark.parametrize("rows", ["angle", "ring"])
def test_every_point_lands_in_its_own_pixel_and_the_closest_wins(sensor, rows):
    points, row, column = sweep(sensor, 30000, seed=1)
    view = project(points, sensor, rows)
    want = judge(points, row, column, sensor)
    assert np.array_equal(view.index.numpy(), want)
    full, pick = want >= 0, points[want[want >= 0]]
    d = np.linalg.norm(pick[:, :3], axis=1)
    assert np.abs(view.depth.numpy()[full] - (2 * d / 54 - 1)).max() < 1e-12
    assert np.array_equal(view.intensity.numpy()[full], pick[:, 3])
    assert np.abs(view.pitch.numpy()[full] - np.arcsin(pick[:, 2] / d)).max() < 1e-12
    assert np.abs(view.yaw.numpy()[full] + np.arctan2(pick[:, 1], pick[:, 0])).max() < 1e-12
    assert int(view.n_clamped) == int(view.n_nan) == int(view.n_out_of_range) == 0


@pytest.mark.parametrize("dtype,limit", [(np.float32, 1e-4), (np.float64, 1e-9)])
@pytest.mark.parametrize("sensor", SENSORS, ids=lambda s: s.name)
def test_property_1_round_trip(sensor, dtype, limit):
    points, row, column = sweep(sensor, 20000, seed=2, dtype=dtype)
    alone = np.unique(row * sensor.columns + column, return_index=True)[1]
    points, row = points[alone], row[alone]
    view = project(points, sensor)
    back = unproject(view, sensor).numpy()
    assert back.dtype == dtype and len(back) == len(points)
    at = has_return(view, sensor)
    order = view.index[at].numpy()
    assert np.abs(back[:, :3] - points[order, :3]).max() <= limit
    assert np.array_equal(back[:, 3], points[order, 3])
    rings = np.asarray(sensor.rings)[at.nonzero()[:, 0].numpy()]
    assert np.array_equal(rings, points[order, 4])


def test_property_1_at_the_limits_and_over_a_full_sweep():
    turn, pitch = np.meshgrid(np.linspace(-np.pi, np.pi, 1085, endpoint=False) + 1e-3, NUSCENES.elevation)
    d = np.random.default_rng(0).uniform(1.4, 54, turn.size)
    d[:4] = np.nextafter(np.float32(1.4), 2), 1.4001, 53.9999, np.nextafter(np.float32(54), 0)
    points = np.column_stack([spherical(d, pitch.ravel(), turn.ravel()), np.zeros(turn.size)]).astype(np.float32)
    view = project(points, NUSCENES)
    kept = int((view.index >= 0).sum())
    assert kept > 0.988 * 32 * 1096  # the specification's 99.0 % of all pixels
    back = unproject(view, NUSCENES)
    assert len(back) == kept
    error = (back[:, :3] - torch.from_numpy(points)[view.index[view.index >= 0], :3]).abs().max()
    assert error < 2e-5


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_property_2_any_order_gives_the_same_winner(data):
    sensor = NUSCENES
    places = data.draw(st.lists(st.tuples(st.integers(0, 31), st.integers(0, 1095)), min_size=1, max_size=3))
    picks = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(places),
                st.floats(-0.45, 0.45),
                st.floats(-0.45, 0.45),
                st.sampled_from([2.0, 2.01, 17.5, 50.0]),
            ),
            min_size=1,
            max_size=12,
        )
    )
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    # a pixel's points at one nominal distance are made copies, so that they tie to the bit
    first: dict = {}
    for (row, column), across, up, d in picks:
        first.setdefault((row, column, d), spherical(d, *cell(sensor, row, column, across, up)))
    xyz = np.array([first[(*place, d)] for place, _, _, d in picks])
    points = np.column_stack([xyz, np.arange(len(picks))]).astype(dtype)
    order = np.array(data.draw(st.permutations(range(len(picks)))))
    view = project(points[order], sensor)
    for place in {p for p, *_ in picks}:
        near = min(d for p, _, _, d in picks if p == place)
        winner = next(k for k, j in enumerate(order) if picks[j][0] == place and picks[j][3] == near)
        assert int(view.index[place]) == winner
        assert float(view.intensity[place]) == order[winner]
    plain = project(points, sensor)
    for name in ("depth", "pitch", "yaw"):
        assert torch.equal(getattr(view, name), getattr(plain, name))


def test_property_2_equal_depths_in_different_directions_go_to_the_smaller_index():
    sensor = replace(NUSCENES, columns=1004)  # a column's middle, not its edge, at 45 degrees
    pair = np.array([[10, 10.001, 1, 7], [10.001, 10, 1, 9]], np.float32)
    for order in itertools.permutations(range(2)):
        view = project(pair[list(order)], sensor)
        full = view.index >= 0
        assert full.sum() == 1 and int(view.index[full]) == 0
        assert float(view.intensity[full]) == pair[order[0], 3]


def test_property_3_empty_pixels():
    view = project(np.array([[10, 0, 0, 200.0]]), NUSCENES)
    empty = view.index < 0
    assert empty.sum() == 32 * 1096 - 1
    assert (view.depth[empty] == -1).all() and (view.intensity[empty] == 0).all()
    assert (metres(view.depth, NUSCENES)[empty] == 0).all()
    assert unproject(view, NUSCENES).shape == (1, 4)
    none = project(torch.zeros(0, 4), NUSCENES)
    assert (none.index == -1).all() and unproject(none, NUSCENES).shape == (0, 4)
    for a, b in ((none.pitch, view.pitch), (none.yaw, view.yaw)):
        assert (a - b)[empty].abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sensor", SENSORS, ids=lambda s: s.name)
@pytest.mark.parametrize("d", [1.5, 10, 53.9])
def test_property_4_pixel_centres_come_home(sensor, dtype, d):
    pitch, yaw = pixel_angles(sensor, torch.zeros(1, dtype=dtype))
    e = torch.tensor(sensor.elevation, dtype=dtype)
    assert (pitch - e[:, None]).abs().max() == 0 and yaw.abs().max() <= math.pi + 1e-6
    view = project(torch.zeros(0, 4, dtype=dtype), sensor)
    view = replace(view, depth=torch.full_like(view.depth, 2 * d / 54 - 1))
    points = grid_points(view, sensor).flatten(0, 1)
    again = project(torch.cat([points, torch.zeros(len(points), 1, dtype=dtype)], 1), sensor)
    assert torch.equal(again.index.flatten(), torch.arange(len(points)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_property_5_limits_and_field_of_view(dtype):
    view = project(np.array([[1.4, 0, 0, 1], [0, 54, 0, 1], [-1.401, 0, 0, 2], [0, -53.999, 0, 3]], dtype), NUSCENES)
    assert sorted(view.intensity[view.index >= 0].tolist()) == [2, 3]
    assert int(view.n_out_of_range) == 2 and int(view.n_nan) == 0
    view = project(np.array([[1, 0, 20, 1], [1, 0.1, -20, 2], [10, 0, 0, 3]], dtype), NUSCENES)
    assert view.index[0].max() == 0 and view.index[31].max() == 1 and int(view.n_clamped) == 2
    ends = [
        e + s * 0.0232 * t for t in (0.49, 0.51) for e, s in ((NUSCENES.elevation[0], 1), (NUSCENES.elevation[-1], -1))
    ]
    for pitch, clamped in zip(ends, (0, 0, 1, 1), strict=True):
        points = np.append(spherical(9, pitch, 0.3), 1)[None].astype(dtype)
        assert int(project(points, NUSCENES).n_clamped) == clamped


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_property_6_columns_of_the_axes(dtype):
    xy = {548: (10, 0.0), 274: (0.0, 10), 822: (0.0, -10), 1095: (-10, -0.0), 0: (-10, 0.0)}
    for column, (x, y) in xy.items():
        view = project(np.array([[x, y, 0, 1]], dtype), NUSCENES)
        assert (view.index >= 0).nonzero().tolist() == [[8, column]]
    assert [NUSCENES.column_of(s) for s in ("right", "forward", "back", "left")] == [548, 274, 822, 0]
    assert [OS1_128.column_of(s) for s in ("forward", "left", "back", "right")] == [512, 256, 0, 768]


def test_rows_follow_the_formula_and_round_half_to_even():
    for k in range(32):
        assert NUSCENES.elevation[31 - k] == pytest.approx(0.0232 * (k - 23), abs=1e-15)
        assert NUSCENES.rings[31 - k] == k
    theta = np.array(NUSCENES.elevation[::-1])
    pitch = np.random.default_rng(3).uniform(-0.6, 0.3, 5000)
    p = np.clip(31 * (pitch - theta[0]) / (theta[31] - theta[0]), 0, 31)
    points = np.column_stack([spherical(20, pitch, np.linspace(-3, 3, 5000)), np.ones(5000)])
    view = project(points, NUSCENES)
    row = np.full(5000, -1)
    at = (view.index >= 0).nonzero().numpy()
    row[view.index.numpy()[at[:, 0], at[:, 1]]] = at[:, 0]
    won = row >= 0
    assert won.sum() > 4400 and np.array_equal(row[won], (31 - np.rint(p)).astype(int)[won])
    # two beams at +-45 degrees around the horizon: the middle is 0.5, which rounds to the lower one
    two = Sensor("two", (math.pi / 4, -math.pi / 4), (0.0, 0.0), (1, 0), 16)
    assert (project(np.array([[5, 0, 0, 1.0]]), two).index >= 0).nonzero().tolist() == [[1, 8]]


def test_bad_rows_are_ignored_and_counted():
    points = sweep(NUSCENES, 500, seed=4)[0]
    bad = np.array(
        [[np.nan, 1, 1, 1, 0], [1, np.inf, 1, 1, 0], [5, 5, 0, np.nan, 0], [0, 0, 0, 1, 0], [1e30, 0, 0, 1, 0]]
    )
    mixed = np.concatenate([bad, points]).astype(np.float32)
    view, clean = project(mixed, NUSCENES), project(points.astype(np.float32), NUSCENES)
    assert int(view.n_nan) == 3 and int(view.n_out_of_range) == 2 and int(view.n_clamped) == 0
    assert torch.equal(view.index, torch.where(clean.index < 0, -1, clean.index + 5))
    for name in ("depth", "intensity", "pitch", "yaw"):
        assert torch.equal(getattr(view, name), getattr(clean, name))
    nothing = project(np.full((3, 4), np.nan), NUSCENES)
    assert (nothing.index == -1).all() and int(nothing.n_nan) == 3


@pytest.mark.parametrize("kind", ["list", "tensor"])
def test_a_batch_is_its_sweeps(kind):
    sizes = [300, 1, 0, 900] if kind == "list" else [400] * 3
    sweeps = [torch.from_numpy(sweep(PANDAR64, n, seed=10 + n, dtype=np.float32)[0]) for n in sizes]
    for k, s in enumerate(sweeps[:2]):
        s[0, 0] = [torch.nan, 100.0][k]
    batch = project_batch(torch.stack(sweeps) if kind == "tensor" else sweeps, PANDAR64)
    for k, s in enumerate(sweeps):
        for name, value in vars(project(s, PANDAR64)).items():
            assert torch.equal(getattr(batch, name)[k], value), name
    assert batch.index.shape == (len(sizes), 64, 1800) and batch.n_nan.tolist()[:2] == [1, 0]


def test_a_batch_comes_back_sweep_by_sweep():
    """Sweeps of several lengths, one of them empty; one call for all would mix their points."""
    sweeps = [torch.from_numpy(sweep(PANDAR64, n, seed=20 + n)[0]) for n in (700, 0, 300)]
    batch = project_batch(sweeps, PANDAR64)
    back = unproject_batch(batch, PANDAR64)
    assert len(back) == 3 and len(back[1]) == 0
    for one, alone in zip(back, sweeps, strict=True):
        assert torch.equal(one, unproject(project(alone, PANDAR64), PANDAR64))
    with pytest.raises(InputError, match=r"\(3, 64, 1800\) holds several sweeps; call unproject_batch"):
        unproject(batch, PANDAR64)
    with pytest.raises(InputError, match=r"is no batch .* call unproject for one sweep"):
        unproject_batch(project(sweeps[0], PANDAR64), PANDAR64)


def test_what_arrays_may_be():
    points = sweep(NUSCENES, 200, seed=5, dtype=np.float32)[0]
    want = project(torch.from_numpy(points), NUSCENES)
    frozen = points.copy()
    frozen.setflags(write=False)
    for same in (frozen, points.astype(">f4"), np.asfortranarray(points), points[::-1][::-1], torch.tensor(points)):
        assert torch.equal(project(same, NUSCENES).index, want.index)
    assert np.array_equal(points, frozen)  # the input is never written to


@pytest.mark.parametrize(
    "points,rows,words",
    [
        (np.zeros((5, 3)), "angle", "shape (5, 3)"),
        (np.zeros(5), "angle", "shape (5,)"),
        (np.zeros((2, 5, 4)), "angle", "shape (2, 5, 4)"),
        (np.zeros((5, 4)), "ring", "5 or more"),
        (np.zeros((5, 4), np.int32), "angle", "int32"),
        (np.zeros((5, 4), np.float16), "angle", "float16"),
        (torch.zeros(5, 4, dtype=torch.bfloat16), "angle", "bfloat16"),
        (np.array([[5, 0, 0, 1, 32.0]]), "ring", "ring 32"),
        (np.array([[5, 0, 0, 1, -1.0]]), "ring", "ring -1"),
        (np.array([[5, 0, 0, 1, 2.5]]), "ring", "ring 2.5"),
        (np.array([[5, 0, 0, 1, np.nan]]), "ring", "ring nan"),
        (np.array([[5, 0, 0, 1, 1e30]]), "ring", "ring 1e+30"),
    ],
)
def test_wrong_points_say_what_to_do(points, rows, words):
    with pytest.raises(InputError) as caught:
        project(points, NUSCENES, rows)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_batches_say_what_to_do():
    for sweeps, words in (
        (np.zeros((5, 4)), "(B, N, 4 or more)"),
        ([], "0 sweeps"),
        ([np.zeros((5, 4)), np.zeros((5, 5))], "2 kinds"),
    ):
        with pytest.raises(InputError) as caught:
            project_batch(sweeps, NUSCENES)
        assert words in str(caught.value)


def test_rings_out_of_use_do_not_matter():
    points = np.array([[60, 0, 0, 1, 99.0], [np.nan, 0, 0, 1, 99.0], [5, 0, 0, 1, 31.0]])
    assert (project(points, NUSCENES, "ring").index >= 0).nonzero().tolist() == [[0, 548]]


@pytest.mark.parametrize(
    "change,words",
    [
        ({"elevation": (0.1, 0.2)}, "follows"),
        ({"elevation": (0.1, 0.1)}, "follows"),
        ({"elevation": (0.1, math.nan)}, "not finite"),
        ({"elevation": (2.0, 0.0)}, "radians"),
        ({"azimuth": (9.0, 0.0)}, "radians"),
        ({"azimuth": (0.0,)}, "1 azimuth"),
        ({"rings": (1, 1)}, "repeat"),
        ({"rings": (1, -1)}, "negative"),
        ({"columns": 1}, "1 columns"),
        ({"near": 0}, "near"),
        ({"far": 1.0}, "far"),
        ({"far": math.inf}, "far"),
    ],
)
def test_wrong_sensors_say_what_to_do(change, words):
    good = {"name": "s", "elevation": (0.2, 0.1), "azimuth": (0.0, 0.0), "rings": (1, 0), "columns": 64}
    Sensor(**good)
    with pytest.raises(InputError) as caught:
        Sensor(**(good | change))
    assert words in str(caught.value)


def test_nominal_sensors():
    for sensor, n, top, bottom in (
        (OS1_128, 128, 22.5, -22.5),
        (HDL_64E, 64, 2, -24.8),
        (PANDAR64, 64, 14.882, -24.897),
    ):
        assert sensor.rows == n == len(set(sensor.rings)) and "nominal" in sensor.source
        assert math.degrees(sensor.elevation[0]) == pytest.approx(top)
        assert math.degrees(sensor.elevation[-1]) == pytest.approx(bottom)
    assert not PANDAR64.even and PANDAR64.offset and OS1_128.even and not OS1_128.offset and NUSCENES.even
    assert sum(PANDAR64.azimuth) == pytest.approx(math.radians(-1.042 * 16))  # six neighbours add up to nothing
    mixed = sensor_from_degrees("m", [-1, 3, 1], [0.1, 0.2, 0.3], [0, 1, 2], 64)
    assert [round(math.degrees(e)) for e in mixed.elevation] == [3, 1, -1] and mixed.rings == (1, 2, 0)
    assert math.degrees(mixed.azimuth[0]) == pytest.approx(0.2)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_view():
    points = torch.from_numpy(sweep(PANDAR64, 50000, seed=6, dtype=np.float32)[0])
    here, there = project(points, PANDAR64), project(points.cuda(), PANDAR64)
    assert torch.equal(there.index.cpu(), here.index)
    assert (there.depth.cpu() - here.depth).abs().max() < 1e-6
    back = unproject(there, PANDAR64)
    assert back.is_cuda and (back.cpu() - unproject(here, PANDAR64)).abs().max() < 1e-4
    for column, (x, y) in {548: (10, 0.0), 274: (0.0, 10), 822: (0.0, -10), 1095: (-10, -0.0), 0: (-10, 0.0)}.items():
        view = project(torch.tensor([[x, y, 0, 1]], dtype=torch.float32, device="cuda"), NUSCENES)
        assert (view.index >= 0).nonzero().tolist() == [[8, column]]
