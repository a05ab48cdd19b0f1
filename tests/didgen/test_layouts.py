"""The readers on hand-written trees with the traps of the real ones: names, endings, companions, tables."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from didgen.layouts import layouts_in, read_tree
from didgen.layouts_clinic import diagnosis, read_derm7pt, read_ph2
from didgen.layouts_isic import read_ham10000, read_isic2018_task1, read_isic2018_task3
from didgen.tables import read_table, read_xlsx, xlsx
from didgen.tree import Tree
from graft_common.errors import InputError

Make = Callable[[dict[str, str | bytes]], Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Files by name, below a folder with a space and an umlaut; readers open tables only, so pictures hold one byte."""

    def build(files: dict[str, str | bytes]) -> Path:
        root = tmp_path / "Daten ü"
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return build


def found(tree: Tree) -> set[tuple[str, str]]:
    return {(f.level, f.what) for f in tree.findings}


T1 = "ISIC2018_Task1-2_{}_Input"
ONE = "ISIC2018_Task1_{}_GroundTruth"


def test_task_1_with_its_companions_and_double_folders(make: Make) -> None:
    train, val = T1.format("Training"), T1.format("Validation")
    root = make(
        {
            f"{train}/{train}/ISIC_0000000.jpg": "1", f"{train}/{train}/ISIC_0000001.jpg": "1",
            f"{train}/ATTRIBUTION.txt": "x", f"{train}/LICENSE.txt": "x", f"{train}/ISIC_0000000_superpixels.png": "1",
            f"{train}/._ISIC_0000009.jpg": "1", f"__MACOSX/{train}/ISIC_0000008.jpg": "1",
            f"{ONE.format('Training')}/ISIC_0000000_segmentation.png": "1",
            f"{ONE.format('Training')}/ISIC_0000007_segmentation.png": "1",
            f"{val}/ISIC_0000003.JPG": "1", f"{ONE.format('Validation')}/ISIC_0000003_segmentation.png": "1",
            f"{T1.format('Test')}/ISIC_0000004.jpg": "1", "SYNTHETIC.txt": "x",
        }
    )  # fmt: skip
    tree = read_isic2018_task1(root)
    assert [(r.id, r.split, r.mask is not None, r.dx) for r in tree.rows] == [
        ("ISIC_0000000", "train", True, None), ("ISIC_0000001", "train", False, None), ("ISIC_0000003", "val", True, None),
        ("ISIC_0000004", "test", False, None),
    ]  # fmt: skip
    assert {r.image.suffix.lower() for r in tree.rows} == {".jpg"}
    assert found(tree) == {
        ("note", "ISIC_0000007: Training mask without a picture; it is left out"),
        ("note", "ISIC_0000001: Training picture without a mask"), ("note", "ISIC_0000004: Test picture without a mask"),
    }  # fmt: skip
    assert layouts_in(root) == ["isic2018-task1"] == layouts_in(root.parent)
    assert read_tree(root / train).rows[0].id == "ISIC_0000000"  # the folder itself is given


def test_a_picture_in_two_splits_stops(make: Make) -> None:
    root = make({f"{T1.format(word)}/ISIC_0000000.jpg": "1" for word in ("Training", "Test")})
    tree = read_isic2018_task1(root)
    assert ("stop", "ISIC_0000000: lies in several splits; keep one") in found(tree) and len(tree.rows) == 1


HEAD = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
T3 = "ISIC2018_Task3_Training_GroundTruth"


def task3(labels: str, groups: str = "image,lesion_id,diagnosis_confirm_type\n") -> dict[str, str | bytes]:
    return {
        "ISIC2018_Task3_Training_Input/ISIC_0024306.jpg": "1", "ISIC2018_Task3_Training_Input/ISIC_0024307.jpg": "1",
        "ISIC2018_Task3_Training_Input/ATTRIBUTION.txt": "x", f"{T3}/{T3}.csv": labels,
        "ISIC2018_Task3_Training_LesionGroupings.csv": groups,
        "HAM10000_segmentations_lesion_tschandl/ISIC_0024306_segmentation.png": "1",
    }  # fmt: skip


BOTH = HEAD + "ISIC_0024306,0.0,1.0,0,0,0,0,0\r\nISIC_0024307,0,0,0,0,0,0,1\n\n"


