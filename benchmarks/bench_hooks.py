"""What recording attention maps costs beside a plain UNet forward, and what the usual ways cost, in the same run.

    python benchmarks/bench_hooks.py [--size tiny|sd21] [--device cpu] [--dtype float32] [--threads 1] [--rows 2|1]

Maps of the guidance kind: two text tokens at a quarter of the latent's size, one mask's self-attention column at half of it.

Peers: `eager`, diffusers' own softmax processor at every site, which any hook that reads probabilities needs; `store`, that
processor and every head's maps of at most 32 x 32 cells kept, as the published attention stores do, which leave larger ones
out because they would not fit.

Cases are timed in turn, one call each, again and again. Peak memory of the gradient cases on the CPU is measured in a
process of their own.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from graft_common.guidance import descend
from graft_common.hooks import CrossColumns, SelfColumns, SelfMaps, Where, edit, find_sites, keep_keys_values, record
from graft_common.rng import noise
from timer import MALLOC_EACH, Timing, measure_together, peak_above, report

# Random weights: the public checkpoint's layer sizes, or a toy of the same shape.
SIZES = {
    "tiny": {
        "sample_size": 32,
        "block_out_channels": (64, 128, 128),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "attention_head_dim": (2, 4, 4),
    },
    "sd21": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
}


KEPT = 32**2  # queries of the largest maps that attention stores keep
MEMORY = ("gradient, plain", "guided step", "gradient, observe", "gradient, ride", "gradient, store")


class Store(AttnProcessor):
    """Diffusers' eager processor, with the per-head probabilities of every site of at most `KEPT` queries kept."""

    def __init__(self, store: list[torch.Tensor]):
        self.store = store

    def __call__(self, attn, *args, **kwargs):
        def keeping(*qkm):
            probs = type(attn).get_attention_scores(attn, *qkm)
            if probs.shape[1] <= KEPT:
                self.store.append(probs)
            return probs

        attn.get_attention_scores = keeping
        try:
            return super().__call__(attn, *args, **kwargs)
        finally:
            del attn.get_attention_scores


@dataclass(frozen=True)
class Setup:
    """A UNet with random weights and one batch: two rows, as classifier-free guidance runs it, or one, as a guided step does."""

    unet: nn.Module
    latent: Tensor  # (rows, 4, side, side)
    text: Tensor  # (rows, 77, width)
    mask: Tensor  # (1, side, side)


def make_setup(size: str, device: str, dtype: torch.dtype, rows: int = 2) -> Setup:
    """The UNet and its inputs, from fixed seeds."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SIZES[size]).eval().requires_grad_(False).to(device)
    unet = unet if dtype == torch.float32 else unet.to(dtype)
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    mask = torch.zeros(1, side, side, device=device)
    mask[:, side // 4 : side // 2, side // 4 :] = 1
    latent = noise((rows, 4, side, side), 0, device=device, dtype=dtype)
    return Setup(unet, latent, noise((rows, 77, width), 1, device=device, dtype=dtype), mask)


def forward(s: Setup, latent: Tensor | None = None) -> Tensor:
    """One plain forward."""
    return s.unet(s.latent if latent is None else latent, 10, encoder_hidden_states=s.text).sample


def recorded(s: Setup, *wants: Any, **options: Any) -> Any:
    """One forward with a record around it."""
    with record(s.unet, *wants, **options) as rec:
        forward(s)
    return rec


def guided(s: Setup, wants: tuple[Any, ...], mode: str) -> Tensor:
    """Gradient of a loss on the maps with respect to the latent."""
    x = s.latent.clone().requires_grad_()
    with torch.enable_grad(), record(s.unet, *wants, grad=True, mode=mode) as rec:
        forward(s, x)
        return torch.autograd.grad(rec.mean(0).square().mean() + rec.mean(1).mean(), x)[0]


def kept(s: Setup) -> Any:
    """One forward with the decoder's keys and values kept."""
    with keep_keys_values(s.unet, "up_blocks.*") as keys_values:
        forward(s)
    return keys_values


def edited(s: Setup) -> Tensor:
    """One forward with the self-attention logits of one row in a caller's hands."""
    with edit(s.unet, lambda logits, site, call: logits, Where(factor=2), rows=(len(s.latent) - 1,)):
        return forward(s)


def eager(s: Setup, processor: AttnProcessor, latent: Tensor | None = None) -> Tensor:
    """One forward with another processor at every site."""
    modules = [s.unet.get_submodule(site.name) for site in find_sites(s.unet)]
    stock = [module.processor for module in modules]
    for module in modules:
        module.set_processor(processor)
    try:
        return forward(s, latent)
    finally:
        for module, before in zip(modules, stock, strict=True):
            module.set_processor(before)


