"""What merging is compared with: settings of the method itself, insertion by one model alone, and answers that need no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from diffusionmix.box import Box
from diffusionmix.config import MergeConfig
from diffusionmix.records import Merged, Mix
from graft_common.resample import resize_mask

Picture = UInt8[np.ndarray, "H W 3"]
Cut = tuple[UInt8[np.ndarray, "_ _ 3"], Bool[np.ndarray, "_ _"]]

OURS = "ours"
SETTINGS: Mapping[str, dict[str, Any]] = {
    OURS: {},
    "no resampling": {"r": 0},
    "hard paste": {"start": 1.0, "r": 0, "tau_steps": None},
    "background adapts alone": {"direction": "to-background"},
    "object adapts alone": {"direction": "to-object"},
    "soft mask": {"soft": True},
}
INSERTION, OUTPAINTING = "RePaint: object into a finished background", "RePaint: background around a finished object"
COPY, ERASED = "copy-paste of a true object", "object erased (trivial)"
NAMES = (*SETTINGS, INSERTION, OUTPAINTING, COPY, ERASED)


@dataclass(frozen=True, eq=False)
class Batch:
    """What every baseline of a batch starts from.

    Attributes:
        mix, boxes, seeds, labels, settings: as `merge` takes them; labels are class numbers.
        backgrounds: the same-seed pictures without an object.
        objects: the object model's own samples of these seeds, with masks.
        cuts: true objects with their masks, for copy-paste.
    """

    mix: Mix
    boxes: Sequence[Box]
    seeds: Sequence[int]
    labels: Sequence[int] | None
    settings: MergeConfig
    backgrounds: Sequence[Picture]
    objects: Sequence[Cut]
    cuts: Sequence[Cut]


def draw(name: str, batch: Batch) -> list[Merged]:
    """The pictures of one of `NAMES`.

    RePaint's known region is one finished picture that the other model meets at every noise level of the merge window, resampled
    by RePaint's schedule there: a finished background into which the object model paints, or a finished object around which the
    background model does.
    """
    from diffusionmix.compose import merge

    labels = batch.labels
    if name in SETTINGS:
        return merge(batch.mix, batch.boxes, batch.seeds, replace(batch.settings, **SETTINGS[name]), labels)
    repaint = replace(batch.settings, schedule="repaint")
    if name == OUTPAINTING:
        return merge(batch.mix, batch.boxes, batch.seeds, repaint, labels, known=list(batch.objects))
    if name == INSERTION:  # a photograph is one for a whole batch
        out: list[Merged] = []
        for i, (box, seed) in enumerate(zip(batch.boxes, batch.seeds, strict=True)):
            out += merge(batch.mix, [box], [seed], repaint, None if labels is None else [labels[i]], batch.backgrounds[i])
        return out
    rows = zip(batch.backgrounds, batch.cuts, batch.boxes, batch.seeds, strict=True)
    if name == COPY:
        return [paste(background, cut, box, seed) for background, cut, box, seed in rows]
    if name == ERASED:
        ours = draw(OURS, batch)
        return [replace(m, image=np.array(b), calls=0) for m, b in zip(ours, batch.backgrounds, strict=True)]
    raise ValueError(f"baseline is {name!r}; choose from {', '.join(NAMES)}")


def paste(background: Picture, cut: Cut, box: Box, seed: int) -> Merged:
    """A finished object, resized to its box and pasted under its mask: no network, no blending."""
    image, mask = cut
    shown = np.asarray(Image.fromarray(image).resize((box.w, box.h), Image.Resampling.BICUBIC))
    where = np.zeros(background.shape[:2], bool)
    inside = resize_mask(mask, (box.h, box.w))
    where[box.y : box.y + box.h, box.x : box.x + box.w] = inside
    picture = background.copy()
    picture[where] = shown[inside]
    flags = () if where.any() else ("empty mask",)
    return Merged(picture, where, image, mask, box, seed, 0, flags)