def test_task_3(make: Make) -> None:
    groups = "image,lesion_id,diagnosis_confirm_type\nISIC_0024307,HAM_1,x\nISIC_0024306,HAM_1,x\n"
    tree = read_isic2018_task3(make(task3("\ufeff" + BOTH, groups)))
    assert [(r.id, r.dx, r.lesion_id, r.split, r.mask is not None) for r in tree.rows] == [
        ("ISIC_0024306", "NV", "HAM_1", "train", True), ("ISIC_0024307", "VASC", "HAM_1", "train", False),
    ]  # fmt: skip
    assert tree.findings == ()


@pytest.mark.parametrize(
    ("labels", "level", "needle"),
    [
        (BOTH + "ISIC_0024306,0,1,0,0,0,0,0\n", "stop", "ISIC_0024306: stands twice"),
        (BOTH + "ISIC_0099999,0,1,0,0,0,0,0\n", "stop", "ISIC_0099999: has no picture"),
        (BOTH + "../../x,0,1,0,0,0,0,0\n", "stop", "../../X: has no picture"),
        (BOTH.replace("1.0", "0.0"), "stop", "ISIC_0024306: has not one class"),
        (BOTH.replace("1.0", "nan"), "stop", "ISIC_0024306: has not one class"),
        (BOTH.replace("1.0", "yes"), "stop", "ISIC_0024306: has not one class"),
        (BOTH.replace("0.0,1.0", "1.0,1.0"), "stop", "ISIC_0024306: has not one class"),
        (HEAD + "ISIC_0024306,0,1,0,0,0,0,0\n", "note", "ISIC_0024307: has no class here"),
    ],
)
def test_class_tables_that_do_not_fit(make: Make, labels: str, level: str, needle: str) -> None:
    tree = read_isic2018_task3(make(task3(labels)))
    assert any(f.level == level and needle in f.what and T3 in f.path for f in tree.findings), tree.findings


@pytest.mark.parametrize(
    ("labels", "needle"),
    [
        ("", "0 bytes"),
        ("\n\n", "holds no rows"),
        (BOTH.replace("AKIEC", "AK"), "column 'AKIEC' is missing"),
        (BOTH + "ISIC_00", "row 4: has 1 cells but the header 8"),
        (HEAD + '"ISIC_0024306,0,1', "cannot be read as a table"),
    ],
)
def test_damaged_class_tables(make: Make, labels: str, needle: str) -> None:
    with pytest.raises(InputError) as why:
        read_isic2018_task3(make(task3(labels)))
    assert needle in str(why.value) and f"{T3}.csv" in str(why.value) and "\n" not in str(why.value)


META = (
    "lesion_id,image_id,dx,dx_type,age,sex,localization\nHAM_1,ISIC_0024306,bkl,histo,,male,scalp\n"
    "HAM_1,ISIC_0024307,bkl,histo,80.0,male,scalp\n"
)


@pytest.mark.parametrize("name", ["HAM10000_metadata", "HAM10000_metadata.csv", "ham10000_metadata.tab"])
def test_ham10000_whatever_its_metadata_is_called(make: Make, name: str) -> None:
    text = META.replace(",", "\t").replace("bkl", '"bkl"') if name.endswith("tab") else META
    root = make(
        {
            "HAM10000_images_part_1/ISIC_0024306.jpg": "1", "ham10000_images_part_2/ISIC_0024307.jpg": "1",
            "HAM10000_images_part_2/ISIC_0024306.jpg": "2", name: text,
            "HAM10000_segmentations_lesion_tschandl/ISIC_0024307_segmentation.png": "1",
        }
    )  # fmt: skip
    tree = read_ham10000(root)
    assert [(r.id, r.dx, r.lesion_id, r.split, r.mask is not None) for r in tree.rows] == [
        ("ISIC_0024306", "BKL", "HAM_1", None, False), ("ISIC_0024307", "BKL", "HAM_1", None, True),
    ]  # fmt: skip
    assert tree.rows[0].image.parent.name == "HAM10000_images_part_1"
    assert found(tree) == {("note", "ISIC_0024306: picture without a mask")}


def test_ham10000_that_does_not_fit(make: Make) -> None:
    rows = "HAM_2,ISIC_0024306,bkl,h,,,\nHAM_3,ISIC_0000001,nv,h,,,\nHAM_4,ISIC_0024308,scc,h,,,\n"
    files = [f"HAM10000_images_part_1/ISIC_002430{i}.jpg" for i in (6, 7, 8, 9)]
    tree = read_ham10000(make({name: "1" for name in files} | {"HAM10000_metadata": META + rows}))
    assert found(tree) == {
        ("stop", "ISIC_0024306: stands twice; keep one row each"),
        ("stop", "scc: is no dx; known are mel, nv, bcc, akiec, bkl, df, vasc"),
        ("stop", "ISIC_0000001: has no picture; add it, or remove the row"),
        ("note", "ISIC_0024309: is not listed; it gets no class"),
    }  # fmt: skip
    assert [r.dx for r in tree.rows] == ["BKL", "BKL", None, None]
    (tree.root / "HAM10000_metadata").unlink()
    with pytest.raises(InputError, match="holds no HAM10000_metadata"):
        read_ham10000(tree.root)


