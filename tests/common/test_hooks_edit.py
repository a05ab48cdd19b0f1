"""Edits against hand-written attention; idle equality, restoring, refusing; kept keys and values."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from peft import LoraConfig
from torch.nn import functional as F

from graft_common.errors import InputError
from graft_common.hooks import (
    CrossColumns,
    SelfMaps,
    Where,
    edit,
    find_sites,
    keep_keys_values,
    record,
    use_keys_values,
)

MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


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


@pytest.fixture
def unet():
    return tiny_unet()


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def inputs(h=12, w=20, batch=2):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, h, w, generator=g), torch.randn(batch, 7, 16, generator=g)


def forward(unet, latent, text, **kwargs):
    return unet(latent, 10, encoder_hidden_states=text, **kwargs).sample


def state(unet):
    """Everything that hooks could leave behind: processors by identity, and counts of hooks."""
    processors = [m.processor for m in unet.modules() if isinstance(m, Attention)]
    return [id(p) for p in processors], sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in unet.modules())


def unchanged(q, k, v, site, call):
    return q, k, v


def test_find_sites(unet):
    sites = find_sites(unet)
    assert len(sites) == 14
    assert {s.name.rsplit(".", 1)[1] for s in find_sites(unet, "cross")} == {"attn2"}
    assert {s.name.rsplit(".", 1)[1] for s in find_sites(unet, "self")} == {"attn1"}
    # attention_head_dim of this class is the number of heads per level: 32 / 2 and 64 / 4
    assert {(s.name[:13], s.heads, s.head_dim) for s in sites if s.name.startswith("down")} == {
        ("down_blocks.0", 2, 16),
        ("down_blocks.1", 4, 16),
    }


ATTENTIONS = {
    "plain": {},
    "group norm, residual, rescale, bias": {
        "norm_num_groups": 4,
        "residual_connection": True,
        "rescale_output_factor": 1.7,
        "bias": True,
    },
    "cross layer norm": {"cross_attention_dim": 24, "cross_attention_norm": "layer_norm"},
    "cross group norm": {
        "cross_attention_dim": 24,
        "cross_attention_norm": "group_norm",
        "cross_attention_norm_num_groups": 4,
    },
    "q and k norm": {"qk_norm": "layer_norm"},
    "spatial norm": {"spatial_norm_dim": 6, "residual_connection": True},
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, "4-D") for name in ATTENTIONS] + [(name, "3-D") for name in ATTENTIONS if name != "spatial norm"],
)
@pytest.mark.parametrize("masked", [False, True])
def test_protocol_is_bit_equal_to_the_stock_processor(name, shape, masked):
    """Our full path with an edit that changes nothing, against AttnProcessor2_0, on every option of the protocol."""
    torch.manual_seed(0)
    attn = Attention(query_dim=32, heads=4, dim_head=8, **ATTENTIONS[name]).eval()
    for p in attn.parameters():
        p.copy_(torch.randn_like(p) * 0.3)
    x = torch.randn(2, 32, 3, 5) if shape == "4-D" else torch.randn(2, 15, 32)
    kwargs = {}
    if "cross_attention_dim" in ATTENTIONS[name]:
        kwargs["encoder_hidden_states"] = torch.randn(2, 7, 24)
    if name == "spatial norm":
        kwargs["temb"] = torch.randn(2, 6, 3, 5)
    if masked:
        kwargs["attention_mask"] = torch.randn(2, 1, 7 if "encoder_hidden_states" in kwargs else 15) * 3
    holder = torch.nn.ModuleDict({"block": Holder(attn)})
    expected = attn(x, **kwargs)
    with edit(holder, unchanged, kind=None, on="qkv"):
        holder["block"].grid = (3, 5)
        got = holder["block"](x, **kwargs)
    assert torch.equal(got, expected)


def test_a_site_whose_queries_are_no_image_is_refused():
    """As in GLIGEN, where image and box tokens stand in one sequence: no (h, w) is made up."""
    holder = torch.nn.ModuleDict({"block": Holder(Attention(query_dim=32, heads=4, dim_head=8))})
    holder["block"].grid = (4, 4)
    with pytest.raises(InputError, match="20 queries"), edit(holder, unchanged, on="qkv"):
        holder["block"](torch.zeros(1, 16, 32))  # fits
        holder["block"](torch.zeros(1, 20, 32))


def test_the_nearest_image_around_a_site_counts():
    """Two modules around it saw as many cells as it has queries; the inner one's (h, w) is the site's."""

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner(Attention(query_dim=32, heads=4, dim_head=8))

        def forward(self, image, x):
            return self.inner(image.mT, x, {})

    model = torch.nn.Sequential(Turned())
    with record(model, SelfMaps()) as rec:
        model[0](torch.empty(1, 1, 4, 5), torch.randn(1, 20, 32))
    assert rec.maps()[0].grid == (5, 4)


class Holder(torch.nn.Module):
    """Gives an attention module a 4-D module around it."""

    def __init__(self, attn):
        super().__init__()
        self.inner = Inner(attn)

    def forward(self, x, **kwargs):
        return self.inner(torch.empty(1, 1, *self.grid), x, kwargs)


class Inner(torch.nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, image, x, kwargs):
        return self.attn(x, **kwargs)


def test_idle_and_recording_are_bit_equal(unet):
    latent, text = inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 0], [1] * 7])
    for kwargs in ({}, {"encoder_attention_mask": mask}):
        plain = forward(unet, latent, text, **kwargs)
        with edit(unet, unchanged, kind=None, on="qkv"):  # every site on our path
            assert torch.equal(forward(unet, latent, text, **kwargs), plain)
        with edit(unet, lambda *_: 1 / 0, kind=None, when=lambda step: False):
            assert torch.equal(forward(unet, latent, text, **kwargs), plain)
        with record(unet, CrossColumns((1,)), SelfMaps(), rows=(1,)), keep_keys_values(unet):
            assert torch.equal(forward(unet, latent, text, **kwargs), plain)


def test_logits_edit_equals_attention_by_hand(unet):
    """TF-ICON's kind of edit: logits of one row are mixed from two others in lockstep; other rows stay bit-equal."""
    latent, text = inputs(batch=3)
    box = torch.tensor([7, 8, 9, 17, 18, 19])
    seen = {}

    def mix(logits, site, call):
        assert (call.grid, call.rows, logits.shape) == ((6, 10), (2,), (1, 4, 60, 60))
        cross = call.scale * call.q[0] @ call.k[1].mT
        logits = logits.clone()
        logits[0, :, :, box] = cross[:, :, box]
        return logits

    module = unet.get_submodule(MID)
    handle = module.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    plain = forward(unet, latent, text)
    with edit(unet, mix, sites=MID, rows=(2,)):
        forward(unet, latent, text)
    handle.remove()
    x = seen["x"].double()
    q, k, v = (
        F.linear(x, w.weight.double()).unflatten(2, (4, 16)).transpose(1, 2)
        for w in (module.to_q, module.to_k, module.to_v)
    )
    scores = q @ k.mT / 4
    scores[2][:, :, box] = (q[0] @ k[1].mT / 4)[:, :, box]
    out = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    expected = F.linear(out, module.to_out[0].weight.double(), module.to_out[0].bias.double())
    torch.testing.assert_close(seen["out"].double(), expected, atol=1e-5, rtol=0)
    with edit(unet, mix, sites=MID, rows=(2,)):
        edited = forward(unet, latent, text)
    assert torch.equal(edited[:2], plain[:2])
    assert (edited[2] - plain[2]).abs().max() > 1e-4


