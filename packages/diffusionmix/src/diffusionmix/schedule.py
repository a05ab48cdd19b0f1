"""The order in which states are visited (spec 2.1, 2.5): state T is noise, state 0 is clean."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import SupportsFloat

from graft_common.errors import InputError

REFERENCE = 250  # the number of states that --tau is meant for


def times(T: int, tau: int, r: int, anchors: Iterable[int] = (0,)) -> list[int]:
    """States in the order of their visits: T down to 0, with `r` climbs of `tau` states from every anchor.

    A climb starts each time an anchor with visits left is reached (spec 2.5). With the default anchor the length is
    T + 1 + 2 r tau, of which T + r tau moves run the networks. RePaint's anchors are 1, 1 + tau, ...

    Raises:
        ValueError: a negative number, or an anchor from which a climb would leave 0..T.
    """
    visits = dict.fromkeys(anchors, r if tau > 0 else 0)
    if T < 1 or tau < 0 or r < 0:
        raise ValueError(f"T is {T}, tau {tau}, r {r}; T must be 1 or more, tau and r 0 or more")
    if r and (bad := [a for a in visits if not 0 <= a <= T - tau]):
        raise ValueError(f"anchor {bad[0]} with tau {tau} leaves the states 0..{T}; take a smaller tau")
    seen = [T]
    while seen[-1] > 0 or visits.get(0):
        state = seen[-1]
        if visits.get(state):
            visits[state] -= 1
            seen += range(state + 1, state + tau + 1)
        else:
            seen.append(state - 1)
    return seen


def merge_start(T: int, start: SupportsFloat | None) -> int | None:
    """t_merge, the highest state that is merged, where merging begins at the denoised share `start`; None is never.

    Rounded, not floored: (1 - 0.9) * 250 is 24.999999999999993 (spec 2.4 #7).
    """
    return None if start is None else round((1 - float(start)) * T)


def scaled_tau(T: int, tau: int, t_merge: int | None) -> int:
    """States of one climb for a `tau` that is meant for T = 250: min(t_merge, max(1, round(tau T / 250)))."""
    if tau == 0 or not t_merge:
        return 0
    return min(t_merge, max(1, round(tau * T / REFERENCE)))


def repaint_anchors(tau: int, t_merge: int | None) -> tuple[int, ...]:
    """Anchors k tau from which a climb stays in the merge window (the schedule of RePaint inside that window)."""
    return tuple(range(0, t_merge - tau + 1, tau)) if t_merge and tau else (0,)


@dataclass(frozen=True)
class Plan:
    """Resolved schedule.

    Attributes:
        times: states in the order of visits.
        t_merge: highest merged state; None where nothing is merged.
        tau: climb in states.
        r: climbs from each anchor that happen.
        anchors: states from which climbs start.
    """

    times: tuple[int, ...]
    t_merge: int | None
    tau: int
    r: int
    anchors: tuple[int, ...]

    @property
    def reverse_steps(self) -> int:
        """Calls of each network."""
        return sum(b < a for a, b in pairwise(self.times))


def plan(T: int, tau: int, tau_steps: int | None, r: int, start: SupportsFloat | None, repaint: bool = False) -> Plan:
    """Schedule for T states.

    Args:
        tau: climb for T = 250, scaled to T.
        tau_steps: climb in states, instead of `tau`.
        r: extra climbs (RePaint's number of passes less one).
        start: denoised share at which merging begins; None never merges, and then nothing climbs either.
        repaint: climb from every multiple of tau in the merge window instead of from the clean state alone.

    Raises:
        InputError: `tau_steps` leaves the merge window (spec 2.4 #14).
    """
    t_merge = merge_start(T, start)
    climb = scaled_tau(T, tau, t_merge)
    if tau_steps is not None:
        if t_merge is not None and tau_steps > t_merge:
            raise InputError(
                f"--tau-steps {tau_steps}: a climb would leave the merge window, which is states 0 to {t_merge} of {T}; "
                f"give {t_merge} or less, or an earlier --start"
            )
        climb = 0 if t_merge is None else tau_steps
    again = r if climb else 0
    anchors = repaint_anchors(climb, t_merge) if repaint else (0,)
    return Plan(tuple(times(T, climb, again, anchors)), t_merge, climb if again else 0, again, anchors)
