"""Where an output came from: method, versions, seed, digests of weights and inputs, and the word "synthetic".

Names of patients live in paths. So a record holds base names only, and for DICOM files no name at all.
"""

import hashlib
import json
import os
import sys
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from graft_common.files import sha256

SCHEMA = 1
NOTICE = "synthetic image, not for diagnosis"
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
NAMED = ("graft-common", "torch", "diffusers", "transformers", "numpy", "pydicom", "nibabel", "scikit-image")


def is_dicom(path: Path) -> bool:
    """By suffix, or by the magic word after the 128-byte preamble."""
    path = Path(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def public_name(path: Path) -> str:
    """What a record may say of a path: its base name, or `<dicom>` (scanners put the patient into file names)."""
    return "<dicom>" if is_dicom(path) else Path(path).name


def public_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as JSON values with every path, and a text that names a file or folder that is there (weights, a network of
    LPIPS), reduced to its public name."""

    def shown(value: Any) -> Any:
        if isinstance(value, Path):
            return public_name(value)
        if isinstance(value, dict):
            return {str(k): shown(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [shown(v) for v in value]
        if isinstance(value, str) and "/" in value and os.path.exists(value):  # Path.exists raises for long texts
            return public_name(Path(value))
        return value

    public = {key: shown(value) for key, value in config.items()}
    if isinstance(weights := config.get("weights"), str) and Path(weights).is_dir():
        public["weights"] = f"<folder>/{Path(weights).name}"
    return public


def public_command(argv: list[str]) -> str:
    """The command line with every argument that is a path (also in `--flag=path`) reduced to its public name."""

    def shown(before: str, word: str) -> str:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if "--prompt" in (before, flag) and not os.path.exists(value):
            return word  # words may hold a slash
        path = Path(value)
        dicom = path.suffix.lower() in DICOM_SUFFIXES  # its name is hidden also where no such file is
        if value and (len(path.parts) > 1 or path.is_absolute() or path.exists() or dicom):
            value = public_name(path)
        return flag + equals + value

    return " ".join(json.dumps(w) if " " in w else w for w in map(shown, ["", *argv], argv))


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of Python, the core's main dependencies and `packages`; absent ones are left out."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: there for name in (*packages, *NAMED) if (there := _installed(name))}


@cache  # parsing a package's metadata takes milliseconds, and every picture that is written asks
def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def input_digests(inputs: dict[str, Path]) -> dict[str, str]:
    """role -> sha256 of the file's bytes."""
    return {role: sha256(path) for role, path in inputs.items()}


def folder_digest(
    folder: Path,
    suffixes: tuple[str, ...] = (".safetensors", ".json", ".txt"),
    only: tuple[str, ...] = ("*",),
) -> str:
    """One sha256 over the names and bytes of all weights and configurations below `folder`, in name order.

    Args:
        only: patterns (of `fnmatch`, on the path below `folder`); files that fit none do not count.
    """
    total = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.suffix in suffixes):
        name = path.relative_to(folder).as_posix()
        if any(fnmatchcase(name, pattern) for pattern in only):
            total.update(name.encode() + b"\0" + bytes.fromhex(sha256(path)))
    return total.hexdigest()


def stamp(method: str, seed: int, weights: dict[str, str], inputs: dict[str, str]) -> dict[str, Any]:
    """What is written into every picture file: small, without names."""
    return {
        "schema": SCHEMA, "synthetic": True, "notice": NOTICE, "software": "Graft", "method": method,
        "version": versions(f"graft-{method}").get(f"graft-{method}", ""), "seed": seed, "weights": weights, "inputs": inputs,
    }  # fmt: skip
