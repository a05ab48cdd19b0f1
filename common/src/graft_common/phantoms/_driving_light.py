"""Light of the world `driving`: sun and sky by day, street lamps and the ego car's beams by night, haze and rain."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from graft_common.phantoms._driving_solids import Surface

GAMMA = 1 / 2.2


@dataclass(frozen=True)
class Light:
    """Light of one scene, linear RGB.

    Attributes:
        sun: unit vector towards the sun.
        sunlight: colour of the direct light; zero under clouds and at night.
        zenith, horizon: colour of the sky above and at its foot.
        glow: light of the street lamps from above.
        beam: strength of the ego car's headlights.
        haze: share of light lost per metre.
        night, wet: flags of the scene.
    """

    sun: Float[np.ndarray, "3"]
    sunlight: Float[np.ndarray, "3"]
    zenith: Float[np.ndarray, "3"]
    horizon: Float[np.ndarray, "3"]
    glow: Float[np.ndarray, "3"]
    beam: float
    haze: float
    night: bool
    wet: bool


def draw_light(rng: np.random.Generator, night: bool, rain: bool) -> Light:
    """Light for a time of day and weather."""
    azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(32, 66))
    sun = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    warm, cloud, tone = rng.random(), rng.uniform(0, 0.35), rng.uniform(0.9, 1.1)
    if night:
        sky, foot = np.array([0.004, 0.006, 0.013]), np.array([0.03, 0.026, 0.03])
        glow = np.array([0.17, 0.13, 0.08]) * rng.uniform(0.7, 1.3)
        return Light(sun, np.zeros(3), sky, foot, glow, 14.0, 0.012 if rain else 0.003, True, rain)
    if rain:
        grey = np.array([0.40, 0.43, 0.46]) * tone
        return Light(sun, np.zeros(3), grey, 1.15 * grey, np.zeros(3), 0.0, 0.011, False, True)
    sunlight = tone * (1 - cloud) * np.array([0.98, 0.92 - 0.06 * warm, 0.82 - 0.16 * warm])
    zenith = (1 - cloud) * np.array([0.13, 0.26, 0.52]) + cloud * np.array([0.45, 0.48, 0.5])
    horizon = np.array([0.55, 0.62, 0.69]) + warm * np.array([0.06, 0.0, -0.07])
    return Light(sun, sunlight, zenith, horizon, np.zeros(3), 0.0, 0.0022, False, False)


def shade(
    light: Light,
    surface: Surface,
    normals: Float[np.ndarray, "n 3"],
    at: Float[np.ndarray, "n 3"],
    eye: Float[np.ndarray, "3"],
    forward: Float[np.ndarray, "3"],
    open_sky: Float[np.ndarray, " n"],
    in_sun: Float[np.ndarray, " n"] | float,
) -> Float[np.ndarray, "n 3"]:
    """Linear RGB that reaches the eye from n points of the world.

    `forward` is where the ego car heads (its beams), `open_sky` the share of the sky's light that gets there (0..1),
    `in_sun` that of the sun's.
    """
    away = at - eye.astype(np.float32)
    distance = np.sqrt(np.einsum("ij,ij->i", away, away)) + np.float32(1e-6)
    view = away / distance[:, None]
    facing = np.einsum("ij,ij->i", view, normals)
    up = normals[:, 2]
    ambient = (0.5 * (light.zenith + light.horizon)).astype(np.float32) * 0.85
    lit = ambient * (open_sky * (0.62 + 0.38 * up))[:, None]
    lamp = np.maximum(normals @ light.sun.astype(np.float32), 0) * in_sun
    if light.night:
        lit = lit + light.glow.astype(np.float32) * (open_sky * (0.45 + 0.55 * np.maximum(up, 0)))[:, None]
        side = view @ np.array([-forward[1], forward[0], 0], np.float32)
        ahead = view @ forward.astype(np.float32)
        cone = np.exp(-((side / 0.42) ** 2)) * (ahead > 0) * np.exp(-((np.maximum(view[:, 2] + 0.005, 0) / 0.05) ** 2))
        lit = lit + (light.beam * cone * (0.2 + 0.8 * np.maximum(-facing, 0)) / (14 + distance * distance))[:, None]
    else:
        lit = lit + light.sunlight.astype(np.float32) * lamp[:, None]
    color = surface.albedo * lit
    shiny = np.flatnonzero(surface.gloss > 0.03)
    if shiny.size:
        color[shiny] += _mirrored(
            light, surface.gloss[shiny], normals[shiny], view[shiny], facing[shiny], lamp[shiny] > 0
        )
    return through_haze(light, color + surface.emit, distance)


def _mirrored(
    light: Light,
    gloss: Float[np.ndarray, " n"],
    normals: Float[np.ndarray, "n 3"],
    view: Float[np.ndarray, "n 3"],
    facing: Float[np.ndarray, " n"],
    in_sun: np.ndarray,
) -> Float[np.ndarray, "n 3"]:
    """Sky, ground and sun in a glossy surface, stronger at grazing angles (Schlick)."""
    bounce = view - 2 * facing[:, None] * normals
    rise = np.clip(bounce[:, 2] * 4, -1, 1)[:, None]
    high = np.clip(bounce[:, 2], 0, 1)[:, None]
    sky = light.horizon + (light.zenith - light.horizon) * high
    ground = 0.25 * light.horizon
    seen = ground + (sky - ground) * (0.5 + 0.5 * rise)
    weight = gloss * (0.06 + 0.94 * np.clip(1 + facing, 0, 1) ** 4)
    spot = np.maximum(bounce @ light.sun, 0) ** 90 * in_sun * 2.2 * gloss
    return (seen * weight[:, None] + spot[:, None] * light.sunlight).astype(np.float32)


def through_haze(
    light: Light, color: Float[np.ndarray, "n 3"], distance: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Colour after `distance` metres of air."""
    kept = np.exp(-np.float32(light.haze) * distance)[:, None]
    return color * kept + light.horizon.astype(np.float32) * (1 - kept)


def developed(linear: Float[np.ndarray, "H W 3"], grain: Float[np.ndarray, "H W 3"], night: bool) -> np.ndarray:
    """8-bit picture: exposure with a soft shoulder, display gamma, grain (unit normal numbers)."""
    x = np.maximum(linear, 0) * np.float32(1.9 if night else 1.1)
    x = x * (x + 0.03) / (x * (x + 0.24) + 0.09)  # a film's curve: a dark toe and a soft shoulder
    level = 255 * np.clip(1.1 * x, 0, 1) ** np.float32(GAMMA) + np.float32(3.2 if night else 1.6) * grain
    return np.rint(np.clip(level, 0, 255)).astype(np.uint8)
