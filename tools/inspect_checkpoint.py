"""What is in a file of weights: the configuration in its header, and every tensor's type and shape. Loads no torch.

    python tools/inspect_checkpoint.py FILE_OR_BUNDLE_FOLDER [--json]

A folder is searched for safetensors files; a config.json beside one is shown with it.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from safetensors import SafetensorError, safe_open

from graft_common.errors import InputError
from graft_common.files import one_line, read_bytes, typed


@dataclass(frozen=True)
class Options:
    """Print what a safetensors file or a folder of them holds."""

    path: tyro.conf.Positional[Path]
    """A .safetensors file, or a folder such as a bundle."""
    json: bool = False
    """One JSON line instead of a table."""


def inspect(path: Path) -> dict[str, Any]:
    """`{"file", "bytes", "numbers", "config", "metadata", "tensors": {name: [dtype, shape]}}` of one file.

    `config` is the header's as Graft writes it, else the config.json beside the file, else None.

    Raises:
        InputError: missing or damaged.
    """
    size = len(read_bytes(path))
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            tensors = {name: [part.get_dtype(), list(part.get_shape())] for name, part in slices.items()}
        config = json.loads(metadata.pop("graft"))["config"] if "graft" in metadata else None
        beside = path.with_name("config.json")
        if config is None and beside.is_file():
            config = json.loads(read_bytes(beside))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as why:
        raise InputError(f"{typed(path)}: cannot be read as safetensors ({one_line(why)}); copy it again") from why
    numbers = sum(math.prod(shape) for _, shape in tensors.values())
    return {
        "file": path.as_posix(), "bytes": size, "numbers": numbers, "config": config, "metadata": metadata,
        "tensors": tensors,
    }  # fmt: skip


def found(path: Path) -> list[Path]:
    """The file itself, or every safetensors file below a folder; InputError where there is none."""
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.safetensors"))
    if not files:
        raise InputError(f"{typed(path)}: holds no .safetensors file; give a bundle's folder or one file")
    return files


def table(one: dict[str, Any]) -> str:
    """One file for people."""
    lines = [f"{one['file']}: {len(one['tensors'])} tensors, {one['numbers']:,} numbers, {one['bytes']:,} bytes"]
    lines += [f"  {key}: {json.dumps(value)}" for key, value in (one["config"] or {}).items()]
    width = max((len(name) for name in one["tensors"]), default=0)
    lines += [f"    {name:<{width}}  {dtype:<5} {shape}" for name, (dtype, shape) in one["tensors"].items()]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print what is there; 2 when it cannot be read."""
    options = tyro.cli(Options, args=argv, prog="inspect_checkpoint")
    try:
        files = [inspect(path) for path in found(options.path)]
    except InputError as why:
        print(f"inspect_checkpoint: {why}", file=sys.stderr)
        return 2
    print(json.dumps(files) if options.json else "\n\n".join(map(table, files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
