"""The verb `eval-cls`: classifiers on a split -> weighted precision, recall, F1 and F1 per class, beside the majority class."""

from typing import Any

import numpy as np
from jaxtyping import Int64

from didgen.classifier import Classifier, load_classifier, predict_classes
from didgen.cls_scores import confusion, summaries
from didgen.config_study import EvalClsConfig
from didgen.dataset import ManifestDataset
from didgen.manifest import load
from didgen.samples import Samples, read_classes
from didgen.scoring import as_csv, distinct, write_table
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.device import pick_device
from graft_common.errors import InputError
from graft_common.files import sha256, typed, write_text
from graft_common.metrics import metrics_json

MAJORITY = "majority class"


def run_eval_cls(config: EvalClsConfig, command: list[str]) -> dict[str, Any]:
    """The verb `eval-cls`; writes metrics.json, table.md, samples.csv and run.json.

    metrics.json holds the first checkpoint's numbers, "compared" those of the others and of always naming the class that
    was most frequent in training, "confusion" each one's table (rows: truth).
    """
    config.check()
    out, device = checked_out(config.out), pick_device(config.device)
    record = Run(command, config, "graft-didgen")
    record.read("manifest", load(config.manifest).path)
    names = distinct(config.checkpoints)
    with record.stage("load"):
        judges = {n: load_classifier(path, device) for n, path in zip(names, config.checkpoints, strict=True)}
        record.weights = {"name": names[0], "sha256": sha256(config.checkpoints[0])}
    for name, path in zip(names, config.checkpoints, strict=True):
        record.read(f"checkpoint {name}", path)
    ours, classes = names[0], judges[names[0]].classes
    for path, judge in zip(config.checkpoints, judges.values(), strict=True):
        if judge.classes != classes:
            raise InputError(
                f"--checkpoints {typed(path)}: knows {', '.join(judge.classes)} but the first knows {', '.join(classes)}; "
                "compare classifiers of the same classes"
            )
    sets = {
        judge.size: ManifestDataset(config.manifest, judge.size, config.split, classes=classes, need_class=True)
        for judge in judges.values()
    }
    with record.stage("read"), progress("read pictures", sum(map(len, sets.values())), quiet=config.json) as advance:
        samples = {size: read_classes(dataset, advance) for size, dataset in sets.items()}
    first = samples[judges[ours].size]
    truth = labels_of(first)
    said: dict[str, Int64[np.ndarray, n]] = {}
    with record.stage("score"):
        for name, judge in judges.items():
            chances = predict_classes(judge, samples[judge.size].images, device, config.batch_size)
            said[name] = chances.argmax(dim=1).numpy()
        said[MAJORITY] = np.full_like(truth, majority(judges[ours]))
    tables = {name: confusion(truth, one, len(classes)) for name, one in said.items()}
    means = {name: summaries(truth, one, classes, seed=config.seed) for name, one in said.items()}
    extra = {
        "answer": ours, "split": config.split, "classes": list(classes),
        "support": dict(zip(classes, tables[ours].sum(axis=1).tolist(), strict=True)),
        "networks": {n: judge.name for n, judge in judges.items()}, "compared": {n: m for n, m in means.items() if n != ours},
        "confusion": {name: one.tolist() for name, one in tables.items()},
    }  # fmt: skip
    write_json(out / "metrics.json", metrics_json("didgen", "eval-cls", means[ours], {}, extra))
    write_table(out, means, "answer", config.json)
    lines = [
        (key, name, classes[truth[i]], classes[one[i]]) for name, one in said.items() for i, key in enumerate(first.ids)
    ]
    write_text(out / "samples.csv", as_csv(["id", "answer", "dx", "said"], lines))
    record.outputs = ["metrics.json", "table.md", "samples.csv"]
    record.measures = {"pictures": len(first), "answers": list(said)}
    return record.write(out)


def majority(classifier: Classifier) -> int:
    """Place of the class that was most frequent in training."""
    return int(np.argmax(classifier.counts))


def labels_of(samples: Samples) -> Int64[np.ndarray, "n"]:
    """The labels, which `read_classification` always gives."""
    assert samples.labels is not None
    return samples.labels.numpy()
