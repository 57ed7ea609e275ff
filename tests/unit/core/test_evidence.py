"""The one-sample test: pins of the statistics page, its rules, and what must hold for any counts.

| subject            | tables                  | properties                                          |
|--------------------|-------------------------|-----------------------------------------------------|
| a look's ratios    | PINS_PLAIN              | finite, monotone in events                          |
| two samples        | pins, empty arms        | healthy arms are never conclusive                   |
| weights            | pins, raises            | sum to at most 1 over any horizon                   |
| evidence           | PINS_LOOKS              | bounded, monotone, restarts change nothing          |
| settle             | outage, lasting harm    | never conclusive within L looks in mid-stage        |
| the deadline       | PINS_RUN, OVERDUE       |                                                     |
| healthy, harmed    | seeds over a week       |                                                     |
"""

from __future__ import annotations

import json
import math
import random
from bisect import bisect
from datetime import UTC, datetime, timedelta, timezone
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.evidence import (
    GRID,
    Arm,
    Evidence,
    Run,
    Test,
    default_dispersion,
    log_likelihood_ratios,
    log_mean_exp,
    two_sample_ratios,
)
from support.depth import properties

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
DAY_S = 86_400.0
INTERVAL = timedelta(seconds=30)
Look = tuple[float, float]

TREATED, CONTROL = Arm(12, 300), Arm(9, 2700)

deterministic = properties(60)


def make_test(**changes: Any) -> Test:
    """The plan of the pins, with changes."""
    pinned: dict[str, Any] = {
        "limit": 0.01,
        "clauses": 6,
        "alpha": 0.05,
        "flag_stages": 10,
        "bakes_s": 21 * DAY_S,
        "interval_s": 30.0,
        "settle_s": 120.0,
        "dispersion": 1.0,
    }
    return Test(**pinned | changes)


def look_all(test: Test, evidence: Evidence, looks: list[Look]) -> list[Evidence]:
    """The evidence after each of the looks, whose windows follow each other from T0 on."""
    windows = (T0 + index * INTERVAL for index in range(len(looks)))
    states = accumulate(
        zip(looks, windows, strict=True),
        lambda state, look: state.looked(test, *look[0], look[1]),
        initial=evidence,
    )
    return list(states)[1:]


def mid_stage(mixture: float = 1e-5) -> Evidence:
    level = (mixture,) * len(GRID)
    return Evidence(level, (level,) * 4)


def binomial(units: int, rate: float, seed: int, looks: int) -> list[Look]:
    """Independent failures, by inversion."""
    factors = ((units - x) / (x + 1) * rate / (1 - rate) for x in range(units))
    terms = accumulate(factors, lambda term, factor: term * factor, initial=(1 - rate) ** units)
    cumulated = list(accumulate(terms))
    draw = random.Random(seed).random
    return [(min(bisect(cumulated, draw()), units), units) for _ in range(looks)]


# ── A look's ratios ──────────────────────────────────────────────────────────────────────────────

PINS_PLAIN = {
    "3 of 300 at 0.1 % speak against it": (0.001, 3, 300, 3.11818),
    "0 of 300 at 0.1 % speak for it": (0.001, 0, 300, -0.70861),
    "25 of 50 at 20 % speak against it": (0.2, 25, 50, 9.80764),
    "5 of 5 at 1 % count as 1 of 5": (0.01, 5, 5, 1.34957),
}


@pytest.mark.parametrize(("limit", "events", "units", "expected"), PINS_PLAIN.values(), ids=PINS_PLAIN.keys())
def test_plain_log_mean(limit: float, events: int, units: int, expected: float) -> None:
    assert round(log_mean_exp(log_likelihood_ratios(limit, events, units)), 5) == expected


@pytest.mark.parametrize(("tolerance", "expected"), [(1.0, 12.75284), (1.05, 12.27901)])
def test_plain_log_mean_of_two_samples(tolerance: float, expected: float) -> None:
    assert round(log_mean_exp(two_sample_ratios(tolerance, TREATED, CONTROL)), 5) == expected


def test_the_first_look_of_a_stage_at_two_samples() -> None:
    evidence = STAGE_START.compared(make_test(limit=None), 1.05, TREATED, CONTROL, T0)
    assert round(evidence.log_value, 5) == 6.30383
    assert evidence.run is not None


