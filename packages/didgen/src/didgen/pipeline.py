"""The method as calls on arrays: layouts -> pairs, prompts -> pictures. Commands and Python meet here."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn import functional as F

from didgen.annotate import annotate, flags, iou
from didgen.config import DrawConfig, LayoutConfig
from didgen.denoise import Denoiser, Pull, box_pull, denoiser, layout_pull, run, strengths
from didgen.encode import encode, encode_layouts
from didgen.maps import map_grids
from didgen.prompts import prompt_of
from didgen.records import Denoised, Encoded, Layouts, Pair
from didgen.weights import Model, load_model
from graft_common import bundle as bundles
from graft_common.bundle import Bundle
from graft_common.errors import InputError
from graft_common.resample import resize_mask

Image = UInt8[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]


def pairs(
    layouts: Sequence[Mask],
    prompts: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    **settings: Any,
) -> list[Pair]:
    """One picture with its lesion mask per layout, in one batch.

    Args:
        layouts: (H, W) bool masks of one aspect; resampled to the bundle's size, or squeezed into `size` where it is given.
        prompts: one each, beginning with "An image of <lesion> on <skin>"; None renders them from the layouts.
        seeds: one each; default seed, seed + 1, ... Picture i depends on its own seed, prompt and layout alone (to the
            last bits, which depend on the batch).
        settings: any field of `LayoutConfig`, e.g. eta=20, steps=50, weights="tiny-didgen".

    Raises:
        InputError: layouts, prompts or settings that cannot work.
        TypeError: an unknown setting.
    """
    config = LayoutConfig(**checked(settings, LayoutConfig))
    config.check()
    seeds = [config.seed + i for i in range(len(layouts))] if seeds is None else list(seeds)
    checked_layouts(layouts, layouts if prompts is None else prompts, seeds)
    model = load_model(config)
    if prompts is None:
        prompts = [prompt_of(mask, seed, model.seen) for mask, seed in zip(layouts, seeds, strict=True)]
    return draw_pairs(layouts, prompts, seeds, config, model)


def checked(settings: dict[str, Any], kind: type) -> dict[str, Any]:
    """The settings if `kind` has all of them, else TypeError."""
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(settings) - known):
        raise TypeError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return settings


def draw_pairs(
    layouts: Sequence[Mask],
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: LayoutConfig,
    model: Model,
    network: Denoiser | None = None,
    names: Sequence[str] | None = None,
) -> list[Pair]:
    """`pairs` with the model at hand; eta 0 samples without guidance and still reads the masks."""
    bundle = model.bundle
    checked_layouts(layouts, prompts, seeds)
    size, *others = {working_size(mask.shape, config, bundle) for mask in layouts}
    if others:
        raise InputError("layouts: differ in aspect; draw those of one size together, or give one size for all")
    wanted = [fitted(mask, size) for mask in layouts]
    network = network or denoiser(bundle, config)
    enc = encoded(prompts, seeds, size, bundle)
    eta = model.guidance["eta"] if config.eta is None else config.eta
    pull: Pull | None = None
    if eta > 0:
        cells = on_grids(wanted, size, bundle, names or [str(i + 1) for i in range(len(wanted))])
        pull = layout_pull(network, enc, cells, config)
    sizes = strengths(config.steps, config.share, eta, config.decay)
    out = run(enc, network, config.guidance, pull=pull, strengths=sizes, annotate=True)
    assert out.attention is not None
    masks = annotate(out.attention, size, config.power)
    losses = out.losses[[0, -1]].T.tolist() if len(out.losses) else [[] for _ in wanted]
    images = pictures(out, bundle)
    grid = map_grids(bundle.unet, (size[0] // bundle.factor, size[1] // bundle.factor)).cross
    return [
        Pair(image, mask, flags(mask, layout, grid), iou(mask.mask, layout), tuple(loss))
        for image, mask, layout, loss in zip(images, masks, wanted, losses, strict=True)
    ]


def checked_layouts(layouts: Sequence[np.ndarray], prompts: Sequence[Any], seeds: Sequence[int]) -> None:
    """Raise InputError unless there are layouts, boolean ones, with a prompt and a seed each."""
    if not layouts or not len(layouts) == len(prompts) == len(seeds):
        raise InputError(f"{len(layouts)} layouts, {len(prompts)} prompts, {len(seeds)} seeds: give at least one, and as many")
    for i, mask in enumerate(layouts):
        if mask.dtype != bool or mask.ndim != 2:
            raise InputError(f"layout {i + 1}: is {mask.dtype} {mask.shape}; give a boolean (H, W) mask, e.g. `mask > 127`")


def fitted(mask: Mask, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The layout at (H, W); one too thin for it keeps every pixel that it touches."""
    smaller = resize_mask(mask, size)
    if smaller.any() or not mask.any():
        return smaller
    return F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), size)[0].bool().numpy()


