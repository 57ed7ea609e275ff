"""What a clause is judged against: its own limit, the metric's past, or the control arm at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache

from feature_rollout.core.evidence import Arm, Evidence, Test, default_dispersion
from feature_rollout.core.gauge import Pair
from feature_rollout.core.looks import Look
from feature_rollout.core.plan import BaselineType, Clause, Metric, MetricType, Plan, Sense
from feature_rollout.core.reference import BLOCK, Block, Reference, gauge_limit, ratio_limit

# A breach is not the rollout's doing while over so many looks the treated users
# fare at most so many times as badly as the others.
VETO_LOOKS = 10
VETO_FACTOR = 1.5
# Guards are tried on the past at this part of their limits.
QUIET_PART = 0.8

# A look's treated and control arm.
Arms = tuple[Arm, Arm]


def dispersion_of(metric: Metric, reference: Reference | None) -> float:
    if reference is not None and reference.dispersion is not None:
        return reference.dispersion
    return default_dispersion(metric.counts_users)


def needs_past(clause: Clause) -> bool:
    return clause.baseline is BaselineType.BEFORE_ROLLOUT


def wanted_references(plan: Plan) -> dict[str, bool]:
    """The metrics whose past is asked for before the first raise, and whether a clause cannot be judged without it."""
    wanted: dict[str, bool] = {}
    for _, clause in plan.guards():
        metric = plan.metrics[clause.metric]
        if clause.blocker or metric.blocker or (metric.type is MetricType.GAUGE and not needs_past(clause)):
            continue
        wanted[metric.name] = wanted.get(metric.name, False) or needs_past(clause)
    return wanted


def past_limit(clause: Clause, metric: Metric, reference: Reference | None, at: datetime) -> float | None:
    """The limit that the past gives for the hour of `at`; None without such a past.

    Of a Ratio that must not decrease, it is that of the complement.
    """
    if reference is None or reference.key != metric.key:
        return None
    change = clause.limit.value if clause.sense is Sense.ABOVE else -clause.limit.value
    if metric.type is MetricType.GAUGE:
        return gauge_limit(reference, at, change)
    return ratio_limit(reference, at, change, dispersion_of(metric, reference))


def limit_of(clause: Clause, metric: Metric, reference: Reference | None, look: Look) -> float | None:
    """The limit in force at a look, as a value of the metric; None where there is nothing to compare with."""
    if clause.baseline is None:
        return clause.limit.value
    if clause.baseline is BaselineType.CONTROL:
        return None if look.control_number is None else _control_limit(clause, look.control_number)
    limit = past_limit(clause, metric, reference, look.window.start)
    if limit is None or metric.type is MetricType.GAUGE or clause.sense is Sense.ABOVE:
        return limit
    return 1 - limit


def _control_limit(clause: Clause, control: float) -> float:
    """What the control arm's number comes to: away from it in the direction of the change, also below zero."""
    change = clause.limit.value if clause.sense is Sense.ABOVE else -clause.limit.value
    return control + change * abs(control)


def is_by_signs(clause: Clause, metric: Metric) -> bool:
    """Whether the clause compares blocks of a Gauge with those of its control arm."""
    return metric.type is MetricType.GAUGE and clause.baseline is BaselineType.CONTROL and clause.persist is None


def test_name(clause: Clause, metric: Metric) -> str:
    """Which rule the clause is judged by, in few words."""
    if metric.type is MetricType.RATIO:
        rule = "two-sample" if clause.baseline is BaselineType.CONTROL else "one-sample"
    elif clause.persist is not None:
        rule = f"{clause.persist.failures} of {clause.persist.of} looks"
    else:
        rule = "sign test of blocks" if is_by_signs(clause, metric) else "blocks of looks"
    if clause.baseline is BaselineType.CONTROL:
        return f"{rule}, against the control arm"
    return f"{rule}, against the past of the hour" if needs_past(clause) else rule


def is_past(clause: Clause, metric: Metric, reference: Reference | None, look: Look) -> bool:
    """Whether one look alone is on the bad side of the clause's limit."""
    limit, number = limit_of(clause, metric, reference, look), look.number
    if limit is None or number is None:
        return False
    return number > limit if clause.sense is Sense.ABOVE else number < limit


