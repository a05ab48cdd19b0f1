"""What the judges of mobi learn from: lessons that stay true when varied, targets, and the floors of their card."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TOOLS = str(Path(__file__).resolve().parents[2] / "tools")


@pytest.fixture(scope="module")
def tools():
    """The judge's modules by their last name."""
    sys.path.insert(0, TOOLS)
    try:
        names = ("scenes", "lessons", "vary", "grade")
        return {name: importlib.import_module(f"tiny.mobi_judge_{name}") for name in names}
    finally:
        sys.path.remove(TOOLS)


@pytest.fixture(scope="module")
def shot(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    tools["scenes"].draw_one(folder, 7_000_003)
    before = (folder / "07000003.npz").stat().st_mtime_ns
    tools["scenes"].draw_one(folder, 7_000_003)
    assert (folder / "07000003.npz").stat().st_mtime_ns == before  # what is there is kept
    (one,) = tools["scenes"].read_all(folder, 9)
    return one


def inside(points, box):
    x, y = points[:, 0] - box[0], points[:, 1] - box[1]
    along, across = x * box[6].cos() + y * box[6].sin(), y * box[6].cos() - x * box[6].sin()
    return int(((along.abs() <= box[4] / 2 + 1e-3) & (across.abs() <= box[3] / 2 + 1e-3)).sum())


def test_varied_lessons_keep_boxes_and_returns_together(tools, shot):
    one = tools["lessons"].lesson(shot)
    plain = [inside(one.seen.points, box) for box in one.boxes]
    assert max(plain) > 50
    flips = set()
    for seed in range(6):
        gen = torch.Generator().manual_seed(seed)
        other = tools["vary"].varied(one, gen)
        flips.add(bool((other.boxes[:, 0] * one.boxes[:, 0] < 0).float().mean() > 0.5))
        least = 1 - 0.15 - 0.1  # returns dropped at most, and chance
        for n, box, old in zip(plain, other.boxes, one.boxes, strict=True):
            whole = 3 < old[1] < 18 and abs(old[0]) < 8  # cannot leave the view by turning
            if n > 50 and whole:
                assert least * n <= inside(other.seen.points, box) <= n + 2
        assert (other.boxes[:, 2:6] == one.boxes[:, 2:6]).all()
        assert other.boxes[:, :2].norm(dim=1) == pytest.approx(one.boxes[:, :2].norm(dim=1), abs=1e-4)
    assert flips == {True, False}


def test_a_mirrored_lesson_is_the_mirror_image(tools, shot):
    """Heading ahead-left becomes ahead-right, and each return still falls on its own pixel."""
    one = tools["lessons"].lesson(shot)
    mirrored = 0
    for seed in range(8):
        gen = torch.Generator().manual_seed(seed)
        dice = torch.rand(6, generator=torch.Generator().manual_seed(seed))
        other = tools["vary"].varied(one, gen)
        angle, flip = 0.4 * (float(dice[5]) - 0.5), float(dice[0]) < 0.5
        wanted = (math.pi - one.boxes[:, 6] if flip else one.boxes[:, 6]) + angle
        assert (other.boxes[:, 6] - wanted).sin().abs().max() < 1e-4 and (other.boxes[:, 6] - wanted).cos().min() > 0.99
        u = other.seen.pixels[:, 0]
        assert ((u >= -9) & (u <= 10)).all()
        if flip:
            mirrored += 1
            assert set((1 - u).mul(1e4).round().tolist()) <= set(one.seen.pixels[:, 0].mul(1e4).round().tolist()) | set(
                one.seen.pixels[:, 0].mul(1e4).round().add(1).tolist()
            ) | set(one.seen.pixels[:, 0].mul(1e4).round().sub(1).tolist())
    assert 0 < mirrored < 8


def test_targets_mark_what_is_wanted_and_leave_out_what_is_hidden(tools, shot):
    from mobi.detector import CELL, STRIDE, boxes_of

    one = tools["lessons"].lesson(shot)
    bump, counts, cell, label, numbers = tools["lessons"].targets(one)
    assert len(cell) == len(label) == len(numbers) > 0
    for (row, column), kind in zip(cell.tolist(), label.tolist(), strict=True):
        assert bump[kind, row, column] == 1 and counts[kind, row, column] == 1
    assert int((bump == 1).sum()) == len(
        {(k, *c) for k, c in zip(label.tolist(), map(tuple, cell.tolist()), strict=True)}
    )
    back = boxes_of(cell, numbers, label)
    kept = one.boxes[one.wanted & tools["lessons"].in_grid(one.boxes)]
    assert back[:, :6].numpy() == pytest.approx(kept[:, :6].numpy(), abs=1e-4)
    hidden = one.boxes[~one.wanted & tools["lessons"].in_grid(one.boxes)]
    for box in hidden:
        row, column = int(box[1] / (CELL * STRIDE)), int((box[0] + 16) / (CELL * STRIDE))
        kind = int(one.label[(one.boxes == box).all(1)][0])
        assert counts[kind, row, column] == 0 or bump[kind, row, column] == 1


def test_the_loss_falls_to_zero_at_the_truth(tools, shot):
    one = tools["lessons"].lesson(shot)
    bump, _, cell, label, numbers = tools["lessons"].targets(one)

    class Oracle:
        def __call__(self, scenes):
            heat = torch.where(bump == 1, 12.0, -12.0)[None]
            said = torch.zeros(1, 2, 8, *bump.shape[1:])
            for (row, column), kind, values in zip(cell.tolist(), label.tolist(), numbers, strict=True):
                said[0, kind, :, row, column] = values
            return heat, said

    class Blind:
        def __call__(self, scenes):
            return torch.full((1, *bump.shape), -4.0), torch.zeros(1, 2, 8, *bump.shape[1:])

    assert (
        float(tools["lessons"].detector_loss(Oracle(), [one]))
        < 1e-3
        < float(tools["lessons"].detector_loss(Blind(), [one]))
    )


def test_yaw_crops_show_the_listed_cars(tools, shot):
    scenes = tools["scenes"]
    images, angles = scenes.yaw_crops([shot], scenes.fit_for_yaw)
    assert len(images) == len(scenes.fit_for_yaw(shot)) > 0
    assert images.shape[1:] == (96, 96, 3) and images.dtype == np.uint8
    assert len(images) == len(angles) and np.abs(angles).max() <= math.pi
    spoiled = tools["vary"].spoil(
        torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1, torch.Generator().manual_seed(0)
    )
    assert spoiled.shape[1:] == (3, 96, 96) and float(spoiled.abs().max()) <= 1


def test_floors(tools):
    good = {
        "yaw": {"median error, degrees": 7.9, "flipped": {"mean": 0.02}},
        "car": {"recall": {"mean": 0.9}, "ate, m": {"mean": 0.3}, "aoe, degrees": {"mean": 10.0}},
    }
    assert tools["grade"].missed(good) == []
    for part, name, value in (("yaw", "flipped", 0.03), ("car", "recall", 0.89), ("car", "aoe, degrees", 10.1)):
        bad = {key: dict(rows) for key, rows in good.items()}
        bad[part][name] = {"mean": value}
        (said,) = tools["grade"].missed(bad)
        assert said.startswith(f"{part}: {name}")
    bad = {key: dict(rows) for key, rows in good.items()}
    bad["yaw"]["median error, degrees"] = 9.0
    assert len(tools["grade"].missed(bad)) == 1


def test_the_view_turns_with_the_boxes(tools):
    """Cells left and right of the axis, turned a quarter of a radian: the same cells that the places themselves turn into."""
    view = torch.zeros(56, 64, dtype=torch.bool)
    view[20:24, 30:34] = True
    place = torch.tensor([[0.0, 22.0]])
    tools["vary"].turn_flat(place, 0.25)
    other = tools["vary"].turn_view(view, 0.25)
    rows, columns = other.nonzero(as_tuple=True)
    middle = (columns.double().mean() + 0.5 - 32, rows.double().mean() + 0.5)
    assert middle == pytest.approx(place[0].tolist(), abs=0.5) and 12 <= int(other.sum()) <= 20


def test_card_holds_every_number(tools):
    span = {"mean": 0.123, "ci95": [0.1, 0.2]}
    row = dict.fromkeys(("recall", "ate, m", "ase", "aoe, degrees", "flipped"), span)
    row |= {
        "n": 77,
        "median turn error, degrees": 3.4,
        "ap, all in reach": 0.876,
        "recall, all in reach": 0.9,
        "n, all in reach": 345,
    }
    turn = {
        "n": 66, "median error, degrees": 4.4, "median error, 95 %": [4.0, 5.0], "flipped": span, "within 30 degrees": span,
        "best constant: median, flipped": [70.0, 0.4],
    }  # fmt: skip
    made = {"parameters": 1234, "scenes": 55, "seconds": 120, "fit": {"steps": 999, "seed": 71}}
    table = {"scenes": 11, "yaw": turn | {"n": 99}, "yaw, in sight": turn, "car": row, "pedestrian": row}
    text = tools["grade"].card(table, made | {"cars": 2000}, made | {"boxes": 3000})
    for part in (
        "all 99 cars",
        "66 in sight",
        "Floors missed, of all cars: yaw: flipped is 0.123, floor 0.02",
        "4.4 [4.0, 5.0]",
        "0.123 [0.100, 0.200]",
        "70.0",
        "77 cars",
        "77 pedestrians",
        "345",
        "1,234",
        "999 of 4 scenes",
        "2 min",
    ):
        assert part in text, part
    assert "{" not in text
