"""What becomes of a request: every type in every phase, each refusal, precedence, expiry, and what the ledger keeps.

| subject | cases |
|---|---|
| every type in every phase | outcome and reason |
| Approve, Confirm | whose word counts, for what, how often; void with another plan hash or UID |
| Pause, Resume | the pause, the hold of a Hold row, changes by hand |
| Promote | ends bake and gates, and nothing else; the raise cites it |
| RollBack | in every state, to where, whom it latches |
| Retry | another attempt, preflight again, nothing inherited but the pause |
| order | RollBack, Pause, as they were made, Promote; nobody waits longer than a day |
"""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core import requests as module
from feature_rollout.core.checks import Check, CheckAnswer, preflight_key, stage_key
from feature_rollout.core.clearance import to_ask
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Trouble, Verb, View
from feature_rollout.core.guards import assess
from feature_rollout.core.intake import aligned
from feature_rollout.core.invariants import violations
from feature_rollout.core.people import (
    Consent,
    Lift,
    Order,
    Outcome,
    Pause,
    People,
    Promotion,
    Request,
    RequestType,
    RollBackTo,
)
from feature_rollout.core.plan import (
    Action,
    ActionType,
    Approval,
    Gate,
    OnDrift,
    Plan,
    Severity,
)
from feature_rollout.core.progress import Progress
from feature_rollout.core.reasons import DESCRIPTIONS
from feature_rollout.core.requests import adoption, in_order, rule
from feature_rollout.core.state import Breach, Latch
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
    stage,
)

GOOD: dict[str, Any] = {"events": 0.0, "units": 1000.0}
BAD: dict[str, Any] = {"events": 200.0, "units": 1000.0}
BAKED = 10  # looks, which is the bake of every stage
ON_CALL = Check(preflight_key("on-call"), "Somebody is there.")
BACKUP = Check(preflight_key("backup"))
READY = Check(stage_key("half", "ready"), "The others are ready.")
PLAN = plan(
    stage("ten", ("bell", 10), gates=(Gate("errors", at_most=percent("1%"), min_units=10**6),)),
    stage("half", ("bell", 50), approval=Approval(2), checks=(READY,)),
    stage("all", ("bell", 100), approval=Approval(1, service_accounts=True)),
    preflight=(ON_CALL, BACKUP),
)
ALICE, BOB, ROBOT = "alice", "bob", "system:serviceaccount:ci:deployer"


def asked(kind: RequestType, by: str = ALICE, **fields: Any) -> Request:
    if kind in (RequestType.APPROVE, RequestType.CONFIRM):
        fields = {"plan_hash": PLAN.plan_hash, **fields}
    if kind is RequestType.APPROVE:
        fields = {"stage": "half", **fields}
    if kind is RequestType.CONFIRM:
        fields = {"check": "ready", **fields}
    return Request(fields.pop("uid", f"{kind}-{by}"), kind, T0, str(kind).lower(), requested_by=by, **fields)


def consent(by: str, **changes: Any) -> Consent:
    return replace(Consent(by, T0, "uid-1", PLAN.plan_hash), **changes)


def view(index: int = 0, of: Plan = PLAN, looks: list[dict[str, Any]] | None = None, **changes: Any) -> View:
    """In the stage of that index (-1 before the first), preflight behind it; changes of the view and of `people`."""
    people = replace(People(preflight_done=index >= 0), **changes.pop("people", {}))
    entered = ledger_in(of, index, people=people) if index >= 0 else ledger(people=people)
    entered = replace(entered, **changes.pop("ledger", {}))
    looks = [GOOD] if looks is None else looks
    start = entered.entered_at or T0
    progress = aligned(None, of, entered, start)
    for i, numbers in enumerate(looks):
        seen = look("errors", start + i * INTERVAL, **numbers)
        progress = progress.observed(of, seen, counting=True, on_no_traffic=of.stages[0].on_no_traffic)
    progress = progress.lifted(people.lifted)
    now = start + len(looks) * INTERVAL
    rows = {**dict.fromkeys(of.flags, OFF), **entered.written}
    return replace(View(of, entered, rows, progress, assess(of, progress, now), now), **changes)


def latched(cause: Breach | Order | None = None) -> dict[str, Any]:
    breach = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", 5.0, T0, minutes(5), "DisableFlags")
    return {
        "latch": Latch(cause or breach, "ten", PLAN.spec_hash, T0),
        "written": {"bell": exposure(10, enabled=False)},
    }


