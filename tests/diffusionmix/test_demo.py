"""The demo on random networks writes what it promises; the mask channel is what the mask was cut from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusionmix import demo
from diffusionmix.compose import sample_channels, sample_objects
from diffusionmix.config import SampleObjectConfig
from diffusionmix.config_study import DemoConfig
from graft_common.errors import InputError


def test_demo(random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WORLDS", ((str(random_bundle), "texture"),))
    monkeypatch.setattr(demo, "STEPS", 3)
    monkeypatch.setattr(demo, "TRUTHS", 3)
    record = demo.run_demo(DemoConfig(out=tmp_path / "out", json=True), ["graft-diffusionmix", "demo"])
    for name in record["outputs"]:
        assert (tmp_path / "out" / name).is_file(), name
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert said["method"] == "diffusionmix" and "iou_texture" in said["metrics"]

    def pixels(name: str) -> np.ndarray:
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            return np.asarray(picture)

    height, width, _ = pixels("panel").shape
    assert width > 900 and height > 600
    for name, _ in demo.PHOTOGRAPHS:  # the photograph's own pixels outside the mask, the object's in it
        photo, inside = demo.photograph(name), pixels(f"photo_{name}_mask") > 0
        changed = (pixels(f"photo_{name}") != photo).any(-1)
        assert photo.shape == (192, 192, 3) and not changed[~inside].any() and changed[inside].mean() > 0.8
    with pytest.raises(InputError, match="--seed -1"):
        demo.run_demo(DemoConfig(seed=-1), [])


def test_channels_are_those_that_masks_are_cut_from(build: Any) -> None:
    mix, seeds = build.mix(variance=0.05), [1, 2, 3]
    settings = SampleObjectConfig(steps=12)
    drawn = sample_channels(mix, seeds, None, settings)
    for (image, mask, channel), pair in zip(drawn, sample_objects(mix, seeds, None, settings), strict=True):
        assert np.array_equal(image, pair[0]) and np.array_equal(mask, pair[1])
        assert np.array_equal(mask, channel > 127) and 1 < np.std(channel[mask]) < 64
