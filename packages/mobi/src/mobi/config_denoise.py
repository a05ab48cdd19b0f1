"""Flags of every verb that draws: the weights, and how the joint network is sampled. Loads no torch."""

from dataclasses import dataclass
from typing import Literal

from graft_common.errors import InputError
from graft_common.settings import ModelConfig


@dataclass(frozen=True, kw_only=True)
class DenoiseConfig(ModelConfig):
    """How a camera crop and a range crop are painted together."""

    weights: str = "tiny-mobi"
    """Shipped name, or folder in Paint-by-Example's diffusers layout with joint.safetensors and range_vae.safetensors in it."""
    steps: int = 50
    """Sampler steps."""
    guidance: int | float | None = None
    """Scale of the reference: 0 ignores it, 1 is the plain conditional prediction, in one network call instead of two. By default
    what the weights' own header says, and the paper's 5 where it says nothing."""
    box_guidance: int | float | None = None
    """Scale of the box numbers, as `guidance`; the same as `guidance` when left out, which takes two network calls, not three."""
    sampler: Literal["ddim", "pndm"] = "ddim"
    """ddim: the paper's, eta 0. pndm: pseudo linear multistep (PLMS), which the authors' scripts use."""
    posterior: Literal["mode", "sample"] = "mode"
    """What the autoencoders' codes of the contexts are: the mean of the posterior, or a draw from it (seeded)."""
    cross_modal: bool = True
    """Let camera and lidar attend to each other; without, the two are painted independently."""

    def scales(self, own: int | float) -> tuple[int | float, int | float]:
        """Scales of reference and box for weights whose header says `own`."""
        reference = own if self.guidance is None else self.guidance
        return reference, reference if self.box_guidance is None else self.box_guidance

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        super().check()
        if not 1 <= self.steps <= 1000:
            raise InputError(f"--steps {self.steps}: must be in 1..1000, the number of steps of the training schedule")
        for name, value in (("guidance", self.guidance), ("box-guidance", self.box_guidance)):
            if value is not None and not 0 <= value <= 100:  # also true for NaN
                raise InputError(f"--{name} {value}: must be in [0, 100]; the paper uses 5")
