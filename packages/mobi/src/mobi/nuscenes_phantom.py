"""Driving phantoms as a v1.0-mini tree that the nuscenes-devkit loads (spec section 5)."""

import io
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from graft_common.errors import InputError
from graft_common.files import typed, write_bytes
from graft_common.phantoms.driving import (
    CAMERAS,
    FULL_SIZE,
    HORIZON,
    KINDS,
    LIDAR_TO_EGO,
    Drive,
    View,
    draw_scene,
    intrinsics,
)
from graft_common.provenance import stamp
from mobi.nuscenes_tables import TABLES, Row, token
from mobi.poses import Upright, inside, inverse, pose_of, quaternion, to_global

VERSION = "v1.0-mini"
# The devkit's mini splits: eight scenes to train on, two (0103, 0916) to test; placed so that few scenes have both.
OFFICIAL = (61, 103, 553, 655, 757, 796, 916, 1077, 1094, 1100)
START = 1_532_402_927_000_000  # stamp of the first scene's first sweep, microseconds
APART = 600_000_000  # microseconds between scenes
STEP = 0.5  # seconds between key frames
MOST = round(HORIZON / STEP) + 1
# (rain, night) and kind of scene number i
WEATHER = ((False, False), (True, False), (False, True), (False, False), (True, True))
CATEGORIES = {"car": "vehicle.car", "pedestrian": "human.pedestrian.adult"}
ATTRIBUTES = ("vehicle.moving", "vehicle.parked", "pedestrian.moving", "pedestrian.standing")
LEVELS = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}
NOTICE = """Synthetic drives, ray-cast by Graft (graft-mobi phantom). Only the layout is that of nuScenes.

phantom.json says how every scene was drawn, so that its exact truth can be drawn again.
"""


def scene_name(number: int) -> str:
    """Official names first, so that the devkit's splits find them; scenes beyond ten are in no split."""
    return f"scene-{OFFICIAL[number] if number < len(OFFICIAL) else 9000 + number:04d}"