SOFT = plan(stage("ten", ("bell", 10)), rows=[row(Severity.LOW, above(), action=Action(ActionType.HOLD))])
PAUSED = {"paused": Pause(BOB, T0, "lunch")}
TROUBLE = Trouble("InvalidPlan", "the plan names no metric")
PHASES: dict[str, View] = {
    "preflight": view(-1),
    "baking": view(0),
    "baked": view(0, looks=[GOOD] * BAKED),
    "paused": view(0, people=PAUSED),
    "suspended": view(0, suspended=True),
    "held": view(0, of=SOFT, looks=[BAD]),
    "rolled back": view(0, ledger=latched()),
    "completed": view(2, ledger={"completed_at": T0}),
    "troubled": view(0, trouble=TROUBLE),
    "changed by hand": view(0, rows={"bell": exposure(5)}),
}
APPLIED, REFUSED, WAITS = Outcome.APPLIED, Outcome.REFUSED, Outcome.PENDING
# By phase, in the order of PHASES.
ANSWERS: dict[RequestType, list[tuple[Outcome, str]]] = {
    RequestType.ROLL_BACK: [(APPLIED, "RolledBack")] * 10,
    RequestType.PAUSE: [
        *[(APPLIED, "Paused")] * 3,
        (REFUSED, "AlreadyPaused"),
        *[(APPLIED, "Paused")] * 3,
        (REFUSED, "Completed"),
        *[(APPLIED, "Paused")] * 2,
    ],
    RequestType.RESUME: [
        *[(REFUSED, "NotPaused")] * 3,
        (APPLIED, "Resumed"),
        (REFUSED, "NotPaused"),
        (APPLIED, "Resumed"),
        *[(REFUSED, "NotPaused")] * 2,
        (WAITS, "InvalidPlan"),
        (APPLIED, "Resumed"),
    ],
    RequestType.PROMOTE: [
        (REFUSED, "NothingToPromote"),
        *[(APPLIED, "Promoted")] * 4,
        (REFUSED, "EvidenceAgainst"),
        (REFUSED, "RolledBack"),
        (REFUSED, "Completed"),
        (WAITS, "InvalidPlan"),
        (APPLIED, "Promoted"),
    ],
    RequestType.RETRY: [
        *[(REFUSED, "NothingToRetry")] * 6,
        (APPLIED, "Rearmed"),
        (REFUSED, "NothingToRetry"),
        (WAITS, "InvalidPlan"),
        (REFUSED, "NothingToRetry"),
    ],
    RequestType.APPROVE: [
        (WAITS, "NotYet"),
        *[(APPLIED, "Approved")] * 4,
        (REFUSED, "PlanHashMismatch"),
        (REFUSED, "RolledBack"),
        (REFUSED, "StageNotNext"),
        (WAITS, "InvalidPlan"),
        (APPLIED, "Approved"),
    ],
    RequestType.CONFIRM: [
        (WAITS, "NotYet"),
        *[(APPLIED, "Confirmed")] * 4,
        (REFUSED, "PlanHashMismatch"),
        (REFUSED, "CheckUnknown"),
        (REFUSED, "CheckUnknown"),
        (WAITS, "InvalidPlan"),
        (APPLIED, "Confirmed"),
    ],
    RequestType.ADOPT: [*[(REFUSED, "NothingToAdopt")] * 8, (WAITS, "InvalidPlan"), (REFUSED, "NothingToAdopt")],
}
CASES = [
    pytest.param(kind, phase, wanted, id=f"{kind} while {phase}")
    for kind in RequestType
    for phase, wanted in zip(PHASES, ANSWERS[kind], strict=True)
]


@pytest.mark.parametrize(("kind", "phase", "wanted"), CASES)
def test_every_type_in_every_phase(kind: RequestType, phase: str, wanted: tuple[Outcome, str]) -> None:
    seen = PHASES[phase]
    request = asked(kind)
    answer = rule(seen, request).answer
    assert (answer.outcome, answer.reason) == wanted, answer.message
    assert answer.reason in DESCRIPTIONS
    assert answer.message.endswith((".", "mended: the plan names no metric"))
    decision = decide(replace(seen, requests=(request,)))
    if answer.outcome is WAITS:
        assert decision == decide(seen), "what has to wait changes nothing"
        assert module.waiting(replace(seen, requests=(request,))) == ((request, answer),)
    else:
        assert decision.answered is not None
        assert (decision.answered.answer.outcome, decision.answered.at) == (answer.outcome, seen.now)
        if kind not in (RequestType.ROLL_BACK, RequestType.PAUSE, RequestType.RETRY):
            assert decision.phase is decide(seen).phase, "an answer alone is no other phase"
        assert not violations(seen, decision)


def test_there_is_a_rule_for_every_type() -> None:
    assert set(module.RULES) == set(RequestType) == set(ANSWERS)


