"""Section 9 of the specification, numbers 13 to 20 and 24, on denoisers known in closed form, in float64.

The judge is `naive`: the method written down once more, one sample and one lesion, straight from sections 2.5 and 2.6.
"""

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_common.bundle import Bundle
from graft_common.errors import InputError
from graft_common.inversion import dpm_grid, dpm_walk
from tficomp.config import MethodConfig
from tficomp.denoise import Denoiser, compose, reference, run
from tficomp.encode import Latents

ABAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
GRID = dpm_grid(ABAR, 20)


def gaussian(mu=0.1, s=0.9, grid=GRID):
    """Clean prediction of the exact denoiser for data N(mu, s^2)."""

    def m(x, k):
        a, b = float(grid.alpha[k]), float(grid.sigma[k])
        return mu + a * s * s * (x - a * mu) / (a * a * s * s + b * b)

    return m


PLAIN, PROMPT = gaussian(), gaussian(0.9, 0.5)


def draw(seed, *shape):
    return 0.1 + 0.9 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def square(low, high, size=12):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, low:high, low:high] = True
    return mask


def latents(objects=1, batch=1, m_obj=None, m_user=None, owner=None):
    words = torch.zeros(batch, 1, 1)
    return Latents(
        draw(1, batch, 2, 12, 12), draw(2, objects, 2, 12, 12), torch.tensor(owner or [0] * objects),
        torch.stack([square(4, 7)] * objects) if m_obj is None else m_obj,
        torch.stack([square(2, 9)] * batch) if m_user is None else m_user,
        words, words, words[:1],
    )  # fmt: skip


def settled(**changes):
    config = MethodConfig(**changes)
    config.check()
    return config


def composed(config, z=None, words=PROMPT, grid=GRID, plain=PLAIN):
    z = z or latents()
    return compose(z, words, reference(z, plain, config, grid), config, grid)


def naive(config, z, plain, words, grid=GRID):
    """One sample, one lesion: k -> X_k, from the formulas alone."""
    lam, alpha, sigma = ([float(v) for v in getattr(grid, n)] for n in ("lam", "alpha", "sigma"))

    def walk(m, x, path, old=None):
        states, before = {path[0]: x}, None
        for s, t in pairwise(path):
            h, now = lam[t] - lam[s], m(x, s)
            mixed = now
            if old is not None and config.order == 2:
                r = (lam[s] - lam[before if before is not None else path[0] + 1]) / h
                mixed = now + (now - old) / (2 * r)
            x = sigma[t] / sigma[s] * x - alpha[t] * (math.exp(-h) - 1) * mixed
            states[t], old, before = x, now, s
        return states, old

    top, start = grid.steps, config.start
    up = {name: walk(plain, x, range(top + 1))[0] for name, x in (("b", z.background), ("o", z.objects))}
    down = {name: walk(plain, states[top], range(top, -1, -1))[0] for name, states in up.items()}
    used = down if config.states == "reconstruct" else up
    inside, where = z.m_user, z.m_obj
    merged = lambda b, o: torch.where(where, o, b)  # noqa: E731
    x = merged(used["b"][start], used["o"][start])
    old, before, states = None, None, {start: x}
    if config.memory == "carry" and start < top:
        old = merged(plain(down["b"][start + 1], start + 1), plain(down["o"][start + 1], start + 1))
        before = start + 1
    for k in range(start, 0, -1):
        now = words(x, k)
        if config.rectify == "after" and k >= config.lowest_rectified:
            x = torch.where(inside, x, used["b"][k])
        h, mixed = lam[k - 1] - lam[k], now
        if old is not None and config.order == 2:
            mixed = now + (now - old) * h / (2 * (lam[k] - lam[before]))
        x = sigma[k - 1] / sigma[k] * x - alpha[k - 1] * (math.exp(-h) - 1) * mixed
        if config.rectify == "before" and k - 1 >= config.lowest_rectified:
            x = torch.where(inside, x, used["b"][k - 1])
        old, before, states[k - 1] = now, k, x
    return states