def test_edits_of_logits_probs_and_qkv_agree(unet):
    """Scaling the logits by 1.5 may be written as an edit of logits, of q, or of probabilities."""
    latent, text = inputs()
    at = Where(("down_blocks.*", "mid_block.*"), factor=2)
    with edit(unet, lambda logits, site, call: logits * 1.5, at, None):
        by_logits = forward(unet, latent, text)
    with edit(unet, lambda q, k, v, site, call: (q * 1.5, k, v), at, None, "qkv"):
        by_query = forward(unet, latent, text)
    with edit(unet, lambda p, site, call: F.normalize(p**1.5, p=1, dim=-1), at, None, "probs"):
        by_probs = forward(unet, latent, text)
    with (
        edit(unet, lambda p, site, call: F.normalize(p**1.2, p=1, dim=-1), at, None, "probs", rows=(1,)),
        edit(unet, lambda q, k, v, site, call: (q, k / 2, v), at, None, "qkv", rows=(0, 1)),
        edit(unet, lambda logits, site, call: logits * 2.5, at, None, rows=(1,)),
        edit(unet, lambda logits, site, call: logits * 3.0, at, None, rows=(0,)),
    ):
        together = forward(unet, latent, text)
    for other in (by_query, by_probs, together):
        torch.testing.assert_close(other, by_logits, atol=2e-6, rtol=0)
    assert (by_logits - forward(unet, latent, text)).abs().max() > 1e-4


