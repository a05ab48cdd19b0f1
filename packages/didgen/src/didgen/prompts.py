"""Prompts for layouts, boxes and seeds: what can be measured is measured, the rest is drawn from what the weights have seen."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from didgen.attributes import CHOICES, DermAttributes, parse, render
from didgen.measure_shape import main_part, outline, position_of, shape_of, size_of
from graft_common.errors import InputError

Seen = Mapping[str, Sequence[str]]  # field -> values that training captions named


def count_seen(prompts: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each value of each field stands in captions; captions outside the grammar are passed over."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in CHOICES}
    for prompt in prompts:
        try:
            attributes = parse(prompt)
        except InputError:
            continue
        for name in CHOICES:
            value = getattr(attributes, name)
            counts[name].update(value if isinstance(value, tuple) else () if value is None else (value,))
    return {name: dict(sorted(c.items())) for name, c in counts.items() if c}


def draw(seed: int, seen: Seen, **fixed: str) -> DermAttributes:
    """Attributes for a seed: one colour, a skin tone and, where not fixed, an outline; sharp border, no hair, no markers."""
    rng = np.random.default_rng([61, seed])

    def pick(name: str) -> str:
        values = list(seen.get(name) or CHOICES[name])
        return values[int(rng.integers(len(values)))]

    drawn = {name: pick(name) for name in ("colors", "skin", "shape", "size", "position")} | fixed
    return DermAttributes(
        shape=drawn["shape"], colors=(drawn["colors"],), size=drawn["size"], position=drawn["position"], skin=drawn["skin"],
        hair="none", border="sharp" if not seen or "sharp" in seen.get("border", ()) else None,
    )  # fmt: skip


def prompt_of(layout: Bool[np.ndarray, "H W"], seed: int, seen: Seen | None = None) -> str:
    """Prompt of a layout: size and place of the whole mask, shape of its largest lesion, colours from the seed.

    Raises:
        InputError: the layout is empty.
    """
    if not layout.any():
        raise InputError("layout: is empty; mark a lesion in it")
    shape = shape_of(outline(main_part(layout)))
    return render(draw(seed, seen or {}, shape=shape, size=size_of(layout), position=position_of(layout)))


def prompt_of_box(box: tuple[float, float, float, float], seed: int, seen: Seen | None = None) -> str:
    """Prompt of the ellipse that fills a box (x1, y1, x2, y2 in shares)."""
    y, x = (np.mgrid[:128, :128] + 0.5) / 128
    middle, half = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), ((box[2] - box[0]) / 2, (box[3] - box[1]) / 2)
    inside = ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 <= 1
    if not inside.any():  # smaller than a cell of this grid
        inside[min(127, int(middle[1] * 128)), min(127, int(middle[0] * 128))] = True
    return prompt_of(inside, seed, seen)
