"""Properties 14 and 15: the placeholders' rows, and where they stand."""

import pytest
import torch

from didgen.attributes import render
from didgen.prompts import count_seen, draw, prompt_of, prompt_of_box
from didgen.tokens import PREFIX, add_placeholders, first_row, positions
from graft_common import bundle as bundles
from graft_common.errors import InputError


def test_the_placeholders_stand_at_4_and_6_in_a_thousand_prompts(untrained):
    tokenizer = untrained.bundle.tokenizer
    for seed in range(1000):
        words = positions(tokenizer, render(draw(seed, {}), tokenizer))
        assert (words.lesion, words.skin) == (4, 6)


def test_the_end_is_the_first_end_token_not_the_largest_id(untrained):
    tokenizer = untrained.bundle.tokenizer
    ids = tokenizer(PREFIX, padding="max_length", max_length=77).input_ids
    assert max(ids) == tokenizer.convert_tokens_to_ids("<skin>")
    assert positions(tokenizer, PREFIX).end == 7 and ids[7] == tokenizer.eos_token_id


def test_skin_means_skin_and_lesion_is_the_mean_of_its_pieces(untrained):
    base, plain = untrained.bundle, bundles.load("tiny-sd")
    table = plain.text_encoder.get_input_embeddings().weight
    grown = base.text_encoder.get_input_embeddings().weight
    assert torch.equal(grown[: len(table)], table)
    pieces = plain.tokenizer("lesion", add_special_tokens=False).input_ids
    assert len(pieces) == 2
    row, mean = grown[base.tokenizer.convert_tokens_to_ids("<lesion>")], table[pieces].mean(0)
    assert torch.allclose(row / row.norm(), mean / mean.norm(), atol=1e-6)
    assert row.norm().item() == pytest.approx(table.norm(dim=1).mean().item(), rel=1e-5)
    assert torch.equal(first_row(table, pieces, "first"), table[pieces[0]])
    assert torch.equal(first_row(table, pieces, "last"), table[pieces[1]])
    ours = bundles.text_states(base, ["An image of <skin>"])
    theirs = bundles.text_states(plain, ["An image of skin"])
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_adding_twice_changes_nothing(untrained):
    base = untrained.bundle
    before = base.text_encoder.get_input_embeddings().weight.clone()
    add_placeholders(base.tokenizer, base.text_encoder)
    assert torch.equal(base.text_encoder.get_input_embeddings().weight, before)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("An image of a lesion", "lacks <lesion>"), ("An image of <lesion>", "lacks <skin>"), (PREFIX + " red" * 80, "shorten it")],
)
def test_a_prompt_that_cannot_be_read_is_refused(untrained, prompt, said):
    with pytest.raises(InputError, match=said):
        positions(untrained.bundle.tokenizer, prompt)


def test_prompts_of_layouts_say_what_is_measured(untrained):
    import numpy as np

    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    layout = (x - 0.2) ** 2 + (y - 0.2) ** 2 < 0.1**2
    prompt = prompt_of(layout, 3)
    assert prompt == prompt_of(layout, 3) != prompt_of(layout, 4)
    assert "small round" in prompt and "at the top left" in prompt and "no hair" in prompt
    assert "large" in prompt_of_box((0.1, 0.1, 0.9, 0.9), 0) and "at the center" in prompt_of_box((0.1, 0.1, 0.9, 0.9), 0)
    with pytest.raises(InputError, match="empty"):
        prompt_of(np.zeros((8, 8), bool), 0)


def test_colours_are_drawn_from_what_the_weights_have_seen():
    seen = {"colors": ("red",), "skin": ("dark", "tan")}
    drawn = [draw(seed, seen) for seed in range(50)]
    assert {a.colors for a in drawn} == {("red",)} and {a.skin for a in drawn} == {"dark", "tan"}
    counts = count_seen([render(a) for a in drawn] + ["no caption of ours"])
    assert counts["colors"] == {"red": 50} and sum(counts["skin"].values()) == 50
