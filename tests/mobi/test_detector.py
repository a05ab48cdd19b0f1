"""The detector's geometry, and the nuScenes measures against closed forms and a plain second writing (property 27)."""

import math

import numpy as np
import pytest
import torch

from graft_common.rangeview import Box3d, Camera, project_camera
from mobi.detector import (
    AHEAD,
    ASIDE,
    CELL,
    LOWEST,
    SLICE,
    SLICES,
    TYPICAL,
    Detection,
    Detector,
    DetectorNet,
    Seen,
    box_numbers,
    boxes_of,
    from_turned,
    in_picture,
    load_detector,
    look,
    to_turned,
)
from mobi.detector_metrics import (
    Marked,
    average_precision,
    distance,
    evaluate_boxes,
    match,
    official_errors,
    pairs,
    size_error,
    turn_error,
)
from mobi.yaw import judge_folder

FORWARD = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def camera_turned(turn):
    c, s = math.cos(turn), math.sin(turn)
    move = np.eye(4)
    move[:3, :3] = FORWARD @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    return Camera(np.array([[300.0, 0, 199.5], [0, 300, 112], [0, 0, 1]]), move, 400, 225)


def box(x, y, yaw=0.0, size=(1.8, 4.5, 1.6), z=-1.0):
    return Box3d((float(x), float(y), z), size, yaw)


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("turn", [0.0, 0.6, -2.2])
def test_look_turns_the_cameras_axis_ahead(turn):
    camera, ahead = camera_turned(turn), np.array([-math.sin(turn), math.cos(turn)])
    right = np.array([math.cos(turn), math.sin(turn)])
    flat = np.stack([10 * ahead + 2 * right, 27 * ahead - 15 * right, -5 * ahead, 30 * ahead, 5 * ahead + 17 * right])
    points = np.concatenate([flat, np.full((5, 1), -1.0), np.arange(5)[:, None] * 100], 1).astype(np.float32)
    points = np.concatenate([points, np.full((1, 4), np.nan, np.float32), points[:1]])
    points[-1, 3] = np.nan  # in view, but its intensity is no number
    seen = look(np.zeros((225, 400, 3), np.uint8), points, camera)
    assert math.remainder(seen.turn - turn, 2 * math.pi) == pytest.approx(0, abs=1e-9)
    assert seen.points.numpy() == pytest.approx(np.array([[2, 10, -1, 0], [-15, 27, -1, 100]]), abs=1e-4)
    where = (project_camera(points[:2, :3].astype(float), camera)[:, :2] + 0.5) / [400, 225]
    assert seen.pixels.numpy() == pytest.approx(where, abs=1e-5)


def test_pictures_of_any_size_are_read_at_one_width():
    points = np.array([[0, 5, -1, 300]], np.float32)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    camera = Camera(
        np.array([[1200.0, 0, 799.5], [0, 1200, 449.5], [0, 0, 1]]), camera_turned(0).lidar_to_camera, 1600, 900
    )
    large = look(np.repeat(np.repeat(coarse, 100, 0), 100, 1), points, camera)
    assert large.picture.shape == (3, 225, 400) and float(large.points[0, 3]) == 255
    middle = large.picture.permute(1, 2, 0)[12::25, 12::25].numpy()
    assert (np.abs(middle.astype(int) - coarse) <= 1).all()


@pytest.mark.parametrize("turn", [0.0, 1.0, -2.5])
def test_boxes_survive_cells_and_turns(turn):
    rng = np.random.default_rng(3)
    for kind, typical in enumerate(TYPICAL):
        size = tuple(v * rng.uniform(0.5, 2) for v in typical)
        one = box(rng.uniform(-9, 9), rng.uniform(3, 9), rng.uniform(-3, 3), size, -0.7)
        flat = to_turned(one, turn)
        if not (0 <= flat[1] < AHEAD and abs(flat[0]) < ASIDE):
            one = from_turned([1.0, 9.0, -0.7, *one.size, 0.3], turn)
            flat = to_turned(one, turn)
        label = torch.tensor([kind])
        cell, numbers = box_numbers(flat[None], label)
        assert (numbers[:, :2].abs() <= 0.5).all()
        back = from_turned(boxes_of(cell, numbers, label)[0].tolist(), turn)
        assert back.centre == pytest.approx(one.centre, abs=1e-4) and back.size == pytest.approx(one.size, abs=1e-4)
        assert turn_error(back, one) < 1e-5


