"""DermPrompt's record: JSON, sentence and variation, and property 16 of the spec."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from didgen.attributes import (
    BUDGET,
    CHOICES,
    OPTIONAL,
    PIECES,
    PREFIX,
    PREFIX_TOKENS,
    SEVERAL,
    DermAttributes,
    count_tokens,
    flip,
    from_json,
    parse,
    render,
    to_json,
    vary,
)
from graft_common.bundle import shipped
from graft_common.errors import InputError

PLAIN = DermAttributes(shape="oval", colors=("dark-brown",), size="medium", position="center", skin="tan", hair="none")
# Pieces of every word of the grammar in the public CLIP vocabulary (bpe_simple_vocab_16e6), counted with its merges.
PUBLIC_ONE = {
    "an", "image", "of", "on", ",", "round", "oval", "irregular", "white", "red", "brown", "light", "dark", "blue",
    "gray", "black", "small", "medium", "large", "top", "bottom", "center", "left", "right", "at", "the", "sharp",
    "blurred", "border", "low", "high", "tan", "very", "intermediate", "skin", "hair", "no", "dense", "ruler", "ink",
    "bubbles", "corners", "sticker", "melanoma", "cell", "carcinoma", "vascular", "and",
}  # fmt: skip
PUBLIC_MORE = {
    "elongated": "elong ated", "asymmetry": "asym metry", "lesion": "le sion", "sparse": "spar se", "nevus": "nev us",
    "basal": "bas al", "actinic": "ac tin ic", "keratosis": "ker at osis", "benign": "ben ign",
    "dermatofibroma": "der mat ofi bro ma",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import CLIPTokenizer

    made = CLIPTokenizer.from_pretrained(shipped()["tiny-sd"] / "tokenizer", local_files_only=True)
    made.add_tokens(["<lesion>", "<skin>"])
    return made


class Pieces:
    """Counts as a CLIPTokenizer does, by a rule for each word."""

    def __init__(self, rule):
        self.rule = rule

    def __call__(self, text, add_special_tokens=False, verbose=False):
        words = text.replace(",", " ,").split()
        count = sum(1 if w in ("<lesion>", "<skin>") else self.rule(w.lower()) for w in words)
        return type("Encoded", (), {"input_ids": [0] * count})()


PUBLIC = Pieces(lambda w: len(PUBLIC_MORE[w].split()) if w in PUBLIC_MORE else (1 if w in PUBLIC_ONE else 10**6))
SPLITTING = Pieces(lambda w: 1 if len(w) <= 3 else -(-len(w) // 2))  # much worse than any real vocabulary


def subsets(values, least, most, ordered):
    pick = itertools.permutations if ordered else itertools.combinations
    return [c for n in range(least, most + 1) for c in pick(values, n)]


def all_values(name):
    if name in SEVERAL:
        return subsets(CHOICES[name], *SEVERAL[name], ordered=name == "colors")
    return [*CHOICES[name], *([None] if name in OPTIONAL else [])]


def random_attributes(rng):
    return DermAttributes(**{n: (v := all_values(n))[int(rng.integers(len(v)))] for n in CHOICES})


@pytest.mark.parametrize("counter", ["tiny", "public"])
def test_no_combination_is_over_the_budget(counter, tokenizer):
    """Tokens of a prompt add up over its fields, so the longest of all 700 million is the longest of each field."""
    tok = {"tiny": tokenizer, "public": PUBLIC}[counter]

    def extra(name, value):
        return count_tokens(render(dataclasses.replace(PLAIN, **{name: value}), tok), tok) - base

    base = count_tokens(render(PLAIN, tok), tok)
    rng = np.random.default_rng(5)
    for _ in range(60):  # additivity itself
        a = random_attributes(rng)
        assert count_tokens(render(a, tok), tok) == base + sum(extra(n, getattr(a, n)) for n in CHOICES)
    longest = DermAttributes(**{n: max(all_values(n), key=lambda v, n=n: extra(n, v)) for n in CHOICES})
    text = render(longest, tok)
    assert count_tokens(text, tok) == base + sum(extra(n, getattr(longest, n)) for n in CHOICES)
    assert 40 < count_tokens(text, tok) <= 75
    assert parse(text) == longest  # nothing had to go
    for name in CHOICES:
        for value in all_values(name):
            a = dataclasses.replace(longest, **{name: value})
            assert parse(render(a, tok)) == a and count_tokens(render(a, tok), tok) <= 75


def test_count_without_a_tokenizer_is_the_public_one_and_never_below_the_shipped_one(tokenizer):
    rng = np.random.default_rng(6)
    for _ in range(200):
        text = render(random_attributes(rng))
        assert count_tokens(text) == count_tokens(text, PUBLIC) >= count_tokens(text, tokenizer)
    assert {w: len(p.split()) for w, p in PUBLIC_MORE.items()} == PIECES
    assert count_tokens(PREFIX) == count_tokens(PREFIX, tokenizer) == PREFIX_TOKENS


def test_placeholders_stand_at_four_and_six(tokenizer):
    rng = np.random.default_rng(7)
    lesion, skin = tokenizer.convert_tokens_to_ids(["<lesion>", "<skin>"])
    for _ in range(1000):
        ids = tokenizer(render(random_attributes(rng), tokenizer)).input_ids
        assert len(ids) <= 77 and ids[4] == lesion and ids[6] == skin and ids.count(lesion) == ids.count(skin) == 1


@pytest.mark.parametrize("counter", ["tiny", "splitting"])
def test_what_is_dropped_and_in_which_order(counter, tokenizer):
    tok = {"tiny": tokenizer, "splitting": SPLITTING}[counter]
    full = DermAttributes(
        shape="irregular", colors=("light-brown", "blue-gray", "red"), size="medium", position="bottom-right", skin="very-light",
        hair="sparse", markers=("ruler", "ink", "sticker"), border="blurred", asymmetry="high", diagnosis="BCC",
    )  # fmt: skip
    order = [
        full,
        dataclasses.replace(full, border=None),
        dataclasses.replace(full, border=None, asymmetry=None),
        dataclasses.replace(full, border=None, asymmetry=None, colors=full.colors[:2]),
        dataclasses.replace(full, border=None, asymmetry=None, colors=full.colors[:1]),
        dataclasses.replace(full, border=None, asymmetry=None, colors=full.colors[:1], markers=("ruler", "ink")),
        dataclasses.replace(full, border=None, asymmetry=None, colors=full.colors[:1], markers=("ruler",)),
        dataclasses.replace(full, border=None, asymmetry=None, colors=full.colors[:1], markers=()),
    ]
    least = count_tokens(render(order[-1], tok, 10**6), tok) - PREFIX_TOKENS
    most = count_tokens(render(full, tok, 10**6), tok) - PREFIX_TOKENS
    seen = []
    for budget in range(most, least - 1, -1):
        text = render(full, tok, budget)
        assert count_tokens(text, tok) <= budget + PREFIX_TOKENS
        back = parse(text)
        assert back in order
        # the first of the order that fits, never a later one
        first = next(a for a in order if count_tokens(render(a, tok, 10**6), tok) <= budget + PREFIX_TOKENS)
        assert back == first
        seen.append(order.index(back))
    assert seen == sorted(seen) and set(seen) == set(range(len(order)))
    for budget in (least - 1, 0, -3):
        with pytest.raises(InputError, match=f"needs {least} tokens after its prefix but the budget is {budget}"):
            render(full, tok, budget)


def test_a_tokenizer_without_placeholders_counts_their_pieces():
    from transformers import CLIPTokenizer

    plain = CLIPTokenizer.from_pretrained(shipped()["tiny-sd"] / "tokenizer", local_files_only=True)
    rng = np.random.default_rng(8)
    for _ in range(100):
        text = render(random_attributes(rng), plain)
        assert count_tokens(text, plain) <= BUDGET + PREFIX_TOKENS
    assert count_tokens(PREFIX, plain) > PREFIX_TOKENS


def test_a_sentence():
    a = DermAttributes(
        shape="irregular", colors=("light-brown", "black"), size="large", position="top-left", skin="very-light", hair="sparse",
        markers=("dark-corners", "ruler"), border="sharp", asymmetry="low", diagnosis="BCC",
    )  # fmt: skip
    assert render(a) == (
        "An image of <lesion> on <skin>, basal cell carcinoma, large irregular light brown and black lesion at the top left, "
        "sharp border, low asymmetry, very light skin, sparse hair, ruler, dark corners"
    )
    assert a.markers == ("ruler", "dark-corners")  # the schema's order, whatever order they came in
    assert render(a) == render(dataclasses.replace(a)) == render(from_json(json.loads(json.dumps(to_json(a)))))


def test_json_there_and_back():
    rng = np.random.default_rng(9)
    for _ in range(300):
        a = random_attributes(rng)
        assert from_json(json.loads(json.dumps(to_json(a)))) == a
    short = {"shape": "oval", "colors": ["red"], "size": "small", "position": "top", "skin": "dark", "hair": "none"}
    assert from_json(short).markers == () and from_json(short).diagnosis is None


GOOD = to_json(PLAIN)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "is list, not a JSON object"),
        (None, "is NoneType, not a JSON object"),
        (GOOD | {"colour": "red"}, "unknown field 'colour'; choose from shape"),
        ({k: v for k, v in GOOD.items() if k != "skin"}, "skin is missing; give one of very-light"),
        (GOOD | {"shape": "square"}, "shape is 'square'; choose from round, oval"),
        (GOOD | {"shape": None}, "shape is None"),
        (GOOD | {"shape": ["oval"]}, "shape is ['oval']"),
        (GOOD | {"colors": []}, "colors is []; give a list of 1 to 3"),
        (GOOD | {"colors": "red"}, "colors is 'red'; give a list"),
        (GOOD | {"colors": ["red", "red"]}, "colors has a value twice"),
        (GOOD | {"colors": ["red", {}]}, "colors has {}"),
        (GOOD | {"markers": [""]}, "markers has ''"),
        (GOOD | {"": 1}, "unknown field ''"),
        (GOOD | {"colors": ["red", "white", "black", "blue-gray"]}, "give a list of 1 to 3"),
        (GOOD | {"markers": ["pen"]}, "markers has 'pen'; choose from ruler"),
        (GOOD | {"diagnosis": "mel"}, "diagnosis is 'mel'; choose from MEL"),
        (GOOD | {"hair": float("nan")}, "hair is nan"),
    ],
)
def test_bad_json_names_the_field(content, said):
    with pytest.raises(InputError) as why:
        from_json(content, "attributes a.json")
    assert str(why.value).startswith("attributes a.json: ") and said in str(why.value) and "\n" not in str(why.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of a cat",
        "An image of <lesion> on <skin>",
        "An image of <lesion> on <skin>, ",
        render(PLAIN) + ", ruler, pen",
        render(PLAIN).replace("tan skin", "green skin"),
        render(PLAIN).replace("dark brown", "dark brown and dark brown"),
        render(PLAIN) + "\n, ink",
    ],
)
def test_other_sentences_are_refused(text):
    with pytest.raises(InputError):
        parse(text)


def test_vary_keeps_what_it_should():
    rng = np.random.default_rng(10)
    changed = {name: 0 for name in CHOICES}
    for _ in range(600):
        a = random_attributes(rng)
        b = vary(a, rng)
        different = [n for n in CHOICES if getattr(a, n) != getattr(b, n)]
        assert 1 <= len(different) <= 3 and "diagnosis" not in different and len(b.colors) == len(a.colors)
        assert all(getattr(b, n) is None for n in OPTIONAL if getattr(a, n) is None)
        assert parse(render(b)) == b
        for name in different:
            changed[name] += 1
    assert min(v for n, v in changed.items() if n != "diagnosis") > 50
    one = vary(PLAIN, np.random.default_rng(3), keep=tuple(n for n in CHOICES if n != "skin"))
    assert dataclasses.replace(one, skin="tan") == PLAIN and one.skin != "tan"
    assert vary(PLAIN, np.random.default_rng(4)) == vary(PLAIN, np.random.default_rng(4))
    with pytest.raises(ValueError, match="nothing is left to vary"):
        vary(PLAIN, rng, keep=tuple(CHOICES))


def test_flip_swaps_the_sides_only():
    wanted = {"top-left": "top-right", "left": "right", "bottom-right": "bottom-left", "center": "center", "top": "top"}
    for before, after in wanted.items():
        a = dataclasses.replace(PLAIN, position=before)
        assert flip(a) == dataclasses.replace(a, position=after) and flip(flip(a)) == a
