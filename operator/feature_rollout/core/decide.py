"""The decision: an ordered chain of small checks, the first of which to speak decides.

Lowering comes before everything that may hold, so that nothing can stand in its way;
raising comes last, when nothing has objected.
"""

from __future__ import annotations

from dataclasses import replace

from feature_rollout.core import reasons, steps
from feature_rollout.core import requests as people_requests
from feature_rollout.core.clearance import cited
from feature_rollout.core.decision import Check, Decision, Phase, Verb, View
from feature_rollout.core.dependencies import circular, not_passed
from feature_rollout.core.guards import ordered_targets
from feature_rollout.core.people import Answer, Answered, Order, Outcome, Request, RequestType, RollBackTo
from feature_rollout.core.plan import (
    Action,
    ActionType,
    Stage,
    Target,
    format_duration,
)
from feature_rollout.core.readiness import (
    baking,
    blind,
    evidence_against,
    gated,
    guards_quiet,
    hold_at,
    next_not_in_effect,
    next_row_missing,
    no_traffic,
    not_approved,
    not_checked,
    not_leading,
    outside_window,
    preflight_unmet,
    reference,
    sampled,
    unseen,
    without_data,
)
from feature_rollout.core.reverts import REVERT_REASONS, breached, left_as_found, met, not_measured, respecting
from feature_rollout.core.standstill import STANDSTILL
from feature_rollout.core.state import Ledger


def decide(view: View) -> Decision:
    """What to do next. Pure: the same view gives the same decision."""
    for check in CHECKS:
        decision = check(view)
        if decision is not None:
            return _overdue(view, decision) or decision
    return _advance(view)


def ordered(view: View) -> Decision | None:
    """A person's RollBack goes before everything, in every state, and can only lower."""
    for request in people_requests.in_order(view.requests):
        answer = people_requests.rule(view, request).answer
        if request.type is RequestType.ROLL_BACK and answer.outcome is Outcome.APPLIED:
            return _obeyed(view, request, answer)
    return None


def _obeyed(view: View, request: Request, answer: Answer) -> Decision:
    """What was ordered; and as far as a breach of the same moment goes, which must not wait for it."""
    action = _ORDERS[request.to]
    order = Order(request.who, request.to, request.reason, request.created_at, str(action.type))
    wanted = ordered_targets(action, view.plan, view.ledger, view.rows)
    lowered, respected = respecting(view, wanted)
    harm = breached(view) or not_measured(view)
    if harm is not None:
        lowered = met(lowered, harm.targets)
    message = answer.message + left_as_found(respected)
    return Decision(
        Verb(action.type),
        Phase.ROLLED_BACK,
        REVERT_REASONS[action.type],
        message,
        targets=lowered,
        order=order,
        answered=Answered(request, answer, view.now),
    )


_ORDERS = {
    RollBackTo.OFF: Action(ActionType.DISABLE_FLAGS),
    RollBackTo.PREVIOUS_STAGE: Action(ActionType.REDUCE_PERCENTAGE, to=Target.PREVIOUS_STAGE),
    RollBackTo.BASELINE: Action(ActionType.REDUCE_PERCENTAGE, to=Target.BASELINE),
}


def asked(view: View) -> Decision | None:
    """The first request that can be answered now."""
    for request in people_requests.in_order(view.requests):
        ruling = people_requests.rule(view, request)
        if ruling.answer.outcome is not Outcome.PENDING:
            return _answering(view, Answered(request, ruling.answer, view.now), ruling.ledger)
    return None


_PHASES = {RequestType.PAUSE: Phase.PAUSED, RequestType.RETRY: Phase.PENDING}


def _answering(view: View, answered: Answered, ledger: Ledger | None = None) -> Decision:
    """The ledger as it becomes; as it is when the request was refused, so that this too is recorded once.

    The phase is that of the rollout without the request, unless the request is what changes it.
    """
    request, answer = answered.request, answered.answer
    verb, phase = Verb.REFUSE, decide(replace(view, requests=())).phase
    if answer.outcome is Outcome.APPLIED:
        verb = Verb.REARM if request.type is RequestType.RETRY else Verb(request.type)
        phase = _PHASES.get(request.type, phase)
    return Decision(verb, phase, answer.reason, answer.message, ledger=ledger or view.ledger, answered=answered)


def ended(view: View) -> Decision | None:
    if view.next_stage is not None:
        return None
    waiting = without_data(view)
    if waiting is not None:
        return waiting
    message = "Every stage is in, baked and gated."
    return Decision(Verb.COMPLETE, Phase.COMPLETED, reasons.COMPLETED, message, ledger=steps.completed(view))


def _overdue(view: View, decision: Decision) -> Decision | None:
    """The same wait, but loud: the stage should have baked and passed its gates by now."""
    stage, since = view.stage, view.ledger.entered_at
    if stage is None or stage.deadline is None or since is None or decision.phase not in _IN_A_STAGE:
        return None
    if decision.reason in _NOT_THE_STAGES:
        return None
    if view.now < since + stage.deadline:
        return None
    message = f"Stage {stage.name} has taken longer than its deadline of {format_duration(stage.deadline)}. "
    return replace(decision, reason=reasons.STAGE_OVERDUE, message=message + decision.message, stalled=True)


# Phases in which the stage itself is what takes so long, and not people or the calendar.
_IN_A_STAGE = frozenset({Phase.BAKING, Phase.GATING, Phase.HELD})
# Reasons of those phases that keep the next stage from beginning, when this one is over.
_NOT_THE_STAGES = frozenset({reasons.HOLD_AT, reasons.AWAITING_ROLLOUT})


def _advance(view: View) -> Decision:
    """Enter the next stage; `ended` has made sure that there is one, `next_row_missing` that its rows are there."""
    stage = view.next_stage
    assert stage is not None  # noqa: S101 - the chain's order is the proof, and the type checker wants it said
    ledger = steps.next_stage_entered(view)
    message = f"Stage {stage.name} ({ledger.stage + 1} of {len(view.plan.stages)}) began{_summary(stage)}."
    return Decision(
        Verb.ADVANCE,
        Phase.BAKING,
        reasons.STAGE_ENTERED,
        message,
        ledger=ledger,
        before={flag: view.rows[flag] for flag in stage.flags},
        after={flag: ledger.written[flag] for flag in stage.flags},
        cited=cited(view, stage),
    )


def _summary(stage: Stage) -> str:
    count = len(stage.flags)
    return f": {count} flag{'s' if count > 1 else ''} written" if count else ", which writes no flags"


CHECKS: tuple[Check, ...] = (
    ordered,
    breached,
    not_measured,
    not_leading,
    asked,
    *STANDSTILL,
    circular,
    preflight_unmet,
    evidence_against,
    sampled,
    blind,
    reference,
    unseen,
    no_traffic,
    baking,
    gated,
    guards_quiet,
    hold_at,
    ended,
    not_approved,
    not_passed,
    outside_window,
    next_not_in_effect,
    not_checked,
    next_row_missing,
    without_data,
)
