"""Synthetic dermoscopic images: one lesion on skin, with or without hair, ruler, ink or dark corners.

Everything is composed in CIELAB, so that skin tone (individual typology angle) and lesion colour are exact. The parts
draw from streams of their own: with one seed, changing `artifact` leaves lesion and skin as they are, and so on.
"""

import numpy as np
from jaxtyping import Bool, Float32
from skimage.color import lab2rgb

from graft_common.phantoms._soft_edges import centroid, cover, field, grid, pick, to_bytes
from graft_common.phantoms.record import Phantom

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "color": ("brown", "black", "red", "blue"),
    "skin": ("fair", "tan", "dark"),
    "artifact": ("none", "hair", "ruler", "ink", "corners"),
}
_WORLD = 0xDE57

# Typology angle (degrees), b* and a* of each skin tone. The angles stay 8 degrees or more from the usual class borders
# 55, 41, 28, 10 and -30.
_SKIN = {
    "fair": ((64.0, 69.0), (10.5, 13.5), (8.0, 13.0)),
    "tan": ((18.2, 19.8), (15.0, 20.0), (9.0, 13.0)),
    "dark": ((-56.0, -46.0), (9.5, 12.0), (7.0, 10.0)),
}
# CIELAB of each lesion colour, its spread between seeds, and the swing of L* inside one lesion.
_LESION = {
    "brown": ((38.0, 19.0, 29.5), (3.0, 1.5, 2.0), 9.0),
    "black": ((13.0, 3.0, 3.0), (2.0, 1.0, 1.5), 5.5),
    "red": ((42.0, 42.0, 22.0), (3.0, 3.0, 2.0), 8.0),
    "blue": ((43.0, -2.0, -19.0), (3.0, 1.5, 2.0), 8.0),
}
_PHRASE = {"none": "no artifacts", "hair": "hair", "ruler": "a ruler", "ink": "ink dots", "corners": "dark corners"}
_APERTURE = 0.47  # the lesion stays inside this radius, so that dark corners never hide it


