"""MObI's folder: written, read, refused; the random bundles at full size on the meta device (section 8, property 17)."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graft_common.checkpoint import load_weights, read_config, save_weights
from graft_common.errors import InputError
from graft_common.settings import ModelConfig

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def writer() -> Any:
    sys.path.insert(0, str(TOOLS))  # it imports tools/tiny and tools/random_pbe.py
    spec = importlib.util.spec_from_file_location("graft_tools_random_bundle_mobi", TOOLS / "random_bundle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def folder(writer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`random_bundle.py mobi-tiny`; do not change it."""
    path = tmp_path_factory.mktemp("bundle") / "mobi-tiny"
    assert writer.main(["mobi-tiny", str(path), "--dtype", "float32"]) == 0
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def load(path: Path) -> Any:
    from mobi.bundle import load_mobi

    return load_mobi(ModelConfig(weights=str(path), device="cpu"))


def states(mobi: Any) -> dict[str, torch.Tensor]:
    from mobi.bundle import joint_tensors
    from mobi.joint import base_state

    parts = {"unet": base_state(mobi.unet), "own": joint_tensors(mobi), "range": mobi.range_vae.state_dict()}
    parts |= {"vae": mobi.vae.state_dict(), "image_encoder": mobi.image_encoder.state_dict()}
    return {f"{name}/{key}": t for name, tensors in parts.items() for key, t in tensors.items()}


def test_every_stored_value_arrives_where_its_key_says(folder: Path) -> None:
    mobi = load(folder)
    got = states(mobi)
    for key, t in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items():
        assert torch.equal(got[f"unet/{key}"], t), key
    for key, t in load_file(folder / "image_encoder/model.safetensors").items():
        if not key.endswith("position_ids"):
            assert torch.equal(got[f"image_encoder/{key.replace('model.vision_model.', 'model.')}"], t), key
    for key, t in load_weights(folder / "joint.safetensors").items():
        assert torch.equal(got[f"own/{key}"], t), key
    stored = load_file(folder / "vae/diffusion_pytorch_model.safetensors")["decoder.mid_block.attentions.0.proj_attn.weight"]
    assert torch.equal(mobi.vae.decoder.mid_block.attentions[0].to_out[0].weight, stored)
    assert (mobi.size, mobi.factor, mobi.channels) == (64, 8, 4) and mobi.range_vae.vae is mobi.vae
    assert not any(p.requires_grad for m in (mobi.unet, mobi.vae, mobi.range_vae, mobi.box_encoder) for p in m.parameters())


def test_saved_folder_loads_the_same_and_diffusers_classes_load_its_parts(folder: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from mobi.bundle import save_mobi

    mobi = load(folder)
    before = {key: t.clone() for key, t in states(mobi).items()}
    save_mobi(tmp_path / "again", mobi, half=False)
    again = load(tmp_path / "again")
    after = states(again)
    assert again.joint == mobi.joint and before.keys() == after.keys()
    assert all(torch.equal(after[key], t) for key, t in before.items())

    stock = UNet2DConditionModel.from_pretrained(tmp_path / "again", subfolder="unet").state_dict()
    assert all(torch.equal(t, before[f"unet/{key}"]) for key, t in stock.items())
    AutoencoderKL.from_pretrained(tmp_path / "again", subfolder="vae")
    assert DDIMScheduler.from_pretrained(tmp_path / "again", subfolder="scheduler").config.beta_end == 0.012

    save_mobi(tmp_path / "half", mobi)
    half = states(load(tmp_path / "half"))
    assert all(torch.equal(half[key], t.half().float()) for key, t in before.items() if t.is_floating_point())
    size = sum(p.stat().st_size for p in (tmp_path / "half").rglob("*.safetensors"))
    full = sum(p.stat().st_size for p in (tmp_path / "again").rglob("*.safetensors"))
    assert size < 0.65 * full
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "half").rglob("*.json"))


def test_features_are_found_under_either_name(copied: Path) -> None:
    (copied / "feature_extractor").rename(copied / "image_processor")
    load(copied)


def break_header(path: Path, **changes: Any) -> None:
    save_weights(path, load_weights(path), read_config(path) | changes)


