"""Whose folder is this: the readers by name, the one that a folder's names ask for, and any folder of pictures and masks."""

from collections.abc import Callable, Sequence
from pathlib import Path

from diffusionmix.config_data import LayoutName
from diffusionmix.layouts_industry import mvtec_categories, read_mvtec, read_visa, visa_categories
from diffusionmix.layouts_video import kitti_folders, read_kitti, read_tiktok, tiktok_folders
from diffusionmix.tree import Item, Tree, finish, folders, named, pictures, several
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.findings import Finding

READERS: dict[str, Callable[[Path], Tree]] = {
    "mvtec": read_mvtec,
    "visa": read_visa,
    "kitti": read_kitti,
    "tiktok": read_tiktok,
}


def read_tree(root: Path, layout: LayoutName = "auto", every: int = 1) -> Tree:
    """A data set's folder by its layout; auto looks at the folder names.

    Raises:
        InputError: no such folder, no layout that fits, or a folder without a usable picture.
    """
    name = detect(root) if layout == "auto" else layout
    tree = read_tiktok(root, every) if name == "tiktok" else READERS[name](root)
    if not tree.items and not any(f.level == "stop" for f in tree.findings):
        raise InputError(f"{typed(root)}: holds no PNG, JPEG or TIFF where {name} has its pictures; compare its folder names")
    return tree


def detect(root: Path) -> str:
    """The layout that the folder names ask for.

    Raises:
        InputError: none fits.
    """
    if not Path(root).is_dir():
        raise InputError(f"{typed(root)}: is no folder; give the data set's folder")
    if visa_categories(root):
        return "visa"
    if mvtec_categories(root):
        return "mvtec"
    if any(kitti_folders(root)):
        return "kitti"
    if tiktok_folders(root):
        return "tiktok"
    raise InputError(
        f"{typed(root)}: looks like none of {', '.join(READERS)}; name one with --layout, or give the masks' folder with --masks"
    )


def read_folder(images: Path, masks: Path | None) -> Tree:
    """Any tree of pictures, with a tree of masks of the same relative names (or with `_mask` before the ending).

    The first folder below `images` is the class. Without masks every picture may serve as a background.

    Raises:
        InputError: a folder is missing or holds no picture, or a file leads out of it.
    """
    shown = _below(images)
    if not shown:
        raise InputError(f"{typed(images)}: holds no PNG, JPEG or TIFF; give the pictures' folder")
    findings = several("stop", images, _repeated(shown), "picture stands in two files of one name; keep one")
    if masks is None:
        items = [Item(named(*k.parts), f, label=_first(k), empty=True) for k, f in shown]
        return finish("folder", images, items, findings)
    marked = _below(masks)
    if not marked:
        raise InputError(f"{typed(masks)}: holds no PNG, JPEG or TIFF; give the masks' folder")
    if all(k.name.endswith("_mask") for k, _ in marked):
        marked = [(k.with_name(k.name.removesuffix("_mask")), f) for k, f in marked]
    findings += several("stop", masks, _repeated(marked), "mask stands in two files of one name; keep one")
    place, images_of = dict(reversed(marked)), dict(reversed(shown))
    missing = [k.as_posix() for k in images_of if k not in place]
    findings += several("stop", images, missing, "picture without a mask; add it or move the picture away")
    extra = [k.as_posix() for k in place if k not in images_of]
    findings += several("stop", masks, extra, "mask without a picture; add it or move the mask away")
    items = [Item(named(*k.parts), f, place[k], _first(k)) for k, f in images_of.items() if k in place]
    return finish("folder", images, items, findings)


def _below(root: Path) -> list[tuple[Path, Path]]:
    """(relative name without ending, file) of every picture below `root`, by name."""
    every = (f for folder in folders(root) for f in pictures(folder, root))
    return [(f.relative_to(root).with_suffix(""), f) for f in sorted(every)]


def _first(key: Path) -> str | None:
    return key.parts[0] if len(key.parts) > 1 else None


def _repeated(files: Sequence[tuple[Path, Path]]) -> list[str]:
    names = [key.as_posix() for key, _ in files]
    return [name for name in set(names) if names.count(name) > 1]


def stopping(findings: Sequence[Finding]) -> list[Finding]:
    """Those that end `prepare`."""
    return [f for f in findings if f.level == "stop"]
