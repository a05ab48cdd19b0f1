"""Results -> numbers, one per sample (spec 6.1). All is measured on the square that the network saw, at its size."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graft_common import metrics
from graft_common.errors import InputError
from graft_common.metrics import Judges
from graft_common.phantoms import box_of
from graft_common.pixels import resize, with_channels
from tficomp.frame import to_frame
from tficomp.records import Inputs, Result

CROP = 224  # px at 512 that object crops are resized to
LEAST = 32  # px: below, neither SSIM's window nor a published network fits

# Whether more is better; what is in neither list is a description, not a score.
HIGHER = ("clip_image", "clip_text", "psnr_bg", "object_ssim")
LOWER = ("lpips_bg", "lpips_fg", "ring_gradient", "channel_spread")


@torch.no_grad()
def score(
    samples: Sequence[Inputs],
    results: Sequence[Result],
    backbones: Mapping[str, str],
    judges: Judges | None = None,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Every metric of every sample; means and intervals are the caller's.

    lpips_bg_*: LPIPS of result and background, both set to 0 (mid grey) inside the user mask as given.
    lpips_fg_*, clip_image_*: LPIPS, and 100 x cosine of image embeddings, between the tight box of the relocated lesion
        in the result and in the relocated object image, both resized to 224 px at 512; the mean over several lesions.
    clip_text_*: 100 x cosine of the result's embedding and the prompt's.
    psnr_bg: dB outside the user mask, data_range 2 (pixels in [-1, 1]); equal pixels stop at 120 dB.
    ring_gradient: mean absolute gradient across the user mask's edge over that elsewhere; 1 is no seam.
    object_ssim: SSIM of the two crops, data_range 2.
    channel_spread: largest minus smallest channel of what the network made, 0 to 2; the mean over pixels. Left out where
        only the grey mean of it is known.

    Args:
        backbones: "perceptual" -> LPIPS network, "image_text" -> CLIP network, as `graft_common.metrics` takes them;
            each is "tiny" unless said. Names carry the network.
        judges: loaded judges instead of the shipped ones (tiny only).

    Raises:
        InputError: a user mask fills the whole frame, so that no background is left; or a network cannot be loaded.
    """
    perceptual, image_text = backbones.get("perceptual", "tiny"), backbones.get("image_text", "tiny")
    perceptual_name = metrics.name("lpips", perceptual).removeprefix("lpips_")
    if filled := next((s.key for s, r in zip(samples, results, strict=True) if r.placed.user_mask.all()), None):
        raise InputError(
            f"sample {filled}: its user mask fills the frame, no background is left to score; raise --context"
        )
    made = _stack([to_frame(with_channels(r.pixels, 3), r.placed.frame) for r in results])
    wanted = _stack([r.placed.background for r in results])
    users = torch.from_numpy(np.stack([r.placed.user_mask for r in results]))[:, None]
    crops = [_crops(frame, r) for frame, r in zip(made, results, strict=True)]
    ours, theirs = (torch.cat([c[i] for c in crops]) for i in (0, 1))
    owner = np.repeat(np.arange(len(crops)), [len(c[0]) for c in crops])

    def over_lesions(values: Tensor) -> np.ndarray:
        column = values.double().numpy()
        return np.bincount(owner, column) / np.bincount(owner)

    outside = (~users).to(made.dtype)
    columns = {
        f"lpips_bg_{perceptual_name}": metrics.lpips(made * outside, wanted * outside, perceptual, judges),
        f"lpips_fg_{perceptual_name}": over_lesions(metrics.lpips(ours, theirs, perceptual, judges)),
        metrics.name("clip_image", image_text): over_lesions(
            metrics.image_similarity(ours, theirs, image_text, judges)
        ),
        metrics.name("clip_text", image_text): metrics.text_similarity(
            made, [s.prompt for s in samples], image_text, judges
        ),
        "psnr_bg": metrics.psnr(made, wanted, ~users),
        "ring_gradient": metrics.ring_gradient(made, users),
        "object_ssim": over_lesions(metrics.ssim(ours, theirs)),
    }
    if all(len(r.frame_pixels) == 3 for r in results):
        frames = _stack([r.frame_pixels.astype(np.float32) for r in results])
        columns["channel_spread"] = metrics.channel_spread(frames)
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}


def doing_nothing(result: Result) -> Result:
    """The background itself as if it were the answer: the floor that every score is read against."""
    return replace(
        result,
        pixels=result.picture.pixels,
        changed=np.zeros_like(result.changed),
        frame_pixels=result.placed.background,
    )


def orientation(name: str) -> int:
    """+1 where more is better, -1 where less is; by the metric's name, whatever its network."""
    if name.startswith(HIGHER):
        return 1
    if name.startswith(LOWER):
        return -1
    raise ValueError(f"{name!r} is no metric of score(); known are {', '.join(HIGHER + LOWER)}")


def _crops(frame: Float[Tensor, "3 S S"], result: Result) -> tuple[Tensor, Tensor]:
    """(lesions, 3, c, c) of the result and of the relocated objects."""
    placed = result.placed
    side = max(LEAST, round(CROP * placed.frame.size / 512))
    pairs: tuple[list, list] = ([], [])
    for pixels, mask in zip(placed.objects, placed.object_masks, strict=True):
        left, top, right, bottom = box_of(mask)
        for to, image in zip(pairs, (frame.numpy(), pixels), strict=True):
            to.append(resize(np.ascontiguousarray(image[:, top:bottom, left:right]), (side, side)))
    return _stack(pairs[0]), _stack(pairs[1])


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