def lose_weight(path: Path, name: str) -> None:
    tensors = load_file(path)
    del tensors[next(key for key in tensors if name in key)]
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BROKEN = {
    "only a base": (lambda f: (f / "joint.safetensors").unlink(), "has no joint.safetensors, so it is only a base"),
    "no range parts": (lambda f: (f / "range_vae.safetensors").unlink(), "has no range_vae.safetensors"),
    "cut short": (lambda f: (f / "joint.safetensors").write_bytes(b"\x10" * 99), "cannot be read as safetensors"),
    "of another network": (lambda f: break_header(f / "joint.safetensors", hidden=16), "does not fit the network"),
    "unknown order": (lambda f: break_header(f / "joint.safetensors", order="random"), "header of .* is damaged"),
    "unknown drops": (lambda f: break_header(f / "joint.safetensors", drops=None), "header of .* is damaged"),
    "pickle": (
        lambda f: (f / "image_encoder/model.safetensors").rename(f / "image_encoder/pytorch_model.bin"),
        "image_encoder/pytorch_model.bin is a pickle",
    ),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "vae has no safetensors"),
    "no features": (lambda f: shutil.rmtree(f / "feature_extractor"), "has no preprocessor_config.json"),
    "other features": (
        lambda f: edit_json(f / "feature_extractor/preprocessor_config.json", image_mean=[0.5, 0.5, 0.5]),
        "feature_extractor says image_mean",
    ),
    "encoder lacks a weight": (
        lambda f: lose_weight(f / "image_encoder/model.safetensors", "mapper.blocks.0.norm1.weight"),
        "image_encoder has missing keys: mapper.blocks.0.norm1.weight",
    ),
    "other picture size": (lambda f: edit_json(f / "image_encoder/config.json", image_size=112), "112 pixels"),
    "no schedule": (lambda f: (f / "scheduler/scheduler_config.json").write_text("{}"), "names no beta_schedule"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "has no model_index.json"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_folders_are_refused(copied: Path, name: str) -> None:
    damage, said = BROKEN[name]
    damage(copied)
    with pytest.raises(InputError, match=said) as error:
        load(copied)
    assert "\n" not in str(error.value) and str(copied) in str(error.value)


def test_unknown_names_are_refused_and_a_hub_id_is_fetched_in_this_layout(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft_common import bundle as bundles
    from mobi.bundle import FILES, load_base

    with pytest.raises(InputError, match=r"--weights no-such: no such bundle"):
        load_base("no-such")
    with pytest.raises(InputError, match=r"--weights \./no/such: no such bundle"):
        load_base("./no/such")
    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(bundles, "_fetch", lambda hub_id, files: asked.append((hub_id, files)) or folder)
    assert load_base("owner/model").name == "owner/model" and asked == [("owner/model", FILES)]
    assert "image_encoder/config.json" in FILES


def test_new_model_depends_on_its_seed_alone_and_leaves_the_global_generator(folder: Path) -> None:
    from mobi.bundle import load_base, start_mobi

    bases = [load_base(str(folder)) for _ in range(3)]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (states(start_mobi(base, seed)) for base, seed in zip(bases, (1, 1, 2), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, same[key]) for key, t in one.items())
    assert not torch.equal(one["own/box_encoder.null"], other["own/box_encoder.null"])
    gates = [t for key, t in one.items() if ".gate." in key]
    assert len(gates) == 2 * 3 * 16 and not any(bool(t.any()) for t in gates)


def test_counts_at_full_size(writer: Any) -> None:
    """Property 17, and the base's public counts; nothing is allocated."""
    import random_pbe

    configs = random_pbe.configs("mobi", writer.UNET, writer.VAE, writer.SCHEDULER)
    unet, vae = configs["unet/config.json"], configs["vae/config.json"]

    def count(tensors: dict[str, torch.Tensor], *among: str) -> int:
        return sum(t.numel() for key, t in tensors.items() if not among or any(name in key for name in among))

    own = random_pbe.own_states("mobi", unet, vae)
    joint, header = own["joint.safetensors"]
    assert count(joint, ".adapter.") == 56_390_400
    assert count(joint, ".to_camera.", ".to_lidar.") == 124_003_840
    assert count(joint, "box_encoder.") - joint["box_encoder.null"].numel() == 1_217_024
    assert joint["box_encoder.null"].shape == (768,)
    assert count(joint) == 181_612_032
    assert header == {"order": "sequential", "drops": "separate", "hidden": 512, "parts": "adapters", "guidance": 5.0}
    assert count(own["range_vae.safetensors"][0]) == 661_634
    shapes = writer.unet_shapes(unet)
    assert sum(torch.Size(shape).numel() for shape, _ in shapes.values()) == 859_520_964 + 5 * 320 * 9
    assert shapes["conv_in.weight"][0] == (320, 9, 3, 3)
    encoder = random_pbe.encoder_state(configs["image_encoder/config.json"])
    assert count({k: t for k, t in encoder.items() if k.startswith("model.vision_model.") and t.is_floating_point()}) == 303_179_776
    # five blocks of an attention (q, k, v, out with bias), a 4x feed-forward and two norms; then norm, projection, vector
    block = 4 * (1024**2 + 1024) + 2 * 4 * 1024**2 + 5 * 1024 + 2 * 2 * 1024
    assert count(encoder, "mapper.") == 5 * block
    assert count(encoder, "final_layer_norm", "proj_out", "uncond_vector") == 2 * 1024 + 768 * 1025 + 768
    assert random_pbe.own_states("pbe", unet, vae) == {}


@pytest.mark.slow
def test_full_size_bundle_loads_and_runs_two_steps(writer: Any, tmp_path: Path) -> None:
    from mobi.bundle import load_mobi
    from mobi.config_denoise import DenoiseConfig
    from mobi.denoise import inpaint
    from mobi.records import Crops

    path, side = tmp_path / "mobi", 256
    assert writer.main(["mobi", str(path), "--dtype", "bfloat16"]) == 0
    config = DenoiseConfig(weights=str(path), steps=2, dtype="bfloat16")
    mobi = load_mobi(config)
    assert mobi.size == 512
    keep = torch.ones(1, 1, side, side)
    keep[..., 64:192, 64:192] = 0
    crops = Crops(
        camera=torch.zeros(1, 3, side, side), lidar=torch.zeros(1, 2, side, side), camera_keep=keep, lidar_keep=keep,
        reference=torch.zeros(1, 3, 224, 224), camera_box=torch.rand(1, 8, 3), lidar_box=torch.rand(1, 8, 3),
    )  # fmt: skip
    painted = inpaint(mobi, crops, [0], config)
    assert painted.camera.shape == (1, 3, side, side) and painted.lidar.shape == (1, 2, side, side)
    assert bool(painted.camera.isfinite().all()) and bool(painted.lidar.isfinite().all())
