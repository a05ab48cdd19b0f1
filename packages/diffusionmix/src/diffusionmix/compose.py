"""The method as calls on arrays: boxes -> pictures with masks. Commands, the diffusers-style pipeline and Python meet here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from diffusionmix.box import Box, checked_box, inner_square
from diffusionmix.chains import Chain, Known
from diffusionmix.config import ChainConfig, MergeConfig
from diffusionmix.denoise import Denoised, Team, run
from diffusionmix.merging import seen
from diffusionmix.noise import BACKGROUND, OBJECT, Noise
from diffusionmix.records import Merged, Mix, Net, Part, Placed, Snapshot
from diffusionmix.schedule import Plan, plan
from diffusionmix.solvers import Solver, tables_of
from diffusionmix.transfer import Transfer, transfer
from graft_common.errors import InputError

Image = UInt8[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]
Known1 = tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]


def merge(
    mix: Mix,
    boxes: Sequence[Box],
    seeds: Sequence[int],
    settings: MergeConfig,
    labels: Sequence[int] | None = None,
    photo: Image | None = None,
    *,
    known: Sequence[Known1] | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Merged]:
    """One picture per box, in one batch; picture i depends on its own seed, box and label alone.

    Args:
        mix: the networks.
        boxes: in pixels of the picture: the background model's size, or the photograph's.
        seeds: one each.
        settings: which sampler, how merging goes. Its paths, seeds and numbers of pictures are not read.
        labels: class numbers; None draws them from the seeds.
        photo: stands in for the background model. Outside the mask the result has its very pixels.
        known: (picture, mask) of S x S that stand in for the object model: the background is painted around them.
        watch, advance: see `denoise.run`.

    Raises:
        InputError: a box, label or setting that cannot work, before any network runs.
    """
    if labels is not None and len(labels) != len(boxes):
        raise InputError(f"{len(boxes)} boxes, {len(labels)} labels: give as many")
    each = [None] * len(boxes) if labels is None else list(labels)
    scenes = [[Placed(box, label)] for box, label in zip(boxes, each, strict=True)]
    shown = None if known is None else [[item] for item in known]
    return merge_scenes(mix, scenes, seeds, settings, photo, known=shown, watch=watch, advance=advance)


def merge_scenes(
    mix: Mix,
    scenes: Sequence[Sequence[Placed]],
    seeds: Sequence[int],
    settings: MergeConfig,
    photo: Image | None = None,
    *,
    known: Sequence[Sequence[Known1]] | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Merged]:
    """`merge` with several objects a picture, from the farthest to the nearest; later ones hide earlier ones.

    All scenes have as many objects, from the same networks in the same order. An object's noise depends on its rank by place (top
    to bottom, then left to right), so that for disjoint boxes the order of the list does not matter.
    """
    checked_scenes(mix, scenes, seeds, settings, photo)
    if known is not None and mix.codec is not None:
        raise InputError("known objects: a latent mix takes none; use a mix on pixels")
    steps = plan_of(settings)
    canvas, origins = _canvas(mix, scenes, photo)
    team = _team(mix, scenes, seeds, settings, photo, known, canvas, origins)
    done = run(team, steps, settings, watch, advance)
    pictures = [photo] * len(scenes) if photo is not None else decoded(mix, done.background)
    return [
        _finished(mix, done, i, scene, seed, pictures[i], photo, origins[i])
        for i, (scene, seed) in enumerate(zip(scenes, seeds, strict=True))
    ]


def sample_objects(
    mix: Mix,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    settings: ChainConfig,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"]]]:
    """Objects with their masks from the (first) object model alone, in one batch: what `merge` starts from with these seeds."""
    return [(image, mask) for image, mask, _ in sample_channels(mix, seeds, labels, settings, advance)]


def sample_channels(
    mix: Mix,
    seeds: Sequence[int],
    labels: Sequence[int] | None,
    settings: ChainConfig,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"], UInt8[np.ndarray, "s s"]]]:
    """`sample_objects` with the mask channel as it came out (0..255 for -1..1), which says how decided a mask is."""
    scenes = [[Placed(Box(0, 0, 0, 0), None if labels is None else labels[i])] for i in range(len(seeds))]
    _checked_labels(mix, scenes)
    noise = _noise(seeds, None, mix.object.device)
    chain = _object_chain(mix, 0, [0], scenes, [(0,) * len(seeds)], seeds, settings, noise)
    done = run(Team((chain,), ((0,),), None, (), ((0,) * len(seeds),), noise), _plain(settings), _merging(settings), None, advance)
    pictures = decoded(mix, done.objects[0][:, :-1])
    raw = done.objects[0][:, -1].float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).cpu().numpy()
    return [(image, _cells(mix, done.masks[0][i]), raw[i]) for i, image in enumerate(pictures)]


def sample_backgrounds(
    mix: Mix, seeds: Sequence[int], settings: ChainConfig, advance: Callable[[int], None] | None = None
) -> list[Image]:
    """Pictures from the background model alone, in one batch: what `merge` paints with these seeds where no object is."""
    assert mix.background is not None
    noise = _noise(seeds, None, mix.background.device)
    chain = _background_chain(mix.background, seeds, settings, noise)
    done = run(Team((), (), chain, (), (), noise), _plain(settings), _merging(settings), None, advance)
    return decoded(mix, done.background)


def plan_of(settings: MergeConfig) -> Plan:
    """The resolved schedule. Raises InputError for --tau-steps outside the merge window."""
    return plan(settings.states, settings.tau, settings.tau_steps, settings.r, settings.share, settings.schedule == "repaint")


def checked_scenes(
    mix: Mix, scenes: Sequence[Sequence[Placed]], seeds: Sequence[int], settings: MergeConfig, photo: Image | None
) -> None:
    """Raise InputError for whatever would fail later; runs no network."""
    settings.check()
    plan_of(settings)
    if not scenes or len(scenes) != len(seeds) or not all(scenes):
        raise InputError(f"{len(scenes)} scenes, {len(seeds)} seeds: give at least one, as many, and an object in each")
    sources = [[placed.source for placed in scene] for scene in scenes]
    if any(row != sources[0] for row in sources[1:]):
        raise InputError("scenes: differ in number or models of their objects; draw those of one kind together")
    if max(sources[0]) >= len(mix.objects):
        raise InputError(f"object {max(sources[0])}: there are {len(mix.objects)} object models; count from 0")
    if photo is None and mix.background is None:
        raise InputError("no background: the weights hold no background model; give --background a photograph or a folder")
    if photo is not None and settings.mode != "xstart":
        raise InputError(f"--mode {settings.mode}: a photograph has no states to cross over; use --mode xstart")
    if photo is not None and mix.codec is not None:
        raise InputError("--background: a latent mix cannot keep a photograph's own pixels; use a mix on pixels")
    size = photo.shape[:2] if photo is not None else mix.background_size
    for scene in scenes:
        for placed in scene:
            box = checked_box(placed.box, (int(size[0]), int(size[1])))
            box = inner_square(box) if settings.keep_aspect else box
            cells = _on_canvas(box, settings, _Origin(0, 0), mix.factor)
            if min(cells.w, cells.h) < 1:
                raise InputError(
                    f"--box {placed.box.text}: holds no whole cell of {mix.factor}x{mix.factor} pixels, in which this mix works; "
                    f"give sides of {2 * mix.factor} or more"
                )
            side = mix.objects[placed.source].size[0] * mix.factor
            if settings.mode == "direct" and (box.w, box.h) != (side, side):
                raise InputError(
                    f"--mode direct with --box {box.text}: states cannot be resized; give a box of {side}x{side}, or --mode xstart"
                )
    _checked_labels(mix, scenes)


def _checked_labels(mix: Mix, scenes: Sequence[Sequence[Placed]]) -> None:
    for scene in scenes:
        for placed in scene:
            classes = mix.objects[placed.source].classes
            if placed.label is not None and not 0 <= placed.label < classes:
                raise InputError(f"--label {placed.label}: the object model knows {classes} classes; count from 0, or leave it out")


def label_number(mix: Mix, name: str) -> int:
    """Class number of a --label, a name or a number.

    Raises:
        InputError: the model knows no such class.
    """
    if name in mix.classes:
        return mix.classes.index(name)
    if name.isdecimal() and int(name) < mix.object.classes:
        return int(name)
    known = ", ".join(mix.classes) if mix.classes else "none: it is unconditional, so leave --label out"
    raise InputError(f"--label {name}: is no class of this object model; it knows {known}")


def drawn_label(classes: int, seed: int, rank: int = 0) -> int | None:
    """The class that a seed draws; None for an unconditional network."""
    return int(np.random.default_rng([72, seed, rank]).integers(classes)) if classes else None


def to_uint8(pixels: Float[Tensor, "3 H W"]) -> Image:
    """(3, H, W) in [-1, 1] -> (H, W, 3)."""
    return pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def to_pixels(image: Image) -> Float[Tensor, "3 H W"]:
    """(H, W, 3) uint8 -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 127.5 - 1


