"""Calibration files of lidars -> `Sensor`: Ouster metadata JSON, Velodyne XML or YAML, Hesai correction CSV."""

import csv
import io
import json
import math
import os
import re
from typing import Any
from xml.etree import ElementTree

from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from graft_common.rangeview.sensor import FAR, NEAR, Frame, Number, Sensor, sensor_from_degrees

Path = str | os.PathLike[str]


def read_ouster(
    path: Path,
    columns: int | None = None,
    near: Number = NEAR,
    far: Number = FAR,
    frame: Frame = "forward-left-up",
) -> Sensor:
    """Sensor from Ouster metadata, old (flat) or new (nested): `beam_altitude_angles`, `beam_azimuth_angles` in degrees.

    Args:
        columns: W; by default the file's columns_per_frame, else the first number of its lidar_mode (1024x10).

    Raises:
        InputError: unreadable, not such a file, or without the number of columns.
    """
    where = typed(path)
    data = read_bytes(path)
    with parsing(where, "Ouster metadata (JSON)"):
        tree = json.loads(data)
    altitude = _numbers(_find(tree, "beam_altitude_angles"), where, "beam_altitude_angles")
    azimuth = _numbers(_find(tree, "beam_azimuth_angles"), where, "beam_azimuth_angles")
    if columns is None:
        columns = _ouster_columns(tree, where)
    return _sensor(where, altitude, azimuth, list(range(len(altitude))), columns, near, far, frame)


def read_velodyne(
    path: Path, columns: int, near: Number = NEAR, far: Number = FAR, frame: Frame = "forward-left-up"
) -> Sensor:
    """Sensor from Velodyne's db.xml (degrees; enabled lasers only) or the ROS driver's YAML (radians).

    Rings count from the lowest beam, as the ROS driver numbers them. Velodyne's rotation correction is subtracted from a
    clockwise azimuth, so its sign turns. Offsets of the lasers in metres are ignored.

    Args:
        columns: W, firings around the circle: the file does not say.

    Raises:
        InputError: unreadable or not such a file.
    """
    where = typed(path)
    data = read_bytes(path)
    if data.lstrip().startswith(b"<"):
        vertical, rotation = _velodyne_xml(data, where)
    else:
        vertical, rotation = _velodyne_yaml(data, where)
    order = sorted(range(len(vertical)), key=lambda k: vertical[k])
    ring = {laser: rank for rank, laser in enumerate(order)}
    rings = [ring[k] for k in range(len(vertical))]
    return _sensor(where, vertical, [-a for a in rotation], rings, columns, near, far, frame)


def read_hesai(
    path: Path, columns: int, near: Number = NEAR, far: Number = FAR, frame: Frame = "right-forward-up"
) -> Sensor:
    """Sensor from Hesai's angle correction CSV: columns laser id (or channel), elevation, azimuth, in degrees.

    Ring = channel - 1, as the files count from 1.

    Args:
        columns: W, firings around the circle: the file does not say.

    Raises:
        InputError: unreadable or not such a file.
    """
    where = typed(path)
    data = read_bytes(path)
    with parsing(where, "Hesai correction (CSV)"):
        lines = [[c.strip() for c in line] for line in csv.reader(io.StringIO(data.decode("utf-8-sig")))]
    head = next((k for k, line in enumerate(lines) if "elevation" in map(str.lower, line)), None)
    names = [c.lower() for c in lines[head]] if head is not None else []
    identity = next((n for n in ("laser id", "channel") if n in names), None)
    if head is None or identity is None or "azimuth" not in names:
        raise InputError(f"{where}: has no line 'Laser id,Elevation,Azimuth'; give Hesai's angle correction file")
    take = [names.index(n) for n in (identity, "elevation", "azimuth")]
    # a newer file ends with a line that holds its checksum alone
    rows = [line for line in lines[head + 1 :] if len(line) > 1]
    with parsing(where, "Hesai correction (CSV)"):
        table = [tuple(float(line[k]) for k in take) for line in rows]
    if any(channel != int(channel) for channel, _, _ in table if math.isfinite(channel)):
        raise InputError(f"{where}: a laser id is not a whole number; give Hesai's angle correction file")
    channel, elevation, azimuth = (_numbers([row[k] for row in table], where, names[take[k]]) for k in range(3))
    return _sensor(where, elevation, azimuth, [int(c) - 1 for c in channel], columns, near, far, frame)


def _sensor(
    where: str,
    elevation: list[float],
    azimuth: list[float],
    rings: list[int],
    columns: int,
    near: Number,
    far: Number,
    frame: Frame,
) -> Sensor:
    return sensor_from_degrees(
        where, elevation, azimuth, rings, columns, near, far, frame, source=f"calibration {os.path.basename(where)}"
    )


def _find(tree: Any, key: str) -> Any:
    """The value of a key anywhere in nested mappings; None without one."""
    if not isinstance(tree, dict):
        return None
    if key in tree:
        return tree[key]
    return next((found for value in tree.values() if (found := _find(value, key)) is not None), None)


def _ouster_columns(tree: Any, where: str) -> int:
    count = _find(tree, "columns_per_frame")
    mode = re.match(r"(\d+)x\d+", str(_find(tree, "lidar_mode")))
    if isinstance(count, int):
        return count
    if mode:
        return int(mode[1])
    raise InputError(f"{where}: names neither columns_per_frame nor a lidar_mode such as 1024x10; pass columns=1024")


def _numbers(values: Any, where: str, what: str) -> list[float]:
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: has no list {what}; give the sensor's own calibration file")
    if not all(isinstance(v, Number) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        raise InputError(f"{where}: {what} holds something that is not a finite number; give a complete file")
    return [float(v) for v in values]


def _velodyne_xml(data: bytes, where: str) -> tuple[list[float], list[float]]:
    """Degrees per enabled laser: vertical, rotation."""
    with parsing(where, "Velodyne calibration (XML)"):
        root = ElementTree.fromstring(data)
        enabled = [int(item.text or 0) for item in root.findall(".//enabled_/item")]
        lasers = {
            int(px.findtext("id_", "")): (
                float(px.findtext("vertCorrection_", "")),
                float(px.findtext("rotCorrection_", "")),
            )
            for px in root.findall(".//points_/item/px")
        }
    used = [lasers[k] for k in sorted(lasers) if not enabled or (k < len(enabled) and enabled[k])]
    return (
        _numbers([v for v, _ in used], where, "vertCorrection_"),
        _numbers([r for _, r in used], where, "rotCorrection_"),
    )


def _velodyne_yaml(data: bytes, where: str) -> tuple[list[float], list[float]]:
    """Degrees per laser: vertical, rotation."""
    import yaml

    with parsing(where, "Velodyne calibration (YAML)"):
        lasers = yaml.safe_load(data)["lasers"]
        lasers = sorted(lasers, key=lambda laser: laser["laser_id"])
        both = [(laser["vert_correction"], laser["rot_correction"]) for laser in lasers]
    vertical = _numbers([v for v, _ in both], where, "vert_correction")
    rotation = _numbers([r for _, r in both], where, "rot_correction")
    return [math.degrees(v) for v in vertical], [math.degrees(r) for r in rotation]
