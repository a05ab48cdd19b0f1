"""Paths or arrays -> Inputs: read, checked, in common ranges."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.phantoms import box
from graft_common.pixels import Picture, picture_from_array, read_mask, read_picture, resize_mask
from tficomp.records import Inputs, Lesion
from tficomp.tissue import place_in_tissue

Source = Path | str | Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class Sources:
    """What one sample is made of: paths, or arrays from Python (images uint8 or uint16, masks bool or uint8)."""

    background: Source
    objects: tuple[Source, ...]
    object_masks: tuple[Source, ...]
    user_masks: tuple[Source, ...]
    prompt: str
    key: str = "sample"
    seed: int = 0
    window: tuple[float, float] | None = None
    slice: int | None = None
    fit_mask: bool = False

    def paths(self) -> dict[str, Path]:
        """role -> path of everything that comes from a file."""
        named = {"background": self.background}
        for role, items in (
            ("object", self.objects),
            ("object_mask", self.object_masks),
            ("user_mask", self.user_masks),
        ):
            named |= {role if len(items) == 1 else f"{role}_{i + 1}": item for i, item in enumerate(items)}
        return {role: Path(item) for role, item in named.items() if isinstance(item, (str, Path))}


def read_inputs(sources: Sources) -> Inputs:
    """Read one sample.

    Raises:
        InputError: anything about the files that the user can mend, with the path as typed.
    """
    if not sources.objects:
        raise InputError("--object: none given; give at least one object image and its --object-mask")
    if len(sources.objects) != len(sources.object_masks):
        raise InputError(
            f"--object-mask: {len(sources.object_masks)} given for {len(sources.objects)} --object; give one for each"
        )
    if sources.user_masks and len(sources.user_masks) != len(sources.objects):
        raise InputError(
            f"--user-mask: {len(sources.user_masks)} given for {len(sources.objects)} --object; give one for each, or none"
        )
    if not sources.prompt.strip():
        raise InputError(f"--prompt {sources.prompt!r}: is empty; say what the result shows")
    notes: list[str] = []
    background = _picture(sources.background, "background", sources.window, sources.slice)
    lesions: list[Lesion] = []
    for i, (image, mask) in enumerate(zip(sources.objects, sources.object_masks, strict=True)):
        picture = _picture(image, "object", None, None)
        lesion_mask = _mask(mask, picture, "object mask", sources.fit_mask, notes)
        if sources.user_masks:
            user = _mask(sources.user_masks[i], background, "user mask", sources.fit_mask, notes)
        else:
            taken = [lesion.user_mask for lesion in lesions]
            user = place_in_tissue(background.pixels, picture.pixels, lesion_mask, seed=sources.seed + i, taken=taken)
            notes.append(f"object {i + 1} placed in tissue by seed {sources.seed + i}: box {box(user)}")
        lesions.append(Lesion(picture.pixels, lesion_mask, user))
    return Inputs(background, tuple(lesions), sources.prompt, sources.key, (*background.source.notes, *notes))


def _picture(source: Source, role: str, window: tuple[float, float] | None, index: int | None) -> Picture:
    if isinstance(source, (str, Path)):
        return read_picture(source, window=window, slice_index=index, role=role)
    return picture_from_array(np.asarray(source), role)


def _mask(source: Source, like: Picture, role: str, fit: bool, notes: list[str]) -> Bool[np.ndarray, "H W"]:
    """A mask of the picture's size; with `fit`, resized to it where the aspects agree within 5 %."""
    height, width = like.pixels.shape[1:]
    if isinstance(source, (str, Path)):
        name = f"{role} {typed(source)}"
        mask = read_mask(source) if fit or like.source.kind not in ("dicom", "nifti") else read_mask(source, like=like)
    else:
        name, array = role, np.asarray(source)
        if array.ndim != 2:
            raise InputError(f"{role}: has shape {array.shape}; give (H, W)")
        mask = array if array.dtype == bool else array > 127
        if mask.all() or not mask.any():
            raise InputError(f"{role}: is {'full' if mask.all() else 'empty'}; mark a part of the picture")
    if mask.shape == (height, width):
        return mask
    h, w = mask.shape
    if not fit:
        raise InputError(
            f"{name}: is {w}x{h} but its image is {width}x{height}; give both the same size or pass --fit-mask"
        )
    if abs((w / h) / (width / height) - 1) > 0.05:
        raise InputError(
            f"{name}: is {w}x{h} but its image is {width}x{height}; --fit-mask bears 5 % of aspect, crop it"
        )
    notes.append(f"{role} resized from {w}x{h} to {width}x{height}")
    fitted = resize_mask(mask, (height, width))
    if not fitted.any():
        raise InputError(f"{name}: vanishes at {width}x{height}; give a mask of the image's size")
    return fitted
