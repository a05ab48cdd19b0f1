"""Randomness that gives the same picture on every device: drawn on the CPU in float32, then moved."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def generator(*keys: int) -> torch.Generator:
    """A CPU generator seeded by all `keys` together, e.g. (seed, step, sample): equal keys, equal numbers.

    Keys are mixed (not added), so that (1, 2) and (2, 1) differ and neighbouring seeds are unrelated.
    """
    state = 0x9E3779B97F4A7C15
    for key in keys:  # splitmix64 finaliser, once per key
        state = (state + (key & (2**64 - 1)) * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator("cpu").manual_seed(state % 2**63)


def noise(
    shape: tuple[int, ...], *keys: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "..."]:
    """Standard normal numbers of `shape` for these keys, equal on every device up to the rounding of `dtype`."""
    return torch.randn(shape, generator=generator(*keys)).to(device=device, dtype=dtype)


def rows(count: int, size: int, *keys: int) -> Int[Tensor, "size"]:
    """`size` row numbers in [0, count) for these keys, drawn with replacement: the batch of a training step."""
    return torch.randint(count, (size,), generator=generator(*keys))
