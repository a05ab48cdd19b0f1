"""What `prepare` wrote, read back and checked: objects, their references, and empty boxes. Loads no torch."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float64, Int64

from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from mobi.box_text import parse_numbers

OBJECTS, EMPTY = "objects.csv", "empty.csv"
NEEDED = {
    OBJECTS: ("annotation", "instance", "sample", "timestamp", "camera", "class", "box", "reference"),
    EMPTY: ("sample", "camera", "class", "box"),
}


@dataclass(frozen=True)
class Row:
    """One box in one camera of one sample.

    Attributes:
        where: file and line, for messages.
        sample, camera: token of the sample, channel of the camera.
        kind: class, e.g. "car".
        box: x, y, z, length, width, height, yaw in the lidar frame.
        instance: track that the object belongs to; "" for an empty box.
        timestamp: of the sample, microseconds; 0 for an empty box.
        reference: picture of the object, relative to the prepared folder; None for an empty box.
    """

    where: str
    sample: str
    camera: str
    kind: str
    box: tuple[float, ...]
    instance: str = ""
    timestamp: int = 0
    reference: str | None = None


@dataclass(frozen=True, eq=False)
class Objects:
    """A prepared folder: `count` objects, then the empty boxes."""

    folder: Path
    rows: tuple[Row, ...]
    count: int

    @cached_property
    def track(self) -> Mapping[str, Int64[np.ndarray, " m"]]:
        """Instance -> rows of its objects."""
        found: dict[str, list[int]] = {}
        for k, row in enumerate(self.rows[: self.count]):
            found.setdefault(row.instance, []).append(k)
        return {name: np.array(rows) for name, rows in found.items()}

    def candidates(self, row: int) -> tuple[Int64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """(rows, probability of each) of the references for an object: its track, by the Beta(4, 1) density of the time between.

        The time is a share of the longest one, so a frame at dt has weight 4 dt^3 and the current one 0. An object without
        another frame is its own reference.
        """
        rows = self.track[self.rows[row].instance]
        apart = np.abs(np.array([self.rows[k].timestamp for k in rows]) - self.rows[row].timestamp).astype(np.float64)
        if apart.max() == 0:
            return np.array([row]), np.ones(1)
        weight = 4 * (apart / apart.max()) ** 3
        return rows, weight / weight.sum()

    def pick(self, row: int, at: Float64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
        """References of an object by numbers that are uniform in [0, 1): its candidates, by their probability."""
        rows, share = self.candidates(row)
        rows, share = rows[share > 0], share[share > 0]
        # the sum may end a rounding below 1
        return rows[np.searchsorted(share.cumsum(), at, "right").clip(max=len(rows) - 1)]


def read_objects(prepared: Path) -> Objects:
    """Read objects.csv and empty.csv.

    Raises:
        InputError: a table is missing, lacks a column or a value, a box or time is no number, a reference is missing or leaves
            the folder, or there is no object.
    """
    prepared = Path(prepared)
    if not prepared.is_dir():
        raise InputError(f"{typed(prepared)}: no such folder; give one that `graft-mobi prepare` wrote")
    tables = {name: read_table(prepared / name, NEEDED[name]) for name in (OBJECTS, EMPTY)}
    if not tables[OBJECTS]:
        raise InputError(f"{typed(prepared / OBJECTS)}: has no rows; run `graft-mobi prepare` again")
    objects = [_object(prepared, where, row) for where, row in tables[OBJECTS]]
    empty = [Row(where, row["sample"], row["camera"], row["class"], _box(where, row)) for where, row in tables[EMPTY]]
    return Objects(prepared, (*objects, *empty), len(objects))


def read_table(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """(file and line, row) of a CSV table. Raises InputError where a column or a value of it is missing."""
    where = typed(path)
    with parsing(where, "a CSV table"):
        lines = read_bytes(path).decode().splitlines()
        reader = csv.DictReader(lines, strict=True)
        rows = [(f"{where} line {reader.line_num}", row) for row in reader]
        header = reader.fieldnames or []
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f"{where}: has no column {missing[0]}; run `graft-mobi prepare` again")
    for at, row in rows:
        if blank := next((name for name in columns if not row[name]), None):
            raise InputError(f"{at}: has no {blank}; mend the line or run `graft-mobi prepare` again")
    return rows


def _object(folder: Path, where: str, row: Mapping[str, str]) -> Row:
    if not row["timestamp"].isdecimal():
        raise InputError(f"{where}: timestamp {row['timestamp']!a} must be microseconds as a whole number; mend it")
    path = PurePosixPath(row["reference"])
    if path.is_absolute() or ".." in path.parts or "\\" in row["reference"]:
        raise InputError(f"{where}: reference {row['reference']!a} leaves the folder; use a path inside it")
    if not (folder / path).is_file():
        raise InputError(f"{where}: reference {row['reference']!a} is missing; run `graft-mobi prepare` again")
    return Row(
        where, row["sample"], row["camera"], row["class"], _box(where, row), row["instance"], int(row["timestamp"]), str(path)
    )


def _box(where: str, row: Mapping[str, str]) -> tuple[float, ...]:
    try:
        return parse_numbers(row["box"])
    except InputError as why:
        raise InputError(f"{where}: {str(why).removeprefix('--')}") from None
