"""The verb evaluate on drawn scenes: a painter that knows the truth, trivial answers, and what is kept between runs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from graft_common.console import Run
from graft_common.rangeview import Box3d, has_return, metres, points_in_box, take_crop
from mobi import answers, score, trial
from mobi.cases import Case, Pick, draw_case, move_points, other_references, pick_objects
from mobi.config import CompositeConfig, PrepareConfig
from mobi.config_study import ARM_NAMES, EvaluateConfig
from mobi.judge import standing
from mobi.range_table import ROWS, range_errors
from mobi.records import Crops, Painted
from mobi.summary import table
from mobi.yaw import observation_angle

EXTRA = "free insertion, no box"
LOOKS = (answers.EMPTY, answers.PASTED, trial.CODED, trial.SAME)
PICTURE, SIZE, FIRST = (240, 135), 64, 5_000_006  # a scene that has one of each class
TWIN = "-twin"


class Found(NamedTuple):
    """What a detector gives."""

    box: Box3d
    label: str
    score: float


@dataclass
class Oracle:
    """Paints the truth: the scene with the object, or the empty one where nothing is asked for."""

    cases: dict[int, Case]
    size: int = SIZE
    calls: int = 0

    @property
    def weights(self) -> dict[str, str]:
        return {"name": "oracle", "sha256": "0" * 64}

    def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted:
        self.calls += 1
        pairs = []
        for box, seed in zip(crops.camera_box, seeds, strict=True):
            case = self.cases[seed % trial.SECOND]
            pairs.append(answers.truth(case) if box.any() else answers.empty(case))
        return Painted(torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs]))


def same(x: torch.Tensor) -> torch.Tensor:
    """An autoencoder without loss."""
    return x


@pytest.fixture(scope="module")
def picks() -> list[Pick]:
    return list(pick_objects(1, FIRST, PICTURE))


@pytest.fixture(scope="module")
def cases(picks: list[Pick]) -> list[Case]:
    """A car and a pedestrian, and to save time the same again under other names, each with the other's reference."""
    found = [draw_case(pick, PICTURE, SIZE) for pick in picks]
    pairs = zip(found, found[::-1], strict=True)
    return found + [replace(c, name=c.name + TWIN, seed=c.seed + 500, reference=other.reference) for c, other in pairs]


def of(cases: list[Case], label: str) -> list[Case]:
    return [case for case in cases if case.label == label]


def test_picks(picks: list[Pick]) -> None:
    assert min(p.seed for p in picks) >= FIRST and sorted(p.label for p in picks) == ["car", "pedestrian"]
    first = next(p for p in picks if p.label == "car")
    assert list(pick_objects(1, first.seed, PICTURE, ("car",))) == [first]


def test_truth_of_the_rays(cases: list[Case]) -> None:
    """True distances are the sweep's to its noise; what hits the object lies in its box; the twin differs there alone."""
    for case in cases[:2]:
        truth, placed = case.truth, case.placed
        assert truth is not None and truth.hit.sum() >= 30
        view = placed.view
        depth, seen, index = (
            take_crop(x, placed.range_crop, placed.scene.sensor).numpy()
            for x in (metres(view.depth.double(), placed.scene.sensor), has_return(view, placed.scene.sensor), view.index)
        )
        both = seen & truth.sent & np.isfinite(truth.distance)
        assert np.median(np.abs(depth - truth.distance)[both]) < 0.03
        own = truth.hit & truth.sent
        assert seen[own].all() and points_in_box(placed.scene.points[index[own]], placed.box.scaled(1.1)).all()
        assert (truth.beyond[truth.hit] > truth.distance[truth.hit]).all()
        assert np.array_equal(truth.beyond[~truth.hit & truth.sent], truth.distance[~truth.hit & truth.sent])
        assert truth.silhouette.any() and not (truth.silhouette & ~placed.hole).sum() > 0.02 * truth.silhouette.sum()


