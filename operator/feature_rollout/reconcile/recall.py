"""The seven days before the first raise of an attempt: asked once, in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from feature_rollout.core.looks import Look, Window
from feature_rollout.core.plan import Metric, MetricType, Plan
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import (
    BLOCK_EVENTS_MIN,
    BLOCKS_MIN,
    Reference,
    of_gauge,
    of_ratio,
    too_few,
    windows_before,
)
from feature_rollout.core.relative import wanted_references
from feature_rollout.core.state import Ledger
from feature_rollout.ports import MetricSource

log = logging.getLogger(__name__)

# A source that has not given a metric's past by then has none to give: the rollout starts without.
PATIENCE = timedelta(minutes=5)
# One that fails is asked again, for so long.
PATIENCE_WITH_FAILURES = timedelta(minutes=1)
RETRY = timedelta(seconds=5)
# A rollout that waits for people or for its window is compared with the days before it starts, and not before it came.
OUTDATED_AFTER = timedelta(days=1)
# A clause that cannot be judged without it waits for as long as it takes, and asks more seldom.
RETRY_WHERE_NEEDED = timedelta(seconds=30)


@dataclass(slots=True)
class Recall:
    """What is under way for one metric; `since` is when its past was first asked for."""

    metric: Metric
    since: datetime
    asked_at: datetime
    task: asyncio.Task[Reference | str]


def recalled(
    progress: Progress,
    recalls: dict[str, Recall],
    plan: Plan,
    *,
    source: MetricSource | None,
    now: datetime,
    wake: Callable[[], None],
) -> Progress:
    """One step: take what has arrived, give up what takes too long, ask for what is missing. Changes `recalls`."""
    wanted = wanted_references(plan)
    for name, recall in list(recalls.items()):
        if name in wanted and plan.metrics[name] == recall.metric:
            progress = _taken(progress, recall, needed=wanted[name], now=now)
    missing = progress.references_missing(plan)
    for name, recall in list(recalls.items()):
        if name not in missing or plan.metrics[name] != recall.metric:
            recalls.pop(name).task.cancel()
    for name in missing if source is not None else ():
        known = recalls.get(name)
        retry = RETRY_WHERE_NEEDED if wanted[name] else RETRY
        if known is None or (known.task.done() and now - known.asked_at >= retry):
            assert source is not None  # noqa: S101 - looked at just above; the type checker cannot see it
            task = _asked(source, plan.metrics[name], progress, needed=wanted[name])
            task.add_done_callback(lambda _: wake())
            recalls[name] = Recall(plan.metrics[name], known.since if known else now, now, task)
    return progress


def begun(progress: Progress, ledger: Ledger, now: datetime) -> Progress:
    """Fix the past that this attempt is compared with: what comes before its first raise."""
    until = progress.reference_until
    if until is not None and not progress.watching and now - until > OUTDATED_AFTER:
        return replace(progress, reference_until=now, references={})
    untouched = not progress.watching or (ledger.attempt > 1 and not progress.metrics)
    if until is not None or not untouched:
        return progress
    return replace(progress, reference_until=now)


def _taken(progress: Progress, recall: Recall, *, needed: bool, now: datetime) -> Progress:
    name, waited = recall.metric.name, now - recall.since
    if recall.task.done():
        found = recall.task.result()
        if isinstance(found, Reference):
            return progress.referred(name, found)
        if needed or waited < PATIENCE_WITH_FAILURES:
            return progress
    elif waited < PATIENCE:
        return progress
    else:
        found = f"its source did not give the seven days before within {PATIENCE.seconds // 60} minutes"
    log.warning("%s has no reference: %s", name, found)
    return progress.referred(name, Reference(recall.metric.key, note=found))


def _asked(source: MetricSource, metric: Metric, progress: Progress, *, needed: bool) -> asyncio.Task[Reference | str]:
    assert progress.reference_until is not None  # noqa: S101 - or nothing would be missing
    windows = windows_before(progress.reference_until - metric.delay)
    return asyncio.create_task(_reference(source, metric, windows, needed=needed))


async def _reference(
    source: MetricSource, metric: Metric, windows: tuple[Window, ...], *, needed: bool
) -> Reference | str:
    """The reference, or what went wrong. A metric without enough of a past costs two queries."""
    try:
        # All of it, and all but what is too young for 30 blocks.
        wide = [Window(windows[0].start, windows[-1].end), Window(windows[0].start, windows[-BLOCKS_MIN].end)]
        looks = [look.checked() for look in await source.history(metric.name, wide)]
        errors = [look.error for look in looks if look.error is not None]
        if errors:
            return errors[0]
        if not needed and not _is_worth_it(*looks):
            return Reference(metric.key, note=too_few())
        if _is_empty(looks[0]):
            return Reference(metric.key, note="it has no data in the seven days before")
        looks = list(await source.history(metric.name, windows))
    except Exception as error:  # noqa: BLE001 - a bug of a source must cost no more than an answer
        log.error("a metric source failed with %s", type(error).__name__)  # noqa: TRY400 - its text may hold secrets
        return f"the metric source failed with {type(error).__name__}"
    errors = [look.error for look in looks if look.error is not None]
    if len(errors) > len(windows) - BLOCKS_MIN:
        return errors[0]
    make = of_ratio if metric.type is MetricType.RATIO else of_gauge
    return make(metric.key, looks)


def _is_worth_it(whole: Look, early: Look) -> bool:
    """Whether there can be 30 blocks with 10 events each."""
    events = (whole.events or 0.0) + (whole.control_events or 0.0)
    return events >= BLOCKS_MIN * BLOCK_EVENTS_MIN and bool((early.units or 0.0) + (early.control_units or 0.0))


def _is_empty(look: Look) -> bool:
    return look.value is None and not look.units and not look.control_units
