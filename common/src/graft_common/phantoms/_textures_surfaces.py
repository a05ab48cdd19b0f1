"""The four surfaces of the world `textures`: brick, grass, wood and fabric, each a pure function of coordinates.

Lengths are in 64ths of the picture's width ("units"), so that one surface looks alike at every picture size; at 64 px a
unit is a pixel. Every random draw has a fixed shape, so a seed shows the same surface at every size.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float

UNITS = 64.0
MARGIN = 64  # cells of slack in the tables of per-brick, per-blade and per-thread numbers, for rotated coordinates

BRICK_COLORS = ((158, 72, 52), (168, 88, 62), (136, 60, 50), (172, 102, 76), (150, 84, 70))
MORTAR_COLORS = ((206, 200, 188), (190, 188, 182), (214, 206, 186))
GRASS_COLORS = ((86, 146, 46), (74, 134, 52), (112, 158, 50))
WOOD_COLORS = (  # (early wood, late wood): pine, oak, cherry, walnut, ash
    ((224, 182, 122), (166, 110, 58)),
    ((202, 158, 104), (136, 92, 52)),
    ((192, 120, 76), (126, 64, 36)),
    ((148, 106, 72), (84, 54, 34)),
    ((218, 192, 150), (160, 122, 80)),
)
FABRIC_COLORS = (  # (warp, weft): denim, linen, violet, slate, rose, teal, navy
    ((70, 100, 160), (136, 160, 198)),
    ((214, 200, 172), (192, 176, 146)),
    ((122, 84, 152), (150, 116, 176)),
    ((116, 120, 128), (158, 162, 168)),
    ((196, 116, 132), (214, 152, 162)),
    ((62, 128, 138), (104, 164, 170)),
    ((52, 62, 112), (84, 96, 150)),
)


@lru_cache(maxsize=16)
def axis(size: int) -> Float[np.ndarray, " size"]:
    """Pixel centres along one side, in units."""
    line = (np.arange(size) + 0.5) * (UNITS / size)
    line.flags.writeable = False
    return line


@lru_cache(maxsize=256)
def _splines(size: int, cells: int) -> Float[np.ndarray, "size knots"]:
    """Uniform cubic B-spline weights of `cells` + 3 knots at `size` pixel centres."""
    knots = np.arange(cells + 3) - 1.0
    gap = np.abs(axis(size)[:, None] * (cells / UNITS) - knots)
    near, far = 2 / 3 - gap**2 + gap**3 / 2, (2 - gap) ** 3 / 6
    weights = np.where(gap < 1, near, np.where(gap < 2, far, 0.0))
    weights.flags.writeable = False
    return weights


def smooth_noise(rng: np.random.Generator, size: int, rows: int, cols: int) -> Float[np.ndarray, "size size"]:
    """Gaussian noise of unit variance that bends once per cell of a (rows, cols) lattice; the same field at every size."""
    values = rng.standard_normal((rows + 3, cols + 3))
    gain = 151 / 315  # mean sum of squared cubic B-spline weights along one axis
    return _splines(size, rows) @ values @ _splines(size, cols).T / gain


def rotated(size: int, degrees: float) -> tuple[Float[np.ndarray, "size size"], Float[np.ndarray, "size size"]]:
    """Coordinates (x, y) in units, turned about the picture's centre."""
    line = axis(size) - UNITS / 2
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x = cos * line[None, :] + sin * line[:, None]
    y = -sin * line[None, :] + cos * line[:, None]
    return x + UNITS / 2, y + UNITS / 2


def coverage(inside: Float[np.ndarray, "*shape"], size: int) -> Float[np.ndarray, "*shape"]:
    """Antialiased share of a pixel that lies inside, from the signed distance in units (positive inside)."""
    return np.clip(0.5 + inside * (size / UNITS), 0.0, 1.0)


def pick(rng: np.random.Generator, colors: tuple) -> np.ndarray:
    """One entry of a colour table, in [0, 1]."""
    return np.array(colors[int(rng.integers(len(colors)))]) / 255.0


