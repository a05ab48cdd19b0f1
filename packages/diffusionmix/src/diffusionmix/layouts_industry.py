"""MVTec AD and VisA (in its own tree and in MVTec's) as they are unpacked (spec section 4): files are globbed, never counted."""

import csv
import io
from pathlib import Path

from diffusionmix.read import MaskValues
from diffusionmix.tree import Item, Split, Tree, confined, finish, folders, named, pair, pictures, several
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed
from graft_common.findings import Finding

GOOD = "good"


def mvtec_categories(root: Path) -> list[Path]:
    """Folders, `root` or below, that hold MVTec's `test` or `train/good`."""
    found = []
    for folder in folders(root, 3):
        inside = folder / "test"
        tested = inside.is_dir() and any(p.is_dir() and p.name == GOOD for p in inside.iterdir())
        if (folder / "train" / GOOD).is_dir() or tested or (inside.is_dir() and (folder / "ground_truth").is_dir()):
            found.append(folder)
    return found


def visa_categories(root: Path) -> list[Path]:
    """Folders, `root` or below, that hold VisA's `Data/Images`."""
    return [f for f in folders(root, 3) if (f / "Data" / "Images").is_dir()]


def read_mvtec(root: Path, values: MaskValues = "auto", layout: str = "mvtec") -> Tree:
    """Every category below `root`: good pictures with the data set's split, defects (all in `test`) unsplit with their masks.

    Raises:
        InputError: `root` cannot be listed, or a file leads out of it.
    """
    items, findings = list[Item](), list[Finding]()
    for folder in mvtec_categories(root):
        category = folder.resolve().name
        splits: tuple[Split, ...] = ("train", "test")
        for split in splits:
            for file in pictures(folder / split / GOOD, root):
                key = named(category, split, GOOD, file.stem)
                items.append(Item(key, file, category=category, split=split, empty=True))
        test, truth = folder / "test", folder / "ground_truth"
        defects = sorted({p.name for d in (test, truth) if d.is_dir() for p in d.iterdir() if p.is_dir()} - {GOOD})
        for defect in defects:
            if defect.startswith("."):
                continue
            pairs, wrong = pair(pictures(test / defect, root), pictures(truth / defect, root), test / defect)
            findings += wrong
            items += [
                Item(named(category, "test", defect, stem), image, mask, defect, category, values=values)
                for stem, image, mask in pairs
            ]
    return finish(layout, root, items, findings)


def read_visa(root: Path) -> Tree:
    """Both trees of VisA. Masks hold ids: above 0 counts. Labels come from image_anno.csv, several are joined by "+".

    Normal pictures take the split of `split_csv/1cls.csv` where it is there; pictures with a defect stay unsplit.

    Raises:
        InputError: `root` cannot be listed, a file or a table's path leads out of it, or a table cannot be read.
    """
    own = visa_categories(root)
    if not own:
        return read_mvtec(root, "ids", "visa")
    items, findings = list[Item](), list[Finding]()
    splits = _official_splits(root)
    for folder in own:
        category = folder.resolve().name
        labels = _labels(folder, root, findings)
        for file in pictures(folder / "Data" / "Images" / "Normal", root):
            key = named(category, "Normal", file.stem)
            items.append(Item(key, file, category=category, split=splits.get(file.resolve()), empty=True))
        odd, masks = folder / "Data" / "Images" / "Anomaly", folder / "Data" / "Masks" / "Anomaly"
        pairs, wrong = pair(pictures(odd, root), pictures(masks, root), odd)
        findings += wrong
        for stem, image, mask in pairs:
            label = labels.get(image.resolve())
            items.append(Item(named(category, "Anomaly", stem), image, mask, label, category, values="ids"))
    return finish("visa", root, items, findings)


def _labels(folder: Path, root: Path, findings: list[Finding]) -> dict[Path, str]:
    """resolved picture -> label of image_anno.csv; rows without their picture go to `findings`."""
    path = folder / "image_anno.csv"
    if not path.is_file():
        findings.append(Finding("note", typed(folder), "holds no image_anno.csv; its defects get no class"))
        return {}
    found, missing = dict[Path, str](), list[str]()
    for row in _table(path, ("image", "label"), root):
        image = _placed(row["image"], (folder.parent, folder), root)
        if not image.is_file():
            missing.append(row["image"])
        words = sorted({w.strip() for w in row["label"].split(",") if w.strip()} - {"normal"})
        if words:
            found[image.resolve()] = "+".join(words)
    findings += several("note", path, missing, "is listed but not there; the row is passed over")
    return found


def _official_splits(root: Path) -> dict[Path, Split]:
    """resolved picture -> split of split_csv/1cls.csv, wherever that folder lies."""
    found: dict[Path, Split] = {}
    for folder in folders(root, 3):
        path = folder / "split_csv" / "1cls.csv"
        if path.is_file():
            for row in _table(path, ("split", "image"), root):
                if row["split"] in ("train", "test"):
                    found[_placed(row["image"], (folder,), root).resolve()] = "train" if row["split"] == "train" else "test"
    return found


def _placed(name: str, bases: tuple[Path, ...], root: Path) -> Path:
    """A table's path below the first of `bases` that has it; VisA counts it from the folder above the category.

    The path only selects among pictures that were found by listing, so nothing outside `root` is ever read.

    Raises:
        InputError: it leads out of the data set.
    """
    places = [base / name for base in bases]
    if "\0" in name or not places[0].resolve().is_relative_to(bases[0].resolve()):
        raise InputError(f"{typed(name)}: leads out of {typed(root)}; keep the files below one folder")
    return next((p for p in places if p.is_file()), places[0])


def _table(path: Path, columns: tuple[str, ...], root: Path) -> list[dict[str, str]]:
    """Rows of a CSV with at least `columns`.

    Raises:
        InputError: it is no text, or a column is missing.
    """
    text = read_bytes(confined(root, path)).decode("utf-8-sig", "replace")
    reader = csv.DictReader(io.StringIO(text))
    missing = [c for c in columns if c not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{typed(path)}: has no column {missing[0]!r}; give a table with {', '.join(columns)}")
    return [{c: row.get(c) or "" for c in columns} for row in reader]
