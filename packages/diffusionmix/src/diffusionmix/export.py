"""Masks and boxes in the formats of detection and segmentation tools: COCO JSON with run lengths, YOLO text."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from graft_common.phantoms import box_of


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """COCO's uncompressed counts: columns from left to right, first the number of zeros, then of ones, and so on."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def tight_box(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """x, y, width, height of what the mask marks. Raises ValueError for an empty one."""
    left, top, right, bottom = box_of(mask)
    return left, top, right - left, bottom - top


def coco(
    pictures: Sequence[tuple[str, tuple[int, int]]],
    instances: Sequence[tuple[int, int, Bool[np.ndarray, "H W"]]],
    classes: Sequence[str],
) -> dict[str, Any]:
    """COCO JSON.

    Args:
        pictures: (file name, (height, width)).
        instances: (place of its picture, class index, mask), one an object.
        classes: their names; ids count from 1.
    """
    annotations = []
    for number, (picture, label, mask) in enumerate(instances, 1):
        outline = {"size": list(mask.shape), "counts": run_lengths(mask)}
        about = {"id": number, "image_id": picture + 1, "category_id": label + 1, "iscrowd": 0}
        annotations.append(about | {"bbox": list(tight_box(mask)), "area": int(mask.sum()), "segmentation": outline})
    return {
        "info": {"description": "synthetic pictures (graft-diffusionmix dataset)", "version": "1"},
        "images": [
            {"id": i, "file_name": name, "height": size[0], "width": size[1]} for i, (name, size) in enumerate(pictures, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(classes, 1)],
    }


def yolo_line(label: int, mask: Bool[np.ndarray, "H W"]) -> str:
    """Class index and box centre, width, height as shares of the picture."""
    x, y, w, h = tight_box(mask)
    height, width = mask.shape
    return f"{label} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}\n"


def yolo_yaml(classes: Sequence[str]) -> str:
    """Data file for YOLO trainers: paths count from its own folder."""
    names = "".join(f"  {i}: {json.dumps(name)}\n" for i, name in enumerate(classes))
    return f"# validate on real pictures: replace val\ntrain: yolo.txt\nval: yolo.txt\nnames:\n{names}"


def yolo_list(files: Sequence[str]) -> str:
    """Picture files, one a line; each picture's text lies beside it."""
    return "".join(f"./{name}\n" for name in files)
