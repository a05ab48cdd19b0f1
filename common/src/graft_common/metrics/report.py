"""metrics.json as every method writes it, and metric names that say whose network gave the number."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from graft_common.errors import InputError
from graft_common.metrics.intervals import bootstrap
from graft_common.metrics.perceptual import kind_of


def name(metric: str, backbone: str) -> str:
    """The metric's name with its network: ("lpips", "tiny") -> "lpips_tiny", and
    ("clip_text", "openai/clip-vit-base-patch32") -> "clip_text_vit_base_patch32": CLIP's path or hub id gives its last
    part, LPIPS' file says which network it holds.

    Raises:
        InputError: a LPIPS network that is neither tiny nor a file that says which it is, or a folder whose name would
            pass for tiny.
    """
    if metric == "lpips":
        return f"{metric}_{kind_of(backbone)}"
    if backbone == "tiny":
        return f"{metric}_tiny"
    last = re.sub(r"[^a-z0-9]+", "_", PurePath(backbone).name.lower()).strip("_").removeprefix("clip_")
    if last in ("", "tiny"):
        raise InputError(f"--clip {backbone}: its last part would pass for the tiny judges; rename the folder")
    return f"{metric}_{last}"


def metrics_json(
    method: str,
    task: str,
    values: Mapping[str, Any],
    backbones: Mapping[str, str],
    extra: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of metrics.json: `{"schema": 1, "method", "task", "n", "metrics": {name: {"mean", "ci95", "n"}},
    "backbones"}`, and what `extra` adds.

    Args:
        method: package that made the outputs, e.g. "tficomp".
        task: what was done, e.g. "demo" or "compose".
        values: metric -> (k,) one number per item, or a summary already made by `bootstrap`, `paired_difference` or
            `proportion`, which is kept.
        backbones: role -> network, e.g. {"perceptual": "tiny"}.
        extra: further keys of the top level.
        seed: of the bootstrap.

    Raises:
        ValueError: as `bootstrap`, naming the metric; or `extra` would overwrite a key.
    """
    metrics = {}
    for key, column in values.items():
        try:
            metrics[key] = dict(column) if isinstance(column, Mapping) else bootstrap(column, seed)
        except ValueError as why:
            raise ValueError(f"metric {key}: {why}") from why
    n = max((int(m["n"]) for m in metrics.values()), default=0)
    out = {"schema": 1, "method": method, "task": task, "n": n, "metrics": metrics, "backbones": dict(backbones)}
    if taken := out.keys() & (extra or {}).keys():
        raise ValueError(f"extra would overwrite {', '.join(sorted(taken))}; choose other keys")
    return out | dict(extra or {})
