"""The claims of tficomp's paper, tested again on held-out phantoms: `uv run --all-packages python tools/tficomp_claims.py`.

64 samples a world (brain MRI, breast ultrasound) at the bundle's own size; backgrounds without a lesion, objects with one,
seeds that no training has seen. Writes benchmarks/results/tficomp_claims.json and the table in packages/tficomp/README.md.
Every method is kept in a cache as it ends; a second run goes on where the first one stopped.
"""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[1]
FIRST = 10_000_000  # seeds from here on are held out
WORLDS = {
    "brain": ("tumor", ("left", "right"), "An MRI scan of a cancerous brain"),
    "ultrasound": ("lesion", ("benign", "malignant"), "An ultrasound image of a cancerous breast"),
}
CELLS = 4  # least side of a user box, in latent cells
OURS, NOTHING = "ours (T'=6, tau=3)", "doing nothing"
BEGIN, END = "<!-- claims: begin (tools/tficomp_claims.py writes this) -->", "<!-- claims: end -->"
RULE = (
    "Paired by sample; the 95 % bootstrap interval of the mean difference decides: wholly on the paper's side of zero is "
    "reproduced, wholly on the other side not reproduced, else undecided."
)


@dataclass(frozen=True)
class Settings:
    """Re-test the claims of tficomp's paper on phantoms."""

    weights: str = "tiny-sd"
    """Shipped name or folder of the bundle."""
    n: int = 64
    """Samples a world."""
    batch_size: int = 16
    """Samples in one pass through the network."""
    quick: bool = False
    """8 samples and no cost table: a look, not a result; writes beside the cache only."""
    fresh: bool = False
    """Forget the cache."""
    cache: Path = ROOT / "out" / "claims" / "tficomp"
    """Folder of finished methods."""
    out: Path = ROOT / "benchmarks" / "results" / "tficomp_claims.json"
    """The result."""
    readme: Path = ROOT / "packages" / "tficomp" / "README.md"
    """Its table between the markers is written anew; added at the end where there are none."""
    cost: str = ""
    """Internal: measure one method ("compose" or "tficon") in this process and print JSON."""


def sample(world: str, size: int, factor: int, index: int) -> Any:
    """The index-th sample of a world: tissue, a lesion of another patient, and a box of at least CELLS cells a side."""
    from graft_common import phantoms
    from graft_common.errors import InputError
    from graft_common.phantoms import box
    from tficomp.inputs import Sources, read_inputs
    from tficomp.tissue import place_in_tissue

    attribute, kinds, prompt = WORLDS[world]
    for seed in range(FIRST + 100 * index, FIRST + 100 * index + 90, 2):
        back = phantoms.draw(world, size, seed, **{attribute: "none"}).image[..., 0]
        other = phantoms.draw(world, size, seed + 1, **{attribute: kinds[index % len(kinds)]})
        image, mask = other.image[..., 0], other.masks[attribute]
        if mask.sum() < 0.003 * size * size:
            continue
        try:
            user = place_in_tissue(_unit(back), _unit(image), mask, seed)
        except InputError:
            continue
        left, top, right, bottom = box(user)
        least = CELLS * factor
        grown = np.zeros_like(user)
        rows, cols = _widened(top, bottom, least, size), _widened(left, right, least, size)
        grown[rows, cols] = True
        return read_inputs(Sources(back, (image,), (mask,), (grown,), prompt, key=f"{world}_{index:03d}", seed=seed))
    raise RuntimeError(f"no usable {world} phantom at seeds {FIRST + 100 * index} and on")


def _unit(grey: np.ndarray) -> np.ndarray:
    return grey[None].astype(np.float32) / 127.5 - 1