def decoded(mix: Mix, states: Float[Tensor, "B C h w"] | None) -> list[Image]:
    """Clean states -> pictures."""
    assert states is not None
    return [to_uint8(x if mix.codec is None else mix.codec.decode(x[None])[0]) for x in states]


def _merging(settings: ChainConfig) -> MergeConfig:
    return settings if isinstance(settings, MergeConfig) else MergeConfig(sampler=settings.sampler, steps=settings.steps)


def _plain(settings: ChainConfig) -> Plan:
    return plan(settings.states, 0, None, 0, None)


def _noise(seeds: Sequence[int], merge_seed: int | None, device: torch.device) -> Noise:
    return Noise(tuple(seeds), merge_seed, device)


def _background_chain(net: Net, seeds: Sequence[int], settings: ChainConfig, noise: Noise) -> Chain:
    tables = tables_of(net, settings.sampler, settings.states)
    solver = None if settings.sampler == "ddpm" else Solver(settings.sampler, net, tables)
    return Chain(net, tables, [[0] * len(seeds)], BACKGROUND, noise, solver=solver)


def _object_chain(
    mix: Mix,
    source: int,
    layers: Sequence[int],
    scenes: Sequence[Sequence[Placed]],
    members: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: ChainConfig,
    noise: Noise,
) -> Chain:
    net = mix.objects[source]
    tables = tables_of(net, settings.sampler, settings.states)
    solver = None if settings.sampler == "ddpm" else Solver(settings.sampler, net, tables)
    labels = None
    if net.classes:
        own = [label_of(mix, scenes[i][k], seeds[i], members[k][i]) for k in layers for i in range(len(scenes))]
        labels = torch.tensor(own, device=net.device)
    return Chain(net, tables, [members[k] for k in layers], OBJECT, noise, labels, solver)


