"""Pictures per second of diffusionmix on a card: the paper's networks at 256 px with random weights, 50 calls of each.

Eager and compiled run in turn on the same seeds, so that whatever else touches the card touches both.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

from diffusionmix.box import Box
from diffusionmix.compose import merge
from diffusionmix.config import MergeConfig
from diffusionmix.network import NetworkName, Role, make_network, make_scheduler, plan_of
from diffusionmix.records import Mix
from diffusionmix.weights import network
from timer import note

AIM, GAIN = 1.5, 1.3  # pictures per second, and compiled over eager
TURNS = 3


@dataclass(frozen=True)
class Case:
    """What is measured: size in pixels of both networks, pictures a pass, states."""

    name: NetworkName = "paper"
    size: int = 256
    batch: int = 8
    states: int = 50
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16


def make_mix(case: Case, compiled: bool) -> Mix:
    """An object and a background network of the named size, with the same random weights for every call."""
    torch.manual_seed(0)

    def net(role: Role) -> Any:
        unet = make_network(role, case.size, plan_of(role, case.size, case.name), 0, "learned_range")
        scheduler = make_scheduler("learned_range")
        return network(unet.to(case.device, case.dtype), scheduler, role, compiled=compiled)

    return Mix((net("object"),), net("background"))


def seconds(mix: Mix, case: Case) -> float:
    """Wall seconds of one pass; merging takes its values to the host at its end, which waits for the card."""
    side = case.size // 2
    settings = MergeConfig(steps=case.states, r=0)
    began = time.perf_counter()
    merge(mix, [Box(side // 2, side // 2, side, side)] * case.batch, list(range(case.batch)), settings)
    return time.perf_counter() - began


def merging_part(stop: float, case: Case | None = None, kinds: tuple[bool, ...] = (False, True)) -> list[dict[str, Any]]:
    """One line for eager and one for compiled networks.

    Args:
        kinds: whether each is compiled.
    """
    case = case or Case()
    mixes = {compiled: make_mix(case, compiled) for compiled in kinds}
    for compiled, mix in mixes.items():
        note(f"merging: {'compiling and ' if compiled else ''}warming up")
        seconds(mix, case)
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent: dict[bool, list[float]] = {compiled: [] for compiled in kinds}
    for _ in range(TURNS):
        for compiled, mix in mixes.items():
            if time.monotonic() < stop:
                spent[compiled].append(seconds(mix, case))
    lines: list[dict[str, Any]] = []
    for compiled, times in spent.items():
        line: dict[str, Any] = {
            "part": "merging", "compiled": compiled, "network": case.name, "size": case.size, "batch": case.batch,
            "calls": case.states, "dtype": str(case.dtype)[6:], "turns": len(times),
        }  # fmt: skip
        if not times:
            lines.append(line | {"not_run": "the part's time was used up"})
            continue
        rate = case.batch / sorted(times)[len(times) // 2]
        line |= {"pictures_per_second": rate, "aim": AIM}
        if compiled and spent.get(False):
            line |= {"over_eager": rate / lines[0]["pictures_per_second"], "wanted_over_eager": GAIN}
        if case.device == "cuda":
            line["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        lines.append(line)
    return lines