DERM_HEAD = "case_num,diagnosis,seven_point_score,derm,clinic,case_id,notes\n"


def derm7pt(**changes: str) -> dict[str, str | bytes]:
    cases = [
        ("clark nevus", "NEL/NEL025.JPG"), ("melanoma (less than 0.76 mm)", "Nhl/Nhl 033.jpg"),
        ("melanosis", "NEL/Nel026.jpg"), ("lentigo", "FAL/Fal001.jpg"),
    ]  # fmt: skip
    meta = DERM_HEAD + "".join(f'{i + 1},{d},0,{p},x.jpg,,"a, note"\n' for i, (d, p) in enumerate(cases))
    files = {
        "release_v0/images/NEL/Nel025.jpg": "1", "release_v0/images/Nhl/Nhl 033.jpg": "1",
        "release_v0/images/NEL/Nel026.jpg": "1", "release_v0/images/FAL/Fal001.jpg": "1",
        "release_v0/meta/meta.csv": meta, "release_v0/meta/train_indexes.csv": "indexes\n0\n2\n",
        "release_v0/meta/valid_indexes.csv": "indexes\n3\n", "release_v0/meta/test_indexes.csv": "indexes\n1\n",
    }  # fmt: skip
    return files | {f"release_v0/meta/{name}.csv": text for name, text in changes.items()}  # type: ignore[return-value]


def test_derm7pt(make: Make) -> None:
    tree = read_derm7pt(make(derm7pt()))
    assert [(r.id, r.dx, r.split) for r in tree.rows] == [
        ("FAL_Fal001", "BKL", "val"), ("NEL_Nel025", "NV", "train"), ("Nhl_Nhl 033", "MEL", "test")
    ]  # fmt: skip
    assert len({r.lesion_id for r in tree.rows}) == 3 and all(r.image.is_file() for r in tree.rows)
    assert found(tree) == {("note", "1 cases of melanosis or miscellaneous are left out: no class fits")}
    assert layouts_in(tree.root) == ["derm7pt"]


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"test_indexes": "indexes\n1\n3\n"}, "3: is in two splits"),
        ({"test_indexes": "indexes\n1\n4\n-1\nx\n"}, "4, -1, x: is no row of meta.csv, which has 0 to 3"),
        ({"meta": DERM_HEAD + "1,clark nevus,0,NEL/gone.jpg,,,\n"}, "NEL/gone.jpg: has no picture"),
        ({"meta": DERM_HEAD + "1,wart,0,NEL/Nel025.jpg,,,\n"}, "wart: is an unknown diagnosis"),
        ({"meta": DERM_HEAD + "1,clark nevus,0,NEL/Nel025.jpg,,,\n" * 2}, "NEL_Nel025: stands twice"),
        ({"meta": DERM_HEAD + "1,clark nevus,0,,,,\n"}, "row 2: has no picture"),
    ],
)
def test_derm7pt_that_does_not_fit(make: Make, changes: dict[str, str], needle: str) -> None:
    tree = read_derm7pt(make(derm7pt(**changes)))
    assert any(f.level == "stop" and f.what.startswith(needle) for f in tree.findings), tree.findings


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"meta": DERM_HEAD + "1,clark nevus,0,../../../secret.jpg,,,\n"}, "row 2: ../../../secret.jpg leads out of"),
        ({"meta": DERM_HEAD + "1,clark nevus,0,/etc/passwd,,,\n"}, "/etc/passwd leads out of"),
        ({"meta": "case_num,diagnosis\n1,x\n"}, "column 'derm' is missing"),
        ({"test_indexes": "index\n1\n"}, "column 'indexes' is missing"),
    ],
)
def test_derm7pt_that_is_refused(make: Make, changes: dict[str, str], needle: str) -> None:
    root = make(derm7pt(**changes))
    with pytest.raises(InputError) as why:
        read_derm7pt(root)
    assert needle in str(why.value)