# Approve and Confirm.


@pytest.mark.parametrize(
    ("request_", "people", "wanted"),
    [
        pytest.param(asked(RequestType.APPROVE), {}, (APPLIED, "Approved", "1 of 2"), id="the first of two"),
        pytest.param(
            asked(RequestType.APPROVE, BOB),
            {"approvals": {"half": (consent(ALICE),)}},
            (APPLIED, "Approved", "2 of 2"),
            id="the second",
        ),
        pytest.param(
            asked(RequestType.APPROVE),
            {"approvals": {"half": (consent(ALICE),)}},
            (REFUSED, "AlreadyApproved", "alice"),
            id="the same person again",
        ),
        pytest.param(
            asked(RequestType.APPROVE),
            {"approvals": {"half": (consent(ALICE, plan_hash="v1:old"),)}},
            (APPLIED, "Approved", "1 of 2"),
            id="the same person, of an earlier plan",
        ),
        pytest.param(
            asked(RequestType.APPROVE),
            {"approvals": {"half": (consent(ALICE, uid="uid-0"),)}},
            (APPLIED, "Approved", "1 of 2"),
            id="the same person, of an earlier object",
        ),
        pytest.param(
            asked(RequestType.APPROVE, plan_hash="v1:other"),
            {},
            (REFUSED, "PlanHashMismatch", f"v1:other, and is {PLAN.plan_hash} now"),
            id="another plan hash: both are named",
        ),
        pytest.param(
            asked(RequestType.APPROVE, stage="nowhere"),
            {},
            (REFUSED, "StageUnknown", "ten, half, all"),
            id="no such stage: those that there are",
        ),
        pytest.param(
            asked(RequestType.APPROVE, stage="ten"), {}, (REFUSED, "StageNotNext", "the next one is half"), id="entered"
        ),
        pytest.param(asked(RequestType.APPROVE, stage="all"), {}, (WAITS, "NotYet", "half is"), id="a later stage"),
        pytest.param(asked(RequestType.APPROVE, ""), {}, (REFUSED, "RequesterUnknown", "requestedBy"), id="nobody"),
        pytest.param(
            asked(RequestType.APPROVE, ROBOT), {}, (REFUSED, "ServiceAccountNotAllowed", ROBOT), id="a service account"
        ),
        pytest.param(asked(RequestType.CONFIRM, ""), {}, (REFUSED, "RequesterUnknown", ""), id="nobody confirms"),
        pytest.param(
            asked(RequestType.CONFIRM, ROBOT), {}, (REFUSED, "ServiceAccountNotAllowed", ""), id="a robot confirms"
        ),
        pytest.param(
            asked(RequestType.CONFIRM),
            {"confirmations": {READY.key: consent(BOB)}},
            (REFUSED, "AlreadyConfirmed", "bob"),
            id="confirmed already",
        ),
        pytest.param(
            asked(RequestType.CONFIRM, check="nothing"), {}, (REFUSED, "CheckUnknown", "one of ready"), id="no check"
        ),
        pytest.param(
            asked(RequestType.CONFIRM, check="guards-quiet"), {}, (APPLIED, "Confirmed", ""), id="an acknowledgement"
        ),
        pytest.param(
            asked(RequestType.CONFIRM, check="sample-ratio"), {}, (APPLIED, "Confirmed", ""), id="another one"
        ),
        pytest.param(
            asked(RequestType.PROMOTE, stage="half"), {}, (REFUSED, "StageNotNext", "in stage ten"), id="another stage"
        ),
        pytest.param(
            asked(RequestType.PROMOTE),
            {"promoted": Promotion(0, BOB)},
            (REFUSED, "NothingToPromote", "by bob"),
            id="promoted already",
        ),
    ],
)
def test_whose_word_counts(request_: Request, people: dict[str, Any], wanted: tuple[Outcome, str, str]) -> None:
    answer = rule(view(0, people=people), request_).answer
    assert (answer.outcome, answer.reason) == wanted[:2], answer.message
    assert wanted[2] in answer.message


def test_a_service_account_may_approve_where_the_stage_says_so() -> None:
    at_last = view(1)
    assert rule(at_last, asked(RequestType.APPROVE, ROBOT, stage="all")).answer.outcome is APPLIED
    unneeded = plan(stage("ten", ("bell", 10)), plan_hash=PLAN.plan_hash)
    assert rule(view(-1, of=unneeded), asked(RequestType.APPROVE, stage="ten")).answer.reason == "ApprovalNotNeeded"


