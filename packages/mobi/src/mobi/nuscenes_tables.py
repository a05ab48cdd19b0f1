"""The JSON tables of a nuScenes folder, read and checked without its devkit (spec section 5).

A table is an array of rows with a unique `token`; rows name each other by token. What is wrong is said before any work:
a missing table, a dangling or doubled token, a chain that loops or breaks, a file name that leaves the folder.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float32

from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, typed
from mobi.poses import Pose, between, inverse, pose_of

Row = dict[str, Any]
TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip
VERSIONS = ("v1.0-mini", "v1.0-trainval", "v1.0-test")
POINT = 5  # float32 numbers a point in a sweep: x, y, z, intensity, ring
FREE_OF_ANNOTATIONS = ("instance", "sample_annotation")  # empty arrays in v1.0-test

# table -> field -> kind: "text", "number", "whole", "flag", "vector3", "quaternion", "size", "matrix", "tokens"
FIELDS: dict[str, dict[str, str]] = {
    "attribute": {"name": "text"},
    "calibrated_sensor": {"sensor_token": "text", "translation": "vector3", "rotation": "quaternion", "camera_intrinsic": "matrix"},
    "category": {"name": "text"},
    "ego_pose": {"translation": "vector3", "rotation": "quaternion", "timestamp": "whole"},
    "instance": {
        "category_token": "text", "nbr_annotations": "whole", "first_annotation_token": "text", "last_annotation_token": "text",
    },
    "log": {"location": "text"},
    "map": {"log_tokens": "tokens", "filename": "text"},
    "sample": {"timestamp": "whole", "scene_token": "text", "prev": "text", "next": "text"},
    "sample_annotation": {
        "sample_token": "text", "instance_token": "text", "attribute_tokens": "tokens", "visibility_token": "text",
        "translation": "vector3", "size": "size", "rotation": "quaternion", "num_lidar_pts": "whole", "num_radar_pts": "whole",
        "prev": "text", "next": "text",
    },
    "sample_data": {
        "sample_token": "text", "ego_pose_token": "text", "calibrated_sensor_token": "text", "filename": "text",
        "fileformat": "text", "width": "whole", "height": "whole", "timestamp": "whole", "is_key_frame": "flag", "prev": "text",
        "next": "text",
    },
    "scene": {
        "name": "text", "description": "text", "log_token": "text", "nbr_samples": "whole", "first_sample_token": "text",
        "last_sample_token": "text",
    },
    "sensor": {"channel": "text", "modality": "text"},
    "visibility": {"level": "text"},
}  # fmt: skip
# (table, field) -> table it names; "" is allowed where marked
LINKS: dict[tuple[str, str], tuple[str, bool]] = {
    ("calibrated_sensor", "sensor_token"): ("sensor", False),
    ("instance", "category_token"): ("category", False),
    ("instance", "first_annotation_token"): ("sample_annotation", False),
    ("instance", "last_annotation_token"): ("sample_annotation", False),
    ("map", "log_tokens"): ("log", False),
    ("sample", "scene_token"): ("scene", False),
    ("sample_annotation", "sample_token"): ("sample", False),
    ("sample_annotation", "instance_token"): ("instance", False),
    ("sample_annotation", "attribute_tokens"): ("attribute", False),
    ("sample_annotation", "visibility_token"): ("visibility", True),
    ("sample_data", "sample_token"): ("sample", False),
    ("sample_data", "ego_pose_token"): ("ego_pose", False),
    ("sample_data", "calibrated_sensor_token"): ("calibrated_sensor", False),
    ("scene", "log_token"): ("log", False),
    ("scene", "first_sample_token"): ("sample", False),
    ("scene", "last_sample_token"): ("sample", False),
}
CHAINS = ("sample", "sample_annotation", "sample_data")


@dataclass(frozen=True)
class Tables:
    """All tables of one version.

    Attributes:
        root: the data set's folder.
        version: name of the folder of tables below it.
        rows: table -> token -> row, in the order of the file.
        text: table -> the file's bytes, for writers that keep every other byte.
    """

    root: Path
    version: str
    rows: Mapping[str, Mapping[str, Row]]
    text: Mapping[str, bytes] = field(repr=False)

    def get(self, table: str, token: str) -> Row:
        """One row. Raises InputError where the table has no such token."""
        try:
            return self.rows[table][token]
        except KeyError:
            raise InputError(f"{token}: no such token in {table}.json of {typed(self.root)}; check the token") from None

    def channel(self, data: Row) -> str:
        """The sensor of a row of sample_data, e.g. CAM_FRONT."""
        sensor = self.rows["calibrated_sensor"][data["calibrated_sensor_token"]]["sensor_token"]
        return str(self.rows["sensor"][sensor]["channel"])

    @cached_property
    def _key_frames(self) -> dict[str, dict[str, Row]]:
        found: dict[str, dict[str, Row]] = {token: {} for token in self.rows["sample"]}
        for row in self.rows["sample_data"].values():
            if row["is_key_frame"]:
                channel = self.channel(row)
                if channel in found[row["sample_token"]]:
                    other = found[row["sample_token"]][channel]["token"]
                    raise InputError(
                        f"{self._where('sample_data')}: {row['token']} and {other} are both the key frame of {channel} in sample "
                        f"{row['sample_token']}; mark one of them"
                    )
                found[row["sample_token"]][channel] = row
        return found

    @cached_property
    def _boxes(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {token: [] for token in self.rows["sample"]}
        for row in self.rows["sample_annotation"].values():
            found[row["sample_token"]].append(row)
        return found

    def _where(self, table: str) -> str:
        return typed(self.root / self.version / f"{table}.json")

    def samples(self, scene: str) -> list[Row]:
        """A scene's samples in order of time."""
        row, out = self.get("scene", scene), []
        token = row["first_sample_token"]
        while token:
            out.append(self.rows["sample"][token])
            token = out[-1]["next"]
        return out

    def data(self, sample: str) -> Mapping[str, Row]:
        """Channel -> key frame (row of sample_data) of a sample."""
        self.get("sample", sample)
        return self._key_frames[sample]

    def annotations(self, sample: str) -> list[Row]:
        """The boxes of a sample, in the order of the table."""
        self.get("sample", sample)
        return self._boxes[sample]

    def track(self, instance: str) -> list[Row]:
        """The boxes of an instance in order of time."""
        token, out = self.get("instance", instance)["first_annotation_token"], []
        while token:
            out.append(self.rows["sample_annotation"][token])
            token = out[-1]["next"]
        return out

    def category(self, annotation: Row) -> str:
        """Full category name of a box, e.g. vehicle.car."""
        return str(self.rows["category"][self.rows["instance"][annotation["instance_token"]]["category_token"]]["name"])

    def flags(self, sample: str) -> tuple[bool, bool]:
        """(rain, night) of a sample, from the scene's description."""
        words = self.rows["scene"][self.get("sample", sample)["scene_token"]]["description"].lower()
        return "rain" in words, "night" in words

    def city(self, sample: str) -> str:
        """The log's location before the first hyphen."""
        scene = self.rows["scene"][self.get("sample", sample)["scene_token"]]
        return str(self.rows["log"][scene["log_token"]]["location"]).split("-")[0]

    def sensor_pose(self, data: Row) -> Pose:
        """Sensor -> ego of a row of sample_data."""
        return pose_of(self.rows["calibrated_sensor"][data["calibrated_sensor_token"]])

    def ego_pose(self, data: Row) -> Pose:
        """Ego -> global at the stamp of a row of sample_data."""
        return pose_of(self.rows["ego_pose"][data["ego_pose_token"]])

    def intrinsics(self, camera: Row) -> np.ndarray:
        """K (3, 3) of a camera's row of sample_data. Raises InputError where the sensor has none."""
        K = self.rows["calibrated_sensor"][camera["calibrated_sensor_token"]]["camera_intrinsic"]
        if not K:
            raise InputError(
                f"{camera['filename']}: its sensor {self.channel(camera)} has no camera_intrinsic; give a camera"
            )
        return np.array(K, np.float64)

    def lidar_to_camera(self, lidar: Row, camera: Row) -> Pose:
        """Lidar frame at its stamp -> camera frame at its own, through both ego poses."""
        return between(self.sensor_pose(lidar), self.ego_pose(lidar), self.sensor_pose(camera), self.ego_pose(camera))

    def global_to_sensor(self, data: Row) -> Pose:
        """Global -> the sensor's frame at its stamp."""
        return inverse(self.ego_pose(data) @ self.sensor_pose(data))

    def path(self, data: Row) -> Path:
        """Where the file of a row of sample_data (or map) lies."""
        return self.root / data["filename"]

    def sweeps_between(self, first: Row, last: Row) -> list[Row]:
        """Rows of sample_data of one sensor strictly between two of them, following `next`."""
        out: list[Row] = []
        token = first["next"]
        while token and token != last["token"]:
            out.append(self.rows["sample_data"][token])
            token = out[-1]["next"]
        return out


