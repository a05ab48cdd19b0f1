"""The list of pictures: JSON Lines, one row a picture, with paths that never lead out of the named folders.

Paths count from the manifest's own folder. Where the pictures lie elsewhere, the first line names the folders that they may
lie in: `{"schema": 1, "roots": ["../../data/HAM10000"]}`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from graft_common.errors import InputError
from graft_common.files import atomic_path, read_bytes, typed

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# Column order of ISIC 2018 task 3, which is also the order of class indices.
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
NAME = "manifest.jsonl"
SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """One picture.

    Attributes:
        id: unique in its manifest, a plain file name.
        image: the picture.
        mask: its lesion mask, same size.
        split: train, val or test; None while nobody has split the data.
        dx: one of `CLASSES`.
        lesion_id: pictures of one lesion share it and are never split apart.
        attributes: `DermAttributes` as a JSON object.
        prompt: full prompt of the picture.
        synthetic: whether the picture was generated.
        layout: for a synthetic picture, the mask that it was drawn from (file stem).
    """

    id: str
    image: Path
    mask: Path | None = None
    split: Split | None = None
    dx: str | None = None
    lesion_id: str | None = None
    attributes: dict[str, Any] | None = None
    prompt: str | None = None
    synthetic: bool = False
    layout: str | None = None


COLUMNS = tuple(Row.__dataclass_fields__)
TEXTS = ("mask", "dx", "lesion_id", "prompt", "layout")


@dataclass(frozen=True)
class Manifest:
    """What a manifest file says: where it lies, the folders its pictures may lie in, and its rows."""

    path: Path
    roots: tuple[Path, ...]
    rows: tuple[Row, ...]


def read_manifest(path: Path, files: bool = True) -> list[Row]:
    """Rows of a manifest, or of `manifest.jsonl` in a folder; paths are joined to its folder.

    Args:
        files: whether pictures and masks must exist.

    Raises:
        InputError: unreadable, not JSON Lines, no rows, an unknown or missing column, a value of another kind, an id that
            repeats, a path that leads out of the named folders, or a missing file; with the line.
    """
    return list(load(path, files).rows)


def load(path: Path, files: bool = True) -> Manifest:
    """As `read_manifest`, with the folders that the manifest names."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    name = f"manifest {typed(path)}"
    try:
        text = read_bytes(path, name).decode("utf-8-sig")
    except UnicodeDecodeError as why:
        raise InputError(f"{name}: is no UTF-8 text ({why.reason}); write it with graft-didgen prepare") from why
    roots, rows, seen = [path.parent.resolve()], list[Row](), set[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        item = _object(line, where)
        if "roots" in item and "id" not in item and not rows:
            roots += _roots(item, path.parent, where)
            continue
        row = _row(item, path.parent, roots, where, files)
        if row.id in seen:
            raise InputError(f"{where}: id {row.id!r} stands twice; give every picture its own")
        seen.add(row.id)
        rows.append(row)
    if not rows:
        raise InputError(f"{name}: holds no picture; write it with graft-didgen prepare")
    return Manifest(path, tuple(roots[1:]), tuple(rows))


def write_manifest(path: Path, rows: Iterable[Row], roots: Sequence[Path] = ()) -> None:
    """Write rows in one step; equal rows give equal bytes.

    Args:
        roots: folders, besides the manifest's own, that pictures lie in.

    Raises:
        InputError: the file cannot be written.
        ValueError: a path lies in none of the folders, or an id repeats: nobody could read the file again.
    """
    path, rows = Path(path), list(rows)
    home, known = path.parent.resolve(), [Path(root).resolve() for root in roots]
    used, lines, seen = set[Path](), list[str](), set[str]()
    for row in rows:
        for one in (row.image, row.mask):
            if one is None or (folder := _parent(Path(one).parent)).is_relative_to(home):
                continue
            root = next((r for r in known if folder.is_relative_to(r)), None)
            if root is None:
                raise ValueError(f"{one} of {row.id} lies neither in {home} nor in a root; name its root")
            used.add(root)
        if row.id in seen:
            raise ValueError(f"id {row.id!r} stands twice")
        seen.add(row.id)
        lines.append(json.dumps(_item(row, home), allow_nan=False))
    if used:
        lines.insert(0, json.dumps({"schema": SCHEMA, "roots": sorted(_relative(root, home) for root in used)}))
    with atomic_path(path) as beside:
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def drawn_order(keys: Iterable[str], seed: int) -> list[str]:
    """The keys in an order that `seed` decides for each pair of them alone: adding keys never swaps two others."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode(errors="surrogateescape")).digest())


def confined(root: Path, name: str | os.PathLike[str], where: str, roots: Sequence[Path] = ()) -> Path:
    """`root / name`, refused when it leads out of `root` and of all of `roots` (these resolved)."""
    path = root / name
    try:
        real = _parent(path.parent) / path.name
        real = real.resolve() if real.is_symlink() or path.name == ".." else real
    except (OSError, ValueError, RuntimeError) as why:  # a NUL in the name, a loop of links
        raise InputError(f"{where}: {typed(name)} is no path ({type(why).__name__}); give a file's name") from why
    if not any(real.is_relative_to(one) for one in (_parent(root), *roots)):
        raise InputError(f"{where}: {typed(name)} leads out of {typed(root)}; keep the files below one folder")
    return path


@lru_cache(maxsize=4096)
def _resolved(folder: str) -> Path:
    return Path(folder).resolve()


def _parent(folder: Path) -> Path:
    """The folder with all links followed; thousands of pictures share a few."""
    return _resolved(os.path.join(os.getcwd(), folder))


def _relative(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path, home)).as_posix()


def _item(row: Row, home: Path) -> dict[str, Any]:
    def shown(path: Path | None) -> str | None:
        return None if path is None else _relative(_parent(Path(path).parent) / Path(path).name, home)

    item: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS[:8]}
    item |= {"image": shown(row.image), "mask": shown(row.mask)}
    return item | ({"synthetic": True, "layout": row.layout} if row.synthetic else {})


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        item = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as why:
        raise InputError(f"{where}: is no JSON ({str(why)[:80]}); each line is one complete object") from why
    if not isinstance(item, dict):
        raise InputError(f"{where}: is a JSON {type(item).__name__}; each line is one object")
    return item


def _roots(item: dict[str, Any], home: Path, where: str) -> list[Path]:
    names = item["roots"]
    if item.get("schema") != SCHEMA or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(f'{where}: is no header; write {{"schema": {SCHEMA}, "roots": ["folder", ...]}}')
    for name in names:
        if "\0" in name or not (home / name).is_dir():
            raise InputError(f"{where}: {typed(name)} is no folder; move the data back or prepare it again")
    return [(home / name).resolve() for name in names]


def _row(item: dict[str, Any], home: Path, roots: Sequence[Path], where: str, files: bool) -> Row:
    if unknown := [key for key in item if key not in COLUMNS]:
        raise InputError(f"{where}: unknown column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    for name in ("id", "image"):
        if not isinstance(item.get(name), str) or not item[name]:
            raise InputError(f"{where}: {name} is missing or no text; each row needs id and image")
    for name in TEXTS:
        if item.get(name) is not None and (not isinstance(item[name], str) or not item[name]):
            raise InputError(f"{where}: {name} is {item[name]!r}; give a text or null")
    key = item["id"]
    if Path(key).name != key or key.startswith(".") or "\0" in key:
        raise InputError(f"{where}: id {key!r} is no plain name; it becomes a file's name")
    if item.get("split") not in (None, *SPLITS):
        raise InputError(f"{where}: split is {item['split']!r}; give one of {', '.join(SPLITS)}, or null")
    if item.get("dx") not in (None, *CLASSES):
        raise InputError(f"{where}: dx is {item['dx']!r}; give one of {', '.join(CLASSES)}, or null")
    if not isinstance(item.get("attributes") or {}, dict):
        raise InputError(f"{where}: attributes is no object; write it with graft-didgen caption")
    if not isinstance(item.get("synthetic", False), bool):
        raise InputError(f"{where}: synthetic is {item['synthetic']!r}; give true or false")
    paths: dict[str, Path] = {}
    for name in ("image", "mask"):
        if item.get(name) is not None:
            paths[name] = confined(home, item[name], where, roots)
            if files and not paths[name].is_file():
                raise InputError(f"{where}: {name} {typed(item[name])} is no file; check the path")
    return Row(**item | paths)