def brick(rng: np.random.Generator, size: int) -> tuple[Float[np.ndarray, "size size 3"], float]:
    """Running-bond brickwork in [0, 1], and its course height in units."""
    course = rng.uniform(10.0, 13.5)
    length, mortar = course * rng.uniform(1.9, 2.4), rng.uniform(2.2, 3.0)
    x, y = rotated(size, rng.normal(0.0, 2.0))
    x = x + 0.45 * smooth_noise(rng, size, 12, 12) + rng.uniform(0, length)
    y = y + 0.35 * smooth_noise(rng, size, 12, 12) + rng.uniform(0, course)
    row = np.floor(y / course).astype(int)
    x = x + 0.5 * length * (row % 2)
    col = np.floor(x / length).astype(int)
    across, down = x - (col + 0.5) * length, y - (row + 0.5) * course

    corner = 1.2
    gap_x = np.abs(across) - (length - mortar) / 2 + corner
    gap_y = np.abs(down) - (course - mortar) / 2 + corner
    outside = np.hypot(np.maximum(gap_x, 0), np.maximum(gap_y, 0)) + np.minimum(np.maximum(gap_x, gap_y), 0) - corner
    face = coverage(-outside, size)[..., None]

    tone = rng.normal(0.0, 0.11, (MARGIN, MARGIN))[row % MARGIN, col % MARGIN]
    warm = rng.normal(0.0, 0.05, (MARGIN, MARGIN))[row % MARGIN, col % MARGIN]
    edge = np.exp(-((outside + 0.8) ** 2) / 1.6)  # worn edges: lit above and left, shaded below and right
    lit = np.where(gap_y > gap_x, -np.sign(down), -np.sign(across))
    speckle = 0.045 * smooth_noise(rng, size, 22, 22) + 0.03 * smooth_noise(rng, size, 6, 6)
    clay = pick(rng, BRICK_COLORS) * (1 + tone + speckle + 0.13 * edge * lit)[..., None]
    clay = clay * (1 + warm[..., None] * np.array([0.4, 1.0, 1.0]))
    joint = pick(rng, MORTAR_COLORS) * (0.92 + speckle - 0.16 * np.exp(-(outside**2) / 0.8))[..., None]
    return joint + face * (clay - joint), course


def grass(rng: np.random.Generator, size: int) -> tuple[Float[np.ndarray, "size size 3"], float]:
    """Overlapping tapered blades in [0, 1], dark at the root, and their mean spacing in units."""
    spacing, tall = rng.uniform(5.5, 7.5), rng.uniform(19.0, 28.0)
    x, y = rotated(size, rng.normal(0.0, 8.0))
    base, wind = pick(rng, GRASS_COLORS), rng.normal(0.0, 3.0)
    bright, hue = 0.50 + 0.05 * smooth_noise(rng, size, 10, 10), np.zeros((size, size))
    layers = 6
    for layer in range(layers):
        shift, depth = rng.uniform(0, spacing), 0.56 + 0.44 * layer / (layers - 1)
        start, jitter, lean, high, tone, warm = rng.random((6, MARGIN, MARGIN))
        column = np.floor((x + shift) / spacing).astype(int)
        for step in (-1, 0, 1):  # a blade leans at most one column away from its own
            col = column + step
            at = y / tall + start[0, col % MARGIN]
            row = np.floor(at).astype(int)
            key = (row % MARGIN) * MARGIN + col % MARGIN
            up = (1 - (at - row)) / (0.7 + 0.3 * high.ravel()[key])  # 0 at the root, 1 at the tip
            middle = (col + 0.2 + 0.6 * jitter.ravel()[key]) * spacing - shift
            middle += (wind + 9.0 * (lean.ravel()[key] - 0.5)) * up**2
            half = 2.1 * np.sqrt(np.clip(1 - up, 0.0, 1.0))
            blade = coverage(half - np.abs(x - middle), size) * (up < 1)
            seen = np.nonzero(blade)
            share, key = blade[seen], key[seen]
            shade = depth * (0.62 + 0.5 * up[seen]) * (0.86 + 0.32 * tone.ravel()[key])
            bright[seen] += share * (shade - bright[seen])
            hue[seen] += share * (warm.ravel()[key] - 0.4 - hue[seen])
    return base * bright[..., None] * (1 + hue[..., None] * np.array([0.45, 0.12, 0.1])), spacing


