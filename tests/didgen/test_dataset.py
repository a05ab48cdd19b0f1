"""`ManifestDataset`: ranges, joint turns of picture and mask, what a row lacks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from didgen.dataset import NO_CLASS, ManifestDataset, Turn
from didgen.manifest import Row, write_manifest
from graft_common.errors import InputError

Y, X = np.mgrid[:32, :32]
BLOB = (Y - 9) ** 2 + (X - 22) ** 2 < 30


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Six pictures whose red channel is their mask; the last has neither mask nor class."""
    out = []
    for i in range(6):
        mask = np.roll(BLOB, i, axis=0)
        rgb = np.stack([mask * 255, np.full((32, 32), 10 * i), X * 7], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
        bare = i == 5
        out.append(
            Row(
                str(i),
                tmp_path / f"{i}.png",
                None if bare else tmp_path / f"{i}_mask.png",
                "train",
                None if bare else "BCC",
            )
        )
    return out


def test_values_and_missing_parts(rows: list[Row], tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.jsonl", rows)
    for given in (rows, tmp_path, tmp_path / "manifest.jsonl"):
        data = ManifestDataset(given, 32)
        image, mask, label = data[1]
        assert len(data) == 6 and image.shape == (3, 32, 32) and mask.shape == (1, 32, 32) and label == 2
        assert image.dtype == mask.dtype == torch.float32
        assert torch.equal(image[0], mask[0] * 2 - 1)
        assert torch.allclose(image[1], torch.full((32, 32), 10 / 127.5 - 1)) and image.min() == -1
        bare = data[5]
        assert bare.label == NO_CLASS and not bare.mask.any() and data.rows[5].mask is None
    assert torch.nn.functional.cross_entropy(torch.zeros(2, 7), torch.tensor([NO_CLASS, 1])).isfinite()


def test_picture_and_mask_turn_together(rows: list[Row]) -> None:
    plain, data = ManifestDataset(rows, 32), ManifestDataset(rows, 32, flips=True, quarter_turns=True, cache=True)
    seen = set()
    for epoch in range(20):
        data.set_epoch(epoch)
        for i in range(5):
            (image, mask, _), turn = data[i], data.turn(i)
            seen.add(turn)
            assert torch.equal(image[0], mask[0] * 2 - 1)
            wanted = np.rot90(
                np.flip(plain[i].image.numpy(), 2) if turn.mirrored else plain[i].image.numpy(), turn.quarters, (1, 2)
            )
            np.testing.assert_array_equal(image.numpy(), wanted)
            assert torch.equal(data[i].image, image)
    assert seen == {Turn(m, q) for m in (False, True) for q in range(4)}
    only = ManifestDataset(rows, 32, flips=True)
    assert {only.turn(i).quarters for i in range(6)} == {0} and {plain.turn(i) for i in range(6)} == {Turn()}


def test_sizes_and_batches(rows: list[Row]) -> None:
    data = ManifestDataset(rows, (16, 24), split=None)
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert (
        batch.image.shape == (4, 3, 16, 24) and batch.mask.shape == (4, 1, 16, 24) and batch.label.tolist() == [2] * 4
    )
    assert set(batch.mask.unique().tolist()) == {0.0, 1.0}
    assert batch.mask.mean((1, 2, 3)).numpy() == pytest.approx([BLOB.mean()] * 4, abs=0.02)
    with pytest.raises(IndexError):
        data[6]


def test_what_is_refused(rows: list[Row], tmp_path: Path) -> None:
    cases = {
        "row 5 has no mask": {"need_mask": True}, "row 5 has dx None": {"need_class": True},
        "row 0 has dx BCC, not one of MEL": {"classes": ("MEL",)}, "has no row of split test": {"split": "test"},
    }  # fmt: skip
    for needle, more in cases.items():
        with pytest.raises(InputError, match=needle):
            ManifestDataset(rows, 32, **more)
    for size, turns in ((0, False), ((16, 24), True)):
        with pytest.raises(ValueError, match="give positive sides"):
            ManifestDataset(rows, size, quarter_turns=turns)
    with pytest.raises(InputError, match="no such file"):
        ManifestDataset(tmp_path / "no.jsonl", 32)
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    Image.fromarray(BLOB[:20]).save(tmp_path / "1_mask.png")
    data = ManifestDataset(rows, 32)
    for i, needle in ((0, r"0\.png: cannot be read"), (1, r"1_mask\.png: is 32x20 but its image is 32x32")):
        with pytest.raises(InputError, match=needle):
            data[i]
