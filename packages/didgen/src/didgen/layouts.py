"""Which of the five data sets a folder holds, told by its folder and file names, and its reader."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from didgen.config_data import LayoutName
from didgen.layouts_clinic import IMD, read_derm7pt, read_ph2
from didgen.layouts_isic import read_ham10000, read_isic2018_task1, read_isic2018_task3
from didgen.tree import PICTURES, Tree, below, walk
from graft_common.errors import InputError
from graft_common.files import typed

READERS: dict[LayoutName, Callable[[Path], Tree]] = {
    "isic2018-task1": read_isic2018_task1,
    "isic2018-task3": read_isic2018_task3,
    "ham10000": read_ham10000,
    "derm7pt": read_derm7pt,
    "ph2": read_ph2,
}
# Folder names by which each is known (PH2 by its file names).
MARKS: dict[LayoutName, str] = {
    "isic2018-task1": r"ISIC2018_Task1(-2)?_(Training|Validation|Test)_Input",
    "isic2018-task3": r"ISIC2018_Task3_(Training|Validation|Test)_Input",
    "ham10000": r"HAM10000_images.*",
}


def layouts_in(root: Path) -> list[LayoutName]:
    """The data sets that a folder, or one above theirs, holds.

    Raises:
        InputError: `root` cannot be listed.
    """
    root = Path(root)
    files = walk(root)
    found: list[LayoutName] = [name for name, mark in MARKS.items() if below(files, root, mark)]
    if any(f.name.lower() == "meta.csv" and f.parent.name.lower() == "meta" for f in files):
        found.append("derm7pt")
    if any(f.suffix.lower() in PICTURES and re.fullmatch(IMD + ".*", f.stem, re.I) for f in files):
        found.append("ph2")
    return found


def read_tree(root: Path, layout: LayoutName | Literal["auto"] = "auto") -> Tree:
    """List the data set in `root`.

    Raises:
        InputError: none is there, several are, or its reader refuses it.
    """
    root = Path(root)
    found = layouts_in(root)
    if layout != "auto":
        if layout not in found:
            raise InputError(f"{typed(root)}: holds no {layout} (found: {', '.join(found) or 'none'}); see the README")
        return READERS[layout](root)
    if not found:
        raise InputError(
            f"{typed(root)}: holds none of {', '.join(READERS)} by its folder names; give the folder that does"
        )
    if len(found) > 1:
        raise InputError(f"{typed(root)}: holds {' and '.join(found)}; say which with --layout, or give its own folder")
    return READERS[found[0]](root)