def token(*parts: object) -> str:
    """A token of 32 hexadecimal digits for these words."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def find_version(root: Path) -> str:
    """The one version that a folder holds. Raises InputError for none or several."""
    if not Path(root).is_dir():
        raise InputError(f"{typed(root)}: no such folder; give the folder that holds v1.0-mini or v1.0-trainval")
    found = [v for v in VERSIONS if (Path(root) / v).is_dir()]
    if not found:
        raise InputError(f"{typed(root)}: holds none of {', '.join(VERSIONS)}; give the folder above the tables")
    if len(found) > 1:
        raise InputError(f"{typed(root)}: holds {' and '.join(found)}; say which with --version")
    return found[0]


def read_tables(root: Path, version: str | None = None) -> Tables:
    """Read and check all tables.

    Args:
        root: the data set's folder.
        version: folder of tables below it; default the only one there is.

    Raises:
        InputError: a table is missing or no array of rows; a token is doubled, dangling or not text; a value has the wrong
            type; a chain loops, forks or breaks; a file name is absolute or leaves the folder; a count disagrees.
    """
    root = Path(root)
    version = find_version(root) if version is None else version
    if PurePosixPath(version).name != version or version in (".", ".."):
        raise InputError(f"--version {version}: must be a folder's name such as v1.0-mini")
    if not (root / version).is_dir():
        raise InputError(f"{typed(root / version)}: no such folder; give the folder that holds it")
    text = {table: read_bytes(root / version / f"{table}.json") for table in TABLES}
    rows = {table: _table(root / version / f"{table}.json", table, text[table]) for table in TABLES}
    tables = Tables(root, version, rows, text)
    _check_links(tables)
    for table in CHAINS:
        _check_chain(tables, table)
    _check_counts(tables)
    return tables


def _table(path: Path, table: str, data: bytes) -> dict[str, Row]:
    where = typed(path)
    with parsing(where, "JSON"):
        content = json.loads(data)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise InputError(f"{where}: is no array of rows; give the table as nuScenes writes it")
    if not content and table not in FREE_OF_ANNOTATIONS and table != "attribute":
        raise InputError(f"{where}: has no rows; give a complete data set")
    out: dict[str, Row] = {}
    for number, row in enumerate(content):
        token = row.get("token")
        if not isinstance(token, str) or not token:
            raise InputError(f"{where}: row {number} has no token; give the table as nuScenes writes it")
        if token in out:
            raise InputError(f"{where}: token {token} stands twice; remove one of the rows")
        for name, kind in FIELDS[table].items():
            if name not in row:
                raise InputError(f"{where}: row {token} has no {name}; give the table as nuScenes writes it")
            if not _fits(kind, row[name]):
                raise InputError(
                    f"{where}: row {token}: {name} is {_short(row[name])} but must be {WORDS[kind]}; mend it"
                )
        if table in ("sample_data", "map"):
            _check_name(where, token, row["filename"])
        out[token] = row
    return out


WORDS = {
    "text": "text", "whole": "a whole number", "flag": "true or false", "vector3": "three finite numbers",
    "quaternion": "a unit quaternion [w, x, y, z]", "size": "three numbers above 0 (width, length, height)",
    "matrix": "a 3 x 3 matrix with a positive focal length, or []", "tokens": "a list of tokens",
}  # fmt: skip


def _fits(kind: str, value: Any) -> bool:
    match kind:
        case "text":
            return isinstance(value, str)
        case "whole":
            return (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and math.isfinite(value)
                and value == int(value)
            )
        case "flag":
            return isinstance(value, bool)
        case "tokens":
            return isinstance(value, list) and all(isinstance(v, str) for v in value)
        case "vector3":
            return _numbers(value, 3)
        case "size":
            return _numbers(value, 3) and min(value) > 0
        case "quaternion":
            return _numbers(value, 4) and abs(math.hypot(*value) - 1) < 1e-3
        case _:
            square = isinstance(value, list) and len(value) == 3 and all(_numbers(v, 3) for v in value)
            return value == [] or (square and value[0][0] > 0 and value[1][1] > 0)


def _numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list) and len(value) == count
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value)
    )  # fmt: skip


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_name(where: str, token: str, name: str) -> None:
    """Lexically: a folder inside the root may be a link to another disk, that is the user's own arrangement."""
    path = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or path.is_absolute() or ".." in path.parts or name.endswith("/"):
        raise InputError(f"{where}: row {token}: filename {name!a} leaves the data set; use a path inside it")


