"""What people read, word for word: why a rollout waits, and what became of what they asked.

One table for the decision, one for the answers. Each row is a rollout, the reason and the whole sentence, so that a
name or a number that is missing from it is missed.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.calendar import Calendar, DailyWindow, Freeze
from feature_rollout.core.checks import Check, CheckAnswer
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Phase, Trouble, View
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
COMPARED = plan(*PLAIN.stages, rows=[row(Severity.HIGH, relative())], metrics=[ratio()])

SENTENCES: dict[str, tuple[View, Phase, str, str]] = {
    "trouble that needs a person": (
        view(trouble=Trouble("InvalidPlan", "it names no metric")),
        Phase.STALLED,
        "InvalidPlan",
        "it names no metric",
    ),
    "trouble that waiting may heal": (
        view(trouble=Trouble("StoreUnreachable", "the database is away", stalled=False)),
        Phase.HELD,
        "StoreUnreachable",
        "the database is away",
    ),
    "rolled back by a breach": (
        view(ledger=latch()),
        Phase.ROLLED_BACK,
        "RolledBack",
        (
            "Rolled back in stage ten: errors was 20%, limit 1% (High). "
            "It stays so until Retry, or until the plan is changed."
        ),
    ),
    "rolled back by a person, before the first stage": (
        view(-1, ledger=latch(Order(ALICE, RollBackTo.OFF, "complaints", T0, "DisableFlags"), "")),
        Phase.ROLLED_BACK,
        "RolledBack",
        (
            'Rolled back before the first stage by alice: "complaints". '
            "It stays so until Retry, or until the plan is changed."
        ),
    ),
    "the plan was changed after a revert": (
        view(ledger={**latch(spec_hash="old"), "spec_hash": "old"}),
        Phase.PENDING,
        "Rearmed",
        "The plan was changed after the revert in stage ten; attempt 2 begins.",
    ),
    "a stage that was entered was edited": (
        view(1, ledger={"executed": (TEN.digest, "other")}),
        Phase.HELD,
        "PlanChanged",
        "stages[1] (half) was entered and has since been edited; put it back, or delete the rollout and start afresh.",
    ),
    "a stage that was entered is gone": (
        view(1, of=plan(TEN), ledger={"executed": (TEN.digest, "other")}),
        Phase.HELD,
        "PlanChanged",
        (
            "stages[1], now missing, was entered and has since been edited; "
            "put it back, or delete the rollout and start afresh."
        ),
    ),
    "a row is gone": (
        view(rows={"menu": OFF}),
        Phase.STALLED,
        "FlagMissing",
        "Flag bell has no row in the table; create it, the operator never does.",
    ),
    "a row was changed by hand": (
        view(rows={"bell": exposure(5, "staff"), "menu": OFF}),
        Phase.PAUSED,
        "ManualChange",
        (
            "Flag bell was changed by somebody else: it is 5 % of staff, the operator had it as 10 % of everyone. "
            "It goes on when the row is put back, or on Resume."
        ),
    ),
    "it is over": (
        view(2, ledger={"completed_at": T0}),
        Phase.COMPLETED,
        "Completed",
        "Every stage is in, baked and gated.",
    ),
    "paused": (
        view(people={"paused": Pause(BOB, T0, "lunch")}),
        Phase.PAUSED,
        "Paused",
        'Paused by bob: "lunch"; it goes on with: featurerollout resume bell -n shop --reason ....',
    ),
    "paused without a reason": (
        view(people={"paused": Pause(BOB, T0)}),
        Phase.PAUSED,
        "Paused",
        "Paused by bob; it goes on with: featurerollout resume bell -n shop --reason ....",
    ),
    "suspended": (
        view(suspended=True),
        Phase.PAUSED,
        "Suspended",
        "spec.suspend is true; set it to false to go on.",
    ),
    "preflight was not asked": (
        view(-1),
        Phase.PREFLIGHT,
        "CheckUnanswered",
        "The first stage waits for its preflight: preflight/backup: it is being asked.",
    ),
    "preflight has not passed": (
        view(-1, checks={BACKUP.key: CheckAnswer(BACKUP.key, False, "it is a week old.", NOW)}),
        Phase.PREFLIGHT,
        "CheckFailed",
        "The first stage waits for its preflight: preflight/backup has not passed: it is a week old.",
    ),
    "preflight could not be asked": (
        view(-1, checks={BACKUP.key: CheckAnswer(BACKUP.key, None, "the database is away.", NOW)}),
        Phase.PREFLIGHT,
        "CheckUnanswered",
        "The first stage waits for its preflight: preflight/backup could not be asked: the database is away.",
    ),
    "preflight runs": (
        view(-1, checks={BACKUP.key: CheckAnswer(BACKUP.key, None, "Job a runs.", NOW, running=True)}),
        Phase.PREFLIGHT,
        "CheckUnanswered",
        "The first stage waits for its preflight: preflight/backup: Job a runs.",
    ),
    "a row that only holds is breached": (
        view(of=SOFT, states=(guard_of(SOFT, GuardState.BREACHED),)),
        Phase.HELD,
        "HoldAction",
        "errors above 1% is breached (Low); held until there is no evidence of it any more.",
    ),
    "everybody fares badly": (
        view(states=(guard_of(PLAN, GuardState.QUIET), guard_of(PLAN, GuardState.INCIDENT))),
        Phase.HELD,
        "GlobalIncident",
        (
            "errors above 1% is past its limit (High), and the users without the flags fare no better: "
            "not the rollout's doing. Held until it is over."
        ),
    ),
    "there is evidence": (
        view(states=(guard_of(PLAN, GuardState.HOLDING),)),
        Phase.HELD,
        "EvidenceAgainst",
        "There is evidence against errors above 1% (High); held until it is below 20.",
    ),
    "guards are blind": (
        view(
            states=tuple(
                guard_of(PLAN, GuardState.BLIND, note=note) for note in ("errors: timeout", "b", "errors: timeout")
            )
        ),
        Phase.HELD,
        "GuardsBlind",
        "Guards cannot be evaluated, nothing is raised and nothing reverted: errors: timeout; b.",
    ),
    "guards are blind, and that is reverted in the end": (
        view(of=replace(PLAN, on_blind=OnBlind.REVERT), states=(guard_of(PLAN, GuardState.BLIND, note="b"),)),
        Phase.HELD,
        "GuardsBlind",
        "Guards cannot be evaluated, nothing is raised and reverted if it lasts, by onBlind: b.",
    ),
    "the past is not read yet": (
        view(-1, of=COMPARED, progress=Progress(reference_until=T0)),
        Phase.PREFLIGHT,
        "AwaitingReference",
        "Reads the seven days before of errors (0 of 1 metrics are read).",
    ),
    "guards were not looked at": (
        view(-1, of=PLAIN, states=(guard_of(PLAIN, GuardState.UNSEEN, note="the first look at errors"),)),
        Phase.PENDING,
        "AwaitingLook",
        "Waits for the first look at errors.",
    ),
    "a new stage's guards were not looked at": (
        view(states=(guard_of(PLAN, GuardState.UNSEEN, note="the first look at errors"),)),
        Phase.BAKING,
        "AwaitingLook",
        "Waits for the first look at errors.",
    ),
    "there is no traffic": (
        view(states=(guard_of(PLAN, GuardState.NO_DATA, note="errors had no data"),)),
        Phase.HELD,
        "NoTraffic",
        "errors had no data: healthy time does not count.",
    ),
    "it bakes": (view(baked=4.9), Phase.BAKING, "Baking", "Stage ten bakes for 5m of healthy time."),
    "its gates are not passed": (
        view(),
        Phase.GATING,
        "GateNotPassed",
        "Stage ten has baked; its gates are not passed: errors needs 1 units; errors needs 1 units.",
    ),
    "the newest look had no data": (
        view(of=PLAIN, states=(guard_of(PLAIN, GuardState.QUIET, without_data=True, note="errors had no data"),)),
        Phase.BAKING,
        "Baking",
        "Stage ten has baked; waits for data: errors had no data.",
    ),
    "it is told to hold here": (
        view(of=PLAIN, hold_at="ten"),
        Phase.HELD,
        "HoldAt",
        "spec.holdAt is ten, which is reached; name a later stage or none to go on.",
    ),
    "it is told to hold nowhere": (
        view(of=PLAIN, hold_at="tne"),
        Phase.HELD,
        "HoldAt",
        "spec.holdAt is tne, which names no stage; correct it to go on.",
    ),
    "two approvals are missing": (
        view(people=PROMOTED),
        Phase.AWAITING_APPROVAL,
        "AwaitingApproval",
        "Waits for 2 approvals of stage half: featurerollout approve bell --stage half -n shop --reason ....",
    ),
    "one approval is missing": (
        view(people={**PROMOTED, "approvals": {"half": (consent(ALICE),)}}),
        Phase.AWAITING_APPROVAL,
        "AwaitingApproval",
        "Waits for 1 approval of stage half: featurerollout approve bell --stage half -n shop --reason ....",
    ),
    "the calendar is closed": (
        view(of=replace(PLAIN, calendar=WEEKDAYS)),
        Phase.AWAITING_WINDOW,
        "AwaitingWindow",
        (
            "The next stage waits for the calendar, which is closed (outside the calendar's windows) "
            "and opens Mon 2026-01-05 12:00 Europe/Berlin."
        ),
    ),
    "the calendar is frozen for good": (
        view(of=replace(PLAIN, calendar=FROZEN)),
        Phase.AWAITING_WINDOW,
        "AwaitingWindow",
        (
            "The next stage waits for the calendar, which is closed (a freeze from 2026-01-05 to 2028-10-01: no staff) "
            "and never opens again, as it is written."
        ),
    ),
    "the next stage is not in effect": (
        view(of=plan(PLAIN.stages[0], stage("half", ("bell", 50), blockers=("a is not in effect", "nor is b")))),
        Phase.HELD,
        "NotInEffect",
        "The plan demands what this version cannot do, so it waits: a is not in effect; nor is b.",
    ),
    "a person has to confirm": (
        view(people=APPROVED),
        Phase.PREFLIGHT,
        "AwaitingConfirmation",
        (
            "Stage half waits for its checks: stages/half/ready: The others are ready "
            "(featurerollout confirm bell ready -n shop --reason ...)."
        ),
    ),
    "the next stage's row is not there": (
        view(of=PLAIN, index=-1, rows={}),
        Phase.STALLED,
        "FlagMissing",
        "Flag bell has no row in the table; create it, the operator never does.",
    ),
    "it takes too long": (
        view(of=plan(stage("ten", ("bell", 10), deadline=minutes(10)), PLAIN.stages[1]), baked=1),
        Phase.BAKING,
        "StageOverdue",
        "Stage ten has taken longer than its deadline of 10m. Stage ten bakes for 5m of healthy time.",
    ),
    "a stage begins": (view(of=PLAIN), Phase.BAKING, "StageEntered", "Stage half (2 of 2) began: 1 flag written."),
    "a stage of two flags begins": (
        view(people={**APPROVED, "confirmations": {READY.key: consent(BOB)}}),
        Phase.BAKING,
        "StageEntered",
        "Stage half (2 of 3) began: 2 flags written.",
    ),
    "a stage without flags begins": (
        view(of=plan(PLAIN.stages[0], stage("soak"))),
        Phase.BAKING,
        "StageEntered",
        "Stage soak (2 of 2) began, which writes no flags.",
    ),
    "the last stage is over": (
        view(1, of=PLAIN),
        Phase.COMPLETED,
        "Completed",
        "Every stage is in, baked and gated.",
    ),
}
STALLED = {"InvalidPlan", "PlanChanged", "FlagMissing", "NotInEffect", "StageOverdue", "RolledBack"}


@pytest.mark.parametrize(("seen", "phase", "reason", "message"), SENTENCES.values(), ids=SENTENCES.keys())
def test_why_it_waits(seen: View, phase: Phase, reason: str, message: str) -> None:
    decision = decide(seen)
    assert (decision.message, decision.reason, decision.phase) == (message, reason, phase)
    assert decision.stalled is (reason in STALLED)


@pytest.mark.parametrize(
    ("sentence", "waiting_for"),
    [
        ("a row that only holds is breached", ("errors above 1%",)),
        ("everybody fares badly", ("errors above 1%",)),
        ("there is evidence", ("errors above 1%",)),
        ("guards are blind", ("errors: timeout", "b")),
        ("the past is not read yet", ("the past of errors",)),
        ("guards were not looked at", ("the first look at errors",)),
        ("there is no traffic", ("errors had no data",)),
        ("it bakes", ("5m of healthy time in ten",)),
        ("its gates are not passed", ("errors needs 1 units", "errors needs 1 units")),
        ("the newest look had no data", ("errors had no data",)),
        ("the calendar is closed", ("the calendar: opens Mon 2026-01-05 12:00 Europe/Berlin",)),
        ("the next stage is not in effect", ("a is not in effect", "nor is b")),
        ("preflight was not asked", ("preflight/backup: it is being asked",)),
        ("suspended", ()),
    ],
)
def test_what_it_waits_for(sentence: str, waiting_for: tuple[str, ...]) -> None:
    assert decide(SENTENCES[sentence][0]).waiting_for == waiting_for


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
            view(
                of=plan(stage("ten", ("bell", 10), on_no_traffic=OnNoTraffic.COUNT), PLAIN.stages[1]),
                states=(guard_of(PLAIN, GuardState.NO_DATA, note="errors had no data", without_data=True),),
            ),
            "StageEntered",
            id="time without traffic counts",
        ),
        pytest.param(
            view(-1, of=PLAIN, states=(guard_of(PLAIN, GuardState.NO_DATA, note="n", without_data=True),)),
            "StageEntered",
            id="before the first raise there may be nothing to see",
        ),
        pytest.param(
            view(
                of=PLAIN,
                states=(guard_of(PLAIN, GuardState.NO_DATA, note="n", without_data=True),),
                people=PROMOTED,
            ),
            "StageEntered",
            id="somebody has ended the bake",
        ),
        pytest.param(
            view(
                of=plan(stage("soak"), PLAIN.stages[1]),
                states=(guard_of(PLAIN, GuardState.NO_DATA, note="n", without_data=True),),
            ),
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
ANSWERS: dict[str, tuple[View, Request, str, str]] = {
    "rolled back": (
        view(),
        asked(RequestType.ROLL_BACK, reason=" complaints "),
        "RolledBack",
        'Rolled back (Off) by alice: "complaints".',
    ),
    "rolled back by nobody known, without a reason": (
        view(),
        asked(RequestType.ROLL_BACK, "", to=RollBackTo.BASELINE),
        "RolledBack",
        "Rolled back (Baseline) by somebody.",
    ),
    "paused": (view(), asked(RequestType.PAUSE, reason="lunch"), "Paused", 'Paused by alice: "lunch"; guards go on.'),
    "paused already": (
        view(people={"paused": Pause(BOB, T0)}),
        asked(RequestType.PAUSE),
        "AlreadyPaused",
        "It was paused by bob already; Resume ends that.",
    ),
    "paused when it is over": (
        OVER,
        asked(RequestType.PAUSE),
        "Completed",
        "The rollout is completed: there is nothing left to pause.",
    ),
    "resumed after a pause and a hold": (
        replace(HELD, ledger=replace(HELD.ledger, people=People(paused=Pause(BOB, T0)))),
        asked(RequestType.RESUME, reason="back"),
        "Resumed",
        'Resumed by alice: "back": the pause by bob is over; the hold is lifted: errors above 1%.',
    ),
    "resumed with rows as they are": (
        view(1, rows={"bell": exposure(5), "menu": exposure(3)}),
        asked(RequestType.RESUME),
        "Resumed",
        "Resumed by alice: taken over as they are now: bell, menu.",
    ),
    "not resumed from too much": (
        view(1, rows={"bell": exposure(60), "menu": exposure(70, "staff")}),
        asked(RequestType.RESUME),
        "DriftTooExposed",
        (
            "Changed by hand to more than the plan has by now: bell is 60 % of everyone, at most 50 % of everyone; "
            "menu is 70 % of staff, at most 50 % of everyone. Put that back, or roll back; "
            "what is as planned or less can be resumed from."
        ),
    ),
    "nothing to resume": (
        view(),
        asked(RequestType.RESUME),
        "NotPaused",
        "The rollout is neither paused, nor held by a Hold row, nor is a row changed by hand.",
    ),
    "nothing to resume, but suspended": (
        view(suspended=True),
        asked(RequestType.RESUME),
        "NotPaused",
        (
            "spec.suspend is true: set it to false. "
            "The rollout is neither paused, nor held by a Hold row, nor is a row changed by hand."
        ),
    ),
    "promoted": (
        view(),
        asked(RequestType.PROMOTE, reason="calm"),
        "Promoted",
        'The bake and the gates of stage ten were ended by alice: "calm".',
    ),
    "promoted already": (
        view(people=PROMOTED),
        asked(RequestType.PROMOTE),
        "NothingToPromote",
        "Stage ten was promoted by bob already.",
    ),
    "promoted before the first stage": (
        view(-1),
        asked(RequestType.PROMOTE),
        "NothingToPromote",
        "No stage was entered yet: there is no bake to end.",
    ),
    "promoted when it is over": (
        OVER,
        asked(RequestType.PROMOTE),
        "Completed",
        "The rollout is completed: there is no bake to end.",
    ),
    "promoted after a revert": (
        ROLLED_BACK,
        asked(RequestType.PROMOTE),
        "RolledBack",
        "The rollout was rolled back: Retry begins a new attempt.",
    ),
    "promoted over evidence": (
        HELD,
        asked(RequestType.PROMOTE),
        "EvidenceAgainst",
        "There is evidence against errors above 1%; a Promote does not overrule it.",
    ),
    "tried again": (
        ROLLED_BACK,
        asked(RequestType.RETRY, reason="mended"),
        "Rearmed",
        'Attempt 2 was begun by alice: "mended".',
    ),
    "nothing to try again": (
        view(),
        asked(RequestType.RETRY),
        "NothingToRetry",
        "Nothing was rolled back in this attempt: there is nothing to retry.",
    ),
    "nothing to adopt": (
        view(),
        asked(RequestType.ADOPT),
        "NothingToAdopt",
        "The rollout has its place in the ledger: there is nothing to adopt.",
    ),
    "approved": (
        view(),
        asked(RequestType.APPROVE, stage="half", reason="read it"),
        "Approved",
        'Stage half was approved by alice: "read it": 1 of 2.',
    ),
    "approved twice": (
        view(people={"approvals": {"half": (consent(ALICE),)}}),
        asked(RequestType.APPROVE, stage="half"),
        "AlreadyApproved",
        "alice has approved of it already.",
    ),
    "approval of no stage": (
        view(),
        asked(RequestType.APPROVE, stage="third"),
        "StageUnknown",
        "The plan has no stage third: name one of ten, half, all.",
    ),
    "approval of a stage that is in": (
        view(),
        asked(RequestType.APPROVE, stage="ten"),
        "StageNotNext",
        "Stage ten was entered already; the next one is half.",
    ),
    "approval when all are in": (
        view(2),
        asked(RequestType.APPROVE, stage="all"),
        "StageNotNext",
        "Stage all was entered already; there is no next one.",
    ),
    "approval that is not needed": (
        view(-1),
        asked(RequestType.APPROVE, stage="ten"),
        "ApprovalNotNeeded",
        "Stage ten needs no approval.",
    ),
    "approval after a revert": (
        ROLLED_BACK,
        asked(RequestType.APPROVE, stage="half"),
        "RolledBack",
        "The rollout was rolled back: Retry first, then approve.",
    ),
    "approval too early": (
        view(),
        asked(RequestType.APPROVE, stage="all"),
        "NotYet",
        "Stage all is not next, half is; it counts when it is.",
    ),
    "approval when nothing is next": (
        view(2, ledger=latch()),
        asked(RequestType.APPROVE, stage="all"),
        "RolledBack",
        "The rollout was rolled back: Retry first, then approve.",
    ),
    "approval by nobody known": (
        view(),
        asked(RequestType.APPROVE, "", stage="half"),
        "RequesterUnknown",
        (
            "Approve needs to know who asks, and spec.requestedBy is empty: have the API server write it, "
            "by the admission policies that `featurerollout crds` prints."
        ),
    ),
    "approval by a robot": (
        view(),
        asked(RequestType.APPROVE, ROBOT, stage="half"),
        "ServiceAccountNotAllowed",
        "system:serviceaccount:ci:deployer is a service account, and a person is wanted.",
    ),
    "confirmed": (
        view(),
        asked(RequestType.CONFIRM, check="ready", reason="I looked"),
        "Confirmed",
        'stages/half/ready was confirmed by alice: "I looked".',
    ),
    "confirmed twice": (
        view(people={"confirmations": {READY.key: consent(BOB)}}),
        asked(RequestType.CONFIRM, check="ready"),
        "AlreadyConfirmed",
        "stages/half/ready was confirmed by bob already.",
    ),
    "confirmed for the database": (
        view(-1),
        asked(RequestType.CONFIRM, check="backup"),
        "CheckNotConfirmable",
        "preflight/backup is not asked of people; only checks with `confirm` are for people.",
    ),
    "confirmed too early": (
        view(-1),
        asked(RequestType.CONFIRM, check="ready"),
        "NotYet",
        "Stage half has the check ready, and is not next yet.",
    ),
    "confirmed after a revert": (
        ROLLED_BACK,
        asked(RequestType.CONFIRM, check="backup"),
        "RolledBack",
        "The rollout was rolled back: Retry first, then confirm.",
    ),
    "confirmed what nobody asked": (
        view(),
        asked(RequestType.CONFIRM, check="moon"),
        "CheckUnknown",
        "No check moon is asked now: name one of ready.",
    ),
    "confirmed where nothing is asked": (
        view(1),
        asked(RequestType.CONFIRM, check="moon"),
        "CheckUnknown",
        "No check moon is asked now: nothing waits for a confirmation.",
    ),
    "for another stage": (
        view(),
        asked(RequestType.PAUSE, stage="half"),
        "StageNotNext",
        "The action is for stage half; the rollout is in stage ten.",
    ),
    "for a stage before the first": (
        view(-1),
        asked(RequestType.RETRY, stage="half"),
        "StageNotNext",
        "The action is for stage half; the rollout is in no stage yet.",
    ),
    "for another plan": (
        view(),
        asked(RequestType.PROMOTE, plan_hash="v1:old"),
        "PlanHashMismatch",
        (
            f"The plan was read as v1:old, and is {HASH} now: read it again, "
            "and repeat the action with status.planHash if you still agree."
        ),
    ),
    "in trouble": (
        view(trouble=Trouble("InvalidPlan", "it names no metric.")),
        asked(RequestType.RETRY),
        "InvalidPlan",
        "It waits until this is mended: it names no metric.",
    ),
    "waited for a day": (
        view(),
        asked(RequestType.APPROVE, stage="all", created_at=NOW - timedelta(hours=24)),
        "Expired",
        "It could not be applied within 24 hours. Stage all is not next, half is; it counts when it is.",
    ),
}


@pytest.mark.parametrize(("seen", "request_", "reason", "message"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_became_of_it(seen: View, request_: Request, reason: str, message: str) -> None:
    answer = rule(seen, request_).answer
    assert (answer.message, answer.reason) == (message, reason)
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
