"""Guards: what every clause of the matrix says now, and what a row would do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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
    blocker = clause.blocker or metric.blocker
    if blocker:
        return Guard(row, clause, GuardState.BLIND, note=blocker)
    latest = progress.of(metric.name).latest
    guard = _judged(Guard(row, clause, GuardState.QUIET, latest.number if latest else None), plan, progress, now)
    if guard.state is GuardState.BREACHED:
        return guard
    blind = _blindness(metric, progress, now)
    if blind:
        return replace(guard, state=GuardState.BLIND, note=blind)
    if latest is not None and not latest.is_measured:
        return replace(guard, state=GuardState.NO_DATA, note=f"{metric.name} had no data in its newest window")
    return guard


def _judged(guard: Guard, plan: Plan, progress: Progress, now: datetime) -> Guard:
    """The guard's state by its evidence alone, with the onset of the run past the limit, and ln E."""
    row, clause, metric = guard.row, guard.clause, plan.metrics[guard.clause.metric]
    if metric.type is MetricType.GAUGE:
        run = progress.gauges.get(clause.key, GaugeRun())
        breached, holding = run.breached(gauge_rule(metric, clause)), False
        guard = replace(guard, onset_at=run.past_limit)
    else:
        evidence, test = progress.evidence.get(clause.key, Evidence()), test_of(plan, row, clause)
        breached = evidence.conclusive(test) or evidence.overdue(test, row.respond_within, now)
        holding = evidence.holds
        guard = replace(
            guard,
            onset_at=evidence.run.onset if evidence.run else None,
            log_evidence=evidence.log_value if evidence.value > 0 else None,
        )
    if breached:
        return replace(guard, state=GuardState.BREACHED)
    if holding:
        return replace(guard, state=GuardState.HOLDING)
    return replace(guard, state=GuardState.PAST_LIMIT) if guard.onset_at else guard


def _blindness(metric: Metric, progress: Progress, now: datetime) -> str:
    """Why the metric cannot be judged now, or nothing."""
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
