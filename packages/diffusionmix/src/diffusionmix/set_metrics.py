"""Numbers about two sets of pictures on named features (FID, KID) and within one set (LPIPS)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn
from torch.nn import functional as F

from diffusionmix.classifier import planes
from diffusionmix.comparison import Summary
from diffusionmix.judge_training import answers, prepared
from graft_common.errors import InputError
from graft_common.files import one_line, typed

Features = Float[np.ndarray, "_ d"]
Images = UInt8[np.ndarray, "_ H W 3"]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's ImageNet networks
SIDE = 299  # pixels that Inception sees


@dataclass(frozen=True)
class Extractor:
    """Features of pictures, and the name that distances on them carry ("tiny": fid_tiny)."""

    name: str
    features: Callable[[Images], Features]


def extractor(backbone: str, device: torch.device) -> Extractor:
    """tiny: the shipped judges, which know the phantom worlds only; else a local file of torchvision's Inception v3.

    Raises:
        InputError: the file is missing, damaged or no Inception v3.
    """
    if backbone == "tiny":
        from graft_common.metrics import features, load_judges

        judges = load_judges(device=str(device))
        return Extractor("tiny", lambda images: features(prepared(planes(images), device), judges))
    network = _Inception(Path(backbone)).to(device).eval()
    return Extractor("inception_torchvision", lambda images: answers(network, planes(images), device).double().numpy())


class _Inception(nn.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        from graft_common.checkpoint import load_weights

        where = f"--backbone {typed(path)}"
        if not path.is_file() or path.suffix != ".safetensors":
            raise InputError(f"{where}: is no safetensors file; give tiny, or a file that `tools/convert_checkpoint.py state` made")
        self.net = inception_v3(num_classes=1000, aux_logits=False, init_weights=False)
        try:
            stored = {k: v for k, v in load_weights(path).items() if not k.startswith("AuxLogits.")}
            self.net.load_state_dict(stored, strict=True)
        except RuntimeError as why:
            raise InputError(f"{where}: is not torchvision's Inception v3 ({one_line(why, 100)}); give its published file") from why
        self.net.fc = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, deviation = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
        grown = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return self.net(((grown + 1) / 2 - mean) / deviation)


def distances(generated: Features, real: Features, name: str, seed: int = 0) -> dict[str, Summary]:
    """ "fid_<name>" (Heusel et al. 2017) and "kid_<name>" (Binkowski et al. 2018, unbiased, cubic kernel) with grouped
    jackknife intervals; both sets are cut to the size of the smaller one, since FID falls as sets grow."""
    from graft_common.metrics import frechet, jackknifed

    count = min(len(generated), len(real))
    a, b = generated[:count], real[:count]
    return {
        f"fid_{name}": jackknifed(lambda rows: frechet(a[rows], b[rows]), count, seed),
        f"kid_{name}": jackknifed(lambda rows: kid(a[rows], b[rows]), count, seed),
    }


def kid(generated: Features, real: Features) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased (torchmetrics); sets of equal size."""
    from torchmetrics.image.kid import poly_mmd

    return float(poly_mmd(torch.from_numpy(real), torch.from_numpy(generated)))


def diversity(images: Images, count: int, backbone: str, device: torch.device, seed: int = 0) -> Summary:
    """Mean LPIPS over random pairs within one set, higher is more diverse; the interval leaves out pictures, not pairs.

    Raises:
        InputError: the network of `backbone` cannot be loaded.
        ValueError: fewer than two pictures.
    """
    from graft_common.metrics import Rows, jackknifed, lpips

    if len(images) < 2:
        raise ValueError(f"there are {len(images)} pictures; a pair needs two")
    rng = np.random.default_rng([seed, 92])
    left = rng.integers(len(images), size=count)
    pairs = np.stack([left, (left + rng.integers(1, len(images), size=count)) % len(images)], axis=1)
    parts = []
    for start in range(0, count, 32):
        a, b = (prepared(planes(images[pairs[start : start + 32, k]]), device) for k in (0, 1))
        parts.append(lpips(a, b, backbone).double().cpu().numpy())
    values = np.concatenate(parts)

    def mean(rows: Rows) -> float:
        kept = np.isin(pairs, rows).all(axis=1)
        return float(values[kept].mean()) if kept.any() else float(values.mean())

    return jackknifed(mean, len(images), seed) | {"n": count}