def test_a_check_for_the_database_is_not_for_people() -> None:
    answer = rule(view(-1), asked(RequestType.CONFIRM, check="backup")).answer
    assert (answer.outcome, answer.reason) == (REFUSED, "CheckNotConfirmable")


def test_a_stage_begins_when_enough_different_people_have_approved() -> None:
    done = view(0, looks=[GOOD] * BAKED, people={"promoted": Promotion(0, BOB, "calm")})
    held = decide(done)
    assert (held.phase, held.reason) == (Phase.AWAITING_APPROVAL, "AwaitingApproval")
    assert held.waiting_for == (
        "2 approvals of stage half: featurerollout approve bell --stage half -n shop --reason ...",
    )
    given = {"approvals": {"half": (consent(ALICE), consent(ALICE), consent(BOB, uid="uid-0"))}}
    assert "1 approval of stage half" in decide(view(0, people=given | _promoted())).message
    given = {"approvals": {"half": (consent(ALICE), consent(BOB))}}
    unconfirmed = decide(view(0, people=given | _promoted()))
    assert (unconfirmed.phase, unconfirmed.reason) == (Phase.PREFLIGHT, "AwaitingConfirmation")
    assert "featurerollout confirm bell ready -n shop" in unconfirmed.waiting_for[0]
    ready = view(0, people=given | _promoted() | {"confirmations": {READY.key: consent(BOB)}})
    decision = decide(ready)
    assert decision.verb is Verb.ADVANCE
    assert decision.cited == {
        "promotedBy": BOB,
        "approvedBy": [ALICE, BOB],
        "confirmedBy": {READY.key: BOB},
    }
    assert not violations(ready, decision)
    assert decision.ledger is not None
    assert decision.ledger.people.promoted is None, "a promotion is of one stage"


def _promoted() -> dict[str, Any]:
    return {"promoted": Promotion(0, BOB)}


@pytest.mark.parametrize(
    ("people", "cited", "broken"),
    [
        pytest.param({"promoted": None}, {}, ("S9", "S10"), id="no promotion"),
        pytest.param({}, {"promotedBy": "mallory"}, ("S9", "S10"), id="a promotion by another than is cited"),
        pytest.param({"promoted": Promotion(1, BOB)}, {}, ("S9", "S10"), id="a promotion of another stage"),
        pytest.param({"approvals": {}}, {}, ("S13",), id="no approval"),
        pytest.param({"approvals": {"half": (consent(ALICE),)}}, {}, ("S13",), id="too few"),
        pytest.param(
            {"approvals": {"half": (consent(ALICE), consent(BOB, plan_hash="v1:old"))}}, {}, ("S13",), id="void"
        ),
        pytest.param({}, {"approvedBy": [ALICE]}, ("S13",), id="not cited"),
        pytest.param({"confirmations": {}}, {}, ("S9",), id="not confirmed"),
        pytest.param({"confirmations": {READY.key: consent(BOB, uid="uid-0")}}, {}, ("S9",), id="of another object"),
        pytest.param({"preflight_done": False}, {}, ("S9",), id="no preflight"),
        pytest.param(PAUSED, {}, ("S20",), id="paused"),
    ],
)
def test_a_raise_without_its_words_breaks_an_invariant(
    people: dict[str, Any], cited: dict[str, Any], broken: tuple[str, ...]
) -> None:
    complete = {
        "approvals": {"half": (consent(ALICE), consent(BOB))},
        "confirmations": {READY.key: consent(BOB)},
        **_promoted(),
    }
    good = view(0, people=complete)
    decision = decide(good)
    assert not violations(good, decision)
    bad = replace(good, ledger=replace(good.ledger, people=replace(good.ledger.people, **people)))
    assert violations(bad, replace(decision, cited={**decision.cited, **cited})) == broken


# Checks.


def passed(
    check: Check, passed_: bool | None = True, message: str = "yes", age: timedelta = timedelta(0)
) -> CheckAnswer:
    return CheckAnswer(check.key, passed_, message, T0 + INTERVAL - age)


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        pytest.param(None, "CheckUnanswered", "is being asked", id="not asked yet"),
        pytest.param(passed(BACKUP, None, "it is away"), "CheckUnanswered", "not be asked: it is away", id="away"),
        pytest.param(passed(BACKUP, passed_=False, message="no row"), "CheckFailed", "no row", id="failed"),
        pytest.param(
            replace(passed(BACKUP, None, "Job a runs"), running=True),
            "CheckUnanswered",
            f"{BACKUP.key}: Job",
            id="runs",
        ),
        pytest.param(passed(BACKUP, age=minutes(1)), "CheckUnanswered", "is being asked", id="too old"),
        pytest.param(passed(BACKUP, age=-minutes(1)), "CheckUnanswered", "is being asked", id="of the future"),
        pytest.param(passed(BACKUP), "StageEntered", "", id="passed"),
    ],
)
def test_preflight(answer: CheckAnswer | None, reason: str, words: str) -> None:
    checks = {BACKUP.key: answer} if answer else {}
    seen = view(-1, people={"confirmations": {ON_CALL.key: consent(BOB)}}, checks=checks)
    decision = decide(seen)
    assert decision.reason == reason
    assert words in decision.message
    if decision.verb is Verb.ADVANCE:
        assert decision.ledger is not None
        assert decision.ledger.people.preflight_done
    else:
        assert (decision.phase, decision.stalled) == (Phase.PREFLIGHT, False)
    assert not violations(seen, decision)


