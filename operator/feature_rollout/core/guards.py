"""Guards: what every clause of the matrix says now, and what a row would do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from feature_rollout.core.evidence import Evidence
from feature_rollout.core.exposure import DISABLED, FULL, OFF, Exposure, raises
from feature_rollout.core.looks import Look, stale_after
from feature_rollout.core.plan import (
    Action,
    ActionType,
    BaselineType,
    Clause,
    Metric,
    MetricType,
    Plan,
    Row,
    Target,
    format_duration,
)
from feature_rollout.core.progress import Progress
from feature_rollout.core.relative import limit_of, needs_past
from feature_rollout.core.state import Breach, Ledger

# With `onBlind: Revert`, so many looks in a row must have failed, however short the row's deadline is.
BLIND_LOOKS_MIN = 10


class GuardState(StrEnum):
    QUIET = "Quiet"
    PAST_LIMIT = "PastLimit"  # the newest look is past the limit, which proves nothing yet
    HOLDING = "Holding"  # enough evidence to stop advancing
    INCIDENT = "GlobalIncident"  # conclusive, but the users without the flags see it too
    BREACHED = "Breached"  # conclusive
    UNSEEN = "Unseen"  # not looked at yet in this attempt
    NO_DATA = "NoData"  # for longer than a sparse metric may have none
    BLIND = "Blind"


@dataclass(frozen=True, slots=True)
class Guard:
    """A clause and its state. `note` says in words why it is blind or without data.

    `blind_since` is set when its source has failed often enough that this is no hiccup.
    `limit` is the limit in force at the newest look, as people read it: of a clause that is
    relative, what its change comes to, and nothing while there is nothing to compare with.
    `without_data` is true when the newest look had none, be the state what it may.
    """

    row: Row
    clause: Clause
    state: GuardState
    value: float | None = None
    log_evidence: float | None = None
    onset_at: datetime | None = None
    note: str = ""
    blind_since: datetime | None = None
    limit: str = ""
    without_data: bool = False


def assess(plan: Plan, progress: Progress, now: datetime) -> tuple[Guard, ...]:
    """Every guard of the plan, the most severe row first."""
    return tuple(_assess(plan, row, clause, progress, now) for row, clause in plan.guards())


def _assess(plan: Plan, row: Row, clause: Clause, progress: Progress, now: datetime) -> Guard:
    metric = plan.metrics[clause.metric]
    blocker = clause.blocker or metric.blocker
    if blocker:
        return Guard(row, clause, GuardState.BLIND, note=blocker)
    measured, evidence = progress.of(metric.name), progress.evidence_of(clause)
    latest, onset = measured.latest, evidence.run.onset if evidence.run else None
    if metric.type is MetricType.GAUGE:
        onset = progress.gauge_of(clause).past_limit
    state = _judged(evidence, onset, breached=progress.is_breached(plan, row, clause, now))
    note, blind_since, without_data = "", None, False
    if state is not GuardState.BREACHED:
        blind = _blindness(metric, progress, now) or _incomparable(clause, metric, progress)
        if blind:
            state, note = GuardState.BLIND, blind
            blind_since = measured.failing_since if measured.failures >= BLIND_LOOKS_MIN else None
        elif latest is None or (needs_past(clause) and progress.reference_of(metric) is None):
            what = "the first look at" if latest is None else "the past of"
            state, note = GuardState.UNSEEN, f"{what} {metric.name}"
        elif not latest.is_measured:
            is_dry = _is_dry(metric, latest, progress) and state in (GuardState.QUIET, GuardState.PAST_LIMIT)
            state = GuardState.NO_DATA if is_dry else state
            note, without_data = f"{metric.name} had no data in its newest window", True
    return Guard(
        row,
        clause,
        state,
        latest.number if latest else None,
        evidence.log_value if evidence.value > 0 else None,
        onset,
        note,
        blind_since,
        _limit(clause, metric, progress),
        without_data,
    )


def _is_dry(metric: Metric, latest: Look, progress: Progress) -> bool:
    """Whether it has had no data for so long, or never, that this is news: some have none in every second window."""
    data_until = progress.of(metric.name).data_until
    return data_until is None or latest.window.end - data_until > stale_after(metric)


def limit_in_force(clause: Clause, metric: Metric, progress: Progress) -> float | None:
    """The limit at the newest look; of a clause that is relative None while there is nothing to compare with."""
    if clause.baseline is None:
        return clause.limit.value
    latest = progress.of(metric.name).latest
    return limit_of(clause, metric, progress.reference_of(metric), latest) if latest is not None else None


def _limit(clause: Clause, metric: Metric, progress: Progress) -> str:
    if clause.baseline is None:
        return str(clause.limit)
    limit = limit_in_force(clause, metric, progress)
    return metric.format(limit) if limit is not None else ""


def _judged(evidence: Evidence, onset: datetime | None, *, breached: bool) -> GuardState:
    """The guard's state by its evidence alone; `onset` is that of the run past the limit."""
    if breached:
        return GuardState.BREACHED
    if evidence.is_vetoed:
        return GuardState.INCIDENT
    if evidence.holds:
        return GuardState.HOLDING
    return GuardState.PAST_LIMIT if onset else GuardState.QUIET


