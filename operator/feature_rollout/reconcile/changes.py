"""What a decision becomes when it is written: the change for the store, and what is told of it."""

from __future__ import annotations

from feature_rollout.core import steps
from feature_rollout.core.decision import Decision, View
from feature_rollout.core.people import Order
from feature_rollout.core.reverts import restored
from feature_rollout.core.state import Breach, Ledger
from feature_rollout.ports import Lowering, Why
from feature_rollout.reconcile.session import Target


def why_of(target: Target, decision: Decision, stage: str) -> Why:
    """What the audit and the outbox tell of it."""
    cause = decision.breach or decision.order
    return Why(
        decision.reason,
        decision.message,
        target.generation,
        stage,
        actor=decision.answered.request.who if decision.answered else "operator",
        evidence=cause.to_json() if cause else decision.cited,
        verb=str(decision.verb),
    )


def cause_of(decision: Decision) -> Breach | Order:
    """What a revert is made for."""
    cause = decision.breach or decision.order
    assert cause is not None  # noqa: S101 - a revert has one
    return cause


def restoring(target: Target, lost: Ledger) -> tuple[Decision, Lowering]:
    """The revert again that the database has lost, under the latch that it had."""
    assert lost.latch is not None  # noqa: S101 - it is what was lost
    decision = restored(lost)
    severity = decision.breach.severity if decision.breach else None
    why = why_of(target, decision, lost.latch.stage)
    return decision, Lowering(target.key, decision.targets, why, latch=lost.latch, severity=severity)


def lowering(target: Target, view: View, decision: Decision) -> Lowering:
    """A revert as it is written, with the latch that it leaves."""
    latch = steps.latch_of(view, decision)
    return Lowering(
        key=target.key,
        targets=decision.targets,
        why=why_of(target, decision, latch.stage),
        latch=latch,
        severity=decision.breach.severity if decision.breach else None,
        answered=(decision.answered,) if decision.answered else (),
    )
