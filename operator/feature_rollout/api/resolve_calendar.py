"""From a rollout's calendar to the core's: times of day and dates as numbers, the time zone looked up."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from feature_rollout.api import reasons
from feature_rollout.api.calendar import Calendar as CalendarModel
from feature_rollout.api.calendar import DailyWindow as DailyWindowModel
from feature_rollout.api.calendar import Day
from feature_rollout.api.calendar import Freeze as FreezeModel
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.core.calendar import Calendar, DailyWindow, Freeze

_DAYS = list(Day)


def calendar(model: CalendarModel) -> Calendar:
    """The calendar. Raises InvalidPlan for what the schema cannot know: zones, and dates that no month has."""
    try:
        ZoneInfo(model.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidPlan(
            reasons.CALENDAR_INVALID,
            f'spec.calendar.timeZone: there is no time zone "{model.time_zone}": write a name such as Europe/Berlin',
        ) from None
    return Calendar(
        zone=model.time_zone,
        windows=tuple(_window(window) for window in model.windows),
        freezes=tuple(_freeze(f"spec.calendar.freezes[{i}]", freeze) for i, freeze in enumerate(model.freezes)),
    )


def _window(window: DailyWindowModel) -> DailyWindow:
    # A start of 24:00 is the next midnight, at which nothing of that day is left.
    return DailyWindow(frozenset(_DAYS.index(day) for day in window.days), _minutes(window.from_), _minutes(window.to))


def _minutes(time_of_day: str) -> int:
    hours, minutes = time_of_day.split(":")
    return int(hours) * 60 + int(minutes)


def _freeze(path: str, freeze: FreezeModel) -> Freeze:
    first, last = _date(f"{path}.from", freeze.from_), _date(f"{path}.to", freeze.to)
    if first > last:
        raise InvalidPlan(
            reasons.CALENDAR_INVALID,
            f"{path}: it ends on {last}, before it begins on {first}: exchange from and to",
        )
    return Freeze(first, last, freeze.reason or "")


def _date(path: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidPlan(
            reasons.CALENDAR_INVALID, f'{path}: "{text}" is on no calendar: write a day that the month has'
        ) from None
