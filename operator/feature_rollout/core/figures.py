"""A rollout in numbers, for those who draw it: what is exposed, what speaks against it, who does not watch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from feature_rollout.core.decision import View
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.gauge import FAR_BLOCKS, NEAR_BLOCKS
from feature_rollout.core.guards import dark_since, limit_in_force
from feature_rollout.core.plan import Clause, MetricType, Row
from feature_rollout.core.relative import is_by_signs

# As many as a plan may have; those that an edit has dropped come last.
FLAGS_MAX = 100


class Whose(StrEnum):
    """Whose word an exposure is."""

    DESIRED = "desired"  # the plan's, for the stage that was entered last
    APPLIED = "applied"  # the operator's: how it left the row, lower than desired after a revert
    OBSERVED = "observed"  # the table's; another than applied when somebody else has changed the row


@dataclass(frozen=True, slots=True)
class GuardFigures:
    """A clause: the limit in force, None while there is nothing to compare with, and the evidence against it.

    It is conclusive when `evidence` has reached `evidence_limit`. Both are e-values for a Ratio, and for a Gauge that
    is compared with its control arm; looks past the limit with `persist`; else a fraction of the blocks that it takes.
    """

    severity: str
    metric: str
    clause: str
    limit: float | None
    evidence: float
    evidence_limit: float


def exposures(view: View) -> Iterator[tuple[str, Whose, Exposure]]:
    """Every flag of the plan, as far as it is known."""
    ledger = view.ledger
    of = {
        Whose.DESIRED: view.plan.exposure_after(ledger.stage, ledger.baseline),
        Whose.APPLIED: ledger.written,
        Whose.OBSERVED: view.rows,
    }
    for flag in list(dict.fromkeys([*view.plan.flags, *ledger.written]))[:FLAGS_MAX]:
        yield from ((flag, whose, rows[flag]) for whose, rows in of.items() if flag in rows)


def guards(view: View) -> list[GuardFigures]:
    """Every clause that can be judged, once: of two that read alike the first. None when the rollout is over."""
    found: dict[tuple[str, str], GuardFigures] = {}
    for row, clause in () if view.is_over else view.plan.guards():
        metric = view.plan.metrics[clause.metric]
        key = str(row.severity), str(clause)
        if clause.blocker is None and metric.blocker is None and key not in found:
            limit = limit_in_force(clause, metric, view.progress)
            found[key] = GuardFigures(key[0], metric.name, key[1], limit, *_evidence(view, row, clause))
    return list(found.values())


def blind_s(view: View, now: datetime) -> Mapping[str, float]:
    """For how many seconds each guarded metric could not be judged, 0 where it can; from the first raise to the end."""
    if view.is_over or not view.progress.watching:
        return {}
    longest = dict.fromkeys(view.plan.guarded_metrics, 0.0)
    for _, clause in view.plan.guards():
        since = dark_since(clause, view.plan.metrics[clause.metric], view.progress, now)
        if since is not None:
            longest[clause.metric] = max(longest[clause.metric], (now - since).total_seconds())
    return longest


def _evidence(view: View, row: Row, clause: Clause) -> tuple[float, float]:
    metric, progress = view.plan.metrics[clause.metric], view.progress
    if metric.type is MetricType.RATIO or is_by_signs(clause, metric):
        return progress.evidence_of(clause).value, progress.test_of(view.plan, row, clause).threshold
    run = progress.gauge_of(clause)
    if clause.persist is not None:
        return float(sum(run.recent[-clause.persist.of :])), float(clause.persist.failures)
    return max(run.far_blocks / FAR_BLOCKS, run.near_blocks / NEAR_BLOCKS), 1.0