def label_of(mix: Mix, placed: Placed, seed: int, rank: int) -> int | None:
    """Its own label, else the one that the seed draws."""
    return drawn_label(mix.objects[placed.source].classes, seed, rank) if placed.label is None else placed.label


def ranks(scene: Sequence[Placed]) -> tuple[int, ...]:
    """For each object, how many come before it by place: what tells its noise from that of the others, whatever the order."""
    order = sorted(range(len(scene)), key=lambda k: (scene[k].box.y, scene[k].box.x, *scene[k].box[2:], scene[k].source, k))
    return tuple(order.index(k) for k in range(len(scene)))


@dataclass(frozen=True)
class _Origin:
    """Top left corner of the canvas in the picture."""

    y: int
    x: int


def _canvas(mix: Mix, scenes: Sequence[Sequence[Placed]], photo: Image | None) -> tuple[tuple[int, int], list[_Origin]]:
    """Size of the canvas that is worked on, and where it lies: the whole drawn picture, or a window of the photograph."""
    if photo is None:
        height, width = mix.background_size
        return (height // mix.factor, width // mix.factor), [_Origin(0, 0)] * len(scenes)
    spans = []
    for scene in scenes:
        boxes = [placed.box for placed in scene]
        top, left = min(b.y for b in boxes), min(b.x for b in boxes)
        spans.append((top, left, max(b.y + b.h for b in boxes) - top, max(b.x + b.w for b in boxes) - left))
    height, width = max(s[2] for s in spans), max(s[3] for s in spans)
    full = photo.shape
    return (height, width), [_Origin(min(s[0], full[0] - height), min(s[1], full[1] - width)) for s in spans]


def _on_canvas(box: Box, settings: MergeConfig, origin: _Origin, factor: int) -> Box:
    box = inner_square(box) if settings.keep_aspect else box
    box = Box(box.x - origin.x, box.y - origin.y, box.w, box.h)
    if factor == 1:
        return box
    x, y = -(-box.x // factor), -(-box.y // factor)  # whole cells inside the box
    return Box(x, y, (box.x + box.w) // factor - x, (box.y + box.h) // factor - y)


def _team(
    mix: Mix,
    scenes: Sequence[Sequence[Placed]],
    seeds: Sequence[int],
    settings: MergeConfig,
    photo: Image | None,
    known: Sequence[Sequence[Known1]] | None,
    canvas: tuple[int, int],
    origins: Sequence[_Origin],
) -> Team:
    device = mix.object.device
    noise = _noise(seeds, settings.merge_seed, device)
    depth = len(scenes[0])
    each = [ranks(scene) for scene in scenes]
    members = [tuple(row[k] for row in each) for k in range(depth)]
    transfers: list[Transfer] = []
    for k in range(depth):
        boxes = [_on_canvas(scene[k].box, settings, origin, mix.factor) for scene, origin in zip(scenes, origins, strict=True)]
        transfers.append(transfer(boxes, mix.objects[scenes[0][k].source].size[0], canvas, device))
    sources = sorted({placed.source for placed in scenes[0]})
    layers = [tuple(k for k in range(depth) if scenes[0][k].source == source) for source in sources]
    chains: list[Chain | Known] = []
    for source, own in zip(sources, layers, strict=True):
        if known is None:
            chains.append(_object_chain(mix, source, own, scenes, members, seeds, settings, noise))
        else:
            pictures = torch.stack([_known_object(known[i][k]) for k in own for i in range(len(scenes))]).to(device)
            tables = tables_of(mix.objects[source], settings.sampler, settings.states)
            chains.append(Known(pictures, tables, [members[k] for k in own]))
    background: Chain | Known
    if photo is None:
        assert mix.background is not None
        background = _background_chain(mix.background, seeds, settings, noise)
    else:
        height, width = canvas
        crops = torch.stack([to_pixels(photo[o.y : o.y + height, o.x : o.x + width]) for o in origins]).to(device)
        background = Known(crops, tables_of(mix.object, settings.sampler, settings.states), [[0] * len(scenes)])
    return Team(tuple(chains), tuple(layers), background, tuple(transfers), tuple(members), noise)


def _known_object(item: Known1) -> Float[Tensor, "4 S S"]:
    image, mask = item
    return torch.cat([to_pixels(image), torch.from_numpy(mask)[None].float() * 2 - 1])


def _cells(mix: Mix, mask: Float[Tensor, "1 h w"]) -> Bool[np.ndarray, "H W"]:
    cells = mask[0].cpu().numpy() >= 0.5
    return np.kron(cells, np.ones((mix.factor, mix.factor), bool)) if mix.factor > 1 else cells


def _finished(
    mix: Mix,
    done: Denoised,
    i: int,
    scene: Sequence[Placed],
    seed: int,
    picture: Image,
    photo: Image | None,
    origin: _Origin,
) -> Merged:
    shape, rank = picture.shape[:2], ranks(scene)
    covers = None if done.covers is None else seen([(cover[i : i + 1] >= 0.5).float() for cover in done.covers])
    parts, flags = [], [] if covers is not None else ["not merged"]
    for k, placed in enumerate(scene):
        mask = np.zeros(shape, bool)
        if covers is not None and done.covers is not None:
            cells = _cells(mix, covers[k][0])
            mask[origin.y : origin.y + cells.shape[0], origin.x : origin.x + cells.shape[1]] = cells
            whole = int((done.covers[k][i] >= 0.5).sum()) * mix.factor**2
            if whole == 0:
                flags.append("empty mask")
            elif whole >= placed.box.w * placed.box.h:
                flags.append("full mask")
        image = decoded(mix, done.objects[k][i : i + 1, :-1])[0]
        own = _cells(mix, done.masks[k][i])
        parts.append(Part(image, own, mask, placed.box, label_of(mix, placed, seed, rank[k])))
    union = np.logical_or.reduce([part.mask for part in parts])
    if photo is not None:
        assert done.background is not None
        drawn = to_uint8(done.background[i])
        picture = photo.copy()
        window = picture[origin.y : origin.y + drawn.shape[0], origin.x : origin.x + drawn.shape[1]]
        inside = union[origin.y : origin.y + drawn.shape[0], origin.x : origin.x + drawn.shape[1]]
        window[inside] = drawn[inside]
    first = parts[0]
    return Merged(picture, union, first.object, first.object_mask, first.box, seed, done.calls, tuple(flags), tuple(parts))
