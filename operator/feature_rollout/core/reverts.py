"""Taking exposure back: by a breached row, by one that cannot be measured, at the end of an object.

Everything here only lowers. It comes before everything that may hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from feature_rollout.core import reasons
from feature_rollout.core.decision import Decision, Phase, Verb, View, because
from feature_rollout.core.exposure import DISABLED, OFF, Exposure
from feature_rollout.core.guards import (
    Guard,
    blind_too_long,
    breach_of,
    targets,
    worst,
)
from feature_rollout.core.people import Order
from feature_rollout.core.plan import (
    Action,
    ActionType,
    OnBlind,
    OnDelete,
    OnDrift,
)
from feature_rollout.core.state import Breach, Ledger


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
    message = f"The database had lost the revert{because(cause)}; it was made again."
    return Decision(
        Verb(cause.action),
        Phase.ROLLED_BACK,
        reasons.REVERT_RESTORED,
        message,
        targets=dict(lost.written),
        breach=cause if isinstance(cause, Breach) else None,
        order=cause if isinstance(cause, Order) else None,
    )


def breached(view: View) -> Decision | None:
    """The most severe breached row acts, once in an attempt; after it only a more severe one."""
    guard = worst(view.guards)
    if guard is None or not _may_act(view, guard):
        return None
    breach = breach_of(guard, view.plan.metrics[guard.clause.metric], view.now)
    message = f"{breach.metric} is {breach.value}, {guard.clause.sense} {breach.limit}: a {breach.severity} breach."
    return _revert(view, guard.row.action, breach, message)


def not_measured(view: View) -> Decision | None:
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
    message += left_as_found(respected)
    reason = REVERT_REASONS[action.type]
    return Decision(Verb(action.type), Phase.ROLLED_BACK, reason, message, targets=lowered, breach=breach)


def _lowered(view: View, action: Action) -> tuple[dict[str, Exposure], list[str]]:
    return respecting(view, targets(action, view.plan, view.ledger))


def respecting(view: View, wanted: dict[str, Exposure]) -> tuple[dict[str, Exposure], list[str]]:
    """What is lowered of `wanted`, and the flags that are respected: changed by somebody else, and low enough already.

    Such a row is not written, so that it stays known as theirs: a flag that a person has
    switched off is not raised by the attempt after the revert. After a lowering that was
    not finished, a row that is just what the action makes of ours is ours.
    """
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


def met(one: Mapping[str, Exposure], other: Mapping[str, Exposure]) -> dict[str, Exposure]:
    """Two lowerings as one: every flag of either, to no more than each of them leaves."""
    both = {flag: one[flag].meet(other[flag]) for flag in one.keys() & other.keys()}
    return {**one, **other, **both}


def left_as_found(respected: list[str]) -> str:
    return f" Left as somebody else has made them, which is low enough: {', '.join(respected)}." if respected else ""


REVERT_REASONS = {
    ActionType.DISABLE_FLAGS: reasons.FLAGS_DISABLED,
    ActionType.REDUCE_PERCENTAGE: reasons.PERCENTAGE_REDUCED,
    ActionType.RESTRICT_TO_GROUPS: reasons.RESTRICTED_TO_GROUPS,
    ActionType.ROLL_BACK_DATABASE: reasons.FLAGS_DISABLED,
}