def test_moved_returns() -> None:
    """Rigid: distances between points stay, and they lie in the new box as they lay in the old one."""
    rng = np.random.default_rng(3)
    one, two = Box3d((2, 10, -1), (1.8, 4.4, 1.5), 0.4), Box3d((-6, 20, -0.9), (1.8, 4.4, 1.5), -2.0)
    points = rng.uniform((0, 7, -2, 0, 0), (4, 13, 0, 255, 31), (2000, 5)).astype(np.float32)
    moved = move_points(points, one, two)
    before = points[points_in_box(points, one).numpy()]
    assert len(moved) == len(before) > 3 and points_in_box(moved, two.scaled(1 + 1e-5)).all()
    gaps = [np.linalg.norm(p[:, None, :3] - p[None, :, :3], axis=-1) for p in (before, moved)]
    assert np.allclose(*gaps, atol=1e-5) and np.array_equal(before[:, 3:], moved[:, 3:])
    assert np.allclose(move_points(moved, two.scaled(1.001), one), before, atol=1e-5)


def test_oracle_and_trivial_answers(cases: list[Case]) -> None:
    config, rows = CompositeConfig(), []
    for label in ("car", "pedestrian"):
        mine = of(cases, label)
        oracle = Oracle({c.seed: c for c in mine})
        tools = trial.Tools(
            {"plain": oracle, "no box": oracle, "apart": oracle}, same, same,
            yaw=lambda crops, mine=mine: np.array([observation_angle(c.placed.box, c.placed.scene.camera) for c in mine]) + np.pi,
            detector=lambda scenes, mine=mine: [
                [Found(c.placed.box, c.label, 0.9)] if standing(c.placed, scene.points) > 3 else []
                for c, scene in zip(mine, scenes, strict=True)
            ],
        )  # fmt: skip
        arms = [*ARM_NAMES, EXTRA]
        rows += trial.try_batch(mine, arms, tools, config)
        assert oracle.calls == len(arms)
    json.dumps(rows, allow_nan=False)
    for label in ("car", "pedestrian"):
        cells = table([row for row in rows if row["label"] == label], "fid_other")
        gap = cells["same reference less original"]["ate"]
        assert abs(gap["mean"]) < 1e-9 and gap["n"] == 2
        assert {"fid_other"} == {key for name in LOOKS for key in cells[name] if key.startswith("fid")}
        assert cells[trial.CODED]["fid_other"]["mean"] < cells[answers.EMPTY]["fid_other"]["mean"]
    for row in rows:
        found = row["scores"]
        for name in (answers.TRUTH, trial.TRACKED):  # the stand-in judges: boxes right, every car turned round
            assert found[name]["found"] == 1 and max(found[name][key] for key in ("ate", "ase", "aoe")) < 1e-9
            assert (found[name]["yaw_gap"] == pytest.approx(180)) if row["label"] == "car" else "yaw_gap" not in found[name]
        # how real the trivial answers look, and what the detector finds of them
        assert found[answers.EMPTY]["found"] == 0 and found[answers.PASTED]["found"] == found[trial.CODED]["found"] == 1
        assert found[trial.CODED]["lpips_tiny"] < found[answers.EMPTY]["lpips_tiny"]
        assert all({"clip_i_tiny", "d_lpips_tiny", "i_lpips_tiny"} <= set(found[name]) for name in LOOKS)
        assert found[EXTRA]["lidar_index"] > 0.97 and "clip_i_tiny" in found[EXTRA]
        for name in (answers.TRUTH, trial.SAME, trial.FREE, trial.FLOOR, trial.RIGHT):
            assert found[name]["joint_f1"] > 0.75, name
        assert found[trial.RIGHT]["joint_f1"] > 0.9
        for name in (answers.TRUTH, trial.CODED, trial.TRACKED, trial.REPLACED):
            assert found[name]["lidar_index"] > 0.97 and found[name]["depth_error"] < 0.03
            assert found[name]["camera_index"] > 0.45
        assert found[answers.EMPTY]["camera_index"] == 0 and abs(found[answers.EMPTY]["lidar_index"]) < 0.03
        assert found[answers.COLOUR]["camera_index"] < 0.3 < found[trial.SAME]["camera_index"]
        assert found[answers.MIDDLE]["depth_error"] > 5 * found[trial.SAME]["depth_error"]
        assert found[answers.PASTED]["depth_error"] < 0.3 and "camera_index" not in found[answers.MIDDLE]
        solid = found[answers.SOLID]
        assert solid["lidar_recall"] > 0.97 and solid["camera_recall"] > 0.9 and solid["joint_f1"] > 0.75
        assert solid["camera_index"] > 0.05 and solid["lidar_index"] < found[trial.SAME]["lidar_index"] - 0.05
        gone, kept = found[trial.REMOVED], found["removal by doing nothing"]
        assert gone["camera_left"] == 0 and gone["behind"] > 0.95 and gone["behind_error"] < 0.05 and gone["standing_share"] < 0.05
        assert kept["camera_left"] == pytest.approx(1, abs=1e-6) and kept["behind"] == 0
        assert found[trial.SAME]["d_lpips_tiny"] < 1e-6
        nearer = found[trial.SAME]["clip_i_tiny"] > found[trial.REPLACED]["clip_i_tiny"]
        assert nearer is (not row["case"].endswith(TWIN))  # a twin's own reference is the other class's
        assert max(v for k, v in found["range autoencoder"].items() if "depth" in k) < 1e-3


