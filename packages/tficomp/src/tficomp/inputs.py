"""Paths or arrays -> Inputs: read, checked, in common ranges."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped
from scipy import ndimage

from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.phantoms import box
from graft_common.pixels import Picture, picture_from_array, read_mask, read_picture, resize_mask
from tficomp.records import Inputs, Lesion
from tficomp.tissue import place_in_tissue

# What tells a scan from a mask: how many grey levels occur, and the share of pixels that are neither black nor white:
# beside a two-level picture or the same file, and alone. Soft masks reach 0.27 (a 6 px disc blurred in 16 px) and mostly
# stay below 0.15; phantoms and the scans that the tests use have 0.47 and more. A ramp may be a mask: alone, grain counts
# too (mean distance to the median of 3 x 3, of a range of 2), which ramps and feathers lack.
LEVELS, BESIDE, ALONE, GRAIN = 32, 0.3, 0.5, 0.012
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
        refuse_swapped(mask, picture, "object-mask", "object")
        lesion_mask = _mask(mask, picture, "object mask", sources.fit_mask, notes)
        if sources.user_masks:
            refuse_swapped(sources.user_masks[i], background, "user-mask", "background")
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


def refuse_swapped(mask: Source, picture: Picture, flag: str, other: str) -> None:
    """InputError where a scan was given as the mask: beside a two-level "picture", or as the same file twice, or alone
    where it cannot be else. Anti-aliased, JPEG and feathered masks pass: only their rims are grey."""
    seen = _as_picture(mask, picture.source.slice_index)
    if seen is None or np.unique(seen.stored).size < LEVELS:
        return
    grey, same = _mid_share(seen), seen.source.sha256 == picture.source.sha256
    name = f"--{flag} {typed(mask)}" if isinstance(mask, (str, Path)) else flag.replace("-", " ")
    if grey > BESIDE and _two_levels(picture):
        raise InputError(f"{name}: looks like a scan and --{other} like a mask; swap the two")
    if grey > BESIDE and same:
        raise InputError(f"{name}: is the same picture as --{other}; give the mask, black with the marked part white")
    if grey > ALONE and _grain(seen) > GRAIN:
        raise InputError(
            f"{name}: looks like a scan, {grey:.0%} of it is neither black nor white; give the mask, or threshold it"
        )


def _as_picture(mask: Source, index: int | None) -> Picture | None:
    """A mask seen as a picture; None where there are no grey levels to see, or where it cannot be read as one (`_mask`
    reads it next and says what is wrong)."""
    if not isinstance(mask, (str, Path)):
        array = np.asarray(mask)
        return None if array.dtype == bool or array.ndim != 2 else _picture(array, "mask", None, None)
    for at in (None, index):  # a volume's slice is the picture's
        try:
            return read_picture(mask, slice_index=at)
        except InputError:
            continue
    return None


def _mid_share(picture: Picture) -> float:
    """Share of the pixels whose grey is neither near black nor near white."""
    return float((np.abs(picture.pixels.mean(axis=0)) < 0.75).mean())


def _grain(picture: Picture) -> float:
    grey = picture.pixels.mean(axis=0)
    return float(np.abs(grey - ndimage.median_filter(grey, 3)).mean())


def _two_levels(picture: Picture) -> bool:
    grey = picture.pixels.mean(axis=0)
    both = bool(grey.min() < -0.75 and grey.max() > 0.75)
    return np.unique(picture.stored).size <= 2 or (both and _mid_share(picture) < 0.01)


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
