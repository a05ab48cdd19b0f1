"""The verb `eval-gen`: generated pictures, and their masks, against real ones."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from didgen.asked import lesion_scores, requested, seen, word_scores
from didgen.attributes import render
from didgen.config_study import EvalGenConfig
from didgen.gen_metrics import (
    Pictures,
    diversity,
    extractor,
    feature_scores,
    ms_ssim_name,
    similarity,
)
from didgen.generated import read_generated
from didgen.images import picture_size, read_lesion_mask, read_rgb
from didgen.manifest import Row, load
from didgen.measure import measure
from didgen.memorise import Match, memorisation
from didgen.scoring import Summary, as_csv, write_table
from didgen.seg_metrics import overlap
from graft_common.console import Run, checked_out, progress, write_json
from graft_common.device import pick_device
from graft_common.errors import InputError
from graft_common.files import typed, write_text
from graft_common.metrics import bootstrap, metrics_json, proportion
from graft_common.metrics import name as metric_name
from graft_common.resample import resize, resize_mask

GENERATED, TRAINING, MEAN_PICTURE = "generated", "real training pictures", "mean real picture"
CONSTANT, CHANCE = "a constant map", {"mean": 0.5, "ci95": [0.5, 0.5], "n": 0}


def run_eval_gen(config: EvalGenConfig, command: list[str]) -> dict[str, Any]:
    """The verb `eval-gen`; writes metrics.json, table.md, nearest.csv (but for --train-split None) and run.json.

    As many pictures of each set as the smaller one has, drawn by the seed: FID falls as sets grow. "compared" holds other
    real pictures (the best that can be hoped for) and the mean real picture repeated (the trivial answer).
    """
    config.check()
    out, device = checked_out(config.out), pick_device(config.device)
    source = read_generated(config.generated, "--generated ")
    made = list(source.rows)
    manifest = load(config.real)
    rows = of_split(manifest.rows, config.split, f"--split {config.split}", config.real)
    training: list[Row] = []
    if config.train_split is not None:
        training = of_split(manifest.rows, config.train_split, f"--train-split {config.train_split}", config.real)
    size = config.size or min(picture_size(made[0].image))
    count = min(len(made), len(rows))
    if count <= config.neighbours:
        raise InputError(
            f"--neighbours {config.neighbours}: there are {len(made)} generated and {len(rows)} real pictures; both must be "
            "more than it"
        )
    if size < 32:
        raise InputError(f"--size {size}: {typed(made[0].image)} has that side; pictures are compared at 32 px or more")
    record = Run(command, config, "graft-didgen")
    record.read("generated", source.path)
    record.read("real", manifest.path)
    with record.stage("load"):
        net = extractor(config.backbone, device, config.batch_size)
    chosen = {
        GENERATED: drawn(made, count, config.seed),
        "real": drawn(rows, count, config.seed + 1),
    }
    if len(training) > config.neighbours:
        chosen[TRAINING] = drawn(training, count, config.seed + 2)
    with record.stage("read"), progress("read", sum(map(len, chosen.values())), quiet=config.json) as advance:
        sets = {name: read_pictures(part, size, advance) for name, part in chosen.items()}
    real = sets.pop("real")
    sets[MEAN_PICTURE] = real.double().mean(dim=0, keepdim=True).round().to(torch.uint8).expand_as(real)
    means: dict[str, dict[str, Summary]] = {}
    with record.stage("score"), progress("score", len(sets), quiet=config.json) as advance:
        wanted = net.features(real)
        for name, images in sets.items():
            part = min(len(images), len(real))
            scores = feature_scores(net.features(images), wanted[:part], net.name, config.neighbours, config.seed)
            scores[ms_ssim_name(size)] = similarity(images, real, config.pairs, config.seed, config.batch_size)
            scores[metric_name("lpips", config.lpips)] = diversity(
                images, config.pairs, config.seed, config.lpips, config.batch_size
            )
            means[name] = scores
            advance(1)
    with record.stage("masks"):
        means[GENERATED] |= mask_scores(made, config)
        means["real"] = area_scores(rows)
    with record.stage("asked"):
        asked = asked_scores(made, config.layouts, GENERATED, config.seed)
        asked["real"] = asked_scores(chosen["real"], None, "real", config.seed)["real"]  # what the judges reach at best
        for name, scores in asked.items():
            means[name] = means.get(name, {}) | scores
    if config.weights is not None:
        with record.stage("maps"):
            means[GENERATED] |= auroc_scores(chosen["real"], config, record)
        means[CONSTANT] = {name: CHANCE for name in ("auroc_lesion", "auroc_skin")}
    if training:
        with record.stage("nearest"):
            matches = {GENERATED: matched(made, training, config, device), "real": matched(rows, training, config, device)}
        for name, scores in nearest_scores(matches, config).items():
            means[name] |= scores
        lines = [(name, m.id, m.nearest, m.distance) for name, many in matches.items() for m in many]
        write_text(out / "nearest.csv", as_csv(["pictures", "id", "nearest", "distance"], lines))
    means = {name: scores for name, scores in means.items() if scores}
    extra = {
        "size": size, "pictures": count, "split": config.split, "pairs": config.pairs,
        "compared": {n: m for n, m in means.items() if n != GENERATED},
    }  # fmt: skip
    backbones = {"features": net.name, "perceptual": metric_name("lpips", config.lpips).removeprefix("lpips_")}
    write_json(out / "metrics.json", metrics_json("didgen", "eval-gen", means[GENERATED], backbones, extra))
    write_table(out, means, "pictures", config.json)
    record.outputs = ["metrics.json", "table.md", *(["nearest.csv"] if training else [])]
    record.measures = {"generated": len(made), "flagged": len(source.flagged), "real": len(rows), "compared": count}
    return record.write(out)


def of_split(rows: Sequence[Row], split: str, flag: str, manifest: Path) -> list[Row]:
    """The rows of one split; InputError where there are none."""
    found = [row for row in rows if row.split == split]
    if not found:
        raise InputError(f"{flag}: {typed(manifest)} has no row of that split; run graft-didgen prepare")
    return found


def drawn(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` different rows, drawn by the seed."""
    order = np.random.default_rng([seed, 87]).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(order.tolist())]


