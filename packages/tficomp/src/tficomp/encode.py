"""Placed -> Latents: pictures, masks and words as the network's tensors (spec 2.3, 2.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graft_common import bundle as weights
from graft_common.bundle import Bundle
from graft_common.inversion import exceptional_prompt
from graft_common.rng import generator
from tficomp.records import Placed


@dataclass(frozen=True, eq=False)
class Latents:
    """A batch of B samples with n lesions in all.

    Attributes:
        background: (B, c, h, w) scaled latents, float32 (or float64 in tests).
        objects: (n, c, h, w).
        owner: (n,) the sample that each object belongs to, in painting order.
        m_obj: (n, 1, h, w) relocated lesion masks.
        m_user: (B, 1, h, w) grown user masks.
        text, null: (B, L, D) prompt and empty prompt.
        exceptional: (1, 1, D) one row of the exceptional prompt; all rows are equal, so one gives the same attention.
    """

    background: Float[Tensor, "B c h w"]
    objects: Float[Tensor, "n c h w"]
    owner: Int[Tensor, " n"]
    m_obj: Bool[Tensor, "n 1 h w"]
    m_user: Bool[Tensor, "B 1 h w"]
    text: Float[Tensor, "B L D"]
    null: Float[Tensor, "B L D"]
    exceptional: Float[Tensor, "1 1 D"]


def encode(placed: Sequence[Placed], prompts: Sequence[str], bundle: Bundle, seeds: Sequence[int] | None = None) -> Latents:
    """Backgrounds and objects in one pass through the VAE; posterior means, or samples of it when `seeds` are given."""
    owner = [i for i, p in enumerate(placed) for _ in range(len(p.objects))]
    pixels = torch.from_numpy(np.concatenate([np.stack([p.background for p in placed]), *(p.objects for p in placed)]))
    if seeds is None:
        z = weights.encode(bundle, pixels)
    else:  # one generator a picture, so that a variant does not depend on its batch
        keys = [(seeds[i], 0) for i in range(len(placed))] + [(seeds[o], 1 + j) for j, o in enumerate(owner)]
        z = torch.cat([weights.encode(bundle, x[None], generator(*key)) for x, key in zip(pixels, keys, strict=True)])
    m_obj = torch.from_numpy(np.concatenate([p.m_obj for p in placed]))[:, None]
    m_user = torch.from_numpy(np.stack([p.m_user for p in placed]))[:, None]
    states = weights.text_states(bundle, [*dict.fromkeys(prompts), ""])
    rows = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    device, count = bundle.device, len(placed)
    return Latents(
        background=z[:count],
        objects=z[count:],
        owner=torch.tensor(owner),
        m_obj=m_obj.to(device),
        m_user=m_user.to(device),
        text=states[[rows[p] for p in prompts]],
        null=states[-1:].expand(count, -1, -1),
        exceptional=exceptional_prompt(bundle.text_encoder, bundle.tokenizer)[:, :1],
    )
