"""DermPrompt (spec 2.1): what a prompt may say about a picture, as an enumerated record, as a sentence and as JSON."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from graft_common.errors import InputError

CHOICES: dict[str, tuple[str, ...]] = {
    "shape": ("round", "oval", "elongated", "irregular"),
    "colors": ("white", "red", "light-brown", "dark-brown", "blue-gray", "black"),
    "size": ("small", "medium", "large"),
    "position": (
        "top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right",
    ),
    "skin": ("very-light", "light", "intermediate", "tan", "brown", "dark"),
    "hair": ("none", "sparse", "dense"),
    "markers": ("ruler", "ink", "bubbles", "dark-corners", "sticker"),
    "border": ("sharp", "blurred"),
    "asymmetry": ("low", "high"),
    "diagnosis": ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"),
}  # fmt: skip
OPTIONAL = ("border", "asymmetry", "diagnosis")
SEVERAL = {"colors": (1, 3), "markers": (0, len(CHOICES["markers"]))}  # least and most values of the fields that hold several
DIAGNOSES = {
    "MEL": "melanoma", "NV": "nevus", "BCC": "basal cell carcinoma", "AKIEC": "actinic keratosis",
    "BKL": "benign keratosis", "DF": "dermatofibroma", "VASC": "vascular",
}  # fmt: skip

PREFIX = "An image of <lesion> on <skin>, "
PREFIX_TOKENS = 7
BUDGET = 68  # content tokens that are left of the 75 once the prefix stands
# Words of `render` that the public vocabulary splits, and into how many pieces; every other word is one piece there, and no
# word has more pieces in the shipped vocabulary. Without a tokenizer prompts are counted by this table.
PIECES = {
    "lesion": 2, "elongated": 2, "asymmetry": 2, "sparse": 2, "nevus": 2, "basal": 2, "benign": 2, "actinic": 3, "keratosis": 3,
    "dermatofibroma": 5,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DermAttributes:
    """One picture in words. Every field is enumerated in `CHOICES`; None means "not said".

    Attributes:
        shape: outline of the lesion.
        colors: one to three colours of the lesion, the one that covers most of it first.
        size: share of the picture that the lesion covers.
        position: where its centre lies, on a 3 x 3 grid.
        skin: class of the individual typology angle.
        hair: how much of the skin hair covers.
        markers: things that are no skin, in the order of `CHOICES`.
        border: whether the lesion ends sharply.
        asymmetry: whether it differs from its mirror image.
        diagnosis: column name of ISIC 2018 task 3.

    Raises:
        InputError: an unknown value, too many or too few, or one that stands twice.
    """

    shape: str
    colors: tuple[str, ...]
    size: str
    position: str
    skin: str
    hair: str
    markers: tuple[str, ...] = ()
    border: str | None = None
    asymmetry: str | None = None
    diagnosis: str | None = None

    def __post_init__(self) -> None:
        for name in CHOICES:
            if why := fault(name, getattr(self, name)):
                raise InputError(f"attributes: {why}")
        in_order = tuple(m for m in CHOICES["markers"] if m in self.markers)
        object.__setattr__(self, "markers", in_order)


def fault(name: str, value: Any) -> str | None:
    """What is wrong with a value of a field, with the values it may have; None where nothing is."""
    known = CHOICES[name]
    if name in SEVERAL:
        least, most = SEVERAL[name]
        if not isinstance(value, tuple | list) or not least <= len(value) <= most:
            return f"{name} is {value!r}; give a list of {least} to {most} of {', '.join(known)}"
        if unknown := [v for v in value if v not in known]:
            return f"{name} has {unknown[0]!r}; choose from {', '.join(known)}"
        return f"{name} has a value twice: {', '.join(value)}" if len(set(value)) < len(value) else None
    if value is None and name in OPTIONAL:
        return None
    # a list or a dict from JSON is compared by value, so this works for them too
    return None if value in known else f"{name} is {value!r}; choose from {', '.join(known)}"


def to_json(attributes: DermAttributes) -> dict[str, Any]:
    """Every field as a JSON value, in the record's order; lists for tuples, null for what is not said."""
    values = {f.name: getattr(attributes, f.name) for f in fields(attributes)}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def from_json(content: Any, where: str = "attributes") -> DermAttributes:
    """The record of a JSON object; optional fields and markers may be left out.

    Raises:
        InputError: no object, an unknown or missing field, or an unknown value; the message starts with `where`.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: is {type(content).__name__}, not a JSON object of attributes; write one with caption")
    known = [f.name for f in fields(DermAttributes)]
    if unknown := [key for key in content if key not in known]:
        raise InputError(f"{where}: unknown field {unknown[0]!r}; choose from {', '.join(known)}")
    needed = [name for name in known if name not in (*OPTIONAL, "markers")]
    if missing := next((name for name in needed if name not in content), None):
        raise InputError(f"{where}: {missing} is missing; give one of {', '.join(CHOICES[missing])}")
    for name, value in content.items():
        if why := fault(name, value):
            raise InputError(f"{where}: {why}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
    return DermAttributes(**values)


def flip(attributes: DermAttributes) -> DermAttributes:
    """What is true of the picture mirrored left to right."""
    swapped = {"left": "right", "right": "left"}
    words = [swapped.get(word, word) for word in attributes.position.split("-")]
    return replace(attributes, position="-".join(words))


def vary(attributes: DermAttributes, rng: np.random.Generator, keep: Sequence[str] = ("diagnosis",)) -> DermAttributes:
    """A variation: one to three fields that the attributes state are drawn anew, each to another value.

    Args:
        keep: fields that stay; fields that are not stated stay so. Colours keep their number.
    """
    free = [n for n in CHOICES if n not in keep and getattr(attributes, n) is not None]
    if not free:
        raise ValueError(f"nothing is left to vary; keep is {tuple(keep)}")
    count = min(int(rng.integers(1, 4)), len(free))
    changes = {name: _other(name, getattr(attributes, name), rng) for name in rng.permutation(free)[:count].tolist()}
    return replace(attributes, **changes)


def _other(name: str, value: Any, rng: np.random.Generator) -> Any:
    while True:
        new: Any
        if name == "markers":
            new = tuple(m for m in CHOICES[name] if rng.random() < 0.2)
        elif name == "colors":
            new = tuple(rng.permutation(CHOICES[name])[: len(value)].tolist())
        else:
            new = CHOICES[name][int(rng.integers(len(CHOICES[name])))]
        if new != value:
            return new


def count_tokens(text: str, tokenizer: Any = None) -> int:
    """Content tokens (begin and end are not counted); without a tokenizer as the public vocabulary counts, see `PIECES`."""
    if tokenizer is not None:
        return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    return sum(PIECES.get(word, 1) for word in re.findall(r"<\w+>|\w+|[^\w\s]", text.lower()))


def render(attributes: DermAttributes, tokenizer: Any = None, budget: int = BUDGET) -> str:
    """The prompt: the prefix and what the attributes say, in at most `budget` tokens after the prefix.

    Where it is longer, whole fields go, in this order: border, asymmetry, third colour, second colour, markers from the last
    to the first. `parse` gives the attributes back, less what went.

    Args:
        tokenizer: a CLIPTokenizer that knows the placeholders; one that does not counts their pieces.

    Raises:
        InputError: even then it does not fit.
    """
    limit = budget + PREFIX_TOKENS
    for candidate in _shortened(attributes):
        text = PREFIX + _phrase(candidate)
        if (count := count_tokens(text, tokenizer)) <= limit:
            return text
    raise InputError(f"prompt needs {count - PREFIX_TOKENS} tokens after its prefix but the budget is {budget}; raise it")


def _shortened(attributes: DermAttributes) -> list[DermAttributes]:
    """The attributes, then with one field less each time."""
    steps = [attributes]
    if attributes.border is not None:
        steps.append(replace(steps[-1], border=None))
    if attributes.asymmetry is not None:
        steps.append(replace(steps[-1], asymmetry=None))
    while len(steps[-1].colors) > 1:
        steps.append(replace(steps[-1], colors=steps[-1].colors[:-1]))
    while steps[-1].markers:
        steps.append(replace(steps[-1], markers=steps[-1].markers[:-1]))
    return steps


def _phrase(attributes: DermAttributes) -> str:
    a = attributes
    parts = [DIAGNOSES[a.diagnosis]] if a.diagnosis else []
    parts.append(f"{a.size} {a.shape} {' and '.join(a.colors)} lesion at the {a.position}")
    parts += [f"{a.border} border"] if a.border else []
    parts += [f"{a.asymmetry} asymmetry"] if a.asymmetry else []
    parts += [f"{a.skin} skin", f"{'no' if a.hair == 'none' else a.hair} hair", *a.markers]
    return ", ".join(parts).replace("-", " ")  # a hyphen would be a token of its own


_SAID = {name: {value.replace("-", " "): value for value in values} for name, values in CHOICES.items()}
_SAID["hair"] = {"no": "none", "sparse": "sparse", "dense": "dense"}
_SAID["diagnosis"] = {words: name for name, words in DIAGNOSES.items()}


def _one_of(name: str) -> str:
    return f"(?P<{name}>{'|'.join(sorted(_SAID[name], key=len, reverse=True))})"


_COLOR = f"(?:{'|'.join(_SAID['colors'])})"
_GRAMMAR = re.compile(
    re.escape(PREFIX)
    + f"(?:{_one_of('diagnosis')}, )?{_one_of('size')} {_one_of('shape')} (?P<colors>{_COLOR}(?: and {_COLOR}){{0,2}}) "
    + f"lesion at the {_one_of('position')}(?:, {_one_of('border')} border)?(?:, {_one_of('asymmetry')} asymmetry)?"
    + f", {_one_of('skin')} skin, {_one_of('hair')} hair(?P<markers>(?:, (?:{'|'.join(_SAID['markers'])}))*)",
)


def parse(text: str) -> DermAttributes:
    """The attributes of a prompt that `render` wrote.

    Raises:
        InputError: it is no such prompt.
    """
    found = _GRAMMAR.fullmatch(text.strip())
    if found is None:
        raise InputError(f"prompt {text!r}: is not in the grammar of DermPrompt; write it with caption")
    said = found.groupdict()
    values: dict[str, Any] = {name: _SAID[name].get(said[name]) for name in CHOICES if name not in SEVERAL}
    colors = tuple(_SAID["colors"][word] for word in said["colors"].split(" and "))
    markers = tuple(_SAID["markers"][word] for word in said["markers"].split(", ")[1:])
    return DermAttributes(colors=colors, markers=markers, **values)
