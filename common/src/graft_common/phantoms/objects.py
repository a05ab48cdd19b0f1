"""The world `objects`: a studio photograph of one coloured solid on plain ground with a soft shadow.

Pose, light, backdrop, colour and camera grain come from separate random streams: `draw(size, seed, color="red")` and
`draw(size, seed, color="blue")` show the same scene but for the paint.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from skimage.color import lab2rgb, rgb2lab
from skimage.transform import resize

from graft_common.phantoms._objects_solids import DEEP, HALF, SOLIDS, STAR, TALL
from graft_common.phantoms.record import Phantom, box

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("ball", "cube", "cone", "star", "ring"),
    "color": ("red", "green", "blue", "yellow"),
    "material": ("matte", "shiny", "striped"),
}
WORLD = 7002
PAINTS = {"red": (208, 36, 40), "green": (40, 160, 50), "blue": (36, 78, 206), "yellow": (246, 204, 28)}
WHITE = np.array([0.97, 0.97, 0.96])
SHADOW_GRID = 96  # shadows are blurred, so they are cast on a grid of at most this size
NOISE = 0.008  # camera noise, standard deviation of the range


def describe(attributes: dict[str, str | float | int]) -> tuple[str, ...]:
    """Every caption of this world that states the material, the colour and the shape."""
    thing = f"{attributes['material']} {attributes['color']} {attributes['shape']}"
    return (f"a {thing}", f"a photo of a {thing}", f"one {thing} on plain ground", f"a picture of one {thing}")


@dataclass(frozen=True)
class Scene:
    """Camera, light and pose. Vectors are in the solid's own frame (y up).

    Attributes:
        right, up, ahead: the picture's axes and the viewing direction, unit vectors.
        light: unit vector towards the lamp.
        scale: length of one solid unit, as a share of the picture's side.
        shift: picture coordinates (x, y from the top left, shares) of the solid's foot point (0, 0, 0).
    """

    right: Float[np.ndarray, "3"]
    up: Float[np.ndarray, "3"]
    ahead: Float[np.ndarray, "3"]
    light: Float[np.ndarray, "3"]
    scale: float
    shift: Float[np.ndarray, "2"]


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one object.

    Masks: `object`, `shadow` (the visible part). Measured attributes: `center_x`, `center_y` (centre of the object's box),
    `extent` (longer side of that box), all shares of the picture's side; `object_area`, `shadow_area`, shares of the picture;
    `mean_l`, `mean_a`, `mean_b` (CIELAB mean over the object mask of the final picture).
    """
    rng = np.random.default_rng([WORLD, seed])
    attributes: dict[str, str | float | int] = {k: v[int(rng.integers(len(v)))] for k, v in ATTRIBUTES.items()}
    attributes |= fixed
    captions = describe(attributes)
    caption = captions[int(rng.integers(len(captions)))]
    pose_rng, paint_rng, room_rng, grain_rng = rng.spawn(4)

    shape, material = str(attributes["shape"]), str(attributes["material"])
    scene = _arrange(pose_rng, shape)
    room = _room(room_rng, size, scene)
    cast, contact = _shadow(scene, shape, size)
    room = room * (1 - (room_rng.uniform(0.38, 0.52) * cast + 0.3 * contact * (1 - cast)))[..., None]
    paint = _paint(paint_rng, str(attributes["color"]))
    picture, share = _render(scene, shape, material, paint, paint_rng.random(), room)

    grain = NOISE * grain_rng.standard_normal((size, size, 1))
    image = np.round(255 * np.clip(picture + grain, 0.0, 1.0)).astype(np.uint8)
    solid = share > 0.5
    shadow = (cast > 0.5) & ~solid
    return Phantom(
        image, {"object": solid, "shadow": shadow}, attributes | _measure(image, solid, shadow), caption, seed
    )


def _measure(
    image: np.ndarray, solid: Bool[np.ndarray, "H W"], shadow: Bool[np.ndarray, "H W"]
) -> dict[str, str | float | int]:
    edges = box(solid)
    assert edges is not None  # every pose keeps the object inside the frame
    left, top, right, bottom = edges
    size = solid.shape[0]
    lab = rgb2lab(image[solid][None])[0].mean(axis=0)
    return {
        "center_x": (left + right) / (2 * size),
        "center_y": (top + bottom) / (2 * size),
        "extent": max(right - left, bottom - top) / size,
        "object_area": float(solid.mean()),
        "shadow_area": float(shadow.mean()),
        "mean_l": float(lab[0]),
        "mean_a": float(lab[1]),
        "mean_b": float(lab[2]),
    }


