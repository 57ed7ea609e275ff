"""The chain of checks: each reason, the order of the chain, one step at a time, and whole lives.

| subject | cases |
|---|---|
| each check | a sentence, the phase and the reason |
| order | lowering before everything; trouble before the latch; people before raising |
| changes by others | each policy: what stops, what guards lower, what a stage starts from |
| not knowing | onBlind, how long, what is no failure of the source |
| the latch | the same spec, the spec that it was raised under, another one; where the next attempt begins |
| the edges | edited prefixes, removed stages, grown plans, missing rows, holdAt, bake 0, stages without flags |
| lives | to completion, harm in stage two, a new attempt, in virtual time |
| properties | never raises an exception; committed raises keep the invariants; after a latch nothing raises |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core import decide as module
from feature_rollout.core import readiness, reasons, reverts, standstill
from feature_rollout.core.calendar import Calendar, Freeze
from feature_rollout.core.decide import CHECKS, decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.exposure import DISABLED, Exposure, FlagChange, raises
from feature_rollout.core.guards import assess
from feature_rollout.core.intake import aligned
from feature_rollout.core.invariants import violations
from feature_rollout.core.plan import (
    Action,
    ActionType,
    Clause,
    Gate,
    OnBlind,
    OnDelete,
    OnDrift,
    OnNoTraffic,
    Plan,
    Severity,
    Stage,
    Target,
)
from feature_rollout.core.progress import Progress
from feature_rollout.core.reverts import release
from feature_rollout.core.standstill import STANDSTILL, stands_still
from feature_rollout.core.state import Breach, Latch, Ledger
from support.depth import properties
from support.fakes import (
    INTERVAL,
    OFF,
    T0,
    above,
    exposure,
    ledger,
    ledger_in,
    look,
    minutes,
    percent,
    plan,
    row,
    seconds,
    stage,
)

deterministic = properties(60)
GOOD: dict[str, Any] = {"events": 0.0, "units": 1000.0}
BAD: dict[str, Any] = {"events": 200.0, "units": 1000.0}
EMPTY: dict[str, Any] = {"events": 0.0, "units": 0.0}
ERROR: dict[str, Any] = {"error": "timeout"}
HOLD = Action(ActionType.HOLD)
PLAN = plan()
TEN_OFF = exposure(10, enabled=False)
BAKED = 10  # looks, which is the bake of every stage


def view(of: Plan = PLAN, index: int = 0, looks: list[dict[str, Any]] | None = None, **changes: Any) -> View:
    """A rollout in the stage of that index (-1 before the first) after these looks, all rows as they were left."""
    row_in = changes.pop("ledger", None) or (ledger_in(of, index) if index >= 0 else ledger())
    looks = [GOOD] if looks is None else looks
    start = row_in.entered_at or T0
    progress = aligned(None, of, row_in, start)
    for i, numbers in enumerate(looks):
        for name in of.metrics:
            seen = look(name, start + i * INTERVAL, **numbers)
            counts = of.stages[index].on_no_traffic if 0 <= index < len(of.stages) else OnNoTraffic.WAIT
            progress = progress.observed(of, seen, counting=True, on_no_traffic=counts)
    now = start + len(looks) * INTERVAL
    rows = {**dict.fromkeys(of.flags, OFF), **row_in.written}
    made = View(of, row_in, rows, progress, assess(of, progress, now), now)
    return replace(made, **changes)


def latch(of: Plan = PLAN, severity: Severity = Severity.HIGH) -> Latch:
    breach = Breach(severity, "errors", "errors above 1%", "20%", "1%", 5.0, T0, minutes(5), "DisableFlags")
    return Latch(breach, "ten", of.spec_hash, T0 + minutes(1))


def reverted(of: Plan = PLAN, index: int = 0, to: Exposure = TEN_OFF) -> Ledger:
    """The ledger after a revert that left every flag so."""
    entered = ledger_in(of, index)
    return replace(
        entered, written=dict.fromkeys(entered.written, to), latch=latch(of), acted=frozenset({Severity.HIGH})
    )


GATED = plan(
    stage("ten", ("bell", 10), gates=(Gate("errors", at_most=percent("1%"), min_units=10**6),)), PLAN.stages[1]
)
CAREFUL = plan(alpha=0.0001)
SOFT = plan(rows=[row(Severity.LOW, above(), action=HOLD)])
BLOCKED = plan(PLAN.stages[0], stage("half", ("bell", 50), blockers=("approval is not in effect",)))
YEARS = Calendar("UTC", (), (Freeze(T0.date(), T0.date() + timedelta(days=300), "a long freeze"),))
CLOSED = plan(calendar=YEARS)
OVERDUE = plan(stage("ten", ("bell", 10), deadline=minutes(2)), *PLAN.stages[1:])
BLIND = plan(on_blind=OnBlind.REVERT)
TROUBLE = Trouble("InvalidPlan", "the plan names no metric")


@pytest.mark.parametrize(
    ("given_view", "verb", "phase", "reason"),
    [
        pytest.param(
            view(index=-1, looks=[]), Verb.WAIT, Phase.PENDING, "AwaitingLook", id="guards were not looked at"
        ),
        pytest.param(view(index=-1), Verb.ADVANCE, Phase.BAKING, "StageEntered", id="nothing objects to the first"),
        pytest.param(view(), Verb.WAIT, Phase.BAKING, "Baking", id="the bake is not over"),
        pytest.param(view(looks=[]), Verb.WAIT, Phase.BAKING, "AwaitingLook", id="a stage without a look yet"),
        pytest.param(view(looks=[GOOD] * BAKED), Verb.ADVANCE, Phase.BAKING, "StageEntered", id="the bake is over"),
        pytest.param(view(GATED, looks=[GOOD] * BAKED), Verb.HOLD, Phase.GATING, "GateNotPassed", id="a gate is not"),
        pytest.param(view(index=2, looks=[GOOD] * BAKED), Verb.COMPLETE, Phase.COMPLETED, "Completed", id="the last"),
        pytest.param(
            view(ledger=ledger_in(PLAN, 2, completed_at=T0)), Verb.WAIT, Phase.COMPLETED, "Completed", id="it is over"
        ),
        pytest.param(view(looks=[BAD]), Verb.DISABLE_FLAGS, Phase.ROLLED_BACK, "FlagsDisabled", id="a breach"),
        pytest.param(view(ledger=reverted()), Verb.HOLD, Phase.ROLLED_BACK, "RolledBack", id="reverted, same plan"),
        pytest.param(
            view(ledger=replace(reverted(), latch=latch(GATED), spec_hash="old")),
            Verb.REARM,
            Phase.PENDING,
            "Rearmed",
            id="reverted, another plan",
        ),
        pytest.param(view(looks=[ERROR]), Verb.HOLD, Phase.HELD, "GuardsBlind", id="a metric cannot be had"),
        pytest.param(view(index=-1, looks=[ERROR]), Verb.HOLD, Phase.HELD, "GuardsBlind", id="not even for the first"),
        pytest.param(view(looks=[GOOD, *[EMPTY] * 4]), Verb.HOLD, Phase.HELD, "NoTraffic", id="no traffic"),
        pytest.param(view(looks=[GOOD, EMPTY]), Verb.WAIT, Phase.BAKING, "Baking", id="a window without traffic"),
        pytest.param(
            view(CAREFUL, looks=[{"events": 5.0, "units": 50.0}]), Verb.HOLD, Phase.HELD, "EvidenceAgainst", id="doubt"
        ),
        pytest.param(view(SOFT, looks=[BAD]), Verb.HOLD, Phase.HELD, "HoldAction", id="a breached row that holds"),
        pytest.param(view(suspended=True), Verb.HOLD, Phase.PAUSED, "Suspended", id="suspended"),
        pytest.param(view(trouble=TROUBLE), Verb.HOLD, Phase.STALLED, "InvalidPlan", id="a manifest that is broken"),
        pytest.param(
            view(trouble=replace(TROUBLE, stalled=False)), Verb.HOLD, Phase.HELD, "InvalidPlan", id="passing trouble"
        ),
        pytest.param(view(rows={"bell": exposure(99)}), Verb.HOLD, Phase.PAUSED, "ManualChange", id="changed by hand"),
        pytest.param(view(rows={}), Verb.HOLD, Phase.STALLED, "FlagMissing", id="a row that was removed"),
        pytest.param(view(index=-1, rows={}), Verb.HOLD, Phase.STALLED, "FlagMissing", id="a row that is not there"),
        pytest.param(
            view(ledger=replace(ledger_in(PLAN, 0), executed=("other",))),
            Verb.HOLD,
            Phase.HELD,
            "PlanChanged",
            id="edit",
        ),
        pytest.param(view(BLOCKED, looks=[GOOD] * BAKED), Verb.HOLD, Phase.HELD, "NotInEffect", id="an approval"),
        pytest.param(
            view(CLOSED, looks=[GOOD] * BAKED),
            Verb.WAIT,
            Phase.AWAITING_WINDOW,
            "AwaitingWindow",
            id="the calendar is closed",
        ),
        pytest.param(view(CLOSED, -1), Verb.WAIT, Phase.AWAITING_WINDOW, "AwaitingWindow", id="closed at the start"),
        pytest.param(view(CLOSED), Verb.WAIT, Phase.BAKING, "Baking", id="a bake goes on while the calendar is closed"),
        pytest.param(
            view(CLOSED, 2, looks=[GOOD] * BAKED),
            Verb.COMPLETE,
            Phase.COMPLETED,
            "Completed",
            id="its end is no advance",
        ),
        pytest.param(view(OVERDUE, looks=[GOOD] * 4), Verb.WAIT, Phase.BAKING, "StageOverdue", id="a stage overdue"),
        pytest.param(view(OVERDUE, looks=[GOOD] * 3), Verb.WAIT, Phase.BAKING, "Baking", id="a stage in time"),
        pytest.param(
            view(OVERDUE, looks=[GOOD] * 3 + [ERROR]), Verb.HOLD, Phase.HELD, "StageOverdue", id="held and overdue"
        ),
        pytest.param(
            view(OVERDUE, looks=[GOOD] * 4, suspended=True),
            Verb.HOLD,
            Phase.PAUSED,
            "Suspended",
            id="what people have stopped is not overdue",
        ),
        pytest.param(
            view(looks=[GOOD] * BAKED, hold_at="ten"), Verb.HOLD, Phase.HELD, "HoldAt", id="holdAt is reached"
        ),
    ],
)
def test_it_says(given_view: View, verb: Verb, phase: Phase, reason: str) -> None:
    decision = decide(given_view)
    assert (decision.verb, decision.phase, decision.reason) == (verb, phase, reason)
    assert decision.reason in reasons.DESCRIPTIONS
    assert decision.message.endswith(".") or given_view.trouble is not None
    assert violations(given_view, decision) == ()


def test_a_hold_on_a_person_is_stalled_and_others_are_not() -> None:
    assert decide(view(trouble=TROUBLE)).stalled
    assert decide(view(rows={})).stalled
    assert decide(view(BLOCKED, looks=[GOOD] * BAKED)).stalled
    assert decide(view(OVERDUE, looks=[GOOD] * 4)).stalled
    assert not decide(view(CLOSED, -1)).stalled
    assert not decide(view(suspended=True)).stalled
    assert not decide(view(looks=[ERROR])).stalled
    assert not decide(view(GATED, looks=[GOOD] * BAKED)).stalled


# Lowering comes first.


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"suspended": True}, id="suspended"),
        pytest.param({"trouble": TROUBLE}, id="in trouble"),
        pytest.param({"rows": {"bell": exposure(100)}}, id="changed by hand"),
        pytest.param({"rows": {}}, id="its rows cannot be read"),
        pytest.param({"hold_at": "ten"}, id="held at a stage"),
        pytest.param({"ledger": replace(ledger_in(PLAN, 0), executed=("other",))}, id="edited in what was entered"),
        pytest.param({"ledger": ledger_in(PLAN, 9)}, id="with stages removed"),
        pytest.param(
            {"ledger": replace(ledger_in(PLAN, 0), latch=latch(), acted=frozenset({Severity.LOW}))},
            id="latched by a less severe row",
        ),
    ],
)
def test_a_breach_is_acted_on_while(changes: dict[str, Any]) -> None:
    decision = decide(view(looks=[BAD], **changes))
    assert decision.verb is Verb.DISABLE_FLAGS
    assert decision.targets == {"bell": DISABLED}
    assert decision.breach is not None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"index": -1}, id="nothing was raised yet"),
        pytest.param({"ledger": reverted()}, id="the row has acted in this attempt"),
        pytest.param({"ledger": ledger_in(PLAN, 2, completed_at=T0)}, id="the rollout is over"),
        pytest.param(
            {"ledger": ledger_in(PLAN, 0, baseline=exposure(50), written={"bell": exposure(50)})},
            id="every flag is at its baseline",
        ),
        pytest.param({"ledger": replace(reverted(), acted=frozenset(), written={"bell": OFF})}, id="every flag is off"),
    ],
)
def test_a_breach_is_not_acted_on_when(changes: dict[str, Any]) -> None:
    assert not decide(view(looks=[BAD], **changes)).verb.reverts


def test_a_revert_does_not_wait_for_the_calendar() -> None:
    assert decide(view(CLOSED, looks=[BAD])).verb is Verb.DISABLE_FLAGS


def test_the_calendar_says_when_it_opens() -> None:
    decision = decide(view(CLOSED, -1))
    assert decision.due_at == datetime(2026, 11, 2, tzinfo=UTC)
    assert decision.waiting_for == ("the calendar: opens Mon 2026-11-02 00:00 UTC",)
    assert "a long freeze" in decision.message


# Not knowing, for too long.

HOUR = 120  # looks: two respondWithin of 30 minutes


def test_by_default_blind_guards_never_revert() -> None:
    assert decide(view(looks=[GOOD, *[ERROR] * HOUR])).reason == "GuardsBlind"


@pytest.mark.parametrize(
    ("looks", "reason"),
    [
        pytest.param([GOOD, *[ERROR] * 59], "GuardsBlind", id="not for as long as the row may take"),
        pytest.param([GOOD, *[ERROR] * 60], "FlagsDisabled", id="for as long as the row may take"),
        pytest.param([*[ERROR] * 50, GOOD, *[ERROR] * 50], "GuardsBlind", id="with an answer in between"),
        pytest.param([GOOD, *[EMPTY] * HOUR], "NoTraffic", id="no data is no failure of the source"),
    ],
)
def test_with_on_blind_revert_a_guard_that_fails_acts(looks: list[dict[str, Any]], reason: str) -> None:
    decision = decide(view(BLIND, looks=looks))
    assert decision.reason == reason
    if decision.breach is not None:
        assert (decision.breach.value, decision.breach.severity) == ("not measured", Severity.HIGH)
        assert decision.breach.onset_at == T0 + INTERVAL
        assert "onBlind" in decision.message


def test_a_row_that_answers_at_once_is_blind_after_ten_looks() -> None:
    of = plan(rows=[row(Severity.CRITICAL, above(), respond_within=seconds(0))], on_blind=OnBlind.REVERT)
    assert decide(view(of, looks=[ERROR] * 9)).reason == "GuardsBlind"
    assert decide(view(of, looks=[ERROR] * 10)).reason == "FlagsDisabled"


def test_a_blind_row_that_holds_does_not_lower() -> None:
    assert decide(view(replace(SOFT, on_blind=OnBlind.REVERT), looks=[ERROR] * HOUR)).reason == "GuardsBlind"


def test_what_the_operator_did_not_look_at_is_not_held_against_the_rollout() -> None:
    """After an outage of its own it finds no looks for hours: that says nothing of the source."""
    late = view(BLIND, looks=[GOOD], now=T0 + timedelta(hours=5))
    late = replace(late, guards=assess(BLIND, late.progress, late.now))
    assert decide(late).reason == "GuardsBlind"


@pytest.mark.parametrize(
    ("action", "verb", "reason"),
    [
        (Action(ActionType.DISABLE_FLAGS), Verb.DISABLE_FLAGS, "FlagsDisabled"),
        (Action(ActionType.REDUCE_PERCENTAGE, to=Target.BASELINE), Verb.REDUCE_PERCENTAGE, "PercentageReduced"),
        (
            Action(ActionType.RESTRICT_TO_GROUPS, groups=frozenset({"admin"})),
            Verb.RESTRICT_TO_GROUPS,
            "RestrictedToGroups",
        ),
        (Action(ActionType.ROLL_BACK_DATABASE), Verb.ROLL_BACK_DATABASE, "FlagsDisabled"),
    ],
)
def test_each_action_has_its_verb_and_reason(action: Action, verb: Verb, reason: str) -> None:
    decision = decide(view(plan(rows=[row(Severity.CRITICAL, above(), action=action)]), looks=[BAD]))
    assert (decision.verb, decision.reason) == (verb, reason)
    assert "20%" in decision.message
    assert ("script was not run" in decision.message) == (verb is Verb.ROLL_BACK_DATABASE)


def test_a_more_severe_row_may_act_after_a_less_severe_one() -> None:
    of = plan(rows=[row(Severity.CRITICAL, above(limit="2%")), row(Severity.HIGH, above())])
    after_high = replace(reverted(of, to=exposure(5)), acted=frozenset({Severity.HIGH}))
    assert decide(view(of, looks=[BAD], ledger=after_high)).verb is Verb.DISABLE_FLAGS
    after_both = replace(after_high, acted=frozenset({Severity.HIGH, Severity.CRITICAL}))
    assert decide(view(of, looks=[BAD], ledger=after_both)).reason == "RolledBack"


def test_the_standstill_comes_before_all_that_waits() -> None:
    chain = [check.__name__ for check in CHECKS[:5]]
    assert chain == ["ordered", "breached", "not_measured", "not_leading", "asked"], "lowering, who leads, then people"
    assert CHECKS[5 : len(STANDSTILL) + 5] == STANDSTILL
    modules = (module, reverts, standstill, readiness)
    found = {f for one in modules for _, f in inspect.getmembers(one, inspect.isfunction) if _is_check(f)}
    assert found == set(CHECKS), "every check is in the chain"


def _is_check(function: Callable[..., Any]) -> bool:
    hints = inspect.signature(function)
    return list(hints.parameters) == ["view"] and hints.return_annotation == "Decision | None"


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        pytest.param({}, False, id="baking"),
        pytest.param({"looks": [ERROR]}, False, id="blind, which the looks themselves say"),
        pytest.param({"suspended": True}, True, id="suspended"),
        pytest.param({"trouble": TROUBLE}, True, id="in trouble"),
        pytest.param({"rows": {"bell": exposure(99)}}, True, id="paused by a change by hand"),
        pytest.param({"ledger": reverted()}, True, id="reverted"),
        pytest.param({"ledger": replace(ledger_in(PLAN, 0), executed=("x",))}, True, id="held by an edit"),
    ],
)
def test_healthy_time_counts_unless(changes: dict[str, Any], still: bool) -> None:
    assert stands_still(view(**changes)) is still


# Changes by others.

BY_HAND = {"rows": {"bell": exposure(99)}}


@pytest.mark.parametrize(
    ("on_drift", "reason", "still"),
    [
        pytest.param(OnDrift.RESPECT, "ManualChange", True, id="Respect stops"),
        pytest.param(OnDrift.LOWER_ONLY, "ManualChange", True, id="LowerOnly stops raising"),
        pytest.param(OnDrift.REPORT, "StageEntered", False, id="Report goes on"),
    ],
)
@pytest.mark.parametrize("rows", [exposure(99), exposure(3), OFF, exposure(10, "admin")])
def test_what_a_change_by_somebody_else_stops(on_drift: OnDrift, reason: str, still: bool, rows: Exposure) -> None:
    changed = view(looks=[GOOD] * BAKED, rows={"bell": rows}, on_drift=on_drift)
    decision = decide(changed)
    assert (decision.reason, stands_still(changed)) == (reason, still)
    assert violations(changed, decision) == ()


REDUCED = Action(ActionType.REDUCE_PERCENTAGE, percentage=Decimal(5))
KILLED = exposure(10, enabled=False)


@pytest.mark.parametrize(
    ("action", "row_now", "respected"),
    [
        pytest.param(Action(ActionType.DISABLE_FLAGS), exposure(99), False, id="raised by hand: lowered"),
        pytest.param(Action(ActionType.DISABLE_FLAGS), exposure(1), False, id="lowered by hand, not enough: lowered"),
        pytest.param(Action(ActionType.DISABLE_FLAGS), KILLED, True, id="switched off by hand: left alone"),
        pytest.param(Action(ActionType.DISABLE_FLAGS), exposure(0), True, id="nobody has it: left alone"),
        pytest.param(REDUCED, exposure(6), False, id="above what the action allows: lowered"),
        pytest.param(REDUCED, exposure(5), True, id="just what it allows: left alone"),
        pytest.param(REDUCED, exposure(1, "admin"), True, id="less than it allows: left alone"),
    ],
)
def test_what_guards_do_to_a_row_that_somebody_else_changed(action: Action, row_now: Exposure, respected: bool) -> None:
    """S4 and S19: after the revert every row is within the action's target, and what is so already is theirs."""
    of = plan(rows=[row(Severity.HIGH, above(), action=action)])
    for on_drift in OnDrift:
        changed = view(of, looks=[BAD], rows={"bell": row_now}, on_drift=on_drift)
        decision = decide(changed)
        left = respected and on_drift is OnDrift.RESPECT
        assert decision.verb.reverts
        assert set(decision.targets) == (set() if left else {"bell"})
        assert ("Left as somebody else has made them" in decision.message) is left
        assert violations(changed, decision) == ()


