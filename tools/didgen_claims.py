"""The claims of DiDGen tested again on held-out phantoms: `uv run --all-packages python tools/didgen_claims.py`.

Pictures of phantoms that no training has seen, tiny weights, judges that know nothing of attention: lesions are segmented by
colour, attributes measured. Writes benchmarks/results/didgen_claims.json and the tables in packages/didgen/README.md. Each
part is kept in a cache as it ends; a second run goes on where the first one stopped.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from didgen_augmentation import StudySettings, classifier_study, segmenter_study, study_rows

ROOT = Path(__file__).resolve().parents[1]
FIRST = 10_000_000  # seeds from here on are held out
BEGIN, END = "<!-- claims: begin (tools/didgen_claims.py writes this) -->", "<!-- claims: end -->"
ASKED = ("skin", "colors", "size", "position", "hair")
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
    study: StudySettings = field(default_factory=StudySettings)
    """The augmentation studies."""
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
    from didgen.attributes import render
    from didgen.config import ModelConfig
    from didgen.map_scores import map_scores
    from didgen.measure import measure
    from didgen.weights import load_model

    items = [phantom(i) for i in range(s.n)]
    masks = [item.masks["lesion"] for item in items]
    prompts = [render(measure(item.image, mask).attributes) for item, mask in zip(items, masks, strict=True)]
    bundle = load_model(ModelConfig(weights=weights)).bundle
    return map_scores([item.image for item in items], masks, prompts, [FIRST + i for i in range(s.n)], bundle)


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
    """Requested against measured attributes.

    Skin counts where the request lies 4 degrees ITA or more from a class border, lesion colour where it lies 12 Delta E or
    more; the other fields always.
    """
    from didgen.attributes import render
    from didgen.config import DrawConfig
    from didgen.measure import measure
    from didgen.pipeline import draw_pictures
    from didgen.weights import load_model
    from graft_common.errors import InputError

    config = DrawConfig(weights=s.weights, steps=s.steps)
    model = load_model(config)
    items = requested(s.prompts, tuple(model.seen["position"]))
    truths = [measure(item.image, item.masks["lesion"]) for item in items]
    requests = [replace(found.attributes, border=None, asymmetry=None) for found in truths]
    pictures: list[Any] = []
    for first in range(0, len(requests), s.batch_size):
        prompts = [render(r) for r in requests[first : first + s.batch_size]]
        seeds = [FIRST + first + k for k in range(len(prompts))]
        pictures += draw_pictures(prompts, seeds, config, model)
    said: dict[str, list[list[str]]] = {name: [] for name in ASKED}
    own: dict[str, list[float]] = {name: [] for name in ASKED}
    for item, found, request, image in zip(items, truths, requests, pictures, strict=True):
        try:
            drawn = measure(image).attributes
        except InputError:
            drawn = None
        ceiling = measure(item.image).attributes  # the captioner without the mask against itself with the mask
        clear = {"skin": found.skin_margin >= 4, "colors": found.tone_margin >= 12}
        for name in ASKED:
            if clear.get(name, True):
                wanted = one(getattr(request, name))
                said[name].append([wanted, "nothing found" if drawn is None else one(getattr(drawn, name))])
                own[name].append(float(one(getattr(ceiling, name)) == wanted))
    return {"said": said, "ceiling": own}


def requested(count: int, places: Sequence[str]) -> list[Any]:
    """Held-out phantoms, each with hair or with nothing, as many of every place as can be: seven in ten lie in the middle,
    and who always drew them there would seem to listen."""
    from didgen.measure_shape import main_part, position_of

    room, found = dict.fromkeys(places, -(-count // len(places))), list[Any]()
    for i in range(40 * count):
        item = phantom(i, artifact=("none", "hair")[i % 2])
        place = position_of(main_part(item.masks["lesion"]))
        if room.get(place, 0) and len(found) < count:
            room[place] -= 1
            found.append(item)
    return found


def one(value: Any) -> str:
    """The first of several values."""
    return str(value[0]) if isinstance(value, tuple) and value else "none" if value == () else str(value)


def study_folder(s: Settings, name: str) -> Path:
    """Folder of a study's pairs and trainings, kept as long as its result would be; anew with --fresh."""
    folder = s.cache / f"{name}-{weights_digest(s)[:12]}-{s.steps}-{s.study.key()}"
    if s.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def weights_digest(s: Settings) -> str:
    """sha256 of the weights."""
    from didgen.config import ModelConfig
    from didgen.weights import load_model

    return load_model(ModelConfig(weights=s.weights)).weights()["sha256"]


