"""The folder that `prepare` writes and training reads: squares, their masks and a list that says where each was cut."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from diffusionmix.read import read_mask, read_rgb
from diffusionmix.tree import Split, confined
from graft_common.console import write_json
from graft_common.errors import InputError
from graft_common.files import atomic_path, read_bytes, typed

SCHEMA = 1
MANIFEST, HEAD = "manifest.jsonl", "prepared.json"
Role = Literal["object", "background"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Row:
    """One square.

    Attributes:
        id: unique, a plain file name.
        image, mask: files; a background has no mask.
        label: class; None where there are none.
        split: train, val or test.
        group: source that must not be split apart (clip, drive, or the picture that several squares were cut from).
        box: x, y, w, h of the square in pixels of the source; it may reach beyond it where an object was larger than the source.
        source_size: width and height of the source.
        synthetic: whether the source was drawn or generated.
    """

    id: str
    image: Path
    mask: Path | None
    label: str | None
    split: Split
    group: str
    box: tuple[int, int, int, int] | None
    source_size: tuple[int, int]
    synthetic: bool


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, listed; `size` is the side of its squares, `classes` are in the order of class indices."""

    folder: Path
    role: Role
    size: int
    classes: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Arrays:
    """Pixels of one split.

    Attributes:
        images: RGB.
        masks: objects' masks; None for backgrounds.
        labels: index in `classes`; -1 where there are no classes.
        boxes: x, y, w, h of each square as shares of its source, inside it (see `shares`).
    """

    images: UInt8[np.ndarray, "n S S 3"]
    masks: Bool[np.ndarray, "n S S"] | None
    labels: Int64[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "n 4"]


def shares(box: tuple[int, int, int, int], source_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x, y, w, h of a box as shares of a picture (width, height), inside it.

    Sides count in the picture's shorter side, so that a square from a portrait or a panorama is a square in a square picture; the
    centre keeps its share of width and height.
    """
    x, y, w, h = box
    width, height = source_size
    w_share, h_share = min(1.0, w / min(source_size)), min(1.0, h / min(source_size))
    left, top = (x + w / 2) / width - w_share / 2, (y + h / 2) / height - h_share / 2
    return min(max(left, 0.0), 1 - w_share), min(max(top, 0.0), 1 - h_share), w_share, h_share


def write_prepared(folder: Path, role: Role, size: int, classes: Iterable[str], rows: Iterable[Row]) -> None:
    """The list (one JSON line a square, paths from `folder`), then the head, which marks the folder as complete."""
    with atomic_path(folder / MANIFEST) as beside, beside.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_as_json(row, folder), ensure_ascii=False) + "\n")
    write_json(folder / HEAD, {"schema": SCHEMA, "role": role, "size": size, "classes": list(classes)})


def read_prepared(folder: Path, files: bool = True) -> Prepared:
    """The list of a folder that `prepare` wrote; pictures are not opened.

    Args:
        files: also refuse a list whose files are not there.

    Raises:
        InputError: no such folder, one that prepare did not finish, or a damaged or escaping row.
    """
    folder = Path(folder)
    if not (folder / HEAD).is_file():
        raise InputError(f"{typed(folder)}: holds no {HEAD}; give a folder that graft-diffusionmix prepare wrote")
    try:
        head = json.loads(read_bytes(folder / HEAD))
        role, size, classes = head["role"], head["size"], tuple(map(str, head["classes"]))
        if head["schema"] != SCHEMA or role not in get_args(Role) or not isinstance(size, int) or size < 1:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{typed(folder / HEAD)}: is damaged or of another version; run prepare again") from None
    path, rows = folder / MANIFEST, list[Row]()
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
        where = f"{typed(path)} line {number}"
        try:
            row = _from_json(json.loads(line), folder)
        except (ValueError, KeyError, TypeError) as why:
            if isinstance(why, InputError):
                raise InputError(f"{where}: {why}") from None
            raise InputError(f"{where}: is damaged ({type(why).__name__}); run prepare again") from None
        if row.label is not None and row.label not in classes:
            raise InputError(f"{where}: label {row.label!r} is none of {', '.join(classes) or 'no classes'}; run prepare again")
        if (row.mask is None) != (role == "background"):
            raise InputError(f"{where}: a {role} has {'no mask' if row.mask is None else 'a mask'}; run prepare again")
        for file in (row.image, row.mask):
            if files and file is not None and not file.is_file():
                raise InputError(f"{where}: {typed(file)} is not there; run prepare again")
        rows.append(row)
    if len({row.id for row in rows}) < len(rows):
        raise InputError(f"{typed(path)}: an id stands twice; run prepare again")
    return Prepared(folder, role, size, classes, tuple(rows))


def load_arrays(prepared: Prepared, split: Split | None = "train") -> Arrays:
    """Pixels, classes and positions of a split, in the list's order; None takes all.

    Raises:
        InputError: the split is empty, or a file is damaged or of another size.
    """
    rows = [row for row in prepared.rows if split in (None, row.split)]
    if not rows:
        raise InputError(f"{typed(prepared.folder)}: has no row of split {split}; run prepare with other shares")
    square = (prepared.size, prepared.size)
    images = np.empty((len(rows), *square, 3), np.uint8)
    masks = None if prepared.role == "background" else np.empty((len(rows), *square), bool)
    for i, row in enumerate(rows):
        image = read_rgb(row.image)
        if image.shape[:2] != square:
            raise InputError(
                f"{typed(row.image)}: is {image.shape[1]}x{image.shape[0]}, not {prepared.size} squared; run prepare again"
            )
        images[i] = image
        if masks is not None and row.mask is not None:
            masks[i] = read_mask(row.mask, "auto", square)
    index = {name: i for i, name in enumerate(prepared.classes)}
    labels = np.array([-1 if row.label is None else index[row.label] for row in rows], np.int64)
    full = (0.0, 0.0, 1.0, 1.0)
    boxes = np.array([full if row.box is None else shares(row.box, row.source_size) for row in rows], np.float64)
    return Arrays(images, masks, labels, boxes)


def _as_json(row: Row, folder: Path) -> dict[str, Any]:
    return {
        "id": row.id, "image": row.image.relative_to(folder).as_posix(),
        "mask": None if row.mask is None else row.mask.relative_to(folder).as_posix(), "label": row.label, "split": row.split,
        "group": row.group, "box": None if row.box is None else list(row.box), "source_size": list(row.source_size),
        "synthetic": row.synthetic,
    }  # fmt: skip


def _from_json(row: dict[str, Any], folder: Path) -> Row:
    box = None if row["box"] is None else tuple(int(v) for v in row["box"])
    width, height = (int(v) for v in row["source_size"])
    if row["split"] not in SPLITS or (box is not None and (len(box) != 4 or min(box[2:]) < 1)) or min(width, height) < 1:
        raise ValueError("split, box or source_size")
    mask = None if row["mask"] is None else confined(folder, folder / str(row["mask"]))
    return Row(
        str(row["id"]), confined(folder, folder / str(row["image"])), mask, None if row["label"] is None else str(row["label"]),
        row["split"], str(row["group"]), box, (width, height), bool(row["synthetic"]),
    )  # fmt: skip
