"""LPIPS (Zhang et al. 2018) with a named network: the phantom classifier, or the published AlexNet and VGG16."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from graft_common.checkpoint import load_weights
from graft_common.errors import InputError
from graft_common.files import one_line, typed
from graft_common.metrics.judges import Judges, fit_side, load_judges

FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}  # torchvision's own names
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
            A path: torchvision's weights of AlexNet or VGG16, with "alex" or "vgg" in the file's name (.safetensors, or
            .pth read without unpickling objects), under torchmetrics' learned linear weights. "alex" or "vgg": the same
            file where torchvision keeps it, if it is already there. Nothing is ever fetched.
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
    network = _published(*_local_file(backbone), backbone).to(a.device)
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
    """Which network `backbone` means. Raises InputError when it is none of the three."""
    if backbone == "tiny":
        return "tiny"
    last = PurePath(backbone).name.lower()
    if "alex" in last:
        return "alex"
    if "vgg" in last:
        return "vgg"
    raise InputError(
        f"--lpips {typed(backbone)}: is no known network; give tiny, or the path of torchvision's AlexNet or VGG16 "
        "weights with alex or vgg in the file's name"
    )


def _local_file(backbone: str) -> tuple[Literal["alex", "vgg"], Path]:
    """The published network that `backbone` means, and the file of its weights, which exists."""
    kind, path = kind_of(backbone), Path(backbone)
    assert kind != "tiny"
    if backbone in FILES:
        path = Path(torch.hub.get_dir()) / "checkpoints" / FILES[backbone]
        if not path.is_file():
            raise InputError(
                f"--lpips {backbone}: {path} does not exist and nothing is fetched unasked; put torchvision's "
                f"{FILES[backbone]} there, or give its path instead of {backbone}"
            )
    if not path.is_file():
        raise InputError(f"--lpips {typed(backbone)}: no such file; give torchvision's {FILES[kind]}, or tiny")
    return kind, path


def _tensors_only(path: Path) -> Any:
    """torchvision publishes .pth files; weights_only refuses whatever is not a tensor or a plain container."""
    return torch.load(path, map_location="cpu", weights_only=True)


@lru_cache(maxsize=2)
def _published(kind: Literal["alex", "vgg"], path: Path, backbone: str) -> Any:
    """torchmetrics' LPIPS network with local weights in place of the ones that it would fetch."""
    from torchmetrics.functional.image.lpips import _LPIPS

    try:
        stored = load_weights(path) if path.suffix == ".safetensors" else _tensors_only(path)
        with torch.random.fork_rng(devices=[]):  # building a network draws numbers that the caller did not ask for
            network = _LPIPS(net=kind, pnet_rand=True)
        wanted = {key: f"features.{key.split('.', 1)[1]}" for key in network.net.state_dict()}
        network.net.load_state_dict({key: stored[name].float() for key, name in wanted.items()}, strict=True)
    except Exception as why:  # zip, pickle, key, shape: whatever a file that is something else sets off
        raise InputError(
            f"--lpips {typed(backbone)}: is not torchvision's {kind} weights ({one_line(why)}); give {FILES[kind]}"
        ) from why
    return network.eval().requires_grad_(False)
