"""The list of samples: JSON or CSV rows with explicit paths, or a folder in TF-ICON's layout."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft_common.console import write_json
from graft_common.errors import InputError
from graft_common.files import read_bytes, typed
from tficomp.inputs import Sources

PATHS = ("background", "object", "object_mask")
COLUMNS = (*PATHS, "prompt")
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".nii", ".gz")


@dataclass(frozen=True)
class Row:
    """One sample: the name of its result folder, and what it is made of."""

    key: str
    sources: Sources


def read_manifest(path: Path) -> list[Row]:
    """Read a manifest; relative paths count from its folder, and none may lead out of it.

    A JSON list of objects, or a CSV, with background, object, object_mask, prompt and optionally id, user_mask, seed. Several
    lesions are lists in JSON and are joined by `|` in CSV. A folder is read in TF-ICON's layout.

    Raises:
        InputError: unreadable, a column is missing, a key repeats, or a path leaves the folder.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path)
    text = read_bytes(path, f"manifest {typed(path)}").decode("utf-8", errors="replace")
    try:
        rows = json.loads(text) if text.lstrip().startswith(("[", "{")) else list(csv.DictReader(text.splitlines()))
    except ValueError as why:
        raise InputError(f"manifest {typed(path)}: is neither JSON nor CSV ({why}); write it with prepare") from why
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"manifest {typed(path)}: holds no list of samples; write it with prepare")
    made = [_row(path, i, row) for i, row in enumerate(rows)]
    keys = [row.key for row in made]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise InputError(f"manifest {typed(path)}: id {twice!r} stands twice; ids name result folders")
    return made


def _row(manifest: Path, index: int, row: dict[str, Any]) -> Row:
    where = f"manifest {typed(manifest)}, sample {index + 1}"
    if missing := [name for name in COLUMNS if not row.get(name)]:
        raise InputError(f"{where}: {missing[0]} is missing; each sample needs {', '.join(COLUMNS)}")
    key = str(row.get("id") or f"{index:05d}")
    if Path(key).name != key or key.startswith("."):
        raise InputError(f"{where}: id {key!r} is no plain name; it becomes a folder")

    def several(name: str) -> tuple[Path, ...]:
        value = row.get(name) or ()
        items = value.split("|") if isinstance(value, str) else list(value)
        return tuple(inside(manifest.parent, item, where) for item in items)

    try:
        seed = int(row.get("seed") or 0)
    except ValueError:
        raise InputError(f"{where}: seed {row['seed']!r} is no whole number") from None
    background = inside(manifest.parent, str(row["background"]), where)
    fit = str(row.get("fit_mask", "")).lower() in ("1", "true", "yes")
    sources = Sources(
        background, several("object"), several("object_mask"), several("user_mask"), str(row["prompt"]),
        key=key, seed=seed, fit_mask=fit,
    )  # fmt: skip
    return Row(key, sources)


def inside(root: Path, name: str, where: str) -> Path:
    """`root / name`, refused when it leads out of `root`."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{where}: {typed(name)} leads out of {typed(root)}; keep files beside the manifest")
    return path


def read_folder(root: Path) -> list[Row]:
    """TF-ICON's layout: `<prompt>/bgNN.png, fgNN.*, fgNN_mask.png, mask_bg_fg.*`, one sample a folder.

    Masks there often have another size than their image: they are resized where the aspects agree (`fit_mask`).
    """
    rows: list[Row] = []
    for folder in sorted(p for p in (root, *root.rglob("*")) if p.is_dir()):
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
        one = {
            "background": [p for p in files if p.name.lower().startswith("bg")],
            "object_mask": [p for p in files if p.name.lower().startswith("fg") and "_mask" in p.stem.lower()],
            "user_mask": [p for p in files if p.stem.lower() == "mask_bg_fg"],
        }
        one["object"] = [p for p in files if p.name.lower().startswith("fg") and p not in one["object_mask"]]
        if not one["background"]:
            continue
        if wrong := [name for name, found in one.items() if len(found) != 1]:
            raise InputError(
                f"{typed(folder)}: needs one {wrong[0]} of TF-ICON's layout (bgNN, fgNN, fgNN_mask, mask_bg_fg), "
                f"found {len(one[wrong[0]])}"
            )
        key = f"{len(rows):04d}_{''.join(c if c.isalnum() else '_' for c in folder.name)[:60]}"
        user = (one["user_mask"][0],)
        sources = Sources(
            one["background"][0],
            (one["object"][0],),
            (one["object_mask"][0],),
            user,
            folder.name,
            key=key,
            fit_mask=True,
        )
        rows.append(Row(key, sources))
    if not rows:
        raise InputError(f"{typed(root)}: holds no sample folder (bgNN, fgNN, fgNN_mask, mask_bg_fg); give a manifest")
    return rows


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows (paths relative to the manifest's folder) as JSON in one step."""
    write_json(path, rows)
