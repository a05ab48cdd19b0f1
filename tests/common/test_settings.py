"""Settings of every network verb, and what --device and --dtype stand for."""

from dataclasses import fields

import pytest
import torch

from graft_common.device import pick_device, pick_dtype
from graft_common.errors import InputError
from graft_common.settings import ModelConfig


def test_the_methods_share_the_flags():
    from didgen.config import ModelConfig as Didgen
    from tficomp.config import ModelConfig as Tficomp

    names = [f.name for f in fields(ModelConfig)]
    assert names == ["weights", "device", "dtype", "compile", "seed", "json"]
    for kind, weights in ((Didgen, "tiny-didgen"), (Tficomp, "tiny-sd")):
        assert [f.name for f in fields(kind)] == names and kind().weights == weights
        with pytest.raises(InputError, match="--seed -1: must be 0 or more"):
            kind(seed=-1).check()
        kind().check()


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert pick_device("auto").type == ("cuda" if gpu else "cpu") and pick_device("cpu").type == "cpu"
    if gpu:
        assert pick_device("cuda").type == "cuda"
    else:
        with pytest.raises(InputError, match="--device cuda: no GPU is available; use --device cpu or auto"):
            pick_device("cuda")


def test_auto_is_half_precision_on_a_gpu_alone():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [pick_dtype("auto", d) for d in (cpu, gpu)] == [torch.float32, torch.bfloat16]
    for name in ("float32", "bfloat16", "float16"):
        assert pick_dtype(name, cpu) == pick_dtype(name, gpu) == getattr(torch, name)
