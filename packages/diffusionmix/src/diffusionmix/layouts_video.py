"""KITTI (object detection and raw) and TikTok (clips and the flat set) as they are unpacked (spec section 4)."""

import re
from itertools import groupby
from pathlib import Path

from diffusionmix.tree import Item, Tree, finish, folders, named, pair, pictures
from graft_common.files import typed
from graft_common.findings import Finding

CLIP = re.compile(r"(.+?)[-_ ](\d+)")  # CLIP_FRAME: what a flat file name can say about its clip


def kitti_folders(root: Path) -> tuple[list[Path], list[Path]]:
    """Folders `training/image_2` of the object benchmark, and `<drive>/image_02/data` of the raw recordings."""
    every = folders(root)
    objects = [f for f in every if f.name == "image_2" and f.parent.name == "training"]
    return objects, [f for f in every if f.name == "data" and f.parent.name == "image_02"]


def tiktok_folders(root: Path) -> list[Path]:
    """Folders that hold both `images` and `masks`."""
    return [f for f in folders(root, 3) if (f / "images").is_dir() and (f / "masks").is_dir()]


def read_kitti(root: Path) -> Tree:
    """Left colour frames as backgrounds; no labels are needed. Frames of one raw drive share a group.

    Raises:
        InputError: `root` cannot be listed, or a file leads out of it.
    """
    items = list[Item]()
    objects, raw = kitti_folders(root)
    for folder in objects:
        items += [Item(named("object", f.stem), f, empty=True) for f in pictures(folder, root)]
    for folder in raw:
        drive = folder.parent.parent.resolve().name
        items += [Item(named(drive, f.stem), f, group=drive, empty=True) for f in pictures(folder, root)]
    return finish("kitti", root, items, [])


def read_tiktok(root: Path, every: int = 1) -> Tree:
    """Frames with the dancer's mask, paired by stem; a clip is a group. Takes each clip's frames 0, `every`, 2 `every` ...

    In the flat set a file named CLIP_FRAME tells its clip; other files stand alone, and a finding says so.

    Raises:
        InputError: `root` cannot be listed, or a file leads out of it.
    """
    items, findings = list[Item](), list[Finding]()
    found = tiktok_folders(root)
    for folder in found:
        flat = len(found) == 1 and not folder.name.isdigit()
        pairs, wrong = pair(pictures(folder / "images", root), pictures(folder / "masks", root), folder)
        findings += wrong
        clips = [(_clip(stem) if flat else folder.name, stem, image, mask) for stem, image, mask in pairs]
        loose = sum(clip is None for clip, *_ in clips)
        for clip, frames in groupby(sorted(clips, key=lambda c: (c[0] or c[1], c[1])), key=lambda c: c[0] or c[1]):
            for _, stem, image, mask in list(frames)[::every]:
                items.append(Item(named("" if flat else clip, stem), image, mask, "person", group=clip))
        if loose:
            what = f"{loose} file names tell no clip; each is split by itself, so near frames may stand on both sides"
            findings.append(Finding("note", typed(folder), what))
    return finish("tiktok", root, items, findings)


def _clip(stem: str) -> str | None:
    match = CLIP.fullmatch(stem)
    return match[1] if match else None
