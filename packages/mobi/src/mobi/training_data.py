"""Crops for training: cut once from a nuScenes tree, kept as memory-mapped arrays, gone on with where a run was stopped.

Reading pictures and sweeps at every step would cost more than the networks. For each object and each empty box there are
`views` placements of the camera crop (the centred one of spec 2.5 first, then random ones), one range crop, and for an object
its reference at 224 x 224.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from graft_common.errors import InputError
from graft_common.files import parsing, read_bytes, sha256, typed, write_text
from graft_common.pixels import read_picture
from graft_common.rangeview import (
    NUSCENES,
    camera_hole,
    camera_pixels,
    choose_camera_crop,
    enlarge,
    normalise_depth,
    normalise_intensity,
    project,
    range_mask,
    take_crop,
)
from mobi.augment import augment
from mobi.box_text import to_box
from mobi.colour import to_rgb
from mobi.inputs import read_reference
from mobi.nuscenes_tables import Tables, check_files, read_sweep, read_tables
from mobi.objects import EMPTY, OBJECTS, Objects, read_objects
from mobi.place import CLIP_MEAN, CLIP_STD, REFERENCE_SIZE, box_numbers, check_box, place_view
from mobi.prepare import Frame, read_frame
from mobi.records import Crops, Placed, Scene

__all__ = ["Cache", "Objects", "build_cache", "read_objects"]

HEADER, STATE = "cache.json", "state.npy"
SCHEMA = 1
TO_DO, DONE, UNUSABLE = 0, 1, 2
FLUSH = 256  # rows between two times that finished ones are marked on disk


@dataclass(frozen=True, eq=False)
class Cache:
    """The crops of n = objects + empty boxes, in the order of `objects.rows`; arrays are memory-mapped, read only.

    Attributes:
        folder: of the arrays.
        objects: what was cut.
        scenes: (n,) scene of each row.
        size: D, views: V.
        camera: RGB.
        camera_keep, lidar_keep: eight pixels a byte, 1 = keep.
        lidar: object-aware depth, then mapped intensity, in [-1, 1]; a row has its crop's `width` columns, the rest is 0.
        band: stored depths (lo, hi) of the object-aware map.
        reference: of the objects.
        state: (n,) DONE, or UNUSABLE where the box cannot be edited.
    """

    folder: Path
    objects: Objects
    scenes: tuple[str, ...]
    size: int
    views: int
    camera: UInt8[np.ndarray, "n V D D 3"]
    camera_keep: UInt8[np.ndarray, "n V bytes"]
    camera_box: Float[np.ndarray, "n V 8 3"]
    lidar: Float[np.ndarray, "n 2 rows D"]
    lidar_keep: UInt8[np.ndarray, "n bytes"]
    lidar_box: Float[np.ndarray, "n 8 3"]
    width: Shaped[np.ndarray, " n"]
    band: Float[np.ndarray, "n 2"]
    reference: UInt8[np.ndarray, "objects 224 224 3"]
    state: UInt8[np.ndarray, " n"]

    @property
    def usable(self) -> Bool[np.ndarray, " n"]:
        """Rows that training can draw."""
        return np.asarray(self.state) == DONE

    def camera_crops(self, rows: Sequence[int], views: Sequence[int]) -> tuple[Float[Tensor, "B 3 D D"], Float[Tensor, "B 1 D D"]]:
        """(camera in [-1, 1], keep mask) of these rows in these placements."""
        pixels = torch.from_numpy(np.stack([self.camera[i, v] for i, v in zip(rows, views, strict=True)]))
        keep = np.stack([self.camera_keep[i, v] for i, v in zip(rows, views, strict=True)])
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, self._unpacked(keep)

    def lidar_crops(self, rows: Sequence[int]) -> tuple[Float[Tensor, "B 2 D D"], Float[Tensor, "B 1 D D"]]:
        """(range crop as the network sees it, keep mask) of these rows."""
        parts = [enlarge(torch.from_numpy(self.lidar[i, :, :, : self.width[i]].copy()), self.size) for i in rows]
        return torch.stack(parts), self._unpacked(np.stack([self.lidar_keep[i] for i in rows]))

    def references(self, rows: Sequence[int], generator: torch.Generator | None = None) -> Float[Tensor, "B 3 224 224"]:
        """CLIP-normalised references of these objects, augmented by `generator`'s draws where one is given."""
        small = torch.from_numpy(np.stack([self.reference[i] for i in rows])).permute(0, 3, 1, 2).float() / 255
        return clip_normalised(small if generator is None else augment(small, generator))

    def batch(self, indices: Sequence[int], generator: torch.Generator, *, augmented: bool = True, tracked: bool = True) -> Crops:
        """The network's input for these rows, each in a placement that is drawn; an empty box is a removal.

        Args:
            generator: of the placements, references and augmentations.
            augmented: change the references (spec section 3).
            tracked: take the reference from another frame of the track, else from the same one.
        """
        rows = [int(i) for i in indices]
        views = torch.randint(self.views, (len(rows),), generator=generator).tolist()
        camera, camera_keep = self.camera_crops(rows, views)
        lidar, lidar_keep = self.lidar_crops(rows)
        camera_box = torch.from_numpy(np.stack([self.camera_box[i, v] for i, v in zip(rows, views, strict=True)]))
        lidar_box = torch.from_numpy(np.stack([self.lidar_box[i] for i in rows]))
        reference = black_reference().repeat(len(rows), 1, 1, 1)
        told = [k for k, i in enumerate(rows) if i < self.objects.count]
        shown = [draw_reference(self.objects, rows[k], generator) if tracked else rows[k] for k in told]
        if told:
            reference[told] = self.references(shown, generator if augmented else None)
        return Crops(camera, lidar, camera_keep, lidar_keep, reference, camera_box, lidar_box)

    def keep(self, packed: UInt8[np.ndarray, "B bytes"], side: int) -> Float[Tensor, "B 1 side side"]:
        """Packed keep masks at the latents' size: the first pixel of each cell, as nearest sampling takes it."""
        every = self.size // side
        return self._unpacked(packed)[..., ::every, ::every]

    def _unpacked(self, packed: UInt8[np.ndarray, "B bytes"]) -> Float[Tensor, "B 1 D D"]:
        return torch.from_numpy(np.unpackbits(packed, axis=1)).float().view(-1, 1, self.size, self.size)


