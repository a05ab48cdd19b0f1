"""One flat frozen dataclass per verb; the sentence under a field is its help text. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from graft_common.errors import InputError
from mobi.box_text import parse_numbers
from mobi.config_denoise import DenoiseConfig

SensorName = Literal["nuscenes", "hdl-64e", "os1-128", "pandar64"]


@dataclass(frozen=True, kw_only=True)
class CompositeConfig(DenoiseConfig):
    """How the painting is put back into picture and sweep (mobi spec 2.10)."""

    z_test: bool = True
    """Keep what stands in front of the box: nearer returns, and the picture where the sweep shows them. Off as in the paper."""
    blur: int | None = None
    """Pixels around the hole over which the picture is blended; default 7 in a picture 1600 wide, in proportion else."""
    pool: Literal["before", "after"] = "before"
    """Average the rows and columns of the lidar painting before or after depth and intensity go back to their units."""

    def check(self) -> None:
        super().check()
        if self.blur is not None and self.blur < 1:
            raise InputError(f"--blur {self.blur}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SceneConfig(CompositeConfig):
    """Where the scene lies."""

    image: Path
    """Camera picture: PNG, JPEG or TIFF, colour or grey, 8 or 16 bits."""
    sweep: Path
    """Lidar sweep: float32 rows of x, y, z, intensity (0..255), ring."""
    calib: Path
    """JSON with "K" (3x3, pixels) and "lidar_to_camera" (4x4, metres)."""
    sweep_columns: int = 5
    """Numbers a row of the sweep: 4 without ring, 5, or 6."""
    sensor: SensorName = "nuscenes"
    """The lidar's rows and columns."""
    sensor_file: Path | None = None
    """The lidar's own calibration in place of --sensor: Ouster metadata (.json), Velodyne (.xml, .yaml) or Hesai (.csv)."""
    sensor_columns: int | None = None
    """Firings around the circle, for a --sensor-file that does not say: all but Ouster's."""
    rows: Literal["angle", "ring"] = "angle"
    """Put a point into the row nearest in elevation, or into the one that its ring names."""
    box: str
    """X,Y,Z,L,W,H,YAW: centre, length, width, height (m), heading (rad, counter-clockwise from +x); lidar frame x right, y
    forward, z up."""

    def check(self) -> None:
        super().check()
        check_sweep_settings(self.sweep_columns, self.rows)
        check_sensor_settings(self.sensor, self.sensor_file, self.sensor_columns)
        parse_numbers(self.box)


def check_sweep_settings(columns: int, rows: str) -> None:
    """Raise InputError for settings of a sweep that cannot work."""
    if columns not in (4, 5, 6):
        raise InputError(f"--sweep-columns {columns}: must be 4, 5 or 6")
    if rows == "ring" and columns < 5:
        raise InputError(f"--rows ring: rows of {columns} numbers have no ring; leave it out")


def check_sensor_settings(sensor: SensorName, file: Path | None, columns: int | None) -> None:
    """Raise InputError for settings of a lidar that contradict each other."""
    if file is None and columns is not None:
        raise InputError(f"--sensor-columns {columns}: belongs to --sensor-file; give both, or neither")
    if file is not None and sensor != "nuscenes":
        raise InputError(f"--sensor {sensor}: --sensor-file says it already; leave one of them out")
    if columns is not None and columns < 8:
        raise InputError(f"--sensor-columns {columns}: must be at least 8")


@dataclass(frozen=True, kw_only=True)
class InsertConfig(SceneConfig):
    """Put the object of a reference picture into a free box."""

    reference: Path
    """Picture of the object, cropped tightly; alpha is flattened on grey."""
    out: Path = Path("out/insert")
    """Folder for image.png, mask.png, sweep.pcd.bin, panel.png, edit.json and run.json."""


@dataclass(frozen=True, kw_only=True)
class ReplaceConfig(SceneConfig):
    """Put the object of a reference picture in place of the one in the box."""

    reference: Path
    """Picture of the object, cropped tightly; alpha is flattened on grey."""
    out: Path = Path("out/replace")
    """Folder for image.png, mask.png, sweep.pcd.bin, panel.png, edit.json and run.json."""


