"""How near a drawn object is to the training pictures: the guard of `dataset` against copies."""

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

SIDE = 16  # pixels a side that are compared: shifts of a pixel or two and noise do not hide a copy


def thumbs(images: UInt8[np.ndarray, "n S S 3"]) -> Float64[np.ndarray, "n d"]:
    """Area means at 16 x 16, levels in [0, 1], divided by the root of their number: distances are root mean squares."""
    small = [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BOX), np.float64) / 255 for i in images]
    return np.stack(small).reshape(len(small), -1) / np.sqrt(SIDE * SIDE * 3)


def nearest(
    images: UInt8[np.ndarray, "n S S 3"], bank: Float64[np.ndarray, "m d"]
) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Similarity of each picture to the most similar one of `bank`, and that one's place.

    Similarity is 1 minus the root mean square difference of levels; 1 is a copy. Each picture is also compared mirrored and turned
    by quarters, as training may turn its pictures.
    """
    best, place = np.full(len(images), -np.inf), np.zeros(len(images), np.int64)
    for quarters in range(4):
        for mirrored in (False, True):
            moved = np.rot90(images[:, :, ::-1] if mirrored else images, quarters, (1, 2))
            rows = thumbs(np.ascontiguousarray(moved))
            square = (rows**2).sum(1)[:, None] + (bank**2).sum(1)[None] - 2 * rows @ bank.T
            index = square.argmin(1)
            # the product above loses digits where rows are equal; the nearest is measured directly
            found = 1 - np.sqrt(((rows - bank[index]) ** 2).sum(1))
            better = found > best
            best, place = np.where(better, found, best), np.where(better, index, place)
    return best, place
