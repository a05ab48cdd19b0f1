"""The verb `schedule`: the order of the states and what it costs."""

import sys
from itertools import groupby, pairwise
from typing import Any

from diffusionmix.config import ScheduleConfig
from diffusionmix.schedule import REFERENCE, Plan, plan, scaled_tau


def run_schedule(config: ScheduleConfig, command: list[str]) -> dict[str, Any]:
    """Print the schedule as text, or return it for --json.

    Raises:
        InputError: numbers that cannot work.
    """
    config.check()
    start = None if config.start == "none" else float(config.start)
    found = plan(config.T, config.tau, config.tau_steps, config.r, start, config.schedule == "repaint")
    up = sum(b > a for a, b in pairwise(found.times))
    tau, states = climb(found, config)
    if not config.json:
        print(text(found, config), file=sys.stdout)
    return {
        "times": list(found.times), "reverse_steps": found.reverse_steps, "forward_steps": up, "entries": len(found.times),
        "network_calls_per_model": found.reverse_steps, "T": config.T, "tau": tau, "tau_steps": states, "r": found.r,
        "t_merge": found.t_merge, "anchors": list(found.anchors), "schedule": config.schedule,
    }  # fmt: skip


def climb(found: Plan, config: ScheduleConfig) -> tuple[float | int, int]:
    """Length of a climb for T = 250 and in states, whichever was given, also where --r 0 climbs nowhere."""
    if config.tau_steps is None:
        return config.tau, scaled_tau(config.T, config.tau, found.t_merge)
    return config.tau_steps * REFERENCE / config.T, config.tau_steps if found.t_merge is not None else 0


def text(found: Plan, config: ScheduleConfig) -> str:
    """A few lines: runs of descending or climbing states, and the cost."""
    turns = [found.times[0]]
    moves = [(b - a, b) for a, b in pairwise(found.times)]
    for _, run in groupby(moves, key=lambda move: move[0]):
        turns.append(list(run)[-1][1])
    shown = " -> ".join(map(str, turns if len(turns) <= 14 else [*turns[:10], "...", *turns[-3:]]))
    merged = "never" if found.t_merge is None else f"at states 0 to {found.t_merge}"
    tau, states = climb(found, config)
    typed = f"--tau {config.tau}" if config.tau_steps is None else f"--tau-steps {config.tau_steps}"
    return (
        f"states    {shown}\nmerging   {merged} of {config.T}\nclimbs    {found.r} from each of {len(found.anchors)} states, "
        f"{states} states long, tau {tau:g} of {REFERENCE}: {typed}\n"
        f"cost      {found.reverse_steps} calls of each network, {len(found.times)} entries"
    )
