"""What docs/concepts.md promises in figures: how soon harm is found, and how seldom a healthy rollout is reverted.

Simulated with the real test, by inversion and with fixed seeds. The median number of looks
must be within 30 % of the table, or one look. Left out is harm of 1.5 times a limit of 1 %
at one unit a look, for which the table has no figure.
"""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from statistics import median

import pytest

from feature_rollout.core.evidence import Evidence, Test
from feature_rollout.core.looks import Look, Window
from feature_rollout.core.reference import BLOCK, of_ratio, windows_before
from support.depth import DEEP_PROPERTIES

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
DAY_S = 86_400.0
HEALTHY = 0.8
TIMES = (1.5, 2.0, 5.0, 20.0)
# Limit and units a look; then the median looks from a stage's start and in mid-stage, for each of TIMES.
TABLE: list[tuple[float, int, list[tuple[int, int] | None]]] = [
    (0.001, 50, [(2098, 2448), (565, 731), (57, 94), (9, 15)]),
    (0.001, 2000, [(44, 70), (13, 24), (2, 7), (1, 6)]),
    (0.01, 1, [None, (1978, 2684), (232, 342), (26, 39)]),
    (0.01, 50, [(172, 244), (47, 80), (5, 11), (1, 6)]),
    (0.01, 2000, [(5, 11), (2, 7), (1, 6), (1, 6)]),
    (0.05, 50, [(33, 56), (10, 19), (1, 6), (1, 6)]),
]
CELLS = [
    pytest.param(limit, units, times, *cell, id=f"{100 * limit:g}% of {units}, {times:g} times")
    for limit, units, cells in TABLE
    for times, cell in zip(TIMES, cells, strict=True)
    if cell is not None
]
RUNS_OF_A_CELL, LEVELS = (401, 41) if DEEP_PROPERTIES else (41, 5)


def make_test(limit: float, **changes: float) -> Test:
    known = {"clauses": 6, "alpha": 0.05, "flag_stages": 10, "bakes_s": 21 * DAY_S, "settle_s": 120.0}
    return Test(limit=limit, interval_s=30.0, **{"dispersion": 1.0, **known, **changes})  # type: ignore[arg-type]


class Failures:
    """Independent failures of so many units, looks at a time."""

    def __init__(self, units: int, rate: float) -> None:
        self.units = units
        counts = range(units + 1) if rate < 1 else [units]
        self.counts = [x for x in counts if rate >= 1 or _log_chance(x, units, rate) > -40]
        chances = [1.0] if rate >= 1 else [math.exp(_log_chance(x, units, rate)) for x in self.counts]
        self.cumulated = list(accumulate(chances))

    def looks(self, draw: random.Random, count: int) -> list[int]:
        return draw.choices(self.counts, cum_weights=self.cumulated, k=count)


def _log_chance(events: int, units: int, rate: float) -> float:
    ways = math.lgamma(units + 1) - math.lgamma(events + 1) - math.lgamma(units - events + 1)
    return ways + events * math.log(rate) + (units - events) * math.log1p(-rate)


def looks_until_it_acts(test: Test, evidence: Evidence, harm: Failures, draw: random.Random, at_most: int) -> int:
    for index, events in enumerate(harm.looks(draw, at_most)):
        evidence = evidence.looked(test, events, harm.units, T0)
        if evidence.conclusive(test):
            return index + 1
    return at_most


def level(test: Test, healthy: Failures, limit: float, seed: int) -> Evidence:
    """The middle of a stage: as many healthy looks as it takes to forget how it began."""
    evidence = Evidence()
    for events in healthy.looks(random.Random(seed), min(max(round(20 / (limit * healthy.units)), 50), 2000)):
        evidence = evidence.looked(test, events, healthy.units, T0)
    return evidence