@pytest.mark.parametrize(("treated", "control"), [((0, 0), (9, 2700)), ((12, 300), (0, 0))])
def test_an_empty_arm_is_no_look(treated: Look, control: Look) -> None:
    assert STAGE_START.compared(make_test(limit=None), 1.05, Arm(*treated), Arm(*control), T0) is STAGE_START


def test_two_arms_that_are_alike_are_not_past_the_tolerance() -> None:
    evidence = STAGE_START.compared(make_test(limit=None), 1.05, Arm(31, 1000), Arm(30, 1000), T0)
    assert evidence.run is None
    assert evidence.value < STAGE_START.value


@pytest.mark.parametrize("arm", [Arm(math.nan, 1), Arm(-1, 1), Arm(0, math.inf)])
def test_an_arm_of_no_counts_is_refused(arm: Arm) -> None:
    for arms in ((arm, CONTROL), (TREATED, arm)):
        with pytest.raises(ValueError, match="is no look"):
            Evidence().compared(make_test(limit=None), 1.05, *arms, T0)


def test_a_relative_clause_needs_a_limit_for_each_look() -> None:
    with pytest.raises(ValueError, match="needs a limit"):
        Evidence().looked(make_test(limit=None), 1, 10, T0)
    own = Evidence().looked(make_test(limit=None), 3, 50, T0, 0.01)
    assert own == Evidence().looked(make_test(), 3, 50, T0)


def test_a_veto_leaves_the_run_and_ends_with_it() -> None:
    test = make_test()
    bad = look_all(test, STAGE_START, [(3, 50)] * 4)[-1]
    vetoed = bad.vetoed()
    assert (vetoed.value, vetoed.run, vetoed.is_vetoed) == (0.0, bad.run, True)
    still, over = look_all(test, vetoed, [(3, 50), (0, 50)])
    assert (still.is_vetoed, over.is_vetoed) == (True, False)
    assert Evidence.from_json(json.loads(json.dumps(still.to_json()))) == still


def test_evidence_of_an_earlier_version_was_never_vetoed() -> None:
    stored = STAGE_START.to_json()
    del stored["vetoed"]
    assert Evidence.from_json(stored) == STAGE_START
    assert Evidence.from_json(stored).is_vetoed is False


def test_what_a_veto_and_an_edit_leave() -> None:
    test = make_test()
    evidence = mid_stage().looked(test, 30, 50, T0)
    vetoed = evidence.vetoed()
    assert vetoed == Evidence((0.0,) * 7, (), evidence.observed_s, evidence.raises, evidence.run, is_vetoed=True)
    assert vetoed.reset() == Evidence((0.0,) * 7, (), evidence.observed_s, evidence.raises)


def test_signs_begin_with_nothing_and_have_a_run_of_worse_blocks() -> None:
    test = make_test(limit=None, settle_s=0.0)
    begun = Evidence.of_signs()
    assert begun.mixture == (0.0,) * 5
    worse = begun.signed(test, T0, is_worse=True)
    assert worse.run is not None
    assert (worse.run.onset, worse.run.looks_with_units) == (T0, 1)
    assert worse.signed(test, T0 + INTERVAL, is_worse=False).run is None


def test_two_arms_that_are_the_same_are_not_past_a_tolerance_of_none() -> None:
    assert STAGE_START.compared(make_test(limit=None), 1.0, Arm(1, 100), Arm(1, 100), T0).run is None
    assert STAGE_START.compared(make_test(limit=None), 1.0, Arm(2, 100), Arm(1, 100), T0).run is not None


def test_healthy_arms_at_any_split_stay_within_the_budget() -> None:
    """40 whole attempts of 500 looks, half of them with a tenth treated: none may be conclusive by chance."""
    test, fired = make_test(limit=None), 0
    for seed in range(40):
        units = 100 if seed % 2 else 500
        treated, control = binomial(units, 0.02, seed, 500), binomial(900, 0.02, seed + 1000, 500)
        state = STAGE_START
        for one, other in zip(treated, control, strict=True):
            state = state.compared(test, 1.05, Arm(*one), Arm(*other), T0)
            fired += state.conclusive(test)
    assert fired == 0


