"""The verb `evaluate`: generated objects, backgrounds or whole pictures against real ones."""

from typing import Any

import numpy as np

from diffusionmix.comparison import Summary
from diffusionmix.config_study import EvaluateConfig
from diffusionmix.picture_set import PictureSet, read_set
from diffusionmix.prepared import HEAD
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.device import pick_device
from graft_common.errors import InputError
from graft_common.files import typed, write_bytes

GENERATED, REAL = "generated", "real, held out"
FEWEST = 3  # the jackknife leaves one out, and a covariance needs two


def run_evaluate(config: EvaluateConfig, command: list[str]) -> dict[str, Any]:
    """Writes metrics.json, table.md, samples.csv and run.json.

    Always: FID and KID on named features, LPIPS within the generated pictures. With masks on both sides: how masks fit the object
    found by colour, and areas. With a prepared --real: distance to the nearest training picture and, for two classes or more, the
    agreement of an independent classifier. All of it also for the real held-out pictures: the best that can be hoped for.
    """
    config.check()
    out = checked_out(config.out)
    record = Run(command, config, "graft-diffusionmix")
    with record.stage("read"), progress("read", 2, quiet=config.json) as advance:
        real = read_set(config.real, "--real", config.split, config.size)
        advance(1)
        squares = (config.real / HEAD).is_file() and real.masks is not None
        made = read_set(config.generated, "--generated", "test", config.size or real.images.shape[1], squares)
        advance(1)
    for flag, folder, count in (("--generated", config.generated, len(made.ids)), ("--real", config.real, len(real.ids))):
        if count < FEWEST:
            raise InputError(f"{flag} {typed(folder)}: {count} pictures; {FEWEST} or more are needed for an interval")
    objects = made.masks is not None and real.masks is not None
    classes = _classes(made, real)
    tables: dict[str, dict[str, dict[str, Summary]]] = {}
    with record.stage("sets"):
        overall, backbones = _set_scores(made, real, config)
    accuracy = None
    if objects:
        with record.stage("objects"), progress("classes", len(classes) + 1, quiet=config.json) as advance:
            classifier = _classifier(real, config)
            advance(1)
            accuracy = None if classifier is None else classifier.accuracy
            for label in classes:
                tables[label or "all"] = _class_table(made, real, label, classifier, config.seed)
                advance(1)
    elif real.training is not None:
        tables["all"] = {name: {"nearest": s} for name, s in _nearest(made, real, config.seed).items()}
    extra = {"classes": tables, "split": config.split, "size": int(real.images.shape[1]), "classifier_accuracy": accuracy}
    metrics = overall | {
        f"{name} ({label})": s for label, rows in tables.items() for name, s in rows.get(GENERATED, {}).items()
    }
    from graft_common.metrics import metrics_json

    write_json(out / "metrics.json", metrics_json("diffusionmix", "evaluate", metrics, backbones, extra, config.seed))
    write_bytes(out / "table.md", _markdown(overall, tables).encode())
    write_bytes(out / "samples.csv", _samples(made).encode())
    record.outputs = ["metrics.json", "table.md", "samples.csv"]
    record.measures = {"generated": len(made.ids), "real": len(real.ids), "classifier_accuracy": accuracy}
    return record.write(out)


def _classes(made: PictureSet, real: PictureSet) -> list[str | None]:
    """Classes on both sides; None for all pictures together where either side has none."""
    named = {label for label in made.labels if label is not None}
    if not named or not any(label is not None for label in real.labels):
        return [None]
    if unknown := sorted(named - set(real.labels)):
        raise InputError(
            f"--generated: class {unknown[0]!r} is not among those of --real, {', '.join(sorted(map(str, set(real.labels))))}"
        )
    return [*sorted(named)]


def _rows(pictures: PictureSet, label: str | None) -> np.ndarray:
    return np.arange(len(pictures.ids)) if label is None else pictures.of(label)


