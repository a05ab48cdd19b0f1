"""LPIPS (Zhang et al. 2018) with a named network: the phantom classifier, or the published AlexNet and VGG16.

The published ones are read from one safetensors file that `tools/convert_checkpoint.py lpips` makes of torchvision's and
LPIPS' own files; those are pickles, which nothing here reads.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.checkpoint import load_weights, read_config
from graft_common.errors import InputError
from graft_common.files import one_line, typed
from graft_common.metrics.judges import Judges, fit_side, load_judges

CURE = "give tiny, or the file that `tools/convert_checkpoint.py lpips` writes"
_SMALLEST = 32  # pixels that the last layers of AlexNet and VGG16 still see


@torch.no_grad()
def lpips(
    a: Float[Tensor, "B 3 H W"],
    b: Float[Tensor, "B 3 H W"],
    backbone: str = "tiny",
    judges: Judges | None = None,
    batch: int = 16,
) -> Float[Tensor, "B"]:
    """Perceptual distance of picture pairs, 0 for equal ones; lower is nearer. Report it as `name("lpips", backbone)`.

    Args:
        a, b: pictures in [-1, 1], on one device. The tiny network sees them at 64 px; the published ones as given, at
            least 32 px.
        backbone: "tiny": the phantom classifier's features with unit weights (it knows the phantom worlds only).
            A path: AlexNet's or VGG16's weights under LPIPS' linear ones, as `tools/convert_checkpoint.py lpips` writes
            them; the file says which network it is. Nothing is ever fetched, and no pickle is read.
        judges: loaded judges instead of the shipped ones (tiny only).
        batch: pairs at once.

    Raises:
        InputError: unknown or missing or damaged weights.
        ValueError: shapes differ, or pictures under 32 px for a published network.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; both must have one shape")
    if kind_of(backbone) == "tiny":
        trunk = (judges or load_judges(device=str(a.device))).classifier.trunk
        dtype = next(trunk.parameters()).dtype
        pairs = zip(a.to(dtype).split(batch), b.to(dtype).split(batch), strict=True)
        return torch.cat([feature_distance(trunk(fit_side(x)), trunk(fit_side(y))) for x, y in pairs])
    if min(a.shape[-2:]) < _SMALLEST:
        raise ValueError(f"pictures are {a.shape[-2]}x{a.shape[-1]} but LPIPS needs {_SMALLEST} px; resize them")
    network = _published(backbone).to(a.device)
    pairs = zip(a.float().split(batch), b.float().split(batch), strict=True)
    return torch.cat([network(x, y).flatten() for x, y in pairs])


def feature_distance(first: Iterable[Tensor], second: Iterable[Tensor]) -> Float[Tensor, "B"]:
    """LPIPS' eq. 1 with unit weights: per layer, features of unit length along channels, squared difference summed over
    channels and averaged over places; summed over layers. The 1e-8 under the root is torchmetrics'."""
    total: Any = 0
    for f, g in zip(first, second, strict=True):
        u, v = (x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for x in (f, g))
        total = total + (u - v).square().sum(dim=1).mean(dim=(1, 2))
    return total


def kind_of(backbone: str) -> Literal["tiny", "alex", "vgg"]:
    """Which network `backbone` means: tiny, or what the file's header says.

    Raises:
        InputError: it is neither tiny nor a file that the converter wrote.
    """
    if backbone == "tiny":
        return "tiny"
    path = Path(backbone)
    if not path.is_file():
        raise InputError(f"--lpips {typed(backbone)}: no such file; {CURE}")
    if path.suffix != ".safetensors":
        raise InputError(
            f"--lpips {typed(backbone)}: is no safetensors, and a pickle is never read here; turn it into one with "
            "`tools/convert_checkpoint.py lpips`"
        )
    try:
        config = read_config(path)
    except InputError as why:
        raise InputError(f"--lpips {why}; {CURE}") from why
    if config.get("model") != "lpips" or config.get("network") not in ("alex", "vgg"):
        raise InputError(f"--lpips {typed(backbone)}: holds no LPIPS network; {CURE}")
    return config["network"]


@lru_cache(maxsize=2)
def _published(backbone: str) -> Any:
    """torchmetrics' LPIPS network with the file's weights in place of the ones that it would fetch and unpickle."""
    from torchmetrics.functional.image.lpips import _LPIPS

    kind, stored = kind_of(backbone), load_weights(Path(backbone))
    with torch.random.fork_rng(devices=[]):  # building a network draws numbers that the caller did not ask for
        network = _LPIPS(net=kind, pretrained=False, pnet_rand=True)
    try:
        network.load_state_dict({key: stored[_name(key)].float() for key in network.state_dict()}, strict=True)
    except (KeyError, RuntimeError) as why:
        raise InputError(f"--lpips {typed(backbone)}: is not a whole {kind} network ({one_line(why)}); {CURE}") from why
    return network.eval().requires_grad_(False)


def _name(key: str) -> str:
    """torchmetrics' key -> torchvision's (its slices keep the layer numbers), or the linear layer's one name of two."""
    return f"features.{key.split('.', 2)[2]}" if key.startswith("net.") else key.replace("lins.", "lin", 1)
