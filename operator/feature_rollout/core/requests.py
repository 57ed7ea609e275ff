"""What becomes of a request: one rule a type, each of which says whether it is applied, refused or has to wait.

| order | what |
|---|---|
| 1 | RollBack, in every state |
| 2 | Pause |
| 3 | Approve, Confirm, Resume, Retry, Adopt, as they were made |
| 4 | Promote |

Whatever keeps the manifest from being followed keeps a request waiting, except RollBack
and Pause; after 24 hours of waiting it has expired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from feature_rollout.core import reasons, steps
from feature_rollout.core.checks import ACKNOWLEDGED, Check
from feature_rollout.core.clearance import approvers, preflight
from feature_rollout.core.decision import View
from feature_rollout.core.guards import Guard, GuardState
from feature_rollout.core.people import (
    EXPIRES_AFTER,
    Answer,
    Answered,
    Consent,
    Lift,
    Outcome,
    Pause,
    Promotion,
    Request,
    RequestType,
)
from feature_rollout.core.plan import ActionType, OnDrift
from feature_rollout.core.state import Ledger


@dataclass(frozen=True, slots=True)
class Ruling:
    """An answer, and the ledger as it becomes with it: None when nothing changes in it."""

    answer: Answer
    ledger: Ledger | None = None


Rule = Callable[[View, Request], Ruling]


def in_order(requests: tuple[Request, ...]) -> tuple[Request, ...]:
    """As they are to be considered."""
    return tuple(sorted(requests, key=lambda r: (_RANKS.get(r.type, 2), r.created_at, r.uid)))


def rule(view: View, request: Request) -> Ruling:
    """What becomes of a request now."""
    ruling = _barred(view, request) or RULES[request.type](view, request)
    if ruling.answer.outcome is Outcome.PENDING and view.now - request.created_at >= EXPIRES_AFTER:
        message = f"It could not be applied within 24 hours. {ruling.answer.message}"
        return Ruling(Answer(Outcome.EXPIRED, reasons.EXPIRED, message))
    return ruling


def _applied(reason: str, message: str, ledger: Ledger | None = None) -> Ruling:
    return Ruling(Answer(Outcome.APPLIED, reason, message), ledger)


def _refused(reason: str, message: str) -> Ruling:
    return Ruling(Answer(Outcome.REFUSED, reason, message))


def _waits(reason: str, message: str) -> Ruling:
    return Ruling(Answer(Outcome.PENDING, reason, message))


def _barred(view: View, request: Request) -> Ruling | None:
    """What is asked of every request before its own rule."""
    if request.type not in _ALWAYS and view.trouble is not None:
        return _waits(view.trouble.reason, f"It waits until this is mended: {view.trouble.message}")
    here = view.stage.name if view.stage else None
    # Where no plan can be followed, nobody knows the names of its stages.
    known = bool(view.plan.stages)
    if known and request.stage is not None and request.type is not RequestType.APPROVE and request.stage != here:
        where = f"in stage {here}" if here else "in no stage yet"
        return _refused(reasons.STAGE_NOT_NEXT, f"The action is for stage {request.stage}; the rollout is {where}.")
    if request.type not in _ALWAYS and request.plan_hash not in (None, view.plan.plan_hash):
        message = (
            f"The plan was read as {request.plan_hash}, and is {view.plan.plan_hash} now: read it again, "
            "and repeat the action with status.planHash if you still agree."
        )
        return _refused(reasons.PLAN_HASH_MISMATCH, message)
    return None


def _roll_back(_view: View, request: Request) -> Ruling:
    return _applied(reasons.ROLLED_BACK, f"Rolled back ({request.to}) by {request.who}{request.because}.")


def _pause(view: View, request: Request) -> Ruling:
    people = view.ledger.people
    if people.paused is not None:
        return _refused(reasons.ALREADY_PAUSED, f"It was paused by {people.paused.by} already; Resume ends that.")
    if view.is_over:
        return _refused(reasons.COMPLETED, "The rollout is completed: there is nothing left to pause.")
    paused = replace(people, paused=Pause(request.who, view.now, request.reason))
    message = f"Paused by {request.who}{request.because}; guards go on."
    return _applied(reasons.PAUSED, message, replace(view.ledger, people=paused))


def _resume(view: View, request: Request) -> Ruling:
    """Ends a pause, lifts the hold of Hold rows, and takes over what somebody has changed by hand."""
    exposed = _too_exposed(view)
    if exposed:
        message = (
            f"Changed by hand to more than the plan has by now: {'; '.join(exposed)}. Put that back, or roll back; "
            "what is as planned or less can be resumed from."
        )
        return _refused(reasons.DRIFT_TOO_EXPOSED, message)
    done = []
    people, ledger = view.ledger.people, view.ledger
    if people.paused is not None:
        done.append(f"the pause by {people.paused.by} is over")
    held = [guard for guard in view.guards if _is_held_by(guard)]
    lift = people.lifted
    if held and not view.is_over:
        lift = Lift(view.now, tuple(sorted({guard.clause.key for guard in held})))
        done.append(f"the hold is lifted: {', '.join(dict.fromkeys(str(guard.clause) for guard in held))}")
    taken = _changed_by_hand(view)
    if taken:
        done.append(f"taken over as they are now: {', '.join(taken)}")
    if not done:
        suspended = "spec.suspend is true: set it to false. " if view.suspended else ""
        return _refused(
            reasons.NOT_PAUSED,
            f"{suspended}The rollout is neither paused, nor held by a Hold row, nor is a row changed by hand.",
        )
    rows = {flag: view.rows[flag] for flag in taken}
    ledger = replace(
        ledger,
        people=replace(people, paused=None, lifted=lift),
        written={**ledger.written, **{f: row for f, row in rows.items() if f in ledger.written}},
        baseline={**ledger.baseline, **{f: row for f, row in rows.items() if f not in ledger.written}},
    )
    return _applied(reasons.RESUMED, f"Resumed by {request.who}{request.because}: {'; '.join(done)}.", ledger)


def _is_held_by(guard: Guard) -> bool:
    held = guard.state in (GuardState.BREACHED, GuardState.HOLDING)
    return held and guard.row.action.type is ActionType.HOLD


def _changed_by_hand(view: View) -> tuple[str, ...]:
    """The rows that keep the rollout from going on; with `onDrift: Report` none does."""
    return () if view.on_drift is OnDrift.REPORT else view.drifted


def _too_exposed(view: View) -> list[str]:
    """Rows that are neither within what they were left or found as, nor within the plan's stage now."""
    planned = view.plan.exposure_after(view.ledger.stage, view.ledger.baseline)
    found = []
    for flag in _changed_by_hand(view):
        row, expected = view.rows[flag], view.expected[flag]
        allowed = expected if view.ledger.latch is not None else planned.get(flag, expected)
        if not row.is_within(expected) and not row.is_within(allowed):
            found.append(f"{flag} is {row}, at most {expected}")
    return found


