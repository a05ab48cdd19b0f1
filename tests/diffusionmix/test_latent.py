"""The latent variant on tiny-sd's VAE, with random networks."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffusionmix.box import Box
from diffusionmix.compose import checked_scenes, merge, sample_backgrounds
from diffusionmix.config import MergeConfig
from diffusionmix.latent import encode_background, encode_object, save_codec
from diffusionmix.records import Placed
from diffusionmix.weights import load_mix
from graft_common import bundle
from graft_common.errors import InputError


@pytest.fixture(scope="module")
def latent_bundle(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL, DDPMScheduler

    folder = tmp_path_factory.mktemp("latent")
    for role, channels, size in (("object", 5, 8), ("background", 4, 16)):
        build.unet(channels, size=size).save_pretrained(folder / f"{role}_unet")
        DDPMScheduler(clip_sample=False).save_pretrained(folder / f"{role}_scheduler")
    (folder / "mix.json").write_text(json.dumps({"schema": 1, "classes": [], "boxes": []}))
    save_codec(AutoencoderKL.from_pretrained(bundle.shipped()["tiny-sd"] / "vae", torch_dtype=torch.float32), folder)
    return folder


def test_merges_in_cells(latent_bundle: Path) -> None:
    mix = load_mix(MergeConfig(weights=str(latent_bundle)))
    assert (mix.factor, mix.object_size, mix.background_size, mix.object.channels) == (4, 32, (64, 64), 5)
    settings = MergeConfig(steps=6, start=0.5)
    box = Box(9, 6, 34, 33)
    result = merge(mix, [box], [3], settings)[0]
    assert result.image.shape == (64, 64, 3) and result.object.shape == (32, 32, 3) and result.object_mask.shape == (32, 32)
    inside = np.zeros((64, 64), bool)
    inside[box.y : box.y + box.h, box.x : box.x + box.w] = True
    assert not result.mask[~inside].any() and result.mask.any()
    cells = result.mask.reshape(16, 4, 16, 4)
    np.testing.assert_array_equal(cells.any((1, 3)), cells.all((1, 3)))
    never = merge(mix, [box], [3], MergeConfig(steps=6, start="none"))[0]
    np.testing.assert_array_equal(never.image, sample_backgrounds(mix, [3], settings)[0])


def test_what_the_models_are_trained_on(latent_bundle: Path) -> None:
    mix = load_mix(MergeConfig(weights=str(latent_bundle)))
    judge = bundle.load("tiny-sd")
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(encode_background(mix.codec, pixels), bundle.encode(judge, pixels), rtol=1e-4, atol=1e-4)
    z = bundle.encode(judge, pixels)
    torch.testing.assert_close(mix.codec.decode(z), bundle.decode(judge, z), rtol=1e-4, atol=1e-4)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :6, :9] = 1
    found = encode_object(mix.codec, pixels, mask)
    assert found.shape == (1, 5, 8, 8)
    expected = torch.full((8, 8), -1.0)
    expected[:2, :2] = 1  # six rows are a cell and a half, nine columns two cells and a quarter
    assert torch.equal(found[0, 4], expected)


def test_refuses_boxes_without_a_whole_cell(build: Any) -> None:
    mix = replace(build.mix(), codec=SimpleNamespace(factor=8))
    settings = MergeConfig(steps=8)
    checked_scenes(mix, [[Placed(Box(8, 16, 8, 8))]], [0], settings, None)
    with pytest.raises(InputError, match=r"--box 9,16,8,8: holds no whole cell of 8x8 pixels.*16 or more"):
        checked_scenes(mix, [[Placed(Box(9, 16, 8, 8))]], [0], settings, None)


def test_refuses_photographs_and_pixel_models(latent_bundle: Path, random_bundle: Path) -> None:
    mix = load_mix(MergeConfig(weights=str(latent_bundle)))
    with pytest.raises(InputError, match="a latent mix cannot keep a photograph's own pixels"):
        merge(mix, [Box(0, 0, 32, 32)], [0], MergeConfig(steps=2), photo=np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(InputError, match="one model works on latents and the other on pixels"):
        load_mix(MergeConfig(weights=str(latent_bundle), background=random_bundle))
