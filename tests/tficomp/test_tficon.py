"""TF-ICON: logits against a naive loop, injected calls against a naive attention, the lockstep against plain runs."""

import numpy as np
import pytest
import torch

from graft_common import bundle as weights
from graft_common.inversion import dpm_grid, dpm_walk
from graft_common.rng import noise
from tficomp.baselines import run_baseline
from tficomp.config import MethodConfig
from tficomp.denoise import Denoiser
from tficomp.encode import encode
from tficomp.inputs import Sources, read_inputs
from tficomp.place import latent_mask, place
from tficomp.tficon import cells, centred, inject_logits, injected, run_tficon, span, start

CONFIG = MethodConfig(steps=4, context=0.0, guidance=3.0)
UNIT = 8  # pixels of the coarsest attention cell of the random bundle: factor 4, two levels


def sample(seed: int, corners=((4, 12),)):
    """One background with one lesion for each corner (top, left) of a 14 px box."""
    rng = np.random.default_rng([92, seed])
    y, x = np.mgrid[:32, :32]
    lesion = np.hypot(y - 15, x - 17) < 6
    users = []
    for top, left in corners:
        user = np.zeros((32, 32), bool)
        user[top : top + 14, left : left + 14] = True
        users.append(user)
    images = tuple(
        np.where(lesion, 230 - 40 * i, rng.integers(0, 120, (32, 32))).astype(np.uint8) for i in range(len(users))
    )
    back = rng.integers(60, 180, (32, 32), np.uint8)
    return read_inputs(Sources(back, images, (lesion,) * len(users), tuple(users), "a tumor", seed=seed))


@pytest.fixture(scope="module")
def bundle(random_bundle):
    return weights.load(str(random_bundle))


@pytest.fixture(scope="module")
def scene(bundle):
    samples = [sample(0), sample(1, corners=((2, 3), (16, 15)))]
    placed = [place(s, CONFIG, 32, 4) for s in samples]
    moved, shifts = centred(placed, 4, UNIT)
    return samples, placed, moved, shifts, encode(moved, [s.prompt for s in samples], bundle)


def naive(S, S_bg, q_bg, k_ref, S_ref, box, O, R, scale):  # noqa: E741
    """The spec's four assignments, entry by entry."""
    out, box = S.copy(), set(box.tolist())
    heads, n, _ = S.shape
    for h in range(heads):
        for i in range(n):
            for j in range(n):
                if i not in box and j not in box:
                    out[h, i, j] = S_bg[h, i, j]
        for o, r in zip(O.tolist(), R.tolist(), strict=True):
            for i in range(n):
                value = scale * sum(q_bg[h, i, c] * k_ref[h, r, c] for c in range(q_bg.shape[2]))
                out[h, i, o] = out[h, o, i] = value
        for o, r in zip(O.tolist(), R.tolist(), strict=True):
            for p, s in zip(O.tolist(), R.tolist(), strict=True):
                out[h, o, p] = S_ref[h, r, s]
    return out


def test_injected_logits_are_the_formulas_in_float64():
    gen = torch.Generator().manual_seed(0)
    for heads, n, d, box, O, R in (  # noqa: E741
        (2, 16, 3, [5, 6, 9, 10, 11], [6, 10], [2, 6]),
        (1, 9, 5, [0, 1, 3, 4], [0, 1, 4], [4, 5, 8]),
        (3, 12, 4, [7], [7], [0]),
    ):
        q, k, qb, kb, qr, kr = (torch.randn(heads, n, d, generator=gen, dtype=torch.float64) for _ in range(6))
        scale = d**-0.5
        S, S_bg, S_ref = (scale * a @ b.transpose(1, 2) for a, b in ((q, k), (qb, kb), (qr, kr)))
        before = S.clone()
        args = [torch.tensor(i) for i in (box, O, R)]
        made = inject_logits(S, S_bg, qb, kr, S_ref, *args, scale)
        wanted = naive(*(t.numpy() for t in (S, S_bg, qb, kr, S_ref)), *(a.numpy() for a in args), scale)
        assert np.abs(made.numpy() - wanted).max() < 1e-10
        assert torch.equal(S, before)