def _promote(view: View, request: Request) -> Ruling:
    ledger, stage = view.ledger, view.stage
    if ledger.latch is not None:
        return _refused(reasons.ROLLED_BACK, "The rollout was rolled back: Retry begins a new attempt.")
    if view.is_over:
        return _refused(reasons.COMPLETED, "The rollout is completed: there is no bake to end.")
    if stage is None:
        return _refused(reasons.NOTHING_TO_PROMOTE, "No stage was entered yet: there is no bake to end.")
    if view.promotion is not None:
        return _refused(reasons.NOTHING_TO_PROMOTE, f"Stage {stage.name} was promoted by {view.promotion.by} already.")
    against = [str(g.clause) for g in view.guards if g.state in (GuardState.BREACHED, GuardState.HOLDING)]
    if against:
        message = f"There is evidence against {', '.join(dict.fromkeys(against))}; a Promote does not overrule it."
        return _refused(reasons.EVIDENCE_AGAINST, message)
    promotion = Promotion(ledger.stage, request.who, request.reason)
    message = f"The bake and the gates of stage {stage.name} were ended by {request.who}{request.because}."
    return _applied(reasons.PROMOTED, message, replace(ledger, people=replace(ledger.people, promoted=promotion)))


def _retry(view: View, request: Request) -> Ruling:
    if view.ledger.latch is None:
        return _refused(reasons.NOTHING_TO_RETRY, "Nothing was rolled back in this attempt: there is nothing to retry.")
    ledger = steps.rearmed(view)
    message = f"Attempt {ledger.attempt} was begun by {request.who}{request.because}."
    return _applied(reasons.REARMED, message, ledger)


