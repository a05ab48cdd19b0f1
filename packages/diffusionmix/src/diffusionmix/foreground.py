"""Where drawn boxes may lie: a mask file, or Otsu's threshold on the background."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.pixels import read_mask


def read_foreground(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """A mask file of the picture's (height, width).

    Raises:
        InputError: unreadable, empty or full, or of another size.
    """
    mask = read_mask(path)
    if mask.shape != size:
        (h, w), (height, width) = mask.shape, size
        raise InputError(f"--foreground-mask {typed(path)}: is {w}x{h} but the picture is {width}x{height}; give both one size")
    return mask


def otsu(image: UInt8[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"]:
    """The class, above or below Otsu's grey threshold, that holds less of the picture's border.

    Raises:
        InputError: a picture of one grey level.
    """
    from skimage.filters import threshold_otsu

    grey = image @ np.array([0.299, 0.587, 0.114])
    if float(np.ptp(grey)) < 1:
        raise InputError("--foreground otsu: the background is of one grey level; give a mask file instead")
    bright = grey > threshold_otsu(grey)
    border = np.concatenate([bright[0], bright[-1], bright[1:-1, 0], bright[1:-1, -1]])
    return ~bright if border.mean() > 0.5 else bright