def wood(rng: np.random.Generator, size: int) -> tuple[Float[np.ndarray, "size size 3"], float]:
    """A flat-sawn board in [0, 1], growth rings cut into arches, and the mean ring width in units."""
    width = rng.uniform(6.0, 9.5)
    x, y = rotated(size, rng.normal(0.0, 5.0))
    along, across = (x, y) if rng.random() < 0.5 else (y, x)
    lengthways = along is x
    waves = smooth_noise(rng, size, *((4, 2) if lengthways else (2, 4)))
    ripple = smooth_noise(rng, size, *((12, 3) if lengthways else (3, 12)))
    fibre = smooth_noise(rng, size, *((24, 5) if lengthways else (5, 24)))
    pith, apex, slope = rng.uniform(-6, 70), rng.uniform(-30, 94), rng.uniform(0.12, 0.3)
    radius = np.sqrt((across - pith) ** 2 + (slope * (along - apex)) ** 2 + 9.0) + 2.2 * waves + 0.55 * ripple
    turn = 2 * np.pi * radius / width + rng.uniform(0, 2 * np.pi)
    late = np.clip(0.42 + 0.36 * np.sin(turn) + 0.16 * np.sin(2 * turn + 0.9), 0, 1)  # slow rise, quick fall
    early_color, late_color = pick(rng, WOOD_COLORS)
    rgb = early_color + late[..., None] * (late_color - early_color) * rng.uniform(0.8, 1.0)
    return rgb * (1 + 0.035 * fibre + 0.03 * waves)[..., None], width


def fabric(rng: np.random.Generator, size: int) -> tuple[Float[np.ndarray, "size size 3"], float]:
    """Plain weave in [0, 1]: round threads that rise and dive over each other, and the thread pitch in units."""
    pitch, fine = rng.uniform(6.4, 8.8), 2 * size  # drawn at twice the size: one thread's edge over another is sharp
    x, y = rotated(fine, rng.normal(0.0, 7.0))
    u = (x + 0.6 * smooth_noise(rng, fine, 5, 5)) / pitch + rng.uniform(0, 2)
    v = (y + 0.6 * smooth_noise(rng, fine, 5, 5)) / pitch + rng.uniform(0, 2)
    col, row = np.floor(u).astype(int), np.floor(v).astype(int)
    tones, thick = rng.normal(1.0, 0.06, (2, MARGIN)), rng.uniform(0.9, 0.98)

    def thread(gap: np.ndarray, ahead: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        body = np.sqrt(np.clip(1 - (gap * 2 / thick) ** 2, 0, 1))
        rise = np.cos(np.pi * (ahead - 0.5)) * sign
        return np.where(body > 0, 0.8 * rise + body, -1.0), 0.32 + 0.42 * body + 0.26 * (0.5 + 0.5 * rise)

    height_warp, light_warp = thread(u - col - 0.5, v, 1 - 2 * (col % 2))
    height_weft, light_weft = thread(v - row - 0.5, u, 2 * (row % 2) - 1)
    warp_color, weft_color = pick(rng, FABRIC_COLORS)
    warp_up, cloth = height_warp > height_weft, 1.1 + 0.03 * smooth_noise(rng, fine, 6, 6)
    warp = np.where(warp_up, light_warp * tones[0, col % MARGIN] * cloth, 0.0)
    weft = np.where(warp_up, 0.0, light_weft * tones[1, row % MARGIN] * cloth)
    return _halved(warp)[..., None] * warp_color + _halved(weft)[..., None] * weft_color, pitch


def _halved(fine: np.ndarray) -> np.ndarray:
    rows = fine[0::2] + fine[1::2]
    return (rows[:, 0::2] + rows[:, 1::2]) / 4


SURFACES = {"brick": brick, "grass": grass, "wood": wood, "fabric": fabric}
