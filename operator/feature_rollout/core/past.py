"""Which past an attempt is compared with, and what a metric's looks say of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from feature_rollout.core.looks import Look
from feature_rollout.core.plan import Metric, MetricType
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import BLOCK_EVENTS_MIN, BLOCKS_MIN, Reference, of_gauge, of_ratio, too_few
from feature_rollout.core.state import Ledger

# A rollout that waits for people or for its window is compared with the days before it starts, and not before it came.
OUTDATED_AFTER = timedelta(days=1)


def begun(progress: Progress, ledger: Ledger, now: datetime) -> Progress:
    """Fix the past that this attempt is compared with: what comes before its first raise."""
    until = progress.reference_until
    if until is not None and not progress.watching and ledger.attempt == 1 and now - until > OUTDATED_AFTER:
        return replace(progress, reference_until=now, references={})
    untouched = not progress.watching or (ledger.attempt > 1 and not progress.metrics)
    if until is not None or not untouched:
        return progress
    return replace(progress, reference_until=now)


def inherited(progress: Progress, earlier: Progress | None) -> Progress:
    """With the past of the attempt before, if that has raised: the days since then were the rollout's own."""
    if earlier is None or not earlier.watching or progress.reference_until is not None:
        return progress
    references = {name: reference.settled() for name, reference in earlier.references.items()}
    return replace(progress, reference_until=earlier.reference_until, references=references)


def without_blocks(metric: Metric, whole: Look, early: Look, *, needed: bool) -> Reference | None:
    """The reference where two looks tell that half hours would say nothing; None where they are to be read.

    `whole` is of all seven days, `early` of all but what is too young for 30 blocks;
    `needed` says that a clause cannot be judged without the past.
    """
    if not needed and not _is_worth_it(whole, early):
        return Reference(metric.key, note=too_few())
    if _is_empty(whole):
        return Reference(metric.key, note="it has no data in the seven days before")
    return None


def of_blocks(metric: Metric, looks: Iterable[Look]) -> Reference:
    """The reference from a look at each half hour."""
    make = of_ratio if metric.type is MetricType.RATIO else of_gauge
    return make(metric.key, looks)


def _is_worth_it(whole: Look, early: Look) -> bool:
    """Whether there can be 30 blocks with 10 events each."""
    events = (whole.events or 0.0) + (whole.control_events or 0.0)
    return events >= BLOCKS_MIN * BLOCK_EVENTS_MIN and bool((early.units or 0.0) + (early.control_units or 0.0))


def _is_empty(look: Look) -> bool:
    return look.number is None and look.control_number is None
