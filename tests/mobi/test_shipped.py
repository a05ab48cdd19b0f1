"""The shipped tiny-mobi: its size, its own guidance scale, and what it does to held-out scenes."""

from pathlib import Path

import numpy as np

from graft_common.bundle import shipped
from mobi.bundle import load_mobi
from mobi.cases import draw_case, pick_objects
from mobi.config import CompositeConfig
from mobi.pipeline import edit_scene, load_painter

SIZE = (400, 225)


def test_size_and_guidance() -> None:
    mobi = load_mobi(CompositeConfig(device="cpu"))
    parts = (mobi.unet, mobi.vae, mobi.range_vae, mobi.image_encoder, mobi.box_encoder)
    assert sum(p.numel() for part in parts for p in part.parameters()) <= 4_000_000 and mobi.size == 128
    assert sum(p.stat().st_size for p in Path(shipped()["tiny-mobi"]).rglob("*") if p.is_file()) <= 8_000_000
    assert mobi.joint.guidance == 2  # stored, not the paper's 5


def test_pedestrians_come_and_go_in_the_lidar() -> None:
    config = CompositeConfig(device="cpu", steps=15)
    painter = load_painter(config)
    cases = [draw_case(pick, SIZE, painter.size) for pick in pick_objects(3, 10_000_900, SIZE, ("pedestrian",))]
    seeds = [case.seed for case in cases]
    into = [case.truth.empty for case in cases if case.truth is not None]
    put = edit_scene("insert", into, [case.tracked for case in cases], seeds, painter, config)
    assert np.mean([edit.measures["in_box_share"] for edit in put]) > 0.25
    gone = edit_scene("remove", [case.placed for case in cases], [None] * 3, seeds, painter, config)
    left = sum(edit.measures["standing_after"] for edit in gone) / sum(edit.measures["standing_before"] for edit in gone)
    assert left <= 0.1
