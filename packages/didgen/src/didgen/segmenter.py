"""Lesion segmenters: MONAI's U-Net, Attention U-Net and SegResNet, transformers' SegFormer, or any `module:Class`."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from didgen.config_study import Networks, SegSettings
from didgen.learn import Learned, Line, Task, header_of, key, learn, outputs
from didgen.samples import Samples
from graft_common.checkpoint import load_weights, read_config
from graft_common.device import pick_device
from graft_common.errors import InputError
from graft_common.files import one_line, typed

TASK = "segmentation"
SHAPE = ("network", "network_args", "widths", "size")  # settings that a checkpoint needs to be loaded again


@dataclass(frozen=True)
class Segmenter:
    """A trained network and the side of the pictures that it was trained on."""

    network: nn.Module
    size: int
    name: str


class SegFormer(nn.Module):
    """SegFormer (Xie et al. 2021) by transformers, its logits brought back to the picture's size (bilinear)."""

    def __init__(self, widths: tuple[int, ...], size: int) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        n = len(widths)
        # keys are thinned out by 8, 4, 2, 1 as published, but never below one cell of a small picture's map
        ratios = [max(1, min(2 ** (3 - i), size // 2 ** (i + 2))) if i < 4 else 1 for i in range(n)]
        plan = SegformerConfig(
            num_labels=1, num_encoder_blocks=n, depths=[2] * n, hidden_sizes=list(widths), decoder_hidden_size=widths[-1],
            num_attention_heads=[max(1, w // 32) for w in widths], sr_ratios=ratios,
            patch_sizes=[7, *[3] * (n - 1)], strides=[4, *[2] * (n - 1)], mlp_ratios=[4] * n,
        )  # fmt: skip
        self.inner = SegformerForSemanticSegmentation(plan)

    def forward(self, x: Float[Tensor, "B 3 S S2"]) -> Float[Tensor, "B 1 S S2"]:
        """Prepared pictures -> logits."""
        logits = self.inner(pixel_values=x).logits
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)


def build_segmenter(settings: SegSettings) -> nn.Module:
    """A new network on the CPU: (B, 3, S, S) prepared pictures -> logits (B, 1, S, S). Equal seeds, equal weights.

    Raises:
        InputError: a module:Class that cannot be imported, called, or gives another shape.
    """
    settings.check()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(settings.seed, 79))
        if settings.network not in Networks:
            return _own(settings)
        if settings.network == "segformer":
            return SegFormer(tuple(settings.widths), settings.size)
        from monai.networks import nets

        widths, halvings = settings.widths, (2,) * (len(settings.widths) - 1)
        if settings.network == "unet":
            return nets.UNet(2, 3, 1, widths, halvings, num_res_units=2)
        if settings.network == "attention-unet":
            return nets.AttentionUnet(2, 3, 1, widths, halvings)
        blocks = (1, 2, 2, 4, *(4,) * len(widths))[: len(widths)]
        return nets.SegResNet(
            spatial_dims=2, init_filters=widths[0], in_channels=3, out_channels=1, blocks_down=blocks,
            blocks_up=(1,) * len(halvings), dropout_prob=None,
        )  # fmt: skip


def seg_task(monitor: str = "accuracy") -> Task:
    """Binary cross entropy + Dice (MONAI), early stopping on pixel accuracy or mean Dice."""
    from monai.losses import DiceCELoss

    return Task(
        loss=DiceCELoss(sigmoid=True),
        targets=lambda samples: _masks(samples).float(),
        score=_accuracy if monitor == "accuracy" else _mean_dice,
    )


def train_segmenter(
    train: Samples,
    valid: Samples,
    settings: SegSettings,
    folder: Path,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[Line], None] = lambda line: None,
) -> tuple[Segmenter, Learned]:
    """Train a segmenter as `settings` says and return it at its best epoch; see `learn` for the rest.

    Raises:
        InputError: as `build_segmenter` and `learn`; or pictures are not of `settings.size`.
    """
    network = build_segmenter(settings).to(pick_device(settings.device))
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    task, header = seg_task(settings.monitor), header_of(TASK, settings)
    learned = learn(
        network, optimizer, task, train, valid, settings, folder, header, resume=resume, stop=stop, on_epoch=on_epoch
    )
    return Segmenter(network.eval(), settings.size, settings.network), learned


def load_segmenter(path: Path, device: torch.device, flag: str = "--checkpoints") -> Segmenter:
    """The segmenter in a model.safetensors of train-seg.

    Raises:
        InputError: missing, damaged, another task's, or weights that do not fit the network that the header names.
    """
    settings = SegSettings(**stored_settings(path, TASK, SHAPE, flag, "train-seg"))
    network = build_segmenter(settings)
    fill(network, path, flag)
    return Segmenter(network.to(device).eval(), settings.size, settings.network)


def stored_settings(path: Path, task: str, names: tuple[str, ...], flag: str, verb: str) -> dict[str, Any]:
    """The settings `names` in the header of a judge's model.safetensors; InputError when it is none of this task."""
    header = read_config(path)
    if header.get("task") != task or not all(name in header for name in names):
        what = header.get("task") or "another network"
        raise InputError(f"{flag} {typed(path)}: holds {what}, not {task}; give model.safetensors of {verb}")
    return {name: tuple(header[name]) if isinstance(header[name], list) else header[name] for name in names}


def fill(network: nn.Module, path: Path, flag: str) -> None:
    """Load a model.safetensors into its network; InputError when names or shapes differ."""
    try:
        network.load_state_dict(load_weights(path), strict=True)
    except RuntimeError as why:
        raise InputError(
            f"{flag} {typed(path)}: does not fit the network that its header names ({one_line(why, 120)}); train it again"
        ) from why


def predict_masks(
    segmenter: Segmenter, images: UInt8[Tensor, "n 3 S S2"], device: torch.device, batch: int = 16
) -> Bool[Tensor, "n 1 S S2"]:
    """Lesion where the probability is above one half."""
    return outputs(segmenter.network, images, device, batch) > 0


def _own(settings: SegSettings) -> nn.Module:
    where = f"--network {settings.network}"
    module, _, name = settings.network.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as why:
        raise InputError(f"{where}: cannot be imported ({one_line(why)}); put its folder on PYTHONPATH") from why
    try:
        network = kind(**json.loads(settings.network_args))
        training = network.training
        with torch.no_grad():
            made = network.eval()(torch.zeros(2, 3, settings.size, settings.size))
        network.train(training)
    except Exception as why:  # a stranger's code may raise anything; what it was called with is the user's
        raise InputError(
            f"{where}: failed with --network-args {settings.network_args} and --size {settings.size} ({one_line(why)}); "
            "change them"
        ) from why
    wanted = (2, 1, settings.size, settings.size)
    if not isinstance(made, Tensor) or tuple(made.shape) != wanted:
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise InputError(f"{where}: gives {got} but logits {wanted} are wanted; wrap it in a class that returns them")
    return network


def _masks(samples: Samples) -> Bool[Tensor, "n 1 S S2"]:
    if samples.masks is None:
        raise ValueError("these samples have no masks; read them with read_segmentation")
    return samples.masks


def _accuracy(network: nn.Module, samples: Samples, device: torch.device, batch: int) -> float:
    said = outputs(network, samples.images, device, batch) > 0
    return float((said == _masks(samples)).double().mean())


def _mean_dice(network: nn.Module, samples: Samples, device: torch.device, batch: int) -> float:
    from didgen.seg_metrics import overlap

    said = outputs(network, samples.images, device, batch) > 0
    return float(overlap(said, _masks(samples))["dice"].mean())