def draw_reference(objects: Objects, row: int, generator: torch.Generator) -> int:
    """The row whose picture is the reference of an object (`Objects.pick`)."""
    return int(objects.pick(row, torch.rand(1, generator=generator, dtype=torch.float64).numpy())[0])


def clip_normalised(pictures: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 h w"]:
    """Pictures in [0, 1] as CLIP takes them."""
    return (pictures - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[:, None, None]


def black_reference() -> Float[Tensor, "1 3 224 224"]:
    """What stands for no object: black before CLIP's normalisation (spec 2.6)."""
    return clip_normalised(torch.zeros(1, 3, REFERENCE_SIZE, REFERENCE_SIZE))


def build_cache(
    root: Path,
    prepared: Path,
    size: int,
    views: int,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
    *,
    version: str | None = None,
    folder: Path | None = None,
) -> Cache:
    """Cut what is not cut yet and return the whole.

    Args:
        root: the nuScenes tree that `prepared` was made from.
        prepared: folder that `graft-mobi prepare` wrote.
        size: D, a power of two of at least 64.
        views: placements of the camera crop.
        seed: of the random ones; each depends on seed, row and placement only.
        advance: called with the number of rows done, those of an earlier run included.
        folder: where the arrays lie; default `cache-SIZE-VIEWS` in `prepared`.

    Raises:
        InputError: the tables of either side are wrong or do not belong together, a file is missing or damaged, the folder
            holds the cache of something else, no row is usable.
    """
    objects = read_objects(prepared)
    folder = objects.folder / f"cache-{size}-{views}" if folder is None else Path(folder)
    header: dict[str, Any] = {
        "schema": SCHEMA, "size": size, "views": views, "seed": seed, "objects": sha256(objects.folder / OBJECTS),
        "empty": sha256(objects.folder / EMPTY),
    }  # fmt: skip
    stored = _stored(folder, header)
    if stored is None:
        tables = read_tables(root, version)
        header["scenes"] = _scenes(tables, objects)
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, objects, size, views)
        for name, (dtype, shape) in _layout(objects, size, views).items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape).flush()
        np.save(folder / STATE, np.zeros(len(objects.rows), np.uint8))
        write_text(folder / HEADER, json.dumps(header, sort_keys=True))  # last: without it the arrays are begun again
    else:
        header = stored
    state = np.load(folder / STATE)
    advance(int((state != TO_DO).sum()))
    if (state == TO_DO).any():
        tables = tables if stored is None else read_tables(root, version)
        with _writing(folder, objects, size, views) as arrays:
            _fill(arrays, state, folder, tables, objects, size, views, seed, advance)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _layout(objects, size, views)}
    cache = Cache(folder=folder, objects=objects, scenes=tuple(header["scenes"]), size=size, views=views, state=state, **arrays)
    if not cache.usable[: objects.count].any():
        raise InputError(f"{typed(prepared)}: none of its {objects.count} boxes can be edited in {typed(root)}; prepare it again")
    return cache


