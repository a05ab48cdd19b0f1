"""The networks: sizes, channels, and what their weights are spent on."""

import pytest
import torch

from diffusionmix.network import Plan, make_network, make_scheduler, plan_of
from graft_common.errors import InputError

MILLIONS = {
    ("object", 64, "paper"): 101.7, ("object", 128, "paper"): 105.2, ("background", 256, "paper"): 552.8,
    ("background", 256, "small"): 138.3,
}  # fmt: skip


@pytest.mark.parametrize(("role", "size", "name"), MILLIONS)
def test_the_papers_networks(role, size, name):
    plan = plan_of(role, size, name)
    with torch.device("meta"):
        unet = make_network(role, size, plan, variance="learned_range")
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(MILLIONS[role, size, name], abs=0.06)
    sides = [size >> level for level in range(len(plan.widths))]
    assert sides[-1] == 8 and plan.attention == (32, 16, 8)
    for side, down, up in zip(sides, unet.down_blocks, reversed(unet.up_blocks), strict=True):
        assert hasattr(down, "attentions") == hasattr(up, "attentions") == (side <= 32)
        for resize in (down.downsamplers or [], up.upsamplers or []):  # no bare convolution anywhere
            assert all(type(block).__name__ == "ResnetBlock2D" and block.time_embedding_norm == "scale_shift" for block in resize)
    assert unet.mid_block.attentions[0].group_norm is not None


@pytest.mark.parametrize(("role", "size", "classes", "out"), [("object", 64, 3, 4), ("background", 128, 0, 3)])
def test_the_tiny_networks(role, size, classes, out):
    unet = make_network(role, size, plan_of(role, size, "tiny"), classes)
    count = sum(p.numel() for p in unet.parameters())
    assert 0.6e6 < count < 0.8e6  # both worlds' four in half precision: below 6 MB
    labels = torch.tensor([2]) if classes else None
    x = torch.randn(1, out, size, size)
    with torch.no_grad():
        assert unet(x, torch.tensor([5]), class_labels=labels).sample.shape == x.shape
        if classes:
            other = unet(x, torch.tensor([5]), class_labels=torch.tensor([0])).sample
            assert not torch.equal(unet(x, torch.tensor([5]), class_labels=labels).sample, other)


@pytest.mark.parametrize("role", ["object", "background"])
def test_a_learned_variance_doubles_what_comes_out(role):
    plan = Plan((8, 8), 1, (4,), 4, 4, False, False)
    colours = 4 if role == "object" else 3
    x = torch.randn(2, colours, 8, 8)
    for variance, factor in (("fixed_small", 1), ("learned_range", 2)):
        unet = make_network(role, 8, plan, variance=variance)
        assert unet(x, torch.tensor([1, 2])).sample.shape == (2, colours * factor, 8, 8)
        assert make_scheduler(variance).config.variance_type == variance


def test_dropout_reaches_the_blocks():
    unet = make_network("background", 8, Plan((8, 8), 1, (4,), 4, 4, True, True), dropout=0.3)
    assert {layer.p for layer in unet.modules() if isinstance(layer, torch.nn.Dropout)} >= {0.3}


def test_the_schedule_is_linear():
    betas = make_scheduler().betas
    assert torch.allclose(betas, torch.linspace(1e-4, 0.02, 1000)) and len(betas) == 1000


@pytest.mark.parametrize(("role", "size", "name"), [("object", 96, "paper"), ("background", 100, "tiny"), ("object", 60, "tiny")])
def test_sizes_without_a_plan_are_refused(role, size, name):
    with pytest.raises(InputError, match="--network"):
        plan_of(role, size, name)