def read_pictures(rows: Sequence[Row], size: int, advance: Callable[[int], None]) -> Pictures:
    """Pictures squashed to `size` pixels square."""
    images = []
    for row in rows:
        images.append(_square(read_rgb(row.image), size))
        advance(1)
    return torch.stack(images)


def matched(rows: Sequence[Row], training: Sequence[Row], config: EvalGenConfig, device: torch.device) -> list[Match]:
    """Nearest training picture of each picture."""
    try:
        return memorisation(rows, training, config.nearest_backbone, batch=config.batch_size, device=str(device))
    except InputError as why:  # the same text serves another verb, whose flag has another name
        raise InputError(str(why).replace("--backbone", "--nearest-backbone", 1)) from why


def nearest_scores(matches: dict[str, list[Match]], config: EvalGenConfig) -> dict[str, dict[str, Summary]]:
    """ "nearest_..." (mean distance to the nearest training picture) and "copies_...": the share of pictures that are
    nearer to one than 95 % of the held-out real pictures are. Real pictures have 5 % of these by definition."""
    name = metric_name("nearest", config.nearest_backbone)
    bound = float(np.quantile([m.distance for m in matches["real"]], 0.05))
    out = {}
    for key, many in matches.items():
        near = sum(m.distance < bound for m in many)
        copies = proportion(near, len(many))
        out[key] = {name: bootstrap([m.distance for m in many], config.seed), name.replace("nearest", "copies"): copies}
    return out


def mask_scores(rows: Sequence[Row], config: EvalGenConfig) -> dict[str, Summary]:
    """Of generated masks: "mask_area" (share of the picture), "mask_lpips_..." over random pairs, and with --layouts
    "mask_iou" with their own layout and "mask_iou_other" with the next one's (what any mask of the set would get)."""
    named = [row for row in rows if row.mask is not None]
    masks = [_any_mask(row.mask) for row in named if row.mask is not None]
    if not masks:
        if config.layouts is not None:
            raise InputError(f"--layouts {typed(config.layouts)}: the generated pictures have no masks; leave it out")
        return {}
    out = {"mask_area": bootstrap([float(m.mean()) for m in masks], config.seed)}
    if len(masks) > 1:
        small = torch.stack([_square(np.repeat(m[..., None] * np.uint8(255), 3, axis=2), 64) for m in masks])
        name = metric_name("lpips", config.lpips)
        out[f"mask_{name}"] = diversity(small, config.pairs, config.seed, config.lpips, config.batch_size)
    if config.layouts is not None:
        own = [_layout(config.layouts, row, mask.shape) for row, mask in zip(named, masks, strict=True)]
        out["mask_iou"] = bootstrap([_iou(m, t) for m, t in zip(masks, own, strict=True)], config.seed)
        others = [resize_mask(own[i - 1], m.shape) for i, m in enumerate(masks)]
        out["mask_iou_other"] = bootstrap([_iou(m, t) for m, t in zip(masks, others, strict=True)], config.seed)
    return out


