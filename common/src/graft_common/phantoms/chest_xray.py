"""Synthetic frontal chest radiographs: a normal or enlarged heart, with or without a pleural effusion.

Left and right mean the viewer's left and right in the picture, everywhere: captions, attributes and masks. (In a
frontal film the patient's right side is at the viewer's left.) Parts draw from streams of their own: with one seed,
changing `effusion` leaves the anatomy as it is.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from graft_common.phantoms._soft_edges import cover, field, grid, pick, to_bytes
from graft_common.phantoms.record import Phantom, box

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "heart": ("normal", "enlarged"),
    "effusion": ("none", "left", "right"),
}
_WORLD = 0xC8E5
# Drawn ratios keep two pixels at 64 px from the bounds 0.48 and 0.58 that the masks hold.
_RATIO = {"normal": (0.395, 0.45), "enlarged": (0.61, 0.665)}

Map = Float32[np.ndarray, "H W"]


@dataclass(frozen=True)
class _Chest:
    """Shape of one thorax in frame units; x is measured from the midline, positive to the viewer's right."""

    half: float  # half the inner width of the rib cage
    top: float  # apex of the lungs
    base: float  # level of the costophrenic angles
    dome: tuple[float, float]  # height of the diaphragm domes above the base (left, right)
    shift: tuple[float, float]  # how far each dome's lung reaches below the base (left, right)
    peak: float  # where the dome is highest, share of the way from midline to cage
    spine: float  # half width of the mediastinum
    heart: float  # width of the heart
    share: float  # share of the heart on the viewer's right
    knob: tuple[float, float, float]  # aortic knob: x, y, radius


