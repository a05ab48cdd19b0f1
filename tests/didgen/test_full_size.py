"""Stable Diffusion 2.1-base in full size, random, with the placeholders: `pairs` at 512 px on a CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 12 << 30
RUN = """
import resource, sys
from didgen.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""


def child(*words, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    y, x = np.mgrid[:512, :512]
    Image.fromarray((((y - 256) ** 2 + (x - 200) ** 2 < 100**2) * 255).astype(np.uint8)).save(folder / "disc.png")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("placeholders", [True, False])
def test_pairs_at_512_in_12_gigabytes(placeholders, layouts, tmp_path):
    folder = tmp_path / "sd21"
    child(ROOT / "tools/random_bundle.py", "sd21", folder, *(["--placeholders"] if placeholders else []))
    argv = ["pairs", "--layouts", layouts, "--weights", folder, "--steps", "2", "--dtype", "bfloat16", "--device", "cpu"]
    argv += ["--out", tmp_path / "out"]
    try:
        if not placeholders:
            assert "graft-didgen train" in child("-c", RUN, *argv, code=2)
            return
        said = child("-c", RUN, *argv)
        peak, record = int(re.findall(r"^peak (\d+)$", said, re.MULTILINE)[-1]), json.loads((tmp_path / "out/run.json").read_text())
        print(f"peak {peak / 2**30:.2f} GiB, stages {record['stages']}")
        assert peak < LIMIT and record["measures"]["network_calls"] == 2 + 1
        with Image.open(tmp_path / "out/image/disc.png") as image, Image.open(tmp_path / "out/mask/disc.png") as mask:
            assert image.size == mask.size == (512, 512)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
