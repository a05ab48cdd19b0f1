"""The verb `check`: what is wrong with my data, before an hour of work. Reads every file once; needs no network."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusionmix.config_data import CheckConfig
from diffusionmix.layouts import read_folder, read_tree
from diffusionmix.prepared import HEAD, read_prepared
from diffusionmix.read import read_mask, read_rgb
from diffusionmix.tree import Item
from graft_common.console import progress
from graft_common.errors import InputError
from graft_common.files import sha256, typed
from graft_common.findings import Finding, conclude, said

SMALLEST = 64  # px of the shorter side of a source below which there is little to learn
FEW = 30  # training squares of a class below which a network repeats them
SPECK, FLOOD = 0.0005, 0.6  # share of a source that a mask covers, below and above which it is worth a look


def run_check(config: CheckConfig, command: list[str]) -> dict[str, Any]:
    """Print the findings: a table on stderr, or JSON on stdout with --json.

    Raises:
        InputError: at least one finding would stop prepare or training; the message has their count and the first.
    """
    folder = Path(config.folder)
    findings: list[Finding] = []
    if (folder / HEAD).is_file():
        prepared = read_prepared(folder, files=False)
        kind, square = f"prepared {prepared.role}", prepared.size
        items = [
            Item(r.id, r.image, r.mask, r.label, None, r.split, r.group, empty=r.mask is None) for r in prepared.rows
        ]
        findings += _splits(items, folder)
    else:
        tree = read_tree(folder, config.layout) if config.masks is None else read_folder(folder, config.masks)
        kind, square, items = tree.layout, None, list(tree.items)
        findings += tree.findings
    with progress("check", len(items), quiet=config.json) as advance:
        findings += check_items(items, square, advance)
    findings = list(dict.fromkeys(findings))
    record = {"schema": 1, "kind": kind, "items": len(items)}
    return conclude(findings, record, folder, f"{kind}, {len(items)} pictures", config.json)


def check_items(
    items: Sequence[Item], square: int | None = None, advance: Callable[[int], None] = lambda n: None
) -> list[Finding]:
    """What each picture and mask says by itself, and pictures whose bytes stand twice.

    Args:
        square: side that every picture must have (a prepared folder); None for sources.
    """
    findings: list[Finding] = []
    first: dict[str, Item] = {}
    for item in items:
        findings += check_item(item, square)
        if item.image.is_file():
            twin = first.setdefault(sha256(item.image), item)
            if twin is not item:
                leak = "" if twin.split == item.split else f" and stands in {twin.split} and {item.split}"
                findings.append(
                    Finding("note", typed(item.image), f"is a copy of {typed(twin.image)}{leak}; keep one of them")
                )
        advance(1)
    return findings


def check_item(item: Item, square: int | None = None) -> list[Finding]:
    """Findings about one picture and its mask."""
    try:
        image = read_rgb(item.image)
    except InputError as why:
        return [_stopped(item.image, why)]
    height, width = image.shape[:2]
    found: list[Finding] = []
    if square is not None and (height, width) != (square, square):
        found.append(Finding("stop", typed(item.image), f"is {width}x{height}, not {square} squared; run prepare again"))
    if square is None and min(height, width) < SMALLEST:
        found.append(Finding("note", typed(item.image), f"is {width}x{height}; give {SMALLEST} px or more a side"))
    if (image == image[0, 0]).all():
        found.append(Finding("note", typed(item.image), "has one colour only; look at it"))
    if item.mask is not None:
        try:
            mask = read_mask(item.mask, item.values, (height, width))
        except InputError as why:
            return [*found, _stopped(item.mask, why)]
        share = float(np.mean(mask))
        if not mask.any():
            found.append(Finding("stop", typed(item.mask), "is empty; mark the object, or move the picture to the good ones"))
        elif square is None and not SPECK <= share <= FLOOD:
            found.append(
                Finding("note", typed(item.mask), f"covers {share:.2%} of the picture; it may be inverted or a speck")
            )
    return found


def _splits(items: Sequence[Item], folder: Path) -> list[Finding]:
    """Sources on both sides of a split, and classes with few training squares."""
    where: dict[str, set[str]] = {}
    trained: dict[str, int] = {}
    for item in items:
        where.setdefault(item.group or item.id, set()).add(item.split or "none")
        label = item.label or "squares"
        trained[label] = trained.get(label, 0) + (item.split == "train")
    torn = sorted(k for k, splits in where.items() if len(splits) > 1)
    found = [Finding("stop", typed(folder), f"{torn[0]}: stands in several splits, a leak; run prepare again")] if torn else []
    for label, count in sorted(trained.items()):
        if count < FEW:
            what = f"{label}: {count} training squares; a network this free repeats them, train with augmentation or pool classes"
            found.append(Finding("note", typed(folder), what))
    return found


def _stopped(path: Path, why: InputError) -> Finding:
    return Finding("stop", typed(path), said(path, why))