def test_an_injected_call_equals_a_unet_with_naive_attention(bundle, scene):
    """Every self-attention site of the conditional rows, on both grids, two lesions in one sample; other rows untouched."""
    _, placed, _, shifts, latents = scene
    count, owner = 2, latents.owner.tolist()
    gen = torch.Generator().manual_seed(3)
    x = torch.randn(3 * count + len(owner), 4, 8, 8, generator=gen)
    words = torch.randn(len(x), 5, 32, generator=gen)
    denoiser = Denoiser(bundle, dpm_grid(bundle.alphas_cumprod, 4))
    with torch.no_grad():
        plain = denoiser.output(x, 3, words)
        with injected(latents, shifts, denoiser):
            made = denoiser.output(x, 3, words)
        after = denoiser.output(x, 3, words)

        class Naive:
            """Attention written out; for rows 2 and 3 the logits are replaced by the loop above."""

            def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
                words = hidden_states if encoder_hidden_states is None else encoder_hidden_states
                q, k, v = (
                    f(a).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                    for f, a in ((attn.to_q, hidden_states), (attn.to_k, words), (attn.to_v, words))
                )
                S = attn.scale * q @ k.transpose(-1, -2)
                if encoder_hidden_states is None:
                    side = {64: 8, 16: 4}[S.shape[-1]]
                    pixels = 32 // side
                    for i in range(count):
                        n = 2 * count + i
                        box = latent_mask(self.user(i), pixels, "area", every=True)
                        box = torch.from_numpy(np.flatnonzero(box))
                        row, S_bg = S[count + i], S[n]
                        for j in (j for j, o in enumerate(owner) if o == i):
                            mask = self.lesion(j).reshape(side, 8 // side, side, 8 // side).mean(axis=(1, 3))
                            ys, xs = np.nonzero(mask >= 0.5 if (mask >= 0.5).any() else mask == mask.max())
                            down, right = (s * side // 8 for s in shifts[j])
                            O, R = ys * side + xs, (ys - down) * side + xs - right  # noqa: E741
                            r = 3 * count + j
                            parts = (row, S_bg, q[n], k[r], S[r])
                            done = naive(*(t.double().numpy() for t in parts), box, O, R, attn.scale)
                            row = S_bg = torch.from_numpy(done).float()
                        S[count + i] = row
                out = (S.softmax(-1) @ v).transpose(1, 2).flatten(2)
                return attn.to_out[0](out)

            def user(self, i):
                return np.repeat(np.repeat(placed[i].m_user, 4, axis=0), 4, axis=1)

            def lesion(self, j):
                return latents.m_obj[j, 0].numpy().astype(float)

        stock = dict(bundle.unet.attn_processors)
        bundle.unet.set_attn_processor(Naive())
        try:
            wanted = denoiser.output(x, 3, words)
        finally:
            bundle.unet.set_attn_processor(stock)
    assert torch.equal(plain, after)
    changed = (made - plain).abs().amax(dim=(1, 2, 3))
    assert (changed[2:4] > 1e-3).all() and (changed[[0, 1, 4, 5, 6, 7, 8]] < 1e-6).all()
    assert (made - wanted).abs().max() < 1e-4 * float(changed.max() + 1)


def test_centred_objects_cover_the_same_cells_shifted_on_every_grid(scene):
    _, placed, moved, shifts, latents = scene
    j = 0
    for before, after in zip(placed, moved, strict=True):
        for i in range(len(before.objects)):
            down, right = shifts[j]
            assert down % 2 == right % 2 == 0  # whole cells of the coarser grid too
            np.testing.assert_array_equal(
                np.roll(after.objects[i], (4 * down, 4 * right), axis=(1, 2)), before.objects[i]
            )
            lit = np.argwhere((after.objects[i] > -1).any(axis=0))
            middle = (lit.min(axis=0) + lit.max(axis=0) + 1) / 2
            assert np.abs(middle - 16).max() <= UNIT / 2  # the nearest whole move
            assert (lit.max(axis=0) - lit.min(axis=0)).max() < 20  # in one piece: nothing wrapped round
            j += 1
    assert j == len(latents.owner) == 3


def test_cells_follow_coverage(scene):
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:5, 2] = True
    assert cells(mask, (8, 8), True) is mask
    every, half = cells(mask, (4, 4), True), cells(mask, (4, 4), False)
    assert every.nonzero().tolist() == [[1, 1], [2, 1]] and half.nonzero().tolist() == [[1, 1]]
    lone = torch.zeros(8, 8, dtype=torch.bool)
    lone[7, 0] = True
    assert cells(lone, (4, 4), False).nonzero().tolist() == [[3, 0]]


def test_span_is_the_papers_at_twenty_steps_and_scales():
    at = span(20)
    calls = list(range(20, at.inject - 1, -1))
    assert calls == [20, 19, 18, 17, 16, 15, 14] and (at.high, at.low) == (18, 6)
    assert (span(40).inject, span(40).high, span(40).low) == (27, 36, 12)
    assert span(1).inject == 1


def test_start_is_equation_seven(scene):
    _, placed, _, shifts, latents = scene
    gen = torch.Generator().manual_seed(4)
    background, references = torch.randn(2, 4, 8, 8, generator=gen), torch.randn(3, 4, 8, 8, generator=gen)
    x = start(background, references, latents, shifts, [11, 12])
    for i, p in enumerate(placed):
        ring = noise((4, 8, 8), 11 + i, 7)
        lesion = p.m_obj.any(axis=0)
        for r in range(8):
            for c in range(8):
                if lesion[r, c]:
                    j = max(
                        j for j in range(3) if latents.owner[j] == i and latents.m_obj[j, 0, r, c]
                    )  # later over earlier
                    wanted = references[j, :, r - shifts[j][0], c - shifts[j][1]]
                else:
                    wanted = ring[:, r, c] if p.m_user[r, c] else background[i, :, r, c]
                assert torch.equal(x[i, :, r, c], wanted)


def test_the_background_runs_in_lockstep_as_it_would_alone_and_rectifies_the_composition(bundle, scene):
    _, _, _, shifts, latents = scene
    denoiser = Denoiser(bundle, dpm_grid(bundle.alphas_cumprod, 4))
    composed, backgrounds = run_tficon(latents, shifts, denoiser, CONFIG, [0, 1])
    at = span(4)
    alone = Denoiser(bundle, denoiser.grid)
    m = alone.plain(latents.exceptional)
    noisy = dpm_walk(m, latents.background, denoiser.grid, 2, invert=True)[-1]
    wanted = dpm_walk(m, noisy, denoiser.grid, 2, stop=at.low)
    for k, x in backgrounds.items():
        torch.testing.assert_close(x, wanted[4 - k], rtol=0, atol=2e-4)
    outside = ~latents.m_user.expand_as(latents.background)
    for k, x in composed.items():
        if at.low <= k <= at.high:
            assert torch.equal(x[outside], backgrounds[k][outside])
    assert not torch.equal(composed[0][outside], wanted[-1][outside])  # the last steps are free
    assert sorted(composed) == [0, 1, 2, 3, 4]


def test_calls_and_pictures_at_twenty_steps(bundle):
    """20 inverting calls of 2, 7 injected of 4, 7 of 3 and 6 of 2 for one sample with one lesion."""
    seen = []

    class Counted(Denoiser):
        def output(self, x, k, context):
            self.calls, self.items = self.calls + 1, self.items + len(x)
            seen.append((k, len(x)))
            return 0.1 * x

    counter = Counted(bundle, dpm_grid(bundle.alphas_cumprod, 20))
    run_baseline("tficon", [sample(5)], MethodConfig(context=0.0), bundle, [0], counter=counter)
    assert seen[:20] == [(k, 2) for k in range(20)]
    assert [n for _, n in seen[20:]] == [4] * 7 + [3] * 7 + [2] * 6
    assert (counter.calls, counter.items) == (40, 20 * 2 + 7 * 4 + 7 * 3 + 6 * 2)


def test_results_do_not_depend_on_the_batch_but_on_the_seed(bundle):
    pair = [sample(6), sample(7)]
    both = run_baseline("tficon", pair, CONFIG, bundle, [3, 4])
    alone = run_baseline("tficon", pair[1:], CONFIG, bundle, [4])
    np.testing.assert_allclose(both[1].frame_pixels, alone[0].frame_pixels, atol=5e-3)
    other = run_baseline("tficon", pair[1:], CONFIG, bundle, [5])
    assert np.abs(other[0].frame_pixels - alone[0].frame_pixels).max() > 2e-2
