"""When a rollout may advance: windows of the week, and freezes.

Both go by the clock on the wall of the calendar's time zone. In the hour that is missing
when it is put forward no window is open, and one in the hour that comes twice is open
both times. A revert never asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

# So far ahead is looked for the next opening: a freeze may take a quarter, not years.
SEARCHED_DAYS = 400

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """From `start` to `end`, in minutes after midnight, on `days` (Monday is 0). `end` is not in it.

    One that ends no later than it starts ends on the next day.
    """

    days: frozenset[int]
    start: int
    end: int

    def contains(self, local: datetime) -> bool:
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Freeze:
    """Whole days, the first and the last among them."""

    first: date
    last: date
    reason: str = ""

    def __str__(self) -> str:
        return f"a freeze from {self.first} to {self.last}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Calendar:
    """Open in any of the windows, or always when there are none, but for the freezes. `zone` is a name of IANA's."""

    zone: str
    windows: tuple[DailyWindow, ...] = ()
    freezes: tuple[Freeze, ...] = ()

    def closed(self, at: datetime) -> str | None:
        """Why the rollout may not advance at that time, or None when it may."""
        local = at.astimezone(ZoneInfo(self.zone))
        freeze = self._freeze_on(local.date())
        if freeze is not None:
            return str(freeze)
        if self.windows and not any(window.contains(local) for window in self.windows):
            return "outside the calendar's windows"
        return None

    def next_open(self, at: datetime) -> datetime | None:
        """The first moment from `at` on at which it may advance, in UTC; None when none comes in sight."""
        if self.closed(at) is None:
            return at
        # Edges of windows and of days, and changes of the clock, lie on whole minutes.
        moment, zone = at.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE, ZoneInfo(self.zone)
        end = moment + SEARCHED_DAYS * _DAY
        while moment < end:
            if self.closed(moment) is None:
                return moment
            local = moment.astimezone(zone)
            edge = moment + self._until_edge(local)
            # Minute by minute only through a day on which the clock is changed.
            moment = edge if edge.astimezone(zone).utcoffset() == local.utcoffset() else moment + _MINUTE
        return None

    def in_zone(self, at: datetime) -> str:
        """A time as people in the calendar's zone read it, such as `Mon 2026-01-05 09:00 Europe/Berlin`."""
        return f"{at.astimezone(ZoneInfo(self.zone)):%a %Y-%m-%d %H:%M} {self.zone}"

    def _until_edge(self, local: datetime) -> timedelta:
        """How long nothing can open: up to the next start of a window on that day, or the day's end."""
        now = local.hour * 60 + local.minute
        starts = (w.start for w in self.windows if local.weekday() in w.days and w.start > now)
        return _MINUTE * (min(starts, default=_DAY_MINUTES) - now)

    def _freeze_on(self, day: date) -> Freeze | None:
        return next((freeze for freeze in self.freezes if freeze.first <= day <= freeze.last), None)