def test_in_picture():
    behind = [(199.5 * 10 + 0.001) / 300, -10, -(112 * 10 + 0.001) / 300]  # whose division, cut at 1e-5 m, lands in the picture
    points = np.array([[0, 10, 0.0], [0, -10, 0], [9.8, 10, 0], [0, 10, 9], behind])
    assert in_picture(points, camera_turned(0)).tolist() == [True, False, False, False, False]
    edge = np.array([[6.6, 10, 0.0], [8.6, 10, 0], [8.8, 10, 0]])  # 199.5 + 30 x: the picture ends at 399.5, 15 % on at 459.5
    assert in_picture(edge, camera_turned(0)).tolist() == [True, True, False]


def test_cells_count_returns_and_carry_the_pictures_features():
    """Three returns in one cell at two heights, one far off that misses the picture; the picture network passes red through."""
    x, y = 0.1, 10.05
    points = torch.tensor([[x, y, -1.0, 64], [x + 0.1, y, -1.0, 0], [x, y, 0.1, 128], [-15.9, 0.1, -2.0, 10]])
    pixels = torch.tensor([[0.25, 0.5], [0.25, 0.5], [0.75, 0.5], [-5, -5]])
    painted = torch.zeros(12, 4, 8)
    painted[0, :, 4:] = 1.0
    view = DetectorNet()._from_above(Seen(torch.zeros(3, 9, 16, dtype=torch.uint8), points, pixels, 0.0), painted)
    row, column = int(y / CELL), int((x + ASIDE) / CELL)
    level = [int((z - LOWEST) / SLICE) for z in (-1.0, 0.1)]
    counts = view[:SLICES, row, column]
    assert counts[level[0]] == pytest.approx(math.log(3)) and counts[level[1]] == pytest.approx(math.log(2))
    assert int((view[:SLICES].sum(0) > 0).sum()) == 2 and counts.count_nonzero() == 2
    shift = [(y / CELL) % 1 - 0.5, np.mean([((v + ASIDE) / CELL) % 1 - 0.5 for v in (x, x + 0.1, x)])]
    assert view[SLICES : SLICES + 3, row, column].tolist() == pytest.approx([*shift, 1.0], abs=1e-4)
    assert view[SLICES + 3, row, column] == pytest.approx(1 / 3, abs=1e-4)
    road = torch.cat([points, points[:1] + torch.tensor([0, 0, -0.9, 100.0])]), torch.cat([pixels, pixels[:1]])
    under = DetectorNet()._from_above(Seen(torch.zeros(3, 9, 16, dtype=torch.uint8), *road, 0.0), painted)
    assert under[:SLICES, row, column].count_nonzero() == 3  # the road counts, but leaves the means to what stands on it
    assert under[SLICES:, row, column].tolist() == pytest.approx(view[SLICES:, row, column].tolist(), abs=3e-3)


def test_likelier_box_hides_its_neighbours_of_the_same_class():
    peaks = torch.zeros(2, 56, 64)
    peaks[0, 20, 30], peaks[0, 20, 32], peaks[0, 40, 30], peaks[1, 20, 30] = 0.9, 0.8, 0.7, 0.6
    found = Detector(DetectorNet())._boxes(peaks, torch.zeros(2, 8, 56, 64), 0.0)
    assert [(f.label, round(f.score, 3)) for f in found] == [("car", 0.9), ("car", 0.7), ("pedestrian", 0.6)]
    assert found[0].box.centre[:2] == pytest.approx((30.5 * 0.5 - ASIDE, 20.5 * 0.5)) and found[
        2
    ].box.size == pytest.approx((0.6, 0.6, 1.7))


@pytest.mark.skipif(not judge_folder().is_dir(), reason="judge-mobi is not in this tree: tools/train_tiny.py judge-mobi")
def test_shipped_detector_finds_true_objects():
    from graft_common.phantoms.driving import draw_scene

    truth, said = [], []
    for seed in (10_000_555, 10_000_556, 10_000_557):
        (drive,) = draw_scene(seed, (400, 225), night=False, rain=False, kind="lot")
        camera = Camera(drive.K, drive.lidar_to_camera, 400, 225)
        said += load_detector().of_seen([look(drive.image, drive.sweep, camera)])
        counts = np.bincount(drive.sweep_ids, minlength=len(drive.boxes) + 1)
        truth.append([
            Marked(box(*b.center[:2], b.yaw, (b.size[1], b.size[0], b.size[2]), b.center[2]), b.label)
            for b in drive.boxes
            if counts[b.instance] >= 100 and in_picture(np.array([b.center]), camera)[0] and b.center[1] < 25
        ])  # fmt: skip
    at = match(truth, said, "car")
    assert at.n_truth >= 3 and at.recall >= 0.75
    assert np.median(pairs(at)[:, 0]) < 0.4


