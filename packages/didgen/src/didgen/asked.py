"""What was asked for against what was drawn: layout, mask and words, judged by colour and measurement alone."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from didgen.annotate import iou
from didgen.attributes import DermAttributes, from_json, parse
from didgen.images import read_rgb
from didgen.manifest import Row
from didgen.measure import measure
from didgen.scoring import Summary
from graft_common.errors import InputError
from graft_common.metrics import bootstrap
from graft_common.resample import resize_mask

WORDS = ("skin", "colors", "size", "position", "hair")
DISC, OTHER, ITSELF, COMMONEST = "one disc", "another layout", "the layout as the mask", "commonest request"
RADIUS = 0.2  # of the disc, in shares of each side
Mask = Bool[np.ndarray, "H W"]
Scores = dict[str, dict[str, Summary]]


def lesion_scores(
    drawn: Sequence[Mask], masks: Sequence[Mask], layouts: Sequence[Mask] | None, ours: str, seed: int = 0
) -> Scores:
    """IoU of the lesion that is there to be seen with mask and layout, and the answers that cost nothing.

    Args:
        drawn: lesion of each picture as its colours show it, empty where none is found.
        masks: what came with each picture.
        layouts: what each was drawn for; None where nobody says.
        ours: name of the row for the pictures themselves.

    Returns:
        row -> "mask_drawn_iou", and with layouts "drawn_layout_iou", whose trivial answers are one disc, the next layout, and
        (for the mask) the layout itself.
    """

    def mean(said: Sequence[Mask], truth: Sequence[Mask]) -> Summary:
        return bootstrap([iou(a, b) for a, b in zip(said, truth, strict=True)], seed)

    out: Scores = {ours: {"mask_drawn_iou": mean(masks, drawn)}}
    if layouts is not None:
        others = [resize_mask(layouts[i - 1], m.shape) for i, m in enumerate(layouts)]
        out[ours]["drawn_layout_iou"] = mean(drawn, layouts)
        out[DISC] = {"drawn_layout_iou": mean([_disc(m.shape) for m in layouts], layouts)}
        out[OTHER] = {"drawn_layout_iou": mean(others, layouts)}
        out[ITSELF] = {"mask_drawn_iou": mean(layouts, drawn)}
    return out


def word_scores(
    wanted: Sequence[DermAttributes], found: Sequence[DermAttributes | None], ours: str, seed: int = 0
) -> Scores:
    """Share of pictures whose measured word is the one that was asked for ("word_skin" and so on; of several lesion colours
    the first), and the same for always saying the commonest request. Words alone say nothing of how near a request lies to a
    class border, so none is left out."""
    out: Scores = {ours: {}, COMMONEST: {}}
    for name in WORDS if wanted else ():
        asked = [_first(one, name) for one in wanted]
        often = Counter(asked).most_common(1)[0][0]
        alike = [float(f is not None and _first(f, name) == a) for a, f in zip(asked, found, strict=True)]
        out[ours][f"word_{name}"] = bootstrap(alike, seed)
        out[COMMONEST][f"word_{name}"] = bootstrap([float(a == often) for a in asked], seed)
    return out


def seen(row: Row) -> tuple[Mask, DermAttributes | None]:
    """The lesion of a picture by its colours, and its words; nothing where none is found."""
    image: UInt8[np.ndarray, "H W 3"] = read_rgb(row.image)
    try:
        measured = measure(image)
    except InputError:
        return np.zeros(image.shape[:2], bool), None
    return measured.mask, measured.attributes


def requested(row: Row) -> DermAttributes | None:
    """What the row says of its picture: attributes, else a prompt in the grammar of DermPrompt."""
    if row.attributes is not None:
        return from_json(row.attributes, f"attributes of {row.id}")
    try:
        return parse(row.prompt or "")
    except InputError:
        return None


def _disc(shape: tuple[int, ...]) -> Mask:
    y, x = ((np.arange(n) + 0.5) / n for n in shape)
    return (y[:, None] - 0.5) ** 2 + (x[None] - 0.5) ** 2 <= RADIUS**2


def _first(attributes: DermAttributes, name: str) -> str:
    value = getattr(attributes, name)
    return str(value[0] if isinstance(value, tuple) else value)