def test_mask_holds_whatever_an_edit_does(unet):
    latent, text = inputs()
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 0]] * 2)
    other = torch.where(mask[..., None] == 1, text, torch.randn_like(text))
    with edit(unet, lambda logits, site, call: logits + torch.arange(7.0), kind="cross"):
        a = forward(unet, latent, text, encoder_attention_mask=mask)
        b = forward(unet, latent, other, encoder_attention_mask=mask)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_only_chosen_sites_form_probabilities(unet):
    latent, text = inputs()
    called = []
    with edit(unet, lambda logits, site, call: called.append((site.name, call.step)) or logits, Where(grid=(6, 10))):
        forward(unet, latent, text)
        forward(unet, latent, text)
    half = [s.name for s in find_sites(unet, "self") if s.name.startswith(("down_blocks.1", "mid", "up_blocks.0"))]
    assert sorted(called) == sorted((name, step) for name in half for step in (0, 1))


def test_keys_values_of_one_pass_serve_another(unet):
    latent, text = inputs()
    with keep_keys_values(unet, queries=True) as kept:
        first = forward(unet, latent, text)
    # a pass's own keys and values change nothing
    with use_keys_values(unet, kept, queries=True):
        assert torch.equal(forward(unet, latent, text), first)
    # what row 0 attends to is replaced, by hand in float64
    seen = {}
    module = unet.get_submodule(MID)
    handle = module.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    with keep_keys_values(unet, MID, rows=(1,)) as row:
        forward(unet, latent * 0.5, text)
    source = seen["x"][1].double()
    with use_keys_values(unet, row, rows=(0,)):
        forward(unet, latent, text)
    handle.remove()

    def split(x, w):
        return F.linear(x, w.weight.double()).unflatten(-1, (4, 16)).transpose(-3, -2)

    x = seen["x"][0].double()
    p = (split(x, module.to_q) @ split(source, module.to_k).mT / 4).softmax(-1)
    out = (p @ split(source, module.to_v)).transpose(0, 1).flatten(1)
    expected = F.linear(out, module.to_out[0].weight.double(), module.to_out[0].bias.double())
    torch.testing.assert_close(seen["out"][0].double(), expected, atol=1e-5, rtol=0)