def walked(x, m=PLAIN, grid=GRID):
    """k -> state of inverting x and sampling it back, by the core's own walk."""
    rows = dpm_walk(m, dpm_walk(m, x, grid, invert=True)[-1], grid)
    return {grid.steps - j: row for j, row in enumerate(rows)}


@pytest.mark.parametrize("changes", [
    {}, {"order": 1}, {"memory": "carry"}, {"rectify": "after"}, {"states": "inversion"}, {"t_start": 20}, {"t_start": 1},
    {"t_start": 12, "tau": 2, "tau_mode": "count"}, {"t_start": 19, "memory": "carry", "rectify": "after"}, {"tau": 0},
])  # fmt: skip
def test_the_whole_method_is_the_formulas(changes):
    config, z = settled(**changes), latents()
    got, want = composed(config, z).states, naive(config, z, PLAIN, PROMPT)
    assert set(got) == set(want)
    for k in want:
        torch.testing.assert_close(got[k], want[k], rtol=0, atol=1e-11)


def test_13_merge_is_object_on_its_mask_and_background_elsewhere():
    z = latents()
    x = composed(settled(), z).states[6]
    background, thing = walked(z.background)[6], walked(z.objects)[6]
    on = z.m_obj.expand_as(x)
    assert torch.equal(x[on], thing[on]) and torch.equal(x[~on], background[~on])


def test_14_background_is_kept_until_tau_and_free_after():
    z = latents()
    states, background = composed(settled(), z).states, walked(z.background)
    outside = ~z.m_user.expand_as(z.background)
    for k in (6, 5, 4, 3):
        assert torch.equal(states[k][outside], background[k][outside])
    for k in (2, 1, 0):
        assert float((states[k] - background[k])[outside].abs().max()) > 1e-3


def test_15_level_and_count_agree_where_they_should():
    by = {
        (mode, tau): composed(settled(tau=tau, tau_mode=mode)).states[0]
        for mode in ("level", "count")
        for tau in range(7)
    }
    for tau in range(7):
        assert torch.equal(by["level", tau], by["count", 6 - tau])
    assert torch.equal(by["level", 3], by["count", 3])
    assert not torch.equal(by["level", 1], by["count", 1])


def test_16_ablation_order():
    """The paper's order (tau = 1 farther from the background than tau = 5) is the count's; the level reverses it.

    In between the order is not monotone: the last step is long in lambda and second order, so that it extrapolates from a
    rectified state as well.
    """
    z = latents()
    clean, outside = walked(z.background)[0], ~z.m_user.expand_as(z.background)

    def error(mode, tau):
        return float((composed(settled(tau=tau, tau_mode=mode), z).states[0] - clean)[outside].square().mean().sqrt())

    assert error("count", 0) > error("count", 1) > error("count", 2) > error("count", 3)
    assert error("count", 1) > error("count", 5) > error("count", 6) == 0
    assert error("level", 1) < error("level", 5)


def test_17_without_a_lesion_and_words_the_background_comes_back():
    z = latents(m_obj=torch.zeros(1, 1, 12, 12, dtype=torch.bool))
    background = walked(z.background)[0]
    carried = composed(settled(memory="carry"), z, PLAIN).states[0]
    restarted = composed(settled(), z, PLAIN).states[0]
    assert float((carried - background).abs().max()) <= 1e-6
    assert 0 < float((restarted - background).square().mean().sqrt()) < 5e-2


def test_18_a_lesion_everywhere_is_the_object():
    everywhere = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    z = latents(m_obj=everywhere, m_user=everywhere)
    got = composed(settled(memory="carry"), z, PLAIN).states[0]
    assert float((got - walked(z.objects)[0]).abs().max()) <= 1e-6


