"""Intensity and depth maps (mobi spec section 8, properties 11 and 12), against closed forms and numpy.interp."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import expon

from graft_common.errors import InputError
from graft_common.rangeview import normalise_depth, normalise_intensity, restore_depth, restore_intensity

BANDS = [(-0.8, -0.6), (-0.1, -0.08), (0.3, 0.9), (-1.0, -0.9), (0.9, 1.0), (-1.0, 1.0)]


@pytest.mark.parametrize("dtype,slack", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_property_11_intensity(dtype, slack):
    i = torch.arange(256, dtype=dtype)
    value = normalise_intensity(i)
    want = 2 * expon(scale=255 / 4).cdf(np.arange(256)) - 1  # a distribution function, spread over [-1, 1]
    assert np.abs(value.numpy() - want).max() < slack
    assert (value.diff() > 0).all()
    assert float(value[0]) == -1 and abs(float(value[255]) - (1 - 2 * math.exp(-4))) < slack
    fine = torch.linspace(0, 255, 5001, dtype=dtype)
    assert (restore_intensity(normalise_intensity(fine)) - fine).abs().max() <= 1e-3
    ends = restore_intensity(torch.tensor([1.0, 7.0, -1.0, -9.0, 0.0], dtype=dtype)).tolist()
    assert ends == pytest.approx([255, 255, 0, 0, 255 * math.log(2) / 4], abs=1e-3) and max(ends) <= 255
    raw = torch.tensor([-5.0, 300.0], dtype=dtype)
    assert torch.equal(normalise_intensity(raw), normalise_intensity(raw.clamp(0, 255)))


@pytest.mark.parametrize("lo,hi", BANDS)
@pytest.mark.parametrize("alpha", [0.75, 0.5])
@pytest.mark.parametrize("dtype,slack", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_property_12_depth(lo, hi, alpha, dtype, slack):
    d = torch.linspace(-1, 1, 4001, dtype=dtype)
    # where a branch has no length its knot is a jump that no depth reaches from outside the band
    knots = [(-1, -1)] * (lo > -1) + [(lo, -alpha), (hi, alpha)] + [(1, 1)] * (hi < 1)
    want = np.interp(d.double().numpy(), *zip(*knots, strict=True))
    value = normalise_depth(d, lo, hi, alpha)
    assert np.abs(value.double().numpy() - want).max() < 30 * slack  # slope up to 2 alpha / 0.02 on rounded depths
    assert (value.diff() > 0).all()
    assert (restore_depth(value, lo, hi, alpha) - d).abs().max() <= slack
    marks = torch.tensor([lo, hi] + [-1] * (lo > -1) + [1] * (hi < 1), dtype=dtype)
    want = [-alpha, alpha] + [-1] * (lo > -1) + [1] * (hi < 1)
    assert (normalise_depth(marks, lo, hi, alpha) - torch.tensor(want, dtype=dtype)).abs().max() <= slack
    for mark in (lo, hi):
        if -1 < mark < 1:
            at = torch.tensor([mark], dtype=dtype)
            sides = torch.cat([torch.nextafter(at, at - 1), at, torch.nextafter(at, at + 1)])
            assert np.ptp(normalise_depth(sides, lo, hi, alpha).numpy()) <= 10 * slack


@given(
    st.floats(-1, 0.9375, width=32),
    st.floats(0.03125, 1, width=32),
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_property_12_any_band_increases_and_inverts(lo, span, depths):
    hi = min(lo + span, 1.0)
    d = torch.tensor(sorted(depths))
    value = normalise_depth(d, lo, hi)
    assert value.isfinite().all() and (value.diff() >= 0).all() and value.abs().max() <= 1
    assert (restore_depth(value, lo, hi) - d).abs().max() <= 1e-6


def test_depth_values_outside_are_clamped():
    assert restore_depth(torch.tensor([-9.0, 9.0]), -0.5, 0.5).tolist() == [-1, 1]
    assert normalise_depth(torch.tensor([-9.0, 9.0]), -0.5, 0.5).tolist() == [-1, 1]


def test_every_sample_has_its_own_band():
    lo, hi = torch.tensor([-0.8, 0.1]).view(2, 1, 1), torch.tensor([-0.6, 0.4]).view(2, 1, 1)
    d = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    both = normalise_depth(d, lo, hi)
    for k in range(2):
        assert torch.allclose(both[k], normalise_depth(d[k], float(lo[k]), float(hi[k])), atol=1e-6)
        assert torch.allclose(restore_depth(both, lo, hi)[k], d[k], atol=1e-6)


@pytest.mark.parametrize(
    "lo,hi,alpha,words",
    [
        (0.2, 0.2, 0.75, "lo < hi"),
        (0.3, 0.2, 0.75, "lo < hi"),
        (-1.1, 0.2, 0.75, "-1 <= lo"),
        (0.3, 1.1, 0.75, "hi <= 1"),
        (math.nan, 0.2, 0.75, "lo < hi"),
        (0.1, 0.2, 1.0, "alpha"),
        (0.1, 0.2, 0, "alpha"),
    ],
)
def test_wrong_bands_say_what_to_do(lo, hi, alpha, words):
    for call in (normalise_depth, restore_depth):
        with pytest.raises(InputError, match=words):
            call(torch.zeros(3), lo, hi, alpha)
