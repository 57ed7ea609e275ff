"""Gates: what a stage's looks must show when its bake is over. A gate holds, it never reverts."""

from __future__ import annotations

from feature_rollout.core.gauge import median
from feature_rollout.core.plan import Gate, MetricType, Plan
from feature_rollout.core.progress import Progress


def unmet(gate: Gate, plan: Plan, progress: Progress) -> tuple[str, ...]:
    """What keeps the gate from passing, in words; nothing when it passes.

    A Ratio is read on the stage's cumulated counts, a Gauge on the median of its looks.
    """
    metric, measured = plan.metrics.get(gate.metric), progress.of(gate.metric)
    if metric is None:
        return (f"{gate.metric} is not bound",)
    if metric.blocker:
        return (metric.blocker,)
    ratio = metric.type is MetricType.RATIO
    units = measured.units if ratio else float(len(measured.values))
    if units < max(gate.min_units, 1):
        return (f"{gate.metric} needs {gate.min_units} {'units' if ratio else 'looks'}",)
    value = measured.events / measured.units if ratio else median(measured.values)
    if gate.at_most is not None and value > gate.at_most.value:
        return (f"{gate.metric} must be at most {gate.at_most}",)
    if gate.at_least is not None and value < gate.at_least.value:
        return (f"{gate.metric} must be at least {gate.at_least}",)
    return ()