def test_50_of_50_at_1_percent_count_as_10_of_50() -> None:
    assert log_likelihood_ratios(0.01, 50, 50) == log_likelihood_ratios(0.01, 10, 50)
    assert log_likelihood_ratios(0.01, 50, 50) != log_likelihood_ratios(0.01, 9.99, 50)


def test_more_events_than_units_count_as_units() -> None:
    assert log_likelihood_ratios(0.2, 53, 50) == log_likelihood_ratios(0.2, 50, 50)


def test_alternatives_stay_below_one_for_a_limit_near_it() -> None:
    assert all(math.isfinite(ratio) for ratio in log_likelihood_ratios(0.999, 1000, 1000))


@pytest.mark.parametrize(("events", "units"), [(math.nan, 1), (1, math.nan), (-1, 1), (0, -1), (0, math.inf)])
def test_what_is_no_count_is_refused(events: float, units: float) -> None:
    with pytest.raises(ValueError, match="is no look"):
        Evidence().looked(make_test(), events, units, T0)


@pytest.mark.parametrize(
    "change",
    [
        {"limit": 0.0},
        {"limit": 1.0},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"clauses": 0},
        {"interval_s": 0.0},
        {"settle_s": -1.0},
        {"dispersion": 0.5},
    ],
)
def test_a_test_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"limit|alpha|clauses"):
        make_test(**change)


def test_default_dispersion() -> None:
    assert default_dispersion(counts_users=True) == 1
    assert default_dispersion(counts_users=False) == 10


def test_log_mean_exp_of_any_size() -> None:
    assert log_mean_exp((5000.0, 5000.0)) == 5000
    assert log_mean_exp((-math.inf, -math.inf)) == -math.inf


# ── Weights ──────────────────────────────────────────────────────────────────────────────────────


def test_weight_pins() -> None:
    test = make_test()
    assert f"{test.weight(0):.6e}" == "6.613757e-06"
    assert test.weight(test.bakes_s - 30) == test.weight(0)
    assert f"{test.weight(test.bakes_s):.6e}" == "1.653412e-06"


def test_bakes_count_as_at_least_100_looks() -> None:
    assert make_test(bakes_s=0.0).weight(0) == pytest.approx(0.4 / 100)


def test_raises_beyond_the_plan_weigh_nothing() -> None:
    test = make_test(flag_stages=2)
    evidence = Evidence()
    values = []
    for _ in range(3):
        evidence = evidence.raised(test)
        values.append(evidence.value)
    assert values == pytest.approx([0.25, 0.25, 0])
    assert Evidence().raised(make_test(flag_stages=0)).value == 0


@deterministic
@given(
    bakes_s=st.floats(0, 20_000),
    interval_s=st.floats(5, 60),
    stages=st.integers(1, 32),
    raises=st.integers(0, 64),
    looks=st.integers(0, 6000),
)
def test_weights_sum_to_at_most_one(bakes_s: float, interval_s: float, stages: int, raises: int, looks: int) -> None:
    test = make_test(bakes_s=bakes_s, interval_s=interval_s, flag_stages=stages)
    of_raises = sum(test.weight_of_raise(index) for index in range(raises))
    of_looks, observed_s = 0.0, 0.0
    for _ in range(looks):
        of_looks += test.weight(observed_s)
        observed_s += interval_s
    assert of_raises <= 0.5 + 1e-9
    assert of_looks <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("settle_s", "interval_s", "looks"),
    [(0.0, 30.0, 1), (120.0, 30.0, 5), (121.0, 30.0, 6), (30.0, 60.0, 2), (2.1, 0.3, 8)],
)
def test_lookback_is_the_settle_time_in_looks_and_one(settle_s: float, interval_s: float, looks: int) -> None:
    assert make_test(settle_s=settle_s, interval_s=interval_s).lookback == looks


# ── Evidence ─────────────────────────────────────────────────────────────────────────────────────

