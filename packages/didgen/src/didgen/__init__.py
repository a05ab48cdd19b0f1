"""Dermoscopic images with their lesion masks, steered by text, layout, box or edit (DiDGen).

The method is chapter 4 of the thesis that CITATION.cff names. Written afresh; no code of the papers it builds on is used.

    from didgen import pairs
    for pair in pairs([layout]):
        pair.image, pair.annotation.mask
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing didgen loads no torch
    from didgen.pipeline import pairs
    from didgen.stream import PairDataset

__version__ = "0.1.0"
__all__ = ["PairDataset", "__version__", "pairs"]
_LAZY = {"pairs": "didgen.pipeline", "PairDataset": "didgen.stream"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'didgen' has no attribute {name!r}")
