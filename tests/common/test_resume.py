"""What was begun is found again, and whoever goes on with something else is told."""

import json
from pathlib import Path

import pytest

from graft_common.errors import InputError
from graft_common.resume import begun, check_same, check_same_run, settings_digest


def test_a_batch_is_gone_on_with_or_refused(tmp_path: Path) -> None:
    note, digest = tmp_path / "plan.json", settings_digest({"a": 1, "b": [2]})
    assert settings_digest({"b": [2], "a": 1}) == digest != settings_digest({"a": 1, "b": [3]})
    assert begun(note, False, "--out x", "a batch") is None
    note.write_text(json.dumps({"batch_size": 4, "settings": digest, "keys": ["k"]}))
    with pytest.raises(InputError, match=r"^--out x: holds a batch already; pass --resume"):
        begun(note, False, "--out x", "a batch")
    stored = begun(note, True, "--out x", "a batch")
    assert stored == {"batch_size": 4, "settings": digest, "keys": ["k"]}
    check_same(stored, digest, "--out x", "rows or settings")
    with pytest.raises(InputError, match=r"^--out x: was begun with other rows or settings; repeat them"):
        check_same(stored, settings_digest({}), "--out x", "rows or settings")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"batch_size": "many", "settings": ""}', '{"batch_size": 4}', "null"])
def test_a_damaged_note_is_said(tmp_path: Path, text: str) -> None:
    note = tmp_path / "plan.json"
    note.write_text(text)
    with pytest.raises(InputError, match=r"plan\.json: is damaged; choose another --out"):
        begun(note, True, "--out x", "a batch")


def test_a_training_names_what_differs(tmp_path: Path) -> None:
    note = tmp_path / "train.json"
    note.write_text(json.dumps({"learning_rate": "0.001", "pictures": "a" * 64}))
    check_same_run({"learning_rate": "0.001"}, note, "--out x")
    for changed, says in (
        ({"learning_rate": "0.002"}, r"^--out x: was begun with another --learning-rate \(0.001\); repeat it"),
        ({"pictures": "b" * 64}, r"another --pictures; repeat it"),
        ({"start": "c"}, r"another --start; repeat it"),
    ):
        with pytest.raises(InputError, match=says):
            check_same_run(changed, note, "--out x")
    for text in ("", "null", "[1]"):
        note.write_text(text)
        with pytest.raises(InputError, match=r"train\.json: is damaged"):
            check_same_run({}, note, "--out x")
