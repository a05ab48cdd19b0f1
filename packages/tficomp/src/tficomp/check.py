"""The verb `check`: what is wrong with my data, before an hour of work. Reads every file once; needs no network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from graft_common.console import progress
from graft_common.errors import InputError
from graft_common.files import typed
from graft_common.findings import Finding, conclude, said
from graft_common.phantoms import box
from graft_common.pixels import Picture, read_mask, read_picture, resize_mask
from tficomp.config import CheckConfig
from tficomp.inputs import refuse_swapped
from tficomp.layouts import MARKS, Outlined, Tree, copies, draw_regions, fingerprint, lesion_mask, read_tree
from tficomp.manifest import Row, read_manifest
from tficomp.place import choose_frame
from tficomp.tissue import place_in_tissue, tissue_mask
from tficomp.weights import Grid, latent_grid

CELLS = 4  # latent cells that a user's box should span
TOKENS = 77  # positions of the text encoder, begin and end among them


@dataclass
class Report:
    """Findings as they come, and how many pictures are grey or colour."""

    findings: list[Finding] = field(default_factory=list)
    grey: int = 0
    colour: int = 0

    def stop(self, path: Path | str, what: str) -> None:
        """Note what would end a run; the message is not repeated for a file that several samples share."""
        self._add(Finding("stop", typed(path), what))

    def note(self, path: Path | str, what: str) -> None:
        self._add(Finding("note", typed(path), what))

    def _add(self, found: Finding) -> None:
        if found not in self.findings:
            self.findings.append(found)


def run_check(config: CheckConfig, command: list[str]) -> dict[str, Any]:
    """Print the findings: a table on stderr, or JSON on stdout with --json.

    Raises:
        InputError: at least one finding would stop `compose` or `batch`; the message has their count and the first.
    """
    path = Path(config.folder)
    grid = latent_grid(config.weights)
    report = Report()
    kind: str
    if path.is_dir() and is_tree(path):
        tree = read_tree(path)
        kind, count = tree.dataset, len(tree.lesions) + len(tree.backgrounds)
        with progress("check", count, quiet=config.json) as advance:
            check_tree(tree, report, advance)
    else:
        rows = read_manifest(path)
        kind, count = ("TF-ICON folder" if path.is_dir() else "manifest"), len(rows)
        with progress("check", count, quiet=config.json) as advance:
            look = Looker(report)
            for row in rows:
                check_row(row, look, grid)
                advance(1)
    if report.grey and report.colour:
        report.note(
            path, f"{report.colour} pictures are colour, {report.grey} grey; a result has its background's channels"
        )
    record = {
        "schema": 1, "kind": kind, "items": count, "size": grid.size, "factor": grid.factor, "weights": grid.name,
    }  # fmt: skip
    return conclude(report.findings, record, path, f"{kind}, {count} samples", config.json)


def is_tree(path: Path) -> bool:
    """Whether a folder looks like Br35H or BUSI rather than TF-ICON's."""
    places = [path, *(p for p in path.iterdir() if p.is_dir())]
    names = [{p.name.lower() for p in place.iterdir() if p.is_dir()} for place in places]
    return any({mark.lower() for mark in marks} <= here for marks in MARKS.values() for here in names)


@dataclass
class Looker:
    """Reads each file once for all samples that share it; what fails becomes a finding and None."""

    report: Report
    pictures: dict[Path, Picture | None] = field(default_factory=dict)
    masks: dict[Path, Bool[np.ndarray, "H W"] | None] = field(default_factory=dict)

    def picture(self, path: Path) -> Picture | None:
        if path not in self.pictures:
            self.pictures = {path: _picture(path, self.report)} | dict(list(self.pictures.items())[:8])
        return self.pictures[path]

    def mask(self, path: Path, like: Picture | None, fit: bool) -> Bool[np.ndarray, "H W"] | None:
        if path not in self.masks:
            self.masks = {path: self._mask(path, like, fit)} | dict(list(self.masks.items())[:8])
        return self.masks[path]

    def _mask(self, path: Path, like: Picture | None, fit: bool) -> Bool[np.ndarray, "H W"] | None:
        volume = like is not None and like.source.kind in ("dicom", "nifti") and not fit
        try:
            mask = read_mask(path, like=like) if volume else read_mask(path)
        except InputError as why:
            self.report.stop(path, said(path, why))
            return None
        if like is None or mask.shape == like.pixels.shape[1:]:
            return mask
        (h, w), (height, width) = mask.shape, like.pixels.shape[1:]
        sizes = f"is {w}x{h} but its image is {width}x{height}"
        if abs((w / h) / (width / height) - 1) > 0.05:
            self.report.stop(path, f"{sizes}, another aspect; crop both alike")
        elif fit:
            self.report.note(path, f"{sizes}; it will be resized")
            return resize_mask(mask, (height, width))
        else:
            self.report.stop(path, f"{sizes}; pass --fit-mask")
        return None


