"""The world `driving`: short ray-cast drives seen by cameras and a lidar, with exact truth about every object.

Unlike the 2D worlds it has its own record. Every object, the ground, and both sensors' noise have their own random streams,
read alike whatever stands in the scene: leave an object out (`without`) and all that it neither covers nor shades stays the
same, byte for byte.

Frames: global and ego x forward, y left, z up (metres; the ego frame lies on the ground below the rear axle); lidar x right,
y forward, z up; camera x right, y down, z forward. A pixel's centre is a whole number. Objects move between samples but
stand still between the stamps of one sample, only the ego car moves: a box is exact for the camera and the lidar alike.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, Int64, UInt8

from graft_common.phantoms._driving_camera import Eye, Footprint, photograph
from graft_common.phantoms._driving_lidar import scan
from graft_common.phantoms._driving_light import Light, draw_light
from graft_common.phantoms._driving_places import HORIZON, KINDS, Ego, Kind, Place, Thing, lay_out

__all__ = [
    "CAMERAS", "FULL_SIZE", "HORIZON", "KINDS", "LIDAR_TO_EGO", "Box3D", "Camera", "Drive", "Footprint", "Kind", "View",
    "draw_scene", "intrinsics",
]  # fmt: skip

WORLD = 7012
FULL_SIZE = (1600, 900)  # width, height at which the focal lengths below hold


@dataclass(frozen=True)
class Camera:
    """A camera on the car: place in the ego frame (metres), heading and downward tilt and roll (degrees, heading
    counter-clockwise from forward), focal length and centre (pixels at `FULL_SIZE`), stamp relative to the lidar's (s)."""

    channel: str
    place: tuple[float, float, float]
    heading: float
    tilt: float
    roll: float
    focal: float
    center: tuple[float, float]
    lag: float

    @property
    def to_ego(self) -> Float64[np.ndarray, "4 4"]:
        """Camera -> ego."""
        a, t, r = np.radians([self.heading, self.tilt, self.roll])
        level = np.array([[np.sin(a), 0, np.cos(a)], [-np.cos(a), 0, np.sin(a)], [0, -1, 0]])
        nod = np.array([[1, 0, 0], [0, np.cos(t), np.sin(t)], [0, -np.sin(t), np.cos(t)]])
        lean = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
        return _pose(level @ nod @ lean, self.place)


def _pose(turn: np.ndarray, place: Sequence[int | float]) -> Float64[np.ndarray, "4 4"]:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, place
    return pose


# Places, headings and focal lengths close to a nuScenes car; the lags as if each camera fired when the lidar swept past it.
CAMERAS = {
    c.channel: c
    for c in (
        Camera("CAM_FRONT", (1.70, 0.02, 1.51), 0.0, 0.4, 0.2, 1266.0, (812.0, 488.0), -0.036),
        Camera("CAM_FRONT_RIGHT", (1.55, -0.49, 1.50), -56.0, 0.3, -0.3, 1260.0, (806.0, 495.0), -0.028),
        Camera("CAM_FRONT_LEFT", (1.52, 0.49, 1.51), 55.0, 0.5, 0.1, 1272.0, (820.0, 480.0), -0.043),
        Camera("CAM_BACK", (0.03, 0.0, 1.58), 180.0, 0.8, 0.3, 809.0, (829.0, 482.0), -0.011),
        Camera("CAM_BACK_LEFT", (1.04, 0.48, 1.59), 108.0, 0.6, -0.2, 1257.0, (792.0, 493.0), -0.003),
        Camera("CAM_BACK_RIGHT", (1.01, -0.48, 1.56), -110.0, 0.5, 0.2, 1259.0, (807.0, 501.0), -0.020),
    )
}
LIDAR_TO_EGO = _pose(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), (0.94, 0.0, 1.84))


def intrinsics(camera: Camera, size: tuple[int, int]) -> Float64[np.ndarray, "3 3"]:
    """K for a picture of `size` (width, height): the full picture's, scaled about pixel centres at whole numbers."""
    x, y = size[0] / FULL_SIZE[0], size[1] / FULL_SIZE[1]
    u, v = camera.center
    return np.array(
        [[camera.focal * x, 0, (u + 0.5) * x - 0.5], [0, camera.focal * y, (v + 0.5) * y - 0.5], [0, 0, 1.0]]
    )