def _approve(view: View, request: Request) -> Ruling:
    names = [stage.name for stage in view.plan.stages]
    if request.stage not in names:
        message = f"The plan has no stage {request.stage}: name one of {', '.join(names)}."
        return _refused(reasons.STAGE_UNKNOWN, message)
    index = names.index(request.stage)
    return _unapprovable(view, request, index) or _approved(view, request, index)


def _unapprovable(view: View, request: Request, index: int) -> Ruling | None:
    """Why nobody, or not this person, can approve of the stage of that index."""
    if index <= view.ledger.stage and view.ledger.latch is None:
        coming = view.next_stage
        hint = f"the next one is {coming.name}" if coming else "there is no next one"
        return _refused(reasons.STAGE_NOT_NEXT, f"Stage {request.stage} was entered already; {hint}.")
    approval = view.plan.stages[index].approval
    if approval is None:
        return _refused(reasons.APPROVAL_NOT_NEEDED, f"Stage {request.stage} needs no approval.")
    if view.ledger.latch is not None:
        return _refused(reasons.ROLLED_BACK, "The rollout was rolled back: Retry first, then approve.")
    return _no_person(request, service_accounts=approval.service_accounts)


def _approved(view: View, request: Request, index: int) -> Ruling:
    stage = view.plan.stages[index]
    if index != view.ledger.stage + 1:
        here = view.next_stage.name if view.next_stage else "the end"
        return _waits(reasons.NOT_YET, f"Stage {stage.name} is not next, {here} is; it counts when it is.")
    given = approvers(view, stage)
    if any(consent.by == request.requested_by for consent in given):
        return _refused(reasons.ALREADY_APPROVED, f"{request.requested_by} has approved of it already.")
    people = view.ledger.people
    valid = (*given, _consent(view, request))
    ledger = replace(view.ledger, people=replace(people, approvals={**people.approvals, stage.name: valid}))
    required = stage.approval.required if stage.approval else 0
    message = f"Stage {stage.name} was approved by {request.who}{request.because}: {len(valid)} of {required}."
    return _applied(reasons.APPROVED, message, ledger)


def _no_person(request: Request, *, service_accounts: bool) -> Ruling | None:
    if not request.requested_by:
        message = (
            f"{request.type} needs to know who asks, and spec.requestedBy is empty: have the API server write it, "
            "by the admission policies that `featurerollout crds` prints."
        )
        return _refused(reasons.REQUESTER_UNKNOWN, message)
    if request.is_service_account and not service_accounts:
        message = f"{request.requested_by} is a service account, and a person is wanted."
        return _refused(reasons.SERVICE_ACCOUNT_NOT_ALLOWED, message)
    return None


def _consent(view: View, request: Request) -> Consent:
    return Consent(request.who, view.now, view.ledger.uid, view.plan.plan_hash, request.reason)


