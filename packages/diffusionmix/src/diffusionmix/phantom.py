"""The verb `phantom`: a small synthetic data set in the layout of MVTec AD, VisA, KITTI or TikTok.

Wood with defects stands for the industrial sets, open ground for KITTI's roads, a hopping ball for TikTok's dancers. Each layout
holds the odd cases that a reader must survive: one grey picture and one mask of several components (MVTec AD), masks of ids, one of
them with two (VisA), one frame of another size (KITTI), clips of unequal length (TikTok).
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from PIL import Image
from scipy import ndimage

from diffusionmix import scene_world
from diffusionmix.config_data import PhantomConfig
from diffusionmix.tree import NOTICE
from diffusionmix.world import CLASSES, draw_scene
from graft_common import phantoms, raster
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import typed, write_bytes
from graft_common.provenance import stamp

CATEGORY = "wood"
DEFECTS = CLASSES["texture"]
KITTI_ASPECT = 1242 / 375
CLIP = 8  # frames of a clip; the last one holds what is left
TEXT = "Synthetic pictures drawn by graft-diffusionmix phantom, in the folder layout of {layout}. Not that data set.\n"


@dataclass
class Writer:
    """Where pictures go: files below one folder, each counted, the next seed kept."""

    folder: Path
    size: int
    n: int
    seed: int
    advance: Callable[[int], None]
    count: int = 0

    def next(self) -> int:
        """The seed of the next picture."""
        self.seed += 1
        return self.seed - 1

    def picture(self, name: str, image: UInt8[np.ndarray, "H W *C"]) -> None:
        """A picture as PNG, or as JPEG where the name says so; both carry the word synthetic."""
        self.count += 1
        self.advance(1)
        if name.lower().endswith(".jpg"):
            out = io.BytesIO()
            Image.fromarray(image).save(out, "JPEG", quality=95, subsampling=0, comment=b"synthetic image (graft phantom)")
            write_bytes(self.folder / name, out.getvalue())
        else:
            write_bytes(self.folder / name, raster.encode(image, "png", self.note()))

    def mask(self, name: str, mask: Bool[np.ndarray, "H W"] | Integer[np.ndarray, "H W"]) -> None:
        """A mask: booleans become 0 and 255, ids stay."""
        levels = mask.astype(np.uint8) * np.uint8(255 if mask.dtype == bool else 1)
        write_bytes(self.folder / name, raster.encode(levels, "png", self.note()))

    def text(self, name: str, content: str) -> None:
        write_bytes(self.folder / name, content.encode())

    def note(self) -> dict[str, Any]:
        """What every PNG says of itself."""
        return stamp("diffusionmix", self.seed, {}, {})


def run_phantom(config: PhantomConfig, command: list[str]) -> dict[str, Any]:
    """Write the tree; the same seed writes the same bytes.

    Raises:
        InputError: a value is out of range, or the folder is a file or holds something already.
    """
    config.check()
    folder = checked_out(config.folder, "folder ")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{typed(config.folder)}: is not empty; choose a new folder")
    run = Run(command, config, "graft-diffusionmix")
    with run.stage("draw"), progress("draw", None, quiet=config.json) as advance:
        writer = Writer(folder, config.size, config.n, config.seed, advance)
        writer.text(NOTICE, TEXT.format(layout=config.layout))  # first: no picture without it
        WRITERS[config.layout](writer)
    run.measures = {"layout": config.layout, "pictures": writer.count, "next_seed": writer.seed}
    return run.write(folder)


def write_mvtec(writer: Writer) -> None:
    """train/good, test/good, and for each defect test/ and ground_truth/. The first good picture is grey; the first picture of
    `combined` has two defects, its mask two components.
    """
    _mvtec_good(writer)
    for defect in DEFECTS:
        for i in range(writer.n):
            scene = draw_scene("texture", writer.size, writer.next(), defect)
            writer.picture(f"{CATEGORY}/test/{defect}/{i:03d}.png", scene.image)
            writer.mask(f"{CATEGORY}/ground_truth/{defect}/{i:03d}_mask.png", scene.mask)
    image, ids = two_defects(writer.size, writer.next())
    writer.picture(f"{CATEGORY}/test/combined/000.png", image)
    writer.mask(f"{CATEGORY}/ground_truth/combined/000_mask.png", ids > 0)


def write_visa_mvtec(writer: Writer) -> None:
    """VisA as its converted release has it: MVTec's tree, one defect folder `bad`, masks named like their pictures."""
    _mvtec_good(writer)
    for i in range(writer.n):
        scene = draw_scene("texture", writer.size, writer.next())
        writer.picture(f"{CATEGORY}/test/bad/{i:03d}.JPG", scene.image)
        writer.mask(f"{CATEGORY}/ground_truth/bad/{i:03d}.png", scene.mask)