def test_19_ends_of_the_start():
    z = latents()
    on = z.m_obj.expand_as(z.background)
    pasted = torch.where(on, z.objects, z.background)
    straight = composed(settled(t_start=0, states="inversion"), z)
    assert set(straight.states) == {0} and torch.equal(straight.states[0], pasted)
    back = torch.where(on, walked(z.objects)[0], walked(z.background)[0])
    assert torch.equal(composed(settled(t_start=0), z).states[0], back)
    whole = composed(settled(t_start=20, tau=3), z).states
    assert set(whole) == set(range(21)) and bool(whole[0].isfinite().all())


@pytest.mark.parametrize("changes, flag", [
    ({"t_start": 21}, "--t-start 21"), ({"t_start": -1}, "--t-start -1"), ({"tau": 7}, "--tau 7"),
    ({"t_start": 2, "tau": 3}, "--tau 3"), ({"steps": 0}, "--steps 0"), ({"tau": 9, "tau_mode": "count"}, "--tau 9"),
    ({"guidance": math.nan}, "--guidance nan"), ({"memory": "carry", "states": "inversion"}, "--memory carry"),
])  # fmt: skip
def test_19_what_cannot_be_is_refused(changes, flag):
    with pytest.raises(InputError, match=flag):
        settled(**changes)


@pytest.mark.parametrize(
    "steps, start, tau", [(1, 1, 0), (2, 1, 0), (5, 2, 1), (10, 3, 2), (15, 5, 2), (20, 6, 3), (50, 15, 8)]
)
def test_defaults_scale_with_the_steps(steps, start, tau):
    """T' = 0.30 T and tau = 0.15 T, nearest integers with halves up; a small T is never refused."""
    config = settled(steps=steps)
    assert (config.start, config.lowest_rectified) == (start, tau)
    grid = dpm_grid(ABAR, steps)
    states = composed(config, words=gaussian(0.9, 0.5, grid), plain=gaussian(grid=grid), grid=grid).states
    assert set(states) == set(range(start + 1)) and bool(states[0].isfinite().all())


def test_later_lesions_lie_over_earlier_ones():
    m_obj = torch.stack([square(3, 7), square(5, 9), square(4, 6)])
    z = latents(3, 2, m_obj=m_obj, m_user=torch.stack([square(2, 10)] * 2), owner=[0, 0, 1])
    x, b, o = composed(settled(), z).states[6], walked(z.background)[6], walked(z.objects)[6]
    want = b.clone()
    want[0] = torch.where(m_obj[1], o[1], torch.where(m_obj[0], o[0], b[0]))
    want[1] = torch.where(m_obj[2], o[2], b[1])
    assert torch.equal(x, want)
    assert not torch.equal(o[0][:, 5:7, 5:7], o[1][:, 5:7, 5:7])  # the overlap would show the wrong order


def only(z, sample):
    mine = z.owner == sample
    one = slice(sample, sample + 1)
    return Latents(
        z.background[one], z.objects[mine], torch.zeros(int(mine.sum()), dtype=torch.long), z.m_obj[mine], z.m_user[one],
        z.text[one], z.null[one], z.exceptional,
    )  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.booleans())
def test_nothing_is_shared_between_samples(owner, carry):
    """A sample alone equals the sample in a batch, bit for bit where the denoiser works value by value."""
    owner = sorted(owner)
    boxes = torch.stack([square(2 + i, 6 + i) for i in range(len(owner))])
    users = torch.stack([square(1, 11), square(3, 8), square(0, 12)])
    z = latents(len(owner), 3, boxes, users, owner)
    config = settled(memory="carry" if carry else "restart", steps=8)
    grid = dpm_grid(ABAR, 8)
    models = {"words": gaussian(0.9, 0.5, grid), "plain": gaussian(grid=grid), "grid": grid}
    whole = composed(config, z, **models).states[0]
    for sample in set(owner):
        assert torch.equal(composed(config, only(z, sample), **models).states[0][0], whole[sample])


