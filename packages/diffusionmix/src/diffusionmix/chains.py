"""A chain: one network's states for a batch of pictures, or a finished picture that stands in for one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffusionmix.noise import JUMP, Noise
from diffusionmix.records import Net
from diffusionmix.respace import Tables
from diffusionmix.solvers import Solver
from diffusionmix.steps import clean, deviation, forward, reverse

State = Float[Tensor, "LB C h w"]


@dataclass
class Chain:
    """L layers of B pictures that one network denoises as one batch.

    Attributes:
        net: the network.
        tables: its schedule over the states.
        members: (L, B) numbers that tell the chains of a picture apart, for their noise.
        stream: of its own steps.
        noise: where noise comes from.
        labels: (LB,) class numbers; None for an unconditional network.
        solver: None for DDPM.
        calls: of the network, so far.
    """

    net: Net
    tables: Tables
    members: Sequence[Sequence[int]]
    stream: int
    noise: Noise
    labels: Int64[Tensor, " LB"] | None = None
    solver: Solver | None = None
    calls: int = 0
    _index: Int64[Tensor, " T1"] | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.net.channels, *self.net.size)

    def start(self) -> State:
        """Pure noise, the state T."""
        return self.noise(self.stream, 0, self.shape, self.members)

    def predict(self, x: State, t: int) -> tuple[State, State | None]:
        """Clean prediction at state t, and the network's variance half where it has one."""
        self.calls += 1
        if self._index is None:
            self._index = torch.from_numpy(self.tables.index).to(self.net.device)
        output = self.net.module(x.to(self.net.dtype), self._index[t], class_labels=self.labels).sample.float()
        raw = output[:, self.net.channels :] if self.net.variance == "learned_range" else None
        return clean(output[:, : self.net.channels], x, t, self.tables, self.net.prediction, self.net.clip), raw

    def step(self, x0: State, raw: State | None, x: State, t: int, position: int) -> State:
        """x_{t-1} from the (possibly merged) clean prediction."""
        if self.solver is not None:
            return self.solver.step(x0, x, t)
        n = self.noise(self.stream, position, self.shape, self.members) if t > 1 else None
        return reverse(x0, x, t, self.tables, deviation(raw, t, self.tables, self.net.variance), n)

    def climb(self, x: State, t: int, position: int) -> State:
        """x_{t+1}; a multistep solver forgets what it knew."""
        if self.solver is not None:
            self.solver.restart(t + 1)
        return forward(x, t, self.tables, self.noise(JUMP, position, self.shape, self.members))


@dataclass
class Known:
    """A finished picture in a chain's place: a photograph, or an object that is kept as it is.

    Its clean prediction is the picture itself at every state, so the other chain meets it at every noise level (RePaint's known
    region). Its own state is only what it shows at the end: the picture with what was merged into it in the last step.

    Attributes:
        picture: (LB, C, h, w) in [-1, 1].
        tables: the schedule over the states.
        members: as in `Chain`.
    """

    picture: State
    tables: Tables
    members: Sequence[Sequence[int]]
    calls: int = 0

    def start(self) -> State:
        return self.picture

    def predict(self, x: State, t: int) -> tuple[State, None]:
        return self.picture, None

    def step(self, x0: State, raw: State | None, x: State, t: int, position: int) -> State:
        return x0

    def climb(self, x: State, t: int, position: int) -> State:
        return self.picture
