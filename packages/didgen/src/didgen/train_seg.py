"""The verb `train-seg`: a manifest's pictures and masks -> a lesion segmenter."""

from pathlib import Path
from typing import Any

from didgen.config_study import LearnConfig, SegSettings, TrainSegConfig, as_settings
from didgen.dataset import ManifestDataset
from didgen.learn import LAST, Learned, header_of
from didgen.manifest import load
from didgen.samples import Samples, read_masks
from didgen.segmenter import TASK, train_segmenter
from graft_common.checkpoint import save_weights
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.device import pick_device
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.provenance import stamp

MODEL, HISTORY = "model.safetensors", "history.json"


def run_train_seg(config: TrainSegConfig, command: list[str]) -> dict[str, Any]:
    """The verb `train-seg`; writes model.safetensors (best epoch), last.safetensors, history.json and run.json."""
    config.check()
    out = fresh(config.out, config.resume)
    pick_device(config.device)
    record = Run(command, config, "graft-didgen")
    record.read("manifest", load(config.manifest).path)
    training, validation = (
        ManifestDataset(config.manifest, config.size, split, need_mask=True)
        for split in (config.train_split, config.val_split)
    )
    with (
        record.stage("read"),
        progress("read pictures", len(training) + len(validation), quiet=config.json) as advance,
    ):
        train, valid = read_masks(training, advance), read_masks(validation, advance)
    settings = as_settings(config, SegSettings)
    with record.stage("train"), progress("train (epochs)", config.epochs, quiet=config.json) as advance:
        segmenter, learned = train_segmenter(
            train, valid, settings, out, resume=config.resume, on_epoch=lambda line: advance(1)
        )
    return finish(record, out, segmenter.network, header_of(TASK, settings), learned, train, valid)


def fresh(out: Path, resume: bool) -> Path:
    """The folder to train in, which holds no earlier run unless it is gone on with.

    Raises:
        InputError: it cannot be written, or holds a checkpoint and --resume is off.
    """
    checked_out(out)
    if not resume and (out / LAST).exists():
        raise InputError(f"--out {typed(out)}: holds {LAST} already; pass --resume or choose another folder")
    return out


def finish(
    record: Run,
    out: Path,
    network: Any,
    header: dict[str, Any],
    learned: Learned,
    train: Samples,
    valid: Samples,
) -> dict[str, Any]:
    """Write the best epoch's weights with what is needed to load them, the history, and run.json."""
    assert isinstance(record.config, LearnConfig)
    note = stamp("didgen", record.config.seed, {}, record.digests)
    save_weights(out / MODEL, network.state_dict(), header | {"best_epoch": learned.best_epoch, "provenance": note})
    write_json(out / HISTORY, {"ended": learned.ended, "best_epoch": learned.best_epoch, "epochs": learned.history})
    record.outputs = [MODEL, LAST, HISTORY]
    record.measures = {
        "train": len(train), "validation": len(valid), "epochs": len(learned.history), "ended": learned.ended,
        "best_epoch": learned.best_epoch, "best_score": learned.best_score,
    }  # fmt: skip
    return record.write(out)