def describe(attributes: dict[str, str]) -> tuple[str, ...]:
    """Captions that state colour, skin and artifact (the first one says nothing when there is no artifact)."""
    color, skin, artifact = attributes["color"], attributes["skin"], attributes["artifact"]
    phrase = _PHRASE[artifact]
    tail = "" if artifact == "none" else f" with {phrase}"
    return (
        f"a dermoscopic image of a {color} lesion on {skin} skin{tail}",
        f"a {color} lesion on {skin} skin with {phrase}, dermoscopic image",
        f"dermoscopy of {skin} skin with a {color} lesion and {phrase}",
    )


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one dermoscopic image.

    Masks: `lesion` (also where hair lies over it) and `artifact` (hair, ruler, ink or corner pixels). Floats, lengths
    in frame units: `area_fraction`, `diameter` (of the disc of equal area), `center_x`, `center_y`, `asymmetry` (0
    symmetric to 1, see `_asymmetry`), `artifact_fraction`, `ita` (degrees, of the mean skin colour more than 0.06
    outside the lesion and within 0.5 of the centre) and `lesion_l`, `lesion_a`, `lesion_b` (mean CIELAB of the lesion
    below any artifact).
    """
    streams = np.random.default_rng([_WORLD, seed]).spawn(5)
    named = pick(streams[0], ATTRIBUTES, fixed)
    inside, where = _outline(streams[1], size)
    lesion = inside > 0
    x, y = grid(size)
    plain = (inside < -0.06) & (np.hypot(x - 0.5, y - 0.5) < 0.5)  # clear of the lesion's soft border
    lab = _skin(streams[2], size, named["skin"], plain)
    _paint_lesion(lab, inside, streams[3], named["color"])
    skin_l, _, skin_b = lab[plain].mean(axis=0, dtype=np.float64)
    lesion_lab = lab[lesion].mean(axis=0, dtype=np.float64)
    artifact = _paint_artifact(lab, streams[4], named["artifact"], where)
    if named["artifact"] == "corners":
        lesion &= ~artifact  # what lies beyond the field of view is not there
    center = centroid(lesion)
    share = float(lesion.mean())
    truth: dict[str, str | float | int] = {
        **named,
        "area_fraction": share,
        "diameter": float(np.sqrt(4 * share / np.pi)),
        "center_x": center[0],
        "center_y": center[1],
        "asymmetry": _asymmetry(lesion),
        "artifact_fraction": float(artifact.mean()),
        "ita": float(np.degrees(np.arctan2(skin_l - 50.0, skin_b))),
        "lesion_l": float(lesion_lab[0]),
        "lesion_a": float(lesion_lab[1]),
        "lesion_b": float(lesion_lab[2]),
    }
    captions = describe(named)
    caption = captions[int(streams[0].integers(len(captions)))]
    return Phantom(to_bytes(lab2rgb(lab)), {"lesion": lesion, "artifact": artifact}, truth, caption, seed)


def _outline(rng: np.random.Generator, size: int) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "361 2"]]:
    """Signed distance to an irregular smooth border (positive inside) and the border as 361 points (x, y)."""
    angle = np.linspace(0.0, 2 * np.pi, 361)
    order = np.arange(2, 7)
    height = rng.normal(0.0, 1.0, 5) * rng.uniform(0.4, 1.3) * np.array([0.13, 0.07, 0.05, 0.035, 0.025])
    phase = rng.uniform(0.0, 2 * np.pi, 5)
    radius = np.exp(np.clip((height * np.cos(np.multiply.outer(angle, order) + phase)).sum(axis=1), -0.5, 0.5))
    radius *= rng.uniform(0.26, 0.62) / 2 / np.sqrt((radius[:-1] ** 2).mean())
    radius *= min(1.0, 0.42 / radius.max())
    reach = _APERTURE - radius.max()
    turn, away = rng.uniform(0.0, 2 * np.pi), reach * np.sqrt(rng.uniform())
    center = 0.5 + away * np.array([np.cos(turn), np.sin(turn)])
    x, y = grid(size)
    dx, dy = x - np.float32(center[0]), y - np.float32(center[1])
    theta = np.arctan2(dy, dx) % np.float32(2 * np.pi)
    slope = np.gradient(radius, angle) / radius
    limit = np.interp(theta, angle, radius)
    inside = (limit - np.hypot(dx, dy)) / np.interp(theta, angle, np.hypot(1.0, slope))
    border = center + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return inside.astype(np.float32), border.astype(np.float32)


def _skin(
    rng: np.random.Generator, size: int, tone: str, plain: Bool[np.ndarray, "H W"]
) -> Float32[np.ndarray, "H W 3"]:
    """CIELAB skin whose mean over `plain` has the drawn typology angle."""
    angles, bs, reds = _SKIN[tone]
    b = rng.uniform(*bs)
    mean = np.array([50.0 + b * np.tan(np.radians(rng.uniform(*angles))), rng.uniform(*reds), b])
    x, y = grid(size)
    apart = np.hypot(x - 0.5, y - 0.5)
    light = rng.uniform(-4.0, 4.0) * (x - 0.5) + rng.uniform(-4.0, 4.0) * (y - 0.5) - rng.uniform(6.0, 16.0) * apart**3
    # Skin lines: two crossing families of shallow furrows, bent by the same smooth displacement.
    bend = field(rng, size, 5) * 0.02
    lines = np.zeros_like(x)
    first = rng.uniform(0.0, np.pi)
    for turn in (first, first + rng.uniform(0.9, 1.6)):
        wave = (x * np.cos(turn) + y * np.sin(turn) + bend) * rng.uniform(10.0, 15.0) * 2 * np.pi
        lines += np.cos(wave + rng.uniform(0.0, 6.0)) ** 2
    lightness = (
        light + 1.4 * field(rng, size, 6) + 0.9 * field(rng, size, 22) + 0.9 * lines + 0.6 * field(rng, size, 90)
    )
    flush = field(rng, size, 7)
    lab = np.stack([lightness, 1.3 * flush + 0.6 * field(rng, size, 20), 0.8 * field(rng, size, 8)], axis=-1).astype(
        np.float32
    )
    lab += (mean - lab[plain].mean(axis=0, dtype=np.float64)).astype(np.float32)
    return lab


def _paint_lesion(
    lab: Float32[np.ndarray, "H W 3"], inside: Float32[np.ndarray, "H W"], rng: np.random.Generator, color: str
) -> None:
    """Blend the lesion into `lab`: network, globules or clouds of darker tone in the named colour."""
    size = lab.shape[0]
    base, spread, swing = _LESION[color]
    mean = np.array(base) + rng.uniform(-1.0, 1.0, 3) * np.array(spread)
    clouds, patchy = field(rng, size, 5), 1.0 / (1.0 + np.exp(-2.5 * field(rng, size, 5) - 0.5))
    cells = _honeycomb(rng, size)
    network = 0.35 - np.clip(0.45 - 1.1 * cells, 0.0, 1.0)  # dark meshes between the cells
    globules = 0.25 - np.clip(1.3 * (field(rng, size, 19) - 0.35), 0.0, 1.0)  # dark clods of many sizes
    streaks = field(rng, size, 13)
    weights = rng.dirichlet([0.6, 0.5, 0.5, 0.3])
    rim = np.clip(inside / float(inside.max()), 0.0, 1.0)
    tone = 1.6 * weights[0] * clouds + patchy * (2.4 * weights[1] * network + 3.0 * weights[2] * globules)
    tone += weights[3] * streaks + 0.3 * clouds + rng.uniform(-1.2, 0.7) * (rim - 0.4)
    tone = np.clip(tone, -1.6, 1.6) * swing
    tone -= tone[inside > 0].mean()
    hue = 2.0 * field(rng, size, 6)
    paint = np.empty_like(lab)
    paint[..., 0] = np.maximum(mean[0] + tone, 3.0)
    fade = np.clip(1.0 + 0.012 * tone, 0.7, 1.3)  # darker parts are less colourful
    paint[..., 1] = mean[1] * fade + 0.5 * hue
    paint[..., 2] = mean[2] * fade - 0.5 * hue
    fuzzy = float(inside.max()) * rng.uniform(0.08, 0.3) * (1.0 + 0.35 * np.clip(streaks, -1.5, 1.5))
    alpha = cover(inside, fuzzy.astype(np.float32), size) * np.float32(0.98)
    lab += alpha[..., None] * (paint - lab)


def _honeycomb(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W"]:
    """Bent honeycomb in [-0.5, 1]: 1 in the middle of each cell, below 0 on the mesh between them."""
    x, y = grid(size)
    pitch, turn = rng.uniform(0.065, 0.085), rng.uniform(0.0, np.pi)
    px, py = x + 0.025 * field(rng, size, 9), y + 0.025 * field(rng, size, 9)
    out = np.zeros_like(x)
    for angle in turn + np.arange(3) * np.pi / 3:
        wave = px * np.float32(np.cos(angle)) + py * np.float32(np.sin(angle))
        out += np.cos(np.float32(2 * np.pi / (pitch * 0.866)) * wave)
    return out / np.float32(3.0)


def _paint_artifact(
    lab: Float32[np.ndarray, "H W 3"], rng: np.random.Generator, artifact: str, border: Float32[np.ndarray, "361 2"]
) -> Bool[np.ndarray, "H W"]:
    """Lay the artifact over `lab` and return its pixels; each kind uses its own stream."""
    size = lab.shape[0]
    hair, ruler, ink, corners = rng.spawn(4)
    layers: list[tuple[Float32[np.ndarray, "H W"], tuple[float, float, float]]] = []
    if artifact == "hair":
        layers = [(_hair(hair, size), (hair.uniform(7.0, 14.0), 4.0, 5.0))]
    elif artifact == "ruler":
        layers = _ruler(ruler, size, border)
    elif artifact == "ink":
        layers = [
            (_ink(ink, size, border), (ink.uniform(26.0, 34.0), ink.uniform(38.0, 46.0), ink.uniform(-62.0, -54.0)))
        ]
    elif artifact == "corners":
        layers = [(_corners(corners, size), (4.0, 1.0, 1.0))]
    painted = np.zeros(lab.shape[:2], dtype=bool)
    for alpha, paint in layers:
        lab += alpha[..., None] * (np.array(paint, dtype=np.float32) - lab)
        painted |= alpha >= 0.5
    return painted


def _hair(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W"]:
    """Coverage of 4 to 8 tapering arcs that lie roughly along one direction."""
    x, y = grid(size)
    alpha = np.zeros_like(x)
    main = rng.uniform(0.0, np.pi)
    for spot in rng.permuted(np.linspace(-0.38, 0.38, int(rng.integers(4, 9)))):
        turn = main + rng.normal(0.0, 0.35)
        along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        middle = 0.5 + spot * np.array([-np.sin(main), np.cos(main)]) + rng.uniform(-0.2, 0.2) * along
        bow = rng.choice([-1.0, 1.0]) * np.exp(rng.uniform(-0.5, 1.6))
        pivot = middle + bow * across  # centre of the circle on which the hair lies
        length, half = rng.uniform(0.45, 0.8), rng.uniform(0.0125, 0.0165)
        off = np.abs(np.hypot(x - np.float32(pivot[0]), y - np.float32(pivot[1])) - np.float32(abs(bow)))
        place = (x - np.float32(middle[0])) * np.float32(along[0]) + (y - np.float32(middle[1])) * np.float32(along[1])
        taper = half * np.sqrt(np.clip(1.05 - (place / length) ** 2, 0.0, 1.0))
        near = (x - np.float32(middle[0])) * np.float32(across[0]) + (y - np.float32(middle[1])) * np.float32(across[1])
        off = np.where(
            (near * np.sign(bow) > abs(bow)) | (taper < 0.3 * half), 1.0, off
        )  # not the far side of the circle
        np.maximum(alpha, cover(taper - off, 0.0, size), out=alpha)
    return alpha


def _ruler(
    rng: np.random.Generator, size: int, border: Float32[np.ndarray, "361 2"]
) -> list[tuple[Float32[np.ndarray, "H W"], tuple[float, float, float]]]:
    """Scale marks along a frame side that the lesion leaves free: dark ticks, half of the time on a pale strip."""
    x, y = grid(size)
    room = np.array([border[:, 0].min(), 1 - border[:, 0].max(), border[:, 1].min(), 1 - border[:, 1].max()])
    depth = float(rng.uniform(0.11, 0.14))
    free = np.flatnonzero(room > depth + 0.02)
    side = int(rng.choice(free)) if free.size else int(room.argmax())
    down, along = ((x, y), (1 - x, y), (y, x), (1 - y, x))[side]
    down = down + np.float32(rng.uniform(-0.03, 0.03)) * (along - 0.5)
    pitch, half = rng.uniform(0.085, 0.105), rng.uniform(0.014, 0.017)
    count = (along + rng.uniform(0.0, 5 * pitch)) / pitch
    long = np.rint(count) % 5 == 0
    tick = half - np.abs(count - np.rint(count)) * pitch
    marks = cover(np.minimum(tick, np.where(long, 0.92 * depth, 0.6 * depth) - down), 0.0, size)
    marks[down < -0.01] = 0.0
    layers = [(marks, (8.0, 0.0, 0.0))]
    if rng.uniform() < 0.5:
        layers.insert(0, (cover(depth - down, 0.0, size) * np.float32(0.96), (88.0, -1.0, rng.uniform(0.0, 5.0))))
    return layers


def _ink(rng: np.random.Generator, size: int, border: Float32[np.ndarray, "361 2"]) -> Float32[np.ndarray, "H W"]:
    """Coverage of 3 to 5 pen dots on the skin around the lesion."""
    x, y = grid(size)
    center = border.mean(axis=0)
    alpha = np.zeros_like(x)
    dots: list[tuple[float, float, float]] = []
    wanted = int(rng.integers(3, 6))
    for _ in range(300):
        half = float(rng.uniform(0.04, 0.06))
        px, py = (float(v) for v in rng.uniform(0.08, 0.92, 2))
        gap = np.hypot(border[:, 0] - px, border[:, 1] - py).min()
        nearest = border[np.hypot(border[:, 0] - px, border[:, 1] - py).argmin()]
        outside = np.hypot(px - center[0], py - center[1]) > np.hypot(*(nearest - center))
        free = all(np.hypot(px - qx, py - qy) > half + other + 0.08 for qx, qy, other in dots)
        if outside and gap > half + 0.02 and free:
            dots.append((px, py, half))
        if len(dots) == wanted:
            break
    ragged = field(rng, size, 14) * 0.006
    for px, py, half in dots:
        stretch = rng.uniform(0.8, 1.0)
        np.maximum(alpha, cover(half + ragged - np.hypot((x - px) / stretch, y - py), 0.02, size), out=alpha)
    return alpha * np.float32(0.92)


def _corners(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W"]:
    """Coverage of everything beyond the round field of view of the dermatoscope."""
    x, y = grid(size)
    px, py = rng.uniform(-0.012, 0.012, 2) + 0.5
    return cover(np.hypot(x - px, y - py) - rng.uniform(0.53, 0.56), rng.uniform(0.02, 0.05), size)


def _asymmetry(mask: Bool[np.ndarray, "H W"]) -> float:
    """Share of the mask that misses its own mirror image, mean over both principal axes (the A of the ABCD rule)."""
    size = mask.shape[0]
    points = np.argwhere(mask).astype(np.float64)
    center = points.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((points - center).T))
    missed = []
    for axis in axes.T:
        mirrored = points - 2.0 * np.outer((points - center) @ axis, axis)
        row, col = np.clip(np.rint(mirrored), 0, size - 1).astype(np.intp).T
        missed.append(1.0 - mask[row, col].mean())
    return float(np.mean(missed))
