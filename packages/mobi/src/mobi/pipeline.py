"""The method as one call: picture, sweep, calibration, box and reference -> edited picture and sweep. Commands and Python
meet here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.provenance import stamp
from graft_common.rangeview import Box3d, Sensor
from graft_common.raster import write_png
from mobi.box_text import FORM, parse_numbers, to_box
from mobi.composite import composite_image, composite_sweep
from mobi.config import (
    CompositeConfig,
    InsertConfig,
    RemoveConfig,
    ReplaceConfig,
    RotateConfig,
    SceneConfig,
)
from mobi.inputs import SENSORS, CalibSource, ImageSource, SweepSource, pick_sensor, read_reference, read_scene
from mobi.judge import judge, standing
from mobi.panels import views_panel
from mobi.place import check_box, crops, place
from mobi.records import Crops, Edit, Painted, Placed, Scene
from mobi.write import describe, write_edit

Reference = UInt8[np.ndarray, "_ _ 3"] | None
BoxSource = str | Sequence[Any] | Box3d  # `_box` checks what is in it


@runtime_checkable
class Painter(Protocol):
    """What paints: the network with its settings, or a stand-in. `size` is the side of the crops it takes, `weights` their
    name and digest for the record."""

    @property
    def size(self) -> int: ...

    @property
    def weights(self) -> dict[str, str]: ...

    def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted: ...


def insert(
    image: ImageSource, sweep: SweepSource, calib: CalibSource, box: BoxSource, reference: ImageSource, **settings: Any
) -> Edit:
    """Put the object of a reference picture into a free box.

    Args:
        image: file, or (H, W) or (H, W, 3) uint8 or uint16.
        sweep: file of float32 rows, or (N, >= 4) float32: x, y, z (m), intensity (0..255), ring.
        calib: JSON file or mapping with "K" and "lidar_to_camera".
        box: X,Y,Z,L,W,H,YAW as text or numbers, lidar frame; or a `Box3d`.
        reference: file or array of the object, cropped tightly.
        settings: any field of `CompositeConfig` (weights, seed, steps, z_test, ...), `sensor` (name or `Sensor`),
            `sweep_columns`, `rows`, or `painter`, a loaded network to use again.

    Raises:
        InputError: anything wrong with files, shapes or settings (a ValueError of one line that names the cure).
        TypeError: an unknown setting.
    """
    return _call("insert", image, sweep, calib, box, reference, settings)


def replace(
    image: ImageSource, sweep: SweepSource, calib: CalibSource, box: BoxSource, reference: ImageSource, **settings: Any
) -> Edit:
    """As `insert`, in place of the object that is in the box."""
    return _call("replace", image, sweep, calib, box, reference, settings)


def remove(image: ImageSource, sweep: SweepSource, calib: CalibSource, box: BoxSource, **settings: Any) -> Edit:
    """Remove the object in the box; arguments as `insert`."""
    return _call("remove", image, sweep, calib, box, None, settings)


def _call(
    task: str, image: ImageSource, sweep: SweepSource, calib: CalibSource, box: BoxSource, reference: ImageSource | None,
    settings: dict[str, Any],
) -> Edit:  # fmt: skip
    extra = {name: settings.pop(name) for name in ("painter", "sensor", "sweep_columns", "rows") if name in settings}
    known = {f.name for f in fields(CompositeConfig)}
    if unknown := sorted(set(settings) - known):
        raise TypeError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known | set(extra)))}")
    config = CompositeConfig(**settings)
    config.check()
    scene = read_scene(
        image, sweep, calib, sensor=_sensor(extra.get("sensor", "nuscenes")), columns=extra.get("sweep_columns", 5),
        rows=extra.get("rows", "angle"),
    )  # fmt: skip
    where = _box(box)
    check_box(scene, where)
    picture = None if reference is None else read_reference(reference)
    painter = extra.get("painter") or load_painter(config)
    return edit_scene(task, [place(scene, where, painter.size)], [picture], [config.seed], painter, config)[0]


def _box(box: BoxSource) -> Box3d:
    if isinstance(box, Box3d):
        return box
    if isinstance(box, str):
        return to_box(parse_numbers(box))
    try:
        numbers = [float(v) for v in box]
    except (TypeError, ValueError):
        raise InputError(f"box {box!r}: must be seven numbers {FORM}") from None
    return to_box(numbers)


def _sensor(sensor: Any) -> Sensor:
    if isinstance(sensor, Sensor):
        return sensor
    if not isinstance(sensor, str) or sensor not in SENSORS:
        raise InputError(f"sensor {sensor!r}: is none of {', '.join(SENSORS)}; give one of them, or a `Sensor`")
    return SENSORS[sensor]


def load_painter(config: CompositeConfig, quiet: bool = True) -> Painter:
    """The network of --weights with these settings; unless `quiet`, a bar on stderr counts its steps.

    Raises:
        InputError: there are no such weights, or they do not know the settings' separate scales.
    """
    from mobi.bundle import load_mobi
    from mobi.denoise import check_scales, inpaint

    mobi = load_mobi(config)
    check_scales(mobi, config)  # now, while nothing is written

    def paint(crops: Crops, seeds: Sequence[int]) -> Painted:
        with progress("steps", config.steps, quiet=quiet) as advance:
            return inpaint(mobi, crops, seeds, config, advance)

    return _Network(mobi.size, mobi.weights(), paint)


@dataclass(frozen=True)
class _Network:
    """A `Painter` of the loaded network."""

    size: int
    weights: dict[str, str]
    paint: Callable[[Crops, Sequence[int]], Painted]

    def __call__(self, crops: Crops, seeds: Sequence[int]) -> Painted:
        return self.paint(crops, seeds)


def loaded_painter(config: CompositeConfig, sensor: Sensor, record: Run, quiet: bool) -> Painter:
    """`load_painter` as a stage of the run, noted in its record.

    Raises:
        InputError: `load_painter`'s; the sensor's rows do not divide the side of the network's crops.
    """
    with record.stage("load"):
        painter = load_painter(config, quiet)
    record.weights = painter.weights
    if painter.size % sensor.rows:
        raise InputError(
            f"--weights {config.weights}: work on crops of {painter.size} px, which the {sensor.rows} rows of sensor "
            f"{sensor.name} do not divide; give larger weights, or a sensor with fewer rows (32, 64, 128)"
        )
    return painter


def edit_scene(
    task: str | Sequence[str], placed: Sequence[Placed], references: Sequence[Reference], seeds: Sequence[int],
    painter: Painter, config: CompositeConfig, record: Run | None = None,
) -> list[Edit]:  # fmt: skip
    """Boxes in one batch through the network, each put back into its own scene; `task` is that of all, or one for each."""
    record = record or Run([], config)
    tasks = [task] * len(placed) if isinstance(task, str) else task
    with record.stage("place"):
        batch = crops(placed, references)
    with record.stage("paint"):
        painted = painter(batch, seeds)
    with record.stage("composite"):
        return [
            finish(task, p, camera, lidar, seed, config)
            for task, p, camera, lidar, seed in zip(tasks, placed, painted.camera, painted.lidar, seeds, strict=True)
        ]


def finish(
    task: str, placed: Placed, camera: Float[Tensor, "3 D D"], lidar: Float[Tensor, "2 D D"], seed: int,
    config: CompositeConfig,
) -> Edit:  # fmt: skip
    """One painting put back and judged."""
    image = composite_image(placed, camera, config.blur, config.z_test)
    sweep = composite_sweep(placed, lidar, config.z_test, config.pool)
    return Edit(task, placed, image, sweep, seed, *judge(task, placed, image, sweep))


def run_insert(config: InsertConfig, command: list[str]) -> dict[str, Any]:
    """The verb `insert`: read, paint, write; returns the run record."""
    return _run("insert", config, config.reference, config.out, command)


def run_replace(config: ReplaceConfig, command: list[str]) -> dict[str, Any]:
    """The verb `replace`."""
    return _run("replace", config, config.reference, config.out, command)


def run_remove(config: RemoveConfig, command: list[str]) -> dict[str, Any]:
    """The verb `remove`."""
    return _run("remove", config, None, config.out, command)


def _read(
    config: SceneConfig, reference: Path | None, record: Run
) -> tuple[Scene, Box3d, Reference]:
    """Everything that can be wrong with the input is said here, before the network is loaded."""
    with record.stage("read"):
        scene = read_scene(
            config.image, config.sweep, config.calib, columns=config.sweep_columns, rows=config.rows,
            sensor=pick_sensor(config.sensor, config.sensor_file, config.sensor_columns),
        )  # fmt: skip
        box = to_box(parse_numbers(config.box))
        check_box(scene, box, f"--box {config.box}")
        picture = None if reference is None else read_reference(reference)
        files = {"image": config.image, "sweep": config.sweep, "calib": config.calib, "sensor": config.sensor_file}
        for role, path in {**files, "reference": reference}.items():
            if path is not None:
                record.read(role, path)
    return scene, box, picture


def _run(task: str, config: SceneConfig, reference: Path | None, out: Path, command: list[str]) -> dict[str, Any]:
    config.check()
    out = checked_out(out)
    record = Run(command, config, "graft-mobi")
    scene, box, picture = _read(config, reference, record)
    painter = loaded_painter(config, scene.sensor, record, config.json)
    placed = place(scene, box, painter.size, f"--box {config.box}")
    edit = edit_scene(task, [placed], [picture], [config.seed], painter, config, record)[0]
    with record.stage("write"):
        record.outputs += write_edit(edit, out, stamp("mobi", config.seed, record.weights, record.digests))
    record.measures = _measures(edit)
    return record.write(out)


def _measures(edit: Edit) -> dict[str, Any]:
    scene, said = edit.placed.scene, describe(edit)
    return {
        **scene.counts, **{name: said[name] for name in ("n_kept", "n_removed", "n_new", "flags", "warnings")},
        **edit.measures, "n_clamped_to_edge_rows": int(edit.placed.view.n_clamped), "notes": list(scene.notes),
        "size": edit.placed.size,
    }  # fmt: skip


def run_rotate(config: RotateConfig, command: list[str]) -> dict[str, Any]:
    """The verb `rotate`: the box at every heading, the same noise for each; returns the run record.

    A view whose box holds no return above the ground is an insertion and judged as one, any other a replacement.
    """
    config.check()
    out = checked_out(config.out)
    record = Run(command, config, "graft-mobi")
    scene, box, picture = _read(config, config.reference, record)
    angles = list(range(0, 360, config.step))
    turned = [box.turned(np.radians(angle)) for angle in angles]
    for angle, one in zip(angles, turned, strict=True):
        check_box(scene, one, f"--box {config.box} turned by {angle} degrees")
    painter = loaded_painter(config, scene.sensor, record, config.json)
    note = stamp("mobi", config.seed, record.weights, record.digests)
    edits: list[Edit] = []
    for first in range(0, len(angles), config.batch_size):
        placed = [place(scene, one, painter.size) for one in turned[first : first + config.batch_size]]
        n = len(placed)
        tasks = ["replace" if standing(p, p.scene.points) else "insert" for p in placed]
        edits += edit_scene(tasks, placed, [picture] * n, [config.seed] * n, painter, config, record)
    with record.stage("write"):
        for angle, edit in zip(angles, edits, strict=True):
            name = f"view_{angle:03d}"
            record.outputs += [f"{name}/{file}" for file in write_edit(edit, out / name, note)]
        write_png(out / "panel.png", views_panel(edits, [f"{angle} degrees" for angle in angles]), note)
    record.outputs.append("panel.png")
    record.measures = {"views": [{"degrees": a, **_measures(e)} for a, e in zip(angles, edits, strict=True)]}
    return record.write(out)