def judged(
    evidence: Evidence, test: Test, clause: Clause, look: Look, *, metric: Metric, reference: Reference | None
) -> Evidence:
    """The evidence after a look at a Ratio that was measured."""
    start = look.window.start
    treated, control = arms_of(look)
    if clause.baseline is BaselineType.CONTROL:
        if control is None:
            return evidence
        # Less than (1 - d) times the control's rate: the control's is more than 1 / (1 - d) times the treated one's.
        if clause.sense is Sense.BELOW:
            return evidence.compared(test, 1 / (1 - clause.limit.value), control, treated, start)
        return evidence.compared(test, 1 + clause.limit.value, treated, control, start)
    bad = bad_of(clause, treated)
    if clause.baseline is None:
        return evidence.looked(test, *bad, start)
    limit = past_limit(clause, metric, reference, start)
    return evidence if limit is None else evidence.looked(test, *bad, start, limit)


def judged_pair(evidence: Evidence, test: Test, clause: Clause, pair: Pair) -> Evidence:
    """The evidence after a block of a Gauge and of its control arm; one that is just at the limit is dropped."""
    limit = _control_limit(clause, pair.control)
    if pair.treated == limit:
        return evidence
    is_worse = pair.treated > limit if clause.sense is Sense.ABOVE else pair.treated < limit
    return evidence.signed(test, pair.start, is_worse=is_worse)


def is_global(clause: Clause, arms: Sequence[Arms]) -> bool:
    """Whether what the treated users see, the others see too: over these looks, the newest last.

    Not asked for a clause that is relative to the control arm, which says so by itself.
    """
    if clause.baseline is BaselineType.CONTROL:
        return False
    newest = arms[-VETO_LOOKS:]
    treated, control = (_sum([bad_of(clause, look[side]) for look in newest]) for side in (0, 1))
    if not treated.units or not control.units:
        return False
    return treated.rate <= VETO_FACTOR * control.rate


def arms_of(look: Look) -> tuple[Arm, Arm | None]:
    treated = Arm(look.events or 0.0, look.units or 0.0)
    if look.control_events is None or look.control_units is None:
        return treated, None
    return treated, Arm(look.control_events, look.control_units)


def bad_of(clause: Clause, arm: Arm) -> Arm:
    """The arm with what the clause counts as bad; `below` and `decrease` count what is no event."""
    if clause.sense is Sense.ABOVE:
        return arm
    # More events than units (Prometheus extrapolates) must not make a negative complement.
    return Arm(max(arm.units - arm.events, 0.0), arm.units)


# Asked at each reconcile until the first raise, of a past that does not change.
@lru_cache(maxsize=256)
def fires_on(reference: Reference, test: Test, clause: Clause, metric: Metric) -> bool:
    """Whether the clause, with its limit at 80 %, would have been conclusive in the past, where no rollout was.

    The half hours of the reference are taken for the looks.
    """
    if clause.baseline is BaselineType.CONTROL:
        return False
    slow = replace(test, interval_s=BLOCK.total_seconds())
    evidence = Evidence()
    for block in reference.blocks:
        limit = _quiet_limit(reference, slow, clause, metric, block)
        if limit is None:
            continue
        bad = bad_of(clause, Arm(block.events, block.units))
        evidence = evidence.looked(slow, *bad, block.start, limit)
        if evidence.conclusive(slow):
            return True
    return False


def _quiet_limit(reference: Reference, test: Test, clause: Clause, metric: Metric, block: Block) -> float | None:
    limit = test.limit if clause.baseline is None else past_limit(clause, metric, reference, block.start)
    if limit is None:
        return None
    if clause.sense is Sense.ABOVE:
        return QUIET_PART * limit
    # Of the complement; a rate that must not fall below 0.5 % is tried at 0.625 %, and not at 20.4 %.
    return max(QUIET_PART * limit, 1 - (1 - limit) / QUIET_PART)


def _sum(arms: Sequence[Arm]) -> Arm:
    return Arm(sum(arm.events for arm in arms), sum(arm.units for arm in arms))
