"""What `plan` prints of a plan: dates, how soon harm is found, how often a gate passes.

| subject | held against |
|---|---|
| looks until harm is found | the table "Expected behaviour" of docs/statistics.md, which was simulated, within 30 % |
| the distribution behind gates | exact sums; the chances in docs/statistics.md |
| a gate's chance | the gate itself, tried on every count of events |
| dates | a plan of known bakes, with and without a calendar |
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.evidence import Evidence, Test
from feature_rollout.core.forecast import (
    binomial_at_most,
    detections,
    expected_minimum,
    gate_chance,
    passes_by_luck,
    schedule,
)
from feature_rollout.core.gates import unmet
from feature_rollout.core.measured import MetricProgress
from feature_rollout.core.plan import Gate
from feature_rollout.core.progress import Progress
from support.depth import properties
from support.fakes import T0, minutes, percent, plan, stage

# That of the pins of docs/statistics.md.
TEST = Test(0.01, 6, 0.05, 10, 21 * 86_400, 30, 120, 1)
# Limit, units a look, times the limit, looks from a stage's start, looks in mid-stage.
TABLE = [
    (0.001, 50, 2, 565, 731),
    (0.001, 50, 5, 57, 94),
    (0.001, 50, 20, 9, 15),
    (0.001, 2000, 2, 13, 24),
    (0.001, 2000, 5, 2, 7),
    (0.001, 2000, 20, 1, 6),
    (0.01, 1, 2, 1978, 2684),
    (0.01, 1, 5, 232, 342),
    (0.01, 1, 20, 26, 39),
    (0.01, 50, 2, 47, 80),
    (0.01, 50, 5, 5, 11),
    (0.01, 50, 20, 1, 6),
    (0.01, 2000, 2, 2, 7),
    (0.01, 2000, 5, 1, 6),
    (0.01, 2000, 20, 1, 6),
    (0.05, 50, 2, 10, 19),
    (0.05, 50, 5, 1, 6),
    (0.05, 50, 20, 1, 6),
]


@pytest.mark.parametrize(("limit", "units", "times", "at_start", "mid_stage"), TABLE)
def test_looks_until_harm_is_found_are_those_that_were_simulated(
    limit: float, units: float, times: float, at_start: int, mid_stage: int
) -> None:
    found = next(d for d in detections(replace(TEST, limit=limit), units) if d.times == times)
    # A look is the smallest difference there can be.
    assert found.at_start == pytest.approx(at_start, rel=0.3, abs=1)
    assert found.mid_stage == pytest.approx(mid_stage, rel=0.3, abs=1)


def test_bursts_make_it_slower_and_a_settle_of_nothing_faster() -> None:
    plain, bursts = detections(TEST, 50)[1], detections(replace(TEST, dispersion=10), 50)[1]
    assert bursts.mid_stage is not None
    assert plain.mid_stage is not None
    assert bursts.mid_stage > 8 * plain.mid_stage
    assert detections(replace(TEST, settle_s=0), 2000)[2].mid_stage == 1


def test_harm_past_everything_cannot_be() -> None:
    assert detections(replace(TEST, limit=0.3), 50)[1:] == (
        replace(detections(TEST, 50)[1], at_start=None, mid_stage=None),
        replace(detections(TEST, 50)[2], at_start=None, mid_stage=None),
    )


def test_a_tenth_of_the_traffic_takes_ten_times_as_long_below_one_unit_a_look() -> None:
    one, tenth = detections(TEST, 1)[1], detections(TEST, 0.1)[1]
    assert tenth.at_start == pytest.approx(10 * (one.at_start or 0), rel=0.05)


def test_a_guard_does_find_it_when_the_forecast_says() -> None:
    """Looks of exactly what is expected: 5 times a limit of 1 %, 200 units, from the start of a stage."""
    evidence, looks = Evidence().raised(TEST), 0
    while not evidence.conclusive(TEST):
        evidence, looks = evidence.looked(TEST, 10, 200, T0 + looks * timedelta(seconds=30)), looks + 1
    assert detections(TEST, 200)[1].at_start == looks


def exactly(events: int, units: int, rate: Fraction) -> Fraction:
    terms = (math.comb(units, k) * rate**k * (1 - rate) ** (units - k) for k in range(events + 1))
    return sum(terms, Fraction(0))


@given(units=st.integers(1, 60), percent_=st.integers(0, 100), data=st.data())
@properties(100)
def test_the_distribution_is_exact(units: int, percent_: int, data: st.DataObject) -> None:
    events, rate = data.draw(st.integers(-1, units)), Fraction(percent_, 100)
    assert binomial_at_most(events, units, float(rate)) == pytest.approx(float(exactly(events, units, rate)), abs=1e-12)


@given(units=st.integers(2, 40), percent_=st.integers(1, 99), cap=st.floats(1, 45))
@properties(100)
def test_the_mean_of_capped_counts_is_exact(units: int, percent_: int, cap: float) -> None:
    rate = percent_ / 100
    mean = sum(min(k, cap) * math.comb(units, k) * rate**k * (1 - rate) ** (units - k) for k in range(units + 1))
    assert expected_minimum(cap, units, rate) == pytest.approx(mean, rel=1e-9)


# "At a true 0.08 % with limit 0.1 %, 5,000 units pass in 63 %, at 0.12 % in 29 %; 50,000 units: 93 % and 8 %": with
# fewer events than the limit allows. A gate also passes exactly at its limit.
@pytest.mark.parametrize(
    ("events", "units", "rate", "chance"),
    [
        (4, 5_000, 0.0008, 0.63),
        (4, 5_000, 0.0012, 0.29),
        (49, 50_000, 0.0008, 0.93),
        (49, 50_000, 0.0012, 0.08),
        (1_000_000, 1_000_000_000, 0.001, 0.5),
    ],
)
def test_chances_of_the_statistics_page(events: int, units: int, rate: float, chance: float) -> None:
    assert binomial_at_most(events, units, rate) == pytest.approx(chance, abs=0.006)


GATES = [
    Gate("errors", at_most=percent("10%"), min_units=30),
    Gate("errors", at_most=percent("7%"), min_units=40),
    Gate("errors", at_least=percent("60%"), min_units=25),
    Gate("errors", at_least=percent("33%"), min_units=40),
]


@pytest.mark.parametrize("gate", GATES, ids=str)
@pytest.mark.parametrize("times", [0.8, 1.0, 1.2])
def test_a_chance_is_that_of_the_gate_itself(gate: Gate, times: float) -> None:
    limit = gate.at_most or gate.at_least
    assert limit is not None
    rate = Fraction(limit.value * times)

    def passes(events: int) -> bool:
        measured = {"errors": MetricProgress(events=events, units=gate.min_units)}
        return not unmet(gate, plan(), Progress(metrics=measured))

    one = (exactly(k, gate.min_units, rate) - exactly(k - 1, gate.min_units, rate) for k in range(gate.min_units + 1))
    chance = float(sum(p for events, p in enumerate(one) if passes(events)))
    assert gate_chance(gate, times) == pytest.approx(chance, abs=1e-9)


@pytest.mark.parametrize(("min_units", "luck"), [(1, True), (5_000, True), (50_000, False)])
def test_few_units_pass_by_luck(min_units: int, luck: bool) -> None:
    assert passes_by_luck(Gate("errors", at_most=percent("0.1%"), min_units=min_units)) is luck


def test_a_rate_past_everything_has_no_chance_to_tell() -> None:
    assert gate_chance(Gate("errors", at_least=percent("90%")), 1.2) is None


THREE = plan(stage("a", bake=minutes(0)), stage("b", ("bell", 10), bake=minutes(90)), stage("c", bake=minutes(30)))


def test_stages_begin_when_the_bakes_before_are_over() -> None:
    found = schedule(THREE, T0)
    assert found.begins_at == (T0, T0, T0 + minutes(90))
    assert found.ends_at == T0 + minutes(120)


def test_a_stage_waits_for_the_calendar_and_its_bake_does_not() -> None:
    def at_the_full_hour(at: datetime) -> datetime | None:
        return at if at.minute == 0 else at.replace(minute=0) + timedelta(hours=1)

    found = schedule(THREE, T0 + minutes(1), at_the_full_hour)
    assert found.begins_at == (T0 + minutes(60), T0 + minutes(60), T0 + minutes(180))
    assert found.ends_at == T0 + minutes(210)


def test_a_calendar_that_never_opens_again_has_no_date() -> None:
    found = schedule(THREE, T0, lambda at: at if at == T0 else None)
    assert found.begins_at == (T0, T0, None)
    assert found.ends_at is None
