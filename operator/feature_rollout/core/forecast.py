"""What a plan will do, before it does: when its stages begin, and what its guards and gates can tell.

The figures are those of "What plan prints" in docs/statistics.md. They say what is to be
expected at a given traffic, and promise nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from feature_rollout.core.evidence import EVENTS_CAP, GRID, Test, log_likelihood_ratios
from feature_rollout.core.plan import Gate, Plan

# Times the limit: the harm for which it is said how long it would go unseen.
HARMS = (2.0, 5.0, 20.0)
# A gate that lets through so many of those that are a fifth past its limit passes by luck.
LUCK_MAX = 0.2
# Terms of the binomial distribution that are smaller than this, relative to their sum, are left out.
_NEGLIGIBLE = 1e-17

# When a rollout may advance, from this moment on; None for never. `Calendar.next_open` is one.
NextOpen = Callable[[datetime], datetime | None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each stage begins if all is healthy from `start` on, and when the last bake is over.

    None from the stage on that the calendar never lets begin.
    """

    begins_at: tuple[datetime | None, ...]
    ends_at: datetime | None


def schedule(plan: Plan, start: datetime, next_open: NextOpen | None = None) -> Schedule:
    """Bakes one after the other; approvals and checks are taken to be given at once."""
    begins: list[datetime | None] = []
    now: datetime | None = start
    for stage in plan.stages:
        if now is not None and next_open is not None:
            now = next_open(now)
        begins.append(now)
        # A bake counts outside of the calendar's windows too.
        now = now + stage.bake if now is not None else None
    return Schedule(tuple(begins), now)


@dataclass(frozen=True, slots=True)
class Detection:
    """How many looks a guard is expected to need for harm of so many times its limit; None where there is none.

    `at_start` is for harm that is there when a stage raises exposure, `mid_stage` for harm that comes later.
    """

    times: float
    at_start: int | None
    mid_stage: int | None


def detections(test: Test, units: float) -> tuple[Detection, ...]:
    """For each of HARMS, at so many units a look. A harm past 100 % cannot be.

    Raises ValueError for the test of a clause that is relative: its limit is not known beforehand.
    """
    if test.limit is None:
        raise ValueError("a relative clause has no limit before it is measured")
    return tuple(_detection(test, test.limit, units, times) for times in HARMS)


def _detection(test: Test, limit: float, units: float, times: float) -> Detection:
    gained = _gain(test, limit, units, times * limit) if times * limit <= 1 else 0.0
    if gained <= 0:
        return Detection(times, None, None)
    # Evidence is a mean over the grid, of which one rate alone explains the harm.
    needed = math.log(test.threshold) + math.log(len(GRID))
    at_start = needed - math.log(test.weight_of_raise(0))
    # The test restarts at every look. The restarts after the onset sum to a geometric series, which helps slow harm.
    mid_stage = needed - math.log(test.weight(0)) + math.log(-math.expm1(-gained))
    settled = test.lookback + 1 if test.settle_s > 0 else 1
    return Detection(times, max(1, math.ceil(at_start / gained)), max(settled, math.ceil(max(mid_stage, 0.0) / gained)))


def _gain(test: Test, limit: float, units: float, rate: float) -> float:
    """By how much the log evidence of the best rate of the grid is expected to grow in a look.

    That is the KL divergence of docs/statistics.md times the units, but for the cap on the
    events of a look, which matters where few are expected.
    """
    # Less than one unit a look is one unit in some of them.
    whole = max(round(units), 1)
    cap = max(1.0, EVENTS_CAP * limit * whole)
    events = expected_minimum(cap, whole, rate)
    ratios = log_likelihood_ratios(limit, events, whole)
    return max(ratios) / test.dispersion * units / whole


def expected_minimum(cap: float, units: int, rate: float) -> float:
    """The mean of min(X, cap) for the events X of so many units: n·p·P(X' < m) + cap·P(X > m), m = floor(cap)."""
    whole = math.floor(cap)
    if whole >= units:
        return units * rate
    below = units * rate * binomial_at_most(whole - 1, units - 1, rate)
    return below + cap * (1 - binomial_at_most(whole, units, rate))


def gate_chance(gate: Gate, times: float) -> float | None:
    """The chance that the gate passes at its minUnits, at a true rate of so many times its limit; None past 100 %."""
    limit, units = gate.at_most or gate.at_least, gate.min_units
    if limit is None or limit.value * times > 1:
        return None
    # Rounded, because 0.29 * 100 is a little less than 29.
    edge = round(limit.value * units, 9)
    if gate.at_most is not None:
        return binomial_at_most(math.floor(edge), units, limit.value * times)
    return 1 - binomial_at_most(math.ceil(edge) - 1, units, limit.value * times)


def passes_by_luck(gate: Gate) -> bool:
    """Whether a rate that is a fifth on the wrong side of the limit often passes."""
    chance = gate_chance(gate, 1.2 if gate.at_most is not None else 0.8)
    return chance is not None and chance > LUCK_MAX


def binomial_at_most(events: int, units: int, rate: float) -> float:
    """P(X <= events) for X events among so many units. Some ten standard deviations of terms are summed."""
    if events < 0:
        return 0.0
    if events >= units or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    odds = rate / (1 - rate)
    if events < units * rate:
        return min(_tail(events, units, lambda k: k / (units - k + 1) / odds, -1, rate), 1.0)
    return 1 - min(_tail(events + 1, units, lambda k: (units - k) / (k + 1) * odds, 1, rate), 1.0)


def _tail(first: int, units: int, ratio: Callable[[int], float], step: int, rate: float) -> float:
    """The sum of the probabilities of `first` and of all on that side of it, which fall from term to term."""
    log_term = (
        math.lgamma(units + 1)
        - math.lgamma(first + 1)
        - math.lgamma(units - first + 1)
        + first * math.log(rate)
        + (units - first) * math.log1p(-rate)
    )
    term, total, count = math.exp(log_term), 0.0, first
    while 0 <= count <= units and term > total * _NEGLIGIBLE:
        total += term
        term *= ratio(count)
        count += step
    return total