# ---------------------------------------------------------------- measures


def near(*items):
    return [Marked(box(x, y), label) for x, y, label in items]


def seen(*items):
    return [Detection(box(x, y), label, score) for x, y, label, score in items]


def test_single_errors_have_closed_forms():
    a, b = box(0, 10), Box3d((3.0, 14.0, 5.0), (0.9, 4.5, 1.6), 2 * math.pi - 0.5)
    assert distance(a, b) == pytest.approx(5.0)  # height does not count
    assert size_error(a, b) == pytest.approx(0.5) and size_error(a, a) == pytest.approx(0)
    flat = Box3d((0, 0, 0), (3.6, 4.5, 0.8), 0.0)  # twice as wide, half as high: half of each is common
    assert size_error(a, flat) == size_error(flat, a) == pytest.approx(1 - 1 / 3)
    assert turn_error(a, b) == pytest.approx(0.5) and turn_error(box(0, 0, 3.0), box(0, 0, -3.0)) == pytest.approx(
        2 * math.pi - 6
    )
    assert turn_error(box(0, 0, 0.0), box(0, 0, math.pi)) == pytest.approx(math.pi)


def test_perfect_detections_are_perfect():
    rng = np.random.default_rng(0)
    truth = [
        [
            Marked(box(*rng.uniform(-18, 18, 2), rng.uniform(-3, 3), tuple(rng.uniform(0.5, 4, 3))), label)
            for label in ("car", "pedestrian", "car")
        ]
        for _ in range(12)
    ]
    table = evaluate_boxes(truth, [[Detection(t.box, t.label, float(rng.random())) for t in scene] for scene in truth])
    for label, n in (("car", 24), ("pedestrian", 12)):
        row = table[label]
        assert row["n"] == n and row["ap"] == pytest.approx(1) and row["recall"] == 1
        assert [row[k] for k in ("ate", "ase", "aoe")] == pytest.approx([0, 0, 0], abs=1e-12)
    assert table["all"]["map"] == pytest.approx(1)


def test_the_likelier_box_takes_the_nearest_free_truth():
    """The sure box takes the nearer of two though another lies closer to it; the second gets what is left within the radius."""
    truth = [near((0, 10, "car"), (1.5, 10, "car"), (0, 10, "pedestrian"))]
    found = [seen((0.1, 10, "car", 0.3), (0.6, 10, "car", 0.9), (3.4, 10, "car", 0.2), (0.6, 10, "car", 0.1))]
    at = match(truth, found, "car")
    assert at.scores.tolist() == [0.9, 0.3, 0.2, 0.1] and at.truth.tolist() == [0, 1, -1, -1] and at.n_truth == 2
    assert pairs(at)[:, 0] == pytest.approx([0.6, 1.4])
    assert match(truth, found, "car", 1.0).truth.tolist() == [0, -1, -1, 1]  # the least sure one is 0.9 m off
    assert match(truth, found, "pedestrian").n_truth == 1 and not len(match(truth, found, "pedestrian").scores)


def test_the_radius_is_exclusive_and_scenes_do_not_mix():
    truth = [near((0, 10, "car")), near((5, 10, "car"))]
    assert match(truth, [seen((0, 12, "car", 0.5)), []], "car").hit.tolist() == [False]
    assert match(truth, [seen((5, 10, "car", 0.5)), []], "car").hit.tolist() == [False]
    with pytest.raises(ValueError, match="2 scenes"):
        match(truth, [[]], "car")


def test_what_is_beyond_a_classs_reach_does_not_count():
    truth = [near((0, 49, "car"), (0, 51, "car"), (0, 41, "pedestrian"), (0, 39, "pedestrian"))]
    assert match(truth, [[]], "car").n_truth == 1 and match(truth, [[]], "pedestrian").n_truth == 1
    assert len(match(truth, [seen((0, 51, "car", 1.0))], "car").scores) == 0


def test_restricted_pairs():
    truth = [near((0, 10, "car"), (9, 10, "car")), near((0, 10, "pedestrian"), (0, 12, "car"))]
    found = [seen((0.1, 10, "car", 0.5), (9.2, 10, "car", 0.4)), seen((0.3, 12, "car", 0.9))]
    at = match(truth, found, "car")
    assert sorted(pairs(at)[:, 0]) == pytest.approx([0.1, 0.2, 0.3])
    assert sorted(pairs(at, [{1}, {1}])[:, 0]) == pytest.approx([0.2, 0.3])
    assert pairs(at, [set(), {0}]).shape == (0, 3)