def test_derm7pt_needs_all_or_no_index_files(make: Make) -> None:
    root = make(derm7pt())
    (root / "release_v0/meta/valid_indexes.csv").unlink()
    with pytest.raises(InputError, match=r"valid_indexes\.csv: no such file; give all of"):
        read_derm7pt(root)
    for name in ("train", "test"):
        (root / f"release_v0/meta/{name}_indexes.csv").unlink()
    assert {r.split for r in read_derm7pt(root).rows} == {None}


def test_derm7pts_987_cases() -> None:
    """The counts that the data set's paper gives for its diagnoses, through the map: 987 of 1011 (spec section 4)."""
    counts = {
        "basal cell carcinoma": 42, "blue nevus": 28, "clark nevus": 399, "combined nevus": 13, "congenital nevus": 17,
        "dermal nevus": 33, "recurrent nevus": 6, "reed or spitz nevus": 79, "melanoma": 1, "melanoma (in situ)": 64,
        "melanoma (less than 0.76 mm)": 102, "melanoma (0.76 to 1.5 mm)": 53, "melanoma (more than 1.5 mm)": 28,
        "melanoma metastasis": 4, "dermatofibroma": 20, "lentigo": 24, "melanosis": 16, "miscellaneous": 8,
        "vascular lesion": 29, "seborrheic keratosis": 45,
    }  # fmt: skip
    assert sum(counts.values()) == 1011
    totals: dict[str | None, int] = {}
    for name, count in counts.items():
        totals[diagnosis(name)] = totals.get(diagnosis(name), 0) + count
    assert totals == {"MEL": 252, "NV": 575, "BCC": 42, "DF": 20, "VASC": 29, "BKL": 69, None: 24}


LINE = "|| {} ||                ||         {}         ||     0     ||   T | A | A || 4 ||\n"
TXT = "||   Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry || Colors ||\n" + "".join(
    LINE.format(f"IMD00{i}", k) for i, k in ((2, 0), (3, 1), (4, 2))
)
LEGEND = "\nLEGEND\nClinical Diagnosis:\n 0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma\n"
NESTED = {
    f"PH2Dataset/PH2 Dataset images/{k}/{k}_Dermoscopic_Image/{k}.bmp": "1" for k in ("IMD002", "IMD003", "IMD004")
} | {
    f"PH2Dataset/PH2 Dataset images/{k}/{k}_lesion/{k}_lesion.bmp": "1" for k in ("IMD002", "IMD003", "IMD004")
} | {
    f"PH2Dataset/PH2 Dataset images/{k}/{k}_roi/{k}_R1_Label4.bmp": "1" for k in ("IMD002", "IMD003")
}  # fmt: skip
FLAT = {f"PH2/{k}{end}": "1" for k in ("IMD002", "IMD003", "IMD004") for end in (".bmp", "_lesion.bmp")}
PARTED = {f"trainx/{k}.png": "1" for k in ("IMD002", "IMD003", "IMD004")} | {
    f"masks/{k}.png": "1" for k in ("IMD002", "IMD003", "IMD004")
}


@pytest.mark.parametrize(
    "files",
    [NESTED, {k.replace(" ", "_"): v for k, v in NESTED.items()}, FLAT, PARTED],
    ids=["spaces", "underscores", "flat", "masks"],
)
def test_ph2_nested_and_flat(make: Make, files: dict[str, str | bytes]) -> None:
    tree = read_ph2(make(files | {"PH2Dataset/PH2_dataset.txt": TXT + LEGEND}))
    assert [(r.id, r.dx, r.split) for r in tree.rows] == [
        ("IMD002", "NV", None),
        ("IMD003", "NV", None),
        ("IMD004", "MEL", None),
    ]
    for row in tree.rows:
        assert row.mask is not None and row.id in row.mask.stem and row.mask != row.image
        assert "lesion" in row.mask.name or row.mask.parent.name == "masks"
    assert tree.findings == () and layouts_in(tree.root) == ["ph2"]


