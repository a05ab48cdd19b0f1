"""What a demo wrote, read back and checked: panel, raw outputs, metrics, run record."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from graft_bench.methods import Ran

MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}


@dataclass(frozen=True)
class Shot:
    """One picture: path relative to the demo's folder, size in pixels."""

    name: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class Result:
    """One method's share of the page.

    Attributes:
        ran: the process.
        errors: what went wrong or is missing, in words; empty when all is there.
        panel: the labelled picture of inputs and outputs.
        raw: raw outputs that a browser can show.
        files: raw outputs that it cannot (volumes, DICOM, tables).
        metrics: content of metrics.json, `{}` when absent.
        run: content of run.json, `{}` when absent.
    """

    ran: Ran
    errors: tuple[str, ...]
    panel: Shot | None
    raw: tuple[Shot, ...]
    files: tuple[str, ...]
    metrics: dict[str, Any]
    run: dict[str, Any]

    @property
    def ok(self) -> bool:
        """The demo ended well and everything it promises is there."""
        return not self.errors


def collect(ran: Ran) -> Result:
    """Read the folder of one demo; nothing here raises for what a method did wrong."""
    errors = [ran.error] if ran.error else []
    folder = ran.folder
    run = _json(folder / "run.json", errors)
    metrics = _json(folder / "metrics.json", errors)
    errors += _bad_metrics(metrics)
    panel = _shot(folder, "panel.png", errors)
    shots, files = [], []
    for name in _outputs(folder, run, errors):
        if Path(name).suffix.lower() not in MEDIA:
            files.append(name)
        elif shot := _shot(folder, name, errors):
            shots.append(shot)
    return Result(ran, tuple(dict.fromkeys(errors)), panel, tuple(shots), tuple(files), metrics, run)


def _json(path: Path, errors: list[str]) -> dict[str, Any]:
    try:
        # NaN and Infinity are no JSON; as None they are reported, and the page's own record stays valid
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        errors.append(f"wrote no {path.name}")
    except ValueError as why:
        errors.append(f"{path.name} is not JSON ({why})")
    else:
        if isinstance(content, dict):
            return content
        errors.append(f"{path.name} holds no object")
    return {}


def _bad_metrics(metrics: dict[str, Any]) -> list[str]:
    """Every metric needs a finite mean; an interval may be absent, but if given it is two finite numbers."""
    named = metrics.get("metrics", {})
    if not isinstance(named, dict):
        return ["metrics.json: `metrics` is not a table"]
    wrong = []
    for name, value in named.items():
        numbers = [value.get("mean"), *(value.get("ci95") or [])] if isinstance(value, dict) else [None]
        if len(numbers) not in (1, 3) or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers):
            wrong.append(f"metrics.json: {name} has no finite mean with its interval")
    return wrong


def _outputs(folder: Path, run: dict[str, Any], errors: list[str]) -> list[str]:
    """Raw outputs as run.json lists them; where it lists none, every picture in the folder. No records, no panel."""
    listed = [str(name) for name in run.get("outputs") or []]
    if not listed:
        found = [p for p in folder.rglob("*") if p.suffix.lower() in MEDIA] if run else []
        listed = sorted(p.relative_to(folder).as_posix() for p in found)
    kept = []
    for name in dict.fromkeys(listed):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            errors.append(f"run.json lists {name}, which lies outside the output folder")
        elif not (folder / name).is_file():
            errors.append(f"run.json lists {name}, which is not there")
        elif name not in ("panel.png", "metrics.json", "run.json", "run.log"):
            kept.append(name)
    return kept


def _shot(folder: Path, name: str, errors: list[str]) -> Shot | None:
    path = folder / name
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            picture.verify()
    except FileNotFoundError:
        errors.append(f"wrote no {name}")
    except (OSError, SyntaxError, ValueError) as why:  # what Pillow raises on damaged files
        errors.append(f"{name} is not a readable picture ({type(why).__name__})")
    else:
        return Shot(name, path, width, height)
    return None
