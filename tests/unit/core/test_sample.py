"""The sample ratio: a pin, what is planned, what holds, what lifts the hold, and how often it is wrong."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.checks import SAMPLE_RATIO
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.guards import assess
from feature_rollout.core.people import Consent, People
from feature_rollout.core.plan import Mode, OnNoTraffic, Plan
from feature_rollout.core.progress import Progress
from feature_rollout.core.sample import HOLD_AT, log_evidence, mismatches, planned_percentage
from feature_rollout.core.state import Ledger
from support.fakes import INTERVAL, OFF, T0, exposure, ledger, ledger_in, look, minutes, plan, ratio

TEN = 0  # the stage in which 10 % have the flag


def test_pin() -> None:
    assert round(log_evidence(5200, 4800, 0.5), 4) == 5.6136


def test_it_is_an_e_value_at_any_share() -> None:
    """The mean of E over all that can come of 40 users is 1, however the lot is drawn."""
    for share in (0.01, 0.1, 0.5, 0.9):
        chances = [math.comb(40, x) * share**x * (1 - share) ** (40 - x) for x in range(41)]
        values = [math.exp(log_evidence(x, 40 - x, share)) for x in range(41)]
        assert sum(c * v for c, v in zip(chances, values, strict=True)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"bell": exposure(10)}, "10"),
        ({"bell": exposure("0.5"), "inbox": exposure("0.5")}, "0.5"),
        ({"bell": exposure(10), "inbox": exposure(20)}, None),
        ({"bell": exposure(10, "staff")}, None),
        ({"bell": exposure(10), "inbox": exposure(10, "staff")}, None),
        ({"bell": exposure(100)}, None),
        ({"bell": exposure(10), "untouched": OFF}, "10"),
        ({}, None),
    ],
    ids=["one", "two alike", "two", "groups", "a flag of groups", "everybody", "one is off", "nothing raised"],
)
def test_what_is_planned(written: dict[str, Exposure], expected: str | None) -> None:
    assert planned_percentage(ledger(written=written, baseline=dict.fromkeys(written, OFF))) == expected


def sampled(**changes: Any) -> Plan:
    return plan(metrics=[ratio(sample_ratio=True, **changes)])


def seen(of: Plan, looks: list[tuple[float, float | None]], progress: Progress | None = None) -> Progress:
    """After looks with so many treated and control users, none of whom fares badly."""
    progress = progress or Progress().entered(of, T0, raised=True)
    start = progress.of("errors").looked_until or T0
    for index, (treated, control) in enumerate(looks):
        arm = {} if control is None else {"control_events": 0.0, "control_units": control}
        one = look("errors", start + index * INTERVAL, events=0.0, units=treated, **arm)
        progress = progress.observed(of, one, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    return progress


def decided(of: Plan, progress: Progress, known: Ledger | None = None) -> Decision:
    now = progress.of("errors").looked_until or T0
    known = known or ledger_in(of, TEN)
    return decide(View(of, known, dict(known.written), progress, assess(of, progress, now), now))


def test_a_mismatch_holds_and_never_reverts() -> None:
    of = sampled()
    decision = decided(of, seen(of, [(150.0, 850.0)] * 2))
    assert (decision.verb, decision.phase, decision.reason) == (Verb.HOLD, Phase.HELD, "SampleRatioMismatch")
    assert "errors has 300 of 2000 users with the flags, which is 15% and not 10%" in decision.message
    assert "featurerollout confirm bell sample-ratio" in decision.message
    assert decision.waiting_for == ("errors has 300 of 2000 users with the flags, which is 15% and not 10%",)


@pytest.mark.parametrize(
    "looks",
    [[(100.0, 900.0)] * 8, [(0.0, 9.0), (1.0, 8.0)] * 4, [(0.0, 0.0)] * 8],
    ids=["as planned", "few users, some looks without treated ones", "nobody"],
)
def test_a_split_as_planned_goes_on(looks: list[tuple[float, float | None]]) -> None:
    of = sampled()
    assert decided(of, seen(of, looks)).reason != "SampleRatioMismatch"


@pytest.mark.parametrize("changes", [{"sample_ratio": False}, {"mode": Mode.OBSERVE}], ids=["not asked", "observed"])
def test_it_is_asked_for(changes: dict[str, Any]) -> None:
    of = plan(metrics=[replace(ratio(sample_ratio=True), **changes)])
    assert mismatches(of, ledger_in(of, TEN), seen(of, [(500.0, 500.0)] * 4)) == ()


def test_each_metric_that_asks_for_it_is_looked_at() -> None:
    """One without a control arm does not hide the next, whose split is wrong."""
    of = plan(metrics=[ratio("alone", sample_ratio=True), ratio(sample_ratio=True)])
    progress = seen(of, [(150.0, 850.0)] * 2)
    alone = look("alone", T0, events=0.0, units=9.0)
    progress = progress.observed(of, alone, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    assert mismatches(of, ledger_in(of, TEN), progress) == (
        "alone has no control arm: its query must give control_events and control_units",
        "errors has 300 of 2000 users with the flags, which is 15% and not 10%",
    )


def test_without_a_control_arm_it_holds_and_says_so() -> None:
    of = sampled()
    decision = decided(of, seen(of, [(100.0, None)]))
    assert decision.reason == "SampleRatioMismatch"
    assert "errors has no control arm" in decision.message


def test_the_hold_ends_when_more_users_show_the_planned_split() -> None:
    """Services that read the new rows late: the first look still has the old split."""
    of = sampled()
    late = seen(of, [(0.0, 1000.0)])
    assert decided(of, late).reason == "SampleRatioMismatch"
    assert decided(of, seen(of, [(100.0, 900.0)] * 100, late)).reason != "SampleRatioMismatch"


def test_a_person_can_confirm_it() -> None:
    of = sampled()
    known = ledger_in(of, TEN)
    consent = Consent("mia", T0, known.uid, of.plan_hash)
    confirmed = replace(known, people=People(confirmations={SAMPLE_RATIO: consent}))
    progress = seen(of, [(150.0, 850.0)] * 2)
    assert decided(of, progress, known).reason == "SampleRatioMismatch"
    assert decided(of, progress, confirmed).reason != "SampleRatioMismatch"


def test_each_stage_begins_anew() -> None:
    of = sampled()
    progress = seen(of, [(150.0, 850.0)] * 2).entered(of, T0 + minutes(1), raised=True)
    assert progress.of("errors").sample == (0.0, 0.0)
    assert seen(of, [(0.0, 9.0)], progress).of("errors").sample == (0.0, 9.0)


def test_a_restart_changes_nothing() -> None:
    progress = seen(sampled(), [(150.0, 850.0)] * 2)
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress
    stored = progress.to_json()
    del stored["metrics"]["errors"]["sample"]
    assert Progress.from_json(stored).of("errors").sample == (0.0, 0.0), "stored by an earlier version"


def test_a_healthy_split_is_rarely_held() -> None:
    """Looked at after each of 400 windows of 50 users; at most 1 % of stages may ever be held."""
    held = 0
    for seed in range(400):
        draw = random.Random(seed).random
        treated = control = 0
        for _ in range(400):
            found = sum(draw() < 0.1 for _ in range(50))
            treated, control = treated + found, control + 50 - found
            if log_evidence(treated, control, 0.1) >= math.log(HOLD_AT):
                held += 1
                break
    assert held <= 4
