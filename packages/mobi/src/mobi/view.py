"""The verb `view`: a scene, or an edit of it, as one picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from graft_common.console import Run, checked_out
from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from graft_common.provenance import stamp
from graft_common.raster import write_png
from mobi.box_text import parse_numbers, to_box
from mobi.config import ViewConfig
from mobi.inputs import pick_sensor, read_scene
from mobi.panels import pair_panel, scene_panel


def run_view(config: ViewConfig, command: list[str]) -> dict[str, Any]:
    """The verb `view`; returns the run record.

    Raises:
        InputError: as the edits' reading does; --edit is no folder of an edit.
    """
    config.check()
    out = checked_out(config.out)
    record = Run(command, config, "graft-mobi")
    sensor = pick_sensor(config.sensor, config.sensor_file, config.sensor_columns)
    scene = read_scene(
        config.image, config.sweep, config.calib, sensor=sensor, columns=config.sweep_columns, rows=config.rows
    )
    files = {"image": config.image, "sweep": config.sweep, "calib": config.calib, "sensor": config.sensor_file}
    for role, path in files.items():
        if path is not None:
            record.read(role, path)
    box = None if config.box is None else to_box(parse_numbers(config.box))
    if config.edit is None:
        picture = scene_panel(scene, box, "scene")
    else:
        said = _edit(config.edit)
        box = to_box(said["box"]) if box is None else box
        after = read_scene(
            config.edit / "image.png", config.edit / "sweep.pcd.bin", config.calib, sensor=sensor,
            columns=config.sweep_columns, rows=config.rows,
        )  # fmt: skip
        if after.rgb.shape != scene.rgb.shape:
            raise InputError(f"{typed(config.edit)}: its picture has another size than {typed(config.image)}; give its source")
        replaced = np.zeros((sensor.rows, sensor.columns), bool)
        rows, columns = np.array(said["replaced_pixels"], int).reshape(-1, 2).T
        if len(rows) and (min(rows.min(), columns.min()) < 0 or rows.max() >= sensor.rows or columns.max() >= sensor.columns):
            raise InputError(f"{typed(config.edit)}: replaced pixels lie outside sensor {sensor.name}; give its own")
        replaced[rows, columns] = True
        picture = pair_panel(scene, box, after.rgb, after.points, int(said["n_new"]), replaced, f"{said['task']} (synthetic)")
    write_png(out / "panel.png", picture, stamp("mobi", 0, {}, record.digests))
    record.outputs = ["panel.png"]
    record.measures = dict(scene.counts)
    return record.write(out)


def _edit(folder: Path) -> dict[str, Any]:
    path = folder / "edit.json"
    data = read_bytes(path)
    with parsing(typed(path), "an edit's record"):
        said = json.loads(data)
        missing = [name for name in ("task", "box", "n_new", "replaced_pixels") if name not in said]
    if missing:
        raise InputError(f"{typed(path)}: has no {missing[0]}; give a folder that insert, replace or remove wrote")
    return dict(said)
