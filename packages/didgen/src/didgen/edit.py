"""The verb `edit`: change a real picture by its words, prompt-to-prompt on a null-text inversion (spec 2.8)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from didgen.config import EditConfig
from didgen.denoise import Denoiser, denoiser
from didgen.images import read_lesion_mask, read_rgb
from didgen.invert import Inversion, invert, load, save
from didgen.maps import map_grids
from didgen.pipeline import to_uint8, working_size
from didgen.tokens import positions
from didgen.weights import load_model
from graft_common import bundle as bundles
from graft_common.bundle import Bundle, text_states
from graft_common.console import Run, checked_out, progress
from graft_common.guidance import guide
from graft_common.hooks import Call, CrossColumns, Site, Where, record
from graft_common.hooks import edit as edit_attention
from graft_common.inversion import ddim_move
from graft_common.panel import panel
from graft_common.pixels import feather, paste, resize, resize_mask
from graft_common.provenance import stamp
from graft_common.raster import write_png

SOURCE, TARGET = 2, 3  # rows of the conditional half in [null, null, source, target]
CELLS = 16  # self-attention up to this side is the source's
BLEND_FROM, BLEND_ABOVE = 0.2, 0.3  # share of the steps before blending; share of the map's maximum


@dataclass(frozen=True, eq=False)
class Edited:
    """Outcome of an edit.

    Attributes:
        image: (H, W, 3) uint8 at the working size.
        reconstruction: what the source prompt alone gives, the same size.
        region: (H, W) where the picture was allowed to change.
    """

    image: UInt8[np.ndarray, "H W 3"]
    reconstruction: UInt8[np.ndarray, "H W 3"]
    region: Bool[np.ndarray, "H W"]


def run_edit(config: EditConfig, command: list[str]) -> dict[str, Any]:
    """Invert, edit, write.

    Raises:
        InputError: unreadable files, prompts without placeholders, or an inversion of something else.
    """
    config.check()
    out = checked_out(config.out)
    run = Run(command, config, "graft-didgen")
    stored = read_rgb(config.image)
    mask = None if config.mask is None else read_lesion_mask(config.mask, stored.shape[:2])
    for role, path in (("image", config.image), ("mask", config.mask)):
        if path is not None:
            run.read(role, path)
    with run.stage("load"):
        model = load_model(config)
        run.weights = model.weights()
    bundle, network = model.bundle, denoiser(model.bundle, config)
    size = working_size(stored.shape, config, bundle)
    pixels = resize(stored.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1, size)
    own = None if mask is None else resize_mask(mask, size)
    for prompt in (config.source, config.target):
        positions(bundle.tokenizer, prompt)
    key = {
        "image": run.digests["image"], "source": config.source, "steps": config.steps, "guidance": config.guidance,
        "size": list(size), "weights": run.weights["sha256"], "iterations": config.iterations,
    }  # fmt: skip
    with run.stage("invert"), progress("invert", 1, quiet=config.json) as advance:
        if config.inversion is not None:
            inversion = load(config.inversion, key, bundle.device)
        else:
            inversion = inverted(network, bundle, pixels, config)
            save(inversion, out / "inversion.safetensors", key)
        advance(1)
    with run.stage("edit"), progress("edit", 1, quiet=config.json) as advance:
        edited = edit(network, inversion, config, pixels, own)
        advance(1)
    note = stamp("didgen", config.seed, run.weights, run.digests) | {"source": config.source, "target": config.target}
    shown = [
        ("source", to_uint8(torch.from_numpy(pixels))), ("reconstruction", edited.reconstruction),
        ("region", edited.region.astype(np.uint8) * np.uint8(255)), ("edited (synthetic)", edited.image),
    ]  # fmt: skip
    write_png(out / "edited.png", edited.image, note)
    write_png(out / "reconstruction.png", edited.reconstruction, note)
    write_png(out / "panel.png", panel([shown], f"{config.target[:70]} (synthetic)"), note)
    run.outputs = ["edited.png", "reconstruction.png", "panel.png"]
    run.outputs += [] if config.inversion else ["inversion.safetensors"]
    error = np.square(edited.reconstruction.astype(float) - shown[0][1].astype(float)).mean()
    run.measures = {
        "reconstruction_psnr": round(float(10 * np.log10(255**2 / max(error, 1e-9))), 3), "network_calls": network.calls,
        "null_text_loss": float(inversion.losses.mean()), "region": round(float(edited.region.mean()), 4),
    }  # fmt: skip
    return run.write(out)


def inverted(network: Denoiser, bundle: Bundle, pixels: Float[np.ndarray, "3 H W"], config: EditConfig) -> Inversion:
    """The picture's inversion under the source prompt."""
    latents = bundles.encode(bundle, torch.from_numpy(pixels)[None])
    text, null = text_states(bundle, [config.source]), text_states(bundle, [""])
    return invert(network, latents, text, null, config.guidance, config.iterations)


