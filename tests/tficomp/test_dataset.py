"""The torch Dataset: item i is the same on every call, longer than its rows, honest about its masks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tficomp import LesionDataset
from tficomp.inputs import Sources
from tficomp.manifest import write_manifest


@pytest.fixture
def dataset(tmp_path: Path, random_bundle: Path, sample_files: Callable) -> LesionDataset:
    rows = []
    for i in range(2):
        paths = sample_files(tmp_path / f"s{i}", seed=i)
        rows.append({role: f"s{i}/{p.name}" for role, p in paths.items()} | {"prompt": "a tumor", "id": f"s{i}"})
    write_manifest(tmp_path / "m.json", rows)
    return LesionDataset(
        tmp_path / "m.json", 5, weights=str(random_bundle), device="cpu", steps=2, paste_back=True, seed=3
    )


def test_items_are_fixed_by_their_index(dataset: LesionDataset) -> None:
    order = [3, 0, 3, 1]
    items = [dataset[i] for i in order]
    assert len(dataset) == 5
    assert torch.equal(items[0]["image"], items[2]["image"]) and torch.equal(items[0]["mask"], items[2]["mask"])
    assert not torch.equal(items[0]["image"], items[3]["image"])  # the same row with another seed
    assert [item["key"] for item in items] == ["s1", "s0", "s1", "s1"]
    assert [item["seed"] for item in items] == [6, 3, 6, 4]
    for item in items:
        assert item["synthetic"] is True
        assert item["image"].shape == (1, 40, 48) and item["image"].dtype == torch.float32
        assert item["image"].min() >= 0 and item["image"].max() <= 1
        assert item["mask"].shape == (1, 40, 48) and set(item["mask"].unique().tolist()) == {0.0, 1.0}
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=2)))
    assert torch.equal(batch["image"][0], items[1]["image"])


def test_index_out_of_range_ends_iteration(dataset: LesionDataset) -> None:
    for index in (5, -1):
        with pytest.raises(IndexError):
            dataset[index]


def test_settings_are_checked_at_once(dataset: LesionDataset) -> None:
    with pytest.raises(ValueError, match="--steps 0"):
        LesionDataset(dataset.rows, steps=0)
    with pytest.raises(TypeError, match="stepz"):
        LesionDataset(dataset.rows, stepz=1)
    assert len(LesionDataset(dataset.rows)) == 2 and isinstance(dataset.rows[0], Sources)
