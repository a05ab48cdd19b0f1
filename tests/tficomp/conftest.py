"""What the tests of tficomp share: a tiny random bundle, pictures on disk, and the command as one call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random, very small Stable Diffusion: 32 px, VAE factor 4, two levels, 77 positions."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from graft_common import bundle

    torch.manual_seed(0)
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 324))]
    merges = [("t", "u"), ("tu", "m"), ("tum", "o"), ("tumo", "r</w>")]
    words = [*(c + "</w>" for c in letters), *(a + b for a, b in merges)]
    tokens = [*letters, *words, "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=77)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=2,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, layers_per_block=1,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=77, projection_dim=32, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("weights") / "random"
    bundle.save(folder, unet=unet, vae=vae, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler)
    return folder


@pytest.fixture
def command() -> Callable[..., int]:
    """`command("compose", "--out", path)`: the command line in this process; returns the exit code."""
    from tficomp.cli import main

    return lambda *words: main([str(word) for word in words])


@pytest.fixture(scope="session")
def sample_files() -> Callable[..., dict[str, Path]]:
    """Write one sample (48 x 40 px, noise, a round lesion, a box) into a folder; role -> path."""

    def write(folder: Path, seed: int = 0) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([7, seed])
        y, x = np.mgrid[:40, :48]
        lesion = (y - 20) ** 2 + (x - 24) ** 2 < 64
        user = np.zeros((40, 48), bool)
        user[8:26, 14 + seed % 4 : 34] = True
        arrays: dict[str, Any] = {
            "background": rng.integers(40, 200, (40, 48), np.uint8),
            "object": np.where(lesion, 240, rng.integers(20, 120, (40, 48))).astype(np.uint8),
            "object_mask": lesion.astype(np.uint8) * np.uint8(255),
            "user_mask": user.astype(np.uint8) * np.uint8(255),
        }
        for role, array in arrays.items():
            Image.fromarray(array).save(folder / f"{role}.png")
        return {role: folder / f"{role}.png" for role in arrays}

    return write
