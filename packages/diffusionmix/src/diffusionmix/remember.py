"""Networks that answer the same question once: a sweep's settings share most of their steps.

All settings of a sweep descend alike until the first of them merges, and a run with few climbs is the beginning of one with many.
Noise depends on the seed and the position in the schedule alone, so what the networks are asked is bit-equal there, and the
remembered answer is bit-equal to a new one.
"""

import hashlib
from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from diffusionmix.records import Mix

MOST = 1 << 30  # bytes of remembered answers


class Remembering:
    """A network in a mix's place: `module(x, index, class_labels=...)` -> record with `.sample`.

    Attributes:
        asked, computed: questions so far, and those that the network itself answered.
    """

    def __init__(self, module: Any, most: int = MOST) -> None:
        self.module, self.most = module, most
        self.asked = self.computed = self.held = 0
        self.known: OrderedDict[bytes, Tensor] = OrderedDict()

    def __call__(self, x: Tensor, index: Tensor, class_labels: Tensor | None = None) -> Any:
        """The network's answer; the longest unused ones are forgotten first."""
        key, self.asked = _key(x, index, class_labels), self.asked + 1
        if key in self.known:
            self.known.move_to_end(key)
            return SimpleNamespace(sample=self.known[key])
        answer = self.module(x, index, class_labels=class_labels)
        self.computed += 1
        self.known[key] = answer.sample
        self.held += _bytes(answer.sample)
        while self.held > self.most and len(self.known) > 1:
            self.held -= _bytes(self.known.popitem(last=False)[1])
        return answer

    def forget(self) -> None:
        """Drop all answers, e.g. when other seeds follow."""
        self.known.clear()
        self.held = 0


def remembering(mix: Mix, most: int = MOST) -> Mix:
    """The same mix, its networks wrapped; `forget` empties them."""
    objects = tuple(replace(net, module=Remembering(net.module, most)) for net in mix.objects)
    ground = None if mix.background is None else replace(mix.background, module=Remembering(mix.background.module, most))
    return replace(mix, objects=objects, background=ground)


def forget(mix: Mix) -> None:
    """Drop the answers of a mix that `remembering` made."""
    for net in (*mix.objects, mix.background):
        if net is not None:
            net.module.forget()


def _key(x: Tensor, index: Tensor, labels: Tensor | None) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for part in (x, torch.as_tensor(index), labels):
        total.update(b"none" if part is None else _raw(part) + str((tuple(part.shape), part.dtype)).encode())
    return total.digest()


def _raw(part: Tensor) -> bytes:
    return part.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def _bytes(part: Tensor) -> int:
    return part.numel() * part.element_size()
