"""insert and remove through the real network with random weights: a folder on disk, a command, files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mobi.cli import main
from mobi.nuscenes_tables import read_tables

SCHEDULE = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "skip_prk_steps": True, "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip


def write_weights(folder: Path, drops: str = "separate") -> Path:
    """The smallest network of the right kinds for crops of 64 px."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionConfig

    from mobi.bundle import Base, Joint, save_mobi, start_mobi
    from mobi.image_encoder import PaintByExampleImageEncoder

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=9, out_channels=4, layers_per_block=1, block_out_channels=(32, 32), norm_num_groups=8,
        attention_head_dim=4, cross_attention_dim=16, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16,) * 3, latent_channels=4, norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=112,
        projection_dim=16,
    )  # fmt: skip
    base = Base("narrow", Path("narrow"), unet, vae, PaintByExampleImageEncoder(vision), SCHEDULE)
    save_mobi(folder, start_mobi(base, 1, Joint(hidden=20, drops=drops)))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "narrow")


def test_random_weights(tree: Path, weights: Path, tmp_path: Path) -> None:
    tables = read_tables(tree)
    data = tables.data(next(iter(tables.rows["sample"])))
    lidar, camera = data["LIDAR_TOP"], data["CAM_FRONT"]
    calib = {"K": tables.intrinsics(camera).tolist(), "lidar_to_camera": tables.lidar_to_camera(lidar, camera).tolist()}
    (tmp_path / "calib.json").write_text(json.dumps(calib))
    shutil.copy(tables.path(camera), tmp_path / "image.jpg")
    args = ["--image", str(tmp_path / "image.jpg"), "--sweep", str(tables.path(lidar)), "--calib", str(tmp_path / "calib.json")]
    args += ["--box", "-0.5,9,-1,0.8,0.8,1.8,0.5", "--weights", str(weights), "--steps", "2", "--seed", "3"]
    reference = ["--reference", str(tmp_path / "image.jpg")]
    for name, more in (("a", reference), ("b", reference), ("c", [*reference, "--guidance", "2"])):
        assert main(["insert", *args, *more, "--out", str(tmp_path / name)]) == 0
    assert main(["remove", *args, "--out", str(tmp_path / "d")]) == 0
    sweeps = [(tmp_path / name / "sweep.pcd.bin").read_bytes() for name in "abcd"]
    images = [(tmp_path / name / "image.png").read_bytes() for name in "abcd"]
    assert images[0] == images[1] and sweeps[0] == sweeps[1] and images[0] != images[2] and images[0] != images[3]
    run, said = (json.loads((tmp_path / "a" / name).read_text()) for name in ("run.json", "edit.json"))
    assert run["weights"]["name"] == "narrow" and len(run["weights"]["sha256"]) == 64
    source = np.fromfile(tables.path(lidar), np.float32).reshape(-1, 5)
    points = np.frombuffer(sweeps[0], np.float32).reshape(-1, 5)
    assert len(points) == said["n_kept"] + said["n_new"] and said["n_kept"] + said["n_removed"] == len(source)


def test_repeat_from_the_record(tree: Path, weights: Path, tmp_path: Path) -> None:
    """--config run.json brings back every setting, the box with its leading minus included; paths are given again."""
    tables = read_tables(tree)
    data = tables.data(next(iter(tables.rows["sample"])))
    calib = {"K": tables.intrinsics(data["CAM_FRONT"]).tolist()}
    calib["lidar_to_camera"] = tables.lidar_to_camera(data["LIDAR_TOP"], data["CAM_FRONT"]).tolist()
    (tmp_path / "calib.json").write_text(json.dumps(calib))
    paths = ["--image", str(tables.path(data["CAM_FRONT"])), "--sweep", str(tables.path(data["LIDAR_TOP"]))]
    paths += ["--calib", str(tmp_path / "calib.json"), "--weights", str(weights)]
    first = ["--box", "-0.5,9,-1,0.8,0.8,1.8,0.5", "--steps", "1", "--no-z-test", "--seed", "9"]
    assert main(["remove", *paths, *first, "--out", str(tmp_path / "a")]) == 0
    assert main(["remove", *paths, "--config", str(tmp_path / "a" / "run.json"), "--out", str(tmp_path / "b")]) == 0
    one, two = (json.loads((tmp_path / name / "run.json").read_text())["config"] for name in "ab")
    assert {**one, "out": 0} == {**two, "out": 0} and two["box"].startswith("-0.5") and two["z_test"] is False
    assert (tmp_path / "a" / "image.png").read_bytes() == (tmp_path / "b" / "image.png").read_bytes()


def test_separate_scales_are_refused_before_anything_is_written(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By weights that know only the joint drop."""
    joint = write_weights(tmp_path / "joint", drops="joint")
    sample = next(iter(read_tables(tree).rows["sample"]))
    (tmp_path / "m.csv").write_text(f'sample,camera,task,box\n{sample},CAM_FRONT,remove,"-0.5,9,-1,0.8,0.8,1.8,0.5"\n')
    args = ["batch", "--root", str(tree), "--manifest", str(tmp_path / "m.csv"), "--weights", str(joint), "--steps", "1"]
    assert main([*args, "--box-guidance", "2", "--out", str(tmp_path / "out")]) == 2
    assert "--box-guidance 2" in capsys.readouterr().err and not (tmp_path / "out").exists()
