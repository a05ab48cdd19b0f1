"""The real path without real weights: Stable Diffusion 2.1-base in full size, random, in the public layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 8 << 30

# Peak of the child alone: a process of its own measures itself when it is done.
RUN = """
import resource, sys
from tficomp.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""
LOAD = """
import sys, torch
from diffusers import StableDiffusionPipeline
p = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16, local_files_only=True)
print(*(sum(w.numel() for w in part.parameters()) for part in (p.unet, p.text_encoder, p.vae)), p.tokenizer.pad_token_id)
"""


def child(*words):
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def sd21(tmp_path_factory):
    """2.6 GB in bfloat16; removed at the end, so that a test run leaves no such weight behind."""
    import shutil

    folder = tmp_path_factory.mktemp("full") / "sd21"
    child(ROOT / "tools/random_bundle.py", "sd21", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_diffusers_loads_it(sd21):
    assert child("-c", LOAD, sd21).split() == ["865910724", "340387840", "83653863", "0"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_compose_at_512_in_8_gigabytes(sd21, tmp_path):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]
    disc = (y - 256) ** 2 + (x - 256) ** 2 < 100**2
    box = np.zeros((512, 512), np.uint8)
    box[160:340, 200:380] = 255
    arrays = {
        "background": rng.integers(40, 120, (512, 512), np.uint8), "object": np.where(disc, 200, 60).astype(np.uint8),
        "object_mask": disc.astype(np.uint8) * np.uint8(255), "user_mask": box,
    }  # fmt: skip
    words = []
    for role, array in arrays.items():
        Image.fromarray(array).save(tmp_path / f"{role}.png")
        words += [f"--{role.replace('_', '-')}", tmp_path / f"{role}.png"]
    said = child(
        "-c", RUN, "compose", *words, "--weights", sd21, "--steps", "2", "--size", "512", "--dtype", "bfloat16", "--device",
        "cpu", "--prompt", "An MRI scan of a cancerous brain", "--out", tmp_path / "out", "--paste-back",
    )  # fmt: skip
    peak = int(said.split()[-1])
    record = json.loads((tmp_path / "out/run.json").read_text())
    print(f"peak {peak / 2**30:.2f} GiB, stages {record['stages']}")
    assert peak < LIMIT
    assert record["measures"]["network_calls"] == 2 + 2 + 1 and record["weights"]["name"] == "sd21"
    with Image.open(tmp_path / "out/result.png") as image:
        result = np.asarray(image)
    background = arrays["background"]
    assert result.shape == (512, 512) and np.array_equal(result[box == 0], background[box == 0])
    assert (result[box > 0] != background[box > 0]).mean() > 0.9