@dataclass(frozen=True)
class Box3D:
    """A tight box in the lidar frame.

    Attributes:
        center: (x, y, z), metres.
        size: length (along the heading), width, height, metres.
        yaw: heading, counter-clockwise from +x, radians in (-pi, pi].
        label: "car" or "pedestrian".
        state: "moving", "parked" or "standing".
        instance: 1, 2, ...: the same object in all samples of a scene.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    label: str
    state: str
    instance: int


@dataclass(frozen=True)
class View:
    """One camera's picture.

    Attributes:
        channel: name of the camera.
        time: stamp, seconds from the scene's start.
        image: (H, W, 3) uint8 RGB.
        K: intrinsics, pixels.
        camera_to_ego, ego_to_global: calibration, and the ego pose at this camera's stamp.
        lidar_to_camera: lidar frame at the lidar's stamp -> camera frame at this stamp, through both ego poses.
        depth: (H, W) metres along the optical axis, inf for the sky.
        ids: (H, W) instance that fills at least half of the pixel, 0 for everything else.
        footprints: instance -> where it would be seen if nothing stood before it; absent where out of view.
    """

    channel: str
    time: float
    image: UInt8[np.ndarray, "H W 3"]
    K: Float64[np.ndarray, "3 3"]
    camera_to_ego: Float64[np.ndarray, "4 4"]
    ego_to_global: Float64[np.ndarray, "4 4"]
    lidar_to_camera: Float64[np.ndarray, "4 4"]
    depth: Float32[np.ndarray, "H W"]
    ids: Int16[np.ndarray, "H W"]
    footprints: dict[int, Footprint]

    def silhouette(self, instance: int, whole: bool = False) -> Bool[np.ndarray, "H W"]:
        """Pixels that show the object; with `whole` also those where something hides it."""
        if not whole:
            return self.ids == instance
        mask = np.zeros(self.ids.shape, bool)
        if instance in self.footprints:
            part = self.footprints[instance]
            mask[part.top : part.top + part.mask.shape[0], part.left : part.left + part.mask.shape[1]] = part.mask
        return mask


@dataclass(frozen=True)
class Drive:
    """One sample: a lidar sweep and the pictures that belong to it.

    Attributes:
        time: stamp of the sweep, seconds from the scene's start.
        sweep: (N, 5) float32 x, y, z, intensity (whole numbers 0..255), ring (0 lowest), lidar frame, firing by firing.
        ray: (N,) number of the ray of each return: firing * 32 + ring.
        ray_ids: (1085, 32) instance that each ray meets first, drop-outs or not; 0 for everything else.
        ray_depth: (1085, 32) true distance without noise or drop-outs, metres, inf for no return.
        ray_angles: (1085, 32, 2) azimuth (counter-clockwise from +x) and pitch of each ray, radians, lidar frame.
        lidar_to_ego, ego_to_global: calibration, and the ego pose at the lidar's stamp.
        boxes: every object of the scene, near or far, in view or not.
        views: one for each camera asked for.
        night, rain, kind: the scene's flags.
    """

    time: float
    sweep: Float32[np.ndarray, "N 5"]
    ray: Int64[np.ndarray, " N"]
    ray_ids: Int16[np.ndarray, "1085 32"]
    ray_depth: Float32[np.ndarray, "1085 32"]
    ray_angles: Float64[np.ndarray, "1085 32 2"]
    lidar_to_ego: Float64[np.ndarray, "4 4"]
    ego_to_global: Float64[np.ndarray, "4 4"]
    boxes: tuple[Box3D, ...]
    views: tuple[View, ...]
    night: bool
    rain: bool
    kind: Kind

    @property
    def image(self) -> UInt8[np.ndarray, "H W 3"]:
        """The first view's picture."""
        return self.views[0].image

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:  # noqa: N802
        """The first view's intrinsics."""
        return self.views[0].K

    @property
    def lidar_to_camera(self) -> Float64[np.ndarray, "4 4"]:
        """The first view's lidar -> camera."""
        return self.views[0].lidar_to_camera

    @property
    def sweep_ids(self) -> Int16[np.ndarray, " N"]:
        """Instance that each return comes from, 0 for everything else."""
        return self.ray_ids.reshape(-1)[self.ray]

    def box(self, instance: int) -> Box3D:
        """The box of an instance. Raises KeyError where the scene has none."""
        for box in self.boxes:
            if box.instance == instance:
                return box
        raise KeyError(f"no instance {instance} among {[b.instance for b in self.boxes]}")


