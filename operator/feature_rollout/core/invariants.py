"""What must hold of every decision before it is carried out, said a second time and independently.

A violation is a bug of ours: the decision is dropped, counted and reported. The ids are
those of the invariants page of the documentation.
"""

from __future__ import annotations

from feature_rollout.core.checks import VALID_FOR
from feature_rollout.core.decision import Decision, Verb, View
from feature_rollout.core.exposure import OFF, raises
from feature_rollout.core.gates import unmet
from feature_rollout.core.guards import GuardState
from feature_rollout.core.people import Outcome, RequestType
from feature_rollout.core.plan import OnDrift, Stage
from feature_rollout.core.state import Ledger

S1_CEILING = "S1"
S2_LATCH = "S2"
S4_PEOPLE_WIN = "S4"
S8_FRAME = "S8"
S9_EVIDENCE = "S9"
S10_DWELL = "S10"
S11_STEP = "S11"
S13_IDENTITY = "S13"
S20_DORMANT = "S20"


def violations(view: View, decision: Decision) -> tuple[str, ...]:
    """The ids of the invariants that the decision would break, in order; nothing for a good one."""
    if decision.verb is Verb.ADVANCE and decision.ledger is not None:
        return _of_advance(view, decision, decision.ledger)
    found = []
    latch, retried = view.ledger.latch, _is_retried(decision)
    if decision.verb is Verb.REARM and latch and latch.spec_hash == view.plan.spec_hash and not retried:
        found.append(S2_LATCH)
    if any(flag not in view.ledger.written for flag in decision.targets):
        found.append(S8_FRAME)
    if latch and decision.verb is not Verb.REARM and decision.ledger is not None and decision.ledger.latch is None:
        found.append(S2_LATCH)
    if decision.after or (decision.ledger is not None and decision.ledger.stage > view.ledger.stage):
        found.append(S11_STEP)
    return tuple(found)


def _of_advance(view: View, decision: Decision, ledger: Ledger) -> tuple[str, ...]:
    stage, coming = view.stage, view.next_stage
    found = []
    if any(_is_past_ceiling(view, ledger, flag, decision) for flag in decision.after):
        found.append(S1_CEILING)
    if view.ledger.latch is not None or ledger.latch is not None:
        found.append(S2_LATCH)
    if _is_over_people(view, decision):
        found.append(S4_PEOPLE_WIN)
    if coming is None or set(decision.after) != set(coming.flags) or set(decision.before) != set(coming.flags):
        found.append(S8_FRAME)
    doubtful = {GuardState.BLIND, GuardState.UNSEEN, GuardState.HOLDING, GuardState.INCIDENT, GuardState.BREACHED}
    promoted = _is_promoted(view, decision)
    gates = stage.gates if stage and not promoted else ()
    unproved = (*_unproved(view, coming), *(gate for gate in gates if unmet(gate, view.plan, view.progress)))
    if any(g.state in doubtful for g in view.guards) or unproved:
        found.append(S9_EVIDENCE)
    if stage is not None and view.progress.baked < stage.bake and not promoted:
        found.append(S10_DWELL)
    if ledger.stage != view.ledger.stage + 1:
        found.append(S11_STEP)
    if coming is not None and not _is_approved(view, coming, decision):
        found.append(S13_IDENTITY)
    if view.suspended or view.ledger.people.paused or view.trouble is not None or not view.leading:
        found.append(S20_DORMANT)
    return tuple(found)


def _is_retried(decision: Decision) -> bool:
    """Whether a person's Retry is carried out with it."""
    answered = decision.answered
    return (
        answered is not None
        and answered.request.type is RequestType.RETRY
        and answered.answer.outcome is Outcome.APPLIED
    )


def _is_promoted(view: View, decision: Decision) -> bool:
    """Whether a person has ended the bake and gates of just this stage, and the raise says who."""
    promoted = view.ledger.people.promoted
    return (
        promoted is not None and promoted.stage == view.ledger.stage and decision.cited.get("promotedBy") == promoted.by
    )


def _unproved(view: View, coming: Stage | None) -> tuple[str, ...]:
    """Checks that nobody has answered for: no fresh pass, and no word of this UID and plan hash."""
    people = view.ledger.people
    checks = (*(() if people.preflight_done else view.plan.preflight), *(coming.checks if coming else ()))
    confirmed = {
        key
        for key, given in people.confirmations.items()
        if (given.uid, given.plan_hash) == (view.ledger.uid, view.plan.plan_hash)
    }
    passed = {a.name for a in view.checks.values() if a.passed and view.now - a.at < VALID_FOR}
    return tuple(c.key for c in checks if c.key not in (passed if c.confirm is None else confirmed))


def _is_approved(view: View, coming: Stage, decision: Decision) -> bool:
    """Whether enough different people have approved of this plan, for this object, and the raise says who."""
    if coming.approval is None:
        return True
    given = view.ledger.people.approvals.get(coming.name, ())
    by = {c.by for c in given if (c.uid, c.plan_hash) == (view.ledger.uid, view.plan.plan_hash)}
    return len(by) >= coming.approval.required and set(decision.cited.get("approvedBy", ())) == by


def _is_over_people(view: View, decision: Decision) -> bool:
    """Whether rows that somebody else changed are raised over, without a word in advance: that is `Report`.

    Also with it, only rows as they were seen are.
    """
    if view.on_drift is OnDrift.REPORT:
        return any(view.rows.get(flag) != row for flag, row in decision.before.items())
    return any(view.rows.get(flag) != row for flag, row in view.ledger.written.items())


def _is_past_ceiling(view: View, ledger: Ledger, flag: str, decision: Decision) -> bool:
    """Whether a flag would be within neither its baseline nor its exposure in a stage entered so far."""
    rows = dict(ledger.baseline)
    allowed = [rows.get(flag, OFF)]
    for stage in view.plan.stages[: ledger.stage + 1]:
        rows = stage.applied_to(rows)
        allowed.append(rows.get(flag, OFF))
    return all(raises(ceiling, decision.after[flag]) for ceiling in allowed)
