"""An independent classifier of objects: torchvision's ResNet18 with a stem for small pictures, trained on true pictures only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import nn
from torch.nn import functional as F

from diffusionmix.judge_training import answers, seeded, teach

RATE = 2e-4


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network, the names of its classes, and its accuracy on true pictures that it did not see."""

    network: nn.Module
    classes: tuple[str, ...]
    accuracy: float
    device: torch.device


def build_classifier(classes: int, seed: int = 0) -> nn.Module:
    """ResNet18; its first layer has 3 x 3 weights, and it normalises in groups, since running averages of a batch lag far behind
    in a short training. Equal seeds, equal weights."""
    from torchvision.models import resnet18

    def build() -> nn.Module:
        network = resnet18(num_classes=classes, norm_layer=lambda width: nn.GroupNorm(8, width))
        network.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        return network

    return seeded(build, seed)


def train_classifier(
    images: UInt8[np.ndarray, "n S S2 3"],
    labels: Int64[np.ndarray, "n"],
    held_images: UInt8[np.ndarray, "m S S2 3"],
    held_labels: Int64[np.ndarray, "m"],
    classes: tuple[str, ...],
    *,
    steps: int = 200,
    batch: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda n: None,
) -> Classifier:
    """Train on true objects and measure on held-out true ones.

    Raises:
        ValueError: fewer than two classes.
    """
    if len(classes) < 2:
        raise ValueError(f"classes are {', '.join(classes) or 'none'}; a classifier needs two or more")
    where = torch.device(device)
    network = teach(
        build_classifier(len(classes), seed), planes(images), torch.from_numpy(labels), F.cross_entropy, steps=steps, batch=batch,
        learning_rate=RATE, seed=seed, masks=False, device=where, advance=advance,
    )  # fmt: skip
    trained = Classifier(network, classes, 0.0, where)
    said = probabilities(trained, held_images).argmax(axis=1)
    return Classifier(network, classes, float((said == held_labels).mean()), where)


def probabilities(classifier: Classifier, images: UInt8[np.ndarray, "n S S2 3"]) -> Float32[np.ndarray, "n C"]:
    """Probability of each class."""
    return answers(classifier.network, planes(images), classifier.device).softmax(dim=1).numpy()


def planes(images: UInt8[np.ndarray, "n H W 3"]) -> UInt8[torch.Tensor, "n 3 H W"]:
    """Channels first, as networks take them."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