def _widened(low: int, high: int, least: int, size: int) -> slice:
    extra = max(least - (high - low), 0)
    start = min(max(low - extra // 2, 0), size - max(high - low, least))
    return slice(start, start + max(high - low, least))


def units(base: Any) -> dict[str, dict[str, Any]]:
    """What is computed together: name of the unit -> method name -> setting (composing), or what a baseline is called."""
    free = {"tau": 3, "t_start": 6}
    main = {
        OURS: replace(base, **free),
        "ours, paste-back": replace(base, **free, paste_back=True),
        "T'=12, tau=3": replace(base, t_start=12, tau=3),
        "T'=18, tau=3": replace(base, t_start=18, tau=3),
        **{
            f"tau={t} {mode}": replace(base, t_start=6, tau=t, tau_mode=mode)
            for mode in ("level", "count")
            for t in (1, 5)
        },
        "guidance 2.5": replace(base, **free, guidance=2.5),
    }
    return {
        "time 2": main,
        "time 1": {"order 1": replace(base, **free, order=1)},
        "integer 2": {"integer grid": replace(base, **free, grid="integer")},
        "lambda 2": {"lambda grid": replace(base, **free, grid="lambda")},
        "copy-paste": {"copy-paste": ("copy-paste", 0.3)},
        "poisson": {"poisson": ("poisson", 0.3)},
        "vae": {"vae": ("vae", 0.3)},
        "sdedit 0.3": {"sdedit 0.3": ("sdedit", 0.3)},
        "sdedit 0.6": {"sdedit 0.6": ("sdedit", 0.6)},
        "bld": {"bld": ("bld", 0.3)},
        "tficon": {"tficon": ("tficon", 0.3)},
    }


def scored(
    unit: dict[str, Any], samples: list[Any], size: int, base: Any, bundle: Any, advance: Callable
) -> dict[str, dict]:
    """method -> metric -> one number a sample; composing units also give the latent round trip's RMS."""
    from tficomp.ablate import compose_settings
    from tficomp.baselines import run_baseline
    from tficomp.score import doing_nothing, score

    parts: dict[str, list] = {}
    for i in range(0, len(samples), size):
        group = samples[i : i + size]
        if isinstance(next(iter(unit.values())), tuple):
            (label, (name, strength)), trip = next(iter(unit.items())), None
            answers = {label: run_baseline(name, group, base, bundle, range(i, i + len(group)), strength=strength)}
            if name == "copy-paste":
                answers[NOTHING] = [doing_nothing(r) for r in answers[label]]
        else:
            made, walk = compose_settings(group, list(unit.values()), bundle)
            answers, trip = dict(zip(unit, made, strict=True)), walk.round_trip()
        for label, results in answers.items():
            columns = score(group, results, {})
            if trip is not None:  # one lesion a sample: backgrounds first, then objects
                columns["round_trip_rms"] = trip.reshape(2, -1).mean(axis=0)
            parts.setdefault(label, []).append(columns)
        advance(len(group))
    return {k: {m: np.concatenate([p[m] for p in v]).tolist() for m in v[0]} for k, v in parts.items()}


def claims() -> Iterator[tuple[str, str, str, str, int]]:
    """(claim, one method, the other, metric, +1 if the claim is that the first is higher, -1 if lower)."""
    for other in ("bld", "sdedit 0.3", "sdedit 0.6", "tficon"):
        yield "object nearer to the given one (LPIPS_fg lower)", OURS, other, "lpips_fg_tiny", -1
    for other in ("bld", "sdedit 0.3", "sdedit 0.6", "tficon"):
        yield "object nearer to the given one (CLIP_image higher)", OURS, other, "clip_image_tiny", 1
    yield "background worse than TF-ICON (LPIPS_bg higher)", OURS, "tficon", "lpips_bg_tiny", 1
    for other in ("T'=12, tau=3", "T'=18, tau=3"):
        for metric, sign in (
            ("lpips_bg_tiny", -1),
            ("lpips_fg_tiny", -1),
            ("clip_image_tiny", 1),
            ("clip_text_tiny", 1),
        ):
            yield "T' = 6 better than later starts", OURS, other, metric, sign
    yield "tau as a count: 1 is farther from the background than 5", "tau=1 count", "tau=5 count", "lpips_bg_tiny", 1
    yield (
        "tau as a level (eq. 9): 1 is nearer to the background than 5",
        "tau=1 level",
        "tau=5 level",
        "lpips_bg_tiny",
        -1,
    )
    yield "order 2 inverts more faithfully than order 1 (latent round trip)", OURS, "order 1", "round_trip_rms", -1
    # Not the paper's, but what a reader asks first.
    yield "ours: log-SNR grid inverts more faithfully than the time grid", "lambda grid", OURS, "round_trip_rms", -1
    for other in ("copy-paste", "poisson"):
        yield "ours: object fits the prompt better than pasting (CLIP_text higher)", OURS, other, "clip_text_tiny", 1
        yield "ours: softer seam than pasting (ring gradient lower)", OURS, other, "ring_gradient", -1
    yield "ours: fits the prompt better than doing nothing (CLIP_text higher)", OURS, NOTHING, "clip_text_tiny", 1


def judged(scores: dict[str, dict[str, dict]]) -> list[dict[str, Any]]:
    """Every claim in every world, by RULE."""
    from graft_common.metrics import paired_difference

    rows = []
    for text, first, second, metric, sign in claims():
        for world, methods in scores.items():
            gap = paired_difference(methods[first][metric], methods[second][metric])
            low, high = sorted(sign * edge for edge in gap["ci95"])
            verdict = "reproduced" if low > 0 else "not reproduced" if high < 0 else "undecided"
            row = {"claim": text, "world": world, "first": first, "second": second, "metric": metric}
            rows.append(row | {"difference": gap, "claimed": "higher" if sign > 0 else "lower", "verdict": verdict})
    return rows


def cost(settings: Settings) -> dict[str, Any]:
    """Seconds and peak memory of one method in a process of its own, on 4 brain samples (second run of two)."""
    import resource

    from graft_common.console import peak_memory
    from tficomp.baselines import run_baseline
    from tficomp.config import MethodConfig
    from tficomp.pipeline import compose_batch
    from tficomp.weights import denoiser, load_bundle

    base = MethodConfig(weights=settings.weights, context=0.0)
    bundle = load_bundle(base)
    samples = [sample("brain", bundle.size, bundle.factor, i) for i in range(4)]
    before = peak_memory()
    for _ in range(2):
        counter = denoiser(base, bundle)
        wall, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        if settings.cost == "compose":
            compose_batch(samples, base, bundle, counter=counter)
        else:
            run_baseline(settings.cost, samples, base, bundle, range(4), counter=counter)
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {
        "samples": 4, "seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "peak_memory_bytes": peak_memory(),
        "loaded_memory_bytes": before, "network_calls": counter.calls, "network_items": counter.items,
    }  # fmt: skip


def measured_cost(settings: Settings) -> dict[str, Any]:
    """`cost` of compose and of TF-ICON, one child process each, one after the other."""
    found = {}
    for name in ("compose", "tficon"):
        words = [sys.executable, __file__, "--weights", settings.weights, "--cost", name]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def section(result: dict[str, Any]) -> str:
    """The README's part between the markers."""
    from graft_common.markdown import cell, table

    lines = [
        f"Measured by `tools/tficomp_claims.py` on {result['n']} held-out phantom samples a world at {result['size']} px with "
        f"`{result['weights']['name']}`, whose judges (`*_tiny`) know phantoms only: read differences, not levels. "
        "Means with 95 % bootstrap intervals.",
    ]
    for world, methods in result["worlds"].items():
        lines += ["", f"**{world}**", "", table(methods, "method").rstrip()]
    worlds = list(result["worlds"])
    heads = ["claim", "metric", "first - second", "claimed", *worlds]
    lines += ["", RULE, "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in result["claims"]:
        key = (row["claim"], row["metric"], f"{row['first']} - {row['second']}", row["claimed"])
        found.setdefault(key, {})[row["world"]] = f"{cell(row['difference'])} **{row['verdict']}**"
    lines += ["| " + " | ".join([*key, *(cells[w] for w in worlds)]) + " |" for key, cells in found.items()]
    if result.get("cost"):
        lines += [
            "",
            "| 4 samples in one batch | seconds (CPU seconds) | peak memory, MB | above loaded, MB | calls / items |",
        ]
        lines.append("|---|---|---|---|---|")
        for name, c in result["cost"].items():
            peak, loaded = c["peak_memory_bytes"] / 1e6, c["loaded_memory_bytes"] / 1e6
            numbers = f"{peak:.0f} | {peak - loaded:.0f} | {c['network_calls']} / {c['network_items']} |"
            lines.append(f"| {name} | {c['seconds']:.1f} ({c['cpu_seconds']:.1f}) | {numbers}")
        lines += ["", f"In one run, {result['threads']} threads; the machine may have been busy: CPU seconds say more."]
    return "\n".join(lines) + "\n"


def write_readme(path: Path, text: str) -> None:
    """Put `text` between the markers, or at the end with new ones."""
    from graft_common.files import write_bytes

    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if BEGIN in old and END in old:
        head, tail = old.split(BEGIN)[0], old.split(END, 1)[1]
    else:
        head, tail = (old.rstrip() + "\n\n" if old else "") + "## Claims\n\n", "\n"
    write_bytes(path, f"{head}{BEGIN}\n{text}{END}{tail}".encode())


def run(settings: Settings) -> dict[str, Any]:
    """Everything; returns what the result file holds."""
    import torch

    from graft_common.console import progress, write_json
    from graft_common.metrics import load_judges
    from graft_common.provenance import folder_digest, public_command, versions
    from tficomp.config import MethodConfig
    from tficomp.study import summaries
    from tficomp.weights import load_bundle

    began = time.perf_counter()
    n = min(settings.n, 8) if settings.quick else settings.n
    base = MethodConfig(weights=settings.weights, context=0.0)
    bundle = load_bundle(base)
    todo, scores = units(base), {world: {} for world in WORLDS}
    known = {
        "n": n,
        "batch": settings.batch_size,
        "weights": bundle.weights(),
        "judges": folder_digest(load_judges().folder),
    }
    with progress("claims", n * len(todo) * len(WORLDS)) as bar:
        for world in WORLDS:
            samples = [sample(world, bundle.size, bundle.factor, i) for i in range(n)]
            for name, unit in todo.items():
                plain = {k: v if isinstance(v, tuple) else asdict(v) for k, v in unit.items()}
                digest = hashlib.sha256(json.dumps([known, world, plain], sort_keys=True).encode()).hexdigest()
                path = settings.cache / f"{world} {name}.json"
                stored = json.loads(path.read_text()) if path.exists() and not settings.fresh else {}
                if stored.get("digest") == digest:
                    bar(n)
                else:
                    start = time.perf_counter()
                    stored = {"digest": digest, "scores": scored(unit, samples, settings.batch_size, base, bundle, bar)}
                    write_json(path, stored | {"seconds": round(time.perf_counter() - start, 1)})
                scores[world] |= stored["scores"]
    means = {w: {m: summaries(c) for m, c in methods.items()} for w, methods in scores.items()}
    result = {
        "schema": 1, "method": "tficomp", "task": "claims", "synthetic": True, "n": n, "size": bundle.size,
        "weights": bundle.weights(), "backbones": {"perceptual": "tiny", "image_text": "tiny"}, "rule": RULE,
        "worlds": means, "claims": judged(scores), "cost": None if settings.quick else measured_cost(settings),
        "threads": torch.get_num_threads(), "command": public_command(sys.argv), "versions": versions("graft-tficomp"),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    if settings.quick:
        write_json(settings.cache / "quick.json", result)
        return result
    write_json(settings.out, result)
    write_readme(settings.readme, section(result))
    return result


def main() -> int:
    """Console entry."""
    from graft_common.errors import InputError

    settings = tyro.cli(Settings)
    try:
        if settings.cost:
            print(json.dumps(cost(settings)))
            return 0
        result = run(settings)
    except InputError as why:
        print(f"tficomp_claims: {why}", file=sys.stderr)
        return 2
    print(section(result))
    print(f"{result['seconds']:.0f} s; written: {settings.cache / 'quick.json' if settings.quick else settings.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