STAGE_START = Evidence().raised(make_test())
PINS_LOOKS: dict[str, tuple[dict[str, Any], Evidence, Look, list[float]]] = {
    "6x harm from a stage's start acts on look 4": (
        {},
        STAGE_START,
        (3, 50),
        [-1.04171, 1.44563, 4.11045, 5.89174],
    ),
    "bursts make evidence grow slower": (
        {"dispersion": 4.5},
        STAGE_START,
        (5, 50),
        [-1.96056, -0.74173, 0.60233],
    ),
    "at a stage's start one look can be enough": ({}, STAGE_START, (50, 50), [6.45312]),
    "in mid-stage nothing but failures acts on look 6": (
        {},
        mid_stage(),
        (50, 50),
        [-1.55656, -1.32099, -1.15469, -1.12019, -1.00528, 6.58518],
    ),
    "in mid-stage large looks wait for as long": (
        {},
        mid_stage(),
        (100, 2000),
        [-1.15943, -1.15943, -1.15943, -1.15943, -1.15943, 6.93593],
    ),
}


@pytest.mark.parametrize(("changes", "start", "look", "expected"), PINS_LOOKS.values(), ids=PINS_LOOKS.keys())
def test_looks(changes: dict[str, Any], start: Evidence, look: Look, expected: list[float]) -> None:
    test = make_test(**changes)
    states = look_all(test, start, [look] * len(expected))
    assert [round(state.log_value, 5) for state in states] == expected
    assert [state.conclusive(test) for state in states] == [log_e >= math.log(120) for log_e in expected]


def test_a_look_without_units_is_no_look() -> None:
    (evidence,) = look_all(make_test(), STAGE_START, [(3, 50)])
    assert evidence.looked(make_test(), 0, 0, T0 + INTERVAL) is evidence


def test_evidence_of_nothing_has_the_logarithm_minus_infinity() -> None:
    assert Evidence().log_value == -math.inf
    assert not Evidence().holds


def test_twenty_holds_and_less_does_not() -> None:
    assert mid_stage(20.0).holds
    assert not mid_stage(19.99).holds
    assert not mid_stage(20.0).conclusive(make_test())
    assert mid_stage(120.0).conclusive(make_test())


def test_an_edit_forgets_what_was_seen_but_not_what_was_spent() -> None:
    test = make_test()
    evidence = look_all(test, STAGE_START, [(3, 50)] * 3)[-1]
    assert evidence.reset() == Evidence(observed_s=90.0, raises=1)
    (after,) = look_all(test, evidence.reset(), [(50, 50)])
    assert after.log_value < 0, "what was remembered must be forgotten too, or the cap would not hold"


def test_a_raise_starts_the_stage_afresh_and_keeps_time_and_run() -> None:
    test = make_test()
    evidence = look_all(test, STAGE_START, [(3, 50)] * 8)[-1]
    raised = evidence.raised(test)
    assert raised.value == pytest.approx(0.05)
    assert (raised.observed_s, raised.raises, raised.run) == (240.0, 2, evidence.run)
    assert look_all(test, raised, [(50, 50)])[0].log_value == pytest.approx(6.45312, abs=1e-5)


def test_the_state_stays_a_handful_of_numbers() -> None:
    states = look_all(make_test(), STAGE_START, [(1, 50)] * 20)
    assert [len(state.remembered) for state in states] == [1, 2, 3] + [4] * 17


def test_a_longer_interval_looks_back_on_fewer_looks_from_the_next_look_on() -> None:
    states = look_all(make_test(), mid_stage(), [(50, 50)] * 4)
    slower = make_test(interval_s=60.0)
    (evidence,) = look_all(slower, states[-1], [(50, 50)])
    assert evidence.remembered == (states[-2].mixture, states[-1].mixture)
    capped = math.exp(10) * (states[1].mixture[-1] + slower.weight(120.0))
    assert evidence.mixture[-1] == pytest.approx(min(capped, 1200))


counts = st.integers(0, 3000).flatmap(lambda units: st.tuples(st.integers(0, units), st.just(units)))
plans = st.builds(
    make_test,
    limit=st.sampled_from([0.0001, 0.01, 0.2, 0.5, 0.999]),
    clauses=st.integers(1, 64),
    flag_stages=st.integers(1, 32),
    settle_s=st.sampled_from([0.0, 30.0, 120.0]),
    dispersion=st.sampled_from([1.0, 4.5, 10.0]),
)


