"""The verb `eval-seg`: segmenters on a split -> Dice and IoU per picture, beside trivial answers."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from didgen.config_study import EvalSegConfig
from didgen.dataset import ManifestDataset
from didgen.manifest import load
from didgen.samples import Samples, read_masks
from didgen.scoring import as_csv, distinct, write_table
from didgen.seg_metrics import overlap, trivial_masks
from didgen.segmenter import load_segmenter, predict_masks
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.device import pick_device
from graft_common.files import sha256, write_text
from graft_common.metrics import bootstrap, metrics_json, paired_difference


def run_eval_seg(config: EvalSegConfig, command: list[str]) -> dict[str, Any]:
    """The verb `eval-seg`; writes metrics.json, table.md, samples.csv and run.json.

    Pictures and masks are compared at the side that a checkpoint was trained on. metrics.json holds the first checkpoint's
    numbers, "compared" those of the others and of the trivial answers, "paired" the first less each of them.
    """
    config.check()
    out, device = checked_out(config.out), pick_device(config.device)
    record = Run(command, config, "graft-didgen")
    record.read("manifest", load(config.manifest).path)
    names = distinct(config.checkpoints)
    with record.stage("load"):
        segmenters = {n: load_segmenter(path, device) for n, path in zip(names, config.checkpoints, strict=True)}
        record.weights = {"name": names[0], "sha256": sha256(config.checkpoints[0])}
    for name, path in zip(names, config.checkpoints, strict=True):
        record.read(f"checkpoint {name}", path)
    sets = {s.size: ManifestDataset(config.manifest, s.size, config.split, need_mask=True) for s in segmenters.values()}
    with record.stage("read"), progress("read pictures", sum(map(len, sets.values())), quiet=config.json) as advance:
        samples = {size: read_masks(dataset, advance) for size, dataset in sets.items()}
    ids = next(iter(samples.values())).ids
    scores = {}
    with record.stage("score"):
        for name, segmenter in segmenters.items():
            chosen = samples[segmenter.size]
            said = predict_masks(segmenter, chosen.images, device, config.batch_size)
            scores[name] = overlap(said, truth_of(chosen))
        first = truth_of(next(iter(samples.values())))
        scores |= {name: overlap(said, first) for name, said in trivial_masks(first).items()}
    means = {n: {m: bootstrap(column, config.seed) for m, column in one.items()} for n, one in scores.items()}
    ours = names[0]
    others = [name for name in scores if name != ours]
    paired = {n: {m: paired_difference(scores[ours][m], scores[n][m], config.seed) for m in scores[ours]} for n in others}
    extra = {
        "answer": ours, "size": segmenters[ours].size, "split": config.split,
        "networks": {n: s.name for n, s in segmenters.items()}, "compared": {n: means[n] for n in others}, "paired": paired,
    }  # fmt: skip
    write_json(out / "metrics.json", metrics_json("didgen", "eval-seg", means[ours], {}, extra))
    write_table(out, means, "answer", config.json)
    lines = [
        (key, name, *(float(v[i]) for v in one.values())) for name, one in scores.items() for i, key in enumerate(ids)
    ]
    write_text(out / "samples.csv", as_csv(["id", "answer", "dice", "iou"], lines))
    record.outputs = ["metrics.json", "table.md", "samples.csv"]
    record.measures = {"pictures": len(ids), "answers": list(scores)}
    return record.write(out)


def truth_of(samples: Samples) -> Bool[Tensor, "n 1 S S2"]:
    """The masks, which `read_segmentation` always gives."""
    assert samples.masks is not None
    return samples.masks.to(torch.bool)