def toy_bundle(prediction="epsilon"):
    return Bundle("toy", Path("."), torch.nn.Linear(1, 1), None, None, None, {"prediction_type": prediction}, ABAR)


class Network:
    """A UNet's face over a closed-form denoiser: epsilon or v from its clean prediction; the words shift the mean."""

    def __init__(self, prediction, grid=GRID):
        self.prediction, self.grid = prediction, grid

    def __call__(self, x, time, encoder_hidden_states):
        k = int((self.grid.time.float() - time.float()).abs().argmin())
        a, s = float(self.grid.alpha[k]), float(self.grid.sigma[k])
        mu = encoder_hidden_states.mean(dim=(1, 2)).view(-1, 1, 1, 1).double()
        clean = mu + a * 0.81 * (x.double() - a * mu) / (a * a * 0.81 + s * s)
        eps = (x.double() - a * clean) / s
        out = eps if self.prediction == "epsilon" else a * eps - s * clean
        return SimpleNamespace(sample=out.float())


def single(z):
    """The latents of a run: float32, prompt states with another mean than the empty one."""
    names = ("background", "objects")
    parts = {name: getattr(z, name).float() for name in names}
    batch = len(z.background)
    return Latents(
        parts["background"], parts["objects"], z.owner, z.m_obj, z.m_user, torch.full((batch, 3, 4), 0.6),
        torch.full((batch, 3, 4), 0.1), torch.full((1, 1, 4), 0.2),
    )  # fmt: skip


def test_epsilon_and_v_prediction_give_the_same_picture():
    """One clean prediction, two ways to say it (Salimans & Ho 2022): same states, guided or not."""
    z, config = single(latents()), settled()
    got = [
        run(z, Denoiser(toy_bundle(kind), GRID, network=Network(kind)), config).states
        for kind in ("epsilon", "v_prediction")
    ]
    for k in range(7):
        torch.testing.assert_close(got[0][k], got[1][k], rtol=0, atol=2e-5)


def test_guidance_pushes_from_null_to_text():
    """s = 1 is the prompt's model; s = 5 is e_null + 5 (e_text - e_null), here against the formula on the clean scale."""
    z = single(latents())
    denoiser = Denoiser(toy_bundle(), GRID, network=Network("epsilon"))
    x = z.background
    plain = {mean: denoiser.plain(torch.full((1, 3, 4), mean))(x, 6) for mean in (0.1, 0.6)}
    for scale in (1.0, 2.5, 5.0):
        got = denoiser.guided(z.null, z.text, scale)(x, 6)
        torch.testing.assert_close(got, plain[0.1] + scale * (plain[0.6] - plain[0.1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("objects, batch, changes, calls, items", [
    (1, 1, {}, 20 + 17 + 6, 20 + 20 + 17 + 14 + 12),
    (1, 1, {"states": "inversion"}, 20 + 6, 20 + 20 + 12),
    (1, 1, {"guidance": 1.0}, 43, 71 + 6),
    (2, 1, {}, 43, 20 * 3 + 14 * 3 + 3 + 12),
    (3, 3, {}, 43, 3 * 83),
    (1, 1, {"t_start": 0}, 40, 80),
    (1, 1, {"t_start": 20}, 20 + 17 + 20, 20 + 20 + 17 + 40),
    (1, 1, {"order": 1, "grid": "lambda"}, 43, 83),
])  # fmt: skip
def test_24_network_calls(objects, batch, changes, calls, items):
    z = single(latents(objects, batch, owner=[i % batch for i in range(objects)]))
    config = settled(**changes)
    denoiser = Denoiser(toy_bundle(), GRID, network=Network("epsilon"))
    run(z, denoiser, config)
    assert (denoiser.calls, denoiser.items) == (calls, items)


def test_20_global_generators_play_no_part():
    z, states = single(latents()), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        states.append(run(z, Denoiser(toy_bundle(), GRID, network=Network("epsilon")), settled()).states[0])
    assert torch.equal(*states)
