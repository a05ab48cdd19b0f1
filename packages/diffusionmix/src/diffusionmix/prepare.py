"""The verb `prepare`: a data set, or any folder -> squares to train on, split so that no source stands on both sides."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from diffusionmix.box import Box
from diffusionmix.config_data import PrepareConfig
from diffusionmix.crop import central, clean, cut, object_box, parts, square
from diffusionmix.layouts import read_folder, read_tree, stopping
from diffusionmix.prepared import HEAD, MANIFEST, Row, write_prepared
from diffusionmix.read import picture_size, read_mask, read_rgb
from diffusionmix.tree import NOTICE, Item, Split, Tree
from graft_common import raster
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import typed, write_bytes
from graft_common.pixels import read_provenance
from graft_common.provenance import stamp

BACKGROUND_SIZE = 256
RULE_SCALE, RULE_SIDE = 256, 80  # the spec's size rule: median side below 80 px where the picture's shorter side is 256
NAMELESS = "other"


@dataclass(frozen=True)
class Square:
    """One square to cut: where from, and what it will be called."""

    key: str
    item: Item
    box: Box
    source_size: tuple[int, int]


def run_prepare(config: PrepareConfig, command: list[str]) -> dict[str, Any]:
    """List, split, cut and write; the same folder, settings and seed write the same squares.

    Raises:
        InputError: no such data set, pictures and masks that do not pair (unless --skip), a broken file (unless --skip), nothing
            left to cut, or a folder that is prepared already.
    """
    config.check()
    out = checked_out(config.out)
    if (out / HEAD).exists() or (out / MANIFEST).exists():
        raise InputError(f"--out {typed(config.out)}: holds a prepared data set already; choose another or remove it")
    run = Run(command, config, "graft-diffusionmix")
    with run.stage("list"):
        tree = listed(config)
        items, skipped = usable(tree, config)
        items = split_items(items, config.val, config.test, config.seed, config.resplit)
    with run.stage("measure"), progress("measure", len(items), quiet=config.json) as advance:
        squares, more = measured(items, config, advance)
        skipped += more
    size = config.size or (BACKGROUND_SIZE if config.role == "background" else rule_size(squares, config.margin))
    with run.stage("cut"), progress("cut", len(squares), quiet=config.json) as advance:
        rows = [row for square in squares if (row := _written(square, size, config, tree, out, advance)) is not None]
    if not rows:
        raise InputError(f"{typed(tree.root)}: no object is left at --size {size}; give a larger one")
    classes = sorted({row.label for row in rows if row.label is not None})
    write_prepared(out, config.role, size, classes, rows)
    run.outputs = [MANIFEST, HEAD]
    run.measures = {
        "layout": tree.layout, "squares": len(rows), "size": size, "skipped": skipped, "vanished": len(squares) - len(rows),
        "splits": dict(sorted(Counter(row.split for row in rows).items())),
        "classes": dict(sorted(Counter(row.label or "none" for row in rows).items())),
        "notes": sorted({found.what for found in tree.findings if found.level == "note"}),
    }  # fmt: skip
    return run.write(out)


def listed(config: PrepareConfig) -> Tree:
    """The pictures of the role, with the classes asked for.

    Raises:
        InputError: what the reader refuses, findings that stop (unless --skip), or nothing of the role.
    """
    if config.images is not None:
        tree = read_folder(config.images, config.masks)
    else:
        tree = read_tree(config.root[0], config.layout, config.every)
    if not config.skip:
        for found in stopping(tree.findings):
            raise InputError(f"{found.path}: {found.what} (or pass --skip to leave it out)")
    for flag, wanted, known in (
        ("--category", config.category, {i.category for i in tree.items}),
        ("--defect", config.defect, {i.label for i in tree.items}),
    ):
        for name in wanted:
            if name not in known:
                names = ", ".join(sorted(k for k in known if k)) or "none"
                raise InputError(f"{flag} {name}: is not in {typed(tree.root)}; it has {names}")
    kept = [i for i in tree.items if not config.category or i.category in config.category]
    if config.role == "background":
        kept = [replace(i, mask=None, label=None) for i in kept if i.empty]
    else:
        kept = [i for i in kept if i.mask is not None and (not config.defect or i.label in config.defect)]
        kept = [replace(i, label=_label(i, config.label)) for i in kept]
        if any(i.label is not None for i in kept):
            kept = [replace(i, label=i.label or NAMELESS) for i in kept]
    if not kept:
        other = "background" if config.role == "object" else "object"
        raise InputError(f"{typed(tree.root)}: holds no picture for --role {config.role}; try --role {other}, or run check on it")
    return replace(tree, items=tuple(kept))


def _label(item: Item, kind: str) -> str | None:
    return None if kind == "none" else item.category if kind == "category" else item.label


def usable(tree: Tree, config: PrepareConfig) -> tuple[list[Item], int]:
    """Items whose headers open and fit together; and how many were left out.

    Raises:
        InputError: with --skip off, the first that does not; with it on, none is left.
    """
    kept: list[Item] = []
    for item in tree.items:
        try:
            size = picture_size(item.image)
            if item.mask is not None and (other := picture_size(item.mask, "mask")) != size:
                raise InputError(
                    f"mask {typed(item.mask)}: is {other[1]}x{other[0]} but its image is {size[1]}x{size[0]}; give both one size"
                )
            kept.append(item)
        except InputError as why:
            if not config.skip:
                raise InputError(f"{why} (or pass --skip to leave it out)") from why
    if not kept:
        raise InputError(f"{typed(tree.root)}: no picture can be used; run check on it")
    return kept, len(tree.items) - len(kept)


def split_items(
    items: Sequence[Item], val: float | int, test: float | int, seed: int, resplit: bool = False
) -> list[Item]:
    """Items with a split and a group: their own split, else `test` and `val` of each class's groups; one item at least trains.

    A group's class is that of its first item, so a group is never torn. Counts are rounded, halves up. The draw goes by the hash
    of (seed, group): a picture more or less moves few others.
    """
    grouped = [replace(item, group=item.group or item.id) for item in items]
    classes: dict[str, tuple[str | None, str | None]] = {}
    own: dict[str, Split] = {}
    for item in grouped:
        assert item.group is not None
        if item.split is not None and not resplit:
            own[item.group] = item.split
        else:
            classes.setdefault(item.group, (item.category, item.label))
    place: dict[str, Split] = {}
    for one in dict.fromkeys(classes.values()):
        keys = [k for k, label in classes.items() if label == one]
        keys.sort(key=lambda k: hashlib.sha256(f"{seed} {k}".encode()).digest())
        tested = min(math.floor(len(keys) * test + 0.5), len(keys) - 1)
        checked = min(tested + math.floor(len(keys) * val + 0.5), len(keys) - 1)
        for i, key in enumerate(keys):
            place[key] = "test" if i < tested else "val" if i < checked else "train"
    place |= own
    return [replace(item, split=place[item.group or ""]) for item in grouped]


def measured(
    items: Sequence[Item], config: PrepareConfig, advance: Callable[[int], None] = lambda n: None
) -> tuple[list[Square], int]:
    """The squares of every item, in order; and how many items were left out.

    Raises:
        InputError: with --skip off, a damaged file or an empty mask; with it on, nothing is left.
    """
    squares, left = list[Square](), 0
    for item in items:
        try:
            squares += _background_squares(item, config) if item.mask is None else _object_squares(item, config)
        except InputError as why:
            if not config.skip:
                raise InputError(f"{why} (or pass --skip to leave it out)") from why
            left += 1
        advance(1)
    if not squares:
        raise InputError("prepare: no picture can be used; run check on the folder")
    return squares, left


def _object_squares(item: Item, config: PrepareConfig) -> list[Square]:
    assert item.mask is not None
    mask = read_mask(item.mask, item.values, picture_size(item.image))
    if not mask.any():
        raise InputError(f"mask {typed(item.mask)}: is empty; mark the object, or move the picture to the good ones")
    whole = clean(mask)
    found = [whole] if config.parts == "whole" else parts(mask)
    size = (mask.shape[1], mask.shape[0])
    keys = [item.id] if len(found) == 1 else [f"{item.id}__part{k}" for k in range(len(found))]
    return [Square(key, item, object_box(one, config.margin), size) for key, one in zip(keys, found, strict=True)]


def _background_squares(item: Item, config: PrepareConfig) -> list[Square]:
    height, width = picture_size(item.image)
    size, side = (width, height), min(height, width)
    if item.split != "train" or height == width:
        return [Square(item.id, item, central(height, width), size)]
    found = []
    for k in range(config.crops):
        word = int.from_bytes(hashlib.sha256(f"{item.id} {k}".encode()).digest()[:8], "big")
        rng = np.random.default_rng([config.seed, word])
        box = Box(int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1)), side, side)
        found.append(Square(item.id if config.crops == 1 else f"{item.id}__crop{k}", item, box, size))
    return found


def rule_size(squares: Sequence[Square], margin: float | int = 0.25) -> int:
    """64 where training objects have a median side below 80 px in a picture of shorter side 256, else 128 (spec section 3)."""
    sides = [s.box.w / (1 + float(margin)) * RULE_SCALE / min(s.source_size) for s in squares if s.item.split == "train"]
    return 64 if float(np.median(sides)) < RULE_SIDE else 128


def _written(
    square_: Square, size: int, config: PrepareConfig, tree: Tree, out: Path, advance: Callable[[int], None]
) -> Row | None:
    """Cut and write one square; None where its object vanishes at this size."""
    item = square_.item
    image = read_rgb(item.image)
    mask: Bool[np.ndarray, "S S"] | None = None
    if item.mask is None:
        picture = square(image, size, square_.box)
    else:
        whole = clean(read_mask(item.mask, item.values, image.shape[:2]))
        picture, mask = cut(image, whole, square_.box, size)
    advance(1)
    if mask is not None and not mask.any():
        return None
    if mask is not None and config.context == "grey":
        picture = np.where(mask[..., None], picture, np.uint8(128))
    synthetic = drawn(tree.root) or read_provenance(item.image) is not None
    note = stamp("diffusionmix", config.seed, {}, {}) | {"synthetic": synthetic, "notice": "prepared square"}
    image_path, mask_path = out / "image" / f"{square_.key}.png", out / "mask" / f"{square_.key}.png"
    write_bytes(image_path, raster.encode(picture, "png", note))
    if mask is not None:
        write_bytes(mask_path, raster.encode(mask.astype(np.uint8) * np.uint8(255), "png", note))
    assert item.split is not None and item.group is not None
    at, marks = square_.box, None if mask is None else mask_path
    box = (at.x, at.y, at.w, at.h)
    return Row(square_.key, image_path, marks, item.label, item.split, item.group, box, square_.source_size, synthetic)


@lru_cache(maxsize=8)
def drawn(root: Path) -> bool:
    """Whether `phantom` wrote the folder, or one of the three above it."""
    return any((folder / NOTICE).is_file() for folder in [Path(root).resolve(), *Path(root).resolve().parents][:4])
