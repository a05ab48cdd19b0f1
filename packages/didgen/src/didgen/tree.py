"""What a reader of a data set's folder returns, and how it finds files whatever the folders around them are called."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didgen.config_data import LayoutName
from didgen.manifest import Row, confined
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed
from graft_common.findings import Finding, Level

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
DEEPEST = 7  # folders below the root; nothing of these data sets lies deeper, wherever it was unpacked


@dataclass(frozen=True)
class Tree:
    """A data set's folder, listed; the pictures are unread.

    Attributes:
        layout: whose layout it is.
        root: as given.
        rows: one for every usable picture, in order of id; splits as the data set has them, else None.
        findings: what the tables and folders disagree about.
    """

    layout: LayoutName
    root: Path
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


def walk(root: Path) -> list[Path]:
    """Every file at most `DEEPEST` folders below `root`, by name; what systems leave behind is passed over.

    Raises:
        InputError: `root` is no folder, or a folder may not be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{typed(root)}: is no folder; give the data set's folder")

    def refuse(why: OSError) -> None:
        raise InputError(f"{typed(why.filename)}: cannot be listed ({why.strerror}); change its permissions")

    found: list[Path] = []
    for folder, inside, files in os.walk(root, onerror=refuse, followlinks=True):
        deep = len(Path(folder).relative_to(root).parts)
        inside[:] = sorted(d for d in inside if not d.startswith((".", "__MACOSX")) and deep < DEEPEST)
        found += [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
    return found


def below(files: Iterable[Path], root: Path, pattern: str) -> list[Path]:
    """The files that lie, however deep, in a folder whose whole name fits `pattern` (any case); `root` may be it."""
    fits, top = re.compile(pattern, re.IGNORECASE), root.resolve().name
    return [f for f in files if any(fits.fullmatch(part) for part in (top, *f.relative_to(root).parts[:-1]))]


def named(files: Iterable[Path], root: Path, pattern: str, suffixes: Sequence[str] = PICTURES) -> dict[str, Path]:
    """id -> file, for files whose stem fits `pattern` (any case; group 1 is the id, upper-case); the first wins.

    Raises:
        InputError: a file is a link that leads out of `root`.
    """
    fits, found = re.compile(pattern, re.IGNORECASE), dict[str, Path]()
    for file in files:
        if file.suffix.lower() in suffixes and (match := fits.fullmatch(file.stem)):
            found.setdefault(match[1].upper(), confined(root, file.relative_to(root), typed(root)))
    return dict(sorted(found.items()))


def table(files: Iterable[Path], root: Path, pattern: str) -> Path | None:
    """The first file whose whole name fits `pattern` (any case)."""
    fits = re.compile(pattern, re.IGNORECASE)
    file = next((f for f in files if fits.fullmatch(f.name)), None)
    return None if file is None else confined(root, file.relative_to(root), typed(root))


def several(level: Level, path: Path | str, names: Iterable[str], what: str) -> list[Finding]:
    """One finding for all of `names`, none when there are none; `what` follows the count and the first names."""
    names = list(names)
    if not names:
        return []
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [Finding(level, typed(path), f"{shown}: {what}")]


def repeated(names: Iterable[str]) -> list[str]:
    """Names that stand more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def beside(image: Path) -> dict[str, Any] | None:
    """`attributes` of the JSON file beside a phantom's picture; None where there is no such file, as in real data.

    Raises:
        InputError: the file is there but cannot be read.
    """
    path = image.with_suffix(".json")
    if not path.is_file():
        return None
    try:
        attributes = json.loads(read_bytes(path))["attributes"]
        return None if attributes is None else dict(attributes)
    except (ValueError, KeyError, TypeError) as why:
        raise InputError(
            f"{typed(path)}: holds no attributes ({type(why).__name__}); remove it or write it again"
        ) from why