def test_copy_paste_stays_in_the_grown_hole(cases: list[Case]) -> None:
    """The corners of the hole's bounding rectangle show the empty scene."""
    for case in cases[:2]:
        pasted, empty = answers.pasted(case)[0], answers.empty(case)[0]
        changed, hole = (pasted != empty).any(0).numpy(), answers.holes(case.placed)[0].numpy()
        grown = binary_dilation(hole, np.ones((5, 5), bool))
        top, bottom, left, right = answers.bounds(hole)
        assert not (changed & ~grown).any() and changed[hole].mean() > 0.9
        if case.label == "car":
            assert not grown[top:bottom, left:right].all()


def test_a_painter_that_misses(cases: list[Case]) -> None:
    """Lidar shifted away by a metre leaves no return where the truth is; noise in depth shows as its median error."""
    case = of(cases, "car")[0]
    truth = case.truth
    assert truth is not None
    lidar = answers.truth(case)[1]
    rays = score.cast(case, truth)
    far = metres(torch.tensor(case.placed.band, dtype=torch.float64), case.placed.scene.sensor)
    per_metre = 1.5 / float(far[1] - far[0])  # the band spans -0.75 .. 0.75
    nearer = lidar.clone()
    nearer[0] -= 0.2 * per_metre
    near, right = score.score_lidar(case, nearer), score.score_lidar(case, lidar)
    assert near["depth_error"] == pytest.approx(0.2, abs=0.03) and (near["lidar_recall"] or 0) < (right["lidar_recall"] or 0)
    away = lidar.clone()
    away[0] = -1.0
    assert score.score_lidar(case, away)["lidar_recall"] == 0 and not score.inside(rays, score.distances(case, away)).any()


