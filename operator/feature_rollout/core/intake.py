"""Looks that have arrived are taken into the progress, which is made to fit the ledger and the plan before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from feature_rollout.core.decision import View
from feature_rollout.core.looks import Look
from feature_rollout.core.measured import MetricProgress
from feature_rollout.core.plan import OnNoTraffic, Plan
from feature_rollout.core.progress import Progress
from feature_rollout.core.standstill import stands_still
from feature_rollout.core.state import Ledger


def taken_in(view: View, known: Progress | None, looks: Iterable[Look] = ()) -> Progress:
    """The progress at `view.now` from what was known before, after the looks in the order of their windows.

    Of the view, everything but its progress and its guards is read.
    """
    progress = aligned(known, view.plan, view.ledger, view.now).lifted(view.ledger.people.lifted)
    on_no_traffic = view.stage.on_no_traffic if view.stage else OnNoTraffic.WAIT
    if progress.is_ahead_of(view.now):
        progress = progress.rewound(view.plan, view.now, on_no_traffic)
    counting = not stands_still(view)
    for look in sorted(looks, key=lambda look: (look.window.end, look.metric)):
        progress = progress.observed(view.plan, look, counting=counting, on_no_traffic=on_no_traffic)
    return progress.elapsed(view.plan, view.now, counting=counting)


def aligned(progress: Progress | None, plan: Plan, ledger: Ledger, now: datetime) -> Progress:
    """The progress that belongs to the ledger's stage, from what was last measured in this attempt.

    The ledger is the truth: a stage that it has entered and that `progress` does not know
    of (the process died between the two) starts then. Without any progress, what the
    ledger row says was baked is kept, and no time before `now` is counted again.
    """
    if progress is not None:
        progress = _rekeyed(progress, plan)
    if ledger.entered_at is None:
        is_earlier = progress is None or progress.stage_from is not None
        return Progress(watching=bool(ledger.raised)) if progress is None or is_earlier else progress
    if progress is None:
        watching = bool(ledger.raised) or any(stage.entries for stage in plan.stages[: ledger.stage + 1])
        fresh = Progress().entered(plan, ledger.entered_at, raised=watching)
        return replace(fresh, baked=ledger.baked, baked_until=max(ledger.entered_at, now))
    if progress.stage_from == ledger.entered_at:
        return progress
    wrote = any(stage.entries for stage in plan.stages[ledger.stage : ledger.stage + 1])
    entered = progress.entered(plan, ledger.entered_at, raised=wrote)
    if not ledger.baked:
        return entered
    # Another process has measured that, in windows that this one will look at too.
    return replace(entered, baked=ledger.baked, baked_until=max(ledger.entered_at, now))


def _rekeyed(progress: Progress, plan: Plan) -> Progress:
    """After an edit of a template, its arguments or its provider: what the old query has measured does not count.

    Of that metric alone: its counts and values in the stage, its looks, its arms.
    """
    edited = {
        name: MetricProgress(key=metric.key)
        for name, metric in plan.metrics.items()
        if progress.of(name).key not in ("", metric.key)
    }
    return replace(progress, metrics={**progress.metrics, **edited}) if edited else progress
