"""Where a lesion can go when the user does not say: inside the tissue, at the lesion's own share of it (spec 5.3)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label

from graft_common.errors import InputError
from graft_common.phantoms import box_of

REFERENCE = 512  # the constants below are at 512 px
LEAST, MOST, BORDER = 48, 192, 16


def tissue_mask(pixels: Float[np.ndarray, "C H W"]) -> Bool[np.ndarray, "H W"]:
    """The largest bright connected part, holes filled; the whole picture when there is no dark surround."""
    grey = pixels.mean(axis=0)
    smooth = ndimage.gaussian_filter(grey, max(1.0, min(grey.shape) / 100))
    spread = float(smooth.max() - smooth.min())
    if spread < 1e-3:
        return np.ones(grey.shape, bool)
    # Tissue against air: well below Otsu, which would also split bright from dark tissue.
    level = min(float(threshold_otsu(smooth)), float(smooth.min()) + 0.15 * spread)
    parts = label(smooth > level)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes(parts == sizes.argmax())


def place_in_tissue(
    background: Float[np.ndarray, "C H W"],
    image: Float[np.ndarray, "C2 H2 W2"],
    mask: Bool[np.ndarray, "H2 W2"],
    seed: int,
    taken: Sequence[Bool[np.ndarray, "H W"]] = (),
) -> Bool[np.ndarray, "H W"]:
    """A box for the lesion inside the background's tissue, drawn from `seed`.

    Its long side is the lesion's share of its own tissue's diameter times the background's, between 48 and 192 px of 512,
    and it keeps 16 px of 512 from the border. Earlier lesions' boxes (`taken`) are avoided where there is room.

    Raises:
        InputError: the background holds no tissue with room for it.
    """
    height, width = background.shape[1:]
    scale = min(height, width) / REFERENCE
    tissue = tissue_mask(background)
    left, top, right, bottom = box_of(mask)
    share = max(right - left, bottom - top) / _diameter(tissue_mask(image))
    long = float(np.clip(share * _diameter(tissue), LEAST * scale, MOST * scale))
    aspect = (right - left) / (bottom - top)
    w, h = (long, long / aspect) if aspect >= 1 else (long * aspect, long)
    w, h = max(1, round(w)), max(1, round(h))
    border = round(BORDER * scale)
    inner = tissue.copy()
    inner[:border], inner[height - border :], inner[:, :border], inner[:, width - border :] = False, False, False, False
    rng = np.random.default_rng([512, seed])
    # A centre is allowed where the whole box fits: erode by the box; relax to the tissue's core when nothing is left.
    # Rectangles as running minima and maxima: the same sets as binary morphology, thousands of times faster.
    room = ndimage.minimum_filter(inner, size=(h, w), mode="constant", cval=0)
    if not room.any():
        depth = ndimage.distance_transform_edt(inner)
        room = depth >= max(1.0, 0.9 * float(depth.max()))
    if taken:
        near = ndimage.maximum_filter(np.logical_or.reduce(taken), size=(h, w), mode="constant", cval=0)
        room = room & ~near if (room & ~near).any() else room
    rows, cols = np.nonzero(room)
    if rows.size == 0:
        raise InputError("--user-mask: none given and no tissue found on the background; give a mask of where it goes")
    pick = int(rng.integers(rows.size))
    y0 = int(np.clip(rows[pick] - h // 2, 0, height - h))
    x0 = int(np.clip(cols[pick] - w // 2, 0, width - w))
    out = np.zeros((height, width), bool)
    out[y0 : y0 + h, x0 : x0 + w] = True
    return out


def _diameter(mask: Bool[np.ndarray, "H W"]) -> float:
    return 2 * float(np.sqrt(mask.sum() / np.pi))
