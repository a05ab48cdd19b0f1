"""True pictures that a study measures against: drawn worlds, or a folder of the user's own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from diffusionmix.box import MIN_SIDE, Box
from diffusionmix.crop import object_box
from diffusionmix.seam import Truths, measure_truths
from graft_common.errors import InputError
from graft_common.files import typed

APART = 500_000  # seeds between the pictures that are measured against and those that lend their boxes


@dataclass(frozen=True, eq=False)
class TruePictures:
    """True pictures with one object each.

    Attributes:
        images, masks: of equal size.
        empties: the same pictures without the object; None where they are not known.
        labels: class names; None in a place without one.
        boxes: the square that `prepare` would cut.
    """

    images: UInt8[np.ndarray, "n H W 3"]
    masks: Bool[np.ndarray, "n H W"]
    empties: UInt8[np.ndarray, "n H W 3"] | None
    labels: tuple[str | None, ...]
    boxes: tuple[Box, ...]

    def measured(self) -> Truths:
        """Their seams and contrasts, to be matched by class and size."""
        bare = None if self.empties is None else list(self.empties)
        return measure_truths(list(self.images), list(self.masks), self.labels, bare)


def true_pictures(
    source: str, classes: tuple[str, ...], size: tuple[int, int], n: int, each: int, seed: int
) -> tuple[TruePictures, TruePictures]:
    """(pictures to measure against, `each` of a class; `n` others, which lend their boxes and are a row of their own).

    Args:
        source: "texture", "scene", or a folder with image/, mask/ and perhaps empty/; sub-folders are classes.
        classes: of the object model; the n others take turns over them.
        size: (height, width) of the background model's pictures; a drawn world is square.

    Raises:
        InputError: no such world or folder, or pictures of classes that the model does not know.
    """
    from diffusionmix.world import CLASSES, WORLDS

    if source in WORLDS:
        world = next(w for w in WORLDS if w == source)
        if classes and set(classes) - set(CLASSES[world]):
            raise InputError(f"--truth {source}: draws {', '.join(CLASSES[world])}, but the model knows {', '.join(classes)}")
        names = classes or CLASSES[world]
        if size[0] != size[1]:
            raise InputError(f"--truth {source}: draws squares, but the background model draws {size[1]}x{size[0]}; give a folder")
        first = [(seed + APART + i, names[i % len(names)]) for i in range(each * len(names))]
        second = [(seed + i, names[i % len(names)]) for i in range(n)]
        return _drawn(world, size[0], first, bool(classes)), _drawn(world, size[0], second, bool(classes))
    return _read(source, classes, size, n)


def _drawn(world: str, size: int, wanted: list[tuple[int, str]], named: bool) -> TruePictures:
    from diffusionmix.world import draw_scene

    scenes = [draw_scene(world, size, seed, label) for seed, label in wanted]  # type: ignore[arg-type]
    return TruePictures(
        np.stack([s.image for s in scenes]), np.stack([s.mask for s in scenes]), np.stack([s.empty for s in scenes]),
        tuple(s.label if named else None for s in scenes), tuple(object_box(s.mask) for s in scenes),
    )  # fmt: skip


def _read(source: str, classes: tuple[str, ...], size: tuple[int, int], n: int) -> tuple[TruePictures, TruePictures]:
    from diffusionmix.picture_set import read_set

    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"--truth {typed(source)}: is no world (texture, scene) and no folder; give one with image/ and mask/")
    if size[0] != size[1]:
        raise InputError(f"--truth {typed(source)}: the background model draws {size[1]}x{size[0]}; studies need square pictures")
    found = read_set(folder, "--truth", size=size[0])
    if found.masks is None:
        raise InputError(f"--truth {typed(source)}: has no masks; add mask/ with the names of image/")
    masks = found.masks
    if classes and (unknown := set(found.labels) - set(classes)):
        strange = sorted(map(str, unknown))[0]
        raise InputError(f"--truth {typed(source)}: the model does not know class {strange!r}, only {', '.join(classes)}")
    kept = [i for i, mask in enumerate(masks) if mask.any() and object_box(mask).w >= MIN_SIDE]
    kept = [i for i in kept if object_box(masks[i]).w <= size[0]]
    if len(kept) < 4:
        raise InputError(f"--truth {typed(source)}: {len(kept)} pictures have a usable object; 4 or more are needed")
    labels = tuple(found.labels[i] if classes else None for i in kept)

    def chosen(rows: list[int]) -> TruePictures:
        at = np.array([kept[k] for k in rows])
        bare = None if found.empties is None else found.empties[at]
        boxes = tuple(object_box(mask) for mask in masks[at])
        return TruePictures(found.images[at], masks[at], bare, tuple(labels[k] for k in rows), boxes)

    even, odd = list(range(0, len(kept), 2)), list(range(1, len(kept), 2))
    return chosen(even), chosen([odd[i % len(odd)] for i in range(n)])