def test_our_own_lowering_that_was_not_finished_is_not_taken_for_somebody_elses() -> None:
    for unfinished in (False, True):
        decision = decide(view(looks=[BAD], rows={"bell": KILLED}, unfinished=unfinished))
        assert set(decision.targets) == ({"bell"} if unfinished else set())


def test_a_row_that_nobody_changed_is_always_a_target() -> None:
    of = plan(stage("ten", ("bell", 10), ("menu", 10)))
    decision = decide(view(of, looks=[BAD], rows={"bell": KILLED, "menu": exposure(10)}))
    assert decision.targets == {"menu": DISABLED}


def test_reported_the_next_stage_starts_from_the_row_as_it_is_and_makes_it_what_the_plan_says() -> None:
    changed = view(looks=[GOOD] * BAKED, rows={"bell": exposure(99, "beta")}, on_drift=OnDrift.REPORT)
    decision = decide(changed)
    assert decision.before == {"bell": exposure(99, "beta")}
    assert decision.after == {"bell": exposure(50)}
    assert decision.ledger is not None
    assert decision.ledger.written == {"bell": exposure(50)}
    assert decision.ledger.baseline == {"bell": OFF}


def test_reported_a_row_that_the_stage_does_not_name_is_left_as_it_is() -> None:
    of = plan(stage("ten", ("bell", 10), ("menu", 10)), stage("half", ("bell", 50)))
    rows = {"bell": exposure(10), "menu": exposure(80)}
    decision = decide(view(of, looks=[GOOD] * BAKED, rows=rows, on_drift=OnDrift.REPORT))
    assert decision.after == {"bell": exposure(50)}


