"""Inception v3 features (pool3, 2048 numbers) for FID and KID, from a local file of published weights.

Two files exist, told apart by their class count. The one made for FID (1008 classes, converted from the network of Heusel et
al. 2017) leaves padding out of its averages and takes a maximum in the last block; torchvision's own (1000 classes) does
neither, so its distance has another name.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from didgen.classifier import read_tensors
from didgen.samples import DEVIATION, MEAN
from graft_common.errors import InputError
from graft_common.files import one_line, typed

SIDE = 299


class Inception(nn.Module):
    """Pictures in [0, 1] -> pooled features.

    Args:
        fid: pool as the FID network does.
    """

    def __init__(self, fid: bool) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        self.net = inception_v3(num_classes=1, aux_logits=False, init_weights=False)
        self.net.fc = nn.Identity()
        self.fid = fid

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 2048"]:
        """Resized to 299 px (bilinear), in [-1, 1] for the FID network, else as torchvision's networks want it."""
        if x.shape[-2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
        if not self.fid:
            mean, deviation = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
            return self.net((x - mean) / deviation)
        with _FidPooling(self.net):
            return self.net(2 * x - 1)


def load_inception(path: Path, device: torch.device, flag: str = "--backbone") -> tuple[Inception, str]:
    """The network and the name that its distances carry ("inception", or "inception_torchvision").

    Raises:
        InputError: missing, damaged, or not Inception v3.
    """
    stored = read_tensors(path, flag)
    where = f"{flag} {typed(path)}"
    classes = len(stored["fc.weight"]) if "fc.weight" in stored else 0
    if classes not in (1000, 1008):
        raise InputError(f"{where}: is no Inception v3 of 1000 or 1008 classes; give its published file, or tiny")
    network = Inception(classes == 1008)
    kept = {name: value for name, value in stored.items() if not name.startswith(("fc.", "AuxLogits."))}
    try:
        network.net.load_state_dict(kept, strict=True)
    except RuntimeError as why:
        raise InputError(f"{where}: is not Inception v3 ({one_line(why, 100)}); give its published file") from why
    return network.eval().to(device), "inception" if classes == 1008 else "inception_torchvision"


class _FidPooling(TorchFunctionMode):
    """Changes the two poolings while it is entered; torchvision's blocks call them as functions, so no module can."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.last = net, False

    def __enter__(self) -> "_FidPooling":
        last: Any = self.net.Mixed_7c
        self.hooks = [last.register_forward_pre_hook(self._in), last.register_forward_hook(self._out)]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        super().__exit__(*error)

    def _in(self, *_: Any) -> None:
        self.last = True

    def _out(self, *_: Any) -> None:
        self.last = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.avg_pool2d:
            if self.last:
                return F.max_pool2d(args[0], kwargs["kernel_size"], kwargs["stride"], kwargs["padding"])
            kwargs["count_include_pad"] = False
        return func(*args, **kwargs)
