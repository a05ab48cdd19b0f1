"""Synthetic axial chest CT in a lung window (-1350 to 150 HU): two lungs with vessel trees, and a nodule in half of the pictures.

The slice lies anywhere from the aortic arch to the heart. "left" and "right" are the viewer's, so the picture's left half (by
radiological convention the patient's right lung). Thorax, lung texture, nodule and noise come from separate random streams:
two pictures of one seed that differ in `nodule` show the same patient. HU are painted first and windowed last.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from graft_common.phantoms._drawing import cloud, cover, ellipse, grey, grid, join, lobed, ramp, splat
from graft_common.phantoms.record import Phantom

ATTRIBUTES: dict[str, tuple[str, ...]] = {"nodule": ("none", "left", "right")}

WINDOW = (-1350.0, 150.0)  # HU shown as black and as white

_WORLD = 6
_SHARES = {"none": 0.5, "left": 0.25, "right": 0.25}
_AIR, _FAT, _MUSCLE, _BLOOD, _MARROW, _BONE = -990.0, -95.0, 30.0, 45.0, 130.0, 420.0

Plane = Float[np.ndarray, "H W"]


@dataclass(frozen=True)
class _Thorax:
    """Cross-section of one patient; lengths in image sides, x to the viewer's right and y to the back from `centre`."""

    level: float  # 0 at the aortic arch, 1 at the base of the heart
    centre: tuple[float, float]
    turn: float  # rotation of the patient, radians
    body: tuple[float, float, float]  # half axes and power of the skin ellipse
    cavity: tuple[float, float, float]  # the same for the inner chest wall
    forward: float  # shift of the cavity towards the breastbone
    fat: float  # thickness of the subcutaneous fat
    breasts: float  # half thickness of the anterior fat mounds, 0 for none
    trunk: float  # half width of the mediastinum
    heart: tuple[float, float, float, float, float]  # x, y, half axes, turn
    spine: float  # y of the vertebral body
    density: float  # HU of lung tissue
    contrast: float  # HU that contrast medium adds to blood


def describe(attributes: dict[str, str | float | int]) -> tuple[str, ...]:
    """Every caption that states the nodule and its side."""
    if attributes["nodule"] == "none":
        return (
            "a ct slice of healthy lungs with no nodule",
            "an axial chest ct with no nodule",
            "a lung ct slice showing no nodule",
        )
    side = attributes["nodule"]
    return (
        f"a ct slice of lungs with a nodule on the {side}",
        f"an axial chest ct with a nodule on the {side} side",
        f"a lung ct slice showing a {side} nodule",
    )


def hounsfield(image: UInt8[np.ndarray, "H W *c"]) -> Float[np.ndarray, "H W"]:
    """HU of a picture of this world (its first channel); exact to 2.9 HU inside `WINDOW`, clipped to it outside."""
    first = image if image.ndim == 2 else image[..., 0]
    return WINDOW[0] + first.astype(np.float64) * ((WINDOW[1] - WINDOW[0]) / 255.0)


