"""Who else sees an edited box and keeps its old data: the sample's other cameras, and the frames between key frames."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graft_common.errors import InputError
from graft_common.rangeview import Box3d, camera_mask
from mobi.nuscenes_tables import Row, Tables, read_sweep
from mobi.poses import inside, pixels, pose_of
from mobi.prepare import LIDAR, Frame


def other_cameras(frame: Frame, box: Box3d, but: Sequence[str]) -> list[str]:
    """Channels, `but` left out, whose key frame shows at least a pixel of the box; what may hide it is not asked."""
    found = []
    for channel, (_, camera) in frame.cameras.items():
        if channel in but:
            continue
        try:
            camera_mask(box, camera, scale=1)
        except InputError:  # behind that camera, or outside its picture
            continue
        found.append(channel)
    return found


def frames_between(tables: Tables, data: Row) -> list[Row]:
    """The frames of one sensor around a key frame, up to the key frames before and after it."""
    out: list[Row] = []
    for step in ("prev", "next"):
        token = data[step]
        while token and not tables.rows["sample_data"][token]["is_key_frame"]:
            out.append(tables.rows["sample_data"][token])
            token = out[-1][step]
    return sorted(out, key=lambda row: row["timestamp"])


def frames_that_show(tables: Tables, frame: Frame, placed: Mapping[str, Any], annotation: Row | None) -> list[str]:
    """Files of frames between key frames in which an object stands where its track puts it at their stamps.

    A sweep shows it when it has a return in the box; a picture when the box's centre is in it.

    Args:
        placed: the box in the global frame, as a row of sample_annotation.
        annotation: the row whose track says how it moves; None for something that stands still.
    """
    names = []
    for channel, key in {LIDAR: frame.lidar, **{c: row for c, (row, _) in frame.cameras.items()}}.items():
        for data in frames_between(tables, key):
            if not tables.path(data).is_file():
                continue
            centre = centre_at(tables, frame, placed, annotation, int(data["timestamp"]))
            to_sensor = tables.global_to_sensor(data)
            if channel == LIDAR:
                there = pose_of(placed)
                there[:3, 3] = centre
                shows = bool(inside(to_sensor @ there, placed["size"], read_sweep(tables.path(data))[:, :3]).any())
            else:
                (at,), _ = pixels(to_sensor, tables.intrinsics(data), centre[None])
                shows = bool((at >= 0).all() and at[0] <= data["width"] and at[1] <= data["height"])  # NaN: behind it
            if shows:
                names.append(str(data["filename"]))
    return names


def centre_at(tables: Tables, frame: Frame, placed: Mapping[str, Any], annotation: Row | None, at: int) -> np.ndarray:
    """The box's centre at a stamp (microseconds), on the line to the next box of its track in that direction."""
    here, now = np.array(placed["translation"], np.float64), int(frame.sample["timestamp"])
    other = None if annotation is None else annotation["prev" if at < now else "next"]
    if not other:
        return here
    row = tables.rows["sample_annotation"][other]
    then = int(tables.rows["sample"][row["sample_token"]]["timestamp"])
    if then == now:
        return here
    return here + (np.array(row["translation"]) - here) * ((at - now) / (then - now))
