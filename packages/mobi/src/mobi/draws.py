"""What one step of joint training draws: rows, references, drops, times, noise (mobi spec 2.9 and 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from graft_common.errors import InputError
from mobi.config_train import TrainConfig
from mobi.objects import Objects
from mobi.training_data import draw_reference


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows to draw from, by class: objects, and empty boxes of the same class (none where there are none)."""

    objects: tuple[Int64[np.ndarray, "_"], ...]
    empty: tuple[Int64[np.ndarray, "_"], ...]


@dataclass(frozen=True, eq=False)
class Draw:
    """B scenes.

    Attributes:
        rows: of the cache; those from `Objects.count` on are empty boxes.
        views: placement of each.
        references: row whose picture is the reference; -1 for an empty box.
        versions: which augmented version of it.
        no_reference, no_box: what is left out.
        t: training times of camera and lidar.
        eps: noise of camera and lidar.
    """

    rows: tuple[int, ...]
    views: tuple[int, ...]
    references: tuple[int, ...]
    versions: tuple[int, ...]
    no_reference: Bool[Tensor, " B"]
    no_box: Bool[Tensor, " B"]
    t: Int[Tensor, "B 2"]
    eps: Float[Tensor, "B 2 c h w"]


def make_pool(objects: Objects, rows: Int64[np.ndarray, " m"], classes: Sequence[str]) -> Pool:
    """Sort rows by class. Raises InputError where a class has no object."""
    kinds = np.array([objects.rows[k].kind for k in rows])
    told = rows < objects.count
    for name in classes:
        if not (told & (kinds == name)).any():
            known = sorted(set(kinds[told].tolist()))
            raise InputError(
                f"--classes {','.join(classes)}: no {name} can be trained on; the table has {', '.join(known) or 'none'}"
            )
    return Pool(
        tuple(rows[told & (kinds == name)] for name in classes), tuple(rows[~told & (kinds == name)] for name in classes)
    )


def draw(
    pool: Pool, objects: Objects, config: TrainConfig, gen: torch.Generator, step: int, shape: tuple[int, int, int],
    train_steps: int,
) -> Draw:  # fmt: skip
    """One batch: classes in turn, a row uniform inside the class, an empty box for `config.empty` of them.

    Args:
        step: of the training; an odd batch goes on with the classes where the last one ended.
        shape: c, h, w of a latent.
        train_steps: of the schedule.
    """
    count = config.batch_size
    rows = []
    for j in range(count):
        kind = (step * count + j) % len(pool.objects)
        share, empty = torch.rand(2, generator=gen, dtype=torch.float64).tolist()
        among = pool.empty[kind] if empty < config.empty and len(pool.empty[kind]) else pool.objects[kind]
        rows.append(int(among[int(share * len(among))]))
    references = tuple(draw_reference(objects, k, gen) if k < objects.count else -1 for k in rows)
    views = torch.randint(config.views, (count,), generator=gen).tolist()
    versions = torch.randint(config.reference_views, (count,), generator=gen).tolist()
    no_reference, no_box = draw_drops(config, gen)
    t = torch.stack([draw_times(count, train_steps, gen) for _ in range(2)], dim=1)
    if config.times == "shared":
        t = t[:, :1].expand(-1, 2)
    eps = torch.randn(count, 2, *shape, generator=gen)
    return Draw(tuple(rows), tuple(views), references, tuple(versions), no_reference, no_box, t, eps)


def draw_drops(config: TrainConfig, gen: torch.Generator) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
    """(reference left out, box left out) of each scene."""
    at, share = torch.rand(config.batch_size, generator=gen), float(config.drop)
    if config.drops == "joint":
        both = at < 2 * share
        return both, both
    # [0, d): both, [d, 2d): box, [2d, 3d): reference
    return (at < share) | ((at >= 2 * share) & (at < 3 * share)), at < 2 * share


def draw_times(count: int, train_steps: int, gen: torch.Generator) -> Int[Tensor, " B"]:
    """One time in each of B equal spans, for a steadier loss, in no order; each by itself is uniform."""
    spans = torch.randperm(count, generator=gen) + torch.rand(count, generator=gen)
    return (spans * train_steps / count).long().clamp(max=train_steps - 1)
