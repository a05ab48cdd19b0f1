"""The exceptional prompt: a text condition without content, under which inversion is most faithful (Lu et al. 2023)."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

POSITIONS = "embeddings.position_embedding.weight"


def exceptional_prompt(text_encoder: Any, tokenizer: Any, token: int = 7788) -> Float[Tensor, "1 L D"]:
    """Condition of L times one token without positions, begin and end slots included (Lu et al. 2023, section 4.1).

    All rows of the encoder's output are then equal whatever the causal mask: every attention output is the one
    shared value vector. So the encoder runs on a single such token and its row is repeated: exact in every precision,
    and L times cheaper than encoding L tokens. The encoder is not changed.

    Args:
        text_encoder: transformers `CLIPTextModel` (or with projection).
        tokenizer: its tokenizer; gives the special ids and L (`model_max_length`, at most the encoder's positions).
        token: id used by TF-ICON; brought into a smaller vocabulary by `exceptional_id`.

    Returns:
        (1, L, D) final-layer-norm state, in the encoder's dtype and on its device. Row 0 alone, (1, 1, D), gives a
        denoiser the same cross-attention.
    """
    encoder = getattr(text_encoder, "text_model", text_encoder)
    positions = encoder.get_parameter(POSITIONS)
    vocabulary = min(len(tokenizer), encoder.embeddings.token_embedding.num_embeddings)
    ids = torch.full((1, 1), exceptional_id(vocabulary, tokenizer.all_special_ids, token), device=positions.device)
    with torch.no_grad():
        row = functional_call(encoder, {POSITIONS: torch.zeros_like(positions)}, (ids,)).last_hidden_state
    return row.repeat(1, min(tokenizer.model_max_length, positions.shape[0]), 1)


def exceptional_id(vocabulary: int, special: Iterable[int], token: int = 7788) -> int:
    """The id itself where it is an ordinary entry, otherwise the (token mod n)-th of the n ordinary entries.

    Raises:
        ValueError: a negative token, or a vocabulary of special entries only.
    """
    ordinary = sorted(set(range(vocabulary)) - set(special))
    if token < 0 or not ordinary:
        raise ValueError(
            f"token={token} in a vocabulary with {len(ordinary)} ordinary entries; "
            "need token >= 0 and at least one ordinary entry"
        )
    return token if token in ordinary else ordinary[token % len(ordinary)]
