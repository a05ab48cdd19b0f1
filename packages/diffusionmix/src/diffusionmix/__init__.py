"""Two diffusion models, one of an object with its mask and one of the background, paint one picture together.

DiffusionMix, written afresh from the paper that CITATION.cff names; there is no public code of it.

    from diffusionmix import DiffusionMixPipeline
    pipe = DiffusionMixPipeline.from_pretrained(folder)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing diffusionmix loads no torch
    from diffusionmix.compose import merge
    from diffusionmix.pipeline import DiffusionMixPipeline

__version__ = "0.1.0"
__all__ = ["DiffusionMixPipeline", "__version__", "merge"]
_LAZY = {"DiffusionMixPipeline": "diffusionmix.pipeline", "merge": "diffusionmix.compose"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'diffusionmix' has no attribute {name!r}")