@dataclass(frozen=True, kw_only=True)
class RemoveConfig(SceneConfig):
    """Remove the object in the box."""

    out: Path = Path("out/remove")
    """Folder for image.png, mask.png, sweep.pcd.bin, panel.png, edit.json and run.json."""


@dataclass(frozen=True, kw_only=True)
class RotateConfig(SceneConfig):
    """A turntable: the same object in the same place at every heading, each view from the same noise."""

    reference: Path
    """Picture of the object, cropped tightly; alpha is flattened on grey."""
    step: int = 60
    """Degrees from view to view; must divide 360."""
    batch_size: int = 4
    """Views in one pass through the network."""
    out: Path = Path("out/rotate")
    """Folder with one sub-folder a view (view_000, view_060, ...), panel.png and run.json."""

    def check(self) -> None:
        super().check()
        if not 1 <= self.step <= 180 or 360 % self.step:
            raise InputError(f"--step {self.step}: must divide 360 and be from 1 to 180 degrees")
        if self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Draw a scene: camera with box, range view, bird's-eye view; with --edit also after the edit."""

    image: Path
    """Camera picture."""
    sweep: Path
    """Lidar sweep."""
    calib: Path
    """JSON with "K" and "lidar_to_camera"."""
    box: str | None = None
    """X,Y,Z,L,W,H,YAW; default none, or the edit's own."""
    edit: Path | None = None
    """Folder that insert, replace or remove wrote."""
    sweep_columns: int = 5
    """Numbers a row of the sweep: 4 without ring, 5, or 6."""
    sensor: SensorName = "nuscenes"
    """The lidar's rows and columns."""
    sensor_file: Path | None = None
    """The lidar's own calibration in place of --sensor: Ouster metadata (.json), Velodyne (.xml, .yaml) or Hesai (.csv)."""
    sensor_columns: int | None = None
    """Firings around the circle, for a --sensor-file that does not say: all but Ouster's."""
    rows: Literal["angle", "ring"] = "angle"
    """Put a point into the row nearest in elevation, or into the one that its ring names; as the edit did."""
    out: Path = Path("out/view")
    """Folder for panel.png and run.json."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        check_sweep_settings(self.sweep_columns, self.rows)
        check_sensor_settings(self.sensor, self.sensor_file, self.sensor_columns)
        if self.box is not None:
            parse_numbers(self.box)


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Write ray-cast synthetic drives as a nuScenes tree (v1.0-mini)."""

    folder: tyro.conf.Positional[Path]
    """New or empty folder."""
    n: int = 2
    """Scenes; every second scene or so has rain, night or both."""
    seed: int = 0
    """Seed of the first scene."""
    image_size: str = "1600x900"
    """Width x height of the pictures; the field of view stays."""
    samples: int = 6
    """Key frames a scene, half a second apart, 1 to 9."""
    cameras: Literal["all", "front"] = "all"
    """All six cameras (as the devkit wants), or CAM_FRONT alone."""
    sweeps: bool = True
    """Also write frames between the key frames."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def size(self) -> tuple[int, int]:
        """(width, height). Raises InputError where the text is none."""
        width, _, height = self.image_size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise InputError(f"--image-size {self.image_size}: must be WIDTHxHEIGHT, e.g. 1600x900")
        return int(width), int(height)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """List a nuScenes tree's objects that can be edited, cut out their references, and find empty boxes."""

    root: tyro.conf.Positional[Path]
    """Folder above v1.0-mini or v1.0-trainval."""
    version: str | None = None
    """Folder of tables; default the only one there is."""
    out: Path = Path("out/prepared")
    """Folder for objects.csv, empty.csv, references/ and run.json."""
    empty: int = 10_000
    """Empty boxes to find (fewer where the data set has no room)."""
    min_points: int = 64
    """Least lidar points in a box."""
    min_size: int = 100
    """Least width and height of the box in the picture, in pixels at 1600x900."""
    max_overlap: float = 0.5
    """Largest overlap with another object as the lidar sees them."""
    min_visibility: float = 0.7
    """Least share of the object that falls into this camera, of all cameras."""
    seed: int = 0
    """Seed of the empty boxes."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        for name, low in (("empty", 0), ("min_points", 1), ("min_size", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be {low} or more")
        for name in ("max_overlap", "min_visibility"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be from 0 to 1")
