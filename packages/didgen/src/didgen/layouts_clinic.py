"""Derm7pt and PH2 as they are unpacked (spec section 4)."""

import re
from pathlib import Path

from didgen.manifest import Row, Split, confined
from didgen.tables import read_table, read_xlsx
from didgen.tree import PICTURES, Tree, beside, named, repeated, several, table, walk
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed
from graft_common.findings import Finding

INDEXES: dict[str, Split] = {"train_indexes.csv": "train", "valid_indexes.csv": "val", "test_indexes.csv": "test"}
DROPPED = ("melanosis", "miscellaneous")  # no counterpart among the seven classes: 1011 cases become 987
# Diagnosis -> class; the many melanomas and nevi are told by their word.
DIAGNOSES = {
    "basal cell carcinoma": "BCC",
    "dermatofibroma": "DF",
    "vascular lesion": "VASC",
    "seborrheic keratosis": "BKL",
    "lentigo": "BKL",
}
PH2_CLASSES = {"0": "NV", "1": "NV", "2": "MEL"}  # common nevus, atypical nevus, melanoma
IMD = r"(IMD\d{3})"


def diagnosis(text: str) -> str | None:
    """Class of one of Derm7pt's diagnoses; None for one that is unknown or has no counterpart."""
    words = text.strip().lower()
    if words.startswith("melanoma"):
        return "MEL"
    return "NV" if words.endswith("nevus") else DIAGNOSES.get(words)


def read_derm7pt(root: Path) -> Tree:
    """The dermoscopic pictures with their class, split by the three index files; no masks.

    Raises:
        InputError: `root` cannot be listed, a table is missing or unreadable, or a path leads out of `images`.
    """
    files, findings = walk(root), list[Finding]()
    sheet = next((f for f in files if f.name.lower() == "meta.csv" and f.parent.name.lower() == "meta"), None)
    if sheet is None:
        raise InputError(f"{typed(root)}: holds no meta/meta.csv; give the folder release_v0 of Derm7pt")
    images = sheet.parent.parent / "images"
    cases = read_table(sheet, ("diagnosis", "derm"))
    splits = _splits(sheet.parent, len(cases), findings)
    spelt = {str(f.relative_to(images)).lower(): f for f in files if f.is_relative_to(images)}
    rows, gone, odd, dropped = list[Row](), list[str](), list[str](), 0
    for number, case in enumerate(cases):
        where = f"table {typed(sheet)}, row {number + 2}"
        path = confined(images, case["derm"], where) if case["derm"] else images
        # The table and the folders do not agree on capitals.
        path = spelt.get(case["derm"].lower(), path)
        label = diagnosis(case["diagnosis"])
        if case["diagnosis"].lower() in DROPPED:
            dropped += 1
        elif label is None:
            odd.append(case["diagnosis"] or f"row {number + 2}")
        elif not path.is_file():
            gone.append(case["derm"] or f"row {number + 2}")
        else:
            key = "_".join(path.relative_to(images).with_suffix("").parts)
            rows.append(Row(key, path, None, splits.get(number), label, f"derm7pt_{number}", beside(path)))
    findings += several("stop", sheet, gone, "has no picture; add it, or remove the row")
    findings += several("stop", sheet, odd, "is an unknown diagnosis; correct it")
    findings += several("stop", sheet, repeated(row.id for row in rows), "stands twice; keep one row each")
    if dropped:
        findings.append(
            Finding("note", typed(sheet), f"{dropped} cases of {' or '.join(DROPPED)} are left out: no class fits")
        )
    first = {row.id: row for row in reversed(rows)}
    return Tree("derm7pt", root, tuple(first[key] for key in sorted(first)), tuple(findings))


