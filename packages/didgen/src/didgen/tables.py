"""Tables as data sets ship them: CSV or tab-separated with any ending, and the first sheet of an .xlsx file."""

import csv
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed

LARGEST = 64 << 20  # bytes of one unpacked part of an .xlsx file
SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
SHEET = "xl/worksheets/sheet1.xml"


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table as column -> text; the separator (comma, tab, semicolon) is the one that splits the header most.

    Args:
        columns: names that must be there (case and spaces around do not matter; keys are lower-case).

    Raises:
        InputError: unreadable, empty, a column is missing, or a row has more or fewer cells than the header.
    """
    name = f"table {typed(path)}"
    data = read_bytes(path, name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # the only other coding seen; names and classes are ASCII in both
    with parsing(name, "a table"):
        head = text.lstrip().split("\n", 1)[0]
        mark = max(",\t;", key=head.count)
        lines = [cells for cells in csv.reader(io.StringIO(text), delimiter=mark, strict=True) if any(cells)]
    if not lines:
        raise InputError(f"{name}: holds no rows; download it again")
    header = [cell.strip().lower() for cell in lines[0]]
    if missing := [c for c in columns if c.lower() not in header]:
        raise InputError(
            f"{name}: column {missing[0]!r} is missing, there are {', '.join(header)[:120]}; download it again"
        )
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(header):
            raise InputError(
                f"{name}, row {number}: has {len(cells)} cells but the header {len(header)}; download it again"
            )
    return [dict(zip(header, (cell.strip() for cell in cells), strict=True)) for cells in lines[1:]]


def read_xlsx(path: Path) -> list[dict[str, str]]:
    """Rows of the first sheet of an .xlsx file as column letter -> text; empty cells are left out.

    Raises:
        InputError: unreadable, no such file format, over 64 MiB, or XML that declares a document type.
    """
    name = f"table {typed(path)}"
    data = read_bytes(path, name)
    with parsing(name, "an .xlsx file"), zipfile.ZipFile(io.BytesIO(data)) as book:
        names = book.namelist()
        shared: list[str] = []
        if "xl/sharedStrings.xml" in names:
            root = _xml(book, "xl/sharedStrings.xml", name)
            shared = ["".join(t.text or "" for t in item.iter(f"{SPACE}t")) for item in root.iter(f"{SPACE}si")]
        rows = []
        for row in _xml(book, SHEET, name).iter(f"{SPACE}row"):
            cells = {}
            for cell in row.iter(f"{SPACE}c"):
                if text := _text(cell, shared).strip():
                    cells[re.sub(r"\d", "", cell.attrib["r"])] = text
            rows.append(cells)
    return rows


def _text(cell: ElementTree.Element, shared: Sequence[str]) -> str:
    value = cell.find(f"{SPACE}v")
    if cell.get("t") == "inlineStr":
        return "".join(t.text or "" for t in cell.iter(f"{SPACE}t"))
    if value is None or value.text is None:
        return ""
    return shared[int(value.text)] if cell.get("t") == "s" else value.text


def _xml(book: zipfile.ZipFile, part: str, name: str) -> ElementTree.Element:
    if book.getinfo(part).file_size > LARGEST:
        raise InputError(f"{name}: {part} has over {LARGEST >> 20} MiB; give the original file")
    data = book.read(part)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # entities that multiply
        raise InputError(f"{name}: {part} declares a document type; give the original file")
    return ElementTree.fromstring(data)


def xlsx(rows: Sequence[Sequence[str]]) -> bytes:
    """A workbook of one sheet with these cells, empty ones left out; equal rows give equal bytes."""
    spreadsheet, package, office = (
        f"http://schemas.openxmlformats.org/{name}"
        for name in ("spreadsheetml/2006/main", "package/2006", "officeDocument/2006/relationships")
    )
    body = "".join(
        f'<row r="{r}">'
        + "".join(
            f'<c r="{chr(64 + c)}{r}" t="inlineStr"><is><t>{escape(text)}</t></is></c>'
            for c, text in enumerate(row, start=1)
            if text
        )
        + "</row>"
        for r, row in enumerate(rows, start=1)
    )
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType="application/'
        'vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/{SHEET}" ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" Type="{office}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{spreadsheet}" xmlns:r="{office}"><sheets><sheet name="Sheet1" sheetId="1" '
        'r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
        f'Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        SHEET: f'<worksheet xmlns="{spreadsheet}"><sheetData>{body}</sheetData></worksheet>',
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as book:
        for name, text in parts.items():
            stamp = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # no clock: equal rows give equal bytes
            book.writestr(stamp, '<?xml version="1.0" encoding="UTF-8"?>' + text)
    return out.getvalue()
