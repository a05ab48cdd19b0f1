"""The method as one call: sources -> results. Commands and Python meet here."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from graft_common import bundle as weights
from graft_common.bundle import Bundle
from graft_common.console import Run, checked_out
from graft_common.errors import InputError
from graft_common.provenance import stamp
from tficomp.composite import composite
from tficomp.config import ComposeConfig, MethodConfig
from tficomp.denoise import Denoiser, run
from tficomp.encode import encode
from tficomp.inputs import Source, Sources, read_inputs
from tficomp.place import place
from tficomp.records import Inputs, Lesion, Result
from tficomp.weights import denoiser, load_bundle, opened, working_size
from tficomp.write import write_panel, write_result


def compose(
    background: Source,
    object: Source | Sequence[Source],
    object_mask: Source | Sequence[Source],
    user_mask: Source | Sequence[Source] | None = None,
    *,
    prompt: str,
    window: tuple[float, float] | None = None,
    slice: int | None = None,
    fit_mask: bool = False,
    **settings: Any,
) -> Result:
    """Blend one or several lesions into a tumour-free image.

    Args:
        background, object: paths, or (H, W) or (H, W, 3) uint8 or uint16 arrays; `object` may be a list.
        object_mask: paths, or (H, W) bool or uint8 (above 127) arrays on the object's grid, one for each object.
        user_mask: the same on the background's grid; None places the lesion in tissue, drawn from `seed`.
        prompt: what the result shows.
        settings: any field of `MethodConfig`, e.g. weights="tiny-sd", steps=20, paste_back=True, seed=0.

    Returns:
        `Result`: pixels (C, H, W) in [-1, 1], lesion_mask (H, W), copy_paste, and the geometry. Deterministic.

    Raises:
        InputError: anything wrong with files, shapes or settings (a ValueError with one line that names the cure).
        TypeError: an unknown setting.
    """
    known = {f.name for f in fields(MethodConfig)}
    if unknown := sorted(set(settings) - known):
        raise TypeError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    config = MethodConfig(**settings)
    sources = Sources(
        background, _several(object), _several(object_mask), () if user_mask is None else _several(user_mask),
        prompt, seed=config.seed, window=window, slice=slice, fit_mask=fit_mask,
    )  # fmt: skip
    config.check()
    bundle = load_bundle(config)
    return compose_batch([read_inputs(sources)], config, bundle)[0]


def _several(item: Source | Sequence[Source]) -> tuple[Source, ...]:
    return (item,) if isinstance(item, (str, Path, np.ndarray)) else tuple(item)


def compose_batch(
    samples: Sequence[Inputs],
    config: MethodConfig,
    bundle: Bundle,
    *,
    seeds: Sequence[int] | None = None,
    record: Run | None = None,
    counter: Denoiser | None = None,
) -> list[Result]:
    """Samples in one batch through the network; `seeds` turns on posterior sampling, one seed for each."""
    record = record or Run([], config)
    network = counter or denoiser(config, bundle)
    size = working_size(config, bundle)
    with record.stage("place"):
        placed = [place(s, config, size, bundle.factor) for s in samples]
    with record.stage("encode"):
        latents = encode(placed, [s.prompt for s in samples], bundle, seeds)
    with record.stage("denoise"):
        composed = run(latents, network, config)
    with record.stage("decode"):
        frames = weights.decode(bundle, composed.states[0]).cpu().numpy()
    with record.stage("composite"):
        return [composite(f, s, p, config) for f, s, p in zip(frames, samples, placed, strict=True)]


def jittered(inputs: Inputs, seed: int) -> Inputs:
    """The same sample with each user mask shrunk by up to 20 % and shifted within its own box, drawn from `seed`."""
    rng = np.random.default_rng([513, seed])
    lesions = []
    for lesion in inputs.lesions:
        rows, cols = np.nonzero(lesion.user_mask)
        top, bottom, left, right = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
        shrink = rng.uniform(0.8, 1.0)
        h, w = max(1, round((bottom - top) * shrink)), max(1, round((right - left) * shrink))
        y, x = top + rng.integers(bottom - top - h + 1), left + rng.integers(right - left - w + 1)
        moved = np.zeros_like(lesion.user_mask)
        moved[y : y + h, x : x + w] = True
        kept = moved & lesion.user_mask
        lesions.append(Lesion(lesion.pixels, lesion.mask, kept if kept.any() else lesion.user_mask))
    return replace(inputs, lesions=tuple(lesions))


def run_compose(config: ComposeConfig, command: list[str]) -> dict[str, Any]:
    """The verb `compose`: read, compose, write; returns the run record."""
    config.check()
    if config.variants < 0:
        raise InputError(f"--variants {config.variants}: must be 0 or more")
    out = checked_out(config.out)
    record = Run(command, config, "graft-tficomp")
    sources = Sources(
        config.background, config.object, config.object_mask, config.user_mask, config.prompt,
        seed=config.seed, window=config.window, slice=config.slice, fit_mask=config.fit_mask,
    )  # fmt: skip
    with record.stage("read"):
        inputs = read_inputs(sources)
        for role, path in sources.paths().items():
            record.read(role, path)
    bundle, network = opened(config, record)
    seeds = [config.seed + i for i in range(config.variants)]
    samples = [jittered(inputs, seed) for seed in seeds] or [inputs]
    results = compose_batch(samples, config, bundle, seeds=seeds or None, record=record, counter=network)
    note = stamp("tficomp", config.seed, record.weights, record.digests)
    with record.stage("write"):
        for i, (sample, result) in enumerate(zip(samples, results, strict=True)):
            folder = out if i == 0 else out / f"variant_{i + 1:02d}"
            prefix = "" if i == 0 else f"{folder.name}/"
            own = {**note, "seed": (seeds or [config.seed])[i]}
            names = write_result(result, folder, own)
            write_panel([(sample, result)], folder / "panel.png", f"{config.prompt} (synthetic)", own)
            record.outputs += [prefix + name for name in (*names, "panel.png")]
    if seeds:  # the first one's measures stand below as well
        drawn = zip(seeds, results, strict=True)
        record.measures["variants"] = [{"seed": seed, **result.measures} for seed, result in drawn]
    record.measures |= {
        **results[0].measures, "network_calls": network.calls, "network_items": network.items, "notes": list(inputs.notes),
        "window": inputs.background.source.window, "window_from": inputs.background.source.window_from,
        "t_start": config.start, "lowest_rectified": config.lowest_rectified, "size": working_size(config, bundle),
    }  # fmt: skip
    return record.write(out)
