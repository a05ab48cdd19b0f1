"""Tones and their distance to the next class, against brute force."""

import dataclasses

import numpy as np
import pytest
from skimage.color import lab2rgb

from didgen.colours import classify, ita, named_tone, skin_margin, skin_tone, to_lab, tone_margin
from didgen.thresholds import DEFAULT


@pytest.mark.parametrize(
    ("angle", "name", "margin"),
    [(60, "very-light", 5), (55, "light", 0), (48, "light", 7), (30, "intermediate", 2), (19, "tan", 9), (-10, "brown", 20),
     (-30, "dark", 0), (-50, "dark", 20), (-120, "dark", 90)],
)  # fmt: skip
def test_skin_classes(angle, name, margin):
    assert skin_tone(angle) == name and skin_margin(angle) == margin


def test_typology_angle():
    assert ita((70.0, 5.0, 20.0)) == pytest.approx(45.0)
    assert ita((30, 8, 11.547)) == pytest.approx(-60.0, abs=1e-3)
    assert ita((65, 0, 0)) == 90.0 and ita((40, 0, 0)) == -90.0  # grey skin divides by nothing


def test_tone_margin_is_the_distance_to_the_nearest_other_class():
    """Judge: the shortest step, over many directions, after which another prototype is nearest."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    prototypes = np.array([v for _, v in DEFAULT.colors])
    steps = np.concatenate([directions, *[(prototypes - p) / np.maximum(np.linalg.norm(prototypes - p, axis=1, keepdims=True), 1e-9)
                                          for p in prototypes]])  # fmt: skip
    for lab in ((38.0, 18.5, 29.3), (42.0, 41.0, 22.0), (13.0, 3.0, 3.0), (60.0, 10.0, 10.0), (45.0, -2.0, -18.0)):
        name, margin = named_tone(lab), tone_margin(lab)
        assert name == DEFAULT.colors[int(np.linalg.norm(prototypes - lab, axis=1).argmin())][0]
        inside = classify(lab + (margin * 0.999) * steps)
        outside = classify(lab + (margin * 1.02) * steps)
        own = [n for n, _ in DEFAULT.colors].index(name)
        assert (inside == own).all() and (outside != own).any()


def test_prototypes_are_named_after_themselves_and_lie_apart():
    for name, lab in DEFAULT.colors:
        assert named_tone(lab) == name and tone_margin(lab) > 12
        byte = np.rint(lab2rgb(np.array(lab)[None, None]) * 255).astype(np.uint8)
        assert np.abs(to_lab(byte)[0, 0] - lab).max() < 1.0  # inside sRGB


def test_other_prototypes_are_used():
    two = dataclasses.replace(DEFAULT, colors=(("red", (0.0, 0.0, 0.0)), ("black", (10.0, 0.0, 0.0))))
    assert named_tone((6, 3, 0), two) == "black" and tone_margin((6.5, 50, -7), two) == pytest.approx(1.5)
