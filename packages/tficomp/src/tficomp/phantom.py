"""The verb `phantom`: a small synthetic data set in the layout and naming of Br35H or BUSI (spec 5.4)."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from graft_common import phantoms, raster
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import typed, write_bytes
from graft_common.phantoms import box
from graft_common.provenance import stamp
from tficomp.config import PhantomConfig

LEAST, MOST = 200, 630  # px, sides of the pictures
NOTICE = "SYNTHETIC.txt"
TEXT = """Synthetic pictures, drawn by Graft (graft-tficomp phantom). Not for diagnosis.

They only borrow the folder layout and the file names of {name}; no picture or outline of it is here.
"""
FULL_NAMES = {"br35h": "Br35H (Brain Tumor Detection 2020)", "busi": "BUSI (Breast Ultrasound Images)"}
SPLITS = ("TRAIN", "VAL", "TEST")
Note = dict[str, Any]
Write = Callable[[str, bytes], None]


@dataclass(frozen=True, eq=False)
class Drawn:
    """One phantom as it goes to disk: (H, W, 3) with equal channels, its lesion (all False without), its own seed."""

    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"]
    seed: int


def run_phantom(config: PhantomConfig, command: list[str]) -> dict[str, Any]:
    """Write `n` pictures a class; the same seed writes the same bytes.

    Raises:
        InputError: the folder is a file or holds something already.
    """
    if config.n < 1:
        raise InputError(f"--n {config.n}: must be at least 1")
    if config.seed < 0:
        raise InputError(f"--seed {config.seed}: must be 0 or more")
    folder = checked_out(config.folder, "folder ")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{typed(config.folder)}: is not empty; choose a new folder")
    record = Run(command, config, "graft-tficomp")
    note = stamp("tficomp", config.seed, {}, {}) | {"world": "phantom"}

    def write(name: str, data: bytes) -> None:
        write_bytes(folder / name, data)
        record.outputs.append(name)

    write(NOTICE, TEXT.format(name=FULL_NAMES[config.layout]).encode())  # first: no picture without it
    classes = 2 if config.layout == "br35h" else 3
    with record.stage("draw"), progress("draw", classes * config.n, quiet=config.json) as advance:
        (_br35h if config.layout == "br35h" else _busi)(config, note, write, advance)
    record.measures = {"pictures": classes * config.n, "layout": config.layout}
    return record.write(folder)


def _br35h(config: PhantomConfig, note: Note, write: Write, advance: Callable[[int], None]) -> None:
    """yes/, no/ and the marked copies with one VIA file a split; from four pictures on, the last has no outline."""
    sheets: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    outlines = (polygon, ellipse, circle)
    for i in range(config.n):
        drawn = draw("brain", config.seed, i, side=("left", "right")[i % 2], touch=i == 1)
        name = f"y{i}.JPG" if i == 2 else f"y{i}.jpg"
        data = _jpeg(_coloured(drawn.image, i), note | {"seed": drawn.seed})
        write(f"yes/{name}", data)
        split = ("TRAIN", "TRAIN", "TRAIN", "VAL", "TEST")[i % 5]
        write(f"Br35H-Mask-RCNN/{split}/{name}", data)
        if i < 3 or i < config.n - 1:
            region = {"shape_attributes": outlines[i % 3](drawn.mask), "region_attributes": {}}
            regions = {"0": region} if split == "VAL" else [region]  # both are found in the wild
            sheets[split][f"{name}{len(data)}"] = {
                "filename": name, "size": len(data), "regions": regions, "file_attributes": {}
            }  # fmt: skip
        advance(1)
        plain = draw("brain", config.seed, config.n + i)
        write(
            f"no/no {i}.jpg" if i % 3 == 1 else f"no/no{i}.jpg",
            _jpeg(_coloured(plain.image, i), note | {"seed": plain.seed}),
        )
        advance(1)
    for split, sheet in sheets.items():
        write(f"Br35H-Mask-RCNN/{split}/annotations_{split.lower()}.json", (json.dumps(sheet) + "\n").encode())


def _busi(config: PhantomConfig, note: Note, write: Write, advance: Callable[[int], None]) -> None:
    """Three classes; benign (1) has a mask with alpha, (2) two lesions and masks, malignant (1) touches the border."""
    root = "Dataset_BUSI_with_GT"
    for k, kind in enumerate(("benign", "malignant", "normal")):
        for i in range(config.n):
            two, touch = kind == "benign" and i == 1, kind == "malignant" and i == 0
            drawn = draw(
                "ultrasound",
                config.seed,
                k * config.n + i,
                side="none" if kind == "normal" else kind,
                touch=touch,
                twice=two,
            )
            own, stem = note | {"seed": drawn.seed}, f"{root}/{kind}/{kind} ({i + 1})"
            write(f"{stem}.png", raster.encode(_coloured(drawn.image, i), "png", own))
            masks = [drawn.mask]
            if two:
                half = np.arange(drawn.mask.shape[1]) < drawn.mask.shape[1] // 2
                masks = [drawn.mask & half, drawn.mask & ~half]
            for j, mask in enumerate(masks):
                name = f"{stem}_mask.png" if j == 0 else f"{stem}_mask_{j}.png"
                write(name, raster.encode(_grey_mask(mask, alpha=kind == "benign" and i == 0), "png", own))
            advance(1)


def draw(world: str, seed: int, index: int, side: str = "none", touch: bool = False, twice: bool = False) -> Drawn:
    """Picture `index` of a set: LEAST to MOST px a side, seldom square; nothing of it depends on the other pictures.

    Args:
        side: value of the world's one attribute (brain: none, left, right; ultrasound: none, benign, malignant).
        touch: cut the picture through the middle of its lesion.
        twice: mirror it at its right edge, which gives two lesions.
    """
    rng = np.random.default_rng([515, seed, index])
    size = int(rng.integers(LEAST, MOST + 1))
    if touch or twice:  # halved or doubled: what remains stays in the range
        size = int(rng.integers(*((MOST * 2 // 3, MOST + 1) if touch else (LEAST, MOST // 2 + 1))))
    own = int(rng.integers(2**31))
    phantom = phantoms.draw(world, size, own, **{"tumor" if world == "brain" else "lesion": side})
    mask = phantom.masks["tumor" if world == "brain" else "lesion"]
    left, _, right, _ = box(mask) or (size // 2, 0, size // 2, 0)
    room = max(0, size - LEAST)
    # Trim one pair of sides, never into the lesion unless asked.
    a, b = (
        int(min(rng.uniform(0, 0.1) * size, room / 2, free)) for free in (max(left - 1, 0), max(size - right - 1, 0))
    )
    if touch:
        middle = (left + right) // 2
        a, b = (middle, 0) if middle < size / 2 else (0, size - middle)
    image, mask = phantom.image[:, a : size - b], mask[:, a : size - b]
    if twice:
        image, mask = np.concatenate([image, image[:, ::-1]], 1), np.concatenate([mask, mask[:, ::-1]], 1)
    return Drawn(np.ascontiguousarray(image), np.ascontiguousarray(mask), own)


def polygon(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """VIA polygon of the largest part's outline, corners on whole pixels, at most a pixel off."""
    from skimage.measure import approximate_polygon, find_contours

    lines = find_contours(np.pad(mask, 1).astype(float), 0.5)
    line = approximate_polygon(max(lines, key=len), 0.5) - 1
    points = np.rint(line[:-1]).clip(0, np.array(mask.shape) - 1).astype(int)
    return {"name": "polygon", "all_points_x": points[:, 1].tolist(), "all_points_y": points[:, 0].tolist()}


