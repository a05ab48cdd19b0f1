"""The claims of DiDGen tested again on held-out phantoms: `uv run --all-packages python tools/didgen_claims.py`.

Pictures of phantoms that no training has seen, tiny weights, judges that know nothing of attention: lesions are segmented by
colour, attributes measured. Writes benchmarks/results/didgen_claims.json and the tables in packages/didgen/README.md. Each
part is kept in a cache as it ends; a second run goes on where the first one stopped.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[1]
FIRST = 10_000_000  # seeds from here on are held out
TIMES = (100, 300, 500)
BEGIN, END = "<!-- claims: begin (tools/didgen_claims.py writes this) -->", "<!-- claims: end -->"
ORDERED = ("skin", "size", "hair")  # fields whose classes lie on a line
MARKED = ("ink", "hair", "ruler")


@dataclass(frozen=True)
class Settings:
    """Re-test the claims of DiDGen on phantoms."""

    weights: str = "tiny-didgen"
    """Shipped name or folder of the weights."""
    plain: Path = ROOT / "runs" / "tiny-didgen" / "plain" / "bundle"
    """The same training without the region-aware loss (`train_tiny.py tiny-didgen --only plain`); left out where it is not."""
    n: int = 64
    """Layouts, and pictures of the map test."""
    prompts: int = 120
    """Pictures of the text test."""
    steps: int = 50
    """DDIM steps."""
    batch_size: int = 16
    """Pictures in one pass through the network."""
    fresh: bool = False
    """Forget the cache."""
    cache: Path = ROOT / "out" / "claims" / "didgen"
    """Folder of finished parts."""
    out: Path = ROOT / "benchmarks" / "results" / "didgen_claims.json"
    """The result."""
    readme: Path = ROOT / "packages" / "didgen" / "README.md"
    """Its tables between the markers are written anew."""


def phantom(i: int, **fixed: str) -> Any:
    """The i-th held-out phantom at the working size."""
    from graft_common import phantoms

    return phantoms.draw("dermoscopy", 64, FIRST + i, **fixed)


def maps(s: Settings, weights: str) -> dict[str, list[float]]:
    """AUROC of the <lesion> and <skin> maps of noised true pictures against the true mask; chance is 0.5."""
    import torch
    from torch.nn import functional as F
    from torchmetrics.functional.classification import binary_auroc

    from didgen.attributes import render
    from didgen.config import ModelConfig
    from didgen.maps import map_grids
    from didgen.measure import measure
    from didgen.tokens import positions
    from didgen.weights import load_model
    from graft_common import bundle as bundles
    from graft_common import rng
    from graft_common.hooks import CrossColumns, Where, record

    model = load_model(ModelConfig(weights=weights))
    base = model.bundle
    grid = map_grids(base.unet, (base.size // base.factor,) * 2).cross
    found: dict[str, list[float]] = {"lesion": [], "skin": []}
    for i in range(s.n):
        item = phantom(i)
        mask = torch.from_numpy(item.masks["lesion"])
        prompt = render(measure(item.image, item.masks["lesion"]).attributes)
        words = positions(base.tokenizer, prompt)
        pixels = torch.from_numpy(item.image).permute(2, 0, 1)[None].float() / 127.5 - 1
        z, text = bundles.encode(base, pixels), bundles.text_states(base, [prompt])
        with torch.no_grad(), record(base.unet, CrossColumns((words.lesion, words.skin), Where(grid=grid))) as seen:
            for t in TIMES:
                a = float(base.alphas_cumprod[t])
                noise = rng.noise(tuple(z.shape), FIRST + i, t)
                base.unet(a**0.5 * z + (1 - a) ** 0.5 * noise, t, encoder_hidden_states=text)
        fine = F.interpolate(seen.mean(0), size=tuple(mask.shape), mode="bilinear", align_corners=False)[0]
        for k, (name, truth) in enumerate((("lesion", mask), ("skin", ~mask))):
            unit = (fine[k] - fine[k].min()) / (fine[k].max() - fine[k].min())
            found[name].append(float(binary_auroc(unit.flatten(), truth.flatten().long())))
    return found


def layouts(s: Settings, **changes: Any) -> dict[str, list[float]]:
    """IoU of what is drawn with the layout, and of the returned mask with what is drawn."""
    from didgen.annotate import iou
    from didgen.config import LayoutConfig
    from didgen.pipeline import draw_pairs
    from didgen.prompts import prompt_of
    from didgen.segment import segment_lesion
    from didgen.weights import load_model

    markers = changes.pop("markers", ())
    config = LayoutConfig(weights=s.weights, steps=s.steps, **changes)
    model = load_model(config)
    wanted = [phantom(i).masks["lesion"] for i in range(s.n)]
    prompts = [prompt_of(m, FIRST + i, model.seen) for i, m in enumerate(wanted)]
    if markers:
        prompts = [marked(p, MARKED[i % len(MARKED)]) for i, p in enumerate(prompts)]
    found: dict[str, list[float]] = {"drawn_layout": [], "mask_drawn": [], "layout_drawn": [], "mask_layout": [], "flagged": []}
    for first in range(0, s.n, s.batch_size):
        part = slice(first, first + s.batch_size)
        seeds = [FIRST + i for i in range(s.n)][part]
        for layout, pair in zip(wanted[part], draw_pairs(wanted[part], prompts[part], seeds, config, model), strict=True):
            drawn = segment_lesion(pair.image)
            found["drawn_layout"].append(iou(drawn, layout))
            found["layout_drawn"].append(iou(layout, drawn))
            found["mask_drawn"].append(iou(pair.annotation.mask, drawn))
            found["mask_layout"].append(iou(pair.annotation.mask, layout))
            found["flagged"].append(float(bool(pair.flags)))
    return found


def marked(prompt: str, marker: str) -> str:
    """The same prompt with hair or a marker."""
    from didgen.attributes import parse, render

    words = parse(prompt)
    return render(replace(words, hair="sparse") if marker == "hair" else replace(words, markers=(marker,)))


def trivial(s: Settings) -> dict[str, list[float]]:
    """IoU that costs nothing: one disc for every layout, and another layout of the set."""
    from didgen.annotate import iou

    wanted = [phantom(i).masks["lesion"] for i in range(s.n)]
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    disc = (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.2**2
    return {
        "one disc": [iou(disc, m) for m in wanted],
        "random pairing": [iou(wanted[(i + 1) % s.n], m) for i, m in enumerate(wanted)],
    }


def text(s: Settings) -> dict[str, Any]:
    """Requested against measured attributes; requests are those of true phantoms that lie clear of the class borders."""
    from didgen.attributes import render
    from didgen.config import DrawConfig
    from didgen.measure import measure
    from didgen.pipeline import draw_pictures
    from didgen.weights import load_model
    from graft_common.errors import InputError

    config = DrawConfig(weights=s.weights, steps=s.steps)
    model = load_model(config)
    requests, truths, i = [], [], 0
    while len(requests) < s.prompts:
        item = phantom(i, artifact=("none", "hair")[i % 2])
        found = measure(item.image, item.masks["lesion"])
        if found.skin_margin >= 4 and found.tone_margin >= 12:
            requests.append(replace(found.attributes, border=None, asymmetry=None))
            truths.append((item, found))
        i += 1
    said: dict[str, list[list[str]]] = {name: [] for name in ("skin", "colors", "size", "position", "hair")}
    own: dict[str, list[float]] = {"skin": [], "colors": [], "size": [], "position": [], "hair": []}
    for first in range(0, s.prompts, s.batch_size):
        part = requests[first : first + s.batch_size]
        seeds = [FIRST + first + k for k in range(len(part))]
        for request, image in zip(part, draw_pictures([render(r) for r in part], seeds, config, model), strict=True):
            try:
                measured = measure(image).attributes
            except InputError:
                measured = None
            for name in said:
                got = "nothing found" if measured is None else one(getattr(measured, name))
                said[name].append([one(getattr(request, name)), got])
    for item, found in truths:  # the ceiling: the captioner without the mask against itself with the mask
        measured = measure(item.image).attributes
        for name in own:
            own[name].append(float(one(getattr(measured, name)) == one(getattr(found.attributes, name))))
    return {"said": said, "ceiling": own}


def one(value: Any) -> str:
    """The first of several values."""
    return str(value[0]) if isinstance(value, tuple) and value else "none" if value == () else str(value)


PARTS: dict[str, Callable[[Settings], Any]] = {
    "maps": lambda s: maps(s, s.weights),
    "maps plain": lambda s: maps(s, str(s.plain)),
    "guided": lambda s: layouts(s),
    "unguided": lambda s: layouts(s, eta=0.0),
    "guided, no L_SA": lambda s: layouts(s, self_loss=False),
    "guided, no L_CA": lambda s: layouts(s, cross_loss=False),
    "guided, markers": lambda s: layouts(s, markers=MARKED),
    "guided, markers, no L_SA": lambda s: layouts(s, markers=MARKED, self_loss=False),
    "trivial": trivial,
    "text": text,
}


def main(s: Settings) -> None:
    """Run what is not cached, then write the JSON and the tables."""
    from didgen.config import ModelConfig
    from didgen.weights import load_model
    from graft_common.console import write_json
    from graft_common.provenance import folder_digest

    digest = load_model(ModelConfig(weights=s.weights)).weights()["sha256"]
    plain = folder_digest(s.plain) if s.plain.is_dir() else ""
    s.cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        if name == "maps plain" and not plain:  # not kept, or a later training of it would go unseen
            found[name] = None
            continue
        of, count = plain if name == "maps plain" else digest, s.prompts if name == "text" else s.n
        path = s.cache / f"{name.replace(' ', '_').replace(',', '')}-{of[:12]}-{count}-{s.steps}.json"
        if s.fresh or not path.exists():
            write_json(path, part(s))
        found[name] = json.loads(path.read_text(encoding="utf-8"))
        print(name, "done", flush=True)
    result = {"weights": digest, "n": s.n, "steps": s.steps, "first_seed": FIRST, "parts": found, "tables": tables(found)}
    write_json(s.out, {k: v for k, v in result.items() if k != "tables"})
    lines = s.readme.read_text(encoding="utf-8")
    before, after = lines.split(BEGIN)[0], lines.split(END)[1]
    s.readme.write_text(f"{before}{BEGIN}\n{result['tables']}\n{END}{after}", encoding="utf-8")
    print(result["tables"])


def cell(values: Sequence[float]) -> str:
    """Mean with its 95 % bootstrap interval."""
    from graft_common.metrics import bootstrap

    m = bootstrap(np.asarray(values, np.float64))
    return f"{m['mean']:.3f} [{m['ci95'][0]:.3f}, {m['ci95'][1]:.3f}]"


def tables(found: dict[str, Any]) -> str:
    """The README's tables."""
    rows = ["| <lesion> map against the true mask (AUROC; chance 0.5) | <lesion> | <skin> |", "|---|---|---|"]
    for label, key in (("region-aware fine-tune", "maps"), ("plain fine-tune, same steps", "maps plain")):
        if found[key]:
            rows.append(f"| {label} | {cell(found[key]['lesion'])} | {cell(found[key]['skin'])} |")
    rows += ["", "| layouts | drawn against layout (IoU) | mask against drawn (IoU) | mask against layout | flagged |"]
    rows.append("|---|---|---|---|---|")
    for key in ("unguided", "guided", "guided, no L_SA", "guided, no L_CA", "guided, markers", "guided, markers, no L_SA"):
        part = found[key]
        rows.append(
            f"| {key} | {cell(part['drawn_layout'])} | {cell(part['mask_drawn'])} | {cell(part['mask_layout'])} "
            f"| {np.mean(part['flagged']):.2f} |"
        )
    for label, values in found["trivial"].items():
        rows.append(f"| {label} (trivial) | {cell(values)} | | | |")
    rows.append(f"| the layout itself as the mask (trivial) | | {cell(found['guided']['layout_drawn'])} | 1 | |")
    rows += ["", "| requested in words | measured alike | alike or the next class | true phantoms, the captioner's own |"]
    rows.append("|---|---|---|---|")
    for name, pairs in found["text"]["said"].items():
        alike, ceiling = [float(a == b) for a, b in pairs], found["text"]["ceiling"][name]
        next_to = cell([near(name, a, b) for a, b in pairs]) if name in ORDERED else ""
        rows.append(f"| {name} | {cell(alike)} | {next_to} | {cell(ceiling)} |")
    for name in ("skin", "colors"):
        rows += ["", *confusion(name, found["text"]["said"][name])]
    return "\n".join(rows)


def near(name: str, a: str, b: str) -> float:
    """1 where two values of an ordered field are the same or neighbours."""
    from didgen.attributes import CHOICES

    order = CHOICES[name]
    return float(b in order and abs(order.index(a) - order.index(b)) <= 1)


def confusion(name: str, pairs: Sequence[Sequence[str]]) -> list[str]:
    """Rows: requested; columns: measured."""
    counts = Counter((a, b) for a, b in pairs)
    asked, got = sorted({a for a, _ in counts}), sorted({b for _, b in counts})
    head = [f"| {name}: requested, measured | {' | '.join(got)} |", "|---" * (len(got) + 1) + "|"]
    return head + [f"| {a} | {' | '.join(str(counts[a, b]) for b in got)} |" for a in asked]


if __name__ == "__main__":
    main(tyro.cli(Settings))
