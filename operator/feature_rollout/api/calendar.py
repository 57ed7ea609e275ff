"""A FeatureRollout's calendar: when it may advance."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from feature_rollout.api.base import ApiModel
from feature_rollout.api.rules import matches
from feature_rollout.api.values import AS_SET, Line

TimeOfDay = Annotated[
    str,
    Field(max_length=5),
    matches(
        "([01][0-9]|2[0-3]):[0-5][0-9]|24:00",
        '"{value}" is not a time of day: write hours and minutes, such as "09:00"',
    ),
]
Date = Annotated[
    str,
    Field(max_length=10),
    matches(
        "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
        '"{value}" is not a date: write year, month and day, such as "2026-12-20"',
    ),
]
TimeZone = Annotated[
    str,
    Field(max_length=64),
    matches(
        "[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}", '"{value}" is not a time zone: write its name, such as Europe/Berlin'
    ),
]


class Day(StrEnum):
    MON = "Mon"
    TUE = "Tue"
    WED = "Wed"
    THU = "Thu"
    FRI = "Fri"
    SAT = "Sat"
    SUN = "Sun"


class DailyWindow(ApiModel):
    """A part of some days of the week."""

    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7), AS_SET]
    """The days."""
    from_: Annotated[TimeOfDay, Field(alias="from")]
    """From this time of day."""
    to: TimeOfDay
    """Until this time of day; an earlier one is on the next day."""


class Freeze(ApiModel):
    """Days on which nothing advances."""

    from_: Annotated[Date, Field(alias="from")]
    """The first day."""
    to: Date
    """The last day."""
    reason: Line | None = None
    """Why, for people."""


class Calendar(ApiModel):
    """When the rollout may advance. A revert never waits."""

    time_zone: TimeZone = "UTC"
    """The time zone of all times here."""
    windows: Annotated[tuple[DailyWindow, ...], Field(max_length=16)] = ()
    """Advance only in these; always when there are none."""
    freezes: Annotated[tuple[Freeze, ...], Field(max_length=32)] = ()
    """Never advance in these."""
