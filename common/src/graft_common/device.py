"""--device and --dtype as typed -> where a network runs and in which precision."""

import torch

from graft_common.errors import InputError


def pick_device(name: str) -> torch.device:
    """The device that auto, cpu or cuda stands for; auto takes a GPU when there is one.

    Raises:
        InputError: a GPU is asked for where there is none.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("--device cuda: no GPU is available; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and there else "cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision that auto, float32, bfloat16 or float16 stands for; auto is float32 on the CPU and bfloat16 on a GPU."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
