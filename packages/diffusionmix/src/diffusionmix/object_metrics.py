"""What an object model is judged by: decided masks, masks that fit what is drawn, areas, and distance to training pictures."""

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

DECIDED = 0.8  # |mask channel| of a pixel that has made up its mind
SHARE = 0.95  # of the pixels of a decided mask
RING = 0.08  # width of the rim that shows surroundings alone, as a share of the crop's side
SMALL = 32  # side in pixels at which pictures are compared with training pictures


def decided(channel: Float[np.ndarray, "n S S2"]) -> Bool[np.ndarray, "n"]:
    """Which samples have a decided mask: |value| above 0.8 on at least 95 % of the pixels.

    Args:
        channel: the object model's fourth channel as it came out, in [-1, 1].
    """
    sure = np.abs(channel) > DECIDED
    return sure.mean(axis=(1, 2)) >= SHARE


def colour_object(image: UInt8[np.ndarray, "S S2 3"]) -> Bool[np.ndarray, "S S2"]:
    """The object by colour alone, knowing no mask: Otsu's threshold on the CIELAB distance to the surroundings, without
    specks under a twentieth of the largest piece.

    The surroundings are the rim of the crop, as `prepare` cuts it; their colour may fall off linearly across the picture.
    """
    from skimage.color import rgb2lab
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    lab = rgb2lab(image)
    h, w = image.shape[:2]
    rows, cols = np.mgrid[:h, :w]
    edge = max(1, round(RING * min(h, w)))
    rim = np.minimum(np.minimum(rows, h - 1 - rows), np.minimum(cols, w - 1 - cols)) < edge
    base = np.stack([np.ones_like(rows), rows / h - 0.5, cols / w - 0.5], axis=-1).astype(np.float64)
    kept = rim.copy()
    for _ in range(3):  # an object that touches the rim is dropped from it
        plane, *_ = np.linalg.lstsq(base[kept], lab[kept], rcond=None)
        apart = np.linalg.norm(lab - base @ plane, axis=-1)
        kept = rim & (apart <= 2.5 * max(1.0, float(np.median(apart[rim]))))
    if not apart.max() > apart.min():
        return np.zeros((h, w), bool)
    found = apart > threshold_otsu(apart)
    pieces = label(found, connectivity=2)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.isin(pieces, np.flatnonzero(sizes >= max(1.0, sizes.max() / 20))) & found


def mask_iou(a: Bool[np.ndarray, "H W"], b: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def near_share(a: Bool[np.ndarray, "H W"], b: Bool[np.ndarray, "H W"]) -> float:
    """The smaller of the two shares: pixels of one mask within 1 px (also diagonally) of the other. For lines, whose IoU a
    shift by one pixel halves. 0 where one mask alone is empty, 1 where both are."""
    from scipy.ndimage import binary_dilation

    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    around = np.ones((3, 3), bool)
    return float(min(binary_dilation(b, around)[a].mean(), binary_dilation(a, around)[b].mean()))


def area_distance(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "m"]) -> float:
    """First Wasserstein distance between two sets of mask areas (in the unit of the areas)."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(a, b))


def expected_area_distance(
    pool: Float[np.ndarray, "n"], held: Float[np.ndarray, "m"], count: int, seed: int = 0, draws: int = 200
) -> float:
    """Mean `area_distance` to `held` of `count` areas drawn from `pool` without repeats: what a sample of that size from the
    training distribution itself would score (the distance of few samples is above that of many)."""
    rng = np.random.default_rng([seed, 91])
    count = min(count, len(pool))
    return float(np.mean([area_distance(rng.choice(pool, count, replace=False), held) for _ in range(draws)]))


def thumbnails(images: UInt8[np.ndarray, "n S S2 3"]) -> Float64[np.ndarray, "n d"]:
    """Pictures as flat vectors at 32 x 32 (antialiased), scaled so that Euclidean distance is the root mean square difference
    of levels in [0, 1]."""
    from graft_common.resample import resize

    planes = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    small = planes if planes.shape[2:] == (SMALL, SMALL) else resize(planes, (SMALL, SMALL))
    flat = small.reshape(len(images), -1).astype(np.float64)
    return flat / np.sqrt(flat.shape[1])


def nearest_distance(
    queries: UInt8[np.ndarray, "n S S2 3"], bank: UInt8[np.ndarray, "m S S2 3"], turns: bool = True
) -> Float64[np.ndarray, "n"]:
    """Distance of each picture to the nearest of `bank`, as `thumbnails` measures it; 0 for a copy.

    Args:
        turns: also compare mirrored and quarter-turned, since training may show pictures so.
    """
    known, seen = thumbnails(bank), thumbnails(queries)
    squares = seen.reshape(len(queries), 3, SMALL, SMALL)  # resizing commutes with turning
    best = np.full(len(queries), np.inf)
    for k, flip in [(k, flip) for k in range(4) for flip in (False, True)] if turns else [(0, False)]:
        moved = np.rot90(squares[..., ::-1] if flip else squares, k, axes=(2, 3)).reshape(len(queries), -1)
        for start in range(0, len(moved), 64):
            part = moved[start : start + 64]
            apart = (part**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * part @ known.T
            exact = np.sqrt(((part - known[apart.argmin(axis=1)]) ** 2).sum(axis=1))  # a copy is 0 apart, without cancellation
            best[start : start + 64] = np.minimum(best[start : start + 64], exact)
    return best
