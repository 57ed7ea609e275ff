"""The seven days before the first raise of an attempt: asked once, in the background.

Most guards can do without a past, and the rollout waits for it no longer than `PATIENCE`. A clause
that is compared with the past cannot: its rollout waits until the past is known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from feature_rollout.core.looks import Window
from feature_rollout.core.past import of_blocks, without_blocks
from feature_rollout.core.plan import Metric, Plan
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import BLOCKS_MIN, Reference, windows_before
from feature_rollout.core.relative import wanted_references
from feature_rollout.ports import MetricSource

log = logging.getLogger(__name__)

# A source that has not given a metric's past by then has none to give: the rollout starts without.
PATIENCE = timedelta(minutes=5)
# One that fails is asked again, for so long.
PATIENCE_WITH_FAILURES = timedelta(minutes=1)
RETRY = timedelta(seconds=5)
# Where a clause needs it, it is waited for without end, and asked for more seldom.
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
        # Also when the clock was put back since.
        if known is None or (known.task.done() and not timedelta(0) <= now - known.asked_at < retry):
            assert source is not None  # noqa: S101 - looked at just above; the type checker cannot see it
            task = _asked(source, plan.metrics[name], progress, needed=wanted[name])
            task.add_done_callback(lambda _: wake())
            recalls[name] = Recall(plan.metrics[name], known.since if known else now, now, task)
    return progress


def _taken(progress: Progress, recall: Recall, *, needed: bool, now: datetime) -> Progress:
    name, waited = recall.metric.name, now - recall.since
    if recall.task.done():
        found = recall.task.result()
        if isinstance(found, Reference):
            return progress.referred(name, found)
        if needed or waited < PATIENCE_WITH_FAILURES:
            return progress
    elif needed or waited < PATIENCE:
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
        known = without_blocks(metric, looks[0], looks[1], needed=needed)
        if known is not None:
            return known
        looks = list(await source.history(metric.name, windows))
    except Exception as error:  # noqa: BLE001 - a bug of a source must cost no more than an answer
        log.error("a metric source failed with %s", type(error).__name__)  # noqa: TRY400 - its text may hold secrets
        return f"the metric source failed with {type(error).__name__}"
    errors = [look.error for look in looks if look.error is not None]
    if len(errors) > len(windows) - BLOCKS_MIN:
        return errors[0]
    return of_blocks(metric, looks)
