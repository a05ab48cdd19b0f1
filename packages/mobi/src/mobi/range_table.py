"""How well range crops survive an autoencoder: the paper's Table 2.1 in true units (mobi spec section 6)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from graft_common.rangeview import (
    enlarge,
    has_return,
    metres,
    points_in_box,
    range_mask,
    reduce,
    restore_depth,
    restore_intensity,
    take_crop,
)
from mobi.metrics import Number, median_error, root_mean_square
from mobi.place import range_pixels
from mobi.records import Placed

IMAGE_VAE, POOLED, AWARE, ADAPTED = "image VAE", "+ average pooling", "+ object-aware norm", "+ adapters"
ROWS = (IMAGE_VAE, POOLED, AWARE, ADAPTED)
Trip = Callable[[Float[Tensor, "B c D D"]], Float[Tensor, "B c D D"]]


@dataclass(frozen=True)
class Setting:
    """One row: whether blocks are averaged (else their middle pixel is taken), depth spread about the object, and which network."""

    pooled: bool
    aware: bool
    adapted: bool


SETTINGS = {
    IMAGE_VAE: Setting(False, False, False),
    POOLED: Setting(True, False, False),
    AWARE: Setting(True, True, False),
    ADAPTED: Setting(True, True, True),
}


def range_errors(placed: Sequence[Placed], image_trip: Trip, range_trip: Trip) -> list[dict[str, dict[str, Number]]]:
    """For each crop and each of `ROWS`: depth_object, depth_mask (median absolute, metres), intensity_object, intensity_mask (root
    mean square, 0..255), over returns in the box and over returns in the edit mask.

    Args:
        image_trip: (B, 3, D, D) -> the same through the image autoencoder. It gets depth, intensity and their mean as its three
            colours; the first two are read back.
        range_trip: (B, 2, D, D) -> the same through the autoencoder with the range crops' own first and last stage.
    """
    out: list[dict[str, dict[str, Number]]] = [{} for _ in placed]
    for name, setting in SETTINGS.items():
        crops = torch.stack([_crop(p, setting.aware) for p in placed])
        colours = torch.cat([crops, crops.mean(1, keepdim=True)], 1)
        back = range_trip(crops) if setting.adapted else image_trip(colours)[:, :2]
        for row, p, one in zip(out, placed, back, strict=True):
            row[name] = _errors(p, one, setting)
    return out


def _crop(p: Placed, aware: bool) -> Float[Tensor, "2 D D"]:
    crop = range_pixels(p)
    if not aware:
        crop[0] = enlarge(take_crop(p.view.depth, p.range_crop, p.scene.sensor), p.size)
    return crop


def restore(
    p: Placed, crop: Float[Tensor, "2 D D"], setting: Setting
) -> tuple[Float64[np.ndarray, "r w"], Float64[np.ndarray, "r w"]]:
    """Metres and intensity of each pixel of the range crop."""
    sensor, width = p.scene.sensor, p.range_crop.width
    values = crop.detach().cpu().double().clamp(-1, 1)
    if setting.pooled:
        values = reduce(values, sensor.rows, width)
    else:
        tall, wide = p.size // sensor.rows, p.size // width
        values = values[:, tall // 2 :: tall, wide // 2 :: wide]
    depth = restore_depth(values[0], *p.band) if setting.aware else values[0]
    return metres(depth, sensor).numpy(), restore_intensity(values[1]).numpy()


def _errors(p: Placed, crop: Float[Tensor, "2 D D"], setting: Setting) -> dict[str, Number]:
    sensor, view = p.scene.sensor, p.view
    depth, intensity = restore(p, crop, setting)
    true_depth, true_intensity, returned, index = (
        take_crop(x, p.range_crop, sensor).numpy()
        for x in (metres(view.depth.double(), sensor), view.intensity.double(), has_return(view, sensor), view.index)
    )
    in_box = points_in_box(p.scene.points, p.box).numpy()
    own = returned & in_box[index.clip(0)]
    mask = returned & range_mask(p.box, p.range_crop, sensor, returned.shape).numpy()
    return {
        "depth_object": median_error(depth, true_depth, own),
        "depth_mask": median_error(depth, true_depth, mask),
        "intensity_object": root_mean_square(intensity, true_intensity, own),
        "intensity_mask": root_mean_square(intensity, true_intensity, mask),
    }
