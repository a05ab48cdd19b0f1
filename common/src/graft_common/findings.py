"""What a `check` verb finds: one line about one file, and how it ends."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graft_common.errors import InputError
from graft_common.files import typed

SHOWN = 60  # findings in the table
Level = Literal["stop", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing about one file: `stop` would end a run on this data, `note` is worth a look."""

    level: Level
    path: str
    what: str


def said(path: Path, why: InputError) -> str:
    """The message without the path that its line starts with."""
    return str(why).partition(f"{typed(path)}: ")[2] or str(why)


def conclude(
    findings: Sequence[Finding], record: dict[str, Any], path: Path, title: str, as_json: bool
) -> dict[str, Any]:
    """Show the findings on stderr (with `as_json` nothing is shown) and return the verb's record with them.

    Raises:
        InputError: at least one finding would stop a run; the message has their count and the first, and with `as_json`
            the record is printed before.
    """
    stops = [f for f in findings if f.level == "stop"]
    record = record | {
        "stops": len(stops), "notes": len(findings) - len(stops), "findings": [dataclasses.asdict(f) for f in findings],
    }  # fmt: skip
    if not as_json:
        show(findings, f"{typed(path)}: {title}")
    if stops:
        if as_json:
            print(json.dumps(record))
        raise InputError(
            f"{typed(path)}: {len(stops)} findings would stop a run; the first: {stops[0].path}: {stops[0].what}"
        )
    return record


def show(findings: Sequence[Finding], title: str) -> None:
    """The findings as a table on stderr, those that stop first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    if not findings:
        console.print(Text(f"{title}; nothing wrong found"))
        return
    table = Table(title=Text(title))
    for column in ("", "file", "finding"):
        table.add_column(column, overflow="fold")
    ordered = sorted(findings, key=lambda f: f.level != "stop")
    for found in ordered[:SHOWN]:
        table.add_row(
            Text(found.level, style="red" if found.level == "stop" else ""), Text(found.path), Text(found.what)
        )
    console.print(table)
    if len(ordered) > SHOWN:
        console.print(Text(f"and {len(ordered) - SHOWN} more; --json prints all"))
