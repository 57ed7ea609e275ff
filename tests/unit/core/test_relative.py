"""Clauses that are relative, the control arm, guards tried on the past, and what an edit of a query resets.

| subject | cases |
|---|---|
| against control | harm in one arm, in both, a decrease of a good rate, no arm, an empty arm |
| the veto | an incident of everybody holds, ends with it, and the deadline still binds |
| against the past | by hour, a decrease, a gauge, no past, another query's past |
| quiet guards | one that fires without a rollout, one that does not, after the first raise, Hold rows |
| edits | a metric's own counts, values and looks only; evidence of an edited clause keeps its time |
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.checks import GUARDS_QUIET
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.evidence import Arm
from feature_rollout.core.guards import GuardState, assess, breach_of
from feature_rollout.core.intake import aligned
from feature_rollout.core.looks import Look, Verdict
from feature_rollout.core.people import Consent, People
from feature_rollout.core.plan import Action, ActionType, BaselineType, Clause, OnNoTraffic, Plan, Sense, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import Reference, of_gauge, of_ratio, windows_before
from feature_rollout.core.relative import bad_of, is_global, is_past, limit_of, wanted_references
from support.depth import properties
from support.fakes import (
    INTERVAL,
    T0,
    above,
    below,
    exposure,
    gauge,
    ledger,
    ledger_in,
    look,
    minutes,
    plan,
    ratio,
    relative,
    row,
)

CONTROL = BaselineType.CONTROL
HOLD = Action(ActionType.HOLD)
# Events and units of the treated arm, then of the control arm.
Counts = tuple[float, float, float, float]


def at(index: int, counts: Counts) -> Look:
    events, units, control_events, control_units = counts
    arms = {"control_events": control_events, "control_units": control_units}
    return look("errors", T0 + index * INTERVAL, events=events, units=units, **arms)


def watched(of: Plan, looks: list[Look], reference: Reference | None = None) -> Progress:
    progress = Progress(reference_until=T0, references={"errors": reference} if reference else {})
    return seen(of, progress.entered(of, T0, raised=True), looks)


def seen(of: Plan, progress: Progress, looks: list[Look]) -> Progress:
    for one in looks:
        progress = progress.observed(of, one, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    return progress


def state(of: Plan, progress: Progress, after: timedelta | None = None) -> GuardState:
    """Of the only guard, just after the newest look."""
    latest = progress.of(next(iter(of.metrics))).latest
    now = T0 + after if after is not None else latest.window.end if latest else T0
    (guard,) = assess(of, progress, now)
    return guard.state


def against_control(change: str = "5%", **changes: Any) -> Plan:
    return plan(rows=[row(Severity.HIGH, relative(change=change, baseline=CONTROL, **changes), settle=minutes(2))])


# Against control.

HARM_IN_ONE: Counts = (30.0, 300.0, 27.0, 2700.0)
HARM_IN_BOTH: Counts = (30.0, 300.0, 270.0, 2700.0)
HEALTHY: Counts = (3.0, 300.0, 27.0, 2700.0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [(HARM_IN_ONE, GuardState.BREACHED), (HARM_IN_BOTH, GuardState.QUIET), (HEALTHY, GuardState.QUIET)],
)
def test_an_increase_against_control_is_harm_in_one_arm_only(counts: Counts, expected: GuardState) -> None:
    of = against_control()
    assert state(of, watched(of, [at(i, counts) for i in range(10)])) is expected


@pytest.mark.parametrize(
    ("treated", "expected"), [(190.0, GuardState.BREACHED), (270.0, GuardState.QUIET), (300.0, GuardState.QUIET)]
)
def test_a_decrease_against_control_of_a_good_rate(treated: float, expected: GuardState) -> None:
    of = against_control("20%", sense=Sense.BELOW)
    looks = [at(i, (treated, 300.0, 2430.0, 2700.0)) for i in range(30)]
    assert state(of, watched(of, looks)) is expected


def test_a_metric_without_a_control_arm_is_blind_and_says_so() -> None:
    of = against_control()
    progress = watched(of, [look("errors", T0, events=30.0, units=300.0)])
    (guard,) = assess(of, progress, T0 + INTERVAL)
    assert guard.state is GuardState.BLIND
    assert "has no control arm" in guard.note


def test_an_empty_control_arm_says_nothing_and_the_bake_goes_on() -> None:
    """As in the last stage, in which everybody has the flags."""
    of = against_control()
    progress = watched(of, [at(i, (30.0, 300.0, 0.0, 0.0)) for i in range(10)])
    assert state(of, progress) is GuardState.QUIET
    assert progress.evidence[of.rows[0].clauses[0].key].observed_s == 0.0
    assert progress.baked == minutes(5)


def test_a_breach_against_control_tells_the_limit_that_was_in_force() -> None:
    of = against_control()
    progress = watched(of, [at(i, HARM_IN_ONE) for i in range(10)])
    (guard,) = assess(of, progress, T0 + minutes(5))
    breach = breach_of(guard, of.metrics["errors"], T0 + minutes(5))
    assert (breach.value, breach.limit) == ("10%", "1.05%")
    assert breach.clause == "errors increase 5% against Control"


def test_a_verdict_against_control() -> None:
    of = against_control()
    verdicts = [Progress().verdict(of, at(0, counts)) for counts in (HARM_IN_ONE, HEALTHY, (0.0, 0.0, 1.0, 9.0))]
    assert verdicts == [Verdict.FAIL, Verdict.PASS, Verdict.NO_DATA]


def test_an_overdue_run_against_control_acts() -> None:
    """Small harm: the evidence alone is not there yet, the unbroken run at the deadline is."""
    of = plan(
        rows=[row(Severity.HIGH, relative(change="5%", baseline=CONTROL), settle=minutes(2))],
        metrics=[ratio(counts_users=False)],
    )
    looks = [at(i, (30.0, 300.0, 135.0, 2700.0)) for i in range(60)]
    progress = watched(of, looks)
    clause = of.rows[0].clauses[0]
    run = progress.evidence[clause.key].run
    assert run is not None
    assert run.looks_with_units == 60
    assert progress.is_breached(of, of.rows[0], clause, T0 + minutes(30))


# The veto.


def absolute(**changes: Any) -> Plan:
    return plan(rows=[row(Severity.HIGH, above(), **changes)])


def test_an_incident_of_everybody_holds_and_is_no_breach() -> None:
    of = absolute()
    progress = watched(of, [at(i, HARM_IN_BOTH) for i in range(20)])
    assert state(of, progress) is GuardState.INCIDENT
    assert progress.evidence[of.rows[0].clauses[0].key].value < 20
    assert progress.baked == timedelta(0)
    over = seen(of, progress, [at(20, HEALTHY), at(21, HEALTHY)])
    assert state(of, over) is GuardState.QUIET


def test_harm_that_only_the_treated_have_is_a_breach() -> None:
    of = absolute()
    assert state(of, watched(of, [at(0, HARM_IN_ONE)])) is GuardState.BREACHED


def test_an_incident_that_only_the_treated_are_left_with_is_a_breach() -> None:
    of = absolute()
    progress = watched(of, [at(i, HARM_IN_BOTH) for i in range(30)])
    assert state(of, progress) is GuardState.INCIDENT
    # What is older than ten looks does not excuse it any more.
    assert state(of, seen(of, progress, [at(30 + i, HARM_IN_ONE) for i in range(10)])) is GuardState.BREACHED


def test_the_deadline_binds_in_an_incident_too() -> None:
    of = absolute()
    progress = watched(of, [at(i, HARM_IN_BOTH) for i in range(60)])
    assert state(of, progress, minutes(29.9)) is GuardState.INCIDENT
    assert state(of, progress, minutes(30)) is GuardState.BREACHED


def test_the_veto_of_a_lower_limit_is_on_what_is_no_event() -> None:
    of = plan(rows=[row(Severity.HIGH, below("errors", "80%"))])
    both, one = (150.0, 300.0, 1350.0, 2700.0), (150.0, 300.0, 2565.0, 2700.0)
    assert state(of, watched(of, [at(i, both) for i in range(5)])) is GuardState.INCIDENT
    assert state(of, watched(of, [at(i, one) for i in range(5)])) is GuardState.BREACHED


def test_an_incident_is_told() -> None:
    of = absolute()
    progress = watched(of, [at(i, HARM_IN_BOTH) for i in range(20)])
    decision = decided(of, progress, stage=0)
    assert (decision.verb, decision.phase, decision.reason) == (Verb.HOLD, Phase.HELD, "GlobalIncident")
    assert "not the rollout's doing" in decision.message


@properties(30)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=40), st.integers(0, 40))
def test_a_restart_in_the_middle_changes_nothing_with_arms(bad: list[tuple[int, int]], when: int) -> None:
    rows = [row(Severity.HIGH, above(), relative(change="5%", baseline=CONTROL), relative(), settle=minutes(2))]
    of = plan(rows=rows, metrics=[ratio(key="k")])
    straight = restarted = watched(of, [], past())
    for index, (treated, control) in enumerate(bad):
        if index == when:
            restarted = Progress.from_json(json.loads(json.dumps(restarted.to_json(), allow_nan=False)))
        one = at(index, (float(treated), 50.0, float(control), 50.0))
        straight, restarted = seen(of, straight, [one]), seen(of, restarted, [one])
    assert restarted == straight


# Against the past.


def past(rate: float = 0.01, units: float = 3000.0, key: str = "k") -> Reference:
    """A week in which the rate is the same at every hour, but for nine in the morning, where it is twice that."""
    windows = windows_before(T0)
    draw = random.Random(4)
    looks = []
    for window in windows:
        usual = units * rate * (2 if window.start.hour == 9 else 1)
        looks.append(Look("errors", window, round(usual + draw.gauss(0, usual**0.5)), units))
    return of_ratio(key, looks)


def against_past(change: str = "50%", **changes: Any) -> Plan:
    metrics = [ratio(key="k")]
    return plan(rows=[row(Severity.HIGH, relative(change=change, **changes), settle=minutes(2))], metrics=metrics)


def test_an_increase_against_the_past_is_judged_by_the_hour() -> None:
    """2.4 % is usual at nine, and much at ten."""
    of = against_past()
    numbers = {"events": 48.0, "units": 2000.0}
    at_nine = watched(of, [look("errors", T0 + i * INTERVAL, **numbers) for i in range(100)], past())
    assert state(of, at_nine) is GuardState.QUIET
    at_ten = [look("errors", T0 + minutes(60) + i * INTERVAL, **numbers) for i in range(100)]
    assert state(of, seen(of, at_nine, at_ten)) is GuardState.BREACHED


def test_a_decrease_against_the_past() -> None:
    of = against_past("20%", sense=Sense.BELOW)
    reference = past(rate=0.4)
    for rate, expected in ((0.7, GuardState.QUIET), (0.4, GuardState.BREACHED)):
        numbers = {"events": 2000 * rate, "units": 2000.0}
        looks = [look("errors", T0 + i * INTERVAL, **numbers) for i in range(40)]
        assert state(of, watched(of, looks, reference)) is expected


def test_a_gauge_against_the_past() -> None:
    of = plan(
        rows=[row(Severity.HIGH, relative("latency", "50%"))],
        metrics=[gauge(key="k")],
        stages=(),
    )
    reference = of_gauge("k", [Look("latency", w, value=2.0 if w.start.hour == 9 else 1.0) for w in windows_before(T0)])
    progress = Progress(reference_until=T0, references={"latency": reference}).entered(of, T0, raised=True)
    at_nine = [look("latency", T0 + i * INTERVAL, value=2.9) for i in range(100)]
    assert state(of, seen(of, progress, at_nine)) is GuardState.QUIET
    at_ten = [look("latency", T0 + minutes(60) + i * INTERVAL, value=2.9) for i in range(60)]
    assert state(of, seen(of, seen(of, progress, at_nine), at_ten)) is GuardState.BREACHED


@pytest.mark.parametrize(
    ("reference", "expected", "words"),
    [
        (None, GuardState.UNSEEN, "the past of errors"),
        (Reference("k", note="it has no data in the seven days before"), GuardState.BLIND, "has no past"),
        (past(key="another query"), GuardState.UNSEEN, "the past of errors"),
    ],
    ids=["not read yet", "none", "of another query"],
)
def test_without_a_past_such_a_clause_is_blind_and_never_passes(
    reference: Reference | None, expected: GuardState, words: str
) -> None:
    of = against_past()
    progress = watched(of, [look("errors", T0, events=0.0, units=100.0)], reference)
    (guard,) = assess(of, progress, T0 + INTERVAL)
    assert guard.state is expected
    assert words in guard.note


def test_a_past_that_was_never_asked_for_is_blind() -> None:
    of = against_past()
    progress = replace(watched(of, [look("errors", T0, events=0.0, units=100.0)]), reference_until=None)
    assert state(of, progress) is GuardState.BLIND


def test_the_dispersion_of_the_past_is_that_of_the_test() -> None:
    of = plan(metrics=[ratio(key="k", counts_users=False)])
    (guarded,) = of.guards()
    bursty = Reference("k", dispersion=4.5, hours=((1.0, 9.0),) * 24)
    tests = [
        Progress(references={"errors": known}).test_of(of, *guarded) for known in (bursty, replace(bursty, key="x"))
    ]
    assert [test.dispersion for test in tests] == [4.5, 10.0]


def test_what_needs_a_past() -> None:
    clauses = [above(), relative("hits"), above("latency", "2"), relative("p95", "5%"), above("seen")]
    metrics = [ratio(), ratio("hits"), gauge(), gauge("p95"), ratio("seen", blocker="no"), ratio("unguarded")]
    of = plan(rows=[row(Severity.HIGH, *clauses)], metrics=metrics)
    assert wanted_references(of) == {"errors": False, "hits": True, "p95": True}


# The limit in force, and one look against it.

ROUGH = Reference("k", dispersion=4.0, hours=((336.0, 42_000.0),) * 24)
AT_NINE = look("errors", T0, events=3.0, units=300.0, control_events=60.0, control_units=3000.0)


@pytest.mark.parametrize(
    ("clause", "limit"),
    [
        pytest.param(above(), 0.01, id="absolute"),
        pytest.param(relative(), 0.0160409, id="an increase against the past, with its dispersion"),
        pytest.param(relative(sense=Sense.BELOW), 0.0026530, id="a decrease: of the rate, not of its complement"),
        pytest.param(relative(baseline=CONTROL), 0.03, id="an increase against the others"),
        pytest.param(relative(sense=Sense.BELOW, baseline=CONTROL), 0.01, id="a decrease against the others"),
    ],
)
def test_the_limit_in_force(clause: Clause, limit: float) -> None:
    assert limit_of(clause, ratio(key="k"), ROUGH, AT_NINE) == pytest.approx(limit, abs=5e-8)


@pytest.mark.parametrize(
    ("clause", "reference"),
    [
        pytest.param(relative(), None, id="no past"),
        pytest.param(relative(), replace(ROUGH, key="x"), id="the past of another query"),
        pytest.param(relative(sense=Sense.BELOW), None, id="no past to fall below"),
        pytest.param(relative(baseline=CONTROL), ROUGH, id="nobody in the other arm"),
    ],
)
def test_without_anything_to_compare_with_there_is_no_limit(clause: Clause, reference: Reference | None) -> None:
    alone = look("errors", T0, events=300.0, units=300.0)
    assert limit_of(clause, ratio(key="k"), reference, alone) is None
    assert not is_past(clause, ratio(key="k"), reference, alone)


@pytest.mark.parametrize(
    ("clause", "events", "expected"),
    [
        (above(limit="25%"), 25.0, False),
        (above(limit="25%"), 26.0, True),
        (below("errors", "25%"), 25.0, False),
        (below("errors", "25%"), 24.0, True),
    ],
)
def test_a_look_that_is_just_at_the_limit_is_not_past_it(clause: Clause, events: float, expected: bool) -> None:
    assert is_past(clause, ratio(), None, look("errors", T0, events=events, units=100.0)) is expected
    assert not is_past(clause, ratio(), None, look("errors", T0)), "nothing is past nothing"


def test_a_look_is_held_against_the_past_of_its_metric() -> None:
    seen, many = ratio(key="k"), look("errors", T0, events=6.0, units=300.0)
    assert is_past(relative(), seen, ROUGH, many)
    assert not is_past(relative(), seen, ROUGH, AT_NINE)


def test_one_arm_alone_makes_no_incident_of_everybody() -> None:
    bad, nobody = Arm(50.0, 100.0), Arm(0.0, 0.0)
    assert is_global(above(), [(bad, bad)])
    assert not is_global(above(), [(bad, nobody)])
    assert not is_global(above(), [(nobody, bad)])
    assert not is_global(above(), [])


def test_extrapolated_events_leave_nothing_that_is_no_event() -> None:
    assert bad_of(below("errors"), Arm(12.0, 10.0)) == Arm(0.0, 10.0)


# Quiet guards.


def decided(of: Plan, progress: Progress, stage: int = -1, **changes: Any) -> Decision:
    now = T0 + minutes(1) if stage < 0 else T0 + minutes(10)
    rows = of.exposure_after(stage, {"bell": exposure(0, enabled=False)})
    known = changes.pop("ledger", None) or (ledger() if stage < 0 else ledger_in(of, stage))
    return decide(View(of, known, rows, progress, assess(of, progress, now), now, **changes))


def before(of: Plan, reference: Reference) -> Progress:
    """Looked at once, nothing raised yet."""
    progress = Progress(reference_until=T0, references={"errors": reference})
    return seen(of, progress, [look("errors", T0, events=0.0, units=100.0)])


@pytest.mark.parametrize(
    ("clause", "is_tight"),
    [
        (above(limit="1.1%"), True),
        (above(limit="5%"), False),
        (below("errors", "0.5%"), False),
        (below("errors", "99.5%"), True),
        (relative(change="100%"), False),
        (relative(change="5%", baseline=CONTROL), False),
    ],
    ids=str,
)
def test_a_guard_that_fires_without_a_rollout_is_too_tight(clause: Clause, is_tight: bool) -> None:
    of = plan(rows=[row(Severity.HIGH, clause)], metrics=[ratio(key="k")])
    assert before(of, past()).too_tight(of) == ((clause,) if is_tight else ())


def test_an_increase_is_tried_on_the_past_that_it_is_compared_with() -> None:
    """So many users that 80 % of the limit is less than what is usual; and no gauge is tried like that."""
    clause = relative(change="5%")
    of = plan(rows=[row(Severity.HIGH, clause)], metrics=[ratio(key="k")])
    assert before(of, past(units=300_000.0)).too_tight(of) == (clause,)
    more = plan(rows=[row(Severity.HIGH, relative("later"), clause)], metrics=[ratio("later"), ratio(key="k")])
    assert before(more, past(units=300_000.0)).too_tight(more) == (clause,), "one without a past hides no other"
    of_gauges = plan(rows=[row(Severity.HIGH, clause)], metrics=[gauge("errors", key="k")])
    assert before(of_gauges, past(units=300_000.0)).too_tight(of_gauges) == ()


def test_a_tight_guard_holds_until_it_is_confirmed_or_loosened() -> None:
    of = plan(rows=[row(Severity.HIGH, above(limit="1.1%"))], metrics=[ratio(key="k")])
    held = decided(of, before(of, past()))
    assert (held.phase, held.reason, held.stalled) == (Phase.PREFLIGHT, "GuardTooTight", True)
    assert "errors above 1.1%" in held.message
    assert held.waiting_for == ("errors above 1.1%",)
    consent = Consent("jane", T0, ledger().uid, of.plan_hash)
    acknowledged = ledger(people=People(confirmations={GUARDS_QUIET: consent}))
    assert decided(of, before(of, past()), ledger=acknowledged).verb is Verb.ADVANCE
    loose = plan(rows=[row(Severity.HIGH, above(limit="5%"))], metrics=[ratio(key="k")])
    assert decided(loose, before(loose, past())).verb is Verb.ADVANCE


def test_guards_are_not_tried_on_the_past_once_it_has_begun_nor_where_they_lower_nothing() -> None:
    of = plan(rows=[row(Severity.HIGH, above(limit="1.1%"))], metrics=[ratio(key="k")])
    assert before(of, past()).entered(of, T0, raised=True).too_tight(of) == ()
    held = plan(rows=[row(Severity.LOW, above(limit="1.1%"), action=HOLD)], metrics=[ratio(key="k")])
    assert before(held, past()).too_tight(held) == ()


def test_the_first_raise_waits_for_the_past_and_says_how_far_it_is() -> None:
    rows = [row(Severity.HIGH, above(), above("slow"))]
    of = plan(rows=rows, metrics=[ratio(key="k"), ratio("slow", key="s")])
    progress = before(of, past(rate=0.001))
    decision = decided(of, progress)
    assert (decision.verb, decision.phase, decision.reason) == (Verb.WAIT, Phase.PREFLIGHT, "AwaitingReference")
    assert "slow (1 of 2 metrics are read)" in decision.message
    known = progress.referred("slow", Reference("s", note="none")).observed(
        of, look("slow", T0, events=0.0, units=9.0), counting=True, on_no_traffic=OnNoTraffic.WAIT
    )
    assert decided(of, known).verb is Verb.ADVANCE


def test_in_mid_stage_an_edited_query_bakes_on_and_the_next_raise_waits() -> None:
    of = plan(metrics=[ratio(key="new")])
    progress = watched(of, [look("errors", T0 + i * INTERVAL, events=0.0, units=99.0) for i in range(20)], past())
    waits = decided(of, progress, stage=0)
    assert (waits.reason, waits.phase) == ("AwaitingReference", Phase.HELD)
    assert decided(of, replace(progress, baked=minutes(1)), stage=0).reason == "Baking"


# Edits.

EDITS = {
    "the template of errors": ([ratio(key="new"), ratio("slow", key="s")], {"errors"}),
    "the provider of slow": ([ratio(key="k"), ratio("slow", key="t")], {"slow"}),
    "nothing": ([ratio(key="k"), ratio("slow", key="s")], set()),
}


@pytest.mark.parametrize(("metrics", "touched"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_of_a_query_resets_what_it_measured_and_nothing_else(metrics: list[Any], touched: set[str]) -> None:
    rows = [row(Severity.HIGH, above(key="a"), above("slow", key="b"))]
    of = plan(rows=rows, metrics=[ratio(key="k"), ratio("slow", key="s")])
    entered = Progress().entered(of, T0, raised=True)
    numbers = {"events": 1.0, "units": 1000.0}
    looks = [look(name, T0 + i * INTERVAL, **numbers) for i in range(4) for name in ("errors", "slow")]
    progress = seen(of, entered, looks)
    edited = plan(rows=rows, metrics=metrics)
    after = aligned(progress, edited, ledger_in(of, 0), T0 + minutes(2))
    for name in ("errors", "slow"):
        measured = after.of(name)
        if name in touched:
            assert (measured.units, measured.latest, measured.looked_until) == (0.0, None, None)
        else:
            assert measured == progress.of(name)
    assert after.baked == progress.baked == minutes(2)
    assert aligned(after, edited, ledger_in(of, 0), T0 + minutes(2)) == after, "once is enough"


def test_an_edit_of_a_clause_resets_its_evidence_and_keeps_its_time() -> None:
    rows = [row(Severity.HIGH, above(key="a"), above("slow", key="b"))]
    metrics = [ratio(key="k"), ratio("slow", key="s")]
    of = plan(rows=rows, metrics=metrics)
    numbers = {"events": 15.0, "units": 1000.0}
    looks = [look(name, T0 + i * INTERVAL, **numbers) for i in range(4) for name in ("errors", "slow")]
    progress = seen(of, Progress().entered(of, T0, raised=True), looks)
    edited = plan(rows=[row(Severity.HIGH, above(key="new"), above("slow", key="b"))], metrics=metrics)
    progress = aligned(progress, edited, ledger_in(of, 0), T0 + minutes(2))
    assert progress.of("errors").units == 4000.0, "the gate goes on"
    more = [look(name, T0 + 4 * INTERVAL, **numbers) for name in ("errors", "slow")]
    evidence = seen(edited, progress, more).evidence
    assert evidence["new"].observed_s == evidence["b"].observed_s == 150.0
    assert evidence["new"].raises == 1
    assert evidence["new"].run is not None
    assert evidence["new"].run.looks_with_units == 1
    assert evidence["new"].value < evidence["b"].value


def test_progress_of_an_earlier_version_is_read() -> None:
    of = plan(metrics=[ratio(key="k")])
    stored = watched(of, [look("errors", T0, events=1.0, units=99.0)]).to_json()
    for name in ("referenceUntil", "references"):
        del stored[name]
    for name in ("key", "arms"):
        del stored["metrics"]["errors"][name]
    del stored["evidence"]["errors>1%"]["vetoed"]
    for name in ("controlEvents", "controlUnits"):
        del stored["metrics"]["errors"]["latest"][name]
    progress = aligned(Progress.from_json(stored), of, ledger_in(of, 0), T0)
    assert progress.of("errors").units == 99.0
    assert progress.references_missing(of) == ()


# Healthy rollouts.


@pytest.mark.parametrize("seed", range(3))
def test_healthy_days_fire_no_guard(seed: int) -> None:
    """Two days at a daily load against the limit, the past and the control arm, all from the same rates."""
    draw = random.Random(seed)

    def failed(units: int) -> int:
        return min(max(round(draw.gauss(units * 0.01, (units * 0.01) ** 0.5)), 0), units)

    history = [Look("errors", w, failed(3000), 3000) for w in windows_before(T0)]
    clauses = [above(limit="1.3%"), relative(change="50%"), relative(change="5%", baseline=CONTROL, key="c")]
    of = plan(rows=[row(Severity.HIGH, *clauses, settle=minutes(2))], metrics=[ratio(key="k", counts_users=False)])
    progress = watched(of, [], of_ratio("k", history))
    for index in range(2 * 2880):
        units = 60 if index // 1440 % 2 else 20
        progress = seen(of, progress, [at(index, (failed(units), units, failed(9 * units), 9 * units))])
        for guarded in of.guards():
            assert not progress.is_breached(of, *guarded, T0 + index * INTERVAL)
