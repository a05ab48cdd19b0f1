"""How a check ends: a table or JSON, those that stop first, and a refusal that names the first of them."""

import json
from pathlib import Path

import pytest

from graft_common.errors import InputError
from graft_common.findings import SHOWN, Finding, conclude, said

FOUND = [Finding("note", "a.png", "is grey"), Finding("stop", "b.png", "is empty"), Finding("stop", "c.png", "is [red]odd[/red]")]


def test_what_stops_is_shown_first_and_refused(capsys):
    with pytest.raises(InputError, match=r"^data: 2 findings would stop a run; the first: b\.png: is empty$"):
        conclude(FOUND, {"items": 3}, Path("data"), "manifest, 3 pictures", False)
    out, err = capsys.readouterr()
    rows = [line for line in err.splitlines() if ".png" in line]
    assert not out and [row.count("stop") for row in rows] == [1, 1, 0] and "a.png" in rows[2]
    assert "data: manifest, 3 pictures" in err and "[red]odd[/red]" in err  # file names are no markup


def test_json_is_printed_before_the_refusal_and_nothing_else_is(capsys):
    with pytest.raises(InputError):
        conclude(FOUND, {"schema": 1}, Path("data"), "x", True)
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert not err and (record["schema"], record["stops"], record["notes"]) == (1, 2, 1)
    assert record["findings"][0] == {"level": "note", "path": "a.png", "what": "is grey"}


def test_notes_stop_nothing(capsys):
    record = conclude(FOUND[:1], {"schema": 1}, Path("data"), "x", True)
    assert record == {"schema": 1, "stops": 0, "notes": 1, "findings": [vars(FOUND[0])]}
    assert capsys.readouterr() == ("", "")  # the command prints what a verb returns
    conclude([], {}, Path("data"), "manifest", False)
    assert "nothing wrong found" in capsys.readouterr().err
    conclude([Finding("note", f"{i}.png", "x") for i in range(SHOWN + 4)], {}, Path("data"), "manifest", False)
    assert "and 4 more" in capsys.readouterr().err


def test_a_message_loses_the_path_that_its_line_starts_with():
    assert said(Path("a b.png"), InputError("image a b.png: is empty; give it")) == "is empty; give it"
    assert said(Path("other.png"), InputError("is empty")) == "is empty"
