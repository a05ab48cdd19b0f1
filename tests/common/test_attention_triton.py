"""The Triton kernels: in Triton's interpreter on the CPU, compiled for real architectures, and on a card when there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed on this platform")
CASES = Path(__file__).with_name("attention_triton_cases.py")
SMALLEST_SHARED = 101_376  # bytes a block may have on the smallest cards of the architectures below


def run(*arguments: str, **environment: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(CASES), *arguments],
        check=False, capture_output=True, text=True, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_kernels_equal_the_reference_in_the_interpreter():
    found = run("errors", "cpu", TRITON_INTERPRET="1")
    assert len(found) == 16
    assert {name: error for name, error in found.items() if error >= 1} == {}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_kernels_compile_and_fit_every_card_of_the_architecture(architecture, tmp_path):
    found = run("shared", architecture, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) == 18
    assert {name: size for name, size in found.items() if size > SMALLEST_SHARED} == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_equal_the_reference_on_a_card(tmp_path):
    found = run("errors", "cuda", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert len(found) == 24
    assert {name: error for name, error in found.items() if error >= 1} == {}
