"""The past that an attempt is compared with: pins of the statistics page, and what is too little to say anything.

| subject | cases |
|---|---|
| dispersion | pins, nothing and everything bad, blocks made longer, too few of them |
| limits | pins, an hour without units, decreases, above 1, gauges below zero |
| windows | half hours on the grid, whole days |
| values | from_json(to_json) is the same; the blocks go with the first raise |
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.looks import Look, Window
from feature_rollout.core.reference import (
    BLOCK,
    BLOCKS,
    Block,
    Reference,
    dispersion,
    gauge_limit,
    limit_of_decrease,
    limit_of_increase,
    merged,
    of_gauge,
    of_ratio,
    ratio_limit,
    windows_before,
)
from support.depth import properties

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)
WINDOWS = windows_before(T0)
PINS_DISPERSION = [((10, 12, 8, 11, 9), 1.0), ((10, 30, 2, 25, 5), 23.32984)]


def looks(events: tuple[float, ...], units: float = 1000.0, count: int = BLOCKS) -> list[Look]:
    return [Look("m", w, events[i % len(events)], units) for i, w in enumerate(WINDOWS[-count:])]


@pytest.mark.parametrize(("events", "expected"), PINS_DISPERSION)
def test_dispersion(events: tuple[float, ...], expected: float) -> None:
    assert round(dispersion([(x, 1000.0) for x in events * 6]), 5) == expected
    assert of_ratio("k", looks(events, count=30)).dispersion == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("events", [0.0, 1000.0])
def test_nothing_or_everything_bad_does_not_scatter(events: float) -> None:
    assert dispersion([(events, 1000.0)] * 30) == 1.0


def test_one_wild_block_counts_no_more_than_20_medians() -> None:
    sums = [(10.0 + i % 3, 1000.0) for i in range(60)]
    assert dispersion([*sums, (900.0, 1000.0), *sums]) == 1.0


def test_blocks_are_made_longer_until_they_hold_10_events() -> None:
    blocks = [Block(w.start, 4.0, 100.0) for w in WINDOWS]
    sums = merged(blocks)
    assert sums is not None
    # 336 half hours of 4 events: three to a block.
    assert (len(sums), sums[0]) == (112, (12.0, 300.0))
    assert sum(events for events, _ in sums) == 4.0 * BLOCKS
    # The longest of which there are 30: eleven half hours, on a grid that cuts the first of them.
    rare = merged([Block(w.start, 0.95, 100.0) for w in WINDOWS])
    assert rare is not None
    assert (len(rare), max(units for _, units in rare)) == (31, 1100.0)


@pytest.mark.parametrize(
    ("events", "count"), [((0.5,), BLOCKS), ((100,), 29), ((0,), BLOCKS)], ids=["rare events", "29 blocks", "no events"]
)
def test_too_little_says_so_and_leaves_the_default(events: tuple[float, ...], count: int) -> None:
    reference = of_ratio("k", looks(events, count=count))
    assert (reference.dispersion, reference.blocks) == (None, ())
    assert "fewer than 30 blocks" in reference.note
    assert sum(units for _, units in reference.hours) == 1000.0 * count, "by hour it is still known"


def test_nothing_and_errors_are_no_past() -> None:
    silent = [Look("m", window) for window in WINDOWS]
    failed = [Look("m", window, 5.0, 100.0, error="timeout") for window in WINDOWS]
    for found in (silent, failed, looks((0,), units=0.0)):
        reference = of_ratio("k", found)
        assert (reference.note, reference.hours) == ("it has no data in the seven days before", ())
    for found in (silent, [Look("m", window, value=9.0, error="timeout") for window in WINDOWS]):
        assert of_gauge("k", found).hours == ()


def test_both_arms_are_counted_together() -> None:
    split = [Look("m", w, 1.0, 100.0, control_events=9.0, control_units=900.0) for w in WINDOWS]
    reference = of_ratio("k", split)
    assert reference.blocks[0] == Block(WINDOWS[0].start, 10.0, 1000.0)


@pytest.mark.parametrize(("phi", "expected"), [(1.0, 0.0140740), (4.0, 0.0160409)])
def test_limit_of_an_hour(phi: float, expected: float) -> None:
    assert round(limit_of_increase(336, 42_000, 0.5, phi), 7) == expected


def test_limit_of_a_decrease_is_that_of_the_complement() -> None:
    # 95 % hits, of which at most a tenth may be lost: the misses may not be above 14.5 % and a margin.
    limit = limit_of_decrease(39_900, 42_000, 0.1, 1.0)
    assert 1 - 0.9 * 0.95 < limit < 1 - 0.9 * 0.945
    assert limit_of_decrease(39_900, 42_000, 0.1, 4.0) > limit
    assert limit_of_decrease(3, 42_000, 0.1, 1.0) == 1.0, "what hardly ever happened cannot be seen to fall"


@pytest.mark.parametrize(
    ("events", "decrease", "phi", "expected"),
    [
        # (1 - d) times (X - 3 * sqrt(phi * (rarer + 1)) - 3) / N, taken from 1: 2,100 misses, then 336 events.
        (39_900, 0.1, 1.0, 0.1480109),
        (39_900, 0.1, 4.0, 0.1509576),
        (336, 0.5, 1.0, 0.9966913),
    ],
)
def test_limit_of_a_decrease_worked_out(events: float, decrease: float, phi: float, expected: float) -> None:
    assert limit_of_decrease(events, 42_000, decrease, phi) == pytest.approx(expected, abs=5e-8)


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine is in Tokyo, which must not matter."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_hour_is_that_of_utc(far_from_utc: None) -> None:
    hours = tuple((100.0 * hour, 100_000.0) for hour in range(24))
    reference = Reference("k", hours=hours)
    berlin = T0.astimezone(timezone(timedelta(hours=1)))
    assert ratio_limit(reference, berlin, 0.5, 1.0) == limit_of_increase(900, 100_000, 0.5, 1.0)
    assert ratio_limit(reference, berlin, 0.0, 1.0) == limit_of_increase(900, 100_000, 0.0, 1.0)
    assert ratio_limit(reference, berlin, -0.5, 1.0) == limit_of_decrease(900, 100_000, 0.5, 1.0)
    assert gauge_limit(reference, berlin, 0.5) == 1350.0
    at_nine = [Look("m", w, 5.0, 100.0, 7.0) for w in WINDOWS if w.start.hour == 9]
    assert [hour for hour, (_, units) in enumerate(of_ratio("k", at_nine).hours) if units] == [9]
    assert [hour for hour, (_, count) in enumerate(of_gauge("k", at_nine).hours) if count] == [9]


def test_an_hour_without_units_has_the_limit_of_all_hours() -> None:
    hours = ((100.0, 1000.0),) * 9 + ((0.0, 0.0),) * 15
    assert ratio_limit(Reference("k", hours=hours), T0, 0.5, 1.0) == limit_of_increase(900, 9000, 0.5, 1.0)
    assert ratio_limit(Reference("k", hours=((0.0, 0.0),) * 24), T0, 0.5, 1.0) is None
    assert ratio_limit(Reference("k"), T0, 0.5, 1.0) is None


def test_a_limit_of_more_than_everything_stays_below_1() -> None:
    assert ratio_limit(Reference("k", hours=((9.0, 10.0),) * 24), T0, 5.0, 1.0) == 0.999


def test_a_gauge_has_the_median_of_its_hour() -> None:
    values = [Look("m", w, value=float(w.start.hour) + (100.0 if w.start.day == 4 else 0.0)) for w in WINDOWS]
    reference = of_gauge("k", values)
    assert gauge_limit(reference, T0, 0.5) == 13.5, "a wild day is not the median"
    assert gauge_limit(reference, T0, -0.5) == 4.5
    assert gauge_limit(Reference("k"), T0, 0.5) is None


def test_a_gauge_below_zero_and_an_hour_without_values() -> None:
    reference = Reference("k", hours=((-10.0, 5.0),) * 9 + ((0.0, 0.0),) * 15)
    assert gauge_limit(reference, T0, 0.5) == -5.0, "an increase is upwards"
    assert gauge_limit(Reference("k", hours=((0.0, 0.0),) * 24), T0, 0.5) is None


def test_windows_are_the_half_hours_of_seven_whole_days() -> None:
    windows = windows_before(T0 + timedelta(minutes=29))
    assert len(windows) == 336
    assert windows[-1] == Window(T0 - BLOCK, T0)
    assert windows[0].start == T0 - timedelta(days=7)
    assert all(a.end == b.start for a, b in pairwise(windows))


@properties(40)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=BLOCKS))
def test_any_past_gives_a_reference_that_is_json(counts: list[tuple[int, int]]) -> None:
    found = [Look("m", w, min(x, n), n) for w, (x, n) in zip(WINDOWS, counts, strict=False)]
    reference = of_ratio("k", found)
    assert reference.dispersion is None or reference.dispersion >= 1.0
    assert Reference.from_json(json.loads(json.dumps(reference.to_json(), allow_nan=False))) == reference
    assert (reference.dispersion is None) == bool(reference.note)


def test_the_blocks_go_with_the_first_raise() -> None:
    reference = of_ratio("k", looks((10, 12, 8, 11, 9)))
    assert len(reference.blocks) == BLOCKS
    settled = reference.settled()
    assert (settled.blocks, settled.dispersion, settled.hours) == ((), reference.dispersion, reference.hours)
    assert settled.settled() is settled
