"""The placeholder tokens `<lesion>` and `<skin>` (spec 2.2): two frozen rows of the embedding that name what maps are read."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.errors import InputError

LESION, SKIN = "<lesion>", "<skin>"
WORDS = {LESION: "lesion", SKIN: "skin"}
PREFIX = f"An image of {LESION} on {SKIN}"
Init = Literal["mean", "first", "last"]


@dataclass(frozen=True)
class Positions:
    """Where things stand in an encoded prompt, counted from 0 with the start token at 0."""

    lesion: int
    skin: int
    end: int


def has_placeholders(tokenizer: Any) -> bool:
    """Whether both words are one known token each."""
    vocabulary = tokenizer.get_vocab()
    return all(word in vocabulary for word in WORDS)


def first_row(table: Float[Tensor, "V D"], pieces: list[int], init: Init) -> Float[Tensor, "D"]:
    """Embedding of a placeholder from the rows of its word's pieces.

    A word of one piece keeps its row, so that the placeholder means exactly the word. Of several pieces the mean is
    shorter than any of them, so it is brought to the mean length of the table's rows.
    """
    rows = table[pieces]
    if init != "mean":
        return rows[0 if init == "first" else -1].clone()
    if len(pieces) == 1:
        return rows[0].clone()
    mean = rows.mean(dim=0)
    return mean * (table.norm(dim=1).mean() / mean.norm())


@torch.no_grad()
def add_placeholders(tokenizer: Any, text_encoder: Any, init: Init = "mean") -> None:
    """Append both tokens to the vocabulary and the embedding, in place. Does nothing where they are there already."""
    if has_placeholders(tokenizer):
        return
    table = text_encoder.get_input_embeddings().weight
    rows = [
        first_row(table, tokenizer(word, add_special_tokens=False).input_ids, init) for word in WORDS.values()
    ]
    known = table.shape[0]
    tokenizer.add_tokens(list(WORDS))
    text_encoder.resize_token_embeddings(known + len(rows), mean_resizing=False)
    grown = text_encoder.get_input_embeddings().weight
    for word, row in zip(WORDS, rows, strict=True):
        grown[tokenizer.convert_tokens_to_ids(word)] = row
    text_encoder.requires_grad_(False)


def positions(tokenizer: Any, prompt: str) -> Positions:
    """Indices of both placeholders (first occurrence) and of the end token (its first one: padding may repeat it).

    Raises:
        InputError: a placeholder is missing from the prompt, or the prompt is longer than the model's positions.
    """
    ids = tokenizer(prompt, verbose=False).input_ids
    if len(ids) > tokenizer.model_max_length:
        raise InputError(
            f"prompt {prompt!r}: has {len(ids)} tokens with begin and end, {tokenizer.model_max_length} fit; shorten it"
        )
    found = {}
    for word in WORDS:
        number = tokenizer.convert_tokens_to_ids(word)
        if number not in ids:
            raise InputError(f"prompt {prompt!r}: lacks {word}; begin it with {PREFIX!r}, maps are read there")
        found[word] = ids.index(number)
    return Positions(found[LESION], found[SKIN], ids.index(tokenizer.eos_token_id))