def test_kept_steps_can_be_read_backwards(unet):
    latent, text = inputs()
    with keep_keys_values(unet, MID, when=lambda step: step > 0, dtype=torch.float64) as kept:
        for factor in (3.0, 1.0, 2.0):
            forward(unet, latent * factor, text)
    assert sorted(kept) == [1, 2]
    assert kept[1][MID].k.dtype == torch.float64
    used = []
    with (
        use_keys_values(unet, kept, step=lambda i: 2 - i),
        edit(unet, lambda q, k, v, site, call: used.append(k) or (q, k, v), MID, on="qkv"),
    ):
        forward(unet, latent, text)
        forward(unet, latent, text)
    assert torch.equal(used[0].double(), kept[2][MID].k)
    assert torch.equal(used[1].double(), kept[1][MID].k)
    with pytest.raises(InputError, match="step 3, only steps 1 to 2"), use_keys_values(unet, kept, step=lambda i: 3):
        forward(unet, latent, text)
    with pytest.raises(InputError, match="6x10"), use_keys_values(unet, kept, step=lambda i: 1):
        forward(unet, latent[..., :12], text)
    with pytest.raises(InputError, match="nothing was kept"), use_keys_values(unet, {}):
        pass


def test_comes_off_after_exceptions_and_in_any_order(unet):
    latent, text = inputs()
    before, plain = state(unet), forward(unet, latent, text)
    for manager in (
        record(unet, CrossColumns((1,)), SelfMaps()),
        record(unet, CrossColumns((1,)), mode="ride"),
        edit(unet, unchanged, on="qkv"),
        keep_keys_values(unet),
    ):
        with pytest.raises(KeyError), manager:
            assert state(unet) != before
            forward(unet, latent, text)
            raise KeyError
        assert state(unet) == before
    with pytest.raises(ZeroDivisionError), edit(unet, lambda *_: 1 / 0):
        forward(unet, latent, text)
    assert state(unet) == before
    first, second = edit(unet, lambda x, site, call: x * 2), record(unet, SelfMaps())
    first.__enter__()
    rec = second.__enter__()
    first.__exit__(None, None, None)  # not the order of a stack
    assert torch.equal(forward(unet, latent, text), plain)
    second.__exit__(None, None, None)
    assert state(unet) == before
    assert len(rec.maps()) == 7
    assert torch.equal(forward(unet, latent, text), plain)


class Foreign(AttnProcessor2_0):
    """Somebody's own processor: even a subclass may compute anything."""


def test_half_way_failure_leaves_nothing(unet):
    last = unet.get_submodule(find_sites(unet, "self")[-1].name)
    last.set_processor(Foreign())
    before = state(unet)
    for manager in (record(unet, SelfMaps()), edit(unet, unchanged, on="qkv"), keep_keys_values(unet)):
        with pytest.raises(InputError, match=r"Foreign.*set_default_attn_processor"), manager:
            pass
        assert state(unet) == before
    assert last.processor.__class__ is Foreign
    with edit(unet, unchanged, sites="down_blocks.*", on="qkv"):  # the other sites are free
        pass

    class Stubborn(Attention):
        def set_processor(self, processor):
            if processor.__class__.__name__ == "SiteProcessor":
                raise RuntimeError("no")
            super().set_processor(processor)

    last.set_processor(AttnProcessor2_0())
    before = state(unet)
    last.__class__ = Stubborn
    with pytest.raises(RuntimeError, match="no"), edit(unet, unchanged, on="qkv"):
        pass
    assert state(unet) == before


def test_a_processor_that_the_caller_sets_meanwhile_stays(unet):
    mine = AttnProcessor()
    with record(unet, SelfMaps()):
        unet.get_submodule(MID).set_processor(mine)
    assert unet.get_submodule(MID).processor is mine


def test_other_processors(unet):
    latent, text = inputs()
    plain = forward(unet, latent, text)
    unet.set_attn_processor(AttnProcessor())  # diffusers' eager one: same maps, edits work too
    eager = forward(unet, latent, text)
    with record(unet, CrossColumns((1,))) as rec:
        assert torch.equal(forward(unet, latent, text), eager)
    with edit(unet, unchanged, on="qkv"), record(unet, CrossColumns((1,))) as inside:
        torch.testing.assert_close(forward(unet, latent, text), plain, atol=2e-6, rtol=0)
    torch.testing.assert_close(rec.mean(), inside.mean(), atol=1e-6, rtol=0)
    unet.set_attn_processor(SlicedAttnProcessor(1))
    with pytest.raises(InputError, match="SlicedAttnProcessor"), record(unet, SelfMaps()):
        pass


