"""The verb `augment`: a real manifest and synthetic pictures -> one manifest whose training part holds both.

Nothing that was drawn from a validation or test picture gets in: a synthetic picture names the layout it was drawn from, and
that layout's name is looked up among the real pictures.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from didgen.config_data import AugmentConfig
from didgen.generated import Generated, read_generated
from didgen.manifest import CLASSES, NAME, Manifest, Row, drawn_order, load, write_manifest
from didgen.prepare import counted
from graft_common.console import Run, checked_out
from graft_common.errors import InputError
from graft_common.files import sha256, typed

HELD_OUT = ("val", "test")


def run_augment(config: AugmentConfig, command: list[str]) -> dict[str, Any]:
    """Merge and write manifest.jsonl; the same files and seed write the same bytes.

    Raises:
        InputError: unreadable input, a picture drawn from a held-out one or equal to one, or fewer pictures than asked for.
    """
    config.check()
    wanted = read_counts(config.counts)
    out = checked_out(config.out)
    if (out / NAME).exists():
        raise InputError(f"--out {typed(config.out)}: holds {NAME} already; choose another folder or remove it")
    record = Run(command, config, "graft-didgen")
    with record.stage("read"):
        real = load(config.manifest)
        record.read("manifest", real.path)
        sources = [training_only(path) for path in config.synthetic]
        for i, source in enumerate(sources):
            record.read(f"synthetic_{i}", source.path)
    with record.stage("merge"):
        candidates, left_out = admitted(real, sources, config.own_layouts, config.keep_flagged)
        chosen = choose(candidates, wanted, config.seed)
    roots = [real.path.parent, *real.roots, *(root for s in sources for root in (s.path.parent, *s.roots))]
    with record.stage("write"):
        write_manifest(out / NAME, [*real.rows, *chosen], roots)
    record.outputs = [NAME]
    record.measures = {
        "real_train": sum(row.split == "train" for row in real.rows), "added": len(chosen),
        "added_classes": counted(row.dx for row in chosen), "left_out": left_out,
    }  # fmt: skip
    return record.write(out)


def read_counts(words: Sequence[str]) -> dict[str, int]:
    """`CLASS=N` and `any=N` as numbers.

    Raises:
        InputError: another form, an unknown class, a class twice, or a number that is none or negative.
    """
    counts: dict[str, int] = {}
    for word in words:
        name, equals, number = word.partition("=")
        name = name if name == "any" else name.upper()
        if not equals or name not in (*CLASSES, "any") or not re.fullmatch(r"[0-9]{1,9}", number):
            raise InputError(f"--counts {word}: give CLASS=N with one of {', '.join(CLASSES)}, or any=N")
        if name in counts:
            raise InputError(f"--counts {word}: {name} stands twice; give it once")
        counts[name] = int(number)
    return counts


def training_only(path: Path) -> Generated:
    """Generated pictures, none of which says that it is for validation or test.

    Raises:
        InputError: one does, or they cannot be read.
    """
    made = read_generated(path, "--synthetic ")
    if held := next((row for row in made.rows if row.split in HELD_OUT), None):
        raise InputError(
            f"--synthetic {typed(path)}: {held.id} is for {held.split}; only rows of split train or null can be added"
        )
    return made


def admitted(
    real: Manifest, sources: Sequence[Generated], own_layouts: bool, keep_flagged: bool
) -> tuple[list[Row], dict[str, int]]:
    """Synthetic rows that may be added, as rows of split train with ids `syn<source>-<id>`, and how many were left out why.

    Raises:
        InputError: no training rows to add to; a row drawn from, named as, or equal to a held-out picture.
    """
    if not any(row.split == "train" for row in real.rows):
        raise InputError(f"{typed(real.path)}: has no row of split train; run prepare first")
    names = splits_by_name(real.rows)
    held = _by_size(row.image for row in real.rows if row.split in HELD_OUT)
    taken, rows, left = {row.id for row in real.rows}, list[Row](), {"flagged": 0, "other_layout": 0}
    for i, source in enumerate(sources):
        for row in source.rows:
            origin = layout_split(row.layout or row.id, names)
            if origin in HELD_OUT:
                raise InputError(
                    f"{typed(source.path)}: {row.id} was drawn from layout {row.layout or row.id}, which is a {origin} "
                    "picture of the manifest; draw pairs from training masks only"
                )
            if twin := _twin(row.image, held):
                raise InputError(f"{typed(row.image)}: is a copy of the held-out {typed(twin)}; remove it")
            key = f"syn{i}-{row.id}"
            if key in taken:
                raise InputError(f"{typed(source.path)}: {key} stands in the manifest already; start from the real one")
            if row.id in source.flagged and not keep_flagged:
                left["flagged"] += 1
            elif own_layouts and origin != "train":
                left["other_layout"] += 1
            else:
                rows.append(replace(row, id=key, split="train", lesion_id=None, synthetic=True))
    return rows, left


def splits_by_name(rows: Iterable[Row]) -> dict[str, str]:
    """Upper-case id and file stems of every real picture -> its split; a name that is also held out counts as held out."""
    names: dict[str, str] = {}
    for row in rows:
        for name in (row.id, row.image.stem, *([row.mask.stem] if row.mask else [])):
            if row.split and names.get(name.upper()) not in HELD_OUT:
                names[name.upper()] = row.split
    return names


def layout_split(layout: str, names: dict[str, str]) -> str | None:
    """Split of the real picture that a layout's name begins with: ISIC_0000000_segmentation_2 belongs to ISIC_0000000.

    The longest name counts; None where no real picture is called so.
    """
    words = re.split(r"([_\-. ])", Path(layout).name.upper())
    starts = ("".join(words[:end]) for end in range(len(words), 0, -2))
    return next((names[start] for start in starts if start in names), None)


def choose(candidates: Sequence[Row], counts: dict[str, int], seed: int) -> list[Row]:
    """The rows that `counts` asks for, in order of id; all where it asks for nothing.

    Raises:
        InputError: a class has fewer.
    """
    if not counts:
        return sorted(candidates, key=lambda row: row.id)
    by_id, kept = {row.id: row for row in candidates}, list[str]()
    for name, count in counts.items():
        pool = [row.id for row in candidates if (row.dx == name if name != "any" else row.dx not in counts)]
        if len(pool) < count:
            raise InputError(
                f"--counts {name}={count}: {len(pool)} synthetic pictures are there; lower it or draw more"
            )
        kept += drawn_order(pool, seed)[:count]
    return [by_id[key] for key in sorted(kept)]


def _by_size(paths: Iterable[Path]) -> dict[int, list[Path]]:
    """Bytes of a file -> the files of that length: only those need be compared."""
    found: dict[int, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stat().st_size, []).append(path)
    return found


def _twin(path: Path, others: dict[int, list[Path]]) -> Path | None:
    same = others.get(path.stat().st_size, [])
    return next((other for other in same if sha256(other) == sha256(path)), None)