def _named(row: Row, name: str) -> Iterator[str]:
    yield from row[name] if isinstance(row[name], list) else (row[name],)


def _check_links(tables: Tables) -> None:
    for (table, name), (other, may_be_empty) in LINKS.items():
        known = tables.rows[other]
        for token, row in tables.rows[table].items():
            for target in _named(row, name):
                if target not in known and not (may_be_empty and not target):
                    raise InputError(
                        f"{tables._where(table)}: row {token}: {name} {target or '(empty)'} is no token of {other}.json; "
                        "add that row or remove this one"
                    )
    logs = {token for row in tables.rows["map"].values() for token in row["log_tokens"]}
    for token in tables.rows["log"]:
        if token not in logs:
            raise InputError(f"{tables._where('map')}: no row names log {token}; add it to a map's log_tokens")


def _check_chain(tables: Tables, table: str) -> None:
    """`next` and `prev` undo each other, stay in one group, and no chain loops."""
    rows, where = tables.rows[table], tables._where(table)
    for token, row in rows.items():
        for step, back in (("next", "prev"), ("prev", "next")):
            target = row[step]
            if not target:
                continue
            if target not in rows:
                raise InputError(f"{where}: row {token}: {step} {target} is no token of {table}.json; mend the chain")
            if rows[target][back] != token:
                raise InputError(
                    f"{where}: row {token}: {step} is {target}, whose {back} is not {token}; mend the chain"
                )
            if _group(tables, table, row) != _group(tables, table, rows[target]):
                raise InputError(
                    f"{where}: row {token}: {step} {target} belongs to another {GROUPS[table]}; mend the chain"
                )
    reached: set[str] = set()
    for token, row in rows.items():
        if not row["prev"]:
            while token:
                reached.add(token)
                token = rows[token]["next"]
    if loop := next((token for token in rows if token not in reached), None):
        raise InputError(f"{where}: row {loop} is in a chain without an end; end it with an empty next and prev")


