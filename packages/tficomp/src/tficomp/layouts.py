"""Public data sets as they are unpacked: Br35H with its VIA outlines, BUSI with its mask files (spec 5.1, 5.2)."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, UInt64

from graft_common import raster
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from graft_common.pixels import read_picture, resize

Dataset = Literal["br35h", "busi"]
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Folders by which each tree is known; Br35H's outlines lie in the second one.
MARKS: dict[Dataset, tuple[str, ...]] = {"br35h": ("no", "Br35H-Mask-RCNN"), "busi": ("benign", "normal")}
MASK_NAME = re.compile(r"(?P<stem>.+)_mask(_\d+)?", re.IGNORECASE)
FARTHEST = 100_000.0  # pixels: an outline beyond is no outline of a picture
SIDE = 16  # of the fingerprint: SIDE x SIDE bits
ALIKE = 12  # of its 256 bits may differ between two copies of one picture
FLAT = 4 / 255  # a smaller step between neighbours is noise, in units of the full range


@dataclass(frozen=True)
class Outlined:
    """A picture with a lesion: its VIA regions, or its mask files."""

    image: Path
    regions: tuple[dict[str, Any], ...] = ()
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Tree:
    """What a data set's folder holds, unread.

    Attributes:
        dataset: whose layout it is.
        root: as given.
        backgrounds: pictures without a lesion.
        lesions: pictures with a lesion and its outline.
        bare: pictures said to hold a lesion, without an outline.
        missing: names that an annotation file lists and no folder holds.
    """

    dataset: Dataset
    root: Path
    backgrounds: tuple[Path, ...]
    lesions: tuple[Outlined, ...]
    bare: tuple[Path, ...]
    missing: tuple[str, ...]


def read_tree(root: Path, dataset: Literal["auto", "br35h", "busi"] = "auto") -> Tree:
    """List a Br35H or BUSI tree; `root` may also be the folder above it.

    Raises:
        InputError: no such layout, an annotation file is unreadable, or a name or a link leads out of `root`.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{typed(root)}: is no folder; give the root of a Br35H or BUSI tree")
    for place in (root, *sorted(p for p in root.iterdir() if p.is_dir())):
        for name, marks in MARKS.items():
            if dataset in ("auto", name) and all(_folder(place, mark) for mark in marks):
                return (_br35h if name == "br35h" else _busi)(root, place)
    wanted = " or ".join(f"{'/, '.join(marks)}/ ({name})" for name, marks in MARKS.items() if dataset in ("auto", name))
    raise InputError(f"{typed(root)}: holds no {wanted}; give the folder that does")


def lesion_mask(lesion: Outlined, shape: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """All outlines of a picture of (height, width) `shape`, united.

    Raises:
        InputError: an outline cannot be read, has another size, or the whole is empty or full.
    """
    mask = draw_regions(lesion.regions, shape, typed(lesion.image))
    for path in lesion.masks:
        stored = read_picture(path, role="mask").stored
        if stored.shape[:2] != shape:
            h, w = stored.shape[:2]
            raise InputError(
                f"mask {typed(path)}: is {w}x{h} but its image is {shape[1]}x{shape[0]}; give both one size"
            )
        mask |= raster.grey_levels(stored) > 127
    if mask.all() or not mask.any():
        where = typed(lesion.masks[0] if lesion.masks else lesion.image)
        raise InputError(f"{where}: its lesion mask is {'full' if mask.all() else 'empty'}; mark a part of the picture")
    return mask


def draw_regions(regions: Sequence[dict[str, Any]], shape: tuple[int, int], where: str) -> Bool[np.ndarray, "H W"]:
    """VIA regions (polygon, polyline, rect, ellipse, circle) as a mask; a pixel is in where its centre is.

    Raises:
        InputError: an unknown shape, or numbers that are missing, not finite or absurd; it starts with `where`.
    """
    mask = np.zeros(shape, bool)
    for i, region in enumerate(regions, start=1):
        with parsing(f"{where}: region {i}", "a VIA outline"):
            rows, cols = _shape(region["shape_attributes"], shape)
            mask[rows, cols] = True
    return mask


def fingerprint(pixels: Float[np.ndarray, "C H W"]) -> UInt64[np.ndarray, "4"]:
    """256 bits that survive rescaling and JPEG: is each of 16 x 16 cells brighter than its left neighbour (dHash)."""
    small = resize(pixels.mean(axis=0, keepdims=True).astype(np.float32), (SIDE, SIDE + 1))[0] / 2
    return np.packbits(np.diff(small, axis=1) > FLAT).view(np.uint64)


def copies(prints: Sequence[UInt64[np.ndarray, "4"]]) -> dict[int, int]:
    """index -> the earlier index that it is a copy of, for every picture that looks like one before it."""
    table = np.stack(prints) if prints else np.zeros((0, 4), np.uint64)
    found: dict[int, int] = {}
    for i in range(1, len(table)):
        near = np.flatnonzero(np.bitwise_count(table[:i] ^ table[i]).sum(axis=1) <= ALIKE)
        if near.size:
            found[i] = found.get(int(near[0]), int(near[0]))
    return found


def _folder(parent: Path, name: str) -> Path | None:
    return next((p for p in sorted(parent.iterdir()) if p.is_dir() and p.name.lower() == name.lower()), None)


def _pictures(folder: Path | None, root: Path) -> list[Path]:
    """Picture files of a folder by name; files that a system leaves behind (`._x.jpg`) are not listed."""
    if folder is None:
        return []
    named = (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))
    return [_inside(p, root) for p in sorted(named)]