def check_row(row: Row, look: Looker, grid: Grid) -> None:
    """Everything that can be said of one sample without composing it."""
    sources, report = row.sources, look.report
    counts = {"object_mask": len(sources.object_masks), "user_mask": len(sources.user_masks)}
    for role, count in counts.items():
        if count != len(sources.objects) and (count or role == "object_mask"):
            report.stop(row.key, f"{count} {role} for {len(sources.objects)} object; give one for each")
            return
    if len(sources.prompt.split()) > TOKENS - 2:
        report.stop(
            row.key, f"its prompt has {len(sources.prompt.split())} words, at most {TOKENS - 2} tokens fit; shorten it"
        )
    background = look.picture(Path(str(sources.background)))
    for i, (image, outline) in enumerate(zip(sources.objects, sources.object_masks, strict=True)):
        picture = look.picture(Path(str(image)))
        if picture is not None and _swapped(Path(str(outline)), picture, "object-mask", "object", report):
            continue
        lesion = look.mask(Path(str(outline)), picture, sources.fit_mask)
        if sources.user_masks:
            path = Path(str(sources.user_masks[i]))
            if background is not None and _swapped(path, background, "user-mask", "background", report):
                continue
            user = look.mask(path, background, sources.fit_mask)
            if user is not None and background is not None:
                _check_box(path, user, lesion, background, grid, report)
        elif picture is not None and background is not None and lesion is not None:
            try:
                place_in_tissue(background.pixels, picture.pixels, lesion, seed=sources.seed + i)
            except InputError as why:
                report.stop(row.key, str(why))
        if picture is not None and background is not None and is_colour(picture) and len(background.pixels) == 1:
            report.note(str(image), "is colour but its background is grey; its colours become grey")


def _swapped(mask: Path, picture: Picture, flag: str, other: str, report: Report) -> bool:
    try:
        refuse_swapped(mask, picture, flag, other)
    except InputError as why:
        report.stop(mask, said(mask, why))
        return True
    return False


def _check_box(
    path: Path,
    user: Bool[np.ndarray, "H W"],
    lesion: Bool[np.ndarray, "H2 W2"] | None,
    background: Picture,
    grid: Grid,
    report: Report,
) -> None:
    left, top, right, bottom = box(user) or (0, 0, 1, 1)
    frame = choose_frame(user.shape, (left, top, right, bottom), grid.size, 3.0)
    long = max(right - left, bottom - top) * grid.size / frame.side / grid.factor
    if long < CELLS:
        report.note(
            path, f"its box spans {long:.1f} latent cells of {grid.name}, {CELLS} are the least that shows; enlarge it"
        )
    tissue = tissue_mask(background.pixels)
    if (inside := float(tissue[user].mean())) < 0.5:
        report.note(path, f"only {inside:.0%} of it lies on tissue; move it")
    if lesion is not None:
        x0, y0, x1, y1 = box(lesion) or (0, 0, 1, 1)
        ratio = ((x1 - x0) / (y1 - y0)) / ((right - left) / (bottom - top))
        if min(ratio, 1 / ratio) < 0.4:
            report.note(path, f"its aspect is {ratio:.1f} times off the lesion's, which will fill a part of it only")


def check_tree(tree: Tree, report: Report, advance: Callable[[int], None]) -> None:
    """Every picture and outline of a Br35H or BUSI tree, and pictures that occur twice."""
    prints: list[np.ndarray] = []
    named: list[Path] = []
    if not tree.backgrounds:
        report.stop(tree.root, "no picture without a lesion; backgrounds are missing")
    if not tree.lesions:
        report.stop(tree.root, "no picture with an outline")
    for path in tree.bare:
        report.note(path, "has no outline; prepare leaves it out")
    for name in tree.missing:
        report.note(name, "is listed in an annotation file, but not there")
    for item in _items(tree):
        path = item.image if isinstance(item, Outlined) else item
        picture = _picture(path, report)
        if picture is not None:
            named.append(path)
            prints.append(fingerprint(picture.pixels))
            if isinstance(item, Outlined):
                _check_outline(item, picture.stored.shape[:2], report)
        advance(1)
    for i, first in copies(prints).items():
        report.note(named[i], f"looks the same as {typed(named[first])}; prepare uses the first only")


def _items(tree: Tree) -> Iterator[Path | Outlined]:
    yield from tree.lesions
    yield from tree.backgrounds


def _check_outline(item: Outlined, shape: tuple[int, int], report: Report) -> None:
    try:
        mask = lesion_mask(item, shape)
    except InputError as why:
        report.stop(item.image, said(item.image, why))
        return
    if item.regions:
        high, wide = shape
        around = draw_regions([_moved(r, wide, high) for r in item.regions], (3 * high, 3 * wide), typed(item.image))
        if (share := 1 - mask.sum() / max(1, int(around.sum()))) > 0.02:
            report.note(item.image, f"{share:.0%} of its outline lies outside the picture")


def _moved(region: dict[str, Any], right: int, down: int) -> dict[str, Any]:
    """The same region further right and down."""
    by = {"x": right, "cx": right, "y": down, "cy": down, "all_points_x": right, "all_points_y": down}
    old = region["shape_attributes"]
    new = {
        k: [float(v) + d for v in old[k]] if k.startswith("all") else float(old[k]) + d
        for k, d in by.items()
        if k in old
    }
    return {"shape_attributes": {**old, **new}}


def _picture(path: Path, report: Report) -> Picture | None:
    try:
        picture = read_picture(path)
    except InputError as why:
        report.stop(path, said(path, why))
        return None
    source = picture.source
    if source.window_from == "percentile" and source.kind != "nifti":
        assert source.window is not None
        low, high = source.window[0] - source.window[1] / 2, source.window[0] + source.window[1] / 2
        report.note(path, f"{source.bits} bits without a window: shown from {low:g} to {high:g} (0.5 to 99.5 %)")
    if is_colour(picture):
        report.colour += 1
    else:
        report.grey += 1
    height, width = picture.pixels.shape[1:]
    if max(height, width) > 3 * min(height, width):
        report.note(path, f"is {width}x{height}: its edge is repeated to make a square; crop it or use --context")
    for note in source.notes:
        report.note(path, note)
    return picture


def is_colour(picture: Picture) -> bool:
    """Whether more than 1 % of the pixels have channels that differ by more than JPEG's error (5 % of the range)."""
    spread = picture.pixels.max(axis=0) - picture.pixels.min(axis=0)
    return bool((spread > 0.1).mean() > 0.01)