@deterministic
@given(test=plans, looks=st.lists(counts, max_size=12), raise_before=st.integers(0, 12), restart=st.integers(0, 12))
def test_a_restart_changes_nothing(test: Test, looks: list[Look], raise_before: int, restart: int) -> None:
    going_on = restarted = Evidence()
    for index, look in enumerate(looks):
        if index == raise_before:
            going_on, restarted = going_on.raised(test), restarted.raised(test)
        if index == restart:
            restarted = Evidence.from_json(json.loads(json.dumps(restarted.to_json(), allow_nan=False)))
        window_start = T0 + index * INTERVAL
        going_on, restarted = (state.looked(test, *look, window_start) for state in (going_on, restarted))
    assert restarted == going_on
    assert Evidence.from_json(json.loads(json.dumps(going_on.to_json(), allow_nan=False))) == going_on


def test_json_keeps_the_offset_of_the_onset() -> None:
    onset = datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=1)))
    evidence = Evidence().looked(make_test(), 5, 50, onset)
    assert evidence.to_json()["run"]["onset"] == "2026-03-29T02:30:00+01:00"
    assert Evidence.from_json(evidence.to_json()) == evidence


@deterministic
@given(test=plans, looks=st.lists(counts, max_size=30))
def test_evidence_is_bounded(test: Test, looks: list[Look]) -> None:
    for state in look_all(test, Evidence().raised(test), looks):
        assert 0 <= state.value <= 10 * test.threshold * (1 + 1e-12)


def test_billions_of_events_overflow_nothing() -> None:
    test = make_test(settle_s=0.0)
    (harmed,) = look_all(test, Evidence(), [(10**15, 10**15)])
    assert harmed.value == pytest.approx(1200)
    (healed,) = look_all(test, harmed, [(0, 10**15)])
    assert healed.log_value == -math.inf
    assert look_all(test, healed, [(10**15, 10**15)])[0].conclusive(test)


@deterministic
@given(test=plans, looks=st.lists(counts, min_size=1, max_size=12), data=st.data())
def test_more_events_never_lower_evidence(test: Test, looks: list[Look], data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(looks) - 1))
    events, units = looks[which]
    more = [*looks]
    more[which] = (data.draw(st.integers(int(events), int(units))), units)
    start = Evidence().raised(test)
    for worse, state in zip(look_all(test, start, more), look_all(test, start, looks), strict=True):
        assert worse.value >= state.value * (1 - 1e-12)


# ── Settle ───────────────────────────────────────────────────────────────────────────────────────


@deterministic
@given(
    settle_s=st.integers(1, 300),
    units=st.integers(1, 10_000),
    limit=st.sampled_from([0.001, 0.01, 0.2]),
)
def test_lasting_harm_in_mid_stage_takes_more_than_lookback_looks(settle_s: int, units: int, limit: float) -> None:
    test = make_test(settle_s=float(settle_s), limit=limit)
    start = Evidence((1e-5,) * len(GRID), ((1e-5,) * len(GRID),) * (test.lookback - 1))
    states = look_all(test, start, [(units, units)] * test.lookback)
    assert not any(state.conclusive(test) for state in states)


def test_a_two_minute_outage_in_mid_stage_does_not_act_at_2m_and_does_at_0s() -> None:
    healthy = binomial(50, 0.008, seed=1, looks=500)
    looks = [*healthy, *[(50, 50)] * 4, *healthy[:100]]
    for settle_s, acts in ((120.0, False), (0.0, True)):
        test = make_test(settle_s=settle_s)
        states = look_all(test, STAGE_START, looks)
        assert any(state.conclusive(test) for state in states) is acts


def test_lasting_harm_in_mid_stage_acts_after_three_minutes() -> None:
    test = make_test()
    looks = [*binomial(2000, 0.008, seed=2, looks=500), *binomial(2000, 0.2, seed=3, looks=10)]
    states = look_all(test, STAGE_START, looks)
    assert [state.conclusive(test) for state in states].index(True) == 500 + test.lookback


def test_without_settle_one_look_is_enough_at_any_time() -> None:
    test = make_test(settle_s=0.0)
    (evidence,) = look_all(test, Evidence(), [(100, 2000)])
    assert evidence.conclusive(test)
    assert evidence.remembered == ()


# ── The deadline ─────────────────────────────────────────────────────────────────────────────────

PINS_RUN: dict[str, tuple[dict[str, Any], Look, float]] = {
    "1 of 1, in bursts": ({"limit": 0.05, "dispersion": 10.0}, (1, 1), 5.80468),
    "2 of 50, in bursts": ({"dispersion": 9.0}, (2, 50), 3.07028),
    "2 of 50, independent": ({}, (2, 50), 35.65112),
}