def test_when_a_check_is_asked() -> None:
    start = view(-1)
    assert to_ask(start, decide(start)) == (BACKUP.key,)
    young, old = passed(BACKUP), passed(BACKUP, age=timedelta(seconds=30))
    assert to_ask(replace(start, checks={BACKUP.key: young}), decide(start)) == ()
    assert to_ask(replace(start, checks={BACKUP.key: old}), decide(start)) == (BACKUP.key,), "before it is too old"
    failed = passed(BACKUP, passed_=False, age=timedelta(seconds=10))
    assert to_ask(replace(start, checks={BACKUP.key: failed}), decide(start)) == (BACKUP.key,)
    assert to_ask(replace(start, trouble=TROUBLE), decide(start)) == ()
    for standing in (replace(start, suspended=True), view(-1, people=PAUSED)):
        assert to_ask(standing, decide(standing)) == (), "nothing is begun while it is paused"
    of = plan(PLAN.stages[0], stage("half", ("bell", 50), checks=(Check("stages/half/db"),)))
    baking, promoted = view(0, of=of), view(0, of=of, people=_promoted())
    assert to_ask(baking, decide(baking)) == (), "not for weeks of a bake"
    assert to_ask(promoted, decide(promoted)) == ("stages/half/db",)
    latched_ = view(-1, ledger=latched())
    assert to_ask(latched_, decide(latched_)) == ()


def test_a_stage_with_only_checks_passes_through() -> None:
    of = plan(stage("look", bake=timedelta(0), checks=(Check("stages/look/db"),)), PLAN.stages[0])
    first = view(-1, of=of, checks={"stages/look/db": CheckAnswer("stages/look/db", True, "", T0)})
    entered = decide(first)
    assert (entered.verb, entered.after) == (Verb.ADVANCE, {})
    assert entered.ledger is not None
    second = decide(replace(view(0, of=of), ledger=entered.ledger))
    assert (second.verb, second.after) == (Verb.ADVANCE, {"bell": exposure(10)})


# Pause and Resume.


def applied(seen: View, kind: RequestType, **fields: Any) -> Decision:
    decision = decide(replace(seen, requests=(asked(kind, **fields),)))
    assert decision.answered is not None
    assert decision.answered.answer.outcome is APPLIED, decision.message
    return decision


def test_a_pause_holds_until_resume_and_guards_go_on() -> None:
    paused = applied(view(0), RequestType.PAUSE, reason="lunch").ledger
    assert paused is not None
    held = decide(replace(PHASES["baked"], ledger=paused))
    assert (held.phase, held.reason) == (Phase.PAUSED, "Paused")
    assert 'Paused by alice: "lunch"' in held.message
    assert decide(view(0, looks=[BAD], people={"paused": paused.people.paused})).verb is Verb.DISABLE_FLAGS
    resumed = applied(replace(PHASES["baking"], ledger=paused), RequestType.RESUME).ledger
    assert resumed == replace(paused, people=People(preflight_done=True))


def test_resume_lifts_the_hold_of_a_hold_row_once() -> None:
    seen = PHASES["held"]
    assert decide(seen).reason == "HoldAction"
    request = replace(asked(RequestType.RESUME), plan_hash=None)
    ledger_ = decide(replace(seen, requests=(request,))).ledger
    assert ledger_ is not None
    lift = ledger_.people.lifted
    assert lift == Lift(seen.now, ("errors>1%",))
    quiet = seen.progress.lifted(lift)
    assert not quiet.evidence["errors>1%"].holds
    assert (
        decide(replace(seen, ledger=ledger_, progress=quiet, guards=assess(SOFT, quiet, seen.now))).reason == "Baking"
    )
    again = quiet.observed(
        SOFT, look("errors", seen.now, **BAD), counting=True, on_no_traffic=SOFT.stages[0].on_no_traffic
    )
    assert again.lifted(lift) is again, "what comes after counts"
    assert again.evidence["errors>1%"].holds
    assert Progress.from_json(json.loads(json.dumps(again.to_json()))).lifted(lift).evidence == again.evidence


