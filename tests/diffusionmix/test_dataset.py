"""`dataset`: what it writes loads through the MVTec reader (property 27), nothing empty, no copies, resumes to the same bytes."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import measure
from torch.utils.data import DataLoader

import diffusionmix.dataset as verb
from diffusionmix.box import Box
from diffusionmix.config_data import CheckConfig, DatasetConfig
from diffusionmix.dataset import AGAIN, run_dataset
from diffusionmix.export import coco, run_lengths, tight_box, yolo_line
from diffusionmix.layouts import read_tree
from diffusionmix.prepared import Row, write_prepared
from diffusionmix.read import read_mask, read_rgb
from diffusionmix.records import Merged, Mix, Net
from diffusionmix.similarity import nearest, thumbs
from diffusionmix.torch_dataset import SyntheticDataset
from graft_common.console import Verb, run_command
from graft_common.errors import InputError
from graft_common.pixels import read_provenance

VERBS = {
    "dataset": Verb(DatasetConfig, "diffusionmix.dataset:run_dataset"),
    "check": Verb(CheckConfig, "diffusionmix.check:run_check"),
}
SIZE, SQUARE = (40, 48), 16


def fake_mix(classes: tuple[str, ...] = ("blob", "hole")) -> Mix:
    """Sizes, classes and positions of a mix; its networks are never asked."""
    signal = np.linspace(0.99, 0.01, 10)
    own = Net("object", None, signal, 4, (SQUARE, SQUARE), classes=len(classes))
    boxes = np.array([[0.25, 0.25, 0.5, 0.5], [0.1, 0.4, 0.5, 0.5]])
    return Mix((own,), Net("background", None, signal, 3, SIZE), classes, boxes, "fake", "0" * 64)


class Fake:
    """Draws noise by the seed alone; seeds in `empty` have an empty mask on their first draw, `copies` maps seeds to objects."""

    def __init__(self) -> None:
        self.empty: set[int] = set()
        self.copies: dict[int, np.ndarray] = {}
        self.calls: list[list[int]] = []
        self.stop_at: int | None = None

    def merge(self, mix: Any, boxes: Sequence[Box], seeds: Sequence[int], settings: Any, labels: Any = None) -> list[Merged]:
        if self.stop_at is not None and len(self.calls) >= self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(list(seeds))
        return [self.one(box, seed) for box, seed in zip(boxes, seeds, strict=True)]

    def one(self, box: Box, seed: int) -> Merged:
        """Picture `seed`."""
        rng = np.random.default_rng(seed)
        image, mask = rng.integers(0, 256, (*SIZE, 3), np.uint8), np.zeros(SIZE, bool)
        if seed not in self.empty:
            mask[box.y + 2 : box.y + box.h - 1, box.x + 1 : box.x + box.w - 3] = True
        own = self.copies.get(seed, rng.integers(0, 256, (SQUARE, SQUARE, 3), np.uint8))
        return Merged(image, mask, own, np.ones((SQUARE, SQUARE), bool), box, seed, 260, () if mask.any() else ("empty mask",))

    def backgrounds(self, mix: Any, seeds: Sequence[int], settings: Any) -> list[np.ndarray]:
        return [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8) for seed in seeds]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    drawn = Fake()
    monkeypatch.setattr(verb, "merge", drawn.merge)
    monkeypatch.setattr(verb, "sample_backgrounds", drawn.backgrounds)
    monkeypatch.setattr(verb, "load_mix", lambda config: fake_mix())
    return drawn


@pytest.fixture
def dataset(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*words: object) -> tuple[int, str]:
        code = run_command("graft-diffusionmix", VERBS, ["dataset", "--json", *map(str, words)])
        return code, capsys.readouterr().err

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.json"}


def prepared_objects(folder: Path, pictures: Sequence[np.ndarray], splits: Sequence[Any]) -> Path:
    rows = []
    for i, (picture, split) in enumerate(zip(pictures, splits, strict=True)):
        for kind, array in (("image", picture), ("mask", np.full(picture.shape[:2], 255, np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{i}.png")
        image, mask = folder / f"image/{i}.png", folder / f"mask/{i}.png"
        rows.append(Row(f"real{i}", image, mask, None, split, str(i), (0, 0, 16, 16), (40, 40), False))
    write_prepared(folder, "object", pictures[0].shape[0], [], rows)
    return folder


def test_the_mvtec_reader_takes_it_unchanged(fake: Fake, tmp_path: Path) -> None:
    out = tmp_path / "ä set"
    record = run_dataset(DatasetConfig(n=9, batch_size=4, test_good=2, train_good=5, out=out, json=True), [])
    tree = read_tree(out)
    assert tree.layout == "mvtec" and not tree.findings
    assert Counter((i.split, i.label, i.mask is not None) for i in tree.items) == {
        (None, "blob", True): 5, (None, "hole", True): 4, ("train", None, False): 5, ("test", None, False): 2,
    }  # fmt: skip
    for item in tree.items:
        assert read_rgb(item.image).shape == (*SIZE, 3) and (read_provenance(item.image) or {})["synthetic"] is True
        if item.mask is not None:
            mask = read_mask(item.mask, item.values, SIZE)
            assert mask.any() and set(np.unique(np.asarray(Image.open(item.mask)))) <= {0, 255}
    assert record["measures"]["pictures"] == 9 and record["measures"]["classes"] == {"blob": 5, "hole": 4}
    assert record["measures"]["drawn_again"] == {} and set(record["outputs"]) <= set(files(out))
    backgrounds = {read_rgb(i.image).tobytes() for i in tree.items}
    assert len(backgrounds) == len(tree.items)


def test_torch_reads_it(fake: Fake, tmp_path: Path) -> None:
    out = tmp_path / "o"
    run_dataset(DatasetConfig(n=3, batch_size=4, test_good=1, train_good=1, out=out, json=True), [])
    every, objects = SyntheticDataset(out), SyntheticDataset(str(out), good=False)
    assert len(every) == 5 and len(objects) == 3 and every.classes == ("blob", "hole")
    assert [item["label"] for item in every] == [0, 1, 0, -1, -1] and all(item["synthetic"] for item in every)
    for i, name in enumerate(["blob/000", "hole/000", "blob/001"]):
        item = objects[i]
        assert item["key"] == f"synthetic/test/{name}.png" and torch.equal(item["image"], every[i]["image"])
        truth = np.asarray(Image.open(out / item["key"]))
        assert torch.equal(item["image"], torch.from_numpy(truth.copy()).permute(2, 0, 1) / 255)
        marked = np.asarray(Image.open(out / f"synthetic/ground_truth/{name}_mask.png")) > 0
        assert item["mask"].dtype == torch.float32 and torch.equal(item["mask"][0] > 0, torch.from_numpy(marked)) and marked.any()
    assert not every[3]["mask"].any() and every[3]["mask"].shape == (1, *SIZE)
    batch = next(iter(DataLoader(every, batch_size=5)))
    assert batch["image"].shape == (5, 3, *SIZE) and batch["label"].tolist() == [0, 1, 0, -1, -1]
    with pytest.raises(IndexError):
        every[5]
    (out / "annotations.json").unlink()  # written when all pictures are drawn
    with pytest.raises(InputError, match=r"holds no finished data set .*--resume"):
        SyntheticDataset(out)


def test_an_empty_mask_is_drawn_again_from_another_seed(fake: Fake, tmp_path: Path) -> None:
    fake.empty = {1, 1 + AGAIN, 3}
    record = run_dataset(DatasetConfig(n=4, batch_size=4, train_good=0, out=tmp_path / "o", json=True), [])
    assert fake.calls == [[0, 1, 2, 3], [1 + AGAIN, 3 + AGAIN], [1 + 2 * AGAIN]]
    assert record["measures"]["drawn_again"] == {"empty mask": 3}
    rows = [json.loads(line) for line in (tmp_path / "o/items.jsonl").read_text().splitlines()]
    assert [r["seed"] for r in rows] == [0, 1 + 2 * AGAIN, 2, 3 + AGAIN]
    for row in rows:
        assert read_mask(tmp_path / "o" / row["mask"]).sum() == row["area"] > 0


def test_it_gives_up_with_the_cure(fake: Fake, tmp_path: Path, dataset: Callable[..., tuple[int, str]]) -> None:
    fake.empty = {1 + k * AGAIN for k in range(3)}
    code, said = dataset("--n", 2, "--train-good", 0, "--attempts", 3, "--out", tmp_path / "o")
    assert code == 2 and "drawn 3 times, 3 times empty mask" in said and "--start" in said and said.count("\n") == 1


@pytest.mark.parametrize("moved", [lambda a: a, np.fliplr, np.rot90, lambda a: np.clip(a.astype(int) + 3, 0, 255).astype(np.uint8)])
def test_near_copies_are_refused(fake: Fake, tmp_path: Path, moved: Callable[[np.ndarray], np.ndarray]) -> None:
    """Also mirrored, turned and a little brighter, and where the training squares have another size."""
    rng = np.random.default_rng(5)
    real = [np.kron(rng.integers(0, 250, (16, 16, 3), np.uint8), np.ones((2, 2, 1), np.uint8)) for _ in range(3)]
    fake.copies = {1: np.ascontiguousarray(moved(real[2][::2, ::2])), 2: np.ascontiguousarray(real[1][::2, ::2])}
    against = prepared_objects(tmp_path / "real", real, ["train", "test", "train"])
    ask = {"n": 3, "train_good": 0, "against": against, "max_similarity": 0.95, "json": True}
    record = run_dataset(DatasetConfig(out=tmp_path / "o", **ask), [])  # type: ignore[arg-type]
    assert record["measures"]["drawn_again"] == {"near copy": 1} and fake.calls == [[0, 1, 2], [1 + AGAIN]]
    rows = [json.loads(line) for line in (tmp_path / "o/items.jsonl").read_text().splitlines()]
    assert all(0 < row["similarity"] < 0.95 and row["nearest"] in ("real0", "real2") for row in rows)
    assert record["measures"]["similarity"]["max"] == max(row["similarity"] for row in rows)
    assert 0 < record["measures"]["real_similarity"]["max"] < 0.95


def test_a_model_that_only_copies_is_refused(fake: Fake, tmp_path: Path, dataset: Callable[..., tuple[int, str]]) -> None:
    real = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    fake.copies = dict.fromkeys([0, AGAIN], real)
    against = prepared_objects(tmp_path / "real", [real], ["train"])
    code, said = dataset(
        "--n", 1, "--train-good", 0, "--attempts", 2, "--against", against, "--max-similarity", 0.9, "--out", tmp_path / "o"
    )
    assert code == 2 and "2 times near copy" in said and "--max-similarity" in said
    assert not (tmp_path / "o/synthetic").exists()


@pytest.mark.parametrize("stop_at", [0, 1, 2, 3])
def test_interrupted_and_resumed_gives_the_same_bytes(
    fake: Fake, tmp_path: Path, dataset: Callable[..., tuple[int, str]], stop_at: int
) -> None:
    fake.empty = {2, 5}
    words = ("--n", 7, "--batch-size", 3, "--train-good", 2)
    assert dataset(*words, "--out", tmp_path / "whole")[0] == 0
    fake.calls, fake.stop_at = [], stop_at
    assert dataset(*words, "--out", tmp_path / "part")[0] == 130
    early = files(tmp_path / "part")
    fake.stop_at = None
    assert dataset(*words, "--out", tmp_path / "part")[0] == 2
    done = len(fake.calls)
    assert dataset(*words[:2], "--batch-size", 5, "--train-good", 2, "--resume", "--out", tmp_path / "part")[0] == 0
    whole, part = files(tmp_path / "whole"), files(tmp_path / "part")
    assert part == whole
    assert all(part[name] == content for name, content in early.items() if name not in ("items.jsonl",))
    assert len(fake.calls) - done == 5 - {0: 0, 1: 0, 2: 2, 3: 2}[stop_at]


def test_resuming_redraws_a_group_whole_and_writes_what_is_missing(fake: Fake, tmp_path: Path) -> None:
    config = DatasetConfig(n=4, batch_size=2, train_good=0, out=tmp_path / "o", json=True)
    run_dataset(config, [])
    before = files(tmp_path / "o")
    (tmp_path / "o/synthetic/ground_truth/hole/001_mask.png").unlink()
    fake.calls = []
    run_dataset(DatasetConfig(n=4, batch_size=2, train_good=0, resume=True, out=tmp_path / "o", json=True), [])
    assert fake.calls == [[2, 3]] and files(tmp_path / "o") == before


def test_other_settings_do_not_go_on(fake: Fake, tmp_path: Path, dataset: Callable[..., tuple[int, str]]) -> None:
    assert dataset("--n", 2, "--train-good", 0, "--out", tmp_path / "o")[0] == 0
    for words in (("--n", 3), ("--n", 2, "--seed", 1), ("--n", 2, "--r", 2)):
        code, said = dataset(*words, "--train-good", 0, "--resume", "--out", tmp_path / "o")
        assert code == 2 and "other weights or settings" in said


def test_coco_run_lengths_are_the_mask() -> None:
    """Decoded by the rule of the COCO format: columns first, zeros first."""
    rng = np.random.default_rng(0)
    masks = [rng.random((7, 9)) > p for p in (0.2, 0.5, 0.8)] + [np.ones((3, 4), bool), np.eye(5, dtype=bool)]
    for mask in masks:
        counts = run_lengths(mask)
        flat = np.concatenate([np.full(c, k % 2, bool) for k, c in enumerate(counts)])
        np.testing.assert_array_equal(flat.reshape(mask.shape[::-1]).T, mask)
        assert all(c > 0 for c in counts[1:])


def test_boxes_are_those_of_scikit_image() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((30, 50)) > 0.995
        mask[10, 12] = True
        top, left, bottom, right = measure.regionprops(mask.astype(int))[0].bbox
        assert tight_box(mask) == (left, top, right - left, bottom - top)
        label, cx, cy, w, h = (float(v) for v in yolo_line(3, mask).split())
        assert label == 3
        np.testing.assert_allclose(
            [cx * 50 - w * 25, cy * 30 - h * 15, w * 50, h * 30], [left, top, right - left, bottom - top], atol=1e-3
        )


def test_coco_and_yolo_files_agree_with_the_masks(fake: Fake, tmp_path: Path) -> None:
    out = tmp_path / "o"
    run_dataset(DatasetConfig(n=5, train_good=1, out=out, json=True), [])
    content = json.loads((out / "annotations.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["blob", "hole"] and len(content["images"]) == 6
    names = {i["id"]: i["file_name"] for i in content["images"]}
    assert len(content["annotations"]) == 5 and [a["id"] for a in content["annotations"]] == [1, 2, 3, 4, 5]
    for one in content["annotations"]:
        name = names[one["image_id"]]
        defect, stem = name.split("/")[2], Path(name).stem
        mask = read_mask(out / f"synthetic/ground_truth/{defect}/{stem}_mask.png")
        assert one["area"] == mask.sum() and one["segmentation"]["size"] == list(mask.shape)
        flat = np.concatenate([np.full(c, k % 2, bool) for k, c in enumerate(one["segmentation"]["counts"])])
        np.testing.assert_array_equal(flat.reshape(SIZE[::-1]).T, mask)
        assert one["category_id"] == ["blob", "hole"].index(defect) + 1 and one["bbox"] == list(tight_box(mask))
        assert (out / name).with_suffix(".txt").read_text() == yolo_line(one["category_id"] - 1, mask)
    listed = (out / "yolo.txt").read_text().splitlines()
    assert len(listed) == 5 and all((out / line).is_file() for line in listed)
    assert '  1: "hole"' in (out / "yolo.yaml").read_text()
    assert coco([], [], ())["annotations"] == []


def test_similarity_is_one_minus_the_rms_at_16() -> None:
    rng = np.random.default_rng(0)
    bank = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    other = rng.integers(0, 256, (32, 32, 3), np.uint8)
    drawn = np.ascontiguousarray(np.stack([bank[2], bank[1][:, ::-1], np.rot90(bank[3], 3), other]))
    found, place = nearest(drawn, thumbs(bank))
    np.testing.assert_allclose(found[:3], 1, atol=1e-12)
    assert place[:3].tolist() == [2, 1, 3]
    small = [x.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)) / 255 for x in (*bank.astype(float), drawn[3].astype(float))]
    turns = [np.rot90(m, k) for k in range(4) for m in (small[4], small[4][:, ::-1])]
    want = max(1 - np.sqrt(np.mean((t - b) ** 2)) for t in turns for b in small[:4])
    assert found[3] == pytest.approx(want, abs=2 / 255)  # Pillow rounds the means to bytes


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--n", "0"], "--n 0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--attempts", "0"], "--attempts 0"),
        (["--train-good", "-1"], "--train-good -1"),
        (["--max-similarity", "0.9"], "needs --against"),
        (["--against", "real"], "needs --max-similarity"),
        (["--against", "nowhere", "--max-similarity", "0.9"], "holds no prepared.json"),
        (["--against", "real", "--max-similarity", "1.5"], "--max-similarity 1.5"),
        (["--category", "../x"], "--category"),
        (["--category", ""], "--category"),
        (["--box", "1,2,30,30", "3,4,30,30"], "one object"),
        (["--box", "1,2,30"], "--box 1,2,30"),
        (["--box", "30,20,20,20"], "leaves the picture"),
        (["--box", "0,0,7,20"], "at least 8"),
        (["--background", "photo.png"], "use merge"),
        (["--start", "none"], "--start none"),
        (["--save-trajectory"], "--save-trajectory"),
        (["--merge-seed", "3"], "--merge-seed 3"),
        (["--label", "crack"], "--label crack"),
        (["--out", "photo.png"], "is a file"),
    ],
)
def test_refusals(
    fake: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: Callable[..., tuple[int, str]],
    words: list[str],
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (48, 40)).save("photo.png")
    prepared_objects(Path("real"), [np.zeros((16, 16, 3), np.uint8)], ["train"])
    code, said = dataset("--n", 2, *words)
    assert code == 2 and word in said and said.count("\n") == 1 and not fake.calls
    assert not Path("out").exists()


def test_one_class_alone_and_a_fixed_box(fake: Fake, tmp_path: Path) -> None:
    config = DatasetConfig(n=3, label=("hole",), box=("10,5,20,24",), train_good=0, out=tmp_path / "o", json=True)
    assert run_dataset(config, [])["measures"]["classes"] == {"hole": 3}
    rows = [json.loads(line) for line in (tmp_path / "o/items.jsonl").read_text().splitlines()]
    assert {tuple(row["box"]) for row in rows} == {(10, 5, 20, 24)}


def test_from_random_weights_end_to_end(random_bundle: Path, tmp_path: Path) -> None:
    """The real networks, schedules and merging; the same bytes when it goes on after its files were lost."""
    config = {"weights": str(random_bundle), "n": 3, "batch_size": 2, "steps": 4, "sampler": "ddim", "train_good": 1, "json": True}
    run_dataset(DatasetConfig(out=tmp_path / "a", **config), [])  # type: ignore[arg-type]
    tree = read_tree(tmp_path / "a")
    assert not tree.findings and Counter(i.label for i in tree.items) == {"blob": 2, "hole": 1, None: 1}
    for item in tree.items:
        if item.mask is not None:
            assert read_mask(item.mask, item.values, (32, 32)).any()
    before = files(tmp_path / "a")
    (tmp_path / "a/items.jsonl").unlink()
    run_dataset(DatasetConfig(out=tmp_path / "a", resume=True, **config), [])  # type: ignore[arg-type]
    assert files(tmp_path / "a") == before


def test_anomalib_reads_it(fake: Fake, tmp_path: Path) -> None:
    pytest.importorskip("anomalib", reason="anomalib is not installed")
    from anomalib.data.datasets.image.folder import make_folder_dataset  # type: ignore[import-not-found]

    run_dataset(DatasetConfig(n=4, train_good=3, test_good=2, out=tmp_path / "o", json=True), [])
    samples = make_folder_dataset(
        normal_dir="train/good", root=tmp_path / "o/synthetic", abnormal_dir=["test/blob", "test/hole"],
        normal_test_dir="test/good", mask_dir=["ground_truth/blob", "ground_truth/hole"],
    )  # fmt: skip
    counts = Counter(samples.label)
    assert counts["abnormal"] == 4 and counts["normal"] + counts["normal_test"] == 5