def ellipse(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """VIA ellipse with the mask's second moments; theta turns from x to y (down), in radians."""
    y, x = (values.astype(float) for values in np.nonzero(mask))
    spread, axes = np.linalg.eigh(np.cov(np.stack([x, y]), bias=True) + np.eye(2) / 12)  # a pixel is no point
    theta = math.atan2(axes[1, 1], axes[0, 1])
    rx, ry = 2 * math.sqrt(spread[1]), 2 * math.sqrt(spread[0])
    found = {"cx": x.mean(), "cy": y.mean(), "rx": rx, "ry": ry, "theta": theta}
    return {"name": "ellipse", **{key: round(float(value), 3) for key, value in found.items()}}


def circle(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """VIA circle with the mask's centre and area."""
    y, x = np.nonzero(mask)
    found = {"cx": x.mean(), "cy": y.mean(), "r": math.sqrt(mask.sum() / math.pi)}
    return {"name": "circle", **{key: round(float(value), 3) for key, value in found.items()}}


def _coloured(image: UInt8[np.ndarray, "H W 3"], index: int) -> UInt8[np.ndarray, "H W *C"]:
    """Every other picture as one channel; the real sets mix both."""
    return image[..., 0] if index % 2 else image


def _grey_mask(mask: Bool[np.ndarray, "H W"], alpha: bool) -> UInt8[np.ndarray, "H W *C"]:
    grey = mask.astype(np.uint8) * np.uint8(255)
    return (
        np.stack([np.full_like(grey, 255), grey], axis=-1) if alpha else grey
    )  # white, seen through where there is none


def _jpeg(image: UInt8[np.ndarray, "H W *C"], note: Note) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, format="JPEG", quality=92, comment=json.dumps(note, sort_keys=True).encode())
    return out.getvalue()