def test_range_table(cases: list[Case]) -> None:
    """An error of the autoencoder counts in metres as each row's normalisation says; pooling averages noise away."""
    placed = [case.placed for case in cases[:2]]

    def shifted(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :1] + 0.01, x[:, 1:]], 1)

    for p, row in zip(placed, range_errors(placed, shifted, shifted), strict=True):
        spread = (p.band[1] - p.band[0]) / 1.5
        assert row[ROWS[0]]["depth_object"] == pytest.approx(0.01 * 27, rel=1e-3)
        assert row[ROWS[1]]["depth_object"] == pytest.approx(0.01 * 27, rel=1e-3)
        assert row[ROWS[2]]["depth_object"] == pytest.approx(0.01 * 27 * spread, rel=0.02)
        assert row[ROWS[3]]["depth_object"] == pytest.approx(0.01 * 27 * spread, rel=0.02)
        assert row[ROWS[0]]["intensity_object"] == pytest.approx(0, abs=1e-3)
    noise = torch.Generator().manual_seed(0)

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x + 0.02 * torch.randn(x.shape, generator=noise)

    rows = range_errors(placed, noisy, noisy)
    mean = {name: np.mean([row[name]["depth_object"] for row in rows]) for name in ROWS}
    blocks = SIZE // 32 * SIZE // placed[0].range_crop.width
    assert mean[ROWS[1]] < 1.3 * mean[ROWS[0]] / np.sqrt(blocks) and mean[ROWS[2]] < mean[ROWS[1]]


def test_references_of_replacements(cases: list[Case]) -> None:
    cars = [replace(of(cases, "car")[0], name=str(k), flags=(k % 2 == 1, False)) for k in range(6)]
    for k, (case, other) in enumerate(zip(cars, other_references(cars), strict=True)):
        assert other.name != case.name and (other.flags == case.flags) is (k % 2 == 0)
    mixed = other_references(cases)
    assert all(a.label == b.label for a, b in zip(cases, mixed, strict=True))


def _stand_in(config: EvaluateConfig) -> trial.Tools:
    """Gives every crop back as it is."""

    class Nothing(Oracle):
        def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted:
            self.calls += 1
            return Painted(crops.camera, crops.lidar)

    return trial.Tools({"plain": Nothing({})}, same, same, detector=None)


