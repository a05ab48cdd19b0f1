"""The recipe of tiny-mobi: what its parts weigh, that its base is Paint-by-Example, and all stages in small."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from graft_common.noising import noised, target
from mobi.bundle import load_base, load_mobi, start_mobi
from mobi.config_denoise import DenoiseConfig
from mobi.denoise import encode, inpaint
from mobi.training_data import Cache, build_cache

TOOLS = Path(__file__).resolve().parents[2] / "tools"
MOST = 4_000_000


@pytest.fixture(scope="module")
def tiny() -> Iterator[Any]:
    """The package of the recipes."""
    sys.path.insert(0, str(TOOLS))
    import tiny.mobi
    import tiny.mobi_base
    import tiny.mobi_sheets
    import tiny.mobi_vae

    yield tiny
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A few objects and empty boxes, cut at 128 pixels."""
    from mobi.config import PrepareConfig
    from mobi.nuscenes_phantom import write_tree
    from mobi.prepare import run_prepare

    folder = tmp_path_factory.mktemp("tiny-mobi")
    write_tree(folder / "tree", 2, seed=0, size=(160, 90), samples=2, cameras=("CAM_FRONT",), sweeps=False)
    run_prepare(
        PrepareConfig(root=folder / "tree", out=folder / "prepared", empty=4, min_points=20, min_size=60, json=True), []
    )
    return build_cache(folder / "tree", folder / "prepared", 128, 2)


@pytest.fixture(scope="module")
def model(tiny: Any) -> tuple[Any, Any]:
    """(VAE, UNet with image encoder), new, the VAE's scale not 1."""
    torch.manual_seed(0)
    vae = tiny.mobi_vae.make().eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=0.7)
    return vae, tiny.mobi_base.Paint().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base(tiny: Any, model: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base's folder."""
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny.mobi_base.save(folder, *model)
    return folder


def test_base_loads_part_by_part_and_the_whole_has_less_than_four_million_parameters(tiny: Any, base: Path) -> None:
    from mobi.bundle import Joint

    mobi = start_mobi(load_base(str(base)), 0, Joint(hidden=tiny.mobi.HIDDEN))
    parts = (mobi.unet, mobi.vae, mobi.range_vae, mobi.image_encoder, mobi.box_encoder)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert 0.9 * MOST < sum(counts) <= MOST
    assert mobi.size == tiny.mobi.SIZE and mobi.channels == 4


def test_saved_base_has_the_weights_it_was_trained_with(model: tuple[Any, Any], base: Path) -> None:
    vae, paint = model
    loaded = load_base(str(base))
    for mine, other in ((vae, loaded.vae), (paint.unet, loaded.unet), (paint.encoder, loaded.image_encoder)):
        mine, other = mine.state_dict(), other.state_dict()
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_base_is_trained_on_what_the_denoiser_will_encode(
    tiny: Any, model: tuple[Any, Any], base: Path, crops: Cache, tmp_path: Path
) -> None:
    codes = tiny.mobi_base.latents(model[0], crops, tmp_path / "codes.safetensors")
    rows = crops.usable.nonzero()[0].tolist()
    batch = crops.batch(rows, torch.Generator().manual_seed(3), augmented=False)
    views = torch.randint(crops.views, (len(rows),), generator=torch.Generator().manual_seed(3))  # the batch's first draw
    seen = encode(start_mobi(load_base(str(base)), 0), batch)
    mine = torch.cat((codes["context"][rows, views], codes["keep"][rows, views]), 1)
    camera = seen.context[::2]
    assert torch.equal(mine[:, 4:], camera[:, 4:])
    off = (mine - camera)[:, :4].square().mean().sqrt()
    assert off < 0.03 * camera[:, :4].std()  # the recipe encodes in bfloat16
    assert (codes["target"] - codes["context"]).abs().max() > 0.1
    again = tiny.mobi_base.latents(None, crops, tmp_path / "codes.safetensors")  # kept: no VAE is asked
    assert codes.keys() == again.keys() and all(torch.equal(codes[name], again[name]) for name in codes)


def test_vae_pictures_are_crops_of_both_kinds_with_holes_cut_from_some(tiny: Any, crops: Cache) -> None:
    rows = [0] * 32
    x, keep = tiny.mobi_vae.pictures(crops, rows, torch.Generator().manual_seed(1))
    hole = crops.camera_crops([0], [0])[1] == 0
    assert x.shape == (32, 3, 128, 128) and keep.shape == (32, 1, 128, 128) and hole.any()
    lidar = crops.lidar_crops([0])
    cut = [k for k in range(32) if (k // 4) % 4 == 0]
    for k in range(32):
        if k % 4 == 0:
            flat = lidar[0][0] * lidar[1][0] if k in cut else lidar[0][0]
            assert torch.equal(x[k, :2], flat) and torch.allclose(x[k, 2], flat.mean(0))
        assert bool((keep[k] == 1).all()) == (k in cut)
        if k in cut:
            assert float((x[k] == 0).all(0).float().mean()) > 0.01


def test_base_learns(tiny: Any, model: tuple[Any, Any], crops: Cache, tmp_path: Path) -> None:
    from graft_common.training import FitConfig

    codes = tiny.mobi_base.latents(model[0], crops, tmp_path / "codes.safetensors")
    losses: list[float] = []
    fit = FitConfig(steps=30, learning_rate=2e-3, warmup=5, decay=0.2, ema=0.5, seed=1)
    learned, fitted = tiny.mobi_base.train(crops, codes, tmp_path, fit, 4, on_step=lambda step, loss, rate: losses.append(loss))
    assert fitted.step == 30
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    level = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod[200]
    clean = codes["target"][:4, 0]
    inputs = torch.cat((noised(clean, noise, level), codes["context"][:4, 0], codes["keep"][:4, 0]), 1)
    out, _ = learned(inputs, torch.full((4,), 200), crops.references([0] * 4), torch.ones(4, dtype=torch.bool))
    wanted = target(clean, noise, level, "v_prediction")
    assert float(torch.corrcoef(torch.stack((out.flatten(), wanted.flatten())))[0, 1]) > 0.3


@pytest.mark.slow
def test_all_stages_in_small(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three scenes, two steps a stage: a folder that edits; a second call does nothing."""
    monkeypatch.setattr(tiny.mobi, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(tiny.mobi_sheets, "COLUMNS", 2)
    config = tiny.mobi.MobiConfig(
        out=tmp_path / "run", scenes=3, empty=4, vae_steps=2, vae_batch=4, base_steps=2, base_batch=2, range_steps=2, joint_steps=2,
        batch=2, precision="no",
    )  # fmt: skip
    tiny.mobi.run(config)
    for name in ("vae.png", "base.png", "joint.png"):
        assert (config.out / name).stat().st_size > 1000
    settings = DenoiseConfig(weights=str(tmp_path / "shipped"), steps=2)
    mobi = load_mobi(settings)
    assert mobi.joint.parts == "all" and mobi.joint.hidden == tiny.mobi.HIDDEN
    crops = tiny.mobi.cache(config)
    rows = crops.usable.nonzero()[0].tolist()[:2]
    painted = inpaint(mobi, crops.batch(rows, torch.Generator().manual_seed(0)), [0, 1], settings)
    assert painted.camera.shape == (2, 3, 128, 128) and painted.lidar.isfinite().all()
    files = [p for p in tmp_path.rglob("*") if p.is_file() and "shipped" not in p.parts and "bundle" not in p.parts]
    before = {p: p.stat().st_mtime_ns for p in files}
    tiny.mobi.run(config)
    assert all(p.stat().st_mtime_ns == before[p] for p in files)
