"""The metrics of each rollout, read from memory when they are asked for: a look costs nothing more for them.

Labels are `rollout_namespace` and `rollout`: a `namespace` would be taken for that of the scraped Pod. Only who leads
has them, and a rollout's are gone with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from feature_rollout.core.decision import View
from feature_rollout.core.figures import blind_s, exposures, guards
from feature_rollout.core.state import Breach
from feature_rollout.runtime.logs import report

log = logging.getLogger(__name__)

PREFIX = "featurerollout_"
ROLLOUT = ("rollout_namespace", "rollout")
FLAG = (*ROLLOUT, "flag", "exposure")
GUARD = (*ROLLOUT, "severity", "metric", "clause")
# Name, what it is, labels.
FAMILIES = (
    (
        "rollout_info",
        "1 for each rollout; its phase and the stage that was entered last.",
        (*ROLLOUT, "phase", "stage"),
    ),
    ("rollout_stage", "The stage that a rollout has entered last: 1 is the first, 0 none yet.", ROLLOUT),
    ("rollout_stages", "How many stages the plan of a rollout has.", ROLLOUT),
    ("rollout_age_seconds", "How long ago a rollout and its flag rows were looked at.", ROLLOUT),
    (
        "flag_percentage",
        "Who has a flag, in percent, 0 is nobody: desired by the plan, applied by the operator, observed in the table.",
        FLAG,
    ),
    ("flag_enabled", "1 when a flag is switched on; exposure as in flag_percentage.", FLAG),
    ("flag_groups", "To how many groups a flag is restricted, 0 is everyone; exposure as in flag_percentage.", FLAG),
    (
        "metric_value",
        "A metric's newest look, where it had data: a fraction of 1 for a Ratio, else in the metric's unit.",
        (*ROLLOUT, "metric"),
    ),
    (
        "metric_blind_seconds",
        "For how long a guarded metric could not be judged, 0 when it can; from the first raise to the rollout's end.",
        (*ROLLOUT, "metric"),
    ),
    ("guard_limit", "The limit in force of a clause of the matrix, in the unit of metric_value.", GUARD),
    ("guard_evidence", "The evidence that a clause is past its limit.", GUARD),
    ("guard_evidence_limit", "The evidence at which the row of a clause acts.", GUARD),
    (
        "rollout_revert_seconds",
        "Of a rollout that its matrix has taken back: from the onset of the breach to the committed action.",
        (*ROLLOUT, "severity"),
    ),
    (
        "rollout_respond_within_seconds",
        "How long rollout_revert_seconds may be: the respondWithin of the row that acted.",
        (*ROLLOUT, "severity"),
    ),
)
Sample = tuple[str, tuple[str, ...], float]


@dataclass(slots=True, eq=False)
class RolloutFigures(Collector):
    """Set `views` and `phase` to what knows them. They are called in whatever thread is scraped in."""

    views: Callable[[], Iterable[View]] = tuple
    phase: Callable[[str, str], str] = lambda _namespace, _name: ""

    def collect(self) -> Iterator[Metric]:
        families = {name: GaugeMetricFamily(PREFIX + name, what, labels=labels) for name, what, labels in FAMILIES}
        now = datetime.now(UTC)
        for view in self.views():
            try:
                samples = list(_samples(view, self.phase(view.namespace, view.name), now))
            except Exception as error:  # noqa: BLE001 - S21: one rollout must not take the metrics of all others along
                report(log, "a rollout's metrics could not be made", error, rollout=view.ledger.key)
                continue
            for name, labels, value in samples:
                families[name].add_metric((view.namespace, view.name, *labels), value)
        yield from families.values()


def _samples(view: View, phase: str, now: datetime) -> Iterator[Sample]:
    yield "rollout_info", (phase, view.stage.name if view.stage else ""), 1
    yield "rollout_stage", (), view.ledger.stage + 1
    yield "rollout_stages", (), len(view.plan.stages)
    yield "rollout_age_seconds", (), (now - view.now).total_seconds()
    for flag, whose, row in exposures(view):
        yield "flag_percentage", (flag, whose), 0.0 if row.is_off else float(row.percentage)
        yield "flag_enabled", (flag, whose), row.enabled
        yield "flag_groups", (flag, whose), len(row.groups)
    for metric in view.plan.metrics:
        latest = view.progress.of(metric).latest
        if latest is not None and latest.number is not None:
            yield "metric_value", (metric,), latest.number
    for metric, seconds in blind_s(view, now).items():
        yield "metric_blind_seconds", (metric,), seconds
    yield from _guards(view)
    yield from _revert(view)


def _guards(view: View) -> Iterator[Sample]:
    for guard in guards(view):
        labels = (guard.severity, guard.metric, guard.clause)
        if guard.limit is not None:
            yield "guard_limit", labels, guard.limit
        yield "guard_evidence", labels, guard.evidence
        yield "guard_evidence_limit", labels, guard.evidence_limit


def _revert(view: View) -> Iterator[Sample]:
    latch = view.ledger.latch
    if latch is not None and isinstance(latch.cause, Breach):
        severity = (str(latch.cause.severity),)
        yield "rollout_revert_seconds", severity, max((latch.acted_at - latch.cause.onset_at).total_seconds(), 0.0)
        yield "rollout_respond_within_seconds", severity, latch.cause.respond_within.total_seconds()
