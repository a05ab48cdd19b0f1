"""Files and arrays -> `Scene` and reference picture, checked: whatever is wrong is said before any work."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8

from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from graft_common.picture import Picture
from graft_common.pixels import picture_from_array, read_picture
from graft_common.rangeview import (
    HDL_64E,
    NUSCENES,
    OS1_128,
    PANDAR64,
    Camera,
    Sensor,
    read_hesai,
    read_ouster,
    read_velodyne,
)
from graft_common.rangeview.project import Rows
from mobi.colour import to_rgb
from mobi.nuscenes_tables import read_sweep
from mobi.records import Scene

SENSORS = {"nuscenes": NUSCENES, "hdl-64e": HDL_64E, "os1-128": OS1_128, "pandar64": PANDAR64}
GREY = 128  # what shows through transparent parts of a reference

ANGLES_ONLY = {".xml": read_velodyne, ".yaml": read_velodyne, ".yml": read_velodyne, ".csv": read_hesai}

ImageSource = str | Path | Shaped[np.ndarray, "..."]
SweepSource = str | Path | Float[np.ndarray, "N C"]
CalibSource = str | Path | Mapping[str, Any]


def pick_sensor(name: str, file: Path | None = None, columns: int | None = None) -> Sensor:
    """The lidar that --sensor, --sensor-file and --sensor-columns stand for.

    Raises:
        InputError: the file has another ending, is not the calibration that its ending promises, or does not say how many
            columns there are where `columns` does not either.
    """
    if file is None:
        return SENSORS[name]
    where = f"--sensor-file {typed(file)}"
    kind = file.suffix.lower()
    if kind == ".json":
        try:
            return read_ouster(file, columns)
        except InputError as why:  # the reader speaks to Python callers
            raise InputError(str(why).replace("pass columns=1024", "give --sensor-columns 1024")) from None
    if kind not in ANGLES_ONLY:
        raise InputError(f"{where}: must end in .json (Ouster), .xml or .yaml (Velodyne) or .csv (Hesai)")
    if columns is None:
        raise InputError(f"{where}: does not say how many firings there are around the circle; give --sensor-columns")
    return ANGLES_ONLY[kind](file, columns)


def read_scene(
    image: ImageSource,
    sweep: SweepSource,
    calib: CalibSource,
    *,
    sensor: Sensor = NUSCENES,
    columns: int = 5,
    rows: Rows = "angle",
) -> Scene:
    """Read a destination.

    Args:
        image: file, or (H, W) or (H, W, 3) uint8 or uint16.
        sweep: file of float32 rows, or (N, >= 4): x, y, z in metres, intensity 0..255, ring.
        calib: JSON file or mapping with "K" (3 x 3, pixels) and "lidar_to_camera" (4 x 4, metres).
        columns: numbers a row of the sweep's file.
        rows: how a point finds its row of the range view.

    Raises:
        InputError: a file is missing, damaged or of another form; no row of the sweep is finite; the calibration is no
            pinhole camera with an orthonormal rotation.
    """
    picture = _picture(image)
    rgb = _rgb(picture)
    points, where = _points(sweep, columns)
    if not len(points):
        raise InputError(f"{where}: has no rows; give a complete sweep")
    finite = np.isfinite(points[:, :4]).all(axis=1)
    if not finite.any():
        raise InputError(f"{where}: no row is finite; give a sweep with returns (or the right --sweep-columns)")
    intensity = points[finite, 3]
    counts = {
        "n_points": len(points),
        "n_nan": int((~finite).sum()),
        "n_intensity_clamped": int(((intensity < 0) | (intensity > 255)).sum()),
    }
    camera = read_camera(calib, rgb.shape[1], rgb.shape[0])
    return Scene(picture, rgb, points, camera, sensor, rows, counts, picture.source.notes)


def read_camera(calib: CalibSource, width: int, height: int) -> Camera:
    """Camera of a picture of this size. Raises InputError that names the file, as `Camera` does, for anything else."""
    if isinstance(calib, Mapping):
        content, where = calib, "calib"
    else:
        where = typed(calib)
        data = read_bytes(calib)
        with parsing(where, "JSON"):
            content = json.loads(data)
    arrays = {}
    for name, shape in (("K", (3, 3)), ("lidar_to_camera", (4, 4))):
        if not isinstance(content, Mapping) or name not in content:
            raise InputError(f'{where}: has no "{name}"; give {{"K": 3x3, "lidar_to_camera": 4x4}}')
        try:
            arrays[name] = np.array(content[name], np.float64)
        except (TypeError, ValueError, OverflowError):
            arrays[name] = np.zeros(())
        if arrays[name].shape != shape:
            raise InputError(f'{where}: "{name}" must be {shape[0]}x{shape[1]} numbers; mend it')
    try:
        return Camera(arrays["K"], arrays["lidar_to_camera"], width, height)
    except InputError as why:
        raise InputError(f"{where}: {why}") from None


def read_reference(reference: ImageSource) -> UInt8[np.ndarray, "h w 3"]:
    """The object's picture as 8-bit colour; transparent parts become grey. Raises InputError for anything else."""
    if isinstance(reference, np.ndarray):
        if reference.ndim == 3 and reference.shape[2] in (2, 4) and reference.dtype == np.uint8:
            reference = _on_grey(reference)
        return _rgb(picture_from_array(reference, "reference"))
    picture = read_picture(reference, role="reference")
    _check_kind(picture, f"reference {typed(reference)}")
    alpha = _with_alpha(read_bytes(reference), f"reference {typed(reference)}")
    return _rgb(picture if alpha is None else picture_from_array(_on_grey(alpha), "reference"))


def _with_alpha(data: bytes, where: str) -> UInt8[np.ndarray, "h w 4"] | None:
    """Upright colour and alpha of a picture that is transparent somewhere; None for others."""
    from PIL import Image, ImageOps

    with parsing(where, "a picture"), Image.open(io.BytesIO(data)) as opened:
        if "A" not in opened.getbands() and "transparency" not in opened.info:
            return None
        array = np.asarray(ImageOps.exif_transpose(opened).convert("RGBA"))
    return array if (array[..., 3] < 255).any() else None


def _on_grey(array: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w *C"]:
    share = array[..., -1:] / 255.0
    flat = np.rint(array[..., :-1] * share + GREY * (1 - share)).astype(np.uint8)
    return flat[..., 0] if flat.shape[2] == 1 else flat


def _picture(image: ImageSource) -> Picture:
    if isinstance(image, np.ndarray):
        return picture_from_array(image, "image")
    picture = read_picture(image)
    _check_kind(picture, f"image {typed(image)}")
    return picture


def _check_kind(picture: Picture, where: str) -> None:
    if picture.source.kind not in ("png", "jpeg", "tiff") or picture.stored.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{where}: is {picture.source.kind} of {picture.stored.dtype}; give PNG, JPEG or TIFF of 8 or 16 bits"
        )


def _rgb(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    return to_rgb(picture.pixels)


def _points(sweep: SweepSource, columns: int) -> tuple[Float32[np.ndarray, "N C"], str]:
    if not isinstance(sweep, np.ndarray):
        return read_sweep(Path(sweep), columns), typed(sweep)
    if sweep.ndim != 2 or sweep.shape[1] < 4 or sweep.dtype != np.float32:
        raise InputError(f"sweep: is {sweep.dtype} of shape {sweep.shape}; give float32 (N, 4 or more)")
    return np.ascontiguousarray(sweep), "sweep"