@pytest.mark.parametrize(
    ("by_hand", "reason"),
    [
        pytest.param(exposure(5), "Resumed", id="less"),
        pytest.param(exposure(10, enabled=False), "Resumed", id="off"),
        pytest.param(exposure(10, "admin"), "Resumed", id="for fewer"),
        pytest.param(exposure(11), "DriftTooExposed", id="more than planned"),
        pytest.param(exposure(100, "admin"), "DriftTooExposed", id="more for some"),
    ],
)
def test_resume_takes_over_what_is_not_more_exposed_than_planned(by_hand: Any, reason: str) -> None:
    seen = view(0, rows={"bell": by_hand})
    ruling = rule(seen, asked(RequestType.RESUME))
    assert ruling.answer.reason == reason
    if ruling.ledger is not None:
        assert ruling.ledger.written == {"bell": by_hand}
        assert decide(replace(seen, ledger=ruling.ledger)).reason == "Baking"
        back = replace(seen, ledger=ruling.ledger, rows={"bell": exposure(10)})
        assert rule(back, asked(RequestType.RESUME)).ledger is not None, "up to what the stage has"


def test_resume_takes_a_row_that_no_stage_has_written_yet_over_as_what_it_was_before() -> None:
    of = plan(stage("ten", ("bell", 10)), stage("half", ("menu", 50)))
    found = exposure(5, "staff")
    seen = view(0, of=of, rows={"bell": exposure(10), "menu": found}, ledger={"baseline": {"bell": OFF, "menu": found}})
    lowered = replace(seen, rows={**seen.rows, "menu": exposure(2, "staff")})
    ruling = rule(lowered, replace(asked(RequestType.RESUME), plan_hash=None))
    assert ruling.ledger is not None
    assert ruling.ledger.written == seen.ledger.written
    assert ruling.ledger.baseline == {"bell": OFF, "menu": exposure(2, "staff")}


def test_resume_lifts_only_what_holds() -> None:
    """A quiet guard of a Hold row is not among what is lifted; without any, an earlier lift stays as it is."""
    two = plan(stage("ten", ("bell", 10)), rows=[replace(SOFT.rows[0], clauses=(above(), above(limit="90%")))])
    held = view(0, of=two, looks=[BAD])
    ruling = rule(held, replace(asked(RequestType.RESUME), plan_hash=None))
    assert ruling.ledger is not None
    assert ruling.ledger.people.lifted == Lift(held.now, ("errors>1%",))
    earlier = Lift(T0, ("errors>1%",))
    paused = rule(view(0, people={**PAUSED, "lifted": earlier}), asked(RequestType.RESUME))
    assert paused.ledger is not None
    assert paused.ledger.people.lifted == earlier


def test_with_report_a_row_is_never_taken_over() -> None:
    seen = view(0, rows={"bell": exposure(5)}, on_drift=OnDrift.REPORT)
    assert rule(seen, asked(RequestType.RESUME)).answer.reason == "NotPaused"


def test_resume_says_what_else_holds() -> None:
    assert "spec.suspend" in rule(PHASES["suspended"], asked(RequestType.RESUME)).answer.message


# Promote.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({}, "AwaitingApproval", id="never an approval"),
        pytest.param({"looks": []}, "AwaitingLook", id="nor what nobody has looked at"),
        pytest.param({"looks": [{"error": "timeout"}]}, "GuardsBlind", id="nor blindness"),
        pytest.param({"looks": [BAD]}, "FlagsDisabled", id="nor a breach"),
        pytest.param({"suspended": True}, "Suspended", id="nor suspend"),
        pytest.param({"hold_at": "ten"}, "HoldAt", id="nor holdAt"),
        pytest.param({"looks": [{"events": 0.0, "units": 0.0}]}, "AwaitingApproval", id="but the wait for traffic"),
    ],
)
def test_promote_ends_bake_and_gates_and_nothing_else(changes: dict[str, Any], reason: str) -> None:
    assert decide(view(0, people=_promoted(), **changes)).reason == reason


# RollBack.


@pytest.mark.parametrize("phase", PHASES)
def test_a_roll_back_lowers_in_every_phase(phase: str) -> None:
    request = asked(RequestType.ROLL_BACK, reason="users complain")
    seen = replace(PHASES[phase], requests=(asked(RequestType.PAUSE), request))
    decision = decide(seen)
    assert decision.verb is Verb.DISABLE_FLAGS
    assert decision.order == Order(ALICE, RollBackTo.OFF, "users complain", T0, "DisableFlags")
    assert 'by alice: "users complain"' in decision.message
    assert not violations(seen, decision)


