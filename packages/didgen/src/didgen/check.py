"""The verb `check`: what is wrong with my data, before an hour of work. Reads every file once; needs no network."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from didgen.config_data import CheckConfig
from didgen.images import read_lesion_mask, read_rgb
from didgen.layouts import read_tree
from didgen.manifest import NAME, Row, read_manifest
from didgen.tree import several
from graft_common.console import progress
from graft_common.errors import InputError
from graft_common.files import sha256, typed
from graft_common.findings import Finding, Level, conclude, said

SMALLEST = 64  # px: the shorter side below which a picture shows too little
SPECK, FLOOD = 0.005, 0.90  # share of the picture below and above which a mask is worth a look
GREY = 6  # levels between the channels up to which a picture counts as grey (JPEG's error)


def run_check(config: CheckConfig, command: list[str]) -> dict[str, Any]:
    """Print the findings: a table on stderr, or JSON on stdout with --json.

    Raises:
        InputError: at least one finding would stop prepare or training; the message has their count and the first.
    """
    path = Path(config.folder)
    findings: list[Finding] = []
    if path.is_dir() and not (path / NAME).is_file():
        tree = read_tree(path, config.layout)
        kind, rows = str(tree.layout), list(tree.rows)
        findings += tree.findings
        if not rows:
            findings.append(Finding("stop", typed(path), "holds no picture that can be used; compare its folder names"))
    else:
        kind, rows = "manifest", read_manifest(path, files=False)
    with progress("check", len(rows), quiet=config.json) as advance:
        findings += check_rows(rows, advance)
    findings = list(dict.fromkeys([*findings, *check_splits(rows, path)]))
    record = {"schema": 1, "kind": kind, "items": len(rows)}
    return conclude(findings, record, path, f"{kind}, {len(rows)} pictures", config.json)


def check_rows(rows: Sequence[Row], advance: Callable[[int], None] = lambda n: None) -> list[Finding]:
    """What each picture and mask says by itself, and pictures whose bytes stand twice."""
    findings: list[Finding] = []
    first: dict[str, Row] = {}
    for row in rows:
        findings += check_row(row)
        if row.image.is_file():
            twin = first.setdefault(sha256(row.image), row)
            if twin is not row:
                leak = "" if twin.split == row.split else f" and stands in {row.split} and {twin.split}"
                findings.append(
                    Finding("note", typed(row.image), f"is a copy of {typed(twin.image)}{leak}; keep one of them")
                )
        advance(1)
    return findings


def check_row(row: Row) -> list[Finding]:
    """Findings about one picture and its mask."""
    try:
        image = read_rgb(row.image)
    except InputError as why:
        return [_stopped(row.image, why)]
    height, width = image.shape[:2]
    notes: list[tuple[Path, Level, str]] = []
    if min(height, width) < SMALLEST:
        notes.append((row.image, "note", f"is {width}x{height}; give {SMALLEST} px or more a side"))
    if max(height, width) > 3 * min(height, width):
        notes.append((row.image, "note", f"is {width}x{height} and would be squashed; crop it"))
    if image.min() == image.max():
        notes.append((row.image, "note", "has one value only; look at it"))
    elif int(np.ptp(image, axis=2).max()) <= GREY:
        notes.append((row.image, "note", "is grey; colours of skin and lesion are lost"))
    if row.mask is not None:
        try:
            share = float(read_lesion_mask(row.mask, (height, width)).mean())
        except InputError as why:
            return [*_found(notes), _stopped(row.mask, why)]
        if not SPECK <= share <= FLOOD:
            notes.append(
                (row.mask, "note", f"covers {share:.1%} of the picture; look at it, it may be inverted or a speck")
            )
    return _found(notes)


def check_splits(rows: Sequence[Row], path: Path) -> list[Finding]:
    """Lesions on both sides of a split, and classes that are tested but not trained."""
    where: dict[str, set[str]] = {}
    for row in rows:
        if row.lesion_id and row.split:
            where.setdefault(row.lesion_id, set()).add(row.split)
    torn = [f"{key} ({' and '.join(sorted(splits))})" for key, splits in where.items() if len(splits) > 1]
    findings = several("note", path, torn, "lesion in several splits, a leak; split by lesion with prepare --resplit")
    trained = _classes(row for row in rows if row.split == "train")
    tested = _classes(row for row in rows if row.split in ("val", "test"))
    if trained:
        findings += several("note", path, sorted(tested - trained), "class without a training picture; add some")
    return findings


def _classes(rows: Iterable[Row]) -> set[str]:
    return {row.dx for row in rows if row.dx}


def _found(notes: Sequence[tuple[Path, Level, str]]) -> list[Finding]:
    return [Finding(level, typed(path), what) for path, level, what in notes]


def _stopped(path: Path, why: InputError) -> Finding:
    return Finding("stop", typed(path), said(path, why))
