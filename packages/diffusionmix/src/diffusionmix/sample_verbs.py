"""The verbs `sample-object` and `sample-background`: one model alone, as a check of its quality."""

from pathlib import Path
from typing import Any

from diffusionmix.compose import drawn_label, label_number, sample_backgrounds, sample_channels
from diffusionmix.config import ChainConfig, SampleBackgroundConfig, SampleObjectConfig
from diffusionmix.weights import load_mix
from diffusionmix.write import mask_image
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.panel import Picture, panel
from graft_common.provenance import stamp
from graft_common.raster import write_png

SHOWN = 24


def run_sample_object(config: SampleObjectConfig, command: list[str]) -> dict[str, Any]:
    """Draw `n` objects with their masks, and the mask channels as they came out, by which `evaluate` sees how decided they are.

    Raises:
        InputError: weights, a class or settings that cannot work.
    """
    out, run = _opened(config, command)
    with run.stage("load"):
        mix = load_mix(config, ("object",))
        run.weights = mix.weights()
    number = None if config.label is None else label_number(mix, config.label)
    shown: list[tuple[str, Picture]] = []
    areas: list[int] = []
    names: list[str | None] = []
    with progress("draw", _steps(config), quiet=config.json) as advance:
        for first in range(0, config.n, config.batch_size):
            seeds = _seeds(config, first)
            with run.stage("draw"):
                drawn = sample_channels(mix, seeds, None if number is None else [number] * len(seeds), config, advance)
            for i, (seed, (image, mask, channel)) in enumerate(zip(seeds, drawn, strict=True), first):
                label = number if number is not None else drawn_label(mix.object.classes, seed)
                name = None if label is None else mix.classes[label] if mix.classes else str(label)
                note = stamp("diffusionmix", seed, run.weights, {}) | {"class": name}
                for kind, array in (("image", image), ("mask", mask_image(mask)), ("channel", channel)):
                    write_png(out / kind / f"{i:05d}.png", array, note)
                    run.outputs.append(f"{kind}/{i:05d}.png")
                areas.append(int(mask.sum()))
                names.append(name)
                shown += [(f"seed {seed}" + (f" {name}" if name else ""), image), ("mask", mask_image(mask))]
    run.measures = {"pictures": config.n, "network_calls": config.states, "mask_areas": areas, "classes": names}
    return _closed(run, out, shown, config, "objects (synthetic)")


def run_sample_background(config: SampleBackgroundConfig, command: list[str]) -> dict[str, Any]:
    """Draw `n` backgrounds.

    Raises:
        InputError: weights or settings that cannot work.
    """
    out, run = _opened(config, command)
    with run.stage("load"):
        mix = load_mix(config, ("background",))
        run.weights = mix.weights()
    shown: list[tuple[str, Picture]] = []
    with progress("draw", _steps(config), quiet=config.json) as advance:
        for first in range(0, config.n, config.batch_size):
            seeds = _seeds(config, first)
            with run.stage("draw"):
                drawn = sample_backgrounds(mix, seeds, config, advance)
            for i, (seed, image) in enumerate(zip(seeds, drawn, strict=True), first):
                write_png(out / "image" / f"{i:05d}.png", image, stamp("diffusionmix", seed, run.weights, {}))
                run.outputs.append(f"image/{i:05d}.png")
                shown.append((f"seed {seed}", image))
    run.measures = {"pictures": config.n, "network_calls": config.states}
    return _closed(run, out, shown, config, "backgrounds (synthetic)")


def _opened(config: SampleObjectConfig | SampleBackgroundConfig, command: list[str]) -> tuple[Path, Run]:
    config.check()
    out = checked_out(config.out)
    if (out / "run.json").exists():
        raise InputError(f"--out {typed(config.out)}: holds a run already; choose another folder")
    return out, Run(command, config, "graft-diffusionmix")


def _closed(run: Run, out: Path, shown: list[tuple[str, Picture]], config: ChainConfig, title: str) -> dict[str, Any]:
    rows = [shown[i : i + 6] for i in range(0, min(len(shown), SHOWN), 6)]
    write_png(out / "panel.png", panel(rows, title), stamp("diffusionmix", config.seed, run.weights, {}))
    run.outputs.append("panel.png")
    return run.write(out)


def _seeds(config: ChainConfig, first: int) -> list[int]:
    return [config.seed + i for i in range(first, min(first + config.batch_size, config.n))]


def _steps(config: ChainConfig) -> int:
    return config.states * -(-config.n // config.batch_size)