# The latch.


@pytest.mark.parametrize(
    ("raised_under", "reverted_under", "now", "verb"),
    [
        pytest.param("a", "a", "a", Verb.HOLD, id="the same plan stays latched"),
        pytest.param("a", "a", "b", Verb.REARM, id="another plan re-arms"),
        pytest.param("a", "b", "a", Verb.HOLD, id="the plan that it was raised under is no other plan"),
        pytest.param("a", "b", "b", Verb.HOLD, id="nor is the one that it was reverted under"),
        pytest.param("a", "b", "c", Verb.REARM, id="a third one is"),
    ],
)
def test_what_clears_a_latch(raised_under: str, reverted_under: str, now: str, verb: Verb) -> None:
    latched = replace(reverted(), spec_hash=raised_under, latch=replace(latch(), spec_hash=reverted_under))
    assert decide(view(replace(PLAN, spec_hash=now), ledger=latched)).verb is verb


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"suspended": True}, "Suspended", id="suspended"),
        pytest.param({"trouble": TROUBLE}, "InvalidPlan", id="in trouble"),
    ],
)
def test_another_plan_does_not_rearm_while(changes: dict[str, Any], reason: str) -> None:
    latched = replace(reverted(), spec_hash="old", latch=replace(latch(), spec_hash="old"))
    assert decide(view(ledger=latched, **changes)).reason == reason


