"""Recorded maps against an eager softmax twin, computed from the hidden states that a forward pre-hook sees."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch.utils._python_dispatch import TorchDispatchMode

from graft_common.errors import InputError
from graft_common.hooks import (
    CrossColumns,
    SelfColumns,
    SelfMaps,
    Where,
    average_maps,
    edit,
    find_sites,
    record,
    resize_maps,
)


def tiny_unet(**changes) -> UNet2DConditionModel:
    torch.manual_seed(0)
    options = {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "attention_head_dim": (2, 4),
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(options | changes)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def unet():
    return tiny_unet()


def inputs(h=12, w=20, batch=2, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, 4, h, w, generator=g, dtype=torch.float64).to(dtype)
    return latent, torch.randn(batch, 7, 16, generator=g, dtype=torch.float64).to(dtype)


def forward(unet, latent, text, **kwargs):
    return unet(latent, 10, encoder_hidden_states=text, **kwargs).sample


def eager_twin(unet, latent, text, **kwargs):
    """Probabilities (B, H, N, M) per site by diffusers' own eager scores, plus the 4-D size around each site."""
    probs, sizes, undo = {}, {}, []

    def hook(attn, args, kw, name):
        states, context, mask = args[0], kw.get("encoder_hidden_states"), kw.get("attention_mask")
        source = states if context is None else context
        q, k = attn.head_to_batch_dim(attn.to_q(states)), attn.head_to_batch_dim(attn.to_k(source))
        mask = attn.prepare_attention_mask(mask, source.shape[1], len(states))
        probs[name] = attn.get_attention_scores(q, k, mask).unflatten(0, (-1, attn.heads))

    for site in find_sites(unet):
        module = unet.get_submodule(site.name)
        undo.append(module.register_forward_pre_hook(lambda m, a, kw, n=site.name: hook(m, a, kw, n), with_kwargs=True))
        around = unet.get_submodule(site.name.split(".transformer_blocks")[0])
        undo.append(
            around.register_forward_pre_hook(lambda m, a, n=site.name: sizes.update({n: tuple(a[0].shape[2:])}))
        )
    out = forward(unet, latent, text, **kwargs)
    for handle in undo:
        handle.remove()
    return out, probs, sizes


def masks_on(grid):
    h, w = grid
    return (torch.arange(h * w, dtype=torch.float64).reshape(1, h, w) % 7) / 7