GROUPS = {"sample": "scene", "sample_annotation": "instance", "sample_data": "sensor or scene"}


def _group(tables: Tables, table: str, row: Row) -> Any:
    if table == "sample":
        return row["scene_token"]
    if table == "sample_annotation":
        return row["instance_token"]
    return tables.channel(row), tables.rows["sample"][row["sample_token"]]["scene_token"]


def _check_counts(tables: Tables) -> None:
    samples = tables.rows["sample"]
    for token, scene in tables.rows["scene"].items():
        first, last = samples[scene["first_sample_token"]], samples[scene["last_sample_token"]]
        if first["prev"] or last["next"] or {first["scene_token"], last["scene_token"]} != {token}:
            raise InputError(
                f"{tables._where('scene')}: row {token}: its first or last sample is not at the chain's end; mend it"
            )
        if (count := len(tables.samples(token))) != scene["nbr_samples"]:
            raise InputError(
                f"{tables._where('scene')}: row {token}: nbr_samples is {scene['nbr_samples']} but the chain has {count}; mend one"
            )
    own: dict[str, int] = dict.fromkeys(tables.rows["instance"], 0)
    for row in tables.rows["sample_annotation"].values():
        own[row["instance_token"]] += 1
    for token, instance in tables.rows["instance"].items():
        track = tables.track(token)
        if any(row["instance_token"] != token for row in track):
            raise InputError(
                f"{tables._where('instance')}: row {token}: its first annotation belongs to another instance; mend it"
            )
        ends = (track[0]["prev"], track[-1]["token"]) == ("", instance["last_annotation_token"])
        if not ends or len(track) != instance["nbr_annotations"] or own[token] != len(track):
            raise InputError(
                f"{tables._where('instance')}: row {token}: nbr_annotations is {instance['nbr_annotations']}, its chain has "
                f"{len(track)} and {own[token]} rows name it; mend the chain"
            )


def read_sweep(path: Path, columns: int = POINT) -> Float32[np.ndarray, "N C"]:
    """Points of a `.pcd.bin` file as they are stored. Raises InputError where its size is no multiple of a row."""
    data = read_bytes(path)
    if len(data) % (4 * columns):
        raise InputError(
            f"{typed(path)}: has {len(data)} bytes, no multiple of {4 * columns} ({columns} float32 a point); "
            "give the right --sweep-columns or a complete file"
        )
    return np.frombuffer(data, "<f4").reshape(-1, columns).astype(np.float32)


def check_files(tables: Tables, data: Row) -> Path:
    """The file of a row of sample_data, checked: it is there, a picture has the table's size, a sweep whole rows.

    Raises:
        InputError: the file is missing or empty, is no picture, or its size disagrees with the table.
    """
    path = tables.path(data)
    if tables.channel(data).startswith("CAM"):
        from PIL import Image

        content = read_bytes(path)
        with parsing(typed(path), "a picture"), Image.open(io.BytesIO(content)) as picture:
            size = picture.size
        if size != (data["width"], data["height"]):
            raise InputError(
                f"{typed(path)}: is {size[0]}x{size[1]} but {tables._where('sample_data')} says {data['width']}x{data['height']}; "
                "restore the picture, or mend the table together with camera_intrinsic"
            )
    elif data["filename"].endswith(".bin") and tables.channel(data).startswith("LIDAR"):
        read_sweep(path)
    else:
        read_bytes(path)
    return path
