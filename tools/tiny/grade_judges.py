"""Print what the judges' model card states: `python tools/tiny/grade_judges.py` (held-out phantoms).

World classifier, lpips_tiny and clip_tiny, each with n, a 95 % interval and the trivial answer beside it.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from graft_common import phantoms
from graft_common.console import write_json
from graft_common.metrics import bootstrap, grading, load_judges, proportion
from graft_common.metrics.grading import Held, candidates, draw_held, named_right, retrieved
from graft_common.metrics.judges import Judges, WorldClassifier

# Shares of each kind's range for (mild, strong) in triples of two kinds. All are printed: the verdict depends on them.
MIXED = (((0.0, 0.2), (0.7, 1.0)), ((0.0, 0.3), (0.6, 1.0)), ((0.0, 0.4), (0.5, 1.0)))


@dataclass(frozen=True)
class GradeConfig:
    """Grade the judges on held-out phantoms."""

    folder: Path | None = None
    """Folder of the judges; the shipped ones when left out."""
    per_world: int = 200
    """Held-out phantoms of each world."""
    size: int = 64
    """Side in pixels at which the phantoms are drawn."""
    triples: int = 500
    """Triples of picture, milder and stronger distortion."""
    out: Path | None = None
    """Write the table to this JSON file as well."""


def grade(held: Held, folder: Path | None = None, triples: int = 500) -> dict[str, Any]:
    """Every number with n and interval, by judge; "trivial" holds what needs no look at the picture."""
    judges = load_judges(folder)
    named, found = named_right(judges, held), retrieved(judges, held)
    clip = {key: share(column) for key, column in found.items() if key != "attribute"}
    return {
        "classifier": {head: share(hits) for head, hits in named.items()},
        "lpips_tiny": milder(judges, held, triples),
        "clip_tiny": {"candidates": len(candidates()), "attribute": bootstrap(found["attribute"])} | clip,
        "trivial": {"world by chance": 1 / len(phantoms.WORLDS)} | commonest(held),
    }


def milder(judges: Judges, held: Held, count: int) -> dict[str, Any]:
    """Shares of triples in which the mild picture is nearer: by lpips_tiny, untrained, and by square error."""
    torch.manual_seed(0)
    blank = WorldClassifier(judges.classifier.heads, judges.classifier.widths).eval().requires_grad_(False)
    untrained = replace(judges, classifier=blank)
    sets = {"one kind": grading.triples(held, count)}
    sets |= {f"two kinds {m} {s}": grading.mixed_triples(held, count, m, s) for m, s in MIXED}
    out = {}
    for name, made in sets.items():
        right = grading.prefers_milder(judges, made)
        out[name] = share(right)
        out[f"{name}, untrained"] = share(grading.prefers_milder(untrained, made))
        out[f"{name}, square error"] = share(grading.error_prefers_milder(made))
        for kind in sorted(set(made[3])):
            out[f"{name}: {kind}"] = share(right[[k == kind for k in made[3]]])
    return out


def share(hits: np.ndarray) -> dict[str, Any]:
    """A share with Wilson's interval."""
    return proportion(int(hits.sum()), len(hits))


def commonest(held: Held) -> dict[str, float]:
    """The share that naming the commonest value of each attribute would get: what a blind judge scores."""
    out = {}
    for world in phantoms.WORLDS:
        rows = [a for a, w in zip(held.attributes, held.worlds, strict=True) if w == world]
        for name in rows[0]:
            out[f"{world}.{name}"] = Counter(row[name] for row in rows).most_common(1)[0][1] / len(rows)
    return out


def main(config: GradeConfig) -> None:
    table = grade(draw_held(config.per_world, config.size), config.folder, config.triples)
    for part in ("classifier", "lpips_tiny", "clip_tiny"):
        for key, row in table[part].items():
            if isinstance(row, dict):
                low, high = row["ci95"]
                blind = table["trivial"].get(key)
                beside = "" if blind is None else f"   commonest answer {blind:.3f}"
                print(f"{part:11} {key:46} {row['mean']:.4f}  [{low:.4f}, {high:.4f}]  n {row['n']}{beside}")
    print(json.dumps({"candidate captions": table["clip_tiny"]["candidates"]}))
    if config.out:
        write_json(config.out, table)


if __name__ == "__main__":
    main(tyro.cli(GradeConfig))
