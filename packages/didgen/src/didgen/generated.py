"""What was generated, as rows: a folder that `pairs` or `sample` wrote, or a manifest."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didgen.attributes import parse
from didgen.manifest import CLASSES, NAME, Row, confined, load
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed

LISTS = ("meta.jsonl", "samples.jsonl")  # of pairs and of sample


@dataclass(frozen=True)
class Generated:
    """Generated pictures.

    Attributes:
        path: the file that lists them.
        roots: folders, besides that of `path`, that they lie in.
        rows: `dx` from the row, its attributes, or its prompt; `split` None unless a manifest says more.
        flagged: ids of pairs that carry a flag.
    """

    path: Path
    roots: tuple[Path, ...]
    rows: tuple[Row, ...]
    flagged: frozenset[str] = frozenset()


def read_generated(path: Path, flag: str = "") -> Generated:
    """Read a folder of `pairs` (meta.jsonl) or of `sample` (samples.jsonl), a manifest, or a folder with one.

    Args:
        flag: what the user typed before the path, e.g. "--synthetic ".

    Raises:
        InputError: none of these, or a line or file of it is wrong.
    """
    path = Path(path)
    for name in LISTS if path.is_dir() else ():
        if (path / name).is_file():
            return _listed(path, path / name, flag)
    if path.is_dir() and not (path / NAME).is_file():
        raise InputError(
            f"{flag}{typed(path)}: holds none of {', '.join((*LISTS, NAME))}; give what pairs or sample wrote"
        )
    made = load(path)
    return Generated(made.path, made.roots, made.rows)


def _listed(folder: Path, sheet: Path, flag: str) -> Generated:
    rows, flagged = dict[str, Row](), set[str]()
    name = f"{flag}{typed(sheet)}"
    for number, line in enumerate(read_bytes(sheet, name).decode("utf-8", "replace").splitlines(), start=1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        try:
            item = dict(json.loads(line))
        except (ValueError, TypeError, RecursionError) as why:
            raise InputError(
                f"{where}: is no JSON object ({type(why).__name__}); write it with pairs or sample"
            ) from why
        row = _row(item, folder, where)
        if row.id in rows:
            raise InputError(f"{where}: {row.id!r} stands twice; give every picture its own name")
        rows[row.id] = row
        if item.get("flag"):
            flagged.add(row.id)
    if not rows:
        raise InputError(f"{name}: holds no picture; run pairs or sample again")
    return Generated(sheet, (), tuple(rows.values()), frozenset(flagged))


def _row(item: dict[str, Any], folder: Path, where: str) -> Row:
    """One line. A pair's files are `image/` and `mask/` with its layout's name unless the line names them."""
    layout = item.get("layout")
    key: Any = item.get("id") or layout or (Path(item["image"]).stem if isinstance(item.get("image"), str) else None)
    for value in (key, *([] if layout is None else [layout])):
        if not isinstance(value, str) or Path(value).name != value or value.startswith("."):
            raise InputError(f"{where}: layout, id or image is {value!r}, no plain name; write it with pairs or sample")
    default = {} if layout is None else {"image": f"image/{key}.png", "mask": f"mask/{key}.png"}
    paths: dict[str, Path | None] = {"image": None, "mask": None}
    for role in paths:
        if (named := item.get(role) or default.get(role)) is not None:
            if not isinstance(named, str):
                raise InputError(f"{where}: {role} is {named!r}; give a path")
            paths[role] = file = confined(folder, named, where)
            if not file.is_file():
                raise InputError(
                    f"{where}: {typed(file)} is no file; run pairs with --resume, or copy the folder whole"
                )
    if paths["image"] is None:
        raise InputError(f"{where}: names no picture; write it with pairs or sample")
    prompt, attributes = item.get("prompt"), item.get("attributes")
    if not isinstance(prompt, str | None) or not isinstance(attributes, dict | None):
        raise InputError(f"{where}: prompt is no text or attributes no object; write it with pairs or sample")
    dx = item.get("dx") or (attributes or {}).get("diagnosis") or _diagnosis(prompt)
    if dx not in (None, *CLASSES):
        raise InputError(f"{where}: dx is {dx!r}; give one of {', '.join(CLASSES)}, or null")
    return Row(key, paths["image"], paths["mask"], None, dx, None, attributes, prompt, True, layout)


def _diagnosis(prompt: str | None) -> str | None:
    """The class that a prompt names; a prompt in other words names none."""
    try:
        return parse(prompt or "").diagnosis
    except InputError:
        return None