def _inside(path: Path, root: Path) -> Path:
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{typed(path)}: leads out of {typed(root)}; keep the data set in one folder")
    return path


def _br35h(root: Path, place: Path) -> Tree:
    marked = _folder(place, "Br35H-Mask-RCNN")
    assert marked is not None
    splits = [marked, *sorted(p for p in marked.iterdir() if p.is_dir())]
    folders = {folder: _pictures(folder, root) for folder in (*splits, _folder(place, "yes")) if folder is not None}
    lesions: dict[Path, Outlined] = {}
    missing: list[str] = []
    for sheet in sorted(p for folder in splits for p in folder.iterdir() if p.suffix.lower() == ".json"):
        for name, regions in _annotations(_inside(sheet, root)):
            near = [sheet.parent, *(f for f in folders if f != sheet.parent)]
            image = next((p for f in near if (p := _named(name, f, folders[f], root))), None)
            if image is None:
                missing.append(name)
            elif regions and image not in lesions:  # a sheet of all splits repeats the sheets of each
                lesions[image] = Outlined(image, regions)
    known = {path.name.lower() for path in lesions}
    every = [path for listed in folders.values() for path in listed]
    bare = {path.name.lower(): path for path in reversed(every) if path.name.lower() not in known}
    normal = _pictures(_folder(place, "no"), root)
    return Tree("br35h", root, tuple(normal), tuple(lesions.values()), tuple(sorted(bare.values())), tuple(missing))


def _named(name: str, folder: Path, listed: list[Path], root: Path) -> Path | None:
    path = _inside(folder / name, root)
    return path if path in listed else next((p for p in listed if p.name.lower() == Path(name).name.lower()), None)


def _annotations(sheet: Path) -> Iterator[tuple[str, tuple[dict[str, Any], ...]]]:
    """(file name, regions) of every entry of a VIA file: an annotation export, or a saved project."""
    where = f"annotations {typed(sheet)}"
    with parsing(where, "VIA JSON"):
        content = json.loads(read_bytes(sheet, where).decode("utf-8-sig"))
        content = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
        entries = []
        for entry in content.values() if isinstance(content, dict) else content:
            regions = entry.get("regions") or []
            listed = regions.values() if isinstance(regions, dict) else regions
            entries.append((str(entry["filename"]), tuple(dict(region) for region in listed)))
    yield from entries


def _busi(root: Path, place: Path) -> Tree:
    lesions, bare = [], []
    for kind in ("benign", "malignant"):
        files = _pictures(_folder(place, kind), root)
        masks: dict[str, list[Path]] = {}
        for path in files:
            if named := MASK_NAME.fullmatch(path.stem):
                masks.setdefault(named["stem"].lower(), []).append(path)
        for path in files:
            if MASK_NAME.fullmatch(path.stem):
                continue
            found = tuple(masks.get(path.stem.lower(), ()))
            if found:
                lesions.append(Outlined(path, masks=found))
            else:
                bare.append(path)
    normal = [p for p in _pictures(_folder(place, "normal"), root) if not MASK_NAME.fullmatch(p.stem)]
    return Tree("busi", root, tuple(normal), tuple(lesions), tuple(bare), ())


def _shape(one: dict[str, Any], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    from skimage import draw

    kind = one.get("name")
    if kind in ("polygon", "polyline"):
        x, y = _numbers(one["all_points_x"]), _numbers(one["all_points_y"])
        if len(x) != len(y) or len(x) < 3:
            raise ValueError(f"{len(x)} x for {len(y)} y, three or more are needed")
        return draw.polygon(y, x, shape)
    if kind == "rect":
        x, y, w, h = _numbers([one[k] for k in ("x", "y", "width", "height")])
        return draw.polygon([y, y, y + h, y + h], [x, x + w, x + w, x], shape)
    if kind == "circle":
        x, y, r = _numbers([one[k] for k in ("cx", "cy", "r")])
        return draw.disk((y, x), r, shape=shape)
    if kind == "ellipse":
        x, y, rx, ry = _numbers([one[k] for k in ("cx", "cy", "rx", "ry")])
        (theta,) = _numbers([one.get("theta", 0.0)])
        # VIA turns clockwise on the screen (y down), scikit-image the other way.
        return draw.ellipse(y, x, ry, rx, shape=shape, rotation=-theta)
    raise ValueError(f"unknown shape {kind!r}")


def _numbers(values: Any) -> Float[np.ndarray, " n"]:
    numbers = np.asarray([float(v) for v in values])
    if not (np.abs(numbers) < FARTHEST).all():
        raise ValueError("a coordinate is no number of a picture")
    return numbers
