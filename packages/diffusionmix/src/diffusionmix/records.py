"""What flows from stage to stage."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8

from diffusionmix.box import Box

RGB = 3
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Net:
    """One denoiser with the schedule that it was trained on.

    Attributes:
        role: "object" (colour and, as last channel, the mask) or "background" (colour).
        module: called as module(x, index, class_labels=...) -> record with `.sample`; compiled where asked for.
        alphas_cumprod: (N,) float64, on the CPU.
        channels: channels of the state.
        size: (height, width) of the state.
        prediction: "epsilon", "sample" or "v_prediction".
        variance: "fixed_small", "fixed_large" or "learned_range"; the last has twice as many output channels.
        clip: clean predictions are cut to [-1, 1].
        classes: number of class embeddings; 0 for an unconditional network.
        device, dtype: of the parameters.
    """

    role: str
    module: Any = field(repr=False)
    alphas_cumprod: Float64[np.ndarray, " N"] = field(repr=False)
    channels: int
    size: tuple[int, int]
    prediction: str = "epsilon"
    variance: str = "fixed_small"
    clip: bool = True
    classes: int = 0
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, eq=False)
class Mix:
    """An object model (or several) and a background model that paint together.

    Attributes:
        objects: object networks; empty where only a background is drawn.
        background: background network; None where only objects are drawn or the background is a photograph.
        classes: names in the order of the class embeddings; empty when unconditional.
        boxes: (n, 4) x, y, width, height of training positions, as shares of the picture.
        name: of the weights, for records.
        sha256: digest of all files in use.
        codec: pixels <-> latents of a latent mix; None where the networks work on pixels.
        folders: where the halves were read from.
    """

    objects: tuple[Net, ...]
    background: Net | None
    classes: tuple[str, ...] = ()
    boxes: Float64[np.ndarray, "n 4"] = field(default_factory=lambda: np.zeros((0, 4)))
    name: str = "memory"
    sha256: str = ""
    codec: Any = field(default=None, repr=False)
    folders: tuple[Path, ...] = ()

    @property
    def object(self) -> Net:
        """The first object network."""
        return self.objects[0]

    @property
    def factor(self) -> int:
        """Pixels per cell along one side; 1 without a codec."""
        return 1 if self.codec is None else int(self.codec.factor)

    @property
    def object_size(self) -> int:
        """Side of an object picture in pixels."""
        return self.object.size[0] * self.factor

    @property
    def background_size(self) -> tuple[int, int]:
        """(height, width) of a drawn picture in pixels."""
        assert self.background is not None
        return self.background.size[0] * self.factor, self.background.size[1] * self.factor

    def weights(self) -> dict[str, str]:
        """Name and digest for the run record."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Placed:
    """One object of a scene.

    Attributes:
        box: where it goes, in pixels of the picture.
        label: class number; None draws it from the seed (or the network is unconditional).
        source: which of `Mix.objects` draws it.
    """

    box: Box
    label: int | None = None
    source: int = 0


@dataclass(frozen=True, eq=False)
class Part:
    """One object of a finished picture.

    Attributes:
        object: (S, S, 3) the object chain's own picture.
        object_mask: (S, S) its mask.
        mask: (H, W) where it is seen in the picture: nothing outside its box, nothing behind later objects.
        box, label: as placed.
    """

    object: UInt8[np.ndarray, "S S 3"]
    object_mask: Bool[np.ndarray, "S S"]
    mask: Bool[np.ndarray, "H W"]
    box: Box
    label: int | None


@dataclass(frozen=True, eq=False)
class Merged:
    """One finished picture.

    Attributes:
        image: (H, W, 3).
        mask: (H, W) True on any object.
        object, object_mask: (S, S, 3) and (S, S) of the first object.
        box: of the first object.
        seed: what it was drawn from.
        calls: of each network that ran: T + r tau.
        flags: reasons to look at it: "empty mask", "full mask", "not merged".
        parts: every object, from the farthest to the nearest.
    """

    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"]
    object: UInt8[np.ndarray, "S S 3"]
    object_mask: Bool[np.ndarray, "S S"]
    box: Box
    seed: int
    calls: int
    flags: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def label(self) -> int | None:
        """Class of the first object."""
        return self.parts[0].label if self.parts else None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one reverse step saw, for trajectories and tests.

    Attributes:
        position: index of the new state in the schedule.
        state: the new state.
        objects: (B, C+1, S, S) new state of each layer; background: (B, C, H, W) that of the canvas.
        guess_objects, guess_background: the clean predictions of the step.
        own_objects, own_background: the new states before merging.
        covers: (B, 1, H, W) mask of each layer on the canvas, None where nothing was merged.
    """

    position: int
    state: int
    objects: tuple[Float[torch.Tensor, "B C1 S S"], ...]
    background: Float[torch.Tensor, "B C H W"]
    guess_objects: tuple[Float[torch.Tensor, "B C1 S S"], ...]
    guess_background: Float[torch.Tensor, "B C H W"]
    own_objects: tuple[Float[torch.Tensor, "B C1 S S"], ...]
    own_background: Float[torch.Tensor, "B C H W"]
    covers: tuple[Float[torch.Tensor, "B 1 H W"], ...] | None