@pytest.mark.parametrize(("limit", "units", "times", "at_start", "mid_stage"), CELLS)
def test_harm_is_found_as_soon_as_promised(
    limit: float, units: int, times: float, at_start: int, mid_stage: int
) -> None:
    test = make_test(limit)
    harm, healthy = Failures(units, min(times * limit, 1.0)), Failures(units, HEALTHY * limit)
    levels = [level(test, healthy, limit, seed) for seed in range(LEVELS)]
    for expected, starts in ((at_start, [Evidence().raised(test)]), (mid_stage, levels)):
        found = [
            looks_until_it_acts(test, starts[seed % len(starts)], harm, random.Random(1000 + seed), 4 * expected)
            for seed in range(RUNS_OF_A_CELL)
        ]
        assert median(found) == pytest.approx(expected, rel=0.3, abs=1), sorted(found)


# Healthy rollouts.

LOOKS, STAGES, UNITS, LIMIT = 800, 4, 50, 0.02
RUNS = 400 if DEEP_PROPERTIES else 20
INTERVAL = timedelta(seconds=30)


def independent(_index: int, draw: random.Random, rate: float) -> tuple[int, int]:
    return _events(draw, UNITS, rate), UNITS


def bursts(_index: int, draw: random.Random, rate: float) -> tuple[int, int]:
    """Each failure comes twice."""
    return min(2 * _events(draw, UNITS, rate / 2), UNITS), UNITS


def daily(index: int, draw: random.Random, rate: float) -> tuple[int, int]:
    """A load that goes up and down between a tenth and all of it, a day being 400 looks."""
    units = round(UNITS * (0.55 + 0.45 * math.sin(2 * math.pi * index / 400)))
    return _events(draw, units, rate), units


def _events(draw: random.Random, units: int, rate: float) -> int:
    """Of a Poisson distribution, which the binomial one is close to at such rates."""
    events, chance, bound = 0, draw.random(), math.exp(-units * rate)
    while chance > bound and events < units:
        events, chance = events + 1, chance * draw.random()
    return events


def ramping(index: int, draw: random.Random, rate: float) -> tuple[int, int]:
    """A load that grows to ten times what it was, as when a rollout brings the users."""
    units = round(UNITS * (0.1 + 0.9 * min(index / LOOKS, 1)))
    return _events(draw, units, rate), units


KINDS = [independent, bursts, daily, ramping]


@pytest.mark.parametrize("kind", KINDS, ids=["independent", "bursts of 2", "daily load", "ramping load"])
def test_healthy_rollouts_are_reverted_within_the_budget(kind: object) -> None:
    """One clause with all of the budget: 5 % of the plans may be reverted, over all three levels."""
    phi = _dispersion(kind)
    assert (phi > 1.5) is (kind is bursts)
    reverted = [_is_reverted(kind, part, phi, seed) for part in (0.5, 0.8, 0.95) for seed in range(RUNS)]
    assert sum(reverted) <= 0.05 * len(reverted)


def test_without_dispersion_bursts_would_revert_more_than_that() -> None:
    """What proves that the simulation can fail."""
    assert sum(_is_reverted(bursts, 0.95, 1.0, seed) for seed in range(RUNS)) > 0.05 * RUNS


def _is_reverted(kind: object, part: float, phi: float, seed: int) -> bool:
    assert callable(kind)
    test = make_test(LIMIT, clauses=1, flag_stages=STAGES, bakes_s=LOOKS * 30.0, dispersion=phi)
    draw, evidence = random.Random(seed), Evidence()
    for index in range(LOOKS):
        if index % (LOOKS // STAGES) == 0:
            evidence = evidence.raised(test)
        evidence = evidence.looked(test, *kind(index, draw, part * LIMIT), T0 + index * INTERVAL)
        if evidence.conclusive(test):
            return True
    return False


def _dispersion(kind: object) -> float:
    """As the reference says it, of a week in which each half hour is twenty such looks."""
    assert callable(kind)
    draw = random.Random(11)
    past = []
    for index, window in enumerate(windows_before(T0)):
        counts = [kind(index, draw, LIMIT / 2) for _ in range(20)]
        events, units = (float(sum(numbers)) for numbers in zip(*counts, strict=True))
        past.append(Look("errors", Window(window.start, window.start + BLOCK), events, units))
    found = of_ratio("k", past).dispersion
    assert found is not None
    return found
