"""Interrupted work: what was begun in a folder, and whether this call goes on with it.

A batch notes its size and the digest of its settings; a training notes its settings beside its checkpoint.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft_common.errors import InputError
from graft_common.files import read_bytes, typed


def settings_digest(settings: Mapping[str, Any]) -> str:
    """sha256 of JSON values, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def begun(path: Path, resume: bool, where: str, holds: str) -> dict[str, Any] | None:
    """What an earlier call noted in `path` ("batch_size" and "settings" are there); None where nothing was begun.

    Args:
        where: the folder as typed, with its flag.
        holds: what lies there, for the message.

    Raises:
        InputError: something was begun and --resume was not given, or the note is damaged.
    """
    if not path.exists():
        return None
    if not resume:
        raise InputError(f"{where}: holds {holds} already; pass --resume to go on or choose another")
    try:
        stored = json.loads(read_bytes(path))
        return dict(stored) | {"batch_size": int(stored["batch_size"]), "settings": str(stored["settings"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{typed(path)}: is damaged; choose another --out") from None


def check_same(stored: Mapping[str, Any], digest: str, where: str, other: str) -> None:
    """Raise InputError where a batch was begun with another `settings_digest`; `other` says what may differ."""
    if stored["settings"] != digest:
        raise InputError(f"{where}: was begun with other {other}; repeat them or choose another")


def check_same_run(settings: Mapping[str, str], note: Path, where: str) -> None:
    """Raise InputError where a training's note holds other settings; names the first, and what it was if that is short.

    Raises:
        InputError: also where the note is missing or damaged.
    """
    try:
        stored = dict(json.loads(read_bytes(note)))
    except (ValueError, TypeError):
        raise InputError(f"{typed(note)}: is damaged; choose another folder") from None
    if changed := sorted(key for key in settings if stored.get(key) != settings[key]):
        was = str(stored.get(changed[0], ""))
        shown = f" ({was})" if 0 < len(was) < 32 else ""  # digests say nothing to a reader
        name = changed[0].replace("_", "-")
        raise InputError(f"{where}: was begun with another --{name}{shown}; repeat it or choose another folder")
