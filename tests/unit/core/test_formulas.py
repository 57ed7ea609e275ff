"""Evidence is what docs/statistics.md says, worked out here a second time, from the page and without haste.

Everything that the engine keeps in a handful of numbers is kept whole: all looks since the start of the stage,
and every look of the run. Restarts are at any look, by way of JSON.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.evidence import Arm, Evidence, Test
from support.depth import properties

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
RATIOS = (1.25, 1.5, 2, 3, 5, 10, 20)
CLOSE = 1e-9

Row = list[float]


@dataclass
class Page:
    """One clause, by the formulas: `states` are the M_r since the start of the stage, the first being that start."""

    test: Test
    states: list[Row] = field(default_factory=lambda: [[0.0] * len(RATIOS)])
    looks: int = 0
    raises: int = 0
    run: list[Row] = field(default_factory=list)
    onset: datetime | None = None

    def raised(self) -> None:
        share = 0.5 / self.test.flag_stages if self.raises < self.test.flag_stages else 0.0
        self.states = [[share] * len(RATIOS)]
        self.raises += 1

    def edited(self) -> None:
        self.states, self.run, self.onset = [[0.0] * len(RATIOS)], [], None

    def looked(self, logs: Row, at: datetime, *, is_past: bool) -> None:
        logs = [log / self.test.dispersion for log in logs]
        weight, newest = self.weight(), self.states[-1]
        lookback = math.ceil(self.test.settle_s / self.test.interval_s) + 1
        then = self.states[max(len(self.states) - lookback, 0)]
        grown = [(m + weight) * math.exp(log) for m, log in zip(newest, logs, strict=True)]
        if self.test.settle_s:
            grown = [min(g, math.exp(10) * (m + weight)) for g, m in zip(grown, then, strict=True)]
        self.states.append([min(g, 10 * self.test.clauses / self.test.alpha) for g in grown])
        self.looks += 1
        if is_past:
            self.onset = self.onset or at
            self.run.append(logs)
        else:
            self.onset, self.run = None, []

    def weight(self) -> float:
        interval, spent = self.test.interval_s, self.looks * self.test.interval_s
        bakes = max(self.test.bakes_s, 100 * interval)
        if spent + interval <= bakes:
            return 0.4 * interval / bakes
        return 0.1 * bakes * (1 / spent - 1 / (spent + interval))

    @property
    def value(self) -> float:
        return fmean(self.states[-1])

    @property
    def run_value(self) -> float:
        return fmean(math.exp(min(sum(logs), 700)) for logs in zip(*self.run, strict=True))


def one_sample(limit: float, events: float, units: float) -> Row:
    counted = min(events, units, max(1, 20 * limit * units))
    found = []
    for ratio in RATIOS:
        harm = min(ratio * limit, (1 + limit) / 2)
        bad, good = math.log(harm / limit), math.log((1 - harm) / (1 - limit))
        found.append(counted * bad + (units - counted) * good)
    return found


def two_sample(tolerance: float, treated: Arm, control: Arm) -> Row:
    found = []
    for ratio in RATIOS:
        fair = tolerance * treated.units / (tolerance * treated.units + control.units)
        harm = ratio * tolerance * treated.units / (ratio * tolerance * treated.units + control.units)
        found.append(treated.events * math.log(harm / fair) + control.events * math.log((1 - harm) / (1 - fair)))
    return found


def restarted(evidence: Evidence) -> Evidence:
    return Evidence.from_json(json.loads(json.dumps(evidence.to_json())))


@st.composite
def made_tests(draw: st.DrawFn) -> Test:
    interval_s = draw(st.sampled_from([10.0, 30.0, 60.0]))
    return Test(
        limit=draw(st.sampled_from([0.001, 0.01, 0.05, 0.3, 0.9])),
        clauses=draw(st.integers(1, 8)),
        alpha=draw(st.sampled_from([0.01, 0.05, 0.2])),
        flag_stages=draw(st.integers(1, 4)),
        bakes_s=draw(st.sampled_from([0.0, 110 * interval_s, 14 * 86_400.0])),
        interval_s=interval_s,
        settle_s=draw(st.sampled_from([0.0, 30.0, 120.0, 130.0])),
        dispersion=draw(st.sampled_from([1.0, 1.7, 10.0])),
    )


counts = st.tuples(st.sampled_from([0, 1, 2, 3, 5, 20, 50]), st.sampled_from([0, 1, 50, 400, 3000]))
steps = st.lists(st.one_of(counts, counts, counts, st.sampled_from(["raise", "edit"])), max_size=130)


def assert_same(evidence: Evidence, page: Page) -> None:
    assert evidence.mixture == pytest.approx(page.states[-1], rel=CLOSE)
    assert evidence.value == pytest.approx(page.value, rel=CLOSE)
    assert evidence.holds == (page.value >= 20) or math.isclose(page.value, 20, rel_tol=CLOSE)
    threshold = page.test.clauses / page.test.alpha
    assert evidence.conclusive(page.test) == (page.value >= threshold) or math.isclose(
        page.value, threshold, rel_tol=CLOSE
    )
    assert (evidence.run is None) is (not page.run)
    if evidence.run is not None:
        assert (evidence.run.onset, evidence.run.looks_with_units) == (page.onset, len(page.run))
        assert min(evidence.run.log_value, 690) == pytest.approx(min(math.log(page.run_value), 690), abs=1e-6)


@properties(60)
@given(made_tests(), steps, st.sets(st.integers(0, 129)))
def test_evidence_against_a_limit_is_that_of_the_page(test: Test, steps: list[Any], restarts: set[int]) -> None:
    assert test.limit is not None
    evidence, page, at = Evidence(), Page(test), T0
    for index, step in enumerate(steps):
        if step == "raise":
            evidence, _ = evidence.raised(test), page.raised()
        elif step == "edit":
            evidence, _ = evidence.reset(), page.edited()
        else:
            events, units = step
            evidence = evidence.looked(test, events, units, at)
            if units:
                page.looked(one_sample(test.limit, events, units), at, is_past=events / units > test.limit)
        if index in restarts:
            evidence = restarted(evidence)
        assert_same(evidence, page)
        at += timedelta(seconds=test.interval_s)


@properties(40)
@given(made_tests(), st.sampled_from([1.0, 1.05, 1.5]), st.lists(st.tuples(counts, counts), max_size=60))
def test_evidence_of_two_arms_is_that_of_the_page(test: Test, tolerance: float, looks: list[Any]) -> None:
    evidence, page, at = Evidence().raised(test), Page(test), T0
    page.raised()
    for treated, control in ((Arm(*a), Arm(*b)) for a, b in looks):
        evidence = restarted(evidence.compared(test, tolerance, treated, control, at))
        if treated.units and control.units:
            is_past = treated.rate > tolerance * control.rate
            page.looked(two_sample(tolerance, treated, control), at, is_past=is_past)
        assert_same(evidence, page)
        at += timedelta(seconds=test.interval_s)


@properties(60)
@given(made_tests(), st.integers(25, 35), st.sampled_from([1, 2, 20]), st.sampled_from([0, 10, 20]))
def test_the_deadline_is_that_of_the_page(test: Test, looks: int, events: int, minutes: int) -> None:
    """It acts at the deadline, on a run of 30 looks and more, that is proof by itself."""
    units = 1.0 if events == 1 else 50.0
    evidence, within = Evidence(), timedelta(minutes=minutes)
    assert test.limit is not None
    for index in range(looks):
        evidence = evidence.looked(test, events, units, T0 + index * timedelta(seconds=test.interval_s))
    logs = [looks * log / test.dispersion for log in one_sample(test.limit, events, units)]
    proof = fmean(math.exp(min(log, 700)) for log in logs) >= test.clauses / test.alpha
    is_past = events / units > test.limit
    for now, is_time in ((T0 + within, True), (T0 + within - timedelta(microseconds=1), False)):
        expected = is_time and minutes > 0 and is_past and looks >= 30 and proof
        assert evidence.overdue(test, within, now) is expected
