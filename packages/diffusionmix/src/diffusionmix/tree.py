"""What a reader of a data set's folder returns, and how it finds and pairs files. Nothing here opens a picture."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusionmix.read import SUFFIXES, MaskValues
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.findings import Finding, Level

Split = Literal["train", "val", "test"]
DEEPEST = 8  # folders below the root; nothing of these data sets lies deeper, wherever it was unpacked
NOTICE = "SYNTHETIC.txt"  # `phantom` puts it at the root: everything below was drawn


@dataclass(frozen=True)
class Item:
    """One picture of a data set.

    Attributes:
        id: unique in its tree, a plain file name.
        image: the picture.
        mask: its object's mask; None for a picture without object, or where none is known.
        label: class of the object (defect, kind).
        category: the product it shows, where the data set has several.
        split: the data set's own; None while nobody has split it.
        group: pictures that must not be split apart (a clip, a drive); None: it stands alone.
        values: how the mask is to be read.
        empty: whether the picture is known to hold no object, so that it may serve as a background.
    """

    id: str
    image: Path
    mask: Path | None = None
    label: str | None = None
    category: str | None = None
    split: Split | None = None
    group: str | None = None
    values: MaskValues = "auto"
    empty: bool = False


@dataclass(frozen=True)
class Tree:
    """A data set's folder, listed.

    Attributes:
        layout: whose layout it is.
        root: as given.
        items: one a usable picture, by id.
        findings: what does not pair or disagrees.
    """

    layout: str
    root: Path
    items: tuple[Item, ...]
    findings: tuple[Finding, ...] = ()


def folders(root: Path, deepest: int = DEEPEST) -> list[Path]:
    """`root` and every folder at most `deepest` below it, by name; hidden ones are passed over.

    Raises:
        InputError: `root` is no folder, or a folder may not be listed.
    """
    if not Path(root).is_dir():
        raise InputError(f"{typed(root)}: is no folder; give the data set's folder")

    def refuse(why: OSError) -> None:
        raise InputError(f"{typed(why.filename)}: cannot be listed ({why.strerror}); change its permissions")

    found: list[Path] = []
    for folder, inside, _ in os.walk(root, onerror=refuse):
        deep = len(Path(folder).relative_to(root).parts)
        inside[:] = sorted(d for d in inside if not d.startswith((".", "__MACOSX")) and deep < deepest)
        found.append(Path(folder))
    return found


def pictures(folder: Path, root: Path) -> list[Path]:
    """Picture files directly in a folder, by name; none where it does not exist.

    Raises:
        InputError: the folder may not be listed, or a file is a link that leads out of `root`.
    """
    if not folder.is_dir():
        return []
    try:
        files = sorted(f for f in folder.iterdir() if not f.name.startswith(".") and f.suffix.lower() in SUFFIXES)
    except OSError as why:
        raise InputError(f"{typed(folder)}: cannot be listed ({why.strerror}); change its permissions") from why
    return [confined(root, f) for f in files if f.is_file() or f.is_symlink()]


def confined(root: Path, path: Path) -> Path:
    """`path`, refused where it leads out of `root` (a link, or `..` in a table).

    Raises:
        InputError: it does.
    """
    try:
        real, top = path.resolve(), Path(root).resolve()
    except (OSError, ValueError, RuntimeError) as why:  # a NUL in the name, a loop of links
        raise InputError(f"{typed(str(path))!r}: is no path ({type(why).__name__}); give a file's name") from why
    if not real.is_relative_to(top):
        raise InputError(f"{typed(path)}: leads out of {typed(root)}; keep the files below one folder")
    return path


def by_stem(files: Iterable[Path], ending: str = "") -> tuple[dict[str, Path], list[str]]:
    """stem -> file, and the stems that several files share. `ending` is cut off a stem that has it (`000_mask` -> `000`)."""
    found: dict[str, Path] = {}
    twice: list[str] = []
    for file in files:
        stem = file.stem.removesuffix(ending) if ending else file.stem
        if stem in found:
            twice.append(stem)
        found.setdefault(stem, file)
    return found, twice


def pair(
    images: Sequence[Path], masks: Sequence[Path], where: Path, ending: str = "_mask"
) -> tuple[list[tuple[str, Path, Path]], list[Finding]]:
    """(stem, image, mask) of the pictures that have a mask of their own stem, with or without `ending`; what does not pair."""
    shown, several_images = by_stem(images)
    marked, several_masks = by_stem(masks)
    plain, several_ended = by_stem(masks, ending)
    if ending and any(f.stem.endswith(ending) for f in masks):
        marked, several_masks = plain, several_ended
    findings = several("stop", where, several_images, "picture stands in two files of one name; keep one")
    findings += several("stop", where, several_masks, "mask stands in two files of one name; keep one")
    findings += several("stop", where, shown.keys() - marked.keys(), "picture without a mask; add it or move the picture away")
    findings += several("stop", where, marked.keys() - shown.keys(), "mask without a picture; add it or move the mask away")
    return [(stem, shown[stem], marked[stem]) for stem in shown if stem in marked], findings


def several(level: Level, path: Path | str, names: Iterable[str], what: str) -> list[Finding]:
    """One finding for all of `names`, none when there are none; `what` follows the first names and the count."""
    names = sorted(set(names))
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [Finding(level, typed(path), f"{shown}: {what}")]


def named(*words: str) -> str:
    """An id, usable as a file name, from the words of a path."""
    name = "__".join(w.replace("/", "__") for w in words if w)
    if len(name.encode()) <= 150:
        return name
    return f"{name[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def finish(layout: str, root: Path, items: Iterable[Item], findings: Iterable[Finding]) -> Tree:
    """The tree in order of id; of items that share an id the first stays and a finding says so."""
    kept: dict[str, Item] = {}
    twice: list[str] = []
    for item in items:
        if item.id in kept:
            twice.append(item.id)
        kept.setdefault(item.id, item)
    findings = [*findings, *several("stop", root, twice, "stands twice; rename one of them")]
    return Tree(layout, Path(root), tuple(kept[k] for k in sorted(kept)), tuple(findings))
