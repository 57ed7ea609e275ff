"""The decision: an ordered chain of small checks, the first of which to speak decides.

Lowering comes before everything that may hold, so that nothing can stand in its way;
raising comes last, when nothing has objected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from feature_rollout.core import reasons
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import DISABLED, raises
from feature_rollout.core.gates import unmet
from feature_rollout.core.guards import GuardState, breach_of, targets, worst
from feature_rollout.core.plan import ActionType, OnDelete, OnNoTraffic, Stage
from feature_rollout.core.state import NOT_STARTED, Ledger

Check = Callable[[View], Decision | None]


def decide(view: View) -> Decision:
    """What to do next. Pure: the same view gives the same decision."""
    for check in CHECKS:
        decision = check(view)
        if decision is not None:
            return decision
    return _advance(view)


def release(ledger: Ledger, on_delete: OnDelete) -> Decision:
    """What a deleted rollout leaves behind. It needs no plan: a broken manifest can always be deleted."""
    wanted = {}
    if on_delete is OnDelete.DISABLE:
        wanted = dict.fromkeys(ledger.written, DISABLED)
    elif on_delete is OnDelete.RESTORE:
        wanted = {flag: ledger.baseline[flag] for flag in ledger.written}
    message = f"The rollout was deleted; onDelete is {on_delete}."
    return Decision(Verb.RELEASE, Phase.TERMINATING, reasons.RELEASED, message, targets=wanted)


def _breached(view: View) -> Decision | None:
    """The most severe breached row acts, once in an attempt; after it only a more severe one."""
    guard = worst(view.guards)
    if guard is None or not view.raised or view.ledger.completed_at is not None:
        return None
    if guard.row.severity <= max(view.ledger.acted, default=0):
        return None
    action = guard.row.action
    breach = breach_of(guard, view.plan.metrics[guard.clause.metric], view.now)
    message = f"{breach.metric} is {breach.value}, {guard.clause.sense} {breach.limit}: a {breach.severity} breach."
    if action.type is ActionType.ROLL_BACK_DATABASE:
        message += " The flags are disabled; the rollback script was not run, this version cannot."
    lowered = targets(action, view.plan, view.ledger.stage, view.ledger.baseline, view.raised)
    return Decision(
        Verb(action.type), Phase.ROLLED_BACK, _REVERT_REASONS[action.type], message, targets=lowered, breach=breach
    )


_REVERT_REASONS = {
    ActionType.DISABLE_FLAGS: reasons.FLAGS_DISABLED,
    ActionType.REDUCE_PERCENTAGE: reasons.PERCENTAGE_REDUCED,
    ActionType.RESTRICT_TO_GROUPS: reasons.RESTRICTED_TO_GROUPS,
    ActionType.ROLL_BACK_DATABASE: reasons.FLAGS_DISABLED,
}


def _troubled(view: View) -> Decision | None:
    trouble = view.trouble
    if trouble is None:
        return None
    return _hold(Phase.STALLED if trouble.stalled else Phase.HELD, trouble.reason, trouble.message, trouble.stalled)


def _latched(view: View) -> Decision | None:
    """A revert stays until another plan is given, which begins a new attempt at what it took back."""
    latch = view.ledger.latch
    if latch is None:
        return None
    if latch.spec_hash == view.plan.spec_hash:
        breach = latch.breach
        message = (
            f"Rolled back in stage {latch.stage}: {breach.metric} was {breach.value}, limit {breach.limit} "
            f"({breach.severity}). It stays so until a Retry or another plan."
        )
        return _hold(Phase.ROLLED_BACK, reasons.ROLLED_BACK, message, stalled=True)
    if view.suspended:
        return None
    rearmed = replace(_resumed(view), latch=None, attempt=view.ledger.attempt + 1, acted=frozenset())
    message = f"The plan was changed after the revert in stage {latch.stage}; attempt {rearmed.attempt} begins."
    return Decision(Verb.REARM, Phase.PENDING, reasons.REARMED, message, ledger=rearmed)


def _resumed(view: View) -> Ledger:
    """The ledger just before the first stage whose exposure is not there yet.

    The stages before it have had their bake; their gates are read again.
    """
    stage = NOT_STARTED
    for index, entered in enumerate(view.plan.stages[: view.ledger.stage + 1]):
        wanted = view.plan.exposure_after(index, {**dict.fromkeys(view.plan.flags, DISABLED), **view.ledger.baseline})
        if any(flag not in view.rows or not wanted[flag].is_within(view.rows[flag]) for flag in entered.flags):
            break
        stage = index
    return replace(
        view.ledger,
        stage=stage,
        entered_at=view.now,
        baked=view.plan.stages[stage].bake if stage != NOT_STARTED else timedelta(0),
        executed=tuple(s.digest for s in view.plan.stages[: stage + 1]),
        spec_hash=view.plan.spec_hash,
        plan_hash=view.plan.plan_hash,
    )


def _edited(view: View) -> Decision | None:
    """Stages that were entered must be as they were when they were entered."""
    executed = view.ledger.executed
    now = tuple(stage.digest for stage in view.plan.stages[: len(executed)])
    if now == executed:
        return None
    index = next((i for i, pair in enumerate(zip(now, executed, strict=False)) if pair[0] != pair[1]), len(now))
    what = f"stages[{index}] ({view.plan.stages[index].name})" if index < len(now) else f"stages[{index}], now missing,"
    message = f"{what} was entered and has since been edited; put it back, or delete the rollout and start afresh."
    return _hold(Phase.HELD, reasons.PLAN_CHANGED, message, stalled=True)


def _row_missing(view: View) -> Decision | None:
    coming = view.next_stage.flags if view.next_stage else ()
    for flag in dict.fromkeys((*view.raised, *coming)):
        if flag not in view.rows:
            message = f"Flag {flag} has no row in the table; create it, the operator never does."
            return _hold(Phase.STALLED, reasons.FLAG_MISSING, message, stalled=True)
    return None


def _drifted(view: View) -> Decision | None:
    """People win: a row that is not as the operator left it pauses the rollout."""
    for flag in view.raised:
        if view.rows[flag] != view.ledger.written[flag]:
            message = (
                f"Flag {flag} was changed by somebody else: it is {view.rows[flag]}, "
                f"the operator had left it at {view.ledger.written[flag]}. It goes on when the row is put back."
            )
            return _hold(Phase.PAUSED, reasons.MANUAL_CHANGE, message)
    return None


def _completed(view: View) -> Decision | None:
    if view.ledger.completed_at is None:
        return None
    return Decision(Verb.WAIT, Phase.COMPLETED, reasons.COMPLETED, "Every stage is in.")


def _suspended(view: View) -> Decision | None:
    if not view.suspended:
        return None
    return _hold(Phase.PAUSED, reasons.SUSPENDED, "spec.suspend is true; set it to false to go on.")


def _preflight(view: View) -> Decision | None:
    if view.stage is not None or not view.plan.preflight_blockers:
        return None
    return _not_in_effect(Phase.PREFLIGHT, view.plan.preflight_blockers)


def _evidence_against(view: View) -> Decision | None:
    """Enough against the rollout to stop it, or a breached row whose action is to hold."""
    if view.stage is None:
        return None
    for guard in view.guards:
        if guard.state is GuardState.BREACHED:
            message = f"{guard.clause} is breached ({guard.row.severity}); held until its evidence is below 20."
            return _hold(Phase.HELD, reasons.HOLD_ACTION, message, waiting_for=(str(guard.clause),))
        if guard.state is GuardState.HOLDING:
            message = f"There is evidence against {guard.clause} ({guard.row.severity}); held until it is below 20."
            return _hold(Phase.HELD, reasons.EVIDENCE_AGAINST, message, waiting_for=(str(guard.clause),))
    return None


def _blind(view: View) -> Decision | None:
    """Not knowing is not passing."""
    blind = [guard for guard in view.guards if guard.is_blind]
    if not blind:
        return None
    notes = tuple(dict.fromkeys(guard.note for guard in blind))
    message = f"Guards cannot be evaluated, nothing is raised and nothing reverted: {'; '.join(notes)}."
    return _hold(Phase.HELD, reasons.GUARDS_BLIND, message, waiting_for=notes)


def _no_traffic(view: View) -> Decision | None:
    """A stage without data has proved nothing; before the first raise there may be nothing to see yet."""
    if not view.raised or view.stage is None or view.stage.on_no_traffic is OnNoTraffic.COUNT:
        return None
    notes = tuple(dict.fromkeys(g.note for g in view.guards if g.state is GuardState.NO_DATA))
    if not notes:
        return None
    return _hold(Phase.HELD, reasons.NO_TRAFFIC, f"{'; '.join(notes)}: healthy time does not count.", waiting_for=notes)


def _baking(view: View) -> Decision | None:
    stage = view.stage
    if stage is None or view.progress.baked >= stage.bake:
        return None
    message = f"Stage {stage.name} bakes for {stage.bake} of healthy time."
    return Decision(
        Verb.WAIT, Phase.BAKING, reasons.BAKING, message, waiting_for=(f"{stage.bake} of healthy time in {stage.name}",)
    )


def _gated(view: View) -> Decision | None:
    stage = view.stage
    if stage is None:
        return None
    waiting = tuple(words for gate in stage.gates for words in unmet(gate, view.plan, view.progress))
    if not waiting:
        return None
    message = f"Stage {stage.name} has baked; its gates are not passed: {'; '.join(waiting)}."
    return _hold(Phase.GATING, reasons.GATE_NOT_PASSED, message, waiting_for=waiting)


def _ended(view: View) -> Decision | None:
    if view.next_stage is not None:
        return None
    done = replace(view.ledger, completed_at=view.now, baked=view.progress.baked)
    return Decision(
        Verb.COMPLETE, Phase.COMPLETED, reasons.COMPLETED, "Every stage is in, baked and gated.", ledger=done
    )


def _hold_at(view: View) -> Decision | None:
    if view.stage is None or view.hold_at != view.stage.name:
        return None
    return _hold(Phase.HELD, reasons.HOLD_AT, f"spec.holdAt is {view.hold_at}, which is reached.")


def _next_not_in_effect(view: View) -> Decision | None:
    stage = view.next_stage
    return _not_in_effect(Phase.HELD, stage.blockers) if stage is not None and stage.blockers else None


def _not_in_effect(phase: Phase, blockers: tuple[str, ...]) -> Decision:
    message = f"The plan demands what this version cannot do, so it waits: {'; '.join(blockers)}."
    return _hold(phase, reasons.NOT_IN_EFFECT, message, stalled=True, waiting_for=blockers)


def _advance(view: View) -> Decision:
    """Enter the next stage; `_ended` has made sure that there is one."""
    stage = view.next_stage
    assert stage is not None  # noqa: S101 - the chain's order is the proof, and the type checker wants it said
    index = view.ledger.stage + 1
    fresh = {flag: view.rows[flag] for flag in view.plan.flags if flag in view.rows} if stage.entries else {}
    baseline = {**fresh, **view.ledger.baseline}
    wanted = view.plan.exposure_after(index, {**dict.fromkeys(view.plan.flags, DISABLED), **baseline})
    after = {flag: wanted[flag] for flag in stage.flags}
    ledger = replace(
        view.ledger,
        stage=index,
        entered_at=view.now,
        baked=timedelta(0),
        executed=(*view.ledger.executed, stage.digest),
        baseline=baseline,
        written={**view.ledger.written, **after},
        spec_hash=view.plan.spec_hash,
        plan_hash=view.plan.plan_hash,
    )
    before = {flag: view.rows[flag] for flag in after}
    return Decision(
        Verb.ADVANCE,
        Phase.BAKING,
        reasons.STAGE_ENTERED,
        f"Stage {stage.name} ({index + 1} of {len(view.plan.stages)}) began{_summary(stage)}.",
        ledger=ledger,
        before=before,
        after=after,
    )


def _summary(stage: Stage) -> str:
    count = len(stage.flags)
    return f": {count} flag{'s' if count > 1 else ''} written" if count else ", which writes no flags"


def is_raise(decision: Decision) -> bool:
    """Whether carrying the decision out may give a flag to somebody who had it not."""
    return any(raises(decision.before[flag], row) for flag, row in decision.after.items())


def _hold(
    phase: Phase, reason: str, message: str, stalled: bool = False, waiting_for: tuple[str, ...] = ()
) -> Decision:
    return Decision(Verb.HOLD, phase, reason, message, stalled=stalled, waiting_for=waiting_for)


CHECKS: tuple[Check, ...] = (
    _breached,
    _troubled,
    _latched,
    _edited,
    _row_missing,
    _drifted,
    _completed,
    _suspended,
    _preflight,
    _evidence_against,
    _blind,
    _no_traffic,
    _baking,
    _gated,
    _ended,
    _hold_at,
    _next_not_in_effect,
)
