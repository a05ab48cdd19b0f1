"""Composed samples as a detection and segmentation data set: COCO JSON or YOLO text beside the pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from graft_common.console import write_json
from graft_common.files import write_bytes
from graft_common.phantoms import box_of
from graft_common.pixels import read_mask

NAMES = ("lesion",)


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """COCO's uncompressed run lengths: column by column, starting with the zeros."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([[0], edges, [mask.size]]) if edges.size else np.array([0, mask.size])
    lengths = np.diff(ends)
    return [int(n) for n in (lengths[:-1] if lengths[-1] == 0 else lengths)]


def lesion_masks(folder: Path) -> list[Bool[np.ndarray, "H W"]]:
    """One mask a lesion of a result's folder: `lesion_mask_<i>.png` where there are several, else `lesion_mask.png`."""
    several = sorted(folder.glob("lesion_mask_*.png"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return [read_mask(path) for path in several or [folder / "lesion_mask.png"]]


def export_coco(out: Path, keys: Sequence[str]) -> list[str]:
    """Write `coco.json`: one image a sample and one annotation (run lengths, box, area) a lesion."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, key in enumerate(keys, start=1):
        masks = lesion_masks(out / key)
        height, width = masks[0].shape
        images.append({"id": i, "file_name": f"{key}/result.png", "width": width, "height": height})
        for mask in masks:
            left, top, right, bottom = box_of(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0, "area": int(mask.sum()),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
                }
            )  # fmt: skip
    info = {"description": "Synthetic images made by Graft tficomp; not for diagnosis"}
    categories = [{"id": 1, "name": NAMES[0]}]
    write_json(
        out / "coco.json", {"info": info, "images": images, "annotations": annotations, "categories": categories}
    )
    return ["coco.json"]


def export_yolo(out: Path, keys: Sequence[str]) -> list[str]:
    """Write `<id>/result.txt` (a line a lesion: class, box centre and size as shares of the picture), `images.txt` and
    `data.yaml`."""
    names = []
    for key in keys:
        lines = []
        for mask in lesion_masks(out / key):
            left, top, right, bottom = box_of(mask)
            h, w = mask.shape
            numbers = ((left + right) / 2 / w, (top + bottom) / 2 / h, (right - left) / w, (bottom - top) / h)
            lines.append("0 " + " ".join(f"{x:.6f}" for x in numbers) + "\n")
        write_bytes(out / key / "result.txt", "".join(lines).encode())
        names.append(f"{key}/result.txt")
    write_bytes(out / "images.txt", "".join(f"./{key}/result.png\n" for key in keys).encode())
    yaml = (
        f"# synthetic images, not for diagnosis\npath: .\ntrain: images.txt\nval: images.txt\nnames:\n  0: {NAMES[0]}\n"
    )
    write_bytes(out / "data.yaml", yaml.encode())
    return [*names, "images.txt", "data.yaml"]
