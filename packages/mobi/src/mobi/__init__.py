"""Camera and lidar object inpainting from one reference picture and one 3D box (MObI).

    from mobi import insert
    edit = insert("image.jpg", "sweep.bin", "calib.json", "2.5,12,-1,4.5,1.9,1.6,1.57", "reference.png", weights="folder")
    edit.image.rgb, edit.sweep.points, edit.flags
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing mobi loads no torch
    from mobi.pipeline import insert, remove, replace

__version__ = "0.1.0"
__all__ = ["__version__", "insert", "remove", "replace"]


def __getattr__(name: str) -> Any:
    if name in ("insert", "remove", "replace"):
        from importlib import import_module

        return getattr(import_module("mobi.pipeline"), name)
    raise AttributeError(f"module 'mobi' has no attribute {name!r}")