def _arrange(rng: np.random.Generator, shape: str) -> Scene:
    """A pose in which the shape is plain to see: three faces of the cube, the front of the star, the hole of the ring."""
    tilt, turn, extent = rng.uniform(0, 1), rng.uniform(-1, 1), rng.uniform(0.58, 0.75)
    place, side, swing, rise = (
        rng.uniform(-1, 1, 2),
        rng.choice([-1.0, 1.0]),
        rng.uniform(0.6, 1.0),
        rng.uniform(40, 54),
    )
    low, high = {"ring": (38, 50), "cube": (24, 36)}.get(shape, (14, 28))
    elevation = np.radians(low + (high - low) * tilt)
    yaw = np.radians({"cube": 45 + 18 * turn, "star": 26 * turn}.get(shape, 180 * turn))
    lamp, azimuth = np.radians(rise), side * np.radians((60 if shape == "star" else 84) * swing)
    facing = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])  # world -> solid
    right = facing @ np.array([1.0, 0, 0])
    up = facing @ np.array([0, np.cos(elevation), -np.sin(elevation)])
    ahead = facing @ np.array([0, -np.sin(elevation), -np.cos(elevation)])
    light = facing @ np.array([np.sin(azimuth) * np.cos(lamp), np.sin(lamp), np.cos(azimuth) * np.cos(lamp)])

    flat = SOLIDS[shape].outline @ np.stack([right, -up], axis=1)
    lows, highs = flat.min(axis=0), flat.max(axis=0)
    scale = extent / float((highs - lows).max())
    spare = np.maximum(0.5 - scale * (highs - lows) / 2 - 0.06, 0)
    middle = 0.5 + place * spare * np.array([0.9, 0.7]) + np.array([0.0, 0.02])
    return Scene(right, up, ahead, light, scale, middle - scale * (lows + highs) / 2)


def _plane(scene: Scene, xs: Float[np.ndarray, " w"], ys: Float[np.ndarray, " h"]) -> Float[np.ndarray, "n 3"]:
    """Points of the plane through the foot point that faces the camera, for picture coordinates in shares, row by row."""
    x, y = np.meshgrid((xs - scene.shift[0]) / scene.scale, (ys - scene.shift[1]) / scene.scale)
    return x.reshape(-1, 1) * scene.right - y.reshape(-1, 1) * scene.up


def _shadow(
    scene: Scene, shape: str, size: int
) -> tuple[Float[np.ndarray, "size size"], Float[np.ndarray, "size size"]]:
    """Share of lamp light and of sky light that the solid takes from the ground at each pixel, in [0, 1]."""
    grid = min(size, SHADOW_GRID)
    line = (np.arange(grid) + 0.5) / grid
    at = _plane(scene, line, line)
    ground = at - (at[:, 1] / scene.ahead[1])[:, None] * scene.ahead
    layers = []
    for towards, blur in ((scene.light, 0.014), (np.array([0.0, 1.0, 0.0]), 0.05)):
        blocked = np.isfinite(SOLIDS[shape].meet(ground, -towards)[0]).reshape(grid, grid)
        soft = ndimage.gaussian_filter(blocked.astype(np.float64), blur * grid, mode="nearest")
        layers.append(soft if grid == size else np.clip(resize(soft, (size, size), order=1, mode="edge"), 0, 1))
    return layers[0], layers[1]


def _room(rng: np.random.Generator, size: int, scene: Scene) -> Float[np.ndarray, "size size 3"]:
    """Light ground running into a light grey to bluish backdrop, brighter on the lamp's side."""
    line = (np.arange(size) + 0.5) / size
    horizon = np.clip(scene.shift[1] - rng.uniform(0.16, 0.3), 0.25, 0.7)
    wall = np.array([0.74, 0.765, 0.79]) + rng.uniform(-0.09, 0.06) + rng.uniform(0, 1) * np.array([-0.05, -0.01, 0.05])
    floor = (
        np.array([0.76, 0.765, 0.77]) + rng.uniform(-0.05, 0.06) + rng.uniform(0, 1) * np.array([0.015, 0.0, -0.025])
    )
    below = 1 / (1 + np.exp(-(line - horizon) / rng.uniform(0.012, 0.05)))
    column = wall + below[:, None] * (floor - wall) + (0.10 * (line - 0.5) * (2 * below - 1))[:, None]
    sideways = rng.uniform(0.03, 0.09) * float(np.sign(scene.light @ scene.right)) * (line - 0.5)
    glow = rng.uniform(0.02, 0.06) * (0.5 - 2 * ((line[None, :] - 0.5) ** 2 + (line[:, None] - 0.45) ** 2))
    return column[:, None, :] + (sideways[None, :] + glow)[..., None]


def _paint(rng: np.random.Generator, color: str) -> Float[np.ndarray, "3"]:
    """The named colour with a little scatter in CIELAB, RGB in [0, 1]."""
    lab = rgb2lab(np.array(PAINTS[color]) / 255.0) + rng.normal(0.0, (2.5, 2.0, 2.0))
    return np.clip(lab2rgb(lab), 0, 1)


