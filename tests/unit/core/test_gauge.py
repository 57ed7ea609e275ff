"""Gauges: rows of looks (`persist`), rows of blocks (the default), both directions, and restarts."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.gauge import GaugeRule, GaugeRun
from support.depth import properties

if TYPE_CHECKING:
    from collections.abc import Iterable

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)

deterministic = properties(80)
Values = list[float | None]


def rule(
    limit: float = 100.0, above: bool = True, persist: tuple[int, int] | None = None, interval_s: float = 30.0
) -> GaugeRule:
    return GaugeRule(limit, above, persist, interval_s)


def look_all(rule: GaugeRule, values: Iterable[float | None], run: GaugeRun | None = None, first: int = 0) -> GaugeRun:
    run = run or GaugeRun()
    interval = timedelta(seconds=rule.interval_s)
    for index, value in enumerate(values, start=first):
        run = run.looked(rule, value, T0 + index * interval, T0 + (index + 1) * interval)
    return run


# ── persist ──────────────────────────────────────────────────────────────────────────────────────

PERSIST: dict[str, tuple[tuple[int, int], Values, bool]] = {
    "k of the last n": ((3, 5), [101, 99, 101, 99, 101], True),
    "k of fewer than n looks": ((3, 5), [101, 101, 101], True),
    "fewer than k": ((3, 5), [101, 99, 101, 99, 99], False),
    "k, of which one is too long ago": ((3, 5), [101, 99, 101, 99, 99, 101], False),
    "missing looks neither count nor break": ((3, 3), [101, None, 101, math.nan, 101], True),
    "missing looks push nothing out": ((3, 5), [101, 101, None, None, None, None, 101], True),
    "a look at the limit is not past it": ((1, 1), [100], False),
    "one look": ((1, 1), [100.1], True),
    "no look at all": ((1, 1), [], False),
}


@pytest.mark.parametrize(("persist", "values", "expected"), PERSIST.values(), ids=PERSIST.keys())
def test_persist(persist: tuple[int, int], values: Values, expected: bool) -> None:
    asked = rule(persist=persist)
    assert look_all(asked, values).breached(asked) is expected


def test_persist_remembers_n_looks_and_fills_no_block() -> None:
    run = look_all(rule(persist=(3, 5)), [101.0] * 40)
    assert run == GaugeRun(past_limit=T0, recent=(True,) * 5)


@pytest.mark.parametrize("persist", [(0, 5), (6, 5), (-1, 5)])
def test_persist_that_makes_no_sense_is_refused(persist: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="failures must be from 1"):
        rule(persist=persist)


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_a_limit_that_is_no_number_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="limit must be finite"):
        rule(limit)


# ── Blocks: ten looks of 30 s each ───────────────────────────────────────────────────────────────


def block(value: float | None) -> Values:
    return [value] * 10


BLOCKS: dict[str, tuple[Values, bool]] = {
    "6 blocks in a row beyond 1.25 times": (block(126) * 6, True),
    "5 blocks beyond 1.25 times": (block(126) * 5, False),
    "a last block that is not whole": ((block(126) * 6)[:-1], False),
    "6 blocks at 1.25 times": (block(125) * 6, False),
    "12 blocks beyond 1.10 times": (block(111) * 12, True),
    "11 blocks beyond 1.10 times": (block(111) * 11, False),
    "12 blocks past the limit, but not by 1.10": (block(109) * 12, False),
    "12 blocks, some of them beyond 1.25": ((block(111) + block(130)) * 6, True),
    "a milder block breaks the row of far ones": (block(130) * 5 + block(111) + block(130) * 5, False),
    "a healthy block breaks the row": (block(130) * 5 + block(99) + block(130) * 5, False),
    "a healthy block breaks the row of near ones": (block(111) * 11 + block(99) + block(111) * 11, False),
    "a row that ended is no breach any more": (block(130) * 6 + block(99), False),
    "four bad looks of ten are not the median": ([*[130.0] * 4, *[99.0] * 6] * 12, False),
    "six bad looks of ten are": ([*[130.0] * 6, *[99.0] * 4] * 6, True),
    "5 values make a block": (([130.0] * 5 + [None] * 5) * 6, True),
    "a block of 4 values is left out": (([130.0] * 4 + [None] * 6) * 12, False),
    "a block of 4 values breaks no row": (block(130) * 5 + [99.0] * 4 + [None] * 6 + block(130), True),
    "an hour without values breaks no row": (block(130) * 5 + block(None) * 12 + block(130), True),
    "looks that are missing at a block's end close it": (([130.0] * 6 + [None] * 4) * 6, True),
}


@pytest.mark.parametrize(("values", "expected"), BLOCKS.values(), ids=BLOCKS.keys())
def test_blocks(values: Values, expected: bool) -> None:
    assert look_all(rule(), values).breached(rule()) is expected


@pytest.mark.parametrize("first", [10, 500])
def test_a_look_after_a_gap_starts_a_new_block(first: int) -> None:
    run = look_all(rule(), [130.0] * 6)
    run = look_all(rule(), [99.0], run, first=first)
    assert run.block_values == (99.0,)
    assert run.far_blocks == 1


def test_a_block_holds_five_looks_however_long_the_interval() -> None:
    slow = rule(interval_s=120.0)
    assert slow.block_length_s == 600
    assert look_all(slow, [130.0] * 30).breached(slow)
    assert not look_all(slow, [130.0] * 29).breached(slow)


def test_a_block_is_as_long_as_the_range_of_the_query() -> None:
    ranged = GaugeRule(100.0, True, None, 30.0, 900.0)
    assert look_all(ranged, [130.0] * 30).far_blocks == 1


def test_the_median_of_an_odd_number() -> None:
    values: Values = [126, 0, 1000, 126, 127]
    assert look_all(rule(interval_s=60.0), values).far_blocks == 1


# ── Direction ────────────────────────────────────────────────────────────────────────────────────

PAST: dict[str, tuple[float, bool, float, float, float]] = {
    "above 100": (100.0, True, 1.25, 125.0, 125.1),
    "below 100": (100.0, False, 1.25, 80.0, 79.9),
    "above -100": (-100.0, True, 1.25, -80.0, -79.9),
    "below -100": (-100.0, False, 1.25, -125.0, -125.1),
    "above 0": (0.0, True, 1.25, 0.0, 0.1),
    "below 0": (0.0, False, 1.25, 0.0, -0.1),
}


@pytest.mark.parametrize(("limit", "above", "factor", "at", "past"), PAST.values(), ids=PAST.keys())
def test_a_factor_leads_away_from_the_limit_towards_harm(
    limit: float, above: bool, factor: float, at: float, past: float
) -> None:
    asked = rule(limit, above)
    assert not asked.is_past(at, factor)
    assert asked.is_past(past, factor)


@deterministic
@given(limit=st.floats(-1e6, 1e6), above=st.booleans(), value=st.floats(-1e7, 1e7))
def test_beyond_a_larger_factor_is_beyond_a_smaller_one(limit: float, above: bool, value: float) -> None:
    asked = rule(limit, above)
    far, near, past = (asked.is_past(value, factor) for factor in (1.25, 1.1, 1.0))
    assert far <= near <= past


def test_below_breaches() -> None:
    asked = rule(above=False)
    assert look_all(asked, block(79) * 6).breached(asked)
    assert not look_all(asked, block(126) * 12).breached(asked)


# ── Onset, raises, restarts ──────────────────────────────────────────────────────────────────────

MINUTE = timedelta(minutes=1)
ONSET: dict[str, tuple[Values, datetime | None]] = {
    "the first look past the limit": ([99, 99, 101, 105], T0 + MINUTE),
    "none while the newest look is healthy": ([101, 101, 99], None),
    "a missing look does not break the run": ([101, None, math.inf, 101], T0),
    "a new run has a new onset": ([101, 99, 101], T0 + MINUTE),
}


@pytest.mark.parametrize("persist", [None, (2, 3)])
@pytest.mark.parametrize(("values", "expected"), ONSET.values(), ids=ONSET.keys())
def test_onset(values: Values, expected: datetime | None, persist: tuple[int, int] | None) -> None:
    assert look_all(rule(persist=persist), values).past_limit == expected


@deterministic
@given(
    values=st.lists(st.none() | st.sampled_from([99.0, 105.0, 111.0, 130.0, math.nan]), max_size=60),
    persist=st.none() | st.just((3, 5)),
    restart=st.integers(0, 60),
)
def test_a_restart_changes_nothing(values: Values, persist: tuple[int, int] | None, restart: int) -> None:
    asked = rule(persist=persist)
    before = look_all(asked, values[:restart])
    again = GaugeRun.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert again == before
    assert look_all(asked, values[restart:], again, first=restart) == look_all(asked, values)