EDITED = plan(*PLAN.stages[:2], stage("most", ("bell", 90)))


@pytest.mark.parametrize(
    ("of", "left", "stage_index", "baked"),
    [
        pytest.param(EDITED, exposure(50, enabled=False), -1, 0, id="all off: from the first stage"),
        pytest.param(EDITED, exposure(10), 0, 300, id="at a passed stage: on from it, its bake is done"),
        pytest.param(EDITED, exposure(5), -1, 0, id="between two stages: the lower one"),
        pytest.param(EDITED, exposure(100, "admin"), -1, 0, id="restricted: not what any stage gave"),
        pytest.param(EDITED, exposure(50), 1, 0, id="nothing was lowered: the breached stage bakes anew"),
        pytest.param(
            plan(stage("ten", ("bell", 10), bake=minutes(9)), *EDITED.stages[1:]),
            exposure(10),
            0,
            0,
            id="at a stage that was edited: it stays and bakes anew",
        ),
        pytest.param(plan(stage("ten", ("bell", 10))), exposure(10), 0, 300, id="the plan was cut short behind it"),
        pytest.param(plan(stage("other", ("menu", 10))), exposure(10), -1, 0, id="another plan altogether"),
    ],
)
def test_where_the_next_attempt_begins(of: Plan, left: Exposure, stage_index: int, baked: int) -> None:
    latched = reverted(PLAN, 1, left)
    decision = decide(view(of, ledger=latched))
    assert decision.verb is Verb.REARM
    assert decision.ledger is not None
    assert (decision.ledger.stage, decision.ledger.baked, decision.ledger.attempt) == (stage_index, seconds(baked), 2)
    assert decision.ledger.latch is None
    assert decision.ledger.acted == frozenset()
    assert len(decision.ledger.executed) == stage_index + 1
    assert (decision.ledger.entered_at is None) == (stage_index == -1)
    assert (decision.after, decision.targets) == ({}, {})


