"""The decision: an ordered chain of small checks, the first of which to speak decides.

Lowering comes before everything that may hold, so that nothing can stand in its way;
raising comes last, when nothing has objected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from feature_rollout.core import reasons, steps
from feature_rollout.core import requests as people_requests
from feature_rollout.core.checks import GUARDS_QUIET, SAMPLE_RATIO
from feature_rollout.core.checks import Check as Condition
from feature_rollout.core.clearance import approvals_missing, cited, command, preflight
from feature_rollout.core.clearance import unmet as unmet_checks
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import DISABLED, OFF, Exposure
from feature_rollout.core.gates import unmet
from feature_rollout.core.guards import (
    Guard,
    GuardState,
    blind_too_long,
    breach_of,
    ordered_targets,
    targets,
    worst,
)
from feature_rollout.core.people import Answered, Order, Outcome, RequestType, RollBackTo
from feature_rollout.core.plan import (
    Action,
    ActionType,
    OnBlind,
    OnDelete,
    OnDrift,
    OnNoTraffic,
    Stage,
    Target,
    format_duration,
)
from feature_rollout.core.relative import wanted_references
from feature_rollout.core.sample import mismatches
from feature_rollout.core.state import NOT_STARTED, Breach, Ledger

Check = Callable[[View], Decision | None]


def decide(view: View) -> Decision:
    """What to do next. Pure: the same view gives the same decision."""
    for check in CHECKS:
        decision = check(view)
        if decision is not None:
            return _overdue(view, decision) or decision
    return _advance(view)


def stands_still(view: View) -> bool:
    """Whether healthy time does not count now, whatever the metrics say: that is decided without them."""
    return any(check(view) is not None for check in STANDSTILL)


def release(ledger: Ledger, on_delete: OnDelete) -> Decision:
    """What a deleted rollout leaves behind. It needs no plan: a broken manifest can always be deleted."""
    wanted = {}
    if on_delete is OnDelete.DISABLE:
        wanted = dict.fromkeys(ledger.written, DISABLED)
    elif on_delete is OnDelete.RESTORE:
        wanted = {flag: ledger.baseline.get(flag, OFF) for flag in ledger.written}
    message = f"The rollout was deleted; onDelete is {on_delete}."
    return Decision(Verb.RELEASE, Phase.TERMINATING, reasons.RELEASED, message, targets=wanted)


def restored(lost: Ledger) -> Decision:
    """The revert again that the database has lost, from the ledger row as it was with its latch.

    Rows are lowered to what they were then, and not raised to it.
    """
    assert lost.latch is not None  # noqa: S101 - it is what was lost
    cause = lost.latch.cause
    message = f"The database had lost the revert{_because(cause)}; it was made again."
    return Decision(
        Verb(cause.action),
        Phase.ROLLED_BACK,
        reasons.REVERT_RESTORED,
        message,
        targets=dict(lost.written),
        breach=cause if isinstance(cause, Breach) else None,
        order=cause if isinstance(cause, Order) else None,
    )


def _ordered(view: View) -> Decision | None:
    """A person's RollBack goes before everything, in every state, and can only lower."""
    request = next((r for r in people_requests.in_order(view.requests) if r.type is RequestType.ROLL_BACK), None)
    if request is None:
        return None
    answer = people_requests.rule(view, request).answer
    if answer.outcome is not Outcome.APPLIED:
        return _answered(view, Answered(request, answer, view.now))
    action = _ORDERS[request.to]
    order = Order(request.who, request.to, request.reason, request.created_at, str(action.type))
    wanted = ordered_targets(action, view.plan, view.ledger, view.rows)
    lowered, respected = _respecting(view, wanted)
    message = answer.message + _left(respected)
    return Decision(
        Verb(action.type),
        Phase.ROLLED_BACK,
        _REVERT_REASONS[action.type],
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


def _asked(view: View) -> Decision | None:
    """The first request that can be answered now."""
    for request in people_requests.in_order(view.requests):
        ruling = people_requests.rule(view, request)
        if ruling.answer.outcome is not Outcome.PENDING:
            return _answered(view, Answered(request, ruling.answer, view.now), ruling.ledger)
    return None


_PHASES = {RequestType.PAUSE: Phase.PAUSED, RequestType.RETRY: Phase.PENDING}


def _answered(view: View, answered: Answered, ledger: Ledger | None = None) -> Decision:
    """The ledger as it becomes; as it is when the request was refused, so that this too is recorded once.

    The phase is that of the rollout without the request, unless the request is what changes it.
    """
    request, answer = answered.request, answered.answer
    verb, phase = Verb.REFUSE, decide(replace(view, requests=())).phase
    if answer.outcome is Outcome.APPLIED:
        verb = Verb.REARM if request.type is RequestType.RETRY else Verb(request.type)
        phase = _PHASES.get(request.type, phase)
    return Decision(verb, phase, answer.reason, answer.message, ledger=ledger or view.ledger, answered=answered)


def _breached(view: View) -> Decision | None:
    """The most severe breached row acts, once in an attempt; after it only a more severe one."""
    guard = worst(view.guards)
    if guard is None or not _may_act(view, guard):
        return None
    breach = breach_of(guard, view.plan.metrics[guard.clause.metric], view.now)
    message = f"{breach.metric} is {breach.value}, {guard.clause.sense} {breach.limit}: a {breach.severity} breach."
    return _revert(view, guard.row.action, breach, message)


def _blind_too_long(view: View) -> Decision | None:
    """With `onBlind: Revert` a guard that was not measured for as long as its row may take counts as breached."""
    guard = blind_too_long(view.guards, view.now) if view.plan.on_blind is OnBlind.REVERT else None
    if guard is None or not _may_act(view, guard):
        return None
    breach = replace(
        breach_of(guard, view.plan.metrics[guard.clause.metric], view.now),
        value="not measured",
        onset_at=guard.blind_since or view.now,
    )
    message = (
        f"{breach.metric} could not be measured ({guard.note}); onBlind is Revert, as for a {breach.severity} breach."
    )
    return _revert(view, guard.row.action, breach, message)


def _may_act(view: View, guard: Guard) -> bool:
    """Whether there is anything to take back, and no row of this severity or above has acted in this attempt."""
    return bool(view.ledger.raised) and not view.is_over and guard.row.severity > max(view.ledger.acted, default=0)


def _revert(view: View, action: Action, breach: Breach, message: str) -> Decision:
    if action.type is ActionType.ROLL_BACK_DATABASE:
        message += " The flags are disabled; the rollback script was not run, this version cannot."
    lowered, respected = _lowered(view, action)
    message += _left(respected)
    reason = _REVERT_REASONS[action.type]
    return Decision(Verb(action.type), Phase.ROLLED_BACK, reason, message, targets=lowered, breach=breach)


def _lowered(view: View, action: Action) -> tuple[dict[str, Exposure], list[str]]:
    """What the action lowers, and the flags that it respects: changed by somebody else, and low enough already.

    Such a row is not written, so that it stays known as theirs: a flag that a person has
    switched off is not raised by the attempt after the revert. After a lowering that was
    not finished, a row that is just what the action makes of ours is ours.
    """
    return _respecting(view, targets(action, view.plan, view.ledger))


def _respecting(view: View, wanted: dict[str, Exposure]) -> tuple[dict[str, Exposure], list[str]]:
    if view.on_drift is not OnDrift.RESPECT:
        return wanted, []
    respected = [
        flag
        for flag in view.drifted
        if flag in wanted
        and view.rows[flag].is_within(wanted[flag])
        and not (view.unfinished and view.rows[flag] == view.expected[flag].meet(wanted[flag]))
    ]
    return {flag: target for flag, target in wanted.items() if flag not in respected}, respected


def _left(respected: list[str]) -> str:
    return f" Left as somebody else has made them, which is low enough: {', '.join(respected)}." if respected else ""


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
    """A revert stays until another plan is given, which begins a new attempt at what it took back.

    Going back to the plan that the flags were raised under is no other plan either.
    """
    latch = view.ledger.latch
    if latch is None:
        return None
    if view.plan.spec_hash in (latch.spec_hash, view.ledger.spec_hash):
        where = f"in stage {latch.stage}" if latch.stage else "before the first stage"
        message = f"Rolled back {where}{_because(latch.cause)}. It stays so until Retry, or until the plan is changed."
        return _hold(Phase.ROLLED_BACK, reasons.ROLLED_BACK, message, stalled=True)
    standing = _paused(view) or _suspended(view)
    if standing is not None:
        return standing
    ledger = steps.rearmed(view)
    message = f"The plan was changed after the revert in stage {latch.stage}; attempt {ledger.attempt} begins."
    return Decision(Verb.REARM, Phase.PENDING, reasons.REARMED, message, ledger=ledger)


def _because(cause: Breach | Order) -> str:
    if isinstance(cause, Order):
        return f" by {cause.by}" + (f': "{cause.reason}"' if cause.reason else "")
    return f": {cause.metric} was {cause.value}, limit {cause.limit} ({cause.severity})"


def _edited(view: View) -> Decision | None:
    """Stages that were entered must be as they were when they were entered."""
    index = view.plan.unchanged(view.ledger.executed)
    if index == len(view.ledger.executed):
        return None
    stages = view.plan.stages
    what = f"stages[{index}] ({stages[index].name})" if index < len(stages) else f"stages[{index}], now missing,"
    message = f"{what} was entered and has since been edited; put it back, or delete the rollout and start afresh."
    return _hold(Phase.HELD, reasons.PLAN_CHANGED, message, stalled=True)


def _row_missing(view: View) -> Decision | None:
    return _missing(view.missing[0]) if view.missing else None


def _missing(flag: str) -> Decision:
    message = f"Flag {flag} has no row in the table; create it, the operator never does."
    return _hold(Phase.STALLED, reasons.FLAG_MISSING, message, stalled=True)


def _drifted(view: View) -> Decision | None:
    """People win: a row that is not as the operator left or found it pauses the rollout, unless it is only reported."""
    if view.on_drift is OnDrift.REPORT:
        return None
    for flag in view.drifted:
        message = (
            f"Flag {flag} was changed by somebody else: it is {view.rows[flag]}, "
            f"the operator had it as {view.expected[flag]}. It goes on when the row is put back, or on Resume."
        )
        return _hold(Phase.PAUSED, reasons.MANUAL_CHANGE, message)
    return None


def _over(view: View) -> Decision | None:
    if not view.is_over:
        return None
    return Decision(Verb.WAIT, Phase.COMPLETED, reasons.COMPLETED, "Every stage is in, baked and gated.")


def _suspended(view: View) -> Decision | None:
    if not view.suspended:
        return None
    return _hold(Phase.PAUSED, reasons.SUSPENDED, "spec.suspend is true; set it to false to go on.")


def _paused(view: View) -> Decision | None:
    paused = view.ledger.people.paused
    if paused is None:
        return None
    because = f': "{paused.reason}"' if paused.reason else ""
    message = f"Paused by {paused.by}{because}; it goes on with: {command(view, 'resume')}."
    return _hold(Phase.PAUSED, reasons.PAUSED, message)


def _preflight(view: View) -> Decision | None:
    if view.ledger.people.preflight_done:
        return None
    return _unmet(view, preflight(view), "The first stage waits for its preflight")


def _unmet(view: View, checks: tuple[Condition, ...], what: str) -> Decision | None:
    missing = unmet_checks(view, checks)
    if not missing:
        return None
    words = tuple(one.words for one in missing)
    return _hold(Phase.PREFLIGHT, missing[0].reason, f"{what}: {'; '.join(words)}.", waiting_for=words)


def _evidence_against(view: View) -> Decision | None:
    """Enough against the rollout to stop it, or a breached row whose action is to hold."""
    for guard in view.guards:
        if guard.state not in _AGAINST:
            continue
        severity, waiting = guard.row.severity, (str(guard.clause),)
        if guard.state is GuardState.BREACHED:
            message = f"{guard.clause} is breached ({severity}); held until there is no evidence of it any more."
            return _hold(Phase.HELD, reasons.HOLD_ACTION, message, waiting_for=waiting)
        if guard.state is GuardState.INCIDENT:
            message = (
                f"{guard.clause} is past its limit ({severity}), and the users without the flags fare no better: "
                "not the rollout's doing. Held until it is over."
            )
            return _hold(Phase.HELD, reasons.GLOBAL_INCIDENT, message, waiting_for=waiting)
        message = f"There is evidence against {guard.clause} ({severity}); held until it is below 20."
        return _hold(Phase.HELD, reasons.EVIDENCE_AGAINST, message, waiting_for=waiting)
    return None


_AGAINST = (GuardState.BREACHED, GuardState.INCIDENT, GuardState.HOLDING)


def _sampled(view: View) -> Decision | None:
    """Arms that are not split as planned are no fair comparison, whatever they show."""
    if view.ledger.people.confirmed(SAMPLE_RATIO, view.ledger.uid, view.plan.plan_hash) is not None:
        return None
    found = mismatches(view.plan, view.ledger, view.progress)
    if not found:
        return None
    message = (
        f"Users are not split as planned: {'; '.join(found)}. See why, then confirm it: "
        f"{command(view, 'confirm', SAMPLE_RATIO)}."
    )
    return _hold(Phase.HELD, reasons.SAMPLE_RATIO_MISMATCH, message, waiting_for=found)


def _blind(view: View) -> Decision | None:
    """Not knowing is not passing."""
    notes = _notes(view, GuardState.BLIND)
    if not notes:
        return None
    rest = "nothing reverted" if view.plan.on_blind is OnBlind.HOLD else "reverted if it lasts, by onBlind"
    message = f"Guards cannot be evaluated, nothing is raised and {rest}: {'; '.join(notes)}."
    return _hold(Phase.HELD, reasons.GUARDS_BLIND, message, waiting_for=notes)


def _reference(view: View) -> Decision | None:
    """Nothing is raised before the past is known that the guards are compared with."""
    if view.stage is not None and view.progress.baked < view.stage.bake:
        return None
    missing = view.progress.references_missing(view.plan)
    if not missing:
        return None
    phase = Phase.PREFLIGHT if view.stage is None else Phase.HELD
    known = len(wanted_references(view.plan)) - len(missing)
    message = (
        f"Reads the seven days before of {', '.join(missing)} ({known} of {known + len(missing)} metrics are read)."
    )
    waiting = tuple(f"the past of {name}" for name in missing)
    return Decision(Verb.WAIT, phase, reasons.AWAITING_REFERENCE, message, waiting_for=waiting)


def _guards_quiet(view: View) -> Decision | None:
    """A guard that fires without any rollout would take a healthy one back."""
    if view.ledger.people.confirmed(GUARDS_QUIET, view.ledger.uid, view.plan.plan_hash) is not None:
        return None
    noisy = tuple(dict.fromkeys(str(clause) for clause in view.progress.too_tight(view.plan)))
    if not noisy:
        return None
    message = (
        f"In the seven days before, without any rollout, with limits at 80 % of what they are, there would have been a "
        f"revert for: {'; '.join(noisy)}. Loosen it, or confirm the check {GUARDS_QUIET}."
    )
    return _hold(Phase.PREFLIGHT, reasons.GUARD_TOO_TIGHT, message, stalled=True, waiting_for=noisy)


def _unseen(view: View) -> Decision | None:
    """Nothing is raised before every guard was looked at once: a source may be down and not have said so yet."""
    notes = _notes(view, GuardState.UNSEEN)
    if not notes:
        return None
    phase = Phase.PENDING if view.stage is None else Phase.BAKING
    return Decision(Verb.WAIT, phase, reasons.AWAITING_LOOK, f"Waits for {'; '.join(notes)}.", waiting_for=notes)


def _no_traffic(view: View) -> Decision | None:
    """A stage without data has proved nothing; before the first raise there may be nothing to see yet."""
    notes = _notes(view, GuardState.NO_DATA)
    if not notes or not _needs_data(view):
        return None
    return _hold(Phase.HELD, reasons.NO_TRAFFIC, f"{'; '.join(notes)}: healthy time does not count.", waiting_for=notes)


def _needs_data(view: View) -> bool:
    stage = view.stage
    if stage is None or stage.on_no_traffic is OnNoTraffic.COUNT or view.promotion is not None:
        return False
    return bool(view.ledger.raised) or view.progress.baked < stage.bake


def _without_data(view: View) -> Decision | None:
    """No step is taken on a look that had no data, however short a gap it is.

    It speaks after all that may hold, so that a metric with data in every second window does
    not change what the rollout is said to wait for with every look.
    """
    notes = tuple(dict.fromkeys(guard.note for guard in view.guards if guard.without_data))
    if not notes or view.stage is None or not _needs_data(view):
        return None
    message = f"Stage {view.stage.name} has baked; waits for data: {'; '.join(notes)}."
    return Decision(Verb.WAIT, Phase.BAKING, reasons.BAKING, message, waiting_for=notes)


def _notes(view: View, state: GuardState) -> tuple[str, ...]:
    return tuple(dict.fromkeys(guard.note for guard in view.guards if guard.state is state))


def _baking(view: View) -> Decision | None:
    stage = view.stage
    if stage is None or view.progress.baked >= stage.bake or view.promotion is not None:
        return None
    bake = format_duration(stage.bake)
    waiting = (f"{bake} of healthy time in {stage.name}",)
    message = f"Stage {stage.name} bakes for {bake} of healthy time."
    return Decision(Verb.WAIT, Phase.BAKING, reasons.BAKING, message, waiting_for=waiting)


def _gated(view: View) -> Decision | None:
    stage = view.stage
    if stage is None or view.promotion is not None:
        return None
    waiting = tuple(words for gate in stage.gates for words in unmet(gate, view.plan, view.progress))
    if not waiting:
        return None
    message = f"Stage {stage.name} has baked; its gates are not passed: {'; '.join(waiting)}."
    return _hold(Phase.GATING, reasons.GATE_NOT_PASSED, message, waiting_for=waiting)


def _hold_at(view: View) -> Decision | None:
    """Reached or passed. A name that no stage has holds too: it was meant to."""
    if view.hold_at is None:
        return None
    named = next((i for i, stage in enumerate(view.plan.stages) if stage.name == view.hold_at), NOT_STARTED)
    if view.ledger.stage < named:
        return None
    message = f"spec.holdAt is {view.hold_at}, which is reached; name a later stage or none to go on."
    if named == NOT_STARTED:
        message = f"spec.holdAt is {view.hold_at}, which names no stage; correct it to go on."
    return _hold(Phase.HELD, reasons.HOLD_AT, message)


def _ended(view: View) -> Decision | None:
    if view.next_stage is not None:
        return None
    waiting = _without_data(view)
    if waiting is not None:
        return waiting
    message = "Every stage is in, baked and gated."
    return Decision(Verb.COMPLETE, Phase.COMPLETED, reasons.COMPLETED, message, ledger=steps.completed(view))


def _not_approved(view: View) -> Decision | None:
    stage = view.next_stage
    missing = approvals_missing(view, stage) if stage is not None else 0
    if stage is None or not missing:
        return None
    how = command(view, "approve", "--stage", stage.name)
    waiting = (f"{missing} approval{'s' if missing > 1 else ''} of stage {stage.name}: {how}",)
    return _hold(Phase.AWAITING_APPROVAL, reasons.AWAITING_APPROVAL, f"Waits for {waiting[0]}.", waiting_for=waiting)


def _not_checked(view: View) -> Decision | None:
    """Last of what a stage demands, because an answer counts for a minute only."""
    stage = view.next_stage
    return _unmet(view, stage.checks, f"Stage {stage.name} waits for its checks") if stage is not None else None


def _next_not_in_effect(view: View) -> Decision | None:
    stage = view.next_stage
    return _not_in_effect(stage.blockers) if stage is not None and stage.blockers else None


def _not_in_effect(blockers: tuple[str, ...]) -> Decision:
    message = f"The plan demands what this version cannot do, so it waits: {'; '.join(blockers)}."
    return _hold(Phase.HELD, reasons.NOT_IN_EFFECT, message, stalled=True, waiting_for=blockers)


def _outside_window(view: View) -> Decision | None:
    """The calendar is asked for an advance alone, when all else has been done."""
    calendar = view.plan.calendar
    closed = calendar.closed(view.now) if calendar is not None else None
    if calendar is None or closed is None:
        return None
    opens = calendar.next_open(view.now)
    when = f"opens {calendar.in_zone(opens)}" if opens is not None else "never opens again, as it is written"
    message = f"The next stage waits for the calendar, which is closed ({closed}) and {when}."
    return Decision(
        Verb.WAIT,
        Phase.AWAITING_WINDOW,
        reasons.AWAITING_WINDOW,
        message,
        waiting_for=(f"the calendar: {when}",),
        due_at=opens,
    )


def _overdue(view: View, decision: Decision) -> Decision | None:
    """The same wait, but loud: the stage should have baked and passed its gates by now."""
    stage, since = view.stage, view.ledger.entered_at
    if stage is None or stage.deadline is None or since is None or decision.phase not in _IN_A_STAGE:
        return None
    if view.now < since + stage.deadline:
        return None
    message = f"Stage {stage.name} has taken longer than its deadline of {format_duration(stage.deadline)}. "
    return replace(decision, reason=reasons.STAGE_OVERDUE, message=message + decision.message, stalled=True)


# Phases in which the stage itself is what takes so long, and not people or the calendar.
_IN_A_STAGE = frozenset({Phase.BAKING, Phase.GATING, Phase.HELD})


def _next_row_missing(view: View) -> Decision | None:
    """Asked for last: a stage before may have created the rows."""
    flags = view.next_stage.flags if view.next_stage else ()
    return next((_missing(flag) for flag in flags if flag not in view.rows), None)


def _advance(view: View) -> Decision:
    """Enter the next stage; `_ended` has made sure that there is one, `_next_row_missing` that its rows are there."""
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


def _hold(
    phase: Phase, reason: str, message: str, stalled: bool = False, waiting_for: tuple[str, ...] = ()
) -> Decision:
    return Decision(Verb.HOLD, phase, reason, message, stalled=stalled, waiting_for=waiting_for)


# While one of these speaks, healthy time does not count.
STANDSTILL: tuple[Check, ...] = (
    _troubled,
    _latched,
    _edited,
    _row_missing,
    _drifted,
    _over,
    _paused,
    _suspended,
)
CHECKS: tuple[Check, ...] = (
    _ordered,
    _breached,
    _blind_too_long,
    _asked,
    *STANDSTILL,
    _preflight,
    _evidence_against,
    _sampled,
    _blind,
    _reference,
    _unseen,
    _no_traffic,
    _baking,
    _gated,
    _guards_quiet,
    _hold_at,
    _ended,
    _not_approved,
    _outside_window,
    _next_not_in_effect,
    _not_checked,
    _next_row_missing,
    _without_data,
)