@pytest.mark.parametrize("mode", ["observe", "ride"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_maps_equal_eager_twin(mode, dtype, tolerance):
    unet = tiny_unet().to(dtype)
    latent, text = inputs(dtype=dtype)
    plain, probs, sizes = eager_twin(unet, latent, text)
    wants = CrossColumns((1, 5)), SelfColumns(masks_on), SelfMaps()
    with torch.no_grad(), record(unet, *wants, mode=mode) as rec:
        out = forward(unet, latent, text)
    if mode == "observe":
        assert torch.equal(out, plain)
    else:
        assert (out - plain).abs().max() <= tolerance
    recorded = [rec.maps(want) for want in wants]
    assert [len(maps) for maps in recorded] == [7, 7, 7]
    for maps in recorded:
        for m in maps:
            p = probs[m.site.name].mean(dim=1)
            assert m.grid == sizes[m.site.name]
            if maps is recorded[0]:
                expected = p[:, :, [1, 5]].transpose(1, 2).unflatten(2, m.grid)
            elif maps is recorded[1]:
                expected = (p @ masks_on(m.grid).flatten().to(dtype)).unflatten(1, m.grid)[:, None]
            else:
                expected = p
            torch.testing.assert_close(m.values, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("h", "w"), [(12, 20), (20, 12), (13, 21), (16, 16)])
def test_grid_is_the_true_one(unet, h, w):
    latent, text = inputs(h, w)
    with torch.no_grad(), record(unet, CrossColumns((0,)), SelfColumns(torch.ones(1, h, w), Where(factor=2))) as rec:
        forward(unet, latent, text)
    half = (-(-h // 2), -(-w // 2))
    assert {m.site.name.split(".attentions")[0]: m.grid for m in rec.maps(0)} == {
        "down_blocks.0": (h, w),
        "down_blocks.1": half,
        "mid_block": half,
        "up_blocks.0": half,
        "up_blocks.1": (h, w),
    }
    assert {m.grid for m in rec.maps(1)} == {half}
    # all mass stays within a mask of ones
    assert (rec.mean(1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["observe", "ride"])
def test_text_mask_is_obeyed(unet, mode):
    latent, text = inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 0], [0] * 7])  # the second row masks every token: softmax ignores the shift
    plain, probs, _ = eager_twin(unet, latent, text, encoder_attention_mask=mask)
    with torch.no_grad(), record(unet, CrossColumns(tuple(range(7))), mode=mode) as rec:
        out = forward(unet, latent, text, encoder_attention_mask=mask)
    assert torch.equal(out, plain)
    for m in rec.maps():
        expected = probs[m.site.name].mean(dim=1).transpose(1, 2).unflatten(2, m.grid)
        torch.testing.assert_close(m.values[0], expected[0], atol=1e-5, rtol=0)
        # -10000 leaves three digits of the scores, in diffusers as here
        torch.testing.assert_close(m.values[1], expected[1], atol=2e-3, rtol=0)


@pytest.mark.parametrize("mode", ["observe", "ride"])
def test_gradient_of_a_map_loss_reaches_the_latent(mode):
    unet = tiny_unet().double()
    latent, text = inputs(dtype=torch.float64)
    at = Where(factor=2)

    twin = latent.clone().requires_grad_()
    _, probs, sizes = eager_twin(unet, twin, text)
    half = [name for name, size in sizes.items() if size == (6, 10)]
    cross = sum(probs[n].mean(1)[1, :, 3].unflatten(0, (6, 10)) for n in half if n.endswith("attn2")) / 4
    mass = sum(probs[n].mean(1)[1] @ masks_on((6, 10)).flatten() for n in half if n.endswith("attn1")) / 4
    maps = sum(probs[n].mean(1)[1] for n in half if n.endswith("attn1")) / 4
    weight = torch.linspace(0, 1, 60, dtype=torch.float64)
    loss = (cross.flatten() * weight).sum() + (mass * weight).sum() + (maps**2 * weight).sum()
    (expected,) = torch.autograd.grad(loss, twin)

    ours = latent.clone().requires_grad_()
    wants = CrossColumns((3,), at), SelfColumns(masks_on, at), SelfMaps(at)
    with record(unet, *wants, rows=(1,), grad=True, mode=mode) as rec:
        forward(unet, ours, text)
    cross, mass, maps = rec.mean(0).flatten(), rec.mean(1).flatten(), rec.affinity(2)[0]
    ours_loss = (cross * weight).sum() + (mass * weight).sum() + (maps**2 * weight).sum()
    (got,) = torch.autograd.grad(ours_loss, ours)
    assert expected.abs().max() > 1e-4
    assert (ours_loss - loss).abs() < 1e-11
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-8)
    assert got[0].abs().max() == 0


def test_rows_and_running_mean(unet):
    latent, text = inputs(batch=3)
    at, singles = Where("down_blocks.1.*"), []
    for shift in (0.0, 0.5, -1.0):
        with torch.no_grad(), record(unet, CrossColumns((2,), at)) as rec:
            forward(unet, latent + shift, text)
        singles.append(rec.mean())
    with (
        torch.no_grad(),
        record(unet, CrossColumns((2,), at), rows=(2, 0)) as mean,
        record(unet, CrossColumns((2,), at), rows=(2, 0), over="last") as last,
        record(unet, CrossColumns((2,), at), when=lambda step: step == 1) as second,
    ):
        for shift in (0.0, 0.5, -1.0):
            forward(unet, latent + shift, text)
    torch.testing.assert_close(mean.mean(), torch.stack(singles).mean(0)[[2, 0]], atol=1e-6, rtol=0)
    torch.testing.assert_close(last.mean(), singles[2][[2, 0]], atol=1e-6, rtol=0)
    torch.testing.assert_close(second.mean(), singles[1], atol=1e-6, rtol=0)
    assert (mean.maps()[0].calls, last.maps()[0].calls, second.maps()[0].calls) == (3, 3, 1)
    mean.reset()
    with pytest.raises(InputError, match="nothing was recorded"):
        mean.maps()


def test_near_is_exact_whatever_runs_first(unet):
    latent, text = inputs(12, 20)
    for near, grid in ((6, (6, 10)), (1, (6, 10)), (12, (12, 20)), (99, (12, 20)), (9, (12, 20))):
        with torch.no_grad(), record(unet, CrossColumns((2,), Where(near=near))) as rec:
            forward(unet, latent, text)
            forward(unet, latent, text)
        with torch.no_grad(), record(unet, CrossColumns((2,), Where(grid=grid))) as fixed:
            forward(unet, latent, text)
        assert [m.site for m in rec.maps()] == [m.site for m in fixed.maps()]
        assert {m.calls for m in rec.maps()} == {2}
        torch.testing.assert_close(rec.mean(), fixed.mean(), atol=1e-7, rtol=0)


def test_masks_are_brought_to_the_grid_by_area(unet):
    latent, text = inputs(12, 20)
    mask = torch.zeros(2, 1, 48, 80)
    mask[0, :, 5:31, 9:50] = 1
    mask[1, :, 20:, :33] = 1
    small = mask.reshape(2, 1, 12, 4, 20, 4).mean(dim=(3, 5))
    at = Where(grid=(12, 20))
    with torch.no_grad(), record(unet, SelfColumns(mask, at), SelfColumns(lambda _: small, at)) as rec:
        forward(unet, latent, text)
    torch.testing.assert_close(rec.mean(0), rec.mean(1), atol=1e-6, rtol=0)
    assert (rec.mean(0)[0] - rec.mean(0)[1]).abs().max() > 1e-2


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("mode", ["observe", "ride"])
def test_memory_is_bounded(unet, mode):
    latent, text = inputs(40, 24, batch=1)
    tokens = 40 * 24
    wants = CrossColumns((1, 2)), SelfColumns(torch.ones(1, 40, 24))
    with torch.no_grad(), Largest() as plain:
        forward(unet, latent, text)
    with torch.no_grad(), record(unet, *wants, mode=mode) as rec, Largest() as seen:
        forward(unet, latent, text)
        held = sum(m.values.untyped_storage().nbytes() for i in (0, 1) for m in rec._sums[i].values())
        for _ in range(4):
            forward(unet, latent, text)
        assert held == sum(m.values.untyped_storage().nbytes() for i in (0, 1) for m in rec._sums[i].values())
    assert seen.numel <= max(plain.numel, 2 * tokens * 48) < tokens * tokens
    assert not rec.mean(0).requires_grad


def test_record_inside_and_outside_of_an_edit_sees_the_edited_attention(unet):
    latent, text = inputs()
    site = "mid_block.attentions.0.transformer_blocks.0.attn1"

    def towards(logits, site, call):
        return logits.index_fill(3, torch.tensor([4]), 50.0)

    with (
        torch.no_grad(),
        record(unet, SelfMaps(site), SelfColumns(masks_on, site)) as outer,
        edit(unet, towards, sites=site, rows=(1,)),
        record(unet, SelfMaps(site), rows=(0, 1), mode="ride") as inner,
    ):
        forward(unet, latent, text)
    for rec in (outer, inner):
        assert (rec.affinity()[1, :, 4] - 1).abs().max() < 1e-6
        assert rec.affinity()[0, :, 4].max() < 0.9
    expected = (outer.affinity() @ masks_on((6, 10)).flatten().float()).reshape(2, 1, 6, 10)
    torch.testing.assert_close(outer.mean(1), expected, atol=1e-6, rtol=0)


def test_unconditional_unet_with_4d_attention():
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    x = inputs(12, 20)[0][:, :3]
    with torch.no_grad(), record(model, SelfMaps()) as rec:
        out = model(x, 10).sample
    assert torch.equal(out, model(x, 10).sample)
    assert {m.grid for m in rec.maps()} == {(6, 10)}
    assert (rec.affinity().sum(-1) - 1).abs().max() < 1e-5
    with torch.no_grad(), edit(model, lambda q, k, v, site, call: (q, k, v), on="qkv"):
        assert torch.equal(out, model(x, 10).sample)


def test_maps_of_many_sites_meet_on_one_size(unet):
    latent, text = inputs(12, 20)
    with torch.no_grad(), record(unet, CrossColumns((0, 1, 2, 3, 4, 5, 6))) as rec:
        forward(unet, latent, text)
    full = rec.mean()
    assert full.shape == (2, 7, 12, 20)
    # every step is linear and keeps constants, so maps of all tokens still sum to 1 in every cell
    assert (full.sum(1) - 1).abs().max() < 1e-5
    assert (average_maps(rec.maps(), (5, 9)).sum(1) - 1).abs().max() < 1e-5
    coarse = resize_maps(full, (6, 10))
    torch.testing.assert_close(coarse, full.reshape(2, 7, 6, 2, 10, 2).mean(dim=(3, 5)))


def test_what_goes_wrong_is_said(unet):
    latent, text = inputs()
    for wants, options, said in (
        ((), {}, "pass what to record"),
        ((CrossColumns((1,), "nowhere.*"),), {}, "nowhere"),
        ((CrossColumns((1,)),), {"rows": (0, 0)}, r"rows=\(0, 0\)"),
    ):
        with pytest.raises(InputError, match=said), record(unet, *wants, **options):
            pass
    for want, options, said in (
        (CrossColumns((7,)), {}, "7 tokens, 0 to 6"),
        (CrossColumns((1,)), {"rows": (2,)}, "batch of 2"),
        (CrossColumns((1,)), {"grad": True}, "requires_grad"),
        (SelfColumns(torch.ones(3, 1, 12, 20)), {}, r"\(3, 1, 12, 20\)"),
    ):
        with pytest.raises(InputError, match=said), record(unet, want, **options):
            forward(unet, latent, text)
    with record(unet, CrossColumns((1,), Where(grid=(5, 5)))) as rec:
        with pytest.raises(InputError, match="inside the `with"):
            rec.mean()
        forward(unet, latent, text)
    with pytest.raises(InputError, match="12x20, 6x10"):
        rec.mean()
    with pytest.raises(InputError, match="exclude each other"):
        Where(grid=(4, 4), near=3)
    with pytest.raises(InputError, match=r"one size|each size"), torch.no_grad(), record(unet, SelfMaps()):
        forward(unet, latent, text)
        forward(unet, latent[..., :12], text)
