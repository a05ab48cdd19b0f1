"""A folder -> pictures with their masks and classes, whoever wrote it: prepare, a sampling verb, dataset, or nobody of ours."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from diffusionmix.crop import clean, cut, object_box
from diffusionmix.layouts import detect, read_folder, read_tree, stopping
from diffusionmix.prepared import HEAD, load_arrays, read_prepared
from diffusionmix.read import read_mask, read_rgb
from diffusionmix.tree import Item, Split, Tree, named, pictures
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.resample import resize_mask

IMAGE, MASK, CHANNEL, EMPTY = "image", "mask", "channel", "empty"


@dataclass(frozen=True, eq=False)
class PictureSet:
    """Pictures of one size.

    Attributes:
        ids: one each.
        images: RGB.
        masks: of their objects; None where none are known.
        channel: the object model's mask channel as it came out, in [-1, 1]; None where it was not kept.
        empties: the same pictures without the object; None where they are not known.
        labels: class names; None in a place without one.
        training: the training split of a prepared folder, for the nearest picture; None elsewhere.
    """

    ids: tuple[str, ...]
    images: UInt8[np.ndarray, "n S S2 3"]
    masks: Bool[np.ndarray, "n S S2"] | None
    channel: Float32[np.ndarray, "n s s2"] | None
    empties: UInt8[np.ndarray, "n S S2 3"] | None
    labels: tuple[str | None, ...]
    training: "PictureSet | None" = None

    def of(self, label: str | None) -> np.ndarray:
        """Rows of one class."""
        return np.array([i for i, own in enumerate(self.labels) if own == label], np.int64)


def read_set(
    folder: Path, flag: str, split: Split = "test", size: int | None = None, squares: bool = False
) -> PictureSet:
    """The pictures of a folder.

    Accepted: a folder of `prepare` (its `split`, and its train split as `training`); image/ and, of equal names, mask/, channel/
    and empty/, where sub-folders are classes (else those that
    sample-object put into run.json); image.png, image_1.png ... with mask.png, mask_1.png ... as `merge` writes them; a
    data set in MVTec's or VisA's layout; any flat folder of pictures.

    Args:
        flag: what the user typed before the folder, for messages.
        size: side to resize all to; None takes the first picture's, squared where it is not.
        squares: of whole pictures with masks (those of `merge` and of data sets) take the square around the object, as `prepare`
            cuts it, so that they can be compared with prepared objects.

    Raises:
        InputError: no pictures, a damaged one, masks that do not pair, or with `squares` a whole picture without an object.
    """
    where = f"{flag} {typed(folder)}"
    if (folder / HEAD).is_file():
        return _prepared(folder, split, size)
    items, whole = _items(folder, where)
    if not items:
        raise InputError(f"{where}: holds no pictures; give a folder with image/, a data set, or a flat folder of pictures")
    first = read_rgb(items[0].image).shape[:2]
    side = size or min(first)
    masked = all(item.mask is not None for item in items)
    if not masked and any(item.mask is not None for item in items):
        lacking = next(item for item in items if item.mask is None)
        raise InputError(f"{where}: {lacking.image.name} has no mask but others have; add it or take the picture away")
    if squares and whole and not masked:
        raise InputError(f"{where}: holds whole pictures without masks, but objects are compared; give the masks too")
    read = [_read(item, side, squares and whole, where) for item in items]
    images = np.stack([image for image, _ in read])
    masks = np.stack([mask for _, mask in read if mask is not None]) if masked else None
    base = folder / IMAGE
    kept = [_beside(base, item.image, folder / CHANNEL) for item in items]
    bare = [_beside(base, item.image, folder / EMPTY) for item in items]
    channel = np.stack([_channel(path) for path in kept if path]) if all(kept) else None
    empties = np.stack([_square(read_rgb(path), side) for path in bare if path]) if all(bare) else None
    return PictureSet(tuple(i.id for i in items), images, masks, channel, empties, tuple(i.label for i in items))


def _prepared(folder: Path, split: Split, size: int | None) -> PictureSet:
    source = read_prepared(folder)
    sets = {}
    for name in dict.fromkeys([split, "train"]):
        if name != split and not any(row.split == name for row in source.rows):
            continue
        arrays = load_arrays(source, name)
        labels = tuple(source.classes[k] if k >= 0 else None for k in arrays.labels.tolist())
        side = size or source.size
        images = np.stack([_square(image, side) for image in arrays.images])
        masks = None if arrays.masks is None else np.stack([resize_mask(m, (side, side)) for m in arrays.masks])
        ids = tuple(row.id for row in source.rows if row.split == name)
        sets[name] = PictureSet(ids, images, masks, None, None, labels)
    own = sets[split]
    return PictureSet(own.ids, own.images, own.masks, None, None, own.labels, sets.get("train") if split != "train" else None)


def _items(folder: Path, where: str) -> tuple[list[Item], bool]:
    """The pictures, and whether they show a whole scene rather than an object's square."""
    if (folder / IMAGE).is_dir():
        masks = folder / MASK
        items = list(_paired(read_folder(folder / IMAGE, masks if masks.is_dir() else None), where).items)
        names = _said(folder)
        if len(names) == len(items) and all(item.label is None for item in items):
            items = [replace(item, label=name) for item, name in zip(items, names, strict=True)]
        return items, False
    flat = pictures(folder, folder)
    if any(_numbered(path, IMAGE) for path in flat):
        return _merged(flat, where), True
    if flat:
        return [Item(named(path.stem), path) for path in flat], False
    try:
        layout = detect(folder)
    except InputError:  # no data set of ours: the caller says that there are no pictures
        return [], False
    tree = _paired(read_tree(folder, layout), where)  # type: ignore[arg-type]
    return [item for item in tree.items if item.mask is not None] or list(tree.items), True