def _splits(folder: Path, count: int, findings: list[Finding]) -> dict[int, Split]:
    """Row number -> split; all three files or none."""
    found: dict[int, Split] = {}
    present = [name for name in INDEXES if (folder / name).is_file()]
    if len(present) not in (0, len(INDEXES)):
        lost = next(name for name in INDEXES if name not in present)
        raise InputError(f"{typed(folder / lost)}: no such file; give all of {', '.join(INDEXES)} or none")
    for name in present:
        path, twice, outside = folder / name, list[str](), list[str]()
        for row in read_table(path, ("indexes",)):
            text = row["indexes"]
            if not text.isdecimal() or int(text) >= count:
                outside.append(text or "an empty cell")
            elif int(text) in found:
                twice.append(text)
            else:
                found[int(text)] = INDEXES[name]
        findings += several("stop", path, twice, "is in two splits or twice in one; keep one")
        findings += several("stop", path, outside, f"is no row of meta.csv, which has 0 to {count - 1}")
    if not present:
        findings.append(Finding("note", typed(folder), f"holds none of {', '.join(INDEXES)}; prepare splits by itself"))
    return found


def read_ph2(root: Path) -> Tree:
    """Pictures with lesion masks and class; no split. Files are known by their names alone, so that nested and flat copies,
    with spaces or underscores, read alike.

    Raises:
        InputError: `root` cannot be listed, or the table is unreadable.
    """
    files, findings = walk(root), list[Finding]()
    images = [
        f for f in files if f.suffix.lower() in PICTURES and not re.search("lesion|mask|roi", f.parent.name, re.I)
    ]
    masked = [f for f in files if re.search("lesion|mask", f.parent.name, re.I)]
    pictures = named(images, root, IMD + r"(?:_Dermoscopic_Image)?")
    masks = named(files, root, IMD + r"_(?:lesion|mask)") | named(masked, root, IMD)
    classes, sheet = _ph2_classes(files, root)
    if sheet is None:
        findings.append(Finding("note", typed(root), "holds neither PH2_dataset.txt nor PH2_dataset.xlsx; no classes"))
    else:
        keys = [key for key, _ in classes]
        findings += several("stop", sheet, repeated(keys), "stands twice; keep one row each")
        lost = [key for key in keys if key not in pictures]
        findings += several("stop", sheet, lost, "has no picture; add it, or remove the row")
        findings += several("stop", sheet, [k for k, c in classes if c is None], "has no diagnosis; write 0, 1 or 2")
        findings += several("note", sheet, [k for k in pictures if k not in keys], "is not listed; it gets no class")
    findings += several("note", root, [k for k in pictures if k not in masks], "picture without a mask")
    about = dict(classes)
    rows = [Row(k, p, masks.get(k), None, about.get(k), None, beside(p)) for k, p in pictures.items()]
    return Tree("ph2", root, tuple(rows), tuple(findings))


def _ph2_classes(files: list[Path], root: Path) -> tuple[list[tuple[str, str | None]], Path | None]:
    """(id, class) of every line of the text file, else of the workbook; and the file."""
    if text := table(files, root, r"PH2[ _-]?dataset\.txt"):
        lines = read_bytes(text, f"table {typed(text)}").decode("utf-8", errors="replace").splitlines()
        cells = [[cell.strip() for cell in line.split("||")] for line in lines if line.lstrip().startswith("||")]
        kept = [row for row in cells if len(row) > 3 and re.fullmatch(IMD, row[1], re.I)]
        if not kept:
            raise InputError(f"table {typed(text)}: holds no row `|| IMD002 || ... || 0 ||`; download it again")
        return [(row[1].upper(), PH2_CLASSES.get(row[3])) for row in kept], text
    if book := table(files, root, r"PH2[ _-]?dataset\.xlsx"):
        marked = [row for row in read_xlsx(book) if re.fullmatch(IMD, row.get("A", ""), re.I)]
        if not marked:
            raise InputError(
                f"table {typed(book)}: holds no row with IMD002 or the like in column A; download it again"
            )
        found: list[tuple[str, str | None]] = []
        for row in marked:
            crosses = [PH2_CLASSES[str(i)] for i, column in enumerate("CDE") if row.get(column, "").upper() == "X"]
            found.append((row["A"].upper(), crosses[0] if len(crosses) == 1 else None))
        return found, book
    return [], None