def write_tree(
    folder: Path,
    n: int,
    seed: int = 0,
    size: tuple[int, int] = FULL_SIZE,
    samples: int = 6,
    cameras: Sequence[str] = tuple(CAMERAS),
    sweeps: bool = True,
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Write `n` scenes; the same values write the same bytes.

    Args:
        folder: new or empty.
        n: scenes; scene i is drawn with seed + i. Scene 1 is rainy, 2 at night, 4 both, then again.
        size: width and height of the pictures; K scales.
        samples: key frames a scene, half a second apart, 1 to 9.
        cameras: channels to draw; the devkit wants all six, CAM_FRONT alone is enough for most uses.
        sweeps: also write a frame of LIDAR_TOP and CAM_FRONT between key frames, into sweeps/.
        advance: called with the number of samples done.

    Returns:
        The written files, relative to `folder`.

    Raises:
        InputError: a value is out of range, or the folder is a file or holds something.
    """
    folder = Path(folder)
    if n < 1:
        raise InputError(f"--n {n}: must be at least 1")
    if not 1 <= samples <= MOST:
        raise InputError(f"--samples {samples}: must be from 1 to {MOST}")
    if min(size) < 32:
        raise InputError(f"--image-size {size[0]}x{size[1]}: must be at least 32x32")
    if unknown := [c for c in cameras if c not in CAMERAS]:
        raise InputError(f"--cameras {unknown[0]}: must be among {', '.join(CAMERAS)}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{typed(folder)}: is a file; choose a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{typed(folder)}: is not empty; choose a new folder")
    tree = _Tree(folder, seed, size, tuple(cameras))
    tree.file("SYNTHETIC.txt", NOTICE.encode())  # first: no picture without it
    for number in range(n):
        tree.scene(number, samples, sweeps, advance)
    tree.finish()
    return tree.written


class _Tree:
    """Rows and files of one tree as they grow."""

    def __init__(self, folder: Path, seed: int, size: tuple[int, int], cameras: tuple[str, ...]) -> None:
        self.folder, self.seed, self.size, self.cameras = folder, seed, size, cameras
        self.rows: dict[str, list[Row]] = {name: [] for name in TABLES}
        self.written: list[str] = []
        self.scenes: list[dict[str, Any]] = []
        self.stamp = stamp("mobi", seed, {}, {}) | {"world": "phantom"}
        self.channels = ("LIDAR_TOP", *cameras)
        for channel in self.channels:
            modality = "lidar" if channel == "LIDAR_TOP" else "camera"
            self.add("sensor", channel, channel=channel, modality=modality)
        for name in CATEGORIES.values():
            self.add("category", name, name=name, description="")
        for name in ATTRIBUTES:
            self.add("attribute", name, name=name, description="")
        for level, name in LEVELS.items():
            self.rows["visibility"].append({"token": level, "level": name, "description": ""})

    def add(self, table: str, *key: object, **fields: Any) -> Row:
        row = {"token": token(self.seed, table, *key), **fields}
        self.rows[table].append(row)
        return row

    def file(self, name: str, data: bytes) -> None:
        write_bytes(self.folder / name, data)
        self.written.append(name)

    def scene(self, number: int, samples: int, sweeps: bool, advance: Callable[[int], None]) -> None:
        rain, night = WEATHER[number % len(WEATHER)]
        kind, name, seed = KINDS[number % len(KINDS)], scene_name(number), self.seed + number
        plan: dict[str, Any] = {"size": self.size, "night": night, "rain": rain, "kind": kind}
        log = self.add(
            "log",
            name,
            logfile=f"n000-phantom-{number:04d}",
            vehicle="n000",
            date_captured="2018-07-24",
            location="phantom-town",
        )
        for channel in self.channels:
            camera = None if channel == "LIDAR_TOP" else CAMERAS[channel]
            pose = LIDAR_TO_EGO if camera is None else camera.to_ego
            K = [] if camera is None else intrinsics(camera, self.size).tolist()
            self.add(
                "calibrated_sensor", name, channel, sensor_token=token(self.seed, "sensor", channel),
                translation=pose[:3, 3].tolist(), rotation=list(quaternion(pose[:3, :3])), camera_intrinsic=K,
            )  # fmt: skip
        place = {"street": "a street with parked cars", "crossing": "people on a zebra crossing", "lot": "a car park"}[
            kind
        ]
        words = ["Synthetic", place, *(["rain"] if rain else []), *(["night"] if night else [])]
        keys = [token(self.seed, "sample", name, k) for k in range(samples)]
        self.add(
            "scene", name, log_token=log["token"], nbr_samples=samples, first_sample_token=keys[0], last_sample_token=keys[-1],
            name=name, description=", ".join(words),
        )  # fmt: skip
        start, tracks = START + number * APART, _Tracks()
        frames: dict[str, list[Row]] = {channel: [] for channel in self.channels}
        for k in range(samples):
            key_drive = draw_scene(seed, times=(k * STEP,), cameras=self.cameras, **plan)[0]
            self.rows["sample"].append(
                {"token": keys[k], "timestamp": start + round(k * STEP * 1e6), "scene_token": token(self.seed, "scene", name),
                 "prev": keys[k - 1] if k else "", "next": keys[k + 1] if k + 1 < samples else ""}
            )  # fmt: skip
            self._frames(frames, key_drive, name, keys[k], start, True)
            tracks.see(keys[k], key_drive)
            if sweeps and k + 1 < samples:
                channels = tuple(c for c in self.cameras if c == "CAM_FRONT")
                between = draw_scene(seed, times=((k + 0.5) * STEP,), cameras=channels, **plan)[0]
                self._frames(frames, between, name, keys[k], start, False)
            advance(1)
        for rows in frames.values():
            rows.sort(key=lambda row: row["timestamp"])
            _chain(rows)
            self.rows["sample_data"] += rows
        instances = self._annotations(name, tracks)
        self.scenes.append(
            {
                "name": name,
                "seed": seed,
                **plan,
                "times": [k * STEP for k in range(samples)],
                "samples": keys,
                "instances": instances,
            }
        )

    def _frames(
        self, frames: dict[str, list[Row]], drive: Drive, name: str, sample: str, start: int, key: bool
    ) -> None:
        """Files and rows of one sweep and its pictures."""
        at = start + round(drive.time * 1e6)
        sweep = drive.sweep.astype("<f4").tobytes()
        frames["LIDAR_TOP"].append(
            self._frame("LIDAR_TOP", name, sample, at, key, drive.ego_to_global, (0, 0), sweep, "pcd.bin")
        )
        for view in drive.views:
            at = start + round(view.time * 1e6)
            data = _jpeg(view.image, self.stamp)
            frames[view.channel].append(
                self._frame(view.channel, name, sample, at, key, view.ego_to_global, self.size, data, "jpg")
            )

    def _frame(
        self,
        channel: str,
        name: str,
        sample: str,
        at: int,
        key: bool,
        ego: np.ndarray,
        size: tuple[int, int],
        data: bytes,
        kind: str,
    ) -> Row:
        log = self.rows["log"][-1]["logfile"]
        filename = f"{'samples' if key else 'sweeps'}/{channel}/{log}__{channel}__{at}.{kind}"
        self.file(filename, data)
        pose = self.add(
            "ego_pose",
            name,
            channel,
            at,
            timestamp=at,
            rotation=list(quaternion(ego[:3, :3])),
            translation=ego[:3, 3].tolist(),
        )
        return {
            "token": token(self.seed, "sample_data", name, channel, at), "sample_token": sample, "ego_pose_token": pose["token"],
            "calibrated_sensor_token": token(self.seed, "calibrated_sensor", name, channel), "timestamp": at,
            "fileformat": kind.split(".")[0], "is_key_frame": key,
            "height": size[1], "width": size[0], "filename": filename, "prev": "", "next": "",
        }  # fmt: skip

    def _annotations(self, name: str, tracks: "_Tracks") -> dict[str, int]:
        """Rows of the objects that the lidar hit at least once; returns instance token -> number of `draw_scene`."""
        out = {}
        for number, seen in sorted(tracks.seen.items()):
            rows = []
            for sample, label, state, fields, points, visibility in seen:
                family = "vehicle" if label == "car" else "pedestrian"
                rows.append(
                    {"token": token(self.seed, "sample_annotation", name, number, sample), "sample_token": sample,
                     "instance_token": token(self.seed, "instance", name, number), "visibility_token": visibility,
                     "attribute_tokens": [token(self.seed, "attribute", f"{family}.{state}")], **fields, "prev": "", "next": "",
                     "num_lidar_pts": points, "num_radar_pts": 0}
                )  # fmt: skip
            _chain(rows)
            self.rows["sample_annotation"] += rows
            row = self.add(
                "instance", name, number, category_token=token(self.seed, "category", CATEGORIES[seen[0][1]]),
                nbr_annotations=len(rows), first_annotation_token=rows[0]["token"], last_annotation_token=rows[-1]["token"],
            )  # fmt: skip
            out[row["token"]] = number
        return out

    def finish(self) -> None:
        """The map, the record of how the scenes were drawn, and the tables: last, so that a half-written tree loads nowhere."""
        from PIL import Image

        out = io.BytesIO()
        Image.new("L", (1, 1)).save(out, format="PNG")
        name = f"maps/{token(self.seed, 'map')}.png"
        self.file(name, out.getvalue())
        logs = [row["token"] for row in self.rows["log"]]
        self.add("map", "map", log_tokens=logs, category="semantic_prior", filename=name)
        record = self.stamp | {"scenes": self.scenes}
        self.file("phantom.json", (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
        for table, rows in self.rows.items():
            self.file(f"{VERSION}/{table}.json", json.dumps(rows, indent=0).encode())


class _Tracks:
    """What each instance's box looked like in the samples in which the lidar hit it."""

    def __init__(self) -> None:
        self.seen: dict[int, list[tuple[str, str, str, dict[str, Any], int, str]]] = {}

    def see(self, sample: str, drive: Drive) -> None:
        to_lidar = inverse(drive.ego_to_global @ drive.lidar_to_ego)
        for box in drive.boxes:
            fields = to_global(Upright(box.center, box.size, box.yaw), drive.lidar_to_ego, drive.ego_to_global)
            points = int(inside(to_lidar @ pose_of(fields), fields["size"], drive.sweep[:, :3]).sum())
            if points:
                row = (sample, box.label, box.state, fields, points, _visibility(drive.views, box.instance))
                self.seen.setdefault(box.instance, []).append(row)


def _visibility(views: Sequence[View], instance: int) -> str:
    """Token of the share of the object's pixels that nothing hides, over all cameras drawn; the lowest where none sees it."""
    whole = sum(int(view.footprints[instance].mask.sum()) for view in views if instance in view.footprints)
    seen = sum(int((view.ids == instance).sum()) for view in views)
    share = seen / whole if whole else 0.0
    return "1" if share <= 0.4 else "2" if share <= 0.6 else "3" if share <= 0.8 else "4"


def _chain(rows: list[Row]) -> None:
    for first, second in pairwise(rows):
        first["next"], second["prev"] = second["token"], first["token"]


def _jpeg(image: UInt8[np.ndarray, "H W 3"], note: dict[str, Any]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, format="JPEG", quality=95, comment=json.dumps(note, sort_keys=True).encode())
    return out.getvalue()
