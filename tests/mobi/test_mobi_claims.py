"""The tool that writes the README's tables: what it says, where it says it, and what it keeps."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mobi.records import Crops, Painted

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("mobi_claims", ROOT / "tools" / "mobi_claims.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def finding(what: str, holds: bool) -> dict[str, Any]:
    value = {"mean": 0.25, "ci95": [0.2, 0.3], "n": 7}
    return {"what": what, "value": value, "wanted": ">= 0.4", "holds": holds, "aim": None, "aim_reached": None}


EVALUATED = {
    "tables": {"car": {"truth": {"camera_index": {"mean": 0.9, "ci95": [0.8, 1.0], "n": 7}}}},
    "findings": {"car": [finding("kept", True), finding("broken", False)]},
    "backbones": {"clip": "clip_i_tiny"},
}


def test_promises_that_do_not_hold_are_listed(tool: Any) -> None:
    speed = {
        "insert_verb_after_imports_seconds": 5.25, "wanted_at_most_seconds": 8, "with_all_loaded_seconds": {"one edit": 2.0},
        "steps": 50, "threads": 2,
    }  # fmt: skip
    text = tool.tables({"evaluate": EVALUATED, "speed": speed})
    assert "car: 1 of 2 promises hold." in text and "| broken | 0.250 [0.200, 0.300] | 7 | >= 0.4 |" in text
    assert "| kept |" not in text and "| truth | 0.900 [0.800, 1.000] |" in text
    assert "clip clip_i_tiny." in text and "50 steps, 2 CPU threads: the verb `insert` after imports" in text
    assert "5.2 s (wanted: at most 8 s); with everything loaded: one edit 2.0 s." in text


def test_the_timed_insert_reads_its_weights_and_writes_its_files(tool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are forgotten before both runs of the verb, and the second, with all its steps, is the one that counts."""
    events: list[str] = []

    class StandIn:
        size, weights = 64, {"name": "stand-in", "sha256": "0" * 64}

        def __call__(self, crops: Crops, seeds: list[int]) -> Painted:
            events.append(f"paint {len(seeds)}")
            return Painted(crops.camera, crops.lidar)

    def load(config: Any, quiet: bool = True) -> StandIn:
        events.append(f"load for {config.steps} steps")
        return StandIn()

    class Cache:
        @staticmethod
        def cache_clear() -> None:
            events.append("forget")

    monkeypatch.setattr("mobi.pipeline.load_painter", load)
    monkeypatch.setattr("mobi.bundle._load", Cache)
    found = tool.speed(tool.Settings(steps=3, batch_size=2, seed=5_000_006))
    one, all_steps = "load for 1 steps", "load for 3 steps"
    verb = ["forget", one, "paint 1", "forget", all_steps, "paint 1"]
    assert events == [all_steps, *verb, "paint 1", "paint 2"]
    # a verb reads and writes files beside what an edit of the loaded scene does
    assert found["insert_verb_after_imports_seconds"] > found["with_all_loaded_seconds"]["one edit"] > 0
    assert set(found["with_all_loaded_seconds"]) == {"one edit", "batch of 2"} and found["wanted_at_most_seconds"] == 8


def test_the_digest_is_of_the_weights_alone(tool: Any, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    before = tool.digest(str(tmp_path))
    (tmp_path / "note.json").write_text("{}")
    assert tool.digest(str(tmp_path)) == before
    (tmp_path / "joint.safetensors").write_bytes(b"weights")
    assert tool.digest(str(tmp_path)) != before


def test_readme_and_cache(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what lies between the markers changes; a finished part is not run again, unless its numbers are others."""
    calls: list[int] = []

    def measured(settings: Any) -> dict[str, Any]:
        calls.append(settings.n)
        return EVALUATED

    monkeypatch.setattr(tool, "digest", lambda weights: weights)
    monkeypatch.setitem(tool.RUN, "evaluate", measured)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tool.BEGIN}\nstale\n{tool.END}\nafter\n", encoding="utf-8")
    base = {"parts": ("evaluate",), "cache": tmp_path / "cache", "out": tmp_path / "claims.json", "readme": readme, "threads": 1}
    for n in (64, 64, 32):
        tool.main(tool.Settings(n=n, **base))
    assert calls == [64, 32]
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{tool.BEGIN}\n") and text.endswith(f"\n{tool.END}\nafter\n") and "stale" not in text
    said = json.loads((tmp_path / "claims.json").read_text())
    assert said["objects_of_each_class"] == 32 and said["synthetic"] is True and set(said["parts"]) == {"evaluate"}
    readme.write_text("mine\n", encoding="utf-8")
    capsys.readouterr()
    tool.main(tool.Settings(n=32, **base))
    assert readme.read_text(encoding="utf-8") == "mine\n" and "has no markers" in capsys.readouterr().out