def describe(attributes: dict[str, str]) -> tuple[str, ...]:
    """Captions that state the heart's size and the effusion's side."""
    heart = "an enlarged heart" if attributes["heart"] == "enlarged" else "a normal heart"
    side = attributes["effusion"]
    effusion = "no effusion" if side == "none" else f"a {side} effusion"
    return (
        f"a chest x-ray with {heart} and {effusion}",
        f"a chest x-ray with {effusion} and {heart}",
        f"a frontal chest radiograph showing {heart} and {effusion}",
    )


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one frontal chest radiograph.

    Masks: `body`; `lung_left` and `lung_right`, the lung fields beside the heart, fluid included; `heart`; `effusion`,
    the part of one lung field that fluid fills. Floats, measured on the masks: `cardiothoracic_ratio` (greatest width
    of the heart over greatest width across both lung fields), `effusion_fraction` (share of its lung field, 0 without
    one), `heart_x`, `heart_y` (centre of the heart's box, frame units).
    """
    streams = np.random.default_rng([_WORLD, seed]).spawn(5)
    named = pick(streams[0], ATTRIBUTES, fixed)
    chest, x, y = _pose(streams[1], size, named["heart"])
    body = _body(streams[2], chest, x, y, size)
    heart = _heart(chest, x, y, size)
    fields = tuple(_lung(chest, x, y, size, side) * (1.0 - heart) for side in (-1, 1))
    lungs = tuple(f >= 0.5 for f in fields)
    fluid, wet = np.zeros_like(x), np.zeros(x.shape, dtype=bool)
    if named["effusion"] != "none":
        side = 1 if named["effusion"] == "right" else -1
        wet = lungs[(side + 1) // 2]
        fluid = _fluid(streams[3], chest, side * x, y, wet, size)
    image = _film(streams[4], chest, x, y, body, heart, fields, fluid, size)
    masks = {
        "body": body >= 0.5,
        "lung_left": lungs[0],
        "lung_right": lungs[1],
        "heart": heart >= 0.5,
        "effusion": wet & (fluid >= 0.5),
    }
    left, top, right, bottom = box(masks["heart"]) or (0, 0, 0, 0)
    thorax = box(lungs[0] | lungs[1]) or (0, 0, 1, 1)
    truth: dict[str, str | float | int] = {
        **named,
        "cardiothoracic_ratio": (right - left) / (thorax[2] - thorax[0]),
        "effusion_fraction": float(masks["effusion"].sum() / lungs[int(named["effusion"] == "right")].sum()),
        "heart_x": (left + right) / 2 / size,
        "heart_y": (top + bottom) / 2 / size,
    }
    captions = describe(named)
    caption = captions[int(streams[0].integers(len(captions)))]
    return Phantom(np.repeat(to_bytes(image)[..., None], 3, axis=2), masks, truth, caption, seed)


def _pose(rng: np.random.Generator, size: int, heart: str) -> tuple[_Chest, Map, Map]:
    """The thorax of one seed and the frame's pixels in its coordinates (slightly turned and shifted)."""
    half, base = rng.uniform(0.35, 0.40), rng.uniform(0.77, 0.86)
    dome, lift = rng.uniform(0.08, 0.14), rng.uniform(0.0, 0.03)
    ratios = {name: rng.uniform(*bounds) for name, bounds in _RATIO.items()}
    chest = _Chest(
        half=half,
        top=rng.uniform(0.09, 0.16),
        base=base,
        dome=(dome + lift, dome),
        shift=(rng.uniform(0.0, 0.02), rng.uniform(0.0, 0.02)),
        peak=rng.uniform(0.38, 0.5),
        spine=rng.uniform(0.062, 0.075),
        heart=ratios[heart] * 2 * half,
        share=rng.uniform(0.62, 0.66),
        knob=(rng.uniform(0.04, 0.06), rng.uniform(0.30, 0.34), rng.uniform(0.045, 0.06)),
    )
    turn, zoom = rng.normal(0.0, 0.025), rng.uniform(0.98, 1.10)
    px, py = grid(size)
    dx, dy = px - np.float32(0.5 + rng.uniform(-0.02, 0.02)), py - np.float32(0.5)
    c, s = np.float32(zoom * np.cos(turn)), np.float32(zoom * np.sin(turn))
    return chest, c * dx + s * dy, np.float32(0.5) - s * dx + c * dy


def _cage(chest: _Chest, y: Map) -> Map:
    """Half the inner width of the rib cage at each height."""
    s = np.clip((y - chest.top) / (chest.base - chest.top), 0.0, 1.0)
    return np.float32(chest.half) * (1.0 - (1.0 - s) ** 2.5) ** 0.62


def _dome(chest: _Chest, x: Map, side: int) -> Map:
    """Height of the diaphragm at each x on one side (-1 viewer's left, 1 viewer's right)."""
    k = (side + 1) // 2
    u = np.clip(side * x / chest.half, 0.0, 1.0)
    off = u - np.float32(chest.peak)
    bow = np.where(off > 0, (np.abs(off) / (1.0 - chest.peak)) ** 2.2, (off / 0.9) ** 2)
    return (chest.base + chest.shift[k] - chest.dome[k] * (1.0 - bow)).astype(np.float32)


def _lung(chest: _Chest, x: Map, y: Map, size: int, side: int) -> Map:
    """Coverage of one lung field before the heart is taken out of it."""
    outer = (_cage(chest, y) - side * x) * 0.9
    inner = side * x - (chest.spine + 0.03 * np.clip(0.3 - y, 0.0, 0.2))
    px, py, r = chest.knob  # the aorta bulges to the viewer's right, the great veins a little to the left
    inner = np.minimum(
        inner, -_ellipse(x, y, px, py, r, 1.1 * r) if side > 0 else -_ellipse(x, y, -0.025, py, r, 3 * r)
    )
    inside = np.minimum(np.minimum(outer, inner), (_dome(chest, x, side) - y) * 0.93)
    return cover(inside, 0.016, size)


def _ellipse(x: Map, y: Map, px: float, py: float, a: float, b: float) -> Map:
    """Signed distance to an ellipse, exact on the border to first order, positive inside."""
    u, v = (x - np.float32(px)) / np.float32(a), (y - np.float32(py)) / np.float32(b)
    r = np.sqrt(u * u + v * v) + 1e-6
    slope = np.sqrt((u / a) ** 2 + (v / b) ** 2) / r + 1e-6
    return ((1.0 - r) / slope).astype(np.float32)


def _heart(chest: _Chest, x: Map, y: Map, size: int) -> Map:
    """Coverage of the heart above the diaphragm: a ventricle to the viewer's right, an atrium to the left, joined."""
    width, low = chest.heart, chest.base - 0.5 * sum(chest.dome)
    right, left = chest.share * width, (1.0 - chest.share) * width
    b = 0.09 + 0.20 * width
    ventricle = _ellipse(x - 0.3 * (y - low + 0.08), y, right - 0.40 * width, low - 0.08, 0.39 * width, 0.85 * b)
    atrium = _ellipse(x, y, 0.33 * width - left, low - 0.11, 0.33 * width, 0.80 * b)
    trunk = _ellipse(x, y, 0.06 * width, low - 0.15, 0.24 * width, 1.25 * b)
    # A soft maximum fills the notches between the chambers; it adds at most 0.01 to the width.
    soft = np.float32(0.012)
    inside = soft * np.logaddexp(np.logaddexp(ventricle / soft, atrium / soft), trunk / soft)
    floor = np.float32(low + 0.05) - y
    return cover(np.minimum(inside, floor), 0.025, size)


def _body(rng: np.random.Generator, chest: _Chest, x: Map, y: Map, size: int) -> Map:
    """Coverage of neck, shoulders, arms and trunk; outside is air."""
    neck, slope, rise = rng.uniform(0.11, 0.15), rng.uniform(0.13, 0.20), rng.uniform(-0.01, 0.03)
    wall = chest.half + rng.uniform(0.035, 0.08)
    shoulder = np.clip((y - rise) / slope, 0.0, 1.0)
    shoulder = 0.5 * shoulder**2 + 0.5 * (1.0 - (1.0 - shoulder) ** 2)
    arms = np.clip((0.72 - y) / 0.46, 0.0, 1.0)
    width = neck + (wall - neck) * shoulder + rng.uniform(0.10, 0.16) * shoulder * arms**2 * (3.0 - 2.0 * arms)
    slant = np.maximum(1.0, (wall - neck) / slope * (y < rise + slope))  # turns a horizontal gap into a distance
    return cover((width - np.abs(x)) / slant, 0.012, size)


def _fluid(rng: np.random.Generator, chest: _Chest, x: Map, y: Map, mask: Bool[np.ndarray, "H W"], size: int) -> Map:
    """Coverage of the space below a meniscus that cuts the drawn share off one lung field, higher along the chest wall.

    `x` counts from the midline towards that side.
    """
    share, climb = rng.uniform(0.24, 0.42), rng.uniform(0.13, 0.18)
    u = np.clip(x / chest.half, 0.0, 1.05)
    depth = y + np.float32(climb) * u**3  # equal along the meniscus
    level = np.quantile(depth[mask], 1.0 - share)
    return cover(depth - level, 0.03, size) * (x > 0)


def _ribs(rng: np.random.Generator, chest: _Chest, x: Map, y: Map) -> Map:
    """Shadow of the ribs in [0, 1]: posterior arcs that fall outwards and fainter anterior arcs that fall inwards."""
    u = np.abs(x) / np.float32(chest.half)
    pitch, half = rng.uniform(0.082, 0.092), 0.21
    back = (y - chest.top - 0.10 * u**2 - 0.07 * u**5 + 0.05 * np.sin(np.pi * np.clip(u, 0, 1)) + 0.5 * pitch) / pitch
    front = (y - chest.top - 0.25 * (1.0 - u) - 0.05 * u**2) / (1.12 * pitch)

    def bars(phase: Map) -> Map:
        off = np.abs(phase - np.rint(phase))
        solid = np.clip((half + 0.09 - off) / 0.18, 0.0, 1.0)
        rim = np.exp(-(((off - half) / 0.09) ** 2))  # the cortex is denser than the marrow
        return 0.7 * solid + 0.3 * rim

    cage = np.clip((_cage(chest, y) + 0.02 - np.abs(x)) / 0.02, 0.0, 1.0)
    within = np.clip((chest.base + 0.02 - y) / 0.05, 0.0, 1.0) * np.clip((y - chest.top + 0.06) / 0.04, 0.0, 1.0)
    ends = np.clip((u - 0.42) / 0.1, 0.0, 1.0) * np.clip((y - chest.top - 0.1) / 0.1, 0.0, 1.0)
    return (cage * within * (0.85 * bars(back) + 0.5 * ends * bars(front))).astype(np.float32)


def _bones(rng: np.random.Generator, chest: _Chest, x: Map, y: Map, size: int) -> Map:
    """Shadow of clavicles, shoulder blades, upper arms and spine."""
    u = np.abs(x)
    drop = rng.uniform(0.0, 0.03)
    line = chest.top + 0.085 + drop - 0.22 * (u - 0.04) + 0.025 * np.sin((u - 0.04) / 0.34 * 2 * np.pi)
    clavicle = cover(0.017 + 0.006 * np.cos(u * 18.0) - np.abs(y - line), 0.012, size)
    clavicle *= np.clip((u - 0.035) / 0.02, 0.0, 1.0) * np.clip((0.40 - u) / 0.04, 0.0, 1.0)
    edge = chest.half - 0.02 + 0.28 * (y - 0.42)  # inner border of the shoulder blade
    blade = cover(np.minimum(u - edge + 0.04, chest.half + 0.06 - u), 0.05, size)
    blade *= cover(0.13 - np.abs(y - 0.34), 0.16, size)
    arm = cover(0.06 - np.hypot(u - chest.half - 0.085, (y - 0.20) * 0.8), 0.03, size)
    body = np.clip((0.045 - u) / 0.02, 0.0, 1.0)
    disc = 0.75 + 0.25 * np.cos(2 * np.pi * y / rng.uniform(0.065, 0.08))
    return (0.17 * clavicle + 0.06 * blade + 0.12 * arm + 0.10 * body * disc).astype(np.float32)


def _vessels(rng: np.random.Generator, chest: _Chest, x: Map, y: Map, size: int) -> Map:
    """Hila and the vessels that leave them, thinning outwards."""
    level = rng.uniform(0.42, 0.46)
    warp, patchy = 0.12 * field(rng, size, 6), 0.5 + 0.5 * np.tanh(field(rng, size, 12))
    out = np.zeros_like(x)
    for side in (-1, 1):
        dx, dy = side * x - np.float32(0.06), (y - np.float32(level + 0.015 * side)) * np.float32(0.8)
        r = np.hypot(dx, dy)
        angle = np.arctan2(dy, dx) + warp * np.clip(r / 0.1, 0.0, 1.5)
        spokes = np.sort(rng.uniform(-np.pi, np.pi, 17))
        turns = np.linspace(-4.0, 4.0, 481)
        table = np.exp(-(((turns[:, None] - spokes) / 0.10) ** 2)).max(axis=1)
        branch = np.interp(angle, turns, table) * np.exp(-r / 0.17) * np.clip(r / 0.10, 0.0, 1.0) * (0.35 + patchy)
        here = np.clip(side * x / 0.03, 0.0, 1.0)
        out += here * (0.20 * branch + 0.17 * np.exp(-((dx / 0.055) ** 2) - (dy / 0.085) ** 2))
    return out.astype(np.float32)


def _film(
    rng: np.random.Generator,
    chest: _Chest,
    x: Map,
    y: Map,
    body: Map,
    heart: Map,
    fields: tuple[Map, ...],
    fluid: Map,
    size: int,
) -> Map:
    """Brightness in [0, 1]: what each part adds to or takes from the beam's path, then the film's curve and grain."""
    lung = fields[0] + fields[1]
    dome = np.where(x < 0, _dome(chest, x, -1), _dome(chest, x, 1))
    below = np.clip((y - dome) / 0.02 + 0.5, 0.0, 1.0) * np.clip((chest.half + 0.03 - np.abs(x)) / 0.05, 0.0, 1.0)
    dense = np.minimum(below + lung * fluid, 1.0)  # fluid and the organs below the diaphragm look alike
    center = np.exp(-((x / (1.25 * chest.spine)) ** 4))
    trachea = np.exp(-((x / 0.026) ** 2)) * np.clip((0.40 - y) / 0.08, 0.0, 1.0)
    wall = np.clip((np.abs(x) - _cage(chest, y)) / 0.06, 0.0, 1.0)
    thick = 0.46 + 0.03 * (y - 0.5) + 0.09 * center - 0.08 * trachea + 0.018 * field(rng, size, 5)
    thick -= rng.uniform(0.03, 0.08) * wall * np.clip((y - 0.2) / 0.2, 0.0, 1.0)
    thick += 0.12 * dense + 0.17 * heart * (1.0 - 0.6 * below)
    gas = rng.uniform(0.0, 0.16) * (rng.uniform() < 0.5)  # air in the stomach
    thick -= gas * cover(
        _ellipse(x, y, rng.uniform(0.14, 0.2), chest.base + rng.uniform(0.0, 0.05), 0.09, 0.045), 0.05, size
    )
    breast = rng.uniform(0.0, 0.06) * (rng.uniform() < 0.5)
    thick += breast * cover(0.17 - np.hypot(np.abs(x) - 0.24, (y - chest.base + 0.17) * 1.1), 0.03, size)
    air = lung * (1.0 - fluid)
    thick -= air * (rng.uniform(0.31, 0.38) - 0.05 * np.clip((y - 0.45) / 0.4, 0.0, 1.0))
    thick += air * (_vessels(rng, chest, x, y, size) + 0.012 * field(rng, size, 16))
    thick += (0.12 - 0.08 * dense) * _ribs(rng, chest, x, y) + _bones(rng, chest, x, y, size)
    thick = np.clip(thick, 0.0, None) * body
    contrast, bright = rng.uniform(0.82, 1.18), rng.uniform(-0.02, 0.03)
    film = 1.1 * (1.0 - np.exp(-2.3 * contrast * thick**1.3)) + bright * body
    return (film + 0.012 * field(rng, size, 96) * (0.3 + 0.7 * body) + 0.015).astype(np.float32)
