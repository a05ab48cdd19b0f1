"""guided-diffusion's keys -> UNet2DModel: the whole network against a plain re-statement, the public size on the meta device."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from diffusionmix.network import Plan, make_network, plan_of
from graft_common.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
# three levels, attention at the two coarser ones, two heads or more: every kind of block of the public network
SMALL = Plan(widths=(32, 32, 64), blocks=2, attention=(8, 4), head=16, groups=32, residual_resize=True, scale_shift=True)
SIDE = 16


def load(name):
    spec = importlib.util.spec_from_file_location(f"graft_tools_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool():
    return load("guided_diffusion")


def residual(name, inside, outside, emb):
    """Shapes of one residual block under guided-diffusion's names."""
    shapes = {
        f"{name}.in_layers.0.weight": (inside,), f"{name}.in_layers.2.weight": (outside, inside, 3, 3),
        f"{name}.emb_layers.1.weight": (2 * outside, emb), f"{name}.out_layers.0.weight": (outside,),
        f"{name}.out_layers.3.weight": (outside, outside, 3, 3),
    }  # fmt: skip
    if inside != outside:
        shapes[f"{name}.skip_connection.weight"] = (outside, inside, 1, 1)
    return shapes


def attention(name, width):
    joint, final = f"{name}.qkv.weight", f"{name}.proj_out.weight"
    return {f"{name}.norm.weight": (width,), joint: (3 * width, width, 1), final: (width, width, 1)}


def layout(plan, size):
    """Every tensor of guided-diffusion's UNet with `resblock_updown`, as its constructor lays it out: name -> shape."""
    width = plan.widths[0]
    emb = 4 * width
    shapes = {"time_embed.0.weight": (emb, width), "time_embed.2.weight": (emb, emb), "input_blocks.0.0.weight": (width, 3, 3, 3)}
    stack, now, number = [width], width, 1
    for level, wide in enumerate(plan.widths):
        for _ in range(plan.blocks):
            shapes |= residual(f"input_blocks.{number}.0", now, wide, emb)
            now = wide
            if size >> level in plan.attention:
                shapes |= attention(f"input_blocks.{number}.1", now)
            stack.append(now)
            number += 1
        if level != len(plan.widths) - 1:
            shapes |= residual(f"input_blocks.{number}.0", now, now, emb)
            stack.append(now)
            number += 1
    shapes |= residual("middle_block.0", now, now, emb) | attention("middle_block.1", now)
    shapes |= residual("middle_block.2", now, now, emb)
    number = 0
    for level in reversed(range(len(plan.widths))):
        for j in range(plan.blocks + 1):
            shapes |= residual(f"output_blocks.{number}.0", now + stack.pop(), plan.widths[level], emb)
            now, inner = plan.widths[level], 1
            if size >> level in plan.attention:
                shapes |= attention(f"output_blocks.{number}.1", now)
                inner = 2
            if level and j == plan.blocks:
                shapes |= residual(f"output_blocks.{number}.{inner}", now, now, emb)
            number += 1
    shapes |= {"out.0.weight": (now,), "out.2.weight": (6, now, 3, 3)}
    return shapes | {name.replace(".weight", ".bias"): shape[:1] for name, shape in shapes.items()}


def random_state(plan, size):
    gen = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in layout(plan, size).items():
        drawn = 0.3 * torch.randn(shape, generator=gen)
        norm = len(shape) == 1 and name.endswith("weight")
        state[name] = 1 + drawn if norm else drawn / (shape[1] ** 0.5 if len(shape) > 1 else 1)
    return state


class Plain:
    """guided-diffusion's forward pass written out on its own keys: one function a block, no classes."""

    def __init__(self, state, plan, size):
        self.state, self.plan, self.size = state, plan, size

    def of(self, name):
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def normed(self, x, name):
        return F.group_norm(x, self.plan.groups, *self.of(name))

    def block(self, x, emb, name, resize=None):
        h = F.silu(self.normed(x, f"{name}.in_layers.0"))
        if resize == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if resize == "up":
            h, x = (F.interpolate(v, scale_factor=2, mode="nearest") for v in (h, x))
        h = F.conv2d(h, *self.of(f"{name}.in_layers.2"), padding=1)
        scale, shift = F.linear(F.silu(emb), *self.of(f"{name}.emb_layers.1"))[:, :, None, None].chunk(2, 1)
        h = F.silu(self.normed(h, f"{name}.out_layers.0") * (1 + scale) + shift)
        h = F.conv2d(h, *self.of(f"{name}.out_layers.3"), padding=1)
        if f"{name}.skip_connection.weight" in self.state:
            x = F.conv2d(x, *self.of(f"{name}.skip_connection"))
        return x + h

    def attend(self, x, name):
        batch, channels, *side = x.shape
        flat = x.reshape(batch, channels, -1)
        qkv = F.conv1d(self.normed(flat, f"{name}.norm"), *self.of(f"{name}.qkv"))
        heads = channels // self.plan.head
        out = []
        for each in qkv.reshape(batch, heads, 3 * self.plan.head, -1).unbind(1):  # the old order: q, k, v of one head together
            q, k, v = each.split(self.plan.head, 1)
            weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / self.plan.head**0.5, -1)
            out.append(torch.einsum("bts,bcs->bct", weight, v))
        return (flat + F.conv1d(torch.cat(out, 1), *self.of(f"{name}.proj_out"))).reshape(batch, channels, *side)

    def __call__(self, x, t):
        half = self.plan.widths[0] // 2
        angles = t[:, None].double() * torch.exp(-torch.log(torch.tensor(10000.0, dtype=torch.float64)) * torch.arange(half) / half)
        emb = torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype)
        emb = F.linear(F.silu(F.linear(emb, *self.of("time_embed.0"))), *self.of("time_embed.2"))
        h = F.conv2d(x, *self.of("input_blocks.0.0"), padding=1)
        stack, number, levels = [h], 1, len(self.plan.widths)
        for level in range(levels):
            for _ in range(self.plan.blocks):
                h = self.block(h, emb, f"input_blocks.{number}.0")
                if self.size >> level in self.plan.attention:
                    h = self.attend(h, f"input_blocks.{number}.1")
                stack.append(h)
                number += 1
            if level < levels - 1:
                h = self.block(h, emb, f"input_blocks.{number}.0", "down")
                stack.append(h)
                number += 1
        h = self.block(self.attend(self.block(h, emb, "middle_block.0"), "middle_block.1"), emb, "middle_block.2")
        number = 0
        for level in reversed(range(levels)):
            for j in range(self.plan.blocks + 1):
                h = self.block(torch.cat([h, stack.pop()], 1), emb, f"output_blocks.{number}.0")
                inner = 1
                if self.size >> level in self.plan.attention:
                    h, inner = self.attend(h, f"output_blocks.{number}.1"), 2
                if level and j == self.plan.blocks:
                    h = self.block(h, emb, f"output_blocks.{number}.{inner}", "up")
                number += 1
        return F.conv2d(F.silu(self.normed(h, "out.0")), *self.of("out.2"), padding=1)