def _confirm(view: View, request: Request) -> Ruling:
    stranger = _no_person(request, service_accounts=False)
    if stranger is not None:
        return stranger
    coming = view.next_stage.checks if view.next_stage and view.ledger.latch is None else ()
    check = _named(request, (*preflight(view), *coming))
    if check is None and request.check in ACKNOWLEDGED:
        check = Check(request.check, confirm="")
    if check is None:
        return _not_asked(view, request)
    if check.confirm is None:
        message = f"{check.key} is not asked of people; only checks with `confirm` are for people."
        return _refused(reasons.CHECK_NOT_CONFIRMABLE, message)
    people = view.ledger.people
    known = people.confirmed(check.key, view.ledger.uid, view.plan.plan_hash)
    if known is not None:
        return _refused(reasons.ALREADY_CONFIRMED, f"{check.key} was confirmed by {known.by} already.")
    confirmations = {**people.confirmations, check.key: _consent(view, request)}
    ledger = replace(view.ledger, people=replace(people, confirmations=confirmations))
    return _applied(reasons.CONFIRMED, f"{check.key} was confirmed by {request.who}{request.because}.", ledger)


def _named(request: Request, checks: tuple[Check, ...]) -> Check | None:
    """The check of that name that is asked now; of two, the one that a person can answer and has to answer first."""
    named = [check for check in checks if check.name == request.check]
    return next((check for check in named if check.confirm is not None), named[0] if named else None)


def _not_asked(view: View, request: Request) -> Ruling:
    """A check that is not asked now: it may come later, or never."""
    behind = view.plan.stages[view.ledger.stage + 2 :]
    later = next((stage for stage in behind if _named(request, stage.checks)), None)
    if later is not None:
        return _waits(reasons.NOT_YET, f"Stage {later.name} has the check {request.check}, and is not next yet.")
    if view.ledger.latch is not None and _named(request, view.plan.preflight):
        return _refused(reasons.ROLLED_BACK, "The rollout was rolled back: Retry first, then confirm.")
    named = [check.name for check in preflight(view) if check.confirm is not None]
    if view.next_stage is not None:
        named += [check.name for check in view.next_stage.checks if check.confirm is not None]
    hint = f"name one of {', '.join(named)}" if named else "nothing waits for a confirmation"
    return _refused(reasons.CHECK_UNKNOWN, f"No check {request.check} is asked now: {hint}.")


def _adopt(_view: View, _request: Request) -> Ruling:
    """A ledger row that is to be adopted is not open yet, so there would be no view of it: the store does that."""
    return _refused(reasons.NOTHING_TO_ADOPT, "The rollout has its place in the ledger: there is nothing to adopt.")


RULES: Mapping[RequestType, Rule] = {
    RequestType.ROLL_BACK: _roll_back,
    RequestType.PAUSE: _pause,
    RequestType.APPROVE: _approve,
    RequestType.CONFIRM: _confirm,
    RequestType.RESUME: _resume,
    RequestType.RETRY: _retry,
    RequestType.ADOPT: _adopt,
    RequestType.PROMOTE: _promote,
}
_RANKS = {RequestType.ROLL_BACK: 0, RequestType.PAUSE: 1, RequestType.PROMOTE: 3}
# They only make a rollout more careful: neither trouble nor an old plan hash is in their way.
_ALWAYS = frozenset({RequestType.ROLL_BACK, RequestType.PAUSE})


def waiting(view: View) -> tuple[tuple[Request, Answer], ...]:
    """The requests that have to wait, and what for."""
    rulings = [(request, rule(view, request).answer) for request in in_order(view.requests)]
    return tuple((request, answer) for request, answer in rulings if answer.outcome is Outcome.PENDING)


def adoption(requests: tuple[Request, ...], plan_hash: str, now: datetime) -> Answered | None:
    """The word by which a rollout may take over an earlier one's place in the ledger, if somebody has given it."""
    for request in in_order(requests):
        is_meant = request.type is RequestType.ADOPT and request.plan_hash in (None, plan_hash)
        if is_meant and now - request.created_at < EXPIRES_AFTER:
            message = f"The place of an earlier rollout was taken over by {request.who}{request.because}."
            return Answered(request, Answer(Outcome.APPLIED, reasons.ADOPTED, message), now)
    return None
