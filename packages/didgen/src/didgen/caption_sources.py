"""What `caption` captions: a folder of pictures with masks and classes beside it, or a manifest that names them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from didgen.config_caption import CaptionConfig
from didgen.manifest import CLASSES, NAME, Row, load
from didgen.tables import read_table
from graft_common.errors import InputError
from graft_common.files import typed

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_ENDS = ("", "_segmentation", "_lesion", "_mask")


def sources(config: CaptionConfig) -> tuple[list[Row], tuple[Path, ...]]:
    """Rows to caption and the folders that their files lie in.

    Raises:
        InputError: no pictures, two of one name, a missing mask, or a table of classes that does not fit.
    """
    if config.images.is_file() or (config.images / NAME).is_file():
        if config.masks or config.classes:
            raise InputError("--masks and --classes: the manifest names masks and classes; leave them out")
        manifest = load(config.images)
        rows, roots = list(manifest.rows), (manifest.path.parent, *manifest.roots)
    else:
        files = pictures(config.images, "images")
        rows, roots = [Row(key, path) for key, path in files.items()], (config.images,)
        if config.masks is not None:
            rows = [replace(row, mask=path) for row, path in zip(rows, masks_of(rows, config.masks), strict=True)]
            roots += (config.masks,)
    if config.classes is not None:
        classes = read_classes(config.classes, {row.id for row in rows})
        rows = [replace(row, dx=classes.get(row.id)) for row in rows]
    return rows, roots


def pictures(folder: Path, flag: str) -> dict[str, Path]:
    """stem -> picture of a folder, in order; other files (licences, tables) are passed over."""
    if not folder.is_dir():
        raise InputError(f"{flag} {typed(folder)}: is no folder; give one with pictures")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(f"{flag} {typed(folder)}: {found[path.stem].name} and {path.name} have one name; rename one")
            found[path.stem] = path
    if not found:
        raise InputError(f"{flag} {typed(folder)}: holds no PNG, JPEG, TIFF or BMP; give the folder with the pictures")
    return found


def masks_of(rows: list[Row], folder: Path) -> Iterator[Path]:
    """The mask of every row.

    Raises:
        InputError: a picture has none, or several.
    """
    files = pictures(folder, "--masks")
    for row in rows:
        mine = [files[row.id + end] for end in MASK_ENDS if row.id + end in files and files[row.id + end] != row.image]
        if len(mine) != 1:
            raise InputError(
                f"--masks {typed(folder)}: has {len(mine)} masks of {row.image.name}; name one {row.id}_segmentation.png, "
                "or leave --masks out and lesions are found by colour"
            )
        yield mine[0]


def read_classes(path: Path, known: set[str]) -> dict[str, str]:
    """id -> class of a table in ISIC's or HAM10000's form; pictures that it lacks have no class.

    Raises:
        InputError: unreadable, columns are missing, an id that is no picture or stands twice, or an unknown class.
    """
    table = read_table(path, ())
    columns = set(table[0]) if table else set()
    key = next((name for name in ("image_id", "image", "isic_id", "id") if name in columns), None)
    one_hot = {name.lower() for name in CLASSES} <= columns
    if key is None or not (one_hot or "dx" in columns):
        raise InputError(
            f"--classes {typed(path)}: has no columns image and {','.join(CLASSES)}, nor image_id and dx; give ISIC's or "
            "HAM10000's table"
        )
    found: dict[str, str] = {}
    for number, line in enumerate(table, start=2):
        where = f"--classes {typed(path)}, row {number}"
        name = line[key]
        if name in found:
            raise InputError(f"{where}: {name} stands twice; keep one row a picture")
        if name not in known:
            raise InputError(f"{where}: {name} is no picture of the folder; remove the row or add the picture")
        found[name] = _class_of(line, one_hot, where)
    return found


def _class_of(line: dict[str, str], one_hot: bool, where: str) -> str:
    if not one_hot:
        if line["dx"].upper() not in CLASSES:
            raise InputError(f"{where}: dx is {line['dx']!r}; give one of {', '.join(CLASSES)}")
        return line["dx"].upper()
    try:
        marked = [name for name in CLASSES if float(line[name.lower()]) == 1]
        whole = all(float(line[name.lower()]) in (0, 1) for name in CLASSES)
    except ValueError as why:
        raise InputError(f"{where}: holds a value that is no number ({why}); give 0 and 1") from None
    if len(marked) != 1 or not whole:
        raise InputError(f"{where}: marks {len(marked)} classes; give one 1 and else 0")
    return marked[0]
