"""Memorisation: nearest neighbours against scipy, and a copied training picture is found whatever the network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

from didgen.manifest import Row
from didgen.memorise import features, memorisation, nearest
from didgen.phantom_draw import draw
from graft_common.errors import InputError


def test_nearest_equals_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(57, 12)) + 1000, rng.normal(size=(91, 12)) + 1000
    b[7], b[8] = a[3], a[3]
    distance, index = nearest(torch.from_numpy(a).float(), torch.from_numpy(b).float(), batch=10)
    table = cdist(a.astype(np.float32).astype(float), b.astype(np.float32).astype(float))
    np.testing.assert_array_equal(index.numpy(), table.argmin(axis=1))
    np.testing.assert_allclose(distance.numpy(), table.min(axis=1), rtol=1e-9)
    assert distance[3] == 0 and index[3] == 7


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("pictures ü")
    out = []
    for seed in range(30):
        drawn = draw(seed, (64, 64))
        assert drawn is not None
        Image.fromarray(drawn.image).save(folder / f"p{seed}.png")
        out.append(Row(f"p{seed}", folder / f"p{seed}.png"))
    return out


@pytest.fixture(scope="module")
def synthetic(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """A copy of a training picture with noise, its mirror image, and a new picture."""
    folder = tmp_path_factory.mktemp("synthetic")
    image = np.asarray(Image.open(rows[4].image), float)
    near = (image + np.random.default_rng(0).normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)
    new = draw(999, (64, 64))
    assert new is not None
    made = {"near": near, "mirrored": near[:, ::-1], "new": new.image}
    for name, array in made.items():
        Image.fromarray(np.ascontiguousarray(array)).save(folder / f"{name}.png")
    return [Row(name, folder / f"{name}.png") for name in made]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A very small random DINOv2 in its real file layout."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino") / "dinov2-random"
    Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    ).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("backbone", ["tiny", "pixels", "transformers"])
def test_a_copy_is_found(rows: list[Row], synthetic: list[Row], network: str, backbone: str) -> None:
    used = network if backbone == "transformers" else backbone
    found = memorisation(synthetic, rows[:25], used, batch=7)
    assert [m.id for m in found] == ["near", "mirrored", "new"] and found[0].nearest == "p4"
    assert found[0].distance < 0.3 * found[2].distance
    both = memorisation(synthetic, rows[:25], used, mirrored=True)
    assert both[1].nearest == "p4" and both[1].distance == pytest.approx(found[0].distance, rel=1e-4)
    assert all(b.distance <= a.distance + 1e-9 for a, b in zip(found, both, strict=True))
    same = memorisation(rows[:3], rows[:25], used, batch=7)
    assert [m.nearest for m in same] == ["p0", "p1", "p2"] and max(m.distance for m in same) < 1e-5


def test_pixels_are_a_root_mean_square(tmp_path: Path) -> None:
    for name, level in (("a", 50), ("b", 101)):
        Image.fromarray(np.full((40, 60, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
    (match,) = memorisation([Row("a", tmp_path / "a.png")], [Row("b", tmp_path / "b.png")], "pixels")
    assert match.distance == pytest.approx(51 / 255, abs=1e-6) and match.nearest == "b"


def test_the_mirrored_match_is_named(tmp_path: Path) -> None:
    """The query is the mirror image of `a`; as it stands `b` is nearer."""
    for name, left, right in (("a", 255, 0), ("b", 0, 200), ("query", 0, 255)):
        Image.fromarray(np.repeat(np.array([[[left] * 3, [right] * 3]], np.uint8), 32, 1).repeat(64, 0)).save(
            tmp_path / f"{name}.png"
        )
    query, *bank = (Row(name, tmp_path / f"{name}.png") for name in ("query", "a", "b"))
    for mirrored, nearest_id in ((False, "b"), (True, "a")):
        (match,) = memorisation([query], bank, "pixels", mirrored=mirrored)
        assert match.nearest == nearest_id and (match.distance < 1e-6) == mirrored


def test_vectors_of_networks_have_unit_length(rows: list[Row], network: str) -> None:
    from didgen.memorise import embedder

    for backbone in ("tiny", network):
        made = features([r.image for r in rows[:5]], embedder(backbone), batch=2)
        assert made.shape[0] == 5 and torch.allclose(made.norm(dim=1), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "needle"), [("resnet", "no such folder"), ("./no", "no such folder"), ("{empty}", "cannot be loaded")]
)
def test_backbones_that_are_refused(rows: list[Row], tmp_path: Path, backbone: str, needle: str) -> None:
    with pytest.raises(InputError, match=needle):
        memorisation(rows[:1], rows[:1], backbone.format(empty=tmp_path))


def test_bad_pictures(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes"):
        memorisation([Row("x", tmp_path / "x.png")], rows[:2], "pixels")
    with pytest.raises(InputError, match="0 synthetic and 2 training"):
        memorisation([], rows[:2], "pixels")