def _layout(objects: Objects, size: int, views: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    n, packed = len(objects.rows), size * size // 8
    return {
        "camera": (np.uint8, (n, views, size, size, 3)), "camera_keep": (np.uint8, (n, views, packed)),
        "camera_box": (np.float32, (n, views, 8, 3)), "lidar": (np.float32, (n, 2, NUSCENES.rows, size)),
        "lidar_keep": (np.uint8, (n, packed)), "lidar_box": (np.float32, (n, 8, 3)), "width": (np.int32, (n,)),
        "band": (np.float64, (n, 2)), "reference": (np.uint8, (objects.count, REFERENCE_SIZE, REFERENCE_SIZE, 3)),
    }  # fmt: skip


def _check_space(folder: Path, objects: Objects, size: int, views: int) -> None:
    import shutil

    needed = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in _layout(objects, size, views).values())
    if (free := shutil.disk_usage(folder).free) < needed:
        raise InputError(
            f"--cache {typed(folder)}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; choose another disk, or fewer "
            "--views"
        )


def _stored(folder: Path, header: Mapping[str, Any]) -> dict[str, Any] | None:
    """The header of a cache that was begun here; None for none. Raises InputError where it is another's, or is damaged."""
    path = folder / HEADER
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()) and not (folder / STATE).exists() and not (folder / "camera.npy").exists():
            raise InputError(f"--cache {typed(folder)}: holds something else; choose a new folder")
        return None
    with parsing(typed(path), "JSON"):
        found = dict(json.loads(read_bytes(path)))
    for key, value in header.items():
        if found.get(key) != value:
            what = {"objects": OBJECTS, "empty": EMPTY}.get(key, key)
            raise InputError(f"--cache {typed(folder)}: was made with another {what}; remove it or choose a new folder")
    return found


def _scenes(tables: Tables, objects: Objects) -> list[str]:
    for row in objects.rows:
        if row.sample not in tables.rows["sample"]:
            raise InputError(
                f"{row.where}: sample {row.sample} is not in {typed(tables.root)}; give the tree that it was prepared from"
            )
    return [str(tables.rows["sample"][row.sample]["scene_token"]) for row in objects.rows]


@contextmanager
def _writing(folder: Path, objects: Objects, size: int, views: int) -> Iterator[dict[str, Any]]:
    arrays: dict[str, Any] = {}
    for name, (dtype, shape) in _layout(objects, size, views).items():
        path = folder / f"{name}.npy"
        with parsing(typed(path), "an array"):
            arrays[name] = np.load(path, mmap_mode="r+")
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise InputError(f"{typed(path)}: is of another shape; remove the folder and run again")
    yield arrays
    for array in arrays.values():
        array.flush()