def _set_scores(made: PictureSet, real: PictureSet, config: EvaluateConfig) -> tuple[dict[str, Summary], dict[str, str]]:
    from diffusionmix.set_metrics import distances, diversity, extractor
    from graft_common.metrics import name

    device = pick_device(config.device)
    net = extractor(config.backbone, device)
    rng = np.random.default_rng([config.seed, 94])
    chosen = [np.sort(rng.permutation(len(p.ids))[: min(len(made.ids), len(real.ids))]) for p in (made, real)]
    images = [p.images[rows] for p, rows in zip((made, real), chosen, strict=True)]
    out = distances(net.features(images[0]), net.features(images[1]), net.name, config.seed)
    if made.masks is not None and real.masks is not None:
        crops = [_crops(p, rows) for p, rows in zip((made, real), chosen, strict=True)]
        if min(map(len, crops)) >= FEWEST and crops[0].shape[1] >= 16:
            found = distances(net.features(crops[0]), net.features(crops[1]), net.name, config.seed)
            out |= {f"{key}_box": value for key, value in found.items()}
    lpips = name("lpips", config.lpips)
    out[lpips] = diversity(made.images, config.pairs, config.lpips, device, config.seed)
    return out, {"features": net.name, "perceptual": lpips.removeprefix("lpips_")}


def _crops(pictures: PictureSet, rows: np.ndarray) -> np.ndarray:
    """The square around each object, at half the pictures' side; pictures with an empty mask are left out."""
    from diffusionmix.crop import cut, object_box

    assert pictures.masks is not None
    side = pictures.images.shape[1] // 2
    found = [
        cut(pictures.images[i], pictures.masks[i], object_box(pictures.masks[i]), side)[0] for i in rows if pictures.masks[i].any()
    ]
    return np.stack(found) if found else np.zeros((0, side, side, 3), np.uint8)


def _classifier(real: PictureSet, config: EvaluateConfig) -> Any:
    """Trained on the training split, measured on the held-out one; None where there are no two classes to learn."""
    train = real.training
    if not config.classifier or train is None:
        return None
    classes = tuple(sorted({label for label in train.labels if label is not None}))
    if len(classes) < 2 or None in train.labels or not set(real.labels) <= set(classes):
        return None
    from diffusionmix.classifier import train_classifier

    def numbers(labels: tuple[str | None, ...]) -> np.ndarray:
        return np.array([classes.index(str(label)) for label in labels], np.int64)

    return train_classifier(
        train.images, numbers(train.labels), real.images, numbers(real.labels), classes, steps=config.classifier_steps,
        seed=config.seed, device=pick_device(config.device),
    )  # fmt: skip


def _class_table(
    made: PictureSet, real: PictureSet, label: str | None, classifier: Any, seed: int
) -> dict[str, dict[str, Summary]]:
    from diffusionmix.object_scores import class_agreement, score_objects

    ours, theirs = _rows(made, label), _rows(real, label)
    assert made.masks is not None and real.masks is not None
    held = (real.images[theirs], real.masks[theirs])
    train = None
    if real.training is not None and real.training.masks is not None:
        rows = _rows(real.training, label)
        train = (real.training.images[rows], real.training.masks[rows]) if len(rows) else None
    known = classifier is not None and label is not None
    out = {}
    for name, images, masks, channel in (
        (GENERATED, made.images[ours], made.masks[ours], None if made.channel is None else made.channel[ours]),
        (REAL, *held, None),
    ):
        agreed = class_agreement(classifier, images, str(label)) if known else None
        out[name] = score_objects(images, masks, held, train, channel, agreed, seed)
    return out


def _nearest(made: PictureSet, real: PictureSet, seed: int) -> dict[str, Summary]:
    from diffusionmix.object_metrics import nearest_distance
    from diffusionmix.object_scores import resampled

    assert real.training is not None
    bank = real.training.images
    sets = {GENERATED: made.images, REAL: real.images}
    return {
        name: resampled(nearest_distance(images, bank), lambda part: float(np.median(part)), seed) for name, images in sets.items()
    }


def _samples(made: PictureSet) -> str:
    areas = made.masks.mean(axis=(1, 2)) if made.masks is not None else None
    lines = ["id,label,mask_area"]
    for i, name in enumerate(made.ids):
        lines.append(f"{name},{made.labels[i] or ''},{'' if areas is None else f'{areas[i]:.6g}'}")
    return "\n".join(lines) + "\n"


def _markdown(overall: dict[str, Summary], tables: dict[str, dict[str, dict[str, Summary]]]) -> str:
    lines = ["| metric | value |", "|---|---|", *(f"| {name} | {cell(s)} |" for name, s in overall.items())]
    for label, rows in tables.items():
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        lines += ["", f"| {label} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for name, row in rows.items():
            lines.append(f"| {name} | " + " | ".join(cell(row[n]) if n in row else "" for n in names) + " |")
    return "\n".join(lines) + "\n"


def cell(summary: Summary) -> str:
    """mean [low, high]."""
    digits = 2 if abs(summary["mean"]) >= 10 else 3
    low, high = summary["ci95"]
    return f"{summary['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
