"""Numbers about two sets of pictures: FID, KID, precision and recall on features; MS-SSIM and LPIPS on random pairs.

FID, KID and the means over pairs carry a grouped jackknife interval: pairs share pictures, and a bootstrap's repeated
pictures would look like mode collapse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from didgen.scoring import Summary
from graft_common.metrics import features, frechet, jackknifed, load_judges, lpips, proportion

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, five scales
WINDOW = 11
Features = Float[np.ndarray, "_ d"]  # sets differ in length
Pictures = UInt8[Tensor, "_ 3 S S2"]


@dataclass(frozen=True)
class Extractor:
    """Features of pictures, and the name that distances on them carry ("tiny": fid_tiny)."""

    name: str
    features: Callable[[Pictures], Features]


def extractor(backbone: str, device: torch.device, batch: int = 32) -> Extractor:
    """tiny: the shipped judges, which know the phantom worlds only; else a local file of Inception v3.

    Raises:
        InputError: the file is missing or no Inception v3.
    """
    if backbone == "tiny":
        judges = load_judges(device=str(device))

        def tiny(images: Pictures) -> Features:
            return np.concatenate([features(signed(part).to(device), judges, batch) for part in images.split(batch)])

        return Extractor("tiny", tiny)
    from didgen.inception import load_inception

    network, name = load_inception(Path(backbone), device)

    def run(images: Pictures) -> Features:
        return np.concatenate(
            [network(part.to(device).float() / 255).double().cpu().numpy() for part in images.split(batch)]
        )

    return Extractor(name, run)


def signed(images: Pictures) -> Float[Tensor, "n 3 S S2"]:
    """Bytes to [-1, 1]."""
    return images.float() / 127.5 - 1


def feature_scores(generated: Features, real: Features, name: str, k: int = 3, seed: int = 0) -> dict[str, Summary]:
    """ "fid_<name>" (Heusel et al. 2017), "kid_<name>" (Binkowski et al. 2018: unbiased, cubic kernel; sets of any size
    agree in the mean) and "precision_<name>", "recall_<name>" (Kynkäänniemi et al. 2019, k neighbours; Wilson's interval,
    the other set taken as it is).

    Args:
        generated, real: sets of equal size, more than `k` each; FID falls as the sets grow.
    """
    if len(generated) != len(real):
        raise ValueError(f"sets hold {len(generated)} and {len(real)} pictures; take as many of each")
    out = {
        f"fid_{name}": jackknifed(lambda rows: frechet(generated[rows], real[rows]), len(real), seed=seed),
        f"kid_{name}": jackknifed(lambda rows: kid(generated[rows], real[rows]), len(real), seed=seed),
    }
    for metric, covered, covering in (("precision", generated, real), ("recall", real, generated)):
        inside = within(covered, covering, min(k, len(covering) - 1))
        out[f"{metric}_{name}"] = proportion(int(inside.sum()), len(inside))
    return out


def kid(generated: Features, real: Features) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased, by torchmetrics; sets of equal size."""
    from torchmetrics.image.kid import poly_mmd

    return float(poly_mmd(torch.from_numpy(real), torch.from_numpy(generated)))


def within(points: Features, manifold: Features, k: int) -> Bool[np.ndarray, "n"]:
    """Whether each point lies in the union of balls around `manifold`'s points that reach their k-th neighbour."""
    near = torch.from_numpy(manifold)
    own = torch.cdist(near, near)
    radius = own.kthvalue(k + 1, dim=1).values  # the first neighbour is the point itself
    return (torch.cdist(torch.from_numpy(points), near) <= radius).any(dim=1).numpy()


def random_pairs(first: int, second: int | None, count: int, seed: int) -> Int64[np.ndarray, "count 2"]:
    """`count` pairs of rows: (row of one set, row of another of size `second`), or two different rows of one set (None)."""
    rng = np.random.default_rng([seed, 86])
    if second is not None:
        return np.stack([rng.integers(first, size=count), rng.integers(second, size=count)], axis=1)
    if first < 2:
        raise ValueError("a pair within a set needs two pictures")
    left = rng.integers(first, size=count)
    return np.stack([left, (left + rng.integers(1, first, size=count)) % first], axis=1)


def scales(size: int) -> int:
    """Scales of MS-SSIM that a picture of this side has room for (the 11 px window must fit), at most five."""
    fitting = [n for n in range(1, 6) if size >= 2**n and size // max(1, n - 1) ** 2 > WINDOW - 1]
    if not fitting:
        raise ValueError(f"pictures are {size} px but MS-SSIM needs {WINDOW}")
    return max(fitting)


def ms_ssim(a: Pictures, b: Pictures, batch: int = 32) -> Float[np.ndarray, "n"]:
    """MS-SSIM of picture pairs by torchmetrics, with as many scales as fit (their weights brought to sum 1)."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    weights = np.array(BETAS[: scales(min(a.shape[-2:]))])
    betas = tuple((weights / weights.sum()).tolist()) if len(weights) < 5 else BETAS
    parts = [
        measure(x.float(), y.float(), data_range=255.0, betas=betas, reduction="none")
        for x, y in zip(a.split(batch), b.split(batch), strict=True)
    ]
    return torch.cat(parts).double().numpy()


def ms_ssim_name(size: int) -> str:
    """ "ms_ssim" with all five scales, else the number of scales in the name: "ms_ssim_3scale"."""
    return "ms_ssim" if scales(size) == 5 else f"ms_ssim_{scales(size)}scale"


def pair_score(
    values: Float[np.ndarray, "p"], pairs: Int64[np.ndarray, "p 2"], sizes: tuple[int, int | None], seed: int = 0
) -> Summary:
    """Mean over pairs; the interval leaves out pictures, not pairs. `sizes` are those of `random_pairs`."""
    first, second = sizes
    total = first + (second or 0)
    ends = pairs + np.array([0, 0 if second is None else first])

    def mean(rows: Int64[np.ndarray, "k"]) -> float:
        kept = np.isin(ends, rows).all(axis=1)
        return float(values[kept].mean()) if kept.any() else float(values.mean())

    return jackknifed(mean, total, seed=seed) | {"n": len(values)}


def similarity(generated: Pictures, real: Pictures, count: int, seed: int, batch: int = 32) -> Summary:
    """MS-SSIM over random generated-real pairs (the paper counts higher as better; a mean picture does well in it)."""
    pairs = random_pairs(len(generated), len(real), count, seed)
    values = ms_ssim(generated[pairs[:, 0]], real[pairs[:, 1]], batch)
    return pair_score(values, pairs, (len(generated), len(real)), seed)


def diversity(images: Pictures, count: int, seed: int, backbone: str = "tiny", batch: int = 32) -> Summary:
    """LPIPS over random pairs within one set, higher is more diverse.

    Raises:
        InputError: the network of `backbone` cannot be loaded.
        ValueError: fewer than two pictures.
    """
    pairs = random_pairs(len(images), None, count, seed)
    a, b = (images[pairs[:, i]].split(batch) for i in (0, 1))
    parts = [lpips(signed(x), signed(y), backbone) for x, y in zip(a, b, strict=True)]
    return pair_score(torch.cat(parts).double().numpy(), pairs, (len(images), None), seed)
