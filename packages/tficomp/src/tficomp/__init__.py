"""Training-free tumour composition: a lesion from one scan, blended into another with a text-to-image model.

K. T. Pham, "An approach for medical cancer image generation leveraging pretrained Stable Diffusion v2.1"; built on TF-ICON
(S. Lu, Y. Liu, A. W.-K. Kong, ICCV 2023). Written afresh; no code of either is used.

    from tficomp import compose
    result = compose("healthy.png", "tumour.png", "tumour_mask.png", "where.png", prompt="An MRI scan of a cancerous brain")
    result.pixels, result.lesion_mask
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing tficomp loads no torch
    from tficomp.dataset import LesionDataset
    from tficomp.pipeline import compose

__version__ = "0.1.0"
__all__ = ["LesionDataset", "__version__", "compose"]
_LAZY = {"compose": "tficomp.pipeline", "LesionDataset": "tficomp.dataset"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tficomp' has no attribute {name!r}")
