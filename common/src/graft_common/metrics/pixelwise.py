"""Metrics that need no network: PSNR over a region, SSIM, the seam's gradient, and colour where there should be none.

Pictures are (B, 3, H, W) in [-1, 1] unless said otherwise; every result is (B,), one number per picture.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CEILING = 120.0  # dB
_RADIUS = 5  # of SSIM's 11 x 11 Gaussian window, sigma 1.5


def psnr(
    a: Float[Tensor, "B C H W"],
    b: Float[Tensor, "B C H W"],
    where: Bool[Tensor, "*any H W"] | None = None,
    data_range: float = 2.0,
    ceiling: float = CEILING,
) -> Float[Tensor, "B"]:
    """Peak signal-to-noise ratio in dB, 10 log10(data_range^2 / mean square error), computed in float64.

    Args:
        a, b: pictures of the same shape.
        where: pixels that count, (H, W) for all pictures alike, (B, H, W) or (B, 1, H, W); None counts every pixel.
        data_range: largest minus smallest possible value; 2 for pictures in [-1, 1].
        ceiling: equal pictures have an infinite ratio, which no mean can hold: values stop here.

    Raises:
        ValueError: shapes differ, or `where` is empty for some picture.
    """
    _same(a, b)
    error = (a.double() - b.double()).square()
    chosen = torch.ones_like(error[:, :1]) if where is None else _per_picture(where, len(a)).to(error)
    count = _counted(chosen, "PSNR")
    mean = (error * chosen).sum(dim=(1, 2, 3)) / (count * a.shape[1])
    return (10 * torch.log10(data_range**2 / mean)).clamp(max=ceiling)


def ssim(
    a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"], data_range: float = 2.0, low: float = -1.0
) -> Float[Tensor, "B"]:
    """Structural similarity (Wang et al. 2004): 11 x 11 Gaussian window, sigma 1.5, mean over channels and over the
    positions whose window lies inside the picture; computed in float64 by torchmetrics.

    Args:
        a, b: pictures of the same shape, at least 11 x 11.
        data_range: largest minus smallest possible value; it decides the result, so state it beside every SSIM.
        low: smallest possible value. SSIM's luminance term is defined for intensities from 0: `low` is taken off first,
            so that pictures in [-1, 1] score as the same pictures in [0, 1] with data_range 1.

    Raises:
        ValueError: shapes differ, or a side is under 11 pixels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _same(a, b)
    if min(a.shape[-2:]) < 2 * _RADIUS + 1:
        raise ValueError(f"pictures are {a.shape[-2]}x{a.shape[-1]} but SSIM needs 11x11 or more; resize them")
    _, full = structural_similarity_index_measure(
        a.double() - low, b.double() - low, data_range=data_range, reduction="none", return_full_image=True
    )
    return full[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS].mean(dim=(1, 2, 3))


def ring_gradient(image: Float[Tensor, "B C H W"], mask: Bool[Tensor, "*any H W"]) -> Float[Tensor, "B"]:
    """How much steeper the picture is across the mask's edge than elsewhere (tficomp specification 6.1): 1 is no seam.

    The mean absolute difference of the 4-neighbour pixel pairs with one pixel inside `mask` and one outside, over that
    of all other pairs. A flat picture gives 1.

    Args:
        image: pictures in [-1, 1].
        mask: (H, W), (B, H, W) or (B, 1, H, W).

    Raises:
        ValueError: a mask is empty or covers the whole picture, so that it has no edge.
    """
    inside = _per_picture(mask, len(image)).expand(len(image), 1, -1, -1)
    x = image.double()
    steps = [(x.diff(dim=d).abs().mean(dim=1), inside[:, 0].int().diff(dim=d - 1).bool()) for d in (2, 3)]
    slope = torch.cat([s.flatten(1) for s, _ in steps], dim=1)
    edge = torch.cat([e.flatten(1) for _, e in steps], dim=1)
    if (bad := ~edge.any(dim=1) | edge.all(dim=1)).any():
        raise ValueError(f"mask {int(bad.nonzero()[0])} is empty or full; a seam needs pixels on both sides")
    on = (slope * edge).sum(dim=1) / edge.sum(dim=1)
    off = (slope * ~edge).sum(dim=1) / (~edge).sum(dim=1)
    tiny = 1e-6  # a thousandth of a 16-bit step per pixel: decides nothing but 0 / 0
    return (on + tiny) / (off + tiny)


def channel_spread(
    image: Float[Tensor, "B C H W"], where: Bool[Tensor, "*any H W"] | None = None
) -> Float[Tensor, "B"]:
    """Mean over pixels of the largest minus the smallest channel, 0 ... 2: the tint that a model puts into a grey scan.

    Raises:
        ValueError: `where` is empty for some picture.
    """
    spread = image.double().amax(dim=1, keepdim=True) - image.double().amin(dim=1, keepdim=True)
    chosen = torch.ones_like(spread) if where is None else _per_picture(where, len(image)).to(spread).expand_as(spread)
    count = _counted(chosen, "channel spread")
    return (spread * chosen).sum(dim=(1, 2, 3)) / count


def _same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; both must have one shape")


def _counted(chosen: Tensor, metric: str) -> Tensor:
    count = chosen.sum(dim=(1, 2, 3))
    if (count == 0).any():
        raise ValueError(
            f"where holds no pixel of picture {int((count == 0).nonzero()[0])}; {metric} needs at least one"
        )
    return count


def _per_picture(mask: Tensor, count: int) -> Tensor:
    """Any accepted mask as (B or 1, 1, H, W)."""
    out = mask.reshape(-1, 1, *mask.shape[-2:])
    if len(out) not in (1, count):
        raise ValueError(f"there are {len(out)} masks but {count} pictures; give one mask, or one for each picture")
    return out
