"""Placed -> Latents: pictures, masks and words as the network's tensors (spec 2.3, 2.4)."""

from collections.abc import Sequence

import numpy as np
import torch

from graft_common import bundle as weights
from graft_common.bundle import Bundle
from graft_common.inversion import exceptional_prompt
from graft_common.rng import generator
from tficomp.records import Latents, Placed


def encode(
    placed: Sequence[Placed], prompts: Sequence[str], bundle: Bundle, seeds: Sequence[int] | None = None
) -> Latents:
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