def excel(folder: Path) -> bytes:
    """A workbook as Excel writes it: shared strings, rich text, numbers, cells left out."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    strings = ["Image Name", "IMD002", "IMD003", "IMD004", "X", "x "]
    shared = "".join(f"<si><r><t>{s[:2]}</t></r><r><t>{s[2:]}</t></r></si>" for s in strings)
    rows = [
        '<row r="1"/>', '<row r="13"><c r="A13" t="s"><v>0</v></c><c r="F13"><v>1.5</v></c></row>',
        '<row r="14"><c r="A14" t="s"><v>1</v></c><c r="C14" t="s"><v>4</v></c></row>',
        '<row r="15"><c r="A15" t="s"><v>2</v></c><c r="C15"/><c r="D15" t="s"><v>5</v></c></row>',
        '<row r="16"><c r="A16" t="s"><v>3</v></c><c r="E16" t="s"><v>4</v></c></row>',
    ]  # fmt: skip
    path = folder / "made.xlsx"
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(rows)}</sheetData></worksheet>"
        )
    return path.read_bytes()


def test_ph2s_workbook(make: Make, tmp_path: Path) -> None:
    tree = read_ph2(make(NESTED | {"PH2Dataset/PH2_dataset.xlsx": excel(tmp_path)}))
    assert [r.dx for r in tree.rows] == ["NV", "NV", "MEL"] and tree.findings == ()
    rows = [["Image Name"], ["IMD002", "", "X"], ["IMD003", "", "X", "X"], ["IMD004", "<&>"]]
    assert read_xlsx(make({"w.xlsx": xlsx(rows)}) / "w.xlsx")[3] == {"A": "IMD004", "B": "<&>"}
    again = read_ph2(make({"PH2Dataset/PH2_dataset.xlsx": xlsx(rows)}))
    assert [r.dx for r in again.rows] == ["NV", None, None]
    assert found(again) == {("stop", "IMD003, IMD004: has no diagnosis; write 0, 1 or 2")}


def bomb(folder: Path) -> bytes:
    lines = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    with zipfile.ZipFile(folder / "bomb.xlsx", "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", f"<!DOCTYPE x [{lines}]><x>&a11;</x>")
    return (folder / "bomb.xlsx").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "needle"),
    [
        ("PH2_dataset.txt", "nothing\n", "holds no row"),
        ("PH2_dataset.txt", "", "0 bytes"),
        ("PH2_dataset.xlsx", b"PK\x03\x04 cut", "cannot be read as an .xlsx file"),
        ("PH2_dataset.xlsx", xlsx([["Image Name"]]), "holds no row with IMD002"),
        ("PH2_dataset.xlsx", "bomb", "declares a document type"),
    ],
)
def test_ph2_tables_that_are_refused(make: Make, tmp_path: Path, name: str, content: str | bytes, needle: str) -> None:
    root = make(FLAT | {f"PH2/{name}": bomb(tmp_path) if content == "bomb" else content})
    with pytest.raises(InputError) as why:
        read_ph2(root)
    assert needle in str(why.value) and name in str(why.value)


def test_ph2_that_does_not_fit(make: Make) -> None:
    text = TXT + LINE.format("IMD002", 0) + LINE.format("IMD009", 0) + LINE.format("IMD003", "")
    tree = read_ph2(make(FLAT | {"PH2/IMD005.bmp": "1", "PH2_dataset.txt": text}))
    assert ("stop", "IMD002, IMD003: stands twice; keep one row each") in found(tree)
    assert ("stop", "IMD009: has no picture; add it, or remove the row") in found(tree)
    assert ("stop", "IMD003: has no diagnosis; write 0, 1 or 2") in found(tree)
    assert ("note", "IMD005: is not listed; it gets no class") in found(tree)
    assert ("note", "IMD005: picture without a mask") in found(tree)


def test_what_holds_no_or_several_data_sets(make: Make) -> None:
    root = make({"x/y.jpg": "1"})
    with pytest.raises(InputError, match="holds none of isic2018-task1, "):
        read_tree(root)
    with pytest.raises(InputError, match=r"holds no ph2 \(found: none\)"):
        read_tree(root, "ph2")
    with pytest.raises(InputError, match="is no folder"):
        read_tree(root / "x" / "y.jpg")
    make(FLAT | task3(BOTH))
    with pytest.raises(InputError, match="holds isic2018-task3 and ph2; say which with --layout"):
        read_tree(root)
    assert read_tree(root, "ph2").layout == "ph2" and read_tree(root / "PH2").layout == "ph2"


def test_a_linked_picture_outside_is_refused(make: Make, tmp_path: Path) -> None:
    root = make({f"{T1.format('Training')}/ISIC_0000000.jpg": "1"})
    (tmp_path / "secret.jpg").write_bytes(b"1")
    (root / T1.format("Training") / "ISIC_0000001.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(InputError, match=r"ISIC_0000001\.jpg leads out of"):
        read_tree(root)


def test_tables_are_told_apart_by_their_header(tmp_path: Path) -> None:
    for mark in ",\t;":
        (tmp_path / "t").write_bytes(f"A{mark} b \n1{mark}é\n".encode("latin-1"))
        assert read_table(tmp_path / "t", ("a", "B")) == [{"a": "1", "b": "é"}]
