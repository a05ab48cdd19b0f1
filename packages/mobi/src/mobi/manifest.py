"""The list of edits that `batch` carries out: CSV in UTF-8, a header, one row a picture.

    sample      token of the sample
    camera      channel, e.g. CAM_FRONT
    task        insert, replace, remove or move
    annotation  token of the box in sample_annotation: what is replaced, removed or moved
    box         X,Y,Z,L,W,H,YAW in the lidar frame (quote the cell): where an object is inserted or moved to; without an
                annotation also what is replaced or removed, where no annotation's centre lies in it
    reference   picture of the object, a path from the manifest's folder. `replace` and `move` without one take the object
                itself as the picture shows it; `remove` ignores it
    category    full name of a new label, e.g. vehicle.car: wanted by `insert`; where it differs from the annotation's,
                `replace` ends the old label and begins a new one
    attribute   full name for a new label, e.g. vehicle.parked; may be missing
    seed        of the noise; without one, --seed plus the number of the box in the manifest

Columns that nobody needs may be missing. Several boxes of one picture are separated by ";" in the cells; a cell with one value
holds for all of them. Columns that `prepare` writes into objects.csv are allowed and ignored, so that table with a column `task`
added is a manifest; an unchanged box beside its annotation is no contradiction.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from graft_common.errors import InputError
from graft_common.files import read_bytes, typed
from mobi.box_text import parse_numbers

Task = Literal["insert", "replace", "remove", "move"]
TASKS: tuple[Task, ...] = get_args(Task)
COLUMNS = ("sample", "camera", "task", "annotation", "box", "reference", "category", "attribute", "seed")
ROW_COLUMNS = COLUMNS[:2]
DIGITS = 18  # of a seed
IGNORED = (
    "instance", "scene", "timestamp", "class", "visibility", "overlap", "width", "height", "points", "city", "rain", "night",
    "nearest", "farthest",
)  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """One box of a row.

    Attributes:
        number: of the box in the whole manifest, from 0.
        where: how messages begin, e.g. "--manifest edits.csv, line 3".
        task: what is asked for.
        annotation: token, or None.
        box: x, y, z, length, width, height, yaw in the lidar frame, or None for the annotation's.
        reference: path of a picture, or None for none given.
        category, attribute: full names of a new label, or None.
        seed: of the noise.
    """

    number: int
    where: str
    task: Task
    annotation: str | None
    box: tuple[float, ...] | None
    reference: Path | None
    category: str | None
    attribute: str | None
    seed: int


@dataclass(frozen=True)
class Row:
    """A picture and what becomes of it. `number` counts the rows from 0."""

    number: int
    where: str
    sample: str
    camera: str
    wishes: tuple[Wish, ...]


def read_manifest(path: Path, seed: int = 0) -> list[Row]:
    """Rows of a manifest, each cell checked by itself.

    Args:
        seed: of the first box that has none of its own.

    Raises:
        InputError: unreadable, no CSV in UTF-8, no rows, an unknown, doubled or missing column, a value that is none of its
            column's, cells of one row that disagree about the number of boxes, a box without what its task needs.
    """
    name = f"--manifest {typed(path)}"
    try:
        text = read_bytes(path, name).decode("utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        table = [(lines.line_num, cells) for cells in lines if any(cell.strip() for cell in cells)]
    except (UnicodeDecodeError, csv.Error) as why:
        raise InputError(f"{name}: is no CSV in UTF-8 ({why}); save it again as that") from None
    if not table:
        raise InputError(f"{name}: has no header; write {','.join(COLUMNS)}")
    header = [cell.strip() for cell in table[0][1]]
    if unknown := [cell for cell in header if cell not in COLUMNS + IGNORED]:
        raise InputError(f"{name}: unknown column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    if len(set(header)) < len(header):
        raise InputError(f"{name}: a column stands twice in {', '.join(header)}; keep one")
    if missing := [column for column in COLUMNS[:3] if column not in header]:
        raise InputError(f"{name}: has no column {missing[0]}; add it")
    rows: list[Row] = []
    count = 0
    for line, cells in table[1:]:
        where = f"{name}, line {line}"
        if len(cells) != len(header):
            raise InputError(f"{where}: has {len(cells)} cells under {len(header)} columns; quote cells that hold a comma")
        given = {column: cell.strip() for column, cell in zip(header, cells, strict=True) if column in COLUMNS}
        for column in ROW_COLUMNS:
            if not given[column]:
                raise InputError(f"{where}: {column} is empty; give one")
        boxes = _boxes({k: v for k, v in given.items() if k not in ROW_COLUMNS}, where)
        wishes = tuple(_wish(box, count + k, where, Path(path).parent, seed) for k, box in enumerate(boxes))
        rows.append(Row(len(rows), where, given["sample"], given["camera"], wishes))
        count += len(boxes)
    if not rows:
        raise InputError(f"{name}: has no rows; add one for each picture to edit")
    return rows


def _boxes(given: dict[str, str], where: str) -> list[dict[str, str]]:
    """One mapping for each box of the row; a cell with one value holds for all."""
    parts = {column: [part.strip() for part in cell.split(";")] for column, cell in given.items()}
    count = max(map(len, parts.values()))
    for column, values in parts.items():
        if len(values) not in (1, count):
            raise InputError(f"{where}: {column} has {len(values)} values, another column {count}; give one, or one a box")
    return [{column: values[k % len(values)] for column, values in parts.items()} for k in range(count)]


def _wish(given: dict[str, str], number: int, where: str, folder: Path, seed: int) -> Wish:
    def text(column: str) -> str | None:
        return given.get(column) or None

    task = next((t for t in TASKS if t == given["task"]), None)
    if task is None:
        raise InputError(f"{where}: task is {given['task']!r}; give one of {', '.join(TASKS)}")
    box = text("box")
    try:
        numbers = None if box is None else parse_numbers(box)
    except InputError as why:
        raise InputError(f"{where}: {str(why).removeprefix('--')}") from None
    own = text("seed")
    if own is not None and not (own.isascii() and own.isdecimal() and len(own) <= DIGITS):
        raise InputError(f"{where}: seed is {own[:40]!r}; give a whole number, 0 or more, of at most {DIGITS} digits")
    reference = text("reference")
    wish = Wish(
        number, where, task, text("annotation"), numbers, None if reference is None else folder / reference, text("category"),
        text("attribute"), seed + number if own is None else int(own),
    )  # fmt: skip
    _check(wish)
    return wish


def _check(wish: Wish) -> None:
    """Raise InputError where the task lacks something, or has what would mean nothing."""
    wants = {"insert": ("box", "reference", "category"), "move": ("annotation", "box")}
    for column in wants.get(wish.task, ()):
        if getattr(wish, column) is None:
            raise InputError(f"{wish.where}: {wish.task} needs {column}; fill it in")
    if wish.task == "insert" and wish.annotation is not None:
        raise InputError(f"{wish.where}: insert makes a new label, so annotation must be empty; move takes one along")
    if wish.annotation is None and wish.box is None:
        raise InputError(f"{wish.where}: {wish.task} needs annotation or box; fill one in")
    for column in ("category", "attribute"):
        if getattr(wish, column) is not None and wish.task in ("remove", "move"):
            raise InputError(f"{wish.where}: {wish.task} makes no new label, so {column} must be empty")
    if wish.attribute is not None and wish.category is None:
        raise InputError(f"{wish.where}: attribute belongs to a new label; give its category too, or leave it out")