def edit(
    network: Denoiser,
    inversion: Inversion,
    config: EditConfig,
    pixels: Float[np.ndarray, "3 H W"],
    mask: Bool[np.ndarray, "H W"] | None = None,
) -> Edited:
    """Source and target in one batch from the same noise; the source's attention steers the target's."""
    bundle, grid = network.bundle, network.grid
    text = text_states(bundle, [config.source, config.target])
    shared = shared_tokens(bundle.tokenizer, config.source, config.target)
    words = [positions(bundle.tokenizer, p).lesion for p in (config.source, config.target)]
    x = inversion.states[-1].expand(2, -1, -1, -1)
    cells = None if mask is None else _grown(mask, (x.shape[2], x.shape[3])).to(x.device)
    heat: list[Tensor] = []
    for k in range(grid.steps, 0, -1):
        j = grid.steps - k
        null = inversion.nulls[j].to(bundle.dtype)
        with torch.no_grad(), ExitStack() as hooks:
            if j < config.cross_share * grid.steps:
                hooks.enter_context(edit_attention(bundle.unet, _carry(shared), kind="cross", on="probs", rows=(SOURCE, TARGET)))
            if j < config.self_share * grid.steps:
                hooks.enter_context(edit_attention(bundle.unet, _same_self, kind="self", on="qkv", rows=(SOURCE, TARGET)))
            seen = hooks.enter_context(_lesion(network, x, words))
            output = network.output(torch.cat([x, x]), k, torch.cat([null, null, text]), watched=True)
            maps, order = seen.mean(0), sorted(set(words))
            heat.append(torch.stack([maps[row, order.index(word)] for row, word in enumerate(words)]))
        without, told = output.chunk(2)
        x = ddim_move(x, network.eps(x, k, guide(without, told, config.guidance)), k, k - 1, grid)
        if config.blend and (cells is not None or j >= BLEND_FROM * grid.steps):
            keep = cells if cells is not None else region(heat, (x.shape[2], x.shape[3]))
            x = torch.stack([x[0], torch.where(keep, x[1], x[0])])
    both = bundles.decode(bundle, x).cpu()
    size = (both.shape[2], both.shape[3])
    allowed = np.ones(size, bool)
    image = both[1].numpy()
    if config.blend:
        cell = cells if cells is not None else region(heat, (x.shape[2], x.shape[3]))
        allowed = np.kron(cell.cpu().numpy(), np.ones((bundle.factor, bundle.factor), bool))
        image = paste(pixels, image, feather(allowed, bundle.factor))
    return Edited(to_uint8(torch.from_numpy(np.ascontiguousarray(image))), to_uint8(both[0]), allowed)


def shared_tokens(tokenizer: Any, source: str, target: str) -> list[tuple[int, int]]:
    """Positions (source, target) of the tokens that both prompts share, in order; start and padding included."""
    length = tokenizer.model_max_length
    a, b = (tokenizer(p, padding="max_length", max_length=length).input_ids for p in (source, target))
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]


def _carry(shared: Sequence[tuple[int, int]]) -> Any:
    source, target = (list(side) for side in zip(*shared, strict=True))

    def fn(probs: Tensor, site: Site, call: Call) -> Tensor:
        del site, call
        mine = probs[1].clone()
        mine[..., target] = probs[0][..., source]
        return torch.stack([probs[0], mine])

    return fn


def _same_self(q: Tensor, k: Tensor, v: Tensor, site: Site, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    del site
    if min(call.grid) > CELLS:
        return q, k, v
    return torch.stack([q[0], q[0]]), torch.stack([k[0], k[0]]), v


@contextmanager
def _lesion(network: Denoiser, x: Tensor, words: Sequence[int]) -> Iterator[Any]:
    grid = map_grids(network.bundle.unet, (x.shape[2], x.shape[3])).cross
    want = CrossColumns(tuple(sorted(set(words))), Where(grid=grid))
    with record(network.bundle.unet, want, rows=(SOURCE, TARGET)) as seen:
        yield seen


def region(heat: Sequence[Tensor], latent: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Cells that may change: where either prompt's lesion map, mean over the steps, is above 0.3 of its maximum."""
    maps = torch.stack(list(heat)).float().mean(dim=0)
    fine = F.interpolate(maps[None], size=latent, mode="bilinear", align_corners=False)[0]
    return (fine > BLEND_ABOVE * fine.amax(dim=(1, 2), keepdim=True)).any(dim=0)


def _grown(mask: Bool[np.ndarray, "H W"], latent: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """Every cell that the mask touches, and one more around them: the paste is feathered inside, beyond the lesion's rim."""
    soft = torch.from_numpy(mask.astype(np.float32))[None, None]
    return F.max_pool2d(F.interpolate(soft, size=latent, mode="area"), 3, 1, 1)[0, 0] > 0
