"""The verb `prepare`: backgrounds and lesions of a public data set, paired and placed, as a manifest (spec 5.3)."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt64

from graft_common import raster
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed, write_bytes
from graft_common.pixels import read_picture
from graft_common.provenance import SCHEMA
from tficomp.config import PrepareConfig
from tficomp.layouts import Dataset, Outlined, Tree, copies, fingerprint, lesion_mask, read_tree
from tficomp.manifest import write_manifest
from tficomp.tissue import place_in_tissue

PROMPTS: dict[Dataset, str] = {
    "br35h": "An MRI scan of a cancerous brain",
    "busi": "An ultrasound image of a cancerous breast",
}
MANIFEST = "manifest.json"


@dataclass
class Usable:
    """What is left of a tree when damaged files and copies are put aside, and how many of each were.

    Attributes:
        backgrounds, lesions: in the tree's order.
        skipped: reason -> count.
        first: reason -> the first message.
    """

    backgrounds: list[Path] = field(default_factory=list)
    lesions: list[Outlined] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def skip(self, reason: str, message: str) -> None:
        self.skipped[reason] += 1
        self.first.setdefault(reason, message)


def run_prepare(config: PrepareConfig, command: list[str]) -> dict[str, Any]:
    """Pair and place `n` samples, write their files and manifest.json; the same seed writes the same bytes.

    Everything is read and placed before the first file is written; the manifest is written last.

    Raises:
        InputError: no such tree, too few usable pictures, or a manifest is there already.
    """
    if config.n < 1:
        raise InputError(f"--n {config.n}: must be at least 1")
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: must be 0 or more")
    out = checked_out(config.out)
    if (out / MANIFEST).exists():
        raise InputError(f"--out {typed(config.out)}: holds {MANIFEST} already; choose another folder or remove it")
    record = Run(command, config, "graft-tficomp")
    with record.stage("read"):
        tree = read_tree(config.root, config.dataset)
        usable = usable_files(tree, quiet=config.json)
    with record.stage("place"):
        rows, files = samples(config, tree.dataset, usable, record)
    with record.stage("write"):
        for name, data in files.items():
            write_bytes(out / name, read_bytes(data) if isinstance(data, Path) else data)
        write_manifest(out / MANIFEST, rows)
    record.outputs = [MANIFEST, *files]
    record.measures = {
        "dataset": tree.dataset, "samples": len(rows), "backgrounds": len(usable.backgrounds),
        "lesions": len(usable.lesions), "skipped": dict(usable.skipped),
    }  # fmt: skip
    return record.write(out)


def usable_files(tree: Tree, quiet: bool = False) -> Usable:
    """Read every picture once: damaged ones, unreadable outlines and copies (by fingerprint) are skipped and counted.

    Lesions come first, so that a tumour-free copy of a picture with a tumour is the one that goes.
    """
    found, prints = Usable(), []
    items: list[Path | Outlined] = [*tree.lesions, *tree.backgrounds]
    kept: list[Path | Outlined] = []
    for path in tree.bare:
        found.skip("without outline", typed(path))
    for name in tree.missing:
        found.skip("listed but missing", name)
    with progress("read", len(items), quiet=quiet) as advance:
        for item in items:
            try:
                prints.append(_print_of(item))
                kept.append(item)
            except InputError as why:
                found.skip("unreadable outline" if isinstance(item, Outlined) else "unreadable", str(why))
            advance(1)
    twins = copies(prints)
    for i, item in enumerate(kept):
        path = item.image if isinstance(item, Outlined) else item
        if i in twins:
            found.skip("copy of another", typed(path))
        elif isinstance(item, Outlined):
            found.lesions.append(item)
        else:
            found.backgrounds.append(item)
    return found


def _print_of(item: Path | Outlined) -> UInt64[np.ndarray, "4"]:
    picture = read_picture(item.image if isinstance(item, Outlined) else item)
    if isinstance(item, Outlined):
        lesion_mask(item, picture.stored.shape[:2])
    return fingerprint(picture.pixels)


def pairs(backgrounds: int, lesions: int, seed: int) -> Iterator[tuple[int, int]]:
    """Every pair of indices once, in an order drawn from `seed` that uses all pictures as evenly as can be."""
    rng = np.random.default_rng([514, seed])
    first, second = rng.permutation(backgrounds), rng.permutation(lesions)
    for i in range(backgrounds * lesions):
        # Both indices go round; after a common period one of them is shifted, which opens the pairs not met so far.
        yield int(first[i % backgrounds]), int(second[(i + i // math.lcm(backgrounds, lesions)) % lesions])


def samples(
    config: PrepareConfig, dataset: Dataset, usable: Usable, record: Run
) -> tuple[list[dict[str, Any]], dict[str, Path | bytes]]:
    """Manifest rows, and name -> content (or the file to copy) of everything they refer to.

    Raises:
        InputError: fewer than `n` pairs.
    """
    rows: list[dict[str, Any]] = []
    files: dict[str, Path | bytes] = {}
    most = len(usable.backgrounds) * len(usable.lesions)
    for b, o in pairs(len(usable.backgrounds), len(usable.lesions), config.seed) if most >= config.n else ():
        background, lesion, key = usable.backgrounds[b], usable.lesions[o], f"{len(rows):05d}"
        base, picture = read_picture(background), read_picture(lesion.image)
        mask = lesion_mask(lesion, picture.stored.shape[:2])
        try:
            user = place_in_tissue(base.pixels, picture.pixels, mask, seed=config.seed + len(rows))
        except InputError as why:
            usable.skip("no room in tissue", str(why))
            continue
        names = {
            "background": f"{key}/background{background.suffix.lower()}",
            "object": f"{key}/object{lesion.image.suffix.lower()}",
            "object_mask": f"{key}/object_mask.png",
            "user_mask": f"{key}/user_mask.png",
        }
        files |= dict(zip(names.values(), (background, lesion.image, _png(mask), _png(user)), strict=True))
        record.read(f"background_{key}", background)
        record.read(f"object_{key}", lesion.image)
        rows.append({"id": key, **names, "prompt": PROMPTS[dataset], "seed": config.seed + len(rows)})
        if len(rows) == config.n:
            return rows, files
    raise InputError(
        f"--n {config.n}: {typed(config.root)} gives {len(rows) if most >= config.n else most} pairs of "
        f"{len(usable.backgrounds)} backgrounds and {len(usable.lesions)} lesions (skipped: {_skipped(usable)}); "
        "lower --n or add pictures"
    )


def _skipped(usable: Usable) -> str:
    return ", ".join(f"{n} {why}, first {usable.first[why]}" for why, n in usable.skipped.items()) or "none"


def _png(mask: Bool[np.ndarray, "H W"]) -> bytes:
    return raster.encode(
        mask.astype(np.uint8) * np.uint8(255), "png", {"schema": SCHEMA, "software": "Graft", "role": "mask"}
    )