def test_verb_and_resume(picks: list[Pick], cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobi import evaluate as verb
    from mobi.evaluate import evaluate

    picks = [*picks, *(replace(pick, seed=pick.seed + 500) for pick in picks)]
    drawn = dict(zip(picks, cases, strict=True))
    monkeypatch.setattr(verb, "pick_objects", lambda *_: iter(picks))
    monkeypatch.setattr(verb, "draw_case", lambda pick, *_: drawn[pick])

    config = EvaluateConfig(
        n=2, image_size="240x135", seed=FIRST, out=tmp_path / "a", json=True, arms=("tracked reference", "removal", "no box")
    )

    def go(config: EvaluateConfig) -> tuple[trial.Tools, dict]:
        tools = _stand_in(config)
        return tools, evaluate(config, tools, Run(["x"], config, "graft-mobi"))

    tools, record = go(config)
    said = json.loads((config.out / "metrics.json").read_text())
    assert record["outputs"] == ["metrics.json", "table.md"] and said["synthetic"] and said["backbones"]["features"] == "tiny"
    assert set(said["tables"]) == {"car", "pedestrian"} and "no box" not in said["tables"]["car"]
    assert said["tables"]["car"]["removal"]["camera_left"]["mean"] == pytest.approx(1, abs=1e-6)
    assert "car: shape and depth" in (config.out / "table.md").read_text()
    assert tools.painters["plain"].calls == 4  # type: ignore[attr-defined]
    (config.out / "parts" / "001.json").unlink()
    again, _ = go(replace(config, resume=True))
    assert again.painters["plain"].calls == 2  # type: ignore[attr-defined]
    assert json.loads((config.out / "metrics.json").read_text()) == said
    from graft_common.errors import InputError

    with pytest.raises(InputError, match="--resume"):
        go(replace(config, resume=True, z_test=False))
    kept = (config.out / "parts" / "settings.json").read_text()
    (config.out / "parts" / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json"):
        go(replace(config, resume=True))
    (config.out / "parts" / "settings.json").write_text(kept)

    def stopped(*_: object) -> Iterator[Pick]:
        raise KeyboardInterrupt

    # begun anew and stopped before anything was chosen: nothing of the run before may pass for this one's
    monkeypatch.setattr(verb, "pick_objects", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(replace(config, seed=FIRST + 1))
    assert [p.name for p in (config.out / "parts").iterdir()] == ["settings.json"]


def test_recorded_scenes(tree: Path, tmp_path: Path) -> None:
    """A prepared tree: realism and the range autoencoder, no truth, no promises."""
    from graft_common.errors import InputError
    from mobi.evaluate import evaluate, read_recorded
    from mobi.prepare import run_prepare
    from mobi.tree_cases import pick_rows, read_case

    run_prepare(PrepareConfig(root=tree, out=tmp_path / "p", empty=0, min_size=30, min_points=8, json=True), ["x"])
    config = EvaluateConfig(
        n=3, prepared=tmp_path / "p", root=tree, out=tmp_path / "out", json=True, batch_size=2,
        arms=("tracked reference", "free insertion"),
    )  # fmt: skip
    evaluate(config, _stand_in(config), Run(["x"], config, "graft-mobi"), read_recorded(config))
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert not said["synthetic"] and said["findings"] == {}
    cells = next(iter(said["tables"].values()))
    assert cells["tracked reference"]["d_lpips_tiny"]["mean"] < 1e-6 and "free insertion" not in cells
    assert cells["range autoencoder"]["+ adapters: depth_object"]["mean"] < 1e-3
    recorded = read_recorded(config)
    assert recorded is not None
    objects, tables = recorded
    strange = replace(objects, rows=tuple(replace(row, camera="CAM_BACK") for row in objects.rows))
    with pytest.raises(InputError, match=r"objects\.csv line \d+: --root has no key frame of CAM_BACK"):
        read_case(tables, strange, pick_rows(objects, 2, 0)[0], SIZE, 0)
    with (tmp_path / "p" / "objects.csv").open("a") as file:
        file.write("\n")
    resumed = replace(config, resume=True)
    with pytest.raises(InputError, match="parts of other settings"):  # a folder of the same name with other objects
        evaluate(resumed, _stand_in(config), Run(["x"], resumed, "graft-mobi"), recorded)


def test_records_name_no_folder(tmp_path: Path) -> None:
    from mobi.evaluate import shown

    (tmp_path / "alex.safetensors").write_bytes(b"x")
    config = shown(EvaluateConfig(lpips=str(tmp_path / "alex.safetensors"), clip="openai/clip-vit-base-patch32"))
    assert config.lpips == "alex.safetensors" and config.clip == "openai/clip-vit-base-patch32"


BAD = [
    (["--n", "1"], "--n 1"),
    (["--batch-size", "1"], "--batch-size 1"),
    (["--image-size", "20"], "--image-size 20"),
    (["--image-size", "400xx"], "--image-size"),
    (["--arms", "removal", "removal"], "--arms"),
    (["--arms", "repaint"], "arms"),
    (["--root", "x"], "--prepared"),
    (["--prepared", "x"], "--root"),
    (["--prepared", "none here", "--root", "x"], "none here"),
    (["--steps", "0"], "--steps 0"),
    (["--guidance", "nan"], "--guidance nan"),
    (["--seed", "-1"], "--seed -1"),
    (["--weights", "nowhere"], "nowhere"),
    (["--lpips", "no file"], "no file"),
    (["--out", "/dev/null/x"], "/dev/null"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_refused(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from graft_common.console import Verb, run_command

    verbs = {"evaluate": Verb(EvaluateConfig, "mobi.evaluate:run_evaluate")}
    verbs["prepare"] = Verb(PrepareConfig, "mobi.prepare:run_prepare")  # one verb alone would take no name
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    assert run_command("graft-mobi", verbs, ["evaluate", *words, *out]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and "\n" not in told and not (tmp_path / "out").exists()
