"""The claims tool turns what `evaluate` and `study` write into tables, and rows of numbers keep their places."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("diffusionmix_claims", ROOT / "tools" / "diffusionmix_claims.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def summary(mean: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - 0.1, mean + 0.1], "n": 8}


def row(setting: str, **more: Any) -> dict[str, Any]:
    base = {"setting": setting, "start": None, "tau": None, "r": None, "calls": 52.0, "n": 8, "empty": 1}
    return base | {"harmony": summary(0.3), "contrast": summary(0.9), "iou": summary(0.8)} | more


def test_tables(tool: Any) -> None:
    found: dict[str, dict[str, Any]] = {name: {} for name in ("objects", "few", "grid", "baselines", "samplers", "use", "speed")}
    assert tool.tables(found) == ""
    both = {"generated": {"mask_iou": summary(0.91), "nearest_ratio": summary(0.85)}, "real, held out": {"mask_iou": summary(0.97)}}
    found["objects"]["texture"] = {"classes": {"blob": both}, "classifier_accuracy": 0.99}
    found["baselines"]["texture"] = {
        "rows": [row("ours"), row("hard paste", fid_tiny=summary(12.0))],
        "findings": {"tiny": {"baselines": {"ours nearer to the truth than: hard paste": summary(0.9), "x: y": None}}},
    }
    grid = [row(f"start {s} r {r}", start=s, tau=10, r=r, l1=summary(0.02)) for s in (0.5, 0.9) for r in (0, 1, 5)]
    grid += [row(f"start {s} climb 0 r 0", start=s, tau=0, r=10, l1=summary(0.02)) for s in (0.5, 0.9)]
    cost = {"10": {"detail_costs_from_r": 5, "l1": [0.0], "harmony_raised": False, "p": 0.4, "most": 5, "n": 8}}
    found["grid"]["texture"] = {"rows": [row("true pictures"), *grid], "findings": {"tiny": {"grid": {"start 0.9": cost}}}}
    bound = {"mean": 0.01, "upper95": 0.015, "n": 8, "margin": 0.02, "holds": True}
    found["samplers"]["texture"] = {
        "rows": [row("ddpm")], "findings": {"tiny": {"samplers": {"ddim not worse than ddpm": {"iou": bound, "all": False}}}},
    }  # fmt: skip
    found["use"]["texture"] = {"both": {"image_auroc": summary(0.9), "pixel_aupro": summary(0.8)}}
    found["speed"]["texture"] = {"pictures": 8, "calls": 52, "seconds": 12.34, "threads": 2}
    text = tool.tables(found)
    for line in (
        "| blob |  | 0.91 [0.81, 1.01] |  |  |  | 0.85 [0.75, 0.95] |",
        "| hard paste | 0.300 [0.200, 0.400] |  | 0.900 [0.800, 1.000] |  | 0.800 [0.700, 0.900] | 12.00 [11.90, 12.10] |"
        " 52 | 1 of 8 |",
        "| hard paste | 0.90 [0.80, 1.00] |",
        "| start 0.9, tau 10 | 5 | no (0.400) |",
        "| ddim not worse than ddpm | 0.010 (bound 0.015) |  |  | no |",
        "| both | 0.900 [0.800, 1.000] | 0.800 [0.700, 0.900] |",
        "texture: 8 pictures with 52 calls in 12.3 s on 2 CPU threads.",
    ):
        assert line in text.splitlines(), line
    assert "start 0.9 r 5" in text and "start 0.5 r 5" not in text and "start 0.5 r 1" in text
    assert "start 0.5 climb 0 r 0" in text and "start 0.9 climb 0 r 0" in text
    for table in text.split("\n\n"):  # every row has as many cells as its head
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, table


def test_a_part_is_kept_by_its_weights_and_numbers(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "digest", lambda weights: f"digest of {weights}")
    one = tool.Settings(cache=tmp_path, few=tmp_path / "absent")
    names = [tool.kept(part, world, one) for part in tool.RUN for world in ("texture", "scene")]
    assert len(set(names)) == len(names) and set(tool.COUNTED) == set(tool.RUN)
    other = tool.Settings(cache=tmp_path, few=tmp_path / "absent", grid=8, texture="mine")
    assert tool.kept("grid", "scene", one) != tool.kept("grid", "scene", other)
    assert tool.kept("use", "scene", one) == tool.kept("use", "scene", other)
    assert tool.kept("use", "texture", one) != tool.kept("use", "texture", other)