def gradient(s: Setup) -> Tensor:
    """Gradient of a plain forward with respect to the latent, nothing recorded: what `guided` is compared with."""
    x = s.latent.clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(forward(s, x).float().square().mean(), x)[0]


def guided_step(s: Setup, wants: tuple[Any, ...]) -> Tensor:
    """A whole guided step: forward, gradient of the maps' loss, update."""

    def loss(x: Tensor) -> Tensor:
        with record(s.unet, *wants, grad=True, mode="ride") as rec:
            forward(s, x)
        return rec.mean(0).square().mean((1, 2, 3)) + rec.mean(1).mean((1, 2, 3))

    return descend(s.latent, loss, 20.0).latent


def guided_store(s: Setup) -> Tensor:
    """The loss of `guided` from stored probabilities, as published guidance code does it."""
    side, store = s.latent.shape[-1], []
    x = s.latent.clone().requires_grad_()
    with torch.enable_grad():
        eager(s, Store(store), x)
        cross = [p[..., [5, 8]] for p in store if p.shape[1] == (side // 4) ** 2 and p.shape[2] == 77]
        own = [p for p in store if p.shape[1] == p.shape[2] == (side // 2) ** 2]
        small = F.interpolate(s.mask[None], size=side // 2, mode="area").flatten().to(x.dtype)
        per_row = torch.stack(cross).unflatten(1, (len(s.latent), -1)).mean(dim=(0, 2))
        loss = per_row.square().mean() + torch.stack([p @ small for p in own]).mean()
        return torch.autograd.grad(loss, x)[0]


def make_cases(s: Setup) -> dict[str, Callable[[], Any]]:
    """What is compared; `plain` is the forward that nothing hooks."""
    last = (len(s.latent) - 1,)
    wants = CrossColumns((5, 8), Where(factor=4)), SelfColumns(s.mask, Where(factor=2))
    return {
        "plain": lambda: forward(s),
        "observe": lambda: recorded(s, *wants),
        "observe, one row": lambda: recorded(s, *wants, rows=last),
        "ride": lambda: recorded(s, *wants, mode="ride"),
        "observe self maps, one row": lambda: recorded(s, SelfMaps(Where(factor=2)), rows=last),
        "observe every token, every cross site": lambda: recorded(s, CrossColumns(tuple(range(77)))),
        "keep keys and values": lambda: kept(s),
        "edit logits, one row": lambda: edited(s),
        "eager": lambda: eager(s, AttnProcessor()),
        "store": lambda: eager(s, Store([])),
        "gradient, plain": lambda: gradient(s),
        "guided step": lambda: guided_step(s, wants),
        "gradient, observe": lambda: guided(s, wants, "observe"),
        "gradient, ride": lambda: guided(s, wants, "ride"),
        "gradient, store": lambda: guided_store(s),
    }


def with_peak(timing: Timing, argv: list[str]) -> Timing:
    """The timing with the case's peak memory, measured by this script in a process of its own."""
    command = [sys.executable, __file__, *argv, "--peak-of", timing.case]
    done = subprocess.run(command, env=os.environ | MALLOC_EACH, stdout=subprocess.PIPE, text=True, check=True)
    peak = done.stdout.split()[-1]
    return replace(timing, peak_memory_bytes=None if peak == "None" else int(peak))


def main(argv: list[str] | None = None) -> None:
    """Print one JSON line per case; ratios are against the plain forward, or forward and gradient, of this run."""
    parser = argparse.ArgumentParser(description="What recording attention maps costs beside a plain UNet forward.")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per case, at least 5")
    parser.add_argument("--rows", type=int, choices=(1, 2), default=2, help="rows of the batch; 1 measures a guided step")
    parser.add_argument("--peak-of", choices=MEMORY, help="print one case's peak memory in bytes on the CPU, and nothing else")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    setup = make_setup(args.size, args.device, dtype, args.rows)
    shape = f"{args.size} " + "x".join(map(str, setup.latent.shape))
    with torch.no_grad():
        cases = make_cases(setup)
        if args.peak_of:
            print(peak_above(cases[args.peak_of]))
            return
        timings = measure_together(cases, shape, args.device, dtype, args.repeats)
    if torch.device(args.device).type == "cpu":
        del setup, cases  # the other process builds them again: both at once need not fit
        timings = [with_peak(t, argv) if t.case in MEMORY else t for t in timings]
    backward = [t for t in timings if t.case.startswith(("gradient", "guided"))]
    report([t for t in timings if t not in backward], "plain")
    report(backward, "gradient, plain")


if __name__ == "__main__":
    main()