def test_what_somebody_else_raised_after_the_revert_is_no_stage_that_was_passed() -> None:
    decision = decide(view(EDITED, ledger=reverted(PLAN, 1), rows={"bell": exposure(100)}))
    assert decision.ledger is not None
    assert decision.ledger.stage == -1


def test_a_flag_that_a_later_stage_narrows_resumes_where_it_was_narrowed() -> None:
    admins = FlagChange(Decimal(100), frozenset({"admin"}))
    everyone = FlagChange(Decimal(10), frozenset())
    of = plan(stage("admins", ("bell", admins)), stage("ten", ("bell", everyone)), stage("half", ("bell", 50)))
    decision = decide(view(replace(of, spec_hash="new"), ledger=reverted(of, 2, exposure(10))))
    assert decision.ledger is not None
    assert decision.ledger.stage == 1


def test_after_a_rearm_nothing_is_raised_before_a_fresh_look() -> None:
    rearmed = decide(view(EDITED, ledger=reverted(PLAN, 1, exposure(10)))).ledger
    assert rearmed is not None
    assert decide(view(EDITED, 0, looks=[], ledger=rearmed)).reason == "AwaitingLook"
    assert decide(view(EDITED, 0, looks=[GOOD], ledger=rearmed)).verb is Verb.ADVANCE
    assert decide(view(EDITED, 0, looks=[EMPTY], ledger=rearmed)).reason == "NoTraffic"


