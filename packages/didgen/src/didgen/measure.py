"""The deterministic captioner: measures a picture and its lesion mask and says it in DermPrompt's words (spec 2.1)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from didgen.artifacts import EIGHT, Artifacts, find_artifacts, hair_beyond
from didgen.attributes import DermAttributes
from didgen.colours import skin_margin, skin_tone, to_lab, tone_margin
from didgen.measure_colour import Tones, colors_of, measure_tones
from didgen.measure_shape import Outline, asymmetry_of, main_part, outline, position_of, shape_of, size_of
from didgen.segment import segment_lesion
from didgen.thresholds import DEFAULT, Thresholds
from graft_common.errors import InputError

MaskSource = Literal["given", "otsu"]


@dataclass(frozen=True, eq=False)
class Measured:
    """Words, and the numbers behind them.

    Attributes:
        attributes: the words.
        mask_source: "given", or "otsu" where the lesion was found by its colour (`didgen.segment`).
        mask: the lesion at the picture's own size.
        area: share of the picture that the lesion covers.
        outline: shape of its largest part.
        tones: colours of lesion and skin.
        skin_margin: degrees from the typology angle to the nearest class border.
        tone_margin: Delta E from the lesion's mean colour to the nearest border between colours.
        hair: share of the skin under hair.
        ink: share of the skin under ink.
        ruler: how regular the marks along the best side are, 0 to 1.
        corner_l: mean L* of the brightest corner square.
    """

    attributes: DermAttributes
    mask_source: MaskSource
    mask: Bool[np.ndarray, "H W"]
    area: float
    outline: Outline
    tones: Tones
    skin_margin: float
    tone_margin: float
    hair: float
    ink: float
    ruler: float
    corner_l: float

    def numbers(self) -> dict[str, Any]:
        """Everything but words and mask, as JSON values."""
        own = {name: getattr(self, name) for name in
               ("area", "skin_margin", "tone_margin", "hair", "ink", "ruler", "corner_l")}  # fmt: skip
        return _rounded(own | asdict(self.outline) | asdict(self.tones))


def measure(
    image: UInt8[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "Hm Wm"] | None = None,
    meta: Mapping[str, str | None] | None = None,
    thresholds: Thresholds = DEFAULT,
) -> Measured:
    """Measure one picture.

    Size and position are read from the mask as given, the rest at `thresholds.working` pixels at most. Of several lesions the
    size is that of all, shape and position are the largest one's. Bubbles are looked for only where the thresholds say so,
    stickers never.

    Args:
        mask: the lesion; None finds it by its colour.
        meta: `diagnosis`, a name of ISIC 2018 task 3, where it is known.

    Raises:
        InputError: the mask is empty, full or of another size, or no lesion is found.
    """
    if mask is not None:
        _check(image, mask)
    small = _reduced(image, thresholds.working)
    artifacts = find_artifacts(small, thresholds)
    source: MaskSource = "otsu" if mask is None else "given"
    if mask is None:
        mask = _enlarged(segment_lesion(small, artifacts, thresholds), image.shape[:2])
        if not mask.any() or mask.all():
            raise InputError("no lesion differs enough from the skin around it; give a mask")
    main = main_part(mask)
    region = _reduced_mask(main, small.shape[:2])
    artifacts = hair_beyond(artifacts, region)
    tones = measure_tones(to_lab(small), region, artifacts, thresholds)
    shape = outline(region)
    hair, ink = _share(artifacts.hair, region, thresholds), _share(artifacts.ink, region, thresholds)
    words = DermAttributes(
        shape=shape_of(shape, thresholds),
        colors=colors_of(tones.shares, thresholds),
        size=size_of(mask, thresholds),
        position=position_of(main),
        skin=skin_tone(tones.ita, thresholds),
        hair="none" if hair < thresholds.hair_sparse else "sparse" if hair < thresholds.hair_dense else "dense",
        markers=_markers(artifacts, ink, thresholds),
        border="blurred" if tones.border >= thresholds.blurred else "sharp",
        asymmetry=asymmetry_of(shape, thresholds),
        diagnosis=(meta or {}).get("diagnosis"),
    )
    return Measured(
        words, source, mask, float(mask.mean()), shape, tones, skin_margin(tones.ita, thresholds),
        tone_margin(tones.lesion_lab, thresholds), hair, ink, artifacts.ruler_regular, artifacts.corner_l,
    )  # fmt: skip


def _markers(artifacts: Artifacts, ink: float, thresholds: Thresholds) -> tuple[str, ...]:
    seen = {
        "ruler": bool(artifacts.ruler.any()),
        "ink": ink > thresholds.ink_share,
        "bubbles": bool(artifacts.bubbles.any()),
        "dark-corners": artifacts.corner_l < thresholds.corner_dark,
    }
    return tuple(name for name, there in seen.items() if there)


def _share(found: Bool[np.ndarray, "H W"], lesion: Bool[np.ndarray, "H W"], thresholds: Thresholds) -> float:
    """Share of the skin that is covered; the lesion's rim, whose texture looks like either, is left out where it can be."""
    rim = max(1, round(thresholds.margin * min(lesion.shape)))
    skin = ~ndimage.binary_dilation(lesion, EIGHT, iterations=rim)
    skin = skin if skin.any() else ~lesion
    return float(found[skin].mean())


def _check(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "Hm Wm"]) -> None:
    (h, w), (mh, mw) = image.shape[:2], mask.shape
    if (h, w) != (mh, mw):
        raise InputError(f"mask is {mw}x{mh} but the image is {w}x{h}; give both the same size")
    if mask.all() or not mask.any():
        raise InputError(f"mask is {'full' if mask.all() else 'empty'}; mark the lesion and leave the skin out")


def _reduced(image: UInt8[np.ndarray, "H W 3"], working: int) -> UInt8[np.ndarray, "h w 3"]:
    """Area average with the shorter side at `working`; smaller pictures as they are."""
    import cv2

    height, width = _working_size(image.shape[:2], working)
    return image if (height, width) == image.shape[:2] else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _working_size(size: tuple[int, ...], working: int) -> tuple[int, int]:
    height, width = size
    scale = min(1.0, working / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _reduced_mask(mask: Bool[np.ndarray, "H W"], size: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    """Pixels that are at least half lesion; those that hold any where none is, so that a tiny lesion stays."""
    import cv2

    if mask.shape == size:
        return mask
    share = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return share >= 0.5 if (share >= 0.5).any() else share > 0


def _enlarged(mask: Bool[np.ndarray, "h w"], size: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    import cv2

    return cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR) >= 0.5


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return [_rounded(v) for v in value]
    return round(value, 5)
