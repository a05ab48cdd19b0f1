"""A real picture as noise and null texts that lead back to it (spec 2.8, steps 1 to 3)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from didgen.denoise import Denoiser
from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.inversion import clean_from_model, ddim_walk, null_text


@dataclass(frozen=True, eq=False)
class Inversion:
    """What an edit starts from.

    Attributes:
        states: (T+1, 1, c, h, w) the source's own walk, row k = k steps to go, row 0 the picture's latents.
        nulls: (T, 1, L, D) null text of sampling step j, from k = T - j to k - 1, rounded to half precision.
        losses: (T, 1) mean squared distance to the walk that each step ended with.
    """

    states: Float[Tensor, "rows 1 c h w"]
    nulls: Float[Tensor, "T 1 L D"]
    losses: Float[Tensor, "T 1"]


def invert(
    network: Denoiser, latents: Tensor, text: Tensor, null: Tensor, scale: float, iterations: int
) -> Inversion:
    """DDIM inversion at guidance 1, then null-text optimisation at `scale` (0 iterations: the empty prompt as it is)."""

    def eps(x: Tensor, k: int) -> Tensor:
        output = network.output(x, k, text)
        return network.eps(x, k, output)

    def clean(x: Tensor, k: int, context: Tensor) -> Tensor:
        output = network.output(x, k, context.expand(len(x), -1, -1))
        kind = network.bundle.prediction_type
        return clean_from_model(output, x, network.grid.alpha[k], network.grid.sigma[k], kind)

    with torch.no_grad():
        states = ddim_walk(eps, latents, network.grid, invert=True, at="target")
    found = null_text(clean, states, network.grid, null, text, scale, iterations=iterations)
    nulls = found.embeddings.half().float()  # as they are stored: an edit from the file gives the same picture
    return Inversion(states, nulls, found.losses)


def save(inversion: Inversion, path: Path, key: dict[str, object]) -> None:
    """Half precision is enough for the null texts; the walk stays in float32."""
    tensors = {"states": inversion.states, "nulls": inversion.nulls.half(), "losses": inversion.losses}
    save_weights(path, {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, key)


def load(path: Path, key: dict[str, object], device: torch.device) -> Inversion:
    """A stored inversion.

    Raises:
        InputError: it is damaged, or belongs to another picture or other settings.
    """
    stored = read_config(path)
    if changed := next((name for name in key if stored.get(name) != key[name]), None):
        raise InputError(f"--inversion {typed(path)}: was made with another {changed}; leave the flag out to invert again")
    tensors = {name: t.to(device) for name, t in load_weights(path).items()}
    return Inversion(tensors["states"], tensors["nulls"].float(), tensors["losses"])