def _blindness(metric: Metric, progress: Progress, now: datetime) -> str:
    """Why the metric cannot be judged now, or nothing."""
    measured = progress.of(metric.name)
    if measured.latest is not None and measured.latest.error is not None:
        return f"{metric.name}: {measured.latest.error}"
    stale = stale_at(metric, progress)
    if stale is not None and now > stale:
        return f"{metric.name} was not looked at for longer than {format_duration(stale_after(metric))}"
    return ""


def dark_since(clause: Clause, metric: Metric, progress: Progress, now: datetime) -> datetime | None:
    """Since when the clause cannot be judged; None while it can, and before there is anything to judge."""
    measured = progress.of(metric.name)
    if measured.failing_since is not None:
        return measured.failing_since
    if clause.blocker or metric.blocker or _incomparable(clause, metric, progress):
        return progress.looks_from
    stale = stale_at(metric, progress)
    return stale - stale_after(metric) if stale is not None and now > stale else None


def stale_at(metric: Metric, progress: Progress) -> datetime | None:
    """After when the metric counts as blind if it is not looked at again; None before the first look or stage."""
    looked_until, looks_from = progress.of(metric.name).looked_until, progress.looks_from
    since = looks_from if looked_until is None or (looks_from and looks_from > looked_until) else looked_until
    return since + stale_after(metric) if since is not None else None


def _incomparable(clause: Clause, metric: Metric, progress: Progress) -> str:
    """Why there is nothing to compare a relative clause with, or nothing."""
    latest, reference = progress.of(metric.name).latest, progress.reference_of(metric)
    if clause.baseline is BaselineType.CONTROL and latest is not None and latest.is_measured:
        columns = "control_events and control_units" if metric.type is MetricType.RATIO else "control_value"
        return "" if latest.has_control else f"{metric.name} has no control arm: its query must give {columns}"
    if not needs_past(clause):
        return ""
    if reference is None and progress.reference_until is None:
        return f"{metric.name} was not compared with its past before the first raise: begin another attempt"
    if reference is not None and not any(count for _, count in reference.hours):
        return f"{metric.name} has no past to be compared with: {reference.note}"
    return ""


def breach_of(guard: Guard, metric: Metric, now: datetime) -> Breach:
    """The record of a guard that is breached."""
    return Breach(
        severity=guard.row.severity,
        metric=guard.clause.metric,
        clause=str(guard.clause),
        value=metric.format(guard.value) if guard.value is not None else "unknown",
        limit=guard.limit or str(guard.clause.limit),
        log_evidence=guard.log_evidence,
        onset_at=guard.onset_at or now,
        respond_within=guard.row.respond_within,
        action=str(guard.row.action.type),
    )


def blind_too_long(guards: Iterable[Guard], now: datetime) -> Guard | None:
    """The guard of the most severe row that lowers exposure and was not measured for its `respondWithin`."""
    overdue = (g for g in guards if g.blind_since is not None and now - g.blind_since >= g.row.respond_within)
    return max((g for g in overdue if g.row.action.type.lowers), key=lambda guard: guard.row.severity, default=None)


def worst(guards: Iterable[Guard]) -> Guard | None:
    """The breached guard of the most severe row that lowers exposure."""
    return max(
        (g for g in guards if g.state is GuardState.BREACHED and g.row.action.type.lowers),
        key=lambda guard: guard.row.severity,
        default=None,
    )


def targets(action: Action, plan: Plan, ledger: Ledger) -> dict[str, Exposure]:
    """What each flag is lowered to: it is written as the meet of the row and this.

    All flags that the attempt has raised, or those that the action names; a named flag
    that the attempt has not written is left alone.
    """
    flags = ledger.raised if action.flags is None else [f for f in ledger.written if f in action.flags]
    return {flag: _target(action, plan, ledger, flag) for flag in flags}


def ordered_targets(action: Action, plan: Plan, ledger: Ledger, rows: Mapping[str, Exposure]) -> dict[str, Exposure]:
    """The same for a person's order: also what somebody else has raised by hand above what it was before."""
    flags = [
        flag
        for flag, left in ledger.written.items()
        if raises(ledger.baseline.get(flag, OFF), left) or raises(ledger.baseline.get(flag, OFF), rows.get(flag, OFF))
    ]
    return {flag: _target(action, plan, ledger, flag) for flag in flags}


def _target(action: Action, plan: Plan, ledger: Ledger, flag: str) -> Exposure:
    if action.type is ActionType.RESTRICT_TO_GROUPS and action.groups:
        return Exposure(True, FULL, action.groups)
    if action.type is not ActionType.REDUCE_PERCENTAGE:
        return DISABLED
    if action.percentage is not None:
        return Exposure(True, action.percentage)
    index = -1
    if action.to is Target.PREVIOUS_STAGE:
        # Stages that were edited since they were entered do not say what the rows were in them.
        index = min(plan.previous_flag_stage(ledger.stage), plan.unchanged(ledger.executed) - 1)
    return plan.exposure_after(index, ledger.baseline).get(flag, DISABLED)