def asked_scores(
    rows: Sequence[Row], layouts: Path | None, ours: str, seed: int
) -> dict[str, dict[str, Summary]]:
    """`lesion_scores` of the rows with masks and `word_scores` of those with words, the pictures' own under `ours`."""
    out: dict[str, dict[str, Summary]] = {ours: {}}
    asked = [(row, requested(row)) for row in rows]
    found = [(row, words, *seen(row)) for row, words in asked if words is not None or row.mask is not None]
    masked = [(row, _any_mask(row.mask), drawn) for row, _, drawn, _ in found if row.mask is not None]
    if masked:
        own = None if layouts is None else [_layout(layouts, row, mask.shape) for row, mask, _ in masked]
        masks, drawn = [mask for _, mask, _ in masked], [resize_mask(drawn, mask.shape) for _, mask, drawn in masked]
        out |= lesion_scores(drawn, masks, own, ours, seed)
    said = [(words, measured) for _, words, _, measured in found if words is not None]
    for name, scores in word_scores([a for a, _ in said], [b for _, b in said], ours, seed).items():
        out[name] = out.get(name, {}) | scores
    return out


def auroc_scores(rows: Sequence[Row], config: EvalGenConfig, record: Run) -> dict[str, Summary]:
    """ "auroc_lesion" and "auroc_skin" of the maps of --weights on real pictures with masks; see `map_scores`.

    Raises:
        InputError: weights that cannot be loaded, or no picture has a mask.
    """
    from didgen.config import ModelConfig
    from didgen.map_scores import map_scores
    from didgen.weights import load_model

    assert config.weights is not None
    model = load_model(ModelConfig(weights=config.weights, device=config.device))
    record.weights = model.weights()
    named = [(row, row.mask) for row in rows if row.mask is not None]
    if not named:
        raise InputError(f"--weights {config.weights}: the real pictures have no masks to test its maps by; leave it out")
    images, masks = [read_rgb(row.image) for row, _ in named], [read_lesion_mask(mask) for _, mask in named]
    prompts = [row.prompt or render(measure(i, m).attributes) for (row, _), i, m in zip(named, images, masks, strict=True)]
    found = map_scores(images, masks, prompts, [config.seed + i for i in range(len(named))], model.bundle)
    return {f"auroc_{name}": bootstrap(values, config.seed) for name, values in found.items()}


def area_scores(rows: Sequence[Row]) -> dict[str, Summary]:
    """ "mask_area" of real masks; nothing where there are none."""
    areas = [float(read_lesion_mask(row.mask).mean()) for row in rows if row.mask is not None]
    return {"mask_area": bootstrap(areas)} if areas else {}


def _square(picture: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[Tensor, "3 S S"]:
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1))
    if planes.shape[1:] != (size, size):
        planes = np.rint(resize(planes.astype(np.float32), (size, size))).astype(np.uint8)
    return torch.from_numpy(planes)


def _any_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """A generated mask, which unlike a real one may be empty or full."""
    return read_rgb(path, "mask")[..., 0] > 127


def _layout(folder: Path, row: Row, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    name = row.layout or row.id
    found = sorted(p for p in folder.glob("*") if p.stem == name and p.is_file())
    if not found:
        raise InputError(f"--layouts {typed(folder)}: has no layout {name} of picture {row.id}; give the folder of that run")
    return resize_mask(read_lesion_mask(found[0]), (shape[0], shape[1]))


def _iou(said: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    return float(overlap(torch.from_numpy(said)[None, None], torch.from_numpy(truth)[None, None])["iou"][0])
