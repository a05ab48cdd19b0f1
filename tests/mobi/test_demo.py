"""The verb `demo` on stand-in cases, painted by the truth: what it writes and that its numbers are those of the truth."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graft_common.console import Verb, run_command
from graft_common.pixels import read_provenance
from graft_common.rangeview import camera_pixels
from mobi import config, config_batch, demo, pipeline
from mobi.cases import Case, draw_case, pick_objects
from mobi.place import range_pixels
from mobi.records import Crops, Painted

VERBS = {
    "demo": Verb(config_batch.DemoConfig, "mobi.demo:run_demo"), "view": Verb(config.ViewConfig, "mobi.view:run_view"),
}  # fmt: skip


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """To save time one car, twice, and the same under the other class's name."""
    (pick,) = pick_objects(1, 10_000_301, demo.PICTURE, ("car",))
    case = draw_case(pick, demo.PICTURE, 64)
    return [replace(case, label=label, seed=case.seed + k) for label in ("car", "pedestrian") for k in (0, 1)]


@dataclass
class Teller:
    """Paints the drawn truth of each task, whatever it is asked."""

    tasks: list[demo.Task]
    size: int = 64
    at: int = 0
    sizes: list[int] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, str]:
        return {"name": "teller", "sha256": "0" * 64}

    def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted:
        part = self.tasks[self.at : self.at + len(seeds)]
        self.at += len(seeds)
        self.sizes.append(len(seeds))
        assert [task.case.seed for task in part] == list(seeds)
        views = []
        for task in part:
            truth = task.case.truth
            assert truth is not None
            source = truth.empty if task.verb == "remove" else task.case.placed
            seen = replace(task.placed, view=source.view, scene=source.scene)
            views.append((camera_pixels(source.scene.rgb, task.placed.camera_crop, self.size), range_pixels(seen)))
        return Painted(torch.stack([c for c, _ in views]), torch.stack([r for _, r in views]))


def test_demo(cases: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks = demo.plan(cases)
    teller = Teller(tasks)
    monkeypatch.setattr(pipeline, "load_painter", lambda config, quiet=True: teller)
    monkeypatch.setattr(demo, "draw_case", lambda pick, picture, size: pick)
    monkeypatch.setattr(demo, "pick_objects", lambda n, seed, picture: cases if (n, seed) == (2, demo.FIRST + 3) else [])
    out = tmp_path / "de mo"
    assert run_command("graft-mobi", VERBS, ["demo", "--out", str(out), "--seed", "3"]) == 0
    names = [t.name for t in tasks]
    kinds = {"insert": 4, "remove": 4, "replace": 2, "turn": 6}
    assert {kind: sum(name.startswith(kind + "_") for name in names) for kind in kinds} == kinds and sum(teller.sizes) == 16
    assert {p.name for p in out.iterdir()} == {*names, "panel.png", "metrics.json", "run.json"}
    run, said = (json.loads((out / name).read_text()) for name in ("run.json", "metrics.json"))
    assert all((out / name).is_file() for name in run["outputs"]) and len(run["outputs"]) == 2 + 16 * 5 + 12
    note = read_provenance(out / "panel.png")
    assert note is not None and note["seed"] == 3 and note["weights"]["name"] == "teller"
    headings = [json.loads((out / name / "edit.json").read_text())["box"][6] for name in names if name.startswith("turn_")]
    assert np.allclose(np.degrees(np.subtract(headings, headings[0])), [0, 60, 120, 180, 240, 300])

    # the truth painted comes out as the truth
    mean = {name: m["mean"] for name, m in said["metrics"].items()}
    assert said["task"] == "demo" and said["metrics"]["insert_camera_error"]["n"] == 4
    assert mean["insert_camera_error"] < 0.25 and mean["remove_camera_error"] < 0.25
    assert 0.9 < mean["insert_returns"] < 1.1 and mean["remove_returns_left"] < 0.05 and mean["insert_agreement"] > 0.7


def test_doing_nothing_scores_one() -> None:
    rng = np.random.default_rng(0)
    before, truth = rng.integers(0, 255, (2, 8, 9, 3)).astype(np.uint8)
    where = rng.random((8, 9)) < 0.5
    assert demo.leftover(before, truth, before, where) == 1 and demo.leftover(truth, truth, before, where) == 0
    half = truth.copy()
    half[where] = ((truth.astype(int) + before) // 2)[where].astype(np.uint8)
    assert demo.leftover(half, truth, before, where) == pytest.approx(0.5, abs=0.01)
    assert demo.leftover(before, before, before, where) is None and demo.ratio(3, 0) is None
