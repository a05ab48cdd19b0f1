"""One dermoscopy phantom as a data set would hold it: cropped to its aspect, with the truth in words and numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from didgen.attributes import DermAttributes
from didgen.colours import skin_tone
from didgen.measure_shape import asymmetry_of, main_part, outline, position_of, shape_of, size_of
from didgen.thresholds import DEFAULT
from graft_common import phantoms
from graft_common.phantoms import Phantom, box_of

COLORS = {"brown": "dark-brown", "black": "black", "red": "red", "blue": "blue-gray"}
MARKERS = {"ruler": "ruler", "ink": "ink", "corners": "dark-corners"}
ASYMMETRY, DIAMETER = 0.10, 0.37  # where the looks below part, near the phantoms' medians; no crop changes them
Truth = dict[str, Any]
# How a class looks on phantoms: colour, and a question about asymmetry or diameter. Invented, so that there is something to learn.
LOOKS: dict[str, tuple[str, Callable[[Truth], bool]]] = {
    "MEL": ("black", lambda t: t["asymmetry"] >= ASYMMETRY),
    "NV": ("brown", lambda t: t["asymmetry"] < ASYMMETRY),
    "BCC": ("blue", lambda t: True),
    "AKIEC": ("red", lambda t: t["diameter"] >= DIAMETER),
    "BKL": ("brown", lambda t: t["asymmetry"] >= ASYMMETRY),
    "DF": ("black", lambda t: t["asymmetry"] < ASYMMETRY),
    "VASC": ("red", lambda t: t["diameter"] < DIAMETER),
}


@dataclass(frozen=True, eq=False)
class Drawn:
    """A phantom on its way to disk.

    Attributes:
        image: (H, W, 3).
        mask: the lesion.
        truth: what the phantom's generator knows, as measured on the crop (area, centre).
        attributes: the same in DermPrompt's words; hair by its true coverage of the skin.
        seed: of the drawing.
    """

    image: UInt8[np.ndarray, "H W 3"]
    mask: Bool[np.ndarray, "H W"]
    truth: Truth
    attributes: DermAttributes
    seed: int


class Source:
    """Draws one picture after the other from rising seeds; a seed whose lesion does not fit is passed over.

    Attributes:
        seed: the next seed to try.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def next(self, shape: tuple[int, int], dx: str | None = None, look: str | None = None) -> Drawn:
        """The next picture of (height, width) `shape`, of class `dx` and the look of `look` (default that of `dx`)."""
        while True:
            drawn = draw(self.seed, shape, dx, look)
            self.seed += 1
            if drawn is not None:
                return drawn


def draw(
    seed: int, shape: tuple[int, int], dx: str | None = None, look: str | None = None, **fixed: str
) -> Drawn | None:
    """The phantom of `seed`, cropped to (height, width) `shape`.

    Args:
        dx: its class.
        look: the class that it looks like, one of `LOOKS`; default `dx`, and any look without one.
        fixed: attributes of the world to hold.

    Returns:
        None where the lesion (with ruler or ink) does not fit into the crop, or does not look so.
    """
    wanted = look or dx
    color, looks = LOOKS[wanted] if wanted else (None, lambda truth: True)
    phantom = phantoms.draw("dermoscopy", max(shape), seed, **fixed | ({"color": color} if color else {}))
    if not looks(phantom.attributes):
        return None
    where = _window(phantom, shape)
    if where is None:
        return None
    rows, cols = where
    mask, artifact = (np.ascontiguousarray(phantom.masks[k][rows, cols]) for k in ("lesion", "artifact"))
    truth = dict(phantom.attributes) | _place(mask) | {"artifact_fraction": float(artifact.mean())}
    image = np.ascontiguousarray(phantom.image[rows, cols])
    return Drawn(image, mask, truth, in_words(mask, artifact, truth, dx), seed)


def in_words(
    mask: Bool[np.ndarray, "H W"], artifact: Bool[np.ndarray, "H W"], truth: Truth, dx: str | None
) -> DermAttributes:
    """DermPrompt's words for what is known exactly: outline, drawn colour, typology angle, painted hair and markers."""
    shape = outline(main_part(mask))
    named, hair = str(truth["artifact"]), "none"
    if named == "hair":
        share = float((artifact & ~mask).sum() / (~mask).sum())
        hair = "dense" if share >= DEFAULT.hair_dense else "sparse" if share >= DEFAULT.hair_sparse else "none"
    return DermAttributes(
        shape=shape_of(shape),
        colors=(COLORS[str(truth["color"])],),
        size=size_of(mask),
        position=position_of(mask),
        skin=skin_tone(float(truth["ita"])),
        hair=hair,
        markers=(MARKERS[named],) if named in MARKERS else (),
        asymmetry=asymmetry_of(shape),
        diagnosis=dx,
    )


def _place(mask: Bool[np.ndarray, "H W"]) -> Truth:
    """Area, diameter and centre of the lesion in shares of the picture; the diameter in shares of its longer side."""
    (height, width), (rows, cols) = mask.shape, np.nonzero(mask)
    return {
        "area_fraction": float(mask.mean()),
        "diameter": float(np.sqrt(4 * mask.sum() / np.pi) / max(mask.shape)),
        "center_x": float((cols.mean() + 0.5) / width),
        "center_y": float((rows.mean() + 0.5) / height),
    }


def _window(phantom: Phantom, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """The crop of `shape` nearest to the middle that holds the lesion, and ruler or ink; None where none does."""
    wanted = phantom.masks["lesion"].copy()
    if phantom.attributes["artifact"] in ("ruler", "ink"):
        wanted |= phantom.masks["artifact"]
    left, top, right, bottom = box_of(wanted)
    slices = []
    for length, side, low, high in zip(wanted.shape, shape, (top, left), (bottom, right), strict=True):
        least, most = max(0, high - side), min(low, length - side)
        if least > most:
            return None
        start = min(max((length - side) // 2, least), most)
        slices.append(slice(start, start + side))
    return slices[0], slices[1]
