"""What people read, word for word: why a rollout waits, and what became of what they asked.

Here are the situations; `sentences.txt` and `answers.txt` have what is said in each, whole, so that a name or a number
that is missing from it is missed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from feature_rollout.core.calendar import Calendar, DailyWindow, Freeze
from feature_rollout.core.checks import Check, CheckAnswer
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Trouble, View
from feature_rollout.core.guards import Guard, GuardState
from feature_rollout.core.people import (
    Consent,
    Order,
    Outcome,
    Pause,
    People,
    Promotion,
    Request,
    RequestType,
    RollBackTo,
)
from feature_rollout.core.plan import Action, ActionType, Approval, Gate, OnBlind, OnNoTraffic, Plan, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.requests import rule, waiting
from feature_rollout.core.state import Breach, Latch
from support.fakes import (
    OFF,
    T0,
    above,
    exposure,
    ledger,
    ledger_in,
    minutes,
    percent,
    plan,
    ratio,
    relative,
    row,
    stage,
)

NOW = T0 + minutes(10)
READY, BACKUP = Check("stages/half/ready", "The others are ready."), Check("preflight/backup")
TEN = stage("ten", ("bell", 10), gates=(Gate("errors", at_most=percent("1%")), Gate("errors", at_least=percent("60%"))))
HALF = stage("half", ("bell", 50), ("menu", 50), approval=Approval(2), checks=(READY,))
LAST = stage("all", ("bell", 100), approval=Approval())
PLAN = plan(TEN, HALF, LAST, preflight=(BACKUP,))
BREACH = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", 5.0, T0, minutes(5), "DisableFlags")
ALICE, BOB, ROBOT = "alice", "bob", "system:serviceaccount:ci:deployer"


def guard_of(of: Plan, state: GuardState, **changes: Any) -> Guard:
    return replace(Guard(of.rows[0], of.rows[0].clauses[0], state, 0.2, 5.0, T0, limit="1%"), **changes)


def view(
    index: int = 0,
    of: Plan = PLAN,
    *,
    states: tuple[Guard, ...] = (),
    baked: float = 5,
    people: dict[str, Any] | None = None,
    **changes: Any,
) -> View:
    """In the stage of that index, baked, with these guards; changes of the ledger, of its people and of the view."""
    kept = People(preflight_done=index >= 0, **(people or {}))
    entered = ledger_in(of, index, people=kept) if index >= 0 else ledger(people=kept)
    entered = replace(entered, **changes.pop("ledger", {}))
    progress = changes.pop("progress", Progress())
    rows = {**dict.fromkeys(of.flags, OFF), **entered.written}
    made = View(of, entered, rows, replace(progress, baked=minutes(baked), watching=index >= 0), states, NOW)
    return replace(made, **changes)


def consent(by: str) -> Consent:
    return Consent(by, T0, "uid-1", PLAN.plan_hash)


def latch(cause: Breach | Order = BREACH, stage_name: str = "ten", spec_hash: str = PLAN.spec_hash) -> dict[str, Any]:
    return {"latch": Latch(cause, stage_name, spec_hash, T0)}


PROMOTED = {"promoted": Promotion(0, BOB)}
APPROVED = {**PROMOTED, "approvals": {"half": (consent(ALICE), consent(BOB))}}
PLAIN = plan(stage("ten", ("bell", 10)), stage("half", ("bell", 50)))
SOFT = plan(stage("ten", ("bell", 10)), rows=[row(Severity.LOW, above(), action=Action(ActionType.HOLD))])
WEEKDAYS = Calendar("Europe/Berlin", (DailyWindow(frozenset({0, 1, 2, 3, 4}), 12 * 60, 17 * 60),))
FROZEN = Calendar("UTC", (), (Freeze(T0.date(), T0.date() + timedelta(days=1000), "no staff"),))
COMPARED = plan(
    *PLAIN.stages, rows=[row(Severity.HIGH, relative(), relative("hits"))], metrics=[ratio(), ratio("hits")]
)


def noted(state: GuardState, *notes: str) -> tuple[Guard, ...]:
    return tuple(guard_of(PLAN, state, note=note) for note in notes)


DRY = (guard_of(PLAIN, GuardState.NO_DATA, note="errors had no data", without_data=True),)

SITUATIONS: dict[str, View] = {
    "trouble that needs a person": view(trouble=Trouble("InvalidPlan", "it names no metric")),
    "trouble that waiting may heal": view(trouble=Trouble("StoreUnreachable", "the database is away", stalled=False)),
    "rolled back by a breach": view(ledger=latch()),
    "rolled back by a person, before the first stage": view(
        -1, ledger=latch(Order(ALICE, RollBackTo.OFF, "complaints", T0, "DisableFlags"), "")
    ),
    "the plan was changed after a revert": view(ledger={**latch(spec_hash="old"), "spec_hash": "old"}),
    "a stage that was entered was edited": view(1, ledger={"executed": (TEN.digest, "other")}),
    "a stage that was entered is gone": view(1, of=plan(TEN), ledger={"executed": (TEN.digest, "other")}),
    "a row is gone": view(rows={"menu": OFF}),
    "a row was changed by hand": view(rows={"bell": exposure(5, "staff"), "menu": OFF}),
    "it is over": view(2, ledger={"completed_at": T0}),
    "paused": view(people={"paused": Pause(BOB, T0, "lunch")}),
    "paused without a reason": view(people={"paused": Pause(BOB, T0)}),
    "suspended": view(suspended=True),
    "another replica leads": view(leading=False),
    "preflight was not asked": view(-1, of=replace(PLAN, preflight=(BACKUP, Check("preflight/room")))),
    "preflight has not passed": view(-1, checks={BACKUP.key: CheckAnswer(BACKUP.key, False, "it is a week old.", NOW)}),
    "preflight could not be asked": view(
        -1, checks={BACKUP.key: CheckAnswer(BACKUP.key, None, "the database is away.", NOW)}
    ),
    "preflight runs": view(-1, checks={BACKUP.key: CheckAnswer(BACKUP.key, None, "Job a runs.", NOW, running=True)}),
    "a row that only holds is breached": view(of=SOFT, states=(guard_of(SOFT, GuardState.BREACHED),)),
    "everybody fares badly": view(states=(guard_of(PLAN, GuardState.QUIET), guard_of(PLAN, GuardState.INCIDENT))),
    "there is evidence": view(states=(guard_of(PLAN, GuardState.HOLDING),)),
    "guards are blind": view(states=noted(GuardState.BLIND, "errors: timeout", "b", "errors: timeout")),
    "guards are blind, and that is reverted in the end": view(
        of=replace(PLAN, on_blind=OnBlind.REVERT), states=noted(GuardState.BLIND, "b")
    ),
    "the past is not read yet": view(-1, of=COMPARED, progress=Progress(reference_until=T0)),
    "guards were not looked at": view(
        -1, of=PLAIN, states=noted(GuardState.UNSEEN, "the first look at errors", "the first look at hits")
    ),
    "a new stage's guards were not looked at": view(states=noted(GuardState.UNSEEN, "the first look at errors")),
    "there is no traffic": view(states=noted(GuardState.NO_DATA, "errors had no data", "hits had no data")),
    "it bakes": view(baked=4.9),
    "its gates are not passed": view(),
    "the newest look had no data": view(
        of=PLAIN, states=(guard_of(PLAIN, GuardState.QUIET, without_data=True, note="errors had no data"),)
    ),
    "it is told to hold here": view(of=PLAIN, hold_at="ten"),
    "it is told to hold nowhere": view(of=PLAIN, hold_at="tne"),
    "two approvals are missing": view(people=PROMOTED),
    "one approval is missing": view(people={**PROMOTED, "approvals": {"half": (consent(ALICE),)}}),
    "the calendar is closed": view(of=replace(PLAIN, calendar=WEEKDAYS)),
    "the calendar is frozen for good": view(of=replace(PLAIN, calendar=FROZEN)),
    "the next stage is not in effect": view(
        of=plan(PLAIN.stages[0], stage("half", ("bell", 50), blockers=("a is not in effect", "nor is b")))
    ),
    "a person has to confirm": view(people=APPROVED),
    "the next stage's row is not there": view(of=PLAIN, index=-1, rows={}),
    "it takes too long": view(of=plan(stage("ten", ("bell", 10), deadline=minutes(10)), PLAIN.stages[1]), baked=1),
    "a stage begins": view(of=PLAIN),
    "a stage of two flags begins": view(people={**APPROVED, "confirmations": {READY.key: consent(BOB)}}),
    "a stage without flags begins": view(of=plan(PLAIN.stages[0], stage("soak"))),
    "the last stage is over": view(1, of=PLAIN),
}
STALLED = {"InvalidPlan", "PlanChanged", "FlagMissing", "NotInEffect", "StageOverdue", "RolledBack"}


def said(file: str) -> dict[str, list[str]]:
    """What stands beside each name in one of the two files."""
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines()
    rows = (line.split(" | ") for line in lines if not line.startswith("#"))
    return {name: fields for name, *fields in rows}


def test_each_situation_has_its_sentence() -> None:
    assert list(said("sentences.txt")) == list(SITUATIONS)
    assert list(said("answers.txt")) == list(ASKED)


@pytest.mark.parametrize("name", SITUATIONS)
def test_why_it_waits(name: str) -> None:
    decision = decide(SITUATIONS[name])
    phase, reason, message = said("sentences.txt")[name]
    assert (decision.message, decision.reason, decision.phase) == (message, reason, phase)
    assert decision.stalled is (reason in STALLED)


@pytest.mark.parametrize(
    ("name", "waiting_for"),
    [
        ("a row that only holds is breached", ("errors above 1%",)),
        ("everybody fares badly", ("errors above 1%",)),
        ("there is evidence", ("errors above 1%",)),
        ("guards are blind", ("errors: timeout", "b")),
        ("the past is not read yet", ("the past of errors", "the past of hits")),
        ("guards were not looked at", ("the first look at errors", "the first look at hits")),
        ("there is no traffic", ("errors had no data", "hits had no data")),
        ("it bakes", ("5m of healthy time in ten",)),
        ("its gates are not passed", ("errors needs 1 units", "errors needs 1 units")),
        ("the newest look had no data", ("errors had no data",)),
        ("the calendar is closed", ("the calendar: opens Mon 2026-01-05 12:00 Europe/Berlin",)),
        ("the next stage is not in effect", ("a is not in effect", "nor is b")),
        ("preflight was not asked", ("preflight/backup: it is being asked", "preflight/room: it is being asked")),
        ("suspended", ()),
    ],
)
def test_what_it_waits_for(name: str, waiting_for: tuple[str, ...]) -> None:
    assert decide(SITUATIONS[name]).waiting_for == waiting_for


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(view(of=PLAIN, baked=5, ledger={"entered_at": None}), "StageEntered", id="no entry is known"),
        pytest.param(
            view(of=plan(stage("ten", ("bell", 10), deadline=minutes(10.1)), PLAIN.stages[1]), baked=1),
            "Baking",
            id="the deadline is not there",
        ),
        pytest.param(
            view(of=plan(stage("ten", ("bell", 10), deadline=minutes(1)), PLAIN.stages[1]), baked=1, suspended=True),
            "Suspended",
            id="somebody has stopped it",
        ),
        pytest.param(
            view(of=plan(stage("ten", ("bell", 10), on_no_traffic=OnNoTraffic.COUNT), PLAIN.stages[1]), states=DRY),
            "StageEntered",
            id="time without traffic counts",
        ),
        pytest.param(
            view(-1, of=PLAIN, states=DRY), "StageEntered", id="before the first raise there may be nothing to see"
        ),
        pytest.param(view(of=PLAIN, states=DRY, people=PROMOTED), "StageEntered", id="somebody has ended the bake"),
        pytest.param(
            view(of=plan(stage("soak"), PLAIN.stages[1]), states=DRY),
            "StageEntered",
            id="nothing is raised and the bake is over",
        ),
        pytest.param(view(of=PLAIN, hold_at="half"), "StageEntered", id="it is told to hold at the next stage"),
        pytest.param(view(1, of=PLAIN, hold_at="ten"), "HoldAt", id="it is told to hold at a stage that is passed"),
        pytest.param(
            view(0, of=COMPARED, progress=Progress(reference_until=T0), baked=1), "Baking", id="the past can wait"
        ),
    ],
)
def test_what_does_not_hold_it(seen: View, reason: str) -> None:
    assert decide(seen).reason == reason


# What became of what people asked.


def asked(kind: RequestType, by: str = ALICE, **fields: Any) -> Request:
    return Request(f"{kind}-{by}", kind, fields.pop("created_at", T0), requested_by=by, **fields)


ROLLED_BACK = view(ledger=latch())
OVER = view(2, ledger={"completed_at": T0})
HELD = view(of=SOFT, states=(guard_of(SOFT, GuardState.HOLDING), guard_of(SOFT, GuardState.BREACHED)))
HASH = PLAN.plan_hash
ASKED: dict[str, tuple[View, Request]] = {
    "rolled back": (view(), asked(RequestType.ROLL_BACK, reason=" complaints ")),
    "rolled back by nobody known, without a reason": (view(), asked(RequestType.ROLL_BACK, "", to=RollBackTo.BASELINE)),
    "paused": (view(), asked(RequestType.PAUSE, reason="lunch")),
    "paused already": (view(people={"paused": Pause(BOB, T0)}), asked(RequestType.PAUSE)),
    "paused when it is over": (OVER, asked(RequestType.PAUSE)),
    "resumed after a pause and a hold": (
        replace(HELD, ledger=replace(HELD.ledger, people=People(paused=Pause(BOB, T0)))),
        asked(RequestType.RESUME, reason="back"),
    ),
    "resumed with rows as they are": (
        view(1, rows={"bell": exposure(5), "menu": exposure(3)}),
        asked(RequestType.RESUME),
    ),
    "not resumed from too much": (
        view(1, rows={"bell": exposure(60), "menu": exposure(70, "staff")}),
        asked(RequestType.RESUME),
    ),
    "nothing to resume": (view(), asked(RequestType.RESUME)),
    "nothing to resume, but suspended": (view(suspended=True), asked(RequestType.RESUME)),
    "promoted": (view(), asked(RequestType.PROMOTE, reason="calm")),
    "promoted already": (view(people=PROMOTED), asked(RequestType.PROMOTE)),
    "promoted before the first stage": (view(-1), asked(RequestType.PROMOTE)),
    "promoted when it is over": (OVER, asked(RequestType.PROMOTE)),
    "promoted after a revert": (ROLLED_BACK, asked(RequestType.PROMOTE)),
    "promoted over evidence": (HELD, asked(RequestType.PROMOTE)),
    "tried again": (ROLLED_BACK, asked(RequestType.RETRY, reason="mended")),
    "nothing to try again": (view(), asked(RequestType.RETRY)),
    "nothing to adopt": (view(), asked(RequestType.ADOPT)),
    "approved": (view(), asked(RequestType.APPROVE, stage="half", reason="read it")),
    "approved twice": (
        view(people={"approvals": {"half": (consent(ALICE),)}}),
        asked(RequestType.APPROVE, stage="half"),
    ),
    "approval of no stage": (view(), asked(RequestType.APPROVE, stage="third")),
    "approval of a stage that is in": (view(), asked(RequestType.APPROVE, stage="ten")),
    "approval when all are in": (view(2), asked(RequestType.APPROVE, stage="all")),
    "approval that is not needed": (view(-1), asked(RequestType.APPROVE, stage="ten")),
    "approval after a revert": (ROLLED_BACK, asked(RequestType.APPROVE, stage="half")),
    "approval too early": (view(), asked(RequestType.APPROVE, stage="all")),
    "approval when nothing is next": (view(2, ledger=latch()), asked(RequestType.APPROVE, stage="all")),
    "approval by nobody known": (view(), asked(RequestType.APPROVE, "", stage="half")),
    "approval by a robot": (view(), asked(RequestType.APPROVE, ROBOT, stage="half")),
    "confirmed": (view(), asked(RequestType.CONFIRM, check="ready", reason="I looked")),
    "confirmed twice": (
        view(people={"confirmations": {READY.key: consent(BOB)}}),
        asked(RequestType.CONFIRM, check="ready"),
    ),
    "confirmed for the database": (view(-1), asked(RequestType.CONFIRM, check="backup")),
    "confirmed too early": (view(-1), asked(RequestType.CONFIRM, check="ready")),
    "confirmed after a revert": (ROLLED_BACK, asked(RequestType.CONFIRM, check="backup")),
    "confirmed what nobody asked": (view(), asked(RequestType.CONFIRM, check="moon")),
    "confirmed where nothing is asked": (view(1), asked(RequestType.CONFIRM, check="moon")),
    "for another stage": (view(), asked(RequestType.PAUSE, stage="half")),
    "for a stage before the first": (view(-1), asked(RequestType.RETRY, stage="half")),
    "for another plan": (view(), asked(RequestType.PROMOTE, plan_hash="v1:old")),
    "in trouble": (view(trouble=Trouble("InvalidPlan", "it names no metric.")), asked(RequestType.RETRY)),
    "waited for a day": (view(), asked(RequestType.APPROVE, stage="all", created_at=NOW - timedelta(hours=24))),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_became_of_it(name: str) -> None:
    (seen, request_), (reason, message) = ASKED[name], said("answers.txt")[name]
    answer = rule(seen, request_).answer
    assert (answer.message, answer.reason) == (message.replace("{planHash}", HASH), reason)
    waits = reason in {"NotYet", "InvalidPlan"}
    assert waiting(replace(seen, requests=(request_,))) == (((request_, answer),) if waits else ())
    assert (answer.outcome is Outcome.PENDING) is waits


def test_whose_word_it_is_and_when_it_was_given_is_kept() -> None:
    given = Consent(ALICE, NOW, "uid-1", HASH, "calm")
    kept = {
        RequestType.PAUSE: (asked(RequestType.PAUSE, reason="calm"), {"paused": Pause(ALICE, NOW, "calm")}),
        RequestType.PROMOTE: (asked(RequestType.PROMOTE, reason="calm"), {"promoted": Promotion(0, ALICE, "calm")}),
        RequestType.APPROVE: (
            asked(RequestType.APPROVE, stage="half", reason="calm"),
            {"approvals": {"half": (given,)}},
        ),
        RequestType.CONFIRM: (
            asked(RequestType.CONFIRM, check="ready", reason="calm"),
            {"confirmations": {READY.key: given}},
        ),
    }
    for request, people in kept.values():
        ledger_after = rule(view(), request).ledger
        assert ledger_after == replace(view().ledger, people=People(preflight_done=True, **people))
