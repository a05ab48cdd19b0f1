"""Procedural worlds with exact ground truth: numpy, scipy.ndimage and scikit-image, no torch.

`draw(world, size, seed)` gives the same picture for the same three values on every machine. Each world is one file with
`ATTRIBUTES` (caption attributes and their values), `describe(attributes)` (every caption that states them) and
`draw(size, seed, **fixed)`.
"""

from importlib import import_module
from types import ModuleType

from graft_common.phantoms.record import Phantom, box, box_of

__all__ = ["WORLDS", "Phantom", "box", "box_of", "draw", "world"]

WORLDS = ("brain", "ultrasound", "dermoscopy", "chest_xray", "mammogram", "lung_ct", "textures", "objects")


def world(name: str) -> ModuleType:
    """The module of one world (`ATTRIBUTES`, `describe`, `draw`). Raises ValueError for an unknown name."""
    if name not in WORLDS:
        raise ValueError(f"world is {name!r} but must be one of {', '.join(WORLDS)}")
    return import_module(f"graft_common.phantoms.{name}")


def draw(name: str, size: int, seed: int, **fixed: str) -> Phantom:
    """Draw one phantom.

    Args:
        name: one of `WORLDS`.
        size: height and width in pixels, 32 or more.
        seed: any non-negative integer; equal (name, size, seed, fixed) give equal bytes.
        fixed: attributes to hold, e.g. `draw("brain", 64, 3, tumor="none")`; the others are drawn.

    Raises:
        ValueError: unknown world, attribute or value, or a size under 32.
    """
    module = world(name)
    if size < 32:
        raise ValueError(f"size is {size} but must be at least 32")
    for key, value in fixed.items():
        if key not in module.ATTRIBUTES or value not in module.ATTRIBUTES[key]:
            known = {k: list(v) for k, v in module.ATTRIBUTES.items()}
            raise ValueError(f"{name} has no {key}={value!r}; choose from {known}")
    return module.draw(size, seed, **fixed)
