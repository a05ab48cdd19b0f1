"""Settings that every verb with a network has. A method inherits them and says anew what means something else there."""

from dataclasses import dataclass
from typing import Literal

from graft_common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the network comes from and where it runs."""

    weights: str = "tiny-sd"
    """Shipped name, folder in diffusers layout, or hub id (fetched only when named)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU when there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the network; auto is float32 on the CPU and bfloat16 on a GPU. What is kept between its calls is float32."""
    compile: bool = False
    """Compile the network with torch.compile; pays from about a hundred pictures on a GPU."""
    seed: int = 0
    """Seed of everything that is drawn."""
    json: bool = False
    """Print the run record as one JSON line on stdout."""

    def check(self) -> None:
        """Raise InputError for values that cannot work, named as typed."""
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must be 0 or more")