def test_average_precision_by_hand():
    """Four true boxes; right, wrong, right. Precision at recall r: 1 up to 1/4, then down to 2/3 at 1/2, 0 beyond."""
    truth = [near((0, 5, "car"), (0, 15, "car"), (0, 25, "car"), (0, 35, "car"))]
    found = [seen((0, 5, "car", 0.9), (9, 9, "car", 0.8), (0, 15, "car", 0.7))]
    grid = np.linspace(0, 1, 101)
    curve = np.where(grid <= 0.25 + 1e-12, 1.0, np.nan)
    inner = (grid > 0.25 + 1e-12) & (grid <= 0.5 + 1e-12)
    curve[inner] = 0.5 + (grid[inner] - 0.25) / 0.25 * (2 / 3 - 0.5)  # linear between (1/4, 1/2) and (1/2, 2/3)
    curve[grid > 0.5 + 1e-12] = 0.0
    # at recall 1/4 itself the curve has two values; the later one (after the wrong box) is taken
    curve[25] = 0.5
    expected = (curve[11:] - 0.1).clip(0).mean() / 0.9
    assert average_precision(match(truth, found, "car")) == pytest.approx(expected, abs=1e-12)


def test_nothing_found_scores_nothing():
    truth = [near((0, 10, "car"))]
    table = evaluate_boxes(truth, [[]], ("car",))
    assert table["car"] == {"n": 1.0, "ap": 0.0, "recall": 0.0, "ate": 1.0, "ase": 1.0, "aoe": 1.0}
    assert math.isnan(match([[]], [[]], "car").recall)


def test_official_errors_by_hand():
    """Two hits of two, running means 0.2 and 0.3: up to recall 1/2 the score is the first one's, then it falls to the other's."""
    truth = [near((0, 10, "car"), (0, 20, "car"))]
    found = [seen((0.2, 10, "car", 0.8), (0.4, 20, "car", 0.4))]
    grid = np.linspace(0, 1, 101)[11:]
    mean = np.where(grid <= 0.5, 0.2, 0.2 + (grid - 0.5) / 0.5 * 0.1).mean()
    errors = official_errors(match(truth, found, "car"))
    assert (
        errors["ate"] == pytest.approx(mean, abs=1e-9)
        and errors["ase"] == pytest.approx(0)
        and errors["aoe"] == pytest.approx(0)
    )


def test_against_a_plain_second_writing():
    """Random boxes in random scenes: the published procedure written out with loops."""
    rng = np.random.default_rng(11)
    truth = [near(*((*rng.uniform(-12, 12, 2), rng.choice(["car", "pedestrian"])) for _ in range(9))) for _ in range(8)]
    found = [
        [
            Detection(
                box(*(np.array(t.box.centre[:2]) + rng.normal(0, 1.2, 2)), rng.normal(0, 0.4), (2.0, 4.0, 1.5)),
                t.label,
                float(rng.random()),
            )
            for t in scene
        ]
        for scene in truth
    ]
    for radius in (0.5, 1.0, 2.0, 4.0):
        for label in ("car", "pedestrian"):
            taken, hits, errors, scores = set(), [], [], []
            flat = sorted(
                ((d.score, s, d) for s, ds in enumerate(found) for d in ds if d.label == label), key=lambda r: -r[0]
            )
            total = sum(t.label == label for ts in truth for t in ts)
            for score, s, d in flat:
                best, best_at = math.inf, None
                for k, t in enumerate(truth[s]):
                    gap = math.hypot(t.box.centre[0] - d.box.centre[0], t.box.centre[1] - d.box.centre[1])
                    if t.label == label and (s, k) not in taken and gap < best:
                        best, best_at = gap, (s, k)
                hits.append(best < radius)
                scores.append(score)
                if best < radius:
                    taken.add(best_at)
                    errors.append(best)
            at = match(truth, found, label, radius)
            assert at.hit.tolist() == hits and at.scores.tolist() == scores and at.n_truth == total
            assert pairs(at)[:, 0] == pytest.approx(errors)
            right, precision, recall = 0, [], []
            for k, hit in enumerate(hits):
                right += hit
                precision.append(right / (k + 1))
                recall.append(right / total)
            area = (
                np.mean([max(np.interp(r, recall, precision, right=0) - 0.1, 0) for r in np.linspace(0.11, 1, 90)])
                / 0.9
            )
            assert average_precision(at) == pytest.approx(area, abs=1e-9)


def test_of_no_found_boxes_there_are_no_pairs():
    none = match([[Marked(box(0, 10), "car")]], [[]], "car")
    assert pairs(none).shape == pairs(none, [[0]]).shape == (0, 3) and none.recall == 0
