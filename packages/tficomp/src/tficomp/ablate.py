"""The verb `ablate`: one walk to noise and back, composed at many T' and tau (the paper's table 2)."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graft_common import bundle as weights
from graft_common.bundle import Bundle
from graft_common.console import checked_out, progress, write_json
from graft_common.files import write_text
from graft_common.inversion import dpm_walk
from graft_common.markdown import table
from graft_common.metrics import metrics_json, name
from graft_common.provenance import stamp
from graft_common.raster import write_png
from tficomp.composite import composite
from tficomp.config import MethodConfig
from tficomp.config_study import AblateConfig
from tficomp.denoise import Denoiser, Reference, compose, invert
from tficomp.encode import encode
from tficomp.panel import outlined, panel
from tficomp.place import place
from tficomp.records import Inputs, Latents, Result
from tficomp.score import score
from tficomp.study import Scores, begun, groups, joined, read_group, summaries
from tficomp.weights import denoiser, opened, working_size

Cell = tuple[str, np.ndarray]  # a label and the picture under it
# What can differ between settings that share one walk.
FREE = ("t_start", "tau", "tau_mode", "guidance", "memory", "rectify", "states", "paste_back")


@dataclass(frozen=True, eq=False)
class Walk:
    """Backgrounds and objects (B + n rows) to noise and back under the exceptional prompt; row k = k steps to go.

    Attributes:
        inverted, back: (T+1, B+n, c, h, w) states.
        clean: k -> clean prediction on the way back, for --memory carry.
    """

    inverted: Float[Tensor, "K R c h w"]
    back: Float[Tensor, "K R c h w"]
    clean: dict[int, Tensor]

    def round_trip(self) -> Float[np.ndarray, " R"]:
        """Root mean square of what the way back misses, for each latent."""
        miss = (self.back[0] - self.inverted[0]).square().flatten(1).mean(1).sqrt()
        return miss.double().cpu().numpy()

    def reference(self, config: MethodConfig, count: int) -> Reference:
        """What `tficomp.denoise.reference` would give for one setting."""
        start, low = config.start, min(config.lowest_rectified, config.start)
        states = self.inverted if config.states == "inversion" else self.back
        memory = None
        if config.memory == "carry" and start + 1 in self.clean:
            memory = self.clean[start + 1][:count], self.clean[start + 1][count:]
        return Reference({k: states[k, :count] for k in range(low, start + 1)}, states[start, count:], memory)


def walk(latents: Latents, network: Denoiser, config: MethodConfig) -> Walk:
    """Invert and sample all the way back: 2T calls of B + n pictures."""
    plain, clean = network.plain(latents.exceptional), {}

    def m(x: Tensor, k: int) -> Tensor:
        clean[k] = plain(x, k)
        return clean[k]

    inverted = invert(latents, plain, config, network.grid)
    back = dpm_walk(m, inverted[-1], network.grid, config.order)
    return Walk(inverted, back.flip(0), clean)


def compose_settings(
    samples: Sequence[Inputs], settings: Sequence[MethodConfig], bundle: Bundle, counter: Denoiser | None = None
) -> tuple[list[list[Result]], Walk]:
    """One batch composed at several settings that share a walk, and the walk; [setting][sample].

    Pictures equal those of `compose_batch` up to the rounding of another batch composition.

    Raises:
        ValueError: settings that differ in more than `FREE`.
    """
    first = settings[0]
    fixed = [f.name for f in fields(MethodConfig) if f.name not in FREE]
    if wrong := [n for n in fixed for one in settings if getattr(one, n) != getattr(first, n)]:
        raise ValueError(f"settings differ in {wrong[0]}; one walk serves only {', '.join(FREE)}")
    network = counter or denoiser(first, bundle)
    size = working_size(first, bundle)
    placed = [place(s, first, size, bundle.factor) for s in samples]
    latents = encode(placed, [s.prompt for s in samples], bundle)
    shared = walk(latents, network, first)
    made, known = [], {}
    for one in settings:
        # level and count can mean the same, and paste-back comes after the network: such settings share their frames
        same = (one.start, one.lowest_rectified, one.guidance, one.memory, one.rectify, one.states)
        if same not in known:
            m = network.guided(latents.null, latents.text, one.guidance)
            last = compose(latents, m, shared.reference(one, len(samples)), one, network.grid).states[0]
            known[same] = weights.decode(bundle, last).cpu().numpy()
        made.append([composite(f, s, p, one) for f, s, p in zip(known[same], samples, placed, strict=True)])
    return made, shared


def run_ablate(config: AblateConfig, command: list[str]) -> dict[str, Any]:
    """The verb `ablate`: writes panel.png (rows T', columns tau), table.json, table.md and run.json."""
    settings = config.settings()
    out = checked_out(config.out)
    for metric, judge in (("lpips", config.lpips), ("clip_text", config.clip)):
        name(metric, judge)  # refuses a network that is none, before the work
    rows, record = begun(config, command)
    bundle, network = opened(config, record)
    backbones = {"perceptual": config.lpips, "image_text": config.clip}
    parts: list[list[Scores]] = [[] for _ in settings]
    shown: list[list[Cell]] = []
    with progress("ablate", len(rows), quiet=config.json) as advance, torch.no_grad():
        for group in groups(rows, config.batch_size):
            samples = read_group(group, config.fit_mask)
            with record.stage("compose"):
                made, _ = compose_settings(samples, settings, bundle, network)
            with record.stage("score"):
                for part, results in zip(parts, made, strict=True):
                    part.append(score(samples, results, backbones))
            for i in range(min(len(samples), config.shown - len(shown) // _rows(settings))):
                shown += _grid(samples[i], settings, [results[i] for results in made])
            advance(len(group))
    scores = {label(one): joined(part) for one, part in zip(settings, parts, strict=True)}
    note = stamp("tficomp", config.seed, record.weights, record.digests)
    with record.stage("write"):
        means = {setting: summaries(column) for setting, column in scores.items()}
        base = next(iter(scores))
        extra = {"setting": base, "compared": means, "tau_mode": config.tau_mode}
        write_json(out / "table.json", metrics_json("tficomp", "ablate", scores[base], backbones, extra))
        write_text(out / "table.md", table(means, f"T', tau ({config.tau_mode})"))
        if shown:
            title = f"T' and tau ({config.tau_mode}), synthetic"
            write_png(out / "panel.png", np.asarray(panel(shown, title)), note)
    record.outputs = ["table.json", "table.md", *(["panel.png"] if shown else [])]
    record.measures = {"network_calls": network.calls, "network_items": network.items, "samples": len(rows)}
    return record.write(out)


def label(config: MethodConfig) -> str:
    """How a setting is named in tables."""
    return f"T'={config.start} tau={config.tau}"


def _rows(settings: Sequence[MethodConfig]) -> int:
    return len({one.start for one in settings})


def _grid(sample: Inputs, settings: Sequence[MethodConfig], results: Sequence[Result]) -> list[list[Cell]]:
    """One row a T': the input, then one picture a tau."""
    users = np.logical_or.reduce([lesion.user_mask for lesion in sample.lesions])
    rows: dict[int, list[Cell]] = {}
    for one, result in zip(settings, results, strict=True):
        left = [
            (f"{sample.key}: background", outlined(sample.background.pixels, users)),
            ("copy-paste", result.copy_paste),
        ]
        rows.setdefault(one.start, left).append((label(one), result.pixels))
    return list(rows.values())