def on_grids(layouts: Sequence[Mask], size: tuple[int, int], bundle: Bundle, names: Sequence[str]) -> Layouts:
    """Layouts of (H, W) on the grids that maps are read on.

    Raises:
        InputError: one leaves no lesion or no skin there.
    """
    grids = map_grids(bundle.unet, (size[0] // bundle.factor, size[1] // bundle.factor))
    return encode_layouts(layouts, grids, names)


def draw_pictures(
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: DrawConfig,
    model: Model,
    network: Denoiser | None = None,
    box: tuple[float, float, float, float] | None = None,
    sizes: Sequence[float] = (),
) -> list[Image]:
    """Pictures of prompts in one batch; with a box, its losses steer the first len(sizes) steps."""
    bundle = model.bundle
    shape = (bundle.size, bundle.size) if config.size is None else checked_size(config.size, bundle)
    network = network or denoiser(bundle, config)
    enc = encoded(prompts, seeds, shape, bundle)
    pull = box_pull(network, enc, box) if box is not None else None
    return pictures(run(enc, network, config.guidance, pull=pull, strengths=sizes), bundle)


def encoded(prompts: Sequence[str], seeds: Sequence[int], size: tuple[int, int], bundle: Bundle) -> Encoded:
    """Start noise and text states for pictures of (H, W)."""
    return encode(bundle, prompts, seeds, (size[0] // bundle.factor, size[1] // bundle.factor))


def pictures(out: Denoised, bundle: Bundle) -> list[Image]:
    """Latents -> 8-bit pictures, one at a time: at 512 px the decoder in float32 takes the most memory of all."""
    return [to_uint8(bundles.decode(bundle, z[None])[0]) for z in out.latents]


def to_uint8(pixels: Tensor) -> Image:
    """(3, H, W) in [-1, 1] -> (H, W, 3) uint8."""
    return pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def working_size(shape: tuple[int, ...], config: DrawConfig, bundle: Bundle) -> tuple[int, int]:
    """(H, W) that a picture or layout of `shape` is worked on at: --size, else `size_for`."""
    return size_for(shape, bundle) if config.size is None else checked_size(config.size, bundle)


def size_for(shape: tuple[int, ...], bundle: Bundle) -> tuple[int, int]:
    """(H, W) with the aspect of `shape` and the bundle's size as the shorter side, in whole cells of every level.

    Raises:
        InputError: more than three times as long as wide.
    """
    cell, (h, w) = _cell(bundle), shape[:2]
    if max(h, w) > 3 * min(h, w):
        raise InputError(f"picture of {w}x{h}: is more than three times as long as wide; crop it")
    scale = bundle.size / min(h, w)
    return max(bundle.size, round(h * scale / cell) * cell), max(bundle.size, round(w * scale / cell) * cell)


def checked_size(size: tuple[int, int], bundle: Bundle) -> tuple[int, int]:
    """--size if the network can draw it.

    Raises:
        InputError: a side is no multiple of a cell of the coarsest level, or too small for it.
    """
    cell = _cell(bundle)
    if any(side % cell or side < 2 * cell for side in size):
        raise InputError(f"--size {size[0]} {size[1]}: both must be multiples of {cell} and at least {2 * cell}")
    return size


def _cell(bundle: Bundle) -> int:
    return int(bundle.factor * 2 ** (len(bundle.unet.config.block_out_channels) - 1))
