"""Blend the seam of a finished picture once more: Laplacian pyramid or Poisson (spec 6)."""

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from diffusionmix.box import Box

Image = UInt8[np.ndarray, "H W 3"]
REACH = 4  # pyramid levels at most: the seam is spread over about 2**4 pixels
ROOM = 2  # pixels that the Poisson solver needs around the mask


def finish(
    image: Image, base: Image, square: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "H W"], box: Box, how: str
) -> Image:
    """The picture with a softer seam; unchanged for "none" and for an empty mask.

    Args:
        image: merged picture, the object in place.
        base: what is kept outside the mask: the photograph, or the merged picture itself.
        square: the object chain's own picture, which knows what lies around the object.
        mask: where the object is seen.
        box: where `square` goes.
        how: "none"; "laplacian" (pixels on both sides of the seam change) or "poisson" (those inside the mask change, in 8 bits).
    """
    import cv2

    if how == "none" or not mask.any():
        return image
    content = base.copy()
    shape = (box.w, box.h)
    way = cv2.INTER_AREA if box.w * box.h < square.shape[0] * square.shape[1] else cv2.INTER_LINEAR
    content[box.y : box.y + box.h, box.x : box.x + box.w] = cv2.resize(square, shape, interpolation=way)
    content[mask] = image[mask]
    return laplacian(content, base, mask) if how == "laplacian" else poisson(content, base, mask)


def laplacian(inside: Image, outside: Image, mask: Bool[np.ndarray, "H W"]) -> Image:
    """Both pictures mixed band by band, each band under the mask blurred to its scale (Burt and Adelson 1983).

    The pyramid is as deep as the object is large, so that its middle stays what it is.
    """
    import cv2

    extent = min(mask.any(0).sum(), mask.any(1).sum())
    levels = int(np.clip(np.log2(max(2, extent / 4)), 1, REACH))
    a, b, m = (_gaussians(x.astype(np.float32), levels) for x in (inside, outside, mask))
    out = _blend(a[-1], b[-1], m[-1])
    for i in range(levels - 1, -1, -1):
        size = (a[i].shape[1], a[i].shape[0])
        fine_a = a[i] - cv2.pyrUp(a[i + 1], dstsize=size)
        fine_b = b[i] - cv2.pyrUp(b[i + 1], dstsize=size)
        out = cv2.pyrUp(out, dstsize=size) + _blend(fine_a, fine_b, m[i])
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def poisson(inside: Image, outside: Image, mask: Bool[np.ndarray, "H W"]) -> Image:
    """The gradients of `inside` under the mask, joined to `outside` on its rim (Perez et al. 2003)."""
    import cv2

    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    room = ROOM + 1
    edge = ((room, room), (room, room))
    a, b = (np.pad(x, (*edge, (0, 0)), mode="reflect") for x in (inside, outside))
    wide = np.pad(mask, edge)
    # seamlessClone centres the mask's bounding rectangle at the point it is given
    top, left, bottom, right = rows[0] + room, columns[0] + room, rows[-1] + room, columns[-1] + room
    centre = (int(left + (right - left + 1) // 2), int(top + (bottom - top + 1) // 2))
    out = cv2.seamlessClone(a, b, wide.astype(np.uint8) * 255, centre, cv2.NORMAL_CLONE)[room:-room, room:-room]
    return np.where(mask[..., None], out, outside)


def _gaussians(x: Float32[np.ndarray, "H W *C"], levels: int) -> list[np.ndarray]:
    import cv2

    out = [x]
    for _ in range(levels):
        out.append(cv2.pyrDown(out[-1]))
    return out


def _blend(a: np.ndarray, b: np.ndarray, m: np.ndarray) -> np.ndarray:
    return m[..., None] * a + (1 - m[..., None]) * b
