"""A remembering mix draws the same bytes, and asks its networks for nothing twice."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from diffusionmix.box import Box
from diffusionmix.compose import merge, sample_backgrounds, sample_objects
from diffusionmix.config import MergeConfig
from diffusionmix.remember import Remembering, forget, remembering

BOXES, SEEDS = [Box(4, 6, 16, 16), Box(10, 8, 20, 12)], [3, 11]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(x.image, y.image) and np.array_equal(x.mask, y.mask) for x, y in zip(a, b, strict=True))


def test_bytes_are_those_of_the_plain_mix_and_shared_steps_are_free(build: Any) -> None:
    mix = build.mix(variance=0.05)
    wise = remembering(mix)
    ask: Remembering = wise.background.module
    base = MergeConfig(steps=20, tau_steps=2)
    settings = [replace(base, start=start, r=r) for start in (0.5, 0.8) for r in (4, 2, 0)]
    for s in settings:
        assert same(merge(mix, BOXES, SEEDS, s), merge(wise, BOXES, SEEDS, s))
    # both starts share the descent to state 11; the first adds 10 + 4 x 2 steps, the second 16 - 10 more to its own start's end
    assert ask.computed == (20 + 8) + ((20 - 16 + 6) - 0 + 8)
    assert ask.asked == sum(20 + 2 * s.r for s in settings)
    before = ask.computed
    alone = sample_backgrounds(wise, SEEDS, base)
    assert ask.computed == before + 4  # the unmerged chain leaves the later start at state 4
    assert all(np.array_equal(a, b) for a, b in zip(alone, sample_backgrounds(mix, SEEDS, base), strict=True))
    drawn, plain = sample_objects(wise, SEEDS, None, base), sample_objects(mix, SEEDS, None, base)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(drawn, plain, strict=True))


def test_other_questions_get_other_answers_and_old_ones_are_forgotten() -> None:
    asked: list[float] = []

    def network(x: torch.Tensor, index: torch.Tensor, class_labels: Any = None) -> Any:
        from types import SimpleNamespace

        asked.append(float(x.sum()))
        return SimpleNamespace(sample=x * int(index) + (0 if class_labels is None else int(class_labels[0])))

    wise = Remembering(network, most=3 * 4 * 5)
    x, y = torch.ones(5), torch.zeros(5)
    one, two = torch.tensor(1), torch.tensor(2)
    assert torch.equal(wise(x, one).sample, x) and torch.equal(wise(x, two).sample, 2 * x)
    assert torch.equal(wise(x, one, torch.tensor([7])).sample, x + 7)
    assert torch.equal(wise(x, one).sample, x) and len(asked) == 3 and wise.asked == 4
    wise(y, one)  # the fourth answer pushes out the one that was unused longest
    wise(x, two)
    assert len(asked) == 5 and wise.held == 3 * 20
    wise.forget()
    assert wise.held == 0 and not wise.known


def test_forget_reaches_every_network(build: Any) -> None:
    wise = remembering(build.mix())
    merge(wise, BOXES, SEEDS, MergeConfig(steps=4, r=0))
    assert wise.background.module.known and wise.object.module.known
    forget(wise)
    assert not wise.background.module.known and not wise.object.module.known
