"""Result -> files, each written beside and renamed, each saying that it is synthetic."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from graft_common.pixels import output_suffixes, write_like, write_mask_like
from graft_common.raster import write_png
from tficomp.panel import panel, sample_row, to_uint8
from tficomp.records import Inputs, Result


def write_result(result: Result, folder: Path, note: dict[str, Any]) -> list[str]:
    """Write result, copy_paste and lesion_mask into `folder`; returns their names.

    A PNG of each is always there. Where the background has another format, the result and the mask are also written in
    that format, with stored values kept outside the mask. Of several lesions each has a `lesion_mask_<i>.png` as well.
    """
    names = ["result.png", "copy_paste.png", "lesion_mask.png"]
    suffix = output_suffixes(result.picture)[0]
    everywhere = np.ones_like(result.changed)
    if suffix == ".png":
        write_like(result.picture, result.pixels, result.changed, folder / names[0], note)
        write_like(result.picture, result.copy_paste, everywhere, folder / names[1], note)
    else:
        for name, pixels in zip(names, (result.pixels, result.copy_paste), strict=False):
            write_png(folder / name, _shown(pixels), note)
        write_like(result.picture, result.pixels, result.changed, folder / f"result{suffix}", note)
        write_mask_like(result.picture, result.lesion_mask, folder / f"lesion_mask{suffix}", note)
        names += [f"result{suffix}", f"lesion_mask{suffix}"]
    masks = {"lesion_mask.png": result.lesion_mask}
    if len(result.lesion_masks) > 1:  # each lesion's own; one that later ones cover wholly has none
        masks |= {f"lesion_mask_{i}.png": mask for i, mask in enumerate(result.lesion_masks, start=1) if mask.any()}
    for name, mask in masks.items():
        write_png(folder / name, mask.astype(np.uint8) * np.uint8(255), note)
    return names + list(masks)[1:]


def write_panel(samples: list[tuple[Inputs, Result]], path: Path, title: str, note: dict[str, Any]) -> None:
    """One labelled row a sample."""
    write_png(path, np.asarray(panel([sample_row(i, r) for i, r in samples], title)), note)


def _shown(pixels: Float[np.ndarray, "C H W"]) -> UInt8[np.ndarray, "H W *C"]:
    array = to_uint8(pixels)
    return array[..., 0] if pixels.shape[0] == 1 else array