def augmented(study: Callable[..., dict[str, Any]], s: Settings, name: str) -> dict[str, Any]:
    """One of the two studies."""
    return study(s.study, s.weights, s.steps, s.batch_size, study_folder(s, name))


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
    "words": text,
    "augmentation, segmenter": lambda s: augmented(segmenter_study, s, "segmenter"),
    "augmentation, classifier": lambda s: augmented(classifier_study, s, "classifier"),
}


def counts(name: str, s: Settings) -> str:
    """What a part's result depends on besides the weights, as a piece of its file name."""
    if name.startswith("augmentation"):
        return f"{s.steps}-{s.study.key()}"
    return f"{s.prompts if name == 'words' else s.n}-{s.steps}"


def main(s: Settings) -> None:
    """Run what is not cached, then write the JSON and the tables."""
    from graft_common.console import write_json
    from graft_common.provenance import folder_digest

    digest = weights_digest(s)
    plain = folder_digest(s.plain) if s.plain.is_dir() else ""
    s.cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, part in PARTS.items():
        if name == "maps plain" and not plain:  # not kept, or a later training of it would go unseen
            found[name] = None
            continue
        of = plain if name == "maps plain" else digest
        path = s.cache / f"{name.replace(' ', '_').replace(',', '')}-{of[:12]}-{counts(name, s)}.json"
        if s.fresh or not path.exists():
            write_json(path, part(s))
        found[name] = json.loads(path.read_text(encoding="utf-8"))
        print(name, "done", flush=True)
    result = {
        "weights": digest, "n": s.n, "steps": s.steps, "first_seed": FIRST, "study": asdict(s.study), "parts": found,
    }  # fmt: skip
    write_json(s.out, result)
    shown = tables(found)
    lines = s.readme.read_text(encoding="utf-8")
    before, after = lines.split(BEGIN)[0], lines.split(END)[1]
    s.readme.write_text(f"{before}{BEGIN}\n{shown}\n{END}{after}", encoding="utf-8")
    print(shown)


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
    rows.append("")
    rows.append("| requested in words | n | measured alike | alike or next to it | commonest request (trivial) | captioner's own |")
    rows.append("|---|---|---|---|---|---|")
    words = found["words"]
    for name, pairs in words["said"].items():
        alike, asked = [float(a == b) for a, b in pairs], Counter(a for a, _ in pairs)
        next_to = cell([near(name, a, b) for a, b in pairs]) if name in (*ORDERED, "position") else ""
        rows.append(
            f"| {name} | {len(pairs)} | {cell(alike)} | {next_to} | {max(asked.values()) / len(pairs):.3f} "
            f"| {cell(words['ceiling'][name])} |"
        )
    for name in ("skin", "colors", "size", "position"):
        rows += ["", *confusion(name, words["said"][name])]
    return "\n".join([*rows, *study_rows(found)])


def near(name: str, a: str, b: str) -> float:
    """1 where two values of an ordered field, or two places that share a side, are the same or neighbours."""
    from didgen.attributes import CHOICES

    order = CHOICES[name]
    if b not in order:
        return 0.0
    i, j = order.index(a), order.index(b)
    apart = abs(i // 3 - j // 3) + abs(i % 3 - j % 3) if name == "position" else abs(i - j)
    return float(apart <= 1)


def confusion(name: str, pairs: Sequence[Sequence[str]]) -> list[str]:
    """Rows: requested; columns: measured."""
    counts = Counter((a, b) for a, b in pairs)
    asked, got = sorted({a for a, _ in counts}), sorted({b for _, b in counts})
    head = [f"| {name}: requested, measured | {' | '.join(got)} |", "|---" * (len(got) + 1) + "|"]
    return head + [f"| {a} | {' | '.join(str(counts[a, b]) for b in got)} |" for a in asked]


if __name__ == "__main__":
    main(tyro.cli(Settings))