@torch.no_grad()
def test_the_converted_network_is_the_plain_one(tool):
    state = random_state(SMALL, SIDE)
    unet = tool.network(state, SMALL, SIDE, "file").double()
    plain = Plain({name: value.double() for name, value in state.items()}, SMALL, SIDE)
    x, t = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64), torch.tensor([3, 870])
    ours, wanted = unet(x, t).sample, plain(x, t)
    assert wanted.std() > 0.1  # a network that says nothing would agree with everything
    assert torch.allclose(ours, wanted, atol=2e-5 * float(wanted.abs().max())), (ours - wanted).abs().max()


@torch.no_grad()
def test_one_block_of_each_kind(tool):
    """Residual blocks that keep, halve and double, and attention of two heads, each for itself."""
    state = random_state(SMALL, SIDE)
    unet = tool.network(state, SMALL, SIDE, "file").double()
    plain = Plain({name: value.double() for name, value in state.items()}, SMALL, SIDE)
    x, emb = torch.randn(2, 32, 8, 8, dtype=torch.float64), torch.randn(2, 128, dtype=torch.float64)
    down, up = unet.down_blocks[0].downsamplers[0], unet.up_blocks[1].upsamplers[0]
    assert torch.allclose(unet.down_blocks[0].resnets[1](x, emb), plain.block(x, emb, "input_blocks.2.0"))
    assert torch.allclose(down(x, emb), plain.block(x, emb, "input_blocks.3.0", "down"))
    assert torch.allclose(up(x, emb), plain.block(x, emb, "output_blocks.5.2", "up"))
    assert torch.allclose(unet.down_blocks[1].attentions[0](x), plain.attend(x, "input_blocks.4.1"))


def test_the_public_network_has_its_number_of_parameters(tool):
    """The full key set, on the meta device: each at its place in a network of as many numbers.

    552,812,038 is the count without the normalisation of the middle attention (2,048), which UNet2DModel leaves out on its own.
    """
    plan = plan_of("background", 256)
    with torch.device("meta"):
        state = {name: torch.empty(shape) for name, shape in layout(plan, 256).items()}
        unet = make_network("background", 256, plan, variance="learned_range")
    assert sum(v.numel() for v in state.values()) == sum(p.numel() for p in unet.parameters()) == 552_812_038 + 2 * 1024
    found = tool.renamed(state, plan, 256)
    wanted = unet.state_dict()
    assert found.keys() == wanted.keys()
    assert all(found[name].shape == wanted[name].shape for name in wanted)
    kinds = [type(block).__name__ for block in unet.down_blocks]
    assert kinds == ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3


def test_the_command_writes_half_a_bundle(tool, tmp_path, monkeypatch):
    from diffusers import UNet2DModel

    converter = load("convert_checkpoint")
    state = random_state(SMALL, SIDE)
    torch.save(state, tmp_path / "in.pt")
    assert converter.main(["guided-diffusion", str(tmp_path / "in.pt"), str(tmp_path / "wrong")]) == 2  # not the public size
    assert not (tmp_path / "wrong").exists()
    count = tool.write_background(state, tmp_path / "out", "in.pt", SMALL, SIDE)
    unet = UNet2DModel.from_pretrained(tmp_path / "out" / "background_unet")
    assert count == sum(v.numel() for v in state.values()) == sum(p.numel() for p in unet.parameters())
    scheduler = (tmp_path / "out" / "background_scheduler" / "scheduler_config.json").read_text()
    assert '"learned_range"' in scheduler and (tmp_path / "out" / "mix.json").is_file()


@pytest.mark.parametrize("name", ["out.2.bias", "middle_block.1.qkv.weight", "input_blocks.3.0.emb_layers.1.weight"])
def test_a_tensor_that_is_missing_left_over_or_of_another_shape_is_refused(tool, name):
    state = random_state(SMALL, SIDE)
    part = {k: v for k, v in state.items() if k != name}
    with pytest.raises(InputError, match="is missing"):
        tool.network(part, SMALL, SIDE, "file")
    with pytest.raises(InputError, match="numbers, the network takes"):
        tool.network(state | {"label_emb.weight": torch.zeros(10, 128)}, SMALL, SIDE, "file")
    with pytest.raises(InputError, match=r"file: .* is wanted"):
        tool.network(state, replace(SMALL, widths=(32, 64, 64)), SIDE, "file")
