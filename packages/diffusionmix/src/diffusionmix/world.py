"""The two worlds of the shipped weights: wood with a defect, and open ground with an object. Numpy only, no torch.

Pictures are drawn by seed. Seeds from `HELD_OUT` upward are never trained on.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, UInt8

from diffusionmix import scene_world
from diffusionmix.box import Box
from diffusionmix.crop import cut, object_box
from graft_common import phantoms

World = Literal["texture", "scene"]
WORLDS: tuple[World, ...] = get_args(World)
CLASSES: dict[World, tuple[str, ...]] = {"texture": ("blob", "hole", "crack"), "scene": scene_world.CLASSES}
HELD_OUT = 10_000_000
MARGIN = 0.25
_LABELS = 5101  # stream that picks the defect of a texture


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture with its truth.

    Attributes:
        image: the picture with its object.
        empty: the same picture without it (same seed): equal but for the object, its shadow or its rim.
        mask: the object's pixels.
        label: its class, one of `CLASSES[world]`; None where none was drawn (then `image` is `empty`).
        box: the square that `prepare` crops, the mask's box enlarged by 25 % and shifted inside; None without an object.
    """

    image: UInt8[np.ndarray, "S S 3"]
    empty: UInt8[np.ndarray, "S S 3"]
    mask: Bool[np.ndarray, "S S"]
    label: str | None
    box: Box | None


def draw_scene(world: World, size: int, seed: int, label: str | None = None) -> Scene:
    """The picture of a world for a seed; equal arguments give equal bytes.

    Args:
        size: side in pixels, 32 or more.
        label: class of the object; None draws it by the seed, "none" draws no object.

    Raises:
        ValueError: unknown world or label, or a size below 32.
    """
    if world not in WORLDS:
        raise ValueError(f"world is {world!r}; choose from {', '.join(WORLDS)}")
    if label not in (None, "none", *CLASSES[world]):
        raise ValueError(f"label is {label!r}; choose from none, {', '.join(CLASSES[world])}")
    if size < 32:
        raise ValueError(f"size is {size}; give 32 or more")
    bare = label == "none"
    if bare:
        empty = scene_world.ground(size, seed) if world == "scene" else _wood(size, seed, "none").image
        return Scene(empty, empty, np.zeros((size, size), bool), None, None)
    if world == "scene":
        image, empty, mask, label = scene_world.draw(size, seed, label)
    else:
        if label is None:
            label = CLASSES[world][int(np.random.default_rng([_LABELS, seed]).integers(len(CLASSES[world])))]
        empty, phantom = _wood(size, seed, "none").image, _wood(size, seed, label)
        image, mask = phantom.image, phantom.masks["defect"]
    return Scene(image, empty, mask, label, object_box(mask, MARGIN))


def _wood(size: int, seed: int, defect: str) -> phantoms.Phantom:
    return phantoms.draw("textures", size, seed, texture="wood", defect=defect)


def object_crop(
    scene: Scene, size: int, margin: float | int = MARGIN
) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "s s"]]:
    """The object's square of side `size` and its mask, as `prepare` cuts them.

    Raises:
        ValueError: the scene holds no object.
    """
    return cut(scene.image, scene.mask, object_box(scene.mask, margin), size)
