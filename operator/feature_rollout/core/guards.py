"""Guards: what every clause of the matrix says now, and what a row would do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from feature_rollout.core.evidence import Evidence
from feature_rollout.core.exposure import DISABLED, Exposure
from feature_rollout.core.gauge import GaugeRun
from feature_rollout.core.looks import stale_after
from feature_rollout.core.plan import Action, ActionType, Clause, Metric, MetricType, Plan, Row, Target
from feature_rollout.core.progress import Progress, gauge_rule, test_of
from feature_rollout.core.state import Breach


class GuardState(StrEnum):
    QUIET = "Quiet"
    PAST_LIMIT = "PastLimit"  # the newest look is past the limit, which proves nothing yet
    HOLDING = "Holding"  # enough evidence to stop advancing
    BREACHED = "Breached"  # conclusive
    NO_DATA = "NoData"
    BLIND = "Blind"


@dataclass(frozen=True, slots=True)
class Guard:
    """A clause and its state. `note` says in words why it is blind or without data."""

    row: Row
    clause: Clause
    state: GuardState
    value: float | None = None
    log_evidence: float | None = None
    onset_at: datetime | None = None
    note: str = ""

    @property
    def is_blind(self) -> bool:
        return self.state is GuardState.BLIND


def assess(plan: Plan, progress: Progress, now: datetime) -> tuple[Guard, ...]:
    """Every guard of the plan, the most severe row first."""
    return tuple(_assess(plan, row, clause, progress, now) for row, clause in plan.guards())


def _assess(plan: Plan, row: Row, clause: Clause, progress: Progress, now: datetime) -> Guard:
    metric = plan.metrics[clause.metric]
    state, onset_at, log_evidence = _judge(plan, row, clause, metric, progress, now)
    latest = progress.of(metric.name).latest
    value = latest.number if latest else None
    if state is GuardState.BREACHED:
        return Guard(row, clause, state, value, log_evidence, onset_at)
    blind = _blindness(clause, metric, progress, now)
    if blind:
        return Guard(row, clause, GuardState.BLIND, value, log_evidence, onset_at, blind)
    if latest is not None and not latest.is_measured:
        note = f"{metric.name} had no data in its newest window"
        return Guard(row, clause, GuardState.NO_DATA, None, log_evidence, onset_at, note)
    return Guard(row, clause, state, value, log_evidence, onset_at)


def _judge(
    plan: Plan, row: Row, clause: Clause, metric: Metric, progress: Progress, now: datetime
) -> tuple[GuardState, datetime | None, float | None]:
    """The state by evidence alone, the onset of the run past the limit, and ln E."""
    if clause.blocker or metric.blocker:
        return GuardState.QUIET, None, None
    if metric.type is MetricType.GAUGE:
        run = progress.gauges.get(clause.key, GaugeRun())
        if run.breached(gauge_rule(metric, clause)):
            return GuardState.BREACHED, run.past_limit, None
        return GuardState.PAST_LIMIT if run.past_limit else GuardState.QUIET, run.past_limit, None
    evidence, test = progress.evidence.get(clause.key, Evidence()), test_of(plan, row, clause)
    onset_at = evidence.run.onset if evidence.run else None
    log_evidence = evidence.log_value if evidence.value > 0 else None
    if evidence.conclusive(test) or evidence.overdue(test, row.respond_within, now):
        return GuardState.BREACHED, onset_at, log_evidence
    if evidence.holds:
        return GuardState.HOLDING, onset_at, log_evidence
    return GuardState.PAST_LIMIT if onset_at else GuardState.QUIET, onset_at, log_evidence


def _blindness(clause: Clause, metric: Metric, progress: Progress, now: datetime) -> str:
    """Why the guard cannot be judged now, or nothing."""
    if clause.blocker or metric.blocker:
        return clause.blocker or metric.blocker or ""
    measured = progress.of(metric.name)
    if measured.latest is not None and measured.latest.error is not None:
        return f"{metric.name}: {measured.latest.error}"
    since = max((t for t in (measured.looked_until, progress.stage_from) if t is not None), default=None)
    if since is not None and now - since > stale_after(metric):
        return f"{metric.name} was not looked at for longer than {_seconds(stale_after(metric))} s"
    return ""


def breach_of(guard: Guard, metric: Metric, now: datetime) -> Breach:
    """The record of a guard that is breached."""
    return Breach(
        severity=guard.row.severity,
        metric=guard.clause.metric,
        clause=str(guard.clause),
        value=metric.format(guard.value) if guard.value is not None else "unknown",
        limit=str(guard.clause.limit),
        log_evidence=guard.log_evidence,
        onset_at=guard.onset_at or now,
        respond_within=guard.row.respond_within,
        action=str(guard.row.action.type),
    )


def worst(guards: Iterable[Guard]) -> Guard | None:
    """The breached guard of the most severe row that lowers exposure."""
    return max(
        (g for g in guards if g.state is GuardState.BREACHED and g.row.action.type.lowers),
        key=lambda guard: guard.row.severity,
        default=None,
    )


def targets(
    action: Action, plan: Plan, stage: int, baseline: Mapping[str, Exposure], raised: Iterable[str]
) -> dict[str, Exposure]:
    """What each flag is lowered to: it is written as the meet of the row and this.

    `raised` are the flags that the attempt has written; flags that an action names and
    that were not raised are left alone.
    """
    flags = [flag for flag in raised if action.flags is None or flag in action.flags]
    return {flag: _target(action, plan, stage, baseline, flag) for flag in flags}


def _target(action: Action, plan: Plan, stage: int, baseline: Mapping[str, Exposure], flag: str) -> Exposure:
    full = Exposure(True, DISABLED.percentage)
    if action.type is ActionType.RESTRICT_TO_GROUPS and action.groups:
        return Exposure(True, full.percentage, action.groups)
    if action.type is not ActionType.REDUCE_PERCENTAGE:
        return DISABLED
    if action.percentage is not None:
        return Exposure(True, action.percentage)
    index = plan.previous_flag_stage(stage) if action.to is Target.PREVIOUS_STAGE else -1
    return plan.exposure_after(index, baseline).get(flag, DISABLED)


def _seconds(duration: timedelta) -> int:
    return round(duration.total_seconds())