@pytest.mark.parametrize(("changes", "look", "expected"), PINS_RUN.values(), ids=PINS_RUN.keys())
def test_evidence_of_a_run(changes: dict[str, Any], look: Look, expected: float) -> None:
    run = look_all(make_test(**changes), STAGE_START, [look] * 30)[-1].run
    assert run is not None
    assert round(run.log_value, 5) == expected
    assert (run.onset, run.looks_with_units) == (T0, 30)


SLOW = make_test(limit=0.05, dispersion=10.0)
BAD: Look = (1, 1)
OVERDUE: dict[str, tuple[list[Look], float, float, bool]] = {
    "at the deadline, with 30 looks": ([BAD] * 30, 15, 15, True),
    "long after it": ([BAD] * 30, 15, 60, True),
    "a moment before it": ([BAD] * 30, 15, 14.99, False),
    "with 29 looks": ([BAD] * 29, 10, 15, False),
    "with a healthy look since": ([*[BAD] * 30, (0, 1)], 10, 25, False),
    "with looks without units in between, which neither count nor break": (
        [*[BAD] * 15, *[(0.0, 0.0)] * 10, *[BAD] * 15],
        15,
        20,
        True,
    ),
    "with looks without units, and 29 others": ([*[BAD] * 29, *[(0.0, 0.0)] * 10], 15, 20, False),
    "with a run that proves nothing": ([(3.0, 59.0)] * 40, 15, 20, False),
    "with a deadline of zero, which is the first conclusive look and nothing else": ([BAD] * 30, 0, 20, False),
    "with a run that started after a healthy look": ([(0, 1), *[BAD] * 30], 15, 15.25, False),
}


@pytest.mark.parametrize(("looks", "within_min", "now_min", "expected"), OVERDUE.values(), ids=OVERDUE.keys())
def test_overdue(looks: list[Look], within_min: float, now_min: float, expected: bool) -> None:
    evidence = look_all(SLOW, Evidence().raised(SLOW), looks)[-1]
    within, now = timedelta(minutes=within_min), T0 + timedelta(minutes=now_min)
    assert evidence.overdue(SLOW, within, now) is expected
    assert not evidence.conclusive(SLOW), "the deadline is what acts here, not the evidence"


@pytest.mark.parametrize(
    ("limit", "at_limit", "past"),
    [(0.29, (29, 100), (30, 100)), (0.001, (1, 1000), (2, 1000)), ((100 - 80) / 100, (1, 5), (2, 5))],
)
def test_a_look_at_the_limit_is_not_past_it(limit: float, at_limit: Look, past: Look) -> None:
    test = make_test(limit=limit)
    run = Evidence().looked(test, *past, T0).run
    assert isinstance(run, Run)
    assert Evidence(run=run).looked(test, *at_limit, T0).run is None


# ── Healthy and harmed streams ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_week_is_not_conclusive(seed: int) -> None:
    test = make_test()
    state = STAGE_START
    for events, units in binomial(50, 0.008, seed, looks=20_160):
        state = state.looked(test, events, units, T0)
        assert not state.conclusive(test)


@pytest.mark.parametrize(("rate", "from_start", "in_mid_stage"), [(0.02, 47, 80), (0.05, 5, 11), (0.2, 1, 6)])
def test_harm_is_found_as_soon_as_promised(rate: float, from_start: int, in_mid_stage: int) -> None:
    """Limit 1 %, 50 units a look: the median over 41 seeds, within a third of the table's."""
    test = make_test()
    settled = look_all(test, STAGE_START, binomial(50, 0.008, seed=7, looks=1000))[-1]
    for start, expected in ((STAGE_START, from_start), (settled, in_mid_stage)):
        looks = sorted(looks_until_conclusive(test, start, rate, seed) for seed in range(41))
        assert looks[20] == pytest.approx(expected, rel=0.34)


def looks_until_conclusive(test: Test, state: Evidence, rate: float, seed: int) -> int:
    for index, look in enumerate(binomial(50, rate, seed, looks=400), start=1):
        state = state.looked(test, *look, T0)
        if state.conclusive(test):
            return index
    return 400
