"""Training pictures for the tiny weights: phantoms drawn once into memory-mapped arrays, and photograph crops.

Seeds below 10,000,000 are for training. Everything that is reported uses seeds from HELD_OUT upward.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import skimage.data
import skimage.transform
from rich.progress import track

from graft_common import phantoms

HELD_OUT = 10_000_000
# Worlds whose attributes are small in the picture, or must be bound to a place or a form, get more pictures.
SHARES = {
    "brain": 6, "ultrasound": 5, "dermoscopy": 5, "chest_xray": 4, "mammogram": 6, "lung_ct": 5, "textures": 5, "objects": 6,
}  # fmt: skip
# What the caption talks about: these cells weigh more in the UNet's loss.
FOCUS = {
    "brain": ("tumor",), "ultrasound": ("lesion",), "dermoscopy": ("lesion",), "chest_xray": ("effusion", "heart"),
    "mammogram": ("mass", "calcifications"), "lung_ct": ("nodule",), "textures": ("defect",), "objects": ("object",),
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """Phantoms on disk: images (n, S, S, 3) uint8, focus (n, S, S) bool, rows with world, attributes and caption."""

    images: np.ndarray
    focus: np.ndarray
    rows: list[dict]


def _one(size: int, job: tuple[str, int]) -> tuple[np.ndarray, np.ndarray, dict]:
    world, seed = job
    item = phantoms.draw(world, size, seed)
    focus = np.zeros((size, size), bool)
    for name in FOCUS[world]:
        focus |= item.masks[name]
    names = {k: v for k, v in item.attributes.items() if k in phantoms.world(world).ATTRIBUTES}
    return item.image, focus, {"world": world, "seed": seed, "caption": item.caption, "attributes": names}


def jobs(count: int, first: int, shares: dict[str, int] | None = None) -> list[tuple[str, int]]:
    """(world, seed) of about `count` pictures, worlds by share, seeds from `first` upward."""
    shares = shares or SHARES
    whole = sum(shares.values())
    return [(world, first + i) for world, share in shares.items() for i in range(count * share // whole)]


def draw_all(folder: Path, size: int, todo: list[tuple[str, int]], workers: int = 2) -> Drawn:
    """Draw `todo` into `folder` once; later calls map the files."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = folder / "rows.json"
    if not meta.exists():
        n = len(todo)
        images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (n, size, size, 3))
        focus = np.lib.format.open_memmap(folder / "focus.npy", "w+", bool, (n, size, size))
        rows = []
        with ProcessPoolExecutor(workers) as pool:
            drawn = pool.map(partial(_one, size), todo, chunksize=64)
            for i, (image, spot, row) in enumerate(track(drawn, f"draw {folder.name}", total=n)):
                images[i], focus[i] = image, spot
                rows.append(row)
        images.flush()
        focus.flush()
        meta.write_text(json.dumps(rows), encoding="utf-8")
    return Drawn(
        np.load(folder / "images.npy", mmap_mode="r"),
        np.load(folder / "focus.npy", mmap_mode="r"),
        json.loads(meta.read_text(encoding="utf-8")),
    )


# Photographs that scikit-image installs. Held out: the judge's four, and motorcycle_left, the stereo twin of one of them.
TRAIN_PHOTOS = (
    "astronaut", "brick", "camera", "chelsea", "clock_motion", "coffee", "coins", "color", "grass", "gravel",
    "hubble_deep_field", "ihc", "page", "phantom", "retina", "rocket", "text", "horse", "chessboard_GRAY",
)  # fmt: skip
HELD_PHOTOS = ("moon", "cell", "microaneurysms", "motorcycle_right")


def photograph(name: str) -> np.ndarray:
    """(H, W, 3) uint8 of one installed photograph, read from the package's own folder (nothing is fetched)."""
    folder = Path(skimage.data.__file__).parent
    path = next(p for p in (folder / f"{name}.png", folder / f"{name}.jpg") if p.exists())
    image = skimage.io.imread(path)
    if image.dtype != np.uint8:
        image = (255 * skimage.util.img_as_float(image)).round().astype(np.uint8)
    return image[..., :3] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def jittered_crops(size: int, count: int, seed: int) -> np.ndarray:
    """`count` crops (n, S, S, 3) uint8 of the training photographs: any place, 1 to 3 times down, flips, brightness, hue."""
    photos = [photograph(name) for name in TRAIN_PHOTOS]
    rng = np.random.default_rng([77, seed])
    out = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        photo = photos[rng.integers(len(photos))]
        side = int(min(size * rng.uniform(1, 3.0) ** rng.integers(0, 2), *photo.shape[:2]))
        top, left = (rng.integers(0, n - side + 1) for n in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        if side != size:
            crop = skimage.transform.resize(crop, (size, size), anti_aliasing=True, preserve_range=True)
        crop = crop.astype(np.float32)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.5:
            crop = crop.transpose(1, 0, 2)
        if rng.random() < 0.5:
            crop = crop[..., rng.permutation(3)]
        crop = 127.5 + (crop - 127.5) * rng.uniform(0.6, 1.3) + rng.uniform(-40, 40) + rng.uniform(-15, 15, 3)
        if rng.random() < 0.3:  # the medical held-out files are grey
            crop = np.repeat(crop.mean(axis=2, keepdims=True), 3, axis=2)
        out[i] = crop.clip(0, 255)
    return out
