"""When a rollout may advance: by the clock on the wall of its time zone.

| subject | cases |
|---|---|
| windows | none, days of the week, the edges, past midnight, a whole day |
| freezes | the first and the last day whole, in the calendar's zone; they win over windows |
| the clock's changes | both, in the middle of a window, at its edges, inside the hour that is missing or doubled |
| what opens next | today, after the weekend, after a freeze, never |
| properties | the next opening is open, and nothing before it is |
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.calendar import SEARCHED_DAYS, Calendar, DailyWindow, Freeze
from support.depth import properties

BERLIN = "Europe/Berlin"
WORKDAYS = frozenset({0, 1, 2, 3})


def daily(start: str, end: str, days: frozenset[int] = frozenset(range(7))) -> DailyWindow:
    return DailyWindow(days, *(int(text[:2]) * 60 + int(text[3:]) for text in (start, end)))


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN), fold=fold).astimezone(UTC)


OFFICE = Calendar(BERLIN, (daily("09:00", "16:00", WORKDAYS),))
NIGHTS = Calendar(BERLIN, (daily("22:00", "02:00", frozenset({4})),))
SUNDAYS = Calendar(BERLIN, (daily("22:00", "02:00", frozenset({6})),))
YEAR_END = Freeze(date(2026, 12, 20), date(2027, 1, 3), "year end")


@pytest.mark.parametrize(
    ("calendar", "at", "is_open"),
    [
        pytest.param(Calendar("UTC"), "2026-01-05T03:00", True, id="no window is always"),
        pytest.param(OFFICE, "2026-01-05T08:59:59", False, id="before it"),
        pytest.param(OFFICE, "2026-01-05T09:00", True, id="its first moment"),
        pytest.param(OFFICE, "2026-01-05T15:59:59", True, id="its last second"),
        pytest.param(OFFICE, "2026-01-05T16:00", False, id="its end is not in it"),
        pytest.param(OFFICE, "2026-01-09T12:00", False, id="a Friday"),
        pytest.param(NIGHTS, "2026-01-09T23:00", True, id="Friday night"),
        pytest.param(NIGHTS, "2026-01-10T01:59", True, id="still Friday's window after midnight"),
        pytest.param(NIGHTS, "2026-01-10T02:00", False, id="and its end"),
        pytest.param(NIGHTS, "2026-01-10T23:00", False, id="Saturday night"),
        pytest.param(NIGHTS, "2026-01-09T01:00", False, id="Thursday's night is not Friday's"),
        pytest.param(SUNDAYS, "2026-01-12T01:00", True, id="Sunday's night is in the next week"),
        pytest.param(Calendar(BERLIN, (daily("00:00", "24:00"),)), "2026-01-10T23:59:59", True, id="a whole day"),
        pytest.param(Calendar(BERLIN, (daily("09:00", "09:00"),)), "2026-01-10T08:00", True, id="around the clock"),
        pytest.param(Calendar(BERLIN, (), (YEAR_END,)), "2026-12-19T23:59:59", True, id="before a freeze"),
        pytest.param(Calendar(BERLIN, (), (YEAR_END,)), "2026-12-20T00:00", False, id="a freeze's first moment"),
        pytest.param(Calendar(BERLIN, (), (YEAR_END,)), "2027-01-03T23:59:59", False, id="a freeze's last second"),
        pytest.param(Calendar(BERLIN, (), (YEAR_END,)), "2027-01-04T00:00", True, id="after it"),
        pytest.param(
            Calendar(BERLIN, OFFICE.windows, (YEAR_END,)), "2026-12-21T12:00", False, id="a freeze wins over a window"
        ),
    ],
)
def test_open_or_not(calendar: Calendar, at: str, is_open: bool) -> None:
    assert (calendar.closed(berlin(at)) is None) is is_open


def test_a_freeze_says_why() -> None:
    assert Calendar(BERLIN, (), (YEAR_END,)).closed(berlin("2026-12-24T12:00")) == (
        "a freeze from 2026-12-20 to 2027-01-03: year end"
    )


class TestTheClockIsPutForward:
    """In Berlin on 2026-03-29, 02:00 is followed by 03:00."""

    night = Calendar(BERLIN, (daily("01:00", "02:30"),))
    missing = Calendar(BERLIN, (daily("02:15", "02:45"),))
    across = Calendar(BERLIN, (daily("02:30", "04:00"),))

    def test_a_window_that_ends_in_the_missing_hour_ends_when_it_begins(self) -> None:
        assert self.night.closed(berlin("2026-03-29T01:59")) is None
        assert self.night.closed(berlin("2026-03-29T03:00")) is not None

    def test_a_window_in_the_missing_hour_is_not_that_day(self) -> None:
        assert self.missing.next_open(berlin("2026-03-29T01:00")) == berlin("2026-03-30T02:15")

    def test_a_window_that_starts_in_it_starts_when_it_is_over(self) -> None:
        assert self.across.next_open(berlin("2026-03-29T01:00")) == berlin("2026-03-29T03:00")

    def test_the_same_time_of_day_before_and_after(self) -> None:
        assert OFFICE.next_open(berlin("2026-03-27T12:00")) == datetime(2026, 3, 30, 7, 0, tzinfo=UTC)
        assert OFFICE.next_open(berlin("2026-03-25T18:00")) == datetime(2026, 3, 26, 8, 0, tzinfo=UTC)


class TestTheClockIsPutBack:
    """In Berlin on 2026-10-25, the hour from 02:00 to 03:00 comes twice."""

    doubled = Calendar(BERLIN, (daily("02:15", "02:45"),))

    def test_a_window_in_the_doubled_hour_is_open_both_times(self) -> None:
        for fold in (0, 1):
            assert self.doubled.closed(berlin("2026-10-25T02:14", fold)) is not None
            assert self.doubled.closed(berlin("2026-10-25T02:15", fold)) is None
            assert self.doubled.closed(berlin("2026-10-25T02:45", fold)) is not None

    def test_what_opens_next_between_the_two(self) -> None:
        assert self.doubled.next_open(berlin("2026-10-25T02:50", 0)) == berlin("2026-10-25T02:15", 1)

    def test_a_window_around_it_is_an_hour_longer(self) -> None:
        calendar = Calendar(BERLIN, (daily("01:00", "04:00"),))
        start = berlin("2026-10-25T01:00")
        assert all(calendar.closed(start + timedelta(minutes=m)) is None for m in range(240))
        assert calendar.closed(start + timedelta(minutes=240)) is not None


@pytest.mark.parametrize(
    ("calendar", "at", "opens"),
    [
        pytest.param(OFFICE, "2026-01-05T12:00", "2026-01-05T12:00", id="now"),
        pytest.param(OFFICE, "2026-01-05T07:30:20", "2026-01-05T09:00", id="later today"),
        pytest.param(OFFICE, "2026-01-08T16:00", "2026-01-12T09:00", id="after the weekend"),
        pytest.param(NIGHTS, "2026-01-10T02:00", "2026-01-16T22:00", id="next week"),
        pytest.param(
            Calendar(BERLIN, OFFICE.windows, (YEAR_END,)), "2026-12-17T16:00", "2027-01-04T09:00", id="after a freeze"
        ),
        pytest.param(
            Calendar(BERLIN, NIGHTS.windows, (Freeze(date(2026, 1, 9), date(2026, 1, 9)),)),
            "2026-01-09T20:00",
            "2026-01-10T00:00",
            id="in the middle of a window whose first day is frozen",
        ),
    ],
)
def test_what_opens_next(calendar: Calendar, at: str, opens: str) -> None:
    assert calendar.next_open(berlin(at)) == berlin(opens)


def test_what_never_opens() -> None:
    always = Freeze(date(2026, 1, 1), date(2126, 1, 1))
    assert Calendar("UTC", (), (always,)).next_open(berlin("2026-01-05T12:00")) is None


@properties(40)
@given(
    zone=st.sampled_from([BERLIN, "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "UTC"]),
    windows=st.lists(
        st.builds(
            DailyWindow,
            st.frozensets(st.integers(0, 6), min_size=1),
            st.integers(0, 1439),
            st.integers(1, 1440),
        ),
        max_size=3,
    ),
    minute=st.integers(0, 366 * 1440),
)
def test_the_next_opening_is_open_and_nothing_before_it_is(zone: str, windows: list[DailyWindow], minute: int) -> None:
    calendar = Calendar(zone, tuple(windows))
    at = datetime.combine(date(2026, 1, 1), time(), UTC) + timedelta(minutes=minute)
    opens = calendar.next_open(at)
    assert opens is not None, "some window of a week is in it"
    assert calendar.closed(opens) is None
    assert opens.tzinfo is UTC
    before = min(int((opens - at) / timedelta(minutes=1)), 10_000)
    assert all(calendar.closed(opens - timedelta(minutes=m)) is not None for m in range(1, before + 1))


def test_the_search_is_bounded() -> None:
    freeze = Freeze(date(2026, 1, 1), date(2026, 1, 1) + timedelta(days=SEARCHED_DAYS - 2))
    assert Calendar("UTC", (), (freeze,)).next_open(datetime(2026, 1, 1, tzinfo=UTC)) is not None