def _paired(tree: Tree, where: str) -> Tree:
    """The tree, refused where a picture or a mask stands alone: numbers about the rest would not say so."""
    if stops := stopping(tree.findings):
        raise InputError(f"{where}: {stops[0].path}: {stops[0].what}")
    return tree


def _merged(flat: list[Path], where: str) -> list[Item]:
    """What `merge` wrote: image.png, image_1.png ... with mask.png, mask_1.png ..."""
    masks = {path.stem: path for path in flat if _numbered(path, MASK)}
    items = [
        Item(path.stem, path, masks.pop(path.stem.replace(IMAGE, MASK, 1), None)) for path in flat if _numbered(path, IMAGE)
    ]
    if masks:
        raise InputError(f"{where}: {min(masks)}: mask without a picture; add it or move the mask away")
    return items


def _numbered(path: Path, word: str) -> bool:
    return path.stem == word or path.stem.startswith(f"{word}_")


def _said(folder: Path) -> list[str | None]:
    """The classes that sample-object drew, in the order of its files; none where no run.json says them."""
    try:
        names = json.loads((folder / "run.json").read_text(encoding="utf-8"))["measures"]["classes"]
        return [None if name is None else str(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _square(image: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "S S 3"]:
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _read(
    item: Item, side: int, cropped: bool, where: str
) -> tuple[UInt8[np.ndarray, "S S 3"], Bool[np.ndarray, "S S"] | None]:
    image = read_rgb(item.image)
    mask = None if item.mask is None else read_mask(item.mask, item.values, (image.shape[0], image.shape[1]))
    if cropped:
        assert mask is not None
        if not mask.any():
            raise InputError(f"{where}: the mask of {item.image.name} is empty, so it shows no object to compare; take both away")
        return cut(image, mask, object_box(clean(mask)), side)
    if mask is not None and mask.shape != (side, side):
        mask = resize_mask(mask, (side, side))
    return _square(image, side), mask


def _channel(path: Path) -> Float32[np.ndarray, "s s2"]:
    return read_rgb(path, "channel")[..., 0].astype(np.float32) / 127.5 - 1


def _beside(base: Path, image: Path, folder: Path) -> Path | None:
    if not folder.is_dir() or not image.is_relative_to(base):
        return None
    path = folder / image.relative_to(base)
    return path if path.is_file() else None