# Edges.


def test_the_first_stage_takes_the_baseline_of_every_row_that_is_there() -> None:
    of = plan(stage("soak", bake=minutes(0)), stage("ten", ("bell", 10)), stage("menu", ("menu", 10)))
    soak = decide(view(of, -1))
    assert soak.ledger is not None
    assert (soak.ledger.baseline, soak.ledger.written, soak.after) == ({}, {}, {})
    rows = {"bell": exposure(3), "menu": exposure(7, "admin")}
    ten = decide(view(of, 0, ledger=soak.ledger, rows=rows))
    assert ten.ledger is not None
    assert ten.ledger.baseline == rows
    assert (ten.before, ten.after) == ({"bell": exposure(3)}, {"bell": exposure(10)})


def test_rows_are_wanted_only_when_their_stage_is_next_and_nothing_else_objects() -> None:
    of = plan(stage("soak"), stage("ten", ("bell", 10)), stage("menu", ("menu", 10)))
    assert decide(view(of, 0, rows={})).reason == "Baking"
    assert decide(view(of, 0, looks=[GOOD] * BAKED, rows={})).reason == "FlagMissing"
    assert decide(view(of, 0, looks=[GOOD] * BAKED, rows={"bell": OFF})).verb is Verb.ADVANCE


def test_a_flag_of_a_later_stage_that_was_changed_by_hand_pauses_too() -> None:
    of = plan(stage("ten", ("bell", 10)), stage("menu", ("menu", 10)))
    decision = decide(view(of, 0, rows={"bell": exposure(10), "menu": exposure(80)}))
    assert decision.reason == "ManualChange"
    assert "menu" in decision.message


def test_a_flag_that_an_edit_dropped_is_still_ours_to_lower() -> None:
    of = plan(stage("ten", ("bell", 10)))
    dropped = replace(ledger_in(of, 0), written={"bell": exposure(10), "menu": exposure(10)})
    rows = {"bell": exposure(10), "menu": exposure(10)}
    assert set(decide(view(of, looks=[BAD], ledger=dropped, rows=rows)).targets) == {"bell", "menu"}
    assert decide(view(of, ledger=dropped, rows=rows | {"menu": exposure(99)})).reason == "ManualChange"


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        pytest.param(plan(*PLAN.stages, stage("more", ("bell", 100))), "Baking", id="a later stage was appended"),
        pytest.param(plan(*PLAN.stages[:2], stage("most", ("bell", 90))), "Baking", id="a later stage was edited"),
        pytest.param(plan(*PLAN.stages[:2]), "Baking", id="a later stage was removed"),
        pytest.param(plan(PLAN.stages[0], stage("half", ("bell", 60))), "PlanChanged", id="this stage was edited"),
        pytest.param(plan(stage("five", ("bell", 5)), *PLAN.stages[1:]), "PlanChanged", id="a passed one was edited"),
        pytest.param(plan(*PLAN.stages[:1]), "PlanChanged", id="this stage was removed"),
    ],
)
def test_an_edit_in_mid_bake(of: Plan, reason: str) -> None:
    assert decide(view(of, ledger=ledger_in(PLAN, 1))).reason == reason


def test_a_plan_that_has_grown_since_it_was_completed_goes_on() -> None:
    grown = plan(*PLAN.stages, stage("more", ("menu", 10)))
    done = ledger_in(PLAN, 2, completed_at=T0 + minutes(5), baked=minutes(5))
    decision = decide(view(grown, 2, ledger=done))
    assert decision.verb is Verb.ADVANCE
    assert decision.ledger is not None
    assert decision.ledger.completed_at is None
    assert decide(view(grown, 2, ledger=done, looks=[BAD])).verb.reverts, "its guards watch again"
    assert decide(view(plan(*PLAN.stages[:2]), 2, ledger=done)).reason == "PlanChanged"


@pytest.mark.parametrize(
    ("index", "hold_at", "verb"),
    [
        pytest.param(0, "ten", Verb.HOLD, id="at it"),
        pytest.param(1, "ten", Verb.HOLD, id="past it: set too late, it holds where it is"),
        pytest.param(0, "half", Verb.ADVANCE, id="before it"),
        pytest.param(2, "all", Verb.HOLD, id="at the last stage the guards go on"),
        pytest.param(0, "typo", Verb.HOLD, id="a name that no stage has was meant to hold"),
        pytest.param(-1, "ten", Verb.ADVANCE, id="before the first stage"),
    ],
)
def test_hold_at(index: int, hold_at: str, verb: Verb) -> None:
    assert decide(view(index=index, looks=[GOOD] * BAKED, hold_at=hold_at)).verb is verb


def test_stages_without_a_bake_are_entered_one_a_decision() -> None:
    of = plan(*(stage(f"s{i}", ("bell", 10 * i), bake=minutes(0)) for i in range(1, 4)))
    for index in range(-1, 2):
        decision = decide(view(of, index))
        assert decision.ledger is not None
        assert decision.ledger.stage == index + 1


