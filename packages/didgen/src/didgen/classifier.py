"""Lesion classifiers: torchvision's VGG16, ResNet18, DenseNet121 and ViT-B/16, also on small pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from didgen.config_study import ClsSettings
from didgen.learn import Learned, Line, Task, header_of, key, learn, outputs
from didgen.samples import Samples
from didgen.segmenter import fill, stored_settings
from graft_common.checkpoint import load_weights, read_config
from graft_common.device import pick_device
from graft_common.errors import InputError
from graft_common.files import one_line, typed

TASK = "classification"
SHAPE = ("network", "size")
HEADS = {"vgg16": "classifier.6", "resnet18": "fc", "densenet121": "classifier", "vit-b-16": "heads.head"}


@dataclass(frozen=True)
class Classifier:
    """A trained network, the side of the pictures that it was trained on, its classes, and how many pictures of each it
    was trained on."""

    network: nn.Module
    size: int
    name: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]


def stem_stride(size: int) -> int:
    """How much the stem shrinks a picture before the stages: 4 as published, less where under 128 px the last map would
    have fewer than 4 x 4 cells."""
    return 4 if size >= 128 else 2 if size >= 64 else 1


def build_classifier(settings: ClsSettings, classes: Sequence[str]) -> nn.Module:
    """A new network on the CPU: (B, 3, S, S) prepared pictures -> logits (B, classes). Equal seeds, equal weights.

    Raises:
        InputError: fewer than two classes, or weights that are missing, damaged or another network's.
    """
    settings.check()
    if len(classes) < 2:
        raise InputError(f"the training pictures are all {', '.join(classes) or 'without dx'}; give two classes or more")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(settings.seed, 80))
        network = _built(settings.network, settings.size, len(classes))
    if settings.weights is not None:
        _fill_published(network, settings)
    return network


def cls_task() -> Task:
    """Cross entropy, early stopping on accuracy."""
    return Task(loss=F.cross_entropy, targets=_labels, score=_accuracy)


def train_classifier(
    train: Samples,
    valid: Samples,
    settings: ClsSettings,
    folder: Path,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[Line], None] = lambda line: None,
) -> tuple[Classifier, Learned]:
    """Train a classifier as `settings` says and return it at its best epoch; see `learn` for the rest.

    Raises:
        InputError: as `build_classifier` and `learn`.
    """
    network = build_classifier(settings, train.classes).to(pick_device(settings.device))
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    counts = tuple(torch.bincount(_labels(train), minlength=len(train.classes)).tolist())
    classifier = Classifier(network, settings.size, settings.network, train.classes, counts)
    learned = learn(
        network, optimizer, cls_task(), train, valid, settings, folder, classifier_header(settings, classifier),
        resume=resume, stop=stop, on_epoch=on_epoch,
    )  # fmt: skip
    network.eval()
    return classifier, learned


def classifier_header(settings: ClsSettings, classifier: Classifier) -> dict[str, Any]:
    """What the checkpoint says of itself: settings, classes and their training counts."""
    return header_of(TASK, settings) | {"classes": list(classifier.classes), "counts": list(classifier.counts)}


def load_classifier(path: Path, device: torch.device, flag: str = "--checkpoints") -> Classifier:
    """The classifier in a model.safetensors of train-cls.

    Raises:
        InputError: missing, damaged, another task's, or weights that do not fit the network that the header names.
    """
    settings = ClsSettings(**stored_settings(path, TASK, SHAPE, flag, "train-cls"))
    header = read_config(path)
    classes = tuple(header["classes"])
    network = build_classifier(settings, classes)
    fill(network, path, flag)
    return Classifier(network.to(device).eval(), settings.size, settings.network, classes, tuple(header["counts"]))


def predict_classes(
    classifier: Classifier, images: UInt8[Tensor, "n 3 S S2"], device: torch.device, batch: int = 128
) -> Float32[Tensor, "n C"]:
    """Probabilities of each class."""
    return outputs(classifier.network, images, device, batch).softmax(dim=1)


def read_tensors(path: Path, flag: str) -> dict[str, Tensor]:
    """Tensors of a local safetensors file.

    Raises:
        InputError: missing or damaged, or no safetensors.
    """
    where = f"{flag} {typed(path)}"
    if not path.is_file():
        raise InputError(f"{where}: no such file; nothing is fetched, give a local one")
    if path.suffix != ".safetensors":
        raise InputError(
            f"{where}: is no safetensors, and a pickle is never read here; turn it into one with "
            "`tools/convert_checkpoint.py state`"
        )
    try:
        return load_weights(path)
    except InputError as why:
        raise InputError(f"{flag} {why}") from why


def _built(name: str, size: int, classes: int) -> nn.Module:
    from torchvision import models

    stride = stem_stride(size)
    if name == "vit-b-16":
        return models.VisionTransformer(
            image_size=size, patch_size=4 * stride, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072,
            num_classes=classes,
        )  # fmt: skip
    if name == "vgg16":
        network = models.vgg16(num_classes=classes)
        if size < 128:  # its last map has size / 32 cells a side; the published head repeats them to 7
            cells = max(1, size // 32)
            network.avgpool = nn.AdaptiveAvgPool2d(cells)
            network.classifier[0] = nn.Linear(512 * cells * cells, 4096)
        return network
    if name == "resnet18":
        network = models.resnet18(num_classes=classes)
        if stride < 4:
            network.conv1 = nn.Conv2d(3, 64, 3, stride=stride, padding=1, bias=False)
            network.maxpool = nn.Identity()
        return network
    network = models.densenet121(num_classes=classes)
    if stride < 4:
        network.features.conv0 = nn.Conv2d(3, 64, 3, stride=stride, padding=1, bias=False)
        network.features.pool0 = nn.Identity()
    return network


def _fill_published(network: nn.Module, settings: ClsSettings) -> None:
    """Everything but the head, which is new, from torchvision's published weights."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    assert settings.weights is not None
    stored = read_tensors(settings.weights, "--weights")
    head = HEADS[settings.network]
    try:
        if settings.network == "vit-b-16":
            stored = dict(interpolate_embeddings(settings.size, 16, stored))
        if settings.network == "densenet121":  # the published file still has the names of an older module
            stored = {_renamed(name): value for name, value in stored.items()}
        own = {name: value for name, value in network.state_dict().items() if name.startswith(head + ".")}
        kept = {name: value for name, value in stored.items() if not name.startswith(head + ".")}
        network.load_state_dict(kept | own, strict=True)
    except (RuntimeError, KeyError, ValueError) as why:
        raise InputError(
            f"--weights {typed(settings.weights)}: is not torchvision's {settings.network} ({one_line(why, 100)}); give its "
            "published file"
        ) from why


def _renamed(name: str) -> str:
    """features.denseblock1.denselayer1.norm.1.weight -> ...norm1.weight."""
    words = name.split(".")
    for i in range(len(words) - 1):
        if words[i] in ("norm", "relu", "conv") and words[i + 1] in ("1", "2"):
            return ".".join([*words[:i], words[i] + words[i + 1], *words[i + 2 :]])
    return name


def _labels(samples: Samples) -> Tensor:
    if samples.labels is None:
        raise ValueError("these samples have no diagnoses; read them with read_classification")
    return samples.labels


def _accuracy(network: nn.Module, samples: Samples, device: torch.device, batch: int) -> float:
    said = outputs(network, samples.images, device, batch).argmax(dim=1)
    return float((said == _labels(samples)).double().mean())
