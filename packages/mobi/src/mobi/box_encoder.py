"""A box's eight corners in crop coordinates -> one condition token (mobi spec 2.6)."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

FREQUENCIES = (1.0, 2.0, 4.0, 8.0)  # without the factor pi
FEATURES = 8 * 3 * (1 + 2 * len(FREQUENCIES))


def fourier(box: Float[Tensor, "*B 8 3"]) -> Float[Tensor, "*B 216"]:
    """Per corner v = (x, y, depth): [v, sin v, cos v, sin 2v, cos 2v, sin 4v, cos 4v, sin 8v, cos 8v], corners in order.

    Args:
        box: x and y in fractions of the crop (they may leave [0, 1]), third the normalised depth in [-1, 1]; all 0 for no box.
    """
    parts = [box] + [wave(f * box) for f in FREQUENCIES for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=-1).flatten(-2)


class BoxEncoder(nn.Module):
    """Fourier features -> Linear -> MLP with SiLU, the same for camera and lidar; 1,217,024 parameters at full size and `null`.

    `null` (token,) is the learned vector that stands for a box that is not told; a removal's zero box is told.

    Args:
        token: width of the condition tokens.
        hidden: width inside.
    """

    def __init__(self, token: int = 768, hidden: int = 512) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, token)
        widths = (token, hidden, hidden, token)
        layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.SiLU())]
        self.mlp = nn.Sequential(*layers[:-1])
        self.null = nn.Parameter(torch.randn(token))

    def forward(self, box: Float[Tensor, "*B 8 3"]) -> Float[Tensor, "*B token"]:
        """One token per box."""
        return self.mlp(self.embed(fourier(box)))
