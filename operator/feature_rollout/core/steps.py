"""What the ledger becomes: when a stage is entered, when all are in, and when a revert is left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from feature_rollout.core.decision import Decision, View
from feature_rollout.core.exposure import OFF, Exposure
from feature_rollout.core.plan import Severity
from feature_rollout.core.state import NOT_STARTED, Latch, Ledger


def next_stage_entered(view: View) -> Ledger:
    """The ledger with the next stage in it; there must be one.

    The baseline is taken with the first stage that writes flags: before it the rows need
    not exist. A row that came later, or a flag that an edit added, is taken when it is there.
    """
    stage = view.next_stage
    if stage is None:
        raise ValueError("the plan has no next stage")
    index = view.ledger.stage + 1
    found = {flag: view.rows[flag] for flag in view.plan.flags if flag in view.rows} if stage.entries else {}
    baseline = {**found, **view.ledger.baseline}
    wanted = view.plan.exposure_after(index, baseline)
    return replace(
        view.ledger,
        stage=index,
        entered_at=view.now,
        baked=timedelta(0),
        executed=(*view.ledger.executed, stage.digest),
        baseline=baseline,
        written={**view.ledger.written, **{flag: wanted[flag] for flag in stage.flags}},
        spec_hash=view.plan.spec_hash,
        plan_hash=view.plan.plan_hash,
        completed_at=None,
        people=replace(view.ledger.people, preflight_done=True, promoted=None),
    )


def completed(view: View) -> Ledger:
    return replace(view.ledger, completed_at=view.now, baked=view.progress.baked)


def latch_of(view: View, decision: Decision) -> Latch:
    """What a revert is remembered by."""
    cause = decision.breach or decision.order
    if cause is None:
        raise ValueError("only a revert leaves a latch")
    return Latch(cause, view.stage.name if view.stage else "", view.plan.spec_hash, view.now)


def lowered(ledger: Ledger, written: Mapping[str, Exposure], latch: Latch | None, severity: Severity | None) -> Ledger:
    """The ledger after a lowering that left these rows; `severity` is that of the row which has acted."""
    known = ledger.latch
    return replace(
        ledger,
        written={**ledger.written, **written},
        latch=known.followed_by(latch) if known is not None and latch is not None else known or latch,
        acted=ledger.acted | {severity} if severity else ledger.acted,
    )


def rearmed(view: View) -> Ledger:
    """The ledger of the next attempt, just before the first stage whose exposure is not there yet.

    A stage that was passed as it stands in the plan has had its bake; its gates are read
    again. One that was edited, or that the revert came in, bakes anew.
    """
    ledger, plan = view.ledger, view.plan
    stage = _newest_stage_in(view)
    passed = stage < ledger.stage and plan.unchanged(ledger.executed) > stage
    return replace(
        ledger,
        latch=None,
        acted=frozenset(),
        attempt=ledger.attempt + 1,
        stage=stage,
        entered_at=view.now if stage != NOT_STARTED else None,
        baked=plan.stages[stage].bake if passed and stage != NOT_STARTED else timedelta(0),
        executed=tuple(s.digest for s in plan.stages[: stage + 1]),
        spec_hash=plan.spec_hash,
        plan_hash=plan.plan_hash,
        completed_at=None,
        people=ledger.people.inherited(),
    )


def _newest_stage_in(view: View) -> int:
    """The newest stage that was entered and whose exposure the operator's own writes still give in full.

    Not the rows: what somebody else has raised meanwhile is no stage that was passed.
    """
    plan, ledger = view.plan, view.ledger
    for index in reversed(range(min(ledger.stage + 1, len(plan.stages)))):
        wanted = plan.exposure_after(index, ledger.baseline)
        flags = {flag for stage in plan.stages[: index + 1] for flag in stage.flags}
        if all(wanted[flag].is_within(ledger.written.get(flag, OFF)) for flag in flags):
            return index
    return NOT_STARTED
