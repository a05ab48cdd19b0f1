"""The verb `train-cls`: a manifest's pictures and diagnoses -> a lesion classifier."""

from typing import Any

from didgen.classifier import classifier_header, train_classifier
from didgen.config_study import ClsSettings, TrainClsConfig, as_settings
from didgen.dataset import ManifestDataset
from didgen.manifest import CLASSES, load
from didgen.samples import read_classes
from didgen.train_seg import finish, fresh
from graft_common.console import Run, progress
from graft_common.device import pick_device
from graft_common.files import sha256


def run_train_cls(config: TrainClsConfig, command: list[str]) -> dict[str, Any]:
    """The verb `train-cls`; writes model.safetensors (best epoch), last.safetensors, history.json and run.json."""
    config.check()
    out = fresh(config.out, config.resume)
    pick_device(config.device)
    record = Run(command, config, "graft-didgen")
    manifest = load(config.manifest)
    record.read("manifest", manifest.path)
    classes = tuple(c for c in CLASSES if any(r.dx == c and r.split == config.train_split for r in manifest.rows))
    training, validation = (
        ManifestDataset(config.manifest, config.size, split, classes=classes or CLASSES, need_class=True)
        for split in (config.train_split, config.val_split)
    )
    with (
        record.stage("read"),
        progress("read pictures", len(training) + len(validation), quiet=config.json) as advance,
    ):
        train, valid = read_classes(training, advance), read_classes(validation, advance)
    settings = as_settings(config, ClsSettings)
    with record.stage("train"), progress("train (epochs)", config.epochs, quiet=config.json) as advance:
        classifier, learned = train_classifier(
            train, valid, settings, out, resume=config.resume, on_epoch=lambda line: advance(1)
        )
    if config.weights is not None:
        record.weights = {"name": config.weights.name, "sha256": sha256(config.weights)}
    return finish(record, out, classifier.network, classifier_header(settings, classifier), learned, train, valid)
