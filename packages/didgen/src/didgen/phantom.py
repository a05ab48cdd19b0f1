"""The verb `phantom`: a small synthetic data set in the layout and naming of a real one (spec section 4)."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from didgen.attributes import to_json
from didgen.config_data import LayoutName, PhantomConfig
from didgen.manifest import CLASSES
from didgen.phantom_draw import Drawn, Source, draw
from didgen.tables import xlsx
from graft_common import raster
from graft_common.console import Run, checked_out, progress
from graft_common.errors import InputError
from graft_common.files import typed, write_bytes
from graft_common.provenance import stamp

NOTICE = "SYNTHETIC.txt"
TEXT = """Synthetic pictures, drawn by Graft (graft-didgen phantom). Not for diagnosis.

They only borrow the folder layout and the file names of {name}; no picture, mask or label of it is here. Beside every
picture a JSON file holds what is true of it. Ids of ISIC's form start at 9000000.
"""
FULL_NAMES: dict[LayoutName, str] = {
    "isic2018-task1": "ISIC 2018 task 1",
    "isic2018-task3": "ISIC 2018 task 3",
    "ham10000": "HAM10000",
    "derm7pt": "Derm7pt",
    "ph2": "PH2",
}
PARTS = ("Training", "Validation", "Test")
FIRST = 9_000_000
# Pictures of each class in the real sets: the phantoms keep the proportions.
HAM_COUNTS = {"MEL": 1113, "NV": 6705, "BCC": 514, "AKIEC": 327, "BKL": 1099, "DF": 115, "VASC": 142}
DERM7PT_COUNTS = {"MEL": 252, "NV": 575, "BCC": 42, "BKL": 69, "DF": 20, "VASC": 29}
DERM7PT_WORDS = {
    "MEL": ("melanoma (in situ)", "melanoma (less than 0.76 mm)", "melanoma metastasis"),
    "NV": ("clark nevus", "reed or spitz nevus", "blue nevus"),
    "BCC": ("basal cell carcinoma",),
    "BKL": ("seborrheic keratosis", "lentigo"),
    "DF": ("dermatofibroma",),
    "VASC": ("vascular lesion",),
}
DERM7PT_COLUMNS = (
    "case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks", "pigmentation", "regression_structures",
    "dots_and_globules", "blue_whitish_veil", "vascular_structures", "level_of_diagnostic_difficulty", "elevation", "location",
    "sex", "management", "clinic", "derm", "case_id", "notes",
)  # fmt: skip
MOST_PH2 = 997  # IMD002 to IMD998
REPEAT = 3  # after so many lesions the last one is shown again, if another picture of its class is wanted


class Writer:
    """Writes the files of one tree, each with its provenance; `advance` is called once a picture."""

    def __init__(self, config: PhantomConfig, record: Run, advance: Callable[[int], None]) -> None:
        self.config, self.record, self.advance = config, record, advance
        self.source = Source(config.seed)
        self.stamp = stamp("didgen", config.seed, {}, {}) | {"world": "phantom"}

    def file(self, name: str, data: bytes | str) -> None:
        write_bytes(self.config.folder / name, data.encode() if isinstance(data, str) else data)
        self.record.outputs.append(name)

    def note(self, drawn: Drawn) -> dict[str, Any]:
        return self.stamp | {"seed": drawn.seed}

    def picture(self, stem: str, drawn: Drawn, kind: str = "jpg") -> None:
        """`stem.jpg` (or bmp), and `stem.json` with what is true of it."""
        note = self.note(drawn)
        self.file(f"{stem}.{kind}", _jpeg(drawn.image, note) if kind.lower() == "jpg" else _bmp(drawn.image))
        truth = note | {"truth": drawn.truth, "attributes": to_json(drawn.attributes)}
        self.file(f"{stem}.json", json.dumps(truth, indent=1, allow_nan=False) + "\n")
        self.advance(1)

    def mask(self, name: str, drawn: Drawn) -> None:
        """Grey PNG, 0 and 255."""
        self.file(name, raster.encode(drawn.mask.astype(np.uint8) * np.uint8(255), "png", self.note(drawn)))

    def table(self, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        self.file(name, text.getvalue())


def run_phantom(config: PhantomConfig, command: list[str]) -> dict[str, Any]:
    """Write the tree; the same seed writes the same bytes.

    Raises:
        InputError: a value is out of range, or the folder is a file or holds something already.
    """
    config.check()
    if config.layout == "ph2" and config.n > MOST_PH2:
        raise InputError(f"--n {config.n}: names of PH2 have three digits; at most {MOST_PH2}")
    folder = checked_out(config.folder, "folder ")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{typed(config.folder)}: is not empty; choose a new folder")
    record = Run(command, config, "graft-didgen")
    total = config.n * (1 if config.layout in ("ham10000", "ph2") else 3)
    with record.stage("draw"), progress("draw", total, quiet=config.json) as advance:
        writer = Writer(config, record, advance)
        writer.file(NOTICE, TEXT.format(name=FULL_NAMES[config.layout]))  # first: no picture without it
        WRITERS[config.layout](writer)
    record.measures = {"layout": config.layout, "pictures": total, "next_seed": writer.source.seed}
    return record.write(folder)


def allot(n: int, counts: dict[str, int]) -> list[str]:
    """`n` classes in the proportions of `counts`, at least one of each where `n` allows, spread over the list."""
    names, total = list(counts), sum(counts.values())
    if n < len(names):
        return names[:n]
    free = n - len(names)
    exact = {k: free * v / total for k, v in counts.items()}
    given = {k: 1 + int(v) for k, v in exact.items()}
    for name in sorted(names, key=lambda k: exact[k] % 1, reverse=True)[: n - sum(given.values())]:
        given[name] += 1
    places = [((i + 0.5) / given[k], k) for k in names for i in range(given[k])]
    return [name for _, name in sorted(places, key=lambda place: place[0])]


def _series(writer: Writer, classes: Sequence[str], shape: tuple[int, int]) -> list[tuple[Drawn, str, int]]:
    """(picture, class, number of its lesion); some lesions are shown twice, the second time with another artifact."""
    made: list[tuple[Drawn, str, int]] = []
    left, number, again = list(classes), 0, REPEAT - 1
    while left:
        dx = left.pop(0)
        made.append((writer.source.next(shape, dx), dx, number))
        if number >= again and dx in left:
            left.remove(dx)
            made.append((_again(made[-1][0], shape, dx), dx, number))
            again = number + REPEAT
        number += 1
    return made


def _again(first: Drawn, shape: tuple[int, int], dx: str) -> Drawn:
    """The same lesion and skin with another artifact, whichever leaves them in the frame."""
    others = [a for a in ("none", "hair", "corners", "ink", "ruler") if a != first.truth["artifact"]]
    found = (draw(first.seed, shape, dx, artifact=artifact) for artifact in others)
    return next(one for one in found if one is not None)


def _sizes(writer: Writer, index: int) -> tuple[int, int]:
    """Task 1 has pictures of many sizes and aspects."""
    rng = np.random.default_rng([616, writer.config.seed, index])
    wide = max(48, round(writer.config.size * float(rng.choice((0.75, 0.875, 1.0)))))
    return max(36, round(wide * float(rng.choice((0.75, 0.8, 1.0))))), wide


def _isic2018_task1(writer: Writer) -> None:
    for part, word in enumerate(PARTS):
        pictures = f"ISIC2018_Task1-2_{word}_Input"
        for name in ("ATTRIBUTION.txt", "LICENSE.txt"):  # the real folders hold such files too
            writer.file(f"{pictures}/{name}", TEXT.format(name=FULL_NAMES["isic2018-task1"]))
        for i in range(writer.config.n):
            key = part * writer.config.n + i
            drawn = writer.source.next(_sizes(writer, key))
            writer.picture(f"{pictures}/ISIC_{FIRST + key}", drawn)
            writer.mask(f"ISIC2018_Task1_{word}_GroundTruth/ISIC_{FIRST + key}_segmentation.png", drawn)


def _isic2018_task3(writer: Writer) -> None:
    lesions = 0
    for part, word in enumerate(PARTS):
        labels, groups = [], []
        made = _series(writer, allot(writer.config.n, HAM_COUNTS), _four_to_three(writer))
        for i, (drawn, dx, number) in enumerate(made):
            key = f"ISIC_{FIRST + part * writer.config.n + i}"
            writer.picture(f"ISIC2018_Task3_{word}_Input/{key}", drawn)
            labels.append([key, *(1.0 if dx == name else 0.0 for name in CLASSES)])
            groups.append([key, f"HAM_{lesions + number:07d}", "histopathology"])
        lesions += made[-1][2] + 1
        truth = f"ISIC2018_Task3_{word}_GroundTruth"
        writer.table(f"{truth}/{truth}.csv", ("image", *CLASSES), labels)
        if word == "Training":  # the organisers tell lesions apart for the training part only
            name = "ISIC2018_Task3_Training_LesionGroupings.csv"
            writer.table(name, ("image", "lesion_id", "diagnosis_confirm_type"), groups)


def _ham10000(writer: Writer) -> None:
    rows = []
    made = _series(writer, allot(writer.config.n, HAM_COUNTS), _four_to_three(writer))
    for i, (drawn, dx, number) in enumerate(made):
        key = f"ISIC_{FIRST + i}"
        writer.picture(f"HAM10000_images_part_{1 if 2 * i < len(made) else 2}/{key}", drawn)
        writer.mask(f"HAM10000_segmentations_lesion_tschandl/{key}_segmentation.png", drawn)
        rows.append([f"HAM_{number:07d}", key, dx.lower(), "histo", 50, ("female", "male")[number % 2], "back"])
    writer.table(
        "HAM10000_metadata.csv", ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"), rows
    )


def _derm7pt(writer: Writer) -> None:
    rows: list[list[Any]] = []
    used = dict.fromkeys(DERM7PT_WORDS, 0)
    for name in ("train", "valid", "test"):
        first, classes = len(rows), [*allot(writer.config.n, DERM7PT_COUNTS)]
        for dx in classes:
            words = DERM7PT_WORDS[dx]
            _case(writer, rows, dx, words[used[dx] % len(words)])
            used[dx] += 1
        if name == "train":  # a case that has no counterpart among the classes, as in the real set
            _case(writer, rows, "NV", "miscellaneous")
        writer.table(f"release_v0/meta/{name}_indexes.csv", ("indexes",), [[k] for k in range(first, len(rows))])
    writer.table("release_v0/meta/meta.csv", DERM7PT_COLUMNS, rows)


def _case(writer: Writer, rows: list[list[Any]], dx: str, words: str) -> None:
    """One row of meta.csv and its two pictures; every other path is written in capitals, as in the real table."""
    number = len(rows) + 1
    wide = writer.config.size
    drawn = writer.source.next((max(36, round(wide * 2 / 3)), wide), dx)
    near, far = f"NEL/Nel{number:03d}", f"NHL/Nhl{number:03d}"
    writer.picture(f"release_v0/images/{near}", drawn)
    clinic = draw(drawn.seed, (wide, wide), dx, artifact="none")
    assert clinic is not None  # the whole square always fits
    writer.file(f"release_v0/images/{far}.jpg", _jpeg(clinic.image, writer.note(clinic)))
    derm = f"{near}.jpg".upper() if number % 2 else f"{near}.jpg"
    absent = ["absent"] * 7
    rows.append(
        [number, words, 0, *absent, "low", "flat", "back", "female", "excision", f"{far}.jpg", derm, "", "synthetic"]
    )


def _ph2(writer: Writer) -> None:
    wide = writer.config.size
    shape = (max(36, round(wide * 560 / 768)), wide)
    kinds = allot(writer.config.n, {"0": 80, "1": 80, "2": 40})  # common and atypical nevi, melanomas
    lines, cells = [], [["Image Name", "Histological Diagnosis", "Common Nevus", "Atypical Nevus", "Melanoma"]]
    for i, kind in enumerate(kinds):
        key = f"IMD{i + 2:03d}"
        drawn = writer.source.next(shape, "MEL" if kind == "2" else "NV", "BKL" if kind == "1" else None)
        folder = f"PH2Dataset/PH2 Dataset images/{key}/{key}"
        writer.picture(f"{folder}_Dermoscopic_Image/{key}", drawn, "bmp")
        writer.file(f"{folder}_lesion/{key}_lesion.bmp", _bmp_mask(drawn.mask, colour=i % 2 == 1))
        writer.file(f"{folder}_roi/{key}_R1_Label4.bmp", _bmp_mask(drawn.mask, colour=False))
        lines.append(
            f"|| {key} ||                ||         {kind}         ||  0  ||  T  ||  A  ||  A  ||  A  ||  A  ||  4  ||"
        )
        cells.append([key, "", *("X" if kind == str(k) else "" for k in range(3))])
    head = "||   Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry || Pigment Network || Dots/Globules || Streaks || Regression Areas || Blue-Whitish Veil || Colors ||"  # noqa: E501
    legend = ["", "LEGEND:", "Clinical Diagnosis: 0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma", "SYNTHETIC"]
    writer.file("PH2Dataset/PH2_dataset.txt", "\n".join([head, *lines, *legend]) + "\n")
    title = [["SYNTHETIC: phantoms of graft-didgen"], *([[""]] * 11)]  # the real sheet's table starts in row 13
    writer.file("PH2Dataset/PH2_dataset.xlsx", xlsx([*title, *cells]))


def _four_to_three(writer: Writer) -> tuple[int, int]:
    return max(36, round(writer.config.size * 0.75)), writer.config.size


def _jpeg(image: UInt8[np.ndarray, "H W 3"], note: dict[str, Any]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, format="JPEG", quality=95, comment=json.dumps(note, sort_keys=True).encode())
    return out.getvalue()


def _bmp(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """BMP has no place for a comment: the JSON file beside it has the provenance."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, format="BMP")
    return out.getvalue()


def _bmp_mask(mask: Bool[np.ndarray, "H W"], colour: bool) -> bytes:
    """One bit a pixel, or RGB: the real set has both."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(mask).convert("RGB" if colour else "1").save(out, format="BMP")
    return out.getvalue()


WRITERS: dict[LayoutName, Callable[[Writer], None]] = {
    "isic2018-task1": _isic2018_task1,
    "isic2018-task3": _isic2018_task3,
    "ham10000": _ham10000,
    "derm7pt": _derm7pt,
    "ph2": _ph2,
}
