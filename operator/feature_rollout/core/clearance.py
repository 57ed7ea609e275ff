"""What people and checks must have said before a stage begins, and what of it is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from feature_rollout.core import reasons
from feature_rollout.core.checks import Check
from feature_rollout.core.decision import Decision, Phase, View
from feature_rollout.core.people import Consent
from feature_rollout.core.plan import Stage


@dataclass(frozen=True, slots=True)
class Unmet:
    """Why a check keeps a stage from beginning."""

    reason: str
    words: str


def approvers(view: View, stage: Stage) -> tuple[Consent, ...]:
    """Whose approval of the stage counts now: of this UID and plan hash, each of them once."""
    given = view.ledger.people.approvers(stage.name, view.ledger.uid, view.plan.plan_hash)
    return tuple({consent.by: consent for consent in given}.values())


def approvals_missing(view: View, stage: Stage) -> int:
    return max(stage.approval.required - len(approvers(view, stage)), 0) if stage.approval else 0


def preflight(view: View) -> tuple[Check, ...]:
    """The checks that must pass before the first stage of this attempt; none once one was entered."""
    if view.ledger.people.preflight_done or view.ledger.latch is not None or view.is_over:
        return ()
    return view.plan.preflight


def unmet(view: View, checks: tuple[Check, ...]) -> tuple[Unmet, ...]:
    """Those that do not let a stage begin now."""
    return tuple(found for check in checks if (found := _unmet(view, check)) is not None)


def to_ask(view: View, decision: Decision) -> tuple[str, ...]:
    """The checks that the database or a Job has to answer now, by their full names.

    Preflight is kept up to date until it is over; a stage's checks are asked when nothing
    else is missing. While the rollout is paused nothing is asked, so that no Job is begun.
    """
    if view.trouble is not None or decision.phase is Phase.PAUSED:
        return ()
    checks = preflight(view)
    if view.next_stage is not None and decision.reason in _OF_CHECKS and not unmet(view, checks):
        checks = (*checks, *view.next_stage.checks)
    return tuple(check.key for check in checks if check.confirm is None and _is_due(view, check))


def command(view: View, verb: str, *arguments: str) -> str:
    """What a person types."""
    namespace, name = view.ledger.key.split("/")[-2:]
    return " ".join(["featurerollout", verb, name, *arguments, "-n", namespace, "--reason", "..."])


def cited(view: View, stage: Stage) -> dict[str, Any]:
    """Whose word it rests on that the stage begins; empty when it needs nobody's."""
    promotion = view.promotion
    confirmed = {
        check.key: consent.by
        for check in (*preflight(view), *stage.checks)
        if (consent := view.ledger.people.confirmed(check.key, view.ledger.uid, view.plan.plan_hash)) is not None
    }
    found: dict[str, Any] = {
        "promotedBy": promotion.by if promotion else None,
        "approvedBy": [consent.by for consent in approvers(view, stage)] if stage.approval else None,
        "confirmedBy": confirmed,
        "after": [str(one) for one in stage.after],
    }
    return {name: value for name, value in found.items() if value}


_OF_CHECKS = frozenset({reasons.CHECK_FAILED, reasons.CHECK_UNANSWERED, reasons.AWAITING_CONFIRMATION})


def _unmet(view: View, check: Check) -> Unmet | None:
    if check.confirm is not None:
        if view.ledger.people.confirmed(check.key, view.ledger.uid, view.plan.plan_hash) is not None:
            return None
        words = f"{check.key}: {check.confirm.rstrip('.')} ({command(view, 'confirm', check.name)})"
        return Unmet(reasons.AWAITING_CONFIRMATION, words)
    answer = view.checks.get(check.key)
    if answer is None or not answer.counts(view.now):
        return Unmet(reasons.CHECK_UNANSWERED, f"{check.key}: it is being asked")
    if answer.passed:
        return None
    said, message = reasons.CHECK_UNANSWERED, answer.message.rstrip(".")
    if answer.passed is not None:
        said, message = reasons.CHECK_FAILED, f" has not passed: {message}"
    elif answer.running:
        message = f": {message}"
    else:
        message = f" could not be asked: {message}"
    return Unmet(said, check.key + message)


def _is_due(view: View, check: Check) -> bool:
    answer = view.checks.get(check.key)
    return answer is None or not answer.counts(view.now) or answer.again_at() <= view.now