def draw_scene(
    seed: int,
    size: tuple[int, int] = (400, 225),
    times: Sequence[int | float] = (0.0,),
    cameras: Sequence[str] = ("CAM_FRONT",),
    night: bool | None = None,
    rain: bool | None = None,
    kind: Kind | None = None,
    without: Collection[int] = (),
) -> tuple[Drive, ...]:
    """Draw a scene: one `Drive` for each of `times`, of the same instances.

    Args:
        seed: any non-negative integer; equal arguments give equal bytes.
        size: width and height of the pictures, each 32 or more; the field of view stays, K scales.
        times: stamps of the sweeps, seconds, each 0..4; a sample does not depend on which others are drawn.
        cameras: channels of `CAMERAS`; none draws sweeps alone.
        night, rain, kind: fix what is else drawn (one scene in five is at night, one in five in rain).
        without: instances to leave out: the empty twin.

    Raises:
        ValueError: a value out of its range, an unknown camera, kind or instance.
    """
    _check(seed, size, times, cameras, kind)
    plan, place_rng, light_rng, ground_rng = np.random.default_rng([WORLD, seed]).spawn(4)
    dice = plan.random(4)
    night = bool(dice[0] < 0.2) if night is None else night
    rain = bool(dice[1] < 0.2) if rain is None else rain
    kind = KINDS[int(dice[2] * len(KINDS))] if kind is None else kind
    place, light = lay_out(place_rng, kind), draw_light(light_rng, night, rain)
    if strangers := set(without) - {t.instance for t in place.things} | set(without) & {0}:
        raise ValueError(
            f"without names {sorted(strangers)} but the scene has instances 1 to {max(t.instance for t in place.things)}"
        )
    things = [t for t in place.things if t.instance not in without]
    corner = int(ground_rng.integers(512)), int(ground_rng.integers(512))
    turn = 2 * np.pi * dice[3]
    road = _pose(_about_z(turn), (*plan.uniform(300, 2000, 2), 0.0))
    return tuple(
        _sample(seed, time, place, things, light, road, size, cameras, corner, rain) for time in map(float, times)
    )


def _check(
    seed: int, size: tuple[int, int], times: Sequence[int | float], cameras: Sequence[str], kind: str | None
) -> None:
    if seed < 0:
        raise ValueError(f"seed is {seed} but must be 0 or more")
    if min(size) < 32:
        raise ValueError(f"size is {size} but width and height must be at least 32")
    for time in times:
        if not 0 <= time <= HORIZON:
            raise ValueError(f"time is {time} but must be from 0 to {HORIZON} seconds")
    for channel in cameras:
        if channel not in CAMERAS:
            raise ValueError(f"camera is {channel!r} but must be one of {', '.join(CAMERAS)}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r} but must be one of {', '.join(KINDS)}")


def _about_z(angle: float) -> Float64[np.ndarray, "3 3"]:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])


def _ego(ego: Ego, time: float) -> Float64[np.ndarray, "4 4"]:
    """Ego -> world at a time."""
    x, y, heading = ego.pose(time)
    return _pose(_about_z(heading), (x, y, 0.0))


def _sample(
    seed: int, time: float, place: Place, things: Sequence[Thing], light: Light, road: Float64[np.ndarray, "4 4"],
    size: tuple[int, int], cameras: Sequence[str], corner: tuple[int, int], rain: bool,
) -> Drive:  # fmt: skip
    stamp = round(time * 1e6)  # microseconds: a sample's noise depends on its time alone
    here = _ego(place.ego, time)
    lidar = here @ LIDAR_TO_EGO
    echoes = scan(place, things, light, time, lidar, corner, np.random.default_rng([WORLD, seed, stamp]))
    views = []
    for channel in cameras:
        camera, then = CAMERAS[channel], _ego(place.ego, time + CAMERAS[channel].lag)
        pose, K = then @ camera.to_ego, intrinsics(camera, size)
        grain = np.random.default_rng([WORLD, seed, stamp, 1 + list(CAMERAS).index(channel)])
        eye = Eye(pose, K, *size, then[:3, 0])
        shot = photograph(place, things, light, time, eye, corner, grain)
        views.append(
            View(channel, time + camera.lag, shot.image, K, camera.to_ego, road @ then, np.linalg.inv(pose) @ lidar,
                 shot.depth, shot.ids, shot.footprints)
        )  # fmt: skip
    return Drive(
        time, echoes.sweep, echoes.ray, echoes.ray_ids, echoes.ray_depth, echoes.ray_angles, LIDAR_TO_EGO, road @ here,
        tuple(_box(t, time, lidar) for t in things if t.instance), tuple(views), light.night, rain, place.kind,
    )  # fmt: skip


def _box(thing: Thing, time: float, lidar: Float64[np.ndarray, "4 4"]) -> Box3D:
    x, y = thing.at(time)
    middle = np.linalg.inv(lidar) @ np.array([x, y, thing.size[2] / 2, 1.0])
    heading = np.arctan2(lidar[1, 0], lidar[0, 0])
    yaw = np.pi - np.remainder(np.pi - (thing.yaw - heading), 2 * np.pi)  # in (-pi, pi]
    center = (float(middle[0]), float(middle[1]), float(middle[2]))
    return Box3D(center, thing.size, float(yaw), thing.label, thing.state, thing.instance)
