"""Do the maps of the two placeholders tell lesion from skin? Noised true pictures, the maps of one pass, the true masks."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from didgen.maps import map_grids
from didgen.tokens import positions
from graft_common import bundle as bundles
from graft_common import rng
from graft_common.bundle import Bundle
from graft_common.hooks import CrossColumns, Where, record
from graft_common.resample import resize

TIMES = (100, 300, 500)  # of 1000 training steps


def map_auroc(maps: Float[Tensor, "2 h w"], mask: Bool[np.ndarray, "H W"]) -> dict[str, float]:
    """AUROC of the <lesion> map against the mask and of the <skin> map against the rest; any constant map has 0.5.

    Args:
        maps: as `token_maps` gives them; brought to the mask's size.
        mask: neither empty nor full.
    """
    from torchmetrics.functional.classification import binary_auroc

    truth = torch.from_numpy(mask).flatten()
    fine = F.interpolate(maps[None], size=mask.shape, mode="bilinear", align_corners=False)[0].flatten(1).cpu()
    unit = [_unit(one) for one in fine]  # torchmetrics wants [0, 1]
    return {
        "lesion": float(binary_auroc(unit[0], truth.long())),
        "skin": float(binary_auroc(unit[1], (~truth).long())),
    }


def _unit(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Lowest to 0 and highest to 1; rounding alone is no difference."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > 1e-6 * high.abs() else torch.zeros_like(values)


@torch.no_grad()
def token_maps(image: UInt8[np.ndarray, "H W 3"], prompt: str, seed: int, bundle: Bundle) -> Float[Tensor, "2 h w"]:
    """Attention to <lesion> and to <skin>, mean over heads, layers and `TIMES`, on the grid of the cross maps.

    Args:
        image: squeezed to the bundle's square, as in training.
        seed: of the noise.

    Raises:
        InputError: the prompt is too long or lacks a placeholder.
    """
    grid = map_grids(bundle.unet, (bundle.size // bundle.factor,) * 2).cross
    words = positions(bundle.tokenizer, prompt)
    planes = image.transpose(2, 0, 1).astype(np.float32)
    if planes.shape[1:] != (bundle.size, bundle.size):
        planes = resize(planes, (bundle.size, bundle.size))
    z = bundles.encode(bundle, torch.from_numpy(planes)[None] / 127.5 - 1)
    text = bundles.text_states(bundle, [prompt])
    with record(bundle.unet, CrossColumns((words.lesion, words.skin), Where(grid=grid))) as seen:
        for t in TIMES:
            a = float(bundle.alphas_cumprod[t])
            noisy = a**0.5 * z + (1 - a) ** 0.5 * rng.noise(tuple(z.shape), seed, t).to(z.device)
            bundle.unet(noisy.to(text.dtype), t, encoder_hidden_states=text)
    return seen.mean(0).float()[0]


def map_scores(
    images: Sequence[UInt8[np.ndarray, "H W 3"]],
    masks: Sequence[Bool[np.ndarray, "H W"]],
    prompts: Sequence[str],
    seeds: Sequence[int],
    bundle: Bundle,
) -> dict[str, list[float]]:
    """`map_auroc` of each picture's `token_maps`: "lesion" and "skin"."""
    made = [token_maps(*one, bundle) for one in zip(images, prompts, seeds, strict=True)]
    each = [map_auroc(maps, mask) for maps, mask in zip(made, masks, strict=True)]
    return {name: [one[name] for one in each] for name in ("lesion", "skin")}