def draw(size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one slice.

    Masks: body (skin to skin, lungs included), lung_left and lung_right (viewer's sides, with vessels and nodule),
    mediastinum, vessels (inside the lungs), nodule.
    Numbers in `attributes`: `lung_hu` (mean over both lungs) and, with a nodule, `centre_x`, `centre_y`, `diameter` (of the
    disc of equal area; pixels) and `nodule_hu`, the mean over the nodule. HU are read back from the picture.
    """
    pick, body, tissue, lesion, scanner = np.random.default_rng([_WORLD, seed]).spawn(5)
    drawn = {"nodule": str(pick.choice(list(_SHARES), p=list(_SHARES.values())))}
    attributes: dict[str, str | float | int] = {**drawn, **fixed}
    caption = describe(attributes)[pick.integers(3)]

    thorax = _thorax(body)
    x, y = _frame(thorax, *grid(size))
    skin, middle, lung = _skin(thorax, x, y), _middle(thorax, x, y), _lung(thorax, x, y)
    hu, mediastinum = _wall(body, size, thorax, x, y, skin, middle, lung)
    air = cover(lung, size)
    hu, vessels = _parenchyma(tissue, size, thorax, hu, lung, air)
    nodule = np.zeros_like(hu)
    number: dict[str, float | int] = {}
    if attributes["nodule"] != "none":
        sign = -1 if attributes["nodule"] == "left" else 1
        hu, nodule, number = _nodule(lesion, size, thorax, sign, hu)
    hu = _scanner(scanner, size, thorax, hu, cover(skin, size))
    image = grey((hu - WINDOW[0]) / (WINDOW[1] - WINDOW[0]))
    inside = air >= 0.5
    masks = {
        "body": cover(skin, size) >= 0.5,
        "lung_left": inside & (x < 0),
        "lung_right": inside & (x >= 0),
        "mediastinum": mediastinum & ~inside,
        "vessels": (vessels >= 0.5) & inside,
        "nodule": nodule >= 0.5,
    }
    seen = hounsfield(image)
    attributes["lung_hu"] = float(seen[inside].mean())
    if number:
        number |= {"nodule_hu": float(seen[masks["nodule"]].mean())}
        number |= {"diameter": float(np.sqrt(4.0 * masks["nodule"].sum() / np.pi))}
    return Phantom(image, masks, {**attributes, **number}, caption, seed)


def _thorax(rng: np.random.Generator) -> _Thorax:
    level = rng.uniform(0.0, 1.0)
    wide, deep = rng.uniform(0.425, 0.475), rng.uniform(0.3, 0.355)
    fat = rng.uniform(0.014, 0.034)
    side, front = fat + rng.uniform(0.032, 0.044), fat + rng.uniform(0.026, 0.036)
    cavity = (wide - side, deep - front, rng.uniform(2.1, 2.5))
    heart = (
        0.035 + 0.035 * level + rng.uniform(-0.01, 0.01),
        -0.055 + rng.uniform(-0.02, 0.02),
        0.075 + 0.065 * level + rng.uniform(-0.01, 0.01),
        0.06 + 0.06 * level + rng.uniform(-0.01, 0.01),
        rng.uniform(0.3, 0.7),
    )
    return _Thorax(
        level=level,
        centre=(0.5 + rng.uniform(-0.015, 0.015), 0.47 + rng.uniform(-0.02, 0.02)),
        turn=rng.uniform(-0.1, 0.1),
        body=(wide, deep, rng.uniform(2.1, 2.6)),
        cavity=cavity,
        forward=rng.uniform(0.004, 0.014),
        fat=fat,
        breasts=rng.uniform(0.035, 0.07) if rng.random() < 0.35 else 0.0,
        trunk=rng.uniform(0.045, 0.065),
        heart=heart,
        spine=cavity[1] - rng.uniform(0.05, 0.07),
        density=rng.uniform(-900.0, -815.0),
        contrast=rng.uniform(60.0, 160.0) if rng.random() < 0.5 else 0.0,
    )


def _frame(
    thorax: _Thorax, x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]
) -> tuple[Float[np.ndarray, "*s"], Float[np.ndarray, "*s"]]:
    """Image coordinates to the patient's."""
    dx, dy, c, s = x - thorax.centre[0], y - thorax.centre[1], np.cos(thorax.turn), np.sin(thorax.turn)
    return c * dx + s * dy, c * dy - s * dx


def _skin(thorax: _Thorax, x: Plane, y: Plane) -> Plane:
    body = ellipse(x, y, *thorax.body)
    if thorax.breasts:
        across = np.abs(x) - 0.5 * thorax.body[0]
        mound = ellipse(across, y + 0.8 * thorax.body[1], 0.135, thorax.breasts + 0.055)
        body = join(body, mound, 0.06)
    return body


def _middle(thorax: _Thorax, x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """Distance inside everything between the lungs: trunk of the mediastinum, heart, great vessels and spine."""
    hx, hy, ha, hb, turn = thorax.heart
    # The trunk narrows behind the breastbone, where the lungs come close together.
    waist = thorax.trunk * (1.0 - 0.55 * ramp(-y, 0.02, thorax.cavity[1]))
    trunk = waist - np.abs(x - 0.2 * hx)
    solid = join(trunk, ellipse(x - hx, y - hy, ha, hb, 2.0, turn), 0.06)
    solid = join(solid, ellipse(x, y - thorax.spine - 0.02, 0.085, 0.075), 0.04)
    return join(solid, _aorta(thorax, x, y) + 0.008, 0.02)


def _aorta(thorax: _Thorax, x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """Distance inside the descending aorta, left of the spine (the viewer's right)."""
    return ellipse(x - 0.068, y - thorax.spine + 0.05, 0.036, 0.036)


def _lung(thorax: _Thorax, x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    """Distance inside either lung: the chest cavity less what lies between the lungs, with rounded corners."""
    return -join(-ellipse(x, y + thorax.forward, *thorax.cavity), _middle(thorax, x, y), 0.05)


def _wall(
    rng: np.random.Generator, size: int, thorax: _Thorax, x: Plane, y: Plane, skin: Plane, middle: Plane, lung: Plane
) -> tuple[Plane, np.ndarray]:
    """HU of the thorax without lungs, in air, and the mediastinum mask (bones of the spine left out)."""

    def paint(hu: Plane, inside: Plane, value: float) -> Plane:
        share = cover(inside, size)
        return hu + share * (value - hu)

    cavity = ellipse(x, y + thorax.forward, *thorax.cavity)
    hu = paint(np.full_like(x, _AIR), skin, _MUSCLE)
    hu = paint(hu, skin - 0.008, _FAT)
    # Muscle follows the cavity outside; the layer is thicker beside the spine and thin over the front.
    coat = 0.026 + 0.02 * ramp(y, 0.05, 0.25) + 0.012 * cloud(rng, size, 1.2, 2.0, 8)
    back = ellipse(np.abs(x) - 0.06, y - thorax.spine - 0.07, 0.07, 0.04)
    hu = paint(hu, np.minimum(join(cavity + coat, back, 0.03), skin - 0.6 * thorax.fat), _MUSCLE)
    hu = _ribs(rng, size, thorax, x, y, cavity, skin, hu)
    hu = paint(hu, np.minimum(cavity, middle + 0.004), -60.0)
    blood = _BLOOD + thorax.contrast
    hu = paint(hu, np.minimum(middle - 0.006, cavity), _MUSCLE)
    hx, hy, ha, hb, turn = thorax.heart
    hu = paint(hu, ellipse(x - hx, y - hy, ha - 0.008, hb - 0.008, 2.0, turn), blood)
    hu = paint(hu, _aorta(thorax, x, y), blood)
    hu = _airway(size, thorax, x, y, hu)

    bone = ellipse(x, y - thorax.spine, 0.058, 0.044, 2.3)
    arch = ellipse(x, y - thorax.spine - 0.06, 0.04, 0.034)
    wings = ellipse(np.abs(x) - 0.06, y - thorax.spine - 0.062, 0.04, 0.014, 2.0, 0.25)
    spike = ellipse(x, y - thorax.spine - 0.1, 0.012, 0.035)
    spine = join(join(bone, arch, 0.01), join(wings, spike, 0.01), 0.01)
    spine = np.minimum(spine, skin - 0.012)
    hu = paint(hu, spine, _BONE)
    hu = paint(hu, bone - 0.012, _MARROW)
    hu = paint(hu, ellipse(x, y - thorax.spine - 0.058, 0.024, 0.019), -20.0)
    return hu, (np.minimum(cavity, middle) > 0) & (spine <= 0)


def _ribs(
    rng: np.random.Generator, size: int, thorax: _Thorax, x: Plane, y: Plane, cavity: Plane, skin: Plane, hu: Plane
) -> Plane:
    """Ribs as bright bars along the chest wall, breastbone, and shoulder blades in upper slices."""
    angle = np.arctan2(y / thorax.cavity[1], x / thorax.cavity[0])
    for side in (0.0, np.pi):
        for place in np.linspace(-1.05, 1.05, int(rng.integers(5, 7))) + rng.uniform(-0.1, 0.1):
            half, thick = rng.uniform(0.1, 0.2), rng.uniform(0.009, 0.012)
            off = (angle - (place + side) + np.pi) % (2 * np.pi) - np.pi
            # A rib crosses the slice at a slant, so its distance from the lung grows along the bar.
            shell = -cavity - 0.02 - 0.02 * off / half * np.sign(place) * (1.0 if side == 0.0 else -1.0)
            bar = thick * np.sqrt(np.clip(1.0 - (off / half) ** 2, 0.0, 1.0)) - np.abs(shell)
            share = cover(np.where(np.abs(off) < half, np.minimum(bar, skin - 0.006), -1.0), size)
            hu = hu + share * (_BONE - hu)
    front = ellipse(x, y + thorax.forward + thorax.cavity[1] + 0.016, 0.05, 0.013)
    bones = [front]
    if thorax.level < 0.45:
        for sign in (-1.0, 1.0):
            bx, by = sign * 0.8 * thorax.body[0], 0.5 * thorax.body[1]
            bones.append(ellipse(x - bx, y - by, 0.012, 0.075, 2.0, sign * 0.75))
    for bone in bones:
        share = cover(np.minimum(bone, np.minimum(skin - 0.008, -cavity - 0.004)), size)
        hu = hu + share * (_BONE - hu)
    return hu


def _airway(size: int, thorax: _Thorax, x: Plane, y: Plane, hu: Plane) -> Plane:
    """Trachea in upper slices, the two main bronchi in the middle, none below."""
    high = thorax.spine - 0.105
    if thorax.level < 0.4:
        holes = [ellipse(x, y - high, 0.03, 0.028)]
    elif thorax.level < 0.8:
        holes = [ellipse(x - sign * 0.043, y - high, 0.027, 0.019, 2.0, sign * 0.4) for sign in (-1.0, 1.0)]
    else:
        return hu
    for hole in holes:
        hu = hu + cover(hole + 0.008, size) * (20.0 - hu)
        hu = hu + cover(hole, size) * (-960.0 - hu)
    return hu


def _parenchyma(
    rng: np.random.Generator, size: int, thorax: _Thorax, hu: Plane, lung: Plane, air: Plane
) -> tuple[Plane, Plane]:
    """Fill the lungs with tissue (denser towards the back, where the patient lies) and vessels; HU and vessel coverage."""
    _, y = _frame(thorax, *grid(size))
    tissue = (
        thorax.density
        + 110.0 * (y + 0.05)
        + 22.0 * cloud(rng, size, 1.3, 1.0, 12)
        + 10.0 * cloud(rng, size, 0.8, 8.0, 40)
    )
    parts = [_tree(rng, thorax, sign) for sign in (-1, 1)]
    points, radii, level = (np.concatenate(group) for group in zip(*parts, strict=True))
    vessels = splat(size, points, radii, level)
    filled = tissue + vessels * (_BLOOD + 0.5 * thorax.contrast - tissue)
    return hu + air * (filled - hu), vessels * air


def _tree(
    rng: np.random.Generator, thorax: _Thorax, sign: int
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Branching vessels of one lung from its hilum outwards, and vessels cut across: points (image), radii, brightness.

    In each generation a branch forks in up to two, shorter, thinner and fainter (less of the slice is vessel); vessels end
    short of the pleura.
    """
    roots = int(rng.integers(5, 8))
    start = np.array([sign * (0.07 + (0.03 * thorax.level if sign > 0 else 0.0)), 0.02 + rng.uniform(-0.02, 0.02)])
    head = np.tile(start, (roots, 1)) + rng.normal(0.0, 0.02, (roots, 2)) * [0.3, 1.5]
    course = np.linspace(-1.35, 1.35, roots) + rng.normal(0.0, 0.12, roots)
    length, radius = rng.uniform(0.09, 0.13, roots), rng.uniform(0.011, 0.016, roots)
    points, radii, level = [], [], []
    along = np.linspace(0.0, 1.0, 18)[None, :]
    for generation in range(4):
        bend = course[:, None] + rng.normal(0.0, 0.25, course.size)[:, None] * along
        step = length[:, None, None] / along.size * np.stack([sign * np.cos(bend), np.sin(bend)], axis=-1)
        path = head[:, None] + np.cumsum(step, axis=1)
        points.append(path.reshape(-1, 2))
        radii.append((radius[:, None] * (1.0 - 0.25 * along)).ravel())
        level.append(np.full(path.shape[0] * path.shape[1], 1.0 - 0.17 * generation))
        fork = rng.uniform(0.25, 0.6, (2, course.size)) * np.array([[-1.0], [1.0]])
        grow = rng.random(2 * course.size) < 0.66
        head, course = np.tile(path[:, -1], (2, 1))[grow], (course + fork).ravel()[grow]
        length = np.tile(length, 2)[grow] * rng.uniform(0.6, 0.85, course.size)
        radius = np.tile(radius, 2)[grow] * 0.74
    dots = 28
    cut = np.stack([sign * rng.uniform(0.08, thorax.cavity[0], dots), rng.uniform(-0.3, 0.3, dots)], axis=-1)
    points.append(cut)
    radii.append(rng.uniform(0.006, 0.012, dots))
    level.append(rng.uniform(0.4, 0.9, dots))
    place, radius_all, level_all = np.concatenate(points), np.concatenate(radii), np.concatenate(level)
    room = _lung(thorax, place[:, 0], place[:, 1]) - radius_all
    keep = (room > 0.012) | ((_middle(thorax, place[:, 0], place[:, 1]) > -0.05) & (room > -0.03))
    keep &= sign * place[:, 0] > 0
    place, radius_all, level_all = place[keep], radius_all[keep], level_all[keep]
    c, s = np.cos(thorax.turn), np.sin(thorax.turn)
    image = np.array(thorax.centre) + place @ np.array([[c, s], [-s, c]])
    return image, radius_all, level_all * (0.7 + 0.3 * ramp(room[keep], 0.0, 0.06))


def _nodule(
    rng: np.random.Generator, size: int, thorax: _Thorax, sign: int, hu: Plane
) -> tuple[Plane, Plane, dict[str, float | int]]:
    """Paint a solid nodule in the lung on the viewer's left (-1) or right (1), clear of pleura and mediastinum."""
    wish = rng.uniform(0.068, 0.09)
    lobes = tuple((k, rng.uniform(0.0, 0.04), rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    swell = 1.0 + sum(amplitude for _, amplitude, _ in lobes)
    px = rng.uniform(0.06, thorax.cavity[0], 1000) * sign
    py = rng.uniform(-thorax.cavity[1], thorax.cavity[1], 1000)
    room = np.minimum(_lung(thorax, px, py) - 0.006, -_middle(thorax, px, py) - 0.02)
    free = np.flatnonzero(room >= wish * swell)
    best = int(free[0]) if free.size else int(np.argmax(room))
    radius = min(wish, float(room[best]) / swell)
    x, y = _frame(thorax, *grid(size))
    share = cover(lobed(x - px[best], y - py[best], radius, lobes), size, 1.0 + 0.008 * size)
    value = rng.uniform(0.0, 70.0) + 15.0 * cloud(rng, size, 1.0, 3.0, 16)
    c, s = np.cos(thorax.turn), np.sin(thorax.turn)
    centre = np.array(thorax.centre) + np.array([px[best], py[best]]) @ np.array([[c, s], [-s, c]])
    number = {"centre_x": float(centre[0] * size), "centre_y": float(centre[1] * size)}
    return hu + share * (value - hu), share, number


def _scanner(rng: np.random.Generator, size: int, thorax: _Thorax, hu: Plane, skin: Plane) -> Plane:
    """Table below the patient, blur and noise, and in some pictures a reconstruction circle (black outside it)."""
    x, y = grid(size)
    top = thorax.centre[1] + thorax.body[1] + rng.uniform(0.005, 0.03) + thorax.body[0] * abs(np.sin(thorax.turn)) * 0.3
    sag, gap, plastic = rng.uniform(0.12, 0.45), rng.uniform(0.035, 0.06), rng.uniform(-650.0, -450.0)
    noise_hu, circle = rng.uniform(12.0, 24.0), rng.random() < 0.5
    depth = y - top + sag * (x - 0.5) ** 2
    plate = np.maximum(0.009 - np.abs(depth), 0.007 - np.abs(depth - gap))
    share = cover(plate, size) * (1.0 - skin)
    hu = hu + share * (plastic - hu)
    hu = ndimage.gaussian_filter(hu, 0.3 + 0.2 * size / 64)  # the scanner's own blur
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size)), 0.3 + 0.2 * size / 64)
    hu = hu + noise * (noise_hu / noise.std())
    if circle:
        hu = hu + cover(np.hypot(x - 0.5, y - 0.5) - 0.5, size) * (WINDOW[0] - hu)
    return hu