def test_a_roll_back_goes_before_a_breach() -> None:
    seen = view(0, looks=[BAD], requests=(asked(RequestType.ROLL_BACK),))
    assert decide(seen).order is not None


def test_a_roll_back_goes_as_far_as_a_breach_of_the_same_moment() -> None:
    """The person wants the stage before, the matrix disables: the flag is off, and both are told."""
    request = asked(RequestType.ROLL_BACK, to=RollBackTo.PREVIOUS_STAGE)
    alone = decide(view(1, requests=(request,)))
    assert alone.targets == {"bell": exposure(10)}
    seen = view(1, looks=[BAD], requests=(request,))
    decision = decide(seen)
    assert decision.targets == {"bell": exposure(10, enabled=False)}
    assert (decision.verb, decision.phase, decision.reason) == (
        Verb.REDUCE_PERCENTAGE,
        Phase.ROLLED_BACK,
        "PercentageReduced",
    )
    assert decision.answered is not None
    assert decision.answered.at == seen.now


def test_a_roll_back_says_which_rows_are_low_enough_already() -> None:
    decision = decide(view(1, requests=(asked(RequestType.ROLL_BACK),), rows={"bell": exposure(3, enabled=False)}))
    assert decision.message.endswith(" Left as somebody else has made them, which is low enough: bell.")
    assert decision.targets == {}


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        (RequestType.PAUSE, Phase.PAUSED),
        (RequestType.PROMOTE, Phase.BAKING),
        (RequestType.RESUME, Phase.BAKING),
        (RequestType.RETRY, Phase.BAKING),
    ],
)
def test_the_phase_is_that_without_the_request_unless_the_request_changes_it(kind: RequestType, phase: Phase) -> None:
    decision = decide(view(0, requests=(asked(kind),)))
    assert decision.answered is not None
    assert decision.phase is phase
    assert decision.message == decision.answered.answer.message
    assert decision.ledger is not None, "a refusal is recorded too"


@pytest.mark.parametrize(
    ("to", "verb", "target"),
    [
        (RollBackTo.OFF, Verb.DISABLE_FLAGS, OFF),
        (RollBackTo.PREVIOUS_STAGE, Verb.REDUCE_PERCENTAGE, exposure(10)),
        (RollBackTo.BASELINE, Verb.REDUCE_PERCENTAGE, exposure(0, enabled=False)),
    ],
)
def test_where_a_roll_back_goes(to: RollBackTo, verb: Verb, target: Any) -> None:
    decision = decide(view(1, requests=(asked(RequestType.ROLL_BACK, to=to),)))
    assert decision.verb is verb
    assert list(decision.targets) == ["bell"]
    assert exposure(50).meet(decision.targets["bell"]).is_within(target)
    assert target.is_within(exposure(50).meet(decision.targets["bell"]))


def test_a_roll_back_also_lowers_what_somebody_has_raised_by_hand() -> None:
    reverted = view(0, ledger=latched(), rows={"bell": exposure(100)}, on_drift=OnDrift.RESPECT)
    assert "bell" in decide(replace(reverted, requests=(asked(RequestType.ROLL_BACK),))).targets


def test_a_roll_back_stays_and_says_who() -> None:
    order = Order(ALICE, RollBackTo.OFF, "users complain", T0, "DisableFlags")
    decision = decide(view(0, ledger=latched(order)))
    assert (decision.phase, decision.reason, decision.stalled) == (Phase.ROLLED_BACK, "RolledBack", True)
    assert 'by alice: "users complain"' in decision.message
    assert decide(view(2, ledger={"completed_at": T0, **latched(order)})).reason == "RolledBack", "also completed"


def test_which_latch_is_told_of() -> None:
    breach = latched()["latch"]
    order = latched(Order(ALICE, RollBackTo.OFF, "", T0, "DisableFlags"))["latch"]
    assert breach.followed_by(order) is order
    assert order.followed_by(breach) is breach
    low = replace(breach, cause=replace(breach.cause, severity=Severity.LOW))
    assert breach.followed_by(low) is breach
    assert low.followed_by(breach) is breach
    assert breach.followed_by(replace(breach, stage="later")) is breach
    assert Latch.from_json(json.loads(json.dumps(order.to_json()))) == order


# Retry.


