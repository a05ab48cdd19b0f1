"""ISIC 2018 tasks 1 and 3 and HAM10000 as they are unpacked (spec section 4)."""

from pathlib import Path

from didgen.manifest import CLASSES, Row, Split
from didgen.tables import read_table
from didgen.tree import Tree, below, beside, named, repeated, several, table, walk
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.findings import Finding

PARTS: dict[str, Split] = {"Training": "train", "Validation": "val", "Test": "test"}
ISIC = r"(ISIC_\d{7})"  # whole stems only: superpixel files and other companions have longer ones
SEGMENTATION = ISIC + "_segmentation"
MASKS = r"HAM10000_segmentations_lesion_tschandl"
METADATA = r"HAM10000_metadata(\.(csv|tab|tsv|txt))?"


def read_isic2018_task1(root: Path) -> Tree:
    """Pictures with lesion masks, in the organisers' three splits.

    Raises:
        InputError: `root` cannot be listed, or a file leads out of it.
    """
    files, rows, findings = walk(root), list[Row](), list[Finding]()
    for word, split in PARTS.items():
        images = named(below(files, root, rf"ISIC2018_Task1(-2)?_{word}_Input"), root, ISIC)
        masks = named(below(files, root, rf"ISIC2018_Task1_{word}_GroundTruth"), root, SEGMENTATION)
        findings += several(
            "note", root, masks.keys() - images.keys(), f"{word} mask without a picture; it is left out"
        )
        if images:
            findings += several("note", root, _without(images, masks), f"{word} picture without a mask")
        rows += [Row(k, p, masks.get(k), split, attributes=beside(p)) for k, p in images.items()]
    return Tree("isic2018-task1", root, *_once(root, rows, findings))


def read_isic2018_task3(root: Path) -> Tree:
    """Pictures with one of seven classes, in the organisers' three splits; HAM10000's masks where they lie there too.

    Raises:
        InputError: as `read_isic2018_task1`, or a table cannot be read.
    """
    files, rows, findings = walk(root), list[Row](), list[Finding]()
    masks = named(below(files, root, MASKS), root, SEGMENTATION)
    for word, split in PARTS.items():
        images = named(below(files, root, rf"ISIC2018_Task3_{word}_Input"), root, ISIC)
        labels = table(files, root, rf"ISIC2018_Task3_{word}_GroundTruth\.csv")
        classes: dict[str, str] = {}
        if labels is not None:
            classes = _one_hot(labels, images, findings)
            findings += several("note", labels, _without(images, classes), "has no class here")
        elif images:
            findings.append(Finding("note", typed(root), f"holds no ISIC2018_Task3_{word}_GroundTruth.csv; no classes"))
        grouping = table(files, root, rf"ISIC2018_Task3_{word}_LesionGroupings\.csv")
        lesions: dict[str, str] = {}
        if grouping is not None:
            listed = [(r["image"].upper(), r["lesion_id"]) for r in read_table(grouping, ("image", "lesion_id"))]
            findings += several("stop", grouping, repeated(k for k, _ in listed), "stands twice; keep one row each")
            lesions = dict(listed)
        rows += [
            Row(k, p, masks.get(k), split, classes.get(k), lesions.get(k) or None, beside(p)) for k, p in images.items()
        ]
    return Tree("isic2018-task3", root, *_once(root, rows, findings))


def read_ham10000(root: Path) -> Tree:
    """Pictures with class and lesion from the metadata (.csv, .tab or without ending); no split of their own.

    Raises:
        InputError: as `read_isic2018_task3`, or there is no metadata.
    """
    files = walk(root)
    images = named(below(files, root, r"HAM10000_images.*"), root, ISIC)
    masks = named(below(files, root, MASKS), root, SEGMENTATION)
    sheet = table(files, root, METADATA)
    if sheet is None:
        raise InputError(f"{typed(root)}: holds no HAM10000_metadata (.csv, .tab or without ending); put it there")
    listed = read_table(sheet, ("lesion_id", "image_id", "dx"))
    keys = [r["image_id"].upper() for r in listed]
    findings = several("stop", sheet, repeated(keys), "stands twice; keep one row each")
    findings += several(
        "stop", sheet, _without(dict.fromkeys(keys), images), "has no picture; add it, or remove the row"
    )
    findings += several("note", sheet, _without(images, dict.fromkeys(keys)), "is not listed; it gets no class")
    odd = {r["dx"] for r in listed if r["dx"].upper() not in CLASSES}
    findings += several("stop", sheet, sorted(odd), f"is no dx; known are {', '.join(CLASSES).lower()}")
    if masks:
        findings += several("note", root, _without(images, masks), "picture without a mask")
    about = {key: row for key, row in zip(keys, listed, strict=True) if row["dx"] not in odd}
    rows = []
    for key, path in images.items():
        known = about.get(key, {"dx": "", "lesion_id": ""})
        rows.append(
            Row(key, path, masks.get(key), None, known["dx"].upper() or None, known["lesion_id"] or None, beside(path))
        )
    return Tree("ham10000", root, tuple(rows), tuple(findings))


def _one_hot(labels: Path, images: dict[str, Path], findings: list[Finding]) -> dict[str, str]:
    """id -> class of a table with a column of 0.0 and 1.0 for each class; what is wrong with it goes to `findings`."""
    listed = read_table(labels, ("image", *CLASSES))
    keys = [row["image"].upper() for row in listed]
    findings += several("stop", labels, repeated(keys), "stands twice; keep one row each")
    findings += several(
        "stop", labels, [k for k in keys if k not in images], "has no picture; add it, or remove the row"
    )
    odd, found = [], {}
    for key, row in zip(keys, listed, strict=True):
        values = [_number(row[name.lower()]) for name in CLASSES]
        if sorted(values) == [0.0] * 6 + [1.0]:
            found[key] = CLASSES[values.index(1.0)]
        else:
            odd.append(key)
    findings += several("stop", labels, odd, "has not one class; write one 1 and six 0")
    return found


def _number(text: str) -> float:
    """The number, -1 for what is none; a row with that, or with NaN, is not one-hot."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def _without(names: dict[str, Path] | dict[str, None] | dict[str, str], others: object) -> list[str]:
    return [name for name in names if name not in others]  # type: ignore[operator]


def _once(root: Path, rows: list[Row], findings: list[Finding]) -> tuple[tuple[Row, ...], tuple[Finding, ...]]:
    """Rows whose id stands in one split only; the others are findings and keep their first row."""
    twice = repeated(row.id for row in rows)
    findings = findings + several("stop", root, twice, "lies in several splits; keep one")
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.id, row)
    return tuple(first.values()), tuple(findings)
