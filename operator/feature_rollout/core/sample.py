"""The sample ratio: are users split between the arms as the plan has it?

A metric whose template says so counts each user once in a stage, in one of the two arms.
The Dirichlet-multinomial of docs/statistics.md (Lindon and Malek, arXiv 2011.03567) tests
the stage's counts against the share that was planned. A mismatch says that the arms are no
fair comparison, and nothing about harm: it holds and never reverts.
"""

from __future__ import annotations

import math

from feature_rollout.core.exposure import format_percentage
from feature_rollout.core.plan import Mode, Plan
from feature_rollout.core.progress import Progress
from feature_rollout.core.state import Ledger

# How close to the plan the shares are that it is tested against: as if this many users had been seen before.
CONCENTRATION = 100.0
# At this evidence the rollout holds; a stage that is split as planned ever gets there with a chance of 1 %.
HOLD_AT = 100.0


def planned_percentage(ledger: Ledger) -> str | None:
    """How many of a hundred users have the flags, or None where the plan alone does not say it.

    It does when all flags that the attempt has raised are at one percentage, between
    nobody and everybody, and none is for groups only.
    """
    rows = [ledger.written[flag] for flag in ledger.raised]
    percentages = {row.percentage for row in rows if row.enabled}
    if len(percentages) != 1 or any(row.groups or not row.enabled for row in rows):
        return None
    (percentage,) = percentages
    return format_percentage(percentage) if 0 < percentage < 100 else None


def log_evidence(treated: float, control: float, share: float) -> float:
    """ln E of a stage's counts against the planned share of the treated, which is between 0 and 1."""
    of_treated, of_control = CONCENTRATION * share, CONCENTRATION * (1 - share)
    return (
        _log_beta(of_treated + treated, of_control + control)
        - _log_beta(of_treated, of_control)
        - treated * math.log(share)
        - control * math.log1p(-share)
    )


def mismatches(plan: Plan, ledger: Ledger, progress: Progress) -> tuple[str, ...]:
    """What of the present stage is not split as planned, or cannot be known although it was asked for; in words."""
    metrics = [m for m in plan.metrics.values() if m.sample_ratio and m.mode is Mode.ENFORCE and not m.blocker]
    percentage = planned_percentage(ledger) if metrics else None
    if percentage is None:
        return ()
    found = []
    for metric in metrics:
        measured = progress.of(metric.name)
        if measured.latest is not None and measured.latest.is_measured and not measured.latest.has_control:
            found.append(f"{metric.name} has no control arm: its query must give control_events and control_units")
            continue
        treated, control = measured.sample
        evidence = log_evidence(treated, control, float(percentage) / 100)
        if evidence >= math.log(HOLD_AT):
            found.append(
                f"{metric.name} has {treated:.10g} of {treated + control:.10g} users with the flags, "
                f"which is {100 * treated / (treated + control):.4g}% and not {percentage}%"
            )
    return tuple(found)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