def _mvtec_good(writer: Writer) -> None:
    for split, count in (("train", writer.n), ("test", max(1, writer.n // 2))):
        for i in range(count):
            image = draw_scene("texture", writer.size, writer.next(), "none").image
            grey = split == "train" and i == 0
            name = f"{CATEGORY}/{split}/good/{i:03d}.png"
            writer.picture(name, np.rint(image.mean(axis=2)).astype(np.uint8) if grey else image)


def write_visa(writer: Writer) -> None:
    """VisA's own tree: JPEG pictures, masks of ids, image_anno.csv and split_csv/1cls.csv. The first mask holds two ids."""
    rows, splits = ["image,label,mask"], ["object,split,label,image,mask"]
    for i in range(writer.n + max(1, writer.n // 2)):
        name = f"{CATEGORY}/Data/Images/Normal/{i:04d}.JPG"
        writer.picture(name, draw_scene("texture", writer.size, writer.next(), "none").image)
        rows.append(f"{name},normal,")
        splits.append(f"{CATEGORY},{'train' if i < writer.n else 'test'},normal,{name},")
    number = 0
    for defect in ("both", *DEFECTS):
        for _ in range(1 if defect == "both" else writer.n):
            if defect == "both":
                image, ids = two_defects(writer.size, writer.next())
                label = '"blob,hole"'
            else:
                scene = draw_scene("texture", writer.size, writer.next(), defect)
                image, ids, label = scene.image, scene.mask.astype(np.uint8) * (1 + DEFECTS.index(defect)), defect
            name, mask = f"{CATEGORY}/Data/Images/Anomaly/{number:03d}.JPG", f"{CATEGORY}/Data/Masks/Anomaly/{number:03d}.png"
            writer.picture(name, image)
            writer.mask(mask, ids)
            rows.append(f"{name},{label},{mask}")
            splits.append(f"{CATEGORY},test,anomaly,{name},{mask}")
            number += 1
    writer.text(f"{CATEGORY}/image_anno.csv", "\n".join(rows) + "\n")
    writer.text("split_csv/1cls.csv", "\n".join(splits) + "\n")


def two_defects(size: int, seed: int) -> tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "S S"]]:
    """One wood surface with a blob (1) and a hole (2) apart from each other, and the mask of ids."""
    for attempt in range(seed, seed + 1000):  # the first surface whose two defects keep apart
        blob = phantoms.draw("textures", size, attempt, texture="wood", defect="blob")
        hole = phantoms.draw("textures", size, attempt, texture="wood", defect="hole")
        near = ndimage.binary_dilation(hole.masks["defect"], iterations=max(2, size // 16))
        if not (near & blob.masks["defect"]).any():
            break
    image = np.where(near[..., None], hole.image, blob.image)
    return image, np.where(hole.masks["defect"], 2, blob.masks["defect"]).astype(np.uint8)


def write_kitti(writer: Writer) -> None:
    """training/image_2 of the object benchmark; the second frame has another size."""
    for i in range(writer.n):
        writer.picture(f"training/image_2/{i:06d}.png", _road(writer, 0.94 if i == 1 else 1.0))


def write_kitti_raw(writer: Writer) -> None:
    """Two raw drives of left colour frames; the second frame of all has another size."""
    for i in range(writer.n):
        drive = f"2011_09_26/2011_09_26_drive_{1 + 2 * i // writer.n:04d}_sync"
        writer.picture(f"{drive}/image_02/data/{i:010d}.png", _road(writer, 0.94 if i == 1 else 1.0))


def _road(writer: Writer, share: float) -> UInt8[np.ndarray, "H W 3"]:
    """A wide frame from a square scene: `size` rows about the horizon, KITTI's width times `share`."""
    width = round(writer.size * KITTI_ASPECT * share)
    image = scene_world.ground(width, writer.next())
    top = round(0.16 * width)
    return np.ascontiguousarray(image[top : top + round(writer.size * (0.98 if share < 1 else 1))])


def write_tiktok(writer: Writer) -> None:
    """TikTok_dataset/<clip>/images, masks and densepose; portrait frames."""
    for clip, k, image, mask in _clips(writer):
        folder = f"TikTok_dataset/{clip:05d}"
        writer.picture(f"{folder}/images/{k:04d}.png", image)
        writer.mask(f"{folder}/masks/{k:04d}.png", mask)
        writer.mask(f"{folder}/densepose/{k:04d}.png", mask)


def write_tiktok_flat(writer: Writer) -> None:
    """images/ and masks/ of all clips together, named CLIP_FRAME."""
    for clip, k, image, mask in _clips(writer):
        writer.picture(f"images/{clip:02d}_{k:04d}.png", image)
        writer.mask(f"masks/{clip:02d}_{k:04d}.png", mask)


def _clips(writer: Writer) -> list[tuple[int, int, UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]]:
    """(clip, frame, picture, mask), from 1: the middle 9:16 of a square scene, clips of at most 8 frames."""
    made, left, clip = [], writer.n, 0
    height = round(writer.size * 16 / 9)
    start = (height - writer.size) // 2
    while left > 0:
        clip += 1
        # the first clip is shorter by two, so that lengths differ whatever n is
        count = min(left, CLIP - 2 if clip == 1 else CLIP)
        for k, frame in enumerate(scene_world.clip(height, writer.next(), count), 1):
            held = slice(start, start + writer.size)
            made.append((clip, k, np.ascontiguousarray(frame.image[:, held]), np.ascontiguousarray(frame.mask[:, held])))
        left -= count
    return made


WRITERS: dict[str, Callable[[Writer], None]] = {
    "mvtec": write_mvtec,
    "visa": write_visa,
    "visa-mvtec": write_visa_mvtec,
    "kitti": write_kitti,
    "kitti-raw": write_kitti_raw,
    "tiktok": write_tiktok,
    "tiktok-flat": write_tiktok_flat,
}
