"""Exposure, computed without a line of the operator's own code: the order, the meet, stages, actions.

The order and the meet are those of `support.invariants`; here is what a plan makes of rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from feature_rollout.core.exposure import Exposure
from feature_rollout.core.plan import Action, ActionType, Plan, Target
from support.audit import Row
from support.invariants import meet, within

OFF: Row = (False, 0, frozenset())
DISABLED: Row = (False, 100, frozenset())
Rows = dict[str, Row]


def plain(row: Exposure) -> Row:
    return row.enabled, int(row.percentage), row.groups


def plain_rows(rows: Mapping[str, Exposure]) -> Rows:
    return {flag: plain(row) for flag, row in rows.items()}


def in_stage(plan: Plan, index: int, baseline: Mapping[str, Row]) -> Rows:
    """Every flag's exposure once the stages up to that index are in."""
    rows = dict(baseline)
    for stage in plan.stages[: index + 1]:
        for entry in stage.entries:
            for flag in entry.names:
                _, percentage, groups = rows.get(flag, OFF)
                change = entry.change
                rows[flag] = (
                    True,
                    percentage if change.percentage is None else int(change.percentage),
                    groups if change.groups is None else change.groups,
                )
    return rows


def target(action: Action, plan: Plan, stage: int, baseline: Mapping[str, Row], flag: str) -> Row:
    """What an action of the matrix lowers a flag to, in the stage of that index."""
    if action.type is ActionType.RESTRICT_TO_GROUPS:
        return True, 100, action.groups or frozenset()
    if action.type is not ActionType.REDUCE_PERCENTAGE:
        return DISABLED
    if action.percentage is not None:
        return True, int(action.percentage), frozenset()
    return in_stage(plan, before_last(plan, stage) if action.to is Target.PREVIOUS_STAGE else -1, baseline).get(
        flag, DISABLED
    )


def before_last(plan: Plan, stage: int) -> int:
    """The index of the stage with flags before the newest one with flags; -1 when there is none."""
    with_flags = [index for index in range(min(stage, len(plan.stages) - 1) + 1) if plan.stages[index].entries]
    return with_flags[-2] if len(with_flags) > 1 else -1


__all__ = [
    "DISABLED",
    "OFF",
    "Row",
    "Rows",
    "before_last",
    "in_stage",
    "meet",
    "plain",
    "plain_rows",
    "target",
    "within",
]