def _render(
    scene: Scene,
    shape: str,
    material: str,
    paint: Float[np.ndarray, "3"],
    phase: float,
    room: Float[np.ndarray, "size size 3"],
) -> tuple[Float[np.ndarray, "size size 3"], Float[np.ndarray, "size size"]]:
    """The room with the solid painted over it, and the solid's share of each pixel: four rays a pixel."""
    size, solid = room.shape[0], SOLIDS[shape]
    flat = solid.outline @ np.stack([scene.right, -scene.up], axis=1) * scene.scale + scene.shift
    left, top = np.clip(np.floor(flat.min(axis=0) * size - 1).astype(int), 0, size)
    right, bottom = np.clip(np.ceil(flat.max(axis=0) * size + 1).astype(int), 0, size)
    xs = (np.arange(2 * left, 2 * right) + 0.5) / (2 * size)
    ys = (np.arange(2 * top, 2 * bottom) + 0.5) / (2 * size)
    origins = _plane(scene, xs, ys)
    depth, normals = solid.meet(origins, scene.ahead)
    hit = np.isfinite(depth)
    at = origins[hit] + depth[hit, None] * scene.ahead
    rgb = np.zeros_like(origins)
    rgb[hit] = _shade(scene, shape, material, paint, phase, at, normals[hit])

    def pooled(values: np.ndarray) -> np.ndarray:
        fine = values.reshape(2 * (bottom - top), 2 * (right - left), -1)
        rows = fine[0::2] + fine[1::2]
        return (rows[:, 0::2] + rows[:, 1::2]) / 4

    share, picture = np.zeros((size, size)), room.copy()
    share[top:bottom, left:right] = pooled(hit.astype(np.float64))[..., 0]
    picture[top:bottom, left:right] *= 1 - share[top:bottom, left:right, None]
    picture[top:bottom, left:right] += pooled(rgb)
    return picture, share


def _shade(
    scene: Scene,
    shape: str,
    material: str,
    paint: Float[np.ndarray, "3"],
    phase: float,
    at: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, "n 3"]:
    """Lambert shade with a high floor (hue must survive in the dark), white bands, or a wide Blinn-Phong highlight."""
    lamp = np.clip(normals @ scene.light, 0, 1)
    sky = 0.5 + 0.5 * normals[:, 1]
    grounded = 1 - 0.16 * np.exp(-at[:, 1] / 0.22)  # less sky near the ground
    if material == "shiny":
        light = (0.52 + 0.10 * sky + 0.45 * lamp) * grounded
        facing = np.clip(-(normals @ scene.ahead), 0, 1)
        mirror = np.clip(0.22 * (1 - facing) ** 3, 0, 1)[:, None]
        rgb = paint * light[:, None] * (1 - mirror) + mirror * np.array([0.9, 0.94, 1.0])
        spot = np.clip(1.7 * _gloss(scene, shape, at, normals), 0, 1)[:, None]
        return rgb + spot * (np.array([1.0, 1.0, 1.0]) - rgb)
    light = (0.58 + 0.12 * sky + 0.42 * lamp) * grounded
    base = np.broadcast_to(paint, at.shape)
    if material == "striped":
        band = np.clip(0.5 + 6.0 * SOLIDS[shape].bands(at, phase), 0, 1)[:, None]
        base = base + band * (WHITE - base)
    return np.clip(base * light[:, None], 0, 1)


def _gloss(
    scene: Scene, shape: str, at: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, " n"]:
    """Strength of the highlight in [0, 1]. Flat faces mirror one direction only, so theirs is a lamp's image at a set spot."""
    if shape == "star":
        toward = float(np.sign(scene.light[0]))
        heart = (STAR[0] + STAR[4] + STAR[6]) / 3
        spots = [np.array([*(heart + shift), DEEP]) for shift in ([0.16 * toward, 0.26], [0.68 * toward, 0.12])]
        return np.max(
            [np.exp(-((at - p) ** 2).sum(axis=1) / (2 * w**2)) for p, w in zip(spots, (0.2, 0.1), strict=True)], axis=0
        )
    if shape == "cube":
        lit = int(np.argmax(scene.light[[0, 2]] * -np.sign(scene.ahead[[0, 2]])))
        front = -np.sign(scene.ahead) * HALF
        top = np.array([0.3 * front[0], 2 * HALF, 0.3 * front[2]])
        side = np.array([front[0], 1.45 * HALF, 0.0]) if lit == 0 else np.array([0.0, 1.45 * HALF, front[2]])
        return np.max([np.exp(-((at - spot) ** 2).sum(axis=1) / (2 * 0.2**2)) for spot in (top, side)], axis=0)
    half = scene.light - scene.ahead
    height = np.ones(len(at))
    if shape == "cone":  # its normals never rise to `half`: compare directions seen from above, fade above and below
        half, normals = half * np.array([1, 0, 1]), normals * np.sqrt(1 + 1 / TALL**2)
        height = np.exp(-(((at[:, 1] - 0.4 * TALL) / 0.55) ** 2))
    sharp = {"ball": 45, "cone": 40, "ring": 28}[shape]
    return height * np.clip(normals @ (half / np.linalg.norm(half)), 0, 1) ** sharp
