"""Four independent streams of noise, drawn on the CPU for each picture by itself (spec 2.6)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.rng import generator

BACKGROUND, OBJECT, MERGE, JUMP = range(4)


@dataclass(frozen=True)
class Noise:
    """Noise of a batch of pictures; equal for a picture whatever the batch, and on every device.

    Attributes:
        seeds: one for each picture.
        merge_seed: joins the keys of the merge noise, so that it can change alone; None leaves them as they are.
        device: where it is needed. From pinned memory, the copy does not make the host wait.
    """

    seeds: tuple[int, ...]
    merge_seed: int | None
    device: torch.device

    def __call__(
        self, stream: int, position: int, shape: tuple[int, ...], members: Sequence[Sequence[int]]
    ) -> Float[Tensor, "LB *shape"]:
        """Standard normal numbers.

        Args:
            stream: BACKGROUND, OBJECT, MERGE or JUMP.
            position: index in the schedule of the state that they lead to.
            shape: of one picture.
            members: for each layer, a number for each picture that tells its chain from the others of that picture.
        """
        more = () if self.merge_seed is None or stream != MERGE else (self.merge_seed,)
        keys = [(seed, stream, position, member, *more) for row in members for seed, member in zip(self.seeds, row, strict=True)]
        out = torch.empty(len(keys), *shape, pin_memory=self.device.type == "cuda")
        for row, key in zip(out, keys, strict=True):
            torch.randn(shape, generator=generator(*key), out=row)
        return out.to(self.device, non_blocking=True)