def test_retry_begins_another_attempt_with_preflight_again() -> None:
    people = {
        "paused": Pause(BOB, T0),
        "approvals": {"half": (consent(ALICE),)},
        "confirmations": {ON_CALL.key: consent(BOB)},
    }
    decision = applied(view(0, people=people, ledger=latched()), RequestType.RETRY)
    assert decision.verb is Verb.REARM
    begun = decision.ledger
    assert begun is not None
    assert (begun.latch, begun.attempt, begun.stage, begun.acted) == (None, 2, -1, frozenset())
    assert begun.people == People(paused=Pause(BOB, T0)), "only a pause passes on"
    again = replace(view(-1), ledger=replace(begun, people=People()), rows=begun.written)
    assert decide(again).phase is Phase.PREFLIGHT


def test_without_retry_the_same_plan_rearms_nothing() -> None:
    seen = view(0, ledger=latched())
    decision = applied(seen, RequestType.RETRY)
    assert violations(seen, replace(decision, answered=None)) == ("S2",)
    pause = applied(seen, RequestType.PAUSE)
    assert pause.ledger is not None
    assert violations(seen, replace(pause, ledger=replace(pause.ledger, latch=None))) == ("S2",)


# Order and time.


def test_the_order_in_which_requests_are_considered() -> None:
    made = [
        replace(asked(kind), created_at=T0 + minutes(i), uid=str(i))
        for i, kind in enumerate(
            [
                RequestType.PROMOTE,
                RequestType.RETRY,
                RequestType.APPROVE,
                RequestType.PAUSE,
                RequestType.ROLL_BACK,
                RequestType.PAUSE,
            ]
        )
    ]
    assert [r.uid for r in in_order(tuple(made))] == ["4", "3", "5", "1", "2", "0"]


def test_one_that_has_to_wait_lets_others_by() -> None:
    later = asked(RequestType.APPROVE, stage="all")
    decision = decide(view(0, requests=(later, asked(RequestType.PROMOTE))))
    assert decision.verb is Verb.PROMOTE


@pytest.mark.parametrize(("hours", "outcome"), [(23.9, WAITS), (24, Outcome.EXPIRED)])
def test_what_waits_for_a_day_has_expired(hours: float, outcome: Outcome) -> None:
    request = asked(RequestType.APPROVE, stage="all")
    seen = view(0, now=T0 + timedelta(hours=hours), requests=(request,))
    assert rule(seen, request).answer.outcome is outcome
    assert (decide(seen).verb is Verb.REFUSE) == (outcome is Outcome.EXPIRED)


def test_a_word_for_an_adoption() -> None:
    word = asked(RequestType.ADOPT)
    found = adoption((asked(RequestType.PAUSE), word), PLAN.plan_hash, T0)
    assert found is not None
    assert (found.request, found.answer.outcome, found.answer.reason, found.at) == (word, APPLIED, "Adopted", T0)
    assert adoption((word,), PLAN.plan_hash, T0 + timedelta(days=1)) is None
    assert adoption((replace(word, plan_hash="v1:other"),), PLAN.plan_hash, T0) is None
    assert adoption((), PLAN.plan_hash, T0) is None


def test_consent_is_for_one_object_and_one_plan() -> None:
    given = consent(ALICE)
    people = People(approvals={"half": (given,)}, confirmations={READY.key: given})
    for uid, plan_hash, counts in (
        (given.uid, given.plan_hash, True),
        ("another uid", given.plan_hash, False),
        (given.uid, "v1:another plan", False),
    ):
        assert people.approvers("half", uid, plan_hash) == ((given,) if counts else ())
        assert people.confirmed(READY.key, uid, plan_hash) == (given if counts else None)
    assert people.approvers("all", given.uid, given.plan_hash) == ()
    assert people.confirmed("another check", given.uid, given.plan_hash) is None


@pytest.mark.parametrize(("passed_", "again_s"), [(True, 30), (False, 10), (None, 10)])
def test_what_has_passed_is_asked_again_later_than_what_has_not(passed_: bool | None, again_s: int) -> None:
    assert CheckAnswer("db", passed_, "", T0).again_at() == T0 + timedelta(seconds=again_s)


def test_people_are_the_same_after_json() -> None:
    people = People(
        paused=Pause(ALICE, T0, "x"),
        approvals={"half": (consent(ALICE), consent(BOB))},
        confirmations={READY.key: consent(BOB)},
        promoted=Promotion(1, BOB, "y"),
        lifted=Lift(T0, ("a", "b")),
        preflight_done=True,
    )
    assert People.from_json(json.loads(json.dumps(people.to_json(), allow_nan=False))) == people
    assert People.from_json({}) == People() == People.from_json(People().to_json())
    assert people.adopted() == replace(people, approvals={}, confirmations={}, promoted=None)
