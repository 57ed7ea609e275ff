"""What stops the rollout whatever the metrics say. Healthy time does not count meanwhile."""

from __future__ import annotations

from feature_rollout.core import reasons, steps
from feature_rollout.core.clearance import command
from feature_rollout.core.decision import Check, Decision, Phase, Verb, View, because, hold
from feature_rollout.core.plan import OnDrift


def stands_still(view: View) -> bool:
    """Whether healthy time does not count now, whatever the metrics say: that is decided without them."""
    return any(check(view) is not None for check in STANDSTILL)


def troubled(view: View) -> Decision | None:
    trouble = view.trouble
    if trouble is None:
        return None
    return hold(Phase.STALLED if trouble.stalled else Phase.HELD, trouble.reason, trouble.message, trouble.stalled)


def latched(view: View) -> Decision | None:
    """A revert stays until another plan is given, which begins a new attempt at what it took back.

    Going back to the plan that the flags were raised under is no other plan either.
    """
    latch = view.ledger.latch
    if latch is None:
        return None
    if view.plan.spec_hash in (latch.spec_hash, view.ledger.spec_hash):
        where = f"in stage {latch.stage}" if latch.stage else "before the first stage"
        message = f"Rolled back {where}{because(latch.cause)}. It stays so until Retry, or until the plan is changed."
        return hold(Phase.ROLLED_BACK, reasons.ROLLED_BACK, message, stalled=True)
    standing = paused(view) or suspended(view)
    if standing is not None:
        return standing
    ledger = steps.rearmed(view)
    message = f"The plan was changed after the revert in stage {latch.stage}; attempt {ledger.attempt} begins."
    return Decision(Verb.REARM, Phase.PENDING, reasons.REARMED, message, ledger=ledger)


def edited(view: View) -> Decision | None:
    """Stages that were entered must be as they were when they were entered."""
    index = view.plan.unchanged(view.ledger.executed)
    if index == len(view.ledger.executed):
        return None
    stages = view.plan.stages
    what = f"stages[{index}] ({stages[index].name})" if index < len(stages) else f"stages[{index}], now missing,"
    message = f"{what} was entered and has since been edited; put it back, or delete the rollout and start afresh."
    return hold(Phase.HELD, reasons.PLAN_CHANGED, message, stalled=True)


def row_missing(view: View) -> Decision | None:
    return no_row(view.missing[0]) if view.missing else None


def no_row(flag: str) -> Decision:
    message = f"Flag {flag} has no row in the table; create it, the operator never does."
    return hold(Phase.STALLED, reasons.FLAG_MISSING, message, stalled=True)


def drifted(view: View) -> Decision | None:
    """People win: a row that is not as the operator left or found it pauses the rollout, unless it is only reported."""
    if view.on_drift is OnDrift.REPORT:
        return None
    for flag in view.drifted:
        message = (
            f"Flag {flag} was changed by somebody else: it is {view.rows[flag]}, "
            f"the operator had it as {view.expected[flag]}. It goes on when the row is put back, or on Resume."
        )
        return hold(Phase.PAUSED, reasons.MANUAL_CHANGE, message)
    return None


def over(view: View) -> Decision | None:
    if not view.is_over:
        return None
    return Decision(Verb.WAIT, Phase.COMPLETED, reasons.COMPLETED, "Every stage is in, baked and gated.")


def suspended(view: View) -> Decision | None:
    if not view.suspended:
        return None
    return hold(Phase.PAUSED, reasons.SUSPENDED, "spec.suspend is true; set it to false to go on.")


def paused(view: View) -> Decision | None:
    pause = view.ledger.people.paused
    if pause is None:
        return None
    given = f': "{pause.reason}"' if pause.reason else ""
    message = f"Paused by {pause.by}{given}; it goes on with: {command(view, 'resume')}."
    return hold(Phase.PAUSED, reasons.PAUSED, message)


# While one of these speaks, healthy time does not count.
STANDSTILL: tuple[Check, ...] = (
    troubled,
    latched,
    edited,
    row_missing,
    drifted,
    over,
    paused,
    suspended,
)
