"""Weights as data that explains itself: safetensors with the configuration as JSON in the header. No pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from graft_common.errors import InputError
from graft_common.files import atomic_path

FORMAT = 1


def save_weights(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write `tensors` and `config` (JSON-serialisable) to `path` in one step: the old file stays until the new is complete."""
    header = {"format": "pt", "graft": json.dumps({"format": FORMAT, "config": config}, sort_keys=True)}
    with atomic_path(path) as beside:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, beside, metadata=header)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in the header of a file that `save_weights` wrote.

    Raises:
        InputError: missing or damaged file, or one without our header.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as why:
        raise InputError(f"{path}: cannot be read as safetensors ({_first_line(why)}); train or copy it again") from why
    if "graft" not in header:
        raise InputError(f"{path}: has no configuration in its header; it was not written by Graft")
    try:
        content = json.loads(header["graft"])
        found, config = content["format"], dict(content["config"])
    except (ValueError, KeyError, TypeError) as why:
        raise InputError(f"{path}: its header is damaged ({type(why).__name__}); train or copy it again") from why
    if found != FORMAT:
        raise InputError(f"{path}: is format {found} but this version reads {FORMAT}; update graft-common")
    return config


def load_weights(path: Path, renames: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """All tensors of `path` on the CPU, in their stored dtype; `renames` maps stored names to wanted ones.

    Raises:
        InputError: missing or damaged file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as why:
        raise InputError(f"{path}: cannot be read as safetensors ({_first_line(why)}); train or copy it again") from why
    return {(renames or {}).get(name, name): tensor for name, tensor in tensors.items()}


def _first_line(why: Exception) -> str:
    return (str(why).strip().splitlines() or [type(why).__name__])[0]
