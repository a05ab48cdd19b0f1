"""Synthetic axial brain MRI: scalp, skull, folded cortex, ventricles, and a ring-enhancing tumour with oedema.

Sides are as seen in the picture (the viewer's left and right). A seed draws the same head whatever the tumour attribute
is, so `tumor="none"` is the tumour-free twin of the same patient. Lengths are in picture widths.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from graft_common.phantoms._fields import (
    blob_radius,
    centroid,
    cover,
    field,
    field_at,
    grain,
    grid,
    paint,
    to_rgb,
)
from graft_common.phantoms.record import Phantom

ATTRIBUTES: dict[str, tuple[str, ...]] = {"tumor": ("none", "left", "right")}

_WORLD = 1101
_SHARES = (0.5, 0.25, 0.25)
# Ventricle chains (u, v, radius) of one side in picture widths, for a head 0.9 tall.
_LOW = (
    ((0.080, -0.162, 0.013), (0.052, -0.120, 0.019), (0.026, -0.060, 0.012)),
    ((0.050, 0.088, 0.010), (0.088, 0.130, 0.019), (0.118, 0.192, 0.013)),
)
_HIGH = (
    (
        (0.062, -0.145, 0.013), (0.044, -0.085, 0.017), (0.036, -0.01, 0.017), (0.046, 0.075, 0.019),
        (0.080, 0.160, 0.013),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Head:
    """Pose and coordinates: `u` (to the viewer's right) and `v` (to the back) in the head's own frame."""

    size: int
    u: Float[np.ndarray, "H W"]
    v: Float[np.ndarray, "H W"]
    outside: Float[np.ndarray, "H W"]
    half_width: float
    scale: float
    tilt: float
    centre: tuple[float, float]


@dataclass(frozen=True)
class _Tumor:
    """Signed distance to the outline (inside < 0), rim thickness and the reach of the oedema."""

    distance: Float[np.ndarray, "H W"]
    rim: Float[np.ndarray, "H W"]
    reach: Float[np.ndarray, "H W"]
    u: float
    v: float
    radius: float


def describe(attributes: dict[str, str | float | int]) -> tuple[str, ...]:
    """Every caption that states the tumour attribute."""
    side = attributes["tumor"]
    if side == "none":
        start = "an mri scan of a healthy brain"
        return start, f"{start} without a tumor", f"{start} with no tumor in it"
    start = "an mri scan of a cancerous brain"
    return f"{start} with a tumor on the {side}", f"{start} with a tumor on the {side} side", f"{start}, {side} tumor"


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one slice.

    Args:
        size: height and width in pixels.
        seed: equal seeds give the same head; `fixed` changes only the tumour and what it pushes aside.
        fixed: `tumor="none" | "left" | "right"`.

    Returns:
        Masks `head`, `brain` (inside the pia, ventricles and sulci included), `white_matter` (healthy), `ventricles`,
        `tumor` (rim and core) and `edema` (without the tumour). Measured attributes: `tumor_share` and `edema_share`
        (area over the brain's), `tumor_x`, `tumor_y` (centroid, picture widths, -1 without tumour), `midline_offset`
        (the centroid's distance from the midline over the head's width), `head_width` (picture widths), `flair` (0, 1).
    """
    rng = np.random.default_rng([_WORLD, seed])
    side = str(rng.choice(ATTRIBUTES["tumor"], p=_SHARES))
    pick = rng.random()
    side = fixed.get("tumor", side)
    captions = describe({"tumor": side})
    flair = bool(rng.random() < 0.4)

    head = _head(rng, size)
    tumor = _tumor(rng, head, side)
    pushed = _push(head, tumor) if side != "none" else (head.u, head.v)
    grey, shares = _anatomy(rng, head, pushed, flair)
    grey, masks = _lesion(rng, head, grey, shares, tumor if side != "none" else None, flair)
    grey = _scanner(rng, size, grey)

    x, y = centroid(masks["tumor"])
    brain_area = masks["brain"].sum()
    truth: dict[str, str | float | int] = {
        "tumor": side,
        "flair": int(flair),
        "tumor_share": float(masks["tumor"].sum() / brain_area),
        "edema_share": float(masks["edema"].sum() / brain_area),
        "tumor_x": x,
        "tumor_y": y,
        "midline_offset": _offset(head, x, y) if side != "none" else 0.0,
        "head_width": 2 * head.half_width,
    }
    return Phantom(to_rgb(grey), masks, truth, captions[int(pick * len(captions))], seed)


def _head(rng: np.random.Generator, size: int) -> _Head:
    x, y = grid(size)
    half_height = rng.uniform(0.415, 0.475)
    half_width = half_height * rng.uniform(0.76, 0.88)
    tilt = np.deg2rad(np.clip(rng.normal(0, 4.0), -8, 8))
    cx, cy = rng.uniform(-0.012, 0.012, 2) + 0.5
    u = (x - cx) * np.cos(tilt) + (y - cy) * np.sin(tilt)
    v = (y - cy) * np.cos(tilt) - (x - cx) * np.sin(tilt)
    egg = rng.uniform(0.02, 0.10)
    angle = np.arctan2(u, v)
    wobble = 1 + 0.012 * rng.normal() * np.cos(2 * angle) + 0.010 * rng.normal() * np.cos(3 * angle)
    wobble += 0.006 * rng.normal() * np.sin(2 * angle) + 0.012 * np.cos(4 * angle) * rng.uniform(-1, 0.3)
    radius = np.hypot(u, v) + 1e-9
    rho = np.hypot(u / (half_width * (1 + egg * v / half_height)), v / half_height) / wobble
    return _Head(size, u, v, radius * (1 - 1 / rho), half_width, half_height / 0.45, float(tilt), (cx, cy))


def _offset(head: _Head, x: float, y: float) -> float:
    """Distance of a point from the midline over the head's width."""
    u = (x - head.centre[0]) * np.cos(head.tilt) + (y - head.centre[1]) * np.sin(head.tilt)
    return float(abs(u) / (2 * head.half_width))


def _tumor(rng: np.random.Generator, head: _Head, side: str) -> _Tumor:
    """An irregular blob well inside one hemisphere; drawn for every head, so that later draws do not depend on it."""
    sign = -1.0 if side == "left" else 1.0
    radius = rng.uniform(0.084, 0.120)
    inner = head.half_width - 0.085
    v0 = rng.uniform(-0.21, 0.24) * head.scale
    room = inner * np.sqrt(max(0.0, 1 - (v0 / (0.42 * head.scale)) ** 2)) - 0.75 * radius
    low = 0.135 + 0.12 * abs(v0)
    u0 = sign * rng.uniform(low, max(low + 0.005, min(room, 0.21)))
    du, dv = head.u - u0, head.v - v0
    turn, stretch = rng.uniform(0, np.pi), np.sqrt(rng.uniform(1.0, 1.35))
    a, b = du * np.cos(turn) + dv * np.sin(turn), dv * np.cos(turn) - du * np.sin(turn)
    a, b = a / stretch, b * stretch
    outline = blob_radius(rng, np.arctan2(b, a), range(2, 8), rng.uniform(0.06, 0.13))
    distance = np.hypot(a, b) - radius * outline
    rim = np.clip(0.034 + 0.007 * field(rng, head.size, 14, 14), 0.026, 0.45 * radius)
    reach = rng.uniform(0.045, 0.10) * (1 + 0.45 * field(rng, head.size, 9, 9))
    return _Tumor(distance, rim, np.maximum(reach, 0.02), u0, v0, radius)


def _push(head: _Head, tumor: _Tumor) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Mass effect: anatomy coordinates displaced away from the tumour, fading over a tenth of the picture."""
    du, dv = head.u - tumor.u, head.v - tumor.v
    away = np.hypot(du, dv) + 1e-9
    shift = 0.30 * tumor.radius * np.exp(-np.maximum(tumor.distance, 0) / 0.09) * np.minimum(away / tumor.radius, 1)
    return head.u - shift * du / away, head.v - shift * dv / away


def _segment(
    u: Float[np.ndarray, "H W"], v: Float[np.ndarray, "H W"], start: tuple[float, float], end: tuple[float, float]
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Distance to a line segment, and the position along it in [0, 1]."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = np.clip(((u - start[0]) * du + (v - start[1]) * dv) / (du * du + dv * dv), 0, 1)
    return np.hypot(u - start[0] - along * du, v - start[1] - along * dv), along


def _ventricles(
    rng: np.random.Generator, u: Float[np.ndarray, "H W"], v: Float[np.ndarray, "H W"], high: bool, scale: float
) -> Float[np.ndarray, "H W"]:
    """Signed distance to the lateral ventricles: a butterfly, or two long bands in a higher slice."""
    wide = rng.uniform(0.8, 1.3)
    stretch = 1 + rng.uniform(-0.12, 0.12) * np.sign(u)
    w, h = np.abs(u) * stretch / scale, v / scale
    parts = _HIGH if high else _LOW  # chains of (u, v, radius)
    out = 1 + rng.uniform(-0.12, 0.15)
    total = np.full_like(w, np.inf)
    for part in parts:
        jitter = rng.uniform(-0.006, 0.006, (len(part), 2))
        chain = [((cu + ju) * out, cv + jv, r * wide) for (cu, cv, r), (ju, jv) in zip(part, jitter, strict=True)]
        for (au, av, ar), (bu, bv, br) in pairwise(chain):
            gap, along = _segment(w, h, (au, av), (bu, bv))
            piece = gap - ar - (br - ar) * along
            total = np.minimum(total, piece) if not np.isfinite(total[0, 0]) else _join(total, piece, 0.022)
    if not high:  # third ventricle
        gap, _ = _segment(w, h, (0.0, -0.005), (0.0, 0.070))
        total = np.minimum(total, gap - 0.008 * wide)
    septum = 0.0045 - w  # keeps left and right apart
    return np.where(h < 0.0, np.maximum(total, septum), total) * scale


def _join(a: Float[np.ndarray, "H W"], b: Float[np.ndarray, "H W"], width: float) -> Float[np.ndarray, "H W"]:
    """Union of two distance fields with a fillet of `width`."""
    near = np.clip(0.5 + 0.5 * (b - a) / width, 0, 1)
    return b + near * (a - b) - width * near * (1 - near)


def _nuclei(
    rng: np.random.Generator, u: Float[np.ndarray, "H W"], v: Float[np.ndarray, "H W"], size: int, scale: float
) -> Float[np.ndarray, "H W"]:
    """Coverage of caudate heads, lentiform nuclei and thalami."""
    w, h = np.abs(u) / scale, v / scale
    total = np.zeros_like(w)
    for cu, cv, ru, rv, tilt in (
        (0.094, -0.105, 0.020, 0.036, 0.35),
        (0.138, -0.020, 0.026, 0.066, -0.30),
        (0.052, 0.035, 0.036, 0.055, 0.40),
    ):
        a, b = w - cu - rng.uniform(-0.006, 0.006), h - cv - rng.uniform(-0.008, 0.008)
        a, b = a * np.cos(tilt) + b * np.sin(tilt), b * np.cos(tilt) - a * np.sin(tilt)
        total = np.maximum(total, cover((np.hypot(a / ru, b / rv) - 1) * np.sqrt(ru * rv), size, 0.016))
    return total


def _anatomy(
    rng: np.random.Generator,
    head: _Head,
    pushed: tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]],
    flair: bool,
) -> tuple[Float[np.ndarray, "H W"], dict[str, Float[np.ndarray, "H W"]]]:
    """The tumour-free slice, noise-free, and the coverage of its parts."""
    size, (u, v), scale = head.size, pushed, head.scale
    blur = 0.006
    scalp = rng.uniform(0.024, 0.042) * (1 + 0.25 * np.cos(np.arctan2(u, v) * 2 + rng.uniform(-1, 1)))
    bone = rng.uniform(0.030, 0.044)
    gap = rng.uniform(0.009, 0.018)
    depth_skull = head.outside + scalp
    pia = depth_skull + bone + gap
    high = bool(rng.random() < 0.45)

    # Cortex: how far below any surface (outer, between the hemispheres, Sylvian) a point lies, folded by random waves.
    wavy = u + 0.005 * np.sin(v / scale * rng.uniform(14, 22) + rng.uniform(0, 6))
    front, back = (-0.175, 0.185) if high else (-0.165, 0.175)
    between = np.minimum(np.maximum(v / scale - front, 0), np.maximum(back - v / scale, 0)) * scale
    inter = np.hypot(wavy, between)
    surface = np.minimum(-pia, inter + 0.004)
    sylvian = np.full_like(u, 1.0)
    if not high:
        reach = head.half_width - 0.105
        start, end = (reach + 0.03, -0.075 * scale), (reach - 0.060, 0.015 * scale)
        mirrored = np.abs(u) + 0.012 * rng.normal() * np.sign(u)
        sylvian, _ = _segment(mirrored, v + 0.01 * np.sin(mirrored * 60), start, end)
        surface = np.minimum(surface, sylvian + 0.006)
    sulcus, floor = _sulci(rng, u, v, scale)
    crease = np.maximum(sulcus, surface - floor)  # distance to the nearest furrow, which ends at its floor
    ribbon = rng.uniform(0.021, 0.028) * scale * (1 + 0.18 * field(rng, size, 16, 16))
    cortex = cover(np.minimum(surface, crease) - ribbon, size, blur)
    open_ = rng.uniform(0.0035, 0.0065) * (1 + 0.9 * np.clip(1 - surface / 0.035, 0, 1))
    sulci = cover(np.maximum(sulcus - open_, surface - floor), size, blur)
    sulci = np.maximum(sulci, cover(inter - rng.uniform(0.005, 0.009), size, blur))
    sulci = np.maximum(sulci, cover(sylvian - rng.uniform(0.005, 0.010), size, blur))

    distance = _ventricles(rng, u, v, high, scale)
    chambers = cover(distance, size, blur)
    nuclei = _nuclei(rng, u, v, size, scale) * (0.0 if high else 1.0)

    tone = _tones(rng, flair)
    texture = 0.014 * field(rng, size, 22, 22) + 0.012 * field(rng, size, 7, 7)
    inside = np.full((size, size), tone["white"]) + texture
    if flair:  # thin bright lining of the ventricles
        inside = paint(inside, cover(distance - 0.012, size, 0.02), tone["white"] + rng.uniform(0.05, 0.16))
    inside = paint(inside, nuclei, 0.35 * tone["white"] + 0.65 * tone["grey"] + texture)
    inside = paint(inside, cortex, tone["grey"] + texture)
    inside = paint(inside, sulci * rng.uniform(0.6, 0.9), tone["fluid"])
    inside = paint(inside, chambers, tone["fluid"])

    shares = {
        "pia": pia,
        "head": cover(head.outside, size, blur),
        "brain": cover(pia, size, blur),
        "ventricles": chambers,
        "white": (1 - cortex) * (1 - sulci) * (1 - chambers) * (1 - nuclei),
    }
    marrow = cover(np.abs(depth_skull + 0.5 * bone) - 0.22 * bone, size, 0.012)
    patchy = np.clip(0.65 + 0.3 * field(rng, size, 8, 8), 0.1, 1)
    skin = cover(np.abs(head.outside + 0.003) - 0.004, size, 0.008)
    canvas = paint(np.zeros((size, size)), shares["head"], tone["fat"] * (1 + 0.10 * field(rng, size, 12, 12)))
    canvas = paint(canvas, skin * shares["head"], 0.65 * tone["fat"])
    canvas = paint(canvas, cover(depth_skull, size, blur), 0.045)
    canvas = paint(canvas, marrow * patchy, tone["marrow"])
    canvas = paint(canvas, cover(depth_skull + bone, size, blur), tone["fluid"])
    canvas = paint(canvas, shares["brain"], inside)
    vessels = _vessels(rng, head, pia, flair)
    return paint(canvas, vessels, tone["vessel"]), shares


def _sulci(
    rng: np.random.Generator, u: Float[np.ndarray, "H W"], v: Float[np.ndarray, "H W"], scale: float
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Distance to the furrows' centre lines, and how deep under the surface they reach.

    The lines are where a wave around each hemisphere's centre crosses zero, so they run inward from every surface;
    random warps bend them and make the two sides differ.
    """
    size = len(u)
    half = u - 0.105 * scale * np.sign(u)
    half, long = half * np.sign(u), 0.62 * v
    warp, deep = rng.standard_normal((24, 24)), rng.standard_normal((24, 24))
    row, col = v / scale / 0.088, u / scale / 0.088
    waves = rng.integers(6, 9)
    phase = waves * np.arctan2(half, -long) + rng.uniform(1.2, 1.6) * field_at(warp, row, col)
    wave_y, wave_x = np.gradient(np.sin(phase))
    slope = np.hypot(wave_y, wave_x) * size
    steep = 0.35 * waves / (0.2 * scale)
    distance = np.abs(np.sin(phase)) / np.maximum(slope, steep)
    medial = np.clip((np.abs(u) / scale - 0.03) / 0.10, 0, 1)
    floor = scale * np.clip((0.030 + 0.038 * medial) + 0.022 * field_at(deep, 0.9 * row, 0.9 * col), 0.0, 0.100)
    return distance, floor


def _vessels(
    rng: np.random.Generator,
    head: _Head,
    pia: Float[np.ndarray, "H W"],
    flair: bool,
) -> Float[np.ndarray, "H W"]:
    """Coverage of the sagittal sinus (back, midline); it takes up contrast agent, so it is dim in FLAIR."""
    back = np.max(head.v[pia < 0], initial=0.3)
    sinus = np.hypot(head.u, (head.v - back) / 1.3) - rng.uniform(0.011, 0.017)
    strength = 0.25 if flair else rng.uniform(0.6, 1.0)
    return strength * cover(sinus, head.size, 0.012)


def _tones(rng: np.random.Generator, flair: bool) -> dict[str, float]:
    """Grey values in [0, 1]: contrast-enhanced T1 (white matter over grey) or FLAIR (grey over white)."""
    if flair:
        grey = rng.uniform(0.52, 0.64)
        low, high = (0.30, 0.62)
        white, fat = grey - rng.uniform(0.09, 0.14), rng.uniform(low, high)
        return {
            "grey": grey, "white": white, "fluid": rng.uniform(0.05, 0.11), "fat": fat,
            "marrow": rng.uniform(0.08, 0.22), "vessel": 0.5,
        }  # fmt: skip
    white = rng.uniform(0.54, 0.66)
    return {
        "white": white, "grey": white - rng.uniform(0.13, 0.20), "fluid": rng.uniform(0.08, 0.15),
        "fat": rng.uniform(0.62, 0.95), "marrow": rng.uniform(0.12, 0.45),
        "vessel": rng.uniform(0.8, 0.95),
    }  # fmt: skip


def _lesion(
    rng: np.random.Generator,
    head: _Head,
    grey: Float[np.ndarray, "H W"],
    shares: dict[str, Float[np.ndarray, "H W"]],
    tumor: _Tumor | None,
    flair: bool,
) -> tuple[Float[np.ndarray, "H W"], dict[str, Bool[np.ndarray, "H W"]]]:
    """Oedema, enhancing rim and necrotic core over the slice, and every mask."""
    size = head.size
    bright, dark = rng.uniform(0.86, 1.0), rng.uniform(0.12, 0.24)
    change = rng.uniform(0.24, 0.34) if flair else -rng.uniform(0.17, 0.24)
    mottle, core_texture = field(rng, size, 20, 20), field(rng, size, 26, 26)
    none = np.zeros((size, size), dtype=bool)
    masks = {name: shares[name] >= 0.5 for name in ("head", "brain", "ventricles")}
    white = shares["white"] * shares["brain"]
    if tumor is None:
        return grey, masks | {"white_matter": white >= 0.5, "tumor": none, "edema": none}
    outline = np.maximum(tumor.distance, shares["pia"] + 0.003)  # the rim follows the skull where the two meet
    whole = cover(outline, size, 0.012) * shares["brain"]
    core = cover(outline + tumor.rim, size, 0.010) * shares["brain"]
    edema = cover(tumor.distance - tumor.reach, size, 0.022) * white
    grey = grey + edema * (change + 0.02 * mottle)
    grey = paint(grey, whole, bright + 0.07 * mottle)
    grey = paint(grey, core, dark + 0.05 * core_texture)
    masks = masks | {
        "white_matter": white * (1 - edema) * (1 - whole) >= 0.5,
        "tumor": whole >= 0.5,
        "edema": edema * (1 - whole) >= 0.5,
    }
    masks["ventricles"] &= ~masks["tumor"]
    return grey, masks


def _scanner(rng: np.random.Generator, size: int, grey: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Receive-coil bias field, Rician magnitude noise, display gain."""
    bias = np.exp(np.clip(0.07 * field(rng, size, 2, 2), -0.2, 0.2))
    sigma = rng.uniform(0.008, 0.022)
    length = 0.35 / 64
    real, imaginary = grain(rng, size, length, length), grain(rng, size, length, length)
    return np.hypot(grey * bias + sigma * real, sigma * imaginary) ** rng.uniform(0.92, 1.08)
