"""Edit -> files, each written beside and renamed; picture, mask and panel say inside that they are synthetic."""

from pathlib import Path
from typing import Any

import numpy as np

from graft_common import raster
from graft_common.console import write_json
from graft_common.files import write_bytes
from graft_common.raster import write_png
from mobi.box_text import from_box
from mobi.panels import edit_panel
from mobi.records import Edit


def write_edit(edit: Edit, folder: Path, note: dict[str, Any]) -> list[str]:
    """Write image.png, mask.png, sweep.pcd.bin, panel.png and edit.json; returns their names.

    The picture keeps the source's depth and channels; the sweep its row length.
    """
    own = {**note, "seed": edit.seed, "synthetic": True}
    icc = edit.placed.scene.picture.source.carried
    write_bytes(folder / "image.png", raster.encode(edit.image.stored, "png", own, icc if isinstance(icc, bytes) else None))
    write_png(folder / "mask.png", edit.placed.hole.astype(np.uint8) * np.uint8(255), own)
    write_bytes(folder / "sweep.pcd.bin", edit.sweep.points.astype("<f4").tobytes())
    write_png(folder / "panel.png", edit_panel(edit), own)
    write_json(folder / "edit.json", describe(edit) | {"provenance": own})
    return ["image.png", "mask.png", "sweep.pcd.bin", "panel.png", "edit.json"]


def describe(edit: Edit) -> dict[str, Any]:
    """The content of edit.json but for its provenance: JSON values."""
    placed, sweep = edit.placed, edit.sweep
    return {
        "synthetic": True,
        "task": edit.task,
        "seed": edit.seed,
        "n_kept": int(sweep.kept.sum()),
        "n_removed": int((~sweep.kept).sum()),
        "n_new": sweep.n_new,
        "box": from_box(placed.box),
        "camera_box": list(placed.rectangle),
        "camera_crop": [placed.camera_crop.left, placed.camera_crop.top, placed.camera_crop.width, placed.camera_crop.height],
        "range_crop": [placed.range_crop.left, placed.range_crop.width],
        "points_in_box": edit.measures["points_in_box_before"],
        "replaced_pixels": np.argwhere(sweep.replaced).tolist(),
        "measures": edit.measures,
        "flags": list(edit.flags),
        "warnings": list(edit.warnings),
    }
