"""The verb `prepare`: a data set's folder -> manifest.jsonl, split so that no lesion stands on both sides."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from didgen.config_data import PrepareConfig
from didgen.images import picture_size
from didgen.layouts import read_tree
from didgen.manifest import NAME, Row, drawn_order, write_manifest
from didgen.tree import Tree
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed, write_bytes


def run_prepare(config: PrepareConfig, command: list[str]) -> dict[str, Any]:
    """List, split and write; the same folder and seed write the same bytes. Pictures are opened, not decoded: `check` does.

    Raises:
        InputError: no such data set, a finding that stops (unless --skip), too few pictures, or a manifest is there already.
    """
    config.check()
    out = checked_out(config.out)
    if (out / NAME).exists():
        raise InputError(f"--out {typed(config.out)}: holds {NAME} already; choose another folder or remove it")
    record = Run(command, config, "graft-didgen")
    with record.stage("read"):
        tree = read_tree(config.root, config.layout)
        rows, skipped = usable(tree, config.skip, quiet=config.json)
    with record.stage("split"):
        rows = split_rows(rows, config.val, config.test, config.seed, config.resplit)
        if config.keep_train is not None:
            rows = keep_train(rows, config.keep_train, config.seed)
    with record.stage("write"):
        if config.copy:
            rows = [_copied(row, out) for row in rows]
            record.outputs += [os.path.relpath(p, out) for row in rows for p in (row.image, row.mask) if p is not None]
        write_manifest(out / NAME, rows, [Path(config.root)])
    record.outputs.insert(0, NAME)
    record.measures = {
        "layout": tree.layout, "pictures": len(rows), "skipped": skipped, "with_mask": sum(r.mask is not None for r in rows),
        "splits": counted(row.split for row in rows), "classes": counted(row.dx for row in rows),
        "notes": sum(f.level == "note" for f in tree.findings),
    }  # fmt: skip
    return record.write(out)


def usable(tree: Tree, skip: bool, quiet: bool = True) -> tuple[list[Row], int]:
    """Rows whose files open and fit together, by their headers; and how many were left out.

    Raises:
        InputError: with `skip` off, the first thing that is wrong; with it on, nothing is left.
    """
    for found in tree.findings:
        if found.level == "stop" and not skip:
            raise InputError(f"{found.path}: {found.what} (or pass --skip to leave it out)")
    kept: list[Row] = []
    with progress("open", len(tree.rows), quiet=quiet) as advance:
        for row in tree.rows:
            try:
                _open(row)
                kept.append(row)
            except InputError as why:
                if not skip:
                    raise InputError(f"{why} (or pass --skip to leave it out)") from why
            advance(1)
    if not kept:
        raise InputError(f"{typed(tree.root)}: holds no picture of {tree.layout} that can be used; run check on it")
    return kept, len(tree.rows) - len(kept)


def _open(row: Row) -> None:
    height, width = picture_size(row.image)
    if row.mask is not None and (size := picture_size(row.mask, "mask")) != (height, width):
        raise InputError(
            f"mask {typed(row.mask)}: is {size[1]}x{size[0]} but its image is {width}x{height}; give both one size"
        )


def split_rows(rows: Sequence[Row], val: float | int, test: float | int, seed: int, resplit: bool = False) -> list[Row]:
    """Rows with a split: the data set's own where it has one, else `val` and `test` of the lesions of each class.

    Pictures without `lesion_id` are lesions of their own. A lesion's class is that of its first row. Counts are rounded, halves
    up.
    """
    if any(row.split for row in rows) and not resplit:
        return list(rows)
    lesion = {row.id: row.lesion_id or f"picture {row.id}" for row in rows}
    classes: dict[str, str | None] = {}
    for row in rows:
        classes.setdefault(lesion[row.id], row.dx)
    place: dict[str, Any] = {}
    for dx in {str(c): c for c in classes.values()}.values():
        ordered = drawn_order((key for key, label in classes.items() if label == dx), seed)
        first = math.floor(len(ordered) * test + 0.5)
        second = first + math.floor(len(ordered) * val + 0.5)
        for i, key in enumerate(ordered):
            place[key] = "test" if i < first else "val" if i < second else "train"
    return [replace(row, split=place[lesion[row.id]]) for row in rows]


def keep_train(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """The rows with only `count` of the training rows, drawn by `seed`; a larger count keeps those of a smaller one.

    Raises:
        InputError: there are fewer.
    """
    ids = [row.id for row in rows if row.split == "train"]
    if len(ids) < count:
        raise InputError(f"--keep-train {count}: there are {len(ids)} training pictures; lower it")
    chosen = set(drawn_order(ids, seed)[:count])
    return [row for row in rows if row.split != "train" or row.id in chosen]


def _copied(row: Row, out: Path) -> Row:
    """The row with its files copied to `image/` and `mask/`, named by id."""
    image = write_bytes(out / "image" / f"{row.id}{row.image.suffix.lower()}", read_bytes(row.image))
    mask = None
    if row.mask is not None:
        mask = write_bytes(out / "mask" / f"{row.id}{row.mask.suffix.lower()}", read_bytes(row.mask))
    return replace(row, image=image, mask=mask)


def counted(values: Any) -> dict[str, int]:
    """How often each value occurs, by name; "none" for None."""
    return dict(sorted(Counter("none" if v is None else str(v) for v in values).items()))
