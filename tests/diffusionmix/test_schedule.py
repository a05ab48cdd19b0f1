"""Spec 7, properties 1 to 4 and 21, the scaling of tau, and the verb `schedule`."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusionmix.config import ScheduleConfig
from diffusionmix.schedule import merge_start, plan, repaint_anchors, scaled_tau, times
from diffusionmix.schedule_verb import run_schedule, text
from graft_common.errors import InputError


def listed(T: int, tau: int, r: int) -> list[int]:
    """The paper's list as spec 2.5 writes it out: down once, then r copies of up and down."""
    hill = [*range(1, tau + 1), *range(tau - 1, -1, -1)]
    return [*range(T, -1, -1), *(hill if tau else []) * r]


@pytest.mark.parametrize(("tau", "r", "entries"), [(10, 1, 271), (10, 2, 291), (10, 0, 251), (0, 3, 251)])
def test_papers_lists(tau: int, r: int, entries: int) -> None:
    found = times(250, tau, r)
    assert found == listed(250, tau, r)
    assert len(found) == entries


@given(st.integers(1, 300), st.integers(0, 40), st.integers(0, 6))
def test_shape_of_any_schedule(T: int, tau: int, r: int) -> None:
    tau = min(tau, T)
    found = times(T, tau, r)
    assert {abs(a - b) for a, b in pairwise(found)} == {1}
    assert found[0] == T and found[-1] == 0 and min(found) == 0 and max(found) == T
    assert len(found) == T + 1 + 2 * r * tau
    assert sum(b < a for a, b in pairwise(found)) == T + r * tau


def test_repaints_own_schedule() -> None:
    found = times(250, 10, 9, anchors=range(1, 232, 10))
    down = sum(b < a for a, b in pairwise(found))
    assert (len(found), down, len(found) - 1 - down) == (4571, 2410, 2160)
    # RePaint's printed list is this minus one: it begins 249, 248 and ends at -1
    assert found[:2] == [250, 249] and found[-1] == 0


@pytest.mark.parametrize(("T", "state"), [(250, 25), (100, 10), (200, 20), (500, 50), (1000, 100)])
def test_merge_start_is_rounded(T: int, state: int) -> None:
    assert merge_start(T, 0.9) == state
    assert merge_start(T, None) is None
    assert merge_start(T, 1) == 0
    assert merge_start(T, 0) == T


@pytest.mark.parametrize(
    ("T", "tau", "t_merge", "states"),
    [(250, 10, 25, 10), (50, 10, 5, 2), (20, 10, 2, 1), (20, 1, 2, 1), (250, 40, 25, 25), (250, 0, 25, 0), (250, 10, 0, 0),
     (250, 10, None, 0), (1000, 10, 100, 40)],
)  # fmt: skip
def test_tau_scales_with_the_steps(T: int, tau: int, t_merge: int | None, states: int) -> None:
    assert scaled_tau(T, tau, t_merge) == states


def test_repaint_anchors_stay_in_the_window() -> None:
    assert repaint_anchors(10, 25) == (0, 10)
    assert repaint_anchors(5, 25) == (0, 5, 10, 15, 20)
    found = plan(250, 10, None, 2, 0.9, repaint=True)
    assert max(found.times[found.times.index(0) :]) <= 20
    assert found.reverse_steps == 250 + 2 * 2 * 10


@pytest.mark.parametrize(("sampler", "T", "calls"), [("ddpm", 250, 260), ("ddim", 50, 52), ("dpm++", 20, 21)])
def test_cost_of_the_default_settings(sampler: str, T: int, calls: int) -> None:
    assert plan(T, 10, None, 1, 0.9).reverse_steps == calls


def test_nothing_climbs_where_nothing_merges() -> None:
    assert plan(30, 10, None, 5, None).times == tuple(range(30, -1, -1))
    assert plan(30, 10, None, 5, 1).times == tuple(range(30, -1, -1))
    assert plan(30, 10, 4, 5, None).r == 0


def test_tau_in_states_must_fit_the_window() -> None:
    assert plan(250, 10, 25, 1, 0.9).tau == 25
    with pytest.raises(InputError, match=r"--tau-steps 26: .*0 to 25 of 250"):
        plan(250, 10, 26, 1, 0.9)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"T": 0}, "--T 0"), ({"tau": -1}, "--tau -1"), ({"r": -2}, "--r -2"), ({"tau_steps": -3}, "--tau-steps -3"),
     ({"start": float("nan")}, "--start nan"), ({"start": 1.5}, "--start 1.5"), ({"tau_steps": 26}, "--tau-steps 26"),
     ({"r": 10**9}, "--r 1000000000")],
)  # fmt: skip
def test_refuses(change: dict[str, float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run_schedule(ScheduleConfig(**change), [])


def test_verb_prints_what_a_run_costs(capsys: pytest.CaptureFixture[str]) -> None:
    record = run_schedule(ScheduleConfig(T=250, tau=10, r=2, json=True), [])
    assert capsys.readouterr().out == ""
    assert json.loads(json.dumps(record))["times"] == listed(250, 10, 2)
    assert (record["reverse_steps"], record["forward_steps"], record["entries"]) == (270, 20, 291)
    run_schedule(ScheduleConfig(T=50, r=2), [])
    shown = capsys.readouterr().out
    assert "50 -> 0 -> 2 -> 0 -> 2 -> 0" in shown and "54 calls" in shown and "--tau 10" in shown
    for change in ({"T": 50}, {"T": 50, "r": 0}, {"T": 50, "tau_steps": 2}, {"T": 50, "tau_steps": 2, "r": 0}):
        record = run_schedule(ScheduleConfig(**change, json=True), [])
        assert (record["tau"], record["tau_steps"], record["r"]) == (10, 2, change.get("r", 1)), change
        run_schedule(ScheduleConfig(**change), [])
        assert "2 states long, tau 10 of 250" in capsys.readouterr().out
    assert "--tau-steps 3" in text(plan(50, 10, 3, 1, 0.9), ScheduleConfig(T=50, tau_steps=3))