def test_compiled_unets_are_refused(unet):
    latent, text = inputs()
    whole = torch.compile(unet, backend="eager")
    with pytest.raises(InputError, match=r"torch\.compile"), record(whole, SelfMaps()):
        pass
    block = unet.mid_block
    block.compile(backend="eager")
    with pytest.raises(InputError, match="mid_block"), record(unet, SelfMaps()):
        pass
    block._compiled_call_impl = None
    with record(unet, SelfMaps()) as rec:
        forward(unet, latent, text)
    assert len(rec.maps()) == 7


def test_gradient_checkpointing_is_refused_only_where_it_runs(unet):
    latent, text = inputs()
    unet.enable_gradient_checkpointing()
    with record(unet, SelfMaps()) as rec:
        forward(unet, latent, text)
    assert len(rec.maps()) == 7
    with (
        pytest.raises(InputError, match="disable_gradient_checkpointing"),
        torch.enable_grad(),
        record(unet, SelfMaps()),
    ):
        forward(unet, latent, text)


def test_lora_counts(unet):
    """peft's LoRA sits in to_q and its like: recorded maps and edited paths follow it."""
    latent, text = inputs()
    with record(unet, SelfMaps(MID)) as before:
        forward(unet, latent, text)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    plain = forward(unet, latent, text)
    with edit(unet, unchanged, kind=None, on="qkv"), record(unet, SelfMaps(MID)) as inside:
        assert torch.equal(forward(unet, latent, text), plain)
    with record(unet, SelfMaps(MID)) as after:
        assert torch.equal(forward(unet, latent, text), plain)
    torch.testing.assert_close(after.affinity(), inside.affinity())
    assert (after.affinity() - before.affinity()).abs().max() > 1e-3


def test_bfloat16_and_autocast(unet):
    """Maps of a half-precision pass are formed in float32 from its own q and k: rows sum to 1 far beyond bfloat16."""
    latent, text = inputs()
    with record(unet, SelfMaps(MID)) as exact:
        forward(unet, latent, text)
    with torch.autocast("cpu", torch.bfloat16):
        plain = forward(unet, latent, text)
        with record(unet, SelfMaps(MID)) as auto:
            assert torch.equal(forward(unet, latent, text), plain)
        with edit(unet, unchanged, kind=None, on="qkv"):
            assert torch.equal(forward(unet, latent, text), plain)
        with edit(unet, lambda logits, site, call: logits, sites=MID):
            torch.testing.assert_close(forward(unet, latent, text), plain, atol=0.05, rtol=0)
    half = tiny_unet(sample_size=8).bfloat16()
    with record(half, SelfMaps(MID)) as low:
        forward(half, latent.bfloat16(), text.bfloat16())
    for rec in (auto, low):
        assert rec.affinity().dtype == torch.float32
        assert (rec.affinity().sum(-1) - 1).abs().max() < 1e-5
        torch.testing.assert_close(rec.affinity(), exact.affinity(), atol=0.01, rtol=0)


def test_wrong_edits_are_named(unet):
    latent, text = inputs()
    for fn, on, said in (
        (lambda x, site, call: x[..., :-1], "logits", r"returned logits \(2, 4, 60, 59\)"),
        (lambda x, site, call: None, "probs", "NoneType"),
        (lambda q, k, v, site, call: q, "qkv", r"tuple \(q, k, v\)"),
    ):
        with pytest.raises(InputError, match=said) as error, edit(unet, fn, MID, on=on):
            forward(unet, latent, text)
        assert MID in str(error.value)
    with pytest.raises(InputError, match="near=6"), edit(unet, unchanged, Where(near=6)):
        pass
