"""The lidar of the world `driving`: an HDL-32E whose 1085 firings of 32 beams meet the same ground, houses and objects."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int16, Int64

from graft_common.phantoms import _driving_ground as land
from graft_common.phantoms._driving_light import Light
from graft_common.phantoms._driving_places import Place, Thing
from graft_common.phantoms._driving_solids import Solid

BEAMS, FIRINGS = 32, 1085
PITCH = 0.0232 * (np.arange(BEAMS) - 23)  # radians, ring 0 lowest: -30.6 to +10.6 degrees
CLOSEST, FARTHEST = 1.0, 70.0  # metres
RANGE_NOISE = 0.02  # metres, standard deviation


class Echoes(NamedTuple):
    """One sweep with its truth (see `driving.Drive`)."""

    sweep: Float32[np.ndarray, "n 5"]
    ray: Int64[np.ndarray, " n"]
    ray_ids: Int16[np.ndarray, "firings beams"]
    ray_depth: Float32[np.ndarray, "firings beams"]
    ray_angles: Float64[np.ndarray, "firings beams 2"]


def scan(
    place: Place, things: Sequence[Thing], light: Light, time: float, pose: Float64[np.ndarray, "4 4"],
    corner: tuple[int, int], rng: np.random.Generator,
) -> Echoes:  # fmt: skip
    """One revolution from `pose` (lidar -> world). The stream is read once a ray, whatever the ray meets."""
    start, lost = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.03) + (0.02 if light.wet else 0.0)
    slip = rng.standard_normal(FIRINGS * BEAMS)
    luck = rng.random(FIRINGS * BEAMS)
    flicker = rng.standard_normal(FIRINGS * BEAMS)
    turn = start - 2 * np.pi * np.arange(FIRINGS) / FIRINGS  # clockwise, seen from above
    azimuth, pitch = (v.ravel() for v in np.meshgrid(turn, PITCH, indexing="ij"))
    beams = np.stack([np.cos(azimuth) * np.cos(pitch), np.sin(azimuth) * np.cos(pitch), np.sin(pitch)], axis=1)
    rays = (beams @ pose[:3, :3].T).astype(np.float32)
    depth, owner, echo, cosine = _trace(place, things, light, time, pose[:3, 3], rays, corner)

    ids = np.array([0, 0, *(t.instance for t in things)], np.int16)[owner]  # 0: nothing, 1: ground and houses
    measured = depth + RANGE_NOISE * slip
    kept = np.flatnonzero(np.isfinite(depth) & (measured > CLOSEST) & (measured < FARTHEST) & (luck >= lost))
    strength = echo * (0.3 + 0.7 * cosine) * (0.8 if light.wet else 1.0) * (1 + 0.06 * flicker)
    sweep = np.empty((len(kept), 5), np.float32)
    sweep[:, :3] = measured[kept, None] * beams[kept]
    sweep[:, 3] = np.rint(np.clip(strength[kept], 0, 255))
    sweep[:, 4] = kept % BEAMS
    shape = (FIRINGS, BEAMS)
    angles = np.stack([np.remainder(azimuth + np.pi, 2 * np.pi) - np.pi, pitch], axis=1)
    return Echoes(sweep, kept, ids.reshape(shape), depth.astype(np.float32).reshape(shape), angles.reshape(*shape, 2))


def _trace(
    place: Place, things: Sequence[Thing], light: Light, time: float, origin: Float64[np.ndarray, "3"],
    rays: Float32[np.ndarray, "n 3"], corner: tuple[int, int],
) -> tuple[Float32[np.ndarray, " n"], Int16[np.ndarray, " n"], Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:  # fmt: skip
    """For every ray: distance (inf = none), what it meets (0 nothing, 1 ground or house, 2 + number of the thing), intensity
    at normal incidence, and the cosine of incidence."""
    n, inf = len(rays), np.float32(np.inf)
    grid = np.arange(n).reshape(FIRINGS, BEAMS)
    heading = np.arctan2(rays[::BEAMS, 1], rays[::BEAMS, 0])
    with np.errstate(divide="ignore"):
        depth = np.where(rays[:, 2] < -1e-4, -np.float32(origin[2]) / rays[:, 2], inf)
    owner = np.where(np.isfinite(depth), 1, 0).astype(np.int16)
    part, face = np.full(n, -1, np.int16), np.zeros(n, np.int16)  # part of the ground: -1; of a house: its number
    for number, house in enumerate(place.houses):
        own = grid[_columns(land.corners(house) - origin, heading)].ravel()
        at, which = land.meet_house(house, origin, rays[own])
        nearer = at < depth[own]
        won = own[nearer]
        depth[won], owner[won], part[won], face[won] = at[nearer], 1, number, which[nearer]
    frames: list[tuple[np.ndarray, np.ndarray, Sequence[Solid]]] = []
    for number, thing in enumerate(things):
        c, s = np.cos(thing.yaw), np.sin(thing.yaw)
        out, foot = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([*thing.at(time), 0.0])
        solids = thing.shape.solids(time)
        frames.append((out, foot, solids))
        for piece, solid in enumerate(solids):
            own = grid[_columns(solid.outline @ out.T + (foot - origin), heading)].ravel()
            if not own.size:
                continue
            at, which = solid.meet(out.T @ (origin - foot), rays[own] @ out.astype(np.float32))
            nearer = at < depth[own]
            won = own[nearer]
            depth[won], owner[won], part[won], face[won] = at[nearer], 2 + number, piece, which[nearer]
    depth[depth > FARTHEST + 1] = inf
    owner[~np.isfinite(depth)] = 0

    echo, cosine = np.zeros(n, np.float32), np.zeros(n, np.float32)
    hits = origin.astype(np.float32) + np.where(np.isfinite(depth), depth, 0)[:, None] * rays
    floor = np.flatnonzero((owner == 1) & (part < 0))
    thin = np.full(len(floor), 0.03, np.float32)
    echo[floor] = land.ground(place, light, hits[floor, 0], hits[floor, 1], thin, thin, corner).echo
    cosine[floor] = -rays[floor, 2]
    for number in np.unique(part[(owner == 1) & (part >= 0)]):
        own = np.flatnonzero((owner == 1) & (part == number))
        normals = land.FACES[face[own]]
        along = np.where(face[own] < 2, hits[own, 1], hits[own, 0])
        thin = np.full(len(own), 0.03, np.float32)
        echo[own] = land.front(place.houses[number], light, along, hits[own, 2], face[own], thin, corner).echo
        cosine[own] = -np.einsum("ij,ij->i", rays[own], normals)
    for number, (out, foot, solids) in enumerate(frames):
        mine = np.flatnonzero(owner == 2 + number)
        for piece in np.unique(part[mine]):
            own = mine[part[mine] == piece]
            local = ((hits[own] - foot) @ out).astype(np.float32)
            normals = solids[piece].normals(local, face[own])
            echo[own] = things[number].shape.surface(solids[piece], local, normals, False).echo
            cosine[own] = -np.einsum("ij,ij->i", rays[own], normals @ out.T)
    return depth, owner, echo, np.clip(cosine, 0, 1).astype(np.float32)


def _columns(points: Float[np.ndarray, "k 3"], heading: Float[np.ndarray, " firings"]) -> np.ndarray:
    """Firings whose azimuth can meet the hull of points (relative to the lidar): a superset."""
    middle = points[:, :2].mean(axis=0)
    toward = np.arctan2(middle[1], middle[0])
    c, s = np.cos(toward), np.sin(toward)
    ahead, side = c * points[:, 0] + s * points[:, 1], c * points[:, 1] - s * points[:, 0]
    if ahead.min() < 0.05:  # all around, or too near to tell
        return np.arange(len(heading))
    if np.hypot(points[:, 0], points[:, 1]).min() > FARTHEST + 60:
        return np.arange(0)
    angles = np.arctan2(side, ahead)
    away = np.remainder(heading - toward + np.pi, 2 * np.pi) - np.pi
    return np.flatnonzero((away >= angles.min() - 1e-6) & (away <= angles.max() + 1e-6))