def _fill(
    arrays: Mapping[str, Any], state: UInt8[np.ndarray, " n"], folder: Path, tables: Tables, objects: Objects, size: int,
    views: int, seed: int, advance: Callable[[int], None],
) -> None:  # fmt: skip
    """Cut the rows that are to do, picture by picture; `state` follows, on disk only behind the crops it speaks of."""
    groups: dict[tuple[str, str], list[int]] = {}
    for k in np.flatnonzero(state == TO_DO).tolist():
        groups.setdefault((objects.rows[k].sample, objects.rows[k].camera), []).append(k)

    def mark() -> None:
        for array in arrays.values():
            array.flush()
        np.save(folder / STATE, state)

    fresh = 0
    for (sample, camera), rows in groups.items():
        scene = _read_scene(tables, sample, camera, objects.rows[rows[0]].where)
        view = project(scene.points, scene.sensor, scene.rows)
        for k in rows:
            box = to_box(objects.rows[k].box)
            try:
                check_box(scene, box)
            except InputError:
                state[k] = UNUSABLE
                continue
            _write_row(arrays, k, place_view(scene, view, box, size), views, seed)
            if (reference := objects.rows[k].reference) is not None:
                arrays["reference"][k] = _small(read_reference(objects.folder / reference))
            state[k] = DONE
        fresh += len(rows)
        if fresh >= FLUSH:
            mark()
            fresh = 0
        advance(len(rows))
    mark()


def _read_scene(tables: Tables, sample: str, camera: str, where: str) -> Scene:
    frame: Frame | None = read_frame(tables, tables.rows["sample"][sample])
    if frame is None or camera not in frame.cameras:
        raise InputError(f"{where}: sample {sample} has no {camera} with a sweep; give the tree that it was prepared from")
    row, pinhole = frame.cameras[camera]
    check_files(tables, row)
    picture = read_picture(tables.path(row))
    return Scene(picture, to_rgb(picture.pixels), read_sweep(tables.path(frame.lidar)), pinhole, NUSCENES)


def _write_row(arrays: Mapping[str, Any], k: int, placed: Placed, views: int, seed: int) -> None:
    for v in range(views):
        # the first placement is the one that editing uses
        random = None if v == 0 else np.random.default_rng([seed, k, v])
        at = replace(placed, camera_crop=choose_camera_crop(placed.hole, random=random))
        arrays["camera"][k, v] = _bytes(camera_pixels(placed.scene.rgb, at.camera_crop, placed.size))
        arrays["camera_keep"][k, v] = np.packbits(~camera_hole(placed.hole, at.camera_crop, placed.size).numpy())
        camera_box, lidar_box = box_numbers(at)
        arrays["camera_box"][k, v] = camera_box.numpy() if _is_object(arrays, k) else 0
    sensor, crop = placed.scene.sensor, placed.range_crop
    depth = normalise_depth(take_crop(placed.view.depth, crop, sensor), *placed.band)
    intensity = normalise_intensity(take_crop(placed.view.intensity, crop, sensor))
    arrays["lidar"][k, :, :, : crop.width] = torch.stack([depth, intensity]).float().numpy()
    hole = range_mask(placed.box, crop, sensor, (placed.size, placed.size))
    arrays["lidar_keep"][k] = np.packbits(~hole.numpy())
    arrays["lidar_box"][k] = lidar_box.numpy() if _is_object(arrays, k) else 0
    arrays["width"][k] = crop.width
    arrays["band"][k] = placed.band


def _is_object(arrays: Mapping[str, Any], k: int) -> bool:
    """Empty boxes come after the objects; their numbers are not told to the network (spec 2.6)."""
    return k < len(arrays["reference"])


def _bytes(pixels: Float[Tensor, "3 D D"]) -> UInt8[np.ndarray, "D D 3"]:
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def _small(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "224 224 3"]:
    """Resized as `place.reference_pixels` does, to bytes."""
    batch = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))[None]
    side = (REFERENCE_SIZE, REFERENCE_SIZE)
    small = F.interpolate(batch, side, mode="bilinear", antialias=True, align_corners=False)[0]
    return small.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