def test_without_traffic_a_stage_without_flags_and_bake_holds_nothing_up() -> None:
    of = plan(stage("migrate", bake=minutes(0)), stage("ten", ("bell", 10)))
    assert decide(view(of, 0, looks=[EMPTY])).verb is Verb.ADVANCE
    soaking = plan(stage("soak"), stage("ten", ("bell", 10)))
    assert decide(view(soaking, 0, looks=[EMPTY])).reason == "NoTraffic"


@pytest.mark.parametrize("index", [0, 2], ids=["to the next stage", "to the end"])
def test_no_step_is_taken_on_a_look_without_data(index: int) -> None:
    looks = [GOOD] * BAKED
    assert decide(view(index=index, looks=looks)).verb in (Verb.ADVANCE, Verb.COMPLETE)
    decision = decide(view(index=index, looks=[*looks, EMPTY]))
    assert (decision.verb, decision.phase, decision.reason) == (Verb.WAIT, Phase.BAKING, "Baking")
    assert decision.waiting_for == ("errors had no data in its newest window",)
    assert decide(view(index=index, looks=[*looks, EMPTY, GOOD])).verb in (Verb.ADVANCE, Verb.COMPLETE)


def test_on_no_traffic_count_bakes_without_data() -> None:
    of = plan(stage("ten", ("bell", 10), on_no_traffic=OnNoTraffic.COUNT))
    assert decide(view(of, looks=[EMPTY])).reason == "Baking"
    assert decide(view(of, looks=[EMPTY] * BAKED)).verb is Verb.COMPLETE


@pytest.mark.parametrize(
    ("on_delete", "targets"),
    [
        (OnDelete.KEEP, {}),
        (OnDelete.DISABLE, {"bell": DISABLED}),
        (OnDelete.RESTORE, {"bell": exposure(3)}),
    ],
)
def test_release(on_delete: OnDelete, targets: dict[str, Exposure]) -> None:
    decision = release(ledger_in(PLAN, 0, baseline=exposure(3)), on_delete)
    assert (decision.verb, decision.phase, decision.targets) == (Verb.RELEASE, Phase.TERMINATING, targets)


def test_restoring_a_flag_of_which_no_baseline_is_known_gives_it_to_nobody() -> None:
    decision = release(replace(ledger_in(PLAN, 0), baseline={}), OnDelete.RESTORE)
    assert decision.targets["bell"].is_off


# Whole lives.


