"""Gauges against the control arm: the sign test of blocks.

| subject | cases |
|---|---|
| the test | pins; better blocks speak for the rollout; a healthy plan stays within its budget |
| blocks | medians of both arms over the same looks, ties, too few looks, a gap, a raise |
| a clause | harm in one arm, in both, a decrease, below zero, an empty arm, none, persist |
| a restart | changes nothing |
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.evidence import SIGN_GRID, Evidence, Test, log_mean_exp, sign_ratios
from feature_rollout.core.gauge import GaugeRule, GaugeRun, Pair
from feature_rollout.core.guards import GuardState, assess
from feature_rollout.core.looks import Look
from feature_rollout.core.plan import BaselineType, OnNoTraffic, Persist, Plan, Sense, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import gauge_limit, of_gauge, windows_before
from support.fakes import INTERVAL, T0, gauge, look, minutes, plan, relative, row

CONTROL = BaselineType.CONTROL
BLOCK = 10  # looks


def plain(worse: int, better: int) -> float:
    """E of so many blocks from one start of full weight."""
    of_worse, of_better = sign_ratios(is_worse=True), sign_ratios(is_worse=False)
    return math.exp(log_mean_exp(tuple(worse * a + better * b for a, b in zip(of_worse, of_better, strict=True))))


@pytest.mark.parametrize(("worse", "better", "expected"), [(8, 0, 68.41), (9, 0, 123.12), (0, 0, 1.0)])
def test_pins(worse: int, better: int, expected: float) -> None:
    assert round(plain(worse, better), 2) == expected


def test_a_block_that_may_as_well_be_worse_as_better_says_nothing_on_average() -> None:
    """What makes it an e-process: under one half, the mean of exp(l) is 1 for every p of the grid."""
    both = zip(sign_ratios(is_worse=True), sign_ratios(is_worse=False), strict=True)
    assert [(math.exp(worse) + math.exp(better)) / 2 for worse, better in both] == pytest.approx([1.0] * 5)


def signs(**changes: Any) -> Test:
    known: dict[str, Any] = {
        "limit": None,
        "clauses": 6,
        "alpha": 0.05,
        "flag_stages": 10,
        "bakes_s": 21 * 86_400.0,
        "interval_s": 300.0,
        "settle_s": 0.0,
        "dispersion": 1.0,
    }
    return Test(**known | changes)


def blocks_until_conclusive(test: Test, evidence: Evidence) -> int:
    for index in range(100):
        evidence = evidence.signed(test, T0, is_worse=True)
        if evidence.conclusive(test):
            return index + 1
    raise AssertionError("never")


def test_how_long_harm_takes_is_what_the_page_says() -> None:
    test = signs()
    assert blocks_until_conclusive(test, Evidence.of_signs().raised(test)) == 14
    healthy, draw = Evidence.of_signs().raised(test), random.Random(5).random
    for _ in range(500):
        healthy = healthy.signed(test, T0, is_worse=draw() < 0.3)
    assert blocks_until_conclusive(test, healthy) == 23


def test_healthy_plans_stay_within_the_budget() -> None:
    """At the very edge, where a block is worse every other time; one clause, so that 5 % may be conclusive."""
    test = signs(clauses=1, bakes_s=500 * 300.0, flag_stages=4)
    conclusive = 0
    for seed in range(100):
        evidence, draw = Evidence.of_signs(), random.Random(seed).random
        for index in range(600):
            if index % 125 == 0:
                evidence = evidence.raised(test)
            evidence = evidence.signed(test, T0, is_worse=draw() < 0.5)
            if evidence.conclusive(test):
                conclusive += 1
                break
    assert conclusive <= 5


# Blocks.

RULE = GaugeRule(1.05, above=True, persist=None, interval_s=30.0)
Arms = tuple[float, float] | None


def paired(arms: list[Arms], every: timedelta = INTERVAL) -> tuple[GaugeRun, list[Pair]]:
    run, pairs = GaugeRun(), []
    for index, both in enumerate(arms):
        start = T0 + index * every
        run, pair = run.paired(RULE, both, start, start + INTERVAL)
        pairs += [pair] if pair is not None else []
    return run, pairs


def test_a_block_has_the_medians_of_both_arms() -> None:
    arms: list[Arms] = [(float(i), 10.0 - i) for i in range(BLOCK)]
    run, pairs = paired([*arms, (7.0, 8.0)])
    assert pairs == [Pair(T0, 4.5, 5.5)]
    assert (run.block_values, run.control_values) == ((7.0,), (8.0,))


@pytest.mark.parametrize(("values", "expected"), [(4, 0), (5, 1)])
def test_a_block_needs_five_looks_at_both_arms(values: int, expected: int) -> None:
    assert len(paired([*[(1.0, 2.0)] * values, *[None] * (BLOCK - values)])[1]) == expected


def test_a_block_that_ends_in_a_gap_is_whole_with_the_look_after_it() -> None:
    run = paired([(1.0, 2.0)] * 6)[0]
    late = T0 + minutes(20)
    run, pair = run.paired(RULE, (3.0, 4.0), late, late + INTERVAL)
    assert pair == Pair(T0, 1.0, 2.0)
    assert (run.block_start, run.block_values) == (late, (3.0,))


# A clause.


def against_control(change: str = "5%", **changes: Any) -> Plan:
    clause = relative("latency", change, baseline=CONTROL, **changes)
    return plan(rows=[row(Severity.HIGH, clause, settle=minutes(2))], metrics=[gauge(key="k")])


def at(index: int, treated: float | None, control: float | None) -> Look:
    arm = {"control_units": 0.0} if control is None else {"control_value": control}
    return look("latency", T0 + index * INTERVAL, value=treated, **arm)


def seen(of: Plan, progress: Progress, looks: list[Look]) -> Progress:
    for one in looks:
        progress = progress.observed(of, one, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    return progress


def watched(of: Plan, looks: list[Look]) -> Progress:
    return seen(of, Progress().entered(of, T0, raised=True), looks)


def state(of: Plan, progress: Progress) -> GuardState:
    latest = progress.of("latency").latest
    (guard,) = assess(of, progress, latest.window.end if latest else T0)
    return guard.state


NOISE = [1 + random.Random(3).gauss(0, 0.2) for _ in range(20 * BLOCK)]
TIMES = {
    "harm in one arm": (1.5, 1.0, GuardState.BREACHED),
    "harm in both": (1.5, 1.5, GuardState.QUIET),
    "healthy": (1.0, 1.0, GuardState.QUIET),
}


@pytest.mark.parametrize(("treated", "control", "expected"), TIMES.values(), ids=TIMES.keys())
def test_an_increase_is_harm_in_one_arm_only(treated: float, control: float, expected: GuardState) -> None:
    of = against_control()
    looks = [at(i, treated * noise, control * NOISE[-i]) for i, noise in enumerate(NOISE)]
    progress = watched(of, looks)
    (guard,) = assess(of, progress, looks[-1].window.end)
    # A single look may be past the limit; that proves nothing.
    assert (GuardState.QUIET if guard.state is GuardState.PAST_LIMIT else guard.state) is expected


def test_it_holds_before_it_acts() -> None:
    of = replace(against_control(), alpha=0.01)
    states = [state(of, watched(of, [at(i, 2.0, 1.0) for i in range(blocks * BLOCK)])) for blocks in range(1, 14)]
    first = [states.index(one) for one in (GuardState.PAST_LIMIT, GuardState.HOLDING, GuardState.BREACHED)]
    assert first == sorted(first)


def test_a_decrease() -> None:
    of = against_control("20%", sense=Sense.BELOW)
    assert state(of, watched(of, [at(i, 0.85, 1.0) for i in range(300)])) is GuardState.QUIET
    assert state(of, watched(of, [at(i, 0.75, 1.0) for i in range(300)])) is GuardState.BREACHED


@pytest.mark.parametrize(("treated", "expected"), [(-10.0, GuardState.QUIET), (-9.0, GuardState.BREACHED)])
def test_below_zero_an_increase_is_still_upwards(treated: float, expected: GuardState) -> None:
    of = against_control()
    assert state(of, watched(of, [at(i, treated, -10.0) for i in range(300)])) is expected


def test_ties_are_dropped() -> None:
    of = against_control("100%")
    progress = watched(of, [at(i, 2.0, 1.0) for i in range(300)])
    assert progress.evidence[of.rows[0].clauses[0].key].observed_s == 0.0


def test_an_empty_control_arm_says_nothing_and_the_bake_goes_on() -> None:
    of = against_control()
    progress = watched(of, [at(i, 9.0, None) for i in range(100)])
    assert state(of, progress) is GuardState.QUIET
    assert progress.baked == minutes(50)


def test_a_query_without_a_control_arm_is_blind() -> None:
    of = against_control()
    alone = watched(of, [look("latency", T0 + i * INTERVAL, value=9.0) for i in range(100)])
    assert alone.evidence_of(of.rows[0].clauses[0]).run is None
    assert alone.gauge_of(of.rows[0].clauses[0]).block_values == ()
    (guard,) = assess(of, watched(of, [look("latency", T0, value=1.0)]), T0 + INTERVAL)
    assert guard.state is GuardState.BLIND
    assert guard.note == "latency has no control arm: its query must give control_value"


def test_a_raise_begins_blocks_and_evidence_anew() -> None:
    of = against_control()
    key = of.rows[0].clauses[0].key
    progress = watched(of, [at(i, 2.0, 1.0) for i in range(8 * BLOCK + 5)])
    raised = progress.entered(of, T0 + minutes(60), raised=True)
    assert key not in raised.gauges
    assert raised.evidence[key].value == pytest.approx(0.5 / 3)
    assert raised.evidence[key].observed_s == progress.evidence[key].observed_s == 8 * 300.0


def test_the_deadline_does_not_act_by_itself() -> None:
    """A long run of looks past the limit is no proof for a Gauge: only its blocks are."""
    of = against_control()
    progress = watched(of, [at(i, 2.0, 1.0) for i in range(7 * BLOCK)])
    ((guarded, clause),) = of.guards()
    assert not progress.is_breached(of, guarded, clause, T0 + timedelta(days=1))


def test_persist_replaces_the_signs_by_looks() -> None:
    of = against_control(persist=Persist(3, 5))
    assert state(of, watched(of, [at(i, 2.0, 1.0) for i in range(3)])) is GuardState.BREACHED
    assert state(of, watched(of, [at(i, 2.0, 2.0) for i in range(3)])) is GuardState.QUIET


@pytest.mark.parametrize("when", [0, 3, 10, 25, 61, 199])
def test_a_restart_in_the_middle_changes_nothing(when: int) -> None:
    of = against_control()
    looks = [at(i, 1.2 * noise, NOISE[-i]) for i, noise in enumerate(NOISE)]
    straight = watched(of, looks)
    stored = json.loads(json.dumps(watched(of, looks[:when]).to_json(), allow_nan=False))
    assert seen(of, Progress.from_json(stored), looks[when:]) == straight
    assert len(straight.evidence[of.rows[0].clauses[0].key].mixture) == len(SIGN_GRID)


def test_a_past_of_everybody_is_that_of_the_control_arm() -> None:
    known = of_gauge("k", [Look("latency", w, control_value=2.0) for w in windows_before(T0)])
    assert gauge_limit(known, T0, 0.5) == 3.0