@dataclass
class Life:
    """A rollout in virtual time: looks come as the windows close, decisions are carried out at once."""

    of: Plan
    answer: Callable[[datetime], dict[str, Any]]
    rows: dict[str, Exposure] = field(default_factory=dict)
    now: datetime = T0
    done: list[tuple[datetime, Decision]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = ledger(spec_hash=self.of.spec_hash)
        self.progress = Progress()
        self.rows = self.rows or dict.fromkeys(self.of.flags, OFF)

    def live(self, duration: timedelta) -> Life:
        end = self.now + duration
        while self.now <= end:
            self._look()
            for _ in range(5):
                if not self._step():
                    break
            self.now += seconds(10)
        return self

    def _look(self) -> None:
        self.progress = aligned(self.progress, self.of, self.ledger, self.now)
        at_once = View(self.of, self.ledger, self.rows, Progress(), (), self.now)
        for metric in self.of.metrics.values():
            if self.progress.due_at(metric, self.now) <= self.now:
                window = self.progress.due_window(metric, self.now)
                seen = look(metric.name, window.start, metric.interval, **self.answer(window.start))
                self.progress = self.progress.observed(
                    self.of, seen, counting=not stands_still(at_once), on_no_traffic=OnNoTraffic.WAIT
                )

    def _step(self) -> bool:
        self.progress = aligned(self.progress, self.of, self.ledger, self.now)
        guards = assess(self.of, self.progress, self.now)
        now = View(self.of, self.ledger, self.rows, self.progress, guards, self.now)
        decision = decide(now)
        assert violations(now, decision) == ()
        if not decision.verb.acts:
            return False
        self.done.append((self.now, decision))
        if decision.verb.reverts:
            assert decision.breach is not None
            lowered = {f: self.rows[f].meet(to) for f, to in decision.targets.items()}
            assert not any(raises(self.rows[f], row) for f, row in lowered.items())
            self.rows |= lowered
            self.ledger = replace(
                self.ledger,
                written={**self.ledger.written, **lowered},
                latch=Latch(decision.breach, "", self.of.spec_hash, self.now),
                acted=self.ledger.acted | {decision.breach.severity},
            )
            return True
        assert decision.ledger is not None
        if decision.ledger.attempt != self.ledger.attempt:
            self.progress = Progress()
        self.ledger = decision.ledger
        self.progress = aligned(
            None if self.progress == Progress() and self.ledger.entered_at else self.progress,
            self.of,
            self.ledger,
            self.now,
        )
        self.rows |= decision.after
        return True

    @property
    def verbs(self) -> list[str]:
        return [str(decision.verb) for _, decision in self.done]


def test_three_stages_walk_to_the_end() -> None:
    life = Life(PLAN, lambda _: GOOD).live(timedelta(hours=1))
    assert life.verbs == ["Advance", "Advance", "Advance", "Complete"]
    times = [at for at, _ in life.done]
    assert all(minutes(5) <= b - a <= minutes(6) for a, b in pairwise(times))
    assert life.rows == {"bell": exposure(100)}


def test_harm_in_the_second_stage_is_taken_back_and_stays_so() -> None:
    life = Life(PLAN, lambda at: BAD if T0 + minutes(7) <= at < T0 + minutes(9) else GOOD).live(timedelta(hours=2))
    assert life.verbs == ["Advance", "Advance", "DisableFlags"]
    assert life.done[-1][0] <= T0 + minutes(9)
    assert life.rows["bell"].is_off
    life.of = plan(*PLAN.stages[:1], stage("quarter", ("bell", 25)), *PLAN.stages[1:])
    life.live(timedelta(hours=1))
    assert life.verbs[3:] == ["Rearm", "Advance", "Advance", "Advance", "Advance", "Complete"]
    assert life.ledger.attempt == 2


def test_an_outage_of_the_metrics_neither_reverts_nor_advances() -> None:
    life = Life(PLAN, lambda at: GOOD if at < T0 + minutes(2) else ERROR).live(timedelta(hours=6))
    assert life.verbs == ["Advance"]
    life.answer = lambda _: GOOD
    assert life.live(timedelta(hours=1)).verbs == ["Advance", "Advance", "Advance", "Complete"]


def test_a_rise_that_stops_short_of_proof_holds_and_is_released() -> None:
    of = plan(alpha=0.00001)
    weak = {"events": 30.0, "units": 1000.0}
    life = Life(of, lambda at: weak if at == T0 + minutes(1) else GOOD).live(timedelta(hours=1))
    assert life.verbs == ["Advance", "Advance", "Advance", "Complete"]
    assert life.done[1][0] - T0 == minutes(5.5), "held time is no bake"


# Properties.

EXPOSURES = st.builds(
    exposure,
    st.sampled_from([0, 1, 10, 50, 100]),
    enabled=st.booleans(),
).flatmap(lambda e: st.sampled_from([e, replace(e, groups=frozenset({"admin"})), replace(e, groups=frozenset("ab"))]))
CHANGES = st.builds(
    FlagChange,
    st.none() | st.sampled_from([Decimal(0), Decimal(10), Decimal(100)]),
    st.none() | st.sampled_from([frozenset(), frozenset({"admin"}), frozenset({"a", "admin"})]),
)
ENTRIES = st.lists(st.tuples(st.sampled_from(["bell", "menu", "old"]), CHANGES), max_size=3, unique_by=lambda e: e[0])
ACTIONS = st.sampled_from(
    [
        Action(ActionType.DISABLE_FLAGS),
        Action(ActionType.DISABLE_FLAGS, flags=("menu",)),
        Action(ActionType.REDUCE_PERCENTAGE, to=Target.PREVIOUS_STAGE),
        Action(ActionType.REDUCE_PERCENTAGE, to=Target.BASELINE),
        Action(ActionType.REDUCE_PERCENTAGE, percentage=Decimal(5)),
        Action(ActionType.RESTRICT_TO_GROUPS, groups=frozenset({"admin"})),
        Action(ActionType.ROLL_BACK_DATABASE),
        HOLD,
    ]
)


@st.composite
def stages(draw: st.DrawFn) -> tuple[Stage, ...]:
    count = draw(st.integers(1, 4))
    return tuple(
        stage(f"s{i}", *draw(ENTRIES), bake=draw(st.sampled_from([minutes(0), minutes(1)]))) for i in range(count)
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    clauses: list[Clause] = [above(limit=f"{limit}%") for limit in (1, 2, 5)]
    rows = [row(severity, clauses[i], action=draw(ACTIONS)) for i, severity in enumerate(list(Severity)[1:])]
    return plan(*draw(stages()), rows=rows[: draw(st.integers(0, 3))])


ANSWERS = st.lists(st.sampled_from([GOOD, GOOD, GOOD, BAD, EMPTY, ERROR, {"events": 2.0, "units": 90.0}]), max_size=30)


@deterministic
@given(
    plans(),
    plans(),
    st.tuples(st.integers(-1, 4), st.booleans()),
    ANSWERS,
    st.dictionaries(st.sampled_from(["bell", "menu"]), EXPOSURES),
)
def test_it_decides_on_anything(
    of: Plan, entered: Plan, position: tuple[int, bool], answers: list[dict[str, Any]], rows: dict[str, Exposure]
) -> None:
    """The ledger may be of another plan than the one that is there now; an edit can be anything."""
    index, latched = position
    row_in = ledger_in(entered, index) if index >= 0 else ledger()
    row_in = replace(row_in, latch=latch(entered) if latched else None)
    for given_view in (view(of, index, answers, ledger=row_in), view(of, index, answers, ledger=row_in, rows=rows)):
        decision = decide(given_view)
        assert violations(given_view, decision) == ()
        assert decision.reason in reasons.DESCRIPTIONS


@deterministic
@given(plans(), ANSWERS, st.dictionaries(st.sampled_from(["bell", "menu", "old"]), EXPOSURES))
def test_a_life_keeps_the_invariants_and_after_a_latch_nothing_raises(
    of: Plan, answers: list[dict[str, Any]], rows: dict[str, Exposure]
) -> None:
    def answer(at: datetime) -> dict[str, Any]:
        index = max(int((at - T0) / INTERVAL), 0)
        return answers[index] if index < len(answers) else GOOD

    life = Life(of, answer, {**dict.fromkeys(of.flags, OFF), **{f: r for f, r in rows.items() if f in of.flags}})
    life.live(minutes(15))
    acted = [decision.verb for _, decision in life.done]
    first = next((i for i, verb in enumerate(acted) if verb.reverts), len(acted))
    assert all(verb.reverts for verb in acted[first:])
    assert len(acted) <= len(of.stages) + 1 + len(of.rows)
